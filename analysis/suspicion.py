"""What makes the labels of a training row suspicious: a strategy's scores, and the label in question in words."""

from dataclasses import dataclass

import numpy as np

from analysis.neighbours import nearest
from hierarchical.calibration import sigmoid
from hierarchical.checkpoints import Checkpoint
from hierarchical.console import progress_bar
from hierarchical.devices import set_device
from hierarchical.errors import InputError
from hierarchical.linear import with_linear
from hierarchical.linear_training import feature_matrix
from hierarchical.modeling import classify_features, encode_features
from hierarchical.n_grams import NGrams

FOLDS = 5
NEIGHBOURS = 10
LEAST = 0.01  # no neighbour having a label does not make it impossible
L2 = 3e-5  # of the out-of-fold classifiers
REPRESENTER_L2 = 0.03
COMPONENTS = 300  # of the character n-grams
LABELS_AT_A_TIME = 512  # heads of different labels are independent, so memory need not grow with the label set


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

    counts = feature_matrix(NGrams.of(texts), texts)
    dimensions = min(COMPONENTS, min(counts.shape) - 1)
    if dimensions < 1:
        return np.zeros((len(texts), 1), np.float32)
    features = TruncatedSVD(dimensions, random_state=0).fit_transform(counts)
    features -= features.mean(0)
    return (features / max(float(np.sqrt(np.square(features).sum(1).mean())), 1e-12)).astype(np.float32)


# ---- strategies ------------------------------------------------------------------------------------------------------
# Each takes (train Rows, gold bool [N, L], Search) and returns (suspicion of each row: float [N], how likely each label
# is for it: float [N, L]).


@dataclass(frozen=True)
class Search:
    """seed: of the folds of out_of_fold; the others are for neighbours and representer.

    weight_threshold: representer counts the weights of a row that are above it
    """

    seed: int = 3
    checkpoint: Checkpoint | None = None
    device: str = "cpu"
    batch_size: int = 16
    weight_threshold: float = 0.0


def out_of_fold(train, gold, search):
    """Probabilities from classifiers trained on the other folds; a row is as suspicious as its least likely label."""
    number = {text: i for i, text in enumerate(dict.fromkeys(train.texts))}  # equal texts share a fold
    if len(number) < FOLDS:
        raise InputError(
            f"--strategy out_of_fold: needs at least {FOLDS} different texts; the training file has {len(number)}."
        )
    folds = np.random.default_rng(search.seed).permutation(len(number)) % FOLDS
    fold_of_row, likely = folds[[number[text] for text in train.texts]], np.zeros(gold.shape, np.float32)
    with progress_bar(FOLDS + 1, "n-grams, folds") as bar:
        inputs = np.concatenate([n_gram_features(train.texts), np.ones((len(gold), 1), np.float32)], axis=1)
        bar.update()
        for fold in range(FOLDS):
            held_out = fold_of_row == fold
            for start in range(0, gold.shape[1], LABELS_AT_A_TIME):
                part = slice(start, start + LABELS_AT_A_TIME)
                head = fit_head(inputs[~held_out], gold[~held_out, part], L2)
                likely[held_out, part] = sigmoid(inputs[held_out] @ head)
            bar.update()
    return np.abs(gold - likely).max(1), likely


def neighbours(train, gold, search):
    """The labels of the rows that look most alike to the model; a row is as suspicious as its cross-entropy is high."""
    features, _ = model_outputs(train.texts, search)
    rows, _ = nearest(features, features, NEIGHBOURS + 1)
    likely = np.stack([gold[near[near != i][:NEIGHBOURS]].mean(0) for i, near in enumerate(rows)])
    agreement = np.where(gold, likely, 1 - likely)
    return -np.log(agreement.clip(LEAST, 1)).sum(1), likely


def representer(train, gold, search):
    """Representer points, as PaddleNLP's application uses them.

    Yeh, Kim, Yen and Ravikumar (2018), Representer point selection for explaining deep neural networks: a linear
    soft-max layer with an l2 term is fitted to the soft-max of the model's own logits; the weight of row i for label c
    is the negative gradient of its loss / (2 l2 N). Rows are ranked by the number of weights above --dirty_threshold,
    then by their sum. The given labels play no part in it, and that a row can have several labels is left aside.
    """
    features, logits = model_outputs(train.texts, search)
    inputs = np.concatenate([features, np.ones((len(features), 1), np.float32)], axis=1)
    of_model = soft_max(logits)
    of_layer = soft_max(inputs @ fit_head(inputs, of_model, REPRESENTER_L2, several=False))
    weights = (of_layer - of_model) / (-2 * REPRESENTER_L2 * len(features))
    above = weights > search.weight_threshold
    rank = np.empty(len(features))
    rank[np.lexsort((np.where(above, weights, 0).sum(1), above.sum(1)))] = np.arange(len(features))
    return rank, sigmoid(logits)


def model_outputs(texts, search):
    """(features float32 [N, H], logits float32 [N, L]) of the checkpoint."""
    set_device(search.device)
    model = search.checkpoint.load_model()
    features = encode_features(model, search.checkpoint.tokenizer, texts, search.batch_size, "train rows")
    return features, with_linear(classify_features(model, features), search.checkpoint.linear, texts)


STRATEGIES = {function.__name__: function for function in (out_of_fold, neighbours, representer)}


def suspicion(tree, gold, probabilities):
    """The label in question of one row (bool [L], float [L]) in words.

    The deepest labels are named: a wrong label mostly brings wrong ancestors with it.
    """

    def deepest(labels):
        inner = {int(tree.parents[i]) for i in labels}
        return [i for i in labels if i not in inner]

    doubted = deepest(np.flatnonzero(gold & (probabilities < 0.5)).tolist())
    expected = deepest(np.flatnonzero(~gold & (probabilities > 0.5)).tolist())
    has = tree.labels[min(doubted, key=lambda i: probabilities[i])] if doubted else None
    if expected:
        best = max(expected, key=lambda i: probabilities[i])
        return f"{f'has {has}' if has else 'lacks a label'}, model says {tree.labels[best]}, {probabilities[best]:.2f}"
    if has:
        return f"has {has}, model gives it {probabilities[tree.index[has]]:.2f}"
    return "no single label stands out"
