"""ERNIE-M's tokenizer: the pieces of a SentencePiece model, cut once more."""

from functools import cached_property
from itertools import pairwise
from pathlib import Path

from hierarchical.errors import InputError
from hierarchical.tokens import COPY, WordTokenizer

MODEL = "sentencepiece.bpe.model"


class ErnieMTokenizer(WordTokenizer):
    """SentencePiece's pieces are cut around CJK characters, punctuation and numbers; vocab.txt numbers them."""

    def __init__(self, directory: Path, config: dict, max_seq_length: int, files: dict[str, bytes]):
        from sentencepiece import SentencePieceProcessor  # here, so that ERNIE and BERT do without the package

        path = directory / MODEL
        if not (content := files.get(path.name)):
            raise InputError(f"{path}: No such file or directory, or an empty one: {COPY}")
        try:
            self._sentencepiece = SentencePieceProcessor(model_proto=content)
        except RuntimeError as error:
            raise InputError(f"{path}: not a readable sentencepiece model ({error}): {COPY}") from None
        self._unknown = self._sentencepiece.unk_id()
        self.lower = bool(config.get("do_lower_case", False))
        super().__init__(directory, config, max_seq_length, files)

    def _first_ids(self, text: str, count: int | None) -> list[int]:
        # Of a long document only the head is looked at; how many characters hold `count` ids is found by trying.
        size = len(text) if count is None else 4 * count + 64
        while count is not None and size < len(text):
            ids = self._ids(self._words(text[: self._place_to_cut(text, size)]))
            if len(ids) >= count:
                return ids
            size *= 4
        return super()._first_ids(text, count)

    def _place_to_cut(self, text: str, size: int) -> int:
        """The last place up to `size` at which a text can be cut without another segmentation of what comes before it.

        That is between two characters that stand beside each other in no piece: all ways to segment the text lead
        through it, and the best way to it does not depend on what follows. 0: there is none in the second half.
        """
        around = self._longest_special
        for place in range(size, size // 2, -1):
            before, after = text[place - 1], text[place]
            if is_cjk(before) and is_cjk(after):
                # unknown characters in a row are one piece
                apart = before + after not in self._joined and self._sentencepiece.piece_to_id(before) != self._unknown
            else:
                apart = before.isascii() and before.isalnum() and after == " " and "\u2581" not in self._joined
            if apart and not self._special.search(text[place - around : place + around]):
                return place
        return 0

    @cached_property
    def _joined(self) -> set[str]:
        """The pairs of CJK characters within pieces; and ▁, if there are pieces that have it past their start."""
        sentencepiece = self._sentencepiece
        pieces = [sentencepiece.id_to_piece(i) for i in range(sentencepiece.get_piece_size())]
        found = {a + b for piece in pieces for a, b in pairwise(piece) if is_cjk(a) and is_cjk(b)}
        return found | {"\u2581" for piece in pieces if "\u2581" in piece[1:]}

    def _split(self, text: str) -> list[str]:
        return self._sentencepiece.encode(self._readable(text), out_type=str)

    def _readable(self, text: str) -> str:
        text = "".join(map(str.lower, text)) if self.lower else text
        return text.encode("utf-8", "ignore").decode()  # without lone surrogates, which sentencepiece cannot take

    def _sources(self, text: str) -> list[tuple[str, list[tuple[int, int]]]]:
        origin = [i for i, char in enumerate(text) for _ in self._readable(char)]
        found = self._sentencepiece.encode(self._readable(text), return_type="offset_mapping")
        words = []
        for word, (start, end) in zip(found["pieces"], found["offsets"]):
            covered = [(origin[i], origin[i] + 1) for i in range(start, end)]
            # ▁ stands for a blank, or at the start of the text for nothing.
            if word[0] == "▁" and len(word) == len(covered) + 1:
                covered = [(origin[start] if covered else 0,) * 2, *covered]
            if len(word) != len(covered):  # such as ㈱, which is read as (株): they share what they come from
                first = origin[start] if start < len(origin) else len(text)
                covered = [(first, covered[-1][1] if covered else first)] * len(word)
            words.append((word, covered))
        return words

    def _pieces(self, word: str) -> list[tuple[int, int, int]]:
        cuts, start = [], 0
        for i, char in enumerate(word):
            if is_cjk(char) or char in ",;:.?!~，；：。？！《》【】":
                cuts += [(start, i), (i, i + 1)]
                start = i + 1
            elif i and char != "▁" and char.isdigit() != word[i - 1].isdigit():
                cuts.append((start, i))
                start = i
        cuts.append((start, len(word)))
        # A lone ▁ is no token, except at the end of a longer piece: PaddleNLP's rule, and the model's training.
        return [
            (start, end, self.vocab.get(word[start:end], self.unk_id))
            for i, (start, end) in enumerate(cuts)
            if start < end and (word[start:end] != "▁" or 0 < i == len(cuts) - 1)
        ]


def is_cjk(char: str) -> bool:
    """Whether ERNIE-M makes a token of its own of a character."""
    return "\u4e00" <= char <= "\u9fff"
