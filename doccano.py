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
        agreement.json                 how far annotators agree, if several annotated the same texts
        valid.txt or train_dirty.txt   instead of all these but the last two, with --valid or --dirty; what everybody
                                       answered goes into ledger.jsonl, from where analysis/dirty.py --merge takes it

With --annotate_file
Reads   annotate_file   texts, with labels or without (see hierarchical/formats.py), and label_file, the label tree
Writes  doccano_import.jsonl, doccano_labels.json, label_studio_tasks.json and label_studio_config.xml into save_dir
"""

import json
import shlex
import time
from collections import Counter
from pathlib import Path

from hierarchical import folders
from hierarchical.agreement import agreement, agreement_lines
from hierarchical.annotation import LONGEST_IN_DOCCANO, Fields, import_files, read_export
from hierarchical.folders import LINE_BREAKS, SPLIT_NAMES
from hierarchical.formats import JSON_LINES, existing, format_of
from hierarchical.labels import separator_in
from hierarchical.ledger import RESOLUTIONS, Ledger
from utils import (
    SEPARATOR,
    InputError,
    LabelTree,
    Problems,
    add_folder_arguments,
    check_folder_arguments,
    get_logger,
    make_parser,
    parse_rows,
    read_rows,
    require_file,
    run,
    share,
)


def parse_args(argv):
    parser = make_parser("Annotation exports to data, and back.")
    export = parser.add_argument_group("from an annotation tool to a data folder")
    export.add_argument("--doccano_file", nargs="+", help="exported file(s) (default: doccano.jsonl)")
    tasks = ("multi_class", "multi_label", "hierarchical")
    export.add_argument("--task_type", choices=tasks, default="multi_label", help="multi_class: one label per text")
    export.add_argument("--separator", default=SEPARATOR, help="between the levels of a label in the tool")
    export.add_argument("--text_field", help="field of the export that holds the text; left out: text, or data")
    export.add_argument("--label_control", help="control or field that the labels come from; left out: label")
    export.add_argument("--valid", action="store_true", help="rows that sparse.py --annotate chose: to valid.txt")
    export.add_argument("--dirty", action="store_true", help="rows that dirty.py found: to train_dirty.txt")
    how = "what annotators disagree about becomes the labels most gave, the last ones, or those that all share"
    export.add_argument("--resolve", choices=RESOLUTIONS, help=how)
    add_folder_arguments(export, "./data", "an empty annotation means that no label applies")
    back = parser.add_argument_group("from a data folder to an annotation tool")
    back.add_argument("--annotate_file", help="rows to annotate, with labels or without")
    back.add_argument("--label_file", help="the label tree; left out: label.txt beside the rows")
    args = parser.parse_args(argv)
    if args.annotate_file and args.doccano_file:
        parser.error("argument --annotate_file: sends rows out, --doccano_file brings them back: one at a time")
    if args.valid and args.dirty:
        parser.error("argument --dirty: not allowed with --valid")
    args.doccano_file = args.doccano_file or ["doccano.jsonl"]
    args.splits = args.splits or ([share("1")] if args.valid or args.dirty else None)
    if (args.valid or args.dirty) and len(args.splits) > 1:
        parser.error("argument --splits: with --valid and --dirty, rows are not split: leave it out")
    check_folder_arguments(parser, args)
    if (args.valid or args.dirty) and args.format == "txt":
        train = existing(Path(args.save_dir) / "train.txt")
        args.format = "jsonl" if train and format_of(train) is JSON_LINES else "txt"
    if not args.separator.strip():
        parser.error("argument --separator: must not be empty")
    return args


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
                labels = folders.closure(labels)
            annotations.append(annotation._replace(text=text, labels=labels))
    problems.raise_if_any()
    for what, count in counts.items():
        if count:
            logger.warning(f"{what}: {count}")
    return annotations


def is_label_column(column, tree):
    """Is this the second column of a row that was given to the tool as a line of text?"""
    return all(name.strip() in tree.index for name in column.split(",")) if tree else SEPARATOR in column


def label_tree(known, label_sets, args):
    """The tree that the rows' class indices refer to: label.txt, if there is one, with new labels only at its end."""
    paths = sorted(set().union(*label_sets))  # tuples of level names sort in the order of the tree
    names = [SEPARATOR.join(path) for path in paths]
    if known is None:
        return LabelTree(names, "the labels of the export")
    path, tree = Path(args.save_dir) / "label.txt", LabelTree(names, "the labels of the export")
    return folders.extended(
        known, tree, args.add_labels, path, "the export", "rename them in the tool and export again"
    )


def warn_of_separator(label_sets, logger):
    """Warn if no label was cut into levels, and something else than --separator seems to stand between them."""
    paths = set().union(*label_sets)
    mark = None if any(len(path) > 1 for path in paths) else separator_in(path[0] for path in paths)
    if mark:
        logger.warning(
            f"no label has several levels, and most hold {mark!r}: if that stands between levels, run this again with "
            f"--separator {shlex.quote(mark)} and another --save_dir"
        )


# ---- the two ways ----------------------------------------------------------------------------------------------------


def convert(args, logger):
    """Exports of an annotation tool -> ({file name: (what it holds, content)} of a data folder, annotations)."""
    folder = Path(args.save_dir)
    returned = "valid" if args.valid else "train_dirty" if args.dirty else None
    known = LabelTree.read(folder / "label.txt") if (folder / "label.txt").exists() else None
    if returned and not known:
        logger.warning(f"{folder} has no label.txt: no one notices a label that differs from those of the other rows")
    annotations = read_annotations(args, known, logger)
    settled = folders.settle(annotations, args.resolve)
    rows, conflicts = settled.rows, settled.conflicts
    if settled.several:
        alike = settled.several - len(conflicts)
        logger.info(f"{settled.several} texts were annotated more than once, {alike} of them with one result")
    empty = [text for text, paths in rows.items() if not paths and not args.keep_empty]
    for text in empty:
        del rows[text]
    for what, count in (
        ("not annotated, or skipped", len(settled.not_annotated)),
        ("looked at and given no label, which --keep_empty keeps", len(empty)),
        ("given different labels, see conflicts.jsonl", len(conflicts)),
    ):
        if count:
            where = f"{returned}.{args.format} lacks them" if returned else "left out"
            logger.warning(f"texts {what}: {count}; {where}")
    if not rows and not conflicts:
        raise InputError(f"{', '.join(args.doccano_file)}: no text with labels is left. Nothing was written.")
    label_sets = [*rows.values(), *(one.labels for opinions in conflicts.values() for one in opinions)]
    if args.task_type == "hierarchical":
        warn_of_separator(label_sets, logger)
    tree = label_tree(known, label_sets, args)
    indices = folders.ClassIndices(tree)
    rows = [(text, indices(paths)) for text, paths in rows.items()]
    folders.require_no_comma(tree, (labels for _, labels in rows), args.format)
    files = {}
    if rows:
        files = {returned: rows} if returned else data_files(rows, settled.not_annotated, tree, args, logger)
    contents = folders.row_contents(files, tree, args.format)
    if conflicts:
        lines = [folders.conflict_line(*conflict, indices.names) for conflict in conflicts.items()]
        contents["conflicts.jsonl"] = f"{len(lines)} examples", lines
    answers = [(one, one.labels and names_of(one.labels, tree)) for one in annotations]
    said = [(one.text, one.annotator, names) for one, names in answers if names is not None]
    contents |= agreement_contents(said, tree, logger)
    if len(tree) > len(known or ()) and (known or not returned):
        contents |= folders.label_contents(tree)
    if not returned:
        folders.warn_of_older(folder, contents, logger)
        return contents, []
    return contents, answers


def names_of(paths, tree):
    """The labels of an answer by name, with all above them."""
    names = [SEPARATOR.join(path) for path in paths]
    if not tree.further or any(name not in tree.index for name in names):
        return names
    return [tree.labels[i] for i in tree.closure(tree.index[name] for name in names)]


def agreement_contents(said, tree, logger):
    """agreement.json, where there is anything to say; said: (text, annotator, labels by name)."""
    try:
        found = agreement(said, tree)
    except InputError as error:  # a package is missing, without which the rows are as good
        logger.warning(str(error))
        return {}
    if found is None:
        return {}
    for line in agreement_lines(found):
        logger.info(line)
    held = f"the agreement of {len(found.annotators)} annotators"
    return {"agreement.json": (held, [json.dumps(found._asdict(), ensure_ascii=False, indent=1)])}


def keep_answers(ledger, answers, args, logger):
    """Put what came back into the ledger: (Annotation, labels by name, None for a text that was skipped)."""
    via, decisions = f"doccano.py --{'dirty' if args.dirty else 'valid'}", []
    for one, names in answers:
        if one.labels is None and one.annotator == "None":  # nobody has come to it yet
            continue
        decision = ledger.answer(one.text, one.annotator, names, id=one.row_id, via=via, final=one.checked)
        if args.dirty and decision.before is None:  # it is a row of train, whatever labels that has
            decision = decision._replace(before=())
        decisions.append(decision)
    logger.info(f"{ledger.add(decisions)} answers went into {ledger.path}")


def data_files(rows, not_annotated, tree, args, logger):
    """{file name without suffix: rows} of a data folder; a row is (text, class indices), None if not labelled."""
    parts = folders.split([labels for _, labels in rows], tree, args.splits, args.is_shuffle, args.seed)
    files = {name: [rows[i] for i in numbers] for name, numbers in zip(SPLIT_NAMES, parts)}
    folders.warn_of_unseen(files, tree, logger)
    files["data"] = [(rows[i][0], None) for i in parts[-1]]
    if not_annotated:
        files["unlabeled"] = [(text, None) for text in not_annotated]
    return files


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
    folders.require_no_model(folder)
    if args.annotate_file:
        folders.write_folder(folder, send_out(args, logger), args.overwrite, logger)
    else:
        contents, answers = convert(args, logger)
        ledger = Ledger(folder)
        edited = [name for name in contents if not ledger.is_as_written(folder / name)]
        folders.require_free(folder, edited if answers else contents, args.overwrite)
        folder.mkdir(parents=True, exist_ok=True)
        if answers:
            keep_answers(ledger, answers, args, logger)
        folders.write_folder(folder, contents, True, logger)
        if answers:
            ledger.note_written(*(folder / name for name in contents))
    logger.info(f"Finished! It takes {time.time() - started:.2f} seconds")


if __name__ == "__main__":
    run(main)
