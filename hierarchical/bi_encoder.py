"""The bi-encoder of retrieval_based/: one network that turns texts and label paths into vectors of length 1.

    encoder = Encoder("checkpoint/model_best")         # or its export: without paddle
    encoder.load("cpu")
    vectors = encoder.encode(["某公司宣布裁员", path_text("组织关系##裁员")])

A vector is the mean of the encoder's outputs for all tokens, through dropout and a linear layer (none with
output_emb_size 0), divided by its length, so that the inner product of two is their cosine. A label is encoded as its
path with commas: `财经##股票` as `财经,股票`.

A checkpoint is one of the main route's (see checkpoints.py) with three more entries in config.json:
    output_emb_size   units of the linear layer, 0: there is none
    inner_labels      whether labels that have children are indexed: true if train rows ended at one
    encoder_id        digest of the parameters; an index knows by it which encoder made its vectors
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from types import MethodType
from typing import Any

import numpy as np

from hierarchical.batches import Begun, begin_batches
from hierarchical.checkpoints import Checkpoint
from hierarchical.devices import available_cores, set_device
from hierarchical.encoders import family_of
from hierarchical.engines import OnnxModel
from hierarchical.errors import InputError
from hierarchical.labels import SEPARATOR
from hierarchical.modeling import build_model, library_config, predict_logits
from hierarchical.sets import read_set
from hierarchical.weights import parameter_digest

EXPORTED = "inference.get_pooled_embedding"


def build_encoder(config: Any) -> Any:
    """A network with random parameters: `model_inputs()` in, unit vectors float32 [n, config.num_labels] out."""
    import paddle

    config.num_labels = config.output_emb_size or config.hidden_size
    model = build_model(config)
    if not config.output_emb_size:
        family_of(model).replace_classifier(model, paddle.nn.Identity())
    model.forward = MethodType(unit_vectors, model)
    return model


def unit_vectors(model: Any, input_ids: Any, attention_mask: Any, **token_types: Any) -> Any:
    """Padded token ids int64 [n, T] -> vectors of length 1, float32 [n, config.num_labels]."""
    vectors = project(model, input_ids, attention_mask, **token_types)
    return vectors / vectors.norm(axis=-1, keepdim=True).clip(min=1e-12)


def project(model: Any, input_ids: Any, attention_mask: Any, **token_types: Any) -> Any:
    """The same before they are divided by their length: the encoder's outputs, averaged, through the linear layer.

    token_types: `token_type_ids`, zeros, for encoders with that input; left out, they are zeros all the same.
    """
    family = family_of(model)
    outputs = family.tokens(model, input_ids=input_ids, attention_mask=attention_mask, **token_types)
    real = attention_mask.unsqueeze(-1).astype(outputs.dtype)
    classifier = family.classifier(model)
    return classifier(model.dropout((outputs * real).sum(1) / real.sum(1)))


def own_digest(model: Any) -> str:
    """The digest of a network's parameters by which an index knows its encoder."""
    return parameter_digest(model.state_dict())


def path_text(label: str) -> str:
    """What the encoder reads for a label."""
    return label.replace(SEPARATOR, ",")


class Encoder:
    """A checkpoint of retrieval_based/train.py or an export of export_model.py there, as a function to vectors.

    tree, tokenizer, decision: as stored with the model; before the first text, `load()` loads the network.
    callers: threads that call an export at once. Raises InputError for a directory that is neither.
    """

    def __init__(
        self,
        directory: str | Path,
        max_seq_length: int | None = None,
        batch_size: int = 32,
        callers: int | None = None,
    ):
        self.directory, self.batch_size, self.callers = Path(directory), batch_size, callers or available_cores()

        def read(folder: Path) -> Checkpoint:
            self.onnx = onnx if (onnx := folder / f"{EXPORTED}.onnx").is_file() else None
            return Checkpoint.open(folder, max_seq_length, exported=bool(self.onnx), kind="retrieval")

        self.checkpoint = read_set(directory, read)
        self.tree, self.tokenizer = self.checkpoint.tree, self.checkpoint.tokenizer
        self.decision, config = self.checkpoint.decision, self.checkpoint.config
        self.id, self.inner_labels = config["encoder_id"], bool(config.get("inner_labels"))
        self.dimension: Any = config.get("output_emb_size") or config.get("hidden_size")
        if not isinstance(self.dimension, int) or self.dimension < 1:
            raise InputError(
                f"{self.directory / 'config.json'}: output_emb_size and hidden_size do not say how long a vector is. "
                "Copy the file again from where train.py wrote it."
            )

    @property
    def file(self) -> Path | None:
        """The file that holds the model."""
        return self.onnx or self.checkpoint.weights

    def load(self, device: str) -> None:
        """Load the network; an export runs on the CPU, without paddle.

        Raises InputError if it is not the one that config.json names: an index would take its vectors for the other's.
        """
        if self.onnx:
            self.model: Any = OnnxModel(self.onnx)
            self.require_own_id(self.onnx, self.model.metadata.get("encoder_id"))
            self.checkpoint.require_models([self.onnx], self.model.metadata)
            return
        set_device(device)
        self.model = build_encoder(library_config(self.checkpoint.config))
        self.checkpoint.load_weights(self.model)
        self.model.eval()
        self.require_own_id(self.file, own_digest(self.model))

    def require_own_id(self, path: Path | None, found: str | None) -> None:
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

    def encode(self, texts: Sequence[str], progress: Callable | None = None) -> np.ndarray:
        """float32 [N, dimension], rows of length 1, in the order of the texts."""
        return self.encode_ids(self.tokenizer.encode(texts), progress)

    def encode_ids(self, ids: list[list[int]], progress: Callable | None = None) -> np.ndarray:
        """The same for tokenised texts; `progress` gets the rows of each batch done."""
        return self.begin_ids(ids, progress).result()

    def begin(self, texts: Sequence[str]) -> Begun:
        """`encode`, begun: the texts are tokenised; an export with several callers is at work."""
        return self.begin_ids(self.tokenizer.encode(texts))

    def begin_ids(self, ids: list[list[int]], progress: Callable | None = None) -> Begun:
        """`encode_ids`, begun."""
        pad_id = self.tokenizer.pad_id
        if not self.onnx:
            return Begun(lambda: predict_logits(self.model, ids, pad_id, self.batch_size, progress))
        return begin_batches(self.model, ids, pad_id, self.dimension, self.batch_size, self.callers, progress)
