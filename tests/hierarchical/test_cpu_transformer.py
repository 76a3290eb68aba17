"""cpu_transformer.py: a layer computes what the library's does, with its gradients, or is left to the library."""

import copy
import ctypes
import sys
import threading
from functools import partial

import numpy as np
import pytest

from hierarchical import cpu_kernels, cpu_transformer
from hierarchical.cpu_linear import Sliced
from hierarchical.cpu_transformer import install
from hierarchical.devices import has_bf16


@pytest.fixture(autouse=True)
def few_tokens(monkeypatch):
    """The texts of these tests are few enough for the library, and for one thread."""
    monkeypatch.setattr(cpu_transformer, "FEW_TOKENS", 1)
    monkeypatch.setattr(cpu_kernels, "LEAST_SHARE", 1)


TOKENS = np.arange(7) < np.array([[7], [4], [1]])  # three texts


def new_layer(paddle, dropout=0.0, **options):
    import paddlenlp.transformers  # noqa: F401  (which gives the layers another forward)

    paddle.seed(1)
    options = {"activation": "gelu", "attn_dropout": dropout, "act_dropout": 0.0} | options
    layer = paddle.nn.TransformerEncoderLayer(64, 4, 128, dropout=dropout, **options)
    for parameter in layer.parameters():  # biases and norms of a new layer are zeros and ones
        parameter.set_value(parameter + 0.1 * paddle.randn(parameter.shape))
    layer.train()
    return layer


def inputs(paddle, seed=0):
    """x, additive mask, and the gradient from above."""
    rng = np.random.default_rng(seed)
    x, above = (paddle.to_tensor(rng.normal(size=(3, 7, 64)), "float32") for _ in range(2))
    return x, paddle.to_tensor(np.where(TOKENS, 0, -1e4), "float32").reshape([3, 1, 1, 7]), above


def outputs_and_gradients(forward, layer, x, mask, above):
    layer.clear_gradients()
    x = x.clone().detach()
    x.stop_gradient = False
    y = forward(x, mask)
    (y * above).sum().backward()
    return [y.numpy(), *(None if t.grad is None else t.grad.numpy() for t in (x, *layer.parameters()))]


@pytest.mark.parametrize("threads, activation", [(1, "gelu"), (2, "gelu"), (2, "relu")])
@pytest.mark.parametrize(
    "bfloat16, share",
    [(False, 1e-5), pytest.param(True, 0.08, marks=pytest.mark.skipif(not has_bf16(), reason="no bfloat16"))],
)
def test_the_same_as_the_library(paddle, bfloat16, share, threads, activation):
    layer, given = new_layer(paddle, activation=activation), inputs(paddle)
    expected = outputs_and_gradients(layer.forward, layer, *given)
    assert install([layer], bfloat16, threads) == [layer]
    found = outputs_and_gradients(layer.forward, layer, *given)
    for one, other in zip(expected, found, strict=True):
        assert np.linalg.norm(one - other) <= share * max(1, np.linalg.norm(one))
    differences = [np.abs(one - other).max() for one, other in zip(expected, found)]
    assert bfloat16 == (max(differences) > 1e-3) and max(differences) > 0  # it was computed otherwise


def test_gradients_with_dropout(paddle):
    """The gradient's part along a direction is the slope there, with the same numbers left out."""
    layer = new_layer(paddle, dropout=0.3)
    x, mask, above = inputs(paddle)
    install([layer], False, 1)

    def loss(values):
        paddle.seed(5)
        return (layer(values, mask) * above).sum()

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
    projections = [(linear.weight, linear.bias) for linear in cpu_transformer.parts(layer)[:3]]
    flat, whole = x.reshape([-1, 64]), mask.reshape([3, 7]).numpy()

    def attended(rate):
        dropout = cpu_transformer.dropouts([rate])[0]
        return cpu_transformer.Attention(products, projections, 16, whole, dropout).forward(flat).numpy()

    expected = attended(0)
    draws = np.stack([attended(0.3) for _ in range(400)])
    assert draws.std(0).max() > 0.05
    np.testing.assert_allclose(draws.mean(0), expected, atol=5 * draws.std(0).max() / 20)


def test_in_evaluation(paddle, monkeypatch):
    layer = new_layer(paddle, dropout=0.3)
    x, mask, above = inputs(paddle)
    layer.eval()
    expected = outputs_and_gradients(layer.forward, layer, x, mask, above)
    install([layer], False, 2)
    paddle.seed(3)
    drawn = paddle.rand([4]).numpy()
    paddle.seed(3)
    with paddle.no_grad():
        np.testing.assert_allclose(layer(x, mask).numpy(), expected[0], atol=1e-5)
        np.testing.assert_array_equal(paddle.rand([4]).numpy(), drawn)  # nothing was drawn by the layer
        monkeypatch.setattr(cpu_transformer, "FEW_TOKENS", 3 * 7 + 1)
        np.testing.assert_array_equal(layer(x, mask).numpy(), expected[0])  # the library's own
    for one, other in zip(expected, outputs_and_gradients(layer.forward, layer, x, mask, above), strict=True):
        np.testing.assert_array_equal(one, other)  # with gradients the library's own


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


@pytest.mark.parametrize(
    "options", [{"activation": "tanh"}, {"normalize_before": True}, {"act_dropout": 0.1}], ids=lambda x: next(iter(x))
)
def test_other_layers_are_left_alone(paddle, options):
    layer = new_layer(paddle, **options)
    assert install([layer, paddle.nn.Linear(2, 2)], False, 1) == []
    assert "forward" not in vars(layer)


def test_calls_that_only_the_library_answers(paddle):
    layer = new_layer(paddle)
    x, mask, _ = inputs(paddle)
    plain = type(layer).forward
    install([layer], False, 1)
    square = mask.expand([3, 4, 7, 7])
    np.testing.assert_array_equal(layer(x, square).numpy(), plain(layer, x, square).numpy())
    np.testing.assert_array_equal(layer(x).numpy(), plain(layer, x).numpy())
    whole = mask == 0  # which tokens are to be seen, not what is to be added
    np.testing.assert_array_equal(layer(x, whole).numpy(), plain(layer, x, whole).numpy())
    output, attention = layer(x, mask, output_attentions=True)
    assert attention.shape == [3, 4, 7, 7]


def test_a_part_that_somebody_changes_later(paddle):
    """As prune.py does, which narrows linear layers and watches what goes into them."""
    layer = new_layer(paddle)
    x, mask, _ = inputs(paddle)
    install([layer], False, 1)
    before = layer(x, mask).numpy()
    hook = layer.linear2.register_forward_pre_hook(lambda _, given: given[0] * 0)
    assert np.abs(layer(x, mask).numpy() - before).max() > 0.1
    hook.remove()
    np.testing.assert_array_equal(layer(x, mask).numpy(), before)
    layer.linear1.forward = lambda x: paddle.zeros([*x.shape[:-1], 128])
    assert np.abs(layer(x, mask).numpy() - before).max() > 0.1


def test_in_a_static_graph_it_is_the_library_s(paddle, tmp_path):
    class Network(paddle.nn.Layer):
        def __init__(self, layer):
            super().__init__()
            self.layer = layer

        def forward(self, x, mask):
            return self.layer(x, src_mask=mask)

    network = Network(new_layer(paddle))
    network.eval()
    x, mask, _ = inputs(paddle)
    install(network.sublayers(), False, 1)
    sizes = {"x": [None, None, 64], "mask": [None, 1, 1, None]}
    specs = [paddle.static.InputSpec(size, "float32", name) for name, size in sizes.items()]
    paddle.jit.save(paddle.jit.to_static(network, input_spec=specs, full_graph=True), str(tmp_path / "network"))
    with paddle.no_grad():
        expected = network(x, mask).numpy()
    np.testing.assert_allclose(paddle.jit.load(str(tmp_path / "network"))(x, mask).numpy(), expected, atol=1e-5)


@pytest.mark.parametrize("training", [True, False])
def test_a_narrower_layer(paddle, training):
    """As prune.py has it: half of the heads, and 30 of 128 neurons."""
    layer = new_layer(paddle)
    assert install([layer], False, 2) == [layer]
    layer.self_attn.num_heads = 2
    for linear in cpu_transformer.parts(layer)[:3]:
        linear.forward = Sliced(linear, None, 32)
    layer.self_attn.out_proj.forward = Sliced(layer.self_attn.out_proj, 32, None)
    layer.linear1.forward, layer.linear2.forward = Sliced(layer.linear1, None, 30), Sliced(layer.linear2, 30, None)
    given = inputs(paddle)
    expected = outputs_and_gradients(partial(type(layer).forward, layer), layer, *given)
    if training:
        assert np.abs(expected[2][:, 32:]).max() == 0 < np.abs(expected[2][:, :32]).max()  # the queries' weight
        for one, other in zip(expected, outputs_and_gradients(layer.forward, layer, *given), strict=True):
            np.testing.assert_allclose(other, one, atol=1e-6 * max(1, np.abs(one).max()), rtol=0)
    else:
        layer.eval()
        with paddle.no_grad():
            np.testing.assert_allclose(layer(*given[:2]).numpy(), expected[0], atol=1e-5)


def test_a_copy_has_weights_of_its_own(paddle):
    layer = new_layer(paddle)
    install([layer], False, 1)
    x, mask, _ = inputs(paddle)
    before, other = layer(x, mask).numpy(), copy.deepcopy(layer)
    layer.norm2.bias.set_value(layer.norm2.bias + 1)
    np.testing.assert_allclose(other(x, mask).numpy(), before, atol=1e-6)
    np.testing.assert_allclose(layer(x, mask).numpy(), before + 1, atol=1e-5)


def test_a_machine_that_computes_something_else(paddle, monkeypatch, capsys):
    monkeypatch.setattr(cpu_kernels, "softmax", cpu_kernels.gelu)  # other arguments: an error
    layer = new_layer(paddle)
    assert install([layer], False, 1) == [] and layer.training
    assert "faster transformer layers are left out (TypeError: " in capsys.readouterr().err
    monkeypatch.undo()
    wrong = cpu_transformer.Linear.backward
    monkeypatch.setattr(cpu_transformer.Linear, "backward", lambda *given: [1.01 * x for x in wrong(*given)])
    assert install([layer], False, 1) == []
    assert "transformer layers are left out (numbers are off by " in capsys.readouterr().err


def test_a_release_without_products_of_bfloat16(paddle, monkeypatch, capsys):
    def product(self, x, y, transpose_x=False, transpose_y=False):
        if self.bfloat16:
            raise RuntimeError("no such kernel")
        return paddle.matmul(x, y, transpose_x, transpose_y)

    monkeypatch.setattr(cpu_transformer.Products, "product", product)
    layer, given = new_layer(paddle), inputs(paddle)
    expected = outputs_and_gradients(layer.forward, layer, *given)
    assert install([layer], True, 1) == [layer]
    assert "products of bfloat16 are left out (RuntimeError: no such kernel)" in capsys.readouterr().err
    for one, other in zip(expected, outputs_and_gradients(layer.forward, layer, *given), strict=True):
        np.testing.assert_allclose(other, one, atol=1e-6 * max(1, np.abs(one).max()), rtol=0)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere nobody tells oneDNN")
def test_each_thread_tells_onednn_how_many_it_may_use(paddle):
    runtime, found = ctypes.CDLL("libiomp5.so"), []

    def multiply():
        cpu_transformer.use_threads(3)
        found.append(runtime.omp_get_max_threads())

    thread = threading.Thread(target=multiply)
    thread.start(), thread.join()
    assert found == [3]
