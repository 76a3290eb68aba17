"""The network of the few-shot route: how near is a text to each label's words?

A row is read as one vector: the mean of its tokens' outputs (similarity), or the output at the mask (prompt). Labels
are vectors too, which start as what their words are to the same encoder. The cosines, times SCALE, go through one
soft-max over "this label is the deepest that applies", so that labels compete: with two rows each, that is what makes
up for the negatives that independent sigmoids would need. A label's probability is the sum over its subtree; the
network returns its log-odds, so that whatever takes the logits of the main route takes these.
"""

import numpy as np
import paddle
import paddle.nn.functional as F

from hierarchical.batches import length_sorted_batches
from hierarchical.encoders import FAMILIES, encoder_config, encoder_state, family_of
from hierarchical.errors import InputError
from hierarchical.modeling import build_model, library_config, model_inputs, set_labels
from hierarchical.weights import load_state

SCALE = 16.0
SMALLEST = 1e-9  # probability, so that its logarithm stays finite


class Network(paddle.nn.Layer):
    """Token ids int64 [n, T] in a template -> log-odds float32 [n, L].

    tree: LabelTree; tokenizer: TemplateTokenizer. With `config.mlm_transform`, the output at the mask goes through the
    transform of the pre-trained masked language model, as it would on the way to its vocabulary.
    """

    def __init__(self, config, tree, tokenizer):
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

    def vectors(self, input_ids, attention_mask, **token_types):
        """float32 [n, hidden size], before centring."""
        table = self.family.word_embeddings(self)
        if self.soft is None:
            embedded = table(input_ids)
        else:
            is_soft = (input_ids >= self.vocab_size).astype("int64")
            soft = F.embedding((input_ids - self.vocab_size) * is_soft, self.soft)
            embedded = paddle.where(is_soft.unsqueeze(-1) > 0, soft, table(input_ids * (1 - is_soft)))
        outputs = self.family.tokens(self, inputs_embeds=embedded, attention_mask=attention_mask, **token_types)
        counted = attention_mask if self.method == "similarity" else (input_ids == self.mask_id)
        counted = counted.astype(outputs.dtype).unsqueeze(-1)
        pooled = (outputs * counted).sum(1) / counted.sum(1)
        if self.config.mlm_transform:
            pooled = self.transform_norm(F.gelu(self.transform(pooled)))
        return pooled

    def forward(self, input_ids, attention_mask, **token_types):
        """token_types: `token_type_ids`, zeros, for encoders with that input; left out, they are zeros all the same."""
        centred = self.vectors(input_ids, attention_mask, **token_types) - self.center
        cosines = F.normalize(centred) @ F.normalize(self.label_vectors).T
        scores = SCALE * cosines + self.label_bias
        none = self.none_bias + paddle.zeros_like(scores[:, :1])
        deepest = F.softmax(paddle.concat([scores, none], axis=1).astype("float32"))
        applies, not_applies = deepest @ self.subtree, deepest @ (1 - self.subtree)
        return paddle.log(applies + SMALLEST) - paddle.log(not_applies + SMALLEST)


def network_config(source, tree, tokenizer, freeze_dropout):
    """The configuration of a new network, from a model directory."""
    config = library_config(encoder_config(source) | {"pad_token_id": tokenizer.pad_id})
    if config.max_position_embeddings < tokenizer.max_seq_length:
        limit = config.max_position_embeddings
        raise InputError(f"--max_seq_length {tokenizer.max_seq_length}: this model reads at most {limit} tokens.")
    set_labels(config, tree)
    if freeze_dropout:
        config.hidden_dropout_prob = config.attention_probs_dropout_prob = 0.0
    return config


def new_network(source, tree, tokenizer, texts, freeze_dropout=False, batch_size=32):
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
    if tokenizer.soft_words:
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


def text_vectors(network, ids, pad_id, batch_size):
    """float32 [N, hidden size] of tokenised texts; the network is in eval mode meanwhile and in train mode after."""
    network.eval()
    found = np.zeros((len(ids), network.config.hidden_size), np.float32)
    with paddle.no_grad():
        for batch in length_sorted_batches([len(row) for row in ids], batch_size):
            found[batch] = network.vectors(**model_inputs([ids[i] for i in batch], pad_id)).numpy()
    network.train()
    return found


def load_network(checkpoint, tokenizer):
    """The network of a Checkpoint, in eval mode. Raises InputError when its files do not fit each other."""
    config, directory = library_config(checkpoint.config), checkpoint.directory
    if config.num_labels != len(checkpoint.tree) or not hasattr(config, "mlm_transform"):
        raise InputError(f"{directory}: config.json does not fit label.txt, or is not one of few-shot/train.py.")
    network = Network(config, checkpoint.tree, tokenizer)
    checkpoint.load_weights(network)
    network.eval()
    return network
