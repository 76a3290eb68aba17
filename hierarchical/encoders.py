"""Encoders: the families that can be read, what the library calls their parts, and what their directories hold.

A family is a row of FAMILIES. One whose parts have other names than ERNIE's says so in that row; one that computes in
another way has a class of its own here, with the methods of Family. Its tokens are cut in tokenizer.py;
huggingface.py changes what directories of other forms hold to ours.

paddle is imported inside the functions, so that a script can check its arguments before the seconds that takes.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from hierarchical.errors import InputError
from hierarchical.files import require_file
from hierarchical.huggingface import own_config, own_state
from hierarchical.identity import require_encoder
from hierarchical.sets import in_force
from hierarchical.tokenizer import load_tokenizer
from hierarchical.tokens import Tokenizer
from hierarchical.weights import find_encoder_weights, read_weights, refuse_foreign_weights

MODEL_FILES = "A model directory holds config.json, the tokenizer's files and the weights: see docs/encoders.md."
OWN_ENTRIES = ("mlm_transform", "encoder_id", "output_emb_size", "inner_labels")  # of few-shot/ and retrieval_based/


class Block(NamedTuple):
    """The parts of one transformer layer. attention: has num_heads and head_dim; the others are linear layers."""

    attention: Any
    projections: tuple  # to queries, keys and values
    attention_output: Any
    widen: Any  # the two of the feed-forward network
    narrow: Any


@dataclass(frozen=True)
class Family:
    """What the library calls the parts of one kind of encoder.

    `model` is a network of `modeling.build_model`: the encoder under `model.base_model_prefix`, and a classifier.
    """

    title: str  # for people
    class_prefix: str  # Ernie: ErnieConfig, ErnieModel, ErnieForSequenceClassification
    names: tuple[str, ...] = ()  # of pre-trained encoders that can be downloaded
    published_as: str = ""  # the library's name of the family that these are of; "": class_prefix
    inputs: tuple[str, ...] = ("input_ids", "token_type_ids")  # of an exported graph, in this order
    attention: str = "self_attn"
    projections: tuple[str, str, str] = ("q_proj", "k_proj", "v_proj")
    attention_output: str = "out_proj"
    feed_forward: tuple[str, str] = ("linear1", "linear2")
    # Of the masked language model, parameters that hold what another one holds already; None: the library has no such
    # model of this family. And what its head does to an output on the way to the vocabulary: our name -> the library's.
    tied_weights: Mapping[str, str] | None = None
    masked_transform: Mapping[str, str] | None = None

    def class_for(self, part: str) -> Any:
        """The library's class for a part of the family: Config, Model, ForSequenceClassification, ..."""
        import paddlenlp.transformers as library

        return getattr(library, self.class_prefix + part)

    def published_class(self, part: str) -> Any:
        """The same of the family under which the library offers the downloads: Config, Model, ChineseTokenizer, ..."""
        import paddlenlp.transformers as library

        return getattr(library, (self.published_as or self.class_prefix) + part)

    def encoder(self, model: Any) -> Any:
        """The encoder within a network, whose outputs are (tokens [n, T, hidden size], pooled [n, hidden size])."""
        return getattr(model, model.base_model_prefix)

    def tokens(self, model: Any, **inputs: Any) -> Any:
        """The outputs of all tokens [n, T, hidden size]; `inputs` as in `modeling.model_inputs`, or inputs_embeds."""
        encoder = self.encoder(model)  # on its own: a call of a call is passed over when a static graph is made
        return encoder(**inputs)[0]

    def pooled(self, model: Any, **inputs: Any) -> Any:
        """What the classifier layer sees of a text [n, hidden size]."""
        encoder = self.encoder(model)
        return encoder(**inputs)[1]

    def word_embeddings(self, model: Any) -> Any:
        """The layer that turns token ids into vectors."""
        return self.encoder(model).embeddings.word_embeddings

    def classifier(self, model: Any) -> Any:
        """The linear layer from the pooled output to the logits."""
        return model.classifier

    def replace_classifier(self, model: Any, layer: Any) -> None:
        """Put another layer in the classifier's place."""
        model.classifier = layer

    def drop_pooler(self, model: Any) -> None:
        """Take the layer between token outputs and pooled output away, where only the former are used."""
        from paddle.nn import Identity

        self.encoder(model).pooler = Identity()

    def layers(self, model: Any) -> list:
        """The transformer layers, first to last; `block` gives their parts."""
        return list(self.encoder(model).encoder.layers)

    def block(self, layer: Any) -> Block:
        """The parts of one of `layers`."""
        attention = getattr(layer, self.attention)
        return Block(
            attention,
            tuple(getattr(attention, name) for name in self.projections),
            getattr(attention, self.attention_output),
            *(getattr(layer, name) for name in self.feed_forward),
        )

    def replace_linears(self, layer: Any, heads: int, head_dim: int, inner: int, hidden: int) -> None:
        """Give one of `layers` new linear layers for so many heads, and `inner` units in its feed-forward network."""
        from paddle.nn import Linear

        attention = getattr(layer, self.attention)
        attention.num_heads, attention.head_dim = heads, head_dim
        for name in self.projections:
            setattr(attention, name, Linear(hidden, heads * head_dim))
        setattr(attention, self.attention_output, Linear(heads * head_dim, hidden))
        widen, narrow = self.feed_forward
        setattr(layer, widen, Linear(hidden, inner))
        setattr(layer, narrow, Linear(inner, hidden))


ERNIE = Family(
    "ERNIE",
    "Ernie",
    names=(
        "ernie-1.0-base-zh",
        "ernie-1.0-base-zh-cw",
        "ernie-1.0-large-zh-cw",
        "ernie-2.0-base-zh",
        "ernie-2.0-large-zh",
        "ernie-3.0-xbase-zh",
        "ernie-3.0-base-zh",
        "ernie-3.0-medium-zh",
        "ernie-3.0-mini-zh",
        "ernie-3.0-micro-zh",
        "ernie-3.0-nano-zh",
        "ernie-3.0-tiny-base-v2-zh",
        "ernie-3.0-tiny-medium-v2-zh",
        "ernie-3.0-tiny-mini-v2-zh",
        "ernie-3.0-tiny-micro-v2-zh",
        "ernie-3.0-tiny-nano-v2-zh",
        "ernie-3.0-tiny-pico-v2-zh",
        "ernie-3.0-tiny-mini-v2-en",
        "ernie-2.0-base-en",
        "ernie-2.0-large-en",
    ),
    tied_weights={
        "cls.predictions.decoder.weight": "ernie.embeddings.word_embeddings.weight",
        "cls.predictions.decoder.bias": "cls.predictions.decoder_bias",
    },
    masked_transform={
        "transform.weight": "cls.predictions.transform.weight",
        "transform.bias": "cls.predictions.transform.bias",
        "transform_norm.weight": "cls.predictions.layer_norm.weight",
        "transform_norm.bias": "cls.predictions.layer_norm.bias",
    },
)
BERT_NAMES = (
    "bert-base-chinese",
    "bert-wwm-chinese",
    "bert-wwm-ext-chinese",
    "macbert-base-chinese",
    "macbert-large-chinese",
    "uer/chinese-roberta-base",
    "uer/chinese-roberta-medium",
    "uer/chinese-roberta-6l-768h",
    "uer/chinese-roberta-small",
    "uer/chinese-roberta-mini",
    "uer/chinese-roberta-tiny",
    "bert-base-uncased",
    "bert-base-cased",
    "bert-large-uncased",
    "bert-large-cased",
    "bert-base-multilingual-uncased",
    "bert-base-multilingual-cased",
)
ROBERTA_NAMES = (
    "hfl/roberta-wwm-ext",
    "hfl/roberta-wwm-ext-large",
    "hfl/rbt3",
    "hfl/rbt4",
    "hfl/rbt6",
    "hfl/rbtl3",
)
FAMILIES = {
    "ernie": ERNIE,
    "ernie_m": Family("ERNIE-M", "ErnieM", ("ernie-m-base", "ernie-m-large"), inputs=("input_ids",)),
    # These compute as ERNIE does; huggingface.py has what else differs.
    "bert": replace(ERNIE, title="BERT", names=BERT_NAMES, published_as="Bert"),
    "roberta": replace(ERNIE, title="RoBERTa", names=ROBERTA_NAMES, published_as="Roberta"),
    "xlm-roberta": replace(ERNIE, title="XLM-RoBERTa", names=()),
}
MODEL_NAMES = [name for family in FAMILIES.values() for name in family.names]


def family_of(model: Any) -> Family:
    """The family of a network of `modeling.build_model`."""
    return FAMILIES[model.config.model_type]


def graph_feed(input_ids: np.ndarray) -> dict[str, np.ndarray]:
    """What exported graphs of all families can ask for: padded ids int64 [n, T] -> {input: int64 [n, T]}.

    A single text is read, so all its tokens are of type 0; the graph works out from the ids what is padding.
    """
    return {"input_ids": input_ids, "token_type_ids": np.zeros_like(input_ids)}


GRAPH_INPUTS = frozenset(graph_feed(np.zeros((1, 1), np.int64)))


# ---- what a directory holds ------------------------------------------------------------------------------------------


def open_tokenizer(directory: str | Path, max_seq_length: int) -> Tokenizer:
    """The tokenizer of a model directory, whose files must belong together, as far as they are there."""
    require_encoder(directory)
    tokenizer = load_tokenizer(in_force(directory), max_seq_length)
    if (in_force(directory) / "config.json").exists():
        tokenizer.require_known(read_config(in_force(directory)))
    return tokenizer


def encoder_config(directory: str | Path) -> dict:
    """`read_config` of a model to start a training from, in our form, without what another route has added to it."""
    config = own_config(read_config(directory), Path(directory) / "config.json")
    return {name: value for name, value in config.items() if name not in OWN_ENTRIES}


def encoder_state(directory: str | Path) -> tuple[Path, dict[str, np.ndarray]] | None:
    """(file, parameters by the library's names) of a model to start a training from; None if it has no weights."""
    path = find_encoder_weights(directory)
    if path is None:
        refuse_foreign_weights(directory)
        return None
    return path, own_state(read_weights(path), read_config(directory))


def open_encoder(directory: str | Path, max_seq_length: int) -> tuple[Tokenizer, dict]:
    """(tokenizer, `encoder_config`) of a model to start a training from, whose texts may have so many tokens.

    Raises InputError where the two do not go together.
    """
    tokenizer, config = open_tokenizer(directory, max_seq_length), encoder_config(in_force(directory))
    if max_seq_length > (limit := config.get("max_position_embeddings", max_seq_length)):
        raise InputError(f"--max_seq_length {max_seq_length}: {directory} reads at most {limit} tokens.")
    # The library's networks put zeros in the place of this token, which must not be another one.
    return tokenizer, config | {"pad_token_id": tokenizer.pad_id}


def read_config(directory: str | Path, without_encoder: str | None = None) -> dict:
    """config.json of a model directory as a dict whose model_type is supported; needs no paddle.

    without_encoder: a model_type that will do, though it names no family
    """
    path = Path(directory) / "config.json"
    require_file(path, MODEL_FILES)
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        kind = config.get("model_type")
    except (ValueError, AttributeError, RecursionError) as error:
        raise InputError(f"{path}: not a model configuration ({error}).") from None
    if kind not in FAMILIES and kind != (without_encoder or ""):
        raise InputError(f"{path}: model_type is {kind!r}; supported are {', '.join(FAMILIES)}.")
    return config
