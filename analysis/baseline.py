"""Scores of a linear classifier: within a minute, and without an encoder, what can be learned from these texts.

    python analysis/baseline.py --dataset_dir data

Reads   dataset_dir/{train.txt, dev.txt, label.txt}   (or JSON or CSV, see hierarchical/formats.py)
Writes  output_json   all scores as fractions, overall, per level and per label, if asked for

TF-IDF of character 1- to 4-grams (Chinese needs no word segmentation) and one linear support vector machine per label.
"""

import json
import sys
import time
from pathlib import Path

if not __package__:  # run as a file: the project's root must be found
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from analysis.scoring import baseline_scores, headline
from utils import (
    LabelTree,
    add_dataset_arguments,
    atomic_write,
    get_logger,
    load_reported,
    make_parser,
    require_directory,
    require_writable,
    run,
)


def parse_args(argv):
    parser = make_parser("Scores of a linear classifier.")
    add_dataset_arguments(parser, "train", "dev")
    parser.add_argument("--output_json", help="write all scores to this file")
    return parser.parse_args(argv)


def main(argv=None):
    args = parse_args(argv)
    logger, directory = get_logger(), require_directory(args.dataset_dir)
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
