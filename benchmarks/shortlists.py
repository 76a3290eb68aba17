"""What a shortlist of labels costs a training and saves it: `train.py --head sampled` beside all labels in every step.

    python benchmarks/shortlists.py
    python benchmarks/shortlists.py --branches 20 25 40 --rows 40000 --epochs 0     # what a step costs, nothing else
    python benchmarks/shortlists.py --branches 100 30 30 --rows 8000 --epochs 0     # of 93,100 labels

Writes  work_dir/data-*/{train.txt, dev.txt, label.txt}   made rows; work_dir/data-*-HEAD/   a checkpoint each

Labels have three levels, and four characters of their own each; a row names one path by two characters of each of its
labels, among as many of no meaning, so that what an ancestor has learned helps its descendants. The encoder of the
sample data, 2 layers of width 128, starts from scratch. Steps are measured in CPU seconds after a few that are not
counted, both ways in turn, with one thread.
"""

import json
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
if not __package__:  # run as a file: the project's root must be found
    sys.path.insert(0, str(ROOT))
from benchmarks.timing import cpu_seconds
from utils import LabelTree, check_minima, get_logger, load_rows, make_parser, run, write_rows

ENCODER = ROOT / "data" / "tiny-ernie"
HEADS, UNCOUNTED = ("dense", "sampled"), 3


def parse_args(argv):
    parser = make_parser("Compare a training on shortlists of labels with one on all labels.")
    parser.add_argument("--work_dir", type=Path, default=Path(tempfile.gettempdir()) / "shortlists", help="for files")
    parser.add_argument("--branches", type=int, nargs=3, default=[20, 25, 20], help="labels of each level below one")
    parser.add_argument(
        "--rows", type=int, default=40_000, help="train rows; a tenth as many are dev rows, 2000 at most"
    )
    parser.add_argument("--epochs", type=int, default=6, help="of both trainings; 0: steps are measured only")
    parser.add_argument("--steps", type=int, default=20, help="measured, of each")
    args = parser.parse_args(argv)
    check_minima(parser, args, rows=100, epochs=0, steps=1)
    return args


def made_tree(branches):
    paths = [""]
    labels = []
    for branch in branches:
        paths = [f"{path}##{i}" if path else str(i) for path in paths for i in range(branch)]
        labels += paths
    return LabelTree(labels)


def made_rows(tree, n_rows, seed):
    """Yield (text, labels) of so many rows."""
    letters = [line for line in (ENCODER / "vocab.txt").read_text("utf-8").split("\n") if "一" <= line <= "鿿"]
    own = np.random.default_rng(1).integers(0, len(letters), (len(tree), 4))
    rng = np.random.default_rng(seed)
    for leaf in rng.choice(np.flatnonzero(tree.levels == tree.depth), n_rows).tolist():
        path = tree.closure([leaf])
        named = [rng.choice(own[label], 2, replace=False) for label in path]
        text = rng.permutation(np.concatenate([*named, rng.integers(0, len(letters), 2 * len(path))]))
        yield "".join(letters[i] for i in text), [tree.labels[label] for label in path]


def make_data(folder, args):
    folder.mkdir(parents=True, exist_ok=True)
    tree = made_tree(args.branches)
    (folder / "label.txt").write_text("".join(f"{label}\n" for label in tree.labels), "utf-8")
    write_rows(folder / "train.txt", made_rows(tree, args.rows, 2))
    write_rows(folder / "dev.txt", made_rows(tree, min(2000, args.rows // 10), 3))
    return tree


def measure_steps(args, tree, folder):
    """CPU milliseconds of a step with each head: {head: float}."""
    import paddle

    from hierarchical.modeling import build_model, set_labels
    from hierarchical.runs import open_model
    from hierarchical.shortlist import sampled_head
    from hierarchical.training import Settings, Trainer, train_batches

    paddle.set_device("cpu")
    _, tokenizer, config = open_model(ENCODER, 128)
    set_labels(config, tree)
    train = load_rows(folder / "train.txt", tree)
    ids = tokenizer.encode(train.texts[: 32 * (UNCOUNTED + args.steps)])
    batches, trainers = train_batches([len(row) for row in ids], 32, 3, 1), {}
    for head in HEADS:
        paddle.seed(3)
        model = build_model(config)
        model.train()
        sampled = sampled_head(paddle, model, tree, train.labels, 32, 3, get_logger()) if head == "sampled" else None
        trainers[head] = Trainer(paddle, Settings(1e-3, 5e-3), model, 1000, sampled)
    spent = dict.fromkeys(HEADS, 0.0)
    for number, batch in enumerate(batches):
        for head, trainer in trainers.items():
            before = cpu_seconds(resource.RUSAGE_SELF)
            trainer.train_step(ids, train.labels, batch, tokenizer.pad_id)
            if number >= UNCOUNTED:
                spent[head] += cpu_seconds(resource.RUSAGE_SELF) - before
    return {head: 1000 * seconds / (len(batches) - UNCOUNTED) for head, seconds in spent.items()}


def train(args, folder, head):
    """Train with a head: (scores of dev after each epoch, CPU seconds)."""
    save_dir, before = folder.with_name(f"{folder.name}-{head}"), cpu_seconds()
    command = [sys.executable, ROOT / "train.py", "--dataset_dir", folder, "--save_dir", save_dir, "--head", head]
    command += ["--model_name", ENCODER, "--device", "cpu", "--learning_rate", 1e-3, "--warmup_steps", 200]
    command += ["--epochs", args.epochs, "--logging_steps", 100, "--per_level", 1]
    subprocess.run([*map(str, command)], check=True)
    lines = (save_dir / "metrics.jsonl").read_text("utf-8").splitlines()
    return [json.loads(line) for line in lines], cpu_seconds() - before


def main(argv=None):
    args = parse_args(argv)
    folder = args.work_dir / f"data-{'-'.join(map(str, args.branches))}-{args.rows}"
    tree = make_data(folder, args)
    steps = measure_steps(args, tree, folder)
    print(f"{len(tree):,} labels: " + ", ".join(f"{head} {ms:.1f} CPU ms a step" for head, ms in steps.items()))
    print(f"dense / sampled: {steps['dense'] / steps['sampled']:.2f}")
    for head in HEADS if args.epochs else ():
        history, seconds = train(args, folder, head)
        scores = ", ".join(f"{100 * one['micro_f1']:.2f}/{100 * one['macro_f1']:.2f}" for one in history)
        print(f"{head}: micro / macro F1 of dev after each epoch {scores}; {seconds:.0f} CPU seconds")


if __name__ == "__main__":
    run(main)
