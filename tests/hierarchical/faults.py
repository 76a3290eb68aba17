"""A disk that fails: the process is killed at the n-th operation that changes something, or there is no room from then on.

    with Faults("kill", 7) as faults:      # or "full"; 0: nothing fails, faults.count tells how many operations there are
        save(...)

A killed process is one in which nothing works any more: what its `finally` clauses would mend stays as it is. Locks are
let go, as the system does.
"""

import builtins
import errno
import io
import os
import shutil


class Killed(BaseException):
    """Takes the place of a SIGKILL."""


class Faults:
    NEED_ROOM = ("open", "write", "fsync", "link", "copyfile", "mkdir")

    def __init__(self, kind, at):
        self.kind, self.at, self.count = kind, at, 0
        self.real = {name: getattr(os, name) for name in ("replace", "link", "mkdir", "unlink", "rmdir", "fsync")}
        self.open, self.copyfile = builtins.open, shutil.copyfile

    def __enter__(self):
        for name in self.real:
            setattr(os, name, self.failing(name))
        builtins.open, shutil.copyfile = self.open_file, self.copy_file
        return self

    def __exit__(self, kind, *_):
        for name, function in self.real.items():
            setattr(os, name, function)
        builtins.open, shutil.copyfile = self.open, self.copyfile
        return kind is Killed

    def operation(self, name):
        """Count it; raise what becomes of it."""
        if self.kind == "full" and name not in self.NEED_ROOM:
            return
        self.count += 1
        if self.at and self.count >= self.at:
            raise Killed if self.kind == "kill" else OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def failing(self, name):
        def call(*args, **kwargs):
            self.operation(name)
            return None if name == "fsync" else self.real[name](*args, **kwargs)  # which takes its time

        return call

    def open_file(self, file, mode="r", *args, **kwargs):
        if not set(mode) & set("wax+"):
            return self.open(file, mode, *args, **kwargs)
        self.operation("open")
        return File(self, self.open(file, mode, *args, **kwargs))

    def copy_file(self, source, target, **kwargs):
        with self.open(source, "rb") as file:
            content = file.read()
        with self.open_file(target, "wb") as file:
            file.write(content)


class File:
    """A file that is open for writing, whose content is written at the end; if that fails, half of it arrives."""

    def __init__(self, faults, file):
        self.faults, self.file, self.parts = faults, file, []

    def write(self, data):
        self.parts.append(data if isinstance(data, str) else bytes(data))
        return len(data)

    def writelines(self, lines):
        self.parts += lines

    def flush(self):
        data, self.parts = ("" if isinstance(self.file, io.TextIOBase) else b"").join(self.parts), []
        if not data:
            return
        try:
            self.faults.operation("write")
        except BaseException:
            self.file.write(data[: len(data) // 2])
            raise
        self.file.write(data)
        self.file.flush()

    def __getattr__(self, name):
        return getattr(self.file, name)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        try:
            self.flush()
        finally:
            self.file.close()
