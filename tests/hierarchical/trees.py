"""Label trees, label sets and probabilities that the tests of decisions, scores and thresholds share."""

import numpy as np
from hypothesis import strategies as st

from utils import LabelTree

# Class indices 0..5; "其他" (other) is the name of a node under both roots.
PATHS = ["组织", "组织##加盟", "组织##其他", "财经", "财经##其他", "财经##其他##利率"]
TREE = LabelTree(PATHS)


def multi_hot(*rows, n_labels=len(PATHS)):
    sets = np.zeros((len(rows), n_labels), dtype=bool)
    for row, labels in enumerate(rows):
        sets[row, list(labels)] = True
    return sets


def random_tree(rng, n_labels, depth=5):
    """Labels in random order, so that class index order, level order and parent order all differ."""
    paths = [f"根{i}" for i in range(max(1, n_labels // 5))]
    while len(paths) < n_labels:
        parent = paths[rng.integers(len(paths))]
        if parent.count("##") < depth - 1:
            paths.append(f"{parent}##节{len(paths)}")
    return LabelTree([paths[i] for i in rng.permutation(n_labels)])


def random_graph(rng, n_labels, depth=5):
    """The same, but about every second label that is no root has one to three further parents."""
    tree, further = random_tree(rng, n_labels, depth), set()
    rank = np.empty(n_labels, int)  # a parent comes first in it, so that there is no circle
    rank[np.argsort(tree.levels, kind="stable")] = np.arange(n_labels)
    for child in np.flatnonzero(tree.parents >= 0):
        above = np.flatnonzero((rank < rank[child]) & (np.arange(n_labels) != tree.parents[child]))
        for parent in rng.permutation(above)[: rng.integers(1, 4) * rng.integers(2)]:
            further.add((int(child), int(parent)))
    return LabelTree(tree.labels, further=further)


def parents_of(tree, label):
    """All parents of a label, by the edges alone."""
    edges = [*enumerate(tree.parents.tolist()), *tree.further]
    return [parent for child, parent in edges if child == label and parent >= 0]


def ancestors_of(tree, label):
    """All labels above one, by the edges alone."""
    return {above for parent in parents_of(tree, label) for above in (parent, *ancestors_of(tree, parent))}


def is_closed(sets, tree):
    return not any((sets[:, i] & ~sets[:, parent]).any() for i in range(len(tree)) for parent in parents_of(tree, i))


@st.composite
def cases(draw):
    """A tree, or labels some of which have several parents, probabilities with many exact ties, and thresholds."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    tree = draw(st.sampled_from([random_tree, random_graph]))(rng, draw(st.integers(1, 14)))
    shape = (draw(st.integers(0, 5)), len(tree))
    steps = draw(st.sampled_from([1, 2, 4, 10, 10**6]))
    probabilities = rng.integers(0, steps + 1, shape) / steps
    per_label = draw(st.booleans())
    threshold = rng.integers(0, 11, len(tree)) / 10 if per_label else draw(st.sampled_from([0.0, 0.3, 0.5, 0.9, 1.0]))
    dtype = draw(st.sampled_from([np.float32, np.float64]))
    return tree, probabilities.astype(dtype), threshold


@st.composite
def limits(draw):
    if draw(st.booleans()):
        return {"top_k": draw(st.integers(1, 20))}
    lowest = draw(st.integers(0, 6))
    return {"min_labels": lowest, "max_labels": draw(st.one_of(st.none(), st.integers(max(lowest, 1), 20)))}
