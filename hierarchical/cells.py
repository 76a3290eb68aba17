"""The probabilities of dev rows, as far as a threshold can matter to them: what thresholds.py searches.

    cells = Cells(len(tree), tree, "raw")
    for window in row_windows(n_rows, len(tree)):
        cells.add(probabilities, gold)            # of these rows, float and bool [n, L]
    cells.finish().best_threshold("micro_f1")

A cell is a row and a label. All are held while there are few; of more than MOST those above a floor, which rises until
they fit. A search is exact above the floor, and looks at no threshold below it.
"""

from collections.abc import Iterator
from functools import cached_property

import numpy as np

from hierarchical.batches import row_windows
from hierarchical.decisions import cut_values
from hierarchical.labels import LabelTree

HIGHEST_FLOOR = 1 - 2.0**-24  # below the probability of 1 that a float32 can have
MOST = 5_000_000  # 17 bytes each, and more while they are searched


class Cells:
    """Cells of N rows and L labels, by rows.

    floor             the M cells above it are here; 0: all but those with a probability of 0
    n_rows, n_labels  N and L
    rows, labels      int32 [M]: of each cell
    raw               float [M]: its probability, of the type that was added
    cut               the same after decoding: what one threshold for all labels is compared with
    gold              bool [M]: whether the row has the label
    gold_rows, gold_labels   int32 [G]: all cells that are gold, whatever their probability, by rows
    """

    def __init__(
        self,
        n_labels: int,
        tree: LabelTree | None = None,
        decoding: str = "raw",
        per_level: int = 0,
        most: int = MOST,
    ):
        """tree: may be left out where labels are decided alone; most: cells that are held."""
        self.n_rows, self.n_labels, self.tree = 0, n_labels, tree
        self.decoding, self.per_level = decoding, per_level
        self.floor, self._most, self._held = 0.0, most, 0
        self._parts: list[tuple[np.ndarray, ...]] = []
        self._gold_parts: list[tuple[np.ndarray, ...]] = []

    def add(self, probabilities: np.ndarray, gold: np.ndarray) -> None:
        """The rows that come next: float and bool [n, L]."""
        above, cut = probabilities > self.floor, probabilities
        if self.tree is not None and (self.decoding != "raw" or self.per_level):
            cut = cut_values(probabilities, self.tree, self.decoding, self.per_level).astype(probabilities.dtype)
            above |= cut > self.floor
        places, gold_places = np.flatnonzero(above), np.flatnonzero(gold)
        columns = [values.ravel()[places] for values in (probabilities, cut, gold)]
        self._parts.append((*self._numbered(places), *columns))
        self._gold_parts.append(self._numbered(gold_places))
        self.n_rows += len(gold)
        self._held += len(places)
        if self._held > self._most:
            self._raise_floor()

    def _numbered(self, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(rows, labels), int32, of places in the flat array of the rows that come next."""
        rows, labels = np.divmod(places, self.n_labels)
        return rows.astype(np.int32) + np.int32(self.n_rows), labels.astype(np.int32)

    def _raise_floor(self) -> None:
        """Keep less than a quarter of what is allowed, so that this comes seldom."""
        joined = list(map(np.concatenate, zip(*self._parts)))
        highest, place = np.maximum(joined[2], joined[3]), -(self._most // 4)
        self.floor = min(float(np.partition(highest, place)[place]), HIGHEST_FLOOR)
        kept = highest > self.floor
        self._parts, self._held = [tuple(column[kept] for column in joined)], int(np.count_nonzero(kept))

    def finish(self) -> "Cells":
        """Itself, once all rows have been added."""
        self.rows, self.labels, self.raw, self.cut, self.gold = map(np.concatenate, zip(*self._parts))
        self.gold_rows, self.gold_labels = map(np.concatenate, zip(*self._gold_parts))
        self._parts, self._gold_parts = [], []
        return self

    @cached_property
    def _falling(self) -> np.ndarray:
        """The cells by falling `cut`, int32 [M]."""
        return np.argsort(-self.cut).astype(np.int32)

    @cached_property
    def _falling_by_label(self) -> np.ndarray:
        """The cells by label, and of a label by falling `cut`."""
        return self._falling[np.argsort(self.labels[self._falling], kind="stable")]

    @cached_property
    def _falling_raw(self) -> np.ndarray:
        """The cells by falling `raw`, int32 [M]."""
        if self.decoding == "raw" and not self.per_level:
            return self._falling
        return np.argsort(-self.raw).astype(np.int32)

    @cached_property
    def _falling_raw_by_label(self) -> np.ndarray:
        """The cells by label, and of a label by falling `raw`."""
        return self._falling_raw[np.argsort(self.labels[self._falling_raw], kind="stable")]

    def support(self, among: np.ndarray | None = None) -> np.ndarray:
        """How many rows have each label, int64 [L]. among: bool [N], the rows that count; None: all."""
        labels = self.gold_labels if among is None else self.gold_labels[among[self.gold_rows]]
        return np.bincount(labels, minlength=self.n_labels)

    def best_threshold(self, criterion: str, among: np.ndarray | None = None) -> float:
        """The one threshold with the highest "micro_f1" or "macro_f1"; see thresholds.tune_threshold."""
        order = self._of(self._falling, among)
        by_label = self._of(self._falling_by_label, among) if criterion == "macro_f1" else order[:0]
        scores = self._scores(order, by_label, criterion, self.support(among))
        return best_cut(self.cut[order].astype(np.float64), scores, 0.5, self.floor)

    def _scores(self, order: np.ndarray, by_label: np.ndarray, criterion: str, support: np.ndarray) -> np.ndarray:
        """The score when each cell and those before it are predicted. order, by_label: the same cells, falling.

        by_label: only macro-F1 looks at them; support: int64 [L], 0 for labels that play no part
        """
        if criterion == "micro_f1":
            return 2 * np.cumsum(self.gold[order]) / (np.arange(1, len(order) + 1) + support.sum())
        gains = np.zeros(len(self.cut))  # what macro-F1 gains when this one cell is predicted as well
        curve, first = self._f1_curves(by_label, support)
        gains[by_label] = np.where(first, curve, np.diff(curve, prepend=0)) / self.n_labels
        return np.cumsum(gains[order])

    def best_thresholds(self, default: float, min_support: int, among: np.ndarray | None = None) -> np.ndarray:
        """A threshold for each label, float64 [L]; see thresholds.tune_thresholds_per_label."""
        support, thresholds = self.support(among), np.full(self.n_labels, default, np.float64)
        order = self._of(self._falling_raw_by_label, among)
        curve, _ = self._f1_curves(order, support)
        ends = np.searchsorted(self.labels[order], np.arange(self.n_labels), "right")
        for label in np.flatnonzero(support >= min_support):
            part = slice(ends[label - 1] if label else 0, ends[label])
            share = support[label] / (support[label] + min_support)
            thresholds[label] = self._moved(order[part], curve[part], default, share)
        return thresholds

    def best_level_thresholds(
        self, default: float, criterion: str, min_support: int, among: np.ndarray | None = None
    ) -> np.ndarray:
        """A threshold for each level of the tree, float64 [depth]; see thresholds.tune_thresholds_per_level."""
        assert self.tree is not None
        support, thresholds = self.support(among), np.full(self.tree.depth, default, np.float64)
        falling, by_label = (self._of(one, among) for one in (self._falling_raw, self._falling_raw_by_label))
        for level in range(1, self.tree.depth + 1):
            here = self.tree.levels == level
            count = support[here].sum()
            if count >= min_support:
                order, grouped = (one[here[self.labels[one]]] for one in (falling, by_label))
                scores = self._scores(order, grouped, criterion, np.where(here, support, 0))
                thresholds[level - 1] = self._moved(order, scores, default, count / (count + min_support))
        return thresholds

    def _moved(self, order: np.ndarray, scores: np.ndarray, default: float, share: float) -> float:
        """So much of the way from `default` to the best threshold of some cells, or `default` if that is no better.

        order: the cells by falling `raw`; scores: when each and those before it are predicted
        """
        values = self.raw[order].astype(np.float64)
        moved = default + share * (best_cut(values, scores, default, self.floor) - default)
        scores = np.append(0.0, scores)
        before, after = (scores[np.count_nonzero(values > cut)] for cut in (default, moved))
        return moved if after > before else default

    def _of(self, order: np.ndarray, among: np.ndarray | None) -> np.ndarray:
        return order if among is None else order[among[self.rows[order]]]

    def _f1_curves(self, by_label: np.ndarray, support: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(F1 of each cell's label when it and those before it are predicted, whether it is its label's first)."""
        labels, found = self.labels[by_label], np.cumsum(self.gold[by_label])
        first = np.diff(labels, prepend=-1) > 0
        start = np.flatnonzero(first)
        lengths = np.diff(start, append=len(labels))
        predicted = np.arange(1, len(labels) + 1) - np.repeat(start, lengths)
        found = found - np.repeat(np.append(0, found)[start], lengths)
        return 2 * found / (predicted + support[labels]), first

    def windows(self, among: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield (probabilities float [n, L], gold bool [n, L]) of these rows, bool [N]; what is not here is 0."""
        chosen = np.flatnonzero(among)
        for window in row_windows(len(chosen), self.n_labels):
            rows = chosen[window.start : window.stop]
            probabilities = np.zeros((len(rows), self.n_labels), self.raw.dtype)
            gold = np.zeros((len(rows), self.n_labels), bool)
            places, row = places_of(self.rows, rows)
            probabilities[row, self.labels[places]] = self.raw[places]
            places, row = places_of(self.gold_rows, rows)
            gold[row, self.gold_labels[places]] = True
            yield probabilities, gold


def places_of(sorted_values: np.ndarray, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(places in an ascending array of what equals one of the wanted values, which of them it is)."""
    wanted = wanted.astype(sorted_values.dtype)  # else it is the long array that is converted
    starts, ends = (np.searchsorted(sorted_values, wanted, side) for side in ("left", "right"))
    counts = ends - starts
    which = np.repeat(np.arange(len(wanted)), counts)
    return np.arange(counts.sum()) + np.repeat(starts - np.cumsum(counts) + counts, counts), which


def best_cut(values: np.ndarray, scores: np.ndarray, preferred: float, floor: float = 0.0) -> float:
    """The threshold with the best score; values [M] fall, scores[k] belongs to predicting values[:k + 1].

    Of several the nearest to `preferred`. floor: below all values, and the lowest threshold there can be
    """
    # Predicting k values needs low[k] <= threshold < high[k].
    high, low = np.append(1.0, values), np.append(values, floor)
    scores = np.append(0.0, scores)
    cuts = np.flatnonzero(high > low)  # equal values cannot be told apart
    cuts = cuts[scores[cuts] >= scores[cuts].max() - 1e-9]  # macro-F1 is a sum with rounding errors
    high, low = high[cuts], low[cuts]
    middle = (high + low) / 2
    middle = np.where(middle < high, middle, low)  # neighbouring floats have no middle
    candidates = np.where((low <= preferred) & (preferred < high), preferred, middle)
    return float(candidates[np.argmin(np.abs(candidates - preferred))])
