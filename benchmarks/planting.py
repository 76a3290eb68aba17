"""A data folder with wrong labels planted in it, for measurements of what finds them."""

import random
import shutil
from pathlib import Path

from benchmarks.drawing import copy_labels
from benchmarks.timing import ROOT
from utils import LabelTree, load_rows

ERROR_KINDS = "anywhere", "sibling", "missing", "extra"
ERRORS = "a leaf becomes another one, of any branch or a sibling if there is one; is left out; or is added"


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


def add_planting_arguments(parser):
    """The flags of a measurement that plants errors, and trains: the folder, how many, what train.py gets."""
    parser.add_argument("--dataset_dir", type=Path, default=ROOT / "data", help="data folder with right labels")
    parser.add_argument("--model_name", default="data/tiny-ernie", help="encoder")
    parser.add_argument("--work_dir", type=Path, required=True, help="must not be there yet")
    parser.add_argument("--errors", type=int, default=75, help="rows that get a wrong label")
    parser.add_argument("--seed", type=int, default=3, help="of the errors")
    parser.add_argument("train_flags", nargs="*", metavar="-- FLAG", help="passed on to train.py")


def plant(source, folder, errors, seed):
    """Copy a data folder with wrong labels in it; the right ones: {text: set of names}."""
    folder.mkdir(parents=True)
    copy_labels(source, folder)
    shutil.copy(source / "dev.txt", folder)
    tree, rng = LabelTree.read(source / "label.txt"), random.Random(seed)
    rows = load_rows(source / "train.txt", tree)
    wrong = set(rng.sample(range(len(rows.texts)), errors))
    leaves = [i for i in range(len(tree)) if not tree.children[i]]
    with open(folder / "train.txt", "w", encoding="utf-8") as file:
        for i, (text, labels) in enumerate(zip(rows.texts, rows.labels)):
            if i in wrong:
                own = [k for k in labels if k in leaves]
                gone = rng.choice(own or list(labels))
                kept = [k for k in labels if k in leaves and k != gone]
                labels = tree.closure([*kept, rng.choice([k for k in leaves if k not in labels])])
            file.write(f"{text}\t{','.join(tree.labels[k] for k in labels)}\n")
    return {text: {tree.labels[k] for k in labels} for text, labels in zip(rows.texts, rows.labels)}
