"""cpu_kernels.py: what is computed faster is the same, gradients included."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from hierarchical.cpu_kernels import affine, has_bfloat16, speed_up
from tests.hierarchical.test_modeling import tiny_model

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("shape", [(4, 3), (2, 5, 3)])
def test_affine_by_hand(paddle, shape):
    rng = np.random.default_rng(0)
    values = rng.normal(size=shape), rng.normal(size=(3, 2)), rng.normal(size=2)
    x, weight, bias = (paddle.to_tensor(value, "float64", stop_gradient=False) for value in values)
    y = affine(x, weight, bias)
    np.testing.assert_allclose(y.numpy(), values[0] @ values[1] + values[2], rtol=1e-12)
    seen = rng.normal(size=y.shape)  # the gradient that comes from above
    (y * paddle.to_tensor(seen)).sum().backward()
    np.testing.assert_allclose(bias.grad.numpy(), seen.reshape(-1, 2).sum(0), rtol=1e-12)
    np.testing.assert_allclose(weight.grad.numpy(), values[0].reshape(-1, 3).T @ seen.reshape(-1, 2), rtol=1e-12)
    np.testing.assert_allclose(x.grad.numpy(), seen @ values[1].T, rtol=1e-12)


@pytest.mark.parametrize("family", ["Ernie", "ErnieM"])
def test_a_network_computes_the_same_with_them(paddle, family):
    plain, fast = (tiny_model(paddle, family=family) for _ in range(2))
    speed_up(paddle, fast)
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


def rounded(values):
    """float32 numbers as bfloat16 has them: 16 bits less, to the nearest."""
    bits = np.asarray(values, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000).astype(np.uint32).view(np.float32)


@pytest.mark.skipif(not has_bfloat16(), reason="this CPU has no AMX")
def test_products_of_rounded_factors(tmp_path):
    # In a process of its own: oneDNN reads at its first operation what it may do.
    code = """
import sys
import numpy as np
import paddle
from hierarchical.cpu_kernels import rounded_affine
x, weight, bias, above = (paddle.to_tensor(np.load(sys.argv[1])[name], stop_gradient=False) for name in "xwba")
y = rounded_affine(paddle)(x, weight, bias)
(y * above.detach()).sum().backward()
np.savez(sys.argv[2], y=y.numpy(), x=x.grad.numpy(), w=weight.grad.numpy(), b=bias.grad.numpy())
"""
    rng = np.random.default_rng(0)
    shapes = {"x": (2, 6, 64), "w": (64, 300), "b": (300,), "a": (2, 6, 300)}
    given = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    np.savez(tmp_path / "given.npz", **given)
    command = [sys.executable, "-c", code, tmp_path / "given.npz", tmp_path / "found.npz"]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    found = np.load(tmp_path / "found.npz")
    x, w, b, above = (given[name] for name in "xwba")
    flat, above_flat = x.reshape(-1, 64), above.reshape(-1, 300)
    np.testing.assert_allclose(found["y"], rounded(x) @ rounded(w) + b, atol=1e-4)
    np.testing.assert_allclose(found["x"], rounded(above) @ rounded(w).T, atol=1e-4)
    np.testing.assert_allclose(found["w"], rounded(flat).T @ rounded(above_flat), atol=1e-4)
    np.testing.assert_allclose(found["b"], above_flat.sum(0), atol=1e-4)
    assert np.abs(found["y"] - (x @ w + b)).max() > 1e-3  # it was rounded


def test_which_processors_have_bfloat16(tmp_path):
    (tmp_path / "with").write_text("flags\t\t: fpu avx512_bf16 amx_bf16 avx512_fp16\n")
    (tmp_path / "without").write_text("flags\t\t: fpu avx512_bf16 avx512_fp16\n")
    assert has_bfloat16(tmp_path / "with") and not has_bfloat16(tmp_path / "without")
    assert not has_bfloat16(tmp_path / "none")


def test_without_bfloat16_a_layer_stays_exact(paddle, monkeypatch):
    monkeypatch.setattr("hierarchical.cpu_kernels.has_bfloat16", lambda: False)
    layer = paddle.nn.Linear(64, 300)
    x = paddle.randn([5, 64])
    expected = x.numpy() @ layer.weight.numpy() + layer.bias.numpy()
    speed_up(paddle, paddle.nn.Sequential(layer), bfloat16=True)
    np.testing.assert_allclose(layer(x).numpy(), expected, atol=1e-5)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux's C library lets itself be told")
def test_denormals_are_flushed():
    # In a process of its own: numbers would stay flushed for all tests that follow.
    code = """
import threading
import numpy as np
from hierarchical.cpu_kernels import flush_denormals
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
