"""How much faster the main job is than in a plain loop over the library (plain_loop.py), at equal scores.

    python benchmarks/main_job.py --dataset_dir data --model_name path/to/encoder --output_json main_job.json

Reads   dataset_dir/{train.txt, dev.txt, label.txt, data.txt}   the first rows of each, train and dev after a shuffle
Writes  output_json   every time and score, if asked for; checkpoints and predictions go to a temporary directory

Each repetition starts both programs (empty, for their start-up alone), trains with both, and predicts with both from
the checkpoint that train.py has just written; which of them goes first changes from one repetition to the next. Every
run is a command of its own, as one would type it, timed from its start to its end: reading, tokenising, evaluating and
writing count. Settings of threads and matrix kernels in the environment are kept from both, so that each has its own.
"""

import json
import os
import random
import sys
import tempfile
from pathlib import Path
from statistics import mean, median

ROOT = Path(__file__).resolve().parents[1]
if not __package__:  # run as a file: the project's root must be found
    sys.path.insert(0, str(ROOT))
from benchmarks.timing import BUSY, timed
from utils import InputError, Problems, atomic_write, make_parser, read_lines, require_file, run

SIDES = ("ours", "plain")
TARGETS = {"train": 2.5, "predict": 3.0}
WHOLE, WITHOUT, CPU = "whole command", "without start-up", "CPU, without start-up"
MEASURES = {WHOLE: ("seconds", True), WITHOUT: ("seconds", False), CPU: ("cpu_seconds", False)}  # does start-up count?
IMPORTS = (
    "import utils, hierarchical.training, hierarchical.predictions; from hierarchical import devices; "
    "devices.set_device('cpu'); import paddlenlp.transformers as t; t.ErnieModel"
)


def parse_args(argv):
    parser = make_parser("Time it against a plain loop.")
    parser.add_argument("--dataset_dir", type=Path, required=True, help="directory of the data files")
    parser.add_argument("--model_name", required=True, help="model directory with weights, or a name train.py knows")
    parser.add_argument("--train_rows", type=int, default=640, help="rows to train on, at most")
    parser.add_argument("--dev_rows", type=int, default=320, help="rows to score, at most")
    parser.add_argument("--predict_rows", type=int, default=1280, help="texts to predict, at most")
    parser.add_argument("--epochs", type=int, default=1, help="passes over the training rows")
    parser.add_argument("--batch_size", type=int, default=32, help="rows per step")
    parser.add_argument("--max_seq_length", type=int, default=128, help="tokens of a text that are read")
    parser.add_argument("--learning_rate", type=float, default=3e-4, help="rate of the encoder, constant")
    parser.add_argument("--head_learning_rate", type=float, default=5e-3, help="rate of the classifier, constant")
    parser.add_argument("--repetitions", type=int, default=3, help="each with another seed")
    parser.add_argument("--output_json", help="write all figures to this file")
    return parser.parse_args(argv)


def write_data(args, directory):
    """The rows both sides get, in a data directory of their own; returns how many of each there are."""
    counts = {}
    limits = {"train": args.train_rows, "dev": args.dev_rows, "data": args.predict_rows, "label": None}
    for name, limit in limits.items():
        path, problems = args.dataset_dir / f"{name}.txt", Problems()
        require_file(path, "The benchmark needs train.txt, dev.txt, data.txt and label.txt.")
        lines = [line for _, line in read_lines(path, problems) if line.strip()]
        problems.raise_if_any()
        if name in ("train", "dev"):  # such files are often sorted by class
            random.Random(0).shuffle(lines)
        counts[name] = len(lines[:limit])
        (directory / path.name).write_text("".join(f"{line}\n" for line in lines[:limit]), encoding="utf-8")
    return counts


def commands(args, work, seed):
    """task -> side -> arguments of the Python interpreter; the order is that of a repetition."""
    data = ["--dataset_dir", work / "data", "--batch_size", args.batch_size, "--max_seq_length", args.max_seq_length]
    model = Path(args.model_name).resolve() if Path(args.model_name).is_dir() else args.model_name
    settings = ["--model_name", model, "--epochs", args.epochs, "--seed", seed]
    settings += ["--learning_rate", args.learning_rate, "--head_learning_rate", args.head_learning_rate]
    checkpoint, cpu = ["--params_path", work / "ours"], ["--device", "cpu"]
    return {
        "start-up": {"ours": ["-c", IMPORTS], "plain": ["benchmarks/plain_loop.py", "--help"]},
        "train": {
            "ours": ["train.py", *data, *settings, "--save_dir", work / "ours", *cpu],
            "plain": ["benchmarks/plain_loop.py", "train", *data, *settings, "--save_dir", work / "plain"],
        },
        "predict": {
            "ours": ["predict.py", *data, *checkpoint, *cpu, "--output_file", work / "ours.jsonl"],
            "plain": ["benchmarks/plain_loop.py", "predict", *data, *checkpoint, "--output_file", work / "plain.txt"],
        },
    }


def dev_scores(save_dir):
    """Micro- and macro-F1 after the last epoch; both sides score with metric.py at a threshold of 0.5."""
    last = json.loads((save_dir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()[-1])
    return {name: last[name] for name in ("micro_f1", "macro_f1")}


def agreement(work):
    """Share of the texts for which both sides have predicted the same labels."""
    with open(work / "ours.jsonl", encoding="utf-8") as file:
        ours = [",".join(json.loads(line)["labels"]) for line in file]
    key = "prediction result: "
    with open(work / "plain.txt", encoding="utf-8") as file:
        plain = [line.rstrip("\n").removeprefix(key) for line in file if line.startswith(key)]
    if len(ours) != len(plain):
        raise InputError(f"{len(ours)} predictions of ours, {len(plain)} of the plain loop: they cannot be compared")
    return mean(a == b for a, b in zip(ours, plain))


def summarise(runs, task):
    """Measure -> {"repetitions": [{"ours", "plain", "ratio"}, ...], "median_ratio"}."""
    result = {}
    for measure, (key, with_startup) in MEASURES.items():
        less = {side: 0 if with_startup else median(one["start-up"][side][key] for one in runs) for side in SIDES}
        rows = [{side: one[task][side][key] - less[side] for side in SIDES} for one in runs]
        rows = [row | {"ratio": row["plain"] / row["ours"]} for row in rows]
        result[measure] = {"repetitions": rows, "median_ratio": median(row["ratio"] for row in rows)}
    return result


def print_table(task, summary):
    print(f"\n{task:<10}" + "".join(f"{measure:>28}" for measure in summary))
    print("repetition" + f"{'ours':>12}{'plain':>9}{'ratio':>7}" * len(summary))
    for i, rows in enumerate(zip(*(measure["repetitions"] for measure in summary.values())), start=1):
        print(f"{i:>10}" + "".join(f"{row['ours']:12.1f}{row['plain']:9.1f}{row['ratio']:7.2f}" for row in rows))
    print(f"{'median':<10}" + "".join(f"{measure['median_ratio']:28.2f}" for measure in summary.values()))
    print(f"target of the whole command, on two cores with 6 layers of width 384: {TARGETS[task]}")


def main(argv=None):
    args = parse_args(argv)
    load = os.getloadavg()[0]
    if load > BUSY:
        print(f"warning: the load average is {load:.2f}; on a machine that is not idle the times mean little")
    runs, results = [], {"arguments": vars(args) | {"dataset_dir": str(args.dataset_dir)}, "load_average": load}
    with tempfile.TemporaryDirectory() as work:
        work = Path(work)
        (work / "data").mkdir()
        results |= {"rows": write_data(args, work / "data"), "cores": len(os.sched_getaffinity(0))}
        for arguments in commands(args, work, 0)["start-up"].values():  # once for nothing, to have the files in memory
            timed(arguments)
        for repetition in range(1, args.repetitions + 1):
            order, one = SIDES[:: 1 if repetition % 2 else -1], {}
            for task, sides in commands(args, work, repetition).items():
                one[task] = {}
                for side in order:
                    one[task][side] = timed(sides[side])
                    print(f"{repetition} {task:8} {side:5} {one[task][side]['seconds']:8.1f} s", flush=True)
            one["dev"] = {side: dev_scores(work / side) for side in SIDES}
            one["agreement"] = agreement(work)
            runs.append(one)

    print(f"\nrows: {results['rows']}, cores: {results['cores']}; times in seconds")
    for task in TARGETS:
        results[task] = summarise(runs, task)
        print_table(task, results[task])
    print(f"\ndev scores, mean of {len(runs)}")
    for side in SIDES:
        scores = {name: mean(one["dev"][side][name] for one in runs) for name in ("micro_f1", "macro_f1")}
        print(f"{side:>10} micro F1 {scores['micro_f1']:.4f}, macro F1 {scores['macro_f1']:.4f}")
    print(f"\nsame labels predicted for {mean(one['agreement'] for one in runs):.2%} of the texts")
    if args.output_json:
        with atomic_write(args.output_json) as file:
            json.dump(results | {"runs": runs}, file, ensure_ascii=False, indent=1)


if __name__ == "__main__":
    run(main)
