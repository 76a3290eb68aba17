"""The network of the few-shot route: how near is a text to each label's words?

A row is read as one vector: the mean of its tokens' outputs (similarity), or the output at the mask (prompt). Labels
are vectors too, which start as what their words are to the same encoder. The cosines, times SCALE, go through one
soft-max over "this label is the deepest that applies", so that labels compete: with two rows each, that is what makes
up for the negatives that independent sigmoids would need. A label's probability is the sum over its subtree; the
network returns its log-odds, so that whatever takes the logits of the main route takes these.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import paddle.nn.functional as F

from hierarchical.batches import length_sorted_batches
from hierarchical.checkpoints import Checkpoint
from hierarchical.encoders import FAMILIES, encoder_config, encoder_state, family_of
from hierarchical.errors import InputError
from hierarchical.labels import LabelTree
from hierarchical.modeling import build_model, library_config, model_inputs, set_labels
from hierarchical.template import TemplateTokenizer
from hierarchical.weights import load_state

SCALE = 16.0
SMALLEST = 1e-9  # probability, so that its logarithm stays finite


class Network(paddle.nn.Layer):
    """Token ids int64 [n, T] in a template -> log-odds float32 [n, L].

    tree: LabelTree; tokenizer: TemplateTokenizer. With `config.mlm_transform`, the output at the mask goes through the
    transform of the pre-trained masked language model, as it would on the way to its vocabulary.
    """

    def __init__(self, config: Any, tree: LabelTree, tokenizer: TemplateTokenizer):
        super().__init__()
        model = build_model(config)
        self.config, self.base_model_prefix, self.method = config, model.base_model_prefix, tokenizer.method
        self.mask_id, self.vocab_size = tokenizer.mask_id, config.vocab_size
        self.family, size = family_of(model), config.hidden_size
        self.family.drop_pooler(model)
        encoder = self.family.encoder(model)
        setattr(self, self.base_model_prefix, encoder)
        self.pretrained = (f"{self.base_model_prefix}.", "transform")  # how names of what is pre-trained begin
        if config.mlm_transform:
            self.transform, self.transform_norm = paddle.nn.Linear(size, size), paddle.nn.LayerNorm(size)
        n_soft = len(tokenizer.soft_words)
        self.soft = self.create_parameter([n_soft, size]) if n_soft else None
        self.label_vectors = self.create_parameter([len(tree), size])
        self.label_bias = self.create_parameter([len(tree)], is_bias=True)
        self.none_bias = self.create_parameter([1], is_bias=True)  # of the row to which no label applies
        self.center = self.create_parameter([size], is_bias=True)
        self.center.stop_gradient = True
        subtree = np.zeros((len(tree) + 1, len(tree)), np.float32)  # [deepest label, label it implies]
        for label in range(len(tree)):
            subtree[label, [label, *tree.ancestors(label)]] = 1
        self.register_buffer("subtree", paddle.to_tensor(subtree), persistable=False)

    def embed(self, input_ids: Any) -> Any:
        """float32 [n, T, hidden size]."""
        table = self.family.word_embeddings(self)
        if self.soft is None:
            return table(input_ids)
        is_soft = (input_ids >= self.vocab_size).astype("int64")
        soft = F.embedding((input_ids - self.vocab_size) * is_soft, self.soft)
        return paddle.where(is_soft.unsqueeze(-1) > 0, soft, table(input_ids * (1 - is_soft)))

    def counted(self, input_ids: Any, attention_mask: Any) -> Any:
        """[n, T]: whose outputs are averaged."""
        return attention_mask if self.method == "similarity" else (input_ids == self.mask_id)

    def pool(self, embedded: Any, attention_mask: Any, counted: Any, **token_types: Any) -> Any:
        """Embeddings [n, T, hidden size] -> vectors float32 [n, hidden size], before centring."""
        outputs = self.family.tokens(self, inputs_embeds=embedded, attention_mask=attention_mask, **token_types)
        counted = counted.astype(outputs.dtype).unsqueeze(-1)
        pooled = (outputs * counted).sum(1) / counted.sum(1)
        if self.config.mlm_transform:
            pooled = self.transform_norm(F.gelu(self.transform(pooled)))
        return pooled

    def vectors(self, input_ids: Any, attention_mask: Any, **token_types: Any) -> Any:
        """The same of token ids int64 [n, T]."""
        counted = self.counted(input_ids, attention_mask)
        return self.pool(self.embed(input_ids), attention_mask, counted, **token_types)

    def forward(self, input_ids: Any, attention_mask: Any, **token_types: Any) -> Any:
        """token_types: `token_type_ids`, zeros, for encoders with that input; left out, they are zeros all the same."""
        return self.score(self.vectors(input_ids, attention_mask, **token_types))

    def score(self, vectors: Any) -> Any:
        """Vectors of `pool` -> log-odds float32 [n, L]."""
        centred = vectors - self.center
        cosines = F.normalize(centred) @ F.normalize(self.label_vectors).T
        scores = SCALE * cosines + self.label_bias
        none = self.none_bias + paddle.zeros_like(scores[:, :1])
        deepest = F.softmax(paddle.concat([scores, none], axis=1).astype("float32"))
        applies, not_applies = deepest @ self.subtree, deepest @ (1 - self.subtree)
        return paddle.log(applies + SMALLEST) - paddle.log(not_applies + SMALLEST)


def network_config(source: str | Path, tree: LabelTree, tokenizer: TemplateTokenizer, freeze_dropout: bool) -> Any:
    """The configuration of a new network, from a model directory."""
    config = library_config(encoder_config(source) | {"pad_token_id": tokenizer.pad_id})
    if config.max_position_embeddings < tokenizer.max_seq_length:
        limit = config.max_position_embeddings
        raise InputError(f"--max_seq_length {tokenizer.max_seq_length}: this model reads at most {limit} tokens.")
    set_labels(config, tree)
    if freeze_dropout:
        config.hidden_dropout_prob = config.attention_probs_dropout_prob = 0.0
    return config


def new_network(
    source: str | Path,
    tree: LabelTree,
    tokenizer: TemplateTokenizer,
    texts: Sequence[str],
    freeze_dropout: bool = False,
    batch_size: int = 32,
) -> Network:
    """A network that starts as a pre-trained encoder, the labels' words, and the mean of the training texts' vectors.

    source: model directory. Raises InputError when it holds no weights: nothing could be learned from a few rows.
    """
    config, found = network_config(source, tree, tokenizer, freeze_dropout), encoder_state(source)
    if found is None:
        raise InputError(f"{source}: no weights in it. A few rows need a pre-trained encoder; train.py can do without.")
    path, state = found
    transform = FAMILIES[config.model_type].masked_transform or {}
    config.mlm_transform = tokenizer.method == "prompt" and bool(transform) and set(transform.values()) <= set(state)
    network = Network(config, tree, tokenizer)
    load_state(network, state, path, encoder_only=True)
    if config.mlm_transform:
        network.set_state_dict({ours: state[theirs].astype("float32") for ours, theirs in transform.items()})
    table = network.family.word_embeddings(network).weight.numpy()
    if network.soft is not None:
        started = np.array(tokenizer.soft_words) >= 0
        soft = np.where(started[:, None], table[tokenizer.soft_words], network.soft.numpy())
        network.soft.set_value(soft)
    word_ids = [tokenizer.word_ids(word) for word in tree.words]
    if tokenizer.method == "prompt":
        words = np.stack([table[ids].mean(0) for ids in word_ids])
    else:
        words = text_vectors(network, tokenizer.encode(tree.words), tokenizer.pad_id, batch_size)
    network.label_vectors.set_value(words - words.mean(0))
    network.center.set_value(text_vectors(network, tokenizer.encode(texts), tokenizer.pad_id, batch_size).mean(0))
    return network


def text_vectors(network: Network, ids: list[list[int]], pad_id: int, batch_size: int) -> np.ndarray:
    """float32 [N, hidden size] of tokenised texts; the network is in eval mode meanwhile."""
    was_training = network.training
    network.eval()
    found = np.zeros((len(ids), network.config.hidden_size), np.float32)
    with paddle.no_grad():
        for batch in length_sorted_batches([len(row) for row in ids], batch_size):
            found[batch] = network.vectors(**model_inputs([ids[i] for i in batch], pad_id)).numpy()
    if was_training:
        network.train()
    return found


def load_network(checkpoint: Checkpoint, tokenizer: TemplateTokenizer) -> Network:
    """The network of a Checkpoint, in eval mode. Raises InputError when its files do not fit each other."""
    config, directory = library_config(checkpoint.config), checkpoint.directory
    if config.num_labels != len(checkpoint.tree) or not hasattr(config, "mlm_transform"):
        raise InputError(f"{directory}: config.json does not fit label.txt, or is not one of few-shot/train.py.")
    network = Network(config, checkpoint.tree, tokenizer)
    checkpoint.load_weights(network)
    network.eval()
    return network
