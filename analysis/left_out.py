"""What evaluate.py tells of dev rows as rows left out: a calibration, and which rows need no second look.

left_out = LeftOut(tree, decision, n_rows, calibrations)
left_out.update(window, logits, probabilities, predicted, gold)          # window by window
left_out.lines(), left_out.to_dict()            # for the log, and for --output_json and the report
"""

from dataclasses import replace

import numpy as np

from hierarchical.calibrating import LogitCounts, Reliability, reliability_lines
from hierarchical.calibration import sigmoid
from hierarchical.decisions import certainty, decide, recalibrated
from hierarchical.selective import LEAST_ROWS, selective_lines, selective_table
from hierarchical.thresholds import FOLDS, folds_of


class LeftOut:
    """Collected from windows of rows; memory grows with the rows alone.

    decision      the one that labels the rows
    calibrations  for each fold, the Calibration that the rows of the others gave; None: none was made now
    """

    def __init__(self, tree, decision, n_rows, calibrations=None):
        self.tree, self.decision, self.calibrations = tree, decision, calibrations
        self.folds = folds_of(n_rows, FOLDS)
        self.certain, self.right = np.zeros(n_rows), np.zeros(n_rows, bool)
        self.before, self.after = Reliability(tree), Reliability(tree)

    def update(self, window, logits, probabilities, predicted, gold):
        """Rows numbered `window`: logits and probabilities float32 [n, L], predicted and gold bool [n, L]."""
        rows = slice(window.start, window.stop)
        if self.calibrations:
            probabilities = self._left_out(logits, self.folds[rows])
            predicted = decide(probabilities, self.tree, self.decision)
            self.before.add(sigmoid(logits), gold)
            self.after.add(probabilities, gold)
        self.certain[rows], self.right[rows] = certainty(probabilities, predicted), (predicted == gold).all(1)

    def _left_out(self, logits, folds):
        """Probabilities of each row by the calibration in which it had no part."""
        found = np.empty(logits.shape, np.float32)
        for fold, calibration in enumerate(self.calibrations):
            found[folds == fold] = calibration.probabilities(logits[folds == fold], self.tree)
        return found

    def to_dict(self):
        """{"selective": the table of selective.py, "calibration": {"before" and "after": a list by level}}."""
        found = {}
        if len(self.right) >= LEAST_ROWS:
            found["selective"] = selective_table(self.certain, self.right, self.folds)
        if self.calibrations:
            found["calibration"] = {"before": self.before.result(), "after": self.after.result()}
        return found

    def lines(self):
        found = self.to_dict()
        lines = reliability_lines(**found["calibration"]) if "calibration" in found else []
        return lines + (selective_lines(found["selective"]) if "selective" in found else [])


def calibrated(windows, dev, decision, tree, method, mark, keep_thresholds):
    """(the decision with a calibration of the dev rows, for each fold the calibration that the others give).

    windows: yields (row numbers, logits); dev: the Rows; mark: of the model; keep_thresholds: else they go along with
    the probabilities, so that each label is decided as before
    """
    counts, folds = LogitCounts(tree), folds_of(len(dev.texts), FOLDS)
    for window, logits in windows:
        counts.add(logits, dev.multi_hot(len(tree), window), folds[window.start : window.stop])
    calibration = counts.fit(method, model=mark)
    parts = [counts.fit(method, without=fold) for fold in range(FOLDS)]
    if keep_thresholds:
        return replace(decision, calibration=calibration), parts
    return recalibrated(decision, calibration, tree), parts
