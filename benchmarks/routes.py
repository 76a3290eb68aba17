"""Which route when: fine-tuning, few-shot and retrieval on the same rows, from one per label to all of them.

    python benchmarks/routes.py --dataset_dir data --model_name path/to/encoder
    python benchmarks/routes.py --dataset_dir data --model_name path/to/encoder --shots 2 --draws 5 \\
        --routes fine-tuning few-shot
    python benchmarks/routes.py --dataset_dir data --model_name path/to/encoder --shots all --routes retrieval \\
        --withheld 20

Reads   dataset_dir/{train.txt, dev.txt, label.txt}
Writes  work_dir/SHOTS-DRAW/      the rows drawn; beside them, per route, checkpoints, logs and predictions
        work_dir/results.jsonl    one line per run: micro- and macro-F1 in percent, CPU seconds of all its scripts

few-shot/sample.py draws the training rows, another set for each draw. --dev_rows rows of dev.txt choose the best epoch
(and the similarity that retrieval asks for); the scores are those of the other rows of dev.txt. Epochs, rate and batch
depend on the number of training rows alone, see `drawing.plan`; `train.py` has --recipe best. A run whose line is in
results.jsonl is not made again. At the end a table: mean, lowest and highest over the draws.

--withheld adds a retrieval run on the same rows, less those with one of so many leaf labels. Its recall of these labels
is that of labels that nothing was trained on; that of the others is compared with the run on all rows.
"""

import json
import sys
from pathlib import Path

import numpy as np

if not __package__:  # run as a file: the project's root must be found
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks.drawing import plan
from benchmarks.timing import call, cpu_seconds
from benchmarks.withholding import withheld_labels, write_some
from hierarchical.tokenizer import load_tokenizer
from metric import evaluate
from retrieval_based.encoder import most_specific
from retrieval_based.index import recalls
from retrieval_based.results import read_retrieved
from utils import LabelTree, load_rows, make_parser, multi_hot, run

ROUTES = ["fine-tuning", "few-shot", "prompt", "retrieval"]
TABLE = ["fine-tuning", "few-shot", "retrieval"]
SECONDS_PER_TOKEN = 0.045 / 55, 0.015 / 55  # of a CPU core: training, prediction; 6 layers of width 384
SECONDS_TO_START = 15  # the scripts of a run


def parse_args(argv):
    parser = make_parser("Compare the routes on the same rows.")
    parser.add_argument("--dataset_dir", type=Path, required=True, help="directory of train.txt, dev.txt and label.txt")
    parser.add_argument("--model_name", type=Path, required=True, help="directory of the encoder")
    parser.add_argument("--work_dir", type=Path, default="output/routes", help="where the runs go")
    parser.add_argument("--shots", nargs="+", default=["1", "2", "5", "20", "all"], help="rows per label, or all")
    parser.add_argument("--draws", type=int, default=1, help="training sets of each size, but for all")
    parser.add_argument("--routes", nargs="+", choices=ROUTES, default=TABLE, help="what to compare")
    parser.add_argument("--withheld", type=int, default=0, help="leaf labels of the extra retrieval run; 0: none")
    parser.add_argument("--prompt", default="这句话描述的事件是", help="template of the route prompt")
    parser.add_argument("--max_seq_length", type=int, default=64, help="tokens")
    parser.add_argument("--dev_rows", type=int, default=200, help="to choose the epoch by")
    parser.add_argument("--effort", type=float, default=1.0, help="factor of the epochs; below 1 to try the script out")
    parser.add_argument("--device", default="cpu", help="cpu or gpu")
    args = parser.parse_args(argv)
    for shots in args.shots:
        if shots != "all" and not (shots.isdigit() and int(shots)):
            parser.error(f"argument --shots: must be numbers from 1, or all, got {shots}")
    if args.withheld and not ("all" in args.shots and "retrieval" in args.routes):
        parser.error("argument --withheld: needs --shots all and the route retrieval to compare with")
    return args


# ---- rows ------------------------------------------------------------------------------------------------------------


def make_data(args, tree, folder, shots, draw, withheld):
    """train.txt, dev.txt, test.txt and label.txt of a run, test.txt last."""
    folder.mkdir(parents=True, exist_ok=True)
    if shots == "all":
        rows = load_rows(args.dataset_dir / "train.txt", tree)
        write_some(folder / "train.txt", tree, rows, [i for i, r in enumerate(rows.labels) if not withheld & set(r)])
    else:
        flags = ["--data_dir", args.dataset_dir, "--shots", shots, "--seed", draw]
        call(folder / "sample.log", "few-shot/sample.py", *flags, "--output_file", folder / "train.txt")
    (folder / "label.txt").write_bytes((args.dataset_dir / "label.txt").read_bytes())
    rows = load_rows(args.dataset_dir / "dev.txt", tree, unlabelled="skip")
    order = np.random.default_rng(0).permutation(len(rows.texts)).tolist()
    chosen = [i for i in order[: args.dev_rows] if not withheld & set(rows.labels[i])]
    write_some(folder / "dev.txt", tree, rows, chosen)
    write_some(folder / "test.txt", tree, rows, order[args.dev_rows :])


# ---- runs ------------------------------------------------------------------------------------------------------------


def predict(args, folder, route):
    """Train by one route and label test.txt; the path of the predictions."""
    save_dir, log, n_rows = folder / route, folder / f"{route}.log", sum(1 for _ in open(folder / "train.txt", "rb"))
    (passes, batch_size, rate), device = plan(n_rows, args.effort), ["--device", args.device]
    length = ["--max_seq_length", args.max_seq_length, *device]
    common = ["--learning_rate", rate, *length]
    output = save_dir / "test_predictions.jsonl"
    labelling = ["--dataset_dir", folder, "--data_file", "test.txt", "--output_file", output, "--quiet", *device]
    if route == "fine-tuning":
        flags = ["--dataset_dir", folder, "--model_name", args.model_name, "--save_dir", save_dir, "--epochs", passes]
        call(log, "train.py", *length, *flags, "--recipe", "best")
        call(log, "predict.py", *labelling, "--params_path", save_dir)
    elif route == "retrieval":
        data = ["--train_set_file", folder / "train.txt", "--similar_text_pair_file", folder / "dev.txt"]
        data += ["--corpus_file", folder / "label.txt", "--model_name", args.model_name, "--save_dir", save_dir]
        flags = ["--epochs", passes, "--batch_size", 32, "--warmup_proportion", 0.1]
        call(log, "retrieval_based/train.py", *common, *data, *flags)
        model = ["--params_path", save_dir / "model_best"]
        call(log, "retrieval_based/predict.py", *labelling, *model)
        flags = ["--similar_text_pair_file", folder / "test.txt", "--recall_result_dir", save_dir / "recall"]
        call(log, "retrieval_based/recall.py", *model, *flags, *device)
    else:
        flags = ["--data_dir", folder, "--model_name_or_path", args.model_name, "--output_dir", save_dir]
        flags += ["--ppt_learning_rate", 10 * rate, "--num_train_epochs", passes, "--do_train", "--do_predict"]
        flags += ["--per_device_train_batch_size", batch_size, "--per_device_eval_batch_size", 32]
        call(log, "few-shot/train.py", *common, *flags, *(["--prompt", args.prompt] if route == "prompt" else []))
    return output


def scores(tree, folder, predictions):
    """Micro- and macro-F1 in percent."""
    rows = [json.loads(line) for line in predictions.read_text(encoding="utf-8").splitlines()]
    predicted = multi_hot([[tree.index[label] for label in row["labels"]] for row in rows], len(tree))
    result = evaluate(predicted, load_rows(folder / "test.txt", tree).multi_hot(len(tree)), tree)
    return {name: 100 * result[name] for name in ("micro_f1", "macro_f1")}


def recall_of(tree, folder, wanted):
    """Recall@k, in percent, of some labels on the test rows that have one of them."""
    rows = load_rows(folder / "test.txt", tree)
    retrieved = read_retrieved(folder / "retrieval" / "recall" / "recall_result_file.txt", rows.texts, tree)
    gold = [tuple(set(most_specific(tree, labels)) & wanted) for labels in rows.labels]
    chosen = [i for i, labels in enumerate(gold) if labels]
    found = recalls([[label for label, _ in retrieved[i]] for i in chosen], [gold[i] for i in chosen])
    return {name: 100 * value for name, value in found.items()}


def run_folder(args, shots, draw, withheld):
    return args.work_dir / (f"without-{withheld}" if withheld else f"{shots}-{draw}")


def wanted_runs(args):
    """The keys of all runs: (shots, draw, route, labels withheld)."""
    draws = {shots: 1 if shots == "all" else args.draws for shots in args.shots}
    runs = [(shots, draw, route, 0) for shots in args.shots for draw in range(draws[shots]) for route in args.routes]
    if args.withheld:
        runs.append(("all", 0, "retrieval", args.withheld))
    return runs


def estimate(args, tree, runs):
    """CPU seconds that runs will take, from the number of their tokens; a run's rows need not be drawn yet."""
    train, dev = (load_rows(args.dataset_dir / name, tree, unlabelled="skip") for name in ("train.txt", "dev.txt"))
    tokenizer = load_tokenizer(args.model_name, args.max_seq_length)
    tokens = np.mean([len(ids) for ids in tokenizer.encode(dev.texts)])
    held, seconds = withheld_labels(tree, args.withheld), 0
    for shots, _, route, withheld in runs:
        rows = len(train.texts) if shots == "all" else min(len(train.texts), int(shots) * len(tree))
        if withheld:
            rows = sum(not held & set(labels) for labels in train.labels)
        passes, *_ = plan(rows, args.effort)
        learned, predicted = passes * rows, passes * args.dev_rows + len(dev.texts) - args.dev_rows
        if route == "retrieval":  # its labels are read too, and the test rows twice
            learned, predicted = 1.15 * learned, predicted + len(dev.texts) - args.dev_rows
        seconds += tokens * (learned * SECONDS_PER_TOKEN[0] + predicted * SECONDS_PER_TOKEN[1]) + SECONDS_TO_START
    return seconds


# ---- results ---------------------------------------------------------------------------------------------------------


def table(args, results):
    print(f"{'rows per label':>14} {'route':<12} {'draws':>5}  {'micro-F1 (range)':<22}  macro-F1 (range)")
    for shots in args.shots:
        for route in args.routes:
            found = [e for (s, _, r, held), e in results.items() if (s, r, held) == (shots, route, 0)]
            cells = []
            for name in ("micro_f1", "macro_f1"):
                values = np.array([entry[name] for entry in found])
                cells.append(f"{values.mean():.2f} ({values.min():.2f} to {values.max():.2f})")
            print(f"{shots:>14} {route:<12} {len(found):>5}  {cells[0]:<22}  {cells[1]}")


def show_withheld(args, tree):
    """Recall of the labels withheld and of the others, trained with and without them."""
    withheld = withheld_labels(tree, args.withheld)
    print("withheld:", ", ".join(tree.labels[i] for i in sorted(withheld)))
    for kind, wanted in (("withheld", withheld), ("other", set(range(len(tree))) - withheld)):
        for trained, count in (("with", 0), ("without", args.withheld)):
            found = recall_of(tree, run_folder(args, "all", 0, count), wanted)
            shown = "  ".join(f"{name} {value:.2f}" for name, value in found.items())
            print(f"{kind:>8} labels, trained {trained:<7} the withheld ones: {shown}")


def main(argv=None):
    args = parse_args(argv)
    tree = LabelTree.read(args.dataset_dir / "label.txt")
    args.work_dir.mkdir(parents=True, exist_ok=True)
    record, results = args.work_dir / "results.jsonl", {}
    for line in record.read_text(encoding="utf-8").splitlines() if record.exists() else []:
        entry = json.loads(line)
        results[entry["shots"], entry["draw"], entry["route"], entry["withheld"]] = entry
    left = [key for key in wanted_runs(args) if key not in results]
    print(f"{len(left)} runs to make, about {estimate(args, tree, left) / 60:.0f} CPU minutes", flush=True)
    for key in left:
        shots, draw, route, withheld = key
        folder = run_folder(args, shots, draw, withheld)
        if not (folder / "test.txt").exists():
            make_data(args, tree, folder, shots, draw, withheld_labels(tree, withheld))
        before = cpu_seconds()
        found = scores(tree, folder, predict(args, folder, route))
        found["cpu_seconds"] = cpu_seconds() - before
        entry = dict(zip(("shots", "draw", "route", "withheld"), key)) | {k: round(v, 2) for k, v in found.items()}
        results[key] = entry
        with open(record, "a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")
        print(json.dumps(entry), flush=True)
    table(args, results)
    if args.withheld:
        show_withheld(args, tree)


if __name__ == "__main__":
    run(main)
