"""Scores as lines for people, and those of a linear classifier to compare a model with."""

from logging import Logger

from hierarchical.batches import choosing_rows
from hierarchical.calibration import sigmoid
from hierarchical.decisions import Decision, decide
from hierarchical.labels import LabelTree
from hierarchical.linear import LinearBranch
from hierarchical.metric import evaluate
from hierarchical.rows import Rows

SCORED_CELLS = 5_000_000  # dev rows x labels
CELL_SECONDS = 2e-6  # of a core, measured: to score one, and choose by it


def headline(scores: dict) -> list[str]:
    """The lines of a dev result dict that come before the labels, in percent: list[str]."""

    def average(name):
        precision, recall, f1 = (100 * scores[f"{name.lower()}_{part}"] for part in ("precision", "recall", "f1"))
        return f"{name} avg in dev dataset: precision: {precision:.2f} | recall: {recall:.2f} | F1 score {f1:.2f}"

    lines = [f"Accuracy in dev dataset: {100 * scores['accuracy']:.2f}%"]
    lines += [average("Macro"), average("Micro"), average("Hierarchical")]
    for level in scores["levels"]:
        macro, micro, accuracy = (100 * level[name] for name in ("macro_f1", "micro_f1", "accuracy"))
        lines.append(
            f"Level {level['level']} Label Performance: Macro F1 score: {macro:.2f} | Micro F1 score: {micro:.2f} | "
            f"Accuracy: {accuracy:.2f}"
        )
    if without := scores["labels_without_support"]:
        lines.append(
            f"{without} of {len(scores['labels'])} labels have no row in the dev dataset and count as 0 in macro "
            f"averages; over the others: Macro F1 score: {100 * scores['macro_f1_supported']:.2f}"
        )
    return lines


def fit_baseline(train_rows: Rows, dev_rows: Rows, tree: LabelTree, logger: Logger) -> tuple[LinearBranch, dict]:
    """(a linear model of the train rows, the result dict of `metric.evaluate` on the dev rows).

    The dev rows choose its shift; the scores are of rows that played no part in that (see linear_training.mixed). What
    is left out of large data, so that all takes a minute, and an estimate, are told before.
    """
    from hierarchical.linear_training import QUICK, Plan, fit_linear, mixed

    plan = Plan.of(train_rows.texts, train_rows.labels, len(tree), QUICK)
    rows = choosing_rows(len(dev_rows.texts), len(tree), SCORED_CELLS)
    plan = plan._replace(seconds=plan.seconds + CELL_SECONDS * len(rows) * len(tree))
    for line in plan.lines(len(train_rows.texts), len(tree)):
        logger.info(line)
    if len(rows) < len(dev_rows.texts):
        logger.info(f"The scores are of {len(rows):,} of {len(dev_rows.texts):,} dev rows")
    branch = fit_linear(train_rows.texts, train_rows.labels, len(tree), plan)
    texts, gold = [dev_rows.texts[i] for i in rows], dev_rows.multi_hot(len(tree), rows)
    branch, honest = mixed(branch, texts, None, gold, tree, Decision())
    if honest is None:  # too few rows to choose by
        honest = evaluate(decide(sigmoid(branch.logits(texts)), tree, Decision()), gold, tree)
    return branch, honest


def comparison(scores: dict, baseline: dict) -> list[str]:
    """A model's headline scores beside the baseline's (result dicts), in percent: list[str]."""
    names = ("accuracy", "macro_f1", "micro_f1", "hierarchical_f1")
    pairs = " | ".join(f"{name}: {100 * scores[name]:.2f} / {100 * baseline[name]:.2f}" for name in names)
    lines = [f"Model / linear baseline in dev dataset: {pairs}"]
    if scores["micro_f1"] <= baseline["micro_f1"]:
        lines.append("The model should beat the linear baseline: train longer, or with a higher --learning_rate.")
    return lines
