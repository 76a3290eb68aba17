"""What must be settled before paddle is loaded, and the device that it runs on.

paddle is imported inside the functions, so that a script can check its arguments before the seconds that takes.
"""

import os
import re
import warnings
from pathlib import Path
from typing import Any

from hierarchical.console import get_logger
from hierarchical.errors import InputError


def prepare_runtime(device: str) -> None:
    """Settings that count only before paddle is loaded; what the user has set in the environment stays."""
    warnings.filterwarnings("ignore")  # the libraries' own import-time noise
    settings = {"GLOG_minloglevel": "2", "FLAGS_use_stride_kernel": "0", "TOKENIZERS_PARALLELISM": "false"}
    if device == "cpu":
        if code_path := _mkl_code_path():
            settings["MKL_DEBUG_CPU_TYPE"] = code_path
        # Left alone, paddle uses a single core. Several processes share the cores among themselves.
        if "OMP_NUM_THREADS" not in os.environ and launched_processes()[1] == 1:
            settings["MKL_NUM_THREADS"] = str(available_cores())
    for name, value in settings.items():
        os.environ.setdefault(name, value)


def available_cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def launched_processes() -> tuple[int, int]:
    """(number of this process, their count), as paddle.distributed.launch says; (0, 1) without it. Needs no paddle."""
    return int(os.environ.get("PADDLE_TRAINER_ID", 0)), int(os.environ.get("PADDLE_TRAINERS_NUM", 1))


def _mkl_code_path(cpuinfo: str = "/proc/cpuinfo") -> str | None:
    """On AMD processors MKL takes its slowest code path unless told which instructions it may use (measured: 2.6x)."""
    try:
        text = Path(cpuinfo).read_text()
    except OSError:
        return None
    found = re.search(r"^flags\s*:(.*)", text, re.M)
    if "AuthenticAMD" not in text or not found:
        return None
    flags = found[1].split()
    return "7" if "avx512f" in flags else "5" if "avx2" in flags else None


def load_paddle() -> Any:
    """The module paddle. Raises InputError, saying what to install, where it or paddlenlp is missing."""
    try:
        import paddle
        import paddlenlp  # noqa: F401 (the networks are its own)
    except ModuleNotFoundError as error:
        raise InputError(
            f"a checkpoint needs the package {error.name}, which is not installed: see requirements.txt. A model of "
            "export_model.py runs without it."
        ) from None
    return paddle


def set_device(device: str) -> Any:
    """Load paddle and choose the device; without the accelerator asked for, warn and use the CPU. Returns paddle."""
    prepare_runtime("cpu" if device == "gpu" and not has_nvidia_driver() else device)
    paddle = load_paddle()
    logging_off()
    kind = device.partition(":")[0]
    built = {"cpu": True, "gpu": paddle.is_compiled_with_cuda(), "xpu": paddle.is_compiled_with_xpu()}
    present = built.get(kind, kind in paddle.device.get_all_custom_device_type())
    if kind == "gpu" and present:
        present = paddle.device.cuda.device_count() > 0
    if not present:
        get_logger().warning(
            f"--device {device} asked for, but this machine or this build of paddle has none: running on the CPU. "
            "Pass --device cpu to say so yourself; for GPUs install requirements-gpu.txt."
        )
        device = "cpu"
    try:
        paddle.set_device(device)
    except (ValueError, OSError, RuntimeError) as error:  # such as gpu:7 where there are two
        raise InputError(f"--device {device}: {error}") from None
    return paddle


def has_nvidia_driver() -> bool:
    """Whether there is a driver for NVIDIA's GPUs, whatever can use it."""
    return any(Path(path).exists() for path in ("/dev/nvidiactl", "/dev/dxg", "/proc/driver/nvidia/version"))


def logging_off() -> None:
    """The libraries' logs are about themselves; the scripts say what they do."""
    import logging

    from paddlenlp.utils.log import logger

    logger.set_level("ERROR")
    logging.getLogger("paddle").setLevel(logging.ERROR)
