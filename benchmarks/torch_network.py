"""The classifier's network in plain torch: for what gpu.py and gpu_recipes.py measure.

    network = Network(config, n_labels=74)              # random weights
    network.load(load_file("encoder/model.safetensors"))   # those of an encoder in PaddleNLP's form
    logits = network(ids)

Needs torch, and nothing of this project. ERNIE and BERT only.
"""

import torch
from torch import nn
from torch.nn import functional

LINEAR = {"self_attn.out_proj": "out", "linear1": "up", "linear2": "down"}
TABLES = {"word": "words", "position": "places", "token_type": "types"}
PARTS = ("weight", "bias")


class Layer(nn.Module):
    """An encoder layer, its attention by torch's fused kernel."""

    def __init__(self, config: dict):
        super().__init__()
        hidden, inner = config["hidden_size"], config["intermediate_size"]
        self.heads, self.attention_dropout = config["num_attention_heads"], config["attention_probs_dropout_prob"]
        self.dropout = nn.Dropout(config["hidden_dropout_prob"])
        self.qkv, self.out = nn.Linear(hidden, 3 * hidden), nn.Linear(hidden, hidden)
        self.up, self.down = nn.Linear(hidden, inner), nn.Linear(inner, hidden)
        self.norm1, self.norm2 = (nn.LayerNorm(hidden, config.get("layer_norm_eps", 1e-12)) for _ in range(2))

    def forward(self, x, mask=None):
        """float [n, T, hidden] -> the same. mask: bool, what each token may look at; None: all"""
        n, length, hidden = x.shape
        query, key, value = self.qkv(x).view(n, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        dropped = self.attention_dropout if self.training else 0.0
        mixed = functional.scaled_dot_product_attention(query, key, value, mask, dropped)
        x = self.norm1(x + self.dropout(self.out(mixed.transpose(1, 2).reshape(n, length, hidden))))
        return self.norm2(x + self.dropout(self.down(functional.gelu(self.up(x)))))


class Network(nn.Module):
    """Token ids int64 [n, T] -> logits [n, n_labels]. config: sizes as in config.json.

    pooling: what a text's vector is: "cls", as in the library; "mean" of its tokens' vectors; "both", added.
    head: "plain", a linear layer; "tree", where a label's weights are its own plus its ancestors'; "words", where
    vectors of the labels' names have a part in them (see `name_labels`); "attention", where each label has a mixture of
    the tokens of its own beside the text's vector (as Mullenbach and others, 2018).
    """

    def __init__(self, config: dict, n_labels: int, pooling: str = "cls", head: str = "plain", ancestors=None):
        super().__init__()
        hidden, self.pooling, self.head = config["hidden_size"], pooling, head
        self.words = nn.Embedding(config["vocab_size"], hidden)
        self.places = nn.Embedding(config["max_position_embeddings"], hidden)
        self.types = nn.Embedding(config.get("type_vocab_size", 2), hidden)
        self.norm = nn.LayerNorm(hidden, config.get("layer_norm_eps", 1e-12))
        self.dropout = nn.Dropout(config["hidden_dropout_prob"])
        self.layers = nn.ModuleList(Layer(config) for _ in range(config["num_hidden_layers"]))
        self.pooler, self.classifier = nn.Linear(hidden, hidden), nn.Linear(hidden, n_labels)
        nn.init.normal_(self.classifier.weight, std=config.get("initializer_range", 0.02))
        self.register_buffer("ancestors", ancestors, persistent=False)  # float [L, L]: 1 for a label and those above it
        self.register_buffer("names", torch.zeros(n_labels, hidden), persistent=False)
        if head == "words":
            self.towards = nn.Linear(hidden, hidden, bias=False)
            nn.init.zeros_(self.towards.weight)
        if head == "attention":
            self.looks, self.sees = (nn.Parameter(0.02 * torch.randn(n_labels, hidden)) for _ in range(2))

    def new_parameters(self):
        """The beginnings of the names of what no encoder brings."""
        return "classifier", "towards", "looks", "sees"

    def load(self, state):
        """Take over an encoder's weights: arrays by PaddleNLP's names, its linear layers stored the other way round."""
        arrays = {name.removeprefix("ernie.").removeprefix("bert."): array for name, array in state.items()}

        def put(parameter, name, turned):
            value = torch.as_tensor(arrays[name]).float()
            parameter.data.copy_(value.T if turned else value)

        for name, own in TABLES.items():
            put(getattr(self, own).weight, f"embeddings.{name}_embeddings.weight", False)
        for part in PARTS:
            turned = part == "weight"
            put(getattr(self.norm, part), f"embeddings.layer_norm.{part}", False)
            put(getattr(self.pooler, part), f"pooler.dense.{part}", turned)
            for number, layer in enumerate(self.layers):
                place = f"encoder.layers.{number}."
                for name, own in LINEAR.items():
                    put(getattr(getattr(layer, own), part), f"{place}{name}.{part}", turned)
                for name in ("norm1", "norm2"):
                    put(getattr(getattr(layer, name), part), f"{place}{name}.{part}", False)
                for name, third in zip("qkv", getattr(layer.qkv, part).data.chunk(3)):
                    put(third, f"{place}self_attn.{name}_proj.{part}", turned)

    def tokens(self, ids, mask=None):
        """The tokens' vectors [n, T, hidden]. mask: bool [n, T], False for padding"""
        x = self.words(ids) + self.places.weight[: ids.shape[1]] + self.types.weight[0]
        x, visible = self.dropout(self.norm(x)), None if mask is None else mask[:, None, None, :]
        for layer in self.layers:
            x = layer(x, visible)
        return x

    def vector(self, x, mask):
        """The text's, [n, hidden]."""
        first = torch.tanh(self.pooler(x[:, 0]))
        if self.pooling == "cls":
            return first
        mean = (x * mask[:, :, None]).sum(1) / mask.sum(1, keepdim=True)
        return mean if self.pooling == "mean" else mean + first

    def logits(self, vector, x, mask):
        weights = self.classifier.weight
        if self.head == "tree":
            weights = self.ancestors @ weights
        if self.head == "words":
            weights = weights + self.towards(self.names)
        found = functional.linear(self.dropout(vector), weights, self.classifier.bias)
        if self.head == "attention":
            shares = (x @ self.looks.T).masked_fill(~mask[:, :, None], -1e9).softmax(1)  # [n, T, L]
            found = found + (self.dropout(shares.transpose(1, 2) @ x) * self.sees).sum(2)
        return found

    def forward(self, ids, mask=None):
        x = self.tokens(ids, mask)
        return self.logits(self.vector(x, mask), x, mask)

    @torch.no_grad()
    def name_labels(self, ids, mask):
        """Let the labels' names, tokenised, have the mean of their tokens' vectors, standardised over the labels."""
        x = self.eval().tokens(ids, mask)
        mean = (x * mask[:, :, None]).sum(1) / mask.sum(1, keepdim=True)
        self.names.copy_((mean - mean.mean(0)) / mean.std(0))


def compute_with(network, ids):
    """A function without arguments that computes `ids` on a GPU as one CUDA graph, always into the same tensor."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):  # what is allocated and chosen in first calls cannot be captured
        for _ in range(3):
            network(ids)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        output = network(ids)

    def replay():
        graph.replay()
        return output

    return replay
