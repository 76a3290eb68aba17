"""What evaluate.py tells of dev rows where new labels, known by their words alone, stand beside a classifier's.

scores = Beside(labeller)                       # a hierarchical.unseen.WithUnseen
scores.update(window, probabilities, predicted, gold)           # window by window
scores.lines(), scores.to_dict()                # for the log, and for --output_json
"""

import numpy as np


class Beside:
    """Counts of known and new labels; memory depends on the labels alone."""

    def __init__(self, labeller):
        self.known, self.leaves = labeller.known, labeller.leaves[labeller.places]
        self.right, self.given, self.there = np.zeros((3, len(labeller.tree)), np.int64)
        self.expected = 0.0

    def update(self, window, probabilities, predicted, gold):
        """Of rows numbered `window`: probabilities float32 [n, L], predicted and gold bool [n, L]."""
        self.right += (predicted & gold).sum(0)
        self.given += predicted.sum(0)
        self.there += gold.sum(0)
        self.expected += float(probabilities[:, self.leaves].sum(dtype=np.float64))

    def to_dict(self):
        """{"unseen": {"known" and "new": their scores, as fractions; "expected", "leaf_rows": see lines()}}."""
        parts = {"known": slice(self.known), "new": slice(self.known, None)}
        found = {name: self._scores(part) for name, part in parts.items()}
        return {"unseen": found | {"expected": self.expected, "leaf_rows": int(self.there[self.leaves].sum())}}

    def _scores(self, part):
        right, given, there = self.right[part], self.given[part], self.there[part]
        return {
            "labels": len(right),
            "support": int(there.sum()),
            "precision": float(right.sum() / max(1, given.sum())),
            "recall": float(right.sum() / max(1, there.sum())),
            "micro_f1": float(2 * right.sum() / max(1, given.sum() + there.sum())),
            "macro_f1": float((2 * right / np.maximum(1, given + there)).mean()),
        }

    def lines(self):
        found = self.to_dict()["unseen"]
        lines = []
        for name, what in (("known", "Known labels"), ("new", "New labels, by their words alone")):
            one = found[name]
            precision, recall, micro, macro = (
                f"{100 * one[key]:.2f}" for key in ("precision", "recall", "micro_f1", "macro_f1")
            )
            lines.append(
                f"{what} ({one['labels']}, {one['support']} times in dev dataset): precision: {precision} | "
                f"recall: {recall} | Micro F1 score: {micro} | Macro F1 score: {macro}"
            )
        return [
            *lines,
            f"By their probabilities new leaves are expected {found['expected']:.0f} times; dev dataset has them "
            f"{found['leaf_rows']} times",
        ]
