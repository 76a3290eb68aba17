"""Dev rows that the training rows hardly cover, and rows that would help with them.

    python analysis/sparse.py --dataset_dir data --params_path checkpoint                       # changed training rows
    python analysis/sparse.py --dataset_dir data --params_path checkpoint --annotate            # unlabelled texts
    python doccano.py --annotate_file data/support.txt --save_dir annotate                      # which to label next

Reads   dataset_dir/{train.txt, dev.txt}   (or JSON or CSV, see hierarchical/formats.py)
        dataset_dir/data.txt               with --annotate: one text per line, or rows
        dataset_dir/ledger.jsonl           what was answered: such texts are not chosen again
        params_path/                       the checkpoint
Writes  dataset_dir/.cache/                the features of these files, for the next call
        dataset_dir/sparse.txt             the dev rows that are least alike to any training row, least first
        dataset_dir/support.txt            the rows nearest to them: training rows changed by --aug_strategy, with their
                                           labels, to be put after the training rows; with --annotate: texts to label

Alike is the cosine of two texts' features, what the classifier layer sees of them. Choosing rows by dev texts makes dev
scores a little flattering; a test file that played no part tells the truth.
"""

import random
import sys
from collections import Counter
from pathlib import Path

import numpy as np

if not __package__:  # run as a file: the project's root must be found
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from analysis.augmentation import CYCLE, augment
from analysis.cases import in_directory
from analysis.features import Features
from analysis.merging import (
    ids_elsewhere,
    in_order,
    new_rows,
    require_no_answers,
    train_path_of,
    warn_of_torn,
    with_answers,
)
from analysis.neighbours import nearest
from analysis.words import load_dictionary
from hierarchical.checkpoints import Checkpoint, require_same_labels
from hierarchical.devices import set_device
from hierarchical.ledger import Decision, Ledger, id_of
from hierarchical.rows import read_texts
from utils import (
    InputError,
    Problems,
    add_checkpoint_arguments,
    add_dataset_arguments,
    check_minima,
    get_logger,
    load_reported,
    make_parser,
    require_directory,
    require_file,
    require_outputs,
    require_row_format,
    run,
    write_rows,
)

AUG_PERCENT = 0.1  # of a text's words


def parse_args(argv):
    parser = make_parser("Dev rows that train hardly covers.")
    data = parser.add_argument_group("data")
    add_dataset_arguments(data, "train", "dev", compared=True)
    data.add_argument("--unlabeled_file", default="data.txt", help="texts that --annotate chooses from")
    add_checkpoint_arguments(parser, batch_size=16)
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
    args = parser.parse_args(argv)
    check_minima(parser, args, batch_size=1, rationale_num_sparse=1, sparse_num=1, rationale_num_support=1)
    check_minima(parser, args, support_num=1, max_seq_length=3, seed=0)
    if not -1 <= args.support_threshold < 1:
        parser.error(f"argument --support_threshold: must be from -1 to below 1, got {args.support_threshold}")
    return args


def read_candidates(path, tree, known, elsewhere, logger):
    """The different texts of an unlabelled file that are not in `known`, nor by their ids elsewhere: list[str]."""
    require_file(path, "It holds the texts to choose from, one per line.")
    problems, seen = Problems(), Counter()
    texts = list(read_texts(path, tree, problems, seen))
    problems.raise_if_any()
    if seen["labelled"]:
        logger.warning(f"{path.name}: {seen['labelled']} rows have labels after a TAB; only the texts are used")
    found = [text for text in dict.fromkeys(texts) if text and text not in known and id_of(text) not in elsewhere]
    if left_out := len(texts) - len(found):
        logger.info(
            f"{path.name}: {left_out} of {len(texts)} rows are blank, repeated, or in train, dev or test already"
        )
    if not found:
        raise InputError(f"{path}: no text in it that is not in train, dev or test already.")
    return found


def undecided(texts, ledger, path, logger):
    """The texts that nobody was asked about, or has not answered yet."""
    left = ledger.unanswered(texts)
    if done := len(texts) - len(left):
        logger.info(f"{path.name}: {done} texts were answered before and are not asked about again")
    if not left:
        raise InputError(f"{path}: all its texts were answered before; `analysis/dirty.py --merge` makes rows of them.")
    return left


def with_new_rows(train, ledger, tree, elsewhere):
    """The training Rows with the texts that were labelled and not merged yet: what they cover is covered."""
    new = list(new_rows(ledger, set(map(id_of, train.texts)), elsewhere))
    labels = [tuple(tree.index[name] for name in in_order(names, tree, ledger)) for _, names in new]
    return train._replace(texts=train.texts + [text for text, _ in new], labels=train.labels + labels)


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


def main(argv=None):
    args = parse_args(argv)
    logger, checkpoint = get_logger(), Checkpoint.open(args.params_path, args.max_seq_length, windows=False)
    tree, directory = checkpoint.tree, require_directory(args.dataset_dir)
    require_same_labels(tree, directory / args.label_file)
    inputs = [directory / name for name in (args.train_file, args.dev_file, args.label_file, args.unlabeled_file)]
    inputs[:2] = [train_path_of(directory, name) for name in (args.train_file, args.dev_file)]
    train, dev = (load_reported(path, tree, logger) for path in inputs[:2])
    ledger = Ledger(directory)
    warn_of_torn(ledger, logger)
    train = with_answers(train, ledger, tree)
    train_rows, dev_rows = (
        [(text, [tree.labels[i] for i in labels]) for text, labels in zip(part.texts, part.labels)]
        for part in (train, dev)
    )
    candidates = train_rows
    if args.annotate:
        elsewhere = ids_elsewhere(directory, tree)
        texts = read_candidates(inputs[3], tree, {*train.texts, *dev.texts}, elsewhere, logger)
        left = undecided(texts, ledger, inputs[3], logger)
        train = with_new_rows(train, ledger, tree, elsewhere)
        candidates = [(text, None) for text in left]
    sparse_path, support_path = (in_directory(directory, name) for name in (args.sparse_file, args.support_file))
    require_row_format(sparse_path, "--sparse_file", dev_rows)
    require_row_format(support_path, "--support_file", candidates)
    require_outputs({"--sparse_file": sparse_path, "--support_file": support_path}, inputs)
    require_no_answers(support_path, "--support_file", train, ledger, tree)
    if args.sparse_num > len(dev_rows):
        logger.warning(f"--sparse_num {args.sparse_num}: {args.dev_file} has {len(dev_rows)} rows, all are taken")
    dictionary = None
    if not args.annotate and args.aug_strategy in ("substitute", "insert"):
        dictionary = load_dictionary("synonym", args.dictionary)

    set_device(args.device)
    features = Features(checkpoint, checkpoint.load_model(), checkpoint.tokenizer, args.batch_size, directory)
    of_file, of_ledger = train.texts[: len(train_rows)], train.texts[len(train_rows) :]
    train_features = features.of(of_file, inputs[0], "train rows")
    if of_ledger:
        new = features.of(of_ledger, ledger.path, "texts that were labelled")
        train_features = np.concatenate([train_features, new])
    dev_features = features.of(dev.texts, inputs[1], "dev rows")
    _, similarities = nearest(dev_features, train_features, args.rationale_num_sparse)
    cover = similarities.mean(1)
    sparse = np.argsort(cover, kind="stable")[: args.sparse_num]
    write_rows(sparse_path, [dev_rows[i] for i in sparse])
    logger.info(f"Sparse data saved in {sparse_path}")
    logger.info(f"Average score in sparse data: {cover[sparse].mean():.4f}")

    others = train_features
    if args.annotate:
        number = {text: i for i, text in enumerate(texts)}
        others = features.of(texts, inputs[3], "texts")[[number[text] for text in left]]
    rows, similarities = nearest(dev_features[sparse], others, args.rationale_num_support)
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
    ledger.note_written(support_path)
    if args.annotate:
        ledger.add(Decision(id_of(text), "asked", text=text, via="sparse.py") for text, _ in support)
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
