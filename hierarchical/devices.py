"""The words for devices, what must be settled before paddle is loaded, and what goes wrong on a GPU.

    device = parse_device("cuda:1")    # "gpu:1"
    paddle = set_device(device)        # loads paddle; without such a device: the CPU, with a warning

paddle is imported inside the functions, so that a script can check its arguments before the seconds that takes.
"""

import os
import re
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec, module_from_spec
from pathlib import Path
from typing import Any

from hierarchical.console import get_logger
from hierarchical.errors import InputError

DEVICES = ("cpu", "gpu", "xpu", "npu")
ENGINE_DEVICES = ("cpu", "gpu")  # where exported models run
NO_MEMORY = re.compile(r"out of memory|Failed to allocate memory|bad.?alloc|ALLOC_FAILED", re.I)
CUDA_FAILURE = re.compile(r"CUDA failure (\d+): ([^;\n]+)")
NO_GPU, NO_SUCH_GPU = 100, 101  # cudaErrorNoDevice, cudaErrorInvalidDevice


# ---- words -----------------------------------------------------------------------------------------------------------


def parse_device(text: Any, kinds: Sequence[str] = DEVICES) -> str:
    """The device that a word means, as paddle writes it: cpu, gpu, gpu:1 and so on; cuda is another word for gpu.

    kinds: of DEVICES those that will do. Raises InputError for any other word.
    """
    found = re.fullmatch("([a-z]+)(?::([0-9]{1,4}))?", text) if isinstance(text, str) else None
    kind, number = found.groups() if found else (None, None)
    kind = "gpu" if kind == "cuda" else kind
    if kind not in kinds or (kind == "cpu" and number):
        words = [word for kind in kinds for word in ([kind] if kind == "cpu" else [kind, f"{kind}:N"])]
        raise InputError(f"device must be one of {', '.join(words)}, where cuda means gpu; got {text!r}")
    return f"{kind}:{int(number)}" if number else str(kind)


def engine_gpu(device: Any, device_id: int) -> tuple[str, int]:
    """("cpu" or "gpu", number of the GPU) for an exported model; gpu:N says by itself which one.

    Raises InputError for other devices, and where the two name different GPUs.
    """
    kind, _, number = parse_device(device, ENGINE_DEVICES).partition(":")
    if number and device_id not in (0, int(number)):
        raise InputError(f"device_id must be {number} or left out, with the device {device}; got {device_id}")
    return kind, int(number or device_id)


# ---- before paddle is loaded -----------------------------------------------------------------------------------------


def prepare_runtime() -> None:
    """Settings that count only before paddle is loaded; what the user has set in the environment stays.

    They are the same for every device: paddle itself may find, once it is loaded, that it has to use the CPU.
    """
    settings = {"GLOG_minloglevel": "2", "FLAGS_use_stride_kernel": "0", "TOKENIZERS_PARALLELISM": "false"}
    if code_path := _mkl_code_path():
        settings["MKL_DEBUG_CPU_TYPE"] = code_path
    # Left alone, paddle uses a single core. Several processes share the cores among themselves.
    if "OMP_NUM_THREADS" not in os.environ and launched_processes()[1] == 1:
        settings["MKL_NUM_THREADS"] = str(available_cores())
    for name, value in settings.items():
        os.environ.setdefault(name, value)


@contextmanager
def without_warnings() -> Iterator[None]:
    """Without what the libraries warn of in their own code; those of the program that calls this are its own affair."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def available_cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def has_bf16(cpuinfo: str = "/proc/cpuinfo") -> bool:
    """Whether this processor multiplies in bfloat16 (AVX512-BF16 or AMX); others would only imitate it, slowly."""
    try:
        flags = Path(cpuinfo).read_text().split()
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags


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


def not_there(error: ImportError, package: str) -> str:
    """What is the matter with a package: not installed, or it is and something that it needs is missing."""
    if isinstance(error, ModuleNotFoundError) and error.name == package:
        return "not installed"
    return f"installed, and cannot be loaded ({error})"


def load_paddle() -> Any:
    """The module paddle. Raises InputError, saying what to install, where it or paddlenlp is missing."""
    if (place := os.environ.get("PPNLP_HOME")) and Path(place).exists() and not Path(place).is_dir():
        raise InputError(f"PPNLP_HOME: {place} is not a directory. Give another one, or unset the variable.")
    try:
        with without_warnings():
            import paddle

            load_networks()
    except ImportError as error:
        package = error.name or "paddle"
        raise InputError(
            f"a checkpoint needs the package {package}, which is {not_there(error, package)}: see requirements.txt. A "
            "model of export_model.py runs without it."
        ) from None
    return paddle


def load_networks() -> None:
    """Load paddlenlp's networks without the rest of it: its tasks, servers and data sets take twice as long (measured).

    Whoever asks paddlenlp itself for a name gets all of it then.
    """
    if "paddlenlp" in sys.modules:
        return
    found = find_spec("paddlenlp")
    if found is None or found.loader is None:
        raise ModuleNotFoundError("No module named 'paddlenlp'", name="paddlenlp")
    spec, loader = found, found.loader
    package = sys.modules["paddlenlp"] = module_from_spec(spec)

    def load_whole(name: str) -> Any:
        if name.startswith("__"):  # which programs ask of any module
            raise AttributeError(f"module 'paddlenlp' has no attribute {name!r}")
        del package.__dict__["__getattr__"]
        loader.exec_module(package)
        return getattr(package, name)

    package.__dict__.update(__version__=version("paddlenlp"), __getattr__=load_whole)
    try:
        import paddle
        import paddlenlp.data
        import paddlenlp.transformers  # noqa: F401 (in this order, or they import each other in a circle)
    except BaseException:
        del sys.modules["paddlenlp"]
        raise
    paddle.disable_signal_handler()  # as the package does: Python's own handlers count


def set_device(device: str) -> Any:
    """Load paddle and choose the device; without the accelerator asked for, warn and use the CPU. Returns paddle.

    device: a word that parse_device() knows; raises InputError for others, and for numbers that are too high.
    """
    device = parse_device(device)
    prepare_runtime()
    paddle = load_paddle()
    logging_off()
    kind = device.partition(":")[0]
    built = {"cpu": True, "gpu": paddle.is_compiled_with_cuda(), "xpu": paddle.is_compiled_with_xpu()}
    present = built.get(kind, kind in paddle.device.get_all_custom_device_type())
    if kind == "gpu" and present:
        present = paddle.device.cuda.device_count() > 0
    if not present:
        get_logger().warning(
            f"device {device}: this machine, or this build of paddle, has none; running on the CPU. Ask for the device "
            "cpu to say so yourself; for GPUs install requirements-gpu.txt."
        )
        device = "cpu"
    try:
        paddle.set_device(device)
    except (ValueError, OSError, RuntimeError) as error:  # such as gpu:7 where there are two
        raise InputError(f"device {device}: {error}") from None
    return paddle


def logging_off() -> None:
    """The libraries' logs are about themselves; the scripts say what they do."""
    import logging

    from paddlenlp.utils.log import logger

    logger.set_level("ERROR")
    logging.getLogger("paddle").setLevel(logging.ERROR)


# ---- NVIDIA's GPUs ---------------------------------------------------------------------------------------------------


def has_nvidia_driver() -> bool:
    """Whether there is a driver for NVIDIA's GPUs, whatever can use it."""
    return any(Path(path).exists() for path in ("/dev/nvidiactl", "/dev/dxg", "/proc/driver/nvidia/version"))


def gpus_are_hidden() -> bool:
    """Whether CUDA_VISIBLE_DEVICES leaves no GPU: what stands before the first wrong entry counts."""
    value = os.environ.get("CUDA_VISIBLE_DEVICES")
    return value is not None and (not value.strip() or value.strip().startswith("-"))


def computing_fault(error: Exception, device: str = "") -> InputError | None:
    """What to tell of an error that a library raised while it computed; None if it is no fault of the machine.

    error: of whatever type; ONNX Runtime has no common one, and words it as "CUDA failure 2: out of memory ; GPU=0 ..."
    device: where it computed, as in gpu:1, if that is known.
    """
    if isinstance(error, MemoryError) or NO_MEMORY.search(str(error)):
        return InputError(
            f"out of memory{' on ' if device else ''}{device}: lower --batch_size (in Python: batch_size) or the "
            "length of a text, or end what else uses this memory."
        )
    found = CUDA_FAILURE.search(str(error))
    if not found:
        return None
    number, reason = int(found[1]), found[2].strip()
    value = os.environ.get("CUDA_VISIBLE_DEVICES")
    seen = "" if value is None else f" CUDA_VISIBLE_DEVICES is {value!r}: only the GPUs that it names are there."
    if number == NO_GPU:
        return InputError(f"no GPU can be seen ({reason}).{seen} Choose the device cpu, or make a GPU visible.")
    if number == NO_SUCH_GPU:
        return InputError(f"there is no {device or 'such GPU'} ({reason}).{seen} They count from 0: see nvidia-smi -L.")
    return InputError(f"{device or 'the GPU'} failed ({reason}). See what nvidia-smi says of it, then start again.")


def forbid_tf32() -> None:
    """Have GPUs multiply float32 as it is; to be called before the library that computes is loaded."""
    os.environ["NVIDIA_TF32_OVERRIDE"] = "0"  # NVIDIA's own switch, which every library of theirs reads


def tell_tf32(device: str, precision: str, logger: Any) -> None:
    """Say that float32 on a GPU is not what it is on a CPU."""
    if device != "cpu" and precision == "float32" and os.environ.get("NVIDIA_TF32_OVERRIDE") != "0":
        logger.info(
            "float32 on a GPU is multiplied as TF32: faster, and probabilities may differ from a CPU's in the third "
            "decimal; --no_tf32 prevents it"
        )


def installed(*packages: str) -> str | None:
    """The version of the first of these packages that is installed; importing them could settle how paddle runs."""
    for package in packages:
        try:
            return version(package)
        except PackageNotFoundError:
            continue
    return None
