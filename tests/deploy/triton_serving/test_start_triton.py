"""start_triton.py: what keeps Triton running, and what it refuses to start."""

import importlib.util
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest

from deploy.triton_serving import start_triton
from deploy.triton_serving.repository import require_repository
from hierarchical.linear import LINEAR, read_linear, write_linear
from utils import InputError

from tests.conftest import ROOT  # isort: skip

from tests.deploy.triton_serving.asking import MODELS, TREE  # isort: skip


pytestmark = pytest.mark.slow


@pytest.fixture
def keeper(tmp_path, monkeypatch):
    """keeper(code): a Keeper of a process that runs this Python code, and counts its starts in the file `starts`."""
    monkeypatch.setattr(start_triton, "SHORTEST", 0.1)
    count = f"import os, resource, signal, sys\nopen({str(tmp_path / 'starts')!r}, 'a').write('x')\n"
    count += f"n = os.path.getsize({str(tmp_path / 'starts')!r})\n"
    return lambda code: start_triton.Keeper([sys.executable, "-c", count + code], dict(os.environ))


def test_it_is_started_again_after_a_signal(keeper, tmp_path, printed):
    crash = "os.kill(os.getpid(), signal.SIGSEGV if n < 3 else signal.SIGKILL) if n < 4 else sys.exit(0)"
    began = time.monotonic()
    assert keeper(crash).run() == 0
    assert time.monotonic() - began > 0.7 and (tmp_path / "starts").read_text() == "xxxx"
    assert [re.sub(r"after \d+ s", "after N s", line) for line in printed] == [
        f"{name} has ended Triton after N s; it is started again in {pause} s"
        for name, pause in (("SIGSEGV", 0.1), ("SIGSEGV", 0.2), ("SIGKILL", 0.4))
    ]


def test_pauses_grow_to_a_limit_and_shrink_after_a_good_run(keeper, monkeypatch, printed):
    monkeypatch.setattr(start_triton, "LONGEST", 0.2)
    crash = "os.kill(os.getpid(), signal.SIGSEGV) if n < 5 else sys.exit(0)"
    keeper(crash).run()
    assert [float(line.split()[-2]) for line in printed] == [0.1, 0.2, 0.2, 0.2]
    printed.clear()
    monkeypatch.setattr(start_triton, "STEADY", 0)
    keeper("os.kill(os.getpid(), signal.SIGSEGV) if n < 8 else sys.exit(0)").run()
    assert [float(line.split()[-2]) for line in printed] == [0.1, 0.1]


@pytest.mark.parametrize("code", [0, 1, 7])
def test_an_end_is_an_end(keeper, tmp_path, code):
    assert keeper(f"sys.exit({code})").run() == code and (tmp_path / "starts").read_text() == "x"


def test_it_can_be_ended_while_it_waits(keeper, tmp_path, monkeypatch):
    monkeypatch.setattr(start_triton, "SHORTEST", 60)
    one = keeper("os.kill(os.getpid(), signal.SIGSEGV)")
    monkeypatch.setattr(one.logger, "error", lambda line: one.end(signal.SIGINT, None))
    assert one.run() == 0 and (tmp_path / "starts").read_text() == "x"


def test_the_stack_of_the_server(keeper, monkeypatch):
    import resource

    check = "sys.exit(resource.getrlimit(resource.RLIMIT_STACK)[0] >> 20)"
    megabytes, free = 1 << 20, resource.RLIM_INFINITY
    for limits, expected in (
        ((8 * megabytes, free), 256), ((free, free), 256), ((512 * megabytes, free), 512),
        ((8 * megabytes, 100 * megabytes), 100),
    ):  # fmt: skip
        with monkeypatch.context() as patch:
            patch.setattr(resource, "getrlimit", lambda what, limits=limits: limits)
            assert start_triton.stack_size() >> 20 == expected
    if resource.getrlimit(resource.RLIMIT_STACK)[1] == free:
        monkeypatch.setattr(start_triton, "STACK", 200 << 20)  # an exit code has 8 bits
        assert keeper(check).run() == 200


def test_start_refuses_what_it_cannot_run(make, monkeypatch, tmp_path):
    def start(*words):
        start_triton.main([str(word) for word in words])

    with pytest.raises(InputError, match="none: no model repository"):
        start("--model_repository", tmp_path / "none")
    with pytest.raises(InputError, match="config.pbtxt: needs NVIDIA's image"):
        start("--model_repository", make())
    for words in (["--http_port", "0"], ["models"]):
        with pytest.raises(SystemExit):
            start(*words)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="nvidia-pytriton, .* is not installed"):
        start("--model_repository", make("--overwrite", "--backend", "python"))


def test_models_of_two_exports_are_not_started(make, tiny_export, tmp_path):
    models = shutil.copytree(make("--backend", "python"), tmp_path / "one")
    require_repository(models)
    other = make("--backend", "python", "--overwrite", "--threshold", "0.9")
    for name in MODELS:
        mixed = shutil.copytree(models, tmp_path / f"with {name}")
        shutil.rmtree(mixed / name)
        with pytest.raises(InputError, match=f"without {name}, as after a make_repository.py that was ended"):
            require_repository(mixed)
        shutil.copytree(other / name, mixed / name)
        with pytest.raises(InputError, match="were not made together, and would give wrong answers"):
            require_repository(mixed)
    # within a model, by hand
    for name, file, what in (
        ("tokenizer", "vocab.txt", "vocab.txt: is not the file that goes with model.onnx"),
        ("tokenizer", "label.txt", "label.txt: is not the file that goes with linear.safetensors"),
        ("seqcls_postprocess", "label.txt", "label.txt: differs from the labels"),
    ):
        mixed = shutil.copytree(models, tmp_path / f"{name} {file}")
        lines = (mixed / name / "1" / file).read_text("utf-8").splitlines()
        (mixed / name / "1" / file).write_text("\n".join([*lines[:-2], lines[-1], lines[-2]]) + "\n", "utf-8")
        with pytest.raises(InputError, match=what):
            require_repository(mixed)
    for name in ("tokenizer", "seqcls_postprocess"):
        mixed = shutil.copytree(models, tmp_path / f"{name} {LINEAR}")
        write_linear(mixed / name / "1", read_linear(mixed / name / "1", TREE).scaled(1.0, 0.0), TREE)
        with pytest.raises(InputError, match=f"{LINEAR}: (is not the file that goes with|not of this model)"):
            require_repository(mixed)
    (mixed / "seqcls_postprocess" / "1" / LINEAR).unlink()
    with pytest.raises(InputError, match=f"{LINEAR}: not of this model"):
        require_repository(mixed)
    for file in ("vocab.txt", "label.txt"):  # the form for the image is the same but for its back end
        assert (models / "tokenizer/1" / file).read_bytes() == (tiny_export / file).read_bytes()


def test_exit_code_and_message_for_users(tmp_path):
    command = [sys.executable, "deploy/triton_serving/make_repository.py", "--model_path", str(tmp_path / "export")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and "export.onnx: no such file" in done.stderr and "Traceback" not in done.stderr
