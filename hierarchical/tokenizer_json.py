"""Tokenizers that a tokenizer.json describes whole: RoBERTa's byte pairs, and XLM-RoBERTa's pieces.

The ids are those of the library that the file is for, `tokenizers`, which transformers uses too.
"""

from pathlib import Path
from typing import Any

from hierarchical.errors import InputError
from hierarchical.tokens import COPY, ROLES, Tokenizer

NEEDED = "this encoder's tokens need the package tokenizers: pip install tokenizers"


class LibraryTokenizer(Tokenizer):
    """tokenizer.json, read by the library `tokenizers`, on one thread."""

    special = dict(zip(ROLES, ("<pad>", "<unk>", "<s>", "</s>", "<mask>")))

    def _read_vocab(self, config: dict) -> tuple[Path, dict[str, int]]:
        try:
            import tokenizers
        except ImportError:
            raise InputError(f"{self.directory}: {NEEDED}") from None
        path = self.directory / "tokenizer.json"
        try:
            self._backend = tokenizers.Tokenizer.from_str(self.files[path.name].decode())
        except Exception as error:  # the library's own kinds, and it has no common one
            where = path if path.exists() else self.directory  # or made of other files there
            raise InputError(f"{where}: not read by tokenizers {tokenizers.__version__} ({error}): {COPY}") from None
        self._backend.no_truncation()
        self._backend.no_padding()
        return path, self._backend.get_vocab()

    def _encode(self, text: str) -> Any:
        # Half of a surrogate pair is no character to the library; this stands for one, and is as long.
        text = "".join("\ufffd" if "\ud800" <= char <= "\udfff" else char for char in text)
        return self._backend.encode(text, add_special_tokens=False)

    def _first_ids(self, text: str, count: int | None) -> list[int]:
        return self._encode(text).ids

    def _count(self, text: str) -> tuple[int, list[str]]:
        found = self._encode(text)
        unknown = [text[slice(*span)] for index, span in zip(found.ids, found.offsets) if index == self.unk_id]
        return len(found.ids) + 2, [part for part in unknown if part not in self._specials]

    def _located(self, text: str) -> list[tuple[int, int]]:
        return self._encode(text).offsets
