"""devices.py: the words for devices, what is set before paddle is loaded, and devices that are not there."""

import logging
import os
import subprocess
import sys
import types

import pytest

from hierarchical import devices
from hierarchical.devices import (
    ENGINE_DEVICES,
    computing_fault,
    engine_gpu,
    forbid_tf32,
    gpus_are_hidden,
    has_bf16,
    launched_processes,
    parse_device,
    prepare_runtime,
    set_device,
    tell_tf32,
)
from tests.conftest import ROOT
from utils import InputError

# ---- words -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("word", "device"),
    [
        *((word, word) for word in ("cpu", "gpu", "gpu:0", "gpu:15", "xpu", "xpu:1", "npu", "npu:3")),
        ("cuda", "gpu"),
        ("cuda:1", "gpu:1"),
        ("gpu:01", "gpu:1"),
    ],
)
def test_words(word, device):
    assert parse_device(word) == device


@pytest.mark.parametrize(
    "word",
    [
        "foo",
        "CPU",
        "Gpu",
        "",
        " gpu",
        "gpu ",
        "gpu:",
        "gpu:x",
        "gpu:-1",
        "gpu:1:2",
        "gpu1",
        "cpu:0",
        "gpu:\u0661",
        0,
        None,
    ],
)
def test_other_words_are_refused(word):
    with pytest.raises(InputError, match="^device must be one of cpu, gpu, gpu:N, xpu, xpu:N, npu, npu:N, where cuda"):
        parse_device(word)


def test_exported_models_run_on_fewer_devices():
    assert parse_device("cuda:2", ENGINE_DEVICES) == "gpu:2"
    with pytest.raises(InputError, match="^device must be one of cpu, gpu, gpu:N, where cuda means gpu; got 'xpu'"):
        parse_device("xpu", ENGINE_DEVICES)
    for given, found in (
        (("cpu", 0), ("cpu", 0)), (("gpu", 3), ("gpu", 3)), (("cuda", 0), ("gpu", 0)), (("gpu:3", 0), ("gpu", 3)),
        (("gpu:3", 3), ("gpu", 3)),
    ):  # fmt: skip
        assert engine_gpu(*given) == found
    with pytest.raises(InputError, match="device_id must be 1 or left out, with the device gpu:1; got 2"):
        engine_gpu("gpu:1", 2)


# ---- before paddle is loaded -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cpuinfo", "code_path"),
    [
        ("vendor_id\t: GenuineIntel\nflags\t\t: fpu avx2 avx512f\n", None),
        ("vendor_id\t: AuthenticAMD\nflags\t\t: fpu avx2 sse2\n", "5"),
        ("vendor_id\t: AuthenticAMD\nflags\t\t: fpu avx2 avx512f avx512_bf16\n", "7"),
        ("vendor_id\t: AuthenticAMD\nflags\t\t: fpu avx512_bf16x notavx2\n", None),
        ("vendor_id\t: AuthenticAMD\n", None),
        ("processor\t: 0\nFeatures\t: fp asimd\n", None),
        (None, None),
    ],
)
def test_mkl_code_path(tmp_path, cpuinfo, code_path):
    if cpuinfo is not None:
        (tmp_path / "cpuinfo").write_text(cpuinfo)
    assert devices._mkl_code_path(tmp_path / "cpuinfo") == code_path


def test_prepare_runtime_overrides_nothing(monkeypatch):
    monkeypatch.setattr(devices, "_mkl_code_path", lambda: "7")
    names = ["GLOG_minloglevel", "FLAGS_use_stride_kernel", "TOKENIZERS_PARALLELISM", "MKL_DEBUG_CPU_TYPE"]
    names.append("MKL_NUM_THREADS")
    monkeypatch.setattr(os, "environ", dict.fromkeys(names, "mine"))
    prepare_runtime()
    assert os.environ == dict.fromkeys(names, "mine")
    os.environ.clear()
    prepare_runtime()
    assert os.environ["MKL_DEBUG_CPU_TYPE"] == "7"


@pytest.mark.parametrize(
    "others, threads", [({}, "3"), ({"OMP_NUM_THREADS": "1"}, None), ({"PADDLE_TRAINERS_NUM": "2"}, None)]
)
def test_a_single_process_uses_all_cores_unless_told_otherwise(monkeypatch, others, threads):
    monkeypatch.setattr(devices, "available_cores", lambda: 3)
    monkeypatch.setattr(os, "environ", dict(others))
    prepare_runtime()
    assert os.environ.get("MKL_NUM_THREADS") == threads


def test_launched_processes(monkeypatch):
    monkeypatch.setattr(os, "environ", {})
    assert launched_processes() == (0, 1)
    os.environ.update(PADDLE_TRAINER_ID="2", PADDLE_TRAINERS_NUM="4")
    assert launched_processes() == (2, 4)


@pytest.mark.parametrize("driver", [False, True])
def test_a_fall_back_runs_with_the_settings_of_the_cpu(paddle, monkeypatch, driver):
    """A GPU that this build of paddle cannot use, an accelerator that is not there: as fast as --device cpu."""
    monkeypatch.setattr(devices, "_mkl_code_path", lambda: "7")
    monkeypatch.setattr(devices, "available_cores", lambda: 3)
    monkeypatch.setattr(devices, "has_nvidia_driver", lambda: driver)
    monkeypatch.setattr(paddle, "is_compiled_with_cuda", lambda: False)
    made = {}
    for device in ("cpu", "gpu", "gpu:0", "cuda", "xpu", "xpu:1", "npu"):
        monkeypatch.setattr(os, "environ", {})
        set_device(device)
        made[device] = dict(os.environ)
    assert made["cpu"]["MKL_DEBUG_CPU_TYPE"] == "7" and made["cpu"]["MKL_NUM_THREADS"] == "3"
    assert all(settings == made["cpu"] for settings in made.values())


def test_a_missing_device_is_replaced_with_a_warning(paddle, monkeypatch):
    said = []
    monkeypatch.setattr(devices.get_logger(), "warning", said.append)
    monkeypatch.setattr(paddle, "is_compiled_with_cuda", lambda: False)
    for word, device in (("gpu", "gpu"), ("gpu:1", "gpu:1"), ("cuda", "gpu"), ("npu", "npu")):
        assert set_device(word) is paddle and paddle.get_device() == "cpu"
        assert f"device {device}: this machine, or this build of paddle, has none" in said.pop() and not said
    set_device("cpu")
    assert not said
    for word in ("abacus", "cpu:x", "CPU"):
        with pytest.raises(InputError, match=f"device must be one of .* got '{word}'"):
            set_device(word)


def test_a_number_that_is_too_high(paddle, monkeypatch):
    monkeypatch.setattr(paddle, "is_compiled_with_cuda", lambda: True)
    monkeypatch.setattr(paddle.device.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(paddle, "set_device", lambda device: int(device))
    with pytest.raises(InputError, match="^device gpu:7: "):
        set_device("gpu:7")


# ---- NVIDIA's GPUs ---------------------------------------------------------------------------------------------------

# As ONNX Runtime words them.
WHERE = (
    "/onnxruntime_src/onnxruntime/core/providers/cuda/cuda_call.cc:129 std::conditional_t<THRW, void, common::Status> "
    "onnxruntime::CudaCall(ERRTYPE, const char*, const char*, ERRTYPE, const char*, const char*, int) "
)
FAILURE = (
    WHERE + "CUDA failure {}: {} ; GPU=-1 ; hostname=box ; file=cuda_execution_provider.cc ; expr=cudaSetDevice(id);"
)
ARENA = (
    "[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : Non-zero status code returned while running MatMul node. Name:'p2o.1' "
    "Status Message: /onnxruntime_src/onnxruntime/core/framework/bfc_arena.cc:376 void* "
    "onnxruntime::BFCArena::AllocateRawInternal(size_t, bool, onnxruntime::Stream*) Failed to allocate memory for "
    "requested buffer of size 100663296"
)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("std::bad_alloc"),
        RuntimeError(ARENA),
        RuntimeError(FAILURE.format(2, "out of memory")),
        RuntimeError("CUBLAS failure 3: CUBLAS_STATUS_ALLOC_FAILED ; GPU=0"),
        SystemError("(Fatal) ResourceExhaustedError: Out of memory error on GPU 0. Cannot allocate 2.3GB memory"),
    ],
    ids=lambda error: str(error)[-30:],
)
def test_out_of_memory(error):
    assert str(computing_fault(error, "gpu:1")).startswith("out of memory on gpu:1: lower --batch_size")
    assert str(computing_fault(error)).startswith("out of memory: lower --batch_size")


def test_a_gpu_that_is_not_there(monkeypatch):
    none, which = (
        RuntimeError(FAILURE.format(100, "no CUDA-capable device is detected")),
        RuntimeError(FAILURE.format(101, "invalid device ordinal")),
    )
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert str(computing_fault(none, "gpu:0")) == (
        "no GPU can be seen (no CUDA-capable device is detected). Choose the device cpu, or make a GPU visible."
    )
    assert str(computing_fault(which, "gpu:7")) == (
        "there is no gpu:7 (invalid device ordinal). They count from 0: see nvidia-smi -L."
    )
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert "CUDA_VISIBLE_DEVICES is '': only the GPUs that it names are there." in str(computing_fault(none))
    other = RuntimeError(FAILURE.format(700, "an illegal memory access was encountered"))
    assert str(computing_fault(other, "gpu:0")).startswith("gpu:0 failed (an illegal memory access was encountered).")


def test_an_error_of_ours_is_no_fault_of_the_machine():
    for error in (ValueError("shape"), RuntimeError("[ONNXRuntimeError] : 2 : INVALID_ARGUMENT : Invalid rank")):
        assert computing_fault(error, "cpu") is None


@pytest.mark.parametrize(
    ("value", "hidden"),
    [(None, False), ("", True), (" ", True), ("-1", True), ("0", False), ("1,0", False), ("-1,0", True)],
)
def test_hidden_gpus(monkeypatch, value, hidden):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if value is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", value)
    assert gpus_are_hidden() == hidden


def test_tf32_is_told_where_it_is_used(monkeypatch, printed):
    monkeypatch.setattr(os, "environ", {})
    logger = logging.getLogger("hierarchical")
    for device, precision in (("cpu", "float32"), ("gpu", "float16")):
        tell_tf32(device, precision, logger)
    assert printed == []
    tell_tf32("gpu:1", "float32", logger)
    assert "TF32" in printed.pop() and printed == []
    forbid_tf32()
    tell_tf32("gpu:1", "float32", logger)
    assert printed == [] and os.environ == {"NVIDIA_TF32_OVERRIDE": "0"}


def test_a_home_of_the_library_that_is_a_file(tmp_path, monkeypatch):
    monkeypatch.setenv("PPNLP_HOME", str(tmp_path / "file"))
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="PPNLP_HOME: .*file is not a directory"):
        devices.load_paddle()


@pytest.mark.slow
def test_what_no_script_uses_of_the_library_is_loaded_when_somebody_asks():
    code = (
        "import sys; from hierarchical.devices import set_device; set_device('cpu'); import paddlenlp.transformers\n"
        "other = {'fastapi', 'datasets', 'sklearn', 'paddlenlp.taskflow'}\n"
        "assert not other & set(sys.modules) and not hasattr(paddlenlp, '__wrapped__') and not other & set(sys.modules)\n"
        "network = paddlenlp.transformers.ErnieModel\n"
        "from paddlenlp import Taskflow\n"
        "assert other <= set(sys.modules) and paddlenlp.transformers.ErnieModel is network\n"
        "assert issubclass(network, paddlenlp.transformers.PretrainedModel) and not hasattr(paddlenlp, 'nothing')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_missing_library_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "paddle", types.ModuleType("paddle"))
    monkeypatch.delitem(sys.modules, "paddlenlp", raising=False)
    monkeypatch.setattr(devices, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="needs the package paddlenlp, which is not installed"):
        devices.load_paddle()


@pytest.mark.parametrize(
    ("flags", "answer"),
    [
        ("flags : fpu avx512f avx512_bf16", True),
        ("flags : fpu amx_bf16", True),
        ("flags : avx512f", False),
        (None, False),
    ],
)
def test_has_bf16(tmp_path, flags, answer):
    if flags:
        (tmp_path / "cpuinfo").write_text(f"processor : 0\n{flags}\n")
    assert has_bf16(tmp_path / "cpuinfo") == answer
