"""Rows that nobody has checked, and that are more likely wrong than right, by what was found in those that were."""

from pathlib import Path

import numpy as np

from analysis.suspicion import RARE, contradiction, out_of_fold
from hierarchical.calibration import logits_of
from hierarchical.formats import PARSERS
from hierarchical.ledger import id_of
from hierarchical.rows import Rows

LEAST_CHECKED = 30  # texts that must have been checked before anything is said of others
STEEPNESS = 1.5  # log-odds of an error per nat of gain: the classifiers, held back by their penalty, are that less sure


def checked_rows(texts, ledger, tree):
    """{row number: (labels it had when it was asked about, those it should have)}, as sets of class indices.

    Of texts that somebody has settled, each once. Not those whose labels of then are not known, nor those that were
    edited in a file: there nobody says which others were read and found right.
    """
    found, seen = {}, set()
    for i, text in enumerate(texts):
        text_id = id_of(text)
        verdict = ledger.verdict(text_id)
        if text_id in seen or not verdict or verdict.state != "settled":
            continue
        seen.add(text_id)
        answer = verdict.opinions[-1]
        if answer.before and not of_file(answer) and tree.index.keys() >= {*answer.before, *verdict.labels}:
            sets = (tree.closure([tree.index[name] for name in names]) for names in (answer.before, verdict.labels))
            found[i] = tuple(map(set, sets))
    return found


def of_file(answer):
    """Whether an answer was written into a file of rows by hand; see merging.edits_of."""
    return Path(answer.via).suffix in PARSERS.keys() - {""}


def doubtful_rows(train, checked, ledger, tree, search):
    """Numbers of the rows that are better left out of a training, the most doubtful first.

    train: Rows, with the labels that were answered; checked: see `checked_rows`. A checked row is compared with what
    the others say of the labels that it had; from how far those were contradicted, and which of them were wrong,
    follows how far is too far. No label is left with fewer than RARE rows by it.
    """
    wrong = np.array([before != now for before, now in checked.values()])
    if not wrong.any():
        return []
    scores, likely = out_of_fold(train, tree, search)
    numbers = list(checked)
    given = Rows([train.texts[i] for i in numbers], [tuple(before) for before, _ in checked.values()], 0, 0)
    gains = contradiction(logits_of(likely(numbers)), given.multi_hot(len(tree)), tree)
    bar = even_odds(gains, wrong)

    left, chosen = train.label_counts(len(tree)), []
    for i in np.argsort(-scores, kind="stable").tolist():
        if scores[i] <= bar:
            break
        own = list(train.labels[i])
        if (left[own] > RARE).all() and not answered(train.texts[i], ledger):
            chosen.append(i)
            left[own] -= 1
    return chosen


def answered(text, ledger):
    """Whether somebody has looked at a text, be it that they could not tell."""
    verdict = ledger.verdict(id_of(text))
    return verdict is not None and verdict.state != "asked"


def even_odds(gains, wrong):
    """The gain at which a row is as likely wrong as right: gains float [n] of checked rows, wrong bool [n].

    The likeliest one, where the log-odds of an error are STEEPNESS for each nat above it: then as many errors are
    expected among these rows as there are, for which half of one more row counts as wrong.
    """
    from scipy.optimize import brentq
    from scipy.special import expit

    share = (wrong.sum() + 0.5) / (len(wrong) + 1)

    def too_many(bar):
        return expit(STEEPNESS * (gains - bar)).mean() - share

    far = np.log(2 * len(wrong) + 2) / STEEPNESS  # so far outside of all gains no share is that small, or that large
    return brentq(too_many, gains.min() - far, gains.max() + far)
