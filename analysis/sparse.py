"""Dev rows that the training rows hardly cover, and rows that would help with them.

    python analysis/sparse.py --dataset_dir data --params_path checkpoint                       # changed training rows
    python analysis/sparse.py --dataset_dir data --params_path checkpoint --annotate            # unlabelled texts
    python doccano.py --annotate_file data/support.txt --save_dir annotate                      # which to label next

Reads   dataset_dir/{train.txt, dev.txt}   (or .jsonl/.csv rows, see utils.py)
        dataset_dir/data.txt               with --annotate: one text per line, or .jsonl/.csv rows
        params_path/                       the checkpoint
Writes  dataset_dir/sparse.txt             the dev rows that are least alike to any training row, least first
        dataset_dir/support.txt            the rows nearest to them: training rows changed by --aug_strategy, with their
                                           labels, to be put after the training rows; with --annotate: texts to label

Alike is the cosine of two texts' features, what the classifier layer sees of them. Choosing rows by dev texts makes dev
scores a little flattering; a test file that played no part tells the truth.
"""

import argparse
import random
import sys
from collections import Counter
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from analysis.aug import CYCLE, augment
from analysis.cases import in_directory
from analysis.sent_interpret import nearest
from analysis.words import load_dictionary
from checkpoints import load_checkpoint, open_checkpoint, require_same_labels
from modeling import encode_features
from predict import read_texts
from runtime import set_device
from utils import (
    HelpFormatter,
    InputError,
    Problems,
    check_minima,
    get_logger,
    load_reported,
    require_file,
    require_outputs,
    require_row_format,
    run,
    write_rows,
)

AUG_PERCENT = 0.1  # of a text's words


def parse_args():
    parser = argparse.ArgumentParser(description="Dev rows that train hardly covers.", formatter_class=HelpFormatter)
    data = parser.add_argument_group("data")
    data.add_argument("--dataset_dir", required=True, help="directory with the files below")
    data.add_argument("--train_file", default="train.txt", help="name inside dataset_dir; .txt, .jsonl or .csv")
    data.add_argument("--dev_file", default="dev.txt", help="name inside dataset_dir; .txt, .jsonl or .csv")
    data.add_argument("--label_file", default="label.txt", help="in dataset_dir; only compared with the checkpoint's")
    data.add_argument("--unlabeled_file", default="data.txt", help="texts that --annotate chooses from")
    model = parser.add_argument_group("model")
    model.add_argument("--params_path", default="./checkpoint/", help="directory that train.py saved the model in")
    model.add_argument("--max_seq_length", type=int, help="tokens of a text that are read (default: as in training)")
    model.add_argument("--batch_size", type=int, default=16, help="texts per step")
    model.add_argument("--device", default="gpu", help="cpu, gpu, xpu or npu; without it: the CPU, with a warning")
    search = parser.add_argument_group("search")
    search.add_argument("--rationale_num_sparse", type=int, default=3, help="training rows a dev row is compared with")
    search.add_argument("--sparse_num", type=int, default=100, help="dev rows to find; 10 to 20 %% of dev is a start")
    search.add_argument("--rationale_num_support", type=int, default=6, help="candidates for each of these dev rows")
    search.add_argument("--support_threshold", type=float, default=0.7, help="a candidate must be more alike than this")
    search.add_argument("--support_num", type=int, default=100, help="rows to choose; 10 to 20 %% of train is a start")
    change = parser.add_argument_group("supporting rows")
    change.add_argument("--annotate", action="store_true", help="choose from unlabeled_file, and change nothing")
    strategies = ("duplicate", *CYCLE)
    change.add_argument("--aug_strategy", choices=strategies, default="substitute", help="change to the training rows")
    change.add_argument("--dictionary", help="JSON file of your own: word -> list of synonyms")
    change.add_argument("--seed", type=int, default=3, help="of the changes")
    result = parser.add_argument_group("result")
    result.add_argument("--sparse_file", default="sparse.txt", help="a bare name lies in dataset_dir; .txt or .jsonl")
    result.add_argument("--support_file", default="support.txt", help="a bare name lies in dataset_dir; .txt or .jsonl")
    args = parser.parse_args()
    check_minima(parser, args, batch_size=1, rationale_num_sparse=1, sparse_num=1, rationale_num_support=1)
    check_minima(parser, args, support_num=1, max_seq_length=3, seed=0)
    if not -1 <= args.support_threshold < 1:
        parser.error(f"argument --support_threshold: must be from -1 to below 1, got {args.support_threshold}")
    return args


def read_candidates(path, tree, known, logger):
    """The different texts of an unlabelled file that are not in `known`: list[str], in order."""
    require_file(path, "It holds the texts to choose from, one per line.")
    problems, seen = Problems(), Counter()
    texts = list(read_texts(path, tree, problems, seen))
    problems.raise_if_any()
    if seen["labelled"]:
        logger.warning(f"{path.name}: {seen['labelled']} rows have labels after a TAB; only the texts are used")
    found = [text for text in dict.fromkeys(texts) if text and text not in known]
    if left_out := len(texts) - len(found):
        logger.info(f"{path.name}: {left_out} of {len(texts)} rows are blank, repeated, or in train or dev already")
    if not found:
        raise InputError(f"{path}: no text in it that is not in train or dev already.")
    return found


def choose_support(rows, similarities, threshold, number):
    """[(candidate, similarity)]: the nearest candidates of all sparse rows, then the second nearest, and so on.

    rows int [S, K] and similarities float [S, K], best first, as `nearest` gives them. Each candidate once, with a
    similarity above the threshold; at most `number`.
    """
    chosen = {}
    for candidate, similarity in zip(rows.T.ravel().tolist(), similarities.T.ravel().tolist()):
        if len(chosen) < number and similarity > threshold:
            chosen.setdefault(candidate, similarity)
    return list(chosen.items())


def main():
    args = parse_args()
    logger, directory = get_logger(), Path(args.dataset_dir)
    tree, tokenizer, _ = open_checkpoint(args.params_path, args.max_seq_length)
    if not directory.is_dir():
        raise InputError(f"--dataset_dir {directory}: no such directory.")
    require_same_labels(tree, directory / args.label_file)
    inputs = [directory / name for name in (args.train_file, args.dev_file, args.label_file, args.unlabeled_file)]
    train, dev = (load_reported(path, tree, logger) for path in inputs[:2])
    train_rows, dev_rows = (
        [(text, [tree.labels[i] for i in labels]) for text, labels in zip(part.texts, part.labels)]
        for part in (train, dev)
    )
    candidates = train_rows
    if args.annotate:
        texts = read_candidates(inputs[3], tree, {*train.texts, *dev.texts}, logger)
        candidates = [(text, None) for text in texts]
    sparse_path, support_path = (in_directory(directory, name) for name in (args.sparse_file, args.support_file))
    require_row_format(sparse_path, "--sparse_file", dev_rows)
    require_row_format(support_path, "--support_file", candidates)
    require_outputs({"--sparse_file": sparse_path, "--support_file": support_path}, inputs)
    if args.sparse_num > len(dev_rows):
        logger.warning(f"--sparse_num {args.sparse_num}: {args.dev_file} has {len(dev_rows)} rows, all are taken")
    dictionary = None
    if not args.annotate and args.aug_strategy in ("substitute", "insert"):
        dictionary = load_dictionary("synonym", args.dictionary)

    set_device(args.device)
    model = load_checkpoint(args.params_path)
    train_features = encode_features(model, tokenizer, train.texts, args.batch_size, "train rows")
    dev_features = encode_features(model, tokenizer, dev.texts, args.batch_size, "dev rows")
    _, similarities = nearest(dev_features, train_features, args.rationale_num_sparse)
    cover = similarities.mean(1)
    sparse = np.argsort(cover, kind="stable")[: args.sparse_num]
    write_rows(sparse_path, [dev_rows[i] for i in sparse])
    logger.info(f"Sparse data saved in {sparse_path}")
    logger.info(f"Average score in sparse data: {cover[sparse].mean():.4f}")

    features = train_features
    if args.annotate:
        features = encode_features(model, tokenizer, texts, args.batch_size, "texts")
    rows, similarities = nearest(dev_features[sparse], features, args.rationale_num_support)
    chosen = choose_support(rows, similarities, args.support_threshold, args.support_num)
    if not chosen:
        raise InputError(
            f"--support_threshold {args.support_threshold}: no candidate is so much alike; the nearest has "
            f"{similarities.max():.4f}. Lower it. {support_path} was not written."
        )
    support = [candidates[i] for i, _ in chosen]
    if not args.annotate and args.aug_strategy != "duplicate":
        rng = random.Random(args.seed)
        new = augment([text for text, _ in support], args.aug_strategy, 1, AUG_PERCENT, rng, dictionary)
        if not new:
            raise InputError(
                f"--aug_strategy {args.aug_strategy}: none of the {len(chosen)} chosen rows has a word that can be "
                f"changed. Take another strategy, or another --dictionary. {support_path} was not written."
            )
        if same := len(support) - len(new):
            logger.warning(f"{same} of the chosen rows have no word that can be changed; they are left out")
        chosen, support = [chosen[i] for i, _ in new], [(text, support[i][1]) for i, text in new]
    write_rows(support_path, support)
    logger.info(f"support data saved in {support_path}")
    logger.info(f"support average scores: {np.mean([similarity for _, similarity in chosen]):.4f}")
    if len(chosen) < args.support_num:
        logger.warning(
            f"{len(chosen)} of --support_num {args.support_num} rows were found; a lower --support_threshold "
            f"(now {args.support_threshold}) or a higher --rationale_num_support (now {args.rationale_num_support}) "
            "gives more"
        )


if __name__ == "__main__":
    run(main)
