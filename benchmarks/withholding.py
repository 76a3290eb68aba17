"""Rows without some labels, and the toolkit's scripts as they are typed: what routes.py and unseen.py share."""

import subprocess
import sys
from pathlib import Path

import numpy as np

from utils import InputError, write_rows

ROOT = Path(__file__).resolve().parents[1]


def call(log, script, *arguments):
    """Run one of the toolkit's scripts; its output goes to a log file."""
    with open(log, "a", encoding="utf-8") as file:
        command = [sys.executable, ROOT / script, *map(str, arguments)]
        if subprocess.run(command, stdout=file, stderr=subprocess.STDOUT).returncode:
            raise InputError(f"{script} failed; {log} tells why.")


def withheld_labels(tree, count):
    """Class indices of so many leaves, always the same ones."""
    leaves = [i for i in range(len(tree)) if not tree.children[i]]
    return set(np.random.default_rng(0).permutation(leaves)[:count].tolist())


def write_some(path, tree, rows, chosen):
    write_rows(path, [(rows.texts[i], [tree.labels[label] for label in rows.labels[i]]) for i in chosen])
