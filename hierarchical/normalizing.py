"""Normalised texts: what looks alike to readers becomes alike to a vocabulary, before a text is cut into tokens.

    normalizer = Normalizer(vocab)
    normalizer("⼈⻋１２")               # "人车12"
    normalizer.aligned("⼈⻋１２")       # the same, and where in the text each character comes from

train.py --normalize nfkc switches it on; tokenizer_config.json says so, and whoever reads that file follows.

Unicode NFKC, with two differences. Punctuation that the vocabulary has stays: ， and ： are what a Chinese encoder has
seen in training, and NFKC would make an English comma of the one. And look-alikes that NFKC leaves are replaced where
the vocabulary lacks them: the radicals that PDF files have in place of characters, dashes, dots, quotation marks; what
has no width is left out.
"""

import re
import unicodedata
from collections.abc import Mapping

METHODS = ("nfkc",)
# Each of the first is read as the one at its place in the second.
RADICALS = (
    "⺁⺠⺩⻄⻅⻆⻉⻋⻓⻔⻘⻙⻚⻛⻜⻝⻢⻣⻤⻥⻦⻧⻨⻩⻪⻬⻮⻰",
    "厂民王西见角贝车长门青韦页风飞食马骨鬼鱼鸟卤麦黄黾齐齿龙",
)
DASHES = "‐‒–—―−⁃", "-------"
DOTS = "・•‧∙⋅", "·····"
QUOTES = "“”„‟〝〞″‘’‚‛′", '"""""""' + "'''''"
WIDTHLESS = "\u00ad\u200b\u200c\u200d\u200e\u200f\u2060\ufeff"  # soft hyphen, joiners, directions, byte-order mark
PAIRS = [pair for ones, others in (RADICALS, DASHES, DOTS, QUOTES) for pair in zip(ones, others, strict=True)]
LOOK_ALIKES = dict(PAIRS) | dict.fromkeys(WIDTHLESS, "")


class Normalizer:
    """Normalises texts for a vocabulary: token -> id."""

    def __init__(self, vocab: Mapping[str, int]):
        single = sorted(token for token in vocab if len(token) == 1)
        kept = [char for char in single if unicodedata.category(char)[0] == "P" and nfkc(char) != char]
        self._kept = re.compile(f"([{re.escape(''.join(kept))}]+)") if kept else None
        self._table = str.maketrans({one: other for one, other in LOOK_ALIKES.items() if one not in vocab})

    def __call__(self, text: str) -> str:
        """The text, normalised."""
        if text.isascii():
            return text
        return "".join(part if kept else nfkc(part).translate(self._table) for kept, part in self._parts(text))

    def aligned(self, text: str) -> tuple[str, list[tuple[int, int]]]:
        """(the text, normalised, and of each of its characters the (start, end) in the text of what it comes from)."""
        found, sources, position = "", [], 0
        for kept, part in self._parts(text):
            for start, end in [(i, i + 1) for i in range(len(part))] if kept else clusters(part):
                new = part[start:end] if kept else nfkc(part[start:end]).translate(self._table)
                found += new
                sources += [(position + start, position + end)] * len(new)
            position += len(part)
        return found, sources

    def _parts(self, text: str) -> list[tuple[bool, str]]:
        """The text in parts, each with whether it is punctuation that stays."""
        parts = self._kept.split(text) if self._kept else [text]
        return [(i % 2 == 1, part) for i, part in enumerate(parts)]


def nfkc(text: str) -> str:
    return unicodedata.normalize("NFKC", text)


def clusters(text: str) -> list[tuple[int, int]]:
    """The (start, end) of pieces of a text that NFKC changes independently of each other, as small as need be."""
    found, start = [], 0
    for end in range(1, len(text) + 1):
        if end < len(text):
            marks = unicodedata.combining(unicodedata.normalize("NFKD", text[end])[0])
            if marks or nfkc(text[start : end + 1]) != nfkc(text[start:end]) + nfkc(text[end]):
                continue
        found.append((start, end))
        start = end
    return found
