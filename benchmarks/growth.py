"""How time and memory grow with rows and with labels: three sizes for each stage, and the exponents they fit.

    python benchmarks/growth.py --work_dir /tmp/growth
    python benchmarks/growth.py --work_dir /tmp/growth --stages tune --rows 25000 50000 100000 --labels 10000

Writes  files of rows and of tokens into work_dir, where they are left

An exponent of 1 is a cost in proportion, 2 one that takes four times as much for twice the size, 0 one that does not
grow. The work of a stage runs alone in a process of its own; CPU seconds and the peak of memory are those above what
the process had before; `evaluate` is a script, and its start counts, too. The rows are made: each has words of one
label and of its parent among characters at random.
"""

import resource
import subprocess
import sys
import tempfile
from fractions import Fraction
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
if not __package__:  # run as a file: the project's root must be found
    sys.path.insert(0, str(ROOT))
from analysis.neighbours import nearest
from analysis.scoring import fit_baseline
from analysis.suspicion import Search, out_of_fold
from hierarchical.batches import row_windows
from hierarchical.calibration import sigmoid
from hierarchical.checkpoints import save_linear_model
from hierarchical.linear import LinearBranch
from hierarchical.n_grams import NGrams
from hierarchical.rows import Rows
from hierarchical.stratify import stratified_split
from hierarchical.token_rows import encode_file
from hierarchical.tokenizer import load_tokenizer
from hierarchical.training import label_frequency_bias, train_batches
from metric import Decision, Scores, decide, dev_cells, tuned_decision
from utils import LabelTree, get_logger, load_rows, make_parser, report_rows, run, write_rows

PARTS = [Fraction(7, 10), Fraction(2, 10), Fraction(1, 10)]


def parse_args(argv):
    parser = make_parser("Exponents of time and memory.")
    parser.add_argument("--work_dir", type=Path, default=Path(tempfile.gettempdir()) / "growth", help="for the files")
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=list(STAGES), help="what is measured")
    parser.add_argument("--rows", type=int, nargs="+", help="sizes; with one, the labels vary")
    parser.add_argument("--labels", type=int, nargs="+", help="sizes; with one, the rows vary")
    parser.add_argument("--measure", action="store_true", help="one stage of one size, in this process")
    args = parser.parse_args(argv)
    if min([10, *(args.rows or ()), *(args.labels or ())]) < 1:
        parser.error("--rows and --labels are 1 or more")
    if bool(args.rows) != bool(args.labels):
        parser.error("--rows and --labels go together: one of them with several sizes, the other with one")
    return args


# ---- rows that are made ----------------------------------------------------------------------------------------------


def made_tree(n_labels):
    """A tenth of the labels are parents of the others."""
    parents = max(1, n_labels // 10)
    return LabelTree([f"p{i}" for i in range(parents)] + [f"p{i % parents}##c{i}" for i in range(parents, n_labels)])


def made_rows(n_rows, n_labels, seed=0):
    """Rows of about 28 characters, each with a leaf of `made_tree` and its parent."""
    rng, parents = np.random.default_rng(seed), max(1, n_labels // 10)
    words = np.random.default_rng(1).integers(0x4E00, 0x5800, (n_labels, 8))
    texts, labels = [], []
    for leaf in rng.integers(parents, n_labels, n_rows).tolist():
        of_leaf, of_parent = rng.integers(0, 7, 2)
        codes = [*words[leaf, of_leaf : of_leaf + 2], *words[leaf % parents, of_parent : of_parent + 2]]
        texts.append("".join(map(chr, [*rng.integers(0x4E00, 0x5000, 24), *codes])))
        labels.append((leaf % parents, leaf))
    return Rows(texts, labels, 0, 0)


def made_file(work_dir, n_rows, n_labels):
    path = work_dir / f"rows-{n_rows}-{n_labels}.txt"
    if not path.exists():
        tree, rows = made_tree(n_labels), made_rows(n_rows, n_labels)
        write_rows(path, ((text, [tree.labels[i] for i in own]) for text, own in zip(rows.texts, rows.labels)))
    return path


def made_windows(n_rows, n_labels):
    """Yield (logits float32 [n, L], gold bool [n, L]) of all rows; what is gold is likelier."""
    rng, noise = np.random.default_rng(0), np.random.default_rng(1).standard_normal(4_000_000, np.float32) - 8
    for window in row_windows(n_rows, n_labels):
        size, shape = len(window) * n_labels, (len(window), n_labels)
        start = int(rng.integers(0, len(noise) - size)) if size < len(noise) else 0
        gold = np.zeros(shape, bool)
        gold[np.arange(len(window)), rng.integers(0, n_labels, len(window))] = True
        yield np.resize(noise[start : start + size], shape) + 8 * gold, gold


# ---- stages ----------------------------------------------------------------------------------------------------------
# Each prepares what it needs and returns the work that is measured.


def start(work_dir, n_rows, n_labels):
    """Reading and checking the train rows, and the classifier's first bias."""
    path, tree = made_file(work_dir, n_rows, n_labels), made_tree(n_labels)

    def work():
        rows = load_rows(path, tree, keep_texts=False)
        report_rows(path.name, rows, tree, get_logger())
        label_frequency_bias(rows.label_counts(n_labels), n_rows)

    return work


def tokens(work_dir, n_rows, n_labels):
    """Tokens to the cache, and the batches of an epoch."""
    path, tokenizer = made_file(work_dir, n_rows, n_labels), load_tokenizer(ROOT / "data" / "tiny-ernie", 128)
    rows = load_rows(path, made_tree(n_labels), keep_texts=False)
    return lambda: train_batches(encode_file(tokenizer, rows.texts, path).lengths, 32, 3, 1)


def score(_, n_rows, n_labels):
    """Label sets and scores of probabilities, as an evaluation makes them."""
    tree, windows = made_tree(n_labels), made_windows(n_rows, n_labels)
    scores = Scores(tree)

    def work():
        for logits, gold in windows:
            scores.update(decide(sigmoid(logits), tree), gold)

    return work


def tune(_, n_rows, n_labels):
    """--tune_threshold global, and what it is worth, without the model's work."""
    tree, windows = made_tree(n_labels), made_windows(n_rows, n_labels)

    def work():
        cells = dev_cells(tree, Decision())
        for logits, gold in windows:
            cells.add(sigmoid(logits), gold)
        tuned_decision(cells.finish(), tree, Decision(), "global", "macro_f1")

    return work


def baseline(_, n_rows, n_labels):
    """analysis/baseline.py."""
    train, dev = made_rows(n_rows, n_labels), made_rows(1_000, n_labels, seed=5)
    return lambda: fit_baseline(train, dev, made_tree(n_labels), get_logger())


def dirty(_, n_rows, n_labels):
    """analysis/dirty.py."""
    train, tree = made_rows(n_rows, n_labels), made_tree(n_labels)
    return lambda: out_of_fold(train, tree, Search())


def made_linear_model(folder, n_labels):
    """A linear model with weights at random, five for each n-gram."""
    n_grams, rng = NGrams.of(made_rows(10_000, n_labels).texts), np.random.default_rng(0)
    n_weights = 5 * len(n_grams)
    weights = rng.integers(0, n_labels, n_weights).astype(np.uint32), rng.integers(-9, 99, n_weights).astype(np.int8)
    numbers = np.full(n_labels, 0.05, np.float32), np.full(n_labels, -1, np.float32)
    branch = LinearBranch(n_grams, np.arange(0, n_weights + 1, 5), *weights, *numbers)
    save_linear_model(folder, branch, made_tree(n_labels), Decision())


def evaluate(work_dir, n_rows, n_labels):
    """analysis/evaluate.py with a model that has no encoder: its logits, their scores, and what is written of them."""
    model = work_dir / f"linear-{n_labels}"
    made_linear_model(model, n_labels)
    command = [sys.executable, ROOT / "analysis" / "evaluate.py", "--params_path", model, "--dataset_dir", work_dir]
    command += ["--label_file", model / "label.txt", "--train_file", "", "--dev_file"]
    command += [made_file(work_dir, n_rows, n_labels).name, "--output_json", work_dir / "scores.json"]
    return lambda: subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)


def stratify(_, n_rows, n_labels):
    """A split into train, dev and test."""
    labels = made_rows(n_rows, n_labels).labels
    return lambda: stratified_split(labels, n_labels, PARTS, 3)


def neighbours(_, n_rows, n_labels):
    """The nearest rows of all rows, by features of 64 numbers."""
    features = np.random.default_rng(0).standard_normal((n_rows, 64)).astype(np.float32)
    return lambda: nearest(features, features, 10)


# stage: (the work, sizes of rows and of labels; those in the middle are held while the others vary)
STAGES = {
    "start": (start, (100_000, 200_000, 400_000), (2_500, 5_000, 10_000)),
    "tokens": (tokens, (60_000, 120_000, 240_000), (1_000,)),
    "score": (score, (10_000, 20_000, 40_000), (1_000, 2_000, 4_000)),
    "tune": (tune, (20_000, 40_000, 80_000), (1_000, 2_000, 4_000)),
    "evaluate": (evaluate, (10_000, 20_000, 40_000), (1_000, 2_000, 4_000)),
    "baseline": (baseline, (10_000, 20_000, 40_000), (2_500, 5_000, 10_000)),
    "dirty": (dirty, (2_000, 4_000, 8_000), (100, 200, 400)),
    "stratify": (stratify, (50_000, 100_000, 200_000), (12_500, 25_000, 50_000)),
    "neighbours": (neighbours, (25_000, 50_000, 100_000), (1,)),
}


def used():
    """(CPU seconds, bytes at most) of this process, and of those that it has run."""
    both = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in both), 1024 * sum(one.ru_maxrss for one in both)


def measure(args):
    """Print CPU seconds and the bytes of memory of one stage of one size."""
    work = STAGES[args.stages[0]][0](args.work_dir, args.rows[0], args.labels[0])
    before = used()
    work()
    print(*(after - earlier for earlier, after in zip(before, used())))


def measured(args, stage, n_rows, n_labels):
    """(CPU seconds, bytes) of a process for one stage of one size."""
    command = [sys.executable, __file__, "--measure", "--stages", stage, "--work_dir", str(args.work_dir)]
    command += ["--rows", str(n_rows), "--labels", str(n_labels)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return tuple(map(float, done.stdout.split()))


def exponent(sizes, costs):
    """The slope of the line through the logarithms; costs below a measurable one count as that."""
    return np.polyfit(np.log(sizes), np.log(np.maximum(costs, 1e-9)), 1)[0]


def report(args, stage, rows, labels):
    """Measure one stage along rows or labels, and print a line of the table."""
    sizes, axis = (rows, "rows") if len(rows) > 1 else (labels, "labels")
    found = [measured(args, stage, n, m) for n in rows for m in labels]
    seconds, memory = zip(*found)
    floor = 5e6  # less is the noise of an allocator
    memory = [max(one, floor) for one in memory]
    held = f"{labels[0]:,} labels" if axis == "rows" else f"{rows[0]:,} rows"
    cells = [f"{' · '.join(f'{size:,}' for size in sizes)} {axis}", held]
    cells += [" · ".join(f"{one:.1f}" for one in seconds), f"{exponent(sizes, seconds):.2f}"]
    cells += [" · ".join(f"{one / 1e6:.0f}" for one in memory), f"{exponent(sizes, memory):.2f}"]
    print(f"| {stage} | {' | '.join(cells)} |", flush=True)


def main(argv=None):
    args = parse_args(argv)
    args.work_dir.mkdir(parents=True, exist_ok=True)
    if args.measure:
        measure(args)
        return
    print(
        "| stage | sizes | at | CPU seconds | exponent | MB | exponent |\n| --- | --- | --- | --- | --- | --- | --- |"
    )
    for stage in args.stages:
        _, rows, labels = STAGES[stage]
        if args.rows:
            report(args, stage, args.rows, args.labels)
            continue
        report(args, stage, rows, labels[len(labels) // 2 :][:1])
        if len(labels) > 1:
            report(args, stage, rows[len(rows) // 2 :][:1], labels)


if __name__ == "__main__":
    run(main)
