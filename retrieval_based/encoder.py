"""The bi-encoder of this folder: one network that turns texts and label paths into vectors of length 1.

A vector is the mean of the encoder's outputs for all tokens, through dropout and a linear layer (none with
output_emb_size 0), divided by its length, so that the inner product of two is their cosine. A label is encoded as its
path with commas: `财经##股票` as `财经,股票`.

A checkpoint is one of the main route's (see hierarchical/checkpoints.py) with three more entries in config.json:
    output_emb_size   units of the linear layer, 0: there is none
    inner_labels      whether labels that have children are indexed: true if train rows ended at one
    encoder_id        digest of the parameters; an index knows by it which encoder made its vectors
"""

from pathlib import Path
from types import MethodType

from hierarchical.batches import length_sorted_batches, run_batches
from hierarchical.checkpoints import Checkpoint
from hierarchical.devices import available_cores, set_device
from hierarchical.encoders import family_of
from hierarchical.engines import OnnxModel
from hierarchical.errors import InputError
from hierarchical.labels import SEPARATOR
from hierarchical.modeling import build_model, library_config, model_inputs, predict_logits
from hierarchical.sets import read_set
from hierarchical.weights import parameter_digest
from utils import add_device_argument, add_max_seq_length_argument

EXPORTED = "inference.get_pooled_embedding"


def build_encoder(config):
    """A network with random parameters: `model_inputs()` in, unit vectors float32 [n, config.num_labels] out."""
    import paddle

    config.num_labels = config.output_emb_size or config.hidden_size
    model = build_model(config)
    if not config.output_emb_size:
        family_of(model).replace_classifier(model, paddle.nn.Identity())
    model.forward = MethodType(unit_vectors, model)
    return model


def unit_vectors(model, input_ids, attention_mask, **token_types):
    """Padded token ids int64 [n, T] -> vectors of length 1, float32 [n, config.num_labels]."""
    vectors = project(model, input_ids, attention_mask, **token_types)
    return vectors / vectors.norm(axis=-1, keepdim=True).clip(min=1e-12)


def project(model, input_ids, attention_mask, **token_types):
    """The same before they are divided by their length: the encoder's outputs, averaged, through the linear layer.

    token_types: `token_type_ids`, zeros, for encoders with that input; left out, they are zeros all the same.
    """
    family = family_of(model)
    outputs = family.tokens(model, input_ids=input_ids, attention_mask=attention_mask, **token_types)
    real = attention_mask.unsqueeze(-1).astype(outputs.dtype)
    classifier = family.classifier(model)
    return classifier(model.dropout((outputs * real).sum(1) / real.sum(1)))


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


def own_digest(model):
    """The digest of a network's parameters by which an index knows its encoder."""
    return parameter_digest(model.state_dict())


def path_text(label):
    """What the encoder reads for a label."""
    return label.replace(SEPARATOR, ",")


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


class Encoder:
    """A checkpoint of train.py or an export of export_model.py, as a function from texts to vectors.

    tree, tokenizer, decision: as stored with the model; before the first text, `load()` loads the network.
    Raises InputError for a directory that is neither.
    """

    def __init__(self, directory, max_seq_length=None, batch_size=32):
        self.directory, self.batch_size = Path(directory), batch_size

        def read(folder):
            self.onnx = onnx if (onnx := folder / f"{EXPORTED}.onnx").is_file() else None
            return Checkpoint.open(folder, max_seq_length, exported=bool(self.onnx), kind="retrieval")

        self.checkpoint = read_set(directory, read)
        self.tree, self.tokenizer = self.checkpoint.tree, self.checkpoint.tokenizer
        self.decision, config = self.checkpoint.decision, self.checkpoint.config
        self.id, self.inner_labels = config["encoder_id"], bool(config.get("inner_labels"))
        self.dimension = config.get("output_emb_size") or config.get("hidden_size")
        if not isinstance(self.dimension, int) or self.dimension < 1:
            raise InputError(
                f"{self.directory / 'config.json'}: output_emb_size and hidden_size do not say how long a vector is. "
                "Copy the file again from where train.py wrote it."
            )

    @property
    def file(self):
        """The file that holds the model."""
        return self.onnx or self.checkpoint.weights

    def load(self, device):
        """Load the network; an export runs on the CPU, without paddle.

        Raises InputError if it is not the one that config.json names: an index would take its vectors for the other's.
        """
        if self.onnx:
            self.model = OnnxModel(self.onnx)
            self.require_own_id(self.onnx, self.model.metadata.get("encoder_id"))
            self.checkpoint.require_models([self.onnx], self.model.metadata)
            return
        set_device(device)
        self.model = build_encoder(library_config(self.checkpoint.config))
        self.checkpoint.load_weights(self.model)
        self.model.eval()
        self.require_own_id(self.file, own_digest(self.model))

    def require_own_id(self, path, found):
        if found == self.id:
            return
        if self.onnx and found is None:
            raise InputError(f"{path}: does not name its encoder. Export it again.")
        advice = (
            "Export again; or remove this file, if train.py has written into this directory since."
            if self.onnx
            else "Was a training stopped while it saved? Continue it with --resume, or copy the whole directory again."
        )
        raise InputError(f"{path}: is not the encoder that config.json beside it belongs to. {advice}")

    def encode(self, texts, progress=None):
        """float32 [N, dimension], rows of length 1, in the order of the texts."""
        return self.encode_ids(self.tokenizer.encode(texts), progress)

    def encode_ids(self, ids, progress=None):
        """The same for tokenised texts; `progress` gets the rows of each batch done."""
        if not self.onnx:
            return predict_logits(self.model, ids, self.tokenizer.pad_id, self.batch_size, progress)
        width, callers = self.dimension, available_cores()
        return run_batches(self.model, ids, self.tokenizer.pad_id, width, self.batch_size, callers, progress)
