"""What techniques of training are worth, many trainings at a time on one GPU, in torch: a sieve for what train.py gets.

    python benchmarks/gpu_recipes.py --dataset_dir data --model_name path/to/encoder --rows all 2000 \\
        --techniques plain attention soft_three_linear
    python benchmarks/gpu_recipes.py --dataset_dir data --model_name path/to/encoder --table

Needs torch, numpy, safetensors and tqdm, and no paddle; an encoder of ERNIE's or BERT's kind.

Reads   dataset_dir/{train.txt, dev.txt, label.txt, data.txt}   data.txt: texts without labels
        linear_dir/ROWS-SEED.npz    decision values [n, L] of linear models, made with --linear: `values` of the rows
                                    that choose and of dev, int8 `unlabelled` of data.txt, in 32nds
Writes  work_dir/ROWS-SEED-TECHNIQUE.json and .npz    scores in percent; logits

    python benchmarks/gpu_recipes.py --dataset_dir data --model_name path/to/encoder --linear_dir linear \\
        --rows all 2000 --linear output/recipes

is needed once before, where a technique mixes n-grams in or learns from them: it reads the linear models that
`recipes.py --recipes linear` left there. Rows, epochs, batches and rates are those of recipes.py: --choose rows of
train.txt choose, all of dev.txt is scored and chooses nothing. Trainings that are there already are not made again;
what a student needs is made before it.
"""

import json
import multiprocessing
import os
import sys
import time
import traceback
from pathlib import Path
from typing import NamedTuple

import numpy as np

if not __package__:  # run as a file: the project's root must be found
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks.drawing import RARE, UNIT, split
from hierarchical.decisions import Decision, decide, sigmoid
from hierarchical.linear import read_linear
from hierarchical.linear_training import beside
from hierarchical.metric import evaluate
from utils import LabelTree, load_rows, make_parser, run

MASKED = "masked"  # also the technique of a job without rows: the training of the encoder alone, on texts
KINDS = ("chosen", "last", "average", "moving")  # weights of a training that are scored


class Technique(NamedTuple):
    loss: str = "zlpr"  # see gpu_training.loss_of_rows
    pooling: str = "cls"
    head: str = "plain"  # see torch_network.py
    layer_decay: float = 1.0  # of the rate, from each layer to the one below
    agreement: float = 0.0  # weight of the divergence between two passes (R-Drop, Liang and others, 2021)
    masks: int = 1  # of dropout before the classifier (Inoue, 2019)
    radius: float = 0.0  # of the step on the word embeddings against the loss (FGM, Miyato and others, 2017)
    longer: float = 1.0  # factor of the epochs
    faster: float = 1.0  # factor of the rate
    smaller: int = 1  # divisor of the batch
    dropout: float = 0.1
    bfloat16: bool = False
    start: str = ""  # weights to start from: "masked", or "own", those of the plain training
    teacher: str = ""  # "own", one training; "three" of them; either with "+linear", the n-grams
    of: str = "plain"  # technique of these teachers
    hard: bool = False  # a teacher's labels in place of its probabilities


TECHNIQUES = {
    "plain": Technique(),
    "bfloat16": Technique(bfloat16=True),
    "bce": Technique(loss="bce"),
    "focal": Technique(loss="focal"),
    "asymmetric": Technique(loss="asymmetric"),
    "balanced": Technique(loss="balanced"),
    "square_root": Technique(loss="square_root"),
    "adjusted": Technique(loss="adjusted"),
    "mean": Technique(pooling="mean"),
    "both": Technique(pooling="both"),
    "tree": Technique(head="tree"),
    "words": Technique(head="words"),
    "attention": Technique(head="attention"),
    "layer_rates": Technique(layer_decay=0.85),
    "r_drop": Technique(agreement=1.0),
    "many_masks": Technique(masks=5),
    "adversarial": Technique(radius=1.0),
    "longer": Technique(longer=2.0),
    "faster": Technique(faster=1.67),
    "slower": Technique(faster=0.67),
    "half_rate": Technique(faster=0.5),
    "small_batch": Technique(smaller=2),
    "dropout": Technique(dropout=0.2),
    "masked": Technique(start=MASKED),
    "hard_own": Technique(teacher="own", hard=True),
    "soft_own": Technique(teacher="own"),
    "soft_own_linear": Technique(teacher="own+linear"),
    "soft_own_linear_warm": Technique(teacher="own+linear", start="own", faster=0.67),
    "soft_three": Technique(teacher="three"),
    "soft_three_linear": Technique(teacher="three+linear"),
    "soft_three_linear_r_drop": Technique(teacher="three+linear", agreement=1.0),
    "both_layers": Technique(pooling="both", layer_decay=0.85),
    "both_layers_r_drop": Technique(pooling="both", layer_decay=0.85, agreement=1.0),
    "both_layers_faster": Technique(pooling="both", layer_decay=0.85, faster=1.67),
    "both_steep": Technique(pooling="both", layer_decay=0.75, faster=1.67),
    "both_layers_masked": Technique(pooling="both", layer_decay=0.85, start=MASKED),
    "slower_soft_three": Technique(faster=0.67, teacher="three+linear", of="slower"),
    "layers_r_drop": Technique(layer_decay=0.85, agreement=1.0),
    "both_layers_soft_own": Technique(pooling="both", layer_decay=0.85, teacher="own+linear", of="both_layers"),
    "both_layers_soft_three": Technique(pooling="both", layer_decay=0.85, teacher="three+linear", of="both_layers"),
    "both_layers_soft_three_r_drop": Technique(
        pooling="both", layer_decay=0.85, agreement=1.0, teacher="three+linear", of="both_layers_r_drop"
    ),
}
TEACHERS = {technique.of for technique in TECHNIQUES.values() if technique.teacher}  # what students learn from


class Job(NamedTuple):
    rows: str
    seed: int  # of the draw and the training
    technique: str
    other: int = 0  # another seed of the training, for teachers

    @property
    def name(self):
        return f"{self.rows or 'texts'}-{self.seed}-{self.technique}{f'.{self.other}' if self.other else ''}"

    def settings(self):
        return TECHNIQUES[self.technique] if self.rows else Technique()

    def teachers(self):
        """The trainings that a student learns from; of all rows every seed draws the same."""
        wanted, of = self.settings().teacher, self.settings().of
        if wanted.startswith("three"):
            seeds = [(seed, 0) for seed in (1, 2, 3)] if self.rows == "all" else [(self.seed, i) for i in (0, 1, 2)]
            return [Job(self.rows, seed, of, other) for seed, other in seeds]
        return [Job(self.rows, self.seed, of)] if wanted else []

    def start(self):
        """The training whose weights this one starts from, or None for the encoder as it is."""
        own = Job(self.rows, self.seed, self.settings().of)
        return {MASKED: Job("", 0, MASKED), "own": own}.get(self.settings().start)

    def teaches(self):
        return self.technique in TEACHERS

    def needs(self):
        return [*self.teachers(), *filter(None, [self.start()])]


def with_needs(jobs):
    """The jobs, each after those that it needs, none twice."""
    return list(dict.fromkeys(each for job in jobs for each in (*with_needs(job.needs()), job)))


def parse_args(argv):
    parser = make_parser("Compare techniques on a GPU.")
    parser.add_argument("--dataset_dir", type=Path, required=True, help="directory of the data files")
    parser.add_argument("--model_name", type=Path, required=True, help="directory of the encoder")
    parser.add_argument("--linear_dir", type=Path, help="directory of the linear models' decision values")
    parser.add_argument("--work_dir", type=Path, default="output/gpu_recipes", help="where the results go")
    parser.add_argument("--rows", nargs="+", default=["2000"], help="train rows, as for recipes.py")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3], help="of draws and trainings")
    parser.add_argument("--techniques", nargs="+", choices=TECHNIQUES, default=["plain"], help="to compare")
    parser.add_argument("--choose", type=int, default=200, help="train rows that choose")
    parser.add_argument("--max_seq_length", type=int, default=128, help="tokens")
    parser.add_argument("--processes", type=int, default=3, help="side by side")
    parser.add_argument("--together", type=int, default=3, help="trainings of a process at a time")
    parser.add_argument("--minutes", type=float, default=60, help="after which no training is begun")
    parser.add_argument("--effort", type=float, default=1.0, help="factor of the epochs; below 1 to try the script out")
    parser.add_argument("--device", default="cuda", help="cuda or cpu")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--linear", type=Path, help="write linear_dir from recipes.py's work_dir, and nothing else")
    what.add_argument("--table", action="store_true", help="only print the table of what is there")
    args = parser.parse_args(argv)
    if args.linear and not args.linear_dir:
        parser.error("argument --linear: needs --linear_dir to write to")
    return args


def jobs_of(args):
    return with_needs([Job(rows, seed, name) for name in args.techniques for rows in args.rows for seed in args.seeds])


# ---- linear models ---------------------------------------------------------------------------------------------------


def write_linear_values(args):
    """The decision values of the linear models of recipes.py."""
    tree = LabelTree.read(args.dataset_dir / "label.txt")
    known = load_rows(args.dataset_dir / "train.txt", tree)
    test = load_rows(args.dataset_dir / "dev.txt", tree, unlabelled="skip")
    texts = (args.dataset_dir / "data.txt").read_text(encoding="utf-8").splitlines()
    choosing = [known.texts[row] for row in split(len(known.texts), args.choose)[0]]
    args.linear_dir.mkdir(parents=True, exist_ok=True)
    for rows in args.rows:
        for seed in [1] if rows == "all" else args.seeds:
            branch = read_linear(args.linear / f"{rows}-{seed}" / "linear", tree)
            values = branch.decision_values([*choosing, *test.texts]).astype(np.float16)
            unlabelled = np.clip(np.rint(branch.decision_values(texts) * UNIT), -127, 127).astype(np.int8)
            np.savez_compressed(args.linear_dir / f"{rows}-{seed}.npz", values=values, unlabelled=unlabelled)


# ---- processes -------------------------------------------------------------------------------------------------------


def claim(args, jobs):
    """(the next job that nobody has begun and whose needs are there, or None; whether one may come later)."""
    later = False
    for job in jobs:
        if any(not (args.work_dir / f"{need.name}.npz").exists() for need in job.needs()):
            later = later or not (args.work_dir / f"{job.name}.npz").exists()
            continue
        try:
            os.close(os.open(args.work_dir / f"{job.name}.claim", os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            continue
        return job, True
    return None, later


def work(args):
    """Be one process: several trainings in turns."""
    from benchmarks import gpu_training

    gpu_training.torch.set_float32_matmul_precision("high")
    world, jobs, running = gpu_training.World(args), jobs_of(args), {}
    end, later = time.monotonic() + 60 * args.minutes, True
    while running or later:
        while later and len(running) < args.together:
            job, later = claim(args, jobs) if time.monotonic() < end else (None, False)
            if job is None:
                break
            trained = gpu_training.train if job.rows else gpu_training.train_masked
            running[job] = trained(world, job)
        if not running:
            time.sleep(0.2)
        for job in list(running):
            try:
                if done := next(running[job]):
                    write(args, world, job, *done)
                    del running[job]
            except Exception:  # of whatever library: the others go on
                print(f"{job.name} failed", flush=True)
                traceback.print_exc()
                del running[job]


# ---- scores ----------------------------------------------------------------------------------------------------------


def write(args, world, job, told, logits):
    """Scores and logits of a training."""
    own, entry = told.pop("own", None), job._asdict() | told
    gold, choosing_gold, n_choosing = world.test_gold, world.known_gold[world.choosing], len(world.choosing)
    rare = world.known_gold[own].sum(0) < RARE if own is not None else None
    values = world.linear(job).get("values")
    for kind in KINDS if logits else ():
        found = {kind: logits[kind]}
        if values is not None:
            encoder, linear = logits[kind].astype(np.float64), values.astype(np.float64)
            choose = beside(encoder[:n_choosing], linear[:n_choosing], choosing_gold, world.tree, Decision())
            weight, shift = choose(np.ones(n_choosing, bool))
            found[f"{kind}+linear"] = encoder + weight * linear + shift
        for name, each in found.items():
            labels = decide(sigmoid(each[n_choosing:]), world.tree, Decision())
            scores = evaluate(labels, gold, world.tree)
            of_rare = [scores["labels"][label]["f1"] for label, few in zip(world.tree.labels, rare) if few]
            result = (scores["micro_f1"], scores["macro_f1"], float(np.mean(of_rare or [np.nan])))
            entry[name] = [round(100 * value, 2) for value in result]
    (args.work_dir / f"{job.name}.json").write_text(json.dumps(entry), encoding="utf-8")
    partial = args.work_dir / f"{job.name}.part.npz"
    np.savez(partial, **{name: each.astype(np.float16) for name, each in logits.items()})
    os.replace(partial, args.work_dir / f"{job.name}.npz")
    print(json.dumps(entry), flush=True)


def table(args):
    """Lines of a table in Markdown: micro / macro F1, mean over the seeds."""
    found = {}
    for path in args.work_dir.glob("*.json"):
        entry = json.loads(path.read_text(encoding="utf-8"))
        if entry["rows"] and not entry["other"]:
            found.setdefault((entry["rows"], entry["technique"]), {})[entry["seed"]] = entry
    kinds = [name for kind in KINDS for name in (kind, f"{kind}+linear")]
    yield f"| rows | technique | seeds | steps | {' | '.join(kinds)} |"
    yield "| --- " * (4 + len(kinds)) + "|"
    for (rows, technique), entries in sorted(found.items()):
        cells = []
        for kind in kinds:
            scores = np.array([entry[kind][:2] for entry in entries.values() if kind in entry])
            cells.append(" / ".join(f"{value:.2f}" for value in scores.mean(0)) if len(scores) else "")
        steps = next(iter(entries.values()))["steps"]
        yield f"| {rows} | {technique} | {len(entries)} | {steps} | {' | '.join(cells)} |"


def main(argv=None):
    args = parse_args(argv)
    args.work_dir.mkdir(parents=True, exist_ok=True)
    if args.linear:
        return write_linear_values(args)
    if not args.table:
        for unfinished in args.work_dir.glob("*.claim"):
            if not unfinished.with_suffix(".npz").exists():
                unfinished.unlink()
        context = multiprocessing.get_context("spawn")  # CUDA does not survive a fork
        processes = [context.Process(target=work, args=(args,)) for _ in range(args.processes)]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
    for line in table(args):
        print(line)


if __name__ == "__main__":
    run(main)
