"""analysis/features.py: the same bits kept and computed, computed once, never those of another file or model."""

import errno
import subprocess
import sys

import numpy as np
import pytest

from analysis import features, sent_interpret, sparse
from analysis.features import FOLDER, Features
from hierarchical.checkpoints import Checkpoint
from hierarchical.modeling import encode_features
from tests.conftest import ROOT, SAMPLE

TEXTS = [f"第{i}家工厂{'大批裁员' * (i % 5)}" for i in range(120)]


@pytest.fixture
def encoded(monkeypatch):
    """The names of what the encoder was run on, and how many texts each time."""
    computed, calls = features.text_features, []

    def counting(model, tokenizer, texts, batch_size, name):
        calls.append((name, len(texts)))
        return computed(model, tokenizer, texts, batch_size, name)

    monkeypatch.setattr(features, "text_features", counting)
    return calls


@pytest.fixture
def made(tiny_checkpoint, tmp_path):
    """made(batch_size, max_seq_length, bf16): Features of a model that is loaded anew, kept in tmp_path."""

    def made(batch_size=16, max_seq_length=None, bf16=False):
        opened = Checkpoint.open(tiny_checkpoint, max_seq_length)
        return Features(opened, opened.load_model(), opened.tokenizer, batch_size, tmp_path, bf16)

    return made


def files(folder):
    return sorted(path.name.partition("-")[0] for path in (folder / FOLDER).glob("*.features"))


def test_once_and_to_the_last_bit(made, encoded, tmp_path):
    one = made()
    expected = encode_features(one.model, one.tokenizer, TEXTS, 16, "")
    first, again, later = (
        one.of(TEXTS, "a/train.txt", "x"),
        one.of(TEXTS, "train.txt", "x"),
        made().of(TEXTS, "train.txt", "y"),
    )
    assert one.of(TEXTS, "train_clean.txt", "x") is not None  # labels are not in it
    assert encoded == [("x", 120)] and files(tmp_path) == ["train.txt"]
    for found in (first, again, later):
        assert found.dtype == np.float32 and np.array_equal(found, expected)
    few = one.of(TEXTS[:99], "few.txt", "few")
    assert len(few) == 99 and encoded[1:] == [("few", 99)] and files(tmp_path) == ["train.txt"]
    assert one.of([], "none.txt", "none").shape == (0, expected.shape[1])


@pytest.mark.slow
def test_what_has_changed_is_computed(made, encoded, tmp_path):
    one = made()
    before = one.of(TEXTS, "train.txt", "as it was")
    one.of([TEXTS[0] + "。", *TEXTS[1:]], "train.txt", "another text")
    one.of(TEXTS[::-1], "train.txt", "another order")
    made(8).of(TEXTS, "train.txt", "batches")
    made(16, 20).of(TEXTS, "train.txt", "length")
    made(bf16=True).of(TEXTS, "train.txt", "rounding")
    other = made()
    weight = other.model.state_dict()["ernie.pooler.dense.weight"]
    weight.set_value(weight * 2)
    assert not np.array_equal(other.of(TEXTS, "train.txt", "weights"), before)
    fields = [name for name, _ in encoded]
    assert fields == ["as it was", "another text", "another order", "batches", "length", "rounding", "weights"]
    assert files(tmp_path) == ["train.txt"] * 3, "of a file the three latest"
    # The same characters, cut into texts at another place, are other texts.
    made().of([TEXTS[0] + TEXTS[1][0], TEXTS[1][1:], *TEXTS[2:]], "cut.txt", "cut")
    assert encoded[-1] == ("cut", 120)


def test_labels_and_configuration(made, encoded, monkeypatch):
    one = made()
    one.of(TEXTS, "train.txt", "first")
    another = made()
    another.opened = type("Opened", (), {"digests": one.opened.digests | {"config.json": "another"}})
    another.of(TEXTS, "train.txt", "other configuration")
    assert len(encoded) == 2
    monkeypatch.setattr("paddle.__version__", "99.0.0")
    made().of(TEXTS, "train.txt", "other Paddle")
    assert len(encoded) == 3


def test_a_damaged_file_is_made_again(made, encoded, tmp_path, caplog):
    expected = np.array(made().of(TEXTS, "train.txt", "x"))
    (path,) = (tmp_path / FOLDER).glob("*.features")
    content = bytearray(path.read_bytes())
    for damaged in (content[:-4], content[:-1] + bytes([content[-1] ^ 1]), b"", b"{}"):
        path.write_bytes(damaged)
        assert np.array_equal(made().of(TEXTS, "train.txt", "x"), expected)
    assert len(encoded) == 5 and path.read_bytes() == content


def test_where_nothing_can_be_written(made, encoded, tmp_path, log_of):
    log = log_of(features)
    (tmp_path / FOLDER).parent.write_text("in the way")
    one = made()
    for _ in range(2):
        assert np.array_equal(one.of(TEXTS, "train.txt", "x"), encode_features(one.model, one.tokenizer, TEXTS, 16, ""))
    assert len(encoded) == 2 and log.text.count("nothing can be kept there") == 1


def test_a_full_disk_costs_no_work(made, encoded, monkeypatch):
    def full(self, array):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("hierarchical.cache.CacheFile.write", full)
    assert made().of(TEXTS, "train.txt", "x").shape[0] == 120 and len(encoded) == 1


def test_a_folder_of_somebody_else(made, encoded, monkeypatch):
    def refused(*_, **__):
        raise PermissionError(errno.EACCES, "Permission denied")

    expected = np.array(made().of(TEXTS, "train.txt", "x"))
    monkeypatch.setattr("hierarchical.cache.only_writer", refused)
    assert np.array_equal(made().of(TEXTS, "train.txt", "x"), expected) and len(encoded) == 1
    made().of(TEXTS, "dev.txt", "y")
    assert len(encoded) == 1, "the same texts in a file of another name"


@pytest.mark.slow
def test_scripts_share_them(tiny_checkpoint, encoded, tmp_path):
    for name, n_rows in (("train.txt", 150), ("dev.txt", 110)):
        lines = (SAMPLE / name).read_text(encoding="utf-8").splitlines(keepends=True)[:n_rows]
        (tmp_path / name).write_text("".join(lines), encoding="utf-8")
    texts = [line.split("\t")[0] for line in (SAMPLE / "dev.txt").read_text(encoding="utf-8").splitlines()[110:240]]
    (tmp_path / "data.txt").write_text("\n".join(texts), encoding="utf-8")
    flags = ["--dataset_dir", str(tmp_path), "--params_path", str(tiny_checkpoint), "--device", "cpu"]
    annotate = [*flags, "--annotate", "--support_threshold", "-1", "--support_num", "20"]
    sparse.main(annotate)
    chosen, kept = (tmp_path / "support.txt").read_text("utf-8"), dict(encoded)
    assert list(kept) == ["train rows", "dev rows", "texts"]
    sparse.main(annotate)  # what it has asked about is not answered yet
    assert (tmp_path / "support.txt").read_text("utf-8") == chosen and dict(encoded) == kept
    sent_interpret.main([*flags, "--interpret_input_file", "dev.txt"])
    assert len(encoded) == 3
    near = (tmp_path / "sent_interpret.txt").read_bytes()
    for path in (tmp_path / FOLDER).glob("*.features"):
        path.unlink()
    sent_interpret.main([*flags, "--interpret_input_file", "dev.txt"])
    assert (tmp_path / "sent_interpret.txt").read_bytes() == near and len(encoded) == 5


@pytest.mark.slow
def test_several_processes_share_the_work_of_one(tiny_checkpoint, tmp_path):
    code = (
        "import sys; from tests.analysis.test_features import *; counted = []; compute = features.text_features;"
        "features.text_features = lambda *all: counted.append(1) or compute(*all);"
        "opened = Checkpoint.open(sys.argv[1]);"
        "one = Features(opened, opened.load_model(), opened.tokenizer, 16, sys.argv[2]);"
        "one.of(TEXTS, 'train.txt', 'x'); print(len(counted))"
    )
    command = [sys.executable, "-c", code, str(tiny_checkpoint), str(tmp_path)]
    processes = [subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert sorted(process.communicate()[0].split()[-1] for process in processes) == ["0", "1"]
