"""cpu_layers.py: what is computed faster is the same, gradients included."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from hierarchical.cpu_layers import has_bfloat16, speed_up, threads
from tests.hierarchical.test_modeling import tiny_model

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("family", ["Ernie", "ErnieM"])
def test_a_network_computes_the_same_with_them(paddle, family):
    plain, fast = (tiny_model(paddle, family=family) for _ in range(2))
    speed_up(fast)
    ids = paddle.to_tensor([[1, 7, 8, 2], [1, 9, 3, 2]])
    outputs = []
    for model in (plain, fast):
        logits = model(input_ids=ids)
        (logits**2).sum().backward()
        outputs.append(logits.numpy())
    np.testing.assert_allclose(*outputs, atol=1e-5)
    changed = 0
    for (name, one), other in zip(plain.named_parameters(), fast.parameters(), strict=True):
        if one.grad is not None:
            np.testing.assert_allclose(one.grad.numpy(), other.grad.numpy(), atol=1e-4, err_msg=name)
            changed += name.endswith("bias") and bool(np.abs(one.grad.numpy()).max() > 1e-3)
    assert changed >= 6


@pytest.mark.parametrize("flags, has", [("fma avx512_bf16 vpclmulqdq", True), ("amx_bf16", True), ("fpu avx2", False)])
def test_which_processors_have_bfloat16(tmp_path, flags, has):
    (tmp_path / "cpuinfo").write_text(f"model name\t: X\nflags\t\t: {flags}\nbugs\t\t: none\n")
    assert has_bfloat16(tmp_path / "cpuinfo") == has
    assert not has_bfloat16(tmp_path / "none")


def test_which_layers_get_another_form(paddle):
    model = tiny_model(paddle)
    speed_up(model)
    changed = {name for name, layer in model.named_sublayers() if "forward" in vars(layer)}
    layers = {f"ernie.encoder.layers.{i}" for i in range(len(model.ernie.encoder.layers))}
    assert changed == layers | {"ernie.pooler.dense", "classifier"}
    before = [vars(layer).get("forward") for layer in model.sublayers()]
    speed_up(model)  # a second time nothing happens
    assert [vars(layer).get("forward") for layer in model.sublayers()] == before


def test_without_numba_linear_layers_alone_are_faster(paddle, monkeypatch):
    monkeypatch.setitem(sys.modules, "hierarchical.cpu_transformer", None)  # importing it is an ImportError then
    model = tiny_model(paddle)
    speed_up(model)
    changed = [layer for layer in model.sublayers() if "forward" in vars(layer)]
    assert len(changed) == 8 and all(isinstance(layer, paddle.nn.Linear) for layer in changed)


@pytest.mark.parametrize(
    "settings, number",
    [({}, 1), ({"OMP_NUM_THREADS": "3"}, 3), ({"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "2"}, 2)],
)
def test_threads(monkeypatch, settings, number):
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    assert threads(bfloat16=False) == number


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux's C library lets itself be told")
def test_denormals_are_flushed():
    # In a process of its own: numbers would stay flushed for all tests that follow.
    code = """
import threading
import numpy as np
from hierarchical.cpu_layers import flush_denormals
tiny, one = np.full(2, 1e-30, np.float32), np.float32(1e-9)
assert (tiny * one).all()
assert flush_denormals()
seen = [(tiny * one).any(), (tiny * np.float32(1e-7)).any()]
thread = threading.Thread(target=lambda: seen.append((tiny * one).any()))
thread.start(), thread.join()
print(*map(int, seen))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.split() == ["0", "1", "0"]  # 1e-39, 1e-37, and 1e-39 in another thread
