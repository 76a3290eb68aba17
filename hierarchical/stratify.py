"""Splitting rows with several labels each so that every part gets its share of every label."""

import math
from collections.abc import Sequence
from fractions import Fraction
from heapq import heapify, heappop, heappush

import numpy as np
from tqdm import tqdm


def stratified_split(rows: Sequence[Sequence[int]], n_labels: int, shares: Sequence[Fraction], seed: int) -> np.ndarray:
    """The part that each row goes to, int64 [N], so that every part gets its share of every label's rows.

    rows: N tuples of class indices; shares: they sum to 1. Iterative stratification: the label with the
    fewest rows left is dealt out first, each of its rows to the part that lacks the label most. Sechidis, Tsoumakas and
    Vlahavas (2011), On the stratification of multi-label data. Added here: part 0 gets a row of every label first, and
    so lacks none that has a row.
    """
    part, rows_of = np.full(len(rows), -1), [list[int]() for _ in range(n_labels)]
    order = np.random.default_rng(seed).permutation(len(rows))
    for row in order:
        for label in rows[row]:
            rows_of[label].append(row)
    whole = math.lcm(*(share.denominator for share in shares))  # what a row counts, so that a share of it is an integer
    room = [int(len(rows) * share * whole) for share in shares]
    lacks = [[int(len(of_label) * share * whole) for share in shares] for of_label in rows_of]
    left = [len(of_label) for of_label in rows_of]
    # One is added whenever a label loses a row, and those that are out of date are passed over.
    heap = [(count, label) for label, count in enumerate(left) if count]
    heapify(heap)
    covered: set[int] = set()  # labels with a row in part 0
    progress = tqdm(total=len(rows), desc="split", unit=" rows", disable=None, leave=False, delay=1)

    def put(row: int, to: int) -> None:
        part[row] = to
        room[to] -= whole
        for label in rows[row]:
            left[label] -= 1
            if left[label]:
                heappush(heap, (left[label], label))
            lacks[label][to] -= whole
        if to == 0:
            covered.update(rows[row])
        progress.update()

    while heap:
        count, label = heappop(heap)
        if count != left[label]:
            continue
        for row in rows_of[label]:
            if part[row] < 0:
                neediest = max(range(len(shares)), key=lambda p: (lacks[label][p], room[p]))
                put(row, neediest if label in covered else 0)
    for row in order:
        if part[row] < 0:  # no label applies to it
            put(row, room.index(max(room)))
    for label, of_label in enumerate(rows_of):
        if of_label and label not in covered:  # rarer labels of its rows have taken all of them elsewhere
            part[of_label[0]] = 0
            covered.update(rows[of_label[0]])
    progress.close()
    return part
