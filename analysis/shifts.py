"""Whether numbers of two sets of texts are of one kind: PSI, tests of scipy, and words for what they say."""

from dataclasses import dataclass

import numpy as np

PARTS = 10  # of the first set, about as many rows in each
MOVED, STRONGLY = 0.1, 0.25  # PSI: the usual marks
SURE = 0.01  # p-value, after a correction for how many are tested


@dataclass(frozen=True)
class Shift:
    """name of a measure; medians, PSI and p-value of the Kolmogorov-Smirnov test between two sets of it."""

    name: str
    before: float
    after: float
    psi: float
    p: float

    @property
    def verdict(self) -> str:
        if self.p >= SURE or self.psi < MOVED:
            return "no sign of a change" if self.p >= SURE else "hardly changed"
        return "changed" if self.psi >= STRONGLY else "changed a little"

    def line(self) -> str:
        return (
            f"{self.name}: {self.verdict} (median {self.before:.4g} -> {self.after:.4g}, PSI {self.psi:.2f}, "
            f"p {self.p:.1g})"
        )


def psi(before: np.ndarray, after: np.ndarray, parts: int = PARTS) -> float:
    """The population stability index: sum of (q - p) ln(q / p) over parts of the values (Siddiqi 2006).

    The parts are quantiles of `before`, fewer where many values are equal; half a row is added to each, so that an
    empty one does not make it infinite.
    """
    edges = np.unique(np.quantile(before, np.linspace(0, 1, parts + 1)[1:-1], method="lower"))
    shares = []
    for values in (before, after):
        counts = np.bincount(np.searchsorted(edges, values, side="left"), minlength=len(edges) + 1) + 0.5
        shares.append(counts / counts.sum())
    p, q = shares
    return float(((q - p) * np.log(q / p)).sum())


def shifts(before: dict[str, np.ndarray], after: dict[str, np.ndarray]) -> list[Shift]:
    """A Shift for each measure, name -> numbers of the texts; p-values corrected by Holm's method."""
    from scipy.stats import ks_2samp

    found = [(name, before[name], after[name], ks_2samp(before[name], after[name]).pvalue) for name in before]
    corrected = holm(np.array([p for *_, p in found]))
    return [
        Shift(name, float(np.median(old)), float(np.median(new)), psi(old, new), float(p))
        for (name, old, new, _), p in zip(found, corrected, strict=True)
    ]


def holm(p: np.ndarray) -> np.ndarray:
    """p-values corrected for their number (Holm 1979)."""
    order, corrected = np.argsort(p), np.empty(len(p))
    corrected[order] = np.minimum(1, np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)))
    return corrected


def moved_labels(before: np.ndarray, after: np.ndarray) -> list[tuple[int, float, float, float]]:
    """(class index, share before, share after, p) of the labels whose share is another, the most changed first.

    before bool [N, L], after bool [M, L]: the predicted labels. Fisher's exact test for each, with the false discovery
    rate of Benjamini and Hochberg (1995) held at SURE.
    """
    from scipy.stats import false_discovery_control, fisher_exact

    counts, rows = np.array([before.sum(0), after.sum(0)]), np.array([len(before), len(after)])
    p = np.array([fisher_exact([pair, rows - pair]).pvalue for pair in counts.T])
    p = false_discovery_control(p)
    shares = counts / rows[:, None]
    order = np.argsort(-np.abs(shares[1] - shares[0]), kind="stable")
    return [(int(i), float(shares[0, i]), float(shares[1, i]), float(p[i])) for i in order if p[i] < SURE]
