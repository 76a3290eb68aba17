"""Calibration: probabilities that say how often they are right, from the logits of a model.

    calibration.probabilities(logits, tree)        what decisions.probabilities_of makes of a calibrated model's logits

A calibration maps logits to probabilities, level by level, and never changes their order within one: what was likelier
stays likelier. It is stored in decision.json; calibrating.py makes it. Needs numpy alone.
"""

import hashlib
import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from hierarchical.labels import LabelTree

METHODS = ("temperature", "per_level", "isotonic")
SUREST = 1e-7  # probability
LIMIT = 20.0  # logits beyond it count as it: float32 knows no probability between that and 1


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """Probabilities of logits, float32, without overflow."""
    return np.exp(-np.logaddexp(0, -logits.astype(np.float64))).astype(np.float32)


def logits_of(probabilities: np.ndarray) -> np.ndarray:
    """Logits of probabilities, float64; 0 and 1, float32 for all that is surer, give those at SUREST from them."""
    inside = np.clip(probabilities.astype(np.float64), SUREST, 1 - SUREST)
    return np.log(inside) - np.log1p(-inside)


@dataclass(frozen=True)
class Calibration:
    """From logits to probabilities, for each level of a tree, the roots' first; checked when made.

    method   one of METHODS
    lines    [[scale, shift], ...]: probability = sigmoid(scale x logit + shift); [] for "isotonic". The scale is 1 over
             the temperature
    curves   [[logits, probabilities], ...], both rising: probabilities between two of the logits by a straight line,
             and beyond the ends as there; [] for the others
    model    `mark_of` the model that it was fitted to; "": not known

    Raises ValueError for what no calibration can be.
    """

    method: str
    lines: list[list[float]]
    curves: list[list[list[float]]]
    model: str = ""

    def __post_init__(self) -> None:
        try:
            lines, curves = np.array(self.lines, float).reshape(-1, 2), [np.array(one, float) for one in self.curves]
            sound = (
                self.method in METHODS
                and isinstance(self.model, str)
                and (len(lines) > 0) == (self.method != "isotonic") == (len(curves) == 0)
                and np.isfinite(lines).all()
                and (lines[:, 0] > 0).all()
                and all(one.ndim == 2 and len(one) == 2 and one.shape[1] > 1 for one in curves)
                and all(np.isfinite(one).all() and (np.diff(one) > 0).all() for one in curves)
                and all((one[1] >= 0).all() and (one[1] <= 1).all() for one in curves)
            )
        except (TypeError, ValueError):
            sound = False
        if not sound:
            raise ValueError("calibration is not what evaluate.py --calibrate writes; run it again")

    def to_dict(self) -> dict[str, Any]:
        """The settings as a dict that JSON can hold; `Calibration(**settings)` reads it back."""
        return asdict(self)

    def require_levels(self, tree: LabelTree) -> None:
        """Raise ValueError unless it is for as many levels as a tree has."""
        if (found := len(self.lines or self.curves)) != tree.depth:
            raise ValueError(f"calibration is for {found} levels, and the labels have {tree.depth}")

    def probabilities(self, logits: np.ndarray, tree: LabelTree) -> np.ndarray:
        """float32 [n, L] of logits float [n, L]; each depends on its own logit and level alone."""
        if self.lines:
            scale, shift = np.array(self.lines, np.float32)[tree.levels - 1].T
            return sigmoid(logits * scale + shift)
        found = np.empty(logits.shape, np.float32)
        for level, (xs, ys) in enumerate(self.curves, start=1):
            labels = tree.levels == level
            found[:, labels] = np.interp(logits[:, labels], xs, ys)
        return found

    def threshold(self, raw: float, level: int) -> float:
        """What a threshold for sigmoids of logits becomes, so that the same labels of a level are above it."""
        logit = logit_of(raw)
        if self.lines:
            scale, shift = self.lines[level - 1]
            return probability_of(scale * logit + shift)
        xs, ys = self.curves[level - 1]
        return float(np.interp(logit, xs, ys))

    def raw_threshold(self, threshold: float, level: int) -> float:
        """The other way round."""
        if self.lines:
            scale, shift = self.lines[level - 1]
            return probability_of((logit_of(threshold) - shift) / scale)
        xs, ys = self.curves[level - 1]
        return probability_of(float(np.interp(threshold, ys, xs)))


def logit_of(probability: float) -> float:
    """The logit of a probability; of 0 and 1, and of what is nearest to them, that of LIMIT."""
    if not 0 < probability < 1:
        return LIMIT if probability >= 1 else -LIMIT
    return min(max(math.log(probability) - math.log1p(-probability), -LIMIT), LIMIT)


def probability_of(logit: float) -> float:
    """The probability of a logit, in float64."""
    return 1 / (1 + math.exp(-min(max(logit, -LIMIT), LIMIT)))


def mark_of(numbers: str | None, linear: str | None = None) -> str:
    """What a calibration knows its model by: its numbers' digests; "" where that of the network is not known.

    numbers: of the parameters, see weights.parameter_digest; linear: of the file with a linear branch
    """
    return hashlib.sha256(f"{numbers} {linear}".encode()).hexdigest()[:16] if numbers else ""
