"""Taxonomies of strangers, of four forms, as paths of names.

    A > B > C                     a path on each line, levels joined by anything; so is this project's label.txt
    A<TAB>B<TAB>C                 a parent and its children on each line (NeuralClassifier, edge lists)
    {"A": {"B": ["C", "D"]}}      nested JSON or YAML; also {"name": "A", "children": [...]}

A node of the second form may have several parents: then it is for the user to say what becomes of it, see --dag.
"""

import json
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from hierarchical.errors import InputError, some
from hierarchical.label_graph import graph_path
from hierarchical.labels import SEPARATOR, SEPARATORS, WORD_SEPARATOR, LabelTree, clean_name, join_levels, separator_in
from hierarchical.tables.text_files import TextFile, open_text

Levels = tuple[str, ...]  # the names of a label's levels, root first
MOST_NODES, MOST_LEVELS = 1_000_000, 100
ROOTS = {"root", "<root>", "_root_", "root node", "top", "taxonomy"}  # names of a node that only holds the others
NAME_FIELDS = ("name", "label", "title", "text", "id")
CHILD_FIELDS = ("children", "subcategories", "child", "nodes", "items")
NESTED = {".json": "JSON", ".yaml": "YAML", ".yml": "YAML"}


class Taxonomy(NamedTuple):
    """A tree of labels as it stands in a file.

    said       what the file was found to hold
    paths      of all nodes, each parent before its children, in the order of the file
    separator  what joined levels in the file; None: they were not joined
    words      path -> a word for it, from a label.txt that has some
    further    (path, that of another parent) of nodes with several, which are under the first one in `paths`
    """

    path: Path
    said: str
    paths: list[Levels]
    separator: str | None = None
    words: dict[Levels, str] = {}
    further: Sequence[tuple[Levels, Levels]] = ()

    @property
    def labels(self) -> tuple[list[Levels], Path, dict[Levels, str], Sequence[tuple[Levels, Levels]]]:
        """What tree_of() makes a tree of."""
        return self.paths, self.path, self.words, self.further


def read_taxonomy(path: str | Path, separator: str | None, dag: str | None, encoding: str | None = None) -> Taxonomy:
    """Read a taxonomy of any form.

    separator  what joins levels, if lines are paths; None: found out
    dag        of a node with several parents: "first" keeps it under the first, "copy" has one under each, "keep" has
               one under the first, and the others in `further`
    Raises InputError for what is no tree, with the line, and for several parents where `dag` is None.
    """
    path = Path(path)
    text = open_text(path, encoding)
    kind = NESTED.get(path.suffix.lower()) or ("JSON" if next(text.pieces(), "").lstrip()[:1] in ("{", "[") else None)
    if kind:
        paths = _closed(path, _nested(_parsed(text, kind), path))
        return Taxonomy(path, f"nested {kind}, {text.said}", _without_root(paths))
    lines = [
        (number, line.strip("\r\n\ufeff"))
        for number, line in enumerate(text.lines(), start=1)
        if line.strip() and not line.startswith("# ")
    ]
    if not lines:
        raise InputError(f"{path}: no label in it; a taxonomy has one path per line, such as Animals > Cats.")
    if separator != "\t" and any("\t" in line.strip() for _, line in lines):
        paths, further, several = _edges(path, lines, dag)
        what = f"a parent and its children per line{several}"
        return Taxonomy(path, f"{what}, {text.said}", _without_root(paths), further=further)
    if (graph := graph_path(path)).exists():
        raise InputError(f"{path}: has further parents of its labels in {graph.name}. Pass it as --label_file.")
    return _of_lines(path, lines, separator, text)


def _of_lines(path: Path, lines: Sequence[tuple[int, str]], separator: str | None, text: TextFile) -> Taxonomy:
    labels = [line.partition(WORD_SEPARATOR)[0] for _, line in lines]
    mark = separator if separator and any(separator in label for label in labels) else None
    mark = mark or separator_in(labels) or _with_parents(labels) or separator or SEPARATOR
    paths, words = [], {}
    for (number, line), label in zip(lines, labels):
        names = tuple(clean_name(name) for name in label.split(mark))
        if not all(names):
            raise InputError(f"{path}:{number}: {label!r} has an empty level between {mark!r}.")
        paths.append(names)
        if word := line.partition(WORD_SEPARATOR)[2].strip():
            words[names] = word
    closed = _closed(path, paths)
    held = f"levels joined by {mark!r}" if any(len(one) > 1 for one in closed) else "one level"
    return Taxonomy(path, f"a path per line, {held}, {text.said}", closed, mark, words)


def _with_parents(labels: Sequence[str]) -> str | None:
    """The mark between levels where few lines have one: what is before its last place is a line, too."""
    lines = {clean_name(label) for label in labels}
    for mark in (SEPARATOR, *SEPARATORS):
        held = [line for line in lines if mark in line]
        if held and all(line.rpartition(mark)[0].strip() in lines for line in held):
            return mark
    return None


def _closed(path: Path, paths: Iterable[Levels]) -> list[Levels]:
    """The paths, each once, with all those above them put in before."""
    closed: dict[Levels, None] = {}
    for one in paths:
        if len(one) > MOST_LEVELS:
            raise InputError(
                f"{path}: more than {MOST_LEVELS} levels, down to {one[-1]!r}; no tree of labels is so deep."
            )
        closed.update(dict.fromkeys(one[:depth] for depth in range(1, len(one) + 1)))
        if len(closed) > MOST_NODES:
            raise InputError(f"{path}: more than {MOST_NODES:,} labels; no model can learn so many.")
    if not closed:
        raise InputError(f"{path}: no label in it.")
    return list(closed)


def _without_root(paths: list[Levels]) -> list[Levels]:
    """The paths without their first name, if it is that of a single root which only holds the others."""
    if _is_root({one[0] for one in paths}) and len(paths) > 1:
        return [one[1:] for one in paths if len(one) > 1]
    return paths


def _is_root(roots: Collection[str]) -> bool:
    """Whether of these roots, all there are, one only holds the labels."""
    return len(roots) == 1 and next(iter(roots)).casefold() in ROOTS


# ---- parents and children --------------------------------------------------------------------------------------------


def _edges(path: Path, lines: Sequence[tuple[int, str]], dag: str | None) -> tuple[list[Levels], list, str]:
    """(paths of all nodes, further, what is said of nodes with several parents) of parent<TAB>child<TAB>child..."""
    children: dict[str, dict[str, None]] = defaultdict(dict)
    parents: dict[str, list[str]] = defaultdict(list)
    nodes: dict[str, None] = {}
    for number, line in lines:
        parent, *below = (clean_name(name) for name in line.split("\t"))
        below = [name for name in below if name]
        if not parent:
            raise InputError(
                f"{path}:{number}: no parent before the first TAB; a line is parent<TAB>child<TAB>child..."
            )
        nodes.update(dict.fromkeys([parent, *below]))
        for child in below:
            if child == parent:
                raise InputError(f"{path}:{number}: {child!r} is its own parent.")
            if parent not in parents[child]:
                parents[child].append(parent)
                children[parent][child] = None
    _require_no_circle(path, nodes, parents)
    roots = [name for name in nodes if not parents[name]]
    if dag == "keep" and _is_root(roots):  # all labels are below it, so that it is nobody's further parent
        for name in [name for name in children[roots[0]] if len(parents[name]) > 1]:
            parents[name].remove(roots[0])
            del children[roots[0]][name]
    several = {name: above for name, above in parents.items() if len(above) > 1}
    if several and not dag:
        shown = [f"{name!r} under {', '.join(map(repr, above))}" for name, above in several.items()]
        raise InputError(
            f"{path}: not a tree, {len(several)} labels have several parents: {some(shown, 3)}. --dag keep has one "
            "label with several parents, --dag first one under its first parent, --dag copy one under each of them."
        )
    if dag in ("first", "keep"):
        for name, above in several.items():
            for other in above[1:]:
                del children[other][name]
    note = f", {len(several)} labels with several parents ({dag})" if several else ""
    paths = _closed(path, _downwards(roots, children))
    further = []
    if dag == "keep":
        own = {one[-1]: one[_is_root(roots) :] for one in paths}
        further = [(own[name], own[other]) for name, above in several.items() for other in above[1:]]
    return paths, further, note


def _downwards(roots: Sequence[str], children: dict[str, dict[str, None]]) -> Iterator[Levels]:
    """Yield the path of every node, each parent before its children, children in their order."""
    waiting: list[Levels] = [(root,) for root in reversed(roots)]
    while waiting:
        yield (path := waiting.pop())
        waiting += [(*path, child) for child in reversed(children.get(path[-1], ()))]


def _require_no_circle(path: Path, nodes: Iterable[str], parents: dict[str, list[str]]) -> None:
    """Raise InputError if a node is above itself."""
    left = {name: len(parents[name]) for name in nodes}  # parents that have not been taken away
    below = defaultdict(list)
    for name in left:
        for parent in parents[name]:
            below[parent].append(name)
    free = [name for name, count in left.items() if not count]
    while free:
        name = free.pop()
        del left[name]
        for child in below[name]:
            left[child] -= 1
            if not left[child]:
                free.append(child)
    if left:
        way = [next(iter(left))]
        while way[-1] not in way[:-1]:
            way.append(next(parent for parent in parents[way[-1]] if parent in left))
        circle = way[way.index(way[-1]) :][::-1]
        raise InputError(f"{path}: goes in a circle, which a tree cannot: {some(circle, 10).replace(', ', ' > ')}.")


# ---- nested ----------------------------------------------------------------------------------------------------------


def _parsed(text: TextFile, kind: str) -> Any:
    content = "".join(text.pieces())
    try:
        if kind == "JSON":
            return json.loads(content)
        import yaml

        return yaml.safe_load(content)
    except RecursionError:
        raise InputError(f"{text.path}: lists in lists in lists, too deep for a taxonomy.") from None
    except ValueError as error:
        raise InputError(f"{text.path}: not {kind}: {error}.") from None
    except Exception as error:
        if type(error).__module__.partition(".")[0] != "yaml":
            raise
        raise InputError(f"{text.path}: not {kind}: {' '.join(str(error).split())}.") from None


def _nested(value: Any, path: Path) -> Iterator[Levels]:
    """Yield the path of every name in nested objects and lists, parents first. Raises InputError for anything else."""
    waiting: list[tuple[Any, Levels, bool]] = [(value, (), False)]  # what hangs under a path, whether that is new
    for _ in range(2 * MOST_NODES):  # YAML can say a lot with little
        if not waiting:
            return
        value, above, new = waiting.pop()
        if new:
            yield above
        if value is None or value == "":
            continue
        if isinstance(value, str | int | float) and not isinstance(value, bool):
            name = clean_name(str(value))
            if name:
                yield (*above, name)
        elif isinstance(value, list):
            waiting += [(item, above, False) for item in reversed(value)]
        elif isinstance(value, dict):
            waiting += [(item, one, True) for item, one in reversed(list(_below(value, above)))]
        else:
            raise InputError(f"{path}: {str(value)[:40]!r} where a name, a list or an object must stand.")
    raise InputError(f"{path}: more than {MOST_NODES:,} labels; no model can learn so many.")


def _below(value: dict, above: Levels) -> Iterator[tuple[Any, Levels]]:
    """Yield (what hangs under it, its path) of each node in an object: of its fields, or the one it describes."""
    name = next((value[field] for field in NAME_FIELDS if isinstance(value.get(field), str)), None)
    if name is not None and (len(value) == 1 or any(field in value for field in CHILD_FIELDS) or _is_leaf(value)):
        here = (*above, clean_name(name))
        yield [value[field] for field in CHILD_FIELDS if field in value], here
        return
    for name, item in value.items():
        yield item, (*above, clean_name(str(name)))


def _is_leaf(value: dict) -> bool:
    """Whether an object describes one node: beside its name there are but plain values, not more names."""
    return not any(isinstance(item, dict | list) for item in value.values()) and "name" in value


# ---- names to paths --------------------------------------------------------------------------------------------------


class Names:
    """Finds labels by the end of their paths."""

    def __init__(self, paths: Iterable[Levels]):
        self.by_last: dict[str, list[Levels]] = defaultdict(list)
        for one in paths:
            self.by_last[one[-1]].append(one)

    def ending(self, levels: Levels) -> list[Levels]:
        """The paths that end with these levels, in the order of the taxonomy."""
        return [one for one in self.by_last.get(levels[-1], ()) if one[-len(levels) :] == levels]


def tree_of(
    paths: Sequence[Levels],
    source: str | Path,
    words: dict[Levels, str] | None = None,
    further: Iterable[tuple[Levels, Levels]] = (),
) -> LabelTree:
    """The LabelTree of these paths. Raises InputError for names that a label.txt can't hold."""
    number = {one: i for i, one in enumerate(paths)}
    edges = [(number[child], number[parent]) for child, parent in further]
    return LabelTree(
        map(join_levels, paths), source, words=[(words or {}).get(one, "") for one in paths], further=edges
    )


def all_names(paths: Iterable[Levels]) -> set[str]:
    """The names of all levels."""
    return set(chain.from_iterable(paths))
