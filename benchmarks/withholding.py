"""Rows without some labels, which routes.py and unseen.py share."""

import numpy as np

from utils import write_rows


def withheld_labels(tree, count):
    """Class indices of so many leaves, always the same ones."""
    leaves = [i for i in range(len(tree)) if not tree.children[i]]
    return set(np.random.default_rng(0).permutation(leaves)[:count].tolist())


def write_some(path, tree, rows, chosen):
    write_rows(path, [(rows.texts[i], [tree.labels[label] for label in rows.labels[i]]) for i in chosen])
