"""Learn from dev rows what the nearness of a text to a label means, so that labels without rows can have probabilities.

    python retrieval_based/fit_unseen.py --params_path checkpoint/model_best --classifier checkpoint
    python predict.py --dataset_dir data --unseen new_labels.txt

Reads   params_path/     the encoder of retrieval_based/train.py, or its export
        classifier/      the checkpoint beside which new labels are to be given
        dataset_dir/dev.txt and label.txt
Writes  params_path/{unseen.json, unseen.npy}, which --unseen of all scripts needs, see hierarchical/unseen.py

Run it again when the encoder or the classifier was trained again; not when labels come or go. What it wrote serves the
exports of both, too: retrieval_based/export_model.py takes it along.
"""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

if not __package__:  # run as a file: the project's root must be found
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from hierarchical.batches import row_windows
from hierarchical.bi_encoder import Encoder
from hierarchical.checkpoints import require_same_labels
from hierarchical.predictor import Predictor
from hierarchical.sets import only_writer
from hierarchical.thresholds import folds_of
from hierarchical.unseen import FILE, Curve, features, leaves_of, write_vectors
from retrieval_based.encoder import add_model_arguments, texts_of_labels
from utils import (
    InputError,
    add_dataset_arguments,
    check_minima,
    get_logger,
    load_reported,
    make_parser,
    progress_bar,
    require_directory,
    require_outputs,
    run,
)

CELLS = 2_000_000  # rows x leaves that are looked at
FOLDS, LEAST_LEAVES, LEAST_GOLD = 5, 10, 50


def parse_args(argv):
    parser = make_parser("Learn what the nearness of a text and a label means.")
    add_dataset_arguments(parser.add_argument_group("data"), "dev", compared=True)
    add_model_arguments(parser)
    new = parser.add_argument_group("labels without rows")
    new.add_argument("--classifier", default="./checkpoint/", help="directory that train.py saved the model in")
    new.add_argument("--threshold", type=float, default=0.5, help="a new label needs a probability above this")
    args = parser.parse_args(argv)
    check_minima(parser, args, batch_size=1, max_seq_length=3)
    if not 0 <= args.threshold <= 1:
        parser.error(f"argument --threshold: must be from 0 to 1, got {args.threshold}")
    return args


def measure(predictor, encoder, vectors, texts):
    """Features float64 [N, K, 3] of the known leaves, which have these vectors, each taken for a new label."""
    leaves, found = leaves_of(predictor.tree), []
    everywhere = np.arange(len(leaves))
    with progress_bar(len(texts), "dev") as bar:
        for window in row_windows(len(texts), len(predictor.tree)):
            part = [texts[i] for i in window]
            similarities = encoder.encode(part, bar.update) @ vectors.T
            logits = predictor.text_logits(part)[:, leaves]
            found.append(features(similarities, everywhere, logits, everywhere))
    return np.concatenate(found)


def scores_left_out(found, gold, threshold):
    """(precision, recall, F1) of each fifth of the labels, by what the others tell."""
    folds, right, given = folds_of(gold.shape[1], FOLDS), 0, 0
    for fold in range(FOLDS):
        rest, part = folds != fold, folds == fold
        curve = Curve.fit(found[:, rest], gold[:, rest], threshold=threshold, encoder="", classifier="", vectors="")
        chosen = curve.probabilities(found[:, part]) > threshold
        right, given = right + (chosen & gold[:, part]).sum(), given + chosen.sum()
    return right / max(given, 1), right / gold.sum(), 2 * right / (given + gold.sum())


def main(argv=None):
    args = parse_args(argv)
    logger = get_logger()
    encoder = Encoder(args.params_path, args.max_seq_length, args.batch_size)
    predictor = Predictor(args.classifier, kind="checkpoint", device=args.device, batch_size=args.batch_size)
    tree, directory = predictor.tree, require_directory(args.dataset_dir)
    dev_path = directory / args.dev_file
    require_same_labels(tree, directory / args.label_file)
    rows = load_reported(dev_path, tree, logger)
    require_outputs({"--params_path": Path(args.params_path) / FILE}, [dev_path])
    leaves = leaves_of(tree)
    every = -(-len(rows.texts) // max(1, CELLS // len(leaves)))
    chosen = range(0, len(rows.texts), every)
    gold = rows.multi_hot(len(tree), chosen)[:, leaves]
    if len(leaves) < LEAST_LEAVES or gold.any(0).sum() < LEAST_LEAVES or gold.sum() < LEAST_GOLD:
        raise InputError(
            f"{dev_path}: {gold.sum()} times one of {gold.any(0).sum()} leaf labels is too little to learn from. It "
            f"takes {LEAST_GOLD} and {LEAST_LEAVES}, and better far more."
        )
    with only_writer(args.params_path):  # the curve is for this encoder
        predictor.load()
        encoder.load(args.device)
        vectors = encoder.encode(texts_of_labels(tree, leaves))
        found = measure(predictor, encoder, vectors, [rows.texts[i] for i in chosen])
        precision, recall, f1 = (100 * value for value in scores_left_out(found, gold, args.threshold))
        about = {"threshold": args.threshold, "encoder": encoder.id, "classifier": predictor.mark}
        curve = Curve.fit(found, gold, vectors="", **about)
        replace(curve, vectors=write_vectors(args.params_path, tree, vectors)).write(args.params_path)
    logger.info(
        f"Known labels, each fifth of them by what the others tell: precision {precision:.2f} | recall {recall:.2f} | "
        f"F1 {f1:.2f}. The encoder knows these labels' rows: new ones fare worse"
    )
    logger.info(f"Saved in {Path(args.params_path) / FILE}; now: predict.py --unseen, with a file of new labels")


if __name__ == "__main__":
    run(main)
