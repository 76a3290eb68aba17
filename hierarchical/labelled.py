"""What a model finds for texts, a window of them at a time, and how that is told.

    found = label_texts(texts, predictor.probabilities, tree, decision)
    for answer in describe(tree, found):
        print(answer.to_json())

Needs numpy alone.
"""

import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import repeat
from numbers import Real
from typing import NamedTuple, Protocol

import numpy as np

from hierarchical.batches import Begun, row_windows
from hierarchical.decisions import Decision, certainty, decide
from hierarchical.labels import LabelTree

FLOOR = 0.01  # probabilities above it are told, unless something else is asked for
ENCODER = json.JSONEncoder(ensure_ascii=False, check_circular=False)


@dataclass(frozen=True)
class Prediction:
    """The answer to one text.

    labels          full paths of the predicted labels, in class-index order
    probabilities   of the predicted labels and of all others above the floor: path -> 0 to 1, the highest first
    levels          level (1 for a root) -> paths of the predicted labels there, their ancestors included
    certainty       how sure the labels are, see decisions.certainty; None: it was not asked for
    sure            whether that is as much as was asked for
    unseen          those of the labels that are new, known by their words alone; None: new ones were not asked for
    """

    text: str
    labels: list[str]
    probabilities: dict[str, float]
    levels: dict[int, list[str]]
    certainty: float | None = None
    sure: bool | None = None
    unseen: list[str] | None = None

    def to_json(self) -> str:
        """One line of a .jsonl file, without its end; the levels are strings there, and what is None is left out."""
        return ENCODER.encode({name: value for name, value in vars(self).items() if value is not None})


class Labelled(NamedTuple):
    """What was found for texts, in their order.

    texts          n of them
    selected       bool [n, L], the predicted labels; none where a text is blank
    probabilities  float32 [n, L]; zeros where a text is blank
    """

    texts: Sequence[str]
    selected: np.ndarray
    probabilities: np.ndarray

    @classmethod
    def one(cls, text: str, selected: Sequence[int], probabilities: np.ndarray) -> "Labelled":
        """Of one text: class indices, and probabilities float32 [L]."""
        chosen = np.zeros((1, len(probabilities)), bool)
        chosen[0, list(selected)] = True
        return cls([text], chosen, probabilities[None])

    def row(self, i: int) -> tuple[str, list[int], np.ndarray]:
        """(text, class indices in ascending order, probabilities float32 [L]) of one text."""
        return self.texts[i], np.flatnonzero(self.selected[i]).tolist(), self.probabilities[i]

    def labels(self) -> Iterator[list[int]]:
        """Yield the class indices of each text, in ascending order."""
        return cut_rows(np.nonzero(self.selected)[1], self.selected)

    def certainties(self) -> np.ndarray:
        """`decisions.certainty`, float64 [n]."""
        return certainty(self.probabilities, self.selected)


def describe(
    tree: LabelTree,
    found: Labelled,
    floor: float = FLOOR,
    least_certainty: float | None = None,
    known: int | None = None,
) -> Iterator[Prediction]:
    """Yield the Prediction of each text.

    least_certainty: say how certain the labels are, and whether that is as much as this; known: so many of the labels,
    the first, were learned from rows, and the answer says which of its labels were not
    """
    names, shown = tree.labels, (found.probabilities > floor) | found.selected
    rows, ranked = np.nonzero(shown)
    values = found.probabilities[rows, ranked]
    order = np.lexsort((-values, rows))  # of equals the lowest class index first
    # A float32 times a million is exact in float64, so that this gives what round(value, 6) does.
    values = np.rint(values[order].astype(np.float64) * 1e6) / 1e6
    sure: Iterable = repeat(None) if least_certainty is None else found.certainties().tolist()
    levels_of: dict[tuple[int, ...], dict[int, list[str]]] = {}  # many texts have the same labels
    for text, labels, likely, chances, certain in zip(
        found.texts,
        found.labels(),
        cut_rows(ranked[order], shown),
        cut_rows(values, shown),
        sure,
    ):
        if (key := tuple(labels)) not in levels_of:
            levels_of[key] = tree.by_level(labels)
        yield Prediction(
            text,
            [names[i] for i in labels],
            {names[i]: chance for i, chance in zip(likely, chances)},
            {level: [*there] for level, there in levels_of[key].items()},
            None if certain is None else round(certain, 6),
            None if certain is None or least_certainty is None else certain >= least_certainty,
            None if known is None else [names[i] for i in labels if i >= known],
        )


def cut_rows(values: np.ndarray, mask: np.ndarray) -> Iterator[list]:
    """Yield of each row its part of what a mask bool [n, L] selects: values [count], row after row."""
    start = 0
    for count in np.count_nonzero(mask, axis=1).tolist():
        yield values[start : start + count].tolist()
        start += count


class Begins(Protocol):
    """What `predictions` asks: a Predictor, or what stands in for one."""

    tree: LabelTree

    def begin(self, texts: Sequence[str]) -> Begun: ...


def predictions(
    labeller: Begins,
    texts: Sequence[str],
    decision: Decision,
    floor: float,
    least_certainty: float | None,
    choose: Callable[[np.ndarray, LabelTree, Decision], np.ndarray] = decide,
    known: int | None = None,
) -> list[Prediction]:
    """One Prediction for each text, in their order; see describe() and label_texts().

    Raises ValueError for settings that cannot be, TypeError for what is no text.
    """
    if isinstance(texts, (str, bytes)):
        raise TypeError("texts is a list of texts; for a single one write [text]")
    texts, tree = list(texts), labeller.tree
    if wrong := [i for i, text in enumerate(texts) if not isinstance(text, str)]:
        raise TypeError(f"texts[{wrong[0]}] is {texts[wrong[0]]!r}, and not a text")
    if not isinstance(floor, Real) or not 0 <= floor <= 1:
        raise ValueError(f"floor must be a number from 0 to 1; got {floor!r}")
    if least_certainty is not None and (not isinstance(least_certainty, Real) or not 0 <= least_certainty <= 1):
        raise ValueError(f"certainty must be a number from 0 to 1; got {least_certainty!r}")
    found: list[Prediction] = []
    windows = (texts[rows.start : rows.stop] for rows in row_windows(len(texts), len(tree)))
    for part in label_windows(windows, labeller.begin, tree, decision, choose):
        found += describe(tree, part, floor, least_certainty, known)
    return found


def label_windows(
    windows: Iterable[Sequence[str]],
    begin: Callable[[list[str]], Begun],
    tree: LabelTree,
    decision: Decision,
    choose: Callable[[np.ndarray, LabelTree, Decision], np.ndarray] = decide,
    ahead: int = 1,
) -> Iterator[Labelled]:
    """Yield what is found for each window of texts, in their order.

    begin: texts -> their probabilities float32 [n, L], begun; of `ahead` further windows, before one is waited for and
    given out: then a model has work while its answers are written. choose, and blank texts: see label_texts
    """
    begun = deque[tuple[Sequence[str], Begun]]()

    def first() -> Labelled:
        texts, one = begun.popleft()
        return label_texts(texts, lambda filled: one.result(), tree, decision, choose)

    try:
        for texts in windows:
            begun.append((texts, begin([text for text in texts if text.strip()])))
            if len(begun) > ahead:
                yield first()
        while begun:
            yield first()
    finally:
        for _, one in begun:
            one.cancel()


def label_texts(
    texts: Sequence[str],
    compute: Callable[[list[str]], np.ndarray],
    tree: LabelTree,
    decision: Decision,
    choose: Callable[[np.ndarray, LabelTree, Decision], np.ndarray] = decide,
) -> Labelled:
    """What is found for texts.

    compute: texts -> probabilities float32 [n, L]; choose: what makes label sets of them, as decide() does. A blank
    text is kept from the first.
    """
    filled = [i for i, text in enumerate(texts) if text.strip()]
    probabilities = np.zeros((len(texts), len(tree)), np.float32)
    if filled:
        probabilities[filled] = compute([texts[i] for i in filled])
    selected = choose(probabilities, tree, decision)
    selected[[not text.strip() for text in texts]] = False
    return Labelled(texts, selected, probabilities)
