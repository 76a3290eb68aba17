"""Rows of the training file whose labels are most likely wrong, to be checked and labelled again.

    python analysis/dirty.py --dataset_dir data
    python doccano.py --annotate_file data/train_dirty.jsonl --save_dir relabel         # to the annotation tool
    python doccano.py --doccano_file relabelled.jsonl --dirty --task_type hierarchical --save_dir data --overwrite
    python analysis/dirty.py --dataset_dir data --merge                                 # and back into training data
    python analysis/dirty.py --dataset_dir data --params_path checkpoint --strategy representer

Reads   dataset_dir/train.txt               (or .jsonl/.csv rows, see utils.py)
        dataset_dir/label.txt               the label tree
        params_path/                        the checkpoint, for the strategies that need one
Writes  dataset_dir/train_dirty.txt         the most suspicious rows, in the order of the training file
        dataset_dir/train_dirty_rest.txt    all others
        dataset_dir/train_dirty.jsonl       the suspicious rows again, worst first, each with the label in question

With --merge
Reads   train_dirty.txt, by now with right labels, train_dirty_rest.txt, and the training file for comparison
Writes  dataset_dir/train_clean.txt         both together

By default a row is suspicious when a linear classifier of character n-grams that was trained on other rows contradicts
its labels. A model that was trained on the row itself knows its labels by heart, wrong ones too.
"""

import argparse
import json
import sys
from collections import Counter
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from analysis.cases import in_directory
from checkpoints import load_checkpoint, open_checkpoint, require_same_labels
from modeling import encode_features, sigmoid
from runtime import set_device
from utils import (
    HelpFormatter,
    InputError,
    LabelTree,
    atomic_write,
    check_minima,
    get_logger,
    load_reported,
    require_row_format,
    require_writable,
    run,
    write_rows,
)

FOLDS = 5
NEIGHBOURS = 10
LEAST = 0.01  # no neighbour having a label does not make it impossible
L2 = 3e-5  # of the out-of-fold classifiers
REPRESENTER_L2 = 0.03
COMPONENTS = 300  # of the character n-grams
LABELS_AT_A_TIME = 512  # heads of different labels are independent, so memory need not grow with the label set


def parse_args():
    parser = argparse.ArgumentParser(description="Suspected label errors in train.", formatter_class=HelpFormatter)
    data = parser.add_argument_group("data")
    data.add_argument("--dataset_dir", required=True, help="directory with the files below")
    data.add_argument("--train_file", default="train.txt", help="name inside dataset_dir; .txt, .jsonl or .csv")
    data.add_argument("--label_file", default="label.txt", help="name inside dataset_dir")
    model = parser.add_argument_group("model, for the strategies neighbours and representer")
    model.add_argument("--params_path", default="./checkpoint/", help="directory that train.py saved the model in")
    model.add_argument("--max_seq_length", type=int, help="tokens of a text that are read (default: as in training)")
    model.add_argument("--batch_size", type=int, default=16, help="texts per step")
    model.add_argument("--device", default="gpu", help="cpu, gpu, xpu or npu; without it: the CPU, with a warning")
    search = parser.add_argument_group("search")
    search.add_argument("--strategy", choices=STRATEGIES, default="out_of_fold", help="what makes a row suspicious")
    search.add_argument("--dirty_num", type=int, default=100, help="rows to find")
    least = "representer: count a row's weights above this"
    search.add_argument("--dirty_threshold", type=float, default=0.0, help=least)
    search.add_argument("--seed", type=int, default=3, help="of the folds")
    result = parser.add_argument_group("result")
    result.add_argument("--dirty_file", default="train_dirty.txt", help="suspicious rows; a bare name: in dataset_dir")
    result.add_argument("--rest_file", default="train_dirty_rest.txt", help="the other rows; .txt or .jsonl")
    result.add_argument(
        "--suspect_file", default="train_dirty.jsonl", help="suspicious rows with the label in question"
    )
    result.add_argument(
        "--merge", action="store_true", help="write clean_file from dirty_file, relabelled, and rest_file"
    )
    result.add_argument("--clean_file", default="train_clean.txt", help="what --merge writes")
    args = parser.parse_args()
    check_minima(parser, args, batch_size=1, max_seq_length=3, dirty_num=1, seed=0)
    return args


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
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectorizer = TfidfVectorizer(analyzer="char", ngram_range=(1, 4), min_df=2, sublinear_tf=True)
    try:
        counts = vectorizer.fit_transform(texts)
    except ValueError:  # no two rows share a character
        counts = vectorizer.set_params(min_df=1).fit_transform(texts)
    dimensions = min(COMPONENTS, min(counts.shape) - 1)
    if dimensions < 1:
        return np.zeros((len(texts), 1), np.float32)
    features = TruncatedSVD(dimensions, random_state=0).fit_transform(counts)
    features -= features.mean(0)
    return (features / max(float(np.sqrt(np.square(features).sum(1).mean())), 1e-12)).astype(np.float32)


# ---- strategies ------------------------------------------------------------------------------------------------------
# Each takes (train Rows, gold bool [N, L], args) and returns (suspicion of each row: float [N], how likely each label
# is for it: float [N, L]).


def out_of_fold(train, gold, args):
    """Probabilities from classifiers trained on the other folds; a row is as suspicious as its least likely label."""
    from tqdm import tqdm

    number = {text: i for i, text in enumerate(dict.fromkeys(train.texts))}  # equal texts share a fold
    if len(number) < FOLDS:
        raise InputError(
            f"--strategy out_of_fold: needs at least {FOLDS} different texts; {args.train_file} has too few."
        )
    folds = np.random.default_rng(args.seed).permutation(len(number)) % FOLDS
    fold_of_row, likely = folds[[number[text] for text in train.texts]], np.zeros(gold.shape, np.float32)
    with tqdm(total=FOLDS + 1, desc="n-grams, folds", disable=None, leave=False) as bar:
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


def neighbours(train, gold, args):
    """The labels of the rows that look most alike to the model; a row is as suspicious as its cross-entropy is high."""
    from analysis.sent_interpret import nearest

    features, _ = model_outputs(train.texts, args)
    rows, _ = nearest(features, features, NEIGHBOURS + 1)
    likely = np.stack([gold[near[near != i][:NEIGHBOURS]].mean(0) for i, near in enumerate(rows)])
    agreement = np.where(gold, likely, 1 - likely)
    return -np.log(agreement.clip(LEAST, 1)).sum(1), likely


def representer(train, gold, args):
    """Representer points, as PaddleNLP's application uses them.

    Yeh, Kim, Yen and Ravikumar (2018), Representer point selection for explaining deep neural networks: a linear
    soft-max layer with an l2 term is fitted to the soft-max of the model's own logits; the weight of row i for label c
    is the negative gradient of its loss / (2 l2 N). Rows are ranked by the number of weights above --dirty_threshold,
    then by their sum. The given labels play no part in it, and that a row can have several labels is left aside.
    """
    features, logits = model_outputs(train.texts, args)
    inputs = np.concatenate([features, np.ones((len(features), 1), np.float32)], axis=1)
    of_model = soft_max(logits)
    of_layer = soft_max(inputs @ fit_head(inputs, of_model, REPRESENTER_L2, several=False))
    weights = (of_layer - of_model) / (-2 * REPRESENTER_L2 * len(features))
    above = weights > args.dirty_threshold
    rank = np.empty(len(features))
    rank[np.lexsort((np.where(above, weights, 0).sum(1), above.sum(1)))] = np.arange(len(features))
    return rank, sigmoid(logits)


def model_outputs(texts, args):
    """(features float32 [N, H], logits float32 [N, L]) of the checkpoint."""
    _, tokenizer, _ = open_checkpoint(args.params_path, args.max_seq_length)
    set_device(args.device)
    model = load_checkpoint(args.params_path)
    features = encode_features(model, tokenizer, texts, args.batch_size, "train rows")
    return features, features @ model.classifier.weight.numpy() + model.classifier.bias.numpy()


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


# ---- main ------------------------------------------------------------------------------------------------------------


def find(args, logger, directory, paths):
    """Write dirty_file, rest_file and suspect_file."""
    train_path, label_path = directory / args.train_file, directory / args.label_file
    if args.strategy == "out_of_fold":
        tree = LabelTree.read(label_path)
    else:
        tree, _, _ = open_checkpoint(args.params_path, args.max_seq_length)
        require_same_labels(tree, label_path)
    train = load_reported(train_path, tree, logger)
    if args.dirty_num >= len(train.texts):
        raise InputError(
            f"--dirty_num {args.dirty_num}: {train_path} has {len(train.texts)} labelled rows; find fewer."
        )
    names = [[tree.labels[i] for i in labels] for labels in train.labels]
    for flag in ("dirty_file", "rest_file"):
        require_row_format(paths[flag], f"--{flag}", zip(train.texts, names))
    if paths["suspect_file"].suffix != ".jsonl":
        raise InputError(f"{paths['suspect_file']}: --suspect_file is written as .jsonl; name it so.")
    for flag in ("dirty_file", "rest_file", "suspect_file"):
        require_writable(paths[flag], f"--{flag}", [train_path, label_path])

    gold = train.multi_hot(len(tree))
    scores, likely = STRATEGIES[args.strategy](train, gold, args)
    worst = np.argsort(-scores, kind="stable")[: args.dirty_num]
    dirty = set(worst.tolist())
    for flag, rows in (("dirty_file", sorted(dirty)), ("rest_file", [i for i in range(len(gold)) if i not in dirty])):
        write_rows(paths[flag], [(train.texts[i], names[i]) for i in rows])
    with atomic_write(paths["suspect_file"]) as file:
        for i in worst:
            row = {"text": train.texts[i], "labels": names[i], "suspect": suspicion(tree, gold[i], likely[i])}
            row["model"] = {tree.labels[k]: round(float(likely[i, k]), 2) for k in np.flatnonzero(likely[i] > 0.5)}
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    for i in worst[:5]:
        logger.info(f"{suspicion(tree, gold[i], likely[i])}: {train.texts[i][:60]}")
    for flag, what in (("dirty_file", "Suspicious rows"), ("rest_file", "The others"), ("suspect_file", "Reasons")):
        logger.info(f"{what} saved in {paths[flag]}")


def merge(args, logger, directory, paths):
    """Write clean_file: rest_file, then the relabelled dirty_file, and say what has changed since train_file."""
    tree = LabelTree.read(directory / args.label_file)
    train, dirty, rest = (
        load_reported(path, tree, logger)
        for path in (directory / args.train_file, paths["dirty_file"], paths["rest_file"])
    )
    rows = [
        (text, [tree.labels[i] for i in labels])
        for text, labels in zip(rest.texts + dirty.texts, rest.labels + dirty.labels)
    ]
    require_row_format(paths["clean_file"], "--clean_file", rows)
    inputs = [directory / args.label_file, directory / args.train_file, paths["dirty_file"], paths["rest_file"]]
    require_writable(paths["clean_file"], "--clean_file", inputs)
    texts, before = Counter(train.texts), Counter(zip(train.texts, train.labels))
    changed = sum((Counter(zip(dirty.texts, dirty.labels)) - before).values())
    if gone := sum((texts - Counter(rest.texts + dirty.texts)).values()):
        logger.warning(f"{gone} texts of {args.train_file} are in neither file (left out when labelling?)")
    if new := sum((Counter(rest.texts + dirty.texts) - texts).values()):
        logger.warning(f"{new} texts are not in {args.train_file} (changed when labelling?)")
    write_rows(paths["clean_file"], rows)
    logger.info(f"{changed} of {len(dirty.texts)} checked rows have other labels now")
    logger.info(f"{len(rows)} rows saved in {paths['clean_file']}; train with --train_file {paths['clean_file'].name}")


def main():
    args = parse_args()
    logger, directory = get_logger(), Path(args.dataset_dir)
    if not directory.is_dir():
        raise InputError(f"--dataset_dir {directory}: no such directory.")
    flags = ("dirty_file", "rest_file", "suspect_file", "clean_file")
    paths = {flag: in_directory(directory, getattr(args, flag)) for flag in flags}
    if len({path.resolve() for path in paths.values()}) < len(paths):
        raise InputError("--dirty_file, --rest_file, --suspect_file and --clean_file must have different names.")
    (merge if args.merge else find)(args, logger, directory, paths)


if __name__ == "__main__":
    run(main)
