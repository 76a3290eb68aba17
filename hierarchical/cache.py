"""The cache of a data folder: what takes long to compute of its rows, made once, for other processes and later runs.

    found = cached(folder / "train.txt-KEY.tokens", "train.txt", make, opened)

A file of the cache has what it depends on in its name, as a key: what has changed is never taken for what it was. One
process makes it while others wait; whoever opens it checks all of it, and makes it again if it is damaged. Of one file
of rows the KEPT latest are left, and of all those of a kind MOST. The folder may be removed at any time.

Layout: a line of JSON with what is where, blanks up to HEADER bytes, then the numbers.
"""

import functools
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, TypeVar

import numpy as np

import hierarchical
from hierarchical.console import get_logger
from hierarchical.files import atomic_write
from hierarchical.sets import only_writer

FOLDER = ".cache"  # in a data folder
KEPT = 3  # of one file and kind: of other models, tokenizers or settings, or before it was changed
MOST = 12  # of one kind: the files of rows may be others each day
HEADER, FORMAT = 512, 1

T = TypeVar("T")


class CacheFile:
    """A file of the cache that is being written."""

    def __init__(self, file: IO[bytes]):
        self.file, self.sha256 = file, hashlib.sha256()
        file.write(b" " * HEADER)

    def write(self, array: np.ndarray) -> None:
        """Put the numbers of a contiguous array behind those that are there."""
        if array.size:
            self.file.write(array.data)
            self.sha256.update(array.data)

    def end(self, about: dict) -> None:
        """All is there; `about` says what is where, with numbers and short names."""
        self.file.seek(0)
        self.file.write(json.dumps({"format": FORMAT, **about, "sha256": self.sha256.hexdigest()}).encode())


def key_of(*parts: Any) -> str:
    """What a file of the cache depends on, values of JSON, as 32 hexadecimal digits."""
    content = json.dumps([FORMAT, hierarchical.__version__, *parts], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:32]


def cached(
    target: Path, name: str, make: Callable[[CacheFile], dict], opened: Callable[[Path, dict], T | None]
) -> T | None:
    """opened(target, about) of a file of the cache, after make(file) -> about has written it, if that is needed.

    name: of the file of rows that it was computed from, with which the target's begins; opened gives None for what does
    not fit, and it is made again. None is returned if it does not fit then either. Raises OSError where it is not there
    and cannot be written.
    """
    try:
        with only_writer(target.parent, wait=True):
            if (found := _read(target, opened)) is None:
                with atomic_write(target, "wb") as file:
                    new = CacheFile(file)
                    new.end(make(new))
                found = _read(target, opened)
            os.utime(target)
            for pattern, kept in ((f"{glob_escaped(name)}-*", KEPT), ("*", MOST)):
                latest_last = sorted(target.parent.glob(pattern + target.suffix), key=lambda one: one.stat().st_mtime)
                for one in latest_last[:-kept]:
                    one.unlink()
        return found
    except OSError:
        if (found := _read(target, opened)) is not None:  # a folder that only others may write to
            return found
        raise


@functools.cache
def tell_no_place(folder: Path, why: str) -> None:
    """Warn, once, that nothing can be kept in a folder."""
    get_logger().warning(f"{folder}: nothing can be kept there ({why}); it is computed each time, and held in memory")


def glob_escaped(name: str) -> str:
    """A file name as a pattern that matches it alone."""
    return "".join(f"[{char}]" if char in "*?[" else char for char in name)


def _read(path: Path, opened: Callable[[Path, dict], T | None]) -> T | None:
    """A file of the cache; None if it is not there, or, with a warning, if it is damaged."""
    try:
        with open(path, "rb") as file:
            about, sha256 = json.loads(file.read(HEADER)), hashlib.sha256()
            while block := file.read(1 << 20):
                sha256.update(block)
        if (about["sha256"], about["format"]) != (sha256.hexdigest(), FORMAT):
            raise ValueError("other bytes than were written")
        if (found := opened(path, about)) is None:
            raise ValueError("not what is expected")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        get_logger().warning(f"{path}: damaged ({error}); it is made again")
        return None
    return found
