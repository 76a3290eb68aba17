"""analysis/evaluate.py: thresholds and calibration, found on dev rows, stored in the checkpoint and used.

What the model predicts is known: see evaluating.py.
"""

import json

import numpy as np
import pytest

from hierarchical import checkpoints
from hierarchical.checkpoints import read_settings, write_settings
from hierarchical.predictor import Predictor
from metric import Decision
from tests.analysis import evaluating
from tests.analysis.conftest import StandIn
from tests.analysis.evaluating import DEV, TRAIN, TREE, file_of

data, checkpoint = evaluating.data, evaluating.checkpoint  # fixtures
call, refused = evaluating.call, evaluating.refused

# ---- tuning ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["global", "per_level", "per_label"])
def test_tuned_thresholds_are_stored_and_used(data, checkpoint, call, printed, monkeypatch, how):
    rows = {f"{text}{i}": labels for text, labels in DEV.items() for i in range(3)}
    (data / "dev.txt").write_text(file_of(rows), encoding="utf-8")

    def shy(predictor, texts, progress):  # probabilities 0.27 for gold and 0.05 for other labels
        return np.array([[-1.0 if i in {**rows, **TRAIN}[text] else -3.0 for i in range(len(TREE))] for text in texts])

    monkeypatch.setattr(Predictor, "text_logits", shy)
    write_settings(checkpoint, TREE, 128, Decision(decoding="topdown"))
    call(data, checkpoint, "--tune_threshold", how)
    assert "Accuracy in dev dataset: 100.00%" in printed
    assert f"Thresholds tuned on dev ({how}); on dev rows left out of the tuning: micro f1 score: 1.00000" in printed[3]
    tree, max_seq_length, decision, _ = read_settings(checkpoint)
    assert (tree.labels, max_seq_length, decision.decoding) == (TREE.labels, 128, "topdown")
    thresholds = np.array(decision.threshold)
    assert thresholds.shape == {"global": (), "per_level": (2,), "per_label": (5,)}[how]
    assert ((0.05 < thresholds) & (thresholds < 0.27)).all()


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--threshold", "0.4"], "leave --threshold out"),
        (["--top_k", "2"], "no threshold counts"),
        ([], "5 dev rows or more"),
    ],
)
def test_tuning_that_makes_no_sense(data, checkpoint, refused, printed, flags, message):
    before = (checkpoint / "decision.json").read_bytes()
    assert message in refused(data, checkpoint, "--tune_threshold", "global", *flags)
    assert (checkpoint / "decision.json").read_bytes() == before


# ---- calibration -----------------------------------------------------------------------------------------------------


@pytest.fixture
def many(data, monkeypatch):
    """300 dev rows, with logits of which the sigmoids are too sure, and the labels that they are right with."""
    rng = np.random.default_rng(0)
    logits = {f"第{i}行": rng.normal(-2, 4, len(TREE)) for i in range(300)}
    gold = {text: np.flatnonzero(rng.random(len(TREE)) < 1 / (1 + np.exp(-z / 3))) for text, z in logits.items()}
    gold = {text: tuple(labels.tolist()) for text, labels in gold.items() if len(labels)}
    (data / "dev.txt").write_text(file_of(gold), encoding="utf-8")
    (data / "train.txt").unlink()

    def text_logits(predictor, texts, progress):
        return np.array([logits[text] for text in texts], np.float32)

    monkeypatch.setattr(Predictor, "text_logits", text_logits)
    tokenizer = StandIn(pad_id=0, encode=list, max_seq_length=128, lengths=lambda texts: [3] * len(texts))
    monkeypatch.setattr(checkpoints, "load_tokenizer", lambda *_: tokenizer)
    return gold, logits


@pytest.mark.parametrize("method", ["temperature", "per_level", "isotonic"])
def test_calibration_is_stored_and_used(data, checkpoint, call, printed, many, tmp_path, method):
    gold, logits = many
    call(data, checkpoint, "--output_json", tmp_path / "before.json")
    call(
        data, checkpoint, "--calibrate", method, "--output_json", tmp_path / "now.json", "--report", tmp_path / "r.html"
    )
    decision = read_settings(checkpoint)[2]
    calibration = decision.calibration
    assert calibration.method == method and calibration.model == ""  # the stand-in's numbers are not known
    if method != "isotonic":
        assert all(scale == pytest.approx(1 / 3, abs=0.1) for scale, _ in calibration.lines)
    before, now = (json.loads((tmp_path / f"{name}.json").read_text("utf-8")) for name in ("before", "now"))
    assert now["dev"]["micro_f1"] == pytest.approx(before["dev"]["micro_f1"])  # thresholds went along
    for one, other in zip(*now["calibration"].values()):
        assert one["ece"] > 0.1 and other["ece"] < one["ece"] / 2 and other["brier"] < one["brier"]
    assert sum(line.startswith("Level") and "calibration, before" in line for line in printed) == 2
    assert any(line.startswith(f"Calibrated on dev ({method})") for line in printed)
    assert any(line.startswith("Answering every row: ") for line in printed)
    page = (tmp_path / "r.html").read_text("utf-8")
    assert "Which rows need no second look?" in page and "of the likeliest" in page

    labels = {text: decided_by_hand(row, decision) for text, row in logits.items() if text in gold}
    right = np.mean([labels[text] == gold[text] for text in gold])
    assert now["dev"]["accuracy"] == pytest.approx(right)
    call(data, checkpoint, "--output_json", tmp_path / "again.json")  # from what is stored
    assert json.loads((tmp_path / "again.json").read_text("utf-8"))["dev"] == now["dev"]
    call(data, checkpoint, "--calibrate", "none")
    undone = read_settings(checkpoint)[2]
    assert undone.calibration is None and np.array(undone.threshold) == pytest.approx(0.5, abs=1e-3)


def decided_by_hand(logits, decision):
    """The labels whose calibrated probability is above the threshold of their level."""
    found = []
    for i, (logit, level) in enumerate(zip(logits, TREE.levels)):
        if decision.calibration.lines:
            scale, shift = decision.calibration.lines[level - 1]
            probability = 1 / (1 + np.exp(-(scale * np.float32(logit) + shift)))
        else:
            probability = np.interp(np.float32(logit), *decision.calibration.curves[level - 1])
        threshold = decision.threshold if isinstance(decision.threshold, float) else decision.threshold[level - 1]
        if probability > threshold:
            found.append(i)
    return tuple(found)


def test_thresholds_are_tuned_on_calibrated_probabilities(data, checkpoint, call, printed, many):
    write_settings(checkpoint, TREE, 128, Decision(0.9))  # tuned before: of no use now
    call(data, checkpoint, "--calibrate", "per_level", "--tune_threshold", "global")
    tuned = read_settings(checkpoint)[2]
    assert tuned.calibration and 0.2 < tuned.threshold < 0.5  # the best F1 lies below 1/2
    assert not any("went along" in line for line in printed)
    call(data, checkpoint, "--calibrate", "isotonic", "--threshold", "0.5")
    assert read_settings(checkpoint)[2].threshold == 0.5  # as asked for


def test_selective_table_is_right(data, checkpoint, call, many, tmp_path):
    """Worked out again, fold by fold, by plain loops."""
    gold, logits = many
    call(data, checkpoint, "--output_json", tmp_path / "scores.json")
    table = json.loads((tmp_path / "scores.json").read_text("utf-8"))["selective"]
    rows = []
    for text, labels in gold.items():
        p = 1 / (1 + np.exp(-logits[text].astype(np.float32)))
        chosen = tuple(np.flatnonzero(p > 0.5).tolist())
        sure = min(p[i] if i in chosen else 1 - p[i] for i in range(len(TREE))) if chosen else 0
        rows.append((sure, chosen == labels))
    assert table[0]["precision"] == pytest.approx(np.mean([right for _, right in rows]))
    folds = np.random.default_rng(0).permutation(len(rows)) % 5
    for line in table[1:]:
        answered = []
        for fold in range(5):
            others = sorted((row for row, f in zip(rows, folds) if f != fold), reverse=True)
            bars = [
                others[k - 1][0] for k in range(1, len(others) + 1)
                if np.mean([right for _, right in others[:k]]) >= line["target"]
            ]  # fmt: skip
            if bars:
                answered += [right for (sure, right), f in zip(rows, folds) if f == fold and sure >= bars[-1]]
        assert line["answered"] == pytest.approx(len(answered) / len(rows))
        assert line["precision"] == (pytest.approx(np.mean(answered)) if answered else None)


def test_too_few_rows_to_calibrate_by(data, checkpoint, refused):
    assert "--calibrate: needs 50 dev rows or more" in refused(data, checkpoint, "--calibrate", "isotonic")
