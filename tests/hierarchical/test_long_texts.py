"""long_texts.py: what is read of a text, its windows, and the settings; and that every reader of them joins alike."""

import json

import numpy as np
import pytest

from hierarchical.batches import run_batches
from hierarchical.checkpoints import read_decision, write_settings
from hierarchical.long_texts import CUT, LongText, Windows
from hierarchical.tokenizer import load_tokenizer
from metric import Decision
from tests.conftest import SAMPLE
from tests.hierarchical.test_labels import TREE
from utils import InputError

TEXT = "今天北京下雨明天上海刮风"


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer(SAMPLE / "tiny-ernie", 7)


def test_what_is_read(tokenizer):
    first, *whole, last = load_tokenizer(SAMPLE / "tiny-ernie", 64).encode([TEXT])[0]
    assert len(whole) == 12  # a character each
    for long_text, expected in (
        (CUT, whole[:5]),
        (LongText("head_tail"), whole[:3] + whole[-2:]),
        (LongText("windows", 2, 3), whole[:9]),
        (LongText("windows", 5, 9), whole),
    ):
        reader = tokenizer.reading(long_text)
        assert reader.encode([TEXT, TEXT[:4]]) == [[first, *expected, last], [first, *whole[:4], last]]
        assert len(reader.spans(TEXT)) == len(expected) + 2
    assert tokenizer.reading(LongText("head_tail")).spans(TEXT)[1:-1] == [(0, 1), (1, 2), (2, 3), (10, 11), (11, 12)]
    assert tokenizer.windows is None and tokenizer.long_text == CUT  # which is another one


def test_windows():
    windows = Windows(5, 2)
    assert windows.of([1, 11, 12, 13, 2]) == [[1, 11, 12, 13, 2]]
    assert windows.of([1, 11, 12, 13, 14, 2]) == [[1, 11, 12, 13, 2], [1, 12, 13, 14, 2]]
    rows, owners = windows.expand([[1, 11, 2], [1, *range(11, 18), 2]])
    assert rows == [[1, 11, 2], [1, 11, 12, 13, 2], [1, 13, 14, 15, 2], [1, 15, 16, 17, 2]]
    assert owners.tolist() == [0, 1, 1, 1]


@pytest.mark.parametrize("callers", (1, 3))
def test_the_largest_of_the_windows_counts(callers):
    done = []
    found = run_batches(
        lambda ids: np.stack([ids.max(1), -ids[:, 1]], 1).astype(np.float32),
        [[1, *range(11, 18), 2], [1, 30, 2]], 0, 2, 2, callers, done.append, Windows(5, 2),
    )  # fmt: skip
    assert found.tolist() == [[17, -11], [30, -30]] and sum(done) == 2


@pytest.mark.parametrize(
    "asked, message",
    [
        ({"long_text": "windows", "window_stride": 127}, "from 1 to 126"),
        ({"long_text": "windows", "window_stride": 0}, "from 1 to 126"),
        ({"long_text": "windows", "max_windows": 0}, "max_windows must be a whole number, 1 or more; got 0"),
        ({"long_text": "middle"}, "cut, head_tail, windows"),
        ({"max_windows": 4}, "is for long_text windows; here it is"),
        ({"long_text": "head_tail", "window_stride": 4}, "is for long_text windows; here it is"),
    ],
)
def test_settings_that_cannot_be(asked, message):
    with pytest.raises(ValueError, match=message):
        CUT.updated(128, **asked)


def test_settings_are_stored_and_older_ones_are_cut(tmp_path):
    write_settings(tmp_path, TREE, 128, Decision())
    settings = json.loads((tmp_path / "decision.json").read_text("utf-8"))
    assert "long_text" not in settings and read_decision(tmp_path, TREE)[2] == CUT
    for stored in (LongText("head_tail"), CUT.updated(128, "windows"), LongText("windows", 32, 4)):
        write_settings(tmp_path, TREE, 128, Decision(), stored)
        assert read_decision(tmp_path, TREE) == (128, Decision(), stored)
    assert CUT.updated(128, "windows") == LongText("windows", 63, 16)
    assert stored.updated(128, max_windows=8) == LongText("windows", 32, 8) and stored.updated(128, "cut") == CUT
    (tmp_path / "decision.json").write_text(json.dumps(settings | {"long_text": "windows", "window_stride": 127}))
    with pytest.raises(InputError, match="not the decision settings"):
        read_decision(tmp_path, TREE)
