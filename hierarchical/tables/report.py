"""What convert.py understood, in words and numbers."""

import shlex
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from logging import Logger

import numpy as np

from hierarchical.console import shown
from hierarchical.label_graph import GRAPH
from hierarchical.labels import LabelTree, clean_name, separator_in
from hierarchical.tables.gathering import Rows
from hierarchical.tables.labelling import Labelling
from hierarchical.tables.table import Tally
from hierarchical.tables.taxonomies import Levels, Taxonomy

COMMONEST = 10  # labels that are shown, and as many of the rarest
IN_A_LINE, MUCH = 100, 2000  # characters of a text, and of a list of names, that are shown
DELIMITERS = (";", "|", ",", "；", "，", "、")  # what people put between labels


def print_tables(parts: Mapping[str, Rows], taxonomy: Taxonomy | None, labelling: Labelling) -> None:
    """What the files were found to be. parts: name, or "" -> its rows"""
    for name, rows in parts.items():
        ends = [start for start, _ in rows.files[1:]] + [len(rows.texts)]
        for (table, columns), (start, path), end in zip(rows.tables, rows.files, ends):
            print(f"{name and f'{name}: '}{path}: {table.said}, {end - start:,} rows")
            print(f"    columns: {shown(table.listed(), MUCH)}\n    {shown(columns, MUCH)}")
    if taxonomy:
        print(f"{taxonomy.path}: {taxonomy.said}, {len(taxonomy.paths):,} labels")
    for said in labelling.said:
        print(f"labels: {said}")


def print_rows(rows: Iterable[tuple[str, Sequence[int] | None]], tree: LabelTree | None) -> None:
    """Rows (text, class indices) as they will be read."""
    print("\nRows as they will be read")
    for text, labels in rows:
        print(f"  text    {shown(text, IN_A_LINE)}")
        if tree and labels is not None:
            print(f"  labels  {shown(', '.join(tree.labels[i] for i in labels), MUCH) or '(none applies)'}")


def print_labels(rows: Iterable[tuple[int, ...]], tree: LabelTree) -> None:
    """Labels and rows per level, the commonest and the rarest labels. rows: the class indices of each"""
    levels, support, at_level = tree.levels.tolist(), [0] * len(tree), Counter[int]()
    for labels, count in Counter(rows).items():
        for i in labels:
            support[i] += count
        for level in {levels[i] for i in labels}:
            at_level[level] += count
    print(f"\nLabels: {len(tree):,}")
    for level in range(1, tree.depth + 1):
        print(f"{levels.count(level):>10,} of level {level}, in {at_level[level]:,} rows")
    if tree.further:
        print(f"{len(tree.further):>10,} further parents, in {GRAPH}")
    if without := support.count(0):
        print(f"{without:>10,} without a row")
    order = [i for i in np.argsort(-np.array(support), kind="stable") if support[i]]
    for title, some_of in (("Commonest", order[:COMMONEST]), ("Rarest", order[COMMONEST:][-COMMONEST:])):
        if some_of:
            print(f"\n{title}\n" + "\n".join(f"{support[i]:>10,}  {shown(tree.labels[i])}" for i in some_of))


def print_tally(tally: Tally) -> None:
    """What was done to rows, how often, and where first."""
    if tally.counts:
        print("\nMended, left out, or to be known")
    for what, count in tally.counts.items():
        first = tally.first[what]
        print(f"{count:>10,}  {what}" + (f" (first: {first})" if first else ""))


def warn_of_labels(labelling: Labelling, labels: Iterable[Levels], logger: Logger) -> None:
    """Ask where labels look as if they were several, or paths, or numbers."""
    labels = list(labels)
    if labelling.tree or labelling.class_names or any(len(path) > 1 for path in labels):
        return
    names = {clean_name(path[0]) for path in labels}
    if all(name.isdecimal() for name in names):
        logger.warning("all labels are numbers: --class_names names a file with the names of the classes")
    found = None if labelling.delimiter else next((mark for mark in DELIMITERS if _often(mark, names)), None)
    if found:
        logger.warning(
            f"most labels hold {found!r}: if that stands between labels, give --label_delimiter {shlex.quote(found)}"
        )
    elif found := separator_in(names):
        logger.warning(
            f"most labels hold {found!r}: if that stands between levels, give --separator {shlex.quote(found)}"
        )


def _often(mark: str, names: set[str]) -> bool:
    return 2 * sum(mark in name for name in names) > len(names)
