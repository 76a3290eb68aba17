"""What the scripts of this folder share about their encoder, which is that of hierarchical/bi_encoder.py.

Which labels of a row or a tree are encoded; and what only training and exporting do with the network.
"""

from hierarchical.batches import length_sorted_batches
from hierarchical.bi_encoder import path_text, project, unit_vectors
from hierarchical.encoders import family_of
from hierarchical.modeling import model_inputs
from utils import add_device_argument, add_max_seq_length_argument


def graph_of(model):
    """The network as a layer that can become a static graph, for which `forward` must be a method of its class."""
    import paddle

    class Graph(paddle.nn.Layer):
        def __init__(self):
            super().__init__()
            self.model, self.config = model, model.config

        def forward(self, input_ids, attention_mask, **token_types):
            return unit_vectors(self.model, input_ids, attention_mask, **token_types)

    return Graph()


def center(model, ids, pad_id, batch_size):
    """Set the bias of the linear layer so that the vectors of these tokenised texts have the mean 0.

    An encoder's outputs share a large common part: all cosines start near 1, where their gradients vanish, and an
    untrained encoder never gets away from there.
    """
    import paddle

    classifier = family_of(model).classifier(model)
    if isinstance(classifier, paddle.nn.Identity):
        return
    model.eval()
    with paddle.no_grad():
        batches = [
            model_inputs([ids[i] for i in batch], pad_id)
            for batch in length_sorted_batches(list(map(len, ids)), batch_size)
        ]
        sums = [project(model, **inputs).sum(0) for inputs in batches]
        classifier.bias.set_value(classifier.bias - paddle.stack(sums).sum(0) / len(ids))
    model.train()


def texts_of_labels(tree, indices):
    """What it reads for the labels of the given class indices: list[str]."""
    return [path_text(tree.labels[i]) for i in indices]


def most_specific(tree, labels):
    """Of a row's class indices those that are no ancestor of another one: tuple[int]."""
    above = {ancestor for label in labels for ancestor in tree.ancestors(label)}
    return tuple(label for label in labels if label not in above)


def labels_to_index(tree, inner_labels):
    """The class indices a text may be assigned to: the leaves, or every label."""
    return [i for i in range(len(tree)) if inner_labels or not tree.children[i]]


def add_model_arguments(parser, batch_size=True):
    """The flags of the encoder; batch_size=False: without the one of that name."""
    group = parser.add_argument_group("model")
    group.add_argument(
        "--params_path",
        default="./checkpoint/model_best",
        help="directory that retrieval_based/train.py or retrieval_based/export_model.py wrote",
    )
    add_max_seq_length_argument(group)
    if batch_size:
        group.add_argument("--batch_size", type=int, default=32, help="texts per step")
    add_device_argument(group)
