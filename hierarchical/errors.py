"""What a user can mend, told so that they can: one fault, or all that are in a file."""

from pathlib import Path

SHOWN = 20  # bad rows of a file that are shown in full before the rest is counted


class InputError(ValueError):
    """Something the user can mend: the message says where, what and how. Ends a script with exit code 2."""


class Problems:
    """Collects what is wrong in a file, so that one run shows all of it."""

    def __init__(self) -> None:
        self.count = 0
        self.shown: list[str] = []

    def add(self, path: str | Path, line: int | None, message: str) -> None:
        """Note a fault of a file, in one of its lines or, with None, in the whole."""
        self.count += 1
        if len(self.shown) < SHOWN:
            self.shown.append(f"{path}:{line}: {message}" if line else f"{path}: {message}")

    def raise_if_any(self) -> None:
        """Raise InputError with the first SHOWN of them, and how many more there are."""
        if self.count:
            more = [f"... and {self.count - SHOWN} more like these"] if self.count > SHOWN else []
            what = "problem" if self.count == 1 else "problems"
            raise InputError("\n  ".join([f"{self.count} {what} found", *self.shown, *more]))


def some(names: list[str], shown: int = 5) -> str:
    """The first names of a list, joined by commas, and "..." for the rest of them."""
    return ", ".join([*names[:shown], "..."] if len(names) > shown else names)
