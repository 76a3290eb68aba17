"""cpu_transformer.py: a layer computes what the library's does, with its gradients; the first token alone, too."""

import ctypes
import sys
import threading
from functools import partial

import numpy as np
import pytest

from hierarchical import cpu_kernels, cpu_network, cpu_transformer
from hierarchical.cpu_linear import Sliced
from hierarchical.cpu_network import install
from hierarchical.devices import has_bf16
from hierarchical.first_token import first_token_alone
from tests.hierarchical.layers import inputs, new_layer, outputs_and_gradients


@pytest.fixture(autouse=True)
def few_tokens(monkeypatch):
    """The texts of these tests are few enough for the library, and for one thread."""
    monkeypatch.setattr(cpu_network, "FEW_TOKENS", 1)
    monkeypatch.setattr(cpu_kernels, "LEAST_SHARE", 1)


def computed(layer, x, mask, above, tokens):
    """outputs_and_gradients() where of each text the first `tokens` are read: 7 are all, and of 1 the layer knows."""
    with first_token_alone(layer if tokens == 1 else None):
        return outputs_and_gradients(lambda *given: layer(*given)[:, :tokens], layer, x, mask, above[:, :tokens])


@pytest.mark.parametrize(
    "threads, activation, tokens", [(1, "gelu", 7), (2, "gelu", 7), (2, "relu", 7), (2, "gelu", 1)]
)
@pytest.mark.parametrize(
    "bfloat16, share",
    [(False, 1e-5), pytest.param(True, 0.08, marks=pytest.mark.skipif(not has_bf16(), reason="no bfloat16"))],
)
def test_the_same_as_the_library(paddle, bfloat16, share, threads, activation, tokens):
    layer, given = new_layer(paddle, activation=activation), inputs(paddle)
    expected = computed(layer, *given, tokens)
    assert install([layer], bfloat16, threads) == [layer]
    found = computed(layer, *given, tokens)
    for one, other in zip(expected, found, strict=True):
        assert np.linalg.norm(one - other) <= share * max(1, np.linalg.norm(one))
    differences = [np.abs(one - other).max() for one, other in zip(expected, found)]
    assert bfloat16 == (max(differences) > 1e-3) and max(differences) > 0  # it was computed otherwise


@pytest.mark.parametrize("tokens", [7, 1])
def test_gradients_with_dropout(paddle, tokens):
    """The gradient's part along a direction is the slope there, with the same numbers left out."""
    layer = new_layer(paddle, dropout=0.3)
    x, mask, above = inputs(paddle)
    install([layer], False, 1)

    def loss(values):
        paddle.seed(5)
        with first_token_alone(layer if tokens == 1 else None):
            return (layer(values, mask) * above[:, :tokens]).sum()

    moved = x.clone().detach()
    moved.stop_gradient = False
    loss(moved).backward()
    direction = paddle.to_tensor(np.random.default_rng(3).normal(size=x.shape), "float32")
    step = 1e-3
    slope = (float(loss(x + step * direction)) - float(loss(x - step * direction))) / (2 * step)
    assert float((moved.grad * direction).sum()) == pytest.approx(slope, rel=0.02)


def test_what_is_dropped_depends_on_the_seed_alone(paddle):
    found = []
    for seed, threads in ((5, 1), (5, 2), (6, 1)):
        layer = new_layer(paddle, dropout=0.3)
        install([layer], False, threads)
        paddle.seed(seed)
        found.append(layer(*inputs(paddle)[:2]).numpy())
    np.testing.assert_allclose(found[0], found[1], atol=1e-6)
    assert np.abs(found[0] - found[2]).max() > 0.1


def test_what_is_kept_is_scaled(paddle):
    """The mean over many draws of dropout is what comes without it, where nothing follows that is not linear."""
    x, mask, _ = inputs(paddle)
    layer = new_layer(paddle, attn_dropout=0.3)
    products = cpu_transformer.Products(False, 1)
    projections = [(linear.weight, linear.bias) for linear in cpu_network.parts(layer)[:3]]
    flat, whole = x.reshape([-1, 64]), mask.reshape([3, 7]).numpy()

    def attended(rate):
        dropout = cpu_transformer.dropouts([rate])[0]
        return cpu_transformer.Attention(products, projections, 16, whole, dropout).forward(flat, flat).numpy()

    expected = attended(0)
    draws = np.stack([attended(0.3) for _ in range(400)])
    assert draws.std(0).max() > 0.05
    np.testing.assert_allclose(draws.mean(0), expected, atol=5 * draws.std(0).max() / 20)


def test_frozen_parameters_get_no_gradient(paddle):
    """And x gets the right one: without a gradient of gamma the library's layer norm forgets gamma in that of x."""
    layer, given = new_layer(paddle), inputs(paddle)
    expected = outputs_and_gradients(layer.forward, layer, *given)
    layer = new_layer(paddle)  # the same numbers
    frozen = layer.linear1.weight, layer.norm1.weight, layer.norm1.bias
    for tensor in frozen:
        tensor.stop_gradient = True
    assert install([layer], False, 1) == [layer] and all(tensor.stop_gradient for tensor in frozen)
    found = outputs_and_gradients(layer.forward, layer, *given)
    assert sum(value is None for value in found) == 3
    for one, other in zip(expected, found, strict=True):
        if other is not None:
            np.testing.assert_allclose(other, one, atol=1e-6 * max(1, np.abs(one).max()), rtol=0)


@pytest.mark.parametrize("tokens", [7, 1])
@pytest.mark.parametrize("training", [True, False])
def test_a_narrower_layer(paddle, training, tokens):
    """As prune.py has it: half of the heads, and 30 of 128 neurons."""
    layer = new_layer(paddle)
    assert install([layer], False, 2) == [layer]
    layer.self_attn.num_heads = 2
    for linear in cpu_network.parts(layer)[:3]:
        linear.forward = Sliced(linear, None, 32)
    layer.self_attn.out_proj.forward = Sliced(layer.self_attn.out_proj, 32, None)
    layer.linear1.forward, layer.linear2.forward = Sliced(layer.linear1, None, 30), Sliced(layer.linear2, 30, None)
    x, mask, above = inputs(paddle)
    above[:, tokens:] = 0
    expected = outputs_and_gradients(partial(type(layer).forward, layer), layer, x, mask, above)
    expected[0] = expected[0][:, :tokens]
    if training:
        assert np.abs(expected[2][:, 32:]).max() == 0 < np.abs(expected[2][:, :32]).max()  # the queries' weight
        for one, other in zip(expected, computed(layer, x, mask, above, tokens), strict=True):
            np.testing.assert_allclose(other, one, atol=1e-6 * max(1, np.abs(one).max()), rtol=0)
    else:
        layer.eval()
        with paddle.no_grad(), first_token_alone(layer if tokens == 1 else None):
            np.testing.assert_allclose(layer(x, mask).numpy(), expected[0], atol=1e-5)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere nobody tells oneDNN")
def test_each_thread_tells_onednn_how_many_it_may_use(paddle):
    runtime, found = ctypes.CDLL("libiomp5.so"), []

    def multiply():
        cpu_transformer.use_threads(3)
        found.append(runtime.omp_get_max_threads())

    thread = threading.Thread(target=multiply)
    thread.start(), thread.join()
    assert found == [3]
