"""Files that a server appends JSON lines to: the access log, and sampled answers."""

import json
import os
import sys
import time
from contextlib import nullcontext

from hierarchical.console import get_logger
from hierarchical.errors import InputError

LOOK_SECONDS = 1  # between two looks at whether the file was moved away


class Journal:
    """JSON lines at the end of a file, or on standard output where its name is "-".

    The file is opened anew a second after it was moved away, so logrotate needs no signal. Where it cannot be written,
    as on a full disk, the server goes on without it and says so once, until lines can be written again. Raises
    InputError if it cannot be opened at all. What is made is for its owner and group alone.

    lock: held while a line is written to standard output, where other processes write theirs: in a pipe long ones would
    get mixed up. At the end of a file the system sees to that.
    """

    def __init__(self, path, lock=None):
        self.lock = lock if lock and str(path) == "-" else nullcontext()
        self.path, self.failing, self.looked = str(path), False, time.monotonic()
        try:
            self.file = sys.stdout.fileno() if self.path == "-" else self._open()
        except OSError as error:
            raise InputError(f"{path}: {error.strerror}. Name a file that this user may write to.") from None

    def write(self, row):
        """Append a dict; one line, whatever is in it."""
        line = json.dumps(row, ensure_ascii=False) + "\n"
        try:
            self._follow()
            with self.lock:
                os.write(self.file, line.encode("utf-8", "backslashreplace"))
        except OSError as error:
            if not self.failing:
                get_logger().error(f"{self.path}: {error.strerror}; lines are lost until this is mended")
            self.failing = True
            return
        if self.failing:
            get_logger().info(f"{self.path}: lines are written again")
            self.failing = False

    def _open(self):
        return os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o640)

    def _follow(self):
        """Open the file anew if another one, or none, has its name now."""
        if self.path == "-" or time.monotonic() - self.looked < LOOK_SECONDS:
            return
        self.looked, own = time.monotonic(), os.fstat(self.file)
        if not os.path.exists(self.path) or not os.path.samestat(own, os.stat(self.path)):
            opened = self._open()
            os.close(self.file)
            self.file = opened
