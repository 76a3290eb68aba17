"""What computes the outputs of an exported model: ONNX Runtime, OpenVINO, or Paddle Inference, without the checkpoint.

An engine is a function from padded token ids int64 [n, T] to outputs float32 [n, width], for batches.run_batches. Needs
numpy, and of onnxruntime, openvino and paddle the one whose engine is asked for.
"""

import json
import mmap
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, redirect_stdout
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from hierarchical.console import get_logger, quiet
from hierarchical.devices import computing_fault, gpus_are_hidden, has_nvidia_driver, not_there, prepare_runtime
from hierarchical.encoders import GRAPH_INPUTS, graph_feed
from hierarchical.errors import InputError
from hierarchical.files import require_file
from hierarchical.identity import RECORD

PRECISIONS = ("float32", "float16", "int8")
BACKENDS = ("onnx", "openvino", "paddle")
BACKENDS_TEXT = "ONNX Runtime; OpenVINO, for the float32 model on a CPU; or Paddle Inference"
AUTOMATIC = {"cpu": ("int8", "float32", "float16"), "gpu": ("float16", "float32", "int8")}  # where "auto" looks first
LOADING = threading.Lock()  # what keeps them quiet is for one thread at a time
MAX_F1_DROP = 0.3  # points that a precision may lose, where the record does not tell what it was held to


def model_path(prefix: str | Path, precision: str, suffix: str) -> Path:
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


def find_precision(prefix: str | Path, precision: str, device: str = "cpu") -> str:
    """The precision to load. "auto": int8 if it is there, unless export_model.py found it slower or worse.

    device: cpu or gpu; on a GPU it is float16 if that is there, unless it was found worse, since int8 is for CPUs
    """
    if precision != "auto":
        return precision
    there = [name for name in AUTOMATIC[device] if model_path(prefix, name, ".onnx").exists()]
    first = AUTOMATIC[device][0]
    if {first, "float32"} <= {*there} and not is_better(prefix, first):
        there.remove(first)
    return next(iter(there), "float32")


def is_better(prefix: str | Path, precision: str) -> bool:
    """Whether export_model.py found int8 or float16 to lose no more F1 than it may, and int8 to be faster than float32.

    It measures no time on GPUs. Without its measurements, as with a width of prune.py: yes. If models were compared on
    no labelled rows, nobody knows what int8 loses: no; float16 loses next to nothing: yes. Raises InputError for a
    damaged record.
    """
    small, float32 = (model_path(prefix, name, ".onnx") for name in (precision, "float32"))
    path = small.with_name(RECORD)
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        if "models" not in record and "files" in record:  # not compared, as with a width of prune.py
            return True
        first, rows = record["models"][0], {row["model"]: row for row in record["models"]}
        if small.name not in rows:
            return False
        row, other = rows[small.name], rows.get(float32.name, first)
        if "micro_f1" not in row:
            return precision == "float16"
        if precision == "int8" and row["milliseconds_per_text"] >= other["milliseconds_per_text"]:
            return False
        drop = max(first[key] - row[key] for key in ("micro_f1", "macro_f1"))
        return 100 * drop <= record.get("max_f1_drop", MAX_F1_DROP)
    except FileNotFoundError:
        return True
    except (ValueError, LookupError, TypeError, AttributeError):
        raise InputError(f"{path}: not the record that export_model.py writes. Export the model again.") from None


def exported_models(prefix: str | Path) -> list[Path]:
    """The model files that there are for a prefix, in every form and precision."""
    paths = [model_path(prefix, precision, ".onnx") for precision in PRECISIONS]
    paths += [model_path(prefix, "float32", suffix) for suffix in (".pdmodel", ".json")]
    return [path for path in paths if path.exists()]


def load_onnxruntime() -> Any:
    """The module onnxruntime, silent but for errors. Raises InputError, saying what to install, where it is missing."""
    try:
        # While it is loaded, it warns of what it did not find out about the machine's GPUs; before, nobody can stop it.
        with LOADING, quiet() if "onnxruntime" not in sys.modules else nullcontext():
            import onnxruntime
    except ImportError as error:
        raise InputError(
            f"the package onnxruntime, which runs exported models, is {not_there(error, 'onnxruntime')}. Run: pip "
            "install onnxruntime (on NVIDIA's GPUs: onnxruntime-gpu)"
        ) from None
    onnxruntime.set_default_logger_severity(3)  # errors
    onnxruntime.disable_telemetry_events()  # which its builds for Windows have
    return onnxruntime


def load_openvino() -> Any:
    """The module openvino, which says nothing to anybody. Raises InputError where it is missing."""
    try:
        with LOADING, quiet() if "openvino" not in sys.modules else nullcontext(), without_telemetry():
            import openvino
    except ImportError as error:
        raise InputError(
            f"the back end openvino needs the package openvino, which is {not_there(error, 'openvino')}: pip "
            "install -r requirements-openvino.txt"
        ) from None
    return openvino


@contextmanager
def without_telemetry() -> Iterator[None]:
    """What is imported does not find the package with which OpenVINO tells Google Analytics of every import."""
    name = "openvino_telemetry"
    found = {name: sys.modules[name]} if name in sys.modules else {}
    sys.modules[name] = None  # type: ignore[assignment]  # which is how Python is told that there is none
    try:
        yield
    finally:
        del sys.modules[name]
        sys.modules.update(found)


class OnnxModel:
    """A session of ONNX Runtime: int64 token ids [n, T], padded -> float32 logits [n, L]; may be called by threads.

    cuda_graphs: on a GPU, capture them; see CudaGraphModel
    singly: batches are nothing but slower, and with exports of older versions change the answers: give it single texts
    """

    def __init__(self, path: Path, device: str = "cpu", device_id: int = 0, cuda_graphs: bool = False):
        require_file(path, "Make it with export_model.py (--precision names those it writes).")
        onnxruntime = load_onnxruntime()
        self.place = f"gpu:{device_id}" if device == "gpu" else device
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # errors
        # Batches run side by side instead, which costs half as much: a session's own threads wait for each other.
        options.intra_op_num_threads = 1
        providers: list = ["CPUExecutionProvider"]
        if device == "gpu":
            settings = {"device_id": device_id} | ({"enable_cuda_graph": True} if cuda_graphs else {})
            providers = [("CUDAExecutionProvider", settings), *providers]
            with redirect_stdout(sys.stderr):  # it says what is missing where the predictions may go
                onnxruntime.preload_dlls()  # finds the CUDA libraries that pip installed
        try:
            # without its fallback, which would go on with another GPU
            self.session = onnxruntime.InferenceSession(str(path), options, providers=providers, enable_fallback=0)
            self.metadata = self.session.get_modelmeta().custom_metadata_map
            self.labels = json.loads(self.metadata.get("labels", "null"))
        except Exception as error:  # the library raises types of its own for damaged files
            if fault := computing_fault(error, self.place):
                raise fault from None
            reason = str(error).splitlines()[0]
            raise InputError(f"{path}: not a model that ONNX Runtime can read ({reason}). Export it again.") from None
        if device == "gpu" and "CUDAExecutionProvider" not in self.session.get_providers():
            raise InputError(
                "device gpu: ONNX Runtime found no CUDA and cuDNN of the versions it needs (its own message, above, "
                "names them). Install them, or choose the device cpu."
            )
        self.inputs = [tensor.name for tensor in self.session.get_inputs()]
        require_known_inputs(path, self.inputs)
        self.singly = contains(path, b"QuantizeLinear")

    def __call__(self, input_ids: np.ndarray) -> np.ndarray:
        feed = graph_feed(input_ids)
        try:
            return self.session.run(None, {name: feed[name] for name in self.inputs})[0]
        except Exception as error:  # as above
            raise computing_fault(error, self.place) or error from None


class OpenVinoModel:
    """The same on OpenVINO, on a CPU, from the float32 ONNX file; may be called by as many threads as it is told.

    bf16: multiply in bfloat16 (see `devices.has_bf16`); logits are then rounded to some 3 digits.
    """

    singly = False

    def __init__(self, path: Path, threads: int = 1, bf16: bool = False):
        require_file(path, "Make it with export_model.py.")
        openvino = load_openvino()
        if contains(path, b"QuantizeLinear"):
            raise InputError(f"{path}: an int8 model, which the back end openvino cannot read. Name the float32 one.")
        settings = {
            "INFERENCE_PRECISION_HINT": "bf16" if bf16 else "f32",  # else it chooses by the machine
            "NUM_STREAMS": threads,  # each caller has a core, as with ONNX Runtime
            "INFERENCE_NUM_THREADS": threads,
            "ENABLE_CPU_PINNING": False,  # several processes would all be pinned to the first cores
        }
        try:
            core = openvino.Core()
            model = core.read_model(path)
            self.metadata = dict(model.get_rt_info(["framework"]).value) if model.has_rt_info(["framework"]) else {}
            self.labels = json.loads(self.metadata.get("labels", "null"))
            self.compiled = core.compile_model(model, "CPU", settings)
        except Exception as error:  # the library raises RuntimeError for whatever is the matter
            if fault := computing_fault(error, "cpu"):
                raise fault from None
            reason = str(error).strip().splitlines()[-1].strip()
            raise InputError(f"{path}: not a model that OpenVINO can read ({reason}). Export it again.") from None
        self.inputs = [tensor.get_any_name() for tensor in self.compiled.inputs]
        require_known_inputs(path, self.inputs)
        # It looks NumPy up at a process's first array, and two threads that do so at once wait for each other for ever.
        _ = openvino.Tensor(np.zeros(1, np.int64)).data
        self.own = threading.local()  # a request is for one caller at a time

    def __call__(self, input_ids: np.ndarray) -> np.ndarray:
        if not hasattr(self.own, "request"):
            self.own.request = self.compiled.create_infer_request()
        feed = graph_feed(input_ids)
        try:
            outputs = self.own.request.infer({name: feed[name] for name in self.inputs})
            return np.array(outputs[0])  # its memory is written to again by the next call
        except Exception as error:  # as above
            raise computing_fault(error, "cpu") or error from None


class PaddleModel:
    """The same on Paddle Inference, whose kernels use `threads` cores for a batch; one caller at a time.

    bf16: on a CPU, multiply in bfloat16; the model's file stays the float32 one (see `devices.has_bf16`).
    """

    labels, metadata, singly = None, dict[str, str](), False  # the first two are not kept in these files

    def __init__(self, path: Path, device: str = "cpu", device_id: int = 0, threads: int = 1, bf16: bool = False):
        if not path.exists():
            path = path.with_suffix(".json")  # newer versions of paddle write this form
        require_file(path, "Make it with export_model.py --format paddle.")
        require_file(path.with_suffix(".pdiparams"), "It belongs to the model beside it; export both again.")
        self.place = f"gpu:{device_id}" if device == "gpu" else device
        prepare_runtime()
        try:
            from paddle import inference
        except ImportError as error:
            raise InputError(
                f"the back end paddle needs the package paddle, which is {not_there(error, 'paddle')}: see "
                "requirements.txt."
            ) from None

        self.path = path
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
            if fault := computing_fault(error, self.place):
                raise fault from None
            reason = str(error).strip().splitlines()[-1].strip()
            raise InputError(
                f"{path}: not a model that Paddle Inference can read ({reason}). Export it again."
            ) from None
        self.inputs = self.predictor.get_input_names()
        require_known_inputs(path, self.inputs)

    def __call__(self, input_ids: np.ndarray) -> np.ndarray:
        feed = graph_feed(input_ids)
        for name in self.inputs:
            self.predictor.get_input_handle(name).copy_from_cpu(feed[name])
        try:
            self.predictor.run()
            return self.predictor.get_output_handle(self.predictor.get_output_names()[0]).copy_to_cpu()
        except Exception as error:  # as above
            raise computing_fault(error, self.place) or error from None


def contains(path: Path, content: bytes) -> bool:
    """Whether a file contains these bytes; of an ONNX file, whether a kind of node does (a session tells of none)."""
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as pages:
        return pages.find(content) >= 0


def require_known_inputs(path: Path, inputs: list[str]) -> None:
    """Raise InputError for a graph that asks for something no export of this project asks for."""
    if foreign := set(inputs) - GRAPH_INPUTS:
        names = ", ".join(sorted(foreign))
        raise InputError(f"{path}: not a model of export_model.py, since it reads {names}. Export it again.")


def require_program(path: Path) -> None:
    """Raise InputError for a damaged program, with which Paddle Inference would end in a segmentation fault."""
    from paddle.base.proto.framework_pb2 import ProgramDesc

    try:
        json.loads(path.read_bytes()) if path.suffix == ".json" else ProgramDesc.FromString(path.read_bytes())
    except Exception as error:  # protobuf's own, or ValueError
        raise InputError(f"{path}: not a model that Paddle Inference can read ({error}). Export it again.") from None


def find_gpu(device: str, logger: Any = None, backend: str = "onnx") -> str:
    """The device asked for, if it is the CPU or a GPU that the back end can use, else "cpu".

    Then with a warning that says what is missing.
    """
    if device == "cpu":
        return device
    if not has_nvidia_driver():
        hint = "this machine has no NVIDIA GPU"
    elif gpus_are_hidden():
        hint = "CUDA_VISIBLE_DEVICES hides every GPU"
    elif backend == "paddle":
        prepare_runtime()
        try:
            import paddle

            if paddle.is_compiled_with_cuda():
                return device
        except ImportError:
            return "cpu"  # where the back end says that it is missing
        hint = "this paddle is built for CPUs: install requirements-gpu.txt"
    elif backend == "openvino":
        hint = "the back end openvino is for CPUs"
    else:
        if "CUDAExecutionProvider" in load_onnxruntime().get_available_providers():
            return device
        hint = missing_provider()
    (logger or get_logger()).warning(f"device {device}: predicting on the CPU ({hint})")
    return "cpu"


def missing_provider() -> str:
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
