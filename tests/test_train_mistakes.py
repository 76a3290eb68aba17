"""train.py: everything a user gets wrong: data, flags, weights that do not fit or hold code."""

import os
import pickle
import shutil
import subprocess
import sys

import pytest

from tests.conftest import ROOT, SAMPLE, without_identity
from tests.trainings import fails


@pytest.mark.parametrize(
    "files, expected",
    [
        ({"train_txt": "文\t体育,体育##足秋\n"}, "train.txt:1: unknown label '体育##足秋'; did you mean '体育##足球'?"),
        ({"dev_txt": "文\t体育，财经\n"}, "dev.txt:1: labels must be separated by an ASCII comma"),
        ({"train_txt": "文\t体育,\n"}, "train.txt:1: an empty label"),
        ({"train_txt": "只有文字\n"}, "train.txt:1: no label"),
        ({"train_txt": "\t体育\n"}, "train.txt:1: the text is empty"),
        ({"train_txt": "文\t字\t体育\n"}, "train.txt:1: 2 TABs"),
        ({"train_txt": "文\t体育\n".encode("gbk")}, "train.txt:1: byte 1 is not UTF-8"),
        ({"train_txt": ""}, "train.txt: the file is empty"),
        ({"train_txt": None}, "train.txt: no such file"),
        ({"dev_txt": "\n\n"}, "dev.txt: no labelled row"),
        ({"label_txt": "体育\n体育\n"}, "label.txt:2: label '体育' is already on line 1"),
        ({"label_txt": "体育##足球\n"}, "label.txt:1: the parent of '体育##足球' is missing"),
        ({"label_txt": "体育\n体育##\n"}, "label.txt:2: label '体育##' has an empty level"),
    ],
)
def test_bad_data_is_named_with_file_and_line(run_train, capsys, data_dir, tmp_path, files, expected):
    error = fails(run_train, capsys, "--dataset_dir", data_dir(**files), "--save_dir", tmp_path / "c")
    assert expected in error
    assert {path.name for path in (tmp_path / "c").iterdir()} == {".lock"}  # nor an empty train.log


def test_bad_flags(run_train, capsys, data_dir, tmp_path, tiny_checkpoint):
    good = ("--dataset_dir", data_dir(), "--save_dir", tmp_path / "c", "--epochs", 1)
    for flags, expected in (
        (("--early_stop_nums", 0), "--early_stop_nums: must be at least 1"),
        (("--learning_rate", 1e30), "training diverged; lower --learning_rate"),
        (("--learning_rate", "nan"), "--learning_rate: must be at least"),
        (("--learning_rate", "0"), "--learning_rate: must be at least 1e-12, got 0"),
        (("--learning_rate", "fast"), "--learning_rate: must be a number, or auto; got fast"),
        (("--threshold", 1.5), "threshold must be a number from 0 to 1"),
        (("--top_k", 0), "top_k must be a whole number"),
        (("--per_level", 1, "--tune_threshold", "global"), "no threshold counts"),
        (("--dataset_dir", tmp_path / "none"), "no such directory"),
        (("--model_name", "bert-of-my-own"), "neither a local directory nor a known name"),
        (("--model_name", tmp_path), "config.json: no such file"),
        (("--max_seq_length", 4096), "reads at most 256 tokens"),
        (("--init_from_ckpt", tmp_path / "none.pdparams"), "no such file"),
        (("--init_from_ckpt", tiny_checkpoint / "model.safetensors"), "was trained with other labels"),
        (("--save_dir", data_dir() / "label.txt"), "label.txt"),
        (
            ("--teacher", tiny_checkpoint, tmp_path / "none"),
            f"--teacher {tiny_checkpoint}: {data_dir()}/label.txt: differs",
        ),
        (("--teacher", tmp_path / "none"), f"--teacher {tmp_path}/none: {tmp_path}/none: no such directory"),
        (("--teacher", tmp_path / "c"), "--save_dir"),
        (("--teacher", tiny_checkpoint, "--head", "sampled"), "--teacher: of every label it says how likely it is"),
        (("--unlabelled_file", "more.txt"), "--unlabelled_file: goes with --teacher"),
    ):
        assert expected in fails(run_train, capsys, *good, *flags), flags


def test_a_checkpoint_of_another_label_set_does_not_fit(run_train, capsys, data_dir, tmp_path, tiny_checkpoint):
    folder = without_identity(shutil.copytree(tiny_checkpoint, tmp_path / "old"))
    weights = shutil.copy(folder / "model.safetensors", tmp_path / "lonely.safetensors")  # no label.txt beside
    error = fails(
        run_train, capsys, "--dataset_dir", data_dir(), "--save_dir", tmp_path / "c", "--init_from_ckpt", weights
    )
    assert "classifier.weight has the shape [128, 31], this model needs [128, 5]" in error


def test_weights_in_a_foreign_form_are_not_taken_for_none(run_train, capsys, data_dir, tmp_path):
    model = tmp_path / "model"
    shutil.copytree(SAMPLE / "tiny-ernie", model)
    (model / "weights.pt").write_bytes(b"PK")
    error = fails(run_train, capsys, "--dataset_dir", data_dir(), "--save_dir", tmp_path / "c", "--model_name", model)
    assert "weights in a form that is not read here (weights.pt)" in error


class Bomb:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


def test_a_pickle_bomb_is_refused_and_does_not_go_off(run_train, capsys, data_dir, tmp_path):
    marker, bomb = tmp_path / "executed", tmp_path / "bomb.pdparams"
    bomb.write_bytes(pickle.dumps({"ernie.pooler.dense.bias": Bomb(marker)}))
    flags = ("--dataset_dir", data_dir(), "--save_dir", tmp_path / "c")
    assert "not a usable parameter file" in fails(run_train, capsys, *flags, "--init_from_ckpt", bomb)
    model = tmp_path / "model"
    shutil.copytree(SAMPLE / "tiny-ernie", model)
    shutil.copy(bomb, model / "model_state.pdparams")
    assert "which is code, not numbers" in fails(run_train, capsys, *flags, "--model_name", model)
    assert not marker.exists()


@pytest.mark.parametrize(
    "flags, code",
    [
        (["--help"], 0),
        (["--dataset_dir", "d", "--epoch_s", "3"], 2),
        (["--dataset_dir", "none"], 2),
        (["--dataset_dir", str(SAMPLE), "--model_name", "none"], 2),
        (["--dataset_dir", str(SAMPLE), "--init_from_ckpt", "none"], 2),
    ],
)
def test_help_and_mistakes_are_answered_without_loading_paddle(tmp_path, flags, code):
    program = (
        "import runpy, sys; sys.modules['paddle'] = sys.modules['paddlenlp'] = None; "  # importing them now fails
        f"sys.argv = ['train.py', *{flags}]; runpy.run_path({str(ROOT / 'train.py')!r}, run_name='__main__')"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == code and "Traceback" not in done.stderr
