"""Draw a few rows per label from a file with many.

    python few-shot/sample.py --data_dir data --shots 2 --output_file few/train.txt

Reads   data_dir/{train.txt, label.txt}
Writes  output_file   the rows drawn, shuffled; the same for the same seed
        rest_file     the rows that were not drawn, if asked for: to test with

Each label is given --shots rows that no other label was given, the rarest label first: 74 labels and --shots 2 make 148
rows. A row has several labels, so that some labels, parents above all, have more rows in the end.
"""

import sys
from pathlib import Path

import numpy as np

if not __package__:  # run as a file: the project's root must be found
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from utils import (
    InputError,
    LabelTree,
    add_label_file_argument,
    check_minima,
    get_logger,
    load_reported,
    make_parser,
    require_directory,
    require_row_format,
    require_writable,
    run,
    write_rows,
)


def parse_args(argv):
    parser = make_parser("Draw a few rows per label.")
    parser.add_argument("--data_dir", required=True, help="directory with the train and label files")
    parser.add_argument("--train_file", default="train.txt", help="name inside data_dir; .txt, .jsonl, .json or .csv")
    add_label_file_argument(parser, directory="data_dir")
    parser.add_argument("--shots", type=int, default=2, help="rows per label")
    parser.add_argument("--seed", type=int, default=0, help="of the draw")
    parser.add_argument("--output_file", required=True, help="the rows drawn; .txt or .jsonl")
    parser.add_argument("--rest_file", help="the other rows; .txt or .jsonl")
    args = parser.parse_args(argv)
    check_minima(parser, args, shots=1, seed=0)
    return args


def draw(labels, n_labels, shots, seed):
    """Row numbers, int64 [n], in random order: `shots` rows for every label, as far as there are any.

    labels: of each row its class indices
    """
    order = np.random.default_rng(seed).permutation(len(labels))
    rows_of = [[] for _ in range(n_labels)]
    for row in order.tolist():
        for label in labels[row]:
            rows_of[label].append(row)
    taken = np.zeros(len(labels), bool)
    for rows in sorted(rows_of, key=len):
        taken[[row for row in rows if not taken[row]][:shots]] = True
    return order[taken[order]]


def main(argv=None):
    args = parse_args(argv)
    logger, directory = get_logger(), require_directory(args.data_dir, "--data_dir")
    inputs = [directory / args.label_file, directory / args.train_file]
    tree = LabelTree.read(inputs[0])
    rows = load_reported(inputs[1], tree, logger)
    drawn = draw(rows.labels, len(tree), args.shots, args.seed)
    rest = np.setdiff1d(np.arange(len(rows.labels)), drawn)
    outputs = {"--output_file": (args.output_file, drawn), "--rest_file": (args.rest_file, rest)}
    outputs = {flag: (Path(path), chosen) for flag, (path, chosen) in outputs.items() if path}
    if len({path.resolve() for path, _ in outputs.values()}) < len(outputs):
        raise InputError(f"{args.rest_file}: --output_file and --rest_file name the same file.")
    made = {
        flag: (path, [(rows.texts[i], [tree.labels[label] for label in rows.labels[i]]) for i in chosen])
        for flag, (path, chosen) in outputs.items()
    }
    for flag, (path, chosen) in made.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        require_writable(path, flag, inputs)
        require_row_format(path, flag, chosen)
    for path, chosen in made.values():
        write_rows(path, chosen)
        logger.info(f"Save {len(chosen)} examples to {path}.")
    counts = rows._replace(labels=[rows.labels[i] for i in drawn]).label_counts(len(tree))
    if short := [f"{tree.labels[i]} ({counts[i]})" for i in np.flatnonzero(counts < args.shots)]:
        logger.warning(f"{len(short)} labels have fewer than {args.shots} rows: {', '.join(short[:10])}")
    logger.info(f"Rows per label: least {counts.min()}, median {int(np.median(counts))}, most {counts.max()}")


if __name__ == "__main__":
    run(main)
