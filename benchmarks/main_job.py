"""How much faster the main job is than in a plain loop over the library (plain_loop.py), at equal scores.

    python benchmarks/main_job.py --dataset_dir data --model_name path/to/encoder --output_json main_job.json

Reads   dataset_dir/{train.txt, dev.txt, label.txt, data.txt}   the first rows of each, train and dev after a shuffle
Writes  output_json   every time and score, if asked for; checkpoints and predictions go to a temporary directory

Each repetition starts both programs (empty, for their start-up alone), trains with both, and predicts with both from
the checkpoint that train.py has just written; which of them goes first changes from one repetition to the next. Every
run is a command of its own, as one would type it, timed from its start to its end: reading, tokenising, evaluating and
writing count. Settings of threads and matrix kernels in the environment are kept from both, so that each has its own.
"""

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import mean, median

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
from utils import HelpFormatter, InputError, Problems, atomic_write, read_lines, require_file, run

SIDES = ("ours", "plain")
TARGETS = {"train": 2.5, "predict": 3.0}  # ratios of the whole commands on two cores, with 6 layers of width 384
BUSY = 0.3  # load average above which the machine is not idle
TUNING = ("OMP_", "KMP_", "GOMP_", "MKL_", "OPENBLAS_", "FLAGS_")
IMPORTS = "import train, predict; train.set_device('cpu'); import paddlenlp.transformers as t; t.ErnieModel"


def parse_args():
    parser = argparse.ArgumentParser(description="Time the main job against a plain loop.", formatter_class=HelpFormatter)
    parser.add_argument("--dataset_dir", type=Path, required=True, help="directory of the data files")
    parser.add_argument("--model_name", required=True, help="model directory, or a name train.py knows")
    parser.add_argument("--train_rows", type=int, default=1600, help="rows to train on, at most")
    parser.add_argument("--dev_rows", type=int, default=1200, help="rows to score, at most")
    parser.add_argument("--predict_rows", type=int, default=6000, help="texts to predict, at most")
    parser.add_argument("--epochs", type=int, default=1, help="passes over the training rows")
    parser.add_argument("--batch_size", type=int, default=32, help="rows per step")
    parser.add_argument("--max_seq_length", type=int, default=128, help="tokens of a text that are read")
    parser.add_argument("--learning_rate", type=float, default=3e-4, help="rate of the encoder, constant")
    parser.add_argument("--head_learning_rate", type=float, default=5e-3, help="rate of the classifier, constant")
    parser.add_argument("--repetitions", type=int, default=3, help="each with another seed")
    parser.add_argument("--output_json", help="write all figures to this file")
    return parser.parse_args()


def write_data(args, directory):
    """The rows both sides get, in a data directory of their own; returns how many of each there are."""
    counts = {}
    for name, limit in (("train", args.train_rows), ("dev", args.dev_rows), ("data", args.predict_rows), ("label", None)):
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
    save = {side: ["--save_dir", work / side] for side in SIDES}
    checkpoint = ["--params_path", work / "ours"]
    cpu = ["--device", "cpu"]
    return {
        "start-up": {"ours": ["-c", IMPORTS], "plain": ["benchmarks/plain_loop.py", "--help"]},
        "train": {
            "ours": ["train.py", *data, *settings, *save["ours"], *cpu],
            "plain": ["benchmarks/plain_loop.py", "train", *data, *settings, *save["plain"]],
        },
        "predict": {
            "ours": ["predict.py", *data, *checkpoint, *cpu, "--output_file", work / "ours.jsonl"],
            "plain": ["benchmarks/plain_loop.py", "predict", *data, *checkpoint, "--output_file", work / "plain.txt"],
        },
    }


def timed(arguments):
    """Run a command in the repository's root: {"seconds", "cpu_seconds"}; the latter over all its threads."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(TUNING)}
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(
        [sys.executable, *map(str, arguments)], cwd=ROOT, env=environment,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, encoding="utf-8", errors="replace",
    )  # fmt: skip
    seconds, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise InputError(f"{' '.join(map(str, arguments))} ended with {done.returncode}:\n{done.stdout[-2000:]}")
    return {"seconds": seconds, "cpu_seconds": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime}


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


def summarise(runs, startup, task):
    """Per repetition (ours, plain, ratio) of a task: of the whole command, and without start-up; then of CPU time."""
    table = {}
    for name, key, less in (
        ("whole command", "seconds", dict.fromkeys(SIDES, 0)),
        ("without start-up", "seconds", startup),
        ("CPU seconds, whole command", "cpu_seconds", dict.fromkeys(SIDES, 0)),
    ):
        rows = [{side: one[task][side][key] - less[side] for side in SIDES} for one in runs]
        table[name] = [row | {"ratio": row["plain"] / row["ours"]} for row in rows]
    return table


def main():
    args = parse_args()
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

    startup = {side: median(one["start-up"][side]["seconds"] for one in runs) for side in SIDES}
    print(f"\n{results['rows']}, {results['cores']} cores, start-up {startup['ours']:.1f} and {startup['plain']:.1f} s")
    for task, target in TARGETS.items():
        results[task] = summarise(runs, startup, task)
        for name, rows in results[task].items():
            print(f"\n{task}, {name}\n{'repetition':>10} {'ours':>8} {'plain':>8} {'ratio':>6}")
            for i, row in enumerate(rows, start=1):
                print(f"{i:10} {row['ours']:8.1f} {row['plain']:8.1f} {row['ratio']:6.2f}")
            results[task][name] = {"repetitions": rows, "median_ratio": median(row["ratio"] for row in rows)}
            goal = f"   target {target}" if name == "whole command" else ""
            print(f"{'median':>10} {results[task][name]['median_ratio']:24.2f}{goal}")
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
