"""Any labelled table or taxonomy -> a data folder; and rows or predictions -> a spreadsheet.

    python convert.py --input sales.xlsx --text_column title body --label_columns Cat1 Cat2 Cat3 --save_dir my_data
    python convert.py --input reviews.csv --text_column review --label_column tags --label_delimiter ";" --dry_run
    python convert.py --taxonomy google.txt --separator " > " --save_dir my_data                     # label.txt alone
    python convert.py --to xlsx --input predictions.jsonl                                            # the other way

Reads   input      tables: CSV and its like, JSON, Excel, Parquet, rows of this project; see hierarchical/tables/
        taxonomy   all labels there are, in one of four forms; class_names: the names of class numbers
        label_file, or save_dir/label.txt if it is there: class indices depend on its order, so it is only ever added to
Writes  into save_dir, unless with --dry_run
        train.txt, dev.txt, test.txt   one file per number of --splits, or per --train_input, --dev_input, --test_input
        data.txt                       the texts of the last of them; all texts, if the table has no labels
        label.txt                      all labels and their ancestors
        unlabeled.txt                  texts without a label
        conflicts.jsonl                texts that are there more than once, with different labels
        and to stdout what was understood
With --to
Writes  input's name with the new ending, beside it or into save_dir
"""

import shlex
import time
from collections import Counter
from glob import glob
from itertools import islice
from pathlib import Path

import numpy as np

from hierarchical import folders
from hierarchical.annotation import Annotation
from hierarchical.folders import LINE_BREAKS, SPLIT_NAMES
from hierarchical.labels import SEPARATOR, clean_name, separator_in
from hierarchical.tables.gathering import Columns, gather
from hierarchical.tables.giving_back import KINDS, give_back
from hierarchical.tables.labelling import Labelling, read_class_names
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

COMMONEST = 10  # labels that are shown, and as many of the rarest
ROWS_SHOWN = 3
DELIMITERS = (";", "|", ",", "；", "，", "、")  # what people put between labels
FORWARD = "text_column label_column label_columns onehot_columns taxonomy class_names".split()


def parse_args(argv):
    parser = make_parser("Any labelled table or taxonomy to data, and back to a spreadsheet.")
    tables = parser.add_argument_group("tables: .csv .tsv .txt .json .jsonl .ndjson .xlsx .parquet, also .gz")
    tables.add_argument("--input", nargs="+", help="table(s) whose rows are split into train, dev and test")
    for name in SPLIT_NAMES:
        tables.add_argument(f"--{name}_input", nargs="+", help=f"table(s) whose rows all go to {name}")
    tables.add_argument("--delimiter", type=mark, help="between cells; left out, as all of these: found out")
    tables.add_argument("--encoding", help="of texts, as gb18030 or cp1250")
    tables.add_argument("--no_header", action="store_true", help="the first row is a row; columns have numbers from 0")
    tables.add_argument("--sheet", help="of a workbook, name or number from 1; left out: the first")

    columns = parser.add_argument_group("columns: names, numbers from 0, or meta.aspects.name in JSON")
    columns.add_argument("--text_column", nargs="+", help="joined by blanks; left out: text, content or the like")
    columns.add_argument("--label_column", help="a label, or several; left out: label, labels or the like")
    text = "a level each, blank cells end a path; again for a second path"
    columns.add_argument("--label_columns", nargs="+", action="append", help=text)
    columns.add_argument("--onehot_columns", nargs="+", help="a label each, 0 or 1 in their cells; names or patterns")

    labels = parser.add_argument_group("labels")
    labels.add_argument("--label_delimiter", type=mark, help="between the labels of a cell")
    labels.add_argument("--separator", type=mark, help="between the levels of a label; left out: ##")
    labels.add_argument("--class_names", help="labels are numbers; a name per line, the first of class 0")
    labels.add_argument("--taxonomy", help="all labels: a path per line, parent<TAB>children, nested JSON or YAML")
    labels.add_argument("--match_names", action="store_true", help="labels are the ends of paths in the taxonomy")
    labels.add_argument("--dag", choices=("first", "copy"), help="a label with several parents: the first, or each")
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
    if args.input and args.parts:
        parser.error("argument --input: its rows are split; --train_input and the like bring parts: one or the other")
    if args.parts and args.splits:
        parser.error("argument --splits: the parts are given, so leave it out")
    if args.parts and "train" not in args.parts:
        parser.error("argument --train_input: needed, or --input for rows to be split")
    if sum(map(bool, (args.label_column, args.label_columns, args.onehot_columns))) > 1:
        parser.error("argument --label_column: one of --label_column, --label_columns and --onehot_columns")
    if args.label_delimiter and (args.label_columns or args.onehot_columns):
        parser.error("argument --label_delimiter: is for --label_column")
    if args.class_names and (args.label_columns or args.onehot_columns):
        parser.error("argument --class_names: is for --label_column")
    if not args.save_dir and not args.dry_run:
        parser.error("argument --save_dir: needed, unless with --dry_run")
    check_folder_arguments(parser, args)


def mark(text):
    """What stands between things, with \\t for a TAB."""
    if not text:
        raise ValueError
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


def read_rows(args, tally):
    """(part -> Rows, the keys of them all); the part is "" where rows are to be split. Raises InputError."""
    columns = Columns(args.text_column or (), args.label_column, args.label_columns or (), args.onehot_columns or ())
    dialect = Dialect(args.delimiter, args.encoding, False if args.no_header else None, args.sheet)
    problems, keys = Problems(), {}
    inputs = {name: files_of(names) for name, names in (args.parts or {"": args.input}).items()}
    parts = {name: gather(paths, columns, dialect, keys, tally, problems) for name, paths in inputs.items()}
    problems.raise_if_any()
    return parts, list(keys)


def labelling_of(args, taxonomy, known, rows_of_project):
    """The Labelling that the flags and the taxonomy ask for. rows_of_project: labels are joined by commas."""
    tree, paths = None, []
    if taxonomy:
        tree, paths = tree_of(taxonomy.paths, taxonomy.path, taxonomy.words), taxonomy.paths
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
    """Whether all tables are rows text<TAB>label,label,... of this project: .txt, no header, and no columns asked for."""
    tables = [table for rows in parts.values() for table, _ in rows.tables]
    asked = args.text_column or args.label_column or args.label_columns or args.onehot_columns
    plain = all(table.path.suffix in (".txt", ".tsv") and table.columns == ["0", "1"] for table in tables)
    return plain and not asked


def report_faults(parts, understood):
    """Raise InputError with all labels that can't be understood, each at its first row."""
    counts, first, faults = Counter(), {}, {}
    for rows in parts.values():
        faulty = {key for key, one in enumerate(understood) if one.faults}
        for row, key in enumerate(rows.key_of) if faulty else ():
            if key in faulty:
                for fault in understood[key].faults:
                    counts[fault.label] += 1
                    first.setdefault(fault.label, (rows, row))
                    faults.setdefault(fault.label, fault)
    problems = Problems()
    for label, fault in faults.items():
        rows, row = first[label]
        more = f" ({counts[label]:,} rows)" if counts[label] > 1 else ""
        problems.add(rows.where(row), None, fault.message() + more if problems.count < SHOWN else "")
    problems.raise_if_any()


def annotations(rows, understood, args, tally):
    """Yield an Annotation for each row that has a text; what is done to rows is counted."""
    for row, (text, key) in enumerate(zip(rows.texts, rows.key_of)):
        if args.format == "txt" and LINE_BREAKS.search(text):
            tally.add("texts with TABs or line ends, now blanks; --format jsonl keeps them", rows.where(row))
            text = LINE_BREAKS.sub(" ", text)
        if not text:
            tally.add("rows without a text, left out", rows.where(row))
            continue
        labels = understood[key].paths
        for note in understood[key].notes:
            tally.add(note, rows.where(row))
        if not labels and not args.keep_empty:
            tally.add("rows without a label, to unlabeled; --keep_empty says that none applies", rows.where(row))
        place = rows.where(row)
        yield Annotation(text, labels if labels or args.keep_empty else None, place, place)


# ---- what was understood ---------------------------------------------------------------------------------------------


def print_tables(parts, taxonomy, labelling):
    for name, rows in parts.items():
        ends = [start for start, _ in rows.files[1:]] + [len(rows.texts)]
        for (table, columns), (start, path), end in zip(rows.tables, rows.files, ends):
            print(f"{name and f'{name}: '}{path}: {table.said}, {end - start:,} rows")
            print(f"    columns: {table.listed()}")
            print(f"    {columns}")
    if taxonomy:
        print(f"{taxonomy.path}: {taxonomy.said}")
    for said in labelling.said:
        print(f"labels: {said}")


def print_rows(files, tree):
    print("\nRows as they will be read")
    for text, labels in islice((row for rows in files.values() for row in rows), ROWS_SHOWN):
        print(f"  text    {shown(text, 100)}")
        if labels is not None:
            print(f"  labels  {', '.join(tree.labels[i] for i in labels) or '(none applies)'}")


def print_labels(files, tree):
    """Labels and rows per level, the commonest and the rarest labels."""
    sets = Counter(labels for name in SPLIT_NAMES for _, labels in files.get(name, ()))
    support, at_level = np.zeros(len(tree), np.int64), Counter()
    for labels, rows in sets.items():
        support[list(labels)] += rows
        at_level.update(dict.fromkeys(set(tree.levels[list(labels)].tolist()), rows))
    print(f"\nLabels: {len(tree):,}")
    for level in range(1, tree.depth + 1):
        print(f"{(tree.levels == level).sum():>10,} of level {level}, in {at_level[level]:,} rows")
    if without := int((support == 0).sum()):
        print(f"{without:>10,} without a row")
    order = [i for i in np.argsort(-support, kind="stable") if support[i]]
    for title, some_of in (("Commonest", order[:COMMONEST]), ("Rarest", order[COMMONEST:][-COMMONEST:])):
        if some_of:
            print(f"\n{title}\n" + "\n".join(f"{support[i]:>10,}  {tree.labels[i]}" for i in some_of))


def print_tally(tally):
    if tally.counts:
        print("\nMended, left out, or to be known")
    for what, count in tally.counts.items():
        first = tally.first[what]
        print(f"{count:>10,}  {what}" + (f" (first: {first})" if first else ""))


def warn_of_labels(labelling, understood, keys, logger):
    """Ask where labels look as if they were several, or paths, or numbers."""
    if labelling.tree or labelling.class_names:
        return
    labels = {path for one in understood for path in one.paths}
    names = {clean_name(path[0]) for path in labels}
    if not names or any(len(path) > 1 for path in labels):
        return
    if all(name.isdecimal() for name in names):
        logger.warning("all labels are numbers: --class_names names a file with the names of the classes")
    delimiter = None if labelling.delimiter else next((m for m in DELIMITERS if often(m, names)), None)
    separator = separator_in(names)
    if delimiter and delimiter != separator:
        what, flag, found = "labels", "--label_delimiter", delimiter
    elif separator:
        what, flag, found = "levels", "--separator", separator
    else:
        return
    advice = f"if that stands between {what}, give {flag} {shlex.quote(found)}"
    logger.warning(f"most labels hold {found!r}: {advice}")


def often(mark, names):
    return 2 * sum(mark in name for name in names) > len(names)


# ---- the ways --------------------------------------------------------------------------------------------------------


def convert(args, logger):
    """Tables and a taxonomy -> what is to be written: {file name: (what it holds, its lines)}."""
    tally, known, label_path = Tally(), None, Path(args.label_file or Path(args.save_dir or "") / "label.txt")
    if args.label_file or args.save_dir and label_path.exists():
        known = LabelTree.read(label_path)
    taxonomy = read_taxonomy(args.taxonomy, args.separator, args.dag, args.encoding) if args.taxonomy else None
    if not args.input and not args.parts:
        return taxonomy_alone(args, taxonomy, known, label_path)
    if args.save_dir and not args.dry_run:  # what is certain to be written
        names = ["train", *(args.parts or SPLIT_NAMES[: len(args.splits)])]
        folders.require_free(Path(args.save_dir), {f"{name}.{args.format}" for name in names}, args.overwrite)
    parts, keys = read_rows(args, tally)
    labelling = labelling_of(args, taxonomy, known, is_of_project(args, parts))
    if not any(keys):
        return texts_alone(args, parts, labelling, logger)
    understood = labelling.understand(keys)
    report_faults(parts, understood)
    settled = {name: settle(rows, understood, args, tally) for name, rows in parts.items()}
    tree = label_tree(args, taxonomy, known, label_path, settled)
    indices = folders.ClassIndices(tree)
    files = files_of_rows(args, settled, tree, indices, tally)
    print_tables(parts, taxonomy, labelling)
    print_rows(files, tree)
    print_labels(files, tree)
    print_tally(tally)
    warn_of_labels(labelling, understood, keys, logger)
    folders.warn_of_unseen({name: files[name] for name in SPLIT_NAMES if name in files}, tree, logger)
    contents = folders.row_contents(files, tree, args.format)
    if lines := [
        folders.conflict_line(*one, indices.names) for part in settled.values() for one in part.conflicts.items()
    ]:
        contents["conflicts.jsonl"] = f"{len(lines)} examples", lines
    return contents | new_labels(args, tree, known)


def settle(rows, understood, args, tally):
    """One row per text, as in doccano.py; what is left out is counted."""
    count = 0

    def counted():
        nonlocal count
        for annotation in annotations(rows, understood, args, tally):
            count += 1
            yield annotation

    settled = folders.settle(counted())
    opinions = sum(map(len, settled.conflicts.values()))
    if repeated := count - len(settled.rows) - len(settled.not_annotated) - opinions:
        tally.add("rows that repeat a text and its labels, left out", "", repeated)
    if opinions:
        first = next(iter(settled.conflicts.values()))[0].annotator
        tally.add("rows that repeat a text with other labels, to conflicts.jsonl", first, opinions)
    return settled


def label_tree(args, taxonomy, known, label_path, settled):
    """The tree that class indices refer to: label_file, if there is one, with new labels at its end."""
    paths = taxonomy.paths if taxonomy else None
    if paths is None:
        opinions = (one for part in settled.values() for several in part.conflicts.values() for one in several)
        sets = {labels for part in settled.values() for labels in part.rows.values()} | {one.labels for one in opinions}
        paths = sorted(set().union(*sets))
    if not paths:
        raise InputError("no row with a label is left. Nothing was written.")
    tree = tree_of(paths, taxonomy.path if taxonomy else "the labels of the table", taxonomy and taxonomy.words)
    if known is None:
        return tree
    source = "the taxonomy" if taxonomy else "the table"
    return folders.extended(known, tree.labels, args.add_labels, label_path, source, "correct them there")


def files_of_rows(args, settled, tree, indices, tally):
    """{file name without suffix: rows}; a row is (text, class indices), None if not labelled."""
    parts = {name: [(text, indices(paths)) for text, paths in part.rows.items()] for name, part in settled.items()}
    folders.require_no_comma(tree, (labels for rows in parts.values() for _, labels in rows), args.format)
    if "" in parts:
        rows = parts.pop("")
        numbers = folders.split([labels for _, labels in rows], tree, args.splits, args.is_shuffle, args.seed)
        parts = {name: [rows[i] for i in part] for name, part in zip(SPLIT_NAMES, numbers)}
    for name, rows in parts.items():
        if not rows:
            raise InputError(f"{name}: no row with a label is left for it. Nothing was written.")
        if name != "train" and (known := sum(text in settled["train"].rows for text, _ in rows) if args.parts else 0):
            tally.add(f"texts in {name} that train holds, too; scores will be too good", "", known)
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
    there = LabelTree.read(path).labels
    if there != tree.labels[: len(there)]:
        raise InputError(f"{path}: has other classes than {args.label_file}. Use another --save_dir.")
    return folders.label_contents(tree) if len(tree) > len(there) else {}


def texts_alone(args, parts, labelling, logger):
    """Tables without labels -> data.txt, a line for each row, blank ones too: there are as many predictions."""
    print_tables(parts, None, labelling)
    texts = [text for rows in parts.values() for text in rows.texts]
    if args.format == "txt":
        texts = [LINE_BREAKS.sub(" ", text) for text in texts]
    files = {"data": [(text, None) for text in texts]}
    print_rows(files, None)
    logger.warning("no column of labels was named or found, so all texts go to data, for predict.py")
    return folders.row_contents(files, None, args.format)


def taxonomy_alone(args, taxonomy, known, label_path):
    """A taxonomy without rows -> label.txt."""
    tree = label_tree(args, taxonomy, known, label_path, {})
    print(f"{taxonomy.path}: {taxonomy.said}")
    levels = " + ".join(str(count) for count in np.bincount(tree.levels)[1:])
    print(f"\n{len(tree):,} labels in {tree.depth} levels ({levels})")
    for label in tree.labels[:COMMONEST]:
        print(f"    {label}")
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
    contents = convert(args, logger)
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
