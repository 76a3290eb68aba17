"""Scores of a linear classifier: within a minute, and without an encoder, what can be learned from these texts.

    python analysis/baseline.py --dataset_dir data

Reads   dataset_dir/{train.txt, dev.txt, label.txt}   (or .jsonl/.csv rows, see utils.py)
Writes  output_json   all scores as fractions, overall, per level and per label, if asked for

TF-IDF of character 1- to 4-grams (Chinese needs no word segmentation) and one linear support vector machine per label.
"""

import argparse
import json
import sys
import time
import warnings
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from analysis.evaluate import headline
from metric import evaluate
from utils import (
    HelpFormatter,
    InputError,
    LabelTree,
    atomic_write,
    get_logger,
    load_reported,
    require_writable,
    run,
)


def parse_args():
    parser = argparse.ArgumentParser(description="Scores of a linear classifier.", formatter_class=HelpFormatter)
    parser.add_argument("--dataset_dir", required=True, help="directory with the train, dev and label files")
    parser.add_argument("--train_file", default="train.txt", help="name inside dataset_dir; .txt, .jsonl or .csv")
    parser.add_argument("--dev_file", default="dev.txt", help="name inside dataset_dir; .txt, .jsonl or .csv")
    parser.add_argument("--label_file", default="label.txt", help="name inside dataset_dir")
    parser.add_argument("--output_json", help="write all scores to this file")
    return parser.parse_args()


def baseline_scores(train_rows, dev_rows, tree):
    """Fit on the train rows, score on the dev rows (both utils.Rows): the result dict of `metric.evaluate`."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.svm import LinearSVC
    from tqdm import tqdm

    vectorizer = TfidfVectorizer(analyzer="char", ngram_range=(1, 4), min_df=2, sublinear_tf=True)
    try:
        features = vectorizer.fit_transform(train_rows.texts)
    except ValueError:  # no two rows share a character
        features = vectorizer.set_params(min_df=1).fit_transform(train_rows.texts)
    dev_features = vectorizer.transform(dev_rows.texts)
    targets = train_rows.multi_hot(len(tree))
    predicted = np.zeros((len(dev_rows.texts), len(tree)), bool)
    with warnings.catch_warnings():  # a classifier that stopped short of its optimum is scored as it is
        warnings.simplefilter("ignore", ConvergenceWarning)
        # One label after the other: OneVsRestClassifier would hold a dense row of coefficients for each of them.
        for i in tqdm(range(len(tree)), desc="labels", disable=None, leave=False):
            if targets[:, i].all() or not targets[:, i].any():  # nothing to tell apart
                predicted[:, i] = targets[0, i]
            else:
                predicted[:, i] = LinearSVC(random_state=0).fit(features, targets[:, i]).predict(dev_features)
    return evaluate(predicted, dev_rows.multi_hot(len(tree)), tree)


def comparison(scores, baseline):
    """A model's headline scores beside the baseline's (result dicts), in percent: list[str]."""
    names = ("accuracy", "macro_f1", "micro_f1", "hierarchical_f1")
    pairs = " | ".join(f"{name}: {100 * scores[name]:.2f} / {100 * baseline[name]:.2f}" for name in names)
    lines = [f"Model / linear baseline in dev dataset: {pairs}"]
    if scores["micro_f1"] <= baseline["micro_f1"]:
        lines.append("The model should beat the linear baseline: train longer, or with a higher --learning_rate.")
    return lines


def main():
    args = parse_args()
    logger, directory = get_logger(), Path(args.dataset_dir)
    if not directory.is_dir():
        raise InputError(f"--dataset_dir {directory}: no such directory.")
    inputs = [directory / name for name in (args.label_file, args.train_file, args.dev_file)]
    tree = LabelTree.read(inputs[0])
    train, dev = (load_reported(path, tree, logger) for path in inputs[1:])
    if args.output_json:
        require_writable(Path(args.output_json), "--output_json", inputs)
    logger.info(f"Linear baseline: {len(tree)} labels, {len(train.texts)} train rows, {len(dev.texts)} dev rows")
    started = time.perf_counter()
    scores = baseline_scores(train, dev, tree)
    for line in headline(scores):
        logger.info(line)
    logger.info(
        f"Done in {time.perf_counter() - started:.1f} s. An encoder should beat these scores; if they are low too, "
        "look at the labels before the model."
    )
    if args.output_json:
        with atomic_write(args.output_json) as file:
            json.dump(scores, file, ensure_ascii=False, indent=1)


if __name__ == "__main__":
    run(main)
