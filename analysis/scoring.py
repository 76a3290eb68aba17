"""Scores as lines for people, and those of a linear classifier to compare a model with."""

import warnings

import numpy as np

from analysis.n_grams import fit_n_grams
from hierarchical.console import progress_bar
from hierarchical.labels import LabelTree
from hierarchical.metric import evaluate
from hierarchical.rows import Rows


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


def baseline_scores(train_rows: Rows, dev_rows: Rows, tree: LabelTree) -> dict:
    """Fit on the train rows, score on the dev rows (both rows.Rows): the result dict of `metric.evaluate`."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.svm import LinearSVC

    vectorizer, features = fit_n_grams(train_rows.texts)
    dev_features = vectorizer.transform(dev_rows.texts)
    targets = train_rows.multi_hot(len(tree))
    predicted = np.zeros((len(dev_rows.texts), len(tree)), bool)
    with warnings.catch_warnings():  # a classifier that stopped short of its optimum is scored as it is
        warnings.simplefilter("ignore", ConvergenceWarning)
        # One label after the other: OneVsRestClassifier would hold a dense row of coefficients for each of them.
        for i in progress_bar(len(tree), "labels", iterable=range(len(tree))):
            if targets[:, i].all() or not targets[:, i].any():  # nothing to tell apart
                predicted[:, i] = targets[0, i]
            else:
                predicted[:, i] = LinearSVC(random_state=0).fit(features, targets[:, i]).predict(dev_features)
    return evaluate(predicted, dev_rows.multi_hot(len(tree)), tree)


def comparison(scores: dict, baseline: dict) -> list[str]:
    """A model's headline scores beside the baseline's (result dicts), in percent: list[str]."""
    names = ("accuracy", "macro_f1", "micro_f1", "hierarchical_f1")
    pairs = " | ".join(f"{name}: {100 * scores[name]:.2f} / {100 * baseline[name]:.2f}" for name in names)
    lines = [f"Model / linear baseline in dev dataset: {pairs}"]
    if scores["micro_f1"] <= baseline["micro_f1"]:
        lines.append("The model should beat the linear baseline: train longer, or with a higher --learning_rate.")
    return lines
