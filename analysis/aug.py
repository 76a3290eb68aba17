"""More training rows: each row again with some of its words replaced, added, left out or exchanged.

    python analysis/aug.py --train_path data/train.txt --aug_path data/aug.txt
    python analysis/aug.py --train_path data/train.txt --aug_path data/aug.txt --aug_strategy mix --create_n 1
    python analysis/aug.py --train_path data/train.txt --aug_path data/aug.txt --dictionary synonyms.json
    python analysis/aug.py --train_path data/train.txt --aug_path data/aug.txt --aug_type mlm --mlm_model path/to/model

Reads   train_path   rows with labels (see hierarchical/formats.py); blank and unlabelled ones are passed over
        dictionary   {"word": ["another word", ...], ...}, if given
        mlm_model    a local masked language model: config.json, weights, vocab.txt, tokenizer_config.json
Writes  aug_path     the new rows alone, with the labels of the rows they come from (.txt or .jsonl)

Only training rows are for augmenting: files named dev or test are refused. The same seed gives the same file. Where
synonyms and homonyms come from without a dictionary of one's own: see words.py.
"""

import random
import sys
from pathlib import Path

if not __package__:  # run as a file: the project's root must be found
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from analysis.augmentation import CYCLE, TYPES, MaskedModel, augment
from analysis.words import load_dictionary
from utils import (
    InputError,
    add_device_argument,
    check_minima,
    get_logger,
    load_reported,
    make_parser,
    require_row_format,
    require_writable,
    run,
    write_rows,
)


def parse_args(argv):
    parser = make_parser("Augmented copies of training rows.")
    data = parser.add_argument_group("data")
    data.add_argument("--train_path", required=True, help="training rows; .txt, .jsonl, .json or .csv")
    data.add_argument("--aug_path", help="the new rows; .txt or .jsonl (default: aug.txt beside train_path)")
    change = parser.add_argument_group("change")
    change.add_argument("--aug_strategy", choices=("mix", *CYCLE), default="substitute", help="mix: the others in turn")
    change.add_argument(
        "--aug_type", choices=TYPES, default="synonym", help="where substitute and insert take words from"
    )
    change.add_argument("--create_n", type=int, default=2, help="new rows for each row")
    change.add_argument("--aug_percent", type=float, default=0.1, help="share of a text's words that are changed")
    change.add_argument("--dictionary", help="JSON file of your own: word -> list of words")
    change.add_argument("--mlm_model", help="directory of the model that --aug_type mlm asks")
    add_device_argument(change)
    change.add_argument("--seed", type=int, default=3, help="of the random choices")
    args = parser.parse_args(argv)
    check_minima(parser, args, create_n=1, seed=0)
    if not 0 < args.aug_percent <= 1:
        parser.error(f"argument --aug_percent: must be above 0 and at most 1, got {args.aug_percent}")
    if args.aug_type == "mlm" and args.aug_strategy in ("substitute", "insert", "mix") and not args.mlm_model:
        parser.error("argument --mlm_model: needed for --aug_type mlm, a directory with a masked language model")
    return args


def main(argv=None):
    args = parse_args(argv)
    logger, train_path = get_logger(), Path(args.train_path)
    aug_path = Path(args.aug_path or train_path.with_name("aug.txt"))
    for flag, path in (("--train_path", train_path), ("--aug_path", aug_path)):
        if (kind := path.stem.lower()) in ("dev", "test"):
            raise InputError(f"{path}: {flag} is for training rows; augmented {kind} rows would measure nothing.")
        if kind == "label":
            raise InputError(f"{path}: {flag} is for training rows; a file of this name holds the label tree.")
    texts, labels, *_ = load_reported(train_path, None, logger)
    require_row_format(aug_path, "--aug_path", zip(texts, labels))
    require_writable(aug_path, "--aug_path", [train_path])
    uses_words = args.aug_strategy in ("substitute", "insert", "mix")
    dictionary = masked_model = None
    if uses_words and args.aug_type == "mlm":
        masked_model = MaskedModel(args.mlm_model, args.device)
    elif uses_words:
        dictionary = load_dictionary(args.aug_type, args.dictionary)

    rng = random.Random(args.seed)
    new = augment(texts, args.aug_strategy, args.create_n, args.aug_percent, rng, dictionary, masked_model)
    if not new:
        raise InputError(
            f"{train_path}: no row has a word that --aug_strategy {args.aug_strategy} can change. Give a --dictionary "
            f"of words that are in these rows, or another strategy. {aug_path} was not written."
        )
    write_rows(aug_path, [(text, labels[row]) for row, text in new])
    if missing := len(texts) * args.create_n - len(new):
        logger.warning(
            f"{missing} copies could not be made: no word of theirs can be changed, or only to the same text"
        )
    logger.info(f"{len(new)} new rows saved in {aug_path}; put them after the training rows and train on both")


if __name__ == "__main__":
    run(main)
