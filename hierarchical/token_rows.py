"""The token ids of a file's rows: one flat array, of large files on disk, where all processes and later runs map it.

    ids = encode_file(tokenizer, rows.texts, path, folder)        # ids[i] as an array, len(ids), ids.lengths

A file of the cache (see cache.py) depends on the rows' file, the tokenizer's files and what it reads of a text. In it
are the ids of all rows, zeros up to a multiple of 8, and where each row ends.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, overload

import numpy as np

from hierarchical import cache
from hierarchical.cache import HEADER, CacheFile, cached, key_of, tell_no_place
from hierarchical.console import get_logger, progress_bar
from hierarchical.errors import InputError
from hierarchical.files import file_digest
from hierarchical.long_texts import Windows
from hierarchical.tokens import Tokenizer

CACHED_FROM = 50_000  # rows; fewer take a few seconds, and are held in memory
CHUNK = 4096  # texts that are encoded together
FOLDER = f"{cache.FOLDER}/tokens"  # in a data folder


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
            tell_no_place(folder, error.strerror or str(error))
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

    def make(file: CacheFile) -> dict:
        get_logger().info(f"Tokens of {n_rows:,} rows go to {target}, for other processes and later runs")
        return _write(file, _encoded(tokenizer, texts, n_rows), n_rows)

    def opened(target: Path, about: dict) -> TokenRows | None:
        return _open(target, about, n_rows)

    if (found := cached(target, path.name, make, opened)) is None:
        raise InputError(f"{path}: was changed while it was read. Start again.")
    return found


def _key(tokenizer: Tokenizer, path: Path) -> str:
    """What a file of the cache depends on."""
    files = {name: hashlib.sha256(content).hexdigest() for name, content in tokenizer.files.items()}
    length, long_text = tokenizer.max_seq_length, tokenizer.long_text.to_dict()
    return key_of(type(tokenizer).__name__, length, long_text, files, file_digest(path))


def _write(file: CacheFile, parts: Iterable[tuple[np.ndarray, np.ndarray]], n_rows: int) -> dict:
    """Write a file of the cache as its parts come; what is where in it."""
    ends, n_ids, done, dtype = np.zeros(n_rows + 1, np.int64), 0, 0, np.dtype(np.uint16)
    for ids, lengths in parts:
        dtype = ids.dtype
        file.write(ids)
        part = ends[done + 1 : done + 1 + len(lengths)]  # shorter, if there are more rows than there were
        part[:] = n_ids + np.cumsum(lengths)[: len(part)]
        n_ids, done = n_ids + len(ids), done + len(lengths)
    file.write(np.zeros(-n_ids * dtype.itemsize % 8, np.uint8))
    file.write(ends)
    return {"rows": done, "ids": n_ids, "dtype": dtype.name}


def _open(path: Path, about: dict, n_rows: int) -> TokenRows | None:
    """The rows of a file of the cache; None if there are not as many."""
    dtype, n_ids = np.dtype({"uint16": np.uint16, "int32": np.int32}[about["dtype"]]), about["ids"]
    if about["rows"] != n_rows:
        return None
    ids = np.memmap(path, dtype, "r", HEADER, (n_ids,))
    start = HEADER + n_ids * dtype.itemsize
    return TokenRows(ids, np.memmap(path, np.int64, "r", start + -start % 8, (n_rows + 1,)))
