"""What training scripts share: parameter updates, epochs, and the state to stop and continue with; see also runs.py.

The random numbers of a step depend on the seed and the step alone, and the row order on the seed and the epoch, so
parameters, optimizer moments and counters are the whole state: a resumed run repeats an uninterrupted one bit for bit.
"""

import json
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass, field, fields
from logging import Logger
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from hierarchical.console import progress_bar
from hierarchical.cpu_layers import adamw, flush_denormals, speed_up
from hierarchical.dynamics import DYNAMICS, Dynamics
from hierarchical.errors import InputError
from hierarchical.files import atomic_write
from hierarchical.long_texts import Windows
from hierarchical.losses import LOSSES
from hierarchical.modeling import classifying, model_inputs
from hierarchical.rows import soft_targets
from hierarchical.shortlist import SampledHead
from hierarchical.weights import MOMENTS, POWERS, array_of, write_tensors
from hierarchical.window_training import joined_logits

STATE = "state.safetensors"
BEFORE = {"per_level": 0, "stop": "leaf", "head": "dense", "long_text": "cut"}  # version 0.9.0's, whose states say none
SCHEDULES = ("constant", "linear", "cosine")


@dataclass(frozen=True)
class Settings:
    """What a parameter update depends on, besides the rows.

    learning_rate, head_learning_rate   peak rates of what is pre-trained and of what is new
    loss            a name of losses.LOSSES
    weight_decay    AdamW's, not for biases and norms
    max_grad_norm   the gradient is clipped to this norm; 0: it is not
    schedule        shape of the rate after warm-up, one of SCHEDULES
    warmup_steps    in which the rate rises from 0 to its peak
    gradient_accumulation_steps   batches of an update
    amp             mixed precision, on accelerators and CPUs that have bfloat16
    seed            of row order and dropout
    logging_steps   updates between two lines of the log
    save_steps      updates between two states that are saved, besides those after evaluations; 0: there are none
    """

    learning_rate: float
    head_learning_rate: float
    loss: str = "bce"
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    schedule: str = "constant"
    warmup_steps: int = 0
    gradient_accumulation_steps: int = 1
    amp: bool = False
    seed: int = 3
    logging_steps: int = 5
    save_steps: int = 0

    @classmethod
    def from_arguments(cls, args: Any, **others: Any) -> "Settings":
        """From the flags of the same names; what is in `others` counts more, and what is in neither has its default."""
        given = {one.name: vars(args)[one.name] for one in fields(cls) if one.name in vars(args)}
        return cls(**given | others)


@dataclass
class Progress:
    """How far a run is.

    epoch, batch   finished epochs, and finished batches of the current one
    step           parameter updates
    best, stale    the best dev score so far (None: there is none yet), and evaluations since
    loss_sum       of the batches since the last evaluation
    history        what each evaluation found
    fingerprint    what a resumed run must share with the one it continues
    """

    epoch: int = 0
    batch: int = 0
    step: int = 0
    best: float | None = None
    stale: int = 0
    loss_sum: float = 0.0
    history: list[dict] = field(default_factory=list)
    fingerprint: dict = field(default_factory=dict)

    def evaluated(self, score: float | None, entry: dict) -> bool:
        """Take note of an evaluation; whether it is the best so far. Without a score the newest is the best."""
        better = score is None or self.best is None or score > self.best
        self.stale = 0 if better else self.stale + 1
        self.best = score if better else self.best
        self.history.append(entry)
        self.loss_sum = 0.0
        return better


# ---- parameter updates -----------------------------------------------------------------------------------------------


def label_frequency_bias(counts: np.ndarray, n_rows: int) -> np.ndarray:
    """log(p / (1 - p)) of each label's share of the rows: the classifier's first bias, float32 [L].

    counts: how many of the n_rows rows have each label, int [L].
    With it the loss starts where it would otherwise have to descend to before anything else is learned.
    """
    share = np.clip(counts / n_rows, 0.5 / n_rows, 1 - 0.5 / n_rows)
    return np.log(share / (1 - share)).astype(np.float32)


def rate_schedule(shape: str, warmup_steps: int, total_steps: int) -> Callable[[int], float]:
    """step (from 0) -> factor of the peak rates; shape: one of SCHEDULES."""

    def factor(step: int) -> float:
        if step < warmup_steps:
            return step / warmup_steps
        done = (step - warmup_steps) / max(1, total_steps - warmup_steps)
        return {"constant": 1.0, "linear": 1 - done, "cosine": (1 + np.cos(np.pi * done)) / 2}[shape]

    return factor


def train_batches(
    lengths: Sequence[int] | np.ndarray, batch_size: int, seed: int, epoch: int, rows: np.ndarray | None = None
) -> list[np.ndarray]:
    """The batches of one epoch: int arrays of row numbers, in an order fixed by seed and epoch.

    lengths: token count per row. Rows of like length share a batch, so that little is padding: rows are shuffled,
    sorted by length within pools of 32 batches, cut into batches, and the batches are shuffled.
    rows: the numbers of those that the epoch has, some of them perhaps several times; None: every row once
    """
    rng, sizes = np.random.default_rng([seed, epoch]), np.asarray(lengths)
    order = rng.permutation(np.arange(len(lengths)) if rows is None else rows)
    pools = [order[i : i + 32 * batch_size] for i in range(0, len(order), 32 * batch_size)]
    order = np.concatenate([pool[np.argsort(sizes[pool], kind="stable")] for pool in pools])
    batches = [order[i : i + batch_size] for i in range(0, len(order), batch_size)]
    rng.shuffle(batches)
    return batches


class Trainer:
    """The model, its optimizer and how far they have come; `state()` is all that --resume needs.

    head: of the model, if its steps see a shortlist of the labels; windows: of the tokenizer that made the ids
    dynamics: what is noted about train rows, if it is
    """

    dynamics: Dynamics | None = None

    def __init__(
        self,
        paddle: Any,
        settings: Settings,
        model: Any,
        total_steps: int,
        head: SampledHead | None = None,
        windows: Windows | None = None,
    ):
        self.paddle, self.settings, self.model, self.head, self.windows = paddle, settings, model, head, windows
        self.rank, self.world = paddle.distributed.get_rank(), paddle.distributed.get_world_size()
        if paddle.get_device() == "cpu":
            flush_denormals()
        speed_up(model, bfloat16=settings.amp)
        self.net = paddle.DataParallel(model) if self.world > 1 else model
        self.factor = rate_schedule(settings.schedule, settings.warmup_steps, total_steps)
        inside = getattr(model, "pretrained", f"{model.base_model_prefix}.")  # how names of the encoder begin
        new = [p for name, p in model.named_parameters() if not name.startswith(inside)]
        encoder = [p for name, p in model.named_parameters() if name.startswith(inside)]
        decayed = {p.name for name, p in model.named_parameters() if "bias" not in name and "norm" not in name}
        self.optimizer = adamw(
            settings.learning_rate,
            [
                {"params": encoder},
                {"params": new, "learning_rate": settings.head_learning_rate / settings.learning_rate},
            ],
            settings.weight_decay,
            decayed.__contains__,
            settings.max_grad_norm,
        )
        use_amp = settings.amp and paddle.get_device() != "cpu"
        self.amp_dtype = "bfloat16" if use_amp and paddle.amp.is_bfloat16_supported() else "float16"
        self.use_amp = use_amp
        self.scaler = paddle.amp.GradScaler(enable=use_amp and self.amp_dtype == "float16")
        self.step = 0

    def train_step(self, ids: Sequence[Sequence[int]], targets: Sequence, rows: np.ndarray, pad_id: int) -> float:
        """One parameter update on the rows of a global batch; returns this process's share of the mean loss.

        targets: of each row a tuple of class indices, or a float array [L], see rows.soft_targets

        The batch is cut into accumulation steps x processes parts, weighted so that the gradient is that of the mean
        over the whole batch, however many processes share it.
        """
        paddle, settings = self.paddle, self.settings
        self.begin_step()
        parts = settings.gradient_accumulation_steps * self.world
        rows = np.resize(rows, parts) if len(rows) < parts else rows  # every process needs a row
        shortlist = self.head and self.head.fetch([targets[row] for row in rows], self.step, self.optimizer)
        weights = [paddle.to_tensor(shortlist.weights)] if shortlist else []
        total = 0.0
        for i in range(settings.gradient_accumulation_steps):
            part = rows[i * self.world + self.rank :: parts]
            own = [targets[row] for row in part]
            labels = shortlist.multi_hot(own) if shortlist else soft_targets(own, self.model.config.num_labels)
            with paddle.amp.auto_cast(self.use_amp, dtype=self.amp_dtype), classifying(self.model):
                logits = self.logits_of([ids[row] for row in part], labels, pad_id, i)
            if self.dynamics:
                self.dynamics.note(rows[i * self.world + self.rank :: parts], labels, logits)
            labels = paddle.to_tensor(labels, "float32")
            loss = LOSSES[settings.loss].of_batch(logits.astype("float32"), labels, *weights)
            loss = loss * (self.world / len(rows))
            if self.world > 1 and i + 1 < settings.gradient_accumulation_steps:
                with self.net.no_sync():
                    self.scaler.scale(loss).backward()
            else:
                self.scaler.scale(loss).backward()
            total += float(loss)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.clear_grad()
        if self.head:
            self.head.put_back(self.optimizer)
        self.step += 1
        return total

    def logits_of(self, ids: list[Sequence[int]], labels: np.ndarray, pad_id: int, part: int) -> Any:
        """The logits [n, L] of a part of a batch, with gradients. labels: targets [n, L]; part: its number."""
        if self.windows is None:
            return self.net(**model_inputs(ids, pad_id))
        rng = np.random.default_rng([self.settings.seed, self.step, self.rank, part])
        return joined_logits(self.paddle, self.net, self.model, self.windows, ids, labels > 0.5, pad_id, rng)

    def whole(self) -> AbstractContextManager:
        """The time in which the model has all labels: for dev scores and checkpoints."""
        return self.head.whole() if self.head else nullcontext()

    def begin_step(self) -> None:
        """Set the random numbers (of dropout masks) and the rate of the step that comes."""
        self.paddle.seed((self.settings.seed * 1_000_003 + self.step) * self.world + self.rank)
        self.optimizer.set_lr(self.settings.learning_rate * self.factor(self.step))

    def share(self) -> None:
        """Let the process that saves the state know what the others have noted."""
        if self.dynamics:
            self.dynamics.share(self.paddle)

    def any_process(self, flag: object) -> bool:
        """True on every process if `flag` is true on one, so that all leave a loop at the same step."""
        if self.world == 1:
            return bool(flag)
        shared = self.paddle.to_tensor([float(bool(flag))])
        self.paddle.distributed.all_reduce(shared)
        return float(shared) > 0

    def state(self) -> dict[str, Any]:
        """Every number the next step depends on, name -> tensor, no copy: parameters and optimizer moments."""
        moments = self.optimizer.state_dict()
        tensors = {}
        for name, parameter in self.model.named_parameters():
            tensors[f"parameter/{name}"] = parameter
            for key, value in moments.items():  # keys are <parameter's internal name>_<moment>_0
                if key.startswith(f"{parameter.name}_"):
                    tensors[f"{key[len(parameter.name) + 1 :]}/{name}"] = value
        tensors |= {DYNAMICS: self.dynamics.values} if self.dynamics else {}
        return tensors | self.head.state() if self.head else tensors

    def restore(self, arrays: dict[str, np.ndarray], step: int, save_dir: Path) -> None:
        """Take over the arrays of `state()`, saved there after `step` updates. Raises InputError for others."""
        self.step, moments, path = step, {}, save_dir / STATE
        if self.dynamics:
            self.dynamics.restore(arrays.get(DYNAMICS), path)
        arrays = self.head.restore(arrays, path) if self.head else arrays
        for name, parameter in self.model.named_parameters():
            parameter.set_value(array_of(arrays, f"parameter/{name}", parameter.shape, path))
            kinds = {kind: parameter.shape if kind in MOMENTS else [1] for kind in (*MOMENTS, *POWERS)}
            if any(f"{kind}/{name}" in arrays for kind in kinds):  # it has had a gradient
                for kind, shape in kinds.items():
                    value = array_of(arrays, f"{kind}/{name}", shape, path)
                    moments[f"{parameter.name}_{kind}"] = self.paddle.to_tensor(value)
        self.optimizer.set_state_dict(moments)


# ---- epochs, and the end of them -------------------------------------------------------------------------------------


@contextmanager
def stop_on_signals() -> Iterator[list[int]]:
    """A list, to which SIGTERM and SIGINT add their number, for a loop to look at; asked twice, they stop at once."""
    stop: list[int] = []

    def request_stop(number: int, _: Any) -> None:
        stop.append(number)
        signal.signal(number, signal.SIG_DFL)

    before = {number: signal.signal(number, request_stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def train_epoch(
    trainer: Trainer,
    batches: list[np.ndarray],
    ids: Sequence[Sequence[int]],
    targets: Sequence,
    pad_id: int,
    progress: Progress,
    logger: Logger,
    stop: list[int],
    scalars: Any = None,
    save_dir: Path | None = None,
) -> bool:
    """Train on those batches of an epoch, or of its beginning, that `progress` has not counted yet.

    Returns False if `stop`, of `stop_on_signals`, was filled meanwhile. scalars: a VisualDL writer; save_dir: where the
    state goes every `save_steps` updates.
    """
    number = progress.epoch + 1
    if trainer.dynamics:
        trainer.dynamics.epoch = progress.epoch
    since, started = progress.step, time.perf_counter()
    with progress_bar(len(batches), f"epoch {number}", progress.batch) as bar:
        for batch in range(progress.batch, len(batches)):
            loss = trainer.train_step(ids, targets, batches[batch], pad_id)
            if not np.isfinite(loss):
                raise InputError(f"the loss is {loss} at step {trainer.step}: training diverged; lower --learning_rate")
            progress.batch, progress.step = batch + 1, trainer.step
            progress.loss_sum += loss
            bar.update()
            if trainer.step % trainer.settings.logging_steps == 0 and trainer.rank == 0:
                speed = (trainer.step - since) / (time.perf_counter() - started)
                logger.info(
                    f"global step {trainer.step}, epoch: {number}, batch: {batch + 1}, loss: {loss:.5f}, "
                    f"speed: {speed:.2f} step/s"
                )
                if scalars:
                    scalars.add_scalar("train/loss", loss, trainer.step)
                    scalars.add_scalar("train/learning_rate", trainer.optimizer.get_lr(), trainer.step)
                since, started = trainer.step, time.perf_counter()
            if is_due(trainer.settings.save_steps, trainer.step) and save_dir:
                trainer.share()
                if trainer.rank == 0:
                    save_state(save_dir / STATE, trainer, progress)
            if trainer.any_process(stop):
                trainer.share()
                return False
    trainer.share()
    return True


def is_due(every: int, step: int) -> bool:
    """Whether something that comes after so many updates comes after this one; 0: it never comes."""
    return every > 0 and step % every == 0


def next_evaluation(progress: Progress, every: int) -> int:
    """The update after which dev is scored next; it may be past, if a run was killed then. 0: at the end of an epoch.

    every: updates between two evaluations, or 0.
    """
    last = progress.history[-1]["step"] if progress.history else 0
    return (last // every + 1) * every if every else 0


def leave(
    save_dir: Path, trainer: Trainer, progress: Progress, stop: list[int], logger: Logger, flag: str = "--resume"
) -> NoReturn:
    """End a run within an epoch, because this process or another was asked to."""
    if trainer.rank == 0:
        save_state(save_dir / STATE, trainer, progress)
        logger.warning(f"Stopped by a signal; the state is saved, continue with {flag}")
    sys.exit(128 + (stop or [signal.SIGTERM])[0])  # as the shell reports it


def log_scores(logger: Logger, scores: dict) -> None:
    """An evaluation on dev (a result of metric.Scores) in the familiar form."""
    logger.info(
        f"eval loss: {scores['loss']:.5f}, micro f1 score: {scores['micro_f1']:.5f}, "
        f"macro f1 score: {scores['macro_f1']:.5f}"
    )


# ---- the state of a run ----------------------------------------------------------------------------------------------


def save_progress(save_dir: Path, trainer: Trainer, progress: Progress) -> None:
    """After an evaluation: metrics.jsonl, a line for each of them, and the state to go on from."""
    with atomic_write(save_dir / "metrics.jsonl") as file:
        file.writelines(f"{json.dumps(entry)}\n" for entry in progress.history)
    if trainer.dynamics:
        trainer.dynamics.write(save_dir)
    save_state(save_dir / STATE, trainer, progress)


def save_state(path: Path, trainer: Trainer, progress: Progress) -> None:
    """One file with everything that a resumed run needs."""
    with atomic_write(path, "wb") as file:
        write_tensors(file, trainer.state(), {"progress": json.dumps(asdict(progress))})


def read_state(path: Path, expected: dict, flag: str = "--resume") -> tuple[Progress, dict[str, np.ndarray]]:
    """(Progress, arrays for `Trainer.restore`) of a saved state; needs no paddle. Raises InputError when there is none,
    it is damaged, or its run was not the one that `expected` describes.
    """
    from safetensors import safe_open

    if not path.exists():
        raise InputError(f"{flag}: no {path}. Leave {flag} out, or pass the directory of that run.")
    try:
        with safe_open(path, "np") as file:
            progress = Progress(**json.loads(file.metadata()["progress"]))
            arrays = {name: file.get_tensor(name) for name in file.keys()}
    except Exception as error:  # a damaged file can make the reader raise anything
        raise InputError(f"{path}: not a readable state ({error}). Start again without {flag}.") from None
    then = progress.fingerprint
    same = {k: (then[k],) if k in then else (None, BEFORE.get(k)) for k in expected}
    if changed := [f"{k}: {then.get(k)!r} then, {v!r} now" for k, v in expected.items() if v not in same[k]]:
        raise InputError(f"{flag}: the run in {path.parent} was another one ({'; '.join(changed)}).")
    return progress, arrays
