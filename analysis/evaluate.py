"""Scores of a checkpoint, overall, per level and per label, and the dev rows it gets wrong.

    python analysis/evaluate.py --dataset_dir data --params_path checkpoint
    python analysis/evaluate.py --dataset_dir data --params_path checkpoint --baseline          # beside a linear model
    python analysis/evaluate.py --dataset_dir data --params_path checkpoint --tune_threshold global
    python analysis/evaluate.py --dataset_dir data --params_path checkpoint --calibrate per_level
    python analysis/evaluate.py --dataset_dir data --params_path checkpoint --report report.html
    python analysis/evaluate.py --dataset_dir data --params_path checkpoint --compare old --report report.html
    python analysis/evaluate.py --dataset_dir data --params_path checkpoint --unseen new_labels.txt

Reads   dataset_dir/{train.txt, dev.txt}   (or JSON or CSV, see hierarchical/formats.py); dev alone without a train file
        dataset_dir/label.txt              if it is there, it must be what the checkpoint was trained with
        params_path/                       weights, tokenizer, labels, maximum length and decision settings
        compare/                           other checkpoints, with settings of their own, that this one is held against
        unseen, unseen_encoder/            new labels, which the rows may have, and what predict.py reads for them
Writes  bad_case_file   Text<TAB>Label<TAB>Prediction, one dev row each; labels in class-index order, joined by commas
        bad_case_labels.txt beside it, with more than 200 labels: their scores, which the log has otherwise
        output_json     all scores as fractions, if asked for
        report          a web page about the dev rows, if asked for: see report.py
        params_path/decision.json, with --tune_threshold or --calibrate
        dataset_dir/.cache/        with --data_map: what the encoder gives for the texts, for the next call

A label is its full path, and a level's scores count the labels predicted at that level: a predicted child does not
stand for its parent. See metric.Scores for what each number is.
"""

import json
import sys
from contextlib import nullcontext
from datetime import datetime
from itertools import chain
from pathlib import Path

import numpy as np

if not __package__:  # run as a file: the project's root must be found
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import hierarchical
from analysis.beside import Beside
from analysis.cases import in_directory
from analysis.comparison import compare, label_sets, verdicts
from analysis.data_map import Marks, map_points
from analysis.left_out import LeftOut, calibrated
from analysis.report import Findings, write_report
from analysis.scoring import comparison, fit_baseline, headline
from hierarchical.batches import row_windows
from hierarchical.calibration import METHODS
from hierarchical.checkpoints import is_linear, require_same_labels, write_decision
from hierarchical.decisions import probabilities_of, recalibrated
from hierarchical.dynamics import read_dynamics
from hierarchical.formats import existing
from hierarchical.identity import DECISION
from hierarchical.ledger import Ledger, confirmed_rows
from hierarchical.predictor import Predictor
from hierarchical.rows import Rows, load_texts
from hierarchical.selective import LEAST_ROWS
from hierarchical.sets import only_writer
from hierarchical.unseen import require_no_number
from metric import CRITERIA, WAYS, Scores, decide, dev_cells, tuned_decision
from utils import (
    FLAT,
    NO_THRESHOLD,
    InputError,
    add_bf16_argument,
    add_checkpoint_arguments,
    add_dataset_arguments,
    add_decision_arguments,
    add_long_text_arguments,
    add_unseen_arguments,
    atomic_write,
    check_minima,
    decision_from_arguments,
    file_digest,
    get_logger,
    load_reported,
    long_text_arguments,
    make_parser,
    precision_from_arguments,
    progress_bar,
    require_directory,
    require_outputs,
    run,
)

WEIGHTS = ("model.safetensors", "linear.safetensors")
TOLD = (
    "decoding threshold min_labels max_labels top_k tune_threshold select_by compare more_seeds baseline "
    "max_seq_length long_text window_stride max_windows use_bf16"
).split()
LOGGED_LABELS = 200  # with more of them, the lines of each are in a file


def parse_args(argv):
    parser = make_parser("Scores of a checkpoint.")
    data = parser.add_argument_group("data")
    alone = "name inside dataset_dir; '' scores the dev rows alone"
    add_dataset_arguments(data, "train", "dev", compared=True, train=alone)
    model = add_checkpoint_arguments(parser, batch_size=32)
    add_long_text_arguments(model)
    add_bf16_argument(model)
    decision = add_decision_arguments(parser, None)
    how = "choose the threshold(s) on the dev rows, and store them in the checkpoint"
    decision.add_argument("--tune_threshold", choices=WAYS, help=how)
    decision.add_argument("--select_by", choices=CRITERIA, default="macro_f1", help="what --tune_threshold maximizes")
    how = "make probabilities mean what they say, by the dev rows, and store that in the checkpoint; none: undo it"
    decision.add_argument("--calibrate", choices=(*METHODS, "none"), help=how)
    result = parser.add_argument_group("result")
    result.add_argument("--bad_case_file", default="bad_case.txt", help="a bare name lies in dataset_dir")
    result.add_argument("--output_json", help="write all scores to this file")
    result.add_argument("--report", help="write a web page with scores, charts and wrong rows to this file")
    how = "a map of dev and train rows and unlabelled texts in the report, by the model's features"
    result.add_argument("--data_map", action="store_true", help=how)
    result.add_argument("--unlabeled_file", default="data.txt", help="texts for the data map, if it is there; '': none")
    how = "another checkpoint, or several of other seeds: what has changed since, and whether that could be luck"
    result.add_argument("--compare", nargs="+", metavar="DIR", help=how)
    how = "with --compare: further trainings like that of --params_path, from other seeds"
    result.add_argument("--more_seeds", nargs="+", metavar="DIR", help=how)
    result.add_argument("--baseline", action="store_true", help="show a linear classifier's scores beside the model's")
    add_unseen_arguments(parser)
    args = parser.parse_args(argv)
    check_minima(parser, args, batch_size=1, max_seq_length=3)
    if args.tune_threshold and args.threshold is not None:
        parser.error("argument --tune_threshold: finds the threshold itself, leave --threshold out")
    if args.use_bf16 and (args.tune_threshold or args.calibrate):
        parser.error("argument --use_bf16: what --tune_threshold and --calibrate store is for float32; leave it out")
    if args.more_seeds and not args.compare:
        parser.error("argument --more_seeds: goes with --compare")
    if args.more_seeds and (args.tune_threshold or args.calibrate):
        parser.error("argument --more_seeds: --tune_threshold and --calibrate are for one model; call them for each")
    if args.data_map and not args.report:
        parser.error("argument --data_map: is part of a report, which --report writes")
    about_known = ("tune_threshold", "calibrate", "report", "compare", "baseline")
    if args.unseen and (given := [name for name in about_known if getattr(args, name)]):
        parser.error(
            f"argument --unseen: scores new labels; --{given[0]} is about the known ones alone, ask for it apart"
        )
    return args


def logit_windows(predictor, rows, name):
    """Yield (row numbers, their logits float32 [n, L]) window by window, with a progress bar on a terminal."""
    with progress_bar(len(rows.texts), name) as bar:
        for window in row_windows(len(rows.texts), len(predictor.tree)):
            yield window, predictor.text_logits([rows.texts[i] for i in window], bar.update)


def probability_windows(predictor, rows, name, decision):
    """The same with probabilities."""
    for window, logits in logit_windows(predictor, rows, name):
        yield window, probabilities_of(logits, predictor.tree, decision)


def score_rows(predictor, rows, decision, name, left_out=None, findings=(), beside=None):
    """(result dict of metric.Scores, bad cases) of labelled rows; a bad case is (row number, predicted class indices).

    left_out, findings: a LeftOut, and report.Findings and the like, that are to see each window, too
    beside: a WithUnseen, whose labels the rows have, or None
    Probabilities are held for one window of rows at a time, so memory does not grow with rows x labels.
    """
    tree = beside.tree if beside else predictor.tree
    scores, bad_cases = Scores(tree), []
    for window, logits in logit_windows(predictor, rows, name):
        gold = rows.multi_hot(len(tree), window)
        if beside:
            probabilities = beside.combine(logits, beside.encoder.encode([rows.texts[i] for i in window]))
            predicted = beside.decide(probabilities, tree, decision)
        else:
            probabilities = probabilities_of(logits, tree, decision)
            predicted = decide(probabilities, tree, decision)
        scores.update(predicted, gold)
        if left_out:
            left_out.update(window, logits, probabilities, predicted, gold)
        for one in findings:
            one.update(window, probabilities, predicted, gold)
        wrong = np.flatnonzero((predicted != gold).any(1))
        bad_cases += [(window[i], np.flatnonzero(predicted[i]).tolist()) for i in wrong]
    result = scores.result()
    del result["loss"]  # none was given
    return result, bad_cases


def tune(predictor, dev, decision, args, logger):
    """The decision with threshold(s) chosen on the dev rows, logged with what that is worth on rows not used for it."""
    tree, cells = predictor.tree, dev_cells(predictor.tree, decision)
    for window, probabilities in probability_windows(predictor, dev, "tune", decision):
        cells.add(probabilities, dev.multi_hot(len(tree), window))
    tuned, honest = tuned_decision(cells.finish(), tree, decision, args.tune_threshold, args.select_by)
    logger.info(
        f"Thresholds tuned on dev ({args.tune_threshold}); on dev rows left out of the tuning: "
        f"micro f1 score: {honest['micro_f1']:.5f}, macro f1 score: {honest['macro_f1']:.5f}"
    )
    return tuned


def calibrate(predictor, dev, decision, args, logger):
    """(the decision with the calibration asked for, or without; the calibrations by which each fold is measured)."""
    tree = predictor.tree
    if args.calibrate == "none":
        logger.info("Calibration removed; the thresholds went back with it, so that the labels stay what they were")
        return recalibrated(decision, None, tree), None
    windows, keep = logit_windows(predictor, dev, "calibrate"), args.threshold is not None
    decision, parts = calibrated(windows, dev, decision, tree, args.calibrate, predictor.mark, keep)
    logger.info(f"Calibrated on dev ({args.calibrate})")
    if not (keep or args.tune_threshold) and decision.needs_threshold:
        now = np.round(np.unique(decision.threshold), 3)
        shown = f"{now[0]:g} to {now[-1]:g}" if len(now) > 1 else f"{now[0]:g}"
        logger.info(f"Thresholds went along, so that the labels stay what they were: now {shown}")
    return decision, parts


def others_for(args):
    """(the Predictors of --compare, those of --more_seeds). Raises InputError for what cannot be compared."""
    sides = args.compare or [], [args.params_path, *(args.more_seeds or [])]
    for side in sides:
        paths = [Path(one).resolve() for one in side]
        if twice := [one for one, path in zip(side, paths) if paths.count(path) > 1]:
            raise InputError(f"{twice[0]}: given twice, which would count as two seeds. Leave it out once.")

    def opened(path):
        precision = "float32" if is_linear(path) else precision_from_arguments(args)
        other = Predictor(path, precision, kind="checkpoint", device=args.device, batch_size=args.batch_size)
        require_same_labels(other.tree, Path(args.params_path) / "label.txt")
        return other

    return list(map(opened, sides[0])), list(map(opened, sides[1][1:]))


def compared(args, older, alike, rows, bad_cases, logger):
    """The Comparison of the model with these bad cases, and others of its kind, with older ones, in the log too."""

    def sets(others, name):
        for number, other in enumerate(others, start=1):
            other.load()
            decision = decision_from_arguments(args, other.tree, other.decision) if other in alike else other.decision
            yield label_sets(rows, score_rows(other, rows, decision, f"dev, {name} {number}")[1])
            other.engine.model = None  # one at a time in memory

    new = [label_sets(rows, bad_cases), *sets(alike, "further seed")]
    comparison = compare(rows.labels, list(sets(older, "older model")), new, older[0].tree)
    for line in verdicts(comparison):
        logger.info(line)
    return comparison


def texts_of_map(directory, name, tree, logger):
    """The unlabelled texts of a data folder as Rows without labels; None: there are none, or they are not wanted."""
    path = name and existing(directory / name)
    if not path:
        return None
    texts = load_texts(path, tree, "--unlabeled_file names texts for the data map.", logger)
    return Rows(texts, [], 0, len(texts))


def spelt(name, value):
    """A flag as it is typed."""
    values = [] if value is True else value if isinstance(value, list) else [value]
    return " ".join([f"--{name}", *map(str, values)])


def origin(args, dev_path, tree):
    """What the report was made of: {name: text}."""
    checkpoint = Path(args.params_path)
    weights = next(filter(Path.is_file, (checkpoint / name for name in WEIGHTS)), None)
    flags = [(name, value) for name, value in vars(args).items() if name in TOLD and value not in (None, False)]
    return {
        "made": datetime.now().astimezone().isoformat(sep=" ", timespec="minutes"),
        "rows": f"{dev_path} (sha256 {file_digest(dev_path)[:16]})",
        "checkpoint": f"{checkpoint} ({weights.name}, sha256 {file_digest(weights)[:16]})" if weights else checkpoint,
        "labels": len(tree),
        "version": hierarchical.__version__,
        "flags": " ".join(spelt(name, value) for name, value in flags),
    }


def label_lines(label, results):
    """The lines of one label; results: {"train" and "dev": result dict}, or dev alone."""
    lines = [f"Class name: {label}"]
    for name, result in results.items():
        precision, recall, f1, support = result["labels"][label].values()
        lines.append(
            f"Evaluation examples in {name} dataset: {support}({support / result['n_rows']:.1%}) | "
            f"precision: {100 * precision:.2f} | recall: {100 * recall:.2f} | F1 score {100 * f1:.2f}"
        )
    return [*lines, "-" * 28]


def write_bad_cases(path, tree, rows, bad_cases):
    with atomic_write(path) as file:
        file.write("Text\tLabel\tPrediction\n")
        for row, predicted in bad_cases:
            label_sets = (",".join(tree.labels[i] for i in indices) for indices in (rows.labels[row], predicted))
            file.write("\t".join([rows.texts[row].translate(FLAT), *label_sets]) + "\n")


def main(argv=None):
    args = parse_args(argv)
    logger = get_logger()
    predictor = Predictor(
        args.params_path,
        precision_from_arguments(args),
        kind="checkpoint",
        device=args.device,
        max_seq_length=args.max_seq_length,
        batch_size=args.batch_size,
        **long_text_arguments(args),
    )
    tree, tokenizer = predictor.tree, predictor.tokenizer
    decision = decision_from_arguments(args, predictor.tree, predictor.decision)
    if args.tune_threshold and not decision.needs_threshold:
        raise InputError(f"--tune_threshold: {NO_THRESHOLD} --min_labels 0 lifts a stored top_k.")
    directory = require_directory(args.dataset_dir)
    inputs = [directory / name for name in (args.label_file, args.train_file, args.dev_file)]
    label_path, train_path, dev_path = inputs
    beside = None
    if args.unseen:
        require_no_number(decision)
        beside = predictor.with_unseen(args.unseen, args.unseen_encoder, args.device)
        beside.require_known_labels(label_path)
        tree = beside.tree
    else:
        require_same_labels(tree, label_path)
    rows = {}
    if train_path.is_file():
        rows["train"] = load_reported(train_path, tree, logger)
    elif args.train_file:
        logger.warning(f"{train_path}: no such file, the dev rows are scored alone")
    rows["dev"] = load_reported(dev_path, tree, logger)
    older, alike = others_for(args)
    texts, seen = None, None
    if args.data_map:
        predictor.require_network()
        texts = texts_of_map(directory, args.unlabeled_file, tree, logger)
        seen = read_dynamics(args.params_path, rows["train"]) if "train" in rows else None
    if args.baseline and "train" not in rows:
        raise InputError("--baseline: needs the rows of a train file.")
    if args.calibrate not in (None, "none") and len(rows["dev"].texts) < LEAST_ROWS:
        n_rows = len(rows["dev"].texts)
        raise InputError(f"--calibrate: needs {LEAST_ROWS} dev rows or more, {dev_path} has {n_rows}.")
    if args.tune_threshold and len(rows["dev"].texts) < 5:
        raise InputError(f"--tune_threshold: needs 5 dev rows or more, {dev_path} has {len(rows['dev'].texts)}.")
    bad_cases_path, labels_path = in_directory(directory, args.bad_case_file), None
    outputs = {"--bad_case_file": bad_cases_path}
    if len(tree) > LOGGED_LABELS:
        labels_path = bad_cases_path.with_name(f"{bad_cases_path.stem}_labels.txt")
        outputs["--bad_case_file, and the scores beside it"] = labels_path
    for flag, name in (("--output_json", args.output_json), ("--report", args.report)):
        if name:
            outputs[flag] = Path(name)
    if args.tune_threshold or args.calibrate:
        outputs["--params_path"] = Path(args.params_path) / DECISION
    require_outputs(outputs, inputs)
    ledger = Ledger(directory) if args.report else None

    changes, parts = args.tune_threshold or args.calibrate, None
    with only_writer(args.params_path) if changes else nullcontext():  # the settings are for this model
        (beside or predictor).load()
        logger.info("-----Evaluate model-------")
        for name, part in rows.items():
            logger.info(f"{name.capitalize()} dataset size: {len(part.texts)}")
        if args.calibrate:
            decision, parts = calibrate(predictor, rows["dev"], decision, args, logger)
        if args.tune_threshold:
            decision = tune(predictor, rows["dev"], decision, args, logger)
        if changes:
            write_decision(args.params_path, tokenizer.max_seq_length, decision, tokenizer.long_text)
    scores, findings = {}, Findings(tree, decision, len(rows["dev"].texts)) if args.report else None
    left_out = None if beside else LeftOut(tree, decision, len(rows["dev"].texts), parts)
    of_parts = Beside(beside) if beside else None
    marks = {name: Marks(len(part.texts)) for name, part in rows.items()} if args.data_map else {}
    for name, part in rows.items():
        of_dev = name == "dev"
        seen_by = [one for one in (findings if of_dev else None, of_parts if of_dev else None, marks.get(name)) if one]
        of_rows = left_out if of_dev else None
        scores[name], bad_cases = score_rows(predictor, part, decision, name, of_rows, seen_by, beside)
    label_scores = chain.from_iterable(label_lines(label, scores) for label in tree.labels)
    for line in chain(headline(scores["dev"]), (of_parts or left_out).lines(), () if labels_path else label_scores):
        logger.info(line)
    if labels_path:
        with atomic_write(labels_path) as file:
            file.writelines(f"{line}\n" for line in label_scores)
        logger.info(f"Scores of each of the {len(tree)} labels saved in {labels_path}")
    write_bad_cases(bad_cases_path, tree, rows["dev"], bad_cases)  # dev came last
    logger.info(f"Bad case in dev dataset saved in {bad_cases_path}")
    if args.baseline:
        _, scores["baseline"] = fit_baseline(rows["train"], rows["dev"], tree, logger)
        for line in comparison(scores["dev"], scores["baseline"]):
            logger.info(line)
    against = compared(args, older, alike, rows["dev"], bad_cases, logger) if older else None
    if args.report:
        facts = origin(args, dev_path, tree)
        checked = confirmed_rows(ledger, rows["dev"], tree)
        points = None
        if marks:
            paths = {"train": train_path, "dev": dev_path, "unlabelled": directory / args.unlabeled_file}
            points = map_points(predictor, rows | ({"unlabelled": texts} if texts else {}), marks, paths, seen)
        about = facts, left_out.to_dict(), checked, against, points
        write_report(outputs["--report"], tree, tokenizer, rows["dev"], scores, findings, *about)
        logger.info(f"Report saved in {args.report}: open it in a browser")
    if args.output_json:
        settings = {"max_seq_length": tokenizer.max_seq_length, **tokenizer.long_text.to_dict(), **decision.to_dict()}
        skipped = {name: {"blank": part.blank, "unlabelled": part.unlabelled} for name, part in rows.items()}
        with atomic_write(args.output_json) as file:
            everything = {"arguments": vars(args), "decision": settings, "skipped_lines": skipped, **scores}
            everything |= (of_parts or left_out).to_dict() | ({"comparison": against.to_dict()} if against else {})
            json.dump(everything, file, ensure_ascii=False, indent=1)


if __name__ == "__main__":
    run(main)
