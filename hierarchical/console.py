"""What goes to a terminal: the log, progress bars, and nothing that native code says about itself."""

import logging
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

# For text.translate(): what would break a line of a result, or give a terminal orders (escape sequences).
FLAT = {code: " " for code in (*range(0x20), *range(0x7F, 0xA0))}
IN_LOG, ON_PAGE = 200, 1000  # characters of a text that are shown; files for programs have it whole
ORDERS = {code: blank for code, blank in FLAT.items() if chr(code) not in "\t\n"}


class Formatter(logging.Formatter):
    """The familiar lines, without orders to the terminal, whatever the message quotes."""

    def format(self, record: logging.LogRecord) -> str:
        return super().format(record).translate(ORDERS)


FORMATTER = Formatter("[%(asctime)s] [%(levelname)8s] - %(message)s")


def get_logger(log_file: str | os.PathLike | None = None) -> logging.Logger:
    """The project's logger: PaddleNLP's line format, to stderr and, if given, appended to a file, and to no other."""
    logger = logging.getLogger("hierarchical")
    logger.propagate = False
    # other programs, and progress bars, put handlers of their own in place
    if not any(one.formatter is FORMATTER for one in logger.handlers):
        logger.setLevel(logging.INFO)
        _add(logger, logging.StreamHandler())
    if log_file:
        for handler in [one for one in logger.handlers if isinstance(one, logging.FileHandler)]:  # of an earlier run
            logger.removeHandler(handler)
            handler.close()
        _add(logger, logging.FileHandler(log_file, encoding="utf-8", delay=True))  # no file of nothing
    return logger


def shown(text: str, limit: int = IN_LOG) -> str:
    """A text as it is shown to people: on one line, and of a long one the beginning."""
    return cut(text, limit).translate(FLAT)


def cut(text: str, limit: int = ON_PAGE) -> str:
    """The beginning of a text that is longer, and how long it is."""
    return text if len(text) <= limit else f"{text[:limit]}... ({len(text):,} characters)"


def _add(logger: logging.Logger, handler: logging.Handler) -> None:
    handler.setFormatter(FORMATTER)
    logger.addHandler(handler)


@contextmanager
def quiet() -> Iterator[None]:
    """Keep what native code prints about its own progress off the terminal; an exception brings it back."""
    sys.stdout.flush()
    saved = [os.dup(1), os.dup(2)]
    with tempfile.TemporaryFile() as said:
        try:
            for stream in (1, 2):
                os.dup2(said.fileno(), stream)
            yield
        except Exception:
            said.seek(0)
            os.write(saved[1], said.read())
            raise
        finally:
            for stream, copy in enumerate(saved, start=1):
                os.dup2(copy, stream)
                os.close(copy)


def progress_bar(total: int | None, name: str, initial: int = 0, **settings: Any) -> Any:
    """A tqdm bar that shows on a terminal only, and goes when it is full."""
    from tqdm import tqdm

    return tqdm(total=total, initial=initial, desc=name, disable=None, leave=False, **settings)
