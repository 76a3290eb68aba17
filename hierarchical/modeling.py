"""Networks: building one, and the logits, probabilities and features of tokenised texts.

paddle is imported inside the functions, so that a script can check its arguments before the seconds that takes.
"""

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import numpy as np

from hierarchical.batches import pad, row_windows, run_batches
from hierarchical.console import progress_bar
from hierarchical.cpu_layers import speed_up
from hierarchical.decisions import Decision, decide, probabilities_of
from hierarchical.devices import without_warnings
from hierarchical.encoders import FAMILIES, family_of
from hierarchical.first_token import first_token_alone
from hierarchical.labels import LabelTree
from hierarchical.linear import LinearBranch, with_linear
from hierarchical.long_texts import Windows
from hierarchical.losses import LOSSES
from hierarchical.metric import Scores
from hierarchical.rows import Rows

MANY_ROWS = 256  # rows for which faster layers save more time than it takes to load them
GELU_BY_TANH = ("gelu_new", "gelu_pytorch_tanh", "gelu_fast")  # transformers' names of what the library approximates

if TYPE_CHECKING:
    from hierarchical.tokens import Tokenizer


def library_config(config: dict) -> Any:
    """The library's configuration object for a dict of `encoders.read_config`; its model_type stays the family's."""
    kind = config["model_type"]
    with without_warnings():
        made = FAMILIES[kind].class_for("Config").from_dict({k: v for k, v in config.items() if k != "model_type"})
    made.model_type = kind
    return made


def set_labels(config: Any, tree: LabelTree) -> None:
    """Give a network's configuration an output for every label."""
    config.num_labels = len(tree)
    config.id2label, config.label2id = dict(enumerate(tree.labels)), dict(zip(tree.labels, range(len(tree))))


def build_network(config: Any, part: str = "ForSequenceClassification") -> Any:
    """The library's network for a part of a family, with what the library does not know, or does not ask for."""
    import paddle

    gelu = paddle.nn.functional.gelu
    family, activation = FAMILIES[config.model_type], config.hidden_act
    by_tanh = activation in GELU_BY_TANH
    config.hidden_act = "gelu" if by_tanh else activation
    with without_warnings():
        network = family.class_for(part)(config)
    config.hidden_act = activation
    for layer in network.sublayers():
        if by_tanh and getattr(layer, "activation", None) == gelu:
            layer.activation = gelu_by_tanh
        if isinstance(layer, paddle.nn.LayerNorm) and family.class_prefix == "Ernie":
            layer._epsilon = config.layer_norm_eps  # which is 1e-12 in the library, whatever the configuration says
    return network


def gelu_by_tanh(x: Any) -> Any:
    """GELU with the tanh in the place of the error function (Hendrycks and Gimpel, 2016), written out.

    The library's own, gelu(x, approximate=True), is exported to ONNX as the exact one: 5e-4 off.
    """
    import paddle

    return 0.5 * x * (1 + paddle.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x)))


def build_model(config: Any) -> Any:
    """A network with random parameters for a `library_config`: token ids in, logits [n, num_labels] out.

    A configuration with `head_dim` is that of a pruned network (see prune.py): num_attention_heads x head_dim need not
    be hidden_size. The library knows no such thing, so its linear layers are replaced here.
    """
    family, head_dim = FAMILIES[config.model_type], getattr(config, "head_dim", None)
    if head_dim is None:
        return build_network(config)
    heads = config.num_attention_heads
    config.num_attention_heads = 1  # fits every hidden size
    model = build_network(config)
    config.num_attention_heads = heads
    for layer in family.layers(model):  # the library's ERNIE-M knows inner layers of 4 x hidden_size only
        family.replace_linears(layer, heads, head_dim, config.intermediate_size, config.hidden_size)
    return model


def model_inputs(ids: Sequence[Sequence[int]], pad_id: int) -> dict:
    """Lists of token ids -> the model's keyword arguments: padded ids and the mask that hides the padding."""
    return tensors(pad(ids, pad_id), pad_id)


def tensors(input_ids: np.ndarray, pad_id: int) -> dict:
    """Padded token ids int64 [n, T] -> the model's keyword arguments.

    "[PAD]" spelt out in a text is hidden too, as in an exported graph, which has only the ids to tell by.
    """
    import paddle

    mask = (input_ids != pad_id).astype(np.int64)
    return {"input_ids": paddle.to_tensor(input_ids), "attention_mask": paddle.to_tensor(mask)}


def predict_logits(
    model: Any,
    ids: list[list[int]],
    pad_id: int,
    batch_size: int,
    progress: Callable | None = None,
    windows: Windows | None = None,
) -> np.ndarray:
    """float32 logits [N, L] of tokenised texts, in the order given; the model is in eval mode meanwhile.

    progress: called with the number of rows done after each batch; windows: of the tokenizer that made the ids
    """
    return run_network(model, model, model.config.num_labels, ids, pad_id, batch_size, progress, windows)


def classifying(model: Any) -> AbstractContextManager:
    """Within, a network's last layer may leave out all tokens but the first, if it is a classifier of the library's.

    They read the pooled first token. Not where somebody has given it another forward, and not for hidden states.
    """
    own = type(model).__name__.endswith("ForSequenceClassification") and "forward" not in vars(model)
    return first_token_alone(family_of(model).layers(model)[-1] if own else None)


def run_network(
    model: Any,
    forward: Callable,
    width: int,
    ids: Sequence[Sequence[int]],
    pad_id: int,
    batch_size: int,
    progress: Callable | None = None,
    windows: Windows | None = None,
) -> np.ndarray:
    """What `forward(**model_inputs)` gives for tokenised texts, float32 [N, width]; as `predict_logits`.

    forward: of a classifier's last layer it reads the first token alone
    """
    import paddle

    was_training = model.training
    model.eval()
    if len(ids) >= MANY_ROWS:
        speed_up(model)
    with paddle.no_grad(), classifying(model):
        outputs = run_batches(
            lambda input_ids: forward(**tensors(input_ids, pad_id)).numpy(),
            ids, pad_id, width, batch_size, progress=progress, windows=windows,
        )  # fmt: skip
    if was_training:
        model.train()
    return outputs


def score(
    model: Any,
    tree: LabelTree,
    rows: Rows,
    ids: list[list[int]],
    pad_id: int,
    decision: Decision,
    batch_size: int,
    progress: Callable | None = None,
    rank: int = 0,
    world: int = 1,
    loss: str = "bce",
    linear: LinearBranch | None = None,
    windows: Windows | None = None,
) -> Scores:
    """`metric.Scores` of a model on labelled Rows and their token ids; with several processes, on every `world`-th.

    loss: the one of losses.LOSSES whose mean the result tells, that which the model was trained with. linear: the
    model's linear branch; windows: of the tokenizer that made the ids
    """
    scores, own = Scores(tree), np.arange(rank, len(ids), world)
    for window in row_windows(len(own), len(tree)):
        part = own[window.start : window.stop]
        logits = predict_logits(model, [ids[i] for i in part], pad_id, batch_size, progress, windows)
        logits = with_linear(logits, linear, [rows.texts[i] for i in part])
        gold = rows.multi_hot(len(tree), part)
        predicted = decide(probabilities_of(logits, tree, decision), tree, decision)
        scores.update(predicted, gold, LOSSES[loss].of_rows(logits, gold))
    return scores


def encode_features(model: Any, tokenizer: "Tokenizer", texts: list[str], batch_size: int, name: str) -> np.ndarray:
    """float32 features [N, hidden size] of texts, in the order given, with a progress bar on a terminal.

    A text's feature is what the classifier layer sees of it: the pooled [CLS] vector, without dropout.
    """
    family, ids = family_of(model), tokenizer.encode(texts)

    def forward(**inputs: Any) -> Any:
        return family.pooled(model, **inputs)

    with progress_bar(len(texts), name) as bar:
        return run_network(model, forward, model.config.hidden_size, ids, tokenizer.pad_id, batch_size, bar.update)


def classify_features(model: Any, features: np.ndarray) -> np.ndarray:
    """float32 logits [N, L] of features, without another run of the encoder."""
    classifier = family_of(model).classifier(model)
    return features @ classifier.weight.numpy() + classifier.bias.numpy()
