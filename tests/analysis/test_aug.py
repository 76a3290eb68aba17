"""analysis/aug.py: rows from file to file, and what can be wrong."""

import json
import subprocess
import sys

import pytest

from analysis import aug
from tests.conftest import ROOT


@pytest.fixture(autouse=True)
def log(log_of):
    return log_of(aug)


@pytest.fixture
def call():
    def call(*flags):
        aug.main(list(map(str, flags)))

    return call


@pytest.fixture
def dictionary(tmp_path):
    path = tmp_path / "same.json"
    path.write_text(
        json.dumps({"出战": ["出场", "上阵"], "开打": ["开赛"], "收涨": ["上涨"], "上市": ["挂牌"]}), "utf-8"
    )
    return path


def test_nothing_is_written_where_nobody_said(data_dir, dictionary, call, capsys):
    """The rows are named, and the new ones lie beside them."""
    with pytest.raises(SystemExit, match="2"):
        call()
    assert "required: --train_path" in capsys.readouterr().err
    folder = data_dir()
    call("--train_path", folder / "train.txt", "--dictionary", dictionary)
    assert "国足今晚上阵\t体育,体育##足球\n" in (folder / "aug.txt").read_text("utf-8")


def test_new_rows_alone_with_their_labels(data_dir, dictionary, call, log):
    folder = data_dir(train_txt="国足今晚出战\t体育,体育##足球\n\n无标签\n联赛开打 😀\t没听说过的标签\n无词\t财经\n")
    flags = ["--train_path", folder / "train.txt", "--aug_path", folder / "aug.txt", "--dictionary", dictionary]
    call(*flags)
    lines = (folder / "aug.txt").read_text(encoding="utf-8").splitlines()
    assert sorted(lines[:2]) == ["国足今晚上阵\t体育,体育##足球", "国足今晚出场\t体育,体育##足球"]
    assert lines[2:] == ["联赛开赛 😀\t没听说过的标签"]  # one other word only: one copy
    assert "skipped 1 blank and 1 unlabelled" in log.text and "3 copies could not be made" in log.text
    first = (folder / "aug.txt").read_bytes()
    call(*flags)
    assert (folder / "aug.txt").read_bytes() == first
    assert not {path.name for path in folder.iterdir()} - {"aug.txt", "train.txt", "dev.txt", "label.txt", "data.txt"}


def test_jsonl(data_dir, call):
    row = {"text": "第一行\n第二行说公司裁员", "labels": ["a,b"]}
    folder = data_dir(train_jsonl=json.dumps(row, ensure_ascii=False) + "\n")
    call("--train_path", folder / "train.jsonl", "--aug_path", folder / "aug.jsonl", "--aug_strategy", "swap")
    new = [json.loads(line) for line in (folder / "aug.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(new) == 2 and all(one["labels"] == ["a,b"] and sorted(one["text"]) == sorted(row["text"]) for one in new)


def test_mlm_from_file_to_file(masked_directory, data_dir, tmp_path, call):
    folder = data_dir()
    flags = ["--train_path", folder / "train.txt", "--aug_path", tmp_path / "aug.txt", "--aug_type", "mlm"]
    call(*flags, "--mlm_model", masked_directory, "--device", "cpu", "--create_n", 1)
    rows = [line.split("\t") for line in (tmp_path / "aug.txt").read_text(encoding="utf-8").splitlines()]
    assert len(rows) == 4 and rows[0][1] == "体育,体育##足球"
    assert rows[0][0] != "国足今晚出战" and len(rows[0][0]) == 6 and "[MASK]" not in rows[0][0]


def test_models_that_cannot_fill_gaps(tiny_checkpoint, tmp_path, data_dir, refused):
    flags = ["--train_path", data_dir() / "train.txt", "--aug_type", "mlm", "--aug_path", tmp_path / "aug.txt"]
    assert "needed for --aug_type mlm" in refused(*flags)
    assert "no such directory" in refused(*flags, "--mlm_model", tmp_path / "nowhere")
    assert "cls.predictions" in refused(*flags, "--device", "cpu", "--mlm_model", tiny_checkpoint)
    assert not (tmp_path / "aug.txt").exists()


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--train_path", "{}/dev.txt"], "would measure nothing"),
        (["--aug_path", "{}/dev.txt"], "augmented dev rows would measure nothing"),
        (["--aug_path", "{}/label.txt"], "holds the label tree"),
        (["--aug_path", "{}/train.txt"], "would overwrite"),
        (["--aug_path", "{}/aug.csv"], "not .csv"),
        (["--train_path", "{}/none.txt"], "no such file"),
        (["--train_path", "{}/data.txt"], "no labelled row"),
        (["--create_n", "0"], "at least 1"),
        (["--aug_percent", "0"], "above 0"),
        (["--aug_percent", "nan"], "above 0"),
        (["--dictionary", "{}/train.txt"], "not JSON"),
        (["--aug_strategy", "replace"], "invalid choice"),
    ],
)
def test_what_can_be_wrong(data_dir, refused, flags, message):
    folder = data_dir()
    before = {path: path.read_bytes() for path in folder.iterdir()}
    flags = [flag.format(folder) for flag in flags]
    message_shown = refused("--train_path", folder / "train.txt", "--aug_path", folder / "aug.txt", *flags)
    assert message in message_shown
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


def test_no_word_that_can_be_changed(data_dir, tmp_path, refused):
    folder, dictionary = data_dir(aug_txt="of an earlier run"), tmp_path / "same.json"
    dictionary.write_text('{"没有": ["不存在"]}', encoding="utf-8")
    flags = ["--train_path", folder / "train.txt", "--aug_path", folder / "aug.txt", "--dictionary", dictionary]
    assert "no row has a word that --aug_strategy substitute can change" in refused(*flags)
    assert (folder / "aug.txt").read_text(encoding="utf-8") == "of an earlier run"


def test_all_bad_rows_at_once(data_dir, refused):
    folder = data_dir(train_txt="甲\t体育,\n\t体育\n乙\t一\t二\n丙\t体育\n")
    shown = refused("--train_path", folder / "train.txt", "--aug_path", folder / "aug.txt")
    assert all(
        part in shown for part in ("3 problems", "train.txt:1: an empty label", ":2: the text is empty", ":3: 2 TABs")
    )


def test_the_exit_code_of_the_script():
    command = [sys.executable, "analysis/aug.py", "--train_path", "data/dev.txt"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, encoding="utf-8")
    assert done.returncode == 2 and "dev.txt" in done.stderr and "Traceback" not in done.stderr
