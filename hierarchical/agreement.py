"""How far several annotators agree: Krippendorff's alpha, and which labels one gives where another gives others.

Krippendorff (2018), Content Analysis, 4th edition, chapter 12: 1 - observed / expected disagreement, nominal, with
answers missing. 1 is full agreement, 0 what chance would do; 0.8 counts as good, below 0.67 labels need a guideline.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from typing import NamedTuple

from hierarchical.labels import LabelTree

SHOWN = 5  # labels and confusions in the log


class Agreement(NamedTuple):
    """annotators: their names; texts: that more than one annotated; levels, labels: alpha, None where it has no value.

    labels    only those that somebody gave to one of these texts
    confused  [(label of one, label of another in its place, texts)], of one level, the commonest first
    """

    annotators: list[str]
    texts: int
    levels: list[float | None]
    labels: dict[str, float | None]
    confused: list[tuple[str, str, int]]


def agreement(answers: Iterable[tuple[str, str, Sequence[str]]], tree: LabelTree) -> Agreement | None:
    """The Agreement of (text or its id, annotator, labels by name); None where no text has two annotators.

    The last answer of an annotator to a text counts, and of it the labels of the tree.
    """
    of: dict[str, dict[str, frozenset[str]]] = defaultdict(dict)
    for text, who, labels in answers:
        of[text][who] = frozenset(label for label in labels if label in tree.index)
    units = [said for said in of.values() if len(said) > 1]
    if not units:
        return None
    people = sorted({who for said in units for who in said})
    units_of: dict[str, list] = defaultdict(list)
    for said in units:
        for label in frozenset[str]().union(*said.values()):
            units_of[label].append(said)
    used, n = [label for label in tree.labels if label in units_of], sum(map(len, units))
    level_of = {label: int(tree.levels[i]) for i, label in enumerate(tree.labels)}
    levels = [
        _alpha(units, n, {label for label in used if level_of[label] == level})
        for level in sorted({level_of[label] for label in used})
    ]
    alphas = {label: _alpha(units_of[label], n, {label}) for label in used}
    confused = Counter(pair for said in units for pair in _confusions(said, level_of))
    return Agreement(people, len(units), levels, alphas, [(*pair, count) for pair, count in confused.most_common()])


def _alpha(units: Sequence[Mapping[str, frozenset[str]]], n: int, of: set[str]) -> float | None:
    """Krippendorff's alpha of which of these labels were given; None where that is the same everywhere.

    units: at least those where somebody gave one of them; n: answers to all units. (The package of that name takes
    memory of texts x sets of labels, squared.)
    """
    totals, observed = Counter[frozenset[str]](), 0.0
    for said in units:
        counts = Counter(labels & of for labels in said.values())
        totals.update(counts)
        observed += (len(said) ** 2 - sum(count**2 for count in counts.values())) / (len(said) - 1)
    totals[frozenset()] += n - totals.total()  # where none of them was given nobody disagrees
    if max(totals.values()) == n:
        return None
    return 1 - (n - 1) * observed / (n**2 - sum(count**2 for count in totals.values()))


def _confusions(said: Mapping[str, frozenset[str]], level_of: Mapping[str, int]) -> set[tuple[str, str]]:
    """(label of one, label of another): each without the other's, both of one level, whoever said which."""
    return {
        (min(one, other), max(one, other))
        for first, second in combinations(said.values(), 2)
        for one in first - second
        for other in second - first
        if level_of[one] == level_of[other]
    }


def agreement_lines(found: Agreement) -> list[str]:
    """The Agreement in words, for the log."""

    def shown(alpha: float | None) -> str:
        return "–" if alpha is None else f"{alpha:.2f}"

    levels = ", ".join(f"level {i}: {shown(alpha)}" for i, alpha in enumerate(found.levels, start=1))
    lines = [f"{found.texts} texts by {len(found.annotators)} annotators; Krippendorff's alpha of {levels}"]
    worst = sorted((alpha, label) for label, alpha in found.labels.items() if alpha is not None)[:SHOWN]
    if worst and worst[0][0] < 1:
        lines.append("least agreement: " + ", ".join(f"{label} {shown(alpha)}" for alpha, label in worst))
    if found.confused:
        pairs = (f"{one} / {other} ({count})" for one, other, count in found.confused[:SHOWN])
        lines.append("one for the other: " + ", ".join(pairs))
    return lines
