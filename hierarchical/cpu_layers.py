"""What replaces layers, and an optimizer, that are slow in the library when a network trains on a CPU.

    flush_denormals()
    speed_up(model, bfloat16=False)   # its transformer and linear layers
    optimizer = adamw(1e-4, [{"params": model.parameters()}], max_grad_norm=1.0)

All of it computes what the library's own does; with bfloat16, products to some three decimals.
"""

import ctypes
import os
import platform
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

from hierarchical.console import get_logger
from hierarchical.cpu_linear import affine
from hierarchical.devices import has_bf16

FLUSH_BITS = {"x86_64": (7, 0x8040), "aarch64": (0, 1 << 24)}  # machine -> (word of C's fenv_t, its bits) on Linux
WIDE = 256  # units of an encoder from which bfloat16 is the default: smaller ones are fast in any case


def flush_denormals() -> bool:
    """Have this thread, and those it starts from now on, take numbers below 1.2e-38 for zero; whether it could be done.

    Arithmetic with them is a hundred times slower, and padding makes them: the library's soft-max gives a masked
    token exp(-64), where that of cpu_kernels.py gives zero, so that gradients fade out through it from layer to layer.
    Its backward pass over 32 rows of 4 to 128 tokens took 2.3 seconds instead of 18.9 (6 layers x 384, --loss bce).
    """
    if sys.platform != "linux" or platform.machine() not in FLUSH_BITS:
        return False
    word, bits = FLUSH_BITS[platform.machine()]
    environment = (ctypes.c_uint32 * 64)()  # more than any fenv_t has
    library = ctypes.CDLL(None)
    if library.fegetenv(environment):
        return False
    environment[word] |= bits
    if kernels := sys.modules.get("hierarchical.cpu_kernels"):
        kernels.pool.cache_clear()  # its threads would not do so
    return library.fesetenv(environment) == 0


def mixed_precision(asked: bool | None, units: int) -> bool:
    """What train.py --amp (True), --no_amp (False) or neither (None) means on the device that paddle has.

    units: the hidden size of the encoder
    """
    import paddle

    if paddle.get_device() != "cpu":
        return bool(asked)
    if asked and not has_bf16():
        get_logger().warning("--amp: this CPU has no products in bfloat16 (AVX512-BF16, AMX), training in float32")
    if asked is None and has_bf16() and units >= WIDE:
        get_logger().info("This CPU has bfloat16: training in mixed precision (--no_amp: in float32)")
        return True
    return bool(asked) and has_bf16()


def speed_up(model: Any, bfloat16: bool = False, in_evaluation: bool = False) -> None:
    """On a CPU, give a network's layers faster forms, unless some of them have others than the library's already.

    bfloat16: for the products of transformer layers in training, where the CPU has it; in_evaluation: there, too
    """
    import paddle

    layers, bfloat16 = model.sublayers(), bfloat16 and has_bf16()
    if any("forward" in vars(layer) or not on_cpu(layer) for layer in layers):
        return
    faster: list = []
    inside: set[int] = set()
    with suppress(ImportError, OSError):  # Numba is not there for every Python
        from hierarchical.cpu_network import install, parts

        faster = install(layers, bfloat16, threads(), in_evaluation)
        inside = {id(part) for layer in faster for part in parts(layer)}
    if bfloat16 and not faster:
        get_logger().warning("This encoder's layers cannot be computed in bfloat16 here, using float32")
    for layer in layers:
        if isinstance(layer, paddle.nn.Linear) and layer.bias is not None and id(layer) not in inside:
            layer.forward = partial(affine, weight=layer.weight, bias=layer.bias)


def adamw(
    learning_rate: float,
    groups: list[dict],
    weight_decay: float = 0.0,
    decays: Callable[[str], bool] = lambda name: True,
    max_grad_norm: float = 0.0,
) -> Any:
    """The library's AdamW, or on a CPU one that does the same in less time; arguments as of cpu_adamw.AdamW."""
    import paddle

    parameters = [parameter for group in groups for parameter in group["params"]]
    if paddle.get_device() == "cpu" and all(parameter.dtype == paddle.float32 for parameter in parameters):
        with suppress(ImportError, OSError):  # see speed_up
            from hierarchical.cpu_adamw import AdamW, agrees

            if agrees():
                return AdamW(learning_rate, groups, weight_decay, decays, max_grad_norm, threads())
    return paddle.optimizer.AdamW(
        learning_rate,
        parameters=groups,
        weight_decay=weight_decay,
        apply_decay_param_fun=decays,
        grad_clip=paddle.nn.ClipGradByGlobalNorm(max_grad_norm) if max_grad_norm else None,
    )


def on_cpu(layer: Any) -> bool:
    """Whether the parameters that are a layer's own lie in the memory of the CPU."""
    return all(parameter.place.is_cpu_place() for parameter in layer.parameters(include_sublayers=False))


def threads() -> int:
    """The threads that this process is to compute in."""
    settings = (os.environ.get(name, "") for name in ("MKL_NUM_THREADS", "OMP_NUM_THREADS"))
    return next((int(setting) for setting in settings if setting.isdecimal() and int(setting)), 1)
