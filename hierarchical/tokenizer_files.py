"""The tokenizer's files of an encoder in the form that checkpoints have: whatever transformers or PaddleNLP left of it.

BERT's is vocab.txt; RoBERTa's and XLM-RoBERTa's is tokenizer.json, which is made here where it does not come so.
"""

import base64
import json
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from hierarchical.errors import InputError
from hierarchical.huggingface import is_foreign
from hierarchical.tokens import COPY, content_of, read_json, read_vocab

FOREIGN_FILES = ("vocab.json", "merges.txt")
GENERIC = ("PreTrainedTokenizer", "TokenizersBackend", "None")  # tokenizer_class where nothing is said
CLASS_OF = {"bert": "BertTokenizer", "roberta": "RobertaTokenizer", "xlm-roberta": "XLMRobertaTokenizer"}
SAME = {"RobertaChineseTokenizer": "BertTokenizer", "RobertaBPETokenizer": "RobertaTokenizer"}  # PaddleNLP's names
ROBERTA_TOKENS = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
OPTIONS = {  # of tokenizer_config.json -> of the normalizer in tokenizer.json
    "do_lower_case": "lowercase",
    "strip_accents": "strip_accents",
    "tokenize_chinese_chars": "handle_chinese_chars",
}


def own_tokenizer_files(directory: Path, files: dict[str, bytes]) -> dict[str, bytes]:
    """A tokenizer's files as checkpoints have them. files: all that the directory has of FILES and FOREIGN_FILES.

    BERT: vocab.txt. RoBERTa and XLM-RoBERTa: tokenizer.json. With each tokenizer_config.json, which names the class.
    What has this form already stays as it is, byte for byte.
    """
    path = directory / "tokenizer_config.json"
    config = read_json(path, files, optional=True)
    name = _tokenizer_class(directory, config, files)
    form = {"BertTokenizer": _bert, "RobertaTokenizer": _roberta, "XLMRobertaTokenizer": _xlm_roberta}.get(name)
    if form is None:
        return {name: content for name, content in files.items() if name not in ("tokenizer.json", *FOREIGN_FILES)}
    own, options = form(directory, files, config)
    known = config.get("tokenizer_class") or config.get("init_class")
    if str(known).removesuffix("Fast") != name or any(config.get(key) is None for key in options):
        config = options | {key: value for key, value in config.items() if value is not None}
        own[path.name] = json.dumps(config | {"tokenizer_class": name}, ensure_ascii=False).encode()
    else:
        own[path.name] = files[path.name]
    if "special_tokens_map.json" in files:
        own["special_tokens_map.json"] = files["special_tokens_map.json"]
    return own


def _tokenizer_class(directory: Path, config: dict, files: Mapping[str, bytes]) -> str:
    """The one that tokenizer_config.json names, else the one of the model's family."""
    name = str(config.get("tokenizer_class") or config.get("init_class")).removesuffix("Fast")
    if name in GENERIC:
        try:
            model = json.loads((directory / "config.json").read_bytes())
        except (OSError, ValueError, RecursionError):
            model = {}
        kind = model.get("model_type") if isinstance(model, dict) else None
        of_transformers = kind == "ernie" and is_foreign(model)  # which cuts ERNIE's texts as BERT's
        name = "BertTokenizer" if of_transformers else CLASS_OF.get(str(kind), name)
    name = SAME.get(name, name)
    if name == "RobertaTokenizer" and "vocab.txt" in files and not {"tokenizer.json", "vocab.json"} & files.keys():
        return "BertTokenizer"  # the Chinese ones, which are BERT but for the name
    return name


def _read_tokenizer_json(directory: Path, files: Mapping[str, bytes], wanted: str) -> dict:
    """tokenizer.json, whose model must be of the kind `wanted`."""
    path = directory / "tokenizer.json"
    value = read_json(path, dict(files))
    model = value.get("model")
    kind = model.get("type") if isinstance(model, dict) else None
    if kind is None and isinstance(model, dict) and "merges" in model:
        kind = "BPE"  # of older files, which do not say
    if kind != wanted:
        raise InputError(
            f"{path}: is of the kind {kind}; needed is {wanted}, by tokenizer_class in tokenizer_config.json, or else "
            f"model_type in config.json. {COPY.capitalize()}, or correct tokenizer_class."
        )
    return value


def _missing(directory: Path, needed: str) -> InputError:
    return InputError(f"{directory}: no tokenizer in it; needed is {needed}: {COPY}")


def _bert(directory: Path, files: Mapping[str, bytes], config: dict) -> tuple[dict[str, bytes], dict]:
    if "tokenizer.json" not in files:
        if "vocab.txt" not in files:
            raise _missing(directory, "vocab.txt or tokenizer.json")
        return {"vocab.txt": files["vocab.txt"]}, {}
    path, value = directory / "tokenizer.json", _read_tokenizer_json(directory, files, "WordPiece")
    model, normalizer = value["model"], value.get("normalizer") or {}
    found = {
        "normalizer": normalizer.get("type"),
        "pre_tokenizer": (value.get("pre_tokenizer") or {}).get("type"),
        "continuing_subword_prefix": model.get("continuing_subword_prefix", "##"),
        "max_input_chars_per_word": model.get("max_input_chars_per_word", 100),
        "clean_text": normalizer.get("clean_text", True),
    }
    usual = ("BertNormalizer", "BertPreTokenizer", "##", 100, True)
    if other := [f"{key} {value!r}" for (key, value), bert in zip(found.items(), usual) if value != bert]:
        raise InputError(f"{path}: cuts texts in another way than BERT's ({', '.join(other)}): not supported")
    tokens = {index: token for token, index in model["vocab"].items()}
    if sorted(tokens) != list(range(len(tokens))) or any("\n" in token or "\r" in token for token in model["vocab"]):
        raise InputError(f"{path}: its ids are not 0 to {len(tokens) - 1}, one for each token: {COPY}")
    content = "".join(f"{tokens[i]}\n" for i in range(len(tokens))).encode()
    if "vocab.txt" in files and read_vocab(directory / "vocab.txt", dict(files)) == model["vocab"]:
        content = files["vocab.txt"]
    options = {key: normalizer.get(name) for key, name in OPTIONS.items() if normalizer.get(name) is not None}
    added = {str(token["id"]): token["content"] for token in value.get("added_tokens") or ()}
    if added := {index: token for index, token in added.items() if token not in model["vocab"]}:
        options["added_tokens_decoder"] = added
    return {"vocab.txt": content}, options


def _roberta(directory: Path, files: Mapping[str, bytes], config: dict) -> tuple[dict[str, bytes], dict]:
    space = config.get("add_prefix_space")
    if "tokenizer.json" in files:
        value = _read_tokenizer_json(directory, files, "BPE")
        cutter = value.get("pre_tokenizer") or {}
        if space is None or cutter.get("type") != "ByteLevel" or cutter.get("add_prefix_space") == space:
            return {"tokenizer.json": files["tokenizer.json"]}, {}
        cutter["add_prefix_space"] = space
    elif {"vocab.json", "merges.txt"} <= files.keys():
        value = _byte_pairs(directory, files, config, bool(space))
    else:
        raise _missing(directory, "tokenizer.json, or vocab.json and merges.txt")
    return {"tokenizer.json": json.dumps(value, ensure_ascii=False).encode()}, {}


def _byte_pairs(directory: Path, files: Mapping[str, bytes], config: dict, space: bool) -> dict:
    """A tokenizer.json for vocab.json and merges.txt."""
    vocab = read_json(directory / "vocab.json", dict(files))
    try:
        lines = files["merges.txt"].decode().splitlines()
    except UnicodeDecodeError as error:
        raise InputError(f"{directory / 'merges.txt'}: not UTF-8 ({error}): {COPY}") from None
    merges = [line.split(" ") for line in lines if line and not line.startswith("#version")]
    if wrong := [pair for pair in merges if len(pair) != 2]:
        raise InputError(f"{directory / 'merges.txt'}: {' '.join(wrong[0])!r} is not a pair: {COPY}")
    roles = ("bos", "pad", "eos", "unk", "mask")
    names = [content_of(config.get(f"{role}_token", usual)) for role, usual in zip(roles, ROBERTA_TOKENS)]
    tokens = [config.get(f"{role}_token") for role in roles]
    swallowing = [content_of(token) for token in tokens if isinstance(token, dict) and token.get("lstrip")]
    plain = {"single_word": False, "rstrip": False, "normalized": False, "special": True}
    added = [
        {"id": vocab[name], "content": name, "lstrip": name in swallowing, **plain} for name in names if name in vocab
    ]
    bytes_as_letters = {"type": "ByteLevel", "add_prefix_space": space, "trim_offsets": True, "use_regex": True}
    return {
        "version": "1.0",
        "added_tokens": sorted(added, key=lambda token: token["id"]),
        "pre_tokenizer": bytes_as_letters,
        "post_processor": bytes_as_letters,
        "decoder": bytes_as_letters,
        "model": {"type": "BPE", "vocab": vocab, "merges": [" ".join(pair) for pair in merges]},
    }


def _xlm_roberta(directory: Path, files: Mapping[str, bytes], config: dict) -> tuple[dict[str, bytes], dict]:
    if "tokenizer.json" in files:
        _read_tokenizer_json(directory, files, "Unigram")
        return {"tokenizer.json": files["tokenizer.json"]}, {}
    path = directory / "sentencepiece.bpe.model"
    if path.name not in files:
        raise _missing(directory, f"tokenizer.json or {path.name}")
    try:
        value = _pieces(files[path.name])
    except (ValueError, IndexError, struct.error) as error:
        raise InputError(f"{path}: not a SentencePiece model of XLM-RoBERTa's kind ({error}): {COPY}") from None
    return {"tokenizer.json": json.dumps(value, ensure_ascii=False).encode()}, {}


def _pieces(model: bytes) -> dict:
    """A tokenizer.json for a SentencePiece model of unigrams (sentencepiece_model.proto, of its repository).

    The ids are fairseq's: <s> <pad> </s> <unk> are the first, <mask> is the last, and between them are the model's
    pieces but for its own first three, which are <unk> <s> </s>.
    """
    fields = list(message_fields(model))
    pieces = [dict(message_fields(value)) for number, value in fields if number == 1]  # {1: piece, 2: score}
    trainer, normalizer = (dict(message_fields(value)) for number, value in fields if number in (2, 3))
    if trainer.get(3, 1) != 1 or len(pieces) < 4:
        raise ValueError("no unigrams in it")
    vocab = [(piece[1].decode(), struct.unpack("<f", piece[2])[0]) for piece in pieces[3:]]
    return unigram_tokenizer(vocab, normalizer.get(2))


def unigram_tokenizer(pieces: list[tuple[str, float]], charsmap: bytes | None) -> dict:
    """XLM-RoBERTa's tokenizer.json: its own tokens around pieces with their scores.

    charsmap: what characters are read as, in SentencePiece's compiled form
    """
    *first, last = ((name, 0.0) for name in ROBERTA_TOKENS)
    vocab = [*first, *pieces, last]
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    words = {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "always", "split": True}
    characters = base64.b64encode(charsmap).decode() if charsmap else None
    return {
        "version": "1.0",
        "added_tokens": [{"id": i, "content": vocab[i][0], **plain} for i in (0, 1, 2, 3, len(vocab) - 1)],
        "normalizer": {"type": "Precompiled", "precompiled_charsmap": characters} if characters else None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}, words]},
        "decoder": words,
        "model": {"type": "Unigram", "unk_id": 3, "vocab": vocab, "byte_fallback": False},
    }


def message_fields(message: bytes) -> Iterator[tuple[int, Any]]:
    """(number, value) of each field of a message of protobuf: an integer, or the bytes of whatever else it is."""
    position = 0

    def varint() -> int:
        nonlocal position
        value = shift = 0
        while True:
            byte = message[position]
            position += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    while position < len(message):
        key = varint()
        number, kind = key >> 3, key & 7
        if kind == 0:
            yield number, varint()
            continue
        if kind not in (1, 2, 5):
            raise ValueError("not protobuf")
        size = varint() if kind == 2 else {1: 8, 5: 4}[kind]
        if position + size > len(message):
            raise ValueError("cut short")
        yield number, message[position : position + size]
        position += size
