"""What makes the labels of a training row suspicious: a strategy's scores, and the label in question in words."""

from collections import Counter
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np

from analysis.features import Features
from analysis.neighbours import nearest
from hierarchical.batches import row_windows
from hierarchical.calibration import sigmoid
from hierarchical.checkpoints import Checkpoint
from hierarchical.console import progress_bar
from hierarchical.devices import set_device
from hierarchical.errors import InputError
from hierarchical.linear import with_linear
from hierarchical.linear_training import feature_matrix
from hierarchical.modeling import classify_features
from hierarchical.n_grams import NGrams

FOLDS = 5
NEIGHBOURS = 10
LEAST = 0.01  # no neighbour having a label does not make it impossible
L2 = 3e-5  # of the out-of-fold classifiers
REPRESENTER_L2 = 0.03
COMPONENTS = 300  # of the character n-grams
SVD_ROWS = 100_000  # that the dimensions are found by; more are put into them
LABELS_AT_A_TIME = 512  # heads of different labels are independent, so memory need not grow with the label set
FITTED_CELLS = 20_000_000  # rows x labels that the heads of a fold are fitted on; with more, each label has a draw
LABELS_OF_A_DRAW, LEAST_DRAWN = 16, 500
RARE = 15  # train rows; of a label with fewer a model knows little, so that its doubts are worth less
ELSEWHERE = 2.0  # nats: a sibling is some seven times as likely to be taken for the right label as another one
MOST_CELLS, CELL_BYTES = 100_000_000, 30  # of what representer holds


# ---- linear heads ----------------------------------------------------------------------------------------------------


def fit_head(features, targets, l2, several=True):
    """Weights float32 [H, L] of the linear layer that minimizes the mean cross-entropy + l2 * |weights|^2.

    features float32 [N, H], targets [N, L] from 0 to 1. A row can have several labels, each with its sigmoid, or else
    the targets of a row sum to 1 and so does the soft-max over all labels. The problem is convex; L-BFGS stops near its
    only minimum.
    """
    from scipy.optimize import minimize

    targets = targets.astype(np.float32)
    shape = features.shape[1], targets.shape[1]

    def loss_and_gradient(flat):
        weights = flat.astype(np.float32).reshape(shape)
        logits = features @ weights
        if several:
            losses, expected = np.logaddexp(0, logits) - targets * logits, sigmoid(logits)
        else:
            expected = soft_max(logits)
            losses = -targets * np.log(np.maximum(expected, 1e-30))
        gradient = features.T @ (expected - targets) / len(features) + 2 * l2 * weights
        loss = losses.sum(dtype=np.float64) / len(features) + l2 * np.square(weights).sum(dtype=np.float64)
        return loss, gradient.ravel().astype(np.float64)

    start = np.zeros(shape[0] * shape[1])
    found = minimize(loss_and_gradient, start, jac=True, method="L-BFGS-B", options={"maxiter": 200})
    return found.x.astype(np.float32).reshape(shape)


def soft_max(logits):
    """float [N, L] -> float [N, L], rows of which sum to 1."""
    powers = np.exp(logits - logits.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


def n_gram_features(texts):
    """Character 1- to 4-grams, TF-IDF weighted, in at most COMPONENTS dimensions: centred, float32 [N, D].

    Their mean squared norm is 1, so that L2 suits texts of any kind.
    """
    from sklearn.decomposition import TruncatedSVD

    sample = texts[:: max(1, -(-len(texts) // SVD_ROWS))]
    n_grams = NGrams.of(sample)
    dimensions = min(COMPONENTS, min(len(sample), len(n_grams)) - 1)
    if dimensions < 1:
        return np.zeros((len(texts), 1), np.float32)
    svd, counts = TruncatedSVD(dimensions, random_state=0), feature_matrix(n_grams, sample)
    if len(sample) == len(texts):
        features = svd.fit_transform(counts)
    else:
        components = np.ascontiguousarray(svd.fit(counts).components_.T)  # else each product copies them all
        features = np.empty((len(texts), dimensions), np.float32)
        for window in row_windows(len(texts)):
            part = slice(window.start, window.stop)
            features[part] = feature_matrix(n_grams, texts[part]) @ components
    features -= features.mean(0)
    norms = np.concatenate([np.square(features[w.start : w.stop]).sum(1) for w in row_windows(len(features))])
    features /= max(float(np.sqrt(norms.mean())), 1e-12)
    return features.astype(np.float32, copy=False)


# ---- strategies ------------------------------------------------------------------------------------------------------
# Each takes (train Rows, LabelTree, Search) and returns (suspicion of each row: float [N], a function: row numbers [n]
# -> how likely each label is for them, float [n, L]).


@dataclass(frozen=True)
class Search:
    """seed: of the folds of out_of_fold; the others are for neighbours and representer.

    weight_threshold: representer counts the weights of a row that are above it; train_path: the file of the rows, in
    whose folder features are kept; None: they are not
    """

    seed: int = 3
    checkpoint: Checkpoint | None = None
    device: str = "cpu"
    batch_size: int = 16
    weight_threshold: float = 0.0
    train_path: Path | None = None


def out_of_fold(train, tree, search):
    """By classifiers trained on the other folds; a row is as suspicious as they are sure of a change of its labels."""
    n_labels = len(tree)
    number = {text: i for i, text in enumerate(dict.fromkeys(train.texts))}  # equal texts share a fold
    if len(number) < FOLDS:
        raise InputError(
            f"--strategy out_of_fold: needs at least {FOLDS} different texts; the training file has {len(number)}."
        )
    folds = np.random.default_rng(search.seed).permutation(len(number)) % FOLDS
    fold_of_row = folds[[number[text] for text in train.texts]]
    scores, heads = np.empty(len(fold_of_row), np.float32), []
    with progress_bar(FOLDS + 1, "n-grams, folds") as bar:
        inputs = n_gram_features(train.texts)
        inputs = np.concatenate([inputs, np.ones((len(inputs), 1), np.float32)], axis=1)
        bar.update()
        for fold in range(FOLDS):
            heads.append(fit_heads(inputs, train.labels, np.flatnonzero(fold_of_row != fold), n_labels, fold))
            held_out = np.flatnonzero(fold_of_row == fold)
            for window in row_windows(len(held_out), n_labels):
                rows = held_out[window.start : window.stop]
                scores[rows] = contradiction(inputs[rows] @ heads[fold], train.multi_hot(n_labels, rows), tree)
            bar.update()

    def likely(rows):
        return np.stack([sigmoid(inputs[i] @ heads[fold_of_row[i]]) for i in rows])

    return scores, likely


def contradiction(logits, gold, tree, exchange_cost=0.0):
    """float [n]: how much likelier the best change of its labels, bool [n, L], makes a row to a model, in nats.

    A change leaves a label out, adds one, or exchanges one that has none below it in the row. By independent labels a
    label's logit is what adding it gains in log-likelihood, and minus that what leaving it out does; an exchange is
    both, less exchange_cost. One for a label that is no sibling, by any parent, counts ELSEWHERE less.
    """
    rows, own = np.nonzero(gold)
    gain_of_leaving = -logits[rows, own]
    others = np.where(gold, -np.inf, logits)
    best = others.max(1)
    gain = best.copy()
    np.maximum.at(gain, rows, gain_of_leaving)

    children, parents = np.array([*enumerate(tree.parents.tolist()), *tree.further]).T
    groups = np.unique(parents, return_inverse=True)[1]
    order = np.argsort(groups, kind="stable")
    starts = np.flatnonzero(np.diff(groups[order], prepend=-1))
    best_of_group = np.maximum.reduceat(others[:, children[order]], starts, axis=1)
    siblings, below = best_of_group[rows, groups[own]], np.zeros(gold.shape, bool)
    under = tree.parents[own] >= 0
    below[rows[under], tree.parents[own[under]]] = True
    for (child, parent), group in zip(tree.further, groups[len(tree) :]):
        pairs = own == child
        siblings[pairs] = np.maximum(siblings[pairs], best_of_group[rows[pairs], group])
        below[rows[pairs], parent] = True
    exchange = gain_of_leaving + np.maximum(siblings, best[rows] - ELSEWHERE) - exchange_cost
    np.maximum.at(gain, rows, np.where(below[rows, own], -np.inf, exchange))
    return gain


def fit_heads(inputs, labels, rows, n_labels, fold):
    """`fit_head` of all labels on these rows, float32 [D, L]; inputs float32 [N, D], the last one always 1.

    With more than FITTED_CELLS of rows x labels a few labels at a time are fitted on a draw: their own rows, up to half
    of it, and others. Their intercepts are then corrected by the shares that were drawn of the rows with the label and
    of those without: King and Zeng (2001), Logistic regression in rare events data.
    """
    from scipy.sparse import csr_matrix

    ends = np.append(0, np.cumsum([len(labels[i]) for i in rows]))
    flat = np.fromiter(chain.from_iterable(labels[i] for i in rows), np.int64, ends[-1])
    targets = csr_matrix((np.ones(len(flat), bool), flat, ends), (len(rows), n_labels))
    draws = len(rows) * n_labels > FITTED_CELLS
    together = LABELS_OF_A_DRAW if draws else LABELS_AT_A_TIME
    by_label, heads = targets.tocsc(), np.empty((inputs.shape[1], n_labels), np.float32)
    everything = None if draws else inputs[rows]
    for start in range(0, n_labels, together):
        part = by_label[:, start : start + together]
        if not draws:
            heads[:, start : start + together] = fit_head(everything, part.toarray(), L2)
            continue
        most = max(LEAST_DRAWN, FITTED_CELLS // n_labels)
        rng, own = np.random.default_rng([fold, start]), np.unique(part.indices)
        others = rng.choice(len(rows), min(len(rows), most), replace=False)
        drawn = np.unique(np.append(rng.permutation(own)[: most // 2], others[: most - min(len(own), most // 2)]))
        gold = targets[drawn][:, start : start + together].toarray()
        head = fit_head(inputs[rows[drawn]], gold, L2)
        with_label, drawn_with = part.getnnz(0), gold.sum(0)
        shares = [
            np.maximum(of_draw, 0.5) / np.maximum(of_all, 0.5)
            for of_draw, of_all in ((drawn_with, with_label), (len(drawn) - drawn_with, len(rows) - with_label))
        ]
        head[-1] -= np.log(shares[0] / shares[1])
        heads[:, start : start + together] = head
    return heads


def neighbours(train, tree, search):
    """The labels of the rows that look most alike to the model; a row is as suspicious as its cross-entropy is high."""
    features = encoded(train.texts, search)
    near = [row[row != i][:NEIGHBOURS] for i, row in enumerate(nearest(features, features, NEIGHBOURS + 1)[0])]
    scores = np.zeros(len(near))
    for i, rows in enumerate(near):
        counts = Counter(chain.from_iterable(train.labels[k] for k in rows))
        for label in counts.keys() | set(train.labels[i]):  # all others agree
            share = counts[label] / len(rows)
            agreement = share if label in train.labels[i] else 1 - share
            scores[i] -= np.log(min(max(agreement, LEAST), 1))

    def likely(rows):
        return np.stack([train.multi_hot(len(tree), near[i]).mean(0) for i in rows])

    return scores, likely


def representer(train, tree, search):
    """Representer points, as PaddleNLP's application uses them.

    Yeh, Kim, Yen and Ravikumar (2018), Representer point selection for explaining deep neural networks: a linear
    soft-max layer with an l2 term is fitted to the soft-max of the model's own logits; the weight of row i for label c
    is the negative gradient of its loss / (2 l2 N). Rows are ranked by the number of weights above --dirty_threshold,
    then by their sum. The given labels play no part in it, and that a row can have several labels is left aside.
    """
    if (cells := len(train.texts) * len(tree)) > MOST_CELLS:
        raise InputError(
            f"--strategy representer: {len(train.texts):,} rows x {len(tree):,} labels would take about "
            f"{CELL_BYTES * cells / 1e9:.0f} GB of memory. Take --strategy out_of_fold."
        )
    features, logits = model_outputs(train.texts, search)
    inputs = np.concatenate([features, np.ones((len(features), 1), np.float32)], axis=1)
    of_model = soft_max(logits)
    of_layer = soft_max(inputs @ fit_head(inputs, of_model, REPRESENTER_L2, several=False))
    weights = (of_layer - of_model) / (-2 * REPRESENTER_L2 * len(features))
    above = weights > search.weight_threshold
    rank = np.empty(len(features))
    rank[np.lexsort((np.where(above, weights, 0).sum(1), above.sum(1)))] = np.arange(len(features))
    return rank, lambda rows: sigmoid(logits[rows])


def model_outputs(texts, search):
    """(features float32 [N, H], logits float32 [N, L]) of the checkpoint."""
    kept = features_of(search)
    features = kept.of(texts, search.train_path, "train rows")
    return features, with_linear(classify_features(kept.model, features), search.checkpoint.linear, texts)


def encoded(texts, search):
    """Features float32 [N, H] of the checkpoint."""
    return features_of(search).of(texts, search.train_path, "train rows")


def features_of(search):
    """The Features of the checkpoint, which is loaded."""
    set_device(search.device)
    checkpoint = search.checkpoint
    directory = search.train_path.parent if search.train_path else None
    return Features(checkpoint, checkpoint.load_model(), checkpoint.tokenizer, search.batch_size, directory)


STRATEGIES = {function.__name__: function for function in (out_of_fold, neighbours, representer)}


def suspicion(tree, gold, probabilities):
    """The label in question of one row (bool [L], float [L]) in words.

    The deepest labels are named: a wrong label mostly brings wrong ancestors with it.
    """

    def deepest(labels):
        return [i for i in labels if not set(labels).intersection(tree.children[i])]

    doubted = deepest(np.flatnonzero(gold & (probabilities < 0.5)).tolist())
    expected = deepest(np.flatnonzero(~gold & (probabilities > 0.5)).tolist())
    has = tree.labels[min(doubted, key=lambda i: probabilities[i])] if doubted else None
    if expected:
        best = max(expected, key=lambda i: probabilities[i])
        return f"{f'has {has}' if has else 'lacks a label'}, model says {tree.labels[best]}, {probabilities[best]:.2f}"
    if has:
        return f"has {has}, model gives it {probabilities[tree.index[has]]:.2f}"
    return "no single label stands out"
