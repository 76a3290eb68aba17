"""Texts with more tokens than a model reads at once: cut, read at both ends, or read whole, in windows.

    long_text = LongText("windows", stride=64, most=16)
    windows = Windows(length=128, stride=64)
    rows, owners = windows.expand(ids)     # the windows of all texts, and whose they are

What is chosen is stored beside the maximum length in decision.json and held by the tokenizer, whose `encode` gives the
ids that are read: of windows all they cover, once, from [CLS] to [SEP]. batches.run_batches makes windows of them and
takes the largest logit of each label, for every back end: a text has a label if one of its windows has it. The network
and its graph know nothing of this.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hierarchical.errors import InputError

LONG_TEXTS = {
    "cut": "the first tokens",
    "head_tail": "the first and the last tokens, half of each",
    "windows": "all, in windows that overlap",
}
MOST_WINDOWS = 16
ENDS = 2  # [CLS] and [SEP], of every window


@dataclass(frozen=True)
class LongText:
    """What is read of a text that is too long.

    method   of LONG_TEXTS
    stride   tokens from the start of a window to that of the next one; None without windows
    most     windows of a text; what comes behind them is not read; None without windows
    """

    method: str = "cut"
    stride: int | None = None
    most: int | None = None

    def __str__(self) -> str:
        return self.method if self.stride is None else f"{self.method} (stride {self.stride}, {self.most} at most)"

    def to_dict(self) -> dict[str, Any]:
        """The settings as decision.json and the flags have them; {} for what needs no mention."""
        if self.method == "cut":
            return {}
        settings = {"long_text": self.method, "window_stride": self.stride, "max_windows": self.most}
        return {name: value for name, value in settings.items() if value is not None}

    def updated(
        self,
        max_seq_length: int,
        long_text: str | None = None,
        window_stride: int | None = None,
        max_windows: int | None = None,
    ) -> "LongText":
        """This with the settings that are not None in the place of its own, for windows of max_seq_length tokens.

        Raises ValueError for what cannot be, with what would be right.
        """
        method = long_text or self.method
        if method not in LONG_TEXTS:
            raise ValueError(f"long_text must be one of {', '.join(LONG_TEXTS)}; got {method!r}")
        if method != "windows":
            for name, value in (("window_stride", window_stride), ("max_windows", max_windows)):
                if value is not None:
                    raise ValueError(f"{name} is for long_text windows; here it is {method}")
            return LongText(method)
        room = max_seq_length - ENDS
        stride = (self.stride or max(1, room // 2)) if window_stride is None else window_stride
        most = (self.most or MOST_WINDOWS) if max_windows is None else max_windows
        if not is_whole(stride) or not 1 <= stride <= room:
            raise ValueError(
                f"window_stride must be a whole number from 1 to {room}, else tokens between two windows of "
                f"{max_seq_length} tokens, ends included, would not be read; got {stride!r}"
            )
        if not is_whole(most) or most < 1:
            raise ValueError(f"max_windows must be a whole number, 1 or more; got {most!r}")
        return LongText(method, stride, most)

    def kept(self, ids: list, room: int) -> list:
        """Those of a text's ids, or of their spans, that are read; room: ids of a window, without its ends."""
        if self.method == "head_tail" and len(ids) > room:
            tail = room // 2
            return ids[: room - tail] + ids[len(ids) - tail :]
        return ids[: self.reach(room)]

    def reach(self, room: int) -> int | None:
        """How many ids from the start of a text on are looked at; None: to its end."""
        if self.method == "head_tail":
            return None
        return room if self.stride is None or self.most is None else room + (self.most - 1) * self.stride


CUT = LongText()


@dataclass(frozen=True)
class Windows:
    """How ids become windows. length: of a window, ends included; stride: from the start of one to the next."""

    length: int
    stride: int

    def of(self, ids: Sequence[int]) -> list[Sequence[int]]:
        """The windows of a text's ids [CLS] … [SEP]: each but that of a short text is full, the last ends with it."""
        if len(ids) <= self.length:
            return [ids]
        room = self.length - ENDS
        last = len(ids) - ENDS - room
        starts = [*range(0, last, self.stride), last]
        return [[ids[0], *ids[1 + start : 1 + start + room], ids[-1]] for start in starts]

    def expand(self, rows: Sequence[Sequence[int]]) -> tuple[list[Sequence[int]], np.ndarray]:
        """(the windows of all texts in order, the number of the text that each is of, int64 [W])."""
        parts = [self.of(ids) for ids in rows]
        owners = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
        return [window for part in parts for window in part], owners


def long_text_for(max_seq_length: int, stored: LongText = CUT, **asked: Any) -> LongText:
    """`LongText.updated` for what a user asks for: with an InputError that speaks of the flags."""
    try:
        return stored.updated(max_seq_length, **asked)
    except ValueError as error:
        raise InputError(f"--long_text, --window_stride, --max_windows: {error}.") from None


def is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
