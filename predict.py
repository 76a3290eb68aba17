"""Label texts with a checkpoint of train.py.

    python predict.py --dataset_dir data --params_path checkpoint                       # to the log
    python predict.py --dataset_dir data --output_file predictions.jsonl                # to a file, with probabilities
    zcat news.gz | python predict.py --data_file - --output_file - | head               # from a pipe to a pipe
    python predict.py --dataset_dir data --output_file predictions.jsonl --resume       # continue after a kill
    python -m paddle.distributed.launch --gpus "0,1" predict.py --dataset_dir data --output_file predictions.jsonl

Reads   dataset_dir/data_file   one text per line; or .jsonl and .csv rows (see utils.py), whose labels are ignored
        dataset_dir/label_file  if it is there, it must be what the checkpoint was trained with
        params_path/            weights, tokenizer, labels, maximum length and decision settings
Writes  output_file             one line per row of the data file, in the same order; blank rows have no labels
            .jsonl  {"text", "labels": [path, ...], "probabilities": {path: p, ...}, "levels": {"1": [path, ...], ...}}
                    probabilities: of all labels above --floor, highest first; levels: the labels and their ancestors
            .tsv    text<TAB>label,label,...  (blanks for the TABs and line ends of a text)
        output_file.part        the rows so far; .part.json beside it says what --resume needs to continue them
        Of several processes each takes a stretch of the rows and writes output_file with .part-0000-of-0002 before the
        suffix; output_file.parts lists these names in the order that makes the whole.

Any number of rows takes the same memory: they are read, predicted and written one window of batches at a time.
"""

import argparse
import json
import os
import sys
import time
from collections import Counter
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

import numpy as np

from checkpoints import (
    add_decision_arguments,
    decision_from_arguments,
    load_checkpoint,
    open_checkpoint,
    require_same_labels,
)
from metric import decide
from modeling import predict_logits, sigmoid
from runtime import set_device
from utils import (
    FLAT,
    HelpFormatter,
    InputError,
    Problems,
    atomic_write,
    check_minima,
    file_digest,
    get_logger,
    levels_text,
    parse_csv,
    parse_jsonl,
    read_lines,
    require_file,
    run,
)
from weights import find_weights

WINDOW_BATCHES = 64  # batches per window: enough texts to sort by length, so that little is padding
WINDOW_CELLS = 20_000_000  # rows x labels per window, at most: thousands of labels mean smaller windows
LOGGED_ROWS = 12  # rows that are logged when there is an output file


def parse_args():
    parser = argparse.ArgumentParser(description="Label texts with a checkpoint.", formatter_class=HelpFormatter)
    add_data_arguments(parser)
    model = parser.add_argument_group("model")
    model.add_argument("--params_path", default="./checkpoint/", help="directory that train.py saved the model in")
    model.add_argument("--max_seq_length", type=int, help="tokens of a text that are read; left out: as in training")
    model.add_argument("--batch_size", type=int, default=32, help="texts per step")
    model.add_argument("--device", default="gpu", help="cpu, gpu, xpu or npu; if there is none: cpu, with a warning")
    add_decision_arguments(parser, None)
    add_result_arguments(parser)
    args = parser.parse_args()
    check_arguments(parser, args)
    return args


def add_data_arguments(parser):
    data = parser.add_argument_group("data")
    data.add_argument("--dataset_dir", help="directory of data_file and label_file; needed, unless data_file is -")
    data.add_argument("--data_file", default="data.txt", help="in dataset_dir; .jsonl, .csv or else lines; -: stdin")
    data.add_argument("--label_file", default="label.txt", help="in dataset_dir; only compared with the checkpoint's")


def add_result_arguments(parser):
    result = parser.add_argument_group("result")
    result.add_argument("--output_file", help=".jsonl or .tsv; -: JSON lines to stdout; left out: only the log")
    result.add_argument("--floor", type=float, default=0.01, help="write the probabilities of labels above this")
    result.add_argument("--resume", action="store_true", help="continue the run that left output_file.part")
    result.add_argument("--quiet", action="store_true", help="with an output_file, log none of the rows")


def check_arguments(parser, args, directory="--dataset_dir"):
    if args.dataset_dir is None and args.data_file != "-":
        parser.error(f"argument {directory}: needed, unless the texts come from stdin (--data_file -)")
    check_minima(parser, args, batch_size=1, max_seq_length=3)
    if not 0 <= args.floor <= 1:
        parser.error(f"argument --floor: must be from 0 to 1, got {args.floor}")
    if args.output_file not in (None, "-") and Path(args.output_file).suffix not in FORMATS:
        parser.error(f"argument --output_file: must end in {' or '.join(FORMATS)}, got {args.output_file}")
    if args.resume and args.output_file in (None, "-"):
        parser.error("argument --resume: needs an --output_file to continue")


# ---- texts -----------------------------------------------------------------------------------------------------------


def read_texts(path, tree, problems, seen):
    """Yield the text of every row, "" for a blank one. What is wrong goes to `problems`; `seen` counts what is odd."""
    parse = {".jsonl": parse_jsonl, ".csv": parse_csv}.get(Path(path).suffix.lower())
    if parse:
        texts = (text or "" for _, text, _ in parse(path, problems))
    else:
        texts = (text_of_line(line, tree, seen) for _, line in read_lines(path, problems))
    for text in map(str.strip, texts):
        seen["blank"] += not text
        yield text


def text_of_line(line, tree, seen):
    """A line without its labels, should it have some: a model must not be shown the answer."""
    text, tab, labels = line.rpartition("\t")
    if not tab:
        return line
    if all(name.strip() in tree.index for name in labels.split(",")):
        seen["labelled"] += 1
    else:
        seen["tab"] += 1
        text = line
    return text.replace("\t", " ")


def count_texts(path, tree, seen):
    """Read a file once to find everything that is wrong with it, before any model is loaded; the number of its rows."""
    require_file(path, "It holds one text per line.")
    problems = Problems()
    count = sum(1 for _ in read_texts(path, tree, problems, seen))
    problems.raise_if_any()
    return count


def windows(texts, size, problems):
    """Yield lists of `size` texts, the last one shorter, reading no further than the one that is yielded."""
    while window := list(islice(texts, size)):
        problems.raise_if_any()
        yield window
    problems.raise_if_any()


def share(total, size, rank, world):
    """(first row, row after the last) for one of `world` processes: whole windows, as one process would cut them."""
    count = -(-total // size)
    return rank * count // world * size, min(total, (rank + 1) * count // world * size)


def warn_about(seen, path, logger):
    for key, message in (
        ("blank", "blank rows: {} (each has an empty prediction, so that the rows stay in step)"),
        ("labelled", "rows with labels after a TAB: {} (only the text before it was used)"),
        ("tab", "rows with a TAB that no known labels follow: {} (it was read as a blank)"),
    ):
        if seen[key]:
            logger.warning(f"{path}: {message.format(seen[key])}")


# ---- results ---------------------------------------------------------------------------------------------------------


def label_texts(texts, compute_logits, tokenizer, tree, decision):
    """A list of (text, class indices in ascending order, probabilities float32 [L]), in the order of the texts.

    compute_logits: lists of token ids -> logits [n, L]. A blank text has no labels and zeros, and is kept from it.
    """
    rows = [i for i, text in enumerate(texts) if text]
    probabilities = np.zeros((len(texts), len(tree)), np.float32)
    ids = tokenizer.encode([texts[i] for i in rows])
    probabilities[rows] = sigmoid(compute_logits(ids))
    selected = decide(probabilities, tree, decision)
    selected[[not text for text in texts]] = False
    return list(zip(texts, (np.flatnonzero(row).tolist() for row in selected), probabilities))


def jsonl_row(tree, text, predicted, probabilities, floor):
    shown = probabilities > floor
    shown[predicted] = True
    shown = sorted(np.flatnonzero(shown), key=lambda i: -probabilities[i])
    closed = tree.closure(predicted)
    row = {
        "text": text,
        "labels": [tree.labels[i] for i in predicted],
        "probabilities": {tree.labels[i]: round(float(probabilities[i]), 6) for i in shown},
        "levels": {
            str(level): [tree.labels[i] for i in closed if tree.levels[i] == level]
            for level in sorted({int(tree.levels[i]) for i in closed})
        },
    }
    return json.dumps(row, ensure_ascii=False) + "\n"


def tsv_row(tree, text, predicted, probabilities, floor):
    return f"{text.translate(FLAT)}\t{','.join(tree.labels[i] for i in predicted)}\n"


FORMATS = {".jsonl": jsonl_row, ".tsv": tsv_row}


def log_row(logger, tree, text, predicted, probabilities):
    logger.info(f"text: {text.translate(FLAT)}")
    logger.info(f"prediction result: {','.join(tree.labels[i] for i in predicted)}")
    if not text:
        logger.info("(blank row)")
    elif not predicted:
        best = probabilities.argmax()
        logger.info(f"(no label above the threshold; most likely: {tree.labels[best]} {probabilities[best]:.2f})")
    for line in levels_text(tree, predicted):
        logger.info(line)
    logger.info("-" * 20)


# ---- the output file -------------------------------------------------------------------------------------------------


def output_path(args, tree, rank, world, logger):
    """The file this process writes, "-" or None; what can be wrong with it is found here."""
    if args.output_file in (None, "-"):
        return args.output_file
    path = Path(args.output_file)
    if path.is_dir():
        raise InputError(f"{path}: is a directory. --output_file names a file to write.")
    if path.suffix == ".tsv" and (label := next((label for label in tree.labels if "," in label), None)):
        raise InputError(f"{path}: the label {label!r} holds a comma, which separates labels in .tsv. Write .jsonl.")
    if world == 1:
        return path
    parts = [path.with_name(f"{path.stem}.part-{r:04}-of-{world:04}{path.suffix}") for r in range(world)]
    if rank == 0:
        with atomic_write(f"{path}.parts") as file:
            file.writelines(f"{part}\n" for part in parts)
        logger.info(f"When all {world} processes are through: xargs cat < {path}.parts > {path}")
    return parts[rank]


@contextmanager
def open_output(path, resume, settings, size, logger):
    """Yields (binary file to append to, rows already in it); a file takes the name `path` when the body is through.

    settings: what the rows depend on; kept beside the unfinished file, it must be the same on resuming. size: rows of a
    window; one is kept whole or not at all, because its texts share batches.
    """
    if path in (None, "-"):
        yield path and sys.stdout.buffer, 0
        return
    part, record, done = Path(f"{path}.part"), Path(f"{path}.part.json"), 0
    if part.exists() and resume:
        done = rows_to_keep(part, record, settings, size)
        logger.info(f"Resuming after {done} rows")
    elif part.exists():
        logger.warning(f"{part}: the rows of an unfinished run are overwritten; --resume would have continued it")
    file = open(part, "ab" if done else "wb")
    try:
        with atomic_write(record) as settings_file:
            json.dump(settings, settings_file, ensure_ascii=False, indent=1)
        yield file, done
        file.flush()
        os.fsync(file.fileno())
        os.replace(part, path)
        record.unlink()
    except OSError as error:
        error.filename = error.filename or str(part)  # a full disk does not say whose write failed
        raise
    finally:
        file.close()
        if part.exists() and not part.stat().st_size:  # nothing in it to continue
            part.unlink()
            record.unlink(missing_ok=True)


def rows_to_keep(part, record, settings, size):
    """Cut the rows of an unfinished run after the last whole window of `size` rows; how many stay."""
    try:
        then = json.loads(record.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"--resume: {record} is not readable ({error}). Start again without --resume.") from None
    if changed := [name for name, value in settings.items() if then.get(name) != value]:
        raise InputError(
            f"--resume: the unfinished run was another one; since then these have changed: {', '.join(changed)}. "
            "Give the same arguments and files, or start again without --resume."
        )
    position = kept = end = 0
    with open(part, "r+b") as file:
        for number, line in enumerate(file, start=1):
            position += len(line)
            if number % size == 0 and line.endswith(b"\n"):
                kept, end = number, position
        file.truncate(end)
    return kept


# ---- main ------------------------------------------------------------------------------------------------------------


def predict_file(args, tree, tokenizer, decision, model_file, load_model, further=None):
    """Predict what the arguments name and write it where they say.

    model_file: the file whose contents decide whether an unfinished run may be continued. load_model: called once
    everything else is found to be in order; gives a function from lists of token ids to logits [n, L]. further: a dict
    of more settings that the rows depend on.
    """
    rank, world = int(os.environ.get("PADDLE_TRAINER_ID", 0)), int(os.environ.get("PADDLE_TRAINERS_NUM", 1))
    logger = get_logger()
    if args.dataset_dir:
        require_same_labels(tree, Path(args.dataset_dir) / args.label_file)

    data = "-" if args.data_file == "-" else Path(args.dataset_dir) / args.data_file
    stream = data == "-" or data.is_fifo()  # can be read only once
    if world > 1 and (stream or args.output_file == "-"):
        raise InputError("Several processes share the rows of a file and write a file each; for pipes use one process.")
    path = output_path(args, tree, rank, world, logger)
    size = args.batch_size * max(1, min(WINDOW_BATCHES, WINDOW_CELLS // (args.batch_size * len(tree))))
    seen, problems, start, stop = Counter(), Problems(), 0, None
    if not stream:
        start, stop = share(count_texts(data, tree, seen), size, rank, world)
    texts = read_texts(data, tree, problems, seen if stream else Counter())
    if args.resume and path.exists() and not Path(f"{path}.part").exists():
        logger.info(f"{path} is complete; remove it to predict again")
        return
    settings = {"max_seq_length": tokenizer.max_seq_length, "batch_size": args.batch_size, "floor": args.floor}
    settings |= {"rows": [start, stop], **decision.to_dict(), **(further or {})}
    if isinstance(path, Path):
        settings |= {
            "data": None if stream else file_digest(data),
            "weights": file_digest(model_file),
        }

    with open_output(path, args.resume, settings, size, logger) as (file, done):
        from tqdm import tqdm
        from tqdm.contrib.logging import logging_redirect_tqdm

        compute_logits = load_model()
        write_row = FORMATS[path.suffix] if isinstance(path, Path) else jsonl_row
        # Without a file the log is the result; with one it shows what the first rows look like.
        to_log = sys.maxsize if not path else LOGGED_ROWS * (path != "-" and rank == 0 and not args.quiet)
        total = None if stream else stop - start
        bar = tqdm(total=total, initial=done, desc="predict", unit=" texts", disable=None if path else True)
        began, count = time.monotonic(), 0
        told = began
        with bar, logging_redirect_tqdm([logger]):
            for window in windows(islice(texts, start + done, stop), size, problems):
                rows = label_texts(window, compute_logits, tokenizer, tree, decision)
                for row in rows[: max(0, to_log - count)]:
                    log_row(logger, tree, *row)
                if file:
                    lines = "".join(write_row(tree, *row, args.floor) for row in rows)
                    file.write(lines.encode("utf-8"))
                    file.flush()
                count += len(window)
                bar.update(len(window))
                if path and bar.disable and time.monotonic() - told > 60:  # no terminal for a bar
                    told = time.monotonic()
                    logger.info(f"{done + count} of {total or '?'} texts, {count / (told - began):.1f} texts/s")
    if rank == 0:
        warn_about(seen, data, logger)
    seconds = time.monotonic() - began
    where = f", in {path}" if file and path != "-" else ""
    logger.info(f"Predicted {count} texts in {seconds:.1f} s ({count / max(seconds, 1e-9):.1f} texts/s){where}")


def main():
    args = parse_args()
    tree, tokenizer, stored = open_checkpoint(args.params_path, args.max_seq_length)

    def load_model():
        set_device(args.device)
        model = load_checkpoint(args.params_path)
        return lambda ids: predict_logits(model, ids, tokenizer.pad_id, args.batch_size)

    decision = decision_from_arguments(args, stored)
    predict_file(args, tree, tokenizer, decision, find_weights(args.params_path), load_model)


if __name__ == "__main__":
    run(main)
