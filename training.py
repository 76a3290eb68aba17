"""What training scripts share: beginning a run, parameter updates, epochs, and the state to stop and continue with.

The random numbers of a step depend on the seed and the step alone, and the row order on the seed and the epoch, so
parameters, optimizer moments and counters are the whole state: a resumed run repeats an uninterrupted one bit for bit.
"""

import json
import os
import signal
import sys
import time
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np

from modeling import model_directory, model_inputs, read_config
from tokenizer import load_tokenizer
from utils import InputError, atomic_write, get_logger, multi_hot
from weights import find_weights, load_weights, refuse_foreign_weights

STATE = "state.safetensors"


# ---- beginning a run -------------------------------------------------------------------------------------------------


def launched_processes():
    """(number of this process, their count), as paddle.distributed.launch says; (0, 1) without it. Needs no paddle."""
    return int(os.environ.get("PADDLE_TRAINER_ID", 0)), int(os.environ.get("PADDLE_TRAINERS_NUM", 1))


def require_other_directory(save_dir, model_name, flag="--save_dir"):
    """Raise InputError where a run would write its model over the encoder that it starts from."""
    if Path(save_dir).resolve() == Path(model_name).resolve():
        raise InputError(f"{flag} {save_dir}: the encoder lies there and would be overwritten. Give another directory.")


def open_log(save_dir, rank=0):
    """Make save_dir and return the logger, which the first process alone writes to, there as well as on stderr."""
    logger = get_logger()
    if rank:
        logger.setLevel("ERROR")  # one log
    else:
        save_dir.mkdir(parents=True, exist_ok=True)
        get_logger(save_dir / "train.log")
    return logger


def join_processes(paddle, model_name):
    """Connect the processes of paddle.distributed.launch; one of them downloads a model that is not there yet."""
    rank, world = launched_processes()
    if world > 1:
        paddle.distributed.init_parallel_env()
        if rank == 0:
            model_directory(model_name)
        paddle.distributed.barrier()


def start_or_resume(progress, save_dir, resume, fingerprint, logger, flag="--resume"):
    """(counters, arrays for `Trainer.restore`) of the run whose last state is in save_dir, or (`progress`, None).

    progress: the counters of a new run; resume: whether to go on; fingerprint: what a run must share with the one it
    continues; flag: what asks for it on the command line.
    """
    arrays = None
    if resume:
        progress, arrays = read_state(save_dir / STATE, fingerprint, flag)
    elif (save_dir / STATE).exists():
        logger.warning(f"{save_dir} holds an earlier run, which this one replaces; {flag} would have continued it")
    return progress | {"fingerprint": fingerprint}, arrays


def open_model(args):
    """(directory, tokenizer, configuration) of --model_name, whose texts may have --max_seq_length tokens."""
    source = model_directory(args.model_name)
    tokenizer, config = load_tokenizer(source, args.max_seq_length), read_config(source)
    if args.max_seq_length > (limit := config.max_position_embeddings):
        raise InputError(f"--max_seq_length {args.max_seq_length}: {args.model_name} reads at most {limit} tokens.")
    return source, tokenizer, config


def start_encoder(model, source, logger):
    """Give `model` the encoder weights of a model directory; without any it keeps its random ones, with a warning."""
    if weights := find_weights(source):
        load_weights(model, weights, encoder_only=True)
    else:
        refuse_foreign_weights(source)
        logger.warning(f"{source} holds no weights: training from scratch")


def write_run_files(save_dir, args, tree, train, dev):
    """setting.txt in the familiar form, run.json for programs. train, dev: utils.Rows; dev may be None."""
    import paddle
    import paddlenlp

    with atomic_write(save_dir / "setting.txt") as file:
        lines = [f"{name} : {value}" for name, value in sorted(vars(args).items())]
        file.write("\n".join(["----------- Configuration Arguments -----------", *lines, "-" * 48, ""]))
    versions = {"python": sys.version.split()[0], "paddle": paddle.__version__, "paddlenlp": paddlenlp.__version__}
    sizes = {"labels": len(tree), "train_rows": len(train.texts), "dev_rows": len(dev.texts) if dev else 0}
    with atomic_write(save_dir / "run.json") as file:
        json.dump({"arguments": vars(args), "versions": versions, "data": sizes}, file, ensure_ascii=False, indent=1)


# ---- parameter updates -----------------------------------------------------------------------------------------------


def label_frequency_bias(targets):
    """log(p / (1 - p)) of each label's share of the rows, bool [N, L] -> float32 [L]: the classifier's first bias.

    With it the loss starts where it would otherwise have to descend to before anything else is learned.
    """
    share = np.clip(targets.mean(0), 0.5 / len(targets), 1 - 0.5 / len(targets))
    return np.log(share / (1 - share)).astype(np.float32)


def rate_schedule(args, total_steps):
    """step (from 0) -> factor of the peak rates."""
    shape = args.lr_scheduler or ("linear" if args.warmup else "constant")

    def factor(step):
        if step < args.warmup_steps:
            return step / args.warmup_steps
        progress = (step - args.warmup_steps) / max(1, total_steps - args.warmup_steps)
        return {"constant": 1.0, "linear": 1 - progress, "cosine": (1 + np.cos(np.pi * progress)) / 2}[shape]

    return factor


def train_batches(lengths, batch_size, seed, epoch):
    """The batches of one epoch: int arrays of row numbers, every row once, in an order fixed by seed and epoch.

    lengths: token count per row. Rows of like length share a batch, so that little is padding: rows are shuffled,
    sorted by length within pools of 32 batches, cut into batches, and the batches are shuffled.
    """
    rng = np.random.default_rng([seed, epoch])
    order, lengths = rng.permutation(len(lengths)), np.asarray(lengths)
    pools = [order[i : i + 32 * batch_size] for i in range(0, len(order), 32 * batch_size)]
    order = np.concatenate([pool[np.argsort(lengths[pool], kind="stable")] for pool in pools])
    batches = [order[i : i + batch_size] for i in range(0, len(order), batch_size)]
    rng.shuffle(batches)
    return batches


def affine(x, weight, bias):
    """x W + b as two matrix products, x W + 1 b.

    Paddle's own gradient of a broadcast sum is slow on CPUs: this saves 8 % of a training step (6 layers x 384 units).
    """
    import paddle

    ones = paddle.ones([*x.shape[:-1], 1], x.dtype)
    return paddle.matmul(x, weight) + paddle.matmul(ones, bias.unsqueeze(0))


def speed_up_bias_gradients(paddle, model):
    """For CPUs: make every linear layer's bias gradient a matrix product, see `affine`."""

    def forward(layer, x):
        return affine(x, layer.weight, layer.bias)

    for layer in model.sublayers():
        if isinstance(layer, paddle.nn.Linear):
            layer.forward = partial(forward, layer)


def binary_cross_entropy(logits, targets):
    """Mean over the labels, summed over the rows: float32 [N, L], [N, L] -> a number. Every label for itself."""
    from paddle.nn.functional import binary_cross_entropy_with_logits

    return binary_cross_entropy_with_logits(logits, targets, reduction="sum") / targets.shape[1]


def zlpr(logits, targets):
    """log(1 + sum of e^s over a row's absent labels) + log(1 + sum of e^-s over its own), summed over the rows.

    float32 [N, L], [N, L] -> a number. The labels of a row compete, its own ones against 0 from above and the others
    from below, so that a logit above 0, a probability above 0.5, still means that the label applies. Su, Zhu, Murtadha,
    Pan and Liu (2022), ZLPR: a novel loss for multi-label classification.
    """
    import paddle

    wrong = logits * (1 - 2 * targets)  # how far each label is on the wrong side of 0
    left_out = 1e9 * targets, 1e9 * (1 - targets)
    sides = [paddle.concat([wrong - out, paddle.zeros_like(wrong[:, :1])], 1).logsumexp(1) for out in left_out]
    return sum(sides).sum()


LOSSES = {"bce": binary_cross_entropy, "zlpr": zlpr}


class Trainer:
    """The model, its optimizer and how far they have come; `state()` is all that --resume needs."""

    def __init__(self, paddle, args, model, total_steps):
        self.paddle, self.args, self.model = paddle, args, model
        self.rank, self.world = paddle.distributed.get_rank(), paddle.distributed.get_world_size()
        if paddle.get_device() == "cpu":
            speed_up_bias_gradients(paddle, model)
        self.net = paddle.DataParallel(model) if self.world > 1 else model
        self.factor = rate_schedule(args, total_steps)
        inside = getattr(model, "pretrained", f"{model.base_model_prefix}.")  # how names of the encoder begin
        head = [p for name, p in model.named_parameters() if not name.startswith(inside)]
        encoder = [p for name, p in model.named_parameters() if name.startswith(inside)]
        decayed = {p.name for name, p in model.named_parameters() if "bias" not in name and "norm" not in name}
        self.optimizer = paddle.optimizer.AdamW(
            learning_rate=args.learning_rate,
            parameters=[
                {"params": encoder},
                {"params": head, "learning_rate": args.head_learning_rate / args.learning_rate},
            ],
            weight_decay=args.weight_decay,
            apply_decay_param_fun=lambda name: name in decayed,
            grad_clip=paddle.nn.ClipGradByGlobalNorm(args.max_grad_norm) if args.max_grad_norm else None,
        )
        use_amp = args.amp and paddle.get_device() != "cpu"
        self.amp_dtype = "bfloat16" if use_amp and paddle.amp.is_bfloat16_supported() else "float16"
        self.use_amp = use_amp
        self.scaler = paddle.amp.GradScaler(enable=use_amp and self.amp_dtype == "float16")
        self.step = 0

    def train_step(self, ids, targets, rows, pad_id):
        """One parameter update on the rows of a global batch; returns this process's share of the mean loss.

        The batch is cut into accumulation steps x processes parts, weighted so that the gradient is that of the mean
        over the whole batch, however many processes share it.
        """
        paddle, args = self.paddle, self.args
        paddle.seed((args.seed * 1_000_003 + self.step) * self.world + self.rank)  # dropout masks of this step
        self.optimizer.set_lr(args.learning_rate * self.factor(self.step))
        parts = args.gradient_accumulation_steps * self.world
        rows = np.resize(rows, parts) if len(rows) < parts else rows  # every process needs a row
        total = 0.0
        for i in range(args.gradient_accumulation_steps):
            part = rows[i * self.world + self.rank :: parts]
            inputs = model_inputs([ids[row] for row in part], pad_id)
            labels = multi_hot([targets[row] for row in part], self.model.config.num_labels)
            labels = paddle.to_tensor(labels, "float32")
            with paddle.amp.auto_cast(self.use_amp, dtype=self.amp_dtype):
                logits = self.net(**inputs)
            loss = LOSSES[args.loss](logits.astype("float32"), labels) * (self.world / len(rows))
            if self.world > 1 and i + 1 < args.gradient_accumulation_steps:
                with self.net.no_sync():
                    self.scaler.scale(loss).backward()
            else:
                self.scaler.scale(loss).backward()
            total += float(loss)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.clear_grad()
        self.step += 1
        return total

    def any_process(self, flag):
        """True on every process if `flag` is true on one, so that all leave a loop at the same step."""
        if self.world == 1:
            return bool(flag)
        shared = self.paddle.to_tensor([float(bool(flag))])
        self.paddle.distributed.all_reduce(shared)
        return float(shared) > 0

    def state(self):
        """Every number the next step depends on, name -> array: parameters and optimizer moments."""
        moments = self.optimizer.state_dict()
        arrays = {}
        for name, parameter in self.model.named_parameters():
            arrays[f"parameter/{name}"] = parameter.numpy()
            for key, value in moments.items():  # keys are <parameter's internal name>_<moment>_0
                if key.startswith(f"{parameter.name}_"):
                    arrays[f"{key[len(parameter.name) + 1 :]}/{name}"] = value.numpy()
        return arrays

    def restore(self, arrays, step):
        """Take over the arrays of `state()`, after `step` updates."""
        self.step, moments = step, {}
        for name, parameter in self.model.named_parameters():
            parameter.set_value(arrays[f"parameter/{name}"])
            for key, value in arrays.items():
                kind, _, owner = key.partition("/")
                if owner == name and kind != "parameter":
                    moments[f"{parameter.name}_{kind}"] = self.paddle.to_tensor(value)
        self.optimizer.set_state_dict(moments)


# ---- epochs, and the end of them -------------------------------------------------------------------------------------


@contextmanager
def stop_on_signals():
    """A list, to which SIGTERM and SIGINT add their number, for a loop to look at; asked twice, they stop at once."""
    stop = []

    def request_stop(number, _):
        stop.append(number)
        signal.signal(number, signal.SIG_DFL)

    before = {number: signal.signal(number, request_stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def train_epoch(trainer, batches, ids, rows, pad_id, progress, logger, stop, scalars=None):
    """Train on those batches of an epoch, or of its beginning, that `progress` has not counted yet.

    Returns False if `stop` was filled meanwhile.

    progress: counters epoch and batch (finished ones), step, loss_sum; stop: of `stop_on_signals`; scalars: a VisualDL
    writer
    """
    args, number = trainer.args, progress["epoch"] + 1
    since, started = progress["step"], time.perf_counter()
    with tqdm_bar(len(batches), f"epoch {number}", progress["batch"]) as bar:
        for batch in range(progress["batch"], len(batches)):
            loss = trainer.train_step(ids, rows.labels, batches[batch], pad_id)
            if not np.isfinite(loss):
                raise InputError(f"the loss is {loss} at step {trainer.step}: training diverged; lower --learning_rate")
            progress |= {"batch": batch + 1, "step": trainer.step, "loss_sum": progress["loss_sum"] + loss}
            bar.update()
            if trainer.step % args.logging_steps == 0 and trainer.rank == 0:
                speed = (trainer.step - since) / (time.perf_counter() - started)
                logger.info(
                    f"global step {trainer.step}, epoch: {number}, batch: {batch + 1}, loss: {loss:.5f}, "
                    f"speed: {speed:.2f} step/s"
                )
                if scalars:
                    scalars.add_scalar("train/loss", loss, trainer.step)
                    scalars.add_scalar("train/learning_rate", trainer.optimizer.get_lr(), trainer.step)
                since, started = trainer.step, time.perf_counter()
            if trainer.any_process(stop):
                return False
    return True


def leave(save_dir, trainer, progress, stop, logger, flag="--resume"):
    """End a run within an epoch, because this process or another was asked to."""
    if trainer.rank == 0:
        save_state(save_dir / STATE, trainer, progress)
        logger.warning(f"Stopped by a signal; the state is saved, continue with {flag}")
    sys.exit(128 + (stop or [signal.SIGTERM])[0])  # as the shell reports it


def tqdm_bar(total, name, initial=0):
    """A progress bar that shows on a terminal only."""
    from tqdm import tqdm

    return tqdm(total=total, initial=initial, desc=name, disable=None, leave=False)


# ---- the state of a run ----------------------------------------------------------------------------------------------


def save_progress(save_dir, trainer, progress):
    """After an evaluation: metrics.jsonl, a line for each of them, and the state to go on from."""
    with atomic_write(save_dir / "metrics.jsonl") as file:
        file.writelines(f"{json.dumps(entry)}\n" for entry in progress["history"])
    save_state(save_dir / STATE, trainer, progress)


def save_state(path, trainer, progress):
    from safetensors.numpy import save

    with atomic_write(path, "wb") as file:
        file.write(save(trainer.state(), {"progress": json.dumps(progress)}))


def read_state(path, expected, flag="--resume"):
    """(counters, arrays) of a saved state, for `Trainer.restore`; needs no paddle.

    Raises InputError when there is none, it is damaged, or its run was not the one that `expected` describes.
    """
    from safetensors import safe_open

    if not path.exists():
        raise InputError(f"{flag}: no {path}. Leave {flag} out, or pass the directory of that run.")
    try:
        with safe_open(path, "np") as file:
            progress = json.loads(file.metadata()["progress"])
            arrays = {name: file.get_tensor(name) for name in file.keys()}
    except Exception as error:  # a damaged file can make the reader raise anything
        raise InputError(f"{path}: not a readable state ({error}). Start again without {flag}.") from None
    then = progress["fingerprint"]
    if changed := [f"{k}: {then.get(k)!r} then, {v!r} now" for k, v in expected.items() if then.get(k) != v]:
        raise InputError(f"{flag}: the run in {path.parent} was another one ({'; '.join(changed)}).")
    return progress, arrays
