"""Rows of train in the order in which their labels are doubtful, without those that somebody has checked."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from analysis.suspicion import STRATEGIES, suspicion
from hierarchical.ledger import LEAST, id_of
from hierarchical.rows import Rows


@dataclass(frozen=True)
class Suspects:
    """What a strategy makes of the labels of N rows.

    order    row numbers, the most suspicious first, without those that rest (see Ledger.rests)
    resting  how many rest
    train    the Rows
    likely   a function: row numbers [n] -> how likely each label is for them, float [n, L]
    """

    tree: object
    order: list
    resting: int
    train: Rows
    likely: Callable

    def model(self, i):
        """{label: probability} of one row, as the ledger keeps it."""
        (likely,) = self.likely([i])
        return {self.tree.labels[k]: float(likely[k]) for k in np.flatnonzero(likely >= LEAST)}

    def says(self, i):
        """The label in question of one row, in words."""
        return suspicion(self.tree, self.train.multi_hot(len(self.tree), [i])[0], self.likely([i])[0])

    def proposal(self, i):
        """The labels that one row should have, by name; if none is likely, the least unlikely one."""
        (likely,) = self.likely([i])
        chosen = np.flatnonzero(likely > 0.5).tolist() or [int(likely.argmax())]
        return [self.tree.labels[k] for k in self.tree.closure(chosen)]


def find_suspects(train, ledger, tree, strategy, search, margin):
    """The Suspects among Rows whose labels are those that were answered, where somebody did; search: a Search."""
    scores, likely = STRATEGIES[strategy](train, tree, search)
    order = np.argsort(-scores, kind="stable").tolist()
    found = Suspects(tree, order, 0, train, likely)
    resting = set()
    for i, (text, labels) in enumerate(zip(train.texts, train.labels)):
        text_id = id_of(text)
        if text_id in ledger.decisions:
            names = [tree.labels[k] for k in labels]
            if ledger.rests(text_id, names, found.model(i), margin):
                resting.add(i)
    return Suspects(tree, [i for i in order if i not in resting], len(resting), train, likely)
