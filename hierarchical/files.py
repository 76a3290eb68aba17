"""Files: read line by line, written whole or not at all, and checked before any work is done.

All are UTF-8, with or without a byte order mark, lines ending in LF or CRLF.
"""

import hashlib
import os
import re
import shlex
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import IO, Any

from hierarchical.errors import InputError, Problems

# How files begin that people take for text: what they are, and what to do.
LEDGER = "ledger.jsonl"  # in a data folder; see hierarchical/ledger.py
PACKED = "; unpack it, and give what is in it"
POINTER = b"version https://git-lfs.github.com/spec/"
KINDS = {
    POINTER: "not there but a note of where git has it (a Git LFS pointer); run `git lfs pull` in its folder",
    b"PK\x03\x04": "a zip file, as spreadsheets (.xlsx) are, too; unpack it, or save the sheet as CSV in UTF-8",
    b"\x1f\x8b": "compressed with gzip" + PACKED,
    **{f"BZh{level}1AY".encode(): "compressed with bzip2" + PACKED for level in range(1, 10)},
    b"\xfd7zXZ\0": "compressed with xz" + PACKED,
    b"\x28\xb5\x2f\xfd": "compressed with zstd" + PACKED,
    b"7z\xbc\xaf": "a 7z archive" + PACKED,
    b"Rar!\x1a": "a RAR archive" + PACKED,
    b"\xd0\xcf\x11\xe0": "an old spreadsheet or document (.xls, .doc); save it as CSV or text, in UTF-8",
    b"%PDF-": "a PDF; save its text as UTF-8, one text per line",
    b"PAR1\x15": "a Parquet file; write its rows as JSON lines",
    b"SQLite format 3\0": "a database; export its rows as CSV in UTF-8",
}

UNKNOWN = "ITS_ENCODING"


@contextmanager
def atomic_write(path: str | Path, mode: str = "w") -> Iterator[IO[Any]]:
    """Open a file for writing that takes its name only when it is complete and on disk (UTF-8, LF)."""
    temporary = f"{path}.{os.getpid()}.tmp"
    encoding, newline = (None, None) if "b" in mode else ("utf-8", "\n")
    clear_leftovers(path)
    try:
        with open(temporary, mode, encoding=encoding, newline=newline) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        error.filename = error.filename or os.fspath(path)  # a full disk does not say whose write failed
        raise
    finally:
        Path(temporary).unlink(missing_ok=True)


def clear_leftovers(path: str | Path) -> None:
    """Remove what processes that were killed while they wrote this file have left of it: path.PID.tmp."""
    folder, name = os.path.split(path)
    pattern = re.compile(re.escape(name) + r"\.([0-9]+)\.tmp")
    try:
        names = os.listdir(folder or ".")
    except OSError:
        return  # it may be written to all the same
    for left in names:
        if (match := pattern.fullmatch(left)) and not _is_running(int(match[1])):
            Path(folder, left).unlink(missing_ok=True)


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)  # no signal, only the question
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # it is another user's
        pass
    return True


def file_digest(path: str | Path) -> str:
    """SHA-256 of a file's bytes, as hexadecimal text."""
    sha256 = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            sha256.update(block)
    return sha256.hexdigest()


def require_file(path: str | Path, hint: str) -> None:
    """Raise InputError unless `path` is a file that is not empty."""
    path = Path(path)
    if path.is_dir():
        raise InputError(f"{path}: is a directory, not a file. {hint}")
    if not path.exists():
        beside = sorted(p.name for p in path.parent.glob("*") if p.is_file())[:10] if path.parent.is_dir() else []
        there = f" {path.parent} holds: {', '.join(beside) or 'no files'}." if path.parent.is_dir() else ""
        raise InputError(f"{path}: no such file.{there} {hint}")
    if path.stat().st_size == 0:
        raise InputError(f"{path}: the file is empty. {hint}")


def refuse_pointer(path: Path, content: bytes) -> None:
    """Raise InputError if a file is only what git leaves of a large one that was not fetched."""
    if content.startswith(POINTER):
        raise InputError(f"{path}: is {KINDS[POINTER]}, or download the file from where its folder came from.")


def require_writable(path: Path, flag: str, inputs: Iterable[Path]) -> None:
    """Raise InputError now if a file could not be written after all the work, or would replace one that is read."""
    if path.is_dir():
        raise InputError(f"{path}: is a directory. {flag} names a file to write.")
    if path.resolve() in [source.resolve() for source in inputs]:
        raise InputError(f"{path}: {flag} would overwrite a file of the data set. Give it another name.")
    if path.name == LEDGER and path.exists():
        raise InputError(f"{path}: {flag} would overwrite what people have answered. Give it another name.")
    try:
        tempfile.TemporaryFile(dir=path.parent).close()
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror}). Check {flag} and your rights.") from None


def require_outputs(outputs: Mapping[str, Path], inputs: Iterable[Path]) -> None:
    """`require_writable` for every file of {flag: path}; no two flags may name the same one."""
    inputs = list(inputs)
    for flag, path in outputs.items():
        require_writable(path, flag, inputs)
    require_distinct(outputs)


def require_distinct(paths: Mapping[str, Path]) -> None:
    """Raise InputError if two of {flag: path} are the same file."""
    flag_of: dict[Path, str] = {}
    for flag, path in paths.items():
        if (other := flag_of.setdefault(path.resolve(), flag)) != flag:
            raise InputError(f"{path}: {other} and {flag} must have different names.")


def read_lines(path: str | Path, problems: Problems) -> Iterator[tuple[int, str]]:
    """Yield (line number, text without line end) of a UTF-8 file; a line that is not UTF-8 is a problem.

    Only LF and CRLF end a line, so that the rarer Unicode line separators may stand inside a text. "-" is stdin. What
    is wrong with the whole file, no text or text in another encoding, is told once, and ends the reading.
    """
    others, whole = 0, None  # lines that are UTF-8 beyond ASCII; whether most are not, once there is one that is not
    with nullcontext(sys.stdin.buffer) if str(path) == "-" else open(path, "rb") as file:
        for number, raw in enumerate(file, start=1):
            if number == 1:
                if fault := _other_kind(path, raw):
                    problems.add(path, 1, fault)
                    return
                raw = raw.removeprefix(b"\xef\xbb\xbf")
            try:
                text = raw.rstrip(b"\r\n").decode("utf-8")
            except UnicodeDecodeError as error:
                guess = as_gb18030(raw)
                whole = _is_all_so(path, others) if whole is None else whole
                fault = f"byte {error.start + 1} is not UTF-8{guess and f' (as GB18030 it reads {guess!r})'}"
                if whole:
                    conversion = _conversion(path, "GB18030" if guess else UNKNOWN)
                    problems.add(path, number, f"{fault}: the file has another encoding. {conversion}")
                    return
                problems.add(path, number, f"{fault}; other lines of the file are UTF-8: correct this one")
            else:
                others += not text.isascii()
                yield number, text


def _other_kind(path: str | Path, head: bytes) -> str:
    """What a file that begins so is, when it is no UTF-8 text, and what to do about it; "" if it may be one."""
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        return f"the file is UTF-16. {_conversion(path, 'UTF-16')}"
    for beginning, what in KINDS.items():
        if head.startswith(beginning):
            return f"the file is {what}"
    if head.count(0) > len(head) / 4:  # every second byte of ASCII in UTF-16
        return "the file is UTF-16 without a mark at its beginning, or no text at all; save it as UTF-8 text"
    return ""


def as_gb18030(raw: bytes) -> str:
    """The beginning of a line as GB18030; "" if it is not."""
    try:
        return raw.decode("gb18030").strip()[:20]
    except UnicodeDecodeError:
        return ""


def _is_all_so(path: str | Path, others: int) -> bool:
    """Whether nearly all lines beyond ASCII are not UTF-8, as one is not. others: how many before that are."""
    if not _can_be_read_again(path):
        return not others  # what is still to come is not known
    good = bad = 0
    with open(path, "rb") as file:
        for raw in file:
            if not raw.isascii():
                try:
                    raw.decode("utf-8")
                    good += 1
                except UnicodeDecodeError:
                    bad += 1
    return 10 * good < bad


def _can_be_read_again(path: str | Path) -> bool:
    return str(path) != "-" and Path(path).is_file()


def _conversion(path: str | Path, encoding: str) -> str:
    """The command that makes UTF-8 of a file."""
    command = f"iconv -f {encoding} -t UTF-8"
    if not _can_be_read_again(path):
        return f"Convert it on its way: ... | {command} | ..."
    new = Path(path).with_name(f"{Path(path).stem}.utf8{Path(path).suffix}")
    find = f" (`file -i {shlex.quote(str(path))}` guesses it)" if encoding == UNKNOWN else ""
    return f"Convert it: {command} {shlex.quote(str(path))} > {shlex.quote(str(new))}{find}"
