"""benchmarks/around_the_model.py: the table in a model's place, and the parts that are told."""

import numpy as np

from benchmarks import around_the_model
from utils import LabelTree

from tests.conftest import SAMPLE  # isort: skip


def test_a_text_has_its_logits_whatever_it_is_padded_with():
    tree = LabelTree(["A", "A##B", "C"])
    table = around_the_model.Table(tree, pad_id=9)
    alone, padded = table(np.array([[1, 5, 2]])), table(np.array([[1, 5, 2, 9, 9], [1, 6, 7, 8, 2]]))
    assert alone.shape == (1, 3) and np.array_equal(alone[0], padded[0]) and not np.array_equal(*padded)
    likely = table.logits > 0
    assert 1 < likely.sum(axis=1).mean() < 3  # B with A, C, or both


def test_every_part_is_told(tiny_export, tmp_path, capsys):
    (tmp_path / "data.txt").write_text("".join((SAMPLE / "data.txt").read_text("utf-8").splitlines(True)[:20]), "utf-8")
    words = f"--model_path {tiny_export} --data_file {tmp_path}/data.txt --rounds 1"
    around_the_model.main(words.split())
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.startswith("20 texts, 31 labels; ")
    assert [line[:26].strip() for line in lines[2:]] == [
        *("tokenise", "batches and back", "probabilities", "decide", ".jsonl rows", ".tsv rows"),
        *("from file to .jsonl", "from file to .tsv"),
    ]
    assert all(float(line[26:]) > 0 for line in lines) and [*tmp_path.iterdir()] == [tmp_path / "data.txt"]
