"""A fine-tuned encoder whose attention heads and feed-forward neurons can be cut to a share of their number.

The method of DynaBERT (Hou et al., 2020, DynaBERT: Dynamic BERT with Adaptive Width and Depth), for sigmoid outputs:

    importance(model, ...)         what the loss would lose with each head and neuron
    reorder(model, ...)            the most important come first; the model computes what it did before
    set_width(model, fraction)     run with the first heads and neurons only: slices of the same parameters
    distillation_loss(...)         how far such a sub-network is from its teacher
    build_narrow, cut              a model of its own with the first heads and neurons

Units are cut, hidden size and depth stay: a layer keeps fraction x its heads, and fraction x its neurons, rounded down.
`model` is one of modeling.build_model, also one that has been cut before.
"""

import copy
from collections.abc import Callable
from fractions import Fraction
from functools import partial
from typing import Any

import numpy as np

from hierarchical.batches import length_sorted_batches
from hierarchical.cpu_linear import Sliced
from hierarchical.encoders import Block, family_of
from hierarchical.modeling import build_model, model_inputs
from hierarchical.rows import multi_hot

FULL = Fraction(1)


def blocks_of(model: Any) -> list[Block]:
    """The parts of every transformer layer, first to last."""
    family = family_of(model)
    return [family.block(layer) for layer in family.layers(model)]


def kept(model: Any, fraction: Fraction = FULL) -> tuple[int, int]:
    """(heads, neurons) of a layer at a width, of which fraction x heads is a whole number."""
    block = blocks_of(model)[0]  # all are alike; what set_width has done does not show in the weights
    heads = block.attention_output.weight.shape[0] // block.attention.head_dim
    return int(heads * fraction), max(1, int(block.narrow.weight.shape[0] * fraction))


# ---- ranking ---------------------------------------------------------------------------------------------------------


def importance(
    model: Any,
    ids: list[list[int]],
    labels: list[tuple],
    pad_id: int,
    batch_size: int,
    progress: Callable | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """(heads float64 [layers, heads], neurons float64 [layers, neurons]): what each one's output is worth to the loss.

    ids, labels: token ids and class indices of the rows. The sum over rows of |dL/dm|, where m = 1 scales the unit's
    output and L is the row's binary cross-entropy: to first order what the loss changes by when the unit is taken out
    (heads: Michel, Levy and Neubig, 2019, Are Sixteen Heads Really Better than One?; neurons: Molchanov et al., 2017,
    Pruning Convolutional Neural Networks for Resource Efficient Inference). Dropout is off.
    """
    import paddle

    blocks, was_training = blocks_of(model), model.training
    scores = [np.zeros(units) for _ in blocks for units in kept(model)]
    masks: list = [None for _ in scores]

    def scaled(i: int, _: Any, inputs: tuple) -> Any:
        output = inputs[0]
        return (output.reshape([*output.shape[:2], len(scores[i]), -1]) * masks[i]).reshape(output.shape)

    # what heads and neurons put out is what goes into these
    readers = [linear for block in blocks for linear in (block.attention_output, block.narrow)]
    hooks = [linear.register_forward_pre_hook(partial(scaled, i)) for i, linear in enumerate(readers)]
    model.eval()
    for batch in length_sorted_batches([len(row) for row in ids], batch_size):
        for i, score in enumerate(scores):
            masks[i] = paddle.ones([len(batch), 1, len(score), 1])
            masks[i].stop_gradient = False
        logits = model(**model_inputs([ids[i] for i in batch], pad_id))
        targets = paddle.to_tensor(multi_hot([labels[i] for i in batch], model.config.num_labels), "float32")
        paddle.nn.functional.binary_cross_entropy_with_logits(logits, targets, reduction="sum").backward()
        for score, mask in zip(scores, masks):
            score += mask.grad.abs().sum([0, 1, 3]).numpy()
        if progress:
            progress(len(batch))
    for hook in hooks:
        hook.remove()
    model.clear_gradients()
    if was_training:
        model.train()
    return np.stack(scores[::2]), np.stack(scores[1::2])


def reorder(model: Any, heads: np.ndarray, neurons: np.ndarray) -> None:
    """Sort every layer's heads and neurons by falling importance (arrays of `importance`), in place."""
    for block, head_scores, neuron_scores in zip(blocks_of(model), heads, neurons):
        head_dim, order = block.attention.head_dim, np.argsort(-head_scores, kind="stable")
        units = (order[:, None] * head_dim + np.arange(head_dim)).ravel()
        for linear in block.projections:
            _permute(linear, columns=units)
        _permute(block.attention_output, rows=units)
        order = np.argsort(-neuron_scores, kind="stable")
        _permute(block.widen, columns=order)
        _permute(block.narrow, rows=order)


def _permute(linear: Any, rows: Any = slice(None), columns: Any = slice(None)) -> None:
    linear.weight.set_value(linear.weight.numpy()[rows][:, columns])
    linear.bias.set_value(linear.bias.numpy()[columns])


# ---- widths ----------------------------------------------------------------------------------------------------------


def set_width(model: Any, fraction: Fraction) -> None:
    """From now on the model runs with the first heads and neurons only; gradients reach just these.

    fraction: 1 for the full width.
    """
    heads, neurons = kept(model, fraction)
    for block in blocks_of(model):
        block.attention.num_heads, units = heads, heads * block.attention.head_dim
        for linear in block.projections:
            linear.forward = Sliced(linear, None, units)
        block.attention_output.forward = Sliced(block.attention_output, units, None)
        block.widen.forward = Sliced(block.widen, None, neurons)
        block.narrow.forward = Sliced(block.narrow, neurons, None)


def build_narrow(model: Any, fraction: Fraction) -> Any:
    """A model of its own for one width of `model`, in eval mode; its parameters are random until `cut`."""
    config = copy.deepcopy(model.config)
    config.head_dim = blocks_of(model)[0].attention.head_dim
    config.num_attention_heads, config.intermediate_size = kept(model, fraction)
    narrow = build_model(config)
    narrow.eval()
    return narrow


def cut(model: Any, narrow: Any) -> None:
    """Copy the first heads and neurons of `model` into `narrow`: the leading block of every parameter."""
    wide = model.state_dict()
    for name, parameter in narrow.state_dict().items():
        block = tuple(slice(n) for n in parameter.shape)
        parameter.set_value(wide[name].numpy()[block])


# ---- distillation ----------------------------------------------------------------------------------------------------


def distillation_loss(
    student: tuple, teacher: tuple, mask: Any, targets: Any, hidden_weight: float, hard_label_weight: float
) -> Any:
    """The loss of one sub-network on one batch of n rows and L labels, a scalar tensor.

    student, teacher: (logits [n, L], hidden states: embeddings and every layer, each [n, tokens, hidden size])
    mask: int64 [n, tokens], 0 at the padding, which does not count; targets: float32 [n, L]

    hidden_weight x sum over layers of the mean squared error of the hidden states
    + binary cross-entropy against the teacher's probabilities, less what the teacher itself has: 0 for the same outputs
    + hard_label_weight x binary cross-entropy against the targets
    The cross-entropies are summed over labels and averaged over rows.
    """
    import paddle
    import paddle.nn.functional as F

    def cross_entropy(logits: Any, targets: Any) -> Any:
        return F.binary_cross_entropy_with_logits(logits, targets, reduction="sum") / len(logits)

    (logits, hidden), (teacher_logits, teacher_hidden) = student, teacher
    probabilities, weights = F.sigmoid(teacher_logits), mask.astype("float32").unsqueeze(-1)
    cells = weights.sum() * hidden[0].shape[-1]
    loss = cross_entropy(logits, probabilities) - cross_entropy(teacher_logits, probabilities)
    if hard_label_weight:
        loss = loss + hard_label_weight * cross_entropy(logits, targets)
    for own, other in zip(hidden, teacher_hidden):
        loss = loss + hidden_weight * (paddle.square(own - other) * weights).sum() / cells
    return loss
