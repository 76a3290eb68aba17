"""prune.py: everything a user gets wrong: fractions, flags, data, folders."""

import shutil
import subprocess
import sys
from argparse import ArgumentTypeError
from fractions import Fraction

import pytest
from filelock import FileLock

import prune
from tests.conftest import ROOT, SAMPLE
from tests.trainings import fails


@pytest.mark.parametrize(
    "text, value", [("3/4", (3, 4)), ("0.75", (3, 4)), (".5", (1, 2)), ("2/3", (2, 3)), ("9/12", (3, 4))]
)
def test_fractions(text, value):
    assert prune.fraction(text) == Fraction(*value)


@pytest.mark.parametrize(
    "text, message",
    [
        ("0", "between 0 and 1"), ("1", "between 0 and 1"), ("4/3", "between 0 and 1"), ("75", "between 0 and 1"),
        ("", "no fraction"), ("3/4,2/3", "no fraction"), ("3/4 2/3", "no fraction"), ("3/0", "no fraction"),
        ("-1/2", "no fraction"), ("1e-9999999999", "no fraction"), ("__import__('os')", "no fraction"),
        ("half", "no fraction"), ("１/２", "no fraction"), ("0.5/2", "no fraction"),
    ],
)  # fmt: skip
def test_what_is_no_fraction(text, message):
    with pytest.raises(ArgumentTypeError, match=message):
        prune.fraction(text)


def test_errors_before_paddle_loads(tiny_checkpoint, sample_rows, tmp_path):
    """A real process: exit code, no traceback, and no library loaded."""
    program = "import sys, prune, utils\ntry: utils.run(prune.main)\nfinally: print('paddle' in sys.modules)"
    flags = ["--dataset_dir", sample_rows, "--params_dir", tiny_checkpoint, "--output_dir", tmp_path / "out"]
    result = subprocess.run(
        [sys.executable, "-c", program, *flags, "--width_mult_list", "3/4", "2/3"],
        cwd=ROOT, capture_output=True, encoding="utf-8",
    )  # fmt: skip
    assert (result.returncode, result.stdout) == (2, "False\n") and not (tmp_path / "out").exists()
    message = (
        "--width_mult_list 2/3: 2/3 of 4 attention heads is not a whole number. With 4 heads these do: 1/4 1/2 3/4"
    )
    assert result.stderr == f"error: {message}\n"


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--width_mult_list"], "expected at least one argument"),
        (["--width_mult_list", ""], "no fraction"),
        (["--width_mult_list", "1/2", "3/4", "0.5"], "1/2 is there twice"),
        (["--learning_rate", "nan"], "--learning_rate: must be"),
        (["--num_train_epochs", "0"], "--num_train_epochs: must be"),
        (["--save_steps", "0"], "--save_steps: must be"),
        (["--warmup_ratio", "2"], "--warmup_ratio: must be"),
        (["--max_seq_length", "1000"], "reads at most 256 tokens"),
        (["--params_dir", "nowhere"], "nowhere: no such directory"),
        (["--params_dir", SAMPLE / "tiny-ernie"], "not a complete checkpoint"),
        (["--dataset_dir", "nowhere"], "nowhere: no such directory"),
        (["--dev_file", "nowhere.txt"], "nowhere.txt: no such file"),
    ],
)
def test_wrong_flags(run_prune, capsys, flags, message):
    assert message in fails(run_prune, capsys, *flags)


def test_wrong_data(run_prune, capsys, sample_rows, tmp_path):
    folder = shutil.copytree(sample_rows, tmp_path / "data")
    (folder / "dev.txt").write_text("没有标签的一行\n", encoding="utf-8")
    assert "no labelled row" in fails(run_prune, capsys, "--dataset_dir", folder)
    (folder / "dev.txt").write_text("", encoding="utf-8")
    assert "empty" in fails(run_prune, capsys, "--dataset_dir", folder)
    labels = (folder / "label.txt").read_text(encoding="utf-8").splitlines()
    (folder / "label.txt").write_text("\n".join(labels[::-1]), encoding="utf-8")
    assert "same labels in another order" in fails(run_prune, capsys, "--dataset_dir", folder)


def test_output_that_cannot_be(run_prune, capsys, monkeypatch, tiny_checkpoint, tmp_path):
    (tmp_path / "file").touch()
    assert "file" in fails(run_prune, capsys, "--output_dir", tmp_path / "file")
    source = shutil.copytree(tiny_checkpoint, tmp_path / "prune" / "width_mult_0.5")
    message = fails(run_prune, capsys, "--params_dir", source, "--width_mult_list", "1/2")
    assert "is the model to prune itself" in message
    monkeypatch.setenv("PADDLE_TRAINERS_NUM", "2")
    assert "one process" in fails(run_prune, capsys)


def test_a_second_run_is_refused(run_prune, capsys, tmp_path):
    (tmp_path / "prune").mkdir()
    with FileLock(tmp_path / "prune" / ".lock"):  # as another process would
        message = fails(run_prune, capsys)
    assert "prune: another process is writing there; wait until it ends, or give another --output_dir." in message
    assert [path.name for path in (tmp_path / "prune").iterdir()] == [".lock"]


@pytest.mark.slow
def test_divergence_is_said(run_prune, capsys):
    assert "lower --learning_rate" in fails(run_prune, capsys, "--learning_rate", "1e30", "--warmup_ratio", "0")
