"""Text -> token ids, from the files of a model directory alone: no paddle, no paddlenlp, no network.

    tokenizer = load_tokenizer("checkpoint", max_seq_length=128)
    tokenizer.encode(["北京今天下雨"])    # [[1, …, 2]]: [CLS] … [SEP], 128 ids at most, no padding

Reads  vocab.txt, tokenizer_config.json, special_tokens_map.json (if there), sentencepiece.bpe.model (ERNIE-M only)
Writes nothing, except `save(directory)`, which copies those files

The ids are exactly those of PaddleNLP's Python tokenizers; its Rust ones differ on symbols, rare blanks and newer
characters. (One exception: a special token that begins or ends with a letter, as train.py --add_tokens can make it, is
not found within a word.) Once a text is cut into words, a word's ids depend on that word only, so each word is worked
out once and then remembered: on one thread this outruns the Rust ones, and there are no threads to lose in a fork.
"""

import io
import json
import re
import unicodedata
from abc import ABC, abstractmethod
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any

from hierarchical.errors import InputError
from hierarchical.files import atomic_write

FILES = ("vocab.txt", "tokenizer_config.json", "special_tokens_map.json", "sentencepiece.bpe.model")
LONGEST_WORD = 100  # characters; to ERNIE and BERT a longer one is unknown
LETTER = "[0-9A-Za-z\u00c0-\u024f\u0370-\u052f]"  # of the scripts that put blanks between words, and digits
REMEMBERED = 200_000  # words, tens of MB; what comes after that is worked out each time
CJK = [(0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x2A6DF), (0x2A700, 0x2CEAF), (0x2F800, 0x2FA1F)]
OTHER_SYMBOLS = "\u00b2\u00b5\u00ba\u00d8\u014b\u01b1\u3007"  # ² µ º Ø ŋ Ʊ 〇: letters and digits to Unicode


def load_tokenizer(model_dir: str | Path, max_seq_length: int) -> "Tokenizer":
    """The tokenizer of a model or checkpoint directory; `max_seq_length` in tokens, [CLS] and [SEP] included.

    Raises `InputError`, naming the file and the remedy, where the directory cannot give the ids its model knows.
    """
    if max_seq_length < 3:
        raise InputError(f"max_seq_length is {max_seq_length}: give at least 3, for [CLS], one token and [SEP]")
    directory = Path(model_dir)
    return tokenizer_of(read_files(directory), directory, max_seq_length)


def tokenizer_of(files: dict[str, bytes], directory: Path, max_seq_length: int) -> "Tokenizer":
    """The tokenizer of these contents of `read_files`, which messages place in the directory."""
    path = directory / "tokenizer_config.json"
    config = _read_json(path, files)
    name = str(config.get("tokenizer_class") or config.get("init_class")).removesuffix("Fast")
    if name not in CLASSES:
        remedy = f"use a model with one of {', '.join(CLASSES)}, or correct the file"
        raise InputError(f"{path}: unknown tokenizer_class {name}: {remedy}")
    return CLASSES[name](directory, config, max_seq_length, files)


def read_files(directory: Path) -> dict[str, bytes]:
    """Name -> content of the tokenizer's files that there are in a directory."""
    try:
        return {name: (directory / name).read_bytes() for name in FILES if (directory / name).is_file()}
    except OSError as error:
        raise InputError(f"{error.filename}: {error.strerror}: {COPY}") from None


class Tokenizer(ABC):
    """What the families share. Each adds `_split`, `_pieces` and `_sources`.

    Attributes: `pad_id`, `unk_id`, `cls_id`, `sep_id`, `mask_id` (without one: `unk_id`), `max_seq_length`, `vocab`
    (dict, token to id), and `files` (dict, name to bytes): what it was read from, see `read_files`.
    A special token spelt out in a text, such as "[SEP]", becomes that token's id, as it does in PaddleNLP.
    """

    def __init__(self, directory: Path, config: dict, max_seq_length: int, files: dict[str, bytes]):
        self.directory, self.max_seq_length, self.files = directory, max_seq_length, files
        self.vocab = _read_vocab(directory / "vocab.txt", files)
        config = config | _read_json(directory / "special_tokens_map.json", files, optional=True)
        names = [_content(config.get(f"{key}_token", f"[{key.upper()}]")) for key in "pad unk cls sep mask".split()]
        if missing := [name for name in names[:4] if name not in self.vocab]:
            raise InputError(f"{directory / 'vocab.txt'}: no line {', '.join(missing)}: {COPY}")
        self.pad_id, self.unk_id, self.cls_id, self.sep_id = (self.vocab[name] for name in names[:4])
        self.mask_id = self.vocab.get(names[4], self.unk_id)
        others = [config.get("bos_token"), config.get("eos_token"), *(config.get("additional_special_tokens") or [])]
        specials = {name for name in [*names, *map(_content, others)] if name and name in self.vocab}
        added = {_content(token) for token in (config.get("added_tokens_decoder") or {}).values()}
        also = directory / "added_tokens.json"
        if also.is_file():
            added |= set(_read_json(also, {also.name: also.read_bytes()}))
        if added := added - specials:
            remedy = "not supported, use a model whose vocab.txt holds all of its tokens"
            raise InputError(f"{directory}: tokens were added to the vocabulary ({', '.join(sorted(added))}): {remedy}")
        longest_first = sorted(specials, key=len, reverse=True)
        self._special = re.compile("(" + "|".join(map(_apart, longest_first)) + ")")
        self._longest_special = len(longest_first[0])
        self._ids_of = _Remembered(self._word_ids, {name: (self.vocab[name],) for name in specials})

    def require_known(self, config: dict) -> None:
        """Raise InputError where there are ids that a model does not know; config: its config.json."""
        count, known = 1 + max(index for token, index in self.vocab.items() if token), config.get("vocab_size")
        if isinstance(known, int) and count > known:
            raise InputError(
                f"{self.directory / 'vocab.txt'}: {count} tokens, but the model knows {known} (vocab_size in "
                f"config.json). A line that is added is no new token: put the original back, see train.py --add_tokens"
            )

    def encode(self, texts: list[str]) -> list[list[int]]:
        """The ids of each text: [CLS] … [SEP], `max_seq_length` at most, not padded; one list per text, in order."""
        room = self.max_seq_length - 2
        return [[self.cls_id, *self._first_ids(text, room)[:room], self.sep_id] for text in texts]

    def encode_whole(self, text: str) -> list[int]:
        """The ids of a text, however many, without [CLS] and [SEP]."""
        return self._ids(self._words(text))

    def lengths(self, texts: list[str]) -> list[int]:
        """How many ids each whole text has, [CLS] and [SEP] included, before anything is cut off."""
        return [len(self.encode_whole(text)) + 2 for text in texts]

    def count(self, text: str) -> tuple[int, list[str]]:
        """(how many ids a whole text has, as `lengths` says, its parts that the vocabulary lacks, as they are read)."""
        words = self._words(text)
        ids = self._ids(words)
        unknown = [
            word[start:end]
            for word in (words if self.unk_id in ids else ())
            if not self._special.fullmatch(word)
            for start, end, index in self._pieces(word)
            if index == self.unk_id
        ]
        return len(ids) + 2, unknown

    def spans(self, text: str) -> list[tuple[int, int]]:
        """Where in the text each id of `encode([text])[0]` comes from: (first character, character after its last).

        [CLS] and [SEP] come from nowhere: (0, 0). One that has no character of its own, as the second full stop that
        sentencepiece makes of an ellipsis, has an empty span. Spans never go back. Takes far longer than `encode`.
        """
        found = []
        for i, (position, part) in enumerate(self._parts(text)):
            if i % 2:
                found.append((position, position + len(part)))
                continue
            for word, sources in self._sources(part):
                for start, end, _ in self._pieces(word):
                    first, last = sources[start][0], sources[end - 1][1]
                    found.append((position + first, position + last))
        return [(0, 0), *found[: self.max_seq_length - 2], (0, 0)]

    def is_special(self, text: str) -> bool:
        """Whether this is the name of a special token, such as "[SEP]"."""
        return self._special.fullmatch(text) is not None

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
    def _split(self, text: str) -> list[str]:
        """The words of a text without special tokens."""

    @abstractmethod
    def _pieces(self, word: str) -> list[tuple[int, int, int]]:
        """The tokens of a word: (first character, character after the last, id)."""

    @abstractmethod
    def _sources(self, text: str) -> list[tuple[str, list[tuple[int, int]]]]:
        """The words of `_split`, each with the (start, end) in the text of each of its characters."""

    def _first_ids(self, text: str, count: int) -> list[int]:
        """The first `count` ids of a text, or more, or all it has."""
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


class ErnieTokenizer(Tokenizer):
    """ERNIE and BERT: words end at blanks, CJK characters, punctuation and symbols; WordPiece within a word."""

    def __init__(self, directory: Path, config: dict, max_seq_length: int, files: dict[str, bytes]):
        super().__init__(directory, config, max_seq_length, files)
        self.lower = bool(config.get("do_lower_case", True))
        self._longest_piece = max(map(len, self.vocab))
        self._clean, self._part = _Remembered(self._clean_char), _Remembered(self._part_char)

    def _first_ids(self, text: str, count: int) -> list[int]:
        # Of a long document only the head is looked at. A cut changes nothing before the word, or the spelt-out
        # special token, that it falls into; how many characters hold `count` ids is found by trying.
        size = 4 * count + 64
        while size < len(text):
            ids = self._ids(self._words(text[:size])[: -self._longest_special - 1])
            if len(ids) >= count:
                return ids
            size *= 4
        return super()._first_ids(text, count)

    def as_one_word(self, text: str) -> str | None:
        words = self._split(text)
        return "".join(words) if len(words) < 2 else None

    def _split(self, text: str) -> list[str]:
        return self._normalize(text).split()

    def _sources(self, text: str) -> list[tuple[str, list[tuple[int, int]]]]:
        # Character by character the result is as long, only neighbouring marks may come in another order.
        chars = [self._normalize(char) for char in text]
        sources = [(i, i + 1) for i, char in enumerate(chars) for _ in char]
        found = re.finditer(r"\S+", "".join(chars))
        return [(word, sources[slice(*match.span())]) for word, match in zip(self._split(text), found)]

    def _normalize(self, text: str) -> str:
        text = text.translate(self._clean)
        if self.lower:  # on the text, not in the tables: it puts neighbouring marks in order
            text = unicodedata.normalize("NFD", text)
        return text.translate(self._part)

    def _clean_char(self, code: int) -> str:
        """In lower case, without control characters, blanks all alike, CJK characters set apart."""
        out = ""
        for char in chr(code).lower() if self.lower else chr(code):
            category = unicodedata.category(char)
            if char in "\t\n\r" or category == "Zs":
                out += " "
            elif category[0] != "C" and char != "\ufffd":
                out += f" {char} " if any(first <= ord(char) <= last for first, last in CJK) else char
        return out

    def _part_char(self, code: int) -> str:
        """Without accents (in lower case only), punctuation and symbols set apart."""
        char, category = chr(code), unicodedata.category(chr(code))
        if self.lower and category == "Mn":
            return ""
        return f" {char} " if category[0] in "PS" or char in OTHER_SYMBOLS else char

    def _pieces(self, word: str) -> list[tuple[int, int, int]]:
        """WordPiece: the longest piece first; one part that is not in the vocabulary makes the word unknown."""
        pieces, start = [], 0
        while start < len(word) <= LONGEST_WORD:
            for end in range(min(len(word), start + self._longest_piece), start, -1):
                if (piece := word[:end] if start == 0 else "##" + word[start:end]) in self.vocab:
                    break
            else:
                return [(0, len(word), self.unk_id)]
            pieces.append((start, end, self.vocab[piece]))
            start = end
        return pieces or [(0, len(word), self.unk_id)]


class BertTokenizer(ErnieTokenizer):
    """BERT has options that ERNIE has not; they must have their usual values."""

    def __init__(self, directory: Path, config: dict, max_seq_length: int, files: dict[str, bytes]):
        usual = {"do_basic_tokenize": True, "tokenize_chinese_chars": True, "strip_accents": None, "never_split": None}
        if unusual := [key for key, value in usual.items() if config.get(key, value) != value]:
            path = directory / "tokenizer_config.json"
            raise InputError(f"{path}: unusual {', '.join(unusual)}: not supported, use a model trained without")
        super().__init__(directory, config, max_seq_length, files)


class ErnieMTokenizer(Tokenizer):
    """ERNIE-M: sentencepiece, whose pieces are cut once more around CJK characters, punctuation and numbers."""

    def __init__(self, directory: Path, config: dict, max_seq_length: int, files: dict[str, bytes]):
        from sentencepiece import SentencePieceProcessor  # here, so that ERNIE and BERT do without the package

        super().__init__(directory, config, max_seq_length, files)
        self.lower = bool(config.get("do_lower_case", False))
        path = directory / "sentencepiece.bpe.model"
        if not (content := files.get(path.name)):
            raise InputError(f"{path}: No such file or directory, or an empty one: {COPY}")
        try:
            self._sentencepiece = SentencePieceProcessor(model_proto=content)
        except RuntimeError as error:
            raise InputError(f"{path}: not a readable sentencepiece model ({error}): {COPY}") from None

    def _split(self, text: str) -> list[str]:
        return self._sentencepiece.encode(self._readable(text), out_type=str)

    def _readable(self, text: str) -> str:
        text = "".join(map(str.lower, text)) if self.lower else text
        return text.encode("utf-8", "ignore").decode()  # without lone surrogates, which sentencepiece cannot take

    def _sources(self, text: str) -> list[tuple[str, list[tuple[int, int]]]]:
        origin = [i for i, char in enumerate(text) for _ in self._readable(char)]
        found = self._sentencepiece.encode(self._readable(text), return_type="offset_mapping")
        words = []
        for word, (start, end) in zip(found["pieces"], found["offsets"]):
            covered = [(origin[i], origin[i] + 1) for i in range(start, end)]
            # ▁ stands for a blank, or at the start of the text for nothing.
            if word[0] == "▁" and len(word) == len(covered) + 1:
                covered = [(origin[start] if covered else 0,) * 2, *covered]
            if len(word) != len(covered):  # such as ㈱, which is read as (株): they share what they come from
                first = origin[start] if start < len(origin) else len(text)
                covered = [(first, covered[-1][1] if covered else first)] * len(word)
            words.append((word, covered))
        return words

    def _pieces(self, word: str) -> list[tuple[int, int, int]]:
        cuts, start = [], 0
        for i, char in enumerate(word):
            if "\u4e00" <= char <= "\u9fff" or char in ",;:.?!~，；：。？！《》【】":
                cuts += [(start, i), (i, i + 1)]
                start = i + 1
            elif i and char != "▁" and char.isdigit() != word[i - 1].isdigit():
                cuts.append((start, i))
                start = i
        cuts.append((start, len(word)))
        # A lone ▁ is no token, except at the end of a longer piece: PaddleNLP's rule, and the model's training.
        return [
            (start, end, self.vocab.get(word[start:end], self.unk_id))
            for i, (start, end) in enumerate(cuts)
            if start < end and (word[start:end] != "▁" or 0 < i == len(cuts) - 1)
        ]


class _Remembered(dict):
    """A function's results by argument, each worked out when it is first asked for."""

    def __init__(self, function: Callable, known: dict | None = None):
        super().__init__(known or {})
        self.function = function

    def __missing__(self, key: Any) -> Any:
        value = self.function(key)
        if len(self) < REMEMBERED and len(str(key)) <= LONGEST_WORD:
            self[key] = value
        return value


def _read_json(path: Path, files: dict[str, bytes], optional: bool = False) -> dict:
    if path.name not in files:
        if optional:
            return {}
        raise InputError(f"{path}: No such file or directory: give a directory that holds a model with its tokenizer")
    try:
        value = json.loads(files[path.name])
    except ValueError as error:  # not JSON, or not UTF-8
        raise InputError(f"{path}: not JSON ({error}): {COPY}") from None
    if not isinstance(value, dict):
        raise InputError(f"{path}: not a JSON object: {COPY}")
    return value


def _read_vocab(path: Path, files: dict[str, bytes]) -> dict[str, int]:
    if path.name not in files:
        raise InputError(f"{path}: No such file or directory: {COPY}")
    try:
        lines = io.StringIO(files[path.name].decode("utf-8"), newline=None)
        return {line.rstrip("\n"): i for i, line in enumerate(lines)}
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 ({error}): {COPY}") from None


def _apart(token: str) -> str:
    """The pattern of a special token; one that begins or ends with a letter does not stand within a word."""
    begins, ends = (
        f"(?{side}{LETTER})" if re.match(LETTER, char) else "" for side, char in zip(("<!", "!"), (token[0], token[-1]))
    )
    return begins + re.escape(token) + ends


def _content(token: str | dict | None) -> str:
    """A special token as the files have it: a string, or an object that holds it as its content."""
    return str((token.get("content") if isinstance(token, dict) else token) or "")


COPY = "copy the file that came with the model's weights"
CLASSES = {"ErnieTokenizer": ErnieTokenizer, "BertTokenizer": BertTokenizer, "ErnieMTokenizer": ErnieMTokenizer}
