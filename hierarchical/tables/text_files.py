"""Text files of strangers: in any encoding, compressed with gzip or not, and with lines of a bounded length.

The files of a data folder are read by files.py, which takes UTF-8 alone.
"""

import codecs
import gzip
import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, NamedTuple

from hierarchical.errors import SHOWN, InputError, Problems
from hierarchical.files import KINDS, as_gb18030, require_file

LONGEST_LINE = 1 << 24  # characters
BLOCK = 1 << 20  # bytes
GZIP = b"\x1f\x8b"
BOMBS_FROM, BOMB_RATIO = 1 << 30, 200  # bytes; texts shrink to a tenth
MARKS = {  # the longer ones first
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
# What texts are written in that are not UTF-8. Central Europe's cp1250 cannot be told from cp1252, so it must be named.
GUESSED = ["gb18030", "big5", "cp932", "euc_jp", "cp949", "cp1252", "cp1251", "koi8_r", "cp1253", "cp1254", "cp1255"]
SAMPLE = 1 << 16  # bytes of lines beyond ASCII that a guess looks at


class TextFile(NamedTuple):
    """A file that holds nothing but text in this encoding; see open_text()."""

    path: Path
    encoding: str
    packed: bool
    found: bool  # that the encoding was not given

    def lines(self) -> Iterator[str]:
        """Yield the lines with their ends. Raises InputError for one that is longer than LONGEST_LINE."""
        with self._stream() as stream:
            number = 0
            while line := stream.readline(LONGEST_LINE):
                number += 1
                if len(line) == LONGEST_LINE and not line.endswith("\n"):
                    raise InputError(
                        f"{self.path}:{number}: a line of more than {LONGEST_LINE:,} characters: not a table of texts, "
                        "or its lines end in another way."
                    )
                yield line

    def pieces(self) -> Iterator[str]:
        """Yield the text in pieces, cut anywhere."""
        with self._stream() as stream:
            while piece := stream.read(BLOCK):
                yield piece

    @contextmanager
    def _stream(self) -> Iterator[IO[str]]:
        with _open(self.path, self.packed) as file:
            head = file.peek(BLOCK)[:BLOCK]
            mac = b"\r" in head and b"\n" not in head  # lines end in CR alone, as they once did there
            with io.TextIOWrapper(file, self.encoding, newline=None if mac else "\n") as stream:
                yield stream

    @property
    def said(self) -> str:
        """What is to be said about it."""
        return f"{_name(self.encoding)}{'' if self.found else ' (as told)'}{', gzip' if self.packed else ''}"


def open_text(path: str | Path, encoding: str | None = None) -> TextFile:
    """A file, which is read once to see that it is text, in `encoding` or in one that is found out.

    Raises InputError for what is no text, in another encoding or in several, and for what unpacks to far too much.
    """
    path = Path(path)
    require_file(path, "It holds a table, or rows.")
    with open(path, "rb") as file:
        head = file.read(4)
    packed = head.startswith(GZIP)
    try:
        if packed:
            _check_packed(path)
        found = _known(encoding) if encoding else _by_mark(path, packed) or _find(path, packed)
        text = TextFile(path, found, packed, not encoding)
        if error := _fault(text):
            raise InputError(f"{path}:{error}")
        return text
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(f"{path}: a damaged gzip file ({error}); fetch it again.") from None


def _open(path: Path, packed: bool) -> io.BufferedReader:
    # a GzipFile has all that is asked of a BufferedReader
    return gzip.open(path, "rb") if packed else open(path, "rb")  # type: ignore[return-value]


def _blocks(path: Path, packed: bool) -> Iterator[bytes]:
    with _open(path, packed) as file:
        while block := file.read(BLOCK):
            yield block


def is_bomb(size: int, packed: int) -> bool:
    """Whether a file unpacks to far more than a file of texts would: bytes, and bytes when packed."""
    return size > max(BOMBS_FROM, BOMB_RATIO * packed)


def _check_packed(path: Path) -> None:
    """Raise InputError where a gzip file unpacks to far more than a file of texts would."""
    size, packed = 0, path.stat().st_size
    for block in _blocks(path, packed=True):
        size += len(block)
        if is_bomb(size, packed):
            raise InputError(
                f"{path}: unpacks to more than {size // 1_000_000:,} MB, over {BOMB_RATIO} times its size: no file of "
                "texts does. If it is right, unpack it, and give what is in it."
            )


# ---- encodings -------------------------------------------------------------------------------------------------------


def _known(encoding: str) -> str:
    """The encoding's usual name. Raises InputError for what is no encoding of text."""
    try:
        b"a".decode(encoding)
    except UnicodeError:  # not that byte alone
        pass
    except (LookupError, ValueError):
        raise InputError(
            f"--encoding {encoding}: unknown; Python's names are known, as utf-8, gb18030, big5, cp1252."
        ) from None
    name = codecs.lookup(encoding).name
    return "utf-8-sig" if name == "utf-8" else name


def _name(encoding: str) -> str:
    return encoding.removesuffix("-sig").upper()


def _by_mark(path: Path, packed: bool) -> str | None:
    """What a byte order mark, or a zero in line ends, says; None if they say nothing. Raises for what is no text."""
    with _open(path, packed) as file:
        head = file.read(4096)
    if mark := next((mark for mark in MARKS if head.startswith(mark)), None):
        return MARKS[mark]
    if what := next((what for beginning, what in KINDS.items() if head.startswith(beginning)), None):
        raise InputError(f"{path}: the file is {what}.")
    for encoding in ("utf-16-le", "utf-16-be") if 0 in head else ():
        text = head.decode(encoding, errors="ignore")
        if "\n" in text and "\0" not in text:
            return encoding
    if head.count(0) > len(head) / 4:
        raise InputError(f"{path}: no text: every fourth byte of it, or more, is a zero.")
    return None


def _find(path: Path, packed: bool) -> str:
    """utf-8, or a guess that fits every byte of the file. Raises InputError if nothing does, or if lines differ."""
    if not _fault(TextFile(path, "utf-8", packed, True)):
        return "utf-8"
    problems, good, bad, sample = Problems(), 0, 0, bytearray()
    with _open(path, packed) as file:
        for number, raw in enumerate(iter(lambda: file.readline(LONGEST_LINE), b""), start=1):
            if raw.isascii():
                continue
            try:
                raw.decode("utf-8")
                good += 1
            except UnicodeDecodeError as error:
                bad += 1
                sample += raw if len(sample) < SAMPLE else b""
                guess = as_gb18030(raw) if bad <= SHOWN else ""
                fault = f"byte {error.start + 1} is not UTF-8{guess and f' (as GB18030 it reads {guess!r})'}"
                problems.add(path, number, f"{fault}; other lines of the file are UTF-8: correct this one")
    if 10 * good >= bad:
        problems.raise_if_any()
    from charset_normalizer import from_bytes

    enough = bytes(sample[: 2 * SAMPLE]) * 4  # letters are counted only in a text of some length
    matches = sorted(from_bytes(enough, cp_isolation=GUESSED), key=lambda match: match.chaos - match.coherence)
    for match in matches:
        if not _fault(TextFile(path, match.encoding, packed, True)):
            return match.encoding
    raise InputError(
        f"{path}: not UTF-8, and in no encoding that can be guessed. --encoding names it, as big5 or cp1252."
    )


def _fault(text: TextFile) -> str:
    """Where the file is not in its encoding, as line and words; "" if it is in it throughout."""
    decoder, lines = codecs.getincrementaldecoder(text.encoding)(), 0
    with _open(text.path, text.packed) as file:
        ended = False
        while not ended:
            block = file.read(BLOCK)
            ended = not block
            try:
                lines += decoder.decode(block, final=ended).count("\n")
            except UnicodeDecodeError as error:
                lines += error.object[: error.start].count(b"\n")
                return (
                    f"{lines + 1}: not {_name(text.encoding)} ({error.reason}): the file has another encoding, or is "
                    "damaged there. --encoding names one; left out, it is found out."
                )
    return ""
