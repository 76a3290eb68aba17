"""The bi-encoder of this folder: one network that turns texts and label paths into vectors of length 1.

A vector is the pooled [CLS] of the encoder, through dropout and a linear layer (none with output_emb_size 0), divided
by its length, so that the inner product of two is their cosine. A label is encoded as its path with commas:
`财经##股票` as `财经,股票`.

A checkpoint is one of the main route's (see modeling.py) with three more entries in config.json:
    output_emb_size   units of the linear layer, 0: there is none
    inner_labels      whether labels that have children are indexed: true if train rows ended at one
    encoder_id        digest of the parameters; an index knows by it which encoder made its vectors
"""

import hashlib
from pathlib import Path
from types import MethodType

import numpy as np

from deploy.predictor.predictor import OnnxModel
from modeling import (
    build_model,
    find_weights,
    load_weights,
    model_inputs,
    open_checkpoint,
    predict_logits,
    read_config,
    read_config_file,
    set_device,
)
from utils import InputError, length_sorted_batches, pad

EXPORTED = "inference.get_pooled_embedding"


def build_encoder(config):
    """A network with random parameters: `model_inputs()` in, unit vectors float32 [n, config.num_labels] out."""
    import paddle

    config.num_labels = config.output_emb_size or config.hidden_size
    model = build_model(config)
    if not config.output_emb_size:
        model.classifier = paddle.nn.Identity()
    encoder = getattr(model, model.base_model_prefix)

    def project(self, input_ids, token_type_ids=None, attention_mask=None):
        given = {} if token_type_ids is None else {"token_type_ids": token_type_ids}
        outputs = encoder(input_ids, attention_mask=attention_mask, **given)[0]
        real = attention_mask.unsqueeze(-1).astype(outputs.dtype)
        return self.classifier(self.dropout((outputs * real).sum(1) / real.sum(1)))

    def forward(self, input_ids, token_type_ids=None, attention_mask=None):
        return paddle.nn.functional.normalize(self.project(input_ids, token_type_ids, attention_mask), axis=-1)

    model.project, model.forward = MethodType(project, model), MethodType(forward, model)
    return model


def center(model, ids, pad_id, batch_size):
    """Set the bias of the linear layer so that the vectors of these tokenised texts have the mean 0.

    An encoder's outputs share a large common part: all cosines start near 1, where their gradients vanish, and an
    untrained encoder never gets away from there.
    """
    import paddle

    if isinstance(model.classifier, paddle.nn.Identity):
        return
    model.eval()
    with paddle.no_grad():
        batches = [
            model_inputs([ids[i] for i in batch], pad_id)
            for batch in length_sorted_batches(list(map(len, ids)), batch_size)
        ]
        sums = [model.project(**inputs).sum(0) for inputs in batches]
        model.classifier.bias.set_value(model.classifier.bias - paddle.stack(sums).sum(0) / len(ids))
    model.train()


def parameter_digest(model):
    """SHA-256 of a model's parameters, as hexadecimal text."""
    sha256 = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        sha256.update(name.encode())
        sha256.update(value.numpy().tobytes())
    return sha256.hexdigest()


def label_texts(tree, indices):
    """What the encoder reads for the labels of the given class indices: list[str]."""
    return [",".join(tree.segments(i)) for i in indices]


def most_specific(tree, labels):
    """Of a row's class indices those that are no ancestor of another one: tuple[int]."""
    above = {ancestor for label in labels for ancestor in tree.ancestors(label)}
    return tuple(label for label in labels if label not in above)


def labels_to_index(tree, inner_labels):
    """The class indices a text may be assigned to: the leaves, or every label."""
    return [i for i in range(len(tree)) if inner_labels or not tree.children[i]]


def load_encoder(directory):
    """The network of a checkpoint, in eval mode."""
    model = build_encoder(read_config(directory))
    load_weights(model, find_weights(directory))
    model.eval()
    return model


class Encoder:
    """A checkpoint of train.py or an export of export_model.py, as a function from texts to vectors.

    tree, tokenizer, decision: as stored with the model; `load()` loads the network, an export without paddle.
    Raises InputError for a directory that is neither.
    """

    def __init__(self, directory, max_seq_length=None, batch_size=32):
        self.directory, self.batch_size = Path(directory), batch_size
        self.exported = self.directory / f"{EXPORTED}.onnx"
        is_export = self.exported.is_file()
        self.tree, self.tokenizer, self.decision = open_checkpoint(directory, max_seq_length, is_export)
        config = read_config_file(directory)
        if "encoder_id" not in config:
            raise InputError(
                f"{directory}: holds a classifier, not an encoder for retrieval. Pass the model_best/ that "
                "retrieval_based/train.py wrote."
            )
        self.id, self.inner_labels = config["encoder_id"], bool(config.get("inner_labels"))
        self.dimension = config.get("output_emb_size") or config["hidden_size"]
        self.model = None if is_export else directory

    def load(self, device="cpu"):
        if self.model is None:
            self.run = OnnxModel(self.exported)
        else:
            set_device(device)
            self.model = load_encoder(self.directory)
        return self

    def encode(self, texts, progress=None):
        """float32 [N, dimension], rows of length 1, in the order of the texts."""
        return self.encode_ids(self.tokenizer.encode(texts), progress)

    def encode_ids(self, ids, progress=None):
        """The same for tokenised texts."""
        if self.model is not None:
            return predict_logits(self.model, ids, self.tokenizer.pad_id, self.batch_size, progress)
        vectors = np.zeros((len(ids), self.dimension), np.float32)
        for batch in length_sorted_batches([len(row) for row in ids], self.batch_size):
            vectors[batch] = self.run(pad([ids[i] for i in batch], self.tokenizer.pad_id))
            if progress:
                progress(len(batch))
        return vectors


def encode_with_bar(encoder, texts, name):
    """`encoder.encode(texts)` with a progress bar on a terminal."""
    from tqdm import tqdm

    with tqdm(total=len(texts), desc=name, disable=None, leave=False) as bar:
        return encoder.encode(texts, bar.update)
