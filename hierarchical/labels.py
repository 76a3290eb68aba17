"""The label tree: full paths in class-index order, and how they hang together.

label.txt has one label per line, a path with its levels joined by `##`; class index = line order. `path==word` gives
the few-shot route a word for the label; others ignore it.
"""

import difflib
import heapq
import re
from collections.abc import Iterable, Sequence
from itertools import chain
from pathlib import Path

import numpy as np

from hierarchical.console import FLAT
from hierarchical.errors import Problems
from hierarchical.files import read_lines, require_file

SEPARATOR, WORD_SEPARATOR = "##", "=="
SEPARATORS = ("-->", "->", "=>", "::", "--", ">", "→", "»", "/", "|", "\\")  # what others put between levels
GUESSED = 5  # labels that are named where an unknown one may be any of them


class LabelTree:
    """The labels of a project: full paths in class-index order, and how they hang together.

    labels   list[str], length L; `index` maps a path back to its class index
    parents  int64 [L], class index of the parent, -1 for a root
    levels   int64 [L], 1 for a root; `depth` is the largest
    words    list[str], what a label is called in a sentence: its path's last level, unless label.txt gives another word
    line_of  list[int], the line of label.txt that a label stands on, the first is 1
    Raises InputError for duplicates, empty segments, children whose parent is missing, and names that label.txt cannot
    hold. A node is its full path: equal names under two parents are two nodes.
    """

    def __init__(
        self,
        labels: Iterable[str],
        source: str | Path = "label list",
        lines: Sequence[int] | None = None,
        words: Sequence[str] | None = None,
    ):
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
                problems.add(source, line, f"the parent of {label!r} is missing; add the line {parent!r}")
        if not self.labels:
            problems.add(source, None, "no label in it; write one label per line")
        problems.raise_if_any()
        self.parents = np.array([self.index[parent] if parent else -1 for parent in parents], np.int64)
        self.levels = np.array([label.count(SEPARATOR) + 1 for label in self.labels], np.int64)
        self.depth = int(self.levels.max())
        words = words or [""] * len(self.labels)
        self.words = [word or label.split(SEPARATOR)[-1] for label, word in zip(self.labels, words)]
        self.children: list[list[int]] = [[] for _ in self.labels]
        for child, parent in enumerate(self.parents):
            if parent >= 0:
                self.children[parent].append(child)

    @classmethod
    def read(cls, path: str | Path) -> "LabelTree":
        """Read label.txt; blank lines are skipped, every fault is named with its line."""
        lines, labels, words = read_labels(path)
        return cls(labels, path, lines, words)

    def __len__(self) -> int:
        return len(self.labels)

    def lines(self) -> list[str]:
        """The lines of label.txt that give this tree and its words, without line ends."""
        own = [label.split(SEPARATOR)[-1] for label in self.labels]
        return [
            label if word == name else f"{label}{WORD_SEPARATOR}{word}"
            for label, word, name in zip(self.labels, self.words, own)
        ]

    def segments(self, i: int) -> list[str]:
        """The names on the path to node i, root first."""
        return self.labels[i].split(SEPARATOR)

    def ancestors(self, i: int) -> list[int]:
        """The class indices above node i, root first."""
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

    predicted: class indices in ascending order. A child shows its parent's name above it whether or not the parent's
    own class was predicted.
    """
    paths = [tree.segments(i) for i in predicted]
    depth = max(map(len, paths), default=0)
    names = [dict.fromkeys(path[k] for path in paths if len(path) > k) for k in range(depth)]
    return [f"level {k} : {','.join(level)}" for k, level in enumerate(names, start=1)]
