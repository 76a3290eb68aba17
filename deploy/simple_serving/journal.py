"""Files that a server appends JSON lines to: the access log, and sampled answers."""

import json
import logging
import os
import sys
from logging.handlers import WatchedFileHandler
from pathlib import Path

from hierarchical.console import get_logger
from hierarchical.errors import InputError


class Journal:
    """JSON lines at the end of a file, or on standard output where its name is "-".

    The file is opened anew once it was moved away, so logrotate needs no signal. Where it cannot be written, as on a
    full disk, the server goes on without it and says so once, until lines can be written again. Raises InputError if it
    cannot be opened at all. What is made is for its owner and group alone.
    """

    def __init__(self, path):
        self.path, self.failing = str(path), False
        if self.path == "-":
            self.handler = logging.StreamHandler(sys.stdout)
        else:
            try:
                os.close(os.open(Path(path), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o640))
                self.handler = WatchedFileHandler(path, encoding="utf-8", errors="backslashreplace")
            except OSError as error:
                raise InputError(f"{path}: {error.strerror}. Name a file that this user may write to.") from None
        self.handler.handleError = self._note_fault

    def write(self, row):
        """Append a dict; one line, whatever is in it."""
        self.fault = None
        self.handler.emit(logging.makeLogRecord({"msg": json.dumps(row, ensure_ascii=False)}))
        if self.fault and not self.failing:
            get_logger().error(f"{self.path}: {self.fault}; lines are lost until this is mended")
        if self.failing and not self.fault:
            get_logger().info(f"{self.path}: lines are written again")
        self.failing = bool(self.fault)

    def _note_fault(self, record):
        self.fault = sys.exc_info()[1]
