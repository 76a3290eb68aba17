"""Narrow a fine-tuned model: fewer attention heads and feed-forward neurons, taught by the full model.

    python prune.py --dataset_dir data --params_dir checkpoint --output_dir prune --width_mult_list 3/4 2/3 1/2

Reads   params_dir/                        a checkpoint of train.py
        dataset_dir/{train.txt, dev.txt}   (or JSON or CSV, see hierarchical/formats.py)
        dataset_dir/label.txt              if it is there, it must be what the checkpoint was trained with
Writes  output_dir/width_mult_0.75/        for each width, its ratio rounded to two decimals: the best so far on dev, a
                                           checkpoint like train.py's, which every script takes as --params_path
            pruned_model.{pdmodel, pdiparams, pdiparams.info}, pruned_model.onnx, pruned_model_int8.onnx
                                           the same for prediction only, written at the end
        output_dir/{prune.json, prune.log}   arguments, scores, sizes and latencies; the log
        dataset_dir/.cache/                the tokens of files with 50,000 rows or more, for the next call

The method is DynaBERT's, see dynabert.py: rank heads and neurons, train all widths together as slices of one network,
cut. PaddleSlim is not used for it: its last release, 2.6.0, crashes on current Paddle, prunes one shared model in place
so that widths compound, and brings OpenCV along.
"""

import argparse
import json
import math
import re
import time
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import numpy as np

from hierarchical.checkpoints import Checkpoint, require_same_labels, save_checkpoint
from hierarchical.cpu_layers import adamw, flush_denormals, speed_up
from hierarchical.decisions import recalibrated
from hierarchical.devices import launched_processes, set_device
from hierarchical.dynabert import build_narrow, cut, distillation_loss, importance, reorder, set_width
from hierarchical.exporting import export_checkpoint, require_onnx_size
from hierarchical.long_texts import Windows
from hierarchical.modeling import model_inputs, predict_logits, score
from hierarchical.sets import only_writer
from hierarchical.token_rows import TokenRows, encode_file, in_windows
from hierarchical.training import log_scores, rate_schedule, train_batches
from hierarchical.weights import find_weights
from utils import (
    InputError,
    LabelTree,
    Rows,
    add_dataset_arguments,
    add_device_argument,
    add_max_seq_length_argument,
    atomic_write,
    check_minima,
    get_logger,
    load_reported,
    make_parser,
    progress_bar,
    require_directory,
    require_writable,
    run,
)

GRAPH = "pruned_model"  # name of the static graphs
RANKING_ROWS = 2000
LEAST_STEPS = 100  # between evaluations, unless asked for
HIDDEN_WEIGHT = 0.1  # of the hidden states' error in the loss
MAX_GRAD_NORM = 1.0
LATENCY_BATCHES = 30


class Task(NamedTuple):
    """What is learned, and from which rows.

    Where the full model reads texts in windows, it teaches window by window, and the labels of a text may be those of
    another window; scores are of whole texts.
    """

    checkpoint: Checkpoint  # of the full model
    train: Rows
    train_ids: TokenRows  # what the network sees at a time: texts, or their windows
    train_texts: np.ndarray  # int64, whose each is
    dev: Rows
    dev_ids: TokenRows  # of whole texts

    @property
    def tree(self) -> LabelTree:
        return self.checkpoint.tree

    @property
    def pad_id(self) -> int:
        return self.checkpoint.tokenizer.pad_id

    @property
    def windows(self) -> Windows | None:
        return self.checkpoint.tokenizer.windows


@dataclass
class Width:
    fraction: Fraction
    folder: Path
    model: object = None  # the narrow network, for dev scores and saving
    best: dict | None = None  # dev scores of what is saved in the folder

    @property
    def ratio(self):
        return round(float(self.fraction), 2)


def fraction(text):
    """A width as it is typed: '3/4' or '0.75'."""
    try:
        value = Fraction(text) if re.fullmatch(r"\d*\.?\d+(/\d+)?", text, re.ASCII) else None
    except (ValueError, ZeroDivisionError):
        value = None
    if value is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no fraction; write for example --width_mult_list 3/4 2/3 1/2")
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"{text} must lie between 0 and 1; 3/4 keeps three quarters of the width")
    return value


def parse_args(argv):
    parser = make_parser("Narrow a fine-tuned model.")
    data = parser.add_argument_group("data")
    add_dataset_arguments(data, "train", "dev", compared=True)
    model = parser.add_argument_group("model")
    model.add_argument("--params_dir", default="./checkpoint/", help="directory that train.py saved the model in")
    add_max_seq_length_argument(model)
    add_device_argument(model)
    widths = parser.add_argument_group("widths")
    widths.add_argument(
        "--width_mult_list",
        type=fraction,
        nargs="+",
        help="fractions of the heads and neurons to keep; fraction x heads must be a whole number (default: 3/4)",
    )
    widths.add_argument(
        "--rank_on",
        choices=("train", "dev"),
        default="train",
        help=f"rows that rank heads and neurons, {RANKING_ROWS} at most; dev rows then flatter the dev scores",
    )
    optim = parser.add_argument_group("optimization")
    optim.add_argument("--per_device_train_batch_size", type=int, default=32, help="rows per step")
    optim.add_argument("--per_device_eval_batch_size", type=int, default=32, help="rows per step on dev")
    optim.add_argument("--learning_rate", type=float, default=3e-5, help="peak rate")
    optim.add_argument("--num_train_epochs", type=float, default=10, help="passes over the training rows")
    optim.add_argument("--max_steps", type=int, default=-1, help="stop after this many steps; -1: after the epochs")
    optim.add_argument("--warmup_ratio", type=float, default=0.1, help="share of the steps in which the rate rises")
    optim.add_argument(
        "--hard_label_weight", type=float, default=0.0, help="weight of the rows' own labels beside the teacher's"
    )
    optim.add_argument("--seed", type=int, default=3, help="of row order, dropout and the rows that rank")
    result = parser.add_argument_group("result")
    result.add_argument("--output_dir", required=True, help="directory for the pruned models")
    result.add_argument("--logging_steps", type=int, default=100, help="steps between progress lines")
    every = "100, and at least as many as dev has batches"
    result.add_argument(
        "--save_steps", type=int, help=f"steps between evaluations; the last step has one (default: {every})"
    )
    args = parser.parse_args(argv)
    args.width_mult_list = args.width_mult_list or [Fraction(3, 4)]
    check_minima(
        parser, args,
        per_device_train_batch_size=1, per_device_eval_batch_size=1, learning_rate=1e-12, num_train_epochs=1e-6,
        max_steps=-1, warmup_ratio=0, hard_label_weight=0, seed=0, logging_steps=1, save_steps=1,
        max_seq_length=3,
    )  # fmt: skip
    if args.warmup_ratio > 1:
        parser.error(f"argument --warmup_ratio: must be from 0 to 1, got {args.warmup_ratio}")
    return args


def plan_widths(args, checkpoint):
    """One Width per fraction, checked against the head count of the checkpoint."""
    heads = checkpoint.config.get("num_attention_heads", 12)
    possible = " ".join(str(Fraction(i, heads)) for i in range(1, heads))
    widths = []
    for value in args.width_mult_list:
        if (value * heads).denominator != 1:
            raise InputError(
                f"--width_mult_list {value}: {value} of {heads} attention heads is not a whole number. With {heads} "
                f"heads these do: {possible}"
            )
        width = Width(value, Path())
        width.folder = Path(args.output_dir) / f"width_mult_{width.ratio}"
        if width.folder in [other.folder for other in widths]:
            raise InputError(f"--width_mult_list: {value} is there twice; remove one of them.")
        if width.folder.resolve() == Path(args.params_dir).resolve():
            raise InputError(f"--output_dir: {width.folder} is the model to prune itself. Choose another directory.")
        widths.append(width)
    return widths


def rank(args, task, model):
    """Sort the heads and neurons of `model` by what they are worth on (a sample of) the rows of --rank_on."""
    rows, ids, texts = task.train, task.train_ids, task.train_texts
    if args.rank_on == "dev":
        rows, (ids, texts) = task.dev, in_windows(task.dev_ids, task.windows)
    sample = np.random.default_rng(args.seed).permutation(len(ids))[:RANKING_ROWS]
    batch_size = args.per_device_train_batch_size
    sampled, labels = [ids[i] for i in sample], [rows.labels[texts[i]] for i in sample]
    if task.windows:  # which of its text's labels a window has, the full model knows
        labels = [np.flatnonzero(row > 0) for row in predict_logits(model, sampled, task.pad_id, batch_size)]
    with progress_bar(len(sample), "rank") as bar:
        reorder(model, *importance(model, sampled, labels, task.pad_id, batch_size, bar.update))


def evaluate(args, task, model):
    """Scores.result() of a model on the dev rows, logged, without the labels'."""
    batch_size, decision = args.per_device_eval_batch_size, task.checkpoint.decision
    with progress_bar(len(task.dev_ids), "dev") as bar:
        scores = score(
            model, task.tree, task.dev, task.dev_ids, task.pad_id, decision, batch_size, bar.update,
            linear=task.checkpoint.linear, windows=task.windows,
        ).result()  # fmt: skip
    log_scores(get_logger(), scores)
    del scores["labels"]  # thousands of numbers; analysis/evaluate.py gives them
    return scores


def train_step(args, task, rows, teacher, student, widths, optimizer):
    """One update by the summed gradients of all widths on these rows; returns their mean loss."""
    import paddle

    inputs = model_inputs([task.train_ids[i] for i in rows], task.pad_id)
    targets = paddle.to_tensor(task.train.multi_hot(len(task.tree), task.train_texts[rows]), "float32")
    with paddle.no_grad():
        taught = teacher(**inputs, output_hidden_states=True)
    total = 0.0
    for width in widths:
        set_width(student, width.fraction)
        own = student(**inputs, output_hidden_states=True)
        loss = distillation_loss(own, taught, inputs["attention_mask"], targets, HIDDEN_WEIGHT, args.hard_label_weight)
        loss.backward()
        total += float(loss)
    if not np.isfinite(total):
        raise InputError(f"the loss is {total}: training diverged; use a lower --learning_rate")
    optimizer.step()
    optimizer.clear_grad()
    return total / len(widths)


def steps_between_evaluations(dev_rows, batch_size):
    """So many that no more dev rows are scored than train rows are learned from, of which each takes longer."""
    return max(LEAST_STEPS, -(-dev_rows // batch_size))


def distil(args, task, teacher, student, widths):
    """Train all widths of `student` together; the best of each, by macro-F1 on dev, is in its folder at any time."""
    lengths = task.train_ids.lengths
    per_epoch = -(-len(lengths) // args.per_device_train_batch_size)
    steps = args.max_steps if args.max_steps > 0 else math.ceil(args.num_train_epochs * per_epoch)
    every = args.save_steps or steps_between_evaluations(len(task.dev_ids), args.per_device_train_batch_size)
    factor = rate_schedule("linear", int(args.warmup_ratio * steps), steps)
    optimizer = adamw(args.learning_rate, [{"params": student.parameters()}], max_grad_norm=MAX_GRAD_NORM)
    student.train()
    losses, started = [], time.perf_counter()
    with progress_bar(steps, "distil") as bar:
        for step in range(1, steps + 1):
            epoch, batch = (step - 1) // per_epoch + 1, (step - 1) % per_epoch + 1
            if batch == 1:
                batches = train_batches(lengths, args.per_device_train_batch_size, args.seed, epoch)
            optimizer.set_lr(args.learning_rate * factor(step - 1))
            losses.append(train_step(args, task, batches[batch - 1], teacher, student, widths, optimizer))
            bar.update()
            if step % args.logging_steps == 0:
                get_logger().info(
                    f"global step {step}, epoch: {epoch}, batch: {batch}, lr: {optimizer.get_lr():.3e}, "
                    f"loss: {np.mean(losses):.5f}, speed: {len(losses) / (time.perf_counter() - started):.2f} step/s"
                )
                losses, started = [], time.perf_counter()
            if step % every == 0 or step == steps:
                paused = time.perf_counter()
                for width in widths:
                    cut(student, width.model)
                    get_logger().info(f"width_mult {width.ratio}:")
                    scores = evaluate(args, task, width.model)
                    if width.best is None or scores["macro_f1"] > width.best["macro_f1"]:
                        width.best = scores | {"step": step}
                        save_width(width, task)
                started += time.perf_counter() - paused  # the speed is that of training


def save_width(width, task):
    # Graphs of an earlier run would not fit the new weights.
    graphs = [path.name for pattern in (f"{GRAPH}.*", "*.onnx") for path in width.folder.glob(pattern)]
    checkpoint = task.checkpoint
    save_checkpoint(
        width.folder, width.model, checkpoint.tokenizer, task.tree, checkpoint.decision, older=graphs,
        linear=checkpoint.linear,
    )  # fmt: skip


def latencies(args, task, models):
    """Median seconds that each model takes for a batch of dev rows, on this machine as it is now.

    They take turns at every batch, so that other load on the machine slows all of them alike.
    """
    import paddle

    size = args.per_device_eval_batch_size
    ids, _ = in_windows(task.dev_ids, task.windows)
    batches = [ids[i : i + size] for i in range(0, len(ids), size)][:LATENCY_BATCHES]
    seconds = np.zeros((1 + len(batches), len(models)))
    with paddle.no_grad(), progress_bar(len(seconds), "latency") as bar:
        for row, batch in zip(seconds, [batches[0], *batches]):
            inputs = model_inputs(batch, task.pad_id)
            for i, model in enumerate(models):
                started = time.perf_counter()
                model(**inputs).numpy()
                row[i] = time.perf_counter() - started
            bar.update()
    return np.median(seconds[1:], axis=0)  # the first round warms up


def compare(args, task, models):
    """A dict for each of (ratio, model, its dev scores, its folder), the full model first."""
    rows, seconds = [], latencies(args, task, [model for _, model, _, _ in models])
    for (ratio, model, scores, folder), latency in zip(models, seconds):
        row = {"width": ratio, "parameters": int(sum(parameter.size for parameter in model.parameters()))}
        row |= {"megabytes": find_weights(folder).stat().st_size / 1e6}
        row |= {name: scores[name] for name in ("micro_f1", "macro_f1")}
        rows.append(row | {"latency_ms": 1000 * latency, "speed_up": seconds[0] / latency})
    return rows


def table(rows):
    """The dicts of `compare` as lines of text."""
    yield "width  parameters  size (MB)  micro f1  macro f1  latency (ms)  speed-up"
    for row in rows:
        yield (
            f"{row['width']:<5}{row['parameters']:>12,}{row['megabytes']:>11.1f}{100 * row['micro_f1']:>10.2f}"
            f"{100 * row['macro_f1']:>10.2f}{row['latency_ms']:>14.1f}{row['speed_up']:>10.2f}"
        )


def main(argv=None):
    args = parse_args(argv)
    if launched_processes()[1] > 1:
        raise InputError("prune.py is one process: start it as python prune.py, without paddle.distributed.launch.")
    logger, output_dir = get_logger(), Path(args.output_dir)
    checkpoint = Checkpoint.open(args.params_dir, args.max_seq_length)
    tree, tokenizer = checkpoint.tree, checkpoint.tokenizer
    if tokenizer.windows and args.hard_label_weight:
        raise InputError(
            f"--hard_label_weight {args.hard_label_weight:g}: the model reads texts in windows, of which one alone may "
            "lack the labels of its text. Leave it at 0: the full model teaches each window."
        )
    if checkpoint.decision.calibration:
        logger.warning("The calibration is that of the full model: calibrate the widths with analysis/evaluate.py")
        checkpoint = replace(checkpoint, decision=recalibrated(checkpoint.decision, None, tree))
    widths = plan_widths(args, checkpoint)
    require_onnx_size(checkpoint.weights, "export_model.py --format paddle; pruned models are written as ONNX, too")
    directory = require_directory(args.dataset_dir)
    require_same_labels(tree, directory / args.label_file)
    train, dev = (load_reported(directory / name, tree, logger) for name in (args.train_file, args.dev_file))
    train_ids, dev_ids = (
        encode_file(tokenizer, rows.texts, directory / name)
        for rows, name in ((train, args.train_file), (dev, args.dev_file))
    )
    train_ids, train_texts = in_windows(train_ids, tokenizer.windows)
    if tokenizer.windows:
        logger.info(f"{len(train.texts):,} train rows make {len(train_ids):,} windows: an epoch sees each of them")
    task = Task(checkpoint, train, train_ids, train_texts, dev, dev_ids)
    with only_writer(output_dir, "wait until it ends, or give another --output_dir"):
        require_writable(output_dir / "prune.json", "--output_dir", [])
        get_logger(output_dir / "prune.log")
        narrow_and_save(args, task, widths, logger)


def narrow_and_save(args, task, widths, logger):
    """The run, once output_dir is its own."""
    output_dir, checkpoint = Path(args.output_dir), task.checkpoint
    paddle = set_device(args.device)
    from tqdm.contrib.logging import logging_redirect_tqdm

    paddle.seed(args.seed)
    teacher, student = checkpoint.load_model(), checkpoint.load_model()
    with logging_redirect_tqdm([logger]):
        if paddle.get_device() == "cpu":
            flush_denormals()
        logger.info("Full model:")
        full = evaluate(args, task, teacher)
        rank(args, task, student)
        for width in widths:
            width.model = build_narrow(student, width.fraction)
        for model in (teacher, student, *(width.model for width in widths)):
            speed_up(model)
        distil(args, task, teacher, student, widths)
        for width in widths:
            logger.info(f"Best result of width_mult {width.ratio}: {width.best['macro_f1']:.4f}")
        pruned = [(width.ratio, width.model, width.best, width.folder) for width in widths]
        rows = compare(args, task, [(1, teacher, full, args.params_dir), *pruned])
        for line in table(rows):
            logger.info(line)
        arguments = vars(args) | {"width_mult_list": [str(width.fraction) for width in widths]}
        best = {str(width.ratio): width.best for width in widths}
        with atomic_write(output_dir / "prune.json") as file:
            json.dump({"arguments": arguments, "full": full, "best": best, "table": rows}, file, indent=1)
        set_device("cpu")  # the graph is the same everywhere
        with progress_bar(len(widths), "export") as bar:
            for width in widths:
                narrow = Checkpoint.open(width.folder)
                export_checkpoint(
                    paddle, narrow, narrow.load_model(), width.folder, GRAPH, precisions=("float32", "int8")
                )
                bar.update()
    logger.info(f"Saved {', '.join(str(width.folder) for width in widths)}")


if __name__ == "__main__":
    run(main)
