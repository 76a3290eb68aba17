"""What once gave wrong answers in silence, typed as commands: each is refused with exit code 2, or right."""

import fcntl
import json
import os
import resource
import shutil
import signal
import subprocess
import sys

import pytest

from hierarchical.sets import in_force
from tests.conftest import ROOT, SAMPLE

pytestmark = pytest.mark.slow
TEXTS = ["国足今晚出战世预赛", "央行下调利率", "公司发布新手机，销量大涨，台风来袭"]


def environment():
    return os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def typed(*words, input=None, **settings):
    """The finished process of a script of this project."""
    command = [sys.executable, *map(str, words)]
    return subprocess.run(
        command,
        cwd=ROOT,
        env=environment(),
        input=input,
        capture_output=True,
        encoding="utf-8",
        timeout=300,
        **settings,
    )


def refused(*words, says, **settings):
    done = typed(*words, **settings)
    assert done.returncode == 2 and "Traceback" not in done.stderr and done.stdout == "", done.stderr
    for part in says if isinstance(says, tuple) else (says,):
        assert part in done.stderr


def predicted(*words, texts=TEXTS):
    """What predict.py or infer.py print for texts, as dicts."""
    flags = ["--data_file", "-", "--output_file", "-", "--label_file", SAMPLE / "label.txt", "--device", "cpu"]
    done = typed(*words, *flags, input="".join(f"{text}\n" for text in texts))
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture(scope="module")
def before(tiny_checkpoint):
    """What predict.py says by tiny_checkpoint, of which every test has a copy."""
    return predicted("predict.py", "--params_path", tiny_checkpoint)


@pytest.fixture
def export(plain_export, tmp_path):
    return shutil.copytree(plain_export, tmp_path / "export")


@pytest.fixture
def checkpoint(tiny_checkpoint, tmp_path):
    return shutil.copytree(tiny_checkpoint, tmp_path / "checkpoint")


@pytest.fixture
def reversed_data(tmp_path):
    """A data folder whose labels have the sample's names, and other numbers."""
    folder = tmp_path / "data"
    folder.mkdir()
    labels = (SAMPLE / "label.txt").read_text("utf-8").splitlines()
    parents_first = sorted(reversed(labels), key=lambda label: label.count("##"))
    (folder / "label.txt").write_text("\n".join(parents_first) + "\n", "utf-8")
    for name in ("train.txt", "dev.txt"):
        rows = (SAMPLE / name).read_text("utf-8").splitlines()[:24]
        (folder / name).write_text("\n".join(rows) + "\n", "utf-8")
    return folder


def training(data, save_dir):
    flags = ["--dataset_dir", data, "--model_name", SAMPLE / "tiny-ernie", "--save_dir", save_dir, "--device", "cpu"]
    return [
        "train.py",
        *flags,
        "--epochs",
        "1",
        "--batch_size",
        "4",
        "--max_seq_length",
        "16",
        "--select_by",
        "micro_f1",
    ]


def test_labels_of_another_model(checkpoint):
    lines = (checkpoint / "label.txt").read_text("utf-8").splitlines()
    (checkpoint / "label.txt").write_text("\n".join(sorted(lines, reverse=True, key=lambda x: -x.count("##"))), "utf-8")
    words = ["predict.py", "--params_path", checkpoint, "--dataset_dir", SAMPLE, "--device", "cpu"]
    refused(*words, says=("label.txt", "model.safetensors"))


def test_a_line_gone_from_the_vocabulary(export):
    lines = (export / "vocab.txt").read_text("utf-8").splitlines(keepends=True)
    (export / "vocab.txt").write_text("".join(lines[:500] + lines[501:]), "utf-8")
    words = ["--model_path_prefix", export / "float32", "--dataset_dir", SAMPLE, "--device", "cpu"]
    refused("deploy/predictor/infer.py", *words, says=("vocab.txt", "export.json"))


def test_a_repository_of_a_mixture(export, tmp_path):
    lines = (export / "vocab.txt").read_text("utf-8").splitlines(keepends=True)
    (export / "vocab.txt").write_text("".join(lines[1:] + lines[:1]), "utf-8")
    words = ["--model_path", export, "--output", tmp_path / "models", "--backend", "python"]
    refused("deploy/triton_serving/make_repository.py", *words, says=("vocab.txt", "export.json"))
    assert not list(tmp_path.glob("models/*"))


def test_a_model_left_from_an_older_export(export, checkpoint):
    (export / "int8.onnx").rename(export / "kept")
    words = ["--params_path", checkpoint, "--output_path", export, "--dataset_dir", SAMPLE]
    done = typed("export_model.py", *words, "--precision", "float32", "--format", "onnx")
    assert done.returncode == 0, done.stderr
    assert not (export / "float16.onnx").exists() and not (export / "float32.pdmodel").exists()
    (export / "kept").rename(export / "int8.onnx")
    words = ["--model_path_prefix", export / "float32", "--dataset_dir", SAMPLE, "--device", "cpu", "--use_quantize"]
    refused("deploy/predictor/infer.py", *words, says=("int8.onnx", "not of this export"))


def test_a_disk_that_is_full_at_the_save(checkpoint, before, reversed_data):

    def small_disk():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # writing further is an error then, as on a full disk
        resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))

    done = typed(*training(reversed_data, checkpoint), preexec_fn=small_disk)
    assert done.returncode and "Traceback" not in done.stderr
    assert predicted("predict.py", "--params_path", checkpoint) == before


# train.py in a process that is killed at the n-th call of a function of os.
DIES = """
import os, signal, sys
import train
name, n = sys.argv.pop(1), int(sys.argv.pop(1))
call, calls = getattr(os, name), []
def dying(*args):
    calls.append(args)
    if len(calls) == n:
        os.kill(os.getpid(), signal.SIGKILL)
    return call(*args)
setattr(os, name, dying)
train.main(sys.argv[1:])
"""


@pytest.mark.parametrize("function, n, is_new", [("fsync", 13, False), ("link", 4, True)])
def test_a_kill_at_the_save(checkpoint, before, reversed_data, function, n, is_new):
    """Before the new set of files is in force, and when some of them have gone to their places, and others have not."""
    words = [sys.executable, "-c", DIES, function, str(n), *map(str, training(reversed_data, checkpoint)[1:])]
    done = subprocess.run(words, cwd=ROOT, env=environment(), capture_output=True)
    assert done.returncode == -signal.SIGKILL and (checkpoint / ".saving").exists(), done.stderr
    after = predicted("predict.py", "--params_path", checkpoint)  # by a whole model: what does not fit is refused
    of_new = (in_force(checkpoint) / "label.txt").read_bytes() == (reversed_data / "label.txt").read_bytes()
    assert of_new == is_new and (of_new or after == before)


def test_two_trainings_into_one_folder(reversed_data, tmp_path):
    folder = tmp_path / "both"
    folder.mkdir()
    with open(folder / ".lock", "w") as lock:  # as the first one holds it
        fcntl.flock(lock, fcntl.LOCK_EX)
        refused(*training(reversed_data, folder), says=str(folder))
    assert not (folder / "model.safetensors").exists()


@pytest.mark.parametrize("name", ["rows.json", "rows.ndjson", "rows.jsonl"])
def test_gold_labels_are_not_predicted_from(tiny_checkpoint, before, tmp_path, name):
    rows = [{"text": text, "labels": ["体育赛事"]} for text in TEXTS]
    content = json.dumps(rows) if name == "rows.json" else "\n".join(map(json.dumps, rows))
    (tmp_path / name).write_text(content, "utf-8")
    flags = ["--params_path", tiny_checkpoint, "--dataset_dir", tmp_path, "--data_file", name, "--device", "cpu"]
    shutil.copy(SAMPLE / "label.txt", tmp_path)
    done = typed("predict.py", *flags, "--output_file", "-")
    assert [json.loads(line) for line in done.stdout.splitlines()] == before


def test_int8_alone_and_beside_others(export):
    words = ["deploy/predictor/infer.py", "--model_path_prefix", export / "float32", "--use_quantize"]
    together = predicted(*words)
    assert [predicted(*words, texts=[text])[0] for text in TEXTS] == together


def test_a_device_that_does_not_exist(checkpoint):
    words = ["predict.py", "--params_path", checkpoint, "--dataset_dir", SAMPLE, "--device"]
    refused(*words, "foo", says="foo")
