"""What a model reads of a row: the text, and around it a template in PaddleNLP's template language. Needs no paddle.

{'text': 'text_a'}{'hard': '这句话描述的事件是'}{'mask'}     in full
这句话描述的事件是                                           the same: text in front, mask behind

{'text': 'text_a'}      the text of the row, cut where the whole would be too long; exactly once
{'hard': '...'}         fixed words; words outside braces are fixed too
{'mask'}                the mask, whose place is what the label is read from; of several the mean
{'soft'}                a trainable vector; {'soft': 'words'} one for each token of the words, which it starts as;
                        {'soft': None, 'length': 3} three of them
{'sep'}                 the separator token
"""

import ast
import copy
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from hierarchical.errors import InputError
from hierarchical.files import atomic_write, require_file
from hierarchical.identity import TEMPLATE, WORDS
from hierarchical.labels import LabelTree
from hierarchical.long_texts import CUT
from hierarchical.tokens import Tokenizer

KINDS = ("text", "hard", "mask", "soft", "sep")
METHODS = ("similarity", "prompt")
TEXT_ONLY = "{'text': 'text_a'}"
DEFAULT_PROMPT = "{'soft'}{'text': 'text_a'}{'mask'}"


class Part(NamedTuple):
    """A part of a template."""

    kind: str  # one of KINDS
    words: str | None = None  # of hard and soft
    length: int = 1  # of soft


def parse_template(prompt: str | None) -> list[Part]:
    """A --prompt -> list[Part], with one text and at least one mask. Raises InputError, which quotes the faulty part.

    Parts are read as Python literals, never evaluated. Blanks between parts are left out.
    """
    prompt = (prompt or "").strip() or DEFAULT_PROMPT
    try:
        prompt.encode()
    except UnicodeEncodeError:
        raise InputError(
            "--prompt: not UTF-8. Save the script that it stands in as UTF-8, or set a UTF-8 locale."
        ) from None
    if "[MASK]" in prompt:
        raise InputError(f"--prompt {prompt}: the mask is written {{'mask'}}, not [MASK].")
    parts = []
    for braces, words in re.findall(r"(\{[^{}]*\})|([^{}]+|[{}])", prompt):
        if words in ("{", "}"):
            raise InputError(f"--prompt {prompt}: a brace {words} without its partner.")
        if braces or words.strip():
            parts.append(_parse_part(prompt, braces) if braces else Part("hard", words))
    kinds = [part.kind for part in parts]
    if kinds.count("text") > 1:
        raise InputError(f"--prompt {prompt}: {{'text': 'text_a'}} may stand in it once.")
    text, mask = ([] if "text" in kinds else [Part("text")]), ([] if "mask" in kinds else [Part("mask")])
    return text + parts + mask


def _parse_part(prompt: str, braces: str) -> Part:
    try:
        part = ast.literal_eval(braces)
        part = dict.fromkeys(part) if isinstance(part, set) else part
        (kind, value), *attributes = part.items()
    except (ValueError, SyntaxError, TypeError, AttributeError, RecursionError, MemoryError):
        raise InputError(f"--prompt {prompt}: {braces} is not a part like {{'mask'}} or {{'hard': 'words'}}.") from None
    if kind not in KINDS:
        raise InputError(f"--prompt {prompt}: no part is called {kind!r}; there are {', '.join(KINDS)}.")
    attributes = dict(attributes)
    length = attributes.pop("length", 1) if kind == "soft" and not value else 1
    if attributes:
        raise InputError(
            f"--prompt {prompt}: {braces} has an attribute that is not known: {', '.join(map(str, attributes))}."
        )
    if not isinstance(length, int) or not 1 <= length <= 100:
        raise InputError(f"--prompt {prompt}: the length in {braces} must be from 1 to 100.")
    if kind == "text" and value != "text_a":
        raise InputError(f"--prompt {prompt}: a row has one text, which is written {TEXT_ONLY}.")
    if kind == "hard" and not (isinstance(value, str) and value.strip()):
        raise InputError(f"--prompt {prompt}: {braces} needs its words: {{'hard': 'words'}}.")
    if kind == "soft" and not isinstance(value, str | None):
        raise InputError(f"--prompt {prompt}: {braces} starts as words or as nothing: {{'soft': 'words'}}.")
    if kind in ("mask", "sep") and value is not None:
        raise InputError(f"--prompt {prompt}: {braces} takes no value: {{'{kind}'}}.")
    return Part(kind, value if kind in ("hard", "soft") else None, length)


class TemplateTokenizer:
    """A tokenizer that puts a template around every text; used like the one it wraps.

    prompt: as for `parse_template`, or TEXT_ONLY for the text alone. The ids of soft tokens follow the vocabulary's:
    vocab_size, vocab_size + 1, ...; `soft_words` holds the id each starts as, or -1. [MASK] spelt out in a text is
    read as an unknown token, so that only the template's own counts. `room` is the number of tokens left to the text.
    """

    long_text, windows = CUT, None

    def __init__(self, tokenizer: Tokenizer, prompt: str, method: str, vocab_size: Any):
        self.method, self.prompt, self.pad_id, self.files = method, prompt, tokenizer.pad_id, tokenizer.files
        self.max_seq_length, self.vocab = tokenizer.max_seq_length, tokenizer.vocab
        self.mask_id = tokenizer.vocab.get(tokenizer.mask_token) if tokenizer.mask_token else None
        self._unknown = tokenizer.unk_id
        if not isinstance(vocab_size, int):
            raise InputError(f"{tokenizer.directory}: no vocab_size in config.json; copy the encoder again.")
        self._plain = copy.copy(tokenizer)
        self.soft_words: list[int] = []
        parts = parse_template(prompt) if method == "prompt" else [Part("text")]
        if method == "prompt" and self.mask_id is None:
            raise InputError(f"{tokenizer.source}: no [MASK] in it: use --method similarity.")
        before: list[int] = [tokenizer.cls_id]
        after: list[int] = []
        ids = before
        for part in parts:
            if part.kind == "text":
                ids = after
            elif part.kind == "soft":
                starts = self.word_ids(part.words) if part.words else [-1] * part.length
                ids += range(vocab_size + len(self.soft_words), vocab_size + len(self.soft_words) + len(starts))
                self.soft_words += starts
            else:
                fixed = {"mask": self.mask_id, "sep": tokenizer.sep_id}.get(part.kind)
                ids += self.word_ids(part.words or "") if fixed is None else [fixed]
        self._before, self._after = before, [*after, tokenizer.sep_id]
        self.room = self.max_seq_length - len(self._before) - len(self._after)
        if self.room < 1:
            raise InputError(
                f"--max_seq_length {self.max_seq_length}: the template alone has {self.max_seq_length - self.room} "
                "tokens, which leaves no room for the text. Raise it, or shorten --prompt."
            )

    def word_ids(self, words: str) -> list[int]:
        """The ids of some words, without [CLS] and [SEP]."""
        self._plain.max_seq_length = len(words) + 102  # nothing is cut
        return self._plain.encode([words])[0][1:-1] or [self._unknown]

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of each text within the template: [CLS] … [SEP], max_seq_length at most, not padded."""
        self._plain.max_seq_length = self.room + 2
        found = (
            [self._unknown if token == self.mask_id else token for token in ids[1:-1]]
            for ids in self._plain.encode(list(texts))
        )
        return [[*self._before, *ids, *self._after] for ids in found]

    def spans(self, text: str) -> list[tuple[int, int]]:
        """As `Tokenizer.spans`, of the ids that are the text's own; those around them come from nowhere."""
        self._plain.max_seq_length = self.room + 2
        own = self._plain.spans(text)[1:-1]
        return [*[(0, 0)] * len(self._before), *own, *[(0, 0)] * len(self._after)]

    def text_part(self, ids: Sequence[int]) -> slice:
        """Which of the ids of `encode` are the text's own."""
        return slice(len(self._before), len(ids) - len(self._after))

    def lengths(self, texts: Sequence[str]) -> list[int]:
        """How many ids each whole text has, the template's included, before anything is cut off."""
        return [length - 2 + self.max_seq_length - self.room for length in self._plain.lengths(list(texts))]

    def save(self, directory: str | Path) -> None:
        """The tokenizer's files, and the template as one JSON document."""
        self._plain.save(directory)
        with atomic_write(Path(directory) / TEMPLATE) as file:
            json.dump({"method": self.method, "template": self.prompt}, file, ensure_ascii=False, indent=1)


def load_template(directory: str | Path, tokenizer: Tokenizer, config: dict) -> TemplateTokenizer:
    """The TemplateTokenizer of a checkpoint or export; tokenizer, config: what the directory has of them."""
    path = Path(directory) / TEMPLATE
    require_file(path, f"{directory} is not a complete checkpoint or export of few-shot/train.py.")
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
        method, prompt = settings["method"], settings["template"]
        if method not in METHODS or not isinstance(prompt, str):
            raise ValueError(f"method {method!r}, template {prompt!r}")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(f"{path}: not a template of few-shot/train.py ({error}).") from None
    return TemplateTokenizer(tokenizer, prompt, method, config.get("vocab_size"))


def save_words(directory: str | Path, tree: LabelTree) -> None:
    """The verbalizer as one JSON document: {label: word}."""
    with atomic_write(Path(directory) / WORDS) as file:
        json.dump(dict(zip(tree.labels, tree.words)), file, ensure_ascii=False, indent=1)
