"""ERNIE's and BERT's tokenizers: words, and the longest pieces of a word that are in the vocabulary.

The ids are exactly those of PaddleNLP's ErnieTokenizer, and of BERT's as transformers has it. Once a text is cut into
words, a word's ids depend on that word only, so each word is worked out once and then remembered: on one thread this
outruns the tokenizers in Rust, and there are no threads to lose in a fork.
"""

import re
import unicodedata
from pathlib import Path

from hierarchical.errors import InputError
from hierarchical.tokens import LONGEST_WORD, Remembered, WordTokenizer

CJK = [(0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x2A6DF), (0x2A700, 0x2CEAF), (0x2F800, 0x2FA1F)]
NOT_TO_BERT = range(0x2B820, 0x2B920)  # of these: a gap in the original's list
OTHER_SYMBOLS = "\u00b2\u00b5\u00ba\u00d8\u014b\u01b1\u3007"  # ² µ º Ø ŋ Ʊ 〇: letters and digits to Unicode


class ErnieTokenizer(WordTokenizer):
    """ERNIE: words end at blanks, CJK characters, punctuation and symbols; WordPiece within a word."""

    def __init__(self, directory: Path, config: dict, max_seq_length: int, files: dict[str, bytes]):
        super().__init__(directory, config, max_seq_length, files)
        self.lower = bool(config.get("do_lower_case", True))
        self.strip_accents = self.lower
        self._longest_piece = max(map(len, self.vocab))
        self._clean, self._part = Remembered(self._clean_char), Remembered(self._part_char)

    def _first_ids(self, text: str, count: int | None) -> list[int]:
        # Of a long document only the head is looked at. A cut changes nothing before the word, or the spelt-out
        # special token, that it falls into; how many characters hold `count` ids is found by trying.
        size = len(text) if count is None else 4 * count + 64
        while count is not None and size < len(text):
            ids = self._ids(self._words(text[:size])[: -self._longest_special - 1])
            if len(ids) >= count:
                return ids
            size *= 4
        return super()._first_ids(text, count)

    def _split(self, text: str) -> list[str]:
        return self._normalize(text).split()

    def _sources(self, text: str) -> list[tuple[str, list[tuple[int, int]]]]:
        # Character by character the result is as long, only neighbouring marks may come in another order.
        chars = [self._normalize(char) for char in text]
        sources = [(i, i + 1) for i, char in enumerate(chars) for _ in char]
        found = re.finditer(r"\S+", "".join(chars))
        return [(word, sources[slice(*match.span())]) for word, match in zip(self._split(text), found)]

    def _normalize(self, text: str) -> str:
        text = text.translate(self._clean)
        if self.strip_accents:  # on the text, not in the tables: it puts neighbouring marks in order
            text = unicodedata.normalize("NFD", text)
        return text.translate(self._part)

    def _clean_char(self, code: int) -> str:
        """In lower case, without control characters, blanks all alike, CJK characters set apart."""
        out = ""
        for char in chr(code).lower() if self.lower else chr(code):
            category = unicodedata.category(char)
            if char in "\t\n\r" or category == "Zs":
                out += " "
            elif category[0] != "C" and char != "\ufffd":
                out += f" {char} " if is_cjk(ord(char)) else char
        return out

    def _part_char(self, code: int) -> str:
        """Without accents (in lower case only), punctuation and symbols set apart."""
        char, category = chr(code), unicodedata.category(chr(code))
        if self.strip_accents and category == "Mn":
            return ""
        return f" {char} " if category[0] in "PS" or char in OTHER_SYMBOLS else char

    def _pieces(self, word: str) -> list[tuple[int, int, int]]:
        """WordPiece: the longest piece first; one part that is not in the vocabulary makes the word unknown."""
        pieces, start = [], 0
        while start < len(word) <= LONGEST_WORD:
            for end in range(min(len(word), start + self._longest_piece), start, -1):
                if (piece := word[:end] if start == 0 else "##" + word[start:end]) in self.vocab:
                    break
            else:
                return [(0, len(word), self.unk_id)]
            pieces.append((start, end, self.vocab[piece]))
            start = end
        return pieces or [(0, len(word), self.unk_id)]


class BertTokenizer(ErnieTokenizer):
    """BERT: of the symbols only ASCII's end a word, and each of its three steps can be switched off.

    Characters that Python's Unicode does not know are letters, so that newer emoji mean the same everywhere.
    """

    def __init__(self, directory: Path, config: dict, max_seq_length: int, files: dict[str, bytes]):
        usual = {"do_basic_tokenize": True, "never_split": None}
        if unusual := [key for key, value in usual.items() if (config.get(key, value) or None) != (value or None)]:
            path = directory / "tokenizer_config.json"
            raise InputError(f"{path}: unusual {', '.join(unusual)}: not supported, use a model trained without")
        super().__init__(directory, config, max_seq_length, files)
        strip = config.get("strip_accents")
        self.strip_accents = self.lower if strip is None else bool(strip)
        self.apart = bool(config.get("tokenize_chinese_chars", True))

    def _clean_char(self, code: int) -> str:
        """Without control characters, blanks all alike, CJK characters set apart."""
        char, category = chr(code), unicodedata.category(chr(code))
        if char in "\t\n\r" or category == "Zs":
            return " "
        if category in ("Cc", "Cf", "Co", "Cs") or char == "\ufffd":
            return ""
        return f" {char} " if self.apart and is_cjk(code) and code not in NOT_TO_BERT else char

    def _part_char(self, code: int) -> str:
        """Without accents, in lower case, punctuation and ASCII's symbols set apart."""
        if self.strip_accents and unicodedata.category(chr(code)) == "Mn":
            return ""
        chars = chr(code).lower() if self.lower else chr(code)
        return "".join(f" {char} " if ends_word(char) else char for char in chars)


def is_cjk(code: int) -> bool:
    return any(first <= code <= last for first, last in CJK)


def ends_word(char: str) -> bool:
    """Whether BERT takes a character for punctuation."""
    if char.isascii():
        return "!" <= char <= "~" and not char.isalnum()
    return unicodedata.category(char)[0] == "P"
