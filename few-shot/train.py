"""Learn to sort text into a label tree from a handful of rows per label.

    python few-shot/train.py --data_dir few --model_name_or_path path/to/encoder --output_dir checkpoints \\
        --learning_rate 1e-4 --ppt_learning_rate 1e-3 --do_train --do_eval --do_predict --do_export
    python few-shot/train.py --data_dir few --output_dir checkpoints --do_predict      # later, with what is in there

Reads   data_dir/label.txt    one label per line, `path` or `path==word`; the word says what the label is called in a
                              sentence, and is the path's last level where none is given
        data_dir/train.txt    a few rows per label (few-shot/sample.py draws them from many)
        data_dir/dev.txt      rows to choose the best epoch by; without it the last one is kept
        data_dir/test.txt     --do_predict: rows to score; without it data_dir/data.txt, texts alone
        (rows may also be JSON or CSV, see hierarchical/formats.py; flags give the files other names)
Writes  output_dir/           the best model: weights, tokenizer, labels, decision settings, template, label words
        output_dir/{setting.txt, run.json, metrics.jsonl, train.log}   what made it
        output_dir/state.safetensors                  the last state, for --resume_from_checkpoint
        output_dir/{test,data}_predictions.jsonl      --do_predict, one line per row
        output_dir/export/                            --do_export, for infer.py

Two methods, see hierarchical/few_shot.py: similarity (of a text to the labels' words), prompt (a template with a mask).
"""

import sys
from collections import Counter
from contextlib import nullcontext
from functools import partial
from pathlib import Path

if not __package__:  # run as a file: the project's root must be found
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from hierarchical.batches import row_windows
from hierarchical.checkpoints import Checkpoint, require_same_labels, save_checkpoint
from hierarchical.decisions import probabilities_of
from hierarchical.devices import launched_processes, set_device
from hierarchical.encoders import read_config
from hierarchical.exporting import require_onnx_size
from hierarchical.identity import require_no_rows
from hierarchical.label_graph import label_files
from hierarchical.labelled import FLOOR, label_texts
from hierarchical.modeling import predict_logits, score
from hierarchical.predictions import jsonl_rows
from hierarchical.runs import (
    begin_run,
    earlier_state,
    require_other_directory,
    require_same_tokenizer,
    start_or_resume,
    write_run_files,
)
from hierarchical.sources import model_directory, require_model
from hierarchical.template import (
    METHODS,
    TEXT_ONLY,
    TemplateTokenizer,
    load_template,
    parse_template,
    save_words,
)
from hierarchical.tokenizer import load_tokenizer
from hierarchical.training import (
    Settings,
    Trainer,
    leave,
    log_scores,
    save_progress,
    stop_on_signals,
    train_batches,
    train_epoch,
)
from metric import Scores
from utils import (
    InputError,
    LabelTree,
    Problems,
    add_decision_arguments,
    add_device_argument,
    add_label_file_argument,
    atomic_write,
    check_minima,
    count_texts,
    decision_from_arguments,
    file_digest,
    get_logger,
    load_reported,
    load_rows,
    make_parser,
    multi_hot,
    progress_bar,
    read_rows,
    read_texts,
    report_rows,
    require_directory,
    run,
    warn_about,
)

RESUME = "--resume_from_checkpoint"
METRICS = ("macro_f1_score", "micro_f1_score")
ACCEPTED = {
    "evaluation_strategy": "epoch, or every --eval_steps",
    "save_strategy": "the best model is kept",
    "save_steps": "the best model is kept",
    "save_total_limit": "the best model is kept",
    "load_best_model_at_end": "the best model is what is there at the end",
}


def parse_args(argv):
    parser = make_parser("Learn from a handful of rows per label.")
    steps = parser.add_argument_group("what to do")
    steps.add_argument("--do_train", action="store_true", help="train on train.txt")
    steps.add_argument("--do_eval", action="store_true", help="score dev.txt with the best model")
    steps.add_argument("--do_predict", action="store_true", help="score test.txt, or label data.txt, row by row")
    steps.add_argument("--do_export", action="store_true", help="write output_dir/export for infer.py")
    data = parser.add_argument_group("data and model")
    data.add_argument("--data_dir", default="./data", help="directory of the files below, and of data.txt")
    data.add_argument("--train_file", default="train.txt", help="name inside data_dir; .txt, .jsonl, .json or .csv")
    data.add_argument("--dev_file", default="dev.txt", help="name inside data_dir; .txt, .jsonl, .json or .csv")
    data.add_argument("--test_file", default="test.txt", help="name inside data_dir; .txt, .jsonl, .json or .csv")
    add_label_file_argument(data, directory="data_dir")
    data.add_argument("--output_dir", required=True, help="where the best model goes, or lies already")
    data.add_argument("--method", choices=METHODS, help="left out: prompt if there is a --prompt, else similarity")
    data.add_argument("--prompt", help="template, such as 这句话描述的事件是 (see docs/few-shot.md)")
    data.add_argument(
        "--model_name_or_path",
        default="ernie-3.0-base-zh",
        help="a local directory, or a name that models.py lists",
    )
    data.add_argument("--max_seq_length", type=int, default=512, help="tokens, the template's included")
    add_device_argument(data)
    data.add_argument(
        "--export_type", choices=("paddle", "onnx", "both"), default="both", help="what --do_export writes"
    )
    optim = parser.add_argument_group("optimization")
    optim.add_argument("--learning_rate", type=float, default=5e-5, help="peak rate of the encoder")
    optim.add_argument("--ppt_learning_rate", type=float, default=1e-4, help="peak rate of label and soft vectors")
    optim.add_argument("--num_train_epochs", type=int, default=20, help="passes over the training rows")
    optim.add_argument("--max_steps", type=int, help="stop after this many steps; replaces the epochs")
    optim.add_argument("--per_device_train_batch_size", type=int, default=8, help="rows per step")
    optim.add_argument("--per_device_eval_batch_size", type=int, default=8, help="rows per step without training")
    optim.add_argument("--warmup_ratio", type=float, default=0.1, help="share of the steps in which the rates rise")
    optim.add_argument("--weight_decay", type=float, default=0.0, help="AdamW decay, not for biases and norms")
    optim.add_argument("--max_grad_norm", type=float, default=1.0, help="clip the gradient to this norm; 0: off")
    optim.add_argument("--freeze_plm", action="store_true", help="train only the label and soft vectors")
    optim.add_argument("--freeze_dropout", action="store_true", help="switch the encoder's dropout off")
    optim.add_argument("--seed", type=int, default=42, help="of row order, dropout and new parameters")
    result = parser.add_argument_group("evaluation")
    result.add_argument("--eval_steps", type=int, help="steps between evaluations; left out: an epoch's")
    result.add_argument("--metric_for_best_model", choices=METRICS, default=METRICS[0], help="dev score to choose by")
    result.add_argument("--early_stop_patience", type=int, help="evaluations without improvement that are tolerated")
    result.add_argument("--logging_steps", type=int, default=5, help="steps between progress lines")
    result.add_argument("--resume_from_checkpoint", help="with --do_train: output_dir, to continue; else: its model")
    for name, instead in ACCEPTED.items():
        result.add_argument(f"--{name}", nargs="?", help=f"accepted and not needed: {instead}")
    add_decision_arguments(parser, None, "as stored in the checkpoint; in training as in train.py")
    args = parser.parse_args(argv)
    check_minima(
        parser, args,
        max_seq_length=3, learning_rate=1e-12, ppt_learning_rate=0, num_train_epochs=1, max_steps=1, weight_decay=0,
        per_device_train_batch_size=1, per_device_eval_batch_size=1, warmup_ratio=0, max_grad_norm=0, seed=0,
        eval_steps=1, early_stop_patience=1, logging_steps=1,
    )  # fmt: skip
    if args.warmup_ratio > 1:
        parser.error(f"argument --warmup_ratio: must be from 0 to 1, got {args.warmup_ratio}")
    if not (args.do_train or args.do_eval or args.do_predict or args.do_export):
        parser.error("nothing to do: give one or more of --do_train, --do_eval, --do_predict, --do_export")
    args.method = args.method or ("prompt" if args.prompt else "similarity")
    if args.method == "similarity" and args.prompt:
        parser.error("argument --prompt: belongs to --method prompt")
    return args


def require_inputs(args, logger):
    """What --do_* needs and --do_train alone would not notice is missing: the file to predict, or None."""
    directory = require_directory(args.data_dir, "--data_dir")
    if args.do_eval and not (dev := directory / args.dev_file).exists():
        raise InputError(f"--do_eval: there is no {dev}. Leave --do_eval out, or give it some rows.")
    if not args.do_predict:
        return None
    for name in (args.test_file, "data.txt"):
        if (directory / name).exists():
            return directory / name
    fault = f"--do_predict: neither {args.test_file} nor data.txt in {directory}, so there is nothing to predict"
    if not (args.do_train or args.do_eval or args.do_export):
        raise InputError(f"{fault}.")
    logger.warning(fault)
    return None


def read_to_predict(args, source, tree, logger):
    """(texts, labels of each or None) of a file; blank rows stay, as "". None for the labels where no row has any."""
    problems, seen = Problems(), Counter()
    if source.name != args.test_file:
        count_texts(source, tree, seen)
        warn_about(seen, source, logger)
        return list(read_texts(source, tree, problems, Counter())), None
    rows = list(read_rows(source, tree, problems, seen))
    problems.raise_if_any()
    if seen:
        logger.warning(f"{source.name}: not scored are {seen['blank']} blank and {seen['unlabelled']} unlabelled rows")
    texts, labels = list(read_texts(source, tree, problems, Counter())), (row.labels for row in rows)
    gold = [next(labels) if text else None for text in texts]  # those that are not blank are the rows, in order
    return texts, gold if any(row is not None for row in gold) else None


def fingerprint(args):
    """What a resumed run must share with the one it continues."""
    free = (
        "do_train do_eval do_predict do_export data_dir test_file output_dir device export_type logging_steps "
        "per_device_eval_batch_size early_stop_patience resume_from_checkpoint"
    ).split()
    folder = Path(args.data_dir)
    paths = [*label_files(folder / args.label_file), folder / args.train_file, folder / args.dev_file]
    data = [file_digest(path)[:16] if path.exists() else None for path in paths]
    same = {name: value for name, value in vars(args).items() if name not in (*free, *ACCEPTED)}
    return same | {"data": data}


def prepare(args, tree, train):
    """(new network in train mode, its TemplateTokenizer)"""
    from hierarchical.few_shot import new_network

    source = model_directory(args.model_name_or_path)
    prompt = args.prompt or "" if args.method == "prompt" else TEXT_ONLY
    tokenizer, config = load_tokenizer(source, args.max_seq_length), read_config(source)
    tokenizer.require_known(config)
    tokenizer = TemplateTokenizer(tokenizer, prompt, args.method, config.get("vocab_size"))
    network = new_network(source, tree, tokenizer, train.texts, args.freeze_dropout)
    if args.freeze_plm:
        for name, parameter in network.named_parameters():
            parameter.stop_gradient = parameter.stop_gradient or name.startswith(network.pretrained)
    return network, tokenizer


def train_network(args, paddle, tree, train, dev, decision, progress, arrays, logger):
    """Train, and leave the best model in output_dir. progress, arrays: of `start_or_resume`."""
    from tqdm.contrib.logging import logging_redirect_tqdm

    output_dir = Path(args.output_dir)
    paddle.seed(args.seed)
    network, tokenizer = prepare(args, tree, train)
    require_same_tokenizer(progress.fingerprint, tokenizer, RESUME)
    ids, dev_ids = tokenizer.encode(train.texts), tokenizer.encode(dev.texts) if dev else None
    lengths = [len(row) for row in ids]
    if cut := sum(length == args.max_seq_length for length in lengths):
        logger.warning(f"{args.train_file}: {cut} texts fill all of --max_seq_length, so their ends may be cut off")
    per_epoch = -(-len(ids) // args.per_device_train_batch_size)
    total = args.max_steps or args.num_train_epochs * per_epoch
    settings = Settings.from_arguments(
        args,
        head_learning_rate=args.ppt_learning_rate,
        schedule="linear",
        warmup_steps=int(args.warmup_ratio * total),
        save_steps=0,  # the states after evaluations are enough: there are few rows
    )
    trainer = Trainer(paddle, settings, network, total)
    if args.resume_from_checkpoint:
        trainer.restore(arrays, progress.step, output_dir)
        logger.info(f"Resuming after {progress.step} steps")
    metric = args.metric_for_best_model.removesuffix("_score")
    shown, patience = metric.replace("_", " "), args.early_stop_patience or sys.maxsize
    evaluated = progress.history[-1]["step"] if progress.history else 0

    with stop_on_signals() as stop, logging_redirect_tqdm([logger]):
        while evaluated < total and progress.stale < patience:
            batches = train_batches(lengths, args.per_device_train_batch_size, args.seed, progress.epoch + 1)
            due = min(total, evaluated + (args.eval_steps or per_epoch))  # the step of the next evaluation
            batches = batches[: progress.batch + due - trainer.step]
            if not train_epoch(trainer, batches, ids, train.labels, tokenizer.pad_id, progress, logger, stop):
                leave(output_dir, trainer, progress, stop, logger, RESUME)
            if progress.batch == per_epoch:
                progress.epoch, progress.batch = progress.epoch + 1, 0
            if trainer.step < due:
                continue
            entry, selected = {"step": due, "train_loss": progress.loss_sum / (due - evaluated)}, None
            if dev:
                scores = score(
                    network, tree, dev, dev_ids, tokenizer.pad_id, decision, args.per_device_eval_batch_size
                ).result()
                tell_scores(logger, scores)
                entry |= {name: value for name, value in scores.items() if name != "labels"}
                selected = scores[metric]
            better = progress.evaluated(selected, entry)  # without dev rows the last one is the best
            if dev:
                logger.info(f"Current best {shown} score: {progress.best:.5f}")
            evaluated = due
            if better:
                older = earlier_state(bool(args.resume_from_checkpoint), progress)
                save_checkpoint(output_dir, network, tokenizer, tree, decision, partial(save_words, tree=tree), older)
            save_progress(output_dir, trainer, progress)
        if stop:  # during the last evaluation
            leave(output_dir, trainer, progress, stop, logger, RESUME)
    if evaluated < total:
        logger.info("Early stop!")
    if dev:
        logger.info(f"Final best {shown} score: {progress.best:.5f}")
    logger.info(f"Save {'best' if dev else 'last'} text classification model in {output_dir}")


def tell_scores(logger, scores):
    log_scores(logger, scores)
    if scores["micro_f1"] == 0:
        logger.warning("F1 is 0: no label is likely enough yet. Train longer, raise the rates, or lower --threshold.")


def predict_rows(args, source, texts, gold, network, tokenizer, tree, decision, logger):
    """Label every text of `source` into output_dir, one JSON line each; scores of the rows that have labels in gold."""
    path, scores = Path(args.output_dir) / f"{source.stem}_predictions.jsonl", Scores(tree)

    def compute(texts):
        ids = tokenizer.encode(texts)
        logits = predict_logits(network, ids, tokenizer.pad_id, args.per_device_eval_batch_size)
        return probabilities_of(logits, tree, decision)

    with atomic_write(path) as file, progress_bar(len(texts), "predict") as bar:
        for window in row_windows(len(texts), len(tree)):
            part = label_texts(texts[window.start : window.stop], compute, tree, decision)
            file.writelines(jsonl_rows(tree, part, FLOOR))
            if gold:
                known = [i for i in window if gold[i] is not None]
                rows = [i - window.start for i in known]
                scores.update(part.selected[rows], multi_hot([gold[i] for i in known], len(tree)))
            bar.update(len(window))
    if gold:
        result = scores.result()
        logger.info(
            f"{source.name}: micro f1 score: {result['micro_f1']:.5f}, macro f1 score: {result['macro_f1']:.5f}, "
            f"accuracy: {result['accuracy']:.5f}"
        )
    logger.info(f"Predicted {len(texts)} texts, in {path}")


def main(argv=None):
    args = parse_args(argv)
    logger, output_dir = get_logger(), Path(args.output_dir)
    if launched_processes()[1] > 1:
        raise InputError("few-shot/train.py runs in one process: a handful of rows is not worth sharing out.")
    source = require_inputs(args, logger)
    directory = Path(args.resume_from_checkpoint or output_dir)  # of the model that is not trained now
    if args.do_train:
        if directory.resolve() != output_dir.resolve():
            raise InputError(f"{RESUME} with --do_train: give the --output_dir of the run to continue.")
        require_no_rows(output_dir, "--output_dir", args.data_dir)
        require_other_directory(output_dir, args.model_name_or_path, "--output_dir")
    with begin_run(output_dir, flag="--output_dir") if args.do_train else nullcontext():
        work(args, source, directory, logger)


def work(args, source, directory, logger):
    """What --do_* asks for. source: the file to predict, or None; directory: of the model."""
    output_dir, data_dir = Path(args.output_dir), Path(args.data_dir)
    if args.do_train:
        require_model(args.model_name_or_path)
        if args.method == "prompt":
            parse_template(args.prompt)
        tree = LabelTree.read(data_dir / args.label_file)
    else:
        if not directory.is_dir():
            raise InputError(f"{directory}: no such directory. Train first, with --do_train.")
        checkpoint = Checkpoint.open(directory, kind="few-shot")
        tree = checkpoint.tree
        require_same_labels(tree, data_dir / args.label_file)
    texts, gold = read_to_predict(args, source, tree, logger) if source else (None, None)
    if args.do_train:
        decision = decision_from_arguments(args, tree)
        train, dev = load_rows(data_dir / args.train_file, tree), None
        report_rows(args.train_file, train, tree, logger)
        if (data_dir / args.dev_file).exists():
            dev = load_rows(data_dir / args.dev_file, tree, "skip")
            report_rows(args.dev_file, dev, tree, logger)
        else:
            logger.warning(f"No {args.dev_file}: the model of the last step is kept")
        resume = bool(args.resume_from_checkpoint)
        progress, arrays = start_or_resume(output_dir, resume, fingerprint(args), logger, RESUME)
        write_run_files(output_dir, vars(args), tree, train, dev)
        paddle = set_device(args.device)
        train_network(args, paddle, tree, train, dev, decision, progress, arrays, logger)
    if not (args.do_eval or source or args.do_export):
        return
    if args.do_train:
        checkpoint = Checkpoint.open(directory, kind="few-shot")
    tree, decision = checkpoint.tree, decision_from_arguments(args, checkpoint.tree, checkpoint.decision)
    tokenizer = load_template(directory, checkpoint.tokenizer, checkpoint.config)
    if args.do_export and args.export_type != "paddle":
        require_onnx_size(checkpoint.weights, "--export_type paddle")
    output_dir.mkdir(parents=True, exist_ok=True)
    paddle = set_device(args.device)
    from hierarchical.few_shot import load_network

    network = load_network(checkpoint, tokenizer)
    if args.do_eval:
        dev = load_reported(data_dir / args.dev_file, tree, logger)
        ids = tokenizer.encode(dev.texts)
        tell_scores(
            logger,
            score(network, tree, dev, ids, tokenizer.pad_id, decision, args.per_device_eval_batch_size).result(),
        )
    if source:
        predict_rows(args, source, texts, gold, network, tokenizer, tree, decision, logger)
    if args.do_export:
        from export import export_network

        target, batch_size = output_dir / "export", args.per_device_eval_batch_size
        export_network(paddle, network, checkpoint, tokenizer, target, args.export_type, batch_size, logger)


if __name__ == "__main__":
    run(main)
