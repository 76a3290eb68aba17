"""Making a linear branch: a support vector machine for each label, and the two numbers that mix it with an encoder.

    branch = fit_linear(texts, labels, n_labels)                          # ten seconds for 10,000 rows and 74 labels
    branch, honest = mixed(branch, dev_texts, encoder_logits, gold, tree, decision)

Large data are bounded: at most ROWS rows teach anything, the same number of each label as far as there are so many; no
more than CELLS rows x labels are fitted, so that with many labels each sees its own rows and a draw of the others; and
what is kept are a label's largest weights.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from hierarchical.batches import CHOOSING_CELLS
from hierarchical.console import progress_bar
from hierarchical.decisions import Decision, decide
from hierarchical.labels import LabelTree
from hierarchical.linear import LinearBranch
from hierarchical.metric import evaluate
from hierarchical.modeling import sigmoid
from hierarchical.n_grams import CHUNK, NGrams, codes_of
from hierarchical.thresholds import cross_fitted, tune_threshold

C = 10.0  # of the support vector machines: the more, the closer they are to the train rows
TOLERANCE = 1e-3  # at which their optimizer stops
ROWS = 500_000
CELLS, LEAST_ROWS = 100_000_000, 1_000  # of all labels; of one at least
WEIGHTS, LEAST_WEIGHTS = 5_000_000, 200  # kept of all labels, about; of one at least
USUAL = 8.0  # the weight of the branch: alone, and beside an encoder unless one of the others is better by MARGIN
OTHERS, MARGIN = (0.0, 2.0, 4.0, 16.0, 32.0, 64.0), 0.001
LEAST_DEV = 20  # dev rows


# ---- support vector machines -----------------------------------------------------------------------------------------


def fit_linear(texts: Sequence[str], labels: Sequence[Sequence[int]], n_labels: int, c: float = C) -> LinearBranch:
    """A branch whose logits are the decision values of one linear support vector machine per label.

    labels: the class indices of each text. A label that all rows have, or none, has no weights, and 1 or -1 for all.
    """
    rows = rows_to_learn_from(labels, n_labels)
    texts, labels = [texts[i] for i in rows], [labels[i] for i in rows]
    n_grams = NGrams.of(texts)
    features = feature_matrix(n_grams, texts)
    bias, scales = np.zeros(n_labels, np.float32), np.ones(n_labels, np.float32)
    n_gram_of, label_of, values = [np.zeros(0, np.int64)], [np.zeros(0, np.uint32)], [np.zeros(0, np.int8)]
    for label, positive in rows_of_labels(labels, n_labels):
        if len(positive) in (0, len(rows)):
            bias[label] = 1.0 if len(positive) else -1.0
            continue
        weights, bias[label] = fit_label(features, positive, drawn_rows(positive, len(rows), n_labels, label), c)
        kept, of_kept, scales[label] = quantized(weights, max(LEAST_WEIGHTS, WEIGHTS // n_labels))
        n_gram_of.append(kept)
        label_of.append(np.full(len(kept), label, np.uint32))
        values.append(of_kept)
    numbers = np.concatenate(n_gram_of)
    order = np.argsort(numbers, kind="stable")
    starts = np.append(0, np.cumsum(np.bincount(numbers, minlength=len(n_grams)))).astype(np.int64)
    return LinearBranch(n_grams, starts, np.concatenate(label_of)[order], np.concatenate(values)[order], scales, bias)


def rows_to_learn_from(labels: Sequence[Sequence[int]], n_labels: int, most: int = ROWS) -> np.ndarray:
    """The numbers of at most so many rows, ascending: of each label first its share, then more of the frequent ones."""
    if len(labels) <= most:
        return np.arange(len(labels))
    counts = np.zeros(n_labels + 1, np.int64)
    for row in labels:
        counts[list(row)] += 1
    rarest = np.array([min(row, key=counts.__getitem__, default=n_labels) for row in labels])
    order = np.random.default_rng(0).permutation(len(labels))
    order = order[np.argsort(rarest[order], kind="stable")]  # label by label, each in random order
    sizes = np.bincount(rarest)
    turn = np.arange(len(order)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return np.sort(order[np.argsort(turn, kind="stable")[:most]])


def feature_matrix(n_grams: NGrams, texts: Sequence[str]) -> Any:
    """`NGrams.features` of texts as a sparse matrix float32 [N, D]."""
    from scipy.sparse import csr_matrix, vstack

    parts = []
    for start in range(0, len(texts), CHUNK):
        part = [codes_of(text) for text in texts[start : start + CHUNK]]
        rows, numbers, values = n_grams.features(part)
        parts.append(csr_matrix((values.astype(np.float32), (rows, numbers)), (len(part), len(n_grams))))
    return vstack(parts, "csr")


def rows_of_labels(labels: Sequence[Sequence[int]], n_labels: int) -> Iterator[tuple[int, np.ndarray]]:
    """Yield (label, numbers of its rows, ascending), with a progress bar on a terminal."""
    flat = np.array([label for row in labels for label in row], np.int64)
    rows = np.repeat(np.arange(len(labels)), [len(row) for row in labels])[np.argsort(flat, kind="stable")]
    ends = np.cumsum(np.bincount(flat, minlength=n_labels))
    for label in progress_bar(n_labels, "n-grams", iterable=range(n_labels)):
        yield label, rows[ends[label - 1] if label else 0 : ends[label]]


def drawn_rows(positive: np.ndarray, n_rows: int, n_labels: int, label: int) -> np.ndarray | None:
    """The rows that a label is fitted on, ascending: its own, up to half of what CELLS allows, and some others.

    None for all rows.
    """
    budget = max(LEAST_ROWS, CELLS // n_labels)
    if n_rows <= budget:
        return None
    rng, others = np.random.default_rng([0, label]), np.ones(n_rows, bool)
    others[positive] = False
    own = rng.permutation(positive)[: budget // 2]
    return np.sort(np.append(own, rng.choice(np.flatnonzero(others), min(budget - len(own), np.sum(others)), False)))


def fit_label(features: Any, positive: np.ndarray, rows: np.ndarray | None, c: float) -> tuple[np.ndarray, float]:
    """(weights float64 [D], bias) of a label with these rows. rows: what it is fitted on; None: all."""
    import warnings

    from sklearn.exceptions import ConvergenceWarning
    from sklearn.svm import LinearSVC

    target = np.zeros(features.shape[0], bool)
    target[positive] = True
    if rows is not None:
        features, target = features[rows], target[rows]
    with warnings.catch_warnings():  # one that stopped short of its optimum is taken as it is
        warnings.simplefilter("ignore", ConvergenceWarning)
        machine = LinearSVC(C=c, tol=TOLERANCE, dual=True, random_state=0).fit(features, target)
    return machine.coef_[0], float(machine.intercept_[0])


def quantized(weights: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray, float]:
    """(places, ascending, int8 values there, their scale): the at most so many weights that are not nearly 0.

    A weight is off by half the scale at most, which is a 127th of the largest weight, and so is the decision value of a
    text by half the scale times the sum of its n-grams' values, which is the root of their number at most.
    """
    scale = float(np.abs(weights).max()) / 127 or 1.0
    values = np.rint(weights / scale).astype(np.int8)
    places = np.flatnonzero(values)
    if len(places) > most:
        places = np.sort(places[np.argsort(-np.abs(weights[places]), kind="stable")[:most]])
    return places, values[places], scale


# ---- the two numbers -------------------------------------------------------------------------------------------------


def choosing_rows(n_rows: int, n_labels: int) -> range:
    """The dev rows by which a branch is mixed: all, or with very many labels every second, third, ..."""
    return range(0, n_rows, max(1, -(-n_rows * n_labels // CHOOSING_CELLS)))


def mixed(
    branch: LinearBranch,
    texts: Sequence[str],
    logits: np.ndarray | None,
    gold: np.ndarray,
    tree: LabelTree,
    decision: Decision,
) -> tuple[LinearBranch, dict[str, Any] | None]:
    """(the branch with the weight and the shift that suit these rows best, what that is worth on rows not used for it).

    logits: an encoder's, float32 [N, L]; None: the branch is the whole model. gold bool [N, L]. The threshold of
    `decision` stays as it is: the shift takes its place. The worth is a result of `thresholds.cross_fitted`. Fewer than
    LEAST_DEV rows choose nothing: beside an encoder the branch then has the weight 0, and None is returned. The rows
    are best those of `choosing_rows`.
    """
    if len(texts) < LEAST_DEV:
        return branch.scaled(USUAL if logits is None else 0.0, 0.0), None
    values, others = branch.decision_values(texts), () if logits is None else OTHERS
    encoder = np.zeros(values.shape) if logits is None else logits.astype(np.float64)

    def choose(rows: np.ndarray) -> tuple[float, float]:
        return best_mix(encoder[rows], values[rows], gold[rows], tree, decision, others)

    def label(rows: np.ndarray, held_out: np.ndarray) -> np.ndarray:
        weight, shift = choose(rows)
        return decide(sigmoid(encoder[held_out] + weight * values[held_out] + shift), tree, decision)

    return branch.scaled(*choose(np.ones(len(texts), bool))), cross_fitted(label, gold, tree)


def best_mix(
    encoder: np.ndarray,
    values: np.ndarray,
    gold: np.ndarray,
    tree: LabelTree,
    decision: Decision,
    others: Sequence[float] = OTHERS,
) -> tuple[float, float]:
    """(weight, shift), so that encoder + weight x values + shift has the highest micro-F1.

    Of weights only a few are tried, and another one than USUAL has to be better by MARGIN, since small differences are
    chance. Macro-F1 would lead astray: with it, predicting a label that no row here has would cost nothing.
    encoder, values float64 [N, L], gold bool [N, L]. A weight of 0 leaves the encoder as it is, without a shift.
    """
    wanted, best = _logit(float(np.mean(decision.threshold))), (-1.0, 0.0, 0.0)
    for weight in (USUAL, *others):
        logits, shift = encoder + weight * values, 0.0
        if weight:
            shift = wanted - _logit(tune_threshold(sigmoid(logits), gold, tree, decision.decoding))
        worth = evaluate(decide(sigmoid(logits + shift), tree, decision), gold, tree)["micro_f1"]
        worth -= MARGIN if weight != USUAL else 0.0
        best = max(best, (worth, weight, shift), key=lambda found: found[0])
    return best[1:]


def _logit(probability: float) -> float:
    probability = min(max(probability, 1e-30), 1 - 1e-7)
    return float(np.log(probability / (1 - probability)))
