"""JSON values one after the other, out of text that arrives in pieces: no more of it is held than a value needs."""

import json
import re
from collections.abc import Iterable, Iterator
from typing import Any

BLANKS = re.compile(r"[ \t\r\n\ufeff]*")
LONGEST_VALUE = 1 << 27  # characters
LONGEST_WORD = 20  # characters that the end of a piece may cut: -Infinity, \ud83d\ude00


class JsonFault(ValueError):
    """What is wrong, and on which line."""

    def __init__(self, line: int, message: str):
        super().__init__(message)
        self.line = line


def json_fault(error: Exception) -> str:
    """What is wrong with a text that json.loads() refuses."""
    if isinstance(error, json.JSONDecodeError):
        return f"not JSON: {error.msg}, at character {error.colno}"
    if isinstance(error, RecursionError):
        return "not JSON that is read: lists or objects in one another, too deep"
    return "not JSON that is read: a number of thousands of digits"


class JsonReader:
    """Reads a list item by item, or values that follow each other.

    pieces: text, cut anywhere. Lines are counted from 1 by their line ends. Whatever is not JSON is a JsonFault.
    """

    def __init__(self, pieces: Iterable[str]):
        self.pieces = iter(pieces)
        self.decode = json.JSONDecoder().raw_decode
        self.text, self.at = "", 0
        self.column = 0  # of the text's beginning in its line, from 0
        self.line, self.counted = 1, 0  # a position in the text, and its line

    def peek(self) -> str:
        """The next character that is not blank, where reading goes on; "" at the end."""
        while True:
            if found := BLANKS.match(self.text, self.at):
                self.at = found.end()
            if self.at < len(self.text):
                return self.text[self.at]
            if not self._more(1):
                return ""

    def items(self) -> Iterator[tuple[int, Any]]:
        """Yield (line it begins on, item) of a list, which must be all that there is."""
        if self.peek() != "[":
            raise self._fault("Expecting a list", self.at)
        self.at += 1
        mark = self.peek()
        while mark != "]":
            yield self._value()
            mark = self.peek()
            if mark not in (",", "]"):
                raise self._fault("Expecting ',' or ']'", self.at)
            self.at += mark == ","
            self.peek()
        self.at += 1
        if self.peek():
            raise JsonFault(self._line_at(self.at), "something stands behind the end of the list; take it away")

    def values(self) -> Iterator[tuple[int, Any]]:
        """Yield (line it begins on, value) of all values."""
        while self.peek():
            yield self._value()

    def _value(self) -> tuple[int, Any]:
        while True:
            try:
                value, end = self.decode(self.text, self.at)
            except json.JSONDecodeError as error:
                cut = error.pos > len(self.text) - LONGEST_WORD or error.msg.startswith("Unterminated string")
                if not cut or not self._more(len(self.text) - self.at):
                    raise self._fault(error.msg, error.pos) from None
            except (ValueError, RecursionError) as error:  # numbers of thousands of digits, lists in lists in lists
                raise JsonFault(self._line_at(self.at), json_fault(error)) from None
            else:
                if end < len(self.text) or not self._more(1):  # a number may go on in the next piece
                    line, self.at = self._line_at(self.at), end
                    return line, value

    def _more(self, wanted: int) -> bool:
        """Append about as many characters, and forget what has been read; False if nothing is left to append."""
        parts, count = [], 0
        while count < max(wanted, 1) and (piece := next(self.pieces, None)) is not None:
            parts.append(piece)
            count += len(piece)
        if not count:
            return False
        line, newline = self._line_at(self.at), self.text.rfind("\n", 0, self.at)
        self.column = self.at - newline - 1 if newline >= 0 else self.column + self.at
        self.text = "".join([self.text[self.at :], *parts])
        self.at, self.line, self.counted = 0, line, 0
        if wanted > LONGEST_VALUE:
            raise JsonFault(
                line,
                f"a value of more than {LONGEST_VALUE:,} characters, or one without an end; put each record on a line",
            )
        return True

    def _line_at(self, position: int) -> int:
        """The line of a position that is not before the last one asked for."""
        self.line += self.text.count("\n", self.counted, position)
        self.counted = position
        return self.line

    def _fault(self, message: str, position: int) -> JsonFault:
        newline = self.text.rfind("\n", 0, position)
        column = position - newline if newline >= 0 else self.column + position + 1
        return JsonFault(self._line_at(position), f"not JSON: {message}, at character {column}")
