"""Text -> token ids, from the files of a model directory alone: no paddle, no paddlenlp, no network.

    tokenizer = load_tokenizer("checkpoint", max_seq_length=128)
    tokenizer.encode(["北京今天下雨"])    # [[1, …, 2]]: [CLS] … [SEP], 128 ids at most, no padding

Reads  vocab.txt, tokenizer_config.json, special_tokens_map.json (if there); or what else an encoder of the Hugging Face
       form brings, see tokenizer_files.py
Writes nothing, except `save(directory)`, which writes them as checkpoints have them

The ids are those of the tokenizer that the model was trained with: PaddleNLP's in Python for ERNIE and ERNIE-M (but for
tokens that train.py --add_tokens adds: PaddleNLP finds them within words, too), and transformers' for the others.
"""

import json
from pathlib import Path

from hierarchical.ernie_m import ErnieMTokenizer
from hierarchical.errors import InputError
from hierarchical.tokenizer_files import FOREIGN_FILES, own_tokenizer_files
from hierarchical.tokenizer_json import LibraryTokenizer
from hierarchical.tokens import FILES, NORMALIZE, Tokenizer, read_files, read_json
from hierarchical.wordpiece import BertTokenizer, ErnieTokenizer

CLASSES: dict[str, type[Tokenizer]] = {
    "ErnieTokenizer": ErnieTokenizer,
    "BertTokenizer": BertTokenizer,
    "ErnieMTokenizer": ErnieMTokenizer,
    "RobertaTokenizer": LibraryTokenizer,
    "XLMRobertaTokenizer": LibraryTokenizer,
}


def load_tokenizer(model_dir: str | Path, max_seq_length: int) -> Tokenizer:
    """The tokenizer of a model or checkpoint directory; `max_seq_length` in tokens, [CLS] and [SEP] included.

    Raises `InputError`, naming the file and the remedy, where the directory cannot give the ids its model knows.
    """
    if max_seq_length < 3:
        raise InputError(f"max_seq_length is {max_seq_length}: give at least 3, for [CLS], one token and [SEP]")
    directory = Path(model_dir)
    files = own_tokenizer_files(directory, read_files(directory, (*FILES, *FOREIGN_FILES)))
    return tokenizer_of(files, directory, max_seq_length)


def normalizing(tokenizer: Tokenizer, method: str) -> Tokenizer:
    """The tokenizer that normalises texts first, as do those of all checkpoints and exports it comes into."""
    config = json.loads(tokenizer.files["tokenizer_config.json"]) | {NORMALIZE: method}
    content = (json.dumps(config, ensure_ascii=False, indent=1) + "\n").encode()
    files = tokenizer.files | {"tokenizer_config.json": content}
    return tokenizer_of(files, tokenizer.directory, tokenizer.max_seq_length).reading(tokenizer.long_text)


def tokenizer_of(files: dict[str, bytes], directory: Path, max_seq_length: int) -> Tokenizer:
    """The tokenizer of these contents of files, which have our form; messages place them in the directory."""
    path = directory / "tokenizer_config.json"
    config = read_json(path, files)
    name = str(config.get("tokenizer_class") or config.get("init_class")).removesuffix("Fast")
    if name not in CLASSES:
        remedy = f"use a model with one of {', '.join(CLASSES)}, or correct the file"
        raise InputError(f"{path}: unknown tokenizer_class {name}: {remedy}")
    return CLASSES[name](directory, config, max_seq_length, files)
