"""Turn a checkpoint of train.py into models that run without it, and prove that they still say the same.

    python export_model.py --params_path checkpoint --output_path export
    python export_model.py --params_path checkpoint --output_path export --dataset_dir data --precision float32 int8

Reads   params_path/   a checkpoint
        dataset_dir/{dev.txt, label.txt}   the rows to check on; left out: those the checkpoint was trained with
Writes  output_path/   alone enough to predict and to serve:
            float32.pdmodel, float32.pdiparams, float32.pdiparams.info   the static graph; int64 input_ids and
                           token_type_ids [n, T] (ERNIE-M: input_ids alone) -> logits [n, L], n and T free.
                           paddle 3.2 and newer write float32.json in place of the first and the last
            float32.onnx, float16.onnx, int8.onnx   the same for ONNX Runtime, the labels in their metadata
            config.json, label.txt, decision.json and the tokenizer's files
            linear.safetensors   the linear branch of a checkpoint that has one; whoever predicts adds it to the logits
            export.json    the list of these models, and the figures of the table that is printed at the end
An export replaces an export: models of an earlier one, which export.json lists, are removed.

Each model predicts the rows that the checkpoint predicts: the table shows how far its probabilities are off, its
scores, and its speed on this machine.
"""

import json
from pathlib import Path

import numpy as np

from hierarchical.checkpoints import Checkpoint, require_same_labels
from hierarchical.devices import set_device
from hierarchical.engines import MAX_F1_DROP, PRECISIONS, find_precision
from hierarchical.exporting import (
    BATCH_SIZE,
    compare,
    export_checkpoint,
    require_onnx_size,
    require_place,
    show,
    with_exports,
    write_record,
)
from hierarchical.identity import RECORD
from hierarchical.sets import only_writer
from utils import add_long_text_arguments, get_logger, load_reported, long_text_arguments, make_parser, run

CHECKED_ROWS = 2000  # of the dev file, evenly spread


def parse_args(argv):
    parser = make_parser("Export a checkpoint.")
    parser.add_argument("--params_path", default="./checkpoint/", help="directory that train.py saved the model in")
    parser.add_argument("--output_path", default="./export", help="directory for the exported models")
    add_long_text_arguments(parser)
    parser.add_argument("--multilingual", action="store_true", help="accepted and not needed: the checkpoint knows")
    parser.add_argument("--format", choices=("paddle", "onnx", "both"), default="both", help="what to write")
    of_models = "of the ONNX models (default: float32 int8)"
    parser.add_argument("--precision", nargs="+", choices=PRECISIONS, help=of_models)
    parser.add_argument("--dataset_dir", help="where the rows to check on lie (default: as in training)")
    parser.add_argument("--dev_file", help="name inside dataset_dir; left out: as in training, or dev.txt")
    parser.add_argument(
        "--max_f1_drop",
        type=float,
        default=MAX_F1_DROP,
        help="points of F1 a model may lose; above it there is a warning, and int8 is used only where asked for",
    )
    args = parser.parse_args(argv)
    if args.format == "paddle" and {*(args.precision or ())} - {"float32"}:
        parser.error("argument --precision: only the ONNX models have one, and --format paddle writes none")
    args.precision = args.precision or ["float32", "int8"]
    if not args.max_f1_drop >= 0:
        parser.error(f"argument --max_f1_drop: must be at least 0, got {args.max_f1_drop}")
    return args


def rows_to_check(args, tree, logger):
    """(texts, labels bool [N, L]) to compare the models on; without a dev file the labels' own names, and None."""
    directory, name = args.dataset_dir, args.dev_file or "dev.txt"
    if directory is None:
        try:
            trained = json.loads((Path(args.params_path) / "run.json").read_text(encoding="utf-8"))["arguments"]
            directory, name = trained["dataset_dir"], args.dev_file or trained["dev_file"]
        except (OSError, ValueError, KeyError, TypeError):
            pass  # no run.json of train.py: the checkpoint was copied without it, or comes from prune.py
        if directory is None or not Path(directory, name).is_file():
            logger.warning("No dev rows to check on (--dataset_dir): comparing on the names of the labels, unscored")
            return tree.labels, None
    require_same_labels(tree, Path(directory, "label.txt"))
    rows = load_reported(Path(directory, name), tree, logger)
    every = -(-len(rows.texts) // CHECKED_ROWS)
    chosen = range(0, len(rows.texts), every)
    return [rows.texts[i] for i in chosen], rows.multi_hot(len(tree), chosen)


def warn_about(table, max_f1_drop, logger):
    """Say loudly what a model lost, and if int8 gained nothing."""
    first = table[0]
    for row in table[1:]:
        for key in ("micro_f1", "macro_f1"):
            if key in row and (drop := 100 * (first[key] - row[key])) > max_f1_drop:
                logger.warning(
                    f"{row['model']}: {key[:5]}-F1 is {drop:.2f} points below the checkpoint's, more than the "
                    f"--max_f1_drop of {max_f1_drop:g}. Use another precision."
                )
    times = {row["model"]: row["milliseconds_per_text"] for row in table}
    if times.get("int8.onnx", 0) > times.get("float32.onnx", np.inf):
        logger.warning("int8.onnx is slower than float32.onnx on this processor: use float32 here")


def main(argv=None):
    args = parse_args(argv)
    logger, checkpoint = get_logger(), Checkpoint.open(args.params_path, **long_text_arguments(args))
    tree = checkpoint.tree
    require_place(checkpoint, Path(args.output_path))
    if checkpoint.family.inputs == ("input_ids",):
        logger.info(f"This checkpoint is {checkpoint.family.title}: its models read input_ids alone")
    elif args.multilingual:
        logger.warning("--multilingual: this checkpoint is not ERNIE-M; exporting it as what it is")
    texts, gold = rows_to_check(args, tree, logger)
    if args.format != "paddle":
        require_onnx_size(checkpoint.weights, "--format paddle")
    paddle = set_device("cpu")  # the graph is the same everywhere
    model = checkpoint.load_model()
    with only_writer(args.output_path, "wait until it ends, or give another --output_path"):
        export_and_check(args, paddle, checkpoint, model, texts, gold, logger)


def export_and_check(args, paddle, checkpoint, model, texts, gold, logger):
    """Write the models, in the place of an earlier export, and compare them. texts, gold: of `rows_to_check`."""
    paths = export_checkpoint(paddle, checkpoint, model, args.output_path, "float32", args.format, args.precision)
    for path in paths:
        logger.info(f"Exported {path}")
    if paths[0].suffix == ".json":
        logger.info("This version of paddle writes float32.json, no float32.pdmodel; every script here reads either")

    models = with_exports(
        model, checkpoint.weights, checkpoint.tokenizer.pad_id, paths, BATCH_SIZE, checkpoint.tokenizer.windows
    )
    further = checkpoint.linear.logits(texts) if checkpoint.linear else 0.0
    table = compare(models, checkpoint.tree, checkpoint.tokenizer.encode(texts), gold, checkpoint.decision, further)
    show(table, logger)
    warn_about(table, args.max_f1_drop, logger)
    write_record(Path(args.output_path) / RECORD, len(texts), table, args.max_f1_drop)
    if {"float32", "int8"} <= {*args.precision} and args.format != "paddle":
        logger.info(f"Where the precision is auto, it is {find_precision(args.output_path, 'auto')}")
    logger.info(f"Checked on {len(texts)} texts; models, labels and tokenizer are in {args.output_path}")


if __name__ == "__main__":
    run(main)
