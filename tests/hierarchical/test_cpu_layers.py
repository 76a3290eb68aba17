"""cpu_layers.py: what is computed faster is the same, gradients included."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from hierarchical import cpu_layers, cpu_network
from hierarchical.cpu_layers import mixed_precision, speed_up, threads
from hierarchical.encoders import family_of
from hierarchical.modeling import classifying
from tests.hierarchical.layers import noted_passes
from tests.hierarchical.test_modeling import tiny_model

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("family", ["Ernie", "ErnieM"])
def test_a_network_computes_the_same_with_them(paddle, monkeypatch, family, training):
    passes = noted_passes(monkeypatch)
    plain, fast = (without_dropout(tiny_model(paddle, family=family, num_hidden_layers=2)) for _ in range(2))
    ids = paddle.to_tensor([[1, 7, 8, 2], [1, 9, 3, 2]])
    speed_up(fast)
    passes.clear()  # those of the trial
    if not training:
        plain.eval(), fast.eval()
        with paddle.no_grad(), classifying(fast):
            np.testing.assert_allclose(fast(input_ids=ids).numpy(), plain(input_ids=ids).numpy(), atol=1e-5)
        assert passes == [False, True]
        return
    outputs = []
    for model in (plain, fast):
        with classifying(model):
            logits = model(input_ids=ids)
        (logits**2).sum().backward()
        outputs.append(logits.numpy())
    assert passes == [False, True]
    np.testing.assert_allclose(*outputs, atol=1e-5)
    changed = 0
    for (name, one), other in zip(plain.named_parameters(), fast.parameters(), strict=True):
        if one.grad is not None:
            np.testing.assert_allclose(one.grad.numpy(), other.grad.numpy(), atol=1e-4, err_msg=name)
            changed += name.endswith("bias") and bool(np.abs(one.grad.numpy()).max() > 1e-3)
    assert changed >= 6


def test_all_tokens_where_they_are_read(paddle, monkeypatch):
    """As prune.py reads them, of all layers, and the retrieval route, of the last."""
    monkeypatch.setattr(cpu_network, "FEW_TOKENS", 1)
    plain, fast = (without_dropout(tiny_model(paddle)) for _ in range(2))
    plain.eval(), fast.eval(), speed_up(fast)
    ids = paddle.to_tensor([[1, 7, 8, 2], [1, 9, 3, 2]])
    with paddle.no_grad():
        expected = family_of(plain).tokens(plain, input_ids=ids).numpy()
        with classifying(fast):
            fast(ids)
        assert expected.shape == (2, 4, 16)
        for found in (
            fast(ids, output_hidden_states=True)[1][-1],
            family_of(fast).tokens(fast, input_ids=ids),
        ):
            np.testing.assert_allclose(found.numpy(), expected, atol=1e-5)


def without_dropout(model):
    for layer in model.sublayers():
        if isinstance(getattr(layer, "p", None), float):
            layer.p = 0.0
        if hasattr(layer, "num_heads"):
            layer.dropout = 0.0
    model.train()
    return model


def test_which_layers_get_another_form(paddle):
    model = tiny_model(paddle)
    speed_up(model)
    changed = {name for name, layer in model.named_sublayers() if "forward" in vars(layer)}
    layers = {f"ernie.encoder.layers.{i}" for i in range(len(model.ernie.encoder.layers))}
    assert changed == layers | {"ernie.pooler.dense", "classifier"}
    before = [vars(layer).get("forward") for layer in model.sublayers()]
    speed_up(model)  # a second time nothing happens
    assert [vars(layer).get("forward") for layer in model.sublayers()] == before


@pytest.mark.parametrize("bfloat16", [False, True])
def test_without_numba_linear_layers_alone_are_faster(paddle, monkeypatch, capsys, bfloat16):
    monkeypatch.setattr(cpu_layers, "has_bf16", lambda: True)
    monkeypatch.setitem(sys.modules, "hierarchical.cpu_network", None)  # importing it is an ImportError then
    model = tiny_model(paddle)
    speed_up(model, bfloat16)
    changed = [layer for layer in model.sublayers() if "forward" in vars(layer)]
    assert len(changed) == 8 and all(isinstance(layer, paddle.nn.Linear) for layer in changed)
    assert ("cannot be computed in bfloat16 here" in capsys.readouterr().err) == bfloat16


def test_with_the_compiler_disabled(tmp_path):
    # In a process of its own: Numba reads the variable when it is loaded.
    code = """
from hierarchical.cpu_layers import adamw, speed_up
from hierarchical.devices import set_device
paddle = set_device("cpu")
layer = paddle.nn.TransformerEncoderLayer(8, 2, 16, activation="gelu", act_dropout=0.0)
speed_up(paddle.nn.Sequential(layer))
print("forward" in vars(layer), "forward" in vars(layer.linear1))
print(type(adamw(1e-4, [{"params": layer.parameters()}])).__module__)
"""
    surroundings = os.environ | {"NUMBA_DISABLE_JIT": "1"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, env=surroundings)
    assert done.stdout.split() == ["False", "True", "paddle.optimizer.adamw"], done.stderr
    for what in ("faster transformer layers", "steps of AdamW in one pass"):
        assert f"{what} are left out (RuntimeError: Numba's compiler is disabled)" in done.stderr


def test_a_linear_layer_without_bias_keeps_its_form(paddle):
    layers = paddle.nn.Sequential(paddle.nn.Linear(3, 4, bias_attr=False), paddle.nn.Linear(4, 2))
    speed_up(layers)
    assert ["forward" in vars(layer) for layer in layers] == [False, True]
    assert layers(paddle.ones([1, 3])).shape == [1, 2]


def test_it_can_be_exported(paddle, tmp_path):
    """Linear layers outside of transformer layers, too."""
    model = paddle.nn.Sequential(paddle.nn.Linear(3, 4), paddle.nn.Linear(4, 2))
    speed_up(model)
    assert all("forward" in vars(layer) for layer in model)
    model.eval()
    spec = [paddle.static.InputSpec([None, None, 3], "float32")]
    paddle.jit.save(paddle.jit.to_static(model, input_spec=spec, full_graph=True), str(tmp_path / "model"))
    x = paddle.randn([2, 5, 3])
    np.testing.assert_allclose(paddle.jit.load(str(tmp_path / "model"))(x).numpy(), model(x).numpy(), atol=1e-6)


@pytest.mark.parametrize(
    "asked, units, there, answer",
    [
        (None, 256, True, True),
        (None, 255, True, False),
        (None, 768, False, False),
        (True, 16, True, True),
        (True, 768, False, False),
        (False, 768, True, False),
    ],
)
def test_mixed_precision(paddle, monkeypatch, capsys, asked, units, there, answer):
    monkeypatch.setattr(cpu_layers, "has_bf16", lambda: there)
    assert mixed_precision(asked, units) is answer
    assert ("no products in bfloat16" in capsys.readouterr().err) == (asked is True and not there)


@pytest.mark.parametrize(
    "settings, number",
    [
        ({}, 1),
        ({"OMP_NUM_THREADS": "3"}, 3),
        ({"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "2"}, 2),
        ({"OMP_NUM_THREADS": "64"}, 64),
        ({"OMP_NUM_THREADS": "4,2"}, 1),
        ({"OMP_NUM_THREADS": "3", "MKL_NUM_THREADS": "0"}, 3),
    ],
)
def test_threads(monkeypatch, settings, number):
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    assert threads() == number


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux's C library lets itself be told")
def test_denormals_are_flushed():
    # In a process of its own: numbers would stay flushed for all tests that follow.
    code = """
import threading
import numpy as np
from hierarchical import cpu_kernels
from hierarchical.cpu_layers import flush_denormals
def of_pool():
    return cpu_kernels.pool(2).submit(lambda: (tiny * one).any()).result()
tiny, one = np.full(2, 1e-30, np.float32), np.float32(1e-9)
assert (tiny * one).all() and of_pool()
assert flush_denormals()
seen = [(tiny * one).any(), (tiny * np.float32(1e-7)).any()]
thread = threading.Thread(target=lambda: seen.append((tiny * one).any()))
thread.start(), thread.join()
seen.append(of_pool())
print(*map(int, seen))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.split() == ["0", "1", "0", "0"]  # 1e-39, 1e-37, and 1e-39 in other threads
