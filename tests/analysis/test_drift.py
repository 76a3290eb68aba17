"""analysis/drift.py: PSI by hand, tests beside scipy's own, what is said of texts that moved and of those that did not."""

import json
import math

import numpy as np
import pytest

from analysis import drift
from analysis.shifts import Shift, holm, moved_labels, psi, shifts
from tests.conftest import SAMPLE
from utils import LabelTree, load_rows, run


def test_psi_by_hand():
    """Two parts of the first set, up to 1 and above: 2 and 2 rows; then 1 and 3."""
    p, q = np.array([2.5, 2.5]) / 5, np.array([1.5, 3.5]) / 5
    expected = sum((b - a) * math.log(b / a) for a, b in zip(p, q))
    assert psi(np.array([0, 1, 2, 3.0]), np.array([0, 2, 2, 5.0]), parts=2) == pytest.approx(expected)
    assert psi(np.zeros(50), np.zeros(80)) < 0.01 and 1 < psi(np.zeros(50), np.ones(50)) < math.inf


def test_holm_by_hand():
    assert holm(np.array([0.04, 0.01, 0.03])) == pytest.approx([0.06, 0.03, 0.06])
    assert holm(np.array([0.9, 0.6])).tolist() == [1, 1]


@pytest.mark.parametrize(
    ("psi_value", "p", "verdict"),
    [
        (0.9, 0.02, "no sign of a change"),
        (0.05, 1e-9, "hardly changed"),
        (0.2, 1e-9, "changed a little"),
        (0.3, 1e-9, "changed"),
    ],
)
def test_verdicts(psi_value, p, verdict):
    assert Shift("a", 0, 0, psi_value, p).verdict == verdict


def test_what_moved_and_what_did_not():
    rng = np.random.default_rng(0)
    before = {"same": rng.normal(size=500), "moved": rng.normal(size=500)}
    after = {"same": rng.normal(size=400), "moved": rng.normal(1, size=400)}
    assert [shift.verdict for shift in shifts(before, after)] == ["no sign of a change", "changed"]
    alarms = sum(
        shift.verdict != "no sign of a change"
        for seed in range(100)
        for shift in shifts(*({"a": np.random.default_rng([seed, i]).normal(size=200)} for i in range(2)))
    )
    assert alarms <= 5  # of 100, with 1 % each: 1 is expected


def test_labels_whose_share_is_another():
    before, after = np.zeros((200, 3), bool), np.zeros((100, 3), bool)
    before[:20, 0], after[:50, 0] = True, True  # 10 % -> 50 %
    before[:100, 1], after[:52, 1] = True, True  # 50 % -> 52 %
    before[:60, 2], after[:5, 2] = True, True  # 30 % -> 5 %
    found = moved_labels(before, after)
    assert [(i, old, new) for i, old, new, _ in found] == [(0, 0.1, 0.5), (2, 0.3, 0.05)]
    assert all(p < 1e-4 for *_, p in found)


@pytest.fixture
def call(tiny_checkpoint, printed, tmp_path):
    (tmp_path / "label.txt").write_bytes((SAMPLE / "label.txt").read_bytes())

    def call(*flags):
        printed.clear()
        words = ["--dataset_dir", tmp_path, "--params_path", tiny_checkpoint, "--device", "cpu", *flags]
        drift.main(list(map(str, words)))
        return "\n".join(printed)

    return call


@pytest.mark.slow
def test_from_file_to_words(call, tmp_path):
    tree = LabelTree.read(SAMPLE / "label.txt")
    texts = load_rows(SAMPLE / "dev.txt", tree).texts
    (tmp_path / "dev.txt").write_text("\n".join(texts[::2]), encoding="utf-8")
    same, other = tmp_path / "same.jsonl", tmp_path / "other.jsonl"
    same.write_text("".join(json.dumps({"text": text, "labels": [], "version": "a"}) + "\n" for text in texts[1::2]))
    other.write_text("".join(json.dumps({"text": "QZX " * 9 + "𠮷" * 9}) + "\n" for _ in range(60)) + '{"text": ""}\n')
    said = call("--sample_file", same)
    assert "No sign that anything moved" in said and "labels: 0 of 31" in said
    said = call("--sample_file", other, "--output_file", tmp_path / "drift.json")
    for name in ("length (tokens)", "unknown tokens (share)", "likeness to dev"):
        assert f"{name}: changed (median" in said
    assert "only 60 texts" in said and "label some of them" in said and "Moved: length" in said
    content = json.loads((tmp_path / "drift.json").read_text("utf-8"))
    measures = {row["name"]: row for row in content["measures"]}
    assert measures["unknown tokens (share)"]["after"] > 0.2 > measures["unknown tokens (share)"]["before"]
    assert content["labels"] and set(content["labels"][0]) == {"label", "before", "after", "p"}


def test_what_can_be_wrong(call, tmp_path, capsys):
    (tmp_path / "empty.txt").write_text("\n\n")
    (tmp_path / "dev.txt").write_text("国足今晚出战\n央行下调利率\n", encoding="utf-8")
    for flags, message in (
        (["--sample_file", tmp_path / "none.txt"], "none.txt: no such file"),
        (["--sample_file", tmp_path / "empty.txt"], "0 texts in it that are not blank"),
    ):
        with pytest.raises(SystemExit, match="2"):
            run(lambda flags=flags: call(*flags))
        assert message in capsys.readouterr().err
