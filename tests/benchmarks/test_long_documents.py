"""benchmarks/long_documents.py: what is made of rows, by hand; the folder that it writes, as train.py reads it."""

import random

import numpy as np
import pytest

from benchmarks import long_documents
from hierarchical.labels import LabelTree
from hierarchical.rows import load_rows

SENTENCES = ["今天讲训练。", "服务在后面一页里。"]
TEXTS = ["雀巢裁员四千人", "甲" * 120, "乙队赢了比赛"]
GOLD = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1]], bool)


def test_single_windows():
    texts, labels = long_documents.single_windows(TEXTS, GOLD, SENTENCES, random.Random(0))
    assert len(texts) == len(labels) == 9
    assert not labels[0::3].any() and all(len(text) == 126 for text in texts[0::3])
    assert not any(row in text for row in TEXTS for text in texts[0::3])
    assert (labels[1::3] == GOLD).all() and all(row in text for row, text in zip(TEXTS, texts[1::3]))
    assert {len(text) for text in texts[1::3]} == {126}
    for text, row in zip(texts[2::3], labels[2::3]):
        assert [part in text for part in TEXTS] == row.tolist() and len(text) <= 126
    assert labels[2::3].sum() > 3  # a short row has the other beside it, unless the long one was drawn first


def test_rows_that_fill_a_window():
    texts = [f"{i:010d}" for i in range(40)]
    assert len(long_documents.beside(0, texts, random.Random(1))) == 12
    assert long_documents.beside(0, ["甲" * 120, *texts], random.Random(1)) == [0]


def test_a_folder_to_train_on(tmp_path):
    source = tmp_path / "rows"
    source.mkdir()
    names = ["甲", "乙"]
    (source / "label.txt").write_text("甲\n乙\n", "utf-8")
    lines = [f"第{i}条说的是{names[i % 2]}\t{names[i % 2]}" for i in range(200)]
    (source / "train.txt").write_text("\n".join(lines) + "\n", "utf-8")
    flags = f"--write {tmp_path / 'out'} --dataset_dir {source} --rows 100 --windows 50 --documents 20".split()
    long_documents.main(flags)
    tree = LabelTree.read(tmp_path / "out" / "label.txt")
    train, dev = (load_rows(tmp_path / "out" / f"{name}.jsonl", tree) for name in ("train", "dev"))
    assert (len(train.texts), len(dev.texts)) == (90 + 3 * 45 + 2 * 18, 10 + 3 * 5 + 2 * 2)
    assert (train.labels.count(()), dev.labels.count(())) == (45, 5)
    alone = {text for text in dev.texts if text in {line.split("\t")[0] for line in lines}}
    assert not any(text in other for text in alone for other in train.texts)  # no row is in both


@pytest.mark.parametrize("flags", [["--windows", "101"], ["--documents", "101"], ["--windows", "-1"]])
def test_wrong_flags(flags, capsys):
    with pytest.raises(SystemExit) as caught:
        long_documents.parse_args(["--write", "x", "--dataset_dir", "y", "--rows", "100", *flags])
    assert caught.value.code == 2 and flags[0] in capsys.readouterr().err
