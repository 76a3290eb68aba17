"""benchmarks/inference.py: the counting of operations and the reading of predictions; what it times is tested elsewhere."""

import pytest

from benchmarks.inference import operations, peak, read_predictions
from utils import LabelTree


def test_operations_by_hand():
    """Two rows of 3 and 5 tokens; a layer of width 4 with 6 neurons."""
    config = {"num_hidden_layers": 2, "hidden_size": 4, "intermediate_size": 6}
    linear = 2 * (3 + 5) * (4 * 16 + 2 * 24)  # q, k, v, attention output; in and out of the feed-forward network
    attention = 2 * 2 * (9 + 25) * 4  # queries by keys, weights by values
    assert operations(config, [3, 5]) == 2 * (linear + attention)


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_peak_runs(precision):
    assert peak(precision, threads=2, size=64) > 1e6  # operations per second


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", '{"labels": ["A", "A##B"]}\n{"labels": []}\n{"labels": ["C"]}\n'),
        ("a.txt", "text: x\nprediction result: A,A##B\nlevel 1 : A\nprediction result: \nprediction result: C\n"),
        ("a.tsv", "A,A##B\n\nC\n"),
    ],
)
def test_predictions_in_three_forms(tmp_path, name, content):
    (tmp_path / name).write_text(content, encoding="utf-8")
    found = read_predictions(tmp_path / name, LabelTree(["A", "A##B", "C"]))
    assert found.tolist() == [[True, True, False], [False, False, False], [False, False, True]]
