"""Scores of a checkpoint, overall, per level and per label, and the dev rows it gets wrong.

    python analysis/evaluate.py --dataset_dir data --params_path checkpoint
    python analysis/evaluate.py --dataset_dir data --params_path checkpoint --baseline          # beside a linear model
    python analysis/evaluate.py --dataset_dir data --params_path checkpoint --tune_threshold global
    python analysis/evaluate.py --dataset_dir data --params_path checkpoint --report report.html

Reads   dataset_dir/{train.txt, dev.txt}   (or JSON or CSV, see hierarchical/formats.py); dev alone without a train file
        dataset_dir/label.txt              if it is there, it must be what the checkpoint was trained with
        params_path/                       weights, tokenizer, labels, maximum length and decision settings
Writes  bad_case_file   Text<TAB>Label<TAB>Prediction, one dev row each; labels in class-index order, joined by commas
        bad_case_labels.txt beside it, with more than 200 labels: their scores, which the log has otherwise
        output_json     all scores as fractions, if asked for
        report          a web page about the dev rows, if asked for: see report.py
        params_path/decision.json, with --tune_threshold

A label is its full path, and a level's scores count the labels predicted at that level: a predicted child does not
stand for its parent. See metric.Scores for what each number is.
"""

import json
import sys
from contextlib import nullcontext
from itertools import chain
from pathlib import Path

import numpy as np

if not __package__:  # run as a file: the project's root must be found
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from analysis.cases import in_directory
from analysis.report import Findings, write_report
from analysis.scoring import comparison, fit_baseline, headline
from hierarchical.batches import row_windows
from hierarchical.checkpoints import require_same_labels, write_decision
from hierarchical.identity import DECISION
from hierarchical.ledger import Ledger, confirmed_rows
from hierarchical.modeling import sigmoid
from hierarchical.predictor import Predictor
from hierarchical.sets import only_writer
from metric import CRITERIA, Scores, decide, dev_cells, tuned_decision
from utils import (
    FLAT,
    NO_THRESHOLD,
    InputError,
    add_checkpoint_arguments,
    add_dataset_arguments,
    add_decision_arguments,
    atomic_write,
    check_minima,
    decision_from_arguments,
    get_logger,
    load_reported,
    make_parser,
    progress_bar,
    require_directory,
    require_outputs,
    run,
)

LOGGED_LABELS = 200  # with more of them, the lines of each are in a file


def parse_args(argv):
    parser = make_parser("Scores of a checkpoint.")
    data = parser.add_argument_group("data")
    alone = "name inside dataset_dir; '' scores the dev rows alone"
    add_dataset_arguments(data, "train", "dev", compared=True, train=alone)
    add_checkpoint_arguments(parser, batch_size=32)
    decision = add_decision_arguments(parser, None)
    how = "choose the threshold(s) on the dev rows, and store them in the checkpoint"
    decision.add_argument("--tune_threshold", choices=("global", "per_label"), help=how)
    decision.add_argument("--select_by", choices=CRITERIA, default="macro_f1", help="what --tune_threshold maximizes")
    result = parser.add_argument_group("result")
    result.add_argument("--bad_case_file", default="bad_case.txt", help="a bare name lies in dataset_dir")
    result.add_argument("--output_json", help="write all scores to this file")
    result.add_argument("--report", help="write a web page with scores, charts and wrong rows to this file")
    result.add_argument("--baseline", action="store_true", help="show a linear classifier's scores beside the model's")
    args = parser.parse_args(argv)
    check_minima(parser, args, batch_size=1, max_seq_length=3)
    if args.tune_threshold and args.threshold is not None:
        parser.error("argument --tune_threshold: finds the threshold itself, leave --threshold out")
    return args


def probability_windows(predictor, rows, name):
    """Yield (row numbers, their probabilities float32 [n, L]) window by window, with a progress bar on a terminal."""
    with progress_bar(len(rows.texts), name) as bar:
        for window in row_windows(len(rows.texts), len(predictor.tree)):
            yield window, sigmoid(predictor.text_logits([rows.texts[i] for i in window], bar.update))


def score_rows(predictor, rows, decision, name, findings=None):
    """(result dict of metric.Scores, bad cases) of labelled rows; a bad case is (row number, predicted class indices).

    findings: a report.Findings that is to see each window, too
    Probabilities are held for one window of rows at a time, so memory does not grow with rows x labels.
    """
    tree = predictor.tree
    scores, bad_cases = Scores(tree), []
    for window, probabilities in probability_windows(predictor, rows, name):
        predicted, gold = decide(probabilities, tree, decision), rows.multi_hot(len(tree), window)
        scores.update(predicted, gold)
        if findings:
            findings.update(window, probabilities, predicted, gold)
        wrong = np.flatnonzero((predicted != gold).any(1))
        bad_cases += [(window[i], np.flatnonzero(predicted[i]).tolist()) for i in wrong]
    result = scores.result()
    del result["loss"]  # none was given
    return result, bad_cases


def tune(predictor, dev, decision, args, logger):
    """The decision with threshold(s) chosen on the dev rows, logged with what that is worth on rows not used for it."""
    tree, cells = predictor.tree, dev_cells(predictor.tree, decision)
    for window, probabilities in probability_windows(predictor, dev, "tune"):
        cells.add(probabilities, dev.multi_hot(len(tree), window))
    tuned, honest = tuned_decision(cells.finish(), tree, decision, args.tune_threshold, args.select_by)
    logger.info(
        f"Thresholds tuned on dev ({args.tune_threshold}); on dev rows left out of the tuning: "
        f"micro f1 score: {honest['micro_f1']:.5f}, macro f1 score: {honest['macro_f1']:.5f}"
    )
    return tuned


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
        kind="checkpoint",
        device=args.device,
        max_seq_length=args.max_seq_length,
        batch_size=args.batch_size,
    )
    tree, tokenizer = predictor.tree, predictor.tokenizer
    decision = decision_from_arguments(args, predictor.tree, predictor.decision)
    if args.tune_threshold and not decision.needs_threshold:
        raise InputError(f"--tune_threshold: {NO_THRESHOLD} --min_labels 0 lifts a stored top_k.")
    directory = require_directory(args.dataset_dir)
    inputs = [directory / name for name in (args.label_file, args.train_file, args.dev_file)]
    label_path, train_path, dev_path = inputs
    require_same_labels(tree, label_path)
    rows = {}
    if train_path.is_file():
        rows["train"] = load_reported(train_path, tree, logger)
    elif args.train_file:
        logger.warning(f"{train_path}: no such file, the dev rows are scored alone")
    rows["dev"] = load_reported(dev_path, tree, logger)
    if args.baseline and "train" not in rows:
        raise InputError("--baseline: needs the rows of a train file.")
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
    if args.tune_threshold:
        outputs["--params_path"] = Path(args.params_path) / DECISION
    require_outputs(outputs, inputs)

    with only_writer(args.params_path) if args.tune_threshold else nullcontext():  # the settings are for this model
        predictor.load()
        logger.info("-----Evaluate model-------")
        for name, part in rows.items():
            logger.info(f"{name.capitalize()} dataset size: {len(part.texts)}")
        if args.tune_threshold:
            decision = tune(predictor, rows["dev"], decision, args, logger)
            write_decision(args.params_path, tokenizer.max_seq_length, decision)
    scores, findings = {}, Findings(tree, decision, len(rows["dev"].texts)) if args.report else None
    for name, part in rows.items():
        seen_by = findings if name == "dev" else None
        scores[name], bad_cases = score_rows(predictor, part, decision, name, seen_by)
    label_scores = chain.from_iterable(label_lines(label, scores) for label in tree.labels)
    for line in chain(headline(scores["dev"]), () if labels_path else label_scores):
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
    if args.report:
        facts = {"rows": dev_path, "checkpoint": args.params_path}
        checked = confirmed_rows(Ledger(directory), rows["dev"], tree)
        write_report(outputs["--report"], tree, tokenizer, rows["dev"], scores, findings, facts, checked)
        logger.info(f"Report saved in {args.report}: open it in a browser")
    if args.output_json:
        settings = {"max_seq_length": tokenizer.max_seq_length, **decision.to_dict()}
        skipped = {name: {"blank": part.blank, "unlabelled": part.unlabelled} for name, part in rows.items()}
        with atomic_write(args.output_json) as file:
            everything = {"arguments": vars(args), "decision": settings, "skipped_lines": skipped, **scores}
            json.dump(everything, file, ensure_ascii=False, indent=1)


if __name__ == "__main__":
    run(main)
