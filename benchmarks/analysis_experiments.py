"""What the tools of analysis/ are worth: planted label errors found, and scores after mending or adding training rows.

    python benchmarks/analysis_experiments.py suspects --dataset_dir data --error sibling
    python benchmarks/analysis_experiments.py dirty --dataset_dir data --model_name path/to/encoder
    python benchmarks/analysis_experiments.py dirty --dataset_dir data --model_name path/to/encoder --clean 100 150
    python benchmarks/analysis_experiments.py aug --dataset_dir data --model_name path/to/encoder
    python benchmarks/analysis_experiments.py sparse --dataset_dir data --model_name path/to/encoder --rows 700
    python benchmarks/analysis_experiments.py annotate --dataset_dir data --model_name path/to/encoder --rows 700

Reads   dataset_dir/{train.txt, dev.txt, label.txt}
Writes  work_dir/ROWS-SEED/       the rows, checkpoints and logs of every run
        work_dir/results.jsonl    one line per figure: rows, seed, what, scores in percent

Each seed draws its own training rows, and trains from its own seed. --dev_rows rows of dev.txt choose the epoch; the
scores are those of all of dev.txt, which is also what sparse.py looks at. With more rows there are fewer epochs: all
trainings take about as many steps, none fewer than the rows alone. A run whose line is in results.jsonl is not made
again.
    baseline  the rows alone; the experiments below share it
    suspects  a tenth of the rows get a wrong label; does dirty.py's default strategy, which needs no model, find them?
    dirty     the same for every strategy. --clean: scores with the wrong labels, and with so many suspects of the
              default strategy put right in each of --rounds
    aug       the rows, and two copies of each by every strategy
    sparse    the rows, and 100 supporting rows of sparse.py as they are, or changed by every strategy
    annotate  the rows, and so many (--support) rows from the rest of train, chosen by sparse.py in each of --rounds, or
              at random
"""

import json
import math
import random
import subprocess
import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
if not __package__:  # run as a file: the project's root must be found
    sys.path.insert(0, str(ROOT))
from analysis.augmentation import CYCLE
from analysis.suspicion import STRATEGIES, Search, out_of_fold
from benchmarks.drawing import copy_labels
from benchmarks.planting import ERROR_KINDS, ERRORS, wrong_labels
from hierarchical.checkpoints import Checkpoint
from hierarchical.ledger import Ledger
from utils import InputError, LabelTree, load_rows, make_parser, run, write_rows


def parse_args(argv):
    parser = make_parser("Experiments with analysis/.")
    parser.add_argument("experiment", choices=EXPERIMENTS, help="what to measure")
    parser.add_argument("--dataset_dir", type=Path, required=True, help="directory of train.txt, dev.txt and label.txt")
    parser.add_argument("--model_name", help="encoder to fine-tune; suspects needs none")
    parser.add_argument("--work_dir", type=Path, default="output/experiments", help="where everything is written")
    parser.add_argument("--rows", type=int, default=2000, help="training rows")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3], help="one run each")
    parser.add_argument("--epochs", type=int, default=8, help="over the rows alone")
    parser.add_argument("--batch_size", type=int, default=8, help="of every training")
    parser.add_argument("--learning_rate", type=float, default=2e-4, help="of every training")
    parser.add_argument("--max_seq_length", type=int, default=128, help="of every training")
    parser.add_argument("--dev_rows", type=int, default=200, help="to choose the epoch by")
    parser.add_argument("--error", choices=ERROR_KINDS, default="anywhere", help=f"suspects, dirty: {ERRORS}")
    parser.add_argument("--clean", type=int, nargs="+", default=[], help="dirty: suspects to put right, then train")
    parser.add_argument("--rounds", type=int, default=1, help="dirty, annotate: each goes on from the one before")
    parser.add_argument("--trusted", action="store_true", help="dirty: train without what dirty.py then distrusts")
    parser.add_argument("--strategies", nargs="+", help="aug, sparse: only these ways to change a row")
    parser.add_argument("--support", type=int, nargs="+", default=[50], help="annotate: rows to add")
    parser.add_argument("--one_model", action="store_true", help="annotate: all rounds choose by the first model")
    parser.add_argument("--device", default="cpu", help="cpu or gpu")
    args = parser.parse_args(argv)
    if not args.model_name and args.experiment != "suspects":
        parser.error("argument --model_name: needed, unless for suspects")
    return args


class Bench:
    """One draw of training rows: its folder, its rows, and how to train and score on them."""

    def __init__(self, args, seed):
        self.args, self.seed = args, seed
        self.folder, self.record = args.work_dir / f"{args.rows}-{seed}", args.work_dir / "results.jsonl"
        self.folder.mkdir(parents=True, exist_ok=True)
        self.tree = LabelTree.read(args.dataset_dir / "label.txt")
        copy_labels(args.dataset_dir, self.folder)
        (self.folder / "dev.txt").write_bytes((args.dataset_dir / "dev.txt").read_bytes())
        dev = load_rows(self.folder / "dev.txt", self.tree, unlabelled="skip")
        chosen = random.Random(0).sample(list(zip(dev.texts, dev.labels)), min(args.dev_rows, len(dev.texts)))
        self.write("dev_epoch.txt", chosen)
        rows = load_rows(args.dataset_dir / "train.txt", self.tree, unlabelled="skip")
        rows = list(zip(rows.texts, rows.labels))
        random.Random(seed).shuffle(rows)
        self.rows, self.others = rows[: args.rows], rows[args.rows :]
        self.write("train.txt", self.rows)

    def write(self, name, rows):
        write_rows(self.folder / name, [(text, [self.tree.labels[i] for i in labels]) for text, labels in rows])
        return self.folder / name

    def script(self, script, *flags):
        log = self.folder / "log.txt"
        with open(log, "ab") as file:
            if subprocess.run([sys.executable, ROOT / script, *map(str, flags)], stdout=file, stderr=file).returncode:
                raise InputError(f"{script} failed; {log} tells why.")

    def train(self, what, train_file="train.txt"):
        """Train on a file of the folder, score on dev; returns the checkpoint's path."""
        args, checkpoint, scores = self.args, self.folder / f"checkpoint-{what}", self.folder / f"{what}.json"
        if self.known(what):
            return checkpoint
        with open(self.folder / train_file, "rb") as file:
            passes = math.ceil(args.epochs * args.rows / sum(1 for _ in file))
        common = ["--dataset_dir", self.folder, "--device", args.device]
        hyper = ["--epochs", passes, "--batch_size", args.batch_size, "--learning_rate", args.learning_rate]
        hyper += ["--max_seq_length", args.max_seq_length, "--seed", self.seed, "--warmup_steps", 50]
        files = ["--train_file", train_file, "--dev_file", "dev_epoch.txt", "--model_name", args.model_name]
        self.script("train.py", *common, *hyper, *files, "--save_dir", checkpoint, "--logging_steps", 50)
        evaluate = ["--params_path", checkpoint, "--output_json", scores, "--train_file", ""]  # dev alone
        self.script("analysis/evaluate.py", *common, *evaluate)
        result = json.loads(scores.read_text(encoding="utf-8"))["dev"]
        self.report(what, micro_f1=100 * result["micro_f1"], macro_f1=100 * result["macro_f1"])
        return checkpoint

    def known(self, what):
        return (self.args.rows, self.seed, what) in read_results(self.record)

    def report(self, what, **scores):
        scores = {name: round(float(value), 2) for name, value in scores.items()}
        line = json.dumps({"rows": self.args.rows, "seed": self.seed, "what": what, **scores})
        with open(self.record, "a", encoding="utf-8") as file:
            file.write(line + "\n")
        print(line, flush=True)


def read_results(path):
    """{(rows, seed, what): scores} of results.jsonl."""
    results = {}
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        entry = json.loads(line)
        results[entry.pop("rows"), entry.pop("seed"), entry.pop("what")] = entry
    return results


# ---- planted label errors --------------------------------------------------------------------------------------------


def planted_errors(bench):
    """(rows with errors in them, which rows these are: bool [N], the name of the kind); written to NAME.txt, too."""
    args, tree, rng = bench.args, bench.tree, random.Random(bench.seed)
    wrong = np.zeros(len(bench.rows), bool)
    wrong[rng.sample(range(len(wrong)), len(wrong) // 10)] = True
    planted = [
        (text, wrong_labels(tree, labels, args.error, rng) if is_wrong else labels)
        for (text, labels), is_wrong in zip(bench.rows, wrong)
    ]
    name = f"wrong-{args.error}"
    bench.write(f"{name}.txt", planted)
    return planted, wrong, name


def report_found(bench, what, found):
    """found: bool [N], whether each row is wrong, the most suspicious first."""
    if not bench.known(what):
        precision = {f"precision@{k}": 100 * found[:k].mean() for k in (50, 100, 150)}
        bench.report(what, **precision, **{f"recall@{found.sum()}": 100 * found[: found.sum()].mean()})


def suspects(bench):
    _, wrong, name = planted_errors(bench)
    rows = load_rows(bench.folder / f"{name}.txt", bench.tree)
    scores, _ = out_of_fold(rows, bench.tree, Search())
    report_found(bench, f"{name}, out_of_fold", wrong[np.argsort(-scores, kind="stable")])


def dirty(bench):
    args = bench.args
    planted, wrong, name = planted_errors(bench)
    checkpoint = bench.train(name, f"{name}.txt")
    orders = suspicious_orders(args, checkpoint, bench.folder / f"{name}.txt")
    for strategy, order in orders.items():
        report_found(bench, f"{name}, {strategy}", wrong[order])
    for k in args.clean:
        clean(bench, name, planted, orders["out_of_fold"], k)
    if args.clean:
        bench.train("baseline")


def clean(bench, name, planted, order, k):
    """Put the first k suspects right that no round before had, train, and find the next ones."""
    checked: list[int] = []
    for number in range(1, bench.args.rounds + 1):
        checked += [i for i in order.tolist() if i not in checked][:k]
        what = f"{name}-clean-{rounds_of(k, number)}"
        path = bench.write(f"{what}.txt", [bench.rows[i] if i in checked else row for i, row in enumerate(planted)])
        if bench.args.trusted:
            what = f"{what}-trusted"
            write_trusted(bench, planted, checked, bench.folder / f"{what}.txt")
        bench.train(what, f"{what}.txt")
        if number < bench.args.rounds:
            scores, _ = out_of_fold(load_rows(path, bench.tree), bench.tree, Search())
            order = np.argsort(-scores, kind="stable")


def rounds_of(k, number):
    """Two rounds of 75 are 75-75."""
    return "-".join([str(k)] * number)


def write_trusted(bench, planted, checked, path):
    """What dirty.py --merge makes of the planted rows when these were answered with the right labels."""
    folder = path.with_suffix("")
    folder.mkdir(exist_ok=True)
    copy_labels(bench.args.dataset_dir, folder)
    named = [(text, tuple(bench.tree.labels[k] for k in labels)) for text, labels in planted]
    write_rows(folder / "train.txt", named)
    ledger, right = Ledger(folder), [tuple(bench.tree.labels[k] for k in labels) for _, labels in bench.rows]
    ledger.add(
        ledger.answer(named[i][0], "truth", right[i], before=named[i][1], via="analysis_experiments.py")
        for i in checked
    )
    bench.script("analysis/dirty.py", "--dataset_dir", folder, "--merge", "--trusted_file", path)


def suspicious_orders(args, checkpoint, path):
    """{strategy: row numbers, most suspicious first} of dirty.py's strategies and of cleanlab's scores."""
    from cleanlab.multilabel_classification import get_label_quality_scores

    opened = Checkpoint.open(checkpoint)
    tree = opened.tree
    train, orders = load_rows(path, tree), {}
    gold = train.multi_hot(len(tree))
    search = Search(seed=3, checkpoint=opened, device=args.device, batch_size=args.batch_size)
    for name, strategy in STRATEGIES.items():
        scores, likely_of = strategy(train, tree, search)
        likely = likely_of(range(len(scores)))
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
    bench.train("baseline")
    for strategy in bench.args.strategies or ("mix", *CYCLE):
        what = f"aug-{strategy}"
        files = ["--train_path", bench.folder / "train.txt", "--aug_path", bench.folder / f"{strategy}.txt"]
        bench.script("analysis/aug.py", *files, "--aug_strategy", strategy, "--seed", bench.seed)
        join(bench, f"train-{what}.txt", "train.txt", f"{strategy}.txt")
        bench.train(what, f"train-{what}.txt")


def sparse(bench):
    checkpoint = bench.train("baseline")
    for strategy in bench.args.strategies or ("duplicate", *CYCLE):
        what = f"sparse-{strategy}"
        # The nearest training row of a sparse dev row is seldom above the default threshold
        choose(bench, checkpoint, 100, "--aug_strategy", strategy, "--support_threshold", 0, "--seed", bench.seed)
        join(bench, f"train-{what}.txt", "train.txt", "support.txt")
        bench.train(what, f"train-{what}.txt")


def annotate(bench):
    baseline, gold = bench.train("baseline"), dict(bench.others)
    for k in bench.args.support:
        checkpoint, path, added = baseline, bench.folder / "train.txt", []
        for number in range(1, bench.args.rounds + 1):
            write_rows(bench.folder / "data.txt", [(text, None) for text in gold if text not in added])
            choose(bench, checkpoint, k, "--annotate", "--train_file", path.name)
            added += (bench.folder / "support.txt").read_text(encoding="utf-8").splitlines()
            what = f"annotate-{rounds_of(k, number)}"
            path = bench.write(f"train-{what}.txt", bench.rows + [(text, gold[text]) for text in added])
            if not bench.args.one_model:
                checkpoint = bench.train(what, path.name)
        if bench.args.one_model:
            bench.train(f"{what}-one-model", path.name)
        what, rows = f"random-{len(added)}", random.Random(bench.seed).sample(bench.others, len(added))
        bench.train(what, bench.write(f"train-{what}.txt", bench.rows + rows).name)


def choose(bench, checkpoint, support_num, *flags):
    where = ["--dataset_dir", bench.folder, "--params_path", checkpoint, "--device", bench.args.device]
    bench.script("analysis/sparse.py", *where, "--support_num", support_num, *flags)


EXPERIMENTS = {function.__name__: function for function in (suspects, dirty, aug, sparse, annotate)}


def summary(results):
    """Print mean and range over the seeds of everything measured."""
    groups = {}
    for (rows, seed, what), scores in results.items():
        groups.setdefault((rows, what), {})[seed] = scores
    for (rows, what), by_seed in groups.items():
        columns = {name: [scores[name] for scores in by_seed.values()] for name in next(iter(by_seed.values()))}
        shown = [f"{name} {np.mean(v):.2f} ({min(v):.2f} to {max(v):.2f})" for name, v in columns.items()]
        print(f"{rows} rows, {what}, {len(by_seed)} seeds: {', '.join(shown)}")


def main(argv=None):
    args = parse_args(argv)
    for seed in args.seeds:
        EXPERIMENTS[args.experiment](Bench(args, seed))
    summary(read_results(args.work_dir / "results.jsonl"))


if __name__ == "__main__":
    run(main)
