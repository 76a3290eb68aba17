"""Rows of the training file whose labels are most likely wrong, to be checked and labelled again.

    python analysis/dirty.py --dataset_dir data
    python doccano.py --annotate_file data/train_dirty.jsonl --save_dir relabel         # to the annotation tool
    python doccano.py --doccano_file relabelled.jsonl --dirty --task_type hierarchical --save_dir data --overwrite
    python analysis/dirty.py --dataset_dir data --merge                                 # and back into training data
    python analysis/dirty.py --dataset_dir data --params_path checkpoint --strategy representer

Reads   dataset_dir/train.txt               (or JSON or CSV, see hierarchical/formats.py)
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

import json
import sys
from collections import Counter
from pathlib import Path

import numpy as np

if not __package__:  # run as a file: the project's root must be found
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from analysis.cases import in_directory
from analysis.suspicion import STRATEGIES, Search, suspicion
from hierarchical.checkpoints import Checkpoint, require_same_labels
from utils import (
    InputError,
    LabelTree,
    add_checkpoint_arguments,
    add_dataset_arguments,
    atomic_write,
    check_minima,
    get_logger,
    load_reported,
    make_parser,
    require_directory,
    require_row_format,
    require_writable,
    run,
    shown,
    write_rows,
)


def parse_args(argv):
    parser = make_parser("Suspected label errors in train.")
    data = parser.add_argument_group("data")
    add_dataset_arguments(data, "train")
    add_checkpoint_arguments(parser, 16, "model, for the strategies neighbours and representer")
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
    args = parser.parse_args(argv)
    check_minima(parser, args, batch_size=1, max_seq_length=3, dirty_num=1, seed=0)
    return args


# ---- main ------------------------------------------------------------------------------------------------------------


def find(args, logger, directory, paths):
    """Write dirty_file, rest_file and suspect_file."""
    train_path, label_path = directory / args.train_file, directory / args.label_file
    checkpoint = None
    if args.strategy == "out_of_fold":
        tree = LabelTree.read(label_path)
    else:
        checkpoint = Checkpoint.open(args.params_path, args.max_seq_length)
        tree = checkpoint.tree
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

    search = Search(args.seed, checkpoint, args.device, args.batch_size, args.dirty_threshold)
    scores, likely_of = STRATEGIES[args.strategy](train, len(tree), search)
    worst = np.argsort(-scores, kind="stable")[: args.dirty_num].tolist()
    dirty, gold, likely = set(worst), train.multi_hot(len(tree), worst), likely_of(worst)
    for flag, rows in (("dirty_file", sorted(dirty)), ("rest_file", [i for i in range(len(scores)) if i not in dirty])):
        write_rows(paths[flag], [(train.texts[i], names[i]) for i in rows])
    with atomic_write(paths["suspect_file"]) as file:
        for i, own, of_model in zip(worst, gold, likely):
            row = {"text": train.texts[i], "labels": names[i], "suspect": suspicion(tree, own, of_model)}
            row["model"] = {tree.labels[k]: round(float(of_model[k]), 2) for k in np.flatnonzero(of_model > 0.5)}
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    for i, own, of_model in zip(worst[:5], gold, likely):
        logger.info(f"{suspicion(tree, own, of_model)}: {shown(train.texts[i], 60)}")
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


def main(argv=None):
    args = parse_args(argv)
    logger, directory = get_logger(), require_directory(args.dataset_dir)
    flags = ("dirty_file", "rest_file", "suspect_file", "clean_file")
    paths = {flag: in_directory(directory, getattr(args, flag)) for flag in flags}
    if len({path.resolve() for path in paths.values()}) < len(paths):
        raise InputError("--dirty_file, --rest_file, --suspect_file and --clean_file must have different names.")
    (merge if args.merge else find)(args, logger, directory, paths)


if __name__ == "__main__":
    run(main)
