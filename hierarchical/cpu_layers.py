"""What replaces layers that are slow in the library when a network trains on a CPU.

    flush_denormals()
    speed_up(model, bfloat16=False)   # its transformer and linear layers

All of it computes what the library's own layers do; with bfloat16, products to some three decimals.
"""

import ctypes
import os
import platform
import re
import sys
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from hierarchical.cpu_linear import affine

FLUSH_BITS = {"x86_64": (7, 0x8040), "aarch64": (0, 1 << 24)}  # machine -> (word of C's fenv_t, its bits) on Linux
NARROW = 256  # units of a layer's output below which casts to bfloat16 cost more than they save


def flush_denormals() -> bool:
    """Have this thread, and those it starts from now on, take numbers below 1.2e-38 for zero; whether it could be done.

    Arithmetic with them is a hundred times slower, and padding makes them: the library's soft-max gives a masked
    token exp(-64), not zero, so that gradients fade out through it from layer to layer. A backward pass over 32 rows of
    4 to 128 tokens took 2.3 seconds instead of 18.9 (6 layers x 384 units, --loss bce).
    """
    if sys.platform != "linux" or platform.machine() not in FLUSH_BITS:
        return False
    word, bits = FLUSH_BITS[platform.machine()]
    environment = (ctypes.c_uint32 * 64)()  # more than any fenv_t has
    library = ctypes.CDLL(None)
    if library.fegetenv(environment):
        return False
    environment[word] |= bits
    return library.fesetenv(environment) == 0


def has_bfloat16(cpuinfo: str = "/proc/cpuinfo") -> bool:
    """Whether this CPU multiplies numbers of bfloat16 (AVX512-BF16, AMX)."""
    try:
        return bool(re.search(" (avx512_bf16|amx_bf16)( |$)", Path(cpuinfo).read_text(), re.M))
    except OSError:
        return False


def speed_up(model: Any, bfloat16: bool = False) -> None:
    """On a CPU, give a network's layers faster forms, unless some of them have others than the library's already.

    bfloat16: for the products of transformer layers in training, where `has_bfloat16`
    """
    import paddle

    layers, bfloat16 = model.sublayers(), bfloat16 and has_bfloat16()
    if paddle.get_device() != "cpu" or any("forward" in vars(layer) for layer in layers):
        return
    inside: set[int] = set()
    with suppress(ImportError):  # Numba is not there for every Python
        from hierarchical.cpu_transformer import install, parts

        inside = {id(part) for layer in install(layers, bfloat16, threads(bfloat16)) for part in parts(layer)}
    for layer in layers:
        if isinstance(layer, paddle.nn.Linear) and id(layer) not in inside:
            layer.forward = partial(affine, weight=layer.weight, bias=layer.bias)


def threads(bfloat16: bool) -> int:
    """The threads of this process; with bfloat16 oneDNN, which multiplies then, is told to use them too."""
    number = int(os.environ.get("MKL_NUM_THREADS") or os.environ.get("OMP_NUM_THREADS") or 1)
    if bfloat16 and sys.platform == "linux":
        with suppress(OSError):
            ctypes.CDLL("libiomp5.so").omp_set_num_threads(number)  # the one that paddle has loaded
    return number
