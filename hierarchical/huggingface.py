"""Encoders of the Hugging Face form, and those of PaddleNLP's other families, in the form of this project.

BERT, RoBERTa and XLM-RoBERTa compute as ERNIE does. What differs are names and files, which are changed here once, when
an encoder is opened; whatever is saved afterwards has our form, and nothing else in the project knows another.

    own_config(config, path)    the configuration of the library's Ernie
    own_state(state, config)    its parameters

tokenizer_files.py does the same for the tokenizer.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from hierarchical.errors import InputError
from hierarchical.tokens import COPY

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
