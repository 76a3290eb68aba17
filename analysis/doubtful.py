"""Rows that nobody has checked, and that are more likely wrong than right, by what was found in those that were."""

import numpy as np

from analysis.suspicion import contradiction, out_of_fold
from hierarchical.ledger import id_of
from hierarchical.rows import Rows

LEAST_CHECKED = 30  # rows that must have been checked before anything is said of others
LEAST_KEPT = 15  # rows with a label; a model knows too little of a label with fewer to do without one
STEEPNESS = 1.5  # log-odds of an error per nat of gain: the classifiers, held back by their penalty, are that less sure
LEAST = 1e-7  # probability: float32 has no sharper ones near 1


def checked_rows(texts, ledger, tree):
    """{row number: class indices it had when it was asked about} of the rows whose labels somebody has settled."""
    found = {}
    for i, text in enumerate(texts):
        verdict = ledger.verdict(id_of(text))
        before = verdict.opinions[-1].before if verdict and verdict.state == "settled" else None
        if before is not None and tree.index.keys() >= set(before):
            found[i] = tree.closure([tree.index[name] for name in before])
    return found


def doubtful_rows(train, former, ledger, tree, search):
    """Numbers of the rows that are better left out of a training, the most doubtful first.

    train: Rows, with the labels that were answered; former: see `checked_rows`. A checked row is compared with what the
    others say of the labels that it had; from how far those were contradicted, and which of them were wrong, follows
    how far is too far. No label is left with fewer than LEAST_KEPT rows by it.
    """
    from scipy.special import logit

    scores, likely = out_of_fold(train, tree, search)
    numbers = list(former)
    logits = logit(np.clip(likely(numbers).astype(np.float64), LEAST, 1 - LEAST))
    given = Rows([train.texts[i] for i in numbers], list(former.values()), 0, 0).multi_hot(len(tree))
    wrong = np.array([set(former[i]) != set(train.labels[i]) for i in numbers])
    bar = even_odds(contradiction(logits, given, tree), wrong)

    left, chosen = np.zeros(len(tree), int), []
    for labels in train.labels:
        left[list(labels)] += 1
    for i in np.argsort(-scores, kind="stable").tolist():
        if scores[i] <= bar:
            break
        own = list(train.labels[i])
        if (left[own] > LEAST_KEPT).all() and not answered(train.texts[i], ledger):
            chosen.append(i)
            left[own] -= 1
    return chosen


def answered(text, ledger):
    """Whether somebody has looked at a text, be it that they could not tell."""
    verdict = ledger.verdict(id_of(text))
    return verdict is not None and verdict.state != "asked"


def even_odds(gains, wrong):
    """The gain at which a row is as likely wrong as right: gains float [n] of checked rows, wrong bool [n].

    The likeliest one, where the log-odds of an error are STEEPNESS nats above 0 for each nat above it: then as many
    errors are expected among these rows as there are, for which half of one more row counts as wrong.
    """
    from scipy.optimize import brentq
    from scipy.special import expit

    share = (wrong.sum() + 0.5) / (len(wrong) + 1)

    def too_many(bar):
        return expit(STEEPNESS * (gains - bar)).mean() - share

    far = np.log(2 * len(wrong) + 2) / STEEPNESS  # so far outside of all gains no share is that small, or that large
    return brentq(too_many, gains.min() - far, gains.max() + far)
