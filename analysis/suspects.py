"""Rows of train in the order in which their labels are doubtful, without those that somebody has checked."""

from dataclasses import dataclass

import numpy as np

from analysis.suspicion import STRATEGIES, suspicion
from hierarchical.ledger import LEAST, id_of


@dataclass(frozen=True)
class Suspects:
    """What a strategy makes of the labels of N rows.

    order    row numbers, the most suspicious first, without those that rest (see Ledger.rests)
    resting  how many rest
    gold     bool [N, L]; likely: float [N, L], how likely each label is for each row
    """

    tree: object
    order: list
    resting: int
    gold: np.ndarray
    likely: np.ndarray

    def model(self, i):
        """{label: probability} of one row, as the ledger keeps it."""
        return {self.tree.labels[k]: float(self.likely[i, k]) for k in np.flatnonzero(self.likely[i] >= LEAST)}

    def says(self, i):
        """The label in question of one row, in words."""
        return suspicion(self.tree, self.gold[i], self.likely[i])

    def proposal(self, i):
        """The labels that one row should have, by name; if none is likely, the least unlikely one."""
        chosen = np.flatnonzero(self.likely[i] > 0.5).tolist() or [int(self.likely[i].argmax())]
        return [self.tree.labels[k] for k in self.tree.closure(chosen)]


def find_suspects(train, ledger, tree, strategy, search, margin):
    """The Suspects among Rows whose labels are those that were answered, where somebody did; search: a Search."""
    gold = train.multi_hot(len(tree))
    scores, likely = STRATEGIES[strategy](train, gold, search)
    order = np.argsort(-scores, kind="stable").tolist()
    found = Suspects(tree, order, 0, gold, likely)
    resting = set()
    for i, (text, labels) in enumerate(zip(train.texts, train.labels)):
        text_id = id_of(text)
        if text_id in ledger.decisions:
            names = [tree.labels[k] for k in labels]
            if ledger.rests(text_id, names, found.model(i), margin):
                resting.add(i)
    return Suspects(tree, [i for i in order if i not in resting], len(resting), gold, likely)
