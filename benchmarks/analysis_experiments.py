"""What the tools of analysis/ are worth: planted label errors found, and scores after mending or adding training rows.

    python benchmarks/analysis_experiments.py dirty --dataset_dir data --model_name path/to/encoder
    python benchmarks/analysis_experiments.py dirty --dataset_dir data --model_name path/to/encoder --retrain
    python benchmarks/analysis_experiments.py aug --dataset_dir data --model_name path/to/encoder
    python benchmarks/analysis_experiments.py sparse --dataset_dir data --model_name path/to/encoder --rows 700
    python benchmarks/analysis_experiments.py annotate --dataset_dir data --model_name path/to/encoder --rows 700

Reads   dataset_dir/{train.txt, dev.txt, label.txt}
Writes  work_dir/EXPERIMENT-SEED/   the rows, checkpoints and logs of every run
        work_dir/results.jsonl      one line per figure: experiment, seed, what, scores

Each seed draws its own training rows, and trains from its own seed; dev is the whole dev file, in percent.
    dirty     a tenth of the rows get a wrong label; do the strategies find them? --retrain: scores with right labels
              everywhere, with the wrong ones, and with the first 50, 100 and 150 suspects put right
    aug       the rows alone, and with two copies of each by every strategy
    sparse    the rows alone, and with 100 supporting rows of sparse.py as they are, or changed by every strategy
    annotate  the rows alone, and with 50 or 100 rows from the rest of train, chosen by sparse.py or at random
"""

import argparse
import json
import random
import subprocess
import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
from analysis.aug import CYCLE
from analysis.dirty import STRATEGIES
from modeling import open_checkpoint
from utils import HelpFormatter, LabelTree, load_rows, run, write_rows


def parse_args():
    parser = argparse.ArgumentParser(description="Experiments with analysis/.", formatter_class=HelpFormatter)
    parser.add_argument("experiment", choices=EXPERIMENTS, help="what to measure")
    parser.add_argument("--dataset_dir", required=True, help="directory with train.txt, dev.txt and label.txt")
    parser.add_argument("--model_name", required=True, help="encoder to fine-tune")
    parser.add_argument("--work_dir", default="output/experiments", help="where everything is written")
    parser.add_argument("--rows", type=int, default=2000, help="training rows")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3], help="one run each")
    parser.add_argument("--epochs", type=int, default=15, help="of every training")
    parser.add_argument("--batch_size", type=int, default=32, help="of every training")
    parser.add_argument("--learning_rate", type=float, default=3e-4, help="of every training")
    parser.add_argument("--max_seq_length", type=int, default=128, help="of every training")
    parser.add_argument("--error", choices=("anywhere", "sibling", "missing", "extra"), default="anywhere", help=ERRORS)
    parser.add_argument("--retrain", action="store_true", help="dirty: train again with suspects put right")
    parser.add_argument("--device", default="cpu", help="cpu or gpu")
    return parser.parse_args()


ERRORS = "dirty: a leaf becomes another one, of any branch or a sibling if there is one; is left out; or is added"


class Bench:
    """One seed of one experiment: its folder, its rows, and how to train and score on them."""

    def __init__(self, args, seed):
        self.args, self.seed = args, seed
        self.rng = random.Random(seed)
        self.folder = Path(args.work_dir) / f"{args.experiment}-{seed}"
        self.folder.mkdir(parents=True, exist_ok=True)
        source = Path(args.dataset_dir)
        self.tree = LabelTree.read(source / "label.txt")
        for name in ("dev.txt", "label.txt"):
            (self.folder / name).write_bytes((source / name).read_bytes())
        rows = load_rows(source / "train.txt", self.tree)
        rows = list(zip(rows.texts, rows.labels))
        self.rng.shuffle(rows)
        self.rows, self.others = rows[: args.rows], rows[args.rows :]

    def write(self, name, rows):
        write_rows(self.folder / name, [(text, [self.tree.labels[i] for i in labels]) for text, labels in rows])

    def script(self, script, *flags):
        command = [sys.executable, str(ROOT / script), *map(str, flags)]
        with open(self.folder / "log.txt", "ab") as log:
            subprocess.run(command, stdout=log, stderr=log, check=True)

    def train(self, what, train_file):
        """Train on a file of the folder, score on dev; returns the checkpoint's path."""
        args, checkpoint, scores = self.args, self.folder / f"checkpoint-{what}", self.folder / f"{what}.json"
        common = ["--dataset_dir", self.folder, "--train_file", train_file, "--device", args.device]
        hyper = ["--epochs", args.epochs, "--batch_size", args.batch_size, "--learning_rate", args.learning_rate]
        hyper += ["--max_seq_length", args.max_seq_length, "--seed", self.seed, "--lr_scheduler", "linear"]
        model = ["--model_name", args.model_name, "--save_dir", checkpoint]
        self.script("train.py", *common, *hyper, *model)
        common[common.index(train_file)] = ""  # dev alone
        evaluate = ["--params_path", checkpoint, "--output_json", scores]
        self.script("analysis/evaluate.py", *common, *evaluate)
        result = json.loads(scores.read_text(encoding="utf-8"))["dev"]
        self.report(what, micro_f1=100 * result["micro_f1"], macro_f1=100 * result["macro_f1"])
        return checkpoint

    def report(self, what, **scores):
        line = {"experiment": self.args.experiment, "seed": self.seed, "what": what, **scores}
        with open(Path(self.args.work_dir) / "results.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        shown = ", ".join(f"{name} {value:.2f}" for name, value in scores.items())
        print(f"{self.args.experiment} seed {self.seed} {what}: {shown}", flush=True)


# ---- planted label errors --------------------------------------------------------------------------------------------


def wrong_labels(tree, labels, error, rng):
    """Labels with one error in them; ancestors follow their leaves."""
    inner = {int(tree.parents[i]) for i in labels}
    own = [i for i in labels if i not in inner]
    old = rng.choice(own)
    others = [i for i in range(len(tree)) if not tree.children[i] and i not in labels]
    if error == "sibling":
        others = [i for i in others if tree.parents[i] == tree.parents[old]] or others
    kept = own if error == "extra" else [i for i in own if i != old]
    added = [] if error == "missing" and kept else [rng.choice(others)]
    return tuple(tree.closure([*kept, *added]))


def dirty(bench):
    args, tree, rng = bench.args, bench.tree, bench.rng
    wrong = np.zeros(len(bench.rows), bool)
    wrong[rng.sample(range(len(wrong)), len(wrong) // 10)] = True
    planted = [
        (text, wrong_labels(tree, labels, args.error, rng) if is_wrong else labels)
        for (text, labels), is_wrong in zip(bench.rows, wrong)
    ]
    bench.write("train.txt", planted)
    checkpoint = bench.train("wrong", "train.txt")
    orders = suspicious_orders(args, checkpoint, bench.folder / "train.txt")
    for name, order in orders.items():
        found = wrong[order]
        precision = {f"precision@{k}": 100 * found[:k].mean() for k in (50, 100, 150)}
        bench.report(name, **precision, **{f"recall@{wrong.sum()}": 100 * found[: wrong.sum()].sum() / wrong.sum()})
    if args.retrain:
        bench.write("right.txt", bench.rows)
        bench.train("right", "right.txt")
        for k in (50, 100, 150):
            checked = set(orders["out_of_fold"][:k].tolist())
            mended = [bench.rows[i] if i in checked else row for i, row in enumerate(planted)]
            bench.write(f"mended-{k}.txt", mended)
            bench.train(f"mended-{k}", f"mended-{k}.txt")


def suspicious_orders(args, checkpoint, path):
    """{strategy: row numbers, most suspicious first} of dirty.py's strategies and of cleanlab's scores."""
    from cleanlab.multilabel_classification import get_label_quality_scores

    tree, _, _ = open_checkpoint(checkpoint)
    train, orders = load_rows(path, tree), {}
    gold = train.multi_hot(len(tree))
    settings = argparse.Namespace(
        params_path=checkpoint, max_seq_length=None, batch_size=args.batch_size, device=args.device, seed=3,
        dirty_threshold=0.0,
    )  # fmt: skip
    for name, strategy in STRATEGIES.items():
        scores, likely = strategy(train, gold, settings)
        orders[name] = np.argsort(-scores, kind="stable")
        if name == "out_of_fold":
            quality = get_label_quality_scores([list(labels) for labels in train.labels], likely)
            orders["cleanlab"] = np.argsort(quality, kind="stable")
    orders["model_itself"] = np.argsort(-np.abs(gold - likely).max(1), kind="stable")  # representer gave them last
    return orders


# ---- more training rows ----------------------------------------------------------------------------------------------


def join(bench, name, *files):
    """A training file of several files, one after the other."""
    (bench.folder / name).write_text("".join((bench.folder / f).read_text("utf-8") for f in files), encoding="utf-8")


def aug(bench):
    bench.write("train.txt", bench.rows)
    bench.train("baseline", "train.txt")
    for strategy in ("mix", *CYCLE):
        files = ["--train_path", bench.folder / "train.txt", "--aug_path", bench.folder / f"{strategy}.txt"]
        bench.script("analysis/aug.py", *files, "--aug_strategy", strategy, "--seed", bench.seed)
        join(bench, f"train_{strategy}.txt", "train.txt", f"{strategy}.txt")
        bench.train(strategy, f"train_{strategy}.txt")


def sparse(bench):
    bench.write("train.txt", bench.rows)
    checkpoint = bench.train("baseline", "train.txt")
    for strategy in ("duplicate", *CYCLE):
        choose(bench, checkpoint, 100, "--aug_strategy", strategy, "--seed", bench.seed)
        join(bench, f"train_{strategy}.txt", "train.txt", "support.txt")
        bench.train(strategy, f"train_{strategy}.txt")


def annotate(bench):
    bench.write("train.txt", bench.rows)
    checkpoint = bench.train("baseline", "train.txt")
    write_rows(bench.folder / "data.txt", [(text, None) for text, _ in bench.others])
    gold = dict(bench.others)
    for k in (50, 100):
        choose(bench, checkpoint, k, "--annotate")
        chosen = (bench.folder / "support.txt").read_text(encoding="utf-8").splitlines()
        for name, rows in (
            ("sparse", [(text, gold[text]) for text in chosen]),
            ("random", bench.rng.sample(bench.others, len(chosen))),
        ):
            bench.write(f"train_{name}_{k}.txt", bench.rows + rows)
            bench.train(f"{name}-{k}", f"train_{name}_{k}.txt")


def choose(bench, checkpoint, support_num, *flags):
    where = ["--dataset_dir", bench.folder, "--params_path", checkpoint, "--device", bench.args.device]
    bench.script("analysis/sparse.py", *where, "--support_num", support_num, *flags)


EXPERIMENTS = {function.__name__: function for function in (dirty, aug, sparse, annotate)}


def summary(path):
    """Print mean and range over the seeds of everything in results.jsonl."""
    groups = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        result = json.loads(line)
        key = result.pop("experiment"), result.pop("what")
        groups.setdefault(key, {})[result.pop("seed")] = result
    for (experiment, what), by_seed in groups.items():
        columns = {name: [result[name] for result in by_seed.values()] for name in next(iter(by_seed.values()))}
        shown = [f"{name} {np.mean(v):.2f} ({min(v):.2f} to {max(v):.2f})" for name, v in columns.items()]
        print(f"{experiment} {what}, {len(by_seed)} seeds: {', '.join(shown)}")


def main():
    args = parse_args()
    for seed in args.seeds:
        EXPERIMENTS[args.experiment](Bench(args, seed))
    summary(Path(args.work_dir) / "results.jsonl")


if __name__ == "__main__":
    run(main)
