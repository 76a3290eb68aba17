"""predictions.py: texts of a file, windows of them, shares of processes, rows that are written, runs that go on."""

from collections import Counter

from hierarchical import predictions
from hierarchical.errors import Problems
from hierarchical.labels import LabelTree
from tests.conftest import SAMPLE

TREE = LabelTree.read(SAMPLE / "label.txt")


def test_no_more_is_read_than_the_window_that_is_predicted():
    read = []
    texts = (read.append(i) or str(i) for i in range(1000))
    for number, window in enumerate(predictions.windows(texts, 7, Problems()), start=1):
        assert len(read) == min(7 * number, 1000)
        assert window == [str(i) for i in read[-len(window) :]]
    assert len(read) == 1000


def test_shares_are_whole_windows_in_order():
    for total, size, world in ((0, 8, 2), (1, 8, 3), (100, 8, 2), (100, 8, 7), (64, 8, 8), (7, 8, 2)):
        shares = [predictions.share(total, size, rank, world) for rank in range(world)]
        assert shares[0][0] == 0 and shares[-1][1] == total
        assert all(stop == start for (_, stop), (start, _) in zip(shares, shares[1:]))
        assert all(start % size == 0 for start, _ in shares)
        assert all(stop >= start for start, stop in shares)


def test_labels_are_counted_by_kind():
    seen = Counter()
    assert predictions.text_of_line("甲\t乙\t体育赛事, 体育赛事##伤病", TREE, seen) == "甲 乙"
    assert predictions.text_of_line("甲\t", TREE, seen) == "甲 "
    assert seen == {"labelled": 1, "tab": 1}
