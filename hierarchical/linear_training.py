"""Making a linear branch: a support vector machine for each label, and the two numbers that mix it with an encoder.

    plan = Plan.of(texts, labels, n_labels, THOROUGH)      # what will be done, how long it takes, what is left out
    branch = fit_linear(texts, labels, n_labels, plan)     # ten seconds for 10,000 rows and 74 labels
    branch, honest = mixed(branch, dev_texts, encoder_logits, gold, tree, decision)

Large data are bounded, by Limits: so many rows teach anything, the same number of each label as far as there are so
many; so many rows x labels are fitted, so that with many labels each sees its own rows and a draw of the others; and
what is kept are a label's largest weights.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, compress, islice, product
from typing import Any, NamedTuple

import numpy as np

from hierarchical.calibration import sigmoid
from hierarchical.console import progress_bar
from hierarchical.decisions import Decision, decide
from hierarchical.labels import LabelTree
from hierarchical.linear import LinearBranch
from hierarchical.n_grams import CHUNK, NGrams, codes_of
from hierarchical.thresholds import cross_fitted, tune_threshold

C = 10.0  # of the support vector machines: the more, the closer they are to the train rows
TOLERANCE = 1e-3  # at which their optimizer stops
LEAST_ROWS = 1_000  # that teach, however long they are
LONGEST_TEXT, SAMPLED = 100_000, 10_000  # for the estimate: characters of a text, texts
N_GRAMS = 2.5  # that the vocabulary has, of a character
KEPT, LEAST_KEPT = 5_000_000, 200  # weights of all labels, about; of one at least
ALONE = 8.0  # the weight of a branch without an encoder
# Beside one: weights, and what is added to decision values, as few rows draw the boundary too close to themselves. The
# usual pair was the best of all for 1,000 rows and near it for 10,000 (docs/results.md).
USUAL = (6.0, 0.5)
WEIGHTS, CUTS = (2.0, 4.0, 6.0, 8.0, 12.0, 16.0, 32.0, 64.0), tuple(round(cut / 10, 1) for cut in range(-2, 9))
LEAST_DEV = 20  # dev rows

Choose = Callable[[np.ndarray], tuple[float, float]]


# ---- what is bounded -------------------------------------------------------------------------------------------------


class Limits(NamedTuple):
    """What of large data is used.

    characters   of all train texts together
    visits       n-grams that the machines are shown: the sum of those of all rows of all labels
    least_rows   that each label is fitted on, whatever that makes of the visits
    labels       that are fitted
    """

    characters: int
    visits: int
    least_rows: int
    labels: int


THOROUGH = Limits(25_000_000, 10_000_000_000, 1_000, 1_000_000)  # beside an encoder, whose training takes far longer
QUICK = Limits(4_000_000, 150_000_000, 100, 10_000)  # a minute
# Seconds of a core, measured: of a character, of a visit, of a label, and to begin with.
SECONDS = (2.5e-6, 6e-8, 3e-3, 3.0)


class Plan(NamedTuple):
    """rows: that teach, ascending; rows_of_label: on how many of them one is fitted; n_labels: of how many; seconds."""

    rows: np.ndarray
    rows_of_label: int
    n_labels: int
    seconds: float

    @classmethod
    def of(cls, texts: Sequence[str], labels: Sequence[tuple[int, ...]], n_labels: int, limits: Limits) -> "Plan":
        """What the limits leave of these rows."""
        every = -(-len(texts) // SAMPLED)
        sampled = [min(len(text), LONGEST_TEXT) for text in islice(texts, 0, None, every)]
        characters = max(1.0, sum(sampled) / len(sampled))  # of a text
        rows = rows_to_learn_from(labels, n_labels, max(LEAST_ROWS, int(limits.characters / characters)))
        fitted, visits = min(n_labels, limits.labels), N_GRAMS * characters
        of_label = min(len(rows), max(limits.least_rows, int(limits.visits / visits / fitted)))
        parts = (len(rows) * characters, fitted * of_label * visits, fitted, 1.0)
        return cls(rows, of_label, fitted, sum(one * part for one, part in zip(SECONDS, parts)))

    def lines(self, n_rows: int, n_labels: int) -> list[str]:
        """What is left out of so many rows and labels, and how long the rest takes: for the log."""
        left_out = []
        if len(self.rows) < n_rows:
            left_out.append(f"{len(self.rows):,} of {n_rows:,} rows teach, of each label its share")
        if self.rows_of_label < len(self.rows):
            left_out.append(f"each label is fitted on {self.rows_of_label:,} rows, its own and a draw of the others")
        if self.n_labels < n_labels:
            left_out.append(f"the {self.n_labels:,} labels with the most rows are fitted, the others never predicted")
        capped = [f"So that it does not take longer: {'; '.join(left_out)}"] if left_out else []
        return [f"About {max(1, round(self.seconds)):,} seconds of one core", *capped]


# ---- support vector machines -----------------------------------------------------------------------------------------


def fit_linear(
    texts: Sequence[str], labels: Sequence[tuple[int, ...]], n_labels: int, plan: Plan | None = None, c: float = C
) -> LinearBranch:
    """A branch whose logits are the decision values of one linear support vector machine per label.

    labels: the class indices of each text; plan: what is used of them; None: what THOROUGH allows. A label that all
    rows have, or none, or that is left out, has no weights, and 1 or -1 for all.
    """
    plan = plan or Plan.of(texts, labels, n_labels, THOROUGH)
    texts, labels = chosen_of(texts, plan.rows), [labels[i] for i in plan.rows]
    n_grams = NGrams.of(progress_bar(len(texts), "n-grams", iterable=texts))
    features = feature_matrix(n_grams, texts)
    bias, scales = np.full(n_labels, -1.0, np.float32), np.ones(n_labels, np.float32)
    n_gram_of, label_of, values = [np.zeros(0, np.int64)], [np.zeros(0, np.uint32)], [np.zeros(0, np.int8)]
    most = max(LEAST_KEPT, KEPT // plan.n_labels)
    for label, positive in rows_of_labels(labels, n_labels, plan.n_labels):
        if len(positive) in (0, len(texts)):
            bias[label] = 1.0 if len(positive) else -1.0
            continue
        columns, weights, bias[label] = fit_label(
            features, positive, drawn_rows(positive, len(texts), plan.rows_of_label, label), c
        )
        kept, of_kept, scales[label] = quantized(weights, most)
        n_gram_of.append(columns[kept])
        label_of.append(np.full(len(kept), label, np.uint32))
        values.append(of_kept)
    numbers = np.concatenate(n_gram_of)
    order = np.argsort(numbers, kind="stable")
    starts = np.append(0, np.cumsum(np.bincount(numbers, minlength=len(n_grams)))).astype(np.int64)
    return LinearBranch(n_grams, starts, np.concatenate(label_of)[order], np.concatenate(values)[order], scales, bias)


def chosen_of(texts: Iterable[str], rows: np.ndarray) -> list[str]:
    """The texts of these rows, which are ascending."""
    wanted = np.zeros(rows[-1] + 1 if len(rows) else 0, bool)
    wanted[rows] = True
    return list(compress(texts, wanted))


def rows_to_learn_from(labels: Sequence[tuple[int, ...]], n_labels: int, most: int) -> np.ndarray:
    """The numbers of at most so many rows, ascending: of each label first its share, then more of the frequent ones."""
    if len(labels) <= most:
        return np.arange(len(labels))
    counts = np.bincount(np.fromiter(chain.from_iterable(labels), np.int64), minlength=n_labels + 1)
    rarest_of = {row: min(row, key=counts.__getitem__, default=n_labels) for row in set(labels)}
    rarest = np.array([rarest_of[row] for row in labels])
    order = np.random.default_rng(0).permutation(len(labels))
    order = order[np.argsort(rarest[order], kind="stable")]  # label by label, each in random order
    sizes = np.bincount(rarest)
    turn = np.arange(len(order)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return np.sort(order[np.argsort(turn, kind="stable")[:most]])


def feature_matrix(n_grams: NGrams, texts: Sequence[str]) -> Any:
    """`NGrams.features` of texts as a sparse matrix float32 [N, D]."""
    from scipy.sparse import csr_matrix, vstack

    parts = []
    for start in progress_bar(len(texts) // CHUNK + 1, "features", iterable=range(0, len(texts), CHUNK)):
        part = [codes_of(text) for text in texts[start : start + CHUNK]]
        rows, numbers, values = n_grams.features(part)
        parts.append(csr_matrix((values.astype(np.float32), (rows, numbers)), (len(part), len(n_grams))))
    return vstack(parts, "csr")


def rows_of_labels(labels: Sequence[Sequence[int]], n_labels: int, most: int) -> Iterator[tuple[int, np.ndarray]]:
    """Yield (label, numbers of its rows, ascending) of at most so many labels, those with the most rows.

    In class order, with a progress bar on a terminal.
    """
    flat = np.array([label for row in labels for label in row], np.int64)
    rows = np.repeat(np.arange(len(labels)), [len(row) for row in labels])[np.argsort(flat, kind="stable")]
    counts = np.bincount(flat, minlength=n_labels)
    ends = np.cumsum(counts)
    frequent = np.sort(np.argsort(-counts, kind="stable")[:most])
    for label in progress_bar(len(frequent), "labels", iterable=frequent.tolist()):
        yield label, rows[ends[label] - counts[label] : ends[label]]


def drawn_rows(positive: np.ndarray, n_rows: int, most: int, label: int) -> np.ndarray | None:
    """The rows that a label is fitted on, ascending: its own, up to half of `most`, and some others; None for all.

    positive: its own, ascending. Takes time for what is drawn, not for all rows.
    """
    if n_rows <= most:
        return None
    rng = np.random.default_rng([0, label])
    own = rng.permutation(positive)[: most // 2]
    others = rng.choice(n_rows, min(n_rows, most - len(own) + len(positive)), replace=False)
    places = np.minimum(np.searchsorted(positive, others), max(len(positive) - 1, 0))
    others = others[positive[places] != others] if len(positive) else others
    return np.sort(np.append(own, others[: most - len(own)]))


def fit_label(
    features: Any, positive: np.ndarray, rows: np.ndarray | None, c: float
) -> tuple[np.ndarray, np.ndarray, float]:
    """(n-grams int64 [d], ascending, their weights float64 [d], bias) of a label with these rows, ascending.

    rows: what it is fitted on; None: all. Other n-grams than those of these rows have no weight and are left out, so
    that the solver takes the time and memory of the rows; to find the columns takes a pass over all n-grams.
    """
    import warnings

    from scipy.sparse import csr_matrix
    from sklearn import config_context
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.svm import LinearSVC

    target, columns = np.zeros(features.shape[0], bool), np.arange(features.shape[1])
    if rows is None:
        target[positive] = True
    else:
        target, part = np.isin(rows, positive, assume_unique=True), features[rows]
        present, numbers = np.zeros(features.shape[1], bool), np.empty(features.shape[1], np.int32)
        present[part.indices] = True
        columns = np.flatnonzero(present)
        numbers[columns] = np.arange(len(columns))
        places = numbers[part.indices]  # looked up, not sorted
        features = csr_matrix((part.data, places, part.indptr), (len(rows), len(columns)))
    with warnings.catch_warnings(), config_context(assume_finite=True, skip_parameter_validation=True):
        warnings.simplefilter("ignore", ConvergenceWarning)  # one that stopped short of its optimum is taken as it is
        machine = LinearSVC(C=c, tol=TOLERANCE, dual=True, random_state=0).fit(features, target)
    return columns, machine.coef_[0], float(machine.intercept_[0])


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
    are best those of `batches.choosing_rows`.
    """
    if len(texts) < LEAST_DEV:
        return branch.scaled(ALONE if logits is None else 0.0, 0.0), None
    values = branch.decision_values(texts)
    if logits is None:
        encoder, choose = np.zeros(values.shape), alone(values, gold, tree, decision)
    else:
        encoder = logits.astype(np.float64)
        choose = beside(encoder, values, gold, tree, decision)

    def label(rows: np.ndarray, held_out: np.ndarray) -> np.ndarray:
        weight, shift = choose(rows)
        return decide(sigmoid(encoder[held_out] + weight * values[held_out] + shift), tree, decision)

    return branch.scaled(*choose(np.ones(len(texts), bool))), cross_fitted(label, gold, tree)


def alone(values: np.ndarray, gold: np.ndarray, tree: LabelTree, decision: Decision) -> Choose:
    """rows, bool [N] -> (ALONE, the shift with which ALONE x values + shift has the highest micro-F1 on them).

    values float64 [N, L], gold bool [N, L].
    """
    wanted = _logit(float(np.mean(decision.threshold)))

    def choose(rows: np.ndarray) -> tuple[float, float]:
        probabilities = sigmoid(ALONE * values[rows])
        cut = tune_threshold(probabilities, gold[rows], tree, decision.decoding, per_level=decision.per_level)
        return ALONE, wanted - _logit(cut)

    return choose


def beside(encoder: np.ndarray, values: np.ndarray, gold: np.ndarray, tree: LabelTree, decision: Decision) -> Choose:
    """rows, bool [N] -> (weight, shift), so that encoder + weight x values + shift has the highest micro-F1 on them.

    Of few rows the best of many mixtures is chance: with 200 it was worse on other rows than the usual one. So that one
    stays unless another is better by more than the standard error of the difference (the rule is that of Breiman and
    others, 1984, for the size of a tree). Macro-F1 would lead astray: with it, predicting a label that no row here has
    would cost nothing. Weight 0 is the encoder alone.
    encoder, values float64 [N, L], gold bool [N, L].
    """
    mixtures = [USUAL, (0.0, 0.0), *(pair for pair in product(WEIGHTS, CUTS) if pair != USUAL)]
    mixtures = [(weight, weight * cut) for weight, cut in mixtures]
    hits, sizes = (np.zeros((len(mixtures), len(gold)), np.int32) for _ in range(2))
    for i, (weight, shift) in enumerate(progress_bar(len(mixtures), "mixtures", iterable=mixtures)):
        found = decide(sigmoid(encoder + weight * values + shift), tree, decision)
        hits[i], sizes[i] = (found & gold).sum(1), found.sum(1) + gold.sum(1)

    def choose(rows: np.ndarray) -> tuple[float, float]:
        gain, error = gains(hits[:, rows], sizes[:, rows])
        return mixtures[int(np.argmax(gain - error))]

    return choose


def gains(hits: np.ndarray, sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """By how much the micro-F1 of each of M mixtures exceeds that of the first, and its standard error: float64 [M].

    Integers [M, N] of N rows: labels that are right, and labels found plus labels wanted. The error is that of the
    difference of two ratios on the same rows, by linearization (Cochran, Sampling Techniques, 1977, section 6.4).
    """
    n_rows, labels = hits.shape[1], np.maximum(sizes.sum(1), 1)
    f1 = 2 * hits.sum(1) / labels
    parts = (2 * hits - f1[:, None] * sizes) / labels[:, None] * n_rows  # of each row; their mean is 0
    return f1 - f1[0], (parts - parts[0]).std(1) / np.sqrt(n_rows)


def _logit(probability: float) -> float:
    probability = min(max(probability, 1e-30), 1 - 1e-7)
    return float(np.log(probability / (1 - probability)))
