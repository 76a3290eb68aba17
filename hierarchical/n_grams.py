"""Character 1- to 4-grams as features: Chinese needs no word segmentation, and numpy is all that is needed.

An n-gram is known by 64 bits of it, so that a vocabulary is two arrays, however long its n-grams are. Of a million
n-grams two share their bits with a probability of 3e-8; they would count as one.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, reduce
from itertools import islice

import numpy as np

LONGEST = 4  # characters of an n-gram
MOST = 1 << 20  # n-grams of a vocabulary: the commonest
HELD = 1 << 25  # n-grams that are counted at a time; beyond it those that came once so far are forgotten
CHUNK = 4096  # texts whose n-grams are counted together
MULTIPLIER, START = np.uint64(0x9E3779B97F4A7C15), np.uint64(0x2545F4914F6CDD1D)
# 1 + log(count), looked up and not computed: the last bit of a logarithm may depend on its place in an array.
DAMPED = np.array([0.0, *(1 + np.log(i) for i in range(1, 4096))])


def normalised(text: str) -> tuple[str, list[int]]:
    """(the text as it is cut into n-grams, where in the text each of its characters comes from).

    Small letters, and one blank for blanks, line ends and NULs in a row.
    """
    lower = text.lower()
    if len(lower) != len(text):  # a few letters become two
        lower = "".join(one if len(one := c.lower()) == 1 else c for c in text)
    spaced = re.sub(r"[\s\0]", " ", lower)
    if "  " not in spaced:
        return spaced, list(range(len(spaced)))
    places = [i for i, c in enumerate(spaced) if c != " " or spaced[i - 1 : i] != " "]
    return "".join(spaced[i] for i in places), places


def codes_of(text: str) -> np.ndarray:
    """The characters of a text, normalised, as numbers: uint32 [T], none of them 0."""
    return np.frombuffer(normalised(text)[0].encode("utf-32-le", "surrogatepass"), np.uint32)


def hashed(codes: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """All n-grams of texts, of `codes_of`: (their 64 bits uint64 [M], row int64 [M]).

    First those of one character in the order of the rows and of their places in them, then those of two, ...
    """
    rows = np.repeat(np.arange(len(codes)), [len(row) for row in codes])
    joined = np.concatenate([*codes, np.zeros(0, np.uint32)]).astype(np.uint64)
    bits, found = np.full(len(joined), START), [(joined[:0], rows[:0])]
    for n in range(1, min(LONGEST, len(joined)) + 1):
        count = len(joined) - n + 1
        bits = (bits[:count] ^ joined[n - 1 :]) * MULTIPLIER
        bits ^= bits >> np.uint64(29)
        inside = rows[:count] == rows[n - 1 :]  # of one text
        found.append((bits[inside], rows[:count][inside]))
    both = zip(*found)
    return np.concatenate(next(both)), np.concatenate(next(both))


@dataclass(frozen=True)
class NGrams:
    """A vocabulary. bits: of its n-grams, uint64 [D], ascending; idf: how much each counts, float32 [D]."""

    bits: np.ndarray
    idf: np.ndarray

    def __len__(self) -> int:
        return len(self.bits)

    @classmethod
    def of(cls, texts: Iterable[str], most: int = MOST) -> "NGrams":
        """The n-grams of at least two texts, the commonest `most`; if no two share any, of one.

        The texts are read once. The weight of an n-gram is log((1 + N) / (1 + n)) + 1, with n of N texts that have it.
        """
        texts, n_texts = iter(texts), 0
        parts = [(np.zeros(0, np.uint64), np.zeros(0, np.int64))]
        while chunk := list(islice(texts, CHUNK)):
            n_texts += len(chunk)
            parts.append(_counted(chunk))
            # only parts of like sizes are merged, so that each n-gram is in few merges however many chunks there are
            while len(parts) > 1 and len(parts[-2][0]) < 2 * len(parts[-1][0]):
                parts[-2:] = [_merged(*parts[-2:])]
        bits, counts = reduce(_merged, reversed(parts))
        if (counts > 1).any():
            bits, counts = bits[counts > 1], counts[counts > 1]
        if len(bits) > most:
            kept = np.sort(np.argsort(-counts, kind="stable")[:most])
            bits, counts = bits[kept], counts[kept]
        return cls(bits, (np.log((1 + n_texts) / (1 + counts)) + 1).astype(np.float32))

    @cached_property
    def _index(self) -> tuple[np.ndarray, np.ndarray, np.uint64, int]:
        """To look up by the first bits: (bits and an end mark, first number of each beginning, shift, most of one)."""
        kept = max(1, len(self).bit_length() + 1)
        shift = np.uint64(64 - kept)
        firsts = np.searchsorted(self.bits, np.arange(1 << kept, dtype=np.uint64) << shift)
        most = np.diff(firsts, append=len(self)).max()
        return np.append(self.bits, ~np.uint64(0)), firsts.astype(np.int32), shift, int(most)

    def find(self, bits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(places int64 in `bits` of those that the vocabulary has, their numbers in it int64)."""
        ordered, firsts, shift, most = self._index
        numbers = firsts[bits >> shift]
        for _ in range(most):  # as a binary search would find it, which waits for memory more often
            numbers = numbers + (ordered[numbers] < bits)
        places = np.flatnonzero((ordered[numbers] == bits) & (numbers < len(self)))
        return places, numbers[places]

    def features(self, codes: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """TF-IDF of texts as (row int64 [E], n-gram int64 [E], value float64 [E]), by rows, then n-grams.

        An n-gram that comes k times counts 1 + log(k) times its weight; the values of a text have the length 1.
        """
        bits, rows = hashed(codes)
        places, numbers = self.find(bits)
        cells, counts = np.unique(rows[places] * len(self) + numbers, return_counts=True)
        rows, numbers = np.divmod(cells, max(len(self), 1))
        values = DAMPED[np.minimum(counts, len(DAMPED) - 1)] * self.idf[numbers]
        lengths = np.sqrt(np.bincount(rows, values * values, len(codes)))
        return rows, numbers, values / lengths[rows]


def _counted(texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """(n-grams, ascending, in how many texts each is)"""
    bits, rows = hashed([codes_of(text) for text in texts])
    order = np.lexsort((rows, bits))
    bits, rows = bits[order], rows[order]
    new = np.ones(len(bits), bool)  # once a text
    new[1:] = (bits[1:] != bits[:-1]) | (rows[1:] != rows[:-1])
    return np.unique(bits[new], return_counts=True)


def _merged(one: tuple[np.ndarray, np.ndarray], other: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Two counts as one; of more than HELD n-grams without those that came once."""
    bits, counts = map(np.concatenate, zip(one, other))
    order = np.argsort(bits, kind="stable")  # merges what is sorted already, in proportion to its length
    bits = bits[order]
    starts = np.flatnonzero(np.diff(bits, prepend=~bits[:1]))
    bits, counts = bits[starts], np.add.reduceat(counts[order], starts) if len(starts) else counts
    return (bits[counts > 1], counts[counts > 1]) if len(bits) > HELD else (bits, counts)
