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
# The library that cuts BERT's texts has the Unicode of 2015 (8.0). What came later are letters to it: here are the
# marks, punctuation and format characters of Unicode 9 to 18, and then what has another category now.
NEWER = """
    5c8-5c9 61d 7fd 890-891 897-89f 8ca-8e2 9fd-9fe a76 afa-aff b53-b55 c04 c3c c77 c84 d00 d3b-d3c d81 eba ece
    180f 1885-1886 1abf-1af0 1b4e-1b4f 1b7d-1b7f 1df6-1dfb 2e43-2e4f 2e52-2e5d 2e60-2e63 a82c a8c5 a8ff a9bd
    10d24-10d27 10d69-10d6e 10eab-10ead 10ecb-10ed0 10ef0-10eff 10f46-10f50 10f55-10f59 10f82-10f89 11070
    11073-11074 110c2 110cd 111cf 1123e 11241 1133b 113bb-113c0 113ce 113d0 113d2 113d4-113d5 113d7-113d8
    113e1-113e2 11438-1143f 11442-11444 11446 1144b-1144f 1145a-1145b 1145d-1145e 11660-1166c 116b9 1182f-11837
    11839-1183b 1193b-1193c 1193e 11943-11946 119d4-119d7 119da-119db 119e0 119e2 11a01-11a0a 11a33-11a38
    11a3b-11a47 11a51-11a56 11a59-11a5b 11a8a-11a96 11a98-11a9c 11a9e-11aa2 11b00-11b09 11b60 11b62-11b64 11b66
    11be1 11c30-11c36 11c38-11c3d 11c3f 11c41-11c45 11c70-11c71 11c92-11ca7 11caa-11cb0 11cb2-11cb3 11cb5-11cb6
    11d31-11d36 11d3a 11d3c-11d3d 11d3f-11d45 11d47 11d90-11d91 11d95 11d97 11df0 11ef3-11ef4 11ef7-11ef8
    11f00-11f01 11f36-11f3a 11f40 11f42-11f4f 11f5a 11fff 12ff1-12ff2 13430-13440 13447-13455 1611e-16129
    1612d-1612f 16d6d-16d6f 16e97-16e9a 16f4f 16fe2 16fe4 1cf00-1cf2d 1cf30-1cf46 1d127-1d128 1d25b-1d25c
    1e000-1e006 1e008-1e018 1e01b-1e021 1e023-1e024 1e026-1e02a 1e08f 1e130-1e136 1e2ae 1e2ec-1e2ef 1e4ec-1e4ef
    1e5ee-1e5ef 1e5ff 1e6e3 1e6e6 1e6ee-1e6ef 1e6f5 1e944-1e94a 1e95e-1e95f
"""
MOVABLE = "\0"  # takes the place of some marks; of no text anything else becomes it, since control characters go
NEWER_CODES = {
    code
    for first, _, last in (part.partition("-") for part in NEWER.split())
    for code in range(int(first, 16), int(last or first, 16) + 1)
}
OTHER_THEN = {0x166D: "Po", 0x1734: "Mn", 0x111C9: "Po", 0x1171E: "Mn"}


class ErnieTokenizer(WordTokenizer):
    """ERNIE: words end at blanks, CJK characters, punctuation and symbols; WordPiece within a word."""

    def __init__(self, directory: Path, config: dict, max_seq_length: int, files: dict[str, bytes]):
        super().__init__(directory, config, max_seq_length, files)
        self.lower = bool(config.get("do_lower_case", True))
        self.strip_accents = self.lower
        self._longest_piece = max(map(len, self.vocab))
        self._clean, self._part = Remembered(self._clean_char), Remembered(self._part_char)
        self._normal = Remembered(self._normal_char)

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

    def as_one_word(self, text: str) -> str | None:
        words = self._split(text)
        return "".join(words) if len(words) < 2 else None

    def _split(self, text: str) -> list[str]:
        return self._normalize(text).split()

    def _sources(self, text: str) -> list[tuple[str, list[tuple[int, int]]]]:
        # Character by character the result is as long, only neighbouring marks may come in another order.
        chars = [self._normalize(char) for char in text]
        sources = [(i, i + 1) for i, char in enumerate(chars) for _ in char]
        found = re.finditer(r"\S+", "".join(chars))
        return [(word, sources[slice(*match.span())]) for word, match in zip(self._split(text), found)]

    def _normalize(self, text: str) -> str:
        normal = text.translate(self._normal)
        if MOVABLE not in normal:
            return normal
        text = unicodedata.normalize("NFD", text.translate(self._clean))  # as a whole: it puts marks in order
        return text.translate(self._part)

    def _normal_char(self, code: int) -> str:
        """What becomes of a character, whatever stands beside it; MOVABLE for a mark that may change places."""
        chars = chr(code).translate(self._clean)
        if self.strip_accents:
            chars = unicodedata.normalize("NFD", chars)
            if any(unicodedata.combining(char) and self._part[ord(char)] for char in chars):
                return MOVABLE
        return chars.translate(self._part)

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
    """BERT: of the symbols only ASCII's end a word; lower case, accents and CJK characters can be left as they are.

    The ids do not depend on the Unicode of the Python that runs: see `category_of`.
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
        char, category = chr(code), category_of(code)
        if char in "\t\n\r" or category == "Zs":
            return " "
        if category in ("Cc", "Cf", "Co", "Cs") or char == "\ufffd":
            return ""
        return f" {char} " if self.apart and is_cjk(code) and code not in NOT_TO_BERT else char

    def _part_char(self, code: int) -> str:
        """Without accents, in lower case, punctuation and ASCII's symbols set apart."""
        if self.strip_accents and category_of(code) == "Mn":
            return ""
        chars = chr(code).lower() if self.lower else chr(code)
        return "".join(f" {char} " if ends_word(char) else char for char in chars)


def is_cjk(code: int) -> bool:
    return any(first <= code <= last for first, last in CJK)


def ends_word(char: str) -> bool:
    """Whether BERT takes a character for punctuation."""
    if char.isascii():
        return "!" <= char <= "~" and not char.isalnum()
    return category_of(ord(char))[0] == "P"


def category_of(code: int) -> str:
    """The general category of a character in Unicode 8.0, but "Lo" for what that did not have and is no symbol."""
    return OTHER_THEN.get(code) or ("Lo" if code in NEWER_CODES else unicodedata.category(chr(code)))
