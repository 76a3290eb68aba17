"""Labels under several parents: the file beside label.txt that names the further ones, and what follows from it.

label.txt has each label once, by its path through its first parent. Further parents stand beside it in label_graph.txt,
a line for each: label<TAB>further parent, both by their paths in label.txt. Beside a label file of another name the
graph's name follows: labels_v2.txt has labels_v2_graph.txt. Without that file, labels are a tree.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from hierarchical.errors import Problems
from hierarchical.files import read_lines

GRAPH = "label_graph.txt"  # beside label.txt
Edge = tuple[int, int]  # class index of a label, class index of a further parent
LINE = "label<TAB>further parent, both as in the label file"


def graph_path(label_path: str | Path) -> Path:
    """Where the further parents of a label file stand; mostly there is no such file."""
    path = Path(label_path)
    return path.with_name(f"{path.stem}_graph{path.suffix}")


def label_files(label_path: str | Path) -> list[Path]:
    """A label file and, if it is there, the graph beside it."""
    return [Path(label_path), *filter(Path.exists, [graph_path(label_path)])]


def read_graph(path: Path, index: Mapping[str, int], parents: Sequence[int], guess: Callable[[str], str]) -> list[Edge]:
    """The edges of a graph file, ascending; [] where there is none.

    index: label -> class index; parents: the first parent of each, -1 for a root; guess: what an unknown label may
    stand for, in words. Raises InputError with every bad line.
    """
    if not path.exists():
        return []
    problems, line_of = Problems(), dict[Edge, int]()
    for number, text in read_lines(path, problems):
        if not text.strip():
            continue
        names = [name.strip() for name in text.strip().split("\t")]
        if len(names) != 2:
            problems.add(path, number, f"{len(names) - 1 or 'no'} TAB in it; a line is {LINE}")
        elif unknown := [name for name in names if name not in index]:
            problems.add(path, number, f"unknown label {unknown[0]!r}; {guess(unknown[0]) or f'a line is {LINE}'}")
        elif fault := _fault(names[0], names[1], parents[index[names[0]]], index):
            problems.add(path, number, fault)
        elif (first := line_of.setdefault((index[names[0]], index[names[1]]), number)) != number:
            problems.add(path, number, f"repeats line {first}; remove one of them")
    problems.raise_if_any()
    if circle := circle_in(parents, list(line_of)):
        names = list(index)
        way = " under ".join(repr(names[i]) for i in circle)
        line = next(line_of[edge] for edge in zip(circle, circle[1:]) if edge in line_of)
        problems.add(path, line, f"goes in a circle, {way}; remove this line, or another that leads there")
    problems.raise_if_any()
    return sorted(line_of)


def _fault(label: str, parent: str, first: int, index: Mapping[str, int]) -> str:
    """What is wrong with a further parent of a label; first: the class index of its first one."""
    if label == parent:
        return f"{label!r} is its own parent; remove the line"
    if first < 0:
        return f"{label!r} is a root by its name; in the label file, write it with its first parent"
    if first == index[parent]:
        return f"{parent!r} is the first parent of {label!r} already, by its name; remove the line"
    return ""


def graph_levels(parents: Sequence[int], edges: Sequence[Edge]) -> np.ndarray:
    """The level of each label by its longest way from a root, int64 [L]; 0 for what is in a circle, or below one."""
    above, below = [0] * len(parents), [list[int]() for _ in parents]
    for child, parent in (*((child, parent) for child, parent in enumerate(parents) if parent >= 0), *edges):
        above[child] += 1
        below[parent].append(child)
    levels = np.zeros(len(parents), np.int64)
    at, free = 0, [label for label, count in enumerate(above) if not count]
    while free:
        at, waiting = at + 1, free
        free = []
        for label in waiting:
            levels[label] = at  # the last of its parents is on the level above
            for child in below[label]:
                above[child] -= 1
                if not above[child]:
                    free.append(child)
    return levels


def circle_in(parents: Sequence[int], edges: Sequence[Edge]) -> list[int]:
    """Labels each of which has the next one as parent, the last being the first again; [] if there are none such."""
    left = set(np.flatnonzero(graph_levels(parents, edges) == 0).tolist())
    if not left:
        return []
    parents_of = [[parent] if parent >= 0 else [] for parent in parents]
    for child, parent in edges:
        parents_of[child].append(parent)
    way = [min(left)]
    while way[-1] not in way[:-1]:
        way.append(next(parent for parent in parents_of[way[-1]] if parent in left))
    return way[way.index(way[-1]) :]
