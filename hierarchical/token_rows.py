"""The token ids of a file's rows: one flat array, of large files on disk, where all processes and later runs map it.

    ids = encode_file(tokenizer, rows.texts, path, folder)        # ids[i] as an array, len(ids), ids.lengths

A file of the cache is known by what it depends on: the rows' file, the tokenizer's files and what it reads of a text.
One process makes it while others wait; whoever opens it checks all of it, and makes it again if it is damaged. The
folder may be removed at any time.

Layout: a line of JSON with what is where, blanks up to HEADER bytes, the ids of all rows, zeros up to a multiple of 8,
and where each row ends.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import IO, Any, overload

import numpy as np

import hierarchical
from hierarchical.console import get_logger, progress_bar
from hierarchical.errors import InputError
from hierarchical.files import atomic_write, file_digest
from hierarchical.long_texts import Windows
from hierarchical.sets import only_writer
from hierarchical.tokens import Tokenizer

CACHED_FROM = 50_000  # rows; fewer take a few seconds, and are held in memory
CHUNK = 4096  # texts that are encoded together
FOLDER = ".tokens"  # in a data folder
KEPT = 3  # of one file, with other tokenizers or before it was changed
HEADER, FORMAT = 512, 1


class TokenRows(Sequence):
    """The ids of N texts.

    ids    uint16 or int32 [M], all rows one after the other
    ends   int64 [N + 1]: row i is ids[ends[i]] to before ids[ends[i + 1]]
    """

    def __init__(self, ids: np.ndarray, ends: np.ndarray):
        self.ids, self.ends = ids, ends

    def __len__(self) -> int:
        return len(self.ends) - 1

    @overload
    def __getitem__(self, i: int) -> np.ndarray: ...
    @overload
    def __getitem__(self, i: slice) -> list[np.ndarray]: ...

    def __getitem__(self, i: Any) -> Any:
        if isinstance(i, slice):
            return [self[k] for k in range(*i.indices(len(self)))]
        if not -len(self) <= i < len(self):
            raise IndexError(i)
        i %= len(self)
        return self.ids[self.ends[i] : self.ends[i + 1]]

    @property
    def lengths(self) -> np.ndarray:
        """int32 [N]: how many ids each row has."""
        return np.diff(self.ends).astype(np.int32)


def in_windows(rows: TokenRows, windows: Windows | None) -> tuple[TokenRows, np.ndarray]:
    """(the windows of all texts in order, the number of the text that each is of, int64 [W]); None: the texts."""
    if windows is None:
        return rows, np.arange(len(rows))
    parts = [[np.array(window, rows.ids.dtype) for window in windows.of(row)] for row in rows]
    cut = [window for part in parts for window in part]
    ends = np.append(0, np.cumsum([len(window) for window in cut], dtype=np.int64))
    return TokenRows(np.concatenate(cut), ends), np.repeat(np.arange(len(parts)), [len(part) for part in parts])


def encode_file(tokenizer: Tokenizer, texts: Any, path: str | Path, folder: str | Path | None = None) -> TokenRows:
    """What `tokenizer.encode` gives for the labelled rows of a file; texts: these rows, with a length.

    folder: of the cache; None: FOLDER beside the file. It is left out for less than CACHED_FROM rows, and, with a
    warning, where it cannot be written.
    """
    n_rows, folder = len(texts), Path(folder or Path(path).parent / FOLDER)
    if n_rows >= CACHED_FROM:
        try:
            return _cached(tokenizer, texts, n_rows, Path(path), folder)
        except OSError as error:
            get_logger().warning(f"{folder}: no place for tokens ({error.strerror}); they are held in memory")
    parts = list(_encoded(tokenizer, texts, n_rows))
    ids, lengths = (np.concatenate(column) for column in zip(*parts))
    return TokenRows(ids, np.append(0, np.cumsum(lengths, dtype=np.int64)))


def _encoded(tokenizer: Tokenizer, texts: Iterable[str], n_rows: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield (ids, lengths) of CHUNK texts at a time, with a progress bar on a terminal."""
    remaining, dtype = iter(texts), np.uint16 if max(tokenizer.vocab.values()) < 1 << 16 else np.int32
    with progress_bar(n_rows, "tokens") as bar:
        while chunk := list(islice(remaining, CHUNK)):
            rows = tokenizer.encode(chunk)
            yield np.concatenate([np.array(row, dtype) for row in rows]), np.array([len(row) for row in rows])
            bar.update(len(chunk))


def _cached(tokenizer: Tokenizer, texts: Iterable[str], n_rows: int, path: Path, folder: Path) -> TokenRows:
    target = folder / f"{path.name}-{_key(tokenizer, path)}.tokens"
    with only_writer(folder, wait=True):
        if not (found := _open(target, n_rows)):
            get_logger().info(f"Tokens of {n_rows:,} rows go to {target}, for other processes and later runs")
            with atomic_write(target, "wb") as file:
                _write(file, _encoded(tokenizer, texts, n_rows), n_rows)
            found = _open(target, n_rows)
        if not found:
            raise InputError(f"{path}: was changed while it was read. Start again.")
        os.utime(target)
        older = sorted(folder.glob(f"{glob_escaped(path.name)}-*.tokens"), key=lambda one: one.stat().st_mtime)
        for one in older[:-KEPT]:
            one.unlink()
    return found


def glob_escaped(name: str) -> str:
    """A file name as a pattern that matches it alone."""
    return "".join(f"[{char}]" if char in "*?[" else char for char in name)


def _key(tokenizer: Tokenizer, path: Path) -> str:
    """What a file of the cache depends on, as 32 hexadecimal digits."""
    files = {name: hashlib.sha256(content).hexdigest() for name, content in tokenizer.files.items()}
    length, long_text = tokenizer.max_seq_length, tokenizer.long_text.to_dict()
    parts = [FORMAT, hierarchical.__version__, type(tokenizer).__name__, length, long_text, files]
    return hashlib.sha256(json.dumps([*parts, file_digest(path)], sort_keys=True).encode()).hexdigest()[:32]


def _write(file: IO[bytes], parts: Iterable[tuple[np.ndarray, np.ndarray]], n_rows: int) -> None:
    """Write a file of the cache as its parts come."""
    file.write(b" " * HEADER)
    sha256, ends, n_ids, done, dtype = hashlib.sha256(), np.zeros(n_rows + 1, np.int64), 0, 0, np.dtype(np.uint16)

    def write(array: np.ndarray) -> None:
        file.write(array.data)
        sha256.update(array.data)

    for ids, lengths in parts:
        dtype = ids.dtype
        write(ids)
        part = ends[done + 1 : done + 1 + len(lengths)]  # shorter, if there are more rows than there were
        part[:] = n_ids + np.cumsum(lengths)[: len(part)]
        n_ids, done = n_ids + len(ids), done + len(lengths)
    write(np.zeros(-n_ids * dtype.itemsize % 8, np.uint8))
    write(ends)
    about = {"format": FORMAT, "rows": done, "ids": n_ids, "dtype": dtype.name, "sha256": sha256.hexdigest()}
    file.seek(0)
    file.write(json.dumps(about).encode())


def _open(path: Path, n_rows: int) -> TokenRows | None:
    """The rows of a file of the cache; None if it is not there, or, with a warning, if it is damaged."""
    if not path.exists():
        return None
    with open(path, "rb") as file:
        try:
            about, sha256 = json.loads(file.read(HEADER)), hashlib.sha256()
            while block := file.read(1 << 20):
                sha256.update(block)
            if about["sha256"] != sha256.hexdigest() or (about["format"], about["rows"]) != (FORMAT, n_rows):
                raise ValueError("other bytes than were written")
            dtype, n_ids = np.dtype({"uint16": np.uint16, "int32": np.int32}[about["dtype"]]), about["ids"]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            get_logger().warning(f"{path}: damaged ({error}); it is made again")
            return None
    ids = np.memmap(path, dtype, "r", HEADER, (n_ids,))
    start = HEADER + n_ids * dtype.itemsize
    return TokenRows(ids, np.memmap(path, np.int64, "r", start + -start % 8, (n_rows + 1,)))
