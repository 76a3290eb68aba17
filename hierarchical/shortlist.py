"""A classifier's layer for very many labels, of which a training step sees those that matter to it, and a draw.

    head = SampledHead(paddle, model, tree, size, seed)   # puts a layer for `size` labels in the classifier's place
    Trainer(paddle, settings, model, total_steps, head)   # fetches the numbers of a step's labels, and puts them back
    with head.whole():                                    # all labels: for dev scores and checkpoints
        ...

The labels of a batch's rows are always on the list. Half of the others are drawn from their siblings, which are the
hardest to tell from them, the rest from all labels. One that is drawn with probability p counts 1 / p times (Horvitz
and Thompson, 1952), so that the sum over the labels is, on average over the draws, that over all of them: the loss bce,
and what zlpr takes the logarithm of. Bengio and Senecal (2008), Adaptive importance sampling to accelerate training of
a neural probabilistic language model, train in this way.

A step costs the same however many labels there are. A label that is not on the list is left alone, its moments too, as
in "lazy" Adam.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from logging import Logger
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from hierarchical.encoders import family_of
from hierarchical.labels import LabelTree
from hierarchical.rows import multi_hot
from hierarchical.weights import MOMENTS, array_of

SIZE = 4096  # labels of a step, or twice as many as its rows can have


class Shortlist(NamedTuple):
    """labels: class indices int64 [K], ascending; weights: float32 [K], how many labels each stands for, L in all."""

    labels: np.ndarray
    weights: np.ndarray

    def multi_hot(self, rows: Sequence[Sequence[int]]) -> np.ndarray:
        """The labels of rows, all of which are on the list, as bool [n, K]."""
        return multi_hot([np.searchsorted(self.labels, row).tolist() for row in rows], len(self.labels))


class Sampler:
    """Draws shortlists of `size` labels, fewer than the tree has."""

    def __init__(self, tree: LabelTree, size: int):
        self.parents, self.size = tree.parents, size
        self.further = np.array(tree.further, np.int64).reshape(-1, 2)  # label, further parent
        children = np.concatenate([np.arange(len(tree)), self.further[:, 0]])
        parents = np.concatenate([tree.parents, self.further[:, 1]])
        by_parent = np.argsort(parents, kind="stable")
        self.children, self.sorted_parents = children[by_parent], parents[by_parent]

    def siblings(self, labels: np.ndarray) -> np.ndarray:
        """Those of some labels, by any of their parents, ascending int64, which they are not themselves."""
        further = self.further[np.isin(self.further[:, 0], labels), 1]
        parents = np.unique(np.concatenate([self.parents[labels], further]))
        starts, ends = (np.searchsorted(self.sorted_parents, parents, side) for side in ("left", "right"))
        families = [self.children[start:end] for start, end in zip(starts, ends)]
        return np.setdiff1d(np.concatenate([labels, *families]), labels)  # of no labels, too: rows may have none

    def draw(self, rows: Sequence[Sequence[int]], rng: np.random.Generator) -> Shortlist:
        """A Shortlist for rows with these labels, which are half of `size` at most."""
        own = np.unique([label for row in rows for label in row]).astype(np.int64)
        near = self.siblings(own)
        others = len(self.parents) - len(own) - len(near)
        n_near = min(len(near), max((self.size - len(own)) // 2, self.size - len(own) - others))
        n_others = self.size - len(own) - n_near
        drawn = rng.choice(near, n_near, replace=False, shuffle=False)
        rest = _outside(np.union1d(own, near), rng.choice(others, n_others, replace=False, shuffle=False))
        labels = np.concatenate([own, drawn, rest])
        weights = np.ones(self.size, np.float32)
        weights[len(own) : len(own) + n_near] = len(near) / max(1, n_near)
        weights[len(own) + n_near :] = others / max(1, n_others)
        order = np.argsort(labels)
        return Shortlist(labels[order], weights[order])


def _outside(taken: np.ndarray, places: np.ndarray) -> np.ndarray:
    """The labels in these places of all that are not taken, in time that does not depend on how many those are.

    taken: ascending
    """
    return places + np.searchsorted(taken - np.arange(len(taken)), places, side="right")


class SampledHead:
    """All numbers of a classifier's layer, one row for a label, and the layer of a step in its place.

    rows: {"weight": tensor float32 [L, H], "bias": [L]}; moments: those of AdamW, (moment, name) -> the same shapes
    """

    def __init__(self, paddle: Any, model: Any, tree: LabelTree, size: int, seed: int):
        self.paddle, self.model, self.seed = paddle, model, seed
        self.sampler, self.family = Sampler(tree, size), family_of(model)
        dense = self.family.classifier(model)
        self.name = next(name for name, layer in model.named_sublayers() if layer is dense)
        self.rows = {"weight": dense.weight.t().contiguous().detach(), "bias": dense.bias.clone().detach()}
        self.moments = {(moment, name): paddle.zeros_like(row) for name, row in self.rows.items() for moment in MOMENTS}
        self.layer = shortlist_layer(paddle, size, dense.weight.shape[0])
        self.family.replace_classifier(model, self.layer)

    def fetch(self, rows: Sequence[Sequence[int]], step: int, optimizer: Any) -> Shortlist:
        """Fill the layer and its moments for a step on rows with these labels; every process draws the same."""
        drawn = self.sampler.draw(rows, np.random.default_rng([self.seed, step]))
        self.index = self.paddle.to_tensor(drawn.labels)
        with self.paddle.no_grad():
            for all_labels, of_step in self._pairs(optimizer):
                self.paddle.assign(self.paddle.index_select(all_labels, self.index), of_step)
        return drawn

    def put_back(self, optimizer: Any) -> None:
        """What the step has made of them."""
        with self.paddle.no_grad():
            for all_labels, of_step in self._pairs(optimizer):
                self.paddle.scatter_(all_labels, self.index, of_step)

    def _pairs(self, optimizer: Any) -> Iterator[tuple[Any, Any]]:
        """(that of all labels, that of the step's) of each tensor; there are no moments before the first step."""
        state = optimizer.state_dict()
        for name, all_labels in self.rows.items():
            parameter = getattr(self.layer, name)
            yield all_labels, parameter
            for moment in MOMENTS:
                if (of_step := state.get(f"{parameter.name}_{moment}")) is not None:
                    yield self.moments[moment, name], of_step

    @contextmanager
    def whole(self) -> Iterator[None]:
        """Give the model its layer for all labels meanwhile."""
        n_labels, width = self.rows["weight"].shape
        layer = self.paddle.nn.Linear(width, n_labels)
        layer.weight.set_value(self.rows["weight"].t())
        layer.bias.set_value(self.rows["bias"])
        self.family.replace_classifier(self.model, layer)
        try:
            yield
        finally:
            self.family.replace_classifier(self.model, self.layer)

    def state(self) -> dict[str, Any]:
        """As `Trainer.state` has it, for all labels."""
        rows = {f"parameter/{self.name}.{name}": row for name, row in self.rows.items()}
        return rows | {f"{moment}/{self.name}.{name}": row for (moment, name), row in self.moments.items()}

    def restore(self, arrays: Mapping[str, np.ndarray], path: Path) -> dict[str, np.ndarray]:
        """Take the arrays of `state()` over; all arrays, but those with as many labels as the layer of a step has.

        path: where they are from. Raises InputError for others.
        """
        own = self.state()
        for name, tensor in own.items():
            tensor.set_value(array_of(arrays, name, tensor.shape, path))
        return {name: array[: len(self.layer.bias)] if name in own else array for name, array in arrays.items()}


def sampled_head(
    paddle: Any,
    model: Any,
    tree: LabelTree,
    labels: Sequence[Sequence[int]],
    batch_size: int,
    seed: int,
    logger: Logger,
) -> SampledHead | None:
    """A SampledHead for these labels of the train rows; None, and a warning, where it would have them all.

    batch_size: rows of a step, on all processes together
    """
    most = np.sort([len(row) for row in labels])[-batch_size:].sum()
    size = max(SIZE, 2 * int(most))
    if size >= len(tree):
        logger.warning(f"--head sampled: a step could see {size:,} labels, there are {len(tree):,}: it sees them all")
        return None
    logger.info(f"--head sampled: a step sees {size:,} of {len(tree):,} labels")
    return SampledHead(paddle, model, tree, size, seed)


def shortlist_layer(paddle: Any, size: int, width: int) -> Any:
    """x [n, H] -> x W' + b [n, K], with weight [K, H], in which a label is a row."""

    class ShortlistLayer(paddle.nn.Layer):
        def __init__(self) -> None:
            super().__init__()
            self.weight, self.bias = self.create_parameter([size, width]), self.create_parameter([size], is_bias=True)

        def forward(self, x: Any) -> Any:
            ones = paddle.ones([x.shape[0], 1], x.dtype)  # see cpu_linear.affine
            return paddle.matmul(x, self.weight, transpose_y=True) + paddle.matmul(ones, self.bias.unsqueeze(0))

    return ShortlistLayer()
