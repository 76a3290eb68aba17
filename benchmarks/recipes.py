"""What each technique is worth: the same rows and seeds for all of them, scored on rows that chose nothing.

    python benchmarks/recipes.py --dataset_dir data --model_name path/to/encoder --rows 2000 --seeds 1 2 3
    python benchmarks/recipes.py --dataset_dir data --model_name path/to/encoder --rows 20x all --recipes plain hybrid

Reads   dataset_dir/{train.txt, dev.txt, label.txt}
Writes  work_dir/ROWS-SEED/       the rows drawn; beside them checkpoint and log of the encoder and of the linear model
        work_dir/results.jsonl    one line per row count, seed and recipe: scores in percent, CPU seconds

--choose rows of train.txt, always the same, choose whatever is to be chosen: the epoch, the mixture. The rest is what
train rows are drawn from: all of it, so many rows, or so many per label (20x). All of dev.txt is scored, and takes no
part in anything. A seed is that of the draw and of the training. `--rows all` trains for 8 epochs; fewer rows are read
more often, see `drawing.plan`.

A result that is in results.jsonl is not made again, and a training that was stopped goes on where it was. Recipes that
begin with the same training share it; what they cost is told as if each had made its own. At the end a table for
docs/results.md: mean, lowest and highest over the seeds.
"""

import json
import sys
from pathlib import Path

import numpy as np

if not __package__:  # run as a file: the project's root must be found
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks.drawing import RARE, drawn, plan, split
from benchmarks.timing import call, cpu_seconds
from hierarchical.recipes import by_rows
from utils import LabelTree, check_minima, load_rows, make_parser, run, write_rows


def parse_args(argv):
    parser = make_parser("Compare techniques on the same rows.")
    parser.add_argument("--dataset_dir", type=Path, required=True, help="directory of train.txt, dev.txt and label.txt")
    parser.add_argument("--model_name", type=Path, required=True, help="directory of the encoder")
    parser.add_argument("--work_dir", type=Path, default="output/recipes", help="where the runs go")
    parser.add_argument(
        "--rows", nargs="+", default=["2000"], help="train rows: a number, 20x for 20 per label, or all"
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3], help="of draws and trainings")
    parser.add_argument(
        "--recipes", nargs="+", choices=RECIPES, default=["linear", "plain", "hybrid"], help="to compare"
    )
    parser.add_argument("--choose", type=int, default=200, help="train rows that choose")
    parser.add_argument("--max_seq_length", type=int, default=128, help="tokens")
    parser.add_argument("--effort", type=float, default=1.0, help="factor of the epochs; below 1 to try the script out")
    args = parser.parse_args(argv)
    for rows in args.rows:
        if rows != "all" and not (rows.removesuffix("x").isdigit() and int(rows.removesuffix("x"))):
            parser.error(f"argument --rows: must be numbers from 1, such as 2000 or 20x, or all; got {rows}")
    check_minima(parser, args, choose=20, max_seq_length=3, effort=1e-6)
    return args


# ---- rows ------------------------------------------------------------------------------------------------------------


def make_data(args, tree, folder, rows, seed):
    """train.txt, dev.txt (the rows that choose), test.txt and label.txt of a run, test.txt last."""
    folder.mkdir(parents=True, exist_ok=True)
    known = load_rows(args.dataset_dir / "train.txt", tree)
    choose, others = split(len(known.texts), args.choose)
    chosen = others[drawn(known.multi_hot(len(tree), others), rows, seed)]
    test = load_rows(args.dataset_dir / "dev.txt", tree, unlabelled="skip")
    (folder / "label.txt").write_bytes((args.dataset_dir / "label.txt").read_bytes())
    for name, part, of in (("train", chosen, known), ("dev", choose, known), ("test", range(len(test.texts)), test)):
        named = [(of.texts[i], [tree.labels[label] for label in of.labels[i]]) for i in part]
        write_rows(folder / f"{name}.txt", named)


# ---- recipes ---------------------------------------------------------------------------------------------------------
# Each takes (args, folder of the rows, seed), and leaves a model there: the path of which it returns.


def linear(args, folder, seed):
    call(folder / "linear.log", "analysis/baseline.py", "--dataset_dir", folder, "--save_dir", folder / "linear")
    return folder / "linear"


def plain(args, folder, seed):
    return train(folder, "encoder", *flags_of(args, folder, seed), "--loss", "zlpr")


def hybrid(args, folder, seed):
    """Goes on from the end of plain."""
    return train(folder, "encoder", *flags_of(args, folder, seed), "--loss", "zlpr", "--hybrid")


def best(args, folder, seed):
    """What a user gets who knows nothing of all this."""
    epochs, *_ = plan(rows_in(folder), args.effort)
    return train(folder, "best", *common_flags(args, folder, seed), "--epochs", epochs, "--recipe", "best")


RECIPES = {function.__name__: function for function in (linear, plain, hybrid, best)}
# goes on from its training, and costs what that has cost as well
BUILDS_ON = {"hybrid": "plain"}


def with_bases(recipes):
    """The recipes, and those that they build on, in the order in which they can be made."""
    return [name for name in RECIPES if name in recipes or name in map(BUILDS_ON.get, recipes)]


def rows_in(folder):
    """How many train rows there are."""
    return sum(1 for _ in open(folder / "train.txt", "rb"))


def common_flags(args, folder, seed):
    """What all trainings on the rows of a folder have in common."""
    flags = ["--dataset_dir", folder, "--model_name", args.model_name, "--max_seq_length", args.max_seq_length]
    return [*flags, "--seed", seed]


def flags_of(args, folder, seed):
    """The same and the plan."""
    n_rows = rows_in(folder)
    epochs, batch_size, rate = plan(n_rows, args.effort)
    warmup = by_rows(n_rows, epochs, batch_size)["warmup_steps"]
    flags = ["--epochs", epochs, "--batch_size", batch_size, "--learning_rate", rate, "--warmup_steps", warmup]
    return [*common_flags(args, folder, seed), *flags]


def train(folder, name, *flags):
    """train.py, from the beginning or on from where it was; name: of the checkpoint's folder, and of the log."""
    save_dir = folder / name
    resume = ["--resume"] if (save_dir / "state.safetensors").exists() else []
    where = ["--save_dir", save_dir, "--device", "cpu", "--amp", "--logging_steps", 20]
    call(folder / f"{name}.log", "train.py", *flags, *where, *resume)
    return save_dir


def scores(tree, folder, model):
    """Scores of a model on test.txt in percent: micro- and macro-F1, and the latter of rare labels alone."""
    path = folder / "scores.json"
    flags = ["--dataset_dir", folder, "--params_path", model, "--train_file", "", "--dev_file", "test.txt"]
    call(folder / "evaluate.log", "analysis/evaluate.py", *flags, "--device", "cpu", "--output_json", path)
    found = json.loads(path.read_text(encoding="utf-8"))["dev"]
    rare = load_rows(folder / "train.txt", tree).multi_hot(len(tree)).sum(0) < RARE
    of_rare = [found["labels"][label]["f1"] for label, is_rare in zip(tree.labels, rare) if is_rare]
    result = {name: found[name] for name in ("micro_f1", "macro_f1")} | {"rare_f1": float(np.mean(of_rare or [np.nan]))}
    return {name: round(100 * value, 2) for name, value in result.items()} | {"rare_labels": int(rare.sum())}


# ---- results ---------------------------------------------------------------------------------------------------------


def table(args, results):
    """The lines of the table, in Markdown."""

    def cell(name, found):
        values = np.array([entry[name] for entry in found])
        if np.isnan(values).all():
            return "–"
        spread = f" ({values.min():.2f} to {values.max():.2f})" if len(values) > 1 else ""
        return f"{values.mean():.2f}{spread}"

    yield f"| train rows | recipe | seeds | micro F1 | macro F1 | labels of fewer than {RARE} rows | CPU minutes |"
    yield "| --- | --- | --- | --- | --- | --- | --- |"
    for rows in args.rows:
        for recipe in args.recipes:
            found = [results[rows, seed, recipe] for seed in args.seeds if (rows, seed, recipe) in results]
            if found:
                cells = [cell(name, found) for name in ("micro_f1", "macro_f1", "rare_f1")]
                minutes = np.mean([entry["cpu_seconds"] for entry in found]) / 60
                yield f"| {rows} | {recipe} | {len(found)} | {' | '.join(cells)} | {minutes:.1f} |"


def main(argv=None):
    args = parse_args(argv)
    tree = LabelTree.read(args.dataset_dir / "label.txt")
    args.work_dir.mkdir(parents=True, exist_ok=True)
    record, results = args.work_dir / "results.jsonl", {}
    for line in record.read_text(encoding="utf-8").splitlines() if record.exists() else []:
        entry = json.loads(line)
        results[entry["rows"], entry["seed"], entry["recipe"]] = entry
    args.recipes = with_bases(args.recipes)
    wanted = [(rows, seed, recipe) for seed in args.seeds for rows in args.rows for recipe in args.recipes]
    for rows, seed, recipe in wanted:
        if (rows, seed, recipe) in results:
            continue
        folder = args.work_dir / f"{rows}-{seed}"
        if not (folder / "test.txt").exists():
            make_data(args, tree, folder, rows, seed)
        before = cpu_seconds()
        model = RECIPES[recipe](args, folder, seed)
        seconds = cpu_seconds() - before
        if built_on := results.get((rows, seed, BUILDS_ON.get(recipe))):
            seconds += built_on["cpu_seconds"]
        entry = {"rows": rows, "seed": seed, "recipe": recipe, **scores(tree, folder, model)}
        results[rows, seed, recipe] = entry | {"cpu_seconds": round(seconds, 1)}
        with open(record, "a", encoding="utf-8") as file:
            file.write(json.dumps(results[rows, seed, recipe]) + "\n")
        print(json.dumps(results[rows, seed, recipe]), flush=True)
    for line in table(args, results):
        print(line)


if __name__ == "__main__":
    run(main)
