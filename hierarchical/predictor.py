"""Labels for texts, from an exported model or a checkpoint: the door for other people's programs and for the scripts.

    predictor = Predictor("export")
    for result in predictor.predict(["某公司宣布裁员"], decoding="closure"):
        print(result.labels, result.probabilities, result.levels)

Reads   a folder of export_model.py, or a model in one: <prefix>.onnx, or <prefix>.{pdmodel or json, pdiparams} with the
        back end paddle; beside it label.txt, decision.json, config.json and the tokenizer's files
        or a checkpoint of train.py, or a width_mult_* folder of prune.py
        or a linear model of analysis/baseline.py
Writes nothing. An export needs numpy, and onnxruntime or openvino (ERNIE-M: sentencepiece too), a checkpoint what
train.py needs, a linear model numpy.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hierarchical.batches import Begun, begin_batches
from hierarchical.checkpoints import Checkpoint, is_linear, kind_in, require_model_kind
from hierarchical.console import get_logger
from hierarchical.cpu_layers import speed_up
from hierarchical.cuda_graphs import CudaGraphModel
from hierarchical.decisions import probabilities_of, thresholds_of
from hierarchical.devices import available_cores, computing_fault, engine_gpu, has_bf16, parse_device, set_device
from hierarchical.engines import (
    BACKENDS,
    PRECISIONS,
    OnnxModel,
    OpenVinoModel,
    PaddleModel,
    exported_models,
    find_precision,
    model_path,
)
from hierarchical.errors import InputError
from hierarchical.files import require_file
from hierarchical.fusing import FUSED
from hierarchical.labelled import FLOOR, Prediction, predictions
from hierarchical.linear import LINEAR, LinearModel, with_linear
from hierarchical.modeling import MANY_ROWS, classifying, tensors
from hierarchical.sets import in_force, read_set
from hierarchical.weights import find_weights

if TYPE_CHECKING:
    from hierarchical.unseen import WithUnseen

GPU_CALLERS = 4  # batches side by side: on an H100 1.4 times as fast as one at 128 tokens, more with shorter texts
# Texts of a step; on an H100 with four callers 256 took 0.81 of the time of 32 at 128 tokens, and 0.44 with shorter
# texts. Of longer ones there are fewer, since memory grows with them.
BATCH, GPU_BATCH, GPU_TOKENS = 32, 256, 256 * 128
NO_BF16 = "bfloat16: only on a CPU with AVX512-BF16 or AMX; using float32"
# What the precision may be, by what computes.
CHOICES: dict[str, tuple[str, ...]] = {
    "onnx": (*PRECISIONS, "auto"),
    "openvino": ("float32", "bfloat16", "auto"),
    "paddle": ("float32", "bfloat16", "auto"),
    "checkpoint": ("float32", "bfloat16", "auto"),
    "linear": ("float32", "auto"),
}


class Predictor:
    """A model and what belongs to it.

    path            folder of export_model.py, a model file in it (its ending may be left out), a checkpoint, or a
                    linear model
    precision       of an export: float32, float16, int8, a file each; auto: int8 if it is there, unless export.json
                    says that it is slower or worse; on a GPU float16 likewise. With the back ends openvino and
                    paddle float32 or bfloat16, both from one file; auto: bfloat16 with openvino on a CPU that has it.
                    Of a checkpoint float32, or bfloat16 on a CPU that has it
    backend         of an export: onnx, openvino or paddle
    device          cpu, gpu (or cuda), or one by its number as in gpu:1; for a checkpoint also xpu or npu
    device_id       number of the GPU, for an export; not needed beside gpu:1
    num_threads     CPU threads, for an export; None: all cores
    max_seq_length  tokens of a text that are read; None: as in training
    long_text       and what of longer ones: cut, head_tail or windows; None: as stored
    window_stride, max_windows   of windows: tokens from one to the next, and how many of a text; None: as stored
    batch_size      texts of a step, at most; an int8 model takes one after the other. None: see usual_batch_size
    cuda_graphs     of a float16 export on a GPU: run batches as CUDA graphs; needs more memory
    kind            "export" or "checkpoint", where only one of them is welcome; None: either, found out by looking. A
                    linear model, which is both, is always welcome: `require_network` refuses it
    template        the caller puts the texts into the template of few-shot/train.py --method prompt

    tree, labels    the LabelTree, and its full paths in class-index order
    tokenizer, decision    the Tokenizer and the stored Decision
    file            the file that holds the model
    linear          the linear branch beside its network, or None
    cores           CPU threads that it may use
    bf16            whether it multiplies in bfloat16, unless a GPU does

    Raises InputError, a ValueError, for settings that cannot be and for whatever is missing, damaged, or does not fit
    together. A checkpoint's network is loaded by the first texts, or by `load()`. Nothing needs to be closed. An export
    may be called by several threads, but for the back end paddle; anything else by one at a time.
    """

    def __init__(
        self,
        path: str | Path,
        precision: str = "float32",
        backend: str = "onnx",
        device: str = "cpu",
        device_id: int = 0,
        num_threads: int | None = None,
        max_seq_length: int | None = None,
        batch_size: int | None = None,
        cuda_graphs: bool = False,
        kind: str | None = None,
        template: bool = False,
        long_text: str | None = None,
        window_stride: int | None = None,
        max_windows: int | None = None,
    ):
        require_least("device_id", device_id, 0)
        require_least("batch_size", batch_size, 1, optional=True)
        require_least("num_threads", num_threads, 1, optional=True)
        require_least("max_seq_length", max_seq_length, 3, optional=True)
        require_choice("kind", kind, (None, "export", "checkpoint"))
        require_choice("backend", backend, BACKENDS)
        require_kind(path, kind)
        computes = "checkpoint" if kind == "checkpoint" or is_checkpoint(path) else backend
        if Path(path).is_dir() and is_linear(path):
            computes = "linear"
        require_choice("precision", precision, CHOICES[computes], f" ({computes})")
        if computes in ("checkpoint", "linear"):
            device = parse_device(device)
        else:
            device, device_id = engine_gpu(device, device_id)
        self.bf16 = precision == "bfloat16" or (computes == "openvino" and precision == "auto" and has_bf16())
        if computes == "checkpoint" and self.bf16 and not has_bf16():
            get_logger().warning(NO_BF16)
            self.bf16 = False
        self.callers = 1
        self.cores = cores = num_threads or available_cores()
        if computes == "openvino" and device != "cpu":
            raise InputError(f"device {device}: the back end openvino is for CPUs. Leave the device out.")
        if cuda_graphs and (computes != "onnx" or device == "cpu"):
            raise InputError("cuda_graphs: they are for a float16 export on a GPU. Leave them out.")
        if computes in ("onnx", "openvino"):
            self.callers = cores if device == "cpu" else GPU_CALLERS
        self.engine: Any
        asked: dict[str, Any] = {"long_text": long_text, "window_stride": window_stride, "max_windows": max_windows}

        def read(place: Path) -> Checkpoint:
            if computes == "linear":
                opened = Checkpoint.open(path, max_seq_length, kind="linear", **asked)
                assert opened.linear
                self.file, self.engine = place / LINEAR, LinearModel(opened.linear)
                return opened
            if computes == "checkpoint":
                opened = Checkpoint.open(path, max_seq_length, **asked)
                self.file = opened.weights or Path(path)
                self.engine = CheckpointModel(opened, device, self.bf16)
                return opened
            if computes == "onnx":
                self.file = model_path(place, find_precision(place, precision, device), ".onnx")
            elif computes == "openvino":
                self.file = model_path(place, "float32", ".onnx")
            else:
                self.file = model_path(place, "float32", ".pdmodel")
                if not self.file.exists():
                    self.file = self.file.with_suffix(".json")  # newer versions of paddle write this form
            expected = "few-shot" if template else "classifier"
            if self.file.exists() or (self.file.parent / "config.json").exists():  # else the engine tells what is not
                opened = Checkpoint.open(self.file.parent, max_seq_length, exported=True, kind=expected, **asked)
            if cuda_graphs:
                require_file(self.file, "Make it with export_model.py --precision float16.")
                tokenizer, files = opened.tokenizer, [self.file]
                self.engine = CudaGraphModel(
                    self.file, device, device_id, self.callers, tokenizer.max_seq_length, tokenizer.pad_id
                )
                if FUSED not in self.engine.metadata:  # other graphs copy from the host, which cannot be replayed
                    why = "its attention is not one node. Export it with --precision float16"
                    raise InputError(f"{self.file}: cannot run as CUDA graphs, since {why}, or leave cuda_graphs out.")
            elif computes == "onnx":
                self.engine, files = OnnxModel(self.file, device, device_id), [self.file]
            elif computes == "openvino":
                self.engine, files = OpenVinoModel(self.file, cores, self.bf16), [self.file]
            else:
                self.engine = PaddleModel(self.file, device, device_id, cores, self.bf16)
                files = [self.file, self.file.with_suffix(".pdiparams")]
            if not template and reads_template(self.file.parent):
                raise InputError(f"{self.file}: reads its texts in a template. Use few-shot/infer.py, which knows it.")
            opened.require_models(files, self.engine.metadata)
            return opened

        opened = read_set(path, read)
        self.tree, self.tokenizer, self.decision = opened.tree, opened.tokenizer, opened.decision
        self.config, self.digests, self.mark = opened.config, opened.digests, opened.mark
        self.linear = None if computes == "linear" else opened.linear
        on_gpu = computes == "onnx" and device != "cpu"
        self.singly = self.engine.singly
        self.batch_size = batch_size or usual_batch_size(on_gpu, self.tokenizer.max_seq_length)
        if self.engine.labels not in (None, self.tree.labels):
            raise InputError(f"{self.file}: its labels are not those of label.txt beside it. Export the model again.")

    @property
    def labels(self) -> list[str]:
        return self.tree.labels

    @property
    def settings(self) -> dict:
        """What a file's rows depend on, besides the model's file: for predictions.predict_file."""
        return {"use_bf16": self.bf16 or None}

    def require_network(self) -> None:
        """Raise InputError for a linear model, where only one with an encoder is of use."""
        require_model_kind(self.file.parent, self.config, self.tree, "classifier", exported=True)

    def load(self) -> None:
        """Load a checkpoint's network now, not with the first texts."""
        if isinstance(self.engine, CheckpointModel):
            self.engine.load()

    def with_unseen(self, labels: str | Path, encoder: str | Path, device: str = "cpu") -> "WithUnseen":
        """This and new labels, known by their words alone: with `predict`, `tree` and `labels` as here, see unseen.py.

        labels: a file of them; encoder: folder of retrieval_based/export_model.py (or train.py, which needs paddle and
        takes the device), with what retrieval_based/fit_unseen.py wrote. Raises InputError as this class does.
        """
        from hierarchical.unseen import WithUnseen

        return WithUnseen.read(self, labels, encoder, device)

    def predict(
        self,
        texts: Sequence[str],
        *,
        threshold: float | list[float] | None = None,
        decoding: str | None = None,
        min_labels: int | None = None,
        max_labels: int | None = None,
        top_k: int | None = None,
        per_level: int | None = None,
        stop: str | None = None,
        floor: float = FLOOR,
        certainty: float | None = None,
    ) -> list[Prediction]:
        """One Prediction for each text, in their order; a blank text has no labels.

        The decision settings replace the stored ones (see decisions.Decision); floor: tell the probabilities of labels
        above this; certainty: tell how certain the labels of each text are, and whether it is this much. Raises
        ValueError for settings that cannot be, TypeError for what is no text.
        """
        decision = self.decision.updated(
            threshold=threshold, decoding=decoding, min_labels=min_labels, max_labels=max_labels, top_k=top_k,
            per_level=per_level, stop=stop,
        )  # fmt: skip
        thresholds_of(decision, self.tree)
        return predictions(self, texts, decision, floor, certainty)

    def probabilities(self, texts: Sequence[str]) -> np.ndarray:
        """float32 [N, L] of texts, in the order given; calibrated, where the model is."""
        return self.begin(texts).result()

    def begin(self, texts: Sequence[str]) -> Begun:
        """`probabilities`, begun: the texts are tokenised; of an export with several callers the model is at work."""
        logits = self.begin_text_logits(texts)
        return Begun(lambda: probabilities_of(logits.result(), self.tree, self.decision), logits.cancel)

    def text_logits(self, texts: Sequence[str], progress: Callable | None = None) -> np.ndarray:
        """float32 logits [N, L] of texts, in the order given; `progress` gets the rows of each batch done."""
        return self.begin_text_logits(texts, progress).result()

    def begin_text_logits(self, texts: Sequence[str], progress: Callable | None = None) -> Begun:
        """`text_logits`, begun."""
        batches = self.begin_logits(self.tokenizer.encode(list(texts)), progress)
        return Begun(lambda: with_linear(batches.result(), self.linear, texts), batches.cancel)

    def logits(self, ids: list[list[int]], progress: Callable | None = None) -> np.ndarray:
        """What the network alone gives for tokenised texts, float32 [N, L], in the order given."""
        return self.begin_logits(ids, progress).result()

    def begin_logits(self, ids: list[list[int]], progress: Callable | None = None) -> Begun:
        """`logits`, begun."""
        pad_id, width, windows = self.tokenizer.pad_id, len(self.tree), self.tokenizer.windows
        size = 1 if self.singly else self.batch_size
        return begin_batches(self.compute, ids, pad_id, width, size, self.callers, progress, windows)

    def compute(self, input_ids: np.ndarray) -> np.ndarray:
        """One call of the model: padded token ids int64 [n, T] -> logits float32 [n, L]."""
        logits = self.engine(input_ids)
        if logits.shape[1] != len(self.tree):
            raise InputError(f"{self.file}: {logits.shape[1]} outputs, but label.txt has {len(self.tree)} labels.")
        return logits


class CheckpointModel:
    """A checkpoint as an engine, like those of engines.py; the network is loaded by the first call.

    bf16: on a CPU that has it, multiply in bfloat16
    """

    labels, singly = None, False  # labels are the checkpoint's own

    def __init__(self, checkpoint: Checkpoint, device: str, bf16: bool = False):
        self.checkpoint, self.device, self.bf16 = checkpoint, device, bf16
        self.model: Any = None
        self.texts = 0  # that it has been given

    def load(self) -> None:
        if self.model is None:
            self.paddle = set_device(self.device)
            self.model = self.checkpoint.load_model()
            if self.bf16 and self.paddle.get_device() == "cpu":
                speed_up(self.model, bfloat16=True, in_evaluation=True)
            elif self.bf16:
                get_logger().warning(NO_BF16)

    def __call__(self, input_ids: np.ndarray) -> np.ndarray:
        self.load()
        before, self.texts = self.texts, self.texts + len(input_ids)
        if before < MANY_ROWS <= self.texts:
            speed_up(self.model)
        try:
            with self.paddle.no_grad(), classifying(self.model):
                return self.model(**tensors(input_ids, self.checkpoint.tokenizer.pad_id)).numpy()
        except Exception as error:  # the library's own for a GPU without memory
            raise computing_fault(error, self.device) or error from None


def usual_batch_size(on_gpu: bool, max_seq_length: int) -> int:
    """Texts of a step where nobody asks for a number: BATCH; on a GPU, with ONNX Runtime, GPU_BATCH or GPU_TOKENS."""
    return max(BATCH, min(GPU_BATCH, GPU_TOKENS // max_seq_length)) if on_gpu else BATCH


def require_least(name: str, value: int | None, lowest: int, optional: bool = False) -> None:
    """Raise InputError unless a setting is a whole number, `lowest` or more; with `optional` None will do."""
    if value is None and optional:
        return
    if not isinstance(value, int) or isinstance(value, bool) or value < lowest:
        raise InputError(f"{name} must be a whole number, {lowest} or more; got {value!r}")


def require_choice(name: str, value: str | None, known: Sequence[str | None], where: str = "") -> None:
    """Raise InputError unless a setting has one of the known values; `where`: what they belong to."""
    if value not in known:
        raise InputError(f"{name} must be one of {', '.join(map(str, known))}{where}; got {value!r}")


def is_checkpoint(path: str | Path) -> bool:
    """Whether this is a folder with weights, of train.py or prune.py, into which nothing was exported as float32."""
    return Path(path).is_dir() and find_weights(path) is not None and not exported_models(in_force(path) / "float32")


def require_kind(path: str | Path, kind: str | None) -> None:
    """Raise InputError for a path at which there is nothing, something else, or two models to choose from."""
    if kind is None and not Path(path).is_dir() and not exported_models(in_force(path)):
        raise InputError(f"{path}: neither a folder nor a model file. Pass an export, a model in it, or a checkpoint.")
    if kind is None and Path(path).is_dir() and find_weights(path) and exported_models(in_force(path) / "float32"):
        raise InputError(
            f"{path}: holds a checkpoint and an export, which may be of different trainings. Say which you mean: "
            'kind="checkpoint" or kind="export".'
        )
    if kind == "export" and is_checkpoint(path):
        how = {
            "classifier": "export_model.py; in a folder of prune.py it is called pruned_model",
            "few-shot": "few-shot/train.py --do_export",
            "retrieval": "retrieval_based/export_model.py, for the scripts of retrieval_based/",
        }[kind_in(path)]
        raise InputError(f"{path}: a checkpoint, where an exported model is needed. Make one with {how}.")


def reads_template(directory: str | Path) -> bool:
    """Whether a model directory is one of few-shot/train.py --method prompt; if that cannot be read, yes."""
    path = Path(directory) / "template_config.json"
    try:
        return path.exists() and json.loads(path.read_text(encoding="utf-8"))["method"] != "similarity"
    except (ValueError, KeyError, TypeError, RecursionError):
        return True  # few-shot/infer.py then tells what is wrong with it
