"""The sample data set in data/: rebuilt byte for byte, and what its README.md promises."""

import json
import os
import subprocess
import sys
from collections import Counter

import pytest

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
DATA = os.path.join(ROOT, "data")
sys.path.insert(0, DATA)

import make_sample  # noqa: E402

FILES = ["label.txt", "train.txt", "dev.txt", "data.txt", "tiny-ernie/vocab.txt"]


def read_lines(name):
    with open(os.path.join(DATA, name), encoding="utf-8", newline="") as f:
        content = f.read()
    assert content.endswith("\n") and "\r" not in content
    return content[:-1].split("\n")


def read_rows(split):
    """Return a list of (text, list of labels)."""
    pairs = [line.split("\t") for line in read_lines(f"{split}.txt")]
    assert all(len(pair) == 2 for pair in pairs)
    return [(text, labels.split(",")) for text, labels in pairs]


def parent(label):
    return label.rpartition("##")[0]


@pytest.fixture(scope="module")
def labels():
    return read_lines("label.txt")


@pytest.fixture(scope="module")
def built():
    return make_sample.build_rows()


def test_rebuild_is_byte_identical(tmp_path):
    # PYTHONHASHSEED differs from the run that made the committed files: nothing may hang on the order of a set.
    script = os.path.join(DATA, "make_sample.py")
    command = [sys.executable, script, "--output_dir", str(tmp_path)]
    env = dict(os.environ, PYTHONHASHSEED="12345", PYTHONIOENCODING="utf-8")
    done = subprocess.run(command, env=env, check=True, capture_output=True, text=True)
    assert len(done.stdout.splitlines()) == len(FILES)
    for name in FILES:
        with open(os.path.join(DATA, name), "rb") as committed:
            assert (tmp_path / name).read_bytes() == committed.read(), name
    written = [str(p.relative_to(tmp_path).as_posix()) for p in tmp_path.rglob("*") if p.is_file()]
    assert sorted(written) == sorted(FILES)  # no temporary file is left


def test_tree(labels):
    assert 25 <= len(labels) <= 35 and len(set(labels)) == len(labels)
    for i, label in enumerate(labels):
        assert "," not in label and all(label.split("##"))
        assert not parent(label) or parent(label) in labels[:i], "parents come before children"
    inner = {parent(label) for label in labels}
    leaf_depths = {label.count("##") + 1 for label in labels if label not in inner}
    assert leaf_depths == {2, 3}
    assert 5 <= sum(not parent(label) for label in labels) <= 6
    assert max(Counter(label.split("##")[-1] for label in labels).values()) >= 2, "a name under two parents"


@pytest.mark.parametrize("split, low, high", [("train", 1400, 1600), ("dev", 270, 330)])
def test_rows(split, low, high, labels):
    rows = read_rows(split)
    assert low <= len(rows) <= high
    for text, row_labels in rows:
        assert 12 <= len(text) <= 90
        assert 1 <= len(row_labels) <= 4 and len(set(row_labels)) == len(row_labels)
        assert set(row_labels) <= set(labels)
        assert all(not parent(label) or parent(label) in row_labels for label in row_labels), "ancestors are listed"
    assert {len(row_labels) for _, row_labels in rows} == {1, 2, 3, 4}
    assert any(len({label.split("##")[0] for label in row_labels}) == 2 for _, row_labels in rows), "two branches"


def test_every_label_occurs(labels):
    for split, least in (("train", 15), ("dev", 1)):
        counts = Counter(label for _, row_labels in read_rows(split) for label in row_labels)
        assert min(counts[label] for label in labels) >= least


def test_texts_are_distinct():
    texts = [text for split in ("train", "dev") for text, _ in read_rows(split)] + read_lines("data.txt")
    assert len(set(texts)) == len(texts)


def test_unlabelled_lines():
    lines = read_lines("data.txt")
    assert len(lines) == 60
    assert all(line.strip() and "\t" not in line for line in lines)
    assert set(make_sample.OUT_OF_TREE) <= set(lines)


def test_dev_patterns_do_not_occur_in_train(built):
    train = {row.pattern for row in built["train"]}
    assert not train & {row.pattern for row in built["dev"] + built["data"]}
    train_parts = {p for label in make_sample.LABELS for p in make_sample.patterns(label, "train")}
    dev_parts = {p for label in make_sample.LABELS for p in make_sample.patterns(label, "dev")}
    # Not even as a part: an opening and a closing could otherwise hide a shared pattern.
    assert not any(part in pattern for pattern in train for part in dev_parts)
    assert not any(part in row.pattern for row in built["dev"] for part in train_parts)


def test_leaves_have_many_patterns_and_train_shows_all_key_words(built):
    train_text = {label: "" for label in make_sample.LABELS}
    for row in built["train"]:
        for label in row.labels:
            train_text[label] += row.text + "\n"
    for label, event in make_sample.EVENTS.items():
        if make_sample.kind(label) == "leaf":
            assert len(set(make_sample.patterns(label, "train"))) >= 8
        assert len(event.words.split()) >= 4
        assert all(word in train_text[label] for word in event.words.split()), label


def test_rows_match_their_built_labels(built):
    for split in ("train", "dev"):
        assert read_rows(split) == [(row.text, row.labels) for row in built[split]]


def test_vocab_covers_train_and_fits_config():
    vocab = read_lines("tiny-ernie/vocab.txt")
    assert vocab[:5] == ["[PAD]", "[CLS]", "[SEP]", "[MASK]", "[UNK]"]
    assert len(set(vocab)) == len(vocab)
    characters = set("".join(text for text, _ in read_rows("train"))) - {" "}
    assert characters <= set(vocab)
    assert {"a", "##a", "z", "##z", "0", "##0", "9", "##9", ",", "A"} <= set(vocab)
    with open(os.path.join(DATA, "tiny-ernie", "config.json"), encoding="utf-8") as f:
        config = json.load(f)
    assert config["vocab_size"] == len(vocab)
    assert config["hidden_size"] % config["num_attention_heads"] == 0
    assert config["num_attention_heads"] % 4 == 0, "3/4 and 1/2 of the heads are whole numbers"


def test_failed_write_keeps_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "label.txt"
    make_sample.write_lines(str(path), ["old"])

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(make_sample.os, "fsync", fail)
    with pytest.raises(OSError):
        make_sample.write_lines(str(path), ["new"])
    assert path.read_bytes() == b"old\n"
