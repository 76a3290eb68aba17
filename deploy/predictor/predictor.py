"""An exported model, applied without the framework that trained it.

    predictor = Predictor("export/float32")
    logits = predictor.logits(predictor.tokenizer.encode(["某公司宣布裁员"]))

Reads   <prefix>.onnx, or <prefix>.{pdmodel or json, pdiparams} with the back end paddle
        beside it label.txt, decision.json, config.json and the tokenizer's files, as export_model.py leaves them
Needs onnxruntime and numpy (ERNIE-M: sentencepiece too); paddle only for the back end of that name. Writes nothing.
"""

import json
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import redirect_stdout
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from checkpoints import open_checkpoint
from runtime import available_cores, has_nvidia_driver, prepare_runtime
from utils import InputError, get_logger, length_sorted_batches, pad, quiet, require_file

PRECISIONS = ("float32", "float16", "int8")
BACKENDS = ("onnx", "paddle")
INPUTS = {"input_ids", "token_type_ids"}


def model_path(prefix, precision, suffix):
    """The file of one precision: export/float32 gives export/int8.onnx, other names an ending (model_int8.onnx).

    prefix: path without extension; one of a model file is cut off, and a directory stands for the float32 in it.
    """
    prefix = Path(prefix)
    if prefix.is_dir():
        prefix = prefix / "float32"
    if prefix.suffix in (".onnx", ".pdmodel", ".json", ".pdiparams"):
        prefix = prefix.with_suffix("")
    if precision != "float32":
        prefix = prefix.with_name(precision if prefix.name == "float32" else f"{prefix.name}_{precision}")
    return prefix.with_name(prefix.name + suffix)


class OnnxModel:
    """A session of ONNX Runtime: int64 token ids [n, T], padded -> float32 logits [n, L]; may be called by threads."""

    def __init__(self, path, device="cpu", device_id=0):
        require_file(path, "Make it with export_model.py (--precision names those it writes).")
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # errors
        # Batches run side by side instead, which costs half as much: a session's own threads wait for each other.
        options.intra_op_num_threads = 1
        providers, hint = ["CPUExecutionProvider"], "Export it again."
        if device == "gpu":
            providers = [("CUDAExecutionProvider", {"device_id": device_id}), *providers]
            hint = f"Export it again, or check --device_id {device_id} and the memory of this GPU."
            with redirect_stdout(sys.stderr):  # it says what is missing where the predictions may go
                onnxruntime.preload_dlls()  # finds the CUDA libraries that pip installed
        try:
            # without its fallback, which would go on with another GPU
            self.session = onnxruntime.InferenceSession(str(path), options, providers=providers, enable_fallback=0)
            self.metadata = self.session.get_modelmeta().custom_metadata_map
            self.labels = json.loads(self.metadata.get("labels", "null"))
        except Exception as error:  # the library raises types of its own for damaged files
            reason = str(error).splitlines()[0]
            raise InputError(f"{path}: not a model that ONNX Runtime can read ({reason}). {hint}") from None
        if device == "gpu" and "CUDAExecutionProvider" not in self.session.get_providers():
            raise InputError(
                "--device gpu: ONNX Runtime found no CUDA and cuDNN of the versions it needs (its own message, above, "
                "names them). Install them, or pass --device cpu."
            )
        self.inputs = [tensor.name for tensor in self.session.get_inputs()]

    def __call__(self, input_ids):
        feed = {"input_ids": input_ids, "token_type_ids": np.zeros_like(input_ids)}
        return self.session.run(None, {name: feed[name] for name in self.inputs})[0]


class PaddleModel:
    """The same on Paddle Inference, whose kernels use `threads` cores for a batch; one caller at a time.

    bf16: on a CPU, multiply in bfloat16; the model's file stays the float32 one (see `has_bf16`).
    """

    labels = None  # not kept in these files

    def __init__(self, path, device="cpu", device_id=0, threads=1, bf16=False):
        if not path.exists():
            path = path.with_suffix(".json")  # newer versions of paddle write this form
        require_file(path, "Make it with export_model.py --format paddle.")
        require_file(path.with_suffix(".pdiparams"), "It belongs to the model beside it; export both again.")
        prepare_runtime(device)
        from paddle import inference

        require_program(path)
        config = inference.Config(str(path), str(path.with_suffix(".pdiparams")))
        config.disable_glog_info()
        if device == "gpu":
            config.enable_use_gpu(256, device_id)
        else:
            config.enable_mkldnn()
            config.set_cpu_math_library_num_threads(threads)
            if bf16:
                config.enable_mkldnn_bfloat16()
        try:
            with quiet():
                self.predictor = inference.create_predictor(config)
        except Exception as error:  # as above
            reason = str(error).strip().splitlines()[-1].strip()
            raise InputError(
                f"{path}: not a model that Paddle Inference can read ({reason}). Export it again."
            ) from None
        self.inputs = self.predictor.get_input_names()

    def __call__(self, input_ids):
        feed = {"input_ids": input_ids, "token_type_ids": np.zeros_like(input_ids)}
        for name in self.inputs:
            self.predictor.get_input_handle(name).copy_from_cpu(feed[name])
        self.predictor.run()
        return self.predictor.get_output_handle(self.predictor.get_output_names()[0]).copy_to_cpu()


def require_program(path):
    """Raise InputError for a damaged program, with which Paddle Inference would end in a segmentation fault."""
    from paddle.base.proto.framework_pb2 import ProgramDesc

    try:
        json.loads(path.read_bytes()) if path.suffix == ".json" else ProgramDesc.FromString(path.read_bytes())
    except Exception as error:  # protobuf's own, or ValueError
        raise InputError(f"{path}: not a model that Paddle Inference can read ({error}). Export it again.") from None


def reads_template(directory):
    """Whether a model directory is one of few-shot/train.py --method prompt; if that cannot be read, yes."""
    path = Path(directory) / "template_config.json"
    try:
        return path.exists() and json.loads(path.read_text(encoding="utf-8"))["method"] != "similarity"
    except (ValueError, KeyError, TypeError, RecursionError):
        return True  # few-shot/infer.py then tells what is wrong with it


class Predictor:
    """An exported model and what belongs to it: `tree` (LabelTree), `tokenizer`, `decision` (Decision).

    precision: one of PRECISIONS, a file each; with the back end paddle "float32" or "bfloat16", both from one file
    template: the caller puts the texts into the template of few-shot/train.py --method prompt
    Raises InputError for whatever is missing, damaged, or does not fit together.
    """

    def __init__(
        self, prefix, precision="float32", backend="onnx", device="cpu", device_id=0, threads=None,
        max_seq_length=None, batch_size=32, template=False,
    ):  # fmt: skip
        if backend == "onnx":
            self.path = model_path(prefix, precision, ".onnx")
        else:
            self.path = model_path(prefix, "float32", ".pdmodel")
        self.batch_size = batch_size
        cores = threads or available_cores()
        self.callers = cores if backend == "onnx" and device == "cpu" else 1  # batches that run side by side
        if backend == "onnx":
            self.model = OnnxModel(self.path, device, device_id)
        else:
            self.model = PaddleModel(self.path, device, device_id, cores, precision == "bfloat16")
        if foreign := set(self.model.inputs) - INPUTS:
            names = ", ".join(sorted(foreign))
            raise InputError(f"{self.path}: not a model of export_model.py, since it reads {names}. Export it again.")
        if not template and reads_template(self.path.parent):
            raise InputError(f"{self.path}: reads its texts in a template. Use few-shot/infer.py, which knows it.")
        self.tree, self.tokenizer, self.decision = open_checkpoint(self.path.parent, max_seq_length, exported=True)
        if self.model.labels not in (None, self.tree.labels):
            raise InputError(f"{self.path}: its labels are not those of label.txt beside it. Export the model again.")

    def logits(self, ids, progress=None):
        """float32 logits [N, L] of tokenised texts, in the order given; `progress` gets the rows of each batch done."""

        def compute(input_ids):
            result = self.model(input_ids)
            if result.shape[1] != len(self.tree):
                raise InputError(f"{self.path}: {result.shape[1]} outputs, but label.txt has {len(self.tree)} labels.")
            return result

        pad_id, width = self.tokenizer.pad_id, len(self.tree)
        return run_batches(compute, ids, pad_id, width, self.batch_size, self.callers, progress)


def run_batches(compute, ids, pad_id, width, batch_size, callers, progress=None):
    """What `compute` gives for tokenised texts, float32 [N, width], in the order given.

    compute: int64 token ids [n, T], padded -> float32 [n, width]; `callers` threads call it, each with batches of its
    own. progress: called with the rows of each batch done. Raises InputError for numbers that are not finite.
    """
    outputs = np.zeros((len(ids), width), np.float32)

    def run(batch):
        outputs[batch] = compute(pad([ids[i] for i in batch], pad_id))
        if not np.isfinite(outputs[batch]).all():
            raise InputError(
                "the model's outputs are not finite: its training diverged (use a lower learning rate), or float16 "
                "is too narrow for it (export it as float32)"
            )
        return len(batch)

    with ThreadPoolExecutor(callers) as pool:
        for done in pool.map(run, length_sorted_batches([len(row) for row in ids], batch_size)):
            if progress:
                progress(done)
    return outputs


def has_bf16(cpuinfo="/proc/cpuinfo"):
    """Whether this processor multiplies in bfloat16 (AVX512-BF16 or AMX); others would only imitate it, slowly."""
    try:
        flags = Path(cpuinfo).read_text().split()
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags


def find_gpu(device, logger=None, backend="onnx"):
    """ "gpu" if it was asked for and the back end can use one, else "cpu", with a warning that says what is missing."""
    if device == "cpu":
        return device
    if not has_nvidia_driver():
        hint = "this machine has no NVIDIA GPU"
    elif backend == "paddle":
        prepare_runtime(device)
        import paddle

        if paddle.is_compiled_with_cuda():
            return device
        hint = "this paddle is built for CPUs: install requirements-gpu.txt"
    else:
        import onnxruntime

        if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
            return device
        hint = missing_provider()
    (logger or get_logger()).warning(f"--device gpu: predicting on the CPU ({hint})")
    return "cpu"


def missing_provider():
    """Why ONNX Runtime knows no CUDA, and what to install."""
    found = []
    for package in ("onnxruntime", "onnxruntime-gpu"):
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            pass  # what is not installed is not listed
    if len(found) == 2:
        return f"{' and '.join(found)} hide each other: uninstall both, then install onnxruntime-gpu alone"
    return "onnxruntime-gpu is not installed in place of onnxruntime"
