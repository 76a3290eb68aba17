"""The linear branch: what character n-grams alone say of a text, beside an encoder or in its place.

    branch = read_linear(folder, tree)                   # None if the model has none
    logits = with_linear(logits, branch, texts)          # what every script and server does with an encoder's logits

linear.safetensors holds an n-gram vocabulary, a linear support vector machine for each label, its weights in 8 bits and
without those that are nearly 0, and in its metadata the two numbers that put its decision values on the scale of
logits: logit = weight x decision value + shift. Needs numpy alone; linear_training.py makes it.

A model that has nothing else is a folder with this file, label.txt, decision.json and a config.json with "model_type":
"linear". There a text's characters are its tokens.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from hierarchical.errors import InputError
from hierarchical.files import atomic_write
from hierarchical.label_graph import GRAPH
from hierarchical.labels import LabelTree
from hierarchical.long_texts import CUT
from hierarchical.n_grams import LONGEST, NGrams, codes_of, hashed, normalised

LINEAR = "linear.safetensors"
MODEL_TYPE = "linear"  # in the config.json of a model without an encoder
WHOLE = 1_000_000  # characters that such a model reads, unless told otherwise
FORMAT = "1"  # of the file, and how n-grams are cut and hashed
CELLS = 1 << 21  # of texts x labels at a time
TEXTS = 32  # at a time: more do not fit the caches
DTYPES = {"U64": "<u8", "I64": "<i8", "U32": "<u4", "F32": "<f4", "I8": "i1"}  # of the file's format
ARRAYS = {
    "bits": "U64",
    "idf": "F32",
    "starts": "I64",
    "labels": "U32",
    "weights": "I8",
    "scales": "F32",
    "bias": "F32",
}


@dataclass(frozen=True)
class LinearBranch:
    """A linear classifier of D n-grams for L labels.

    n_grams         the vocabulary
    starts          int64 [D + 1]: the weights of n-gram i are those from starts[i] to before starts[i + 1]
    labels          uint32 [W]: the label of each weight
    weights         int8 [W], to be multiplied by the scale of their label
    scales, bias    float32 [L]
    weight, shift   logit = weight x decision value + shift
    """

    n_grams: NGrams
    starts: np.ndarray
    labels: np.ndarray
    weights: np.ndarray
    scales: np.ndarray
    bias: np.ndarray
    weight: float = 1.0
    shift: float = 0.0

    def scaled(self, weight: float, shift: float) -> "LinearBranch":
        """The same with other numbers."""
        return replace(self, weight=weight, shift=shift)

    def decision_values(self, texts: Sequence[str]) -> np.ndarray:
        """float64 [N, L]: the distance of each text from each label's boundary, above 0 on the label's side."""
        return self.decision_values_of([codes_of(text) for text in texts])

    def logits(self, texts: Sequence[str]) -> np.ndarray:
        """float32 [N, L]; each row depends on its text alone, to the last bit."""
        return self.logits_of([codes_of(text) for text in texts])

    def logits_of(self, codes: Sequence[np.ndarray]) -> np.ndarray:
        """`logits` of texts as `n_grams.codes_of` gives them."""
        return (self.weight * self.decision_values_of(codes) + self.shift).astype(np.float32)

    def decision_values_of(self, codes: Sequence[np.ndarray]) -> np.ndarray:
        """`decision_values` of texts as `n_grams.codes_of` gives them."""
        size = max(1, min(TEXTS, CELLS // len(self.bias)))
        parts = [self._window(codes[i : i + size]) for i in range(0, len(codes), size)]
        return np.concatenate(parts) if parts else np.zeros((0, len(self.bias)))

    def _window(self, codes: Sequence[np.ndarray]) -> np.ndarray:
        n_labels = len(self.bias)
        rows, n_grams, values = self.n_grams.features(codes)
        counts = self.starts[n_grams + 1] - self.starts[n_grams]
        places = np.arange(counts.sum()) + np.repeat(self.starts[n_grams] - np.cumsum(counts) + counts, counts)
        cells = np.repeat(rows * n_labels, counts) + self.labels[places]
        # adds up in the order of a text's n-grams, whatever the other texts are
        sums = np.bincount(cells, np.repeat(values, counts) * self.weights[places], len(codes) * n_labels)
        return sums.reshape(len(codes), n_labels) * self.scales + self.bias

    def parts(self, text: str, labels: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """What each character adds to the logits of some labels: (float64 [n, len(text)], logits without any [n]).

        An n-gram's part is shared equally by its places in the text, and there by its characters. Both together add up
        to the logits of the text, but for rounding.
        """
        codes, (_, origins) = codes_of(text), normalised(text)
        _, n_grams, values = self.n_grams.features([codes])
        weights = np.array([self._weights(n_gram, labels) for n_gram in n_grams]).reshape(-1, len(labels))
        places, numbers = self.n_grams.find(hashed([codes])[0])
        which = np.searchsorted(n_grams, numbers)
        shares = values[:, None] * weights / np.bincount(which, minlength=len(n_grams))[:, None]
        # the n-grams of `hashed`: by their length, and then by their first character
        spans = [(first, n) for n in range(1, LONGEST + 1) for first in range(len(codes) - n + 1)]
        found = np.zeros((len(labels), len(text)))
        for place, i in zip(places, which):
            first, size = spans[place]
            for character in range(first, first + size):
                found[:, origins[character]] += shares[i] / size
        return self.weight * found, self.weight * self.bias[list(labels)].astype(np.float64) + self.shift

    def _weights(self, n_gram: int, labels: Sequence[int]) -> np.ndarray:
        """The weights of an n-gram for some labels, float64."""
        part = slice(self.starts[n_gram], self.starts[n_gram + 1])
        own = np.zeros(len(self.bias))
        own[self.labels[part]] = self.weights[part]
        return (own * self.scales)[list(labels)]


def with_linear(logits: np.ndarray, branch: LinearBranch | None, texts: Sequence[str]) -> np.ndarray:
    """The logits float32 [n, L] of a model: those of its encoder and, if it has one, of its linear branch together."""
    return logits if branch is None else logits + branch.logits(texts)


# ---- a model without an encoder --------------------------------------------------------------------------------------


class Characters:
    """What a linear model has for a tokenizer: each character, normalised, is a token, and its number is its id."""

    pad_id = 0
    files: dict[str, bytes] = {}
    long_text, windows = CUT, None

    def __init__(self, max_seq_length: int):
        self.max_seq_length = max_seq_length

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of each text, `max_seq_length` at most."""
        return [codes_of(text)[: self.max_seq_length].tolist() for text in texts]

    def lengths(self, texts: Sequence[str]) -> list[int]:
        """How many ids each whole text has."""
        return [len(codes_of(text)) for text in texts]

    def spans(self, text: str) -> list[tuple[int, int]]:
        """Where in the text each id comes from: (its character, the next one)."""
        return [(i, i + 1) for i in normalised(text)[1][: self.max_seq_length]]


class LinearModel:
    """A branch as an engine, like those of engines.py: ids int64 [n, T] of Characters, padded -> logits float32."""

    labels, metadata, singly = None, dict[str, str](), False

    def __init__(self, branch: LinearBranch):
        self.branch = branch

    def __call__(self, input_ids: np.ndarray) -> np.ndarray:
        return self.branch.logits_of([row[: np.count_nonzero(row)].astype(np.uint32) for row in input_ids])


# ---- the file --------------------------------------------------------------------------------------------------------


def write_linear(folder: str | Path, branch: LinearBranch, tree: LabelTree) -> None:
    """linear.safetensors in a folder; the same branch makes the same bytes. tree: what it is for."""
    arrays = {
        "bits": branch.n_grams.bits, "idf": branch.n_grams.idf, "starts": branch.starts, "labels": branch.labels,
        "weights": branch.weights, "scales": branch.scales, "bias": branch.bias,
    }  # fmt: skip
    metadata = {"format": FORMAT, "labels": digest_of(tree)}
    metadata |= {"weight": repr(float(branch.weight)), "shift": repr(float(branch.shift))}
    header: dict[str, Any]
    header, position = {"__metadata__": metadata}, 0
    for name, kind in ARRAYS.items():
        end = position + arrays[name].astype(DTYPES[kind]).nbytes
        header[name] = {"dtype": kind, "shape": list(arrays[name].shape), "data_offsets": [position, end]}
        position = end
    content = json.dumps(header, separators=(",", ":")).encode()
    content += b" " * (-len(content) % 8)
    with atomic_write(Path(folder) / LINEAR, "wb") as file:
        file.write(len(content).to_bytes(8, "little") + content)
        for name, kind in ARRAYS.items():
            file.write(arrays[name].astype(DTYPES[kind]).tobytes())


def read_linear(folder: str | Path, tree: LabelTree) -> LinearBranch | None:
    """The branch of a model with these labels; None if its folder has none.

    The format is that of the library safetensors, which prediction does without. Raises InputError for a damaged file,
    and for one that was made for other labels.
    """
    path = Path(folder) / LINEAR
    if not path.exists():
        return None
    content = path.read_bytes()
    try:
        length = int.from_bytes(content[:8], "little")
        header, data = json.loads(content[8 : 8 + length]), memoryview(content)[8 + length :]
        metadata, arrays = header["__metadata__"], {}
        if metadata["format"] != FORMAT:
            raise InputError(f"{path}: of format {metadata['format']}, which a newer version writes. Install that one.")
        for name, kind in ARRAYS.items():
            (start, end), (size,) = header[name]["data_offsets"], header[name]["shape"]
            arrays[name] = np.frombuffer(data[start:end], DTYPES[kind])
            if header[name]["dtype"] != kind or len(arrays[name]) != size:
                raise ValueError(f"{name} is not {kind} [{size}]")
        branch = LinearBranch(
            NGrams(arrays.pop("bits"), arrays.pop("idf")),
            **arrays,
            weight=float(metadata["weight"]),
            shift=float(metadata["shift"]),
        )
        require_sound(branch)
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise InputError(f"{path}: damaged ({error}). Copy the whole folder again from where it was made.") from None
    if metadata.get("labels") != digest_of(tree) or len(branch.bias) != len(tree):
        raise InputError(
            f"{path.with_name('label.txt')}: is not the file that goes with {LINEAR} beside it, or {GRAPH} is not; the "
            "answers would be wrong. Put the original back, or copy the whole folder again from where it was made; or "
            "train again."
        )
    return branch


def digest_of(tree: LabelTree) -> str:
    """SHA-256 of labels in their order, and of their further parents."""
    return hashlib.sha256("\n".join([*tree.labels, *tree.graph_lines()]).encode()).hexdigest()


def require_sound(branch: LinearBranch) -> None:
    """Raise ValueError unless the arrays fit each other, so that no text can lead outside of them."""
    bits, starts = branch.n_grams.bits, branch.starts
    sound = (
        len(bits) == len(branch.n_grams.idf) == len(starts) - 1
        and (bits[1:] > bits[:-1]).all()
        and starts[0] == 0
        and (starts[1:] >= starts[:-1]).all()
        and starts[-1] == len(branch.labels) == len(branch.weights)
        and (branch.labels < len(branch.bias)).all()
        and len(branch.scales) == len(branch.bias)
        and all(np.isfinite(a).all() for a in (branch.n_grams.idf, branch.scales, branch.bias))
        and np.isfinite([branch.weight, branch.shift]).all()
    )
    if not sound:
        raise ValueError("its arrays do not fit each other")
