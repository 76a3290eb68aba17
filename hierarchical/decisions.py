"""Decisions: the one rule that turns probabilities into label sets.

    probabilities_of(logits, tree, decision)   logits -> probabilities, calibrated where the model is
    decide(probabilities, tree, decision)      probabilities -> multi-hot label sets; every script calls this one

Shapes: N rows, L labels in class-index order. A decoding is a function and a row in RULES.

The best path. Sigmoids are no distribution over siblings: a label's probability is that it holds, whatever its siblings
do. Taken as independent, they give every label set a probability, and of the sets that are one path from a root to a
leaf the likeliest has the largest product of odds p / (1 - p), since the factors 1 - p of all labels are common to all
paths. The product of the probabilities alone would leave out what the labels beside the path say, and one of
probabilities that are normalised among siblings would trust an only child blindly.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from itertools import chain
from typing import Any, NamedTuple

import numpy as np

from hierarchical.calibration import Calibration, sigmoid
from hierarchical.labels import LabelTree


class Rule(NamedTuple):
    """A decoding. text: for --help; make_consistent: changes values [N, L] in place, so that they fit the tree."""

    text: str
    make_consistent: Callable[[np.ndarray, LabelTree], None]


def leave_alone(values: np.ndarray, tree: LabelTree) -> None:
    """Any label set fits."""


def raise_to_subtree_maximum(values: np.ndarray, tree: LabelTree) -> None:
    """Bottom-up, in place; on bool values [N, L] this adds the ancestors of every label set."""
    for children, parents in chain.from_iterable(reversed(tree.steps)):
        order = np.argsort(parents, kind="stable")
        parents, starts = np.unique(parents[order], return_index=True)
        best_child = np.maximum.reduceat(values[:, children[order]], starts, axis=1)
        values[:, parents] = np.maximum(values[:, parents], best_child)


def lower_to_path_minimum(values: np.ndarray, tree: LabelTree) -> None:
    """Top-down, in place: no value is above its parent's."""
    for children, parents in chain.from_iterable(tree.steps):
        values[:, children] = np.minimum(values[:, children], values[:, parents])


def best_path(probabilities: np.ndarray, tree: LabelTree) -> np.ndarray:
    """bool [N, L]: in each row the likeliest path from a root to a leaf, by the product of its odds.

    Where labels have several parents, a path is a leaf with all labels above it. Of equals the one whose leaf has the
    lowest class index. Probabilities nearer to 0 or 1 than SMALLEST count as that. Time O(N L).
    """
    probabilities = np.clip(probabilities, SMALLEST, 1 - SMALLEST)
    sums = np.log(probabilities / (1 - probabilities))
    beside = [sums[:, above].sum(axis=1) for above in tree.beside.values()]  # each ancestor counts once
    for label, more in zip(tree.beside, beside):
        sums[:, label] += more
    for (children, parents), *_ in tree.steps:
        sums[:, children] += sums[:, parents]
    leaves = np.array([label for label, children in enumerate(tree.children) if not children])
    labels = leaves[np.argmax(sums[:, leaves], axis=1)]
    path, rows = np.zeros(probabilities.shape, bool), np.arange(len(probabilities))
    if tree.further:
        path[rows, labels] = True
        raise_to_subtree_maximum(path, tree)
        return path
    while len(rows):
        path[rows, labels] = True
        labels = tree.parents[labels]
        rows, labels = rows[labels >= 0], labels[labels >= 0]
    return path


def best_per_level(values: np.ndarray, tree: LabelTree, k: int, path: np.ndarray | None = None) -> np.ndarray:
    """bool [N, L]: from the roots down, of each level the k highest values [N, L] below what was chosen above.

    There are fewer where the chosen labels have fewer children. A label with several parents needs all of them. Of
    equals the lowest class index. path: bool [N, L] of best_path(), whose labels come first, and are all chosen, which
    can be more than k where labels have several parents. Time O(N L).
    """
    chosen = np.zeros(values.shape, bool)
    if path is not None:
        chosen, values = path.copy(), values + 3 * path
    roots = np.flatnonzero(tree.levels == 1)
    chosen[:, roots] |= _highest(values[:, roots], min(k, len(roots)))
    for (labels, parents), *further in tree.steps:
        allowed = chosen[:, parents]
        for children, others in further:
            allowed[:, np.searchsorted(labels, children)] &= chosen[:, others]
        within = np.where(allowed, values[:, labels], -np.inf)
        chosen[:, labels] |= _highest(within, min(k, len(labels))) & (within > -np.inf)
    return chosen


RULES = {
    "raw": Rule("each label on its own", leave_alone),
    "closure": Rule("a label brings its ancestors", raise_to_subtree_maximum),
    "topdown": Rule("no label without its ancestors", lower_to_path_minimum),
    "path": Rule("exactly one path from a root to a leaf, the likeliest", leave_alone),  # which best_path() finds
}
SMALLEST = 2.0**-24  # float32 does not tell probabilities apart that are nearer to 1
STOPS = {"leaf": "go down to a leaf", "confident": "end at the deepest label above its threshold"}
NO_THRESHOLD = (
    "no threshold counts with --top_k, nor where a path or --per_level goes down to a leaf: add --stop confident."
)
STOPS_TEXT = "; ".join(f"{name}: {text}" for name, text in STOPS.items())
DECODINGS = tuple(RULES)
RULES_TEXT = "; ".join(f"{name}: {rule.text}" for name, rule in RULES.items())


@dataclass(frozen=True)
class Decision:
    """How probabilities become label sets; checked when made, stored with a checkpoint as `to_dict()`.

    threshold   one float for all labels, or a list with one per level, the roots' first, or one per label in
                class-index order; a label needs a probability above it
    decoding    "raw": every label on its own; "closure": a predicted label brings its ancestors; "topdown": a label is
                predicted only under predicted ancestors; "path": the likeliest path from a root to a leaf, and nothing
                else
    per_level   so many labels of every level, the best ones below those of the level above; 0: off
    stop        where a path, or what per_level chooses, ends: at a "leaf", or where it is "confident": at the deepest
                label above its threshold. Without either, a label needs a probability above its threshold anyway
    min_labels  at least this many labels in every row, the best ones even when below their threshold
    max_labels  at most this many labels in every row, the best ones; None: no limit
    top_k       exactly this many labels in every row, whatever the threshold; None: off
    calibration what made the probabilities of logits, and so what the thresholds are for; decide() itself gets
                probabilities. None: they are plain sigmoids

    Raises ValueError for a wrong type, a value out of range, or top_k next to min_labels or max_labels.
    """

    threshold: float | list[float] = 0.5
    decoding: str = "raw"
    min_labels: int = 0
    max_labels: int | None = None
    top_k: int | None = None
    per_level: int = 0
    stop: str = "leaf"
    calibration: Calibration | None = None

    def __post_init__(self) -> None:
        if isinstance(self.threshold, (np.ndarray, np.generic)):  # as the tuning functions return them
            object.__setattr__(self, "threshold", self.threshold.tolist())
        self.validate()

    def validate(self) -> None:
        """Raise ValueError, saying what would be right, unless every setting is usable."""
        thresholds = self.threshold if isinstance(self.threshold, list) else [self.threshold]
        for value in thresholds:
            if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 <= value <= 1:
                raise ValueError(
                    f"threshold must be a number from 0 to 1, or a list of some, one per level or label; got {value!r}"
                )
        one_of("decoding", self.decoding, DECODINGS)
        one_of("stop", self.stop, tuple(STOPS))
        if not isinstance(self.calibration, Calibration | None):
            raise ValueError(f"calibration must be a dict, got {type(self.calibration).__name__}")
        for name, lowest in (("min_labels", 0), ("max_labels", 1), ("top_k", 1), ("per_level", 0)):
            value = getattr(self, name)
            if value is None and lowest:
                continue
            if not isinstance(value, int) or isinstance(value, bool) or value < lowest:
                raise ValueError(f"{name} must be a whole number, {lowest} or more; got {value!r}")
        if self.top_k is not None and (self.min_labels or self.max_labels is not None):
            raise ValueError("top_k already fixes the number of labels; leave min_labels and max_labels out")
        if self.max_labels is not None and self.min_labels > self.max_labels:
            raise ValueError(f"min_labels ({self.min_labels}) must not be above max_labels ({self.max_labels})")

    @property
    def has_structure(self) -> bool:
        """Whether the labels are chosen by their place in the tree, and not each by its threshold."""
        return self.decoding == "path" or self.per_level > 0

    @property
    def needs_threshold(self) -> bool:
        """Whether a threshold has a say."""
        return self.top_k is None and (not self.has_structure or self.stop == "confident")

    def to_dict(self) -> dict[str, Any]:
        """The settings as a dict that JSON can hold; `Decision.from_dict` reads it back."""
        settings = asdict(self)
        if self.calibration is None:
            del settings["calibration"]
        return settings

    @classmethod
    def from_dict(cls, settings: Any) -> "Decision":
        """A Decision from `to_dict()`; settings left out keep their default. Raises ValueError on anything else."""
        if not isinstance(settings, dict):
            raise ValueError(f"decision settings must be a dict, got {type(settings).__name__}")
        cls._require_known(settings)
        if isinstance(calibration := settings.get("calibration"), dict):
            settings = settings | {"calibration": calibration_from(calibration)}
        return cls(**settings)

    @classmethod
    def _require_known(cls, settings: dict) -> None:
        known = [field.name for field in fields(cls)]
        if unknown := [str(key) for key in settings if key not in known]:
            raise ValueError(f"unknown decision settings {', '.join(unknown)}; known are {', '.join(known)}")

    def updated(self, **asked: Any) -> "Decision":
        """The Decision with the settings that are not None in place of its own. Raises ValueError like the class.

        A number of labels asked for now, in all or per level, replaces those stored earlier; so does a path.
        """
        given = {name: value for name, value in asked.items() if value is not None}
        self._require_known(given)
        lifted: dict[str, Any] = {}
        if given.get("decoding") == "path" or "per_level" in given:
            lifted = {"min_labels": 0, "max_labels": None, "top_k": None, "per_level": 0}
        elif "top_k" in given:
            lifted = {"min_labels": 0, "max_labels": None, "per_level": 0}
        elif "min_labels" in given or "max_labels" in given:
            lifted = {"top_k": None, "per_level": 0}
        return replace(self, **(lifted | given))


def calibration_from(settings: dict[str, Any]) -> Calibration:
    """The Calibration of `to_dict()`. Raises ValueError on anything else."""
    try:
        return Calibration(**settings)
    except TypeError:
        raise ValueError("calibration has other settings than evaluate.py --calibrate writes; run it again") from None


def recalibrated(decision: Decision, calibration: Calibration | None, tree: LabelTree) -> Decision:
    """The Decision for another calibration, or none, whose thresholds leave each label as it was decided.

    A calibration is for a level and keeps the order there, so that each threshold has its counterpart; one for all
    labels becomes one for each level. So nothing that was tuned is lost, and no threshold is taken for what it is not.
    """
    per_label = tree.depth == len(tree) or (
        isinstance(decision.threshold, list) and len(decision.threshold) == len(tree)
    )
    labels = np.arange(len(tree)) if per_label else _first_of_levels(tree)
    thresholds = np.broadcast_to(thresholds_of(decision, tree), len(tree))[labels]
    moved = []
    for threshold, level in zip(thresholds.tolist(), tree.levels[labels].tolist()):
        raw = decision.calibration.raw_threshold(threshold, level) if decision.calibration else threshold
        moved.append(calibration.threshold(raw, level) if calibration else raw)
    same = len(set(moved)) == 1 and not isinstance(decision.threshold, list)
    return replace(decision, calibration=calibration, threshold=moved[0] if same else moved)


def _first_of_levels(tree: LabelTree) -> np.ndarray:
    """The class index of one label of each level."""
    return np.array([np.flatnonzero(tree.levels == level)[0] for level in range(1, tree.depth + 1)])


def one_of(name: str, value: object, known: tuple[str, ...]) -> None:
    """Raise ValueError, naming what is known, unless `value` is among it."""
    if value not in known:
        raise ValueError(f"{name} must be one of {', '.join(known)}; got {value!r}")


def probabilities_of(logits: np.ndarray, tree: LabelTree, decision: Decision) -> np.ndarray:
    """Probabilities float32 [N, L] of logits float32 [N, L]: what every script and server makes of a model's logits."""
    return sigmoid(logits) if decision.calibration is None else decision.calibration.probabilities(logits, tree)


def decide(probabilities: np.ndarray, tree: LabelTree, decision: Decision = Decision()) -> np.ndarray:
    """Turn probabilities (float [N, L], sigmoid outputs) into label sets (bool [N, L]).

    Everything follows from the margin, probability minus threshold, in float64. "closure" raises a node's margin to the
    largest in its subtree, "topdown" lowers it to the smallest on its path from the root, and labels with a margin
    above 0 are selected. With "path" or per_level those are selected that best_path() and best_per_level() choose, all
    of them or down to the deepest with a margin above 0, as `stop` says. Where min_labels, max_labels or top_k ask for
    another number, the row keeps that many labels from the ranking by margin, after those that were chosen so, then
    shallower level, then lower class index. But for "raw" no margin is above its parent's, so a parent ranks before its
    children and every result holds all ancestors of its labels. A row's result does not depend on the rows beside it.
    The default equals `probabilities > 0.5`. Time O(N L).

    Raises ValueError for a wrong shape, NaN, values outside 0..1 (logits?), or a wrong number of thresholds.
    """
    probabilities = checked_probabilities(probabilities, len(tree))
    margins = probabilities - thresholds_of(decision, tree)
    RULES[decision.decoding].make_consistent(margins, tree)
    if decision.has_structure:
        margins = _chosen_first(margins, probabilities, tree, decision)
    selected = margins > 0
    fewest = min(decision.top_k or decision.min_labels, len(tree))
    most = min(decision.top_k or decision.max_labels or len(tree), len(tree))
    counts = np.count_nonzero(selected, axis=1)
    for rows, k in ((counts < fewest, fewest), (counts > most, most)):
        if rows.any():
            selected[rows] = _best_k(margins[rows], tree, k)
    return selected


def thresholds_of(decision: Decision, tree: LabelTree) -> Any:
    """The threshold of each label, float64 [L], or one for all of them. Raises ValueError for a wrong number of them.

    As many as there are labels are one per label, else as many as there are levels one per level.
    """
    thresholds = np.asarray(decision.threshold, dtype=np.float64)
    if thresholds.ndim and len(thresholds) != len(tree):
        if len(thresholds) == tree.depth:
            return thresholds[tree.levels - 1]
        levels = f"{tree.depth} levels" if tree.depth > 1 else "1 level"
        raise ValueError(
            f"{len(thresholds)} thresholds for {len(tree)} labels on {levels}; give one number, one per level, or one "
            "per label"
        )
    return thresholds


def certainty(probabilities: np.ndarray, selected: np.ndarray) -> np.ndarray:
    """How sure each row's label set is, float64 [N], as sure as its least sure label; 0 for a row without labels.

    A label is as sure as its probability says that it was rightly given, or rightly left out. probabilities float
    [N, L], selected bool [N, L].
    """
    probabilities = probabilities.astype(np.float64)
    sure = np.where(selected, probabilities, 1 - probabilities).min(axis=1)
    return np.where(selected.any(axis=1), sure, 0.0)


def cut_values(probabilities: np.ndarray, tree: LabelTree, decoding: str, per_level: int = 0) -> np.ndarray:
    """What a threshold cuts: of these values [N, L], those above one threshold for all labels are what is decided.

    Where a path or labels per level are chosen, this is so with "stop" "confident". min_labels, max_labels and top_k
    play no part.
    """
    decision, probabilities = Decision(decoding=decoding, per_level=per_level), probabilities.astype(np.float64)
    values = probabilities.copy()
    RULES[decoding].make_consistent(values, tree)
    if decision.has_structure:
        values = np.where(_chosen(values, probabilities, tree, decision), values, 0.0)
        raise_to_subtree_maximum(values, tree)
    return values


def _chosen(values: np.ndarray, probabilities: np.ndarray, tree: LabelTree, decision: Decision) -> np.ndarray:
    """The labels of a path, or per level, bool [N, L], with all their ancestors. values: consistent, of -1 to 1."""
    path = best_path(probabilities, tree) if decision.decoding == "path" else None
    if path is not None and not decision.per_level:
        return path
    return best_per_level(values, tree, decision.per_level, path)


def _chosen_first(margins: np.ndarray, probabilities: np.ndarray, tree: LabelTree, decision: Decision) -> np.ndarray:
    """The margins, changed so that what is to be selected is above 0, and what was chosen ranks before all others."""
    chosen = _chosen(margins, probabilities, tree, decision)
    own = np.where(chosen, margins, -1.0)  # no margin is lower
    raise_to_subtree_maximum(own, tree)
    lower_to_path_minimum(margins, tree)
    return np.where(chosen, own if decision.stop == "confident" else own + 3, margins - 3)


def _best_k(margins: np.ndarray, tree: LabelTree, k: int) -> np.ndarray:
    """The k best labels of every row, bool [N, L], for 1 <= k <= L."""
    by_level = np.argsort(tree.levels, kind="stable")
    best = np.empty(margins.shape, bool)
    best[:, by_level] = _highest(margins[:, by_level], k)
    return best


def _highest(values: np.ndarray, k: int) -> np.ndarray:
    """The k highest values of every row, bool like values [n, m], of equals the first, for 1 <= k <= m.

    No full sort: only the k-th value is looked for.
    """
    kth = np.partition(values, -k, axis=1)[:, -k, None]
    above, equal = values > kth, values == kth
    open_places = k - np.count_nonzero(above, axis=1)[:, None]
    return above | (equal & (np.cumsum(equal, axis=1) <= open_places))


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
