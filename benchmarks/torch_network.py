"""The classifier's network in plain torch, with random weights: how fast torch itself computes what gpu.py measures.

Needs torch, and nothing of this project.
"""

import torch
from torch import nn
from torch.nn import functional


class Layer(nn.Module):
    """An encoder layer, its attention by torch's fused kernel; no mask, since all rows are of one length."""

    def __init__(self, hidden: int, heads: int, inner: int):
        super().__init__()
        self.heads = heads
        self.qkv, self.out = nn.Linear(hidden, 3 * hidden), nn.Linear(hidden, hidden)
        self.up, self.down = nn.Linear(hidden, inner), nn.Linear(inner, hidden)
        self.norm1, self.norm2 = nn.LayerNorm(hidden), nn.LayerNorm(hidden)

    def forward(self, x):
        """float [n, T, hidden] -> the same."""
        n, length, hidden = x.shape
        query, key, value = self.qkv(x).view(n, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(query, key, value)
        x = self.norm1(x + self.out(mixed.transpose(1, 2).reshape(n, length, hidden)))
        return self.norm2(x + self.down(functional.gelu(self.up(x))))


class Network(nn.Module):
    """Token ids int64 [n, T] -> logits [n, n_labels]. config: sizes as in config.json."""

    def __init__(self, config: dict, n_labels: int):
        super().__init__()
        hidden = config["hidden_size"]
        self.words, self.types = nn.Embedding(config["vocab_size"], hidden), nn.Embedding(2, hidden)
        self.places, self.norm = nn.Embedding(config["max_position_embeddings"], hidden), nn.LayerNorm(hidden)
        sizes = hidden, config["num_attention_heads"], config["intermediate_size"]
        self.layers = nn.Sequential(*(Layer(*sizes) for _ in range(config["num_hidden_layers"])))
        self.pooler, self.classifier = nn.Linear(hidden, hidden), nn.Linear(hidden, n_labels)

    def forward(self, ids):
        places = torch.arange(ids.shape[1], device=ids.device)
        x = self.norm(self.words(ids) + self.places(places) + self.types(torch.zeros_like(ids)))
        return self.classifier(torch.tanh(self.pooler(self.layers(x)[:, 0])))


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
