"""Which learning rate fits which encoder: short trainings over rates and seeds, for `train.py --learning_rate auto`.

    python benchmarks/learning_rates.py --dataset_dir data --model_name path/to/one path/to/another

Reads   dataset_dir/{train.txt, dev.txt, label.txt}, encoders
Writes  work_dir/results.jsonl   one line per training: the best micro- and macro-F1 of its epochs in percent
        work_dir/work/           the data and the training at hand, with its log

--rows rows of train.txt, --dev_rows of dev.txt; batches of 16, warm-up over a tenth of the steps, then linear decay,
the loss of --loss, everything else as train.py has it. The first seed climbs from the middle of the rates to the best
one, the others try that and its neighbours. A training whose line is in results.jsonl is not made again. At the end a
table, and for each encoder the rate at the top of a parabola through the means (over the logarithm of the rate, as the
scores are flat there).
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
if not __package__:  # run as a file: the project's root must be found
    sys.path.insert(0, str(ROOT))
from hierarchical.encoders import read_config
from utils import InputError, LabelTree, check_minima, load_rows, make_parser, run, write_rows

RATES = (5e-5, 1e-4, 2e-4, 4e-4, 8e-4)
BATCH_SIZE = 16


def parse_args(argv):
    parser = make_parser("Compare learning rates over encoders.")
    parser.add_argument("--dataset_dir", type=Path, required=True, help="directory of train.txt, dev.txt and label.txt")
    parser.add_argument("--model_name", type=Path, nargs="+", required=True, help="directories of encoders")
    parser.add_argument("--work_dir", type=Path, default="output/learning_rates", help="where results.jsonl goes")
    parser.add_argument("--rows", type=int, default=800, help="training rows")
    parser.add_argument("--dev_rows", type=int, default=300, help="rows that are scored")
    parser.add_argument("--epochs", type=int, default=4, help="of every training")
    parser.add_argument("--loss", default="bce", help="the loss")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3], help="seeds")
    args = parser.parse_args(argv)
    check_minima(parser, args, rows=1, dev_rows=1, epochs=1)
    return args


def write_data(args, folder):
    """The first rows of a shuffled train.txt and of dev.txt."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(args.dataset_dir / "label.txt", folder / "label.txt")
    tree = LabelTree.read(folder / "label.txt")
    for name, count in (("train.txt", args.rows), ("dev.txt", args.dev_rows)):
        rows = load_rows(args.dataset_dir / name, tree)
        order = np.random.default_rng(0).permutation(len(rows.texts))[:count]
        write_rows(folder / name, ((rows.texts[i], [tree.labels[k] for k in rows.labels[i]]) for i in order))


def train(args, model, rate, seed):
    """The best scores of one training, in percent."""
    data, folder = args.work_dir / "work" / "data", args.work_dir / "work" / "checkpoint"
    steps = args.epochs * -(-args.rows // BATCH_SIZE)
    command = [sys.executable, ROOT / "train.py", "--device", "cpu", "--max_seq_length", "64", "--loss", args.loss]
    command += ["--dataset_dir", data, "--model_name", model, "--save_dir", folder, "--batch_size", str(BATCH_SIZE)]
    command += ["--learning_rate", str(rate), "--epochs", str(args.epochs), "--seed", str(seed)]
    command += ["--warmup_steps", str(max(1, steps // 10)), "--select_by", "micro_f1"]
    shutil.rmtree(folder, ignore_errors=True)
    log = args.work_dir / "work" / "log"
    with open(log, "w", encoding="utf-8") as file:
        if subprocess.run(command, stdout=file, stderr=subprocess.STDOUT).returncode:
            raise InputError(f"train.py failed; {log} tells why.")
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return {key: 100 * max(line.get(key, 0) for line in lines) for key in ("micro_f1", "macro_f1")}


def known_results(path):
    """(encoder, rate, seed) -> its line."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    results = map(json.loads, lines)
    return {(line["encoder"], line["learning_rate"], line["seed"]): line for line in results}


def means(results, encoder, seeds):
    """rate -> mean micro-F1 over the seeds, of those tried with each of them."""
    found = {}
    for rate in RATES:
        lines = [results.get((encoder, rate, seed)) for seed in seeds]
        if all(lines):
            found[rate] = float(np.mean([line["micro_f1"] for line in lines]))
    return found


def missing(results, encoder, seed, first_seed):
    """The rates that a seed has still to try: the best one of the first seed so far, and its neighbours."""
    scores = means(results, encoder, [first_seed])
    at = RATES.index(max(scores, key=scores.get, default=RATES[len(RATES) // 2]))
    near = [RATES[at], *RATES[max(at - 1, 0) : at], *RATES[at + 1 : at + 2]]
    return [rate for rate in near if (encoder, rate, seed) not in results]


def top(scores):
    """The rate at the top of the parabola through the best and its neighbours; at an end of the range that end."""
    rates = sorted(scores)
    best = max(rates, key=scores.get)
    at = rates.index(best)
    if at in (0, len(rates) - 1):
        return best
    near = rates[at - 1 : at + 2]
    a, b, _ = np.polyfit(np.log(near), [scores[rate] for rate in near], 2)
    return float(np.exp(-b / (2 * a)))


def main(argv=None):
    args = parse_args(argv)
    write_data(args, args.work_dir / "work" / "data")
    path = args.work_dir / "results.jsonl"
    results = known_results(path)
    for model in args.model_name:
        for seed in args.seeds:
            while wanted := missing(results, model.name, seed, args.seeds[0]):
                line = {"encoder": model.name, "learning_rate": wanted[0], "seed": seed}
                results[model.name, wanted[0], seed] = line | train(args, model, wanted[0], seed)
                with open(path, "a", encoding="utf-8") as file:
                    file.write(json.dumps(results[model.name, wanted[0], seed]) + "\n")
                print(results[model.name, wanted[0], seed], flush=True)
    for model in args.model_name:
        config, scores = read_config(model), means(results, model.name, args.seeds)
        shown = ", ".join(f"{rate:g}: {score:.2f}" for rate, score in scores.items())
        size = f"{config['num_hidden_layers']} layers x {config['hidden_size']}"
        print(f"{model.name} ({size}): best {top(scores):.1e}; micro-F1 {shown}")


if __name__ == "__main__":
    run(main)
