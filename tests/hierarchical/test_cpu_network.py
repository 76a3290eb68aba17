"""cpu_network.py: which layers, and which of their calls, are computed faster, and what is left to the library."""

import copy

import numpy as np
import pytest

from hierarchical import cpu_kernels, cpu_network, cpu_transformer
from hierarchical.cpu_network import install
from tests.hierarchical.layers import inputs, new_layer, outputs_and_gradients


@pytest.fixture(autouse=True)
def few_tokens(monkeypatch):
    """The texts of these tests are few enough for the library, and for one thread."""
    monkeypatch.setattr(cpu_network, "FEW_TOKENS", 1)
    monkeypatch.setattr(cpu_kernels, "LEAST_SHARE", 1)


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
        monkeypatch.setattr(cpu_network, "FEW_TOKENS", 3 * 7 + 1)
        np.testing.assert_array_equal(layer(x, mask).numpy(), expected[0])  # the library's own
    for one, other in zip(expected, outputs_and_gradients(layer.forward, layer, x, mask, above), strict=True):
        np.testing.assert_array_equal(one, other)  # with gradients the library's own


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
