"""teachers.py: the mean of several models as targets, the rows of an epoch, and what is refused before paddle is loaded.

Trainings with teachers are in tests/test_students.py.
"""

import shutil

import numpy as np
import pytest

from hierarchical import teachers
from hierarchical.checkpoints import Checkpoint, save_linear_model
from hierarchical.decisions import Decision
from hierarchical.errors import InputError
from hierarchical.labels import LabelTree
from hierarchical.modeling import predict_logits
from hierarchical.teachers import Joined, Lessons
from hierarchical.token_rows import encode_file
from tests.conftest import SAMPLE

LABELS = SAMPLE / "label.txt"
TEXTS = ["国足今晚出战", "两市小幅收涨，成交放量", "一场大雨"]


@pytest.fixture
def texts(tmp_path):
    path = tmp_path / "data.txt"
    path.write_text("\n\n".join(TEXTS), "utf-8")
    return path


@pytest.fixture(scope="session")
def linear_checkpoint(branch, tmp_path_factory):
    folder = tmp_path_factory.mktemp("linear") / "model"
    save_linear_model(folder, branch, LabelTree.read(LABELS), Decision())
    return folder


def test_the_targets_are_the_sigmoid_of_the_mean_logit(
    tiny_checkpoint, hybrid_checkpoint, linear_checkpoint, branch, texts
):
    """Of an encoder, the same with a branch of n-grams, and that branch alone: two thirds of both."""
    opened = Checkpoint.open(tiny_checkpoint)
    encoder = predict_logits(opened.load_model(), opened.tokenizer.encode(TEXTS), opened.tokenizer.pad_id, 1)
    mean = (2 * encoder + 2 * branch.logits(TEXTS)) / 3
    lessons = Lessons.open([tiny_checkpoint, hybrid_checkpoint, linear_checkpoint], LABELS, texts)
    found = lessons.probabilities()
    np.testing.assert_allclose(found, 1 / (1 + np.exp(-mean)), atol=1e-5)
    assert found.dtype == np.float32 and found.min() < 0.1 < 0.9 < found.max()
    np.testing.assert_array_equal(lessons.probabilities(), found)
    alone = Lessons.open([linear_checkpoint], LABELS, texts).probabilities()
    np.testing.assert_allclose(alone, 1 / (1 + np.exp(-branch.logits(TEXTS))), atol=1e-6)


def test_texts_in_parts(linear_checkpoint, texts, monkeypatch):
    lessons = Lessons.open([linear_checkpoint, linear_checkpoint], LABELS, texts)
    whole = lessons.probabilities()
    monkeypatch.setattr(teachers, "row_windows", lambda *_: [range(2), range(2, 3)])
    np.testing.assert_array_equal(lessons.probabilities(), whole)


def test_the_rows_of_an_epoch(tiny_checkpoint, linear_checkpoint, texts, tmp_path, printed):
    """2 rows would be read 60 times alone: 15 times in each of four epochs, beside every text once."""
    tokenizer, labels, rows = Checkpoint.open(tiny_checkpoint).tokenizer, [(0,), (1, 2)], ["甲乙", "丙"]
    lessons = Lessons.open([linear_checkpoint], LABELS, texts)
    ids, targets, order = lessons.beside(encode_file(tokenizer, rows, texts), labels, tokenizer, epochs=4)
    assert sorted(order.tolist()) == sorted([*[0, 1] * 15, 2, 3, 4])
    assert [row.tolist() for row in map(ids.__getitem__, range(5))] == tokenizer.encode(rows + TEXTS)
    assert len(ids) == len(targets) == 5 and ids.lengths.tolist() == [len(ids[i]) for i in range(5)]
    assert [targets[0], targets[1]] == labels
    np.testing.assert_array_equal(np.stack([targets[i] for i in (2, 3, 4)]), lessons.probabilities())
    assert "An epoch has 3 unlabelled texts, and 2 labelled rows x 15" in printed
    above = (lessons.probabilities() > 0.5).sum() / 3
    assert f"Teachers: 1, whose mean gives a text {above:.2f} labels (above 0.5)" in printed


def test_two_sequences_as_one():
    joined = Joined([5, 6], "ab")
    assert [*joined] == [5, 6, "a", "b"] and len(joined) == 4
    with pytest.raises(IndexError):
        joined[4]


def test_what_a_teacher_is_known_by(tiny_checkpoint, hybrid_checkpoint, texts, tmp_path):
    """Its numbers and what it reads of a text; not where it lies, nor its thresholds."""

    def marks(*folders):
        return Lessons.open(folders, LABELS, texts).fingerprint()["teacher"]

    copy = shutil.copytree(tiny_checkpoint, tmp_path / "copy")
    settings = (copy / "decision.json").read_text("utf-8")
    (copy / "decision.json").write_text(settings.replace('"threshold": 0.5', '"threshold": 0.25'), "utf-8")
    one, same, other = marks(tiny_checkpoint, copy, hybrid_checkpoint)
    assert one == same != other
    (copy / "decision.json").write_text(settings.replace('"max_seq_length": 64', '"max_seq_length": 32'), "utf-8")
    assert marks(copy) != [one]
    before = Lessons.open([copy], LABELS, texts).fingerprint()["unlabelled_file"]
    texts.write_text("别的\n", "utf-8")
    assert Lessons.open([copy], LABELS, texts).fingerprint()["unlabelled_file"] != before


def test_refusals(tiny_checkpoint, linear_checkpoint, texts, tmp_path, monkeypatch):
    def fault(folders=(linear_checkpoint,), labels=LABELS, path=texts):
        with pytest.raises(InputError) as error:
            Lessons.open(folders, labels, path)
        return str(error.value)

    none, fewer, empty, export = (tmp_path / name for name in ("none", "label.txt", "empty.txt", "export"))
    export.mkdir()
    (export / "float32.onnx").touch()
    fewer.write_text("\n".join(LABELS.read_text("utf-8").splitlines()[:-1]), "utf-8")
    empty.write_text("\n \n", "utf-8")
    assert f"--teacher {none}: {none}: no such directory. Pass the --save_dir of train.py" in fault(
        [tiny_checkpoint, none]
    )
    assert "no model.safetensors in it" in fault([tmp_path])
    assert f"--teacher {export}: " in fault([export]) and "float32.onnx is an exported model" in fault([export])
    last = LABELS.read_text("utf-8").splitlines()[-1]
    differs = fault([tiny_checkpoint], labels=fewer)
    assert f"--teacher {tiny_checkpoint}: {fewer}: differs" in differs and f"only in the checkpoint: {last})" in differs
    assert "--unlabelled_file names the texts that --teacher labels" in fault(path=none) and "no such file" in fault(
        path=none
    )
    assert f"{empty}: no text in it. --unlabelled_file names" in fault(path=empty)
    monkeypatch.setattr(teachers, "MOST_CELLS", 92)
    assert "of 31 labels for 3 texts take 0.0 GiB in every process; 0.0 are the most. Take 2 texts" in fault()
