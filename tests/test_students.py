"""train.py --teacher: students."""

import signal

import pytest

import train
from hierarchical import recipes
from hierarchical.checkpoints import save_linear_model
from hierarchical.linear_training import fit_linear
from hierarchical.predictor import Predictor
from metric import Decision
from tests.trainings import assert_same_arrays, fails, interrupted
from utils import LabelTree


def linear_teacher(folder, data_dir, rows):
    """A teacher for the labels of a data folder that learned from [(text, label names)]; made in no time."""
    tree = LabelTree.read(data_dir / "label.txt")
    texts, labels = [text for text, _ in rows], [tuple(tree.index[name] for name in names) for _, names in rows]
    save_linear_model(folder, fit_linear(texts, labels, len(tree)).scaled(6.0, 3.0), tree, Decision())
    return folder


SHARES = [("两市小幅收涨，成交放量", ("财经", "财经##股票")), ("大盘午后跳水", ("财经", "财经##股票"))]
GOALS = [("国足今晚出战", ("体育", "体育##足球")), ("前锋梅开二度", ("体育", "体育##足球"))]


@pytest.mark.slow
def test_a_student_goes_on_to_the_same_bits_and_with_the_same_teachers_alone(
    run_train, rows_dir, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(recipes, "MOST_EPOCHS", 3)  # labelled rows twice in each of two passes
    teachers = [
        linear_teacher(tmp_path / name, rows_dir, rows)
        for name, rows in (("a", SHARES + GOALS), ("b", SHARES[1:] + GOALS))
    ]
    flags = ["--dataset_dir", rows_dir, "--learning_rate", "1e-3", "--loss", "zlpr", "--warmup", "--max_seq_length", 6]
    flags += ["--long_text", "windows", "--epochs", 2, "--batch_size", 4]
    taught, whole, broken = ["--teacher", *teachers], tmp_path / "whole", tmp_path / "broken"
    run_train(*flags, *taught, "--save_dir", whole)
    log = (whole / "train.log").read_text("utf-8")
    assert "An epoch has 2 unlabelled texts, and 20 labelled rows x 2" in log and "Teachers: 2, whose mean" in log
    assert "global step 22, epoch: 2, batch: 11," in log
    with monkeypatch.context() as patch:
        step = train.Trainer.train_step
        patch.setattr(train.Trainer, "train_step", lambda *given, **named: interrupted(step, *given, **named))
        with pytest.raises(SystemExit) as end:
            run_train(*flags, *taught, "--save_dir", broken)
    assert end.value.code == 128 + signal.SIGTERM
    go_on = [*flags, "--save_dir", broken, "--resume"]
    (rows_dir / "more.txt").write_text("一场大雨\n", "utf-8")
    for other, names in (
        ([], ["teacher", "unlabelled_file"]),
        (["--teacher", teachers[0]], ["teacher"]),
        ([*taught, "--unlabelled_file", "more.txt"], ["unlabelled_file"]),
    ):
        refusal = fails(run_train, capsys, *go_on, *other).splitlines()[-1]
        changes = refusal.partition("was another one (")[2].split("; ")
        assert sorted(change.partition(":")[0] for change in changes) == names
    run_train(*go_on, *taught)
    assert_same_arrays(whole / "state.safetensors", broken / "state.safetensors")
    assert_same_arrays(whole / "model.safetensors", broken / "model.safetensors")


@pytest.mark.slow
def test_a_student_learns_what_only_its_teacher_knows(run_train, data_dir, tmp_path, monkeypatch):
    """No labelled row is about shares; of the unlabelled texts the teacher says which are."""
    monkeypatch.setattr(recipes, "MOST_EPOCHS", 8)
    folder = data_dir(
        train_txt="".join(f"{text}\t{','.join(labels)}\n" for text, labels in GOALS),
        data_txt="".join(f"{text}\n" for text, _ in SHARES + GOALS) * 100,
    )
    teacher = linear_teacher(tmp_path / "teacher", folder, SHARES + GOALS)
    flags = ["--batch_size", 8, "--learning_rate", "1e-3", "--epochs", 1, "--loss", "zlpr", "--warmup"]
    run_train("--dataset_dir", folder, *flags, "--teacher", teacher, "--save_dir", tmp_path / "student")
    texts = [text for text, _ in SHARES + GOALS]
    found = Predictor(tmp_path / "student", kind="checkpoint").predict(texts)
    assert [one.labels for one in found] == [list(labels) for _, labels in SHARES + GOALS]
