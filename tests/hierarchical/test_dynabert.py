"""dynabert.py: ranking against finite differences, reordering, slices against networks that were really cut, the loss.

Everything holds for ERNIE and ERNIE-M, and for a network that has been cut before. The networks have 3 layers, 4 heads of
4 units and 24 or 64 neurons; they are random but far from symmetric.
"""

from fractions import Fraction

import numpy as np
import pytest

from hierarchical import dynabert
from hierarchical.dynabert import build_narrow, cut, distillation_loss, importance, reorder, set_width
from hierarchical.modeling import build_model, model_inputs, predict_logits

LAYERS, HEADS, HEAD, HIDDEN, LABELS = 3, 4, 4, 16, 5
NEURONS = {"ernie": 24, "ernie_m": 4 * HIDDEN}  # the library's ERNIE-M does not ask how many
IDS = [[1, 7, 8, 9, 2], [1, 10, 2], [1, 30, 31, 5, 6, 22, 2], [1, 12, 13, 2]]
GOLD = [(0, 1), (2,), (), (3, 4)]
FRACTIONS = [Fraction(3, 4), Fraction(1, 2), Fraction(1, 4)]


def make_model(paddle, family="Ernie"):
    import paddlenlp.transformers as library

    paddle.seed(1)
    config = getattr(library, f"{family}Config")(
        num_hidden_layers=LAYERS, hidden_size=HIDDEN, num_attention_heads=HEADS, intermediate_size=24, vocab_size=50,
        max_position_embeddings=64, initializer_range=0.3, num_labels=LABELS,
    )  # fmt: skip
    model = build_model(config)
    for name, parameter in model.named_parameters():
        if "bias" in name:
            parameter.set_value(paddle.randn(parameter.shape) * 0.3)
    model.eval()
    return model


@pytest.fixture(params=["Ernie", "ErnieM"])
def model(request, paddle):
    return make_model(paddle, request.param)


def logits_of(model):
    return predict_logits(model, IDS, 0, 4)


def neurons_of(model):
    return NEURONS[model.config.model_type]


def numbers(model):
    return {name: value.numpy().copy() for name, value in model.state_dict().items()}


# ---- ranking ---------------------------------------------------------------------------------------------------------


def bce(logits, gold):
    targets = np.zeros(logits.shape)
    for row, labels in zip(targets, gold):
        row[list(labels)] = 1
    logits = logits.astype(np.float64)
    return (np.logaddexp(0, logits) - logits * targets).sum()


def slope(model, linear, rows, row):
    """The derivative of a row's loss by a factor on some rows of a matrix, by differences."""
    weight, losses = linear.weight.numpy().copy(), []
    for factor in (0.98, 1.02):
        scaled = weight.copy()
        scaled[rows] *= factor
        linear.weight.set_value(scaled)
        losses.append(bce(predict_logits(model, [IDS[row]], 0, 1), [GOLD[row]]))
    linear.weight.set_value(weight)
    return (losses[1] - losses[0]) / 0.04


@pytest.mark.slow
def test_importance_is_the_slope_of_the_loss_summed_over_rows(model):
    heads, neurons = importance(model, IDS, GOLD, 0, batch_size=3)
    assert heads.shape == (LAYERS, HEADS) and neurons.shape == (LAYERS, neurons_of(model))
    for i, layer in enumerate(model.base_model.encoder.layers):
        for scores, linear, size in ((heads[i], layer.self_attn.out_proj, HEAD), (neurons[i], layer.linear2, 1)):
            by_hand = [
                sum(abs(slope(model, linear, slice(size * unit, size * (unit + 1)), row)) for row in range(len(IDS)))
                for unit in range(len(scores))
            ]
            np.testing.assert_allclose(scores, by_hand, rtol=0.02, atol=3e-4)
    assert heads.min() > 0 and heads.max() > 2 * heads.min()  # there was something to tell apart


def test_importance_leaves_the_model_as_it_was(model):
    before = numbers(model)
    model.train()
    done = []
    first = importance(model, IDS, GOLD, 0, 3, done.append)
    assert model.training and done == [3, 1]
    assert all(np.array_equal(before[name], value) for name, value in numbers(model).items())
    assert all(parameter.grad is None or not parameter.grad.numpy().any() for parameter in model.parameters())
    for one, other in zip(first, importance(model, IDS, GOLD, 0, 4)):  # no dropout, and whatever shares a batch
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-6)


def test_reordered_model_computes_the_same_and_is_sorted(model):
    before, logits = numbers(model), logits_of(model)
    scores = importance(model, IDS, GOLD, 0, 4)
    reorder(model, *scores)
    np.testing.assert_allclose(logits_of(model), logits, atol=2e-5)
    after = numbers(model)
    moved = {name for name in before if not np.array_equal(before[name], after[name])}
    parts = ("q_proj", "k_proj", "v_proj", "out_proj.weight", "linear1", "linear2.weight")
    assert moved and moved <= {name for name in before if any(part in name for part in parts)}
    for again, score in zip(importance(model, IDS, GOLD, 0, 4), scores):
        np.testing.assert_allclose(again, -np.sort(-score), rtol=1e-2, atol=1e-6)


def test_units_that_do_nothing_are_cut_without_a_trace(model):
    """A head and a quarter of the neurons whose outputs are multiplied by 0 rank last, wherever they stood."""
    for layer, head in zip(model.base_model.encoder.layers, (0, 2, 1)):
        attention, ffn = layer.self_attn.out_proj.weight.numpy().copy(), layer.linear2.weight.numpy().copy()
        attention[HEAD * head : HEAD * (head + 1)] = 0
        ffn[1::4] = 0
        layer.self_attn.out_proj.weight.set_value(attention)
        layer.linear2.weight.set_value(ffn)
    logits = logits_of(model)
    heads, neurons = importance(model, IDS, GOLD, 0, 4)
    assert [row.argmin() for row in heads] == [0, 2, 1] and not neurons[:, 1::4].any()
    reorder(model, heads, neurons)
    narrow = build_narrow(model, Fraction(3, 4))
    cut(model, narrow)
    np.testing.assert_allclose(logits_of(narrow), logits, atol=2e-5)


# ---- widths ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fraction, heads", list(zip(FRACTIONS, (3, 2, 1))))
def test_a_cut_network_has_the_first_units_and_computes_what_the_slices_do(model, fraction, heads):
    wide, narrow = numbers(model), build_narrow(model, fraction)
    cut(model, narrow)
    cut_numbers = numbers(narrow)
    assert cut_numbers.keys() == wide.keys()
    units, neurons = heads * HEAD, neurons_of(model) * heads // 4
    for name, value in wide.items():
        if any(part in name for part in ("q_proj", "k_proj", "v_proj")):
            value = value[..., :units]
        elif "out_proj.weight" in name:
            value = value[:units]
        elif "linear1" in name:
            value = value[..., :neurons]
        elif "linear2.weight" in name:
            value = value[:neurons]
        np.testing.assert_array_equal(cut_numbers[name], value, err_msg=name)
    assert (narrow.config.num_attention_heads, narrow.config.intermediate_size) == (heads, neurons)
    assert (narrow.config.head_dim, narrow.config.hidden_size) == (HEAD, HIDDEN)
    full = logits_of(model)
    set_width(model, fraction)
    np.testing.assert_allclose(logits_of(narrow), logits_of(model), atol=1e-6)
    assert np.abs(logits_of(model) - full).max() > 0.01  # the width does something
    set_width(model, Fraction(1))
    np.testing.assert_allclose(logits_of(model), full, atol=1e-6)


def test_a_cut_network_is_a_copy_and_can_be_refreshed(paddle, model):
    narrow = build_narrow(model, FRACTIONS[1])
    cut(model, narrow)
    before = logits_of(narrow)
    for parameter in model.parameters():
        parameter.set_value(parameter * 1.1)
    np.testing.assert_array_equal(logits_of(narrow), before)
    cut(model, narrow)
    assert np.abs(logits_of(narrow) - before).max() > 0.01


def test_a_cut_network_can_be_cut_again(model):
    half, quarter, direct = build_narrow(model, FRACTIONS[1]), None, build_narrow(model, FRACTIONS[2])
    cut(model, half)
    quarter = build_narrow(half, Fraction(1, 2))
    cut(half, quarter)
    cut(model, direct)
    assert quarter.config.head_dim == HEAD
    np.testing.assert_array_equal(logits_of(quarter), logits_of(direct))


def gradients(model, fractions):
    for fraction in fractions:
        set_width(model, fraction)
        model(**model_inputs(IDS, 0)).square().sum().backward()
    found = {
        name: parameter.grad.numpy().copy()
        for name, parameter in model.named_parameters()
        if parameter.grad is not None
    }
    model.clear_gradients()
    return found


def test_gradients_reach_the_slice_alone_and_add_up_over_widths(model):
    half, full = gradients(model, FRACTIONS[1:2]), gradients(model, [Fraction(1)])
    both = gradients(model, [FRACTIONS[1], Fraction(1)])
    for name, value in both.items():
        np.testing.assert_allclose(value, half[name] + full[name], rtol=1e-3, atol=1e-4 * np.abs(value).max())
    half_of_neurons = neurons_of(model) // 2
    for layer in range(LAYERS):
        for part, block in (
            ("self_attn.q_proj.weight", np.s_[:, 8:]), ("self_attn.out_proj.weight", np.s_[8:]),
            ("linear1.bias", np.s_[half_of_neurons:]), ("linear2.weight", np.s_[half_of_neurons:]),
        ):  # fmt: skip
            name = next(name for name in half if f"layers.{layer}.{part}" in name)
            assert not half[name][block].any() and half[name].any() and full[name][block].any()


def test_widths_with_a_remainder(model):
    assert dynabert.kept(model) == (HEADS, neurons_of(model))
    assert dynabert.kept(model, Fraction("0.3")) == (1, {"ernie": 7, "ernie_m": 19}[model.config.model_type])
    assert dynabert.kept(model, Fraction(1, 100)) == (0, 1)


# ---- the loss --------------------------------------------------------------------------------------------------------


def test_distillation_loss_by_hand(paddle):
    logits, taught = np.array([[0.0, 2.0], [-1.0, 0.5]]), np.array([[1.0, 1.0], [0.0, -2.0]])
    hidden = [np.zeros((2, 2, 3)), np.ones((2, 2, 3))]
    taught_hidden = [np.zeros((2, 2, 3)), np.ones((2, 2, 3))]
    taught_hidden[0][0, 0] = [1, 2, 2]  # squared error 9
    taught_hidden[1][1, 0, 0] = 3  # 4
    taught_hidden[1][1, 1] = 50  # padding
    mask, targets = paddle.to_tensor([[1, 1], [1, 0]]), paddle.to_tensor([[1.0, 0.0], [0.0, 1.0]])

    def tensors(logits, hidden):
        return paddle.to_tensor(logits.astype("float32")), [paddle.to_tensor(x.astype("float32")) for x in hidden]

    def loss(hidden_weight, hard):
        student, teacher = tensors(logits, hidden), tensors(taught, taught_hidden)
        return float(distillation_loss(student, teacher, mask, targets, hidden_weight, hard))

    def entropy(logits, targets):  # -t log s(x) - (1 - t) log (1 - s(x)), over labels and, halved, over the two rows
        p = 1 / (1 + np.exp(-logits))
        return -(targets * np.log(p) + (1 - targets) * np.log(1 - p)).sum() / 2

    p = 1 / (1 + np.exp(-taught))
    soft, hard = entropy(logits, p) - entropy(taught, p), entropy(logits, targets.numpy())
    assert loss(0, 0) == pytest.approx(soft, rel=1e-5)
    assert loss(0, 2) == pytest.approx(soft + 2 * hard, rel=1e-5)
    assert loss(0.1, 0) == pytest.approx(soft + 0.1 * (9 + 4) / (3 * 3), rel=1e-5)  # 3 tokens of 3 units
    same = tensors(taught, hidden)
    assert float(distillation_loss(same, same, mask, targets, 1, 0)) == 0
