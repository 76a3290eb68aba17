"""Any labelled table or taxonomy -> a data folder; and rows or predictions -> a spreadsheet.

    python convert.py --input sales.xlsx --text_column title body --label_columns Cat1 Cat2 Cat3 --save_dir my_data
    python convert.py --input reviews.csv --text_column review --label_column tags --label_delimiter ";" --dry_run
    python convert.py --taxonomy google.txt --separator " > " --save_dir my_data                     # label.txt alone
    python convert.py --to xlsx --input predictions.jsonl                                            # the other way

Reads   input      tables: CSV and its like, JSON, Excel, Parquet, rows of this project; see hierarchical/tables/
        taxonomy   all labels there are, in one of four forms; class_names: the names of class numbers
        label_file, or save_dir/label.txt if it is there: class indices depend on its order, so it is only ever added to
Writes  into save_dir, unless with --dry_run
        train.txt, dev.txt, test.txt   one file per number of --splits, and per --train_input, --dev_input, --test_input
        data.txt                       the texts of the last of them; all texts, if the table has no labels
        label.txt, label_graph.txt     all labels and their ancestors; the further parents of those with several
        unlabeled.txt                  texts without a label
        conflicts.jsonl                texts that are there more than once, with different labels
        and to stdout what was understood
With --to
Writes  input's name with the new ending, beside it or into save_dir
"""

import argparse
import gc
import shlex
import time
from collections import Counter
from glob import glob
from itertools import islice
from pathlib import Path

from hierarchical import folders
from hierarchical.annotation import Annotation
from hierarchical.folders import LINE_BREAKS, SPLIT_NAMES
from hierarchical.labels import SEPARATOR
from hierarchical.tables.gathering import Columns, gather
from hierarchical.tables.giving_back import KINDS, give_back
from hierarchical.tables.labelling import Labelling, read_class_names
from hierarchical.tables.report import print_labels, print_rows, print_tables, print_tally, warn_of_labels
from hierarchical.tables.table import Dialect, Tally
from hierarchical.tables.taxonomies import read_taxonomy, tree_of
from utils import (
    SHOWN,
    InputError,
    LabelTree,
    Problems,
    add_folder_arguments,
    check_folder_arguments,
    get_logger,
    make_parser,
    run,
    shown,
    some,
)

ROWS_SHOWN, LABELS_SHOWN = 3, 10
UNLABELLED = "texts without a label, to unlabeled; --keep_empty says that none applies"
DAG_HELP = "a label with several parents: kept as one label with all of them, or under the first, or copied to each"
FORWARD = "text_column label_column label_columns onehot_columns taxonomy class_names".split()


def parse_args(argv):
    parser = make_parser("Any labelled table or taxonomy to data, and back to a spreadsheet.")
    tables = parser.add_argument_group("tables: .csv .tsv .txt .json .jsonl .ndjson .xlsx .parquet, also .gz")
    tables.add_argument("--input", nargs="+", help="table(s) whose rows are split into train, dev and test")
    for name in SPLIT_NAMES:
        beside = "; goes with --input, too" if name == "test" else ""
        tables.add_argument(f"--{name}_input", nargs="+", help=f"table(s) whose rows all go to {name}{beside}")
    tables.add_argument("--delimiter", type=mark, help="between cells; left out, as all of these: found out")
    tables.add_argument("--encoding", help="of texts, as gb18030 or cp1250")
    tables.add_argument("--no_header", action="store_true", help="the first row is a row; columns have numbers from 0")
    tables.add_argument("--sheet", help="of a workbook, name or number from 1; left out: the first")

    columns = parser.add_argument_group("columns: names, numbers from 0, or meta.aspects.name in JSON")
    columns.add_argument("--text_column", nargs="+", help="joined by blanks; left out: text, content or the like")
    text = "a label, or several; left out: label, labels or the like"
    columns.add_argument("--label_column", nargs="+", help=text)
    text = "a level each, blank cells end a path; again for a second path"
    columns.add_argument("--label_columns", nargs="+", action="append", help=text)
    columns.add_argument("--onehot_columns", nargs="+", help="a label each, 0 or 1 in their cells; names or patterns")

    labels = parser.add_argument_group("labels")
    labels.add_argument("--label_delimiter", type=mark, help="between the labels of a cell")
    labels.add_argument("--separator", type=mark, help="between the levels of a label; left out: ##")
    labels.add_argument("--class_names", help="labels are numbers; a name per line, the first of class 0")
    labels.add_argument("--taxonomy", help="all labels: a path per line, parent<TAB>children, nested JSON or YAML")
    labels.add_argument("--match_names", action="store_true", help="labels are the ends of paths in the taxonomy")
    labels.add_argument("--dag", choices=("keep", "first", "copy"), help=DAG_HELP)
    labels.add_argument("--label_file", help="label.txt whose classes are kept; left out: save_dir/label.txt")

    folder = parser.add_argument_group("data folder")
    add_folder_arguments(folder, None, "a row without a label means that none applies")
    folder.add_argument("--dry_run", action="store_true", help="only say what was understood")
    back = parser.add_argument_group("the other way")
    back.add_argument("--to", choices=KINDS, help="write the rows or predictions of input as a spreadsheet")
    args = parser.parse_args(argv)
    check_arguments(parser, args)
    return args


def check_arguments(parser, args):
    """End with a usage error for flags that do not go together."""
    args.parts = {name: files for name in SPLIT_NAMES if (files := getattr(args, f"{name}_input"))}
    if args.to:
        if args.parts or any(getattr(args, name) for name in FORWARD):
            parser.error("argument --to: reads rows or predictions of this project: give --input, and no columns")
        if not args.input:
            parser.error("argument --to: needs --input, the rows or predictions to write")
        return
    if not args.input and not args.parts and not args.taxonomy:
        parser.error("argument --input: needed, or --train_input, or a --taxonomy alone")
    if args.input and args.parts.keys() - {"test"}:
        parser.error(
            "argument --input: its rows are split; --train_input and --dev_input bring parts: one or the other"
        )
    if args.parts and args.splits and not args.input:
        parser.error("argument --splits: the parts are given, so leave it out")
    if args.parts and not args.input and "train" not in args.parts:
        parser.error("argument --train_input: needed, or --input for rows to be split")
    if len(args.label_column or ()) > 1:
        levels = f"--label_columns {' '.join(args.label_column)}"
        own = " ".join(f"--label_columns {name}" for name in args.label_column)
        parser.error(f"argument --label_column: one column; {levels} if they are levels, {own} if each holds a label")
    args.label_column = args.label_column[0] if args.label_column else None
    if sum(map(bool, (args.label_column, args.label_columns, args.onehot_columns))) > 1:
        parser.error("argument --label_column: one of --label_column, --label_columns and --onehot_columns")
    if args.label_delimiter and (args.label_columns or args.onehot_columns):
        parser.error("argument --label_delimiter: is for --label_column")
    if args.class_names and (args.label_columns or args.onehot_columns):
        parser.error("argument --class_names: is for --label_column")
    if not args.save_dir and not args.dry_run:
        parser.error("argument --save_dir: needed, unless with --dry_run")
    check_folder_arguments(parser, args)
    if args.input and args.parts and len(args.splits) > 2:
        parser.error("argument --splits: train and dev, as --test_input brings test: two numbers at most")


def mark(text):
    """What stands between things, with \\t for a TAB."""
    if not text or set(text) & set('"\r\n'):
        raise argparse.ArgumentTypeError(f"{text!r} can't separate anything")
    return text.replace("\\t", "\t")


# ---- what there is ---------------------------------------------------------------------------------------------------


def files_of(names):
    """The paths that names stand for; a pattern that the shell has left is resolved here."""
    paths = []
    for name in names:
        found = sorted(glob(name)) if not Path(name).exists() and set(name) & set("*?[") else [name]
        if not found:
            raise InputError(f"{name}: no such file.")
        paths += map(Path, found)
    return paths


def read_rows(args, tally, problems):
    """(part -> Rows, the keys of them all); the part is "" where rows are to be split. Faults go to `problems`."""
    columns = Columns(args.text_column or (), args.label_column, args.label_columns or (), args.onehot_columns or ())
    dialect = Dialect(args.delimiter, args.encoding, False if args.no_header else None, args.sheet)
    keys = {}
    named = ({"": args.input} if args.input else {}) | args.parts
    inputs = {name: files_of(names) for name, names in named.items()}
    parts = {name: gather(paths, columns, dialect, keys, tally, problems) for name, paths in inputs.items()}
    return parts, list(keys)


def labelling_of(args, taxonomy, known, rows_of_project):
    """The Labelling that the flags and the taxonomy ask for. rows_of_project: labels are joined by commas."""
    tree, paths = None, []
    if taxonomy:
        tree, paths = tree_of(*taxonomy.labels), taxonomy.paths
    elif known and args.match_names:
        tree, paths = known, [tuple(known.segments(i)) for i in range(len(known))]
    if args.match_names and not tree:
        raise InputError("--match_names: needs a --taxonomy or a --label_file, whose paths the labels are ends of.")
    return Labelling(
        delimiter=args.label_delimiter or ("," if rows_of_project else None),
        separator=args.separator or (taxonomy and taxonomy.separator) or SEPARATOR,
        class_names=read_class_names(args.class_names, args.encoding) if args.class_names else None,
        tree=tree,
        paths=paths,
        match=args.match_names or bool(args.class_names and tree),
        dag=args.dag,
    )


def is_of_project(args, parts):
    """Whether all tables are rows text<TAB>label,label,... of this project, and no columns are asked for."""
    tables = [table for rows in parts.values() for table, _ in rows.tables]
    asked = args.text_column or args.label_column or args.label_columns or args.onehot_columns
    plain = all(table.path.suffix in (".txt", ".tsv") and table.columns == ["0", "1"] for table in tables)
    return plain and not asked


def report_faults(parts, understood, problems):
    """Raise InputError with what is wrong with rows, and all labels that can't be understood, each at its first row."""
    counts, first, faults = Counter(), {}, {}
    for rows in parts.values():
        faulty = {key for key, one in enumerate(understood) if one.faults}
        for row, key in enumerate(rows.key_of) if faulty else ():
            if key in faulty:
                for fault in understood[key].faults:
                    counts[fault.label] += 1
                    first.setdefault(fault.label, (rows, row))
                    faults.setdefault(fault.label, fault)
    for label, fault in faults.items():
        rows, row = first[label]
        more = f" ({counts[label]:,} rows)" if counts[label] > 1 else ""
        problems.add(rows.where(row), None, fault.message() + more if problems.count < SHOWN else "")
    problems.raise_if_any()


def annotations(rows, understood, classes, args, tally):
    """Yield an Annotation for each row that has a text; what is done to rows is counted. classes: per key"""
    notes = {key for key, one in enumerate(understood) if one.notes}
    for text, key, place in zip(rows.texts, rows.key_of, rows.places()):
        if args.format == "txt" and LINE_BREAKS.search(text):
            tally.add("texts with TABs or line ends, now blanks; --format jsonl keeps them", place)
            text = LINE_BREAKS.sub(" ", text)
        if not text:
            tally.add("rows without a text, left out", place)
            continue
        for note in understood[key].notes if key in notes else ():
            tally.add(note, place)
        labels = classes[key]
        if not labels and not args.keep_empty:
            tally.first.setdefault(UNLABELLED, place)
            labels = None
        yield Annotation(text, labels, place, "")


# ---- the ways --------------------------------------------------------------------------------------------------------


def convert(args, logger):
    """Tables and a taxonomy -> what is to be written: {file name: (what it holds, its lines)}."""
    if args.save_dir and not args.dry_run:
        folders.require_no_model(Path(args.save_dir))
    tally, known, label_path = Tally(), None, Path(args.label_file or Path(args.save_dir or "") / "label.txt")
    if args.label_file or args.save_dir and label_path.exists():
        known = LabelTree.read(label_path)
    taxonomy = read_taxonomy(args.taxonomy, args.separator, args.dag, args.encoding) if args.taxonomy else None
    if not args.input and not args.parts:
        return taxonomy_alone(args, taxonomy, known, label_path)
    if args.save_dir and not args.dry_run:  # what is certain to be written
        names = {*args.parts, *(SPLIT_NAMES[: len(args.splits)] if args.input else ())}
        folders.require_free(Path(args.save_dir), {f"{name}.{args.format}" for name in names}, args.overwrite)
    problems = Problems()
    parts, keys = read_rows(args, tally, problems)
    labelling = labelling_of(args, taxonomy, known, is_of_project(args, parts))
    if not any(rows.texts for rows in parts.values()):
        problems.raise_if_any()
        raise InputError(f"{', '.join(args.input or args.train_input)}: no row in it.")
    if not any(rows.labelled for rows in parts.values()):
        problems.raise_if_any()
        return texts_alone(args, parts, labelling, logger)
    understood = labelling.understand(keys)
    report_faults(parts, understood, problems)
    used = {key for rows in parts.values() for text, key in zip(rows.texts, rows.key_of) if text}
    labels = set().union(*(understood[key].paths for key in used))
    tree = label_tree(args, taxonomy, known, label_path, labels)
    indices = folders.ClassIndices(tree)
    classes = [indices(one.paths) if key in used else () for key, one in enumerate(understood)]
    settled = {name: settle(rows, understood, classes, args, tally) for name, rows in parts.items()}
    print_tables(parts, taxonomy, labelling)
    print_rows(islice((row for part in settled.values() for row in part.rows.items()), ROWS_SHOWN), tree)
    print_labels((labels for part in settled.values() for labels in part.rows.values()), tree)
    print_tally(tally)
    warn_of_labels(labelling, labels, logger)
    files = files_of_rows(args, settled, tree, logger)
    folders.warn_of_unseen({name: files[name] for name in SPLIT_NAMES if name in files}, tree, logger)
    contents = folders.row_contents(files, tree, args.format)
    conflicts = [conflict for part in settled.values() for conflict in part.conflicts.items()]
    if conflicts:
        lines = [folders.conflict_line(*conflict, tree_names(tree)) for conflict in conflicts]
        contents["conflicts.jsonl"] = f"{len(lines)} examples", lines
    return contents | new_labels(args, tree, known)


def tree_names(tree):
    """A function class indices -> names of labels."""
    return lambda labels: [tree.labels[i] for i in sorted(labels)]


def settle(rows, understood, classes, args, tally):
    """One row per text, as in doccano.py; what is left out is counted."""
    count = 0

    def counted():
        nonlocal count
        for annotation in annotations(rows, understood, classes, args, tally):
            count += 1
            yield annotation

    settled = folders.settle(counted())
    opinions = sum(map(len, settled.conflicts.values()))
    if settled.not_annotated:
        tally.add(UNLABELLED, "", len(settled.not_annotated))
    if repeated := count - len(settled.rows) - len(settled.not_annotated) - opinions:
        tally.add("rows that repeat a text and say nothing else, left out", "", repeated)
    if opinions:
        first = next(iter(settled.conflicts.values()))[0].annotator
        tally.add("rows that repeat a text with other labels, to conflicts.jsonl", first, opinions)
    return settled


def label_tree(args, taxonomy, known, label_path, labels):
    """The tree that class indices refer to: label_file, if there is one, with new labels at its end. labels: paths"""
    if not taxonomy and not labels:
        raise InputError("no row with a label is left. Nothing was written.")
    tree = tree_of(*taxonomy.labels) if taxonomy else tree_of(sorted(labels), "the labels of the table")
    if known is None:
        return tree
    source = "the taxonomy" if taxonomy else "the table"
    return folders.extended(known, tree, args.add_labels, label_path, source, "correct them there")


def files_of_rows(args, settled, tree, logger):
    """{file name without suffix: rows}; a row is (text, class indices), None if not labelled."""
    parts = {name: list(part.rows.items()) for name, part in settled.items()}
    folders.require_no_comma(tree, (labels for rows in parts.values() for _, labels in rows), args.format)
    if "" in parts:
        rows = parts.pop("")
        numbers = folders.split([labels for _, labels in rows], tree, args.splits, args.is_shuffle, args.seed)
        parts = {name: [rows[i] for i in part] for name, part in zip(SPLIT_NAMES, numbers)} | parts
    learned = {text for text, _ in parts["train"]} if args.parts else set()
    for name, rows in parts.items():
        if not rows:
            raise InputError(f"{name}: no row with a label is left for it. Nothing was written.")
        if name != "train" and (known := sum(text in learned for text, _ in rows)):
            logger.warning(f"texts in {name} that train holds, too; scores will be too good: {known}")
    *_, last = parts.values()
    parts["data"] = [(text, None) for text, _ in last]
    if unlabelled := [(text, None) for part in settled.values() for text in part.not_annotated]:
        parts["unlabeled"] = unlabelled
    return parts


def new_labels(args, tree, known):
    """label.txt, unless the one in save_dir has these labels already. Raises InputError if it has others."""
    path = Path(args.save_dir or "") / "label.txt"
    if not args.save_dir or not path.exists():
        return folders.label_contents(tree)
    there = LabelTree.read(path)
    if there.labels != tree.labels[: len(there)] or not set(there.further) <= set(tree.further):
        raise InputError(f"{path}: has other classes than {args.label_file}. Use another --save_dir.")
    return {} if there.is_same(tree) else folders.label_contents(tree)


def texts_alone(args, parts, labelling, logger):
    """Tables without labels -> data.txt, a line for each row, blank ones too: there are as many predictions."""
    print_tables(parts, None, labelling)
    texts = [text for rows in parts.values() for text in rows.texts]
    if args.format == "txt":
        texts = [LINE_BREAKS.sub(" ", text) for text in texts]
    files = {"data": [(text, None) for text in texts]}
    print_rows(islice(files["data"], ROWS_SHOWN), None)
    logger.warning("no column of labels was named or found, so all texts go to data, for predict.py")
    return folders.row_contents(files, None, args.format)


def taxonomy_alone(args, taxonomy, known, label_path):
    """A taxonomy without rows -> label.txt."""
    tree = label_tree(args, taxonomy, known, label_path, ())
    print(f"{taxonomy.path}: {taxonomy.said}")
    print(f"\n{tree.size()}")
    for label in tree.labels[:LABELS_SHOWN]:
        print(f"    {shown(label)}")
    return new_labels(args, tree, known)


def say_what_is_next(args, contents, logger):
    folder = shlex.quote(args.save_dir)
    if f"train.{args.format}" in contents:
        names = [name for name in ("train", "dev", "test") if f"{name}.{args.format}" in contents]
        flags = "".join(f" --{name}_file {name}.{args.format}" for name in names) if args.format != "txt" else ""
        logger.info(f"Next: python check_data.py --dataset_dir {folder}{flags}")
    elif f"data.{args.format}" in contents:
        flags = f" --data_file data.{args.format}" if args.format != "txt" else ""
        logger.info(f"Next: python predict.py --dataset_dir {folder}{flags} --output_file predictions.jsonl")


def main(argv=None):
    args = parse_args(argv)
    started, logger = time.time(), get_logger()
    if args.to:
        for path in files_of(args.input):
            logger.info(give_back(path, args.to, Path(args.save_dir or path.parent), args.overwrite))
        return
    gc.disable()  # millions of rows, and no circles among them: to look for some would take a quarter of the time
    try:
        contents = convert(args, logger)
    finally:
        gc.enable()
    if args.dry_run:
        print(f"\nNothing was written (--dry_run). Without it: {some(list(contents), 10)}")
        return
    print(flush=True)
    folders.warn_of_older(Path(args.save_dir), contents, logger)
    folders.write_folder(Path(args.save_dir), contents, args.overwrite, logger)
    logger.info(f"Finished! It takes {time.time() - started:.2f} seconds")
    say_what_is_next(args, contents, logger)


if __name__ == "__main__":
    run(main)
