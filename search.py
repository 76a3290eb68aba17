"""Find settings for train.py by trials, each of them a training, with Optuna.

    python search.py --dataset_dir data --model_name path/to/encoder --trials 40
    python search.py --dataset_dir data --model_name path/to/encoder --trials 40    # again, elsewhere at the same time
    python search.py --dataset_dir data --model_name path/to/encoder --storage postgresql://user@host/searches
    python search.py --dataset_dir data --model_name path/to/encoder -- --hybrid

Reads   dataset_dir/{train.txt, dev.txt, label.txt}, an encoder
Writes  work_dir/data/       an inner split of the train rows: those that trials train with, and those that score them
        work_dir/trials/N/   what each training left; of all but the best and the first only the log and the scores
        work_dir/search.db   the trials, unless --storage names another place
        work_dir/report.html how the search went, what mattered, and all trials

The first trial has train.py's defaults with --learning_rate auto. What follows a bare -- goes to train.py in every
trial. Dev rows choose nothing: at the end they score the models of the first and of the best trial. A search that was
stopped goes on when it is started again, its trial where it was; any number of processes and machines may work on one
storage.
"""

import html
import io
import json
import shlex
import shutil
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

from hierarchical.encoders import encoder_config
from hierarchical.label_graph import label_files
from hierarchical.learning_rates import fitting_rate
from hierarchical.losses import LOSSES
from hierarchical.sources import model_directory, require_model
from hierarchical.stratify import stratified_split
from hierarchical.training import STATE
from hierarchical.trial_storage import open_storage, storage_fault, without_password
from hierarchical.weights import find_encoder_weights
from utils import (
    InputError,
    LabelTree,
    add_dataset_arguments,
    add_device_argument,
    add_max_seq_length_argument,
    atomic_write,
    check_minima,
    file_digest,
    get_logger,
    load_reported,
    make_parser,
    progress_bar,
    require_directory,
    run,
    share,
    write_rows,
)

ROOT = Path(__file__).resolve().parent
TRAIN, EVALUATE = ROOT / "train.py", ROOT / "analysis" / "evaluate.py"
KEPT = ("train.log", "output.log", "metrics.jsonl", "setting.txt", "run.json")  # of a trial that is not the best
FIRST = "0000"  # the folder of the trial that has the defaults, whatever its number is after an interruption
STOPPED = {code for number in (signal.SIGINT, signal.SIGTERM) for code in (-number, 128 + number)}  # exit codes
ATTEMPTS = 3  # to open the storage
TENTHS = 10  # of a training: scores are compared with those that other trials had after the same part of theirs


def parse_args(argv):
    parser = make_parser("Find settings for train.py by trials.")
    data = parser.add_argument_group("data")
    add_dataset_arguments(data, "train", "dev")
    add_max_seq_length_argument(data, 128)
    model = parser.add_argument_group("model")
    model.add_argument("--model_name", default="ernie-3.0-medium-zh", help="as for train.py")
    add_device_argument(model)
    search = parser.add_argument_group("search")
    search.add_argument("--trials", type=int, default=40, help="trainings in all, of all processes together")
    search.add_argument("--max_epochs", type=int, default=10, help="epochs of a training, at most")
    search.add_argument("--select_by", choices=("macro_f1", "micro_f1"), default="macro_f1", help="score to look for")
    search.add_argument("--inner_dev", type=share, default="0.15", help="share of the train rows that scores")
    search.add_argument("--seed", type=int, default=3, help="of the split and of all trainings")
    search.add_argument("--work_dir", type=Path, default=Path("output/search"), help="where everything goes")
    where = "sqlite:///FILE, journal:///FILE, or the address of a PostgreSQL or MySQL (default: search.db in work_dir)"
    search.add_argument("--storage", help=where)
    parser.add_argument("train_flags", nargs="*", metavar="-- FLAG", help="passed on to train.py in every trial")
    args = parser.parse_args(argv)
    check_minima(parser, args, trials=2, max_epochs=2, max_seq_length=12, seed=0)
    if not 0 < args.inner_dev < 1:
        parser.error(f"argument --inner_dev: must be between 0 and 1, got {float(args.inner_dev):g}")
    if args.train_flags and not args.train_flags[0].startswith("--"):
        parser.error(f"{args.train_flags[0]}: is no flag; those of train.py follow a bare --")
    own = [*Objective(args, rate=1.0, n_rows=1).command(defaults(args, 1.0), args.work_dir), "--resume"]
    for flag in (word.partition("=")[0] for word in args.train_flags if word.startswith("--")):
        if taken := [word for word in own if word.startswith("--") and word.startswith(flag)]:  # or an abbreviation
            parser.error(f"{taken[0]}: each trial has its own; leave it out after --")
    return args


# ---- what is searched ------------------------------------------------------------------------------------------------


def defaults(args, rate):
    """The settings of the first trial: train.py's, with the rate that fits."""
    return {
        "learning_rate": rate,
        "head_learning_rate": 5e-3,
        "epochs": args.max_epochs,
        "lr_scheduler": "constant",
        "warmup": 0.0,
        "loss": "bce",
        "batch_size": 32,
        "max_seq_length": args.max_seq_length,
        "decoding": "raw",
        "threshold": 0.5,
    }


def suggested(trial, args, rate):
    """The settings of a trial; warmup is a share of the steps."""
    lengths = sorted({args.max_seq_length // part for part in (4, 2, 1)})
    return {
        "learning_rate": trial.suggest_float("learning_rate", rate / 5, rate * 5, log=True),
        "head_learning_rate": trial.suggest_float("head_learning_rate", 1e-3, 2e-2, log=True),
        "epochs": trial.suggest_int("epochs", 2, args.max_epochs),
        "lr_scheduler": trial.suggest_categorical("lr_scheduler", ["constant", "linear"]),
        "warmup": trial.suggest_float("warmup", 0.0, 0.3, step=0.05),
        "loss": trial.suggest_categorical("loss", sorted(LOSSES)),
        "batch_size": trial.suggest_categorical("batch_size", [8, 16, 32]),
        "max_seq_length": trial.suggest_categorical("max_seq_length", lengths),
        "decoding": trial.suggest_categorical("decoding", ["raw", "closure", "topdown"]),
        "threshold": trial.suggest_float("threshold", 0.3, 0.7, step=0.05),
    }


def flags(settings, n_rows):
    """The settings as train.py takes them, for so many train rows."""
    values = dict(settings)
    steps = values["epochs"] * -(-n_rows // values["batch_size"])
    values["warmup_steps"] = round(values.pop("warmup") * steps)
    shown = {name: f"{value:.3g}" if isinstance(value, float) else str(value) for name, value in values.items()}
    return [word for name, value in shown.items() for word in (f"--{name}", value)]


# ---- trials ----------------------------------------------------------------------------------------------------------


class Objective:
    """A trial's score: that of the training with its settings."""

    def __init__(self, args, rate, n_rows):
        self.args, self.rate, self.n_rows = args, rate, n_rows

    def __call__(self, trial):
        from optuna import TrialPruned

        settings = suggested(trial, self.args, self.rate)
        name = trial.user_attrs.get("folder", f"{trial.number:04}")  # that of the trial which it goes on with
        folder = self.args.work_dir / "trials" / name
        if "folder" not in trial.user_attrs:
            shutil.rmtree(folder, ignore_errors=True)  # of an earlier search, whose storage is gone
            trial.set_user_attr("folder", name)
        folder.mkdir(parents=True, exist_ok=True)
        command = self.command(settings, folder) + self.args.train_flags
        with open(folder / "output.log", "a", encoding="utf-8") as log:
            process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
            try:
                scores = self.watch(process, folder, trial, settings["epochs"])
            except KeyboardInterrupt:
                process.terminate()  # it saves its state; from a terminal it was asked to already
                process.wait()
                trial.study.enqueue_trial(trial.params, {"folder": name})
                raise
            finally:
                if process.poll() is None:
                    process.terminate()
                    process.wait()
        if scores is None:
            raise TrialPruned
        return max(scores)

    def command(self, settings, folder):
        args = self.args
        command = [sys.executable, TRAIN, "--dataset_dir", args.work_dir / "data", "--train_file", "train.jsonl"]
        command += ["--dev_file", "dev.jsonl", "--label_file", "label.txt", "--model_name", args.model_name]
        command += ["--device", args.device, "--save_dir", folder, "--seed", args.seed, "--select_by", args.select_by]
        command += flags(settings, self.n_rows) + (["--resume"] if (folder / STATE).exists() else [])
        return [str(word) for word in command]

    def watch(self, process, folder, trial, epochs):
        """The scores of the epochs; None: it was stopped, because others did better or the loss was no number."""
        told = set()
        while True:
            ended, before = process.poll() is not None, len(told)
            scores = scores_of(folder, self.args.select_by)
            for epoch, score in enumerate(scores, start=1):
                if (tenth := TENTHS * epoch // epochs) not in told:
                    told.add(tenth)
                    trial.report(score, tenth)
            if ended and process.returncode == 0:
                return scores
            if ended and process.returncode in STOPPED:
                raise KeyboardInterrupt
            if ended:
                require_divergence(folder / "output.log")
                return None
            if len(told) > before and trial.should_prune():  # it asks the storage
                return None
            time.sleep(0.2)


def scores_of(folder, name):
    """The score of each epoch so far, as train.py writes them down."""
    path = folder / "metrics.jsonl"
    if not path.exists():
        return []
    return [json.loads(line)[name] for line in path.read_text(encoding="utf-8").splitlines()]


def require_divergence(log):
    """Raise InputError for a training that ended otherwise than by a loss that was no number."""
    last = log.read_text(encoding="utf-8").strip().splitlines()[-1:]
    if "training diverged" not in " ".join(last):
        raise InputError(f"train.py failed: {' '.join(last)} ({log} has the rest)")


# ---- the study -------------------------------------------------------------------------------------------------------


def open_study(args, fingerprint):
    """The study in the storage, of this data and encoder; a new one if there is none."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    storage = args.storage or f"sqlite:///{args.work_dir / 'search.db'}"
    sampler = optuna.samplers.TPESampler(multivariate=True, group=True)
    pruner = optuna.pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=2)
    for attempt in range(1, ATTEMPTS + 1):
        try:
            study = optuna.create_study(
                storage=open_storage(storage), study_name="search", direction="maximize", load_if_exists=True,
                sampler=sampler, pruner=pruner,
            )  # fmt: skip
            break
        except InputError:
            raise
        except Exception as error:  # of a driver, of a server, of the library
            if attempt == ATTEMPTS:
                told = storage_fault(error) or str(error).splitlines()[0]
                raise InputError(f"--storage {without_password(storage)}: {told}") from None
            time.sleep(1)  # another process may just be making the tables
    known = study.user_attrs.get("of", fingerprint)
    names = [*fingerprint, *(name for name in known if name not in fingerprint)]
    if changed := [name for name in names if known.get(name, "") != fingerprint.get(name, "")]:
        others = ", ".join(changed)
        raise InputError(
            f"--storage {without_password(storage)}: holds a search that differs in {others}. Give another place."
        )
    study.set_user_attr("of", fingerprint)
    return study


def search(study, objective, args, rate, logger):
    """Make trials until there are enough."""
    from optuna.study import MaxTrialsCallback
    from optuna.trial import TrialState
    from tqdm.contrib.logging import logging_redirect_tqdm

    ended = (TrialState.COMPLETE, TrialState.PRUNED)
    if not study.trials:
        study.enqueue_trial(defaults(args, rate), skip_if_exists=True)
    done = len(study.get_trials(deepcopy=False, states=ended))
    if done >= args.trials:
        return
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # else the training would go on alone
    with progress_bar(args.trials, "trials", done) as bar, logging_redirect_tqdm([logger]):

        def tell(study, trial):
            bar.update(len(study.get_trials(deepcopy=False, states=ended)) - bar.n)
            logger.info(line_of(study, trial, args))
            remove_models(study, args.work_dir / "trials")

        try:
            study.optimize(objective, callbacks=[tell, MaxTrialsCallback(args.trials, states=ended)])
        except Exception as error:
            if fault := storage_fault(error):
                raise InputError(f"--storage: {fault}. Once it answers, the same command goes on.") from None
            raise


def line_of(study, trial, args):
    """What came of a trial, for the log."""
    scores = scores_of(args.work_dir / "trials" / trial.user_attrs["folder"], args.select_by)
    if trial.state.name == "PRUNED":  # its value is its last score
        return f"trial {trial.number}: stopped after {len(scores)} of {trial.params['epochs']} epochs"
    name = args.select_by.replace("_", " ")
    return f"trial {trial.number}: {name} score: {trial.value:.5f}, best so far: {study.best_value:.5f}"


def remove_models(study, folder):
    """Keep the models of the first and the best trial alone; of the others what is small."""
    from optuna.trial import TrialState

    ended = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))
    kept = {FIRST, *(trial.user_attrs["folder"] for trial in [best_of(study)] if trial)}
    for trial in ended:
        place = folder / trial.user_attrs["folder"]
        if place.name not in kept and place.is_dir():
            for path in place.iterdir():
                if path.is_file() and path.name not in KEPT:
                    path.unlink(missing_ok=True)


def best_of(study):
    """The best trial; None: none came to its end."""
    try:
        return study.best_trial
    except ValueError:
        return None


# ---- the end ---------------------------------------------------------------------------------------------------------


def dev_scores(args, folder):
    """(micro-F1, macro-F1) of a trial's model on the dev rows; None: it is not here, or not any more."""
    if not find_encoder_weights(folder):
        return None
    path = folder / "dev.json"
    command = [sys.executable, EVALUATE, "--dataset_dir", args.dataset_dir, "--params_path", folder, "--train_file", ""]
    command += ["--dev_file", args.dev_file, "--label_file", args.label_file, "--device", args.device]
    command += ["--output_json", path]
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    if done.returncode:
        if not find_encoder_weights(folder):  # another process has just found a better one
            return None
        raise InputError(f"analysis/evaluate.py failed: {done.stderr.strip().splitlines()[-1]}")
    found = json.loads(path.read_text(encoding="utf-8"))["dev"]
    return found["micro_f1"], found["macro_f1"]


def conclude(study, args, n_rows, logger):
    """Say what was found, on rows that chose nothing, and what to type; write the report."""
    best = best_of(study)
    if best is None:
        raise InputError(f"no trial came to its end; {args.work_dir / 'trials'} has their logs.")
    for folder in sorted({FIRST, best.user_attrs["folder"]}):
        name = "defaults" if folder == FIRST else "best trial"
        found = dev_scores(args, args.work_dir / "trials" / folder)
        scored = "its model is elsewhere, or another process has found a better one"
        if found:
            scored = f"micro f1 score: {found[0]:.5f}, macro f1 score: {found[1]:.5f}"
        logger.info(f"{name} ({folder}), trained on the inner rows, on {args.dev_file}: {scored}")
    if best.user_attrs["folder"] == FIRST:
        logger.info("No trial was better than the defaults with --learning_rate auto")
    command = ["python", "train.py", "--dataset_dir", args.dataset_dir, "--model_name", args.model_name]
    command += ["--device", args.device, "--select_by", args.select_by, "--seed", args.seed]
    files = ("train_file", "dev_file", "label_file")
    command += [word for name in files for word in (f"--{name}", getattr(args, name))] + flags(best.params, n_rows)
    command += args.train_flags
    line = shlex.join(str(word) for word in command)
    write_report(args.work_dir / "report.html", study, line)
    logger.info(f"How it went: {args.work_dir / 'report.html'}")
    logger.info(f"Train with:\n{line}")


def write_report(path, study, command):
    """One page: history and importance as pictures, the trials as a table, the best first."""
    names = list(best_of(study).params)
    trials = sorted(study.get_trials(deepcopy=False), key=lambda trial: -(trial.value or 0))
    rows = [
        [trial.number, trial.state.name.lower(), "" if trial.value is None else f"{100 * trial.value:.2f}"]
        + [f"{trial.params.get(name, ''):.3g}" if name in trial.params and isinstance(trial.params[name], float)
           else trial.params.get(name, "") for name in names]
        for trial in trials
    ]  # fmt: skip
    cells = "".join("<tr>" + "".join(f"<td>{html.escape(str(cell))}" for cell in row) + "\n" for row in rows)
    head = "".join(f"<th>{name}" for name in ("trial", "state", "score", *names))
    style = "body{font:15px system-ui;margin:2rem;color-scheme:light dark}td,th{padding:.2rem .6rem;text-align:left}"
    with atomic_write(path) as file:
        file.write(
            f"<!doctype html><html lang=en><meta charset=utf-8><title>Search</title><style>{style}"
            "svg{max-width:100%;height:auto;background:white}div{overflow-x:auto}pre{white-space:pre-wrap}</style>"
            f"<h1>Search</h1><pre>{html.escape(command)}</pre>{''.join(pictures(study))}"
            f"<div><table><tr>{head}\n{cells}</table></div></html>\n"
        )


def pictures(study):
    """Yield the history, and what mattered, as SVG; the latter once there are trials enough to tell."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from optuna.visualization.matplotlib import plot_optimization_history, plot_param_importances

    for plot in (plot_optimization_history, plot_param_importances):
        try:
            axes = plot(study)
        except (ValueError, RuntimeError):  # fewer than two trials, or all of the same score
            continue
        drawn = io.StringIO()
        axes.figure.savefig(drawn, format="svg", bbox_inches="tight")
        plt.close(axes.figure)
        yield drawn.getvalue()[drawn.getvalue().index("<svg") :]


def inner_split(args, tree, train):
    """Write work_dir/data; how many rows are left to train with."""
    parts = stratified_split(train.labels, len(tree), [1 - args.inner_dev, args.inner_dev], args.seed)
    folder = args.work_dir / "data"
    folder.mkdir(parents=True, exist_ok=True)
    tree.write(folder / "label.txt")
    for part, name in enumerate(("train", "dev")):
        rows = [i for i in range(len(parts)) if parts[i] == part]
        if not rows:
            raise InputError(
                f"--inner_dev {float(args.inner_dev):g}: of {len(parts)} train rows none is left to {name}."
            )
        write_rows(
            folder / f"{name}.jsonl", [(train.texts[i], [tree.labels[k] for k in train.labels[i]]) for i in rows]
        )
    return sum(part == 0 for part in parts)


def main(argv=None):
    args, logger = parse_args(argv), get_logger()
    directory = require_directory(args.dataset_dir)
    require_model(args.model_name)
    tree = LabelTree.read(directory / args.label_file)
    train = load_reported(directory / args.train_file, tree, logger)
    source = model_directory(args.model_name)
    config, has_weights = encoder_config(source), find_encoder_weights(source) is not None
    rate = fitting_rate(config["num_hidden_layers"], config["hidden_size"], has_weights)
    fingerprint = {"train_file": file_digest(directory / args.train_file)[:16]}
    names = ("label_file", "label_graph")
    fingerprint |= {name: file_digest(p)[:16] for name, p in zip(names, label_files(directory / args.label_file))}
    fingerprint |= {name: getattr(args, name) for name in ("select_by", "max_epochs", "max_seq_length", "seed")}
    fingerprint |= {"inner_dev": str(args.inner_dev), "train flags": " ".join(args.train_flags)}
    args.work_dir.mkdir(parents=True, exist_ok=True)
    study = open_study(args, fingerprint | {"encoder": file_digest(source / "config.json")[:16], "rate": rate})
    n_rows = inner_split(args, tree, train)
    search(study, Objective(args, rate, n_rows), args, rate, logger)
    conclude(study, args, len(train.texts), logger)


if __name__ == "__main__":
    run(main)
