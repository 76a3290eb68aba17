"""Selective prediction: which rows a model answers, and which go to people.

    table = selective_table(certain, right, folds)       # of decisions.certainty, one per row

Shapes: N rows. Nothing but numpy is needed.
"""

import math
from collections.abc import Sequence

import numpy as np

TARGETS = (0.8, 0.9, 0.95, 0.98, 0.99)  # shares of the answered rows that are to be right
LEAST_ROWS = 50  # fewer tell nothing
Z = 1.959964  # of a 95 % interval


def selective_table(certain: np.ndarray, right: np.ndarray, folds: np.ndarray) -> list[dict]:
    """[{target, certainty, answered, precision, low, high}] for the TARGETS above what all answers together reach.

    certain float64 [N], right bool [N]: whether a row's label set is right, folds int [N].

    certainty        the least of an answer, which all rows choose; None where no choice reaches the target
    answered         the share of rows that have it
    precision        the share of these that are right; both on rows left out: each fold is answered by what the others
                     choose. The first line is for all rows, with the certainty 0
    low, high        the 95 % interval of the precision: Wilson (1927), Probable inference
    """
    everything = right.mean()
    table = [_line(None, 0.0, np.ones(len(right), bool), right)]
    for target in TARGETS:
        if target <= everything:
            continue
        answered = np.zeros(len(right), bool)
        for fold in np.unique(folds):
            held_out = folds == fold
            least = least_certainty(certain[~held_out], right[~held_out], target)
            answered[held_out] = False if least is None else certain[held_out] >= least
        table.append(_line(target, least_certainty(certain, right, target), answered, right))
    return table


def least_certainty(certain: np.ndarray, right: np.ndarray, target: float) -> float | None:
    """The lowest certainty at and above which at least this share is right, or None."""
    order = np.argsort(-certain, kind="stable")
    shares = np.cumsum(right[order]) / np.arange(1, len(order) + 1)
    last = np.diff(certain[order], append=-1.0) < 0  # of equals, all or none
    reached = np.flatnonzero((shares >= target) & last)
    return float(certain[order[reached[-1]]]) if len(reached) else None


def _line(target: float | None, certainty: float | None, answered: np.ndarray, right: np.ndarray) -> dict:
    count, good = int(answered.sum()), int((answered & right).sum())
    low, high = wilson(good, count)
    precision = good / count if count else None
    shares = {"answered": count / len(right), "precision": precision, "low": low, "high": high}
    return {"target": target, "certainty": certainty, **shares}


def wilson(good: int, count: int) -> tuple[float, float]:
    """The 95 % interval of a share of which `good` of `count` were seen."""
    if not count:
        return 0.0, 1.0
    share, z2 = good / count, Z * Z / count
    middle, half = share + z2 / 2, Z * math.sqrt(share * (1 - share) / count + z2 / (4 * count))
    return max(0.0, (middle - half) / (1 + z2)), min(1.0, (middle + half) / (1 + z2))


def selective_lines(table: Sequence[dict]) -> list[str]:
    """Lines for the log."""
    first, *others = table
    lines = [f"Answering every row: {_percent(first)}"]
    for line in others:
        if line["certainty"] is None or not line["answered"]:
            lines.append(f"For {100 * line['target']:g}% right: too few rows are so sure")
        else:
            least = _rounded_down(line["certainty"])
            lines.append(
                f"For {100 * line['target']:g}% right, answer rows with --certainty {least}: "
                f"{100 * line['answered']:.1f}% of them, {_percent(line)}; the rest to people"
            )
    return lines


def _rounded_down(certainty: float) -> str:
    """To six digits: rounded up, it would leave out the very rows that it is the certainty of."""
    return f"{math.floor(certainty * 1e6) / 1e6:g}"


def _percent(line: dict) -> str:
    return f"{100 * line['precision']:.1f}% right ({100 * line['low']:.1f} to {100 * line['high']:.1f})"
