"""From annotated texts to a data folder: one row per text, classes that keep their numbers, parts, files.

What doccano.py and convert.py have in common; the flags are add_folder_arguments() of utils.py.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from fractions import Fraction
from itertools import accumulate
from logging import Logger
from pathlib import Path
from typing import NamedTuple

import numpy as np

from hierarchical.annotation import Annotation
from hierarchical.errors import SHOWN, InputError, some
from hierarchical.files import atomic_write
from hierarchical.identity import holds_model
from hierarchical.label_graph import GRAPH, graph_path
from hierarchical.labels import SEPARATOR, LabelTree
from hierarchical.ledger import resolved
from hierarchical.rows import format_rows
from hierarchical.stratify import stratified_split

Paths = tuple[tuple[str, ...], ...]  # the labels of a text, each the names of its levels
Labelled = tuple[str, Sequence[int] | None]  # a text, its class indices in ascending order; None: not labelled
Contents = dict[str, tuple[str, Iterable[str]]]  # file name -> (what it holds, its lines)

LINE_BREAKS = re.compile(r"[\t\n\v\f\r\x1c-\x1e\x85\u2028\u2029]+")  # what would break a row of a .txt file
SPLIT_NAMES = ("train", "dev", "test")
FORMATS = ("txt", "jsonl")


class Settled(NamedTuple):
    """Annotations, one group per text.

    rows           text -> its labels, where all who annotated it agree, or `resolve` settles it
    not_annotated  the other texts: those that nobody annotated
    conflicts      and those that annotators disagree about, with what they said
    several        texts that were annotated more than once
    """

    rows: dict[str, tuple]
    not_annotated: list[str]
    conflicts: dict[str, list[Annotation]]
    several: int


def settle(annotations: Iterable[Annotation], resolve: str | None = None) -> Settled:
    """Bring together what is said about each text. An answer that is marked as true settles a disagreement.

    resolve: how else it is settled, see ledger.resolved; None: it is not
    """
    groups: dict[str, list[Annotation]] = {}
    for annotation in annotations:
        groups.setdefault(annotation.text, []).append(annotation)
    rows, not_annotated, conflicts, several = {}, [], {}, 0
    for text, group in groups.items():
        opinions = group if len(group) == 1 else [one for one in group if one.labels is not None]
        several += len(opinions) > 1
        opinions = [one for one in opinions if one.checked] or opinions
        if not opinions or opinions[0].labels is None:
            not_annotated.append(text)
        elif (labels := resolved([one.labels or () for one in opinions], resolve)) is None:
            conflicts[text] = opinions
        else:
            rows[text] = tuple(labels)
    return Settled(rows, not_annotated, conflicts, several)


def conflict_line(text: str, opinions: Sequence[Annotation], names: Callable[[Iterable], list[str]]) -> str:
    """A text that annotators disagree about, as a JSON row with the labels all agree on; names: paths -> labels."""
    agreed = set.intersection(*(set(one.labels or ()) for one in opinions))
    said = [{"annotator": one.annotator, "labels": names(one.labels or ())} for one in opinions]
    return json.dumps({"text": text, "labels": names(agreed), "annotations": said}, ensure_ascii=False) + "\n"


# ---- labels ----------------------------------------------------------------------------------------------------------


def closure(labels: Iterable[tuple[str, ...]]) -> Paths:
    """Labels with all their ancestors, in the order of the tree."""
    return tuple(sorted({label[:depth] for label in labels for depth in range(1, len(label) + 1)}))


def extended(known: LabelTree, wanted: LabelTree, add: bool, path: Path, source: str, remedy: str) -> LabelTree:
    """The tree of a label.txt with the labels that it lacks at its end, so that its classes keep their numbers.

    wanted  a tree with these labels; a label of `known` may get further parents by it
    add     False: labels and parents that are new are an InputError
    path    that label.txt; source: where the labels come from; remedy: what to do if they are wrong
    """
    names = wanted.labels
    new = [name for name in names if name not in known.index]
    if new and not add:
        guesses = [known.guess(name) for name in new[:SHOWN]]
        shown = [f"{name}" + (f"   ({guess})" if guess else "") for name, guess in zip(new, guesses)]
        if len(new) > SHOWN:
            shown.append(f"... and {len(new) - SHOWN} more")
        raise InputError(
            f"{path}: {len(new)} labels of {source} are not in it:\n  "
            + "\n  ".join(shown)
            + f"\nIf they are wrong, {remedy}. If this is another project, use another --save_dir. If they are right, "
            "--add_labels adds them at the end of label.txt; a model trained before does not know them and must be "
            "trained again. Nothing was written."
        )
    words = known.words + [""] * len(new)
    both = LabelTree(known.labels + new, source, words=words, further=known.further)
    edges = {(both.index[names[child]], both.index[names[parent]]) for child, parent in wanted.further}
    further = sorted(edges - set(known.further) - set(enumerate(both.parents.tolist())))
    if further and not add:
        told = some([f"{both.labels[child]!r} under {both.labels[parent]!r}" for child, parent in further])
        raise InputError(
            f"{graph_path(path)}: {len(further)} parents of {source} are not in it: {told}. --add_labels adds them; a "
            "model trained before does not know them and must be trained again. Nothing was written."
        )
    return LabelTree(both.labels, f"{path} with the labels of {source}", words=words, further=known.further + further)


class ClassIndices:
    """Labels as paths, with all their ancestors -> class indices, ascending; every set of labels is looked up once.

    Of a label with several parents the ancestors are added that its path does not name.
    """

    def __init__(self, tree: LabelTree):
        self.tree = tree
        self.of: dict[Iterable, tuple[int, ...]] = {}

    def __call__(self, paths: Paths) -> tuple[int, ...]:
        if paths not in self.of:
            labels = sorted({self.tree.index[SEPARATOR.join(path)] for path in paths})
            self.of[paths] = tuple(self.tree.closure(labels) if self.tree.further else labels)
        return self.of[paths]

    def names(self, paths: Iterable) -> list[str]:
        return [self.tree.labels[i] for i in self(tuple(paths))]


def require_no_comma(tree: LabelTree, used: Iterable[Sequence[int]], form: str) -> None:
    """Raise InputError if a label of these rows can't stand in rows of this format."""
    if form != "txt":
        return
    commas = {i for i, label in enumerate(tree.labels) if "," in label}
    if commas and (found := [tree.labels[i] for labels in used for i in labels if i in commas]):
        raise InputError(f"{min(found)!r}: a label with a comma can't stand in a .txt row. Add --format jsonl.")


# ---- parts -----------------------------------------------------------------------------------------------------------


def split(
    rows: Sequence[Sequence[int]], tree: LabelTree, shares: Sequence[Fraction], shuffle: bool, seed: int
) -> list[np.ndarray]:
    """Row numbers of each part: list of int64 [n]; rows are tuples of class indices. Raises InputError for no rows."""
    if shuffle:
        part = stratified_split(rows, len(tree), shares, seed)
        order = np.random.default_rng(seed).permutation(len(rows))
        parts = [order[part[order] == number] for number in range(len(shares))]
    else:
        parts = np.split(np.arange(len(rows)), [int(len(rows) * until) for until in accumulate(shares)][:-1])
    for name, numbers in zip(SPLIT_NAMES, parts):
        if not len(numbers):
            raise InputError(
                f"{name} would get none of the {len(rows)} annotated rows (the only row of a label goes to train). "
                "Annotate more, or put all rows into one file: --splits 1.0"
            )
    return parts


def warn_of_unseen(files: Mapping[str, Sequence[Labelled]], tree: LabelTree, logger: Logger) -> None:
    """Warn about the labels without a row in a part. files: name of a part -> its rows"""
    for name, rows in files.items():
        present = {label for _, labels in rows for label in labels or ()}
        if missing := [label for i, label in enumerate(tree.labels) if i not in present]:
            logger.warning(f"labels without a row in {name}: {len(missing)}: {some(missing)}")


# ---- files -----------------------------------------------------------------------------------------------------------


def row_contents(files: Mapping[str, Sequence[Labelled]], tree: LabelTree, form: str) -> Contents:
    """The files of rows: name without suffix -> rows."""

    def named(rows: Sequence[Labelled]) -> Iterator[tuple[str, list[str] | None]]:
        for text, labels in rows:
            yield text, None if labels is None else [tree.labels[i] for i in labels]

    contents: Contents = {}
    for name, rows in files.items():
        lines = format_rows(f"{name}.{form}", named(rows))
        contents[f"{name}.{form}"] = (f"{len(rows)} examples", lines)
    return contents


def label_contents(tree: LabelTree) -> Contents:
    contents: Contents = {"label.txt": (f"{len(tree)} labels", [f"{line}\n" for line in tree.lines()])}
    if tree.further:
        contents[GRAPH] = f"{len(tree.further)} further parents", [f"{line}\n" for line in tree.graph_lines()]
    return contents


def warn_of_older(folder: Path, contents: Contents, logger: Logger) -> None:
    """Warn about the files of an earlier run that this one will not replace."""
    older = (f"{name}.{form}" for name in (*SPLIT_NAMES, "unlabeled", "conflicts") for form in (*FORMATS, "csv"))
    kept = [name for name in older if name not in contents and (folder / name).exists()]
    if kept:
        logger.warning(f"{folder} keeps its {', '.join(kept)}, whose texts may now be in other files as well")


def require_no_model(folder: Path) -> None:
    """Raise InputError for a model's folder, whose label.txt belongs to the model."""
    if holds_model(folder):
        raise InputError(f"{folder}: holds a model, whose label.txt belongs to it. Use another --save_dir.")


def require_free(folder: Path, contents: Iterable[str], overwrite: bool) -> None:
    """Raise InputError if files of these names are there and may not be replaced; label.txt and its graph may."""
    there = [name for name in contents if (folder / name).exists() and name not in ("label.txt", GRAPH)]
    if there and not overwrite:
        raise InputError(
            f"{folder}: already has {', '.join(there)}. Use another --save_dir, or --overwrite to replace them. "
            "Nothing was written."
        )


def write_folder(folder: Path, contents: Contents, overwrite: bool, logger: Logger) -> None:
    """Write all the files, or none; what is there is replaced only with `overwrite`, label.txt in any case.

    With a label.txt that has no graph, one that is there goes: it would give these labels the parents of others.
    """
    require_free(folder, contents, overwrite)
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as files:  # all of them take their names at the end, or none does
        for name, (_, lines) in contents.items():
            files.enter_context(atomic_write(folder / name)).writelines(lines)
    for name, (what, _) in contents.items():
        logger.info(f"Save {what} to {folder / name}.")
    if "label.txt" in contents and GRAPH not in contents and (folder / GRAPH).exists():
        (folder / GRAPH).unlink()
        logger.info(f"Remove {folder / GRAPH}, which was of other labels: none of these has several parents.")
