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

import json
import sys
from pathlib import Path

if not __package__:  # run as a file: the project's root must be found
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from analysis.scoring import headline
from hierarchical.batches import row_windows
from hierarchical.checkpoints import read_decision
from metric import Scores, decide
from retrieval_based.encoder import most_specific
from retrieval_based.index import dense, recalls
from retrieval_based.results import read_retrieved, settings_directory
from utils import (
    InputError,
    LabelTree,
    add_decision_arguments,
    atomic_write,
    check_minima,
    decision_from_arguments,
    get_logger,
    load_reported,
    make_parser,
    multi_hot,
    require_file,
    require_writable,
    run,
)


def parse_args(argv):
    parser = make_parser("Score retrieved labels.")
    parser.add_argument("--similar_text_pair", default="./data/dev.txt", help="the labelled rows given to recall.py")
    parser.add_argument(
        "--recall_result_file", default="./recall_result_dir/recall_result_file.txt", help="what recall.py wrote"
    )
    parser.add_argument("--recall_num", type=int, default=50, help="labels per row that are looked at")
    parser.add_argument("--output_json", help="write all scores to this file")
    add_decision_arguments(parser, None)
    args = parser.parse_args(argv)
    check_minima(parser, args, recall_num=1)
    return args


def main(argv=None):
    args = parse_args(argv)
    logger, path = get_logger(), Path(args.recall_result_file)
    require_file(path, "Make it with retrieval_based/recall.py.")
    settings, hint = settings_directory(path), "recall.py writes it with the result; run recall.py again."
    require_file(settings / "label.txt", hint)
    tree = LabelTree.read(settings / "label.txt")
    decision = decision_from_arguments(args, tree, read_decision(settings, tree, hint)[1])
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
    for window in row_windows(len(rows.texts), len(tree)):
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
