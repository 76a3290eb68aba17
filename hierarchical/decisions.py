"""Decisions: the one rule that turns probabilities into label sets.

    decide(probabilities, tree, decision)      probabilities -> multi-hot label sets; every script calls this one

Shapes: N rows, L labels in class-index order. A decoding is a function and a row in RULES.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from typing import Any, NamedTuple

import numpy as np

from hierarchical.labels import LabelTree


class Rule(NamedTuple):
    """A decoding. text: for --help; make_consistent: changes values [N, L] in place, so that they fit the tree."""

    text: str
    make_consistent: Callable[[np.ndarray, LabelTree], None]


def leave_alone(values: np.ndarray, tree: LabelTree) -> None:
    """Any label set fits."""


def raise_to_subtree_maximum(values: np.ndarray, tree: LabelTree) -> None:
    """Bottom-up, in place; on bool values [N, L] this adds the ancestors of every label set."""
    for level in range(tree.depth, 1, -1):
        children = np.flatnonzero(tree.levels == level)
        children = children[np.argsort(tree.parents[children], kind="stable")]
        parents, starts = np.unique(tree.parents[children], return_index=True)
        best_child = np.maximum.reduceat(values[:, children], starts, axis=1)
        values[:, parents] = np.maximum(values[:, parents], best_child)


def lower_to_path_minimum(values: np.ndarray, tree: LabelTree) -> None:
    """Top-down, in place: no value is above its parent's."""
    for level in range(2, tree.depth + 1):
        children = np.flatnonzero(tree.levels == level)
        values[:, children] = np.minimum(values[:, children], values[:, tree.parents[children]])


RULES = {
    "raw": Rule("each label on its own", leave_alone),
    "closure": Rule("a label brings its ancestors", raise_to_subtree_maximum),
    "topdown": Rule("no label without its ancestors", lower_to_path_minimum),
}
DECODINGS = tuple(RULES)
RULES_TEXT = "; ".join(f"{name}: {rule.text}" for name, rule in RULES.items())


@dataclass(frozen=True)
class Decision:
    """How probabilities become label sets; checked when made, stored with a checkpoint as `to_dict()`.

    threshold   one float for all labels, or one per label in class-index order; a label needs a probability above it
    decoding    "raw": every label on its own; "closure": a predicted label brings its ancestors; "topdown": a label is
                predicted only under predicted ancestors
    min_labels  at least this many labels in every row, the best ones even when below their threshold
    max_labels  at most this many labels in every row, the best ones; None: no limit
    top_k       exactly this many labels in every row, whatever the threshold; None: off

    Raises ValueError for a wrong type, a value out of range, or top_k next to min_labels or max_labels.
    """

    threshold: float | list[float] = 0.5
    decoding: str = "raw"
    min_labels: int = 0
    max_labels: int | None = None
    top_k: int | None = None

    def __post_init__(self) -> None:
        if isinstance(self.threshold, (np.ndarray, np.generic)):  # as the tuning functions return them
            object.__setattr__(self, "threshold", self.threshold.tolist())
        self.validate()

    def validate(self) -> None:
        """Raise ValueError, saying what would be right, unless every setting is usable."""
        thresholds = self.threshold if isinstance(self.threshold, list) else [self.threshold]
        for value in thresholds:
            if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 <= value <= 1:
                raise ValueError(f"threshold must be a number from 0 to 1, or a list with one per label; got {value!r}")
        one_of("decoding", self.decoding, DECODINGS)
        for name, lowest in (("min_labels", 0), ("max_labels", 1), ("top_k", 1)):
            value = getattr(self, name)
            if value is None and name != "min_labels":
                continue
            if not isinstance(value, int) or isinstance(value, bool) or value < lowest:
                raise ValueError(f"{name} must be a whole number, {lowest} or more; got {value!r}")
        if self.top_k is not None and (self.min_labels or self.max_labels is not None):
            raise ValueError("top_k already fixes the number of labels; leave min_labels and max_labels out")
        if self.max_labels is not None and self.min_labels > self.max_labels:
            raise ValueError(f"min_labels ({self.min_labels}) must not be above max_labels ({self.max_labels})")

    def to_dict(self) -> dict[str, Any]:
        """The settings as a dict that JSON can hold; `Decision.from_dict` reads it back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, settings: Any) -> "Decision":
        """A Decision from `to_dict()`; settings left out keep their default. Raises ValueError on anything else."""
        if not isinstance(settings, dict):
            raise ValueError(f"decision settings must be a dict, got {type(settings).__name__}")
        known = [field.name for field in fields(cls)]
        unknown = [str(key) for key in settings if key not in known]
        if unknown:
            raise ValueError(f"unknown decision settings {', '.join(unknown)}; known are {', '.join(known)}")
        return cls(**settings)

    def updated(self, **asked: Any) -> "Decision":
        """The Decision with the settings that are not None in place of its own. Raises ValueError like the class.

        A number of labels asked for now replaces limits stored earlier, and the other way round.
        """
        given = {name: value for name, value in asked.items() if value is not None}
        settings = self.to_dict()
        if "top_k" in given:
            settings |= {"min_labels": 0, "max_labels": None}
        elif "min_labels" in given or "max_labels" in given:
            settings["top_k"] = None
        return Decision.from_dict(settings | given)


def one_of(name: str, value: object, known: tuple[str, ...]) -> None:
    """Raise ValueError, naming what is known, unless `value` is among it."""
    if value not in known:
        raise ValueError(f"{name} must be one of {', '.join(known)}; got {value!r}")


def decide(probabilities: np.ndarray, tree: LabelTree, decision: Decision = Decision()) -> np.ndarray:
    """Turn probabilities (float [N, L], sigmoid outputs) into label sets (bool [N, L]).

    Everything follows from the margin, probability minus threshold, in float64. "closure" raises a node's margin to the
    largest in its subtree, "topdown" lowers it to the smallest on its path from the root, and labels with a margin
    above 0 are selected. Where min_labels, max_labels or top_k ask for another number, the row keeps that many labels
    from the ranking by margin, then shallower level, then lower class index. After "closure" and "topdown" no margin is
    above its parent's, so a parent ranks before its children and every result holds all ancestors of its labels. A
    row's result does not depend on the rows beside it. The default equals `probabilities > 0.5`.

    Raises ValueError for a wrong shape, NaN, values outside 0..1 (logits?), or a wrong number of thresholds.
    """
    margins = checked_probabilities(probabilities, len(tree))
    thresholds = np.asarray(decision.threshold, dtype=np.float64)
    if thresholds.ndim and len(thresholds) != len(tree):
        raise ValueError(f"{len(thresholds)} thresholds for {len(tree)} labels; give one number or one per label")
    margins -= thresholds
    RULES[decision.decoding].make_consistent(margins, tree)
    selected = margins > 0
    fewest = min(decision.top_k or decision.min_labels, len(tree))
    most = min(decision.top_k or decision.max_labels or len(tree), len(tree))
    counts = np.count_nonzero(selected, axis=1)
    for rows, k in ((counts < fewest, fewest), (counts > most, most)):
        if rows.any():
            selected[rows] = _best_k(margins[rows], tree, k)
    return selected


def _best_k(margins: np.ndarray, tree: LabelTree, k: int) -> np.ndarray:
    """The k best labels of every row, bool [N, L], for 1 <= k <= L; no full sort, only the k-th value is looked for."""
    by_level = np.argsort(tree.levels, kind="stable")
    margins = margins[:, by_level]
    kth = np.partition(margins, -k, axis=1)[:, -k, None]
    above, equal = margins > kth, margins == kth
    open_places = k - np.count_nonzero(above, axis=1)[:, None]
    best = np.empty_like(above)
    best[:, by_level] = above | (equal & (np.cumsum(equal, axis=1) <= open_places))
    return best


def checked_probabilities(values: Any, n_labels: int) -> np.ndarray:
    """A float64 copy [N, L] of the probabilities, checked."""
    values = np.asarray(values)
    if values.ndim != 2 or values.shape[1] != n_labels:
        raise ValueError(f"probabilities must have the shape [rows, {n_labels} labels], got {list(values.shape)}")
    if values.dtype.kind not in "fiub":
        raise ValueError(f"probabilities must be numbers, got dtype {values.dtype}")
    if values.size and not (values.min() >= 0 and values.max() <= 1):  # false for NaN, too
        raise ValueError("probabilities must lie within 0..1 and not be NaN; logits need a sigmoid first")
    return values.astype(np.float64)


def checked_multi_hot(values: Any, shape: tuple, name: str) -> np.ndarray:
    """The label sets as bool, checked; `shape` may leave the number of rows open with None."""
    values = np.asarray(values)
    if values.ndim != 2 or values.shape[1] != shape[1] or shape[0] not in (None, len(values)):
        raise ValueError(f"{name} must have the shape [{shape[0] or 'rows'}, {shape[1]}], got {list(values.shape)}")
    if values.dtype != bool and not np.isin(values, (0, 1)).all():
        raise ValueError(f"{name} must be multi-hot (only 0 and 1); probabilities go through decide() first")
    return values.astype(bool)
