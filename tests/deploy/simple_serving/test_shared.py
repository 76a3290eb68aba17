"""deploy/simple_serving: limits of keys that several processes count together."""

import subprocess
import sys

import pytest

from deploy.simple_serving import shared as shared_module
from deploy.simple_serving.shared import Shared, Usage
from utils import InputError

from tests.conftest import ROOT  # isort: skip

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no workers there")


@pytest.fixture
def clock(monkeypatch):
    """A list whose only item is the time."""
    now = [100.0]
    monkeypatch.setattr(shared_module.time, "monotonic", lambda: now[0])
    return now


@pytest.mark.parametrize("shared", [False, True])
def test_texts_are_charged_and_given_back(clock, shared):
    usage = Shared(Shared.make(2), 2, 0).usages(["a"])["a"] if shared else Usage()
    assert usage.take(10, 25) == 0  # 10 were there: 15 are owed
    assert usage.take(10, 1) == 2
    usage.give_back(25)
    assert usage.take(10, 10) == 0 and usage.take(10, 1) == 1
    clock[0] += 0.3
    assert usage.take(10, 3) == 0 and usage.take(10, 1) == 1


def test_two_processes_count_together(clock):
    file = Shared.make(2)
    first, second = (Shared(file, 2, number) for number in (0, 1))
    a, others = first.usages(["a"])["a"], second.usages(["b", "a"])
    assert first.usages(["b"])["b"].begin(1) is None and others["b"].begin(1) == 1
    assert a.begin(3) is None and others["a"].begin(3) is None and a.begin(3) is None and others["a"].begin(3) == 3
    a.end()
    assert others["a"].begin(3) is None
    Shared(file, 2).forget(1)  # that worker has died with two of "a"; the first goes on with one
    assert a.begin(2) is None and a.begin(2) == 2
    assert a.take(5, 5) == 0 and others["a"].take(5, 1) == 1 and others["b"].take(5, 1) == 0


def test_names_have_an_end(monkeypatch):
    monkeypatch.setattr(shared_module, "MOST_NAMES", 2)
    shared = Shared(Shared.make(1), 1, 0)
    long = "x" * 64
    shared.usages([long, "a"])[long].begin(None)
    assert shared.usages(["a", long])[long].begin(1) == 1
    with pytest.raises(InputError, match="more than 2 names of keys"):
        shared.usages(["b"])


COUNTS = """
import os, sys
sys.path.insert(0, ".")
from deploy.simple_serving.shared import Shared
file = Shared.make(2)
number = 0 if os.fork() else 1
usage = Shared(file, 2, number).usages(["a"])["a"]
for _ in range(20_000):
    usage.give_back(1)
if number == 0:
    os.wait()
    print(usage.cells[0])
"""


def test_nothing_is_lost_between_processes():
    done = subprocess.run([sys.executable, "-c", COUNTS], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "40000.0\n"
