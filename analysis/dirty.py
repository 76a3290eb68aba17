"""Rows of the training file whose labels are most likely wrong, to be checked and labelled again.

    python analysis/dirty.py --dataset_dir data
    python doccano.py --annotate_file data/train_dirty.jsonl --save_dir relabel         # to the annotation tool
    python doccano.py --doccano_file relabelled.jsonl --dirty --task_type hierarchical --save_dir data --overwrite
    python analysis/dirty.py --dataset_dir data --merge                                 # and back into training data
    python analysis/dirty.py --dataset_dir data --params_path checkpoint --strategy representer

Reads   dataset_dir/train.txt               (or JSON or CSV, see hierarchical/formats.py)
        dataset_dir/label.txt               the label tree
        params_path/                        the checkpoint, for the strategies that need one
Writes  dataset_dir/train_dirty.txt         the most suspicious rows, in the order of the training file
        dataset_dir/train_dirty_rest.txt    all others
        dataset_dir/train_dirty.jsonl       the suspicious rows again, worst first, each with the label in question
        dataset_dir/ledger.jsonl            what was asked; rows that it says were answered are not asked about again
        dataset_dir/.cache/                 what the encoder gives for the rows, for the strategies that need one

With --merge
Reads   the training file, the answers in ledger.jsonl, and what was changed in train_dirty.txt by hand
Writes  dataset_dir/train_clean.txt         the training file, each row in its place, with the labels that were answered
        dataset_dir/train_open.jsonl        rows that were asked about and keep their labels all the same, and why
        trusted_file, where it is given     train_clean.txt without the rows that nobody has checked and that, by what
                                            was found in those that were, are more likely wrong than right

Where the training file is a .jsonl, so are all of these, and the suspects are train_suspects.jsonl.

By default a row is suspicious when a linear classifier of character n-grams that was trained on other rows contradicts
its labels. A model that was trained on the row itself knows its labels by heart, wrong ones too.
"""

import json
import sys
from pathlib import Path

if not __package__:  # run as a file: the project's root must be found
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from analysis.cases import in_directory
from analysis.doubtful import LEAST_CHECKED, checked_rows, doubtful_rows
from analysis.merging import (
    NO_ANSWER,
    edits_of,
    ids_elsewhere,
    line_of,
    merge_answers,
    read_whole,
    require_merged,
    train_path_of,
    warn_of_torn,
    with_answers,
)
from analysis.suspects import find_suspects
from analysis.suspicion import STRATEGIES, Search
from hierarchical.checkpoints import Checkpoint, require_same_labels
from hierarchical.files import require_distinct
from hierarchical.formats import TEXT, existing, format_of
from hierarchical.label_graph import GRAPH
from hierarchical.ledger import MARGIN, RESOLUTIONS, Decision, Ledger, id_of
from utils import (
    SHOWN,
    InputError,
    LabelTree,
    Rows,
    add_checkpoint_arguments,
    add_dataset_arguments,
    atomic_write,
    check_minima,
    get_logger,
    load_reported,
    make_parser,
    require_directory,
    require_outputs,
    require_row_format,
    require_writable,
    run,
    shown,
    some,
)

DEFAULTS = {
    "dirty_file": "train_dirty.txt",
    "rest_file": "train_dirty_rest.txt",
    "suspect_file": "train_dirty.jsonl",
    "clean_file": "train_clean.txt",
}
IN_JSON = {  # the same where the training file is no lines of text
    "dirty_file": "train_dirty.jsonl",
    "rest_file": "train_dirty_rest.jsonl",
    "suspect_file": "train_suspects.jsonl",
    "clean_file": "train_clean.jsonl",
}


def parse_args(argv):
    parser = make_parser("Suspected label errors in train.")
    data = parser.add_argument_group("data")
    add_dataset_arguments(data, "train")
    add_checkpoint_arguments(parser, 16, "model, for the strategies neighbours and representer")
    search = parser.add_argument_group("search")
    search.add_argument("--strategy", choices=STRATEGIES, default="out_of_fold", help="what makes a row suspicious")
    search.add_argument("--dirty_num", type=int, default=100, help="rows to find")
    least = "representer: count a row's weights above this"
    search.add_argument("--dirty_threshold", type=float, default=0.0, help=least)
    search.add_argument("--seed", type=int, default=3, help="of the folds")
    again = "ask about a checked row again if the model contradicts it by this much more than when it was checked"
    search.add_argument("--margin", type=float, default=MARGIN, help=again)
    result = parser.add_argument_group("result")
    result.add_argument(
        "--dirty_file", default=DEFAULTS["dirty_file"], help="suspicious rows; a bare name: in dataset_dir"
    )
    result.add_argument("--rest_file", default=DEFAULTS["rest_file"], help="the other rows; .txt or .jsonl")
    result.add_argument(
        "--suspect_file", default=DEFAULTS["suspect_file"], help="suspicious rows with the label in question"
    )
    result.add_argument("--merge", action="store_true", help="write clean_file: train_file with the answers put in")
    how = "what annotators disagree about becomes the labels most gave, the last ones, or those that all share"
    result.add_argument("--resolve", choices=RESOLUTIONS, help=how)
    result.add_argument("--clean_file", default=DEFAULTS["clean_file"], help="what --merge writes")
    result.add_argument("--open_file", default="train_open.jsonl", help="rows that --merge leaves as they are, and why")
    trusted = "--merge: also clean_file without unchecked rows that are more likely wrong than right"
    result.add_argument("--trusted_file", help=trusted)
    args = parser.parse_args(argv)
    check_minima(parser, args, batch_size=1, max_seq_length=3, dirty_num=1, seed=0)
    if args.trusted_file and not args.merge:
        parser.error("argument --trusted_file: goes with --merge")
    return args


# ---- main ------------------------------------------------------------------------------------------------------------


def find(args, logger, directory, paths):
    """Write dirty_file, rest_file and suspect_file."""
    train_path, label_path = paths["train_file"], directory / args.label_file
    checkpoint = None
    if args.strategy == "out_of_fold":
        tree = LabelTree.read(label_path)
    else:
        checkpoint = Checkpoint.open(args.params_path, args.max_seq_length, windows=False)
        tree = checkpoint.tree
        require_same_labels(tree, label_path)
    train, ledger = load_reported(train_path, tree, logger), Ledger(directory, args.resolve)
    warn_of_torn(ledger, logger)
    rows = [row for row in read_whole(train_path, tree) if row.labels is not None]
    if args.dirty_num >= len(rows):
        raise InputError(f"--dirty_num {args.dirty_num}: {train_path} has {len(rows)} labelled rows; find fewer.")
    for flag in ("dirty_file", "rest_file"):
        require_row_format(paths[flag], f"--{flag}", [(row.text, row.labels) for row in rows])
    if paths["suspect_file"].suffix != ".jsonl":
        raise InputError(f"{paths['suspect_file']}: --suspect_file is written as .jsonl; name it so.")
    for flag in ("dirty_file", "rest_file", "suspect_file"):
        require_writable(paths[flag], f"--{flag}", not_to_be_replaced(directory, args, train_path))
    require_merged(paths["dirty_file"], rows, ledger, tree)

    train = with_answers(train, ledger, tree)
    search = Search(args.seed, checkpoint, args.device, args.batch_size, args.dirty_threshold, paths["train_file"])
    found = find_suspects(train, ledger, tree, args.strategy, search, args.margin)
    worst, names = found.order[: args.dirty_num], [tuple(tree.labels[i] for i in labels) for labels in train.labels]
    if found.resting:
        logger.info(f"{found.resting} rows were checked before and are not asked about again")
    if not worst:
        raise InputError(f"{ledger.path}: all rows of {train_path} were checked; a lower --margin asks again.")
    dirty = set(worst)
    for flag, part in (("dirty_file", sorted(dirty)), ("rest_file", [i for i in range(len(rows)) if i not in dirty])):
        with atomic_write(paths[flag]) as file:
            file.writelines(line_of(rows[i], names[i], paths[flag]) for i in part)
    with atomic_write(paths["suspect_file"]) as file:
        for i in worst:
            row = {"text": rows[i].text, "labels": names[i], "suspect": found.says(i)}
            row["model"] = {label: round(p, 2) for label, p in found.model(i).items() if p > 0.5}
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    ledger.add(
        Decision(id_of(rows[i].text), "asked", before=names[i], via="dirty.py", model=found.model(i)) for i in worst
    )
    ledger.note_written(paths["dirty_file"])
    for i in worst[:5]:
        logger.info(f"{found.says(i)}: {shown(rows[i].text, 60)}")
    for flag, what in (("dirty_file", "Suspicious rows"), ("rest_file", "The others"), ("suspect_file", "Reasons")):
        logger.info(f"{what} saved in {paths[flag]}")


def merge(args, logger, directory, paths):
    """Write clean_file: the training file with what was answered, and say what became of the questions."""
    tree = LabelTree.read(directory / args.label_file)
    train_path, clean, still_open = paths["train_file"], paths["clean_file"], paths["open_file"]
    rows, ledger = read_whole(train_path, tree), Ledger(directory, args.resolve)
    warn_of_torn(ledger, logger)
    edits, strangers = edits_of(paths["dirty_file"], rows, ledger, tree)
    if not edits and not ledger.decisions and not paths["dirty_file"].exists():
        raise InputError(f"{paths['dirty_file']}: no such file, and no answers in {ledger.path}: nothing to merge.")
    inputs = [*not_to_be_replaced(directory, args, train_path), paths["dirty_file"], paths["rest_file"]]
    outputs = {f"--{flag}": paths[flag] for flag in ("clean_file", "open_file", "trusted_file") if flag in paths}
    require_outputs(outputs, [*inputs, paths["suspect_file"]])
    if still_open.suffix != ".jsonl":
        raise InputError(f"{still_open}: --open_file is written as .jsonl; name it so.")
    if (trusted := paths.get("trusted_file")) and format_of(trusted) is not format_of(clean):
        raise InputError(f"{trusted}: --trusted_file has the lines of {clean.name}; let its name end as that does.")
    ledger.add(edits)
    elsewhere = None if train_path.stem.lower() in ("dev", "test") else ids_elsewhere(directory, tree)
    merged = merge_answers(rows, ledger, tree, clean, elsewhere)
    labelled = [(row.text, row.labels) for row in rows if row.labels is not None]
    require_row_format(clean, "--clean_file", labelled)
    with atomic_write(clean) as file:
        file.writelines(merged.lines)
    with atomic_write(still_open) as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in merged.open)
    if paths["dirty_file"].exists() and not strangers:  # all its answers are in the ledger now
        ledger.note_written(paths["dirty_file"])
    report(merged, strangers, rows, paths, logger)
    if trusted:
        write_trusted(trusted, merged, ledger, tree, args, logger)


def write_trusted(path, merged, ledger, tree, args, logger):
    """Write trusted_file: the merged rows without those that are doubtful."""
    numbers = [i for i, (_, labels) in enumerate(merged.rows) if labels is not None]
    texts = [merged.rows[i][0] for i in numbers]
    train = Rows(texts, [tuple(tree.index[name] for name in merged.rows[i][1]) for i in numbers], 0, 0)
    checked, left_out = checked_rows(texts, ledger, tree), []
    if len(checked) >= LEAST_CHECKED:
        left_out = [numbers[i] for i in doubtful_rows(train, checked, ledger, tree, Search(args.seed))]
    kept = sorted(set(range(len(merged.lines))).difference(left_out))
    with atomic_write(path) as file:
        file.writelines(merged.lines[i] for i in kept)
    for i in left_out[:5]:
        text, labels = merged.rows[i]
        logger.info(f"left out, {','.join(labels)}: {shown(text, 60)}")
    why = f"too few were checked to tell, {len(checked)} of {LEAST_CHECKED}" if len(checked) < LEAST_CHECKED else ""
    why = why or f"judging by {len(checked)} that were checked; to have them checked, look for suspects again"
    logger.info(
        f"{len(kept)} rows saved in {path}, {len(left_out)} left out that nobody has checked and that are more likely "
        f"wrong than right ({why})"
    )


def not_to_be_replaced(directory, args, train_path):
    """The files of a data folder that people have made."""
    others = [existing(directory / name) for name in ("dev.txt", "test.txt", "data.txt")]
    return [directory / args.label_file, train_path, directory / GRAPH, *filter(None, others)]


def report(merged, strangers, rows, paths, logger):
    """Say what a merge came to, and name what it left."""
    train, clean = paths["train_file"].name, paths["clean_file"]
    logger.info(f"{merged.changed} of {merged.changed + merged.confirmed} checked rows have other labels now")
    if merged.added:
        logger.info(f"{merged.added} texts that were labelled are new rows")
    if strangers:
        texts = some([repr(shown(text, 30)) for text in strangers], 3)
        logger.warning(
            f"{paths['dirty_file'].name}: {len(strangers)} texts in it are not in {train}, and were not merged: "
            f"{texts}. If they were edited, put the new text into {train}, and merge again"
        )
    if merged.open:
        unanswered = sum(row["why"] == NO_ANSWER for row in merged.open)
        logger.warning(
            f"{len(merged.open)} rows were asked about and keep their labels, {unanswered} of them without an answer "
            f"yet; {paths['open_file']} says why. To send them out again: "
            f"python doccano.py --annotate_file {paths['open_file']} --save_dir relabel"
        )
    for row in [row for row in merged.open if row["why"] != NO_ANSWER][:SHOWN]:
        logger.warning(f"{shown(row['text'], 40)}: {shown(row['why'])}")
    left = sum(row.labels is None for row in rows)
    without = f" ({left} of them without labels, as before)" if left else ""
    logger.info(f"{len(merged.lines)} rows saved in {clean}{without}; train with --train_file {clean.name}")


def main(argv=None):
    args = parse_args(argv)
    logger, directory = get_logger(), require_directory(args.dataset_dir)
    train = train_path_of(directory, args.train_file)
    flags = ("dirty_file", "rest_file", "suspect_file", "clean_file", "open_file")
    paths = {flag: in_directory(directory, getattr(args, flag)) for flag in flags}
    if format_of(train) is not TEXT:  # names that were left out follow the training file
        for flag, name in IN_JSON.items():
            paths[flag] = directory / name if getattr(args, flag) == DEFAULTS[flag] else paths[flag]
    if args.trusted_file:
        paths["trusted_file"] = in_directory(directory, args.trusted_file)
    require_distinct({f"--{flag}": path for flag, path in paths.items()})
    (merge if args.merge else find)(args, logger, directory, paths | {"train_file": train})


if __name__ == "__main__":
    run(main)
