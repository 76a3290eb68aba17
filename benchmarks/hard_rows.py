"""Which planted errors are among the hardest rows of a training, and which among the suspects of analysis/dirty.py.

    python benchmarks/hard_rows.py --work_dir output/hard -- --epochs 12

Reads   dataset_dir/{train.txt, dev.txt, label.txt}    of which `--errors` rows get another leaf at random
Writes  work_dir/data, work_dir/checkpoint             the data folder with these errors, and the model trained on it

What follows a bare -- goes to train.py. Both lists are as long as `--looked_at`.
"""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
if not __package__:  # run as a file: the project's root must be found
    sys.path.insert(0, str(ROOT))
from benchmarks.planting import add_planting_arguments, plant
from hierarchical.dynamics import KINDS, read_dynamics
from utils import LabelTree, load_rows, make_parser, run


def among(texts, truth, wrong):
    """How many of the texts have a planted error. wrong: text -> the labels that it has now; truth: the right ones."""
    return sum(truth[text] != wrong[text] for text in texts)


def call(*command):
    subprocess.run([sys.executable, *map(str, command)], cwd=ROOT, check=True)


def parse_args(argv):
    parser = make_parser("Planted errors among the hardest rows of a training.")
    add_planting_arguments(parser)
    parser.add_argument("--looked_at", type=int, default=100, help="rows of each list")
    return parser.parse_args(argv)


def main(argv=None):
    args = parse_args(argv)
    work_dir = args.work_dir.resolve()
    folder, checkpoint = work_dir / "data", work_dir / "checkpoint"
    truth = plant(args.dataset_dir, folder, args.errors, args.seed)
    train = ["--dataset_dir", folder, "--model_name", args.model_name, "--save_dir", checkpoint, "--keep_dynamics"]
    call("train.py", *train, "--device", "cpu", *args.train_flags)
    call("analysis/dirty.py", "--dataset_dir", folder, "--dirty_num", args.looked_at)
    tree = LabelTree.read(folder / "label.txt")
    rows = load_rows(folder / "train.txt", tree)
    wrong = {text: {tree.labels[k] for k in labels} for text, labels in zip(rows.texts, rows.labels)}
    seen = read_dynamics(checkpoint, rows)
    hardest = [rows.texts[i] for i in np.argsort(seen.confidence, kind="stable")[: args.looked_at]]
    suspects = [json.loads(line)["text"] for line in open(folder / "train_dirty.jsonl", encoding="utf-8")]
    kinds = seen.kinds()
    print(
        {kind: (kinds.count(kind), among(of_kind(rows, kinds, kind), truth, wrong)) for kind in KINDS}, "rows, errors"
    )
    print(f"errors among the {args.looked_at} hardest rows: {among(hardest, truth, wrong)}")
    print(f"errors among the {args.looked_at} suspects of dirty.py: {among(suspects, truth, wrong)}")


def of_kind(rows, kinds, kind):
    return [text for text, own in zip(rows.texts, kinds) if own == kind]


if __name__ == "__main__":
    run(main)
