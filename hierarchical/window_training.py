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
from hierarchical.modeling import model_inputs, predict_logits

SAMPLED = 4
NONE = np.float32(-1e30)  # below every logit


def joined_logits(
    paddle: Any,
    forward: Callable,
    model: Any,
    windows: Windows,
    ids: Sequence[Sequence[int]],
    targets: Sequence[tuple],
    pad_id: int,
    rng: np.random.Generator,
) -> Any:
    """The largest logit of each label over the windows of each text: a tensor [n, L] with gradients.

    forward: **model_inputs -> logits, with gradients; model: the same network, for the windows without them.
    ids: token ids of n texts; targets: class indices of each; rng: of the choice
    """
    parts = [windows.of(row) for row in ids]
    long = [i for i, part in enumerate(parts) if len(part) > SAMPLED]
    others = np.full((len(parts), model.config.num_labels), NONE, np.float32)
    if long:
        found = predict_logits(model, [list(row) for i in long for row in parts[i]], pad_id, len(ids))
        for i, logits in zip(long, np.split(found, np.cumsum([len(parts[i]) for i in long])[:-1])):
            chosen = choose(logits, targets[i], rng)
            others[i] = np.delete(logits, chosen, axis=0).max(0)
            parts[i] = [parts[i][k] for k in chosen]
    rows = [row for part in parts for row in part]
    starts, most = np.cumsum([0, *map(len, parts)])[:-1], max(map(len, parts))
    # A text with fewer windows has its last one several times, which changes no maximum; amax shares the gradient.
    places = [start + min(k, len(part) - 1) for start, part in zip(starts, parts) for k in range(most)]
    logits = forward(**model_inputs(rows, pad_id)).astype("float32")
    logits = paddle.gather(logits, paddle.to_tensor(np.array(places, np.int64)))
    joined = paddle.amax(logits.reshape([len(parts), most, -1]), axis=1)
    return paddle.maximum(joined, paddle.to_tensor(others)) if long else joined


def choose(logits: np.ndarray, labels: Sequence[int], rng: np.random.Generator) -> list[int]:
    """SAMPLED windows of a text that has more, ascending. logits: float32 [W, L]; labels: the text's class indices."""
    likeliest = dict.fromkeys(logits[:, list(labels)].argmax(0).tolist())  # in the order of the labels
    first = list(likeliest)[: SAMPLED - 1]  # one at least is left to chance, else false labels elsewhere would stay
    left = [i for i in range(len(logits)) if i not in first]
    return sorted([*first, *rng.choice(left, SAMPLED - len(first), replace=False).tolist()])
