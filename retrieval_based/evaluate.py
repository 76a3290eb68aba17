"""Score what recall.py retrieved: recall@k, and micro- and macro-F1 of the labels it stands for.

    python retrieval_based/evaluate.py --similar_text_pair data/dev.txt \
        --recall_result_file recall_result_dir/recall_result_file.txt

Reads   similar_text_pair    the labelled rows that were retrieved for
        recall_result_file   text<TAB>label<TAB>similarity, from recall.py
        beside it            recall_result_file.settings/{label.txt, decision.json}
Writes  output_json          all scores as fractions, if asked for

recall@k counts a row's most specific labels. For F1, the labels whose similarity is above the threshold are the
prediction; prediction and row are both completed with the ancestors of their labels. No model is loaded.
"""

import argparse
import json
import math
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from analysis.evaluate import headline
from checkpoints import add_decision_arguments, decision_from_arguments, read_decision
from metric import Scores, decide
from retrieval_based.encoder import most_specific
from retrieval_based.index import dense, dense_windows, recalls
from retrieval_based.recall import settings_directory
from utils import (
    FLAT,
    HelpFormatter,
    InputError,
    LabelTree,
    Problems,
    atomic_write,
    check_minima,
    get_logger,
    load_reported,
    multi_hot,
    read_lines,
    require_file,
    require_writable,
    run,
)


def parse_args():
    parser = argparse.ArgumentParser(description="Score retrieved labels.", formatter_class=HelpFormatter)
    parser.add_argument("--similar_text_pair", default="./data/dev.txt", help="the labelled rows given to recall.py")
    parser.add_argument(
        "--recall_result_file", default="./recall_result_dir/recall_result_file.txt", help="what recall.py wrote"
    )
    parser.add_argument("--recall_num", type=int, default=50, help="labels per row that are looked at")
    parser.add_argument("--output_json", help="write all scores to this file")
    add_decision_arguments(parser, None)
    args = parser.parse_args()
    check_minima(parser, args, recall_num=1)
    return args


def read_retrieved(path, texts, tree):
    """Per text [(class index, similarity), ...] as in the recall file. Raises InputError where the two do not match."""
    require_file(path, "Make it with retrieval_based/recall.py.")
    texts, problems, groups, before = [text.translate(FLAT) for text in texts], Problems(), [], None
    for number, line in read_lines(path, problems):
        text, *rest = line.split("\t")
        try:
            label, similarity = rest
            similarity = float(similarity)
            if not math.isfinite(similarity):
                raise ValueError
        except ValueError:
            problems.add(path, number, "a line is: text<TAB>label<TAB>similarity, a number")
            continue
        if label and label not in tree.index:
            problems.add(path, number, f"unknown label {label!r}; the labels are in {settings_directory(path)}")
            continue
        # A row's labels differ, so the same text with a label again is a second row with this text.
        if text != before or not label or any(known == tree.index[label] for known, _ in groups[-1]):
            before = text
            groups.append([])
            if len(groups) > len(texts) or text != texts[len(groups) - 1]:
                problems.raise_if_any()
                raise InputError(f"{path}:{number}: {text[:20]!r} is not the row in its place; run recall.py again.")
        if label:
            groups[-1].append((tree.index[label], similarity))
    problems.raise_if_any()
    if len(groups) != len(texts):
        raise InputError(f"{path}: has {len(groups)} texts, the rows are {len(texts)}. Run recall.py again.")
    return groups


def main():
    args = parse_args()
    logger, path = get_logger(), Path(args.recall_result_file)
    require_file(path, "Make it with retrieval_based/recall.py.")
    settings, hint = settings_directory(path), "recall.py writes it with the result; run recall.py again."
    require_file(settings / "label.txt", hint)
    tree = LabelTree.read(settings / "label.txt")
    decision = decision_from_arguments(args, read_decision(settings, tree, hint)[1])
    rows = load_reported(args.similar_text_pair, tree, logger)
    if args.output_json:
        sources = [path, Path(args.similar_text_pair), *settings.iterdir()]
        require_writable(Path(args.output_json), "--output_json", sources)
    retrieved = [found[: args.recall_num] for found in read_retrieved(path, rows.texts, tree)]

    labelled = [i for i, labels in enumerate(rows.labels) if labels]
    if not labelled:
        raise InputError(f"{args.similar_text_pair}: no row has a label.")
    ranked = [[label for label, _ in retrieved[i]] for i in labelled]
    found = recalls(ranked, [most_specific(tree, rows.labels[i]) for i in labelled])
    found = {name: value for name, value in found.items() if int(name.partition("@")[2]) <= args.recall_num}
    for name, value in found.items():
        logger.info(f"{name}={100 * value:.3f}")
    scores = Scores(tree)
    for window in dense_windows(len(rows.texts), len(tree)):
        gold = multi_hot([tree.closure(rows.labels[i]) for i in window], len(tree))
        scores.update(decide(dense([retrieved[i] for i in window], len(tree)), tree, decision), gold)
    result = scores.result()
    del result["loss"]  # there is none
    for line in headline(result):
        logger.info(line)
    if args.output_json:
        with atomic_write(args.output_json) as file:
            everything = {"arguments": vars(args), "decision": decision.to_dict(), **found, **result}
            json.dump(everything, file, ensure_ascii=False, indent=1)


if __name__ == "__main__":
    run(main)
