"""Training on texts in windows: the loss is that of joined logits, its gradient flows through a few windows of a text.

A text has up to SAMPLED windows with gradients, so that memory is bounded however long it is. The others, of longer
texts, are computed without: a label whose largest logit one of them has gets no gradient from this text, as it would
get none from the chosen ones if all had theirs. Chosen are the windows in which the text's own labels are likeliest,
and the rest at random.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from hierarchical.long_texts import Windows
from hierarchical.modeling import model_inputs, run_network

SAMPLED = 4
NONE = np.float32(-1e30)  # below every logit


def joined_logits(
    paddle: Any,
    forward: Callable,
    model: Any,
    windows: Windows,
    ids: Sequence[Sequence[int]],
    labels: np.ndarray,
    pad_id: int,
    rng: np.random.Generator,
) -> Any:
    """The largest logit of each label over the windows of each text: a tensor [n, L] with gradients.

    forward: **model_inputs -> logits, with gradients; model: the same network, for the windows without them.
    ids: token ids of n texts; labels: theirs, bool [n, L]; rng: of the choice
    """
    parts, others = sample(model, [windows.of(row) for row in ids], labels, pad_id, rng)
    starts, most = np.cumsum([0, *map(len, parts)])[:-1], max(map(len, parts))
    # A text with fewer windows has its last one several times, which changes no maximum; amax shares the gradient.
    places = [start + min(k, len(part) - 1) for start, part in zip(starts, parts) for k in range(most)]
    logits = forward(**model_inputs([row for part in parts for row in part], pad_id)).astype("float32")
    logits = paddle.gather(logits, paddle.to_tensor(np.array(places, np.int64)))
    joined = paddle.amax(logits.reshape([len(parts), most, -1]), axis=1)
    return paddle.maximum(joined, paddle.to_tensor(others))


def sample(
    model: Any, parts: list[list[Sequence[int]]], labels: np.ndarray, pad_id: int, rng: np.random.Generator
) -> tuple[list[list[Sequence[int]]], np.ndarray]:
    """(of each text the windows with gradients, the largest logits of its other ones, float32 [n, L])."""

    def forward(**inputs: Any) -> Any:
        return model(**inputs).astype("float32")  # which NumPy knows, unlike bfloat16

    kept, others = list(parts), np.full(labels.shape, NONE, np.float32)
    long = [i for i, part in enumerate(parts) if len(part) > SAMPLED]
    rows, ends = [row for i in long for row in parts[i]], np.cumsum([len(parts[i]) for i in long])
    found = run_network(model, forward, labels.shape[1], rows, pad_id, len(parts))
    for i, logits in zip(long, np.split(found, ends[:-1])):
        chosen = choose(logits, labels[i], rng)
        others[i] = np.delete(logits, chosen, axis=0).max(0)
        kept[i] = [parts[i][k] for k in chosen]
    return kept, others


def choose(logits: np.ndarray, labels: np.ndarray, rng: np.random.Generator) -> list[int]:
    """SAMPLED windows of a text that has more, ascending. logits: float32 [W, L]; labels: the text's, bool [L]."""
    likeliest = dict.fromkeys(logits[:, labels].argmax(0).tolist())  # in the order of the labels
    first = list(likeliest)[: SAMPLED - 1]  # one at least is left to chance, else false labels elsewhere would stay
    left = [i for i in range(len(logits)) if i not in first]
    return sorted([*first, *rng.choice(left, SAMPLED - len(first), replace=False).tolist()])
