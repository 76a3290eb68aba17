"""Beginning a run: its directory, the encoder it starts from, the run it goes on with, and what it notes down."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from logging import Logger
from pathlib import Path
from typing import Any

import numpy as np

import hierarchical
from hierarchical.console import get_logger
from hierarchical.devices import installed, launched_processes
from hierarchical.encoders import encoder_state, open_encoder
from hierarchical.errors import InputError, some
from hierarchical.files import atomic_write
from hierarchical.identity import RECORD, digests
from hierarchical.labels import LabelTree
from hierarchical.modeling import library_config
from hierarchical.rows import Rows
from hierarchical.sets import in_force, only_writer
from hierarchical.sources import model_directory
from hierarchical.tokens import FILES, Tokenizer
from hierarchical.training import STATE, Progress, read_state
from hierarchical.weights import find_weights, load_state, read_identity


def require_other_directory(save_dir: str | Path, model: str, flag: str = "--save_dir", what: str = "encoder") -> None:
    """Raise InputError where a run would write its model over one that it starts from or learns from; what: it is."""
    if Path(save_dir).resolve() == Path(model).resolve():
        raise InputError(f"{flag} {save_dir}: the {what} lies there and would be overwritten. Give another directory.")


@contextmanager
def begin_run(save_dir: Path, rank: int = 0, flag: str = "--save_dir") -> Iterator[Logger]:
    """Make save_dir, be the only run that writes there, and yield the logger, which writes there and to stderr.

    The first process does this for all of a run. Raises InputError if another run has the directory, or if it holds an
    export, which this run would spoil.
    """
    logger = get_logger()
    if rank:
        logger.setLevel("ERROR")  # one log
        yield logger
        return
    if (save_dir / RECORD).exists() and not find_weights(save_dir):
        raise InputError(f"{flag} {save_dir}: holds an export, which would be replaced. Give another directory.")
    with only_writer(save_dir, f"wait until it ends, or give another {flag}"):
        get_logger(save_dir / "train.log")
        yield logger


def join_processes(paddle: Any, model_name: str) -> None:
    """Connect the processes of paddle.distributed.launch; one of them downloads a model that is not there yet."""
    rank, world = launched_processes()
    if world > 1:
        paddle.distributed.init_parallel_env()
        if rank == 0:
            model_directory(model_name)
        paddle.distributed.barrier()


def start_or_resume(
    save_dir: Path, resume: bool, fingerprint: dict, logger: Logger, flag: str = "--resume"
) -> tuple[Progress, dict | None]:
    """(Progress, arrays for `Trainer.restore`) of the run whose last state is in save_dir, or of a new one and None.

    resume: whether to go on; fingerprint: what a run must share with the one it continues; flag: what asks for it on
    the command line.
    """
    progress, arrays = Progress(), None
    if resume:
        progress, arrays = read_state(save_dir / STATE, fingerprint, flag)
        if "tokenizer" not in progress.fingerprint:
            logger.info(
                f"{STATE} is of version 0.9.0, which did not note the tokenizer: going on with that of --model_name"
            )
    elif (save_dir / STATE).exists():
        logger.warning(f"{save_dir} holds an earlier run, which this one replaces; {flag} would have continued it")
    noted = {name: value for name, value in progress.fingerprint.items() if name == "tokenizer"}
    progress.fingerprint = fingerprint | noted  # see `require_same_tokenizer`
    return progress, arrays


def earlier_state(resumed: bool, progress: Progress) -> list[str]:
    """The names of what goes when a model is saved: with a run's first one the state of the run before it."""
    return [] if resumed or len(progress.history) > 1 else [STATE]


def open_model(model_name: str, max_seq_length: int) -> tuple[Path, Tokenizer, Any]:
    """(directory, tokenizer, library configuration) of --model_name, whose texts may have --max_seq_length tokens."""
    source = model_directory(model_name)
    tokenizer, config = open_encoder(source, max_seq_length)
    return source, tokenizer, library_config(config)


def start_encoder(model: Any, source: Path, logger: Logger) -> None:
    """Give `model` the encoder weights of a model directory; without any it keeps its random ones, with a warning."""
    if found := encoder_state(source):
        path, state = found
        if missing := load_state(model, state, path, encoder_only=True):
            logger.warning(f"{path} holds no {some(missing)}: that layer starts from random numbers")
    else:
        logger.warning(f"{source} holds no weights: training from scratch")


def write_run_files(save_dir: Path, arguments: dict, tree: LabelTree, train: Rows, dev: Rows | None) -> None:
    """setting.txt in the familiar form, run.json for programs."""
    with atomic_write(save_dir / "setting.txt") as file:
        lines = [f"{name} : {value}" for name, value in sorted(arguments.items())]
        file.write("\n".join(["----------- Configuration Arguments -----------", *lines, "-" * 48, ""]))
    versions = {
        "hierarchical": hierarchical.__version__,
        "python": sys.version.split()[0],
        "paddle": installed("paddlepaddle", "paddlepaddle-gpu"),
        "paddlenlp": installed("paddlenlp"),
    }
    sizes = {"labels": len(tree), "train_rows": len(train.texts), "dev_rows": len(dev.texts) if dev else 0}
    with atomic_write(save_dir / "run.json") as file:
        json.dump({"arguments": arguments, "versions": versions, "data": sizes}, file, ensure_ascii=False, indent=1)


def explain_zero(logger: Logger, scores: dict, train: Rows, tree: LabelTree, learning_rate: float) -> None:
    """Say why nothing is predicted, with the numbers to act on."""
    counts = train.label_counts(len(tree))
    logger.warning(
        f"F1 is 0: {scores['labels_never_predicted']} of {len(tree)} labels are never predicted. The checkpoint was "
        f"saved all the same. Training rows per label: least {counts.min()}, median {int(np.median(counts))}, most "
        f"{counts.max()}; learning rate {learning_rate:g}. Few rows need more --epochs or a higher "
        "--learning_rate; training from scratch may start like this. `python analysis/baseline.py` shows in a minute "
        "whether the labels can be learned from these texts."
    )


def require_same_start(path: str | Path, tokenizer: Tokenizer, label_file: str | Path | None = None) -> None:
    """Raise InputError where the parameters of --init_from_ckpt would mean something else in the new run.

    tokenizer: that of --model_name; label_file: of the new run, whose labels must be those the parameters are for
    """
    path = Path(path)
    identity, beside = read_identity(in_force(path)), in_force(path).with_name("label.txt")
    tree, old = LabelTree.read(label_file) if label_file else None, LabelTree.read(beside) if beside.exists() else None
    now = digests(tree.labels if tree else [], {}, tokenizer.files)
    if identity and (other := [name for name in FILES if identity.get(name) != now.get(name)]):
        raise InputError(
            f"--init_from_ckpt {path}: its parameters are for another {other[0]} than that of --model_name. Pass "
            f"--model_name {path.parent} beside it, which brings its own."
        )
    same = identity["label.txt"] == now["label.txt"] if identity else not (tree and old) or old.labels == tree.labels
    if not tree or same:
        return
    known = dict.fromkeys(old.labels if old else tree.labels)
    new, gone = [x for x in tree.labels if x not in known], [x for x in known if x not in tree.index]
    sides = {f"new in {label_file}": new, "only in the old model": gone}
    what = "; ".join(f"{side}: {some(labels)}" for side, labels in sides.items() if labels)
    raise InputError(
        f"--init_from_ckpt {path}: was trained with other labels ({what or 'in another order'}). To go on with the "
        f"labels of {label_file}, pass --model_name {path.parent} in its place: that keeps the encoder."
    )


def require_same_tokenizer(fingerprint: dict, tokenizer: Any, flag: str = "--resume") -> None:
    """Note in the fingerprint of a run what its tokenizer is; raise InputError if it was another one so far.

    tokenizer: has `files`, as a Tokenizer has. States of older versions do not say.
    """
    now = digests([], {}, tokenizer.files)
    then = fingerprint.setdefault("tokenizer", now)
    if wrong := sorted(name for name in now.keys() | then.keys() if now.get(name) != then.get(name)):
        raise InputError(f"{flag}: the run began with another {wrong[0]} than --model_name has now. Put it back.")
