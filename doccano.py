"""Annotation exports -> data folder, and rows that want (re)labelling -> files for the annotation tools.

    python doccano.py --doccano_file all.jsonl --task_type hierarchical --save_dir my_data --splits 0.8 0.2
    python doccano.py --doccano_file project-1.json --task_type hierarchical --save_dir my_data      # Label Studio
    python doccano.py --annotate_file my_data/train_dirty.txt --save_dir relabel                     # the other way

Reads   doccano_file    exports of doccano (JSONL, JSON) or Label Studio (JSON, JSON-MIN), see annotation.py
        save_dir/label.txt, if it is there: class indices depend on its order, so it is only ever added to
Writes  into save_dir
        train.txt, dev.txt, test.txt   one file per number of --splits: text<TAB>label,label,...
        data.txt                       the texts of the last of them, to try predict.py on
        label.txt                      all labels and their ancestors, in the order of the tree
        unlabeled.txt                  texts that nobody has annotated yet
        conflicts.jsonl                texts on which annotators disagree; they are in none of the files above
        valid.txt or train_dirty.txt   instead of all these but the last, with --valid or --dirty

With --annotate_file
Reads   annotate_file   texts, with labels or without (see hierarchical/formats.py), and label_file, the label tree
Writes  doccano_import.jsonl, doccano_labels.json, label_studio_tasks.json and label_studio_config.xml into save_dir
"""

import argparse
import json
import re
import shlex
import time
from collections import Counter
from contextlib import ExitStack
from fractions import Fraction
from itertools import accumulate
from pathlib import Path

import numpy as np

from hierarchical.annotation import LONGEST_IN_DOCCANO, Fields, import_files, read_export
from hierarchical.stratify import stratified_split
from utils import (
    SEPARATOR,
    SHOWN,
    InputError,
    LabelTree,
    Problems,
    atomic_write,
    check_minima,
    format_row,
    get_logger,
    make_parser,
    parse_rows,
    read_rows,
    require_file,
    run,
    some,
)

LINE_BREAKS = re.compile(r"[\t\n\v\f\r\x1c-\x1e\x85\u2028\u2029]+")  # what would break a row of a .txt file
SPLIT_NAMES = ("train", "dev", "test")
SEPARATORS = ("-->", "->", "=>", "::", "--", ">", "→", "»", "/", "|", "\\")  # what people put between levels


def parse_args(argv):
    parser = make_parser("Annotation exports to data, and back.")
    export = parser.add_argument_group("from an annotation tool to a data folder")
    export.add_argument("--doccano_file", nargs="+", help="exported file(s) (default: doccano.jsonl)")
    export.add_argument("--save_dir", default="./data", help="directory to write to; made if need be")
    shares = "shares of train, dev and test; one: no split (default: 0.8 0.2)"
    export.add_argument("--splits", nargs="+", type=share, help=shares)
    tasks = ("multi_class", "multi_label", "hierarchical")
    export.add_argument("--task_type", choices=tasks, default="multi_label", help="multi_class: one label per text")
    export.add_argument("--is_shuffle", type=yes_or_no, nargs="?", const=True, default=True, help="false: cut in order")
    export.add_argument("--seed", type=int, default=3, help="of the shuffle")
    export.add_argument("--separator", default=SEPARATOR, help="between the levels of a label in the tool")
    export.add_argument("--text_field", help="field of the export that holds the text; left out: text, or data")
    export.add_argument("--label_control", help="control or field that the labels come from; left out: label")
    export.add_argument("--valid", action="store_true", help="rows that sparse.py --annotate chose: to valid.txt")
    export.add_argument("--dirty", action="store_true", help="rows that dirty.py found: to train_dirty.txt")
    export.add_argument("--format", choices=("txt", "jsonl"), default="txt", help="of the rows that are written")
    export.add_argument("--keep_empty", action="store_true", help="an empty annotation means that no label applies")
    export.add_argument("--add_labels", action="store_true", help="add new labels at the end of save_dir/label.txt")
    export.add_argument("--overwrite", action="store_true", help="replace files of an earlier run")
    back = parser.add_argument_group("from a data folder to an annotation tool")
    back.add_argument("--annotate_file", help="rows to annotate, with labels or without")
    back.add_argument("--label_file", help="the label tree; left out: label.txt beside the rows")
    args = parser.parse_args(argv)
    if args.annotate_file and args.doccano_file:
        parser.error("argument --annotate_file: sends rows out, --doccano_file brings them back: one at a time")
    if args.valid and args.dirty:
        parser.error("argument --dirty: not allowed with --valid")
    args.doccano_file = args.doccano_file or ["doccano.jsonl"]
    args.splits = args.splits or ([share("1")] if args.valid or args.dirty else [share("0.8"), share("0.2")])
    if (args.valid or args.dirty) and len(args.splits) > 1:
        parser.error("argument --splits: with --valid and --dirty, rows are not split: leave it out")
    if not 1 <= len(args.splits) <= 3 or min(args.splits) <= 0 or sum(args.splits) != 1:
        parser.error("argument --splits: one to three numbers above 0 that sum to 1, such as 0.8 0.2 or 0.8 0.1 0.1")
    check_minima(parser, args, seed=0)
    if not args.separator.strip():
        parser.error("argument --separator: must not be empty")
    if args.keep_empty and args.format == "txt":
        parser.error('argument --keep_empty: a .txt row can\'t say "no label applies"; add --format jsonl')
    return args


def yes_or_no(text):
    if text.lower() not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"true or false, not {text!r}")
    return text.lower() == "true"


def share(text):
    """A decimal number as a fraction, since 0.7 + 0.2 is not 0.9 in floating point."""
    return Fraction(str(float(text)))


# ---- annotations -> rows ---------------------------------------------------------------------------------------------


def read_annotations(args, tree, logger):
    """All annotations of all files, cleaned: label sets closed under ancestors, texts on one line for .txt rows.

    tree: the label tree that the data folder has already, or None. Raises InputError with every bad record.
    """
    problems, annotations, counts = Problems(), [], Counter()
    fields = Fields(args.text_field, args.label_control)
    for path in args.doccano_file:
        for annotation in read_export(path, args.separator, args.keep_empty, problems, fields):
            text, labels = annotation.text, annotation.labels
            head, tab, column = text.rpartition("\t")
            if tab and is_label_column(column, tree):
                counts["texts that end with a TAB and labels, which --dirty removes"] += not args.dirty
                text = head if args.dirty else text
            text = text.strip()
            if args.format == "txt" and LINE_BREAKS.search(text):
                counts["texts with TABs or line ends, now blanks; --format jsonl keeps them"] += 1
                text = LINE_BREAKS.sub(" ", text)
            if not text:
                counts["empty texts, left out"] += 1
                continue
            if labels is not None:
                closed = {label[:depth] for label in labels for depth in range(1, len(label) + 1)}
                deepest = sorted(closed - {label[:-1] for label in closed})
                if args.task_type == "multi_class" and len(deepest) > 1:
                    names = ", ".join(map(SEPARATOR.join, deepest))
                    problems.add(annotation.where, None, f"a multi_class text has one label, this one has {names}")
                paths = args.task_type != "hierarchical" and any(len(label) > 1 for label in labels)
                counts["texts with labels of several levels, to which their ancestors were added"] += paths
                labels = tuple(sorted(closed))
            annotations.append(annotation._replace(text=text, labels=labels))
    problems.raise_if_any()
    for what, count in counts.items():
        if count:
            logger.warning(f"{what}: {count}")
    return annotations


def is_label_column(column, tree):
    """Is this the second column of a row that was given to the tool as a line of text?"""
    return all(name.strip() in tree.index for name in column.split(",")) if tree else SEPARATOR in column


def settle(annotations, logger):
    """One row per text: ({text: its labels}, texts not annotated, {text: annotations that differ}), labels as paths."""
    groups, rows, not_annotated, conflicts, several = {}, {}, [], {}, 0
    for annotation in annotations:
        groups.setdefault(annotation.text, []).append(annotation)
    for text, group in groups.items():
        opinions = [annotation for annotation in group if annotation.labels is not None]
        opinions = [annotation for annotation in opinions if annotation.checked] or opinions
        label_sets = {annotation.labels for annotation in opinions}
        several += len(opinions) > 1
        if not opinions:
            not_annotated.append(text)
        elif len(label_sets) > 1:
            conflicts[text] = opinions
        else:
            rows[text] = label_sets.pop()
    if several:
        logger.info(
            f"{several} texts were annotated more than once, {several - len(conflicts)} of them with one result"
        )
    return rows, not_annotated, conflicts


def label_tree(known, label_sets, args):
    """The tree that the rows' class indices refer to: label.txt, if there is one, with new labels only at its end."""
    paths = sorted(set().union(*label_sets))  # tuples of level names sort in the order of the tree
    names = [SEPARATOR.join(path) for path in paths]
    if known is None:
        return LabelTree(names, "the labels of the export")
    new = [name for name in names if name not in known.index]
    if new and not args.add_labels:
        guesses = [known.guess(name) for name in new[:SHOWN]]
        shown = [f"{name}" + (f"   ({guess})" if guess else "") for name, guess in zip(new, guesses)]
        if len(new) > SHOWN:
            shown.append(f"... and {len(new) - SHOWN} more")
        raise InputError(
            f"{Path(args.save_dir) / 'label.txt'}: {len(new)} labels of the export are not in it:\n  "
            + "\n  ".join(shown)
            + "\nIf they are wrong, rename them in the tool and export again. If this is another project, use another "
            "--save_dir. If they are right, --add_labels adds them at the end of label.txt; a model trained before "
            "does not know them and must be trained again. Nothing was written."
        )
    words = known.words + [""] * len(new)
    return LabelTree(known.labels + new, "label.txt with the labels of the export", words=words)


def separator_in(paths):
    """What probably stands between the levels of most labels (tuples of level names), if none was cut; else None."""
    names = {path[0] for path in paths}
    if any(len(path) > 1 for path in paths):
        return None
    held = {mark: sum(mark in name for name in names) for mark in SEPARATORS}
    mark = max(held, key=lambda mark: held[mark])  # of equals the first, which is the longest
    return mark if 2 * held[mark] > len(names) else None


# ---- rows -> files ---------------------------------------------------------------------------------------------------


def split(rows, tree, args, logger):
    """Row numbers of each part: list of int64 [n]; rows are tuples of class indices. Raises InputError for no rows."""
    shares = args.splits
    if args.is_shuffle:
        part = stratified_split(rows, len(tree), shares, args.seed)
        order = np.random.default_rng(args.seed).permutation(len(rows))
        parts = [order[part[order] == number] for number in range(len(shares))]
    else:
        parts = np.split(np.arange(len(rows)), [int(len(rows) * until) for until in accumulate(shares)][:-1])
    has = [{label for row in numbers for label in rows[row]} for numbers in parts]
    for name, numbers, present in zip(SPLIT_NAMES, parts, has):
        if not len(numbers):
            raise InputError(
                f"{name} would get none of the {len(rows)} annotated rows (the only row of a label goes to train). "
                "Annotate more, or put all rows into one file: --splits 1.0"
            )
        if missing := [label for i, label in enumerate(tree.labels) if i not in present]:
            logger.warning(f"labels without a row in {name}: {len(missing)}: {some(missing)}")
    return parts


# ---- the two ways ----------------------------------------------------------------------------------------------------


def convert(args, logger):
    """Exports of an annotation tool -> {file name: (what it holds, content)} of a data folder."""
    folder = Path(args.save_dir)
    returned = "valid" if args.valid else "train_dirty" if args.dirty else None
    known = LabelTree.read(folder / "label.txt") if (folder / "label.txt").exists() else None
    if returned and not known:
        logger.warning(f"{folder} has no label.txt: no one notices a label that differs from those of the other rows")
    settled, not_annotated, conflicts = settle(read_annotations(args, known, logger), logger)
    empty = [text for text, paths in settled.items() if not paths and not args.keep_empty]
    for text in empty:
        del settled[text]
    for what, count in (
        ("not annotated, or skipped", len(not_annotated)),
        ("looked at and given no label, which --keep_empty keeps", len(empty)),
        ("given different labels, see conflicts.jsonl", len(conflicts)),
    ):
        if count:
            where = f"{returned}.{args.format} lacks them" if returned else "left out"
            logger.warning(f"texts {what}: {count}; {where}")
    if not settled and not conflicts:
        raise InputError(f"{', '.join(args.doccano_file)}: no text with labels is left. Nothing was written.")
    disputed = [annotation.labels for opinions in conflicts.values() for annotation in opinions]
    label_sets = [*settled.values(), *disputed]
    mark = separator_in(set().union(*label_sets)) if args.task_type == "hierarchical" else None
    if mark:
        logger.warning(
            f"no label has several levels, and most hold {mark!r}: if that stands between levels, run this again with "
            f"--separator {shlex.quote(mark)} and another --save_dir"
        )
    tree = label_tree(known, label_sets, args)

    def names(paths):
        return [tree.labels[i] for i in sorted(tree.index[SEPARATOR.join(path)] for path in paths)]

    rows = [(text, names(paths)) for text, paths in settled.items()]
    commas = {label for _, labels in rows for label in labels if "," in label}
    if commas and args.format == "txt":
        raise InputError(f"{min(commas)!r}: a label with a comma can't stand in a .txt row. Add --format jsonl.")
    contents, files = {}, {}
    if rows:
        files = {returned: rows} if returned else data_files(rows, not_annotated, tree, args, logger)
    for name, rows in files.items():
        name = f"{name}.{args.format}"
        contents[name] = f"{len(rows)} examples", "".join(format_row(name, *row) for row in rows)
    if conflicts:
        lines = [conflict_line(*conflict, names) for conflict in conflicts.items()]
        contents["conflicts.jsonl"] = f"{len(lines)} examples", "".join(lines)
    if len(tree) > len(known or ()) and (known or not returned):
        contents["label.txt"] = f"{len(tree)} labels", "".join(f"{line}\n" for line in tree.lines())
    older = (f"{name}.{form}" for name in (*SPLIT_NAMES, "unlabeled", "conflicts") for form in ("txt", "jsonl", "csv"))
    older = [name for name in older if name not in contents and (folder / name).exists()]
    if older and not returned:
        logger.warning(f"{folder} keeps its {', '.join(older)}, whose texts may now be in other files as well")
    return contents


def data_files(rows, not_annotated, tree, args, logger):
    """{file name without suffix: rows} of a data folder; a row is (text, label names), names None if not labelled."""
    parts = split([[tree.index[label] for label in labels] for _, labels in rows], tree, args, logger)
    files = {name: [rows[i] for i in numbers] for name, numbers in zip(SPLIT_NAMES, parts)}
    files["data"] = [(rows[i][0], None) for i in parts[-1]]
    if not_annotated:
        files["unlabeled"] = [(text, None) for text in not_annotated]
    return files


def conflict_line(text, opinions, names):
    """A text that annotators disagree about, as a JSON row with the labels that all agree on."""
    agreed = set.intersection(*(set(annotation.labels) for annotation in opinions))
    said = [{"annotator": annotation.annotator, "labels": names(annotation.labels)} for annotation in opinions]
    return json.dumps({"text": text, "labels": names(agreed), "annotations": said}, ensure_ascii=False) + "\n"


def send_out(args, logger):
    """Rows -> {file name: (what it holds, content)} to import into the annotation tools."""
    path = Path(args.annotate_file)
    tree = LabelTree.read(args.label_file or path.parent / "label.txt")
    require_file(path, "It holds the rows to annotate: text<TAB>label,label,... or texts alone.")
    problems, seen = Problems(), Counter()
    rows = list(read_rows(path, tree, problems, seen))
    problems.raise_if_any()
    others = [row.others or {} for row in parse_rows(path, problems) if row.text is not None]
    notes = list(map(note, others))  # what else a row holds is for the annotator to see
    if not rows:
        raise InputError(f"{path}: no row in it.")
    if too_long := sum(len(label) > LONGEST_IN_DOCCANO for label in tree.labels):
        logger.warning(f"labels of more than {LONGEST_IN_DOCCANO} characters, which doccano does not take: {too_long}")
    return import_files(rows, notes if any(notes) else [], tree)


def note(others):
    """The further fields of a JSON row, on one line."""
    others = {key: value for key, value in others.items() if value != {}}
    others = {key: v if isinstance(v, str) else json.dumps(v, ensure_ascii=False) for key, v in others.items()}
    joined = "; ".join(f"{key}: {value}" for key, value in others.items())
    return joined.encode(errors="replace").decode()  # half of a surrogate pair can be read, but not written


def main(argv=None):
    args = parse_args(argv)
    started, logger, folder = time.time(), get_logger(), Path(args.save_dir)
    contents = send_out(args, logger) if args.annotate_file else convert(args, logger)
    there = [name for name in contents if (folder / name).exists() and name != "label.txt"]
    if there and not args.overwrite:
        raise InputError(
            f"{folder}: already has {', '.join(there)}. Use another --save_dir, or --overwrite to replace them. "
            "Nothing was written."
        )
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as files:  # all of them take their names at the end, or none does
        for name, (_, content) in contents.items():
            files.enter_context(atomic_write(folder / name)).write(content)
    for name, (what, _) in contents.items():
        logger.info(f"Save {what} to {folder / name}.")
    logger.info(f"Finished! It takes {time.time() - started:.2f} seconds")


if __name__ == "__main__":
    run(main)
