"""Fine-tune an encoder on a label tree.

    python train.py --dataset_dir data --model_name path/to/encoder --save_dir checkpoint
    python -m paddle.distributed.launch --nproc_per_node 2 --backend "gloo" train.py --dataset_dir data --device cpu
    python -m paddle.distributed.launch --gpus "0,1" train.py --dataset_dir data

Reads   dataset_dir/{train.txt, dev.txt, label.txt}  (or JSON or CSV, see hierarchical/formats.py)
Writes  save_dir/   the best model so far, self-contained: weights, tokenizer, labels, decision settings
                    at the end with --hybrid also linear.safetensors, a linear branch on character n-grams
        save_dir/{setting.txt, run.json, metrics.jsonl, curves.png, train.log}   what made it
        save_dir/state.safetensors   the last state, for --resume: parameters, optimizer, counters, best score
        dataset_dir/.cache/          tokens of files with 50,000 rows or more, for the next call; or --token_cache

One sigmoid per node of the tree, binary cross-entropy, AdamW. The random numbers of a step depend on the seed and the
step alone, so a resumed run repeats what an uninterrupted one would have done.
"""

from pathlib import Path

import numpy as np

from hierarchical.added_tokens import add_tokens, read_added_tokens
from hierarchical.batches import choosing_rows, row_windows
from hierarchical.calibration import sigmoid
from hierarchical.checkpoints import save_checkpoint, write_decision
from hierarchical.cpu_layers import mixed_precision
from hierarchical.curves import draw_curves
from hierarchical.devices import launched_processes, set_device
from hierarchical.dynamics import dynamics_for
from hierarchical.encoders import family_of, open_tokenizer
from hierarchical.identity import require_no_rows
from hierarchical.label_graph import label_files
from hierarchical.learning_rates import settled_rate
from hierarchical.linear import read_linear, with_linear
from hierarchical.linear_training import LEAST_DEV, THOROUGH, Plan, fit_linear, mixed
from hierarchical.long_texts import long_text_for
from hierarchical.losses import LOSSES
from hierarchical.modeling import build_model, predict_logits, score, set_labels
from hierarchical.normalizing import METHODS
from hierarchical.recipes import LAST, RECIPES, defaults_of, settle
from hierarchical.runs import (
    begin_run,
    earlier_state,
    explain_zero,
    join_processes,
    open_model,
    require_other_directory,
    require_same_start,
    require_same_tokenizer,
    start_encoder,
    start_or_resume,
    write_run_files,
)
from hierarchical.shortlist import sampled_head
from hierarchical.sources import local_directory, require_model
from hierarchical.teachers import Lessons
from hierarchical.token_rows import FOLDER, encode_file
from hierarchical.tokenizer import normalizing
from hierarchical.training import (
    SCHEDULES,
    Settings,
    Trainer,
    label_frequency_bias,
    leave,
    log_scores,
    next_evaluation,
    save_progress,
    stop_on_signals,
    train_batches,
    train_epoch,
)
from hierarchical.weights import find_encoder_weights, find_weights, load_weights
from metric import CRITERIA, WAYS, Decision, Scores, decide, dev_cells, tuned_decision
from metric import evaluate as scores_of
from utils import (
    NO_THRESHOLD,
    InputError,
    LabelTree,
    add_dataset_arguments,
    add_decision_arguments,
    add_device_argument,
    add_long_text_arguments,
    add_max_seq_length_argument,
    check_minima,
    decision_from_arguments,
    file_digest,
    load_rows,
    long_text_arguments,
    make_parser,
    progress_bar,
    rate,
    report_rows,
    require_directory,
    require_file,
    run,
)

SELECTABLE = ("macro_f1", "micro_f1", "hierarchical_f1")


def parse_args(argv):
    parser = make_parser("Fine-tune an encoder on a label tree.")
    data = parser.add_argument_group("data")
    add_dataset_arguments(data, "train", "dev")
    add_max_seq_length_argument(data, 128)
    add_long_text_arguments(data, "cut")
    data.add_argument(
        "--token_cache", help=f"directory for the tokens of large files (default: {FOLDER} in dataset_dir)"
    )
    data.add_argument("--unlabelled_file", default="data.txt", help="texts for --teacher; name inside dataset_dir")
    model = parser.add_argument_group("model")
    model.add_argument(
        "--model_name",
        default="ernie-3.0-medium-zh",
        help="a local directory (without weights: train from scratch), or a name that models.py lists",
    )
    several = "checkpoints of trainings with the same labels, to learn from what they say of unlabelled texts"
    model.add_argument("--teacher", nargs="+", metavar="DIR", help=several)
    model.add_argument("--init_from_ckpt", help="parameter file to start from, e.g. checkpoint/model.safetensors")
    reads = "read what looks alike as one character, by Unicode NFKC and a few rules; stays with the model"
    model.add_argument("--normalize", choices=METHODS, help=reads)
    model.add_argument("--add_tokens", help="file of tokens that the encoder lacks, one per line, as emoji and terms")
    part = "sampled: a step sees a part of very many labels"
    model.add_argument("--head", choices=("dense", "sampled"), default="dense", help=part)
    add_device_argument(model)
    default = "mixed precision (default: on CPUs with bfloat16, for encoders of 256 units or more)"
    model.add_argument("--amp", action="store_true", default=None, help=default)
    model.add_argument("--no_amp", dest="amp", action="store_false", help="float32 alone")
    optim = parser.add_argument_group("optimization")
    left_out = "what other flags are where they are left out; epochs and batches then depend on the train rows"
    optim.add_argument("--recipe", choices=tuple(RECIPES), help=left_out)
    optim.add_argument("--loss", choices=tuple(LOSSES), default="bce", help="each label for itself, or in competition")
    optim.add_argument("--batch_size", type=int, default=32, help="rows per process and step")
    optim.add_argument("--gradient_accumulation_steps", type=int, default=1, help="batches per parameter update")
    optim.add_argument(
        "--learning_rate", type=rate, default=3e-5, help="peak rate of the encoder; auto: the one that fits its size"
    )
    optim.add_argument("--head_learning_rate", type=float, default=5e-3, help="peak rate of the classifier layer")
    optim.add_argument("--weight_decay", type=float, default=0.0, help="AdamW decay, not for biases and norms")
    optim.add_argument("--max_grad_norm", type=float, default=1.0, help="clip the gradient to this norm; 0: off")
    optim.add_argument("--epochs", type=int, default=10, help="passes over the training rows")
    optim.add_argument(
        "--lr_scheduler",
        choices=SCHEDULES,
        help="shape of the rate after warm-up (default: linear with warm-up, else constant)",
    )
    optim.add_argument("--warmup", action="store_true", help="warm up and then decay the rate")
    optim.add_argument("--warmup_steps", type=int, default=0, help="steps to the peak; turns --warmup on")
    optim.add_argument("--early_stop", action="store_true", help="stop when the dev score stagnates")
    optim.add_argument(
        "--early_stop_nums", type=int, default=10, help="dev scores without improvement that are tolerated"
    )
    optim.add_argument("--seed", type=int, default=3, help="of row order, dropout and new parameters")
    result = parser.add_argument_group("result")
    result.add_argument("--save_dir", default="./checkpoint", help="where the best model goes")
    choices = (*SELECTABLE, LAST)
    result.add_argument("--select_by", choices=choices, default="macro_f1", help="dev score, or the last model")
    result.add_argument("--resume", action="store_true", help="continue the run in save_dir from its last state")
    result.add_argument(
        "--eval_steps", type=int, default=0, help="steps between dev scores; 0: one at the end of each epoch"
    )
    result.add_argument(
        "--save_steps", type=int, default=1000, help="steps between states for --resume; 0: none within"
    )
    dynamics = "note how sure the model is of each train row in each epoch, for evaluate.py --data_map"
    result.add_argument("--keep_dynamics", action="store_true", help=dynamics)
    result.add_argument("--logging_steps", type=int, default=5, help="steps between progress lines")
    result.add_argument("--log_dir", help="write scalars for VisualDL here")
    decision = add_decision_arguments(parser, Decision())
    result.add_argument(
        "--hybrid",
        action="store_true",
        help="at the end add a linear branch on character n-grams, mixed in as suits the dev rows",
    )
    result.add_argument("--no_hybrid", dest="hybrid", action="store_false", help="not, whatever --recipe says")
    decision.add_argument(
        "--tune_threshold",
        choices=WAYS,
        help="choose the threshold(s) on the dev rows at the end, and store them with the model",
    )
    if recipe := parser.parse_known_args(argv)[0].recipe:
        parser.set_defaults(**defaults_of(recipe))
    args = parser.parse_args(argv)
    check_minima(
        parser, args,
        max_seq_length=3, batch_size=1, gradient_accumulation_steps=1, epochs=1, early_stop_nums=1, logging_steps=1,
        warmup_steps=0, head_learning_rate=0, weight_decay=0, max_grad_norm=0, seed=0,
        eval_steps=0, save_steps=0,
    )  # fmt: skip
    if args.early_stop and args.select_by == LAST:
        told = f"; --recipe {args.recipe} sets it where it is left out" if args.recipe else ""
        parser.error(f"argument --early_stop: needs a dev score that stagnates, and --select_by {LAST} has none{told}")
    if args.teacher and args.head == "sampled":
        parser.error("argument --teacher: of every label it says how likely it is; --head sampled sees a part of them")
    if args.unlabelled_file != parser.get_default("unlabelled_file") and not args.teacher:
        parser.error("argument --unlabelled_file: goes with --teacher, which says what its texts are about")
    return args


def read_data(args, logger):
    """Everything that can be wrong with the data is found here, before the seconds it takes to load paddle."""
    directory = require_directory(args.dataset_dir)
    tree = LabelTree.read(directory / args.label_file)
    train = load_rows(directory / args.train_file, tree, keep_texts=False)
    dev = load_rows(directory / args.dev_file, tree, unlabelled="skip")
    report_rows(args.train_file, train, tree, logger)
    report_rows(args.dev_file, dev, tree, logger)
    return tree, train, dev


def fingerprint(args, world, lessons):
    """What a resumed run must share with the one it continues."""
    folder = Path(args.dataset_dir)
    files = [*label_files(folder / args.label_file), folder / args.train_file, folder / args.dev_file]
    free = (
        "save_dir resume logging_steps log_dir early_stop early_stop_nums hybrid tune_threshold device dataset_dir "
        "eval_steps save_steps token_cache recipe keep_dynamics"
    ).split()
    if schedule(args) == "constant" and not lessons:
        free.append("epochs")  # a constant rate does not depend on where the run ends
    same = {name: value for name, value in vars(args).items() if name not in free}
    same["amp"] = bool(args.amp)  # as the states of 0.9.0 have it
    same["add_tokens"] = file_digest(args.add_tokens)[:16] if args.add_tokens else None
    same |= lessons.fingerprint() if lessons else dict.fromkeys(("teacher", "unlabelled_file"))
    return same | {"processes": world, "data": [file_digest(path)[:16] for path in files]}


def prepare_model(args, tree, train, long_text, logger):
    """(model in train mode, tokenizer), from --model_name, --init_from_ckpt and --add_tokens; settles the rate."""
    source, tokenizer, config = open_model(args.model_name, args.max_seq_length)
    tokenizer = (normalizing(tokenizer, args.normalize) if args.normalize else tokenizer).reading(long_text)
    has_weights = bool(args.init_from_ckpt or find_encoder_weights(source))
    size = config.num_hidden_layers, config.hidden_size
    args.learning_rate = settled_rate(args.learning_rate, *size, has_weights, logger)
    set_labels(config, tree)
    model = build_model(config)
    model.train()
    bias = label_frequency_bias(train.label_counts(len(tree)), len(train.labels))
    family_of(model).classifier(model).bias.set_value(bias)
    if args.init_from_ckpt and not args.resume:
        require_same_start(args.init_from_ckpt, tokenizer, Path(args.dataset_dir) / args.label_file)
        load_weights(model, args.init_from_ckpt)
    elif not args.resume:  # else the parameters are in the saved state
        start_encoder(model, source, logger)
    if args.add_tokens:
        tokenizer, what = add_tokens(args.add_tokens, model, tokenizer)
        logger.info(what)
    return model, tokenizer


def evaluate(trainer, tree, dev, ids, pad_id, decision, batch_size):
    """Scores.result() of the current parameters on dev; every process takes its share and gets the sum."""
    rank, world, loss = trainer.rank, trainer.world, trainer.settings.loss
    with trainer.whole(), progress_bar(len(range(rank, len(ids), world)), "dev") as bar:
        scores = score(
            trainer.model, tree, dev, ids, pad_id, decision, batch_size, bar.update, rank, world, loss,
            windows=trainer.windows,
        )  # fmt: skip
    if trainer.world > 1:
        shared = trainer.paddle.to_tensor(scores.to_vector())
        trainer.paddle.distributed.all_reduce(shared)
        scores = Scores.from_vector(tree, shared.numpy())
    return scores.result()


def finish(args, model, tokenizer, tree, train, dev, ids, decision, logger):
    """Give the best model what --hybrid and --tune_threshold ask for, both chosen on dev, and store it with it."""
    load_weights(model, find_weights(args.save_dir))

    def logits_of(rows):
        chosen, windows = [ids[i] for i in rows], tokenizer.windows
        return predict_logits(model, chosen, tokenizer.pad_id, args.batch_size, windows=windows)

    linear = read_linear(args.save_dir, tree)  # of an earlier end of this run
    if args.hybrid:
        linear = linear_branch(tree, train, dev, logits_of, decision, logger)
        save_checkpoint(args.save_dir, model, tokenizer, tree, decision, linear=linear)
    if args.tune_threshold:
        criterion, cells = args.select_by if args.select_by in CRITERIA else "micro_f1", dev_cells(tree, decision)
        for rows in row_windows(len(ids), len(tree)):
            logits = with_linear(logits_of(rows), linear, [dev.texts[i] for i in rows])
            cells.add(sigmoid(logits), dev.multi_hot(len(tree), rows))
        tuned, honest = tuned_decision(cells.finish(), tree, decision, args.tune_threshold, criterion)
        write_decision(args.save_dir, args.max_seq_length, tuned, tokenizer.long_text)
        logger.info(f"Thresholds tuned on dev ({args.tune_threshold}) and stored with the model")
        if honest:
            mixture = ", all of which chose the mixture" if linear else ""
            logger.info(f"on dev rows left out of the tuning{mixture}: {f1_text(honest)}")


def linear_branch(tree, train, dev, logits_of, decision, logger):
    """A LinearBranch of the train rows, mixed as suits the dev rows and their logits best; None if it adds nothing."""
    logger.info(f"Linear branch: character n-grams of {len(train.texts)} rows")
    plan = Plan.of(train.texts, train.labels, len(tree), THOROUGH)
    for line in plan.lines(len(train.texts), len(tree)):
        logger.info(line)
    branch = fit_linear(train.texts, train.labels, len(tree), plan)
    rows = choosing_rows(len(dev.texts), len(tree))
    logits, gold = logits_of(rows), dev.multi_hot(len(tree), rows)
    branch, honest = mixed(branch, [dev.texts[i] for i in rows], logits, gold, tree, decision)
    if honest is None:
        logger.warning(f"Linear branch left out: it needs {LEAST_DEV} dev rows or more to be mixed by")
        return None
    if not branch.weight:
        logger.info("Linear branch left out: on dev the encoder alone is better")
        return None
    alone = scores_of(decide(sigmoid(logits), tree, decision), gold, tree)
    logger.info(
        f"Linear branch mixed with weight {branch.weight:g} and shift {branch.shift:.2f}, stored with the model"
    )
    logger.info(f"on dev rows left out of the mixing: {f1_text(honest)}; the encoder alone: {f1_text(alone)}")
    return branch


def f1_text(scores):
    return f"micro f1 score: {scores['micro_f1']:.5f}, macro f1 score: {scores['macro_f1']:.5f}"


def schedule(args):
    """The shape of the rate: the one asked for, else linear with warm-up, else constant."""
    return args.lr_scheduler or ("linear" if args.warmup else "constant")


def epochs_done(progress, n_batches):
    """Finished epochs, with the share of the one that is begun."""
    return progress.epoch + round(progress.batch / n_batches, 4) if progress.batch else progress.epoch


def main(argv=None):
    args = parse_args(argv)
    rank, world = launched_processes()
    require_no_rows(args.save_dir, "--save_dir", args.dataset_dir)
    require_other_directory(args.save_dir, args.model_name)
    for teacher in args.teacher or ():
        require_other_directory(args.save_dir, teacher, what="teacher")
    with begin_run(Path(args.save_dir), rank) as logger:
        train_and_save(args, rank, world, logger)


def train_and_save(args, rank, world, logger):
    """The run, once save_dir is its own."""
    save_dir = Path(args.save_dir)
    long_text = long_text_for(args.max_seq_length, **long_text_arguments(args))
    require_model(args.model_name)
    if args.init_from_ckpt:
        require_file(args.init_from_ckpt, "--init_from_ckpt names the parameter file of a checkpoint.")
    if args.add_tokens and (directory := local_directory(args.model_name)):  # else it has to be downloaded first
        tokenizer = open_tokenizer(directory, args.max_seq_length)
        read_added_tokens(args.add_tokens, normalizing(tokenizer, args.normalize) if args.normalize else tokenizer)
    tree, train, dev = read_data(args, logger)
    paths = Path(args.dataset_dir, args.label_file), Path(args.dataset_dir, args.unlabelled_file)
    lessons = Lessons.open(args.teacher, *paths) if args.teacher else None
    if args.recipe:
        settle(args, len(train.labels), len(lessons.texts) if lessons else 0, world, logger)
    decision = decision_from_arguments(args, tree)
    if args.tune_threshold and not decision.needs_threshold:
        raise InputError(f"--tune_threshold: {NO_THRESHOLD}")
    if args.warmup_steps and not args.warmup:
        args.warmup = True
        logger.info(f"--warmup_steps {args.warmup_steps} turns --warmup on")
    progress, arrays = start_or_resume(save_dir, args.resume, fingerprint(args, world, lessons), logger)

    paddle = set_device(args.device)
    from tqdm.contrib.logging import logging_redirect_tqdm

    join_processes(paddle, args.model_name)
    paddle.seed(args.seed)
    model, tokenizer = prepare_model(args, tree, train, long_text, logger)
    require_same_tokenizer(progress.fingerprint, tokenizer)
    ids, dev_ids = (
        encode_file(tokenizer, rows.texts, Path(args.dataset_dir) / name, args.token_cache)
        for rows, name in ((train, args.train_file), (dev, args.dev_file))
    )
    targets, order = train.labels, np.arange(len(train.labels))
    if lessons:
        given = args.epochs, args.token_cache, paddle.get_device()
        ids, targets, order = lessons.beside(ids, targets, tokenizer, *given)
    global_batch = args.batch_size * args.gradient_accumulation_steps * world
    amp = mixed_precision(args.amp, model.config.hidden_size)
    settings = Settings.from_arguments(args, schedule=schedule(args), amp=amp)
    head = None
    if args.head == "sampled":
        head = sampled_head(paddle, model, tree, train.labels, global_batch, args.seed, logger)
    total_steps = args.epochs * -(-len(order) // global_batch)
    trainer = Trainer(paddle, settings, model, total_steps, head, tokenizer.windows)
    trainer.dynamics = dynamics_for(args.keep_dynamics, save_dir, train, args.epochs, arrays)

    if args.resume:
        trainer.restore(arrays, progress.step, save_dir)
        arrays = None  # thrice the model
        logger.info(f"Resuming after {progress.epoch} epochs and {progress.batch} batches")
    scalars = None
    if rank == 0:
        write_run_files(save_dir, vars(args), tree, train, dev)
        if args.log_dir:
            from visualdl import LogWriter

            scalars = LogWriter(args.log_dir)
    name = LAST if args.select_by == LAST else f"best {args.select_by.replace('_', ' ')}"
    with stop_on_signals() as stop, logging_redirect_tqdm([logger]):
        while progress.epoch < args.epochs and not (args.early_stop and progress.stale >= args.early_stop_nums):
            batches = train_batches(ids.lengths, global_batch, args.seed, progress.epoch + 1, order)
            due = next_evaluation(progress, args.eval_steps)
            until = progress.batch + max(0, due - progress.step) if due else len(batches)
            if not train_epoch(
                trainer, batches[:until], ids, targets, tokenizer.pad_id, progress, logger, stop, scalars, save_dir
            ):
                leave(save_dir, trainer, progress, stop, logger)
            if progress.batch == len(batches):
                progress.epoch, progress.batch = progress.epoch + 1, 0
            if trainer.step < due and progress.epoch < args.epochs:
                continue
            scores = evaluate(trainer, tree, dev, dev_ids, tokenizer.pad_id, decision, args.batch_size)
            entry = {"epoch": epochs_done(progress, len(batches)), "step": trainer.step}
            steps = trainer.step - (progress.history[-1]["step"] if progress.history else 0)
            entry |= {"train_loss": progress.loss_sum / steps, **scores}
            del entry["labels"]  # thousands of numbers; analysis/evaluate.py gives them for the best model
            better = progress.evaluated(scores.get(args.select_by), entry)
            if rank == 0:
                log_scores(logger, scores)
                if scores["micro_f1"] == 0:
                    explain_zero(logger, scores, train, tree, args.learning_rate)
                if better:
                    older = earlier_state(args.resume or 0 < args.save_steps <= trainer.step, progress)
                    with trainer.whole():
                        save_checkpoint(save_dir, model, tokenizer, tree, decision, older=older)
                draw_curves(save_dir / "curves.png", progress.history)
                save_progress(save_dir, trainer, progress)
                for key in SELECTABLE if scalars else ():
                    scalars.add_scalar(f"dev/{key}", scores[key], len(progress.history))
                if args.select_by != LAST:
                    logger.info(f"Current {name} score: {progress.best:.5f}")
        if trainer.any_process(stop):  # during the last evaluation
            leave(save_dir, trainer, progress, stop, logger)
    if progress.epoch < args.epochs:
        logger.info("Early stop!")
    if rank == 0:
        if args.hybrid or args.tune_threshold:
            with trainer.whole():
                finish(args, model, tokenizer, tree, train, dev, dev_ids, decision, logger)
        if args.select_by != LAST:
            logger.info(f"Final {name} score: {progress.best:.5f}")
        logger.info(f"Save {name} text classification model in {save_dir}")


if __name__ == "__main__":
    run(main)
