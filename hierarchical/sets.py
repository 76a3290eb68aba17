"""Files that belong together are replaced together: whoever reads a folder, and whenever, finds one set of them, whole.

    with new_set("checkpoint", members) as folder:     # an empty folder: what is written there becomes the set
        ...
    found = read_set("checkpoint", read)               # read(folder) of the set in force

A set is made in `directory/.saving`. Its manifest, which is written last, puts it in force: from then on it is read
there, until each of its files has taken its place in the directory; they do so as hard links, so that .saving stays
whole meanwhile. A process that is killed, at whatever byte, leaves the old set in force or the new one, and a full disk
the old one. Whoever writes to the directory next finishes or clears what was left.
"""

import errno
import json
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from hierarchical.console import get_logger
from hierarchical.errors import InputError
from hierarchical.files import atomic_write, clear_leftovers

SAVING, MANIFEST, LOCK = ".saving", "manifest.json", ".lock"
ATTEMPTS = 10  # to read a set that is replaced again and again

T = TypeVar("T")


# ---- writing ---------------------------------------------------------------------------------------------------------


@contextmanager
def only_writer(directory: str | Path, instead: str = "wait until it ends", wait: bool = False) -> Iterator[None]:
    """Make a directory, and be the only process that writes models to it; what is within may call this again.

    instead: what the user can do if another process is. Raises InputError then, or waits. The system lifts the lock
    when the process ends, however it ends.
    """
    try:
        from filelock import FileLock, Timeout
    except ImportError:
        raise InputError("writing models needs the package filelock: pip install filelock") from None

    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    lock = FileLock(directory.resolve() / LOCK, timeout=0, is_singleton=True)
    try:
        try:
            lock.acquire()
        except Timeout:
            if not wait:
                raise InputError(f"{directory}: another process is writing there; {instead}.") from None
            get_logger().info(f"{directory}: another process is writing there; waiting for it")
            lock.acquire(timeout=-1)
    except (OSError, NotImplementedError) as error:
        if isinstance(error, OSError) and error.errno not in (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP):
            raise
        get_logger().warning(f"{directory}: no locks on this file system; make sure that nothing else writes there")
    try:
        _settle(directory)
        yield
    finally:
        lock.release()


@contextmanager
def new_set(directory: str | Path, members: Callable[[Path], Iterable[str]]) -> Iterator[Path]:
    """An empty folder; the files that are there at the end become the set of the directory. After a failure none do.

    members: of the directory, the names of what belongs to a set: of these, the new one's are all that stay.
    """
    directory = Path(directory)
    with only_writer(directory):
        folder = directory / SAVING
        folder.mkdir()
        try:
            yield folder
            _put_in_force(directory, set(members(directory)))
        except BaseException:
            if not (folder / MANIFEST).exists():
                shutil.rmtree(folder, ignore_errors=True)
            raise
        _settle(directory)


def _put_in_force(directory: Path, members: set[str]) -> None:
    """Write the manifest, when all else is on disk: it tells which of the older files are to go."""
    folder = directory / SAVING
    names = {path.name for path in folder.iterdir()}
    if clash := [name for name in sorted(names) if (directory / name).is_dir()]:
        raise InputError(f"{directory / clash[0]}: is a directory, where a file is to be written. Move it away.")
    for name in names:
        sync(folder / name)
    sync(folder)
    with atomic_write(folder / MANIFEST) as file:
        json.dump({"remove": sorted(members - names)}, file)
    sync(folder)


def _settle(directory: Path) -> None:
    """Finish the set that is in force but not in its place, or clear one that was not finished."""
    folder = directory / SAVING
    if (folder / MANIFEST).exists():
        remove = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["remove"]
        for path in folder.iterdir():
            if path.name != MANIFEST:
                link(path, directory / path.name)
        for name in remove:
            (directory / Path(name).name).unlink(missing_ok=True)
        sync(directory)
        (folder / MANIFEST).unlink()
    if folder.is_dir():
        shutil.rmtree(folder)


def link(source: Path, target: Path) -> None:
    """Let a file have a second name, in the place of what has it now; where there are no links, as a copy."""
    clear_leftovers(target)
    temporary = Path(f"{target}.{os.getpid()}.tmp")
    temporary.unlink(missing_ok=True)  # of a process that had this number before
    try:
        try:
            os.link(source, temporary)
        except OSError:  # FAT, some network drives
            shutil.copyfile(source, temporary)
            sync(temporary)
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)  # a file that is renamed to another name of itself keeps both


def sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError:
        if path.is_file():  # some file systems have no such thing for folders
            raise
    finally:
        os.close(descriptor)


# ---- reading ---------------------------------------------------------------------------------------------------------


def in_force(path: str | Path) -> Path:
    """Where to read a directory, or a path in one (a file, or the beginning of names): in the set that is in force."""
    path = Path(path)
    directory = path if path.is_dir() else path.parent
    if not (directory / SAVING / MANIFEST).exists():
        return path
    return directory / SAVING / path.relative_to(directory)


def read_set(path: str | Path, read: Callable[[Path], T]) -> T:
    """read(place): what it makes of a path, which is read at that place; see `in_force`.

    Repeated where the set was replaced meanwhile, so that nothing is read half from the one and half from the other.
    """
    directory = Path(path) if Path(path).is_dir() else Path(path).parent
    for attempt in range(1, ATTEMPTS + 1):
        before = _names(directory)
        try:
            found = read(in_force(path))
        except (InputError, OSError):
            if attempt == ATTEMPTS or _names(directory) == before:
                raise
        else:
            if attempt == ATTEMPTS or _names(directory) == before:
                return found
        time.sleep(2**attempt / 1000)  # seconds
    raise AssertionError


def _names(directory: Path) -> set[tuple[str, int]]:
    """The names in a directory, and of a set that is being put in its place; each with the number of its file."""
    found = set()
    for folder in (directory, directory / SAVING):
        try:
            with os.scandir(folder) as entries:
                found |= {(entry.path, entry.inode()) for entry in entries}
        except OSError:
            pass  # there is none, or no longer
    return found
