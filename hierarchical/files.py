"""Files: read line by line, written whole or not at all, and checked before any work is done.

All are UTF-8, with or without a byte order mark, lines ending in LF or CRLF.
"""

import hashlib
import os
import re
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import IO, Any

from hierarchical.errors import InputError, Problems


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


def require_writable(path: Path, flag: str, inputs: Iterable[Path]) -> None:
    """Raise InputError now if a file could not be written after all the work, or would replace one that is read."""
    if path.is_dir():
        raise InputError(f"{path}: is a directory. {flag} names a file to write.")
    if path.resolve() in [source.resolve() for source in inputs]:
        raise InputError(f"{path}: {flag} would overwrite the rows it is made from. Give it another name.")
    try:
        tempfile.TemporaryFile(dir=path.parent).close()
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror}). Check {flag} and your rights.") from None


def require_outputs(outputs: Mapping[str, Path], inputs: Iterable[Path]) -> None:
    """`require_writable` for every file of {flag: path}; no two flags may name the same one."""
    flag_of: dict[Path, str] = {}
    inputs = list(inputs)
    for flag, path in outputs.items():
        require_writable(path, flag, inputs)
        if (other := flag_of.setdefault(path.resolve(), flag)) != flag:
            raise InputError(f"{path}: {other} and {flag} must have different names.")


def read_lines(path: str | Path, problems: Problems) -> Iterator[tuple[int, str]]:
    """Yield (line number, text without line end) of a UTF-8 file; a line that is not UTF-8 is a problem.

    Only LF and CRLF end a line, so that the rarer Unicode line separators may stand inside a text. "-" is stdin.
    """
    with nullcontext(sys.stdin.buffer) if str(path) == "-" else open(path, "rb") as file:
        for number, raw in enumerate(file, start=1):
            if number == 1:
                if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
                    problems.add(path, 1, "the file is UTF-16; save it as UTF-8")
                    return
                raw = raw.removeprefix(b"\xef\xbb\xbf")
            try:
                yield number, raw.rstrip(b"\r\n").decode("utf-8")
            except UnicodeDecodeError as error:
                guess = _guess_encoding(raw)
                problems.add(path, number, f"byte {error.start + 1} is not UTF-8{guess}; convert the file to UTF-8")


def _guess_encoding(raw: bytes) -> str:
    try:
        return f" (as GB18030 it reads {raw.decode('gb18030').strip()[:20]!r})"
    except UnicodeDecodeError:
        return ""
