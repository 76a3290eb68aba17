"""Rows that benchmarks train on, those that choose, and how long a training is."""

import numpy as np

from hierarchical.recipes import FEW, by_rows

RARE = 30  # a label with fewer train rows is rare
UNIT = 32  # decision values of texts without labels are stored in so many parts of 1


def split(n_rows, choose):
    """(rows that choose, all others) of so many, int64; always the same ones."""
    order = np.random.default_rng(0).permutation(n_rows)
    return order[:choose], order[choose:]


def drawn(targets, rows, seed):
    """Row numbers of bool [N, L]: all, a number of any, or for 20x of each label, the rarest first, 20 more rows."""
    order = np.random.default_rng(seed).permutation(len(targets))
    if rows == "all":
        return order
    if not rows.endswith("x"):
        return order[: int(rows)]
    taken = np.zeros(len(targets), bool)
    for label in np.argsort(targets.sum(0), kind="stable"):
        taken[order[targets[order, label] & ~taken[order]][: int(rows[:-1])]] = True
    return order[taken[order]]


def plan(n_rows, effort=1.0):
    """(epochs, batch size, rate) for so many train rows. effort: factor of the epochs"""
    known = by_rows(n_rows)
    return max(1, round(effort * known["epochs"])), known["batch_size"], 3e-4 if n_rows > FEW else 1e-4
