"""CPU time of labelling a file but for the model: reading, tokenising, deciding, writing. The model is a table.

    python benchmarks/around_the_model.py --model_path export --data_file data/data.txt

Reads   model_path   folder of export_model.py: labels, tokenizer and settings of it count
        data_file    texts, some thousands
Writes  nothing but what it prints: microseconds of CPU time a text, the best of --rounds, of each part by itself and of
        the whole of what infer.py does with a file
"""

import os
import resource
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

if not __package__:  # run as a file: the project's root must be found
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import numpy as np

from benchmarks.timing import cpu_seconds
from hierarchical.decisions import decide, probabilities_of
from hierarchical.errors import Problems
from hierarchical.labelled import FLOOR, Labelled
from hierarchical.predictions import FORMATS, Job, predict_file
from hierarchical.predictor import Predictor
from hierarchical.rows import count_texts, read_texts
from utils import get_logger, make_parser, run

ROWS = 4096  # of the table


def parse_args(argv):
    parser = make_parser("Measure the CPU time of labelling a file but for the model.")
    parser.add_argument("--model_path", required=True, help="folder of export_model.py")
    parser.add_argument("--data_file", required=True, help="file of texts")
    parser.add_argument("--batch_size", type=int, default=256, help="texts per step")
    parser.add_argument("--rounds", type=int, default=5, help="of which the best one counts")
    return parser.parse_args(argv)


class Table:
    """An engine that looks its logits up: of a text always the same, whatever it is padded with.

    One or two leaves with their ancestors are likely, and a few labels above the floor, as with a trained model.
    """

    def __init__(self, tree, pad_id):
        random = np.random.default_rng(0)
        self.pad_id, self.logits = pad_id, random.normal(-7, 1.5, (ROWS, len(tree))).astype(np.float32)
        leaves = [i for i, children in enumerate(tree.children) if not children]
        for row in self.logits:
            likely = tree.closure(random.choice(leaves, random.integers(1, 3)))
            row[likely] = random.normal(4, 1.5, len(likely))

    def __call__(self, input_ids):
        return self.logits[np.where(input_ids == self.pad_id, 0, input_ids).sum(axis=1) % ROWS]


def from_file(predictor, job):
    """What infer.py does: CPU seconds of all threads."""
    began = cpu_seconds(resource.RUSAGE_SELF)
    predict_file(job, predictor, predictor.decision)
    return cpu_seconds(resource.RUSAGE_SELF) - began


def main(argv=None):
    args = parse_args(argv)
    predictor = Predictor(args.model_path, kind="export", batch_size=args.batch_size)
    tree, tokenizer, decision = predictor.tree, predictor.tokenizer, predictor.decision
    predictor.engine, predictor.singly = Table(tree, tokenizer.pad_id), False
    get_logger().setLevel("ERROR")
    seconds = {}

    def measure(name, work):
        for _ in range(args.rounds):
            began = time.thread_time()
            result = work()
            seconds[name] = min(seconds.get(name, np.inf), time.thread_time() - began)
        return result

    callers, predictor.callers = predictor.callers, 1  # so that this thread does it all
    measure("count and check the rows", lambda: count_texts(args.data_file, tree, Counter()))
    texts = measure("read them", lambda: list(read_texts(args.data_file, tree, Problems(), Counter())))
    ids = measure("tokenise", lambda: tokenizer.encode(texts))
    logits = measure("batches and back", lambda: predictor.logits(ids))
    probabilities = measure("probabilities", lambda: probabilities_of(logits, tree, decision))
    selected = measure("decide", lambda: decide(probabilities, tree, decision))
    found = Labelled(texts, selected, probabilities)
    for suffix, rows in FORMATS.items():
        measure(f"{suffix} rows", lambda rows=rows: "".join(rows(tree, found, FLOOR)).encode())
    predictor.callers = callers
    with tempfile.TemporaryDirectory() as folder:
        for suffix in FORMATS:
            output = str(Path(folder, f"out{suffix}"))
            job = Job(args.data_file, output_file=output, batch_size=args.batch_size, quiet=True)
            seconds[f"from file to {suffix}"] = min(from_file(predictor, job) for _ in range(args.rounds))
    print(f"{len(texts)} texts, {len(tree)} labels; load average {os.getloadavg()[0]:.1f}; CPU microseconds a text")
    for name, used in seconds.items():
        print(f"{name:<26}{1e6 * used / len(texts):>8.2f}")


if __name__ == "__main__":
    run(main)
