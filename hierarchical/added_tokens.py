"""Tokens that an encoder lacks: train.py --add_tokens gives each an id, and a row of its own in the embedding.

    added = read_added_tokens("tokens.txt", tokenizer)      # [Added], or all that is wrong with the file
    tokenizer = grow_tokenizer(tokenizer, added)            # the one that the checkpoint is to have
    grow_embedding(model, tokenizer, added)

A token is a line at the end of vocab.txt. One that the tokenizer takes apart before it looks there (Chinese terms,
"e-mail", emoji of several characters; with sentencepiece all) is also one of the additional_special_tokens, which are
looked for first, as PaddleNLP does it. A tokenizer.json has a list of such tokens.
"""

import json
import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from hierarchical.console import shown
from hierarchical.encoders import family_of
from hierarchical.errors import Problems
from hierarchical.files import read_lines, require_file
from hierarchical.tokenizer import tokenizer_of
from hierarchical.tokens import LETTER, LONGEST_WORD, Tokenizer

SPECIALS = "additional_special_tokens"
INSIDE = "##"  # in BERT's vocabularies, what begins within a word


class Added(NamedTuple):
    """token: as it stands in vocab.txt; pieces: ids that it is cut into without; first: looked for before the cut."""

    token: str
    pieces: list[int]
    first: bool


def read_added_tokens(path: str | Path, tokenizer: Tokenizer) -> list[Added]:
    """The tokens of a file, one per line, that a tokenizer does not know. Raises InputError with every bad line."""
    require_file(path, "It holds one token per line.")
    problems, lines, found = Problems(), dict[str, int](), []
    for number, line in read_lines(path, problems):
        token = tokenizer.read(line.strip())
        word = tokenizer.as_one_word(token)
        entry = token if word is None else word
        if fault := _fault(token, entry, tokenizer):
            problems.add(path, number, fault)
        elif (before := lines.setdefault(entry, number)) != number:
            problems.add(path, number, f"{entry!r} is the token of line {before} already")
        else:
            found.append(Added(entry, tokenizer.encode_whole(token), word is None))
    problems.raise_if_any()
    return found


def _fault(token: str, entry: str, tokenizer: Tokenizer) -> str:
    """Why a line is no token that can be added; "": it is one. entry: what would stand in vocab.txt."""
    if not token:
        return "an empty line; remove it"
    named = repr(shown(token, 60))
    if len(token.split()) > 1:
        return f"{named} has a blank inside; a token has none, give its words a line each"
    if len(token) > LONGEST_WORD:
        return f"{len(token)} characters; a token has {LONGEST_WORD} at most"
    if tokenizer.is_special(token):
        return f"{named} is a special token of the model"
    if token.startswith(INSIDE):
        return f"{named}: a token stands for text, and {INSIDE} does not; give the word as it is written"
    pieces = tokenizer.encode_whole(token)
    if not entry or not pieces:
        return f"{named} is read as nothing: its characters are left out of texts"
    if entry in tokenizer.vocab or (len(pieces) == 1 and pieces[0] != tokenizer.unk_id):
        return f"{named} is known to the model already" + (f", as {entry!r}" if entry != token else "")
    return ""


def grow_tokenizer(tokenizer: Tokenizer, added: list[Added]) -> Tokenizer:
    """The tokenizer with more tokens; their ids follow those there are."""
    files = dict(tokenizer.files)
    if "tokenizer.json" in files:
        files["tokenizer.json"] = _longer_list(files["tokenizer.json"], tokenizer, added)
        return tokenizer_of(files, tokenizer.directory, tokenizer.max_seq_length).reading(tokenizer.long_text)
    vocab = files["vocab.txt"]
    end = b"" if vocab.endswith((b"\n", b"\r")) else b"\n"
    files["vocab.txt"] = vocab + end + "".join(f"{one.token}\n" for one in added).encode()
    if first := [one.token for one in added if one.first]:
        for name in ("tokenizer_config.json", "special_tokens_map.json"):  # the second counts, if it names any
            config = json.loads(files.get(name, b"{}"))
            if name == "tokenizer_config.json" or SPECIALS in config:
                config[SPECIALS] = [*(config.get(SPECIALS) or []), *first]
                files[name] = (json.dumps(config, ensure_ascii=False, indent=1) + "\n").encode()
    return tokenizer_of(files, tokenizer.directory, tokenizer.max_seq_length).reading(tokenizer.long_text)


def _longer_list(content: bytes, tokenizer: Tokenizer, added: list[Added]) -> bytes:
    """A tokenizer.json with more tokens, of which those that begin and end with a letter stand alone."""
    value, first = json.loads(content), 1 + max(tokenizer.vocab.values())
    plain = {"lstrip": False, "rstrip": False, "normalized": False, "special": False}
    value["added_tokens"] += [
        {"id": i, "content": token, "single_word": bool(re.fullmatch(f"{LETTER}|{LETTER}.*{LETTER}", token)), **plain}
        for i, (token, *_) in enumerate(added, first)
    ]
    return json.dumps(value, ensure_ascii=False).encode()


def grow_embedding(model: Any, tokenizer: Tokenizer, added: list[Added]) -> None:
    """Give a network the rows of the tokens that `grow_tokenizer` added: each the mean of the rows of its pieces."""
    import paddle

    layer = family_of(model).word_embeddings(model)
    rows = layer.weight.numpy()
    means = {tokenizer.vocab[one.token]: rows[one.pieces].mean(0) for one in added}
    grown = np.zeros((max(len(rows), 1 + max(means)), rows.shape[1]), rows.dtype)
    grown[: len(rows)] = rows
    grown[list(means)] = list(means.values())
    initializer = paddle.nn.initializer.Assign(grown)
    layer.weight = paddle.create_parameter(grown.shape, str(grown.dtype), default_initializer=initializer)
    model.config.vocab_size = len(grown)


def add_tokens(path: str | Path, model: Any, tokenizer: Tokenizer) -> tuple[Tokenizer, str]:
    """Let a network and its tokenizer know the tokens of a file: (the new tokenizer, a line for the log)."""
    added = read_added_tokens(path, tokenizer)
    grown = grow_tokenizer(tokenizer, added)
    grow_embedding(model, grown, added)
    unknown = sum(set(one.pieces) == {tokenizer.unk_id} for one in added)
    more = f"; {unknown} of them were unknown so far, and begin as the unknown token" if unknown else ""
    return grown, f"--add_tokens: {len(added)} more tokens{more}; the vocabulary has {model.config.vocab_size} rows"
