"""The door through which scripts reach scores, decisions and thresholds, each in its module of hierarchical/."""

from hierarchical.decisions import DECODINGS, Decision, decide
from hierarchical.metric import Scores, evaluate
from hierarchical.thresholds import (
    CRITERIA,
    WAYS,
    cross_fitted_score,
    dev_cells,
    tune_threshold,
    tune_thresholds_per_label,
    tune_thresholds_per_level,
    tuned_decision,
)

__all__ = [
    "CRITERIA",
    "DECODINGS",
    "Decision",
    "WAYS",
    "Scores",
    "cross_fitted_score",
    "dev_cells",
    "decide",
    "evaluate",
    "tune_threshold",
    "tune_thresholds_per_label",
    "tune_thresholds_per_level",
    "tuned_decision",
]
