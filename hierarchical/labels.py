"""The label tree: full paths in class-index order, and how they hang together.

label.txt has one label per line, a path with its levels joined by `##`; class index = line order. `path==word` gives
the few-shot route a word for the label; others ignore it. Further parents of a label, should it have several, stand in
label_graph.txt beside it, see label_graph.py.
"""

import difflib
import heapq
import re
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from itertools import chain, groupby
from pathlib import Path

import numpy as np

from hierarchical.console import FLAT
from hierarchical.errors import InputError, Problems
from hierarchical.files import atomic_write, read_lines, require_file
from hierarchical.label_graph import Edge, graph_levels, graph_path, read_graph

SEPARATOR, WORD_SEPARATOR = "##", "=="
SEPARATORS = ("-->", "->", "=>", "::", "--", ">", "→", "»", "/", "|", "\\")  # what others put between levels
GUESSED = 5  # labels that are named where an unknown one may be any of them


class LabelTree:
    """The labels of a project: full paths in class-index order, and how they hang together.

    labels   list[str], length L; `index` maps a path back to its class index
    parents  int64 [L], class index of the parent, -1 for a root
    further  list[(class index, that of another parent)], ascending; [] for a tree. Then `parents` are the first ones,
             by which labels are named, and `index` knows a label by the path through a further parent, too, where no
             other label has that
    children list[list[int]], by all edges
    levels   int64 [L], 1 for a root, and by the longest way from one; `depth` is the largest
    words    list[str], what a label is called in a sentence: its path's last level, unless label.txt gives another word
    line_of  list[int], the line of label.txt that a label stands on, the first is 1
    Raises InputError for duplicates, empty segments, children whose parent is missing, names that label.txt cannot
    hold, and further parents in a circle. A node is its full path: equal names under two parents are two nodes.
    """

    def __init__(
        self,
        labels: Iterable[str],
        source: str | Path = "label list",
        lines: Sequence[int] | None = None,
        words: Sequence[str] | None = None,
        further: Iterable[Edge] = (),
        other_paths: Mapping[str, str] | None = None,
    ):
        """other_paths: see other_paths_of; they are for the advice on a missing parent alone."""
        self.labels = list(labels)
        self.line_of = lines = list(lines or range(1, len(self.labels) + 1))
        problems = Problems()
        self.index: dict[str, int] = {}
        for i, (label, line) in enumerate(zip(self.labels, lines)):
            if (first := self.index.setdefault(label, i)) != i:
                problems.add(source, line, f"label {label!r} is already on line {lines[first]}; remove one of them")
        parents = [label.rpartition(SEPARATOR)[0] for label in self.labels]
        for parent, label, line in zip(parents, self.labels, lines):
            segments = label.split(SEPARATOR)
            if not all(segment.strip() for segment in segments):
                problems.add(source, line, f"label {label!r} has an empty level; write parent{SEPARATOR}child")
            elif any(segment != segment.strip() for segment in segments):
                problems.add(source, line, f"label {label!r} has a blank beside a level's name; remove it")
            elif SEPARATOR + "#" in label:
                problems.add(source, line, f"label {label!r} has more than two # in a row; no level may begin with #")
            elif WORD_SEPARATOR in label:
                problems.add(source, line, f"label {label!r} holds {WORD_SEPARATOR!r}, which sets off a label's word")
            elif parent and parent not in self.index:
                advice = _by_first_path(label, other_paths or {}, self.index) or f"add the line {parent!r}"
                problems.add(source, line, f"the parent of {label!r} is missing; {advice}")
        if not self.labels:
            problems.add(source, None, "no label in it; write one label per line")
        problems.raise_if_any()
        self.parents = np.array([self.index[parent] if parent else -1 for parent in parents], np.int64)
        self.further = sorted(set(further))
        if self.further:
            self.levels = graph_levels(self.parents.tolist(), self.further)
            if not self.levels.all() or any(self.parents[child] < 0 for child, _ in self.further):
                raise InputError(f"{source}: further parents go in a circle, or are those of a root.")
        else:
            self.levels = np.array([label.count(SEPARATOR) + 1 for label in self.labels], np.int64)
        self.depth = int(self.levels.max())
        words = words or [""] * len(self.labels)
        self.words = [word or label.split(SEPARATOR)[-1] for label, word in zip(self.labels, words)]
        self.children: list[list[int]] = [[] for _ in self.labels]
        for child, parent in sorted([*enumerate(self.parents.tolist()), *self.further]):
            if parent >= 0:
                self.children[parent].append(child)
        self.index |= self._other_paths()

    def _other_paths(self) -> dict[str, int]:
        """The paths through further parents -> class index, of those that can be meant by no other label."""
        paths: dict[str, set[int]] = {}
        for child, parent in self.further:
            path = self.labels[parent] + SEPARATOR + self.segments(child)[-1]
            paths.setdefault(path, set()).add(child)
        return {path: min(of) for path, of in paths.items() if len(of) == 1 and path not in self.index}

    @classmethod
    def read(cls, path: str | Path) -> "LabelTree":
        """Read label.txt and, if there is one, label_graph.txt; blank lines are skipped, faults named by line."""
        lines, labels, words = read_labels(path)
        tree = cls(labels, path, lines, words, other_paths=other_paths_of(graph_path(path)))
        further = read_graph(graph_path(path), tree.index, tree.parents.tolist(), tree.guess)
        return cls(labels, path, lines, words, further) if further else tree

    def write(self, path: str | Path) -> None:
        """Write label.txt, without words, and label_graph.txt beside it; one that is there goes if this is a tree."""
        with atomic_write(path) as file:
            file.writelines(f"{label}\n" for label in self.labels)
        if self.further:
            with atomic_write(graph_path(path)) as file:
                file.writelines(f"{line}\n" for line in self.graph_lines())
        else:
            graph_path(path).unlink(missing_ok=True)

    def is_same(self, other: "LabelTree") -> bool:
        """Whether the other one has the same labels in the same order, under the same parents."""
        return self.labels == other.labels and self.further == other.further

    def __len__(self) -> int:
        return len(self.labels)

    def lines(self) -> list[str]:
        """The lines of label.txt that give this tree and its words, without line ends."""
        own = [label.split(SEPARATOR)[-1] for label in self.labels]
        return [
            label if word == name else f"{label}{WORD_SEPARATOR}{word}"
            for label, word, name in zip(self.labels, self.words, own)
        ]

    def size(self) -> str:
        """How many labels and levels there are, in words."""
        per_level = " + ".join(f"{count:,}" for count in np.bincount(self.levels)[1:])
        further = f", {len(self.further):,} further parents" if self.further else ""
        return f"{len(self):,} labels in {self.depth} levels ({per_level}){further}"

    def graph_lines(self) -> list[str]:
        """The lines of label_graph.txt, without line ends; none for a tree."""
        return [f"{self.labels[child]}\t{self.labels[parent]}" for child, parent in self.further]

    def segments(self, i: int) -> list[str]:
        """The names on the path to node i, through first parents, root first."""
        return self.labels[i].split(SEPARATOR)

    @cached_property
    def steps(self) -> list[list[tuple[np.ndarray, np.ndarray]]]:
        """All edges, level by level from the second down: for each level pairs (children, parents), int64.

        The first pair of a level has each of its labels with the first parent, the second those that have a further
        one with that, and so on: in no pair is a child twice. A tree has one pair for each level.
        """
        edges = [list(group) for _, group in groupby(self.further, key=lambda edge: edge[0])]
        steps = []
        for level in range(2, self.depth + 1):
            children = np.flatnonzero(self.levels == level)
            pairs, more = [(children, self.parents[children])], [of for of in edges if self.levels[of[0][0]] == level]
            for place in range(max(map(len, more), default=0)):
                chosen = np.array([of[place] for of in more if len(of) > place], np.int64)
                pairs.append((chosen[:, 0], chosen[:, 1]))
            steps.append(pairs)
        return steps

    @cached_property
    def _above(self) -> list[list[int]]:
        """The ancestors of each label through all parents, by level and then class index."""
        above: list[set[int]] = [set() for _ in self.labels]
        for pairs in self.steps:
            for children, parents in pairs:
                for child, parent in zip(children.tolist(), parents.tolist()):
                    above[child] |= above[parent] | {parent}
        return [sorted(of, key=lambda i: (self.levels[i], i)) for of in above]

    @cached_property
    def beside(self) -> dict[int, list[int]]:
        """Label of several parents -> its ancestors that the first of them does not bring; {} for a tree."""
        found = {}
        for child in sorted({child for child, _ in self.further}):
            first = int(self.parents[child])
            if rest := set(self.ancestors(child)) - {first, *self.ancestors(first)}:
                found[child] = sorted(rest)
        return found

    def parents_of(self, i: int) -> list[int]:
        """The class indices of all parents of node i, the first one first; [] for a root."""
        start, end = (bisect_left(self.further, (child, -1)) for child in (i, i + 1))
        first = [int(self.parents[i])] if self.parents[i] >= 0 else []
        return first + [parent for _, parent in self.further[start:end]]

    def ancestors(self, i: int) -> list[int]:
        """The class indices above node i, through all parents, from the roots down."""
        if self.further:
            return self._above[i].copy()
        above = []
        while (i := int(self.parents[i])) >= 0:
            above.append(i)
        return above[::-1]

    def closure(self, indices: Iterable[int]) -> list[int]:
        """The given class indices and all their ancestors, as a sorted list."""
        return sorted(set(chain.from_iterable((i, *self.ancestors(i)) for i in indices)))

    def by_level(self, indices: Iterable[int]) -> dict[int, list[str]]:
        """Level (1 for a root) -> the labels there, of the given class indices and all their ancestors."""
        levels: dict[int, list[str]] = {}
        for i in sorted(self.closure(indices), key=lambda i: self.levels[i]):
            levels.setdefault(int(self.levels[i]), []).append(self.labels[i])
        return levels

    def nearest(self, label: str) -> list[str]:
        """The known labels that an unknown one may stand for: all paths that end in it, else the one most like it."""
        ending = SEPARATOR + label
        if same_end := [known for known in self.labels if known.endswith(ending)]:
            return same_end
        # difflib is slow: it compares only the labels that share most pairs of neighbouring characters with this one
        pairs = _pairs(label)

        def shared(known: str) -> float:
            others = _pairs(known)
            return len(pairs & others) / (len(pairs) + len(others))

        candidates = heapq.nlargest(50, self.labels, shared)
        return difflib.get_close_matches(label, candidates, n=1, cutoff=0.4)

    def guess(self, label: str | int) -> str:
        """What an unknown label, or a number in its place, may stand for, in words; "" if nothing is like it."""
        number = str(label) if isinstance(label, str) or abs(label) < len(self) else ""
        if re.fullmatch("[0-9]{1,9}", number) and int(number) < len(self):
            i = int(number)
            return f"looks like a class number; line {self.line_of[i]} of label.txt is {self.labels[i]!r}"
        near = [repr(known) for known in self.nearest(label)] if isinstance(label, str) else []
        if len(near) > 1:
            more = f" or {len(near) - GUESSED} more" if len(near) > GUESSED else ""
            return f"several labels end so, write the full path: {', '.join(near[:GUESSED])}{more}"
        return f"did you mean {near[0]}?" if near else ""


def read_labels(path: str | Path) -> tuple[list[int], list[str], list[str]]:
    """(lines, labels, words or "") of label.txt, not yet a tree."""
    require_file(path, "It holds one label per line, each level of a path joined by '##'.")
    problems, lines, labels, words = Problems(), list[int](), list[str](), list[str]()
    for number, text in read_lines(path, problems):
        if "\t" in text.strip():
            problems.add(path, number, "a TAB in a label; one label per line, nothing else")
        if text.strip():
            label, equals, word = map(str.strip, text.partition(WORD_SEPARATOR))
            if not label or equals and not word:
                problems.add(path, number, f"a label and its word are written path{WORD_SEPARATOR}word")
            lines.append(number)
            labels.append(label)
            words.append(word)
    problems.raise_if_any()
    return lines, labels, words


def other_paths_of(graph: Path) -> dict[str, str]:
    """The paths through further parents that a graph file gives to labels -> these, by their first paths.

    Without those that two labels would have, and without complaint: read_graph() says what is wrong with the file.
    """
    found: dict[str, set[str]] = {}
    for _, text in read_lines(graph, Problems()) if graph.exists() else ():
        child, _, parent = (name.strip() for name in text.strip().partition("\t"))
        if parent:
            found.setdefault(parent + SEPARATOR + child.split(SEPARATOR)[-1], set()).add(child)
    return {path: min(of) for path, of in found.items() if len(of) == 1}


def _by_first_path(label: str, other_paths: Mapping[str, str], index: Mapping[str, int]) -> str:
    """How to write a label below one that it names by a path through a further parent; "": it doesn't."""
    above = label
    while (above := above.rpartition(SEPARATOR)[0]) and above not in index:
        if above in other_paths:
            first = other_paths[above]
            return f"{above!r} is {first!r}, by its first parent; write {first + label[len(above) :]!r}"
    return ""


def _pairs(name: str) -> set[tuple[str, str]]:
    name = f" {name} "
    return set(zip(name, name[1:]))


# ---- names, before they are a tree -----------------------------------------------------------------------------------


def clean_name(name: str) -> str:
    """A level's name with single blanks in it, and none at its ends."""
    return " ".join(name.split())


def join_levels(levels: Sequence[str]) -> str:
    """The label of these level names, root first. Raises ValueError for names that label.txt can't hold."""
    name = SEPARATOR.join(levels)
    require_unicode(name)
    if not all(levels):
        raise ValueError(f"label {name!r} has an empty level")
    if name.count(SEPARATOR) != len(levels) - 1 or SEPARATOR + "#" in name:
        raise ValueError(f"label {name!r}: a level's name holds {SEPARATOR!r} or begins with '#'; rename it")
    if WORD_SEPARATOR in name:
        raise ValueError(f"label {name!r} holds {WORD_SEPARATOR!r}, which means something in label.txt; rename it")
    if name.translate(FLAT) != name:
        raise ValueError(f"label {name!r} has a TAB, a line end or another control character in it; rename it")
    return name


def require_unicode(text: str) -> None:
    """Raise ValueError for half of a surrogate pair, which JSON can spell."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{text[:40]!r} holds half a character, which no file can hold; correct it") from None


def separator_in(names: Iterable[str]) -> str | None:
    """What probably stands between the levels of these labels: the mark that most of them hold, else None."""
    distinct = set(names)
    held = {mark: sum(mark in name for name in distinct) for mark in (SEPARATOR, *SEPARATORS)}
    mark = max(held, key=lambda mark: held[mark])  # of equals the first, which is the longest
    return mark if 2 * held[mark] > len(distinct) else None


def levels_text(tree: LabelTree, predicted: Iterable[int]) -> list[str]:
    """The `level k : name,name` lines of a prediction: each level's names once, in first-seen order.

    predicted: class indices in ascending order. A child shows its parent's name above it, and those of all its parents,
    whether or not their own classes were predicted.
    """
    names: dict[int, dict[str, None]] = {}
    for i in predicted:
        if tree.further:
            for above in (*tree.ancestors(i), i):
                names.setdefault(int(tree.levels[above]), {})[tree.segments(above)[-1]] = None
        else:
            for level, name in enumerate(tree.segments(i), start=1):
                names.setdefault(level, {})[name] = None
    return [f"level {level} : {','.join(names[level])}" for level in sorted(names)]
