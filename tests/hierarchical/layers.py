"""What tests of layers on CPUs share: a layer of the library, texts for it, and which layers leave tokens out."""

import numpy as np

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


def noted_passes(monkeypatch):
    """A list that grows with every pass through a layer: whether it computes the first token alone."""
    from hierarchical import cpu_network  # which loads paddle

    passes, layer_pass = [], cpu_network.LayerPass

    def make(*given, **named):
        passes.append(named["first_token"])
        return layer_pass(*given, **named)

    monkeypatch.setattr(cpu_network, "FEW_TOKENS", 1)
    monkeypatch.setattr(cpu_network, "LayerPass", make)
    return passes
