"""devices.py: what is set before paddle is loaded, and devices that are not there."""

import os

import pytest

from hierarchical import devices
from hierarchical.devices import launched_processes, prepare_runtime, set_device
from utils import InputError


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
    prepare_runtime("cpu")
    assert os.environ == dict.fromkeys(names, "mine")
    os.environ.clear()
    prepare_runtime("gpu")
    assert "GLOG_minloglevel" in os.environ and "MKL_DEBUG_CPU_TYPE" not in os.environ
    prepare_runtime("cpu")
    assert os.environ["MKL_DEBUG_CPU_TYPE"] == "7"


@pytest.mark.parametrize(
    "others, threads", [({}, "3"), ({"OMP_NUM_THREADS": "1"}, None), ({"PADDLE_TRAINERS_NUM": "2"}, None)]
)
def test_a_single_process_uses_all_cores_unless_told_otherwise(monkeypatch, others, threads):
    monkeypatch.setattr(devices, "available_cores", lambda: 3)
    monkeypatch.setattr(os, "environ", dict(others))
    prepare_runtime("cpu")
    assert os.environ.get("MKL_NUM_THREADS") == threads


def test_launched_processes(monkeypatch):
    monkeypatch.setattr(os, "environ", {})
    assert launched_processes() == (0, 1)
    os.environ.update(PADDLE_TRAINER_ID="2", PADDLE_TRAINERS_NUM="4")
    assert launched_processes() == (2, 4)


def test_a_missing_device_is_replaced_with_a_warning(paddle, monkeypatch):
    said = []
    monkeypatch.setattr(devices.get_logger(), "warning", said.append)
    monkeypatch.setattr(paddle, "is_compiled_with_cuda", lambda: False)
    for device in ("gpu", "gpu:1", "npu", "abacus"):
        assert set_device(device) is paddle and paddle.get_device() == "cpu"
        assert f"--device {device} asked for" in said.pop() and not said
    set_device("cpu")
    assert not said
    with pytest.raises(InputError, match="--device cpu:x: "):
        set_device("cpu:x")
