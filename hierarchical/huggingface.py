"""Encoders of the Hugging Face form, and those of PaddleNLP's other families, in the form of this project.

BERT, RoBERTa and XLM-RoBERTa compute as ERNIE does. What differs are names and files, which are changed here once, when
an encoder is opened; whatever is saved afterwards has our form, and nothing else in the project knows another.

    own_config(config)                       the configuration of the library's Ernie
    own_state(state, config)                 its parameters
    own_tokenizer_files(directory, files)    the tokenizer's files, as checkpoints have them
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from hierarchical.errors import InputError
from hierarchical.tokens import COPY, content_of, read_json, read_vocab

# ---- configuration ---------------------------------------------------------------------------------------------------

# model_type -> whether its positions begin after the padding's id: a text's first token has position pad_token_id + 1
POSITIONS_AFTER_PADDING = {"bert": False, "ernie": False, "roberta": True, "xlm-roberta": True}
FIRST_POSITION = "first_position"  # of a text's first token in the table of positions; only ours say so: it is 0
ENTRIES = """
    vocab_size hidden_size num_hidden_layers num_attention_heads intermediate_size hidden_act hidden_dropout_prob
    attention_probs_dropout_prob max_position_embeddings type_vocab_size initializer_range pad_token_id layer_norm_eps
    task_type_vocab_size task_id use_task_id model_type
""".split()
DEFAULTS: dict[str, Any] = {
    "layer_norm_eps": 1e-12,
    "type_vocab_size": 2,
    "hidden_act": "gelu",
    "max_position_embeddings": 512,
}
USUAL: dict[str, Any] = {"position_embedding_type": "absolute", "is_decoder": False, "add_cross_attention": False}
ACTIVATIONS = ("gelu", "relu", "gelu_new", "gelu_pytorch_tanh", "gelu_fast")


def is_foreign(config: Mapping) -> bool:
    """Whether a config.json is one to change: of these families, and not ours already."""
    kind = config.get("model_type")
    # PaddleNLP's ERNIE is ours; transformers writes its version
    foreign = kind in POSITIONS_AFTER_PADDING and (kind != "ernie" or "transformers_version" in config)
    return foreign and FIRST_POSITION not in config


def first_position(config: Mapping) -> int:
    """Of the table of positions in a parameter file, the row of a text's first token; config: the one beside it."""
    if not (is_foreign(config) and POSITIONS_AFTER_PADDING[config["model_type"]]):
        return 0
    return 1 + _pad_token_id(config)


def _pad_token_id(config: Mapping) -> int:
    """As PaddleNLP and transformers have it where config.json does not say."""
    default = int(POSITIONS_AFTER_PADDING[config["model_type"]] and "paddlenlp_version" not in config)
    return int(config.get("pad_token_id", default) or 0)


def own_config(config: dict, path: Path) -> dict:
    """config.json for the library's Ernie; path: its file, for messages. Raises InputError for what cannot be computed.

    What is not about the network goes. max_position_embeddings is the number of tokens that a text can have.
    """
    if not is_foreign(config):
        return config
    if unusual := [f"{key} {config[key]!r}" for key, value in USUAL.items() if config.get(key) not in (None, value)]:
        raise InputError(f"{path}: {', '.join(unusual)}: such a network cannot be computed here. Use another encoder.")
    if missing := [name for name in ENTRIES[:5] if not isinstance(config.get(name), int)]:
        raise InputError(f"{path}: no number for {', '.join(missing)}. {COPY.capitalize()}.")
    own = DEFAULTS | {name: config[name] for name in ENTRIES if config.get(name) is not None}
    if own["hidden_act"] not in ACTIVATIONS:
        raise InputError(f"{path}: hidden_act {own['hidden_act']!r}; possible are {', '.join(ACTIVATIONS)}.")
    own["max_position_embeddings"] -= first_position(config)
    return own | {"pad_token_id": _pad_token_id(config), FIRST_POSITION: 0}


# ---- parameters ------------------------------------------------------------------------------------------------------

PREFIX = re.compile(r"^(bert|roberta|ernie)\.")
# The last parts of names, of transformers -> of the library's Ernie; what is in no pair keeps its name.
RENAMED = (
    (re.compile(r"\.gamma$"), ".weight"),  # of the oldest files
    (re.compile(r"\.beta$"), ".bias"),
    (re.compile(r"^embeddings\.LayerNorm\."), "embeddings.layer_norm."),
    (re.compile(r"^encoder\.layer\."), "encoder.layers."),
    (re.compile(r"\.attention\.self\.(q|k|v)(?:uery|ey|alue)\."), r".self_attn.\1_proj."),
    (re.compile(r"\.attention\.output\.dense\."), ".self_attn.out_proj."),
    (re.compile(r"\.attention\.output\.LayerNorm\."), ".norm1."),
    (re.compile(r"\.intermediate\.dense\."), ".linear1."),
    (re.compile(r"(layers\.\d+)\.output\.dense\."), r"\1.linear2."),
    (re.compile(r"(layers\.\d+)\.output\.LayerNorm\."), r"\1.norm2."),
    (re.compile(r"^cls\.predictions\.transform\.dense\."), "cls.predictions.transform."),
    (re.compile(r"^cls\.predictions\.transform\.LayerNorm\."), "cls.predictions.layer_norm."),
    (re.compile(r"^cls\.predictions\.bias$"), "cls.predictions.decoder_bias"),
    (re.compile(r"^lm_head\.dense\."), "cls.predictions.transform."),
    (re.compile(r"^lm_head\.layer_norm\."), "cls.predictions.layer_norm."),
    (re.compile(r"^lm_head\.bias$"), "cls.predictions.decoder_bias"),
    (re.compile(r"^lm_head\.decoder\."), "cls.predictions.decoder."),
)
POSITIONS = "embeddings.position_embeddings.weight"


def own_state(state: Mapping[str, np.ndarray], config: Mapping) -> dict[str, np.ndarray]:
    """Parameters under the names of the library's Ernie, without its prefix; config: the config.json beside them.

    transformers' linear layers hold [out, in], the library's [in, out]. Of RoBERTa's positions the first rows, which no
    token has, are left out.
    """
    if config.get("model_type") not in POSITIONS_AFTER_PADDING:
        return dict(state)
    foreign = any(".layer." in name for name in state)  # "layers" in PaddleNLP's
    own = {}
    for name, value in state.items():
        name = PREFIX.sub("", name)
        for pattern, replacement in RENAMED:
            name = pattern.sub(replacement, name)
        linear = name.endswith(".weight") and not name.startswith(("embeddings.", "cls.predictions.decoder."))
        own[name] = value.T if foreign and linear and value.ndim == 2 else value
    if POSITIONS in own:
        own[POSITIONS] = own[POSITIONS][first_position(config) :]
    return own


# ---- tokenizers ------------------------------------------------------------------------------------------------------

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

    BERT: vocab.txt. RoBERTa: tokenizer.json. XLM-RoBERTa: that, or else sentencepiece.bpe.model. With each
    tokenizer_config.json, which names the class. What has this form already stays as it is, byte for byte.
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
    plain = {"single_word": False, "rstrip": False, "normalized": False, "special": True}
    added = [
        {"id": vocab[name], "content": name, "lstrip": name == names[-1], **plain}  # a mask stands for " word"
        for name in names
        if name in vocab
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
    if "sentencepiece.bpe.model" in files:
        return {"sentencepiece.bpe.model": files["sentencepiece.bpe.model"]}, {}
    raise _missing(directory, "tokenizer.json or sentencepiece.bpe.model")
