"""What a training step costs on a CPU: the library's own layers, ours, ours in bfloat16, and torch.

    python benchmarks/train_step.py --dataset_dir data --model_name path/to/encoder --torch_python path/to/python

Reads   dataset_dir/{train.txt, label.txt}, an encoder (its size and vocabulary; the weights are random)
Writes  nothing but the table that it prints

All take the same --steps batches of 32 rows in turns, batch by batch, in --rounds rounds, so that a machine's moods
meet all of them alike: the mean over the batches of each round, the median of the rounds, in CPU seconds of one thread
or, with --threads 2, in seconds of the clock.
--torch_python is an environment with torch and transformers: a BERT of the same size, AdamW, in float32 and with
bfloat16 autocast.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
if not __package__:  # run as a file: the project's root must be found
    sys.path.insert(0, str(ROOT))
from hierarchical import training
from hierarchical.devices import has_bf16, set_device
from hierarchical.rows import soft_targets
from utils import InputError, LabelTree, check_minima, load_rows, make_parser, run

BATCH_SIZE = 32

TORCH = """
import json, sys, time
import torch
from transformers import BertConfig, BertForSequenceClassification
task = json.loads(sys.stdin.readline())
torch.set_num_threads(task["threads"])
clock = time.process_time if task["threads"] == 1 else time.perf_counter
model = BertForSequenceClassification(BertConfig(problem_type="multi_label_classification", **task["config"]))
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)
model.train()
for line in sys.stdin:
    step = json.loads(line)
    width = max(map(len, step["ids"]))
    ids = torch.tensor([row + [0] * (width - len(row)) for row in step["ids"]])
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in step["ids"]])
    targets = torch.tensor(step["targets"], dtype=torch.float32)
    began = clock()
    with torch.autocast("cpu", torch.bfloat16, enabled=step["bfloat16"]):
        loss = model(input_ids=ids, attention_mask=mask, labels=targets).loss
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()
    print(clock() - began, flush=True)
"""


def parse_args(argv):
    parser = make_parser("Measure a training step.")
    parser.add_argument("--dataset_dir", type=Path, required=True, help="directory of train.txt and label.txt")
    parser.add_argument("--model_name", required=True, help="directory of the encoder")
    parser.add_argument("--torch_python", type=Path, help="a Python with torch and transformers")
    parser.add_argument("--steps", type=int, default=8, help="batches in a round")
    parser.add_argument("--rounds", type=int, default=3, help="rounds")
    parser.add_argument("--threads", type=int, default=1, help="threads of each")
    parser.add_argument("--max_seq_length", type=int, default=128, help="tokens")
    args = parser.parse_args(argv)
    check_minima(parser, args, steps=1, rounds=1, threads=1, max_seq_length=3)
    return args


def new_trainer(paddle, config, amp=False):
    """A Trainer of a network of random weights."""
    from hierarchical.modeling import build_model

    model = build_model(config)
    model.train()
    return training.Trainer(paddle, training.Settings(1e-5, 1e-5, "bce", amp=amp), model, 1000)


def without_ours(trainer):
    """The Trainer, with the library's own layers in its network again."""
    for layer in trainer.model.sublayers():
        vars(layer).pop("forward", None)
    return trainer


def torch_process(python, config, threads):
    """A process that takes a step for each line that is written to it."""
    names = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "num_labels")
    task = {"config": {name: getattr(config, name) for name in names}, "threads": threads}
    probe = subprocess.run([python, "-c", "import torch, transformers"], stderr=subprocess.PIPE, text=True)
    if probe.returncode:
        raise InputError(f"--torch_python {python}: cannot import torch and transformers. {probe.stderr[-500:]}")
    process = subprocess.Popen([python, "-c", TORCH], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    process.stdin.write(json.dumps(task) + "\n")
    return process


def torch_step(process, ids, targets, bfloat16):
    """Seconds of a step there."""
    process.stdin.write(json.dumps({"ids": ids, "targets": targets, "bfloat16": bfloat16}) + "\n")
    process.stdin.flush()
    return float(process.stdout.readline())


def main(argv=None):
    args = parse_args(argv)
    os.environ |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": str(args.threads)}  # read when paddle is loaded
    clock = time.process_time if args.threads == 1 else time.perf_counter
    from hierarchical.modeling import set_labels
    from hierarchical.runs import open_model

    tree = LabelTree.read(args.dataset_dir / "label.txt")
    rows = load_rows(args.dataset_dir / "train.txt", tree)
    chosen = np.random.default_rng(0).permutation(len(rows.texts))[: args.steps * BATCH_SIZE]  # it may be sorted
    targets = [rows.labels[i] for i in chosen]
    paddle = set_device("cpu")
    _, tokenizer, config = open_model(args.model_name, args.max_seq_length)
    set_labels(config, tree)
    ids = tokenizer.encode([rows.texts[i] for i in chosen])
    batches = training.train_batches([len(row) for row in ids], BATCH_SIZE, 1, 1)

    process = torch_process(args.torch_python, config, args.threads) if args.torch_python else None
    trainers = {
        "the library's layers, float32": without_ours(new_trainer(paddle, config)),
        "train.py": new_trainer(paddle, config),
    }
    if has_bf16():
        trainers["train.py --amp"] = new_trainer(paddle, config, amp=True)
    times = {name: [] for name in trainers}
    if process:
        times |= {"torch, float32": [], "torch, bfloat16 autocast": []}
    for number in range(args.rounds + 1):  # the first one warms up
        for name in times:
            times[name].append([])
        for batch in batches:
            for name, trainer in trainers.items():
                began = clock()
                trainer.train_step(ids, targets, batch, tokenizer.pad_id)
                times[name][number].append(clock() - began)
            if process:
                step = [ids[row] for row in batch], soft_targets([targets[row] for row in batch], len(tree))
                for name, bfloat16 in (("torch, float32", False), ("torch, bfloat16 autocast", True)):
                    times[name][number].append(torch_step(process, step[0], step[1].tolist(), bfloat16))
    if process:
        process.stdin.close()
    print(f"{args.steps} batches of {BATCH_SIZE} rows, {np.mean([len(row) for row in ids]):.0f} tokens on average")
    unit = "CPU seconds" if args.threads == 1 else "seconds"
    print(f"| | {unit} a step, each round | median | of the first |\n| --- | --- | --- | --- |")
    first = None
    for name, rounds in times.items():
        found = [float(np.mean(steps)) for steps in rounds[1:]]
        median = float(np.median(found))
        first = first or median
        print(f"| {name} | {', '.join(f'{x:.3f}' for x in found)} | {median:.3f} | {median / first:.2f} |")


if __name__ == "__main__":
    run(main)
