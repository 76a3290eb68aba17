"""What all tokenizers share: the files they are read from, special tokens, ids cut to a length, and spans.

The kinds are in wordpiece.py, ernie_m.py and tokenizer_json.py; tokenizer.py opens that of a model directory.
"""

import copy
import io
import json
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from hierarchical.errors import InputError
from hierarchical.files import atomic_write, refuse_pointer
from hierarchical.long_texts import CUT, ENDS, LongText, Windows
from hierarchical.normalizing import METHODS, Normalizer

# Of a checkpoint. What encoders bring under other names is turned into these: tokenizer_files.py.
FILES = ("vocab.txt", "tokenizer_config.json", "special_tokens_map.json", "sentencepiece.bpe.model", "tokenizer.json")
NORMALIZE = "normalize"  # in tokenizer_config.json
LONGEST_WORD = 100  # characters; to ERNIE and BERT a longer one is unknown
LETTER = "[0-9A-Za-z\u00c0-\u024f\u0370-\u052f]"  # of the scripts that put blanks between words, and digits
REMEMBERED = 200_000  # words, tens of MB; what comes after that is worked out each time
COPY = "copy the file that came with the model's weights"
ROLES = ("pad", "unk", "cls", "sep", "mask")


def read_files(directory: Path, names: Iterable[str] = FILES) -> dict[str, bytes]:
    """Name -> content of the tokenizer's files that there are in a directory."""
    try:
        files = {name: (directory / name).read_bytes() for name in names if (directory / name).is_file()}
    except OSError as error:
        raise InputError(f"{error.filename}: {error.strerror}: {COPY}") from None
    for name, content in files.items():
        refuse_pointer(directory / name, content)
    return files


class Tokenizer(ABC):
    """What the kinds share. Each adds `_read_vocab`, `_first_ids`, `_count` and `_located`.

    Attributes: `pad_id`, `unk_id`, `cls_id`, `sep_id`, `mask_token` (None: there is none), `mask_id` (without one:
    `unk_id`), `max_seq_length`, `long_text` (a LongText: what is read of texts with more tokens than that), `vocab`
    (dict, token to id), `source` (the file that it stands in), and `files` (dict, name to bytes): what it was read
    from, see `read_files`.
    Texts are normalised before they are cut where tokenizer_config.json says so: see normalizing.py.
    A special token spelt out in a text, such as "[SEP]", becomes that token's id, as it does in PaddleNLP.
    """

    special = dict(zip(ROLES, ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")))  # where the files do not say
    long_text: LongText = CUT

    def __init__(self, directory: Path, config: dict, max_seq_length: int, files: dict[str, bytes]):
        self.directory, self.max_seq_length, self.files = directory, max_seq_length, files
        self.source, self.vocab = self._read_vocab(config)
        if (how := config.get(NORMALIZE)) not in (None, *METHODS):
            path = directory / "tokenizer_config.json"
            raise InputError(f"{path}: {NORMALIZE} is {how!r}, which a newer version writes. Install that one.")
        self._normalizer = Normalizer(self.vocab) if how else None
        config = config | read_json(directory / "special_tokens_map.json", files, optional=True)
        names = [content_of(config.get(f"{role}_token", self.special[role])) for role in ROLES]
        if missing := [name for name in names[:4] if name not in self.vocab]:
            raise InputError(f"{self.source}: no line {', '.join(missing)}: {COPY}")
        self.pad_id, self.unk_id, self.cls_id, self.sep_id = (self.vocab[name] for name in names[:4])
        self.mask_token = names[4] if names[4] in self.vocab else None
        self.mask_id = self.vocab.get(names[4], self.unk_id)
        others = [config.get("bos_token"), config.get("eos_token"), *(config.get("additional_special_tokens") or [])]
        self._specials = {name for name in [*names, *map(content_of, others)] if name and name in self.vocab}

    def require_known(self, config: dict) -> None:
        """Raise InputError where there are ids that a model does not know; config: its config.json."""
        count, known = 1 + max(index for token, index in self.vocab.items() if token), config.get("vocab_size")
        if isinstance(known, int) and count > known:
            raise InputError(
                f"{self.source}: {count} tokens, but the model knows {known} (vocab_size in config.json). A line that "
                "is added is no new token: put the original back, see train.py --add_tokens"
            )

    def encode(self, texts: list[str]) -> list[list[int]]:
        """The ids that are read of each text: [CLS] … [SEP], not padded; one list per text, in order.

        `max_seq_length` at most; with windows as many as they cover, see `windows`.
        """
        room, kept = self.max_seq_length - ENDS, self.long_text.kept
        reach = self.long_text.reach(room)
        return [[self.cls_id, *kept(self._first_ids(self.read(text), reach), room), self.sep_id] for text in texts]

    @property
    def windows(self) -> Windows | None:
        """How what `encode` gives is cut into windows; None: it goes through a network as it is."""
        stride = self.long_text.stride
        return None if stride is None else Windows(self.max_seq_length, stride)

    def reading(self, long_text: LongText) -> "Tokenizer":
        """The same tokenizer, with its vocabulary, for another way with long texts."""
        other = copy.copy(self)
        other.long_text = long_text
        return other

    def lengths(self, texts: list[str]) -> list[int]:
        """How many ids each whole text has, [CLS] and [SEP] included, before anything is cut off."""
        return [len(self.encode_whole(text)) + 2 for text in texts]

    def encode_whole(self, text: str) -> list[int]:
        """The ids of a text, however many, without [CLS] and [SEP]."""
        return self._first_ids(self.read(text), None)

    def read(self, text: str) -> str:
        """A text as it is read: normalised, if that is asked for."""
        return text if self._normalizer is None else self._normalizer(text)

    def count(self, text: str) -> tuple[int, list[str]]:
        """(how many ids a whole text has, as `lengths` says, its parts that the vocabulary lacks, as they are read)."""
        return self._count(self.read(text))

    def spans(self, text: str) -> list[tuple[int, int]]:
        """Where in the text each id of `encode([text])[0]` comes from: (first character, character after its last).

        [CLS] and [SEP] come from nowhere: (0, 0). One that has no character of its own, as the second full stop that
        sentencepiece makes of an ellipsis, has an empty span. Spans never go back. Takes far longer than `encode`.
        """
        if self._normalizer is None:
            found = self._located(text)
        else:
            text, sources = self._normalizer.aligned(text)
            ends = [*sources, (sources[-1][1],) * 2 if sources else (0, 0)]  # of a span without a character, too
            found = [(ends[i][0], ends[j - 1][1] if i < j else ends[i][0]) for i, j in self._located(text)]
        return [(0, 0), *self.long_text.kept(found, self.max_seq_length - ENDS), (0, 0)]

    def text_part(self, ids: Sequence[int]) -> slice:
        """Which of the ids of `encode` are the text's own: all but [CLS] and [SEP]."""
        return slice(1, len(ids) - 1)

    def is_special(self, text: str) -> bool:
        """Whether this is the name of a special token, such as "[SEP]"."""
        return text in self._specials

    def as_one_word(self, text: str) -> str | None:
        """The line of vocab.txt that would make one token of this text, "" for one that is read as nothing.

        None if there is no such line, since the text is cut before it is looked for there.
        """
        return None

    def save(self, directory: str | Path) -> None:
        """Writes the files this tokenizer was read from, so that `directory` serves without the model's."""
        for name, content in self.files.items():
            with atomic_write(Path(directory) / name, "wb") as file:
                file.write(content)

    @abstractmethod
    def _count(self, text: str) -> tuple[int, list[str]]:
        """`count` of a text that is normalised, if it has to be."""

    @abstractmethod
    def _read_vocab(self, config: dict) -> tuple[Path, dict[str, int]]:
        """(file, token -> id); config: tokenizer_config.json."""

    @abstractmethod
    def _first_ids(self, text: str, count: int | None) -> list[int]:
        """The first `count` ids of a text, or more; or all it has, as for None. Without [CLS] and [SEP]."""

    @abstractmethod
    def _located(self, text: str) -> list[tuple[int, int]]:
        """The span of each id of a text."""


class WordTokenizer(Tokenizer):
    """Cuts a text into words, whose ids depend on the word alone. Each kind adds `_split`, `_pieces` and `_sources`."""

    def __init__(self, directory: Path, config: dict, max_seq_length: int, files: dict[str, bytes]):
        super().__init__(directory, config, max_seq_length, files)
        added = {content_of(token) for token in (config.get("added_tokens_decoder") or {}).values()}
        also = directory / "added_tokens.json"
        if also.is_file():
            added |= set(read_json(also, {also.name: also.read_bytes()}))
        if added := added - self._specials:
            remedy = f"not supported, use a model whose {self.source.name} holds all of its tokens"
            raise InputError(f"{directory}: tokens were added to the vocabulary ({', '.join(sorted(added))}): {remedy}")
        longest_first = sorted(self._specials, key=len, reverse=True)
        self._special = re.compile("(" + "|".join(map(apart, longest_first)) + ")")
        self._longest_special = len(longest_first[0])
        self._ids_of = Remembered(self._word_ids, {name: (self.vocab[name],) for name in self._specials})

    def _count(self, text: str) -> tuple[int, list[str]]:
        words = self._words(text)
        ids = self._ids(words)
        unknown = [
            word[start:end]
            for word in (words if self.unk_id in ids else ())
            if not self.is_special(word)
            for start, end, index in self._pieces(word)
            if index == self.unk_id
        ]
        return len(ids) + 2, unknown

    @abstractmethod
    def _split(self, text: str) -> list[str]:
        """The words of a text without special tokens."""

    @abstractmethod
    def _pieces(self, word: str) -> list[tuple[int, int, int]]:
        """The tokens of a word: (first character, character after the last, id)."""

    @abstractmethod
    def _sources(self, text: str) -> list[tuple[str, list[tuple[int, int]]]]:
        """The words of `_split`, each with the (start, end) in the text of each of its characters."""

    def _read_vocab(self, config: dict) -> tuple[Path, dict[str, int]]:
        path = self.directory / "vocab.txt"
        return path, read_vocab(path, self.files)

    def _first_ids(self, text: str, count: int | None) -> list[int]:
        return self._ids(self._words(text))

    def _ids(self, words: list[str]) -> list[int]:
        return list(chain.from_iterable(map(self._ids_of.__getitem__, words)))

    def _word_ids(self, word: str) -> tuple[int, ...]:
        return tuple(index for _, _, index in self._pieces(word))

    def _words(self, text: str) -> list[str]:
        """A text's words, special tokens among them."""
        words: list[str] = []
        for i, (_, part) in enumerate(self._parts(text)):
            words += [part] if i % 2 else self._split(part)
        return words

    def _located(self, text: str) -> list[tuple[int, int]]:
        found = []
        for i, (position, part) in enumerate(self._parts(text)):
            if i % 2:
                found.append((position, position + len(part)))
                continue
            for word, sources in self._sources(part):
                for start, end, _ in self._pieces(word):
                    first, last = sources[start][0], sources[end - 1][1]
                    found.append((position + first, position + last))
        return found

    def _parts(self, text: str) -> list[tuple[int, str]]:
        """(position, part) of text, special token, text, …, special token, text."""
        parts, found, end = self._special.split(text), [], 0
        for i, part in enumerate(parts):
            end += len(part)
            if i % 2 == 0 and i > 0:  # special tokens swallow the blanks beside them
                part = part.lstrip()
            start = end - len(part)
            if i % 2 == 0 and i + 1 < len(parts):
                part = part.rstrip()
            found.append((start, part))
        return found


class Remembered(dict):
    """A function's results by argument, each worked out when it is first asked for."""

    def __init__(self, function: Callable, known: dict | None = None):
        super().__init__(known or {})
        self.function = function

    def __missing__(self, key: Any) -> Any:
        value = self.function(key)
        if len(self) < REMEMBERED and len(str(key)) <= LONGEST_WORD:
            self[key] = value
        return value


def read_json(path: Path, files: dict[str, bytes], optional: bool = False) -> dict:
    """One of a tokenizer's files, a JSON object; {} if there is none and it is optional."""
    if path.name not in files:
        if optional:
            return {}
        raise InputError(f"{path}: No such file or directory: give a directory that holds a model with its tokenizer")
    try:
        value = json.loads(files[path.name])
    except (ValueError, RecursionError) as error:  # not JSON, or not UTF-8
        raise InputError(f"{path}: not JSON ({error}): {COPY}") from None
    if not isinstance(value, dict):
        raise InputError(f"{path}: not a JSON object: {COPY}")
    return value


def read_vocab(path: Path, files: dict[str, bytes]) -> dict[str, int]:
    """Token -> number of its line, from 0."""
    if path.name not in files:
        raise InputError(f"{path}: No such file or directory: {COPY}")
    try:
        lines = io.StringIO(files[path.name].decode("utf-8"), newline=None)
        return {line.rstrip("\n"): i for i, line in enumerate(lines)}
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 ({error}): {COPY}") from None


def apart(token: str) -> str:
    """The pattern of a special token; one that begins or ends with a letter does not stand within a word."""
    begins, ends = (
        f"(?{side}{LETTER})" if re.match(LETTER, char) else "" for side, char in zip(("<!", "!"), (token[0], token[-1]))
    )
    return begins + re.escape(token) + ends


def content_of(token: str | dict | None) -> str:
    """A special token as the files have it: a string, or an object that holds it as its content."""
    return str((token.get("content") if isinstance(token, dict) else token) or "")
