"""deploy/simple_serving: limits of keys that several processes count together."""

import subprocess
import sys

import pytest

from deploy.simple_serving import usage as usage_module
from deploy.simple_serving.usage import SharedUsages, Usage
from utils import InputError

from tests.conftest import ROOT  # isort: skip

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no workers there")


@pytest.fixture
def clock(monkeypatch):
    """A list whose only item is the time."""
    now = [100.0]
    monkeypatch.setattr(usage_module.time, "monotonic", lambda: now[0])
    return now


@pytest.mark.parametrize("shared", [False, True])
def test_texts_are_charged_and_given_back(clock, shared):
    usage = SharedUsages(SharedUsages.make(2), 2, 0).of(["a"])["a"] if shared else Usage()
    assert usage.take(10, 25) == 0  # 10 were there: 15 are owed
    assert usage.take(10, 1) == 2
    usage.give_back(25)
    assert usage.take(10, 10) == 0 and usage.take(10, 1) == 1
    clock[0] += 0.3
    assert usage.take(10, 3) == 0 and usage.take(10, 1) == 1


def test_two_processes_count_together(clock):
    file = SharedUsages.make(2)
    first, second = (SharedUsages(file, 2, number) for number in (0, 1))
    a, others = first.of(["a"])["a"], second.of(["b", "a"])
    assert first.of(["b"])["b"].begin(1) is None and others["b"].begin(1) == 1
    assert a.begin(3) is None and others["a"].begin(3) is None and a.begin(3) is None and others["a"].begin(3) == 3
    a.end()
    assert others["a"].begin(3) is None
    SharedUsages(file, 2).forget(1)  # that worker has died with two of "a"; the first goes on with one
    assert a.begin(2) is None and a.begin(2) == 2
    assert a.take(5, 5) == 0 and others["a"].take(5, 1) == 1 and others["b"].take(5, 1) == 0


def test_names_have_an_end(monkeypatch):
    monkeypatch.setattr(usage_module, "MOST_NAMES", 2)
    usages = SharedUsages(SharedUsages.make(1), 1, 0)
    long = "x" * 64
    usages.of([long, "a"])[long].begin(None)
    assert usages.of(["a", long])[long].begin(1) == 1
    with pytest.raises(InputError, match="more than 2 names of keys"):
        usages.of(["b"])


COUNTS = """
import os, sys
sys.path.insert(0, ".")
from deploy.simple_serving.usage import SharedUsages
file = SharedUsages.make(2)
number = 0 if os.fork() else 1
usage = SharedUsages(file, 2, number).of(["a"])["a"]
for _ in range(20_000):
    usage.give_back(1)
if number == 0:
    os.wait()
    print(usage.cells[0])
"""


def test_nothing_is_lost_between_processes():
    done = subprocess.run([sys.executable, "-c", COUNTS], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "40000.0\n"
