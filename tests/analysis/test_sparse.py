"""analysis/sparse.py: the choice of rows by hand, both modes from file to file, and what can be wrong."""

import json
import logging
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from analysis import sparse
from analysis.sparse import choose_support, read_candidates
from hierarchical.checkpoints import Checkpoint
from hierarchical.ledger import Ledger, id_of
from tests.analysis.conftest import StandIn
from utils import InputError, LabelTree

ROOT = Path(__file__).resolve().parents[2]
TREE = LabelTree(["体育", "体育##足球", "体育##篮球", "财经", "财经##股票"])

# Directions of the texts' features, in degrees; their cosines say how much they are alike.
DEGREES = {
    "国足今晚出战": 0,
    "联赛第三轮开打": 20,
    "两市小幅收涨": 90,
    "球队老板公司上市": 70,
    "前锋梅开二度": 5,
    "大盘午后跳水": 130,
    "门将扑出点球": 10,
    "央行下调利率": 120,
    "股市": 125,
}


@pytest.fixture(autouse=True)
def log(log_of):
    return log_of(sparse)


@pytest.fixture
def checkpoint(like_a_checkpoint, monkeypatch):
    """A folder that passes for a checkpoint of TREE, and a model whose features are those of DEGREES."""

    def encode_features(model, tokenizer, texts, batch_size, name):
        angles = np.radians([DEGREES[text] for text in texts])
        return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)

    monkeypatch.setattr(sparse, "set_device", lambda device: None)
    monkeypatch.setattr(Checkpoint, "load_model", lambda self: None)
    monkeypatch.setattr("analysis.features.text_features", encode_features)
    monkeypatch.setattr("hierarchical.checkpoints.load_tokenizer", lambda directory, length: StandIn())
    return like_a_checkpoint(TREE)


@pytest.fixture
def call(checkpoint):
    def call(folder, *flags):
        arguments = ["--dataset_dir", folder, "--params_path", checkpoint, "--device", "cpu", *flags]
        sparse.main([str(argument) for argument in arguments])

    return call


def read(path):
    return path.read_text(encoding="utf-8").splitlines()


def test_ranks_in_turn_each_candidate_once():
    rows = np.array([[4, 1, 2], [4, 3, 5]])
    similarities = np.array([[0.9, 0.8, 0.5], [0.95, 0.85, 0.71]])
    assert choose_support(rows, similarities, 0.7, 9) == [(4, 0.9), (1, 0.8), (3, 0.85), (5, 0.71)]
    assert choose_support(rows, similarities, 0.7, 2) == [(4, 0.9), (1, 0.8)]
    assert choose_support(rows, similarities, 0.8, 9) == [(4, 0.9), (3, 0.85)]  # above, not from
    assert choose_support(rows, similarities, 0.99, 9) == []


def test_sparse_rows_and_their_support(data_dir, call, log):
    folder = data_dir()
    call(folder, "--sparse_num", 1, "--rationale_num_sparse", 2, "--aug_strategy", "duplicate")
    # 大盘午后跳水 at 130 degrees: 40 degrees from 两市小幅收涨, 60 from 球队老板公司上市, 110 and 130 from the others.
    assert read(folder / "sparse.txt") == ["大盘午后跳水\t财经,财经##股票"]
    assert read(folder / "support.txt") == ["两市小幅收涨\t财经,财经##股票"]
    mean = (np.cos(np.radians(40)) + np.cos(np.radians(60))) / 2
    assert f"Average score in sparse data: {mean:.4f}" in log.text
    assert f"support average scores: {np.cos(np.radians(40)):.4f}" in log.text
    assert "1 of --support_num 100 rows were found; a lower --support_threshold" in log.text


def test_the_sparsest_comes_first(data_dir, call, log):
    folder = data_dir()
    call(folder, "--aug_strategy", "duplicate", "--support_threshold", 0.2)
    assert [line.split("\t")[0] for line in read(folder / "sparse.txt")] == ["大盘午后跳水", "前锋梅开二度"]
    assert "--sparse_num 100: dev.txt has 2 rows, all are taken" in log.text
    # Rank by rank: the nearest of each, the second nearest of each, ...
    names = [line.split("\t")[0] for line in read(folder / "support.txt")]
    assert names == ["两市小幅收涨", "国足今晚出战", "球队老板公司上市", "联赛第三轮开打"]


@pytest.mark.parametrize("strategy", ["substitute", "insert", "delete", "swap"])
def test_changed_copies_keep_their_labels(data_dir, call, tmp_path, strategy):
    folder, dictionary = data_dir(), tmp_path / "same.json"
    words = {"小幅": ["稍微"], "公司": ["企业"], "今晚": ["今夜"], "联赛": ["比赛"], "轮": ["回合"], "开打": ["开赛"]}
    dictionary.write_text(json.dumps(words), encoding="utf-8")
    call(folder, "--aug_strategy", strategy, "--support_threshold", 0.2, "--dictionary", dictionary)
    train = dict(line.split("\t") for line in read(folder / "train.txt"))
    rows = [line.split("\t") for line in read(folder / "support.txt")]
    assert 1 <= len(rows) <= 4 and not {text for text, _ in rows} & train.keys()
    assert {labels for _, labels in rows} <= set(train.values())
    first = (folder / "support.txt").read_bytes()
    call(folder, "--aug_strategy", strategy, "--support_threshold", 0.2, "--dictionary", dictionary)
    assert (folder / "support.txt").read_bytes() == first


def test_annotate(data_dir, call, log):
    texts = ["门将扑出点球", "", "央行下调利率", "股市", "股市", "国足今晚出战", "大盘午后跳水\t财经"]
    folder = data_dir(data_txt="\n".join(texts))
    call(folder, "--annotate", "--sparse_num", 1, "--support_num", 5)
    assert read(folder / "support.txt") == ["股市", "央行下调利率"]  # 5 and 10 degrees away
    assert "data.txt: 1 rows have labels after a TAB" in log.text
    assert "data.txt: 4 of 7 rows are blank, repeated, or in train, dev or test already" in log.text


def test_unlabelled_rows_are_passed_over(data_dir, call, log):
    folder = data_dir(dev_txt="没有标签\n\n大盘午后跳水\t财经,财经##股票\n")
    call(folder, "--aug_strategy", "duplicate")
    assert read(folder / "sparse.txt") == ["大盘午后跳水\t财经,财经##股票"]
    assert "dev.txt: skipped 1 blank and 1 unlabelled lines" in log.text


def test_rows_that_cannot_be_changed(data_dir, call, refused, tmp_path, log):
    folder, dictionary = data_dir(), tmp_path / "same.json"
    flags = ["--sparse_num", 1, "--support_threshold", 0.2, "--dictionary", dictionary]
    dictionary.write_text('{"小幅": ["稍微"]}', encoding="utf-8")
    call(folder, *flags)  # 两市小幅收涨 and 球队老板公司上市 are near enough, 40 and 60 degrees away
    assert read(folder / "support.txt") == ["两市稍微收涨\t财经,财经##股票"]
    assert "1 of the chosen rows have no word that can be changed" in log.text
    assert f"support average scores: {np.cos(np.radians(40)):.4f}" in log.text  # of what is written
    dictionary.write_text('{"没有": ["不存在"]}', encoding="utf-8")
    before = (folder / "support.txt").read_bytes()
    assert "none of the 2 chosen rows has a word that can be changed" in refused(folder, *flags)
    assert (folder / "support.txt").read_bytes() == before


def test_no_candidate_is_near_enough(data_dir, refused):
    folder = data_dir()
    message = refused(folder, "--support_threshold", 0.9999, "--aug_strategy", "duplicate")
    assert f"the nearest has {np.cos(np.radians(5)):.4f}. Lower it." in message
    assert not (folder / "support.txt").exists() and (folder / "sparse.txt").exists()


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--sparse_num", "0"], "at least 1"),
        (["--support_threshold", "1"], "below 1"),
        (["--support_threshold", "nan"], "below 1"),
        (["--aug_strategy", "mix"], "invalid choice"),
        (["--sparse_file", "dev.txt"], "would overwrite"),
        (["--support_file", "sparse.txt"], "different names"),
        (["--support_file", "a.csv"], "not .csv"),
        (["--annotate", "--unlabeled_file", "none.txt"], "no such file"),
        (["--annotate", "--unlabeled_file", "train.txt"], "not in train, dev or test"),
        (["--dictionary", "none.json"], "no such file"),
        (["--dev_file", "none.txt"], "no such file"),
        (["--params_path", "nowhere"], "no such directory"),
    ],
)
def test_what_can_be_wrong(data_dir, refused, monkeypatch, flags, message):
    monkeypatch.setattr(sparse, "set_device", lambda device: pytest.fail("too late"))
    folder = data_dir()
    before = {path: path.read_bytes() for path in folder.iterdir()}
    assert message in refused(folder, *flags)
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


def test_empty_files_and_other_labels(data_dir, refused):
    assert "the file is empty" in refused(data_dir(dev_txt=""))
    assert "no labelled row" in refused(data_dir(dev_txt="无标签\n"))
    assert "the file is empty" in refused(data_dir(data_txt=""), "--annotate")
    assert "differs from the labels" in refused(data_dir(label_txt="体育\n"))


def test_candidates_come_in_order(tmp_path, log):
    path = tmp_path / "data.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in ("乙\n丙", "甲", "乙\n丙", "丁")), "utf-8")
    assert read_candidates(path, TREE, {"丁"}, set(), logging.getLogger("hierarchical")) == ["乙\n丙", "甲"]
    with pytest.raises(InputError, match="no text in it"):
        read_candidates(path, TREE, {"乙\n丙", "甲", "丁"}, set(), logging.getLogger("hierarchical"))


def test_what_was_answered_is_not_asked_again_and_covers(data_dir, call, refused, log):
    folder = data_dir(data_txt="门将扑出点球\n央行下调利率\n股市\n")
    flags = ["--annotate", "--sparse_num", 1, "--support_threshold", -0.9]
    call(folder, *flags, "--support_num", 1)
    assert read(folder / "sparse.txt") == ["大盘午后跳水\t财经,财经##股票"]
    assert read(folder / "support.txt") == ["股市"]
    ledger = Ledger(folder)
    assert [one.answer for one in ledger.decisions[id_of("股市")]] == ["asked"]
    ledger.add([ledger.answer("股市", "ann", ["财经", "财经##股票"]), ledger.answer("央行下调利率", "ann", None)])
    call(folder, *flags)  # 股市 covers 大盘午后跳水, 5 degrees away: 前锋梅开二度 is the sparsest now
    assert read(folder / "support.txt") == ["门将扑出点球"] and "2 texts were answered before" in log.text
    ledger.add([ledger.answer("门将扑出点球", "ann", ["体育"])])
    assert "all its texts were answered before" in refused(folder, *flags)


def test_answers_in_a_file_are_not_overwritten(data_dir, call, refused):
    folder = data_dir()
    flags = ["--annotate", "--support_threshold", -0.9]
    call(folder, *flags)
    call(folder, *flags)
    labelled = "央行下调利率\t财经\n门将扑出点球\t体育,体育##足球\n"
    (folder / "support.txt").write_text(labelled, "utf-8")
    for others in (flags, ["--aug_strategy", "duplicate", "--support_threshold", 0.2]):
        assert "2 of its rows have labels that are in no other file" in refused(folder, *others)
        assert (folder / "support.txt").read_text("utf-8") == labelled
    ledger = Ledger(folder)
    ledger.add(
        ledger.answer(line.split("\t")[0], "ann", line.split("\t")[1].split(",")) for line in labelled.splitlines()
    )
    call(folder, "--aug_strategy", "duplicate", "--support_threshold", 0.2)  # nothing is lost now
    call(folder, "--aug_strategy", "swap", "--support_threshold", 0.2)


@pytest.mark.slow
def test_a_real_checkpoint(tmp_path, tiny_checkpoint):
    for name, count in (("train.txt", 60), ("dev.txt", 30), ("data.txt", 60)):
        lines = (ROOT / "data" / name).read_text(encoding="utf-8").splitlines()[:count]
        (tmp_path / name).write_text("\n".join(lines), encoding="utf-8")
    flags = ["--params_path", str(tiny_checkpoint), "--device", "cpu", "--sparse_num", "5", "--support_threshold", "-1"]
    command = [sys.executable, "analysis/sparse.py", "--dataset_dir", str(tmp_path), *flags, "--annotate"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    dev, texts = read(tmp_path / "dev.txt"), read(tmp_path / "data.txt")
    sparse_rows, support = read(tmp_path / "sparse.txt"), read(tmp_path / "support.txt")
    assert len(sparse_rows) == 5 and set(sparse_rows) <= set(dev)
    assert 6 <= len(support) <= 30 and set(support) <= set(texts) and len(set(support)) == len(support)
