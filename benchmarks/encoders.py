"""What an encoder's size costs: milliseconds per text and per training row, for sizes beside each other.

    python benchmarks/encoders.py --dataset_dir data --model_name path/to/encoder

Reads   dataset_dir/{dev.txt, label.txt}, and the tokenizer and vocabulary of an encoder
Writes  nothing but the table that it prints

The weights are random, as they don't matter to the time, so that any size can be measured without a download: layers
and width of --sizes, heads of 64 units (32 below 512), an intermediate layer of four times the width. Predictions are
those of the exported ONNX models, float32 and 8 bits, in one caller with one thread, in batches of 32 texts of like
length; training steps are those of train.py with batches of 32. One core, CPU milliseconds, the median of three rounds.
"""

import os
import re
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
if not __package__:  # run as a file: the project's root must be found
    sys.path.insert(0, str(ROOT))
from hierarchical.devices import set_device
from utils import LabelTree, check_minima, load_rows, make_parser, run

BATCH_SIZE, ROUNDS = 32, 3


def parse_args(argv):
    parser = make_parser("Measure what sizes of encoders cost.")
    parser.add_argument("--dataset_dir", type=Path, required=True, help="directory of dev.txt and label.txt")
    parser.add_argument("--model_name", required=True, help="directory of the encoder that lends its vocabulary")
    parser.add_argument(
        "--sizes", nargs="+", default=["4x384", "6x384", "12x384", "6x768", "12x768"], help="layers x width"
    )
    parser.add_argument("--rows", type=int, default=256, help="dev rows that are read")
    parser.add_argument("--max_seq_length", type=int, default=128, help="tokens")
    args = parser.parse_args(argv)
    check_minima(parser, args, rows=BATCH_SIZE, max_seq_length=3)
    for size in args.sizes:
        if not re.fullmatch(r"[1-9]\d*x[1-9]\d*", size) or int(size.split("x")[1]) % 64:
            parser.error(f"argument --sizes: must be layers x width, a multiple of 64, such as 6x384; got {size}")
    return args


def new_model(model_name, max_seq_length, tree, layers, width):
    """(a network of random weights, its tokenizer)"""
    from hierarchical.modeling import build_model, set_labels
    from hierarchical.runs import open_model

    _, tokenizer, config = open_model(model_name, max_seq_length)
    set_labels(config, tree)
    config.num_hidden_layers, config.hidden_size, config.intermediate_size = layers, width, 4 * width
    config.num_attention_heads = width // (64 if width >= 512 else 32)
    return build_model(config), tokenizer


def median_milliseconds(function, n_texts):
    times = []
    for _ in range(ROUNDS):
        began = time.process_time()
        function()
        times.append((time.process_time() - began) / n_texts * 1000)
    return float(np.median(times))


def predicting(paddle, model, pad_id, ids, labels, folder):
    """Milliseconds per text with the exported models: (float32, 8 bits)."""
    from hierarchical.batches import run_batches
    from hierarchical.engines import OnnxModel
    from hierarchical.exporting import export_onnx, export_static, quantize

    plain, quantized = folder / "float32.onnx", folder / "int8.onnx"
    export_onnx(export_static(paddle, model, pad_id, folder / "float32"), plain, labels)
    quantize(plain, quantized, labels)
    costs = []
    for path in (plain, quantized):
        engine = OnnxModel(path)
        most = 1 if engine.singly else BATCH_SIZE
        work = partial(run_batches, engine, ids, pad_id, len(labels), most, 1)
        costs.append(median_milliseconds(work, len(ids)))
    return costs


def training(paddle, model, pad_id, ids, labels):
    """Milliseconds per row of training steps."""
    from hierarchical.training import Settings, Trainer, train_batches

    model.train()
    batches = train_batches([len(row) for row in ids], BATCH_SIZE, 1, 1)
    trainer = Trainer(paddle, Settings(learning_rate=1e-5, head_learning_rate=1e-5, loss="bce"), model, 1000)
    trainer.train_step(ids, labels, batches[0], pad_id)

    def epoch():
        for batch in batches:
            trainer.train_step(ids, labels, batch, pad_id)

    return median_milliseconds(epoch, len(ids))


def main(argv=None):
    args = parse_args(argv)
    os.environ["OMP_NUM_THREADS"] = "1"  # paddle reads it when it is loaded
    tree = LabelTree.read(args.dataset_dir / "label.txt")
    rows = load_rows(args.dataset_dir / "dev.txt", tree)
    chosen = np.random.default_rng(0).permutation(len(rows.texts))[: args.rows]  # a file may be sorted by label
    texts, labels = [rows.texts[i] for i in chosen], [rows.labels[i] for i in chosen]
    paddle = set_device("cpu")
    print("| layers x width | float32, ms a text | 8 bits, ms a text | training, ms a row |\n| --- | --- | --- | --- |")
    for size in args.sizes:
        layers, width = map(int, size.split("x"))
        model, tokenizer = new_model(args.model_name, args.max_seq_length, tree, layers, width)
        ids = tokenizer.encode(texts)
        with tempfile.TemporaryDirectory() as folder:
            predicted = predicting(paddle, model, tokenizer.pad_id, ids, tree.labels, Path(folder))
        trained = training(paddle, model, tokenizer.pad_id, ids, labels)
        print(f"| {size} | {predicted[0]:.1f} | {predicted[1]:.1f} | {trained:.0f} |", flush=True)
    print(f"\n{len(texts)} texts of {np.mean([len(row) for row in ids]):.0f} tokens on average")


if __name__ == "__main__":
    run(main)
