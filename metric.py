"""The door through which scripts reach scores and decisions; what each does is told in hierarchical/metric.py."""

from hierarchical.metric import (
    CRITERIA,
    DECODINGS,
    Decision,
    Scores,
    cross_fitted_score,
    decide,
    evaluate,
    tune_threshold,
    tune_thresholds_per_label,
    tuned_decision,
)

__all__ = [
    "CRITERIA",
    "DECODINGS",
    "Decision",
    "Scores",
    "cross_fitted_score",
    "decide",
    "evaluate",
    "tune_threshold",
    "tune_thresholds_per_label",
    "tuned_decision",
]
