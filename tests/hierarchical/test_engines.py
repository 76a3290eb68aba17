"""hierarchical/engines.py: which file is loaded, on which device, and what is said where one cannot be had."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from hierarchical import engines
from hierarchical.devices import has_bf16
from hierarchical.engines import find_gpu, find_precision, model_path
from hierarchical.errors import InputError
from hierarchical.predictor import Predictor

from tests.conftest import ROOT  # isort: skip


@pytest.fixture
def export(tiny_export, tmp_path):
    """A copy of the exported model that a test may damage."""
    shutil.copytree(tiny_export, tmp_path / "export")
    return tmp_path / "export"


@pytest.mark.parametrize(
    ("prefix", "precision", "expected"),
    [
        ("export/float32", "float32", "export/float32.onnx"),
        ("export/float32", "int8", "export/int8.onnx"),
        ("export/float32.onnx", "float16", "export/float16.onnx"),
        ("export/int8", "float32", "export/int8.onnx"),
        ("prune/width_mult_0.75/pruned_model", "float32", "prune/width_mult_0.75/pruned_model.onnx"),
        ("prune/width_mult_0.75/pruned_model", "int8", "prune/width_mult_0.75/pruned_model_int8.onnx"),
        ("model.v2", "float32", "model.v2.onnx"),
        ("float32", "float32", "float32.onnx"),
    ],
)
def test_model_path(prefix, precision, expected):
    assert model_path(prefix, precision, ".onnx") == Path(expected)


def test_a_directory_stands_for_its_float32(tiny_export):
    assert model_path(tiny_export, "int8", ".onnx") == tiny_export / "int8.onnx"


def test_precision(tiny_export, export):
    assert find_precision(tiny_export, "auto") == "int8" and find_precision(tiny_export, "float16") == "float16"
    (export / "int8.onnx").unlink()
    assert find_precision(export, "auto") == "float32"
    for path in export.glob("*.onnx"):
        path.unlink()
    assert find_precision(export, "auto") == "float32"  # which is then missed


def test_what_is_best_on_a_gpu(export):
    """int8 is for CPUs."""
    there = [path.stem for path in sorted(export.glob("*.onnx"))]
    assert there == ["float16", "float32", "int8"]
    for best in ("float16", "float32", "int8"):
        assert find_precision(export, "auto", "gpu") == best
        (export / f"{best}.onnx").unlink()


def record(*, slower=0.0, drop=0.0, scores=True, models=("checkpoint", "float32.onnx", "int8.onnx"), **more):
    """export.json where int8 is so many milliseconds slower than float32 and so many points of macro-F1 worse."""
    rows = [
        {"model": name, "milliseconds_per_text": 2.0 + slower * (name == "int8.onnx")}
        | ({"micro_f1": 0.95, "macro_f1": 0.9 - drop / 100 * (name == "int8.onnx")} if scores else {})
        for name in models
    ]
    return {"version": "0.9.0", "rows": 9, "models": rows} | more


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (record(slower=-1), "int8"),
        (record(slower=-1, drop=-2), "int8"),
        (record(slower=-1, drop=0.29), "int8"),
        (record(slower=-1, drop=0.31), "float32"),  # 0.3 is the default of --max_f1_drop
        (record(slower=-1, drop=0.31, max_f1_drop=0.4), "int8"),
        (record(slower=-1, drop=0.11, max_f1_drop=0.1), "float32"),
        (record(slower=0), "float32"),
        (record(slower=1), "float32"),
        (record(slower=-1, scores=False), "float32"),  # nobody knows what it lost
        (record(slower=-1, models=("checkpoint", "float32.onnx")), "float32"),  # an int8 of some other export
        (record(slower=-1, models=("checkpoint", "int8.onnx")), "int8"),
    ],
)
def test_int8_must_have_been_found_faster_and_harmless(export, content, expected):
    (export / "export.json").write_text(json.dumps(content), encoding="utf-8")
    assert find_precision(export, "auto") == find_precision(export / "float32", "auto") == expected
    assert Predictor(export, "auto").file == export / f"{expected}.onnx"
    assert find_precision(export, "int8") == "int8"
    (export / "float32.onnx").unlink()
    assert find_precision(export, "auto") == "int8"  # there is nothing else


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (record(slower=9, drop=0.29), "float16"),  # measured on a CPU, where it is slow
        (record(drop=0.31), "float32"),
        (record(scores=False), "float16"),
        (record(models=("checkpoint", "float32.onnx")), "float32"),
    ],
)
def test_float16_must_not_have_been_found_harmful(export, content, expected):
    content = json.dumps(content).replace("int8", "float16")
    (export / "export.json").write_text(content, encoding="utf-8")
    assert find_precision(export, "auto", "gpu") == expected
    (export / "float32.onnx").unlink()
    assert find_precision(export, "auto", "gpu") == "float16"


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"models": []}', '{"models": [1]}', '{"models": [{}]}'])
def test_a_damaged_record(export, content):
    (export / "export.json").write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match=r"export.json: not the record .* Export the model again"):
        find_precision(export, "auto")
    assert find_precision(export, "int8") == "int8"


TEXTS = ["短", "某公司宣布裁员", "球队主场获胜，球迷庆祝到深夜" * 5, ""] * 9


@pytest.mark.parametrize("threads", [1, 2])
def test_openvino_says_what_onnxruntime_says(tiny_export, openvino, threads):
    plain = Predictor(tiny_export, num_threads=1).text_logits(TEXTS)
    other = Predictor(tiny_export, backend="openvino", num_threads=threads, batch_size=5)
    assert other.callers == threads and other.file == tiny_export / "float32.onnx" and not other.singly
    rounding = 8 * np.finfo(np.float32).eps * np.abs(plain).max()  # sums in another order, on each kind of processor
    for _ in range(2):  # the second time with requests that are there
        np.testing.assert_allclose(other.text_logits(TEXTS), plain, rtol=0, atol=rounding)
    rounded = Predictor(tiny_export, "bfloat16", backend="openvino", num_threads=threads).text_logits(TEXTS)
    np.testing.assert_allclose(rounded, plain, atol=0.03 * np.abs(plain).max())  # 3 digits, through some layers
    assert (np.abs(rounded - plain).max() > 1e-4) == has_bf16()  # of the machine; another one multiplies in float32


AT_ONCE = """
import os, sys, threading, time
from pathlib import Path
import numpy as np
from hierarchical.engines import OpenVinoModel

class Slow(np.lib.NumpyVersion):  # by which native code finds the parts of NumPy
    def __init__(self, version):
        time.sleep(0.3)  # time for the other thread to ask, too
        super().__init__(version)

np.lib.NumpyVersion = Slow
model, together = OpenVinoModel(Path(sys.argv[1]), threads=2), threading.Barrier(2)
threads = [threading.Thread(target=lambda: (together.wait(), model(np.ones((3, 8), np.int64)))) for _ in range(2)]
[thread.start() for thread in threads], [thread.join() for thread in threads]
assert "openvino_telemetry" not in sys.modules
"""


def test_the_first_callers_of_openvino_can_come_at_once(tiny_export, openvino):
    """They waited for each other for ever, the one with what the other needed to look NumPy up."""
    command = [sys.executable, "-c", AT_ONCE, str(tiny_export / "float32.onnx")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]


def test_openvino_is_loaded_by_two_at_once(openvino):
    code = """
import sys, threading
from hierarchical.engines import load_openvino
together, found = threading.Barrier(2), []
threads = [threading.Thread(target=lambda: (together.wait(), found.append(load_openvino()))) for _ in range(2)]
[thread.start() for thread in threads], [thread.join() for thread in threads]
print(len(found), "openvino_telemetry" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.stdout.split() == ["2", "False"], done.stderr[-3000:]


def test_openvino_tells_nobody(openvino):
    """Of every import, where it finds the package for that; other programs find it afterwards."""
    pytest.importorskip("openvino_telemetry")
    assert sys.modules["openvino.tools.ovc.telemetry_utils"].tm.__name__ == "openvino.tools.ovc.telemetry_stub"
    with engines.without_telemetry(), pytest.raises(ImportError):
        import openvino_telemetry
    import openvino_telemetry  # noqa: F811

    assert sys.modules["openvino_telemetry"] is openvino_telemetry


@pytest.mark.parametrize(("there", "expected"), [(True, "bf16"), (False, "f32")])
def test_what_openvino_multiplies_in(tiny_export, openvino, monkeypatch, there, expected):
    asked, compile_model = [], openvino.Core.compile_model

    def compiled(core, model, device, settings):
        asked.append(settings["INFERENCE_PRECISION_HINT"])
        return compile_model(core, model, device, settings)

    monkeypatch.setattr(openvino.Core, "compile_model", compiled)
    monkeypatch.setattr("hierarchical.predictor.has_bf16", lambda: there)
    for precision in ("auto", "float32", "bfloat16"):
        Predictor(tiny_export, precision, backend="openvino", num_threads=1)
    assert asked == [expected, "f32", "bf16"]


def test_what_openvino_cannot_do(tiny_export, export, openvino, monkeypatch):
    with pytest.raises(InputError, match="precision must be one of float32, bfloat16, auto .openvino.; got 'int8'"):
        Predictor(tiny_export, "int8", backend="openvino")
    with pytest.raises(InputError, match="device gpu: the back end openvino is for CPUs. Leave the device out."):
        Predictor(tiny_export, backend="openvino", device="gpu")
    with pytest.raises(InputError, match="int8.onnx: an int8 model, which the back end openvino cannot read. Name the"):
        Predictor(tiny_export / "int8", backend="openvino")
    content = (export / "float32.onnx").read_bytes()
    (export / "float32.onnx").write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match="float32.onnx: not a model that OpenVINO can read"):
        Predictor(export, backend="openvino")
    (export / "float32.onnx").unlink()
    with pytest.raises(InputError, match="float32.onnx: .*Make it with export_model.py"):
        Predictor(export, backend="openvino")
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(InputError, match="package openvino, .*pip install -r requirements-openvino.txt"):
        Predictor(tiny_export, backend="openvino")


def test_openvino_without_memory(tiny_export, monkeypatch):
    openvino = pytest.importorskip("openvino")

    def fails(request, inputs):
        raise RuntimeError("Exception from src/inference: std::bad_alloc")

    predictor = Predictor(tiny_export, backend="openvino", num_threads=1)
    monkeypatch.setattr(openvino.InferRequest, "infer", fails)
    with pytest.raises(InputError, match="out of memory"):
        predictor.predict(["文"])


def test_int8_is_given_one_text_at_a_time(tiny_export):
    """By its file, whatever the name; the others take as many as they are told."""
    for precision, most in (("float32", 7), ("float16", 7), ("int8", 1)):
        predictor, lengths = Predictor(tiny_export, precision, batch_size=7, num_threads=1), []
        engine = predictor.engine
        predictor.engine = lambda ids, engine=engine, lengths=lengths: (lengths.append(len(ids)), engine(ids))[1]
        predictor.probabilities(["短", "某公司宣布裁员", "球队主场获胜"] * 5)
        assert max(lengths) == most and sum(lengths) == 15


@pytest.fixture
def machine(monkeypatch):
    """machine(driver, packages, providers) pretends that these are installed."""
    import onnxruntime

    def pretend(driver, packages=(), providers=("CPUExecutionProvider",)):
        def version(package):
            if package not in packages:
                raise engines.PackageNotFoundError
            return "1.0"

        monkeypatch.setattr(engines, "has_nvidia_driver", lambda: driver)
        monkeypatch.setattr(engines, "version", version)
        monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: list(providers))

    return pretend


def test_gpu_asked_for_and_absent(machine, printed, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert find_gpu("cpu") == "cpu" and printed == []
    for driver, packages, message in (
        (False, ["onnxruntime-gpu"], "this machine has no NVIDIA GPU"),
        (True, ["onnxruntime"], "onnxruntime-gpu is not installed in place of onnxruntime"),
        (True, ["onnxruntime", "onnxruntime-gpu"],
         "onnxruntime 1.0 and onnxruntime-gpu 1.0 hide each other: uninstall both, then install onnxruntime-gpu alone"),
    ):  # fmt: skip
        machine(driver, packages)
        for device in ("gpu", "gpu:1"):
            assert find_gpu(device) == "cpu"
            assert printed.pop() == f"device {device}: predicting on the CPU ({message})"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    machine(True, ["onnxruntime-gpu"], ["CUDAExecutionProvider"])
    for backend in ("onnx", "openvino", "paddle"):
        assert find_gpu("gpu", backend=backend) == "cpu"
        assert printed.pop() == "device gpu: predicting on the CPU (CUDA_VISIBLE_DEVICES hides every GPU)"


def test_openvino_takes_no_gpu(machine, printed, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    machine(True, ["onnxruntime-gpu"], ["CUDAExecutionProvider"])
    assert find_gpu("gpu", backend="openvino") == "cpu"
    assert printed == ["device gpu: predicting on the CPU (the back end openvino is for CPUs)"]


@pytest.mark.parametrize("built_for_gpus", [False, True])
def test_gpu_of_the_back_end_that_is_used(machine, monkeypatch, paddle, printed, built_for_gpus):
    machine(True, providers=["CPUExecutionProvider"] + ["CUDAExecutionProvider"] * (not built_for_gpus))
    monkeypatch.setattr(paddle, "is_compiled_with_cuda", lambda: built_for_gpus)
    assert find_gpu("gpu", backend="paddle") == ("gpu" if built_for_gpus else "cpu")
    assert find_gpu("gpu:1") == ("cpu" if built_for_gpus else "gpu:1")
    assert len(printed) == 1 and ("requirements-gpu.txt" in printed[0]) != built_for_gpus


def test_gpu_session(tiny_export, monkeypatch, capfd):
    """What a session on a GPU is asked for, and that one which fell back to the CPU is not taken for it."""
    import onnxruntime

    asked, session = [], onnxruntime.InferenceSession

    def on_cpu(path, options, providers, enable_fallback):
        asked.append((providers, enable_fallback))
        return session(path, options, providers=["CPUExecutionProvider"])

    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: print("libcudnn.so.9 is missing"))
    monkeypatch.setattr(onnxruntime, "InferenceSession", on_cpu)
    with pytest.raises(InputError, match="found no CUDA and cuDNN of the versions it needs"):
        Predictor(tiny_export, "float16", device="gpu", device_id=1)
    assert asked == [([("CUDAExecutionProvider", {"device_id": 1}), "CPUExecutionProvider"], 0)]
    said = capfd.readouterr()
    assert said.out == "" and "libcudnn.so.9 is missing" in said.err  # stdout may carry the predictions


RUNTIME_ERRORS = [
    (
        "Status Message: bfc_arena.cc:376 Failed to allocate memory for requested buffer of size 100663296",
        "out of memory",
    ),
    ("CUDA failure 2: out of memory ; GPU=0 ; hostname=box", "out of memory"),
    ("CUDA failure 700: an illegal memory access was encountered ; GPU=0 ; hostname=box", "gpu:0 failed"),
]


@pytest.mark.parametrize(("said", "told"), RUNTIME_ERRORS)
def test_what_fails_on_a_gpu_while_it_computes(tiny_export, monkeypatch, said, told):
    """Provider errors of the library's own type; no machine of the tests has a GPU."""
    import onnxruntime
    from onnxruntime.capi.onnxruntime_pybind11_state import RuntimeException

    def fails(*arguments):
        raise RuntimeException(f"[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : {said}")

    predictor = Predictor(tiny_export)
    predictor.engine.place = "gpu:0"
    monkeypatch.setattr(onnxruntime.InferenceSession, "run", fails)
    with pytest.raises(InputError, match=told) as raised:
        predictor.predict(["文"])
    assert ("lower --batch_size" in str(raised.value)) == (told == "out of memory")
    predictor.callers = 2
    with pytest.raises(InputError, match=told):
        predictor.predict(["文"] * 100)


def test_a_fault_of_ours_keeps_its_type(tiny_export, monkeypatch):
    predictor = Predictor(tiny_export)
    monkeypatch.setattr(engines, "graph_feed", lambda ids: {"input_ids": ids[0], "token_type_ids": ids[0]})
    with pytest.raises(Exception, match="Invalid rank") as raised:
        predictor.predict(["文"])
    assert not isinstance(raised.value, InputError)


@pytest.mark.parametrize(
    ("said", "visible", "told"),
    [
        ("CUDA failure 100: no CUDA-capable device is detected ; GPU=-1 ; h", "", "no GPU can be seen .* is '': only"),
        ("CUDA failure 101: invalid device ordinal ; GPU=7 ; hostname=box", None, "there is no gpu:7 .*nvidia-smi -L"),
        ("CUDA failure 2: out of memory ; GPU=0 ; hostname=box", None, "out of memory on gpu:7"),
    ],
)
def test_a_gpu_that_cannot_be_had_is_no_fault_of_the_file(tiny_export, monkeypatch, said, visible, told):
    import onnxruntime

    def fails(path, options, providers, enable_fallback):
        raise RuntimeError(f"/onnxruntime_src/core/providers/cuda/cuda_call.cc:129 CudaCall(ERRTYPE, int) {said}")

    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: None)
    monkeypatch.setattr(onnxruntime, "InferenceSession", fails)
    for settings in ({"device": "gpu", "device_id": 7}, {"device": "cuda:7"}):
        with pytest.raises(InputError, match=told) as raised:
            Predictor(tiny_export, **settings)
        assert "xport it again" not in str(raised.value)


def test_paddle_inference_and_a_gpu_without_memory(tiny_export, monkeypatch):
    predictor = Predictor(tiny_export, backend="paddle")
    predictor.engine.place = "gpu:0"

    def fails():
        raise MemoryError("ResourceExhaustedError: Out of memory error on GPU 0. Cannot allocate 2.3GB memory on GPU 0")

    monkeypatch.setattr(predictor.engine, "predictor", type("", (), {
        "run": staticmethod(fails), "get_input_handle": lambda self, name: self, "copy_from_cpu": lambda self, ids: None,
    })())  # fmt: skip
    with pytest.raises(InputError, match="out of memory on gpu:0: lower --batch_size"):
        predictor.predict(["文"])


def test_onnxruntime_does_not_warn_of_the_machine(tmp_path):
    """It looks for GPUs while it is imported, and says in yellow that it found none of those that there are."""
    package = tmp_path / "onnxruntime"
    package.mkdir()
    (package / "__init__.py").write_text(
        "import os, sys\nos.write(2, b'W:onnxruntime:Default, device_discovery.cc')\n"
        "def set_default_logger_severity(level): print('level', level)\n"
        "def disable_telemetry_events(): print('untold')\n"
    )
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\nfrom hierarchical.engines import load_onnxruntime\n"
        "load_onnxruntime(); load_onnxruntime()"
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path], cwd=ROOT, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("level 3\nuntold\nlevel 3\nuntold\n", "")
    (package / "__init__.py").write_text("raise ImportError('libcublasLt.so.13: cannot open shared object file')")
    done = subprocess.run([sys.executable, "-c", code, tmp_path], cwd=ROOT, capture_output=True, text=True)
    assert "is installed, and cannot be loaded (libcublasLt.so.13: cannot open" in done.stderr
