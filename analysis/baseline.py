"""A linear classifier: within a minute, and without an encoder, what can be learned from these texts.

    python analysis/baseline.py --dataset_dir data
    python analysis/baseline.py --dataset_dir data --save_dir baseline          # a model that predicts and serves

Reads   dataset_dir/{train.txt, dev.txt, label.txt}   (or JSON or CSV, see hierarchical/formats.py)
Writes  output_json   all scores as fractions, overall, per level and per label, if asked for
        save_dir/{linear.safetensors, config.json, label.txt, decision.json}   the model, if asked for

TF-IDF of character 1- to 4-grams (Chinese needs no word segmentation) and one linear support vector machine per label.
How far all boundaries are moved, by which macro-F1 above all gains, is chosen on the dev rows; yet the scores are
honest: the rows of each fifth of dev are labelled as the other four fifths chose.
"""

import json
import sys
import time
from contextlib import nullcontext
from pathlib import Path

if not __package__:  # run as a file: the project's root must be found
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from analysis.scoring import fit_baseline, headline
from hierarchical.checkpoints import save_linear_model
from hierarchical.decisions import Decision
from hierarchical.identity import RECORD, require_no_rows
from hierarchical.sets import only_writer
from hierarchical.weights import find_weights
from utils import (
    InputError,
    LabelTree,
    add_dataset_arguments,
    atomic_write,
    get_logger,
    load_rows,
    make_parser,
    report_rows,
    require_directory,
    require_writable,
    run,
)


def parse_args(argv):
    parser = make_parser("A linear classifier and its scores.")
    add_dataset_arguments(parser, "train", "dev")
    parser.add_argument("--save_dir", help="leave the model in this directory")
    parser.add_argument("--output_json", help="write all scores to this file")
    return parser.parse_args(argv)


def require_place(save_dir, data):
    """Raise InputError where the model would lie among rows, or replace one that took longer to make."""
    require_no_rows(save_dir, "--save_dir", data)
    if find_weights(save_dir) or (Path(save_dir) / RECORD).exists():
        raise InputError(f"--save_dir {save_dir}: holds a model with an encoder. Give another directory.")


def main(argv=None):
    args = parse_args(argv)
    logger, directory = get_logger(), require_directory(args.dataset_dir)
    inputs = [directory / name for name in (args.label_file, args.train_file, args.dev_file)]
    tree = LabelTree.read(inputs[0])
    train, dev = (load_rows(path, tree, unlabelled="skip") for path in inputs[1:])
    report_rows(args.train_file, train, tree, logger)
    report_rows(args.dev_file, dev, tree, logger)
    if args.output_json:
        require_writable(Path(args.output_json), "--output_json", inputs)
    if args.save_dir:
        require_place(args.save_dir, directory)
    with only_writer(args.save_dir) if args.save_dir else nullcontext():
        fit_and_save(args, tree, train, dev, logger)


def fit_and_save(args, tree, train, dev, logger):
    """The model, its scores, and what is to be written of them."""
    logger.info(f"Linear baseline: {len(tree)} labels, {len(train.texts)} train rows, {len(dev.texts)} dev rows")
    started = time.perf_counter()
    branch, scores = fit_baseline(train, dev, tree, logger)
    for line in headline(scores):
        logger.info(line)
    logger.info(
        f"Done in {time.perf_counter() - started:.1f} s. An encoder should beat these scores; if they are low too, "
        "look at the labels before the model."
    )
    if args.save_dir:
        save_linear_model(args.save_dir, branch, tree, Decision())
        logger.info(f"Saved in {args.save_dir}: predict.py, analysis/evaluate.py, infer.py and the HTTP server take it")
    if args.output_json:
        with atomic_write(args.output_json) as file:
            json.dump(scores, file, ensure_ascii=False, indent=1)


if __name__ == "__main__":
    run(main)
