"""Passes over arrays, compiled by Numba: what stands between the matrix products of a transformer layer on a CPU.

    in_parts(gelu, len(product), threads, product, bias, out)

Each kernel works on the rows, or the texts, `first` to `last` of its arrays, and holds no lock, so that several ranges
can be worked on at a time. An array of floats is float32, or uint16: the bits of bfloat16, which Numba does not know.
What is summed over the rows goes to row `part` of an array: the sum of that array is the same every time.

n: texts, T: tokens of a text, H: units, A: heads, d: units of a head. Compiled at the first call, and kept in
__pycache__ or, where that cannot be written, in the user's cache.
"""

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cache
from typing import Any

import numpy as np
from numba import config, njit, types
from numba.extending import intrinsic, overload

from hierarchical.console import get_logger

inlined = njit(inline="always", error_model="numpy", fastmath={"contract"})  # no reassociation: exp needs its order
f32, u32 = np.float32, np.uint32

MOST_THREADS = 16  # handing a pass to more takes longer than they do
LEAST_SHARE = 32_768  # numbers of an array that are worth a thread: handing them to one takes as long as they do
ZERO, HALF, ONE = f32(0), f32(0.5), f32(1)
BITS_OF_ONE_HALF, SIXTEEN, LAST = u32(0x7FFF), u32(16), u32(1)


def kernel(function: Callable) -> Callable:
    """Compiled; kept in a file, if there is a place for it that can be written, and nobody disabled the compiler."""
    compiled = njit(nogil=True, error_model="numpy", fastmath={"reassoc", "contract", "nsz"})(function)
    with suppress(RuntimeError, AttributeError):
        compiled.enable_caching()
    return compiled


@cache
def pool(threads: int) -> ThreadPoolExecutor:
    """The threads that kernels run in."""
    return ThreadPoolExecutor(threads, "kernels")


def in_parts(function: Callable, rows: int, threads: int, *arguments: Any) -> None:
    """Call a kernel for as many ranges of `rows` as there are threads, fewer if its first array is small."""
    threads = min(threads, MOST_THREADS)
    parts = max(1, min(threads, rows, arguments[0].size // LEAST_SHARE))
    edges = [rows * part // parts for part in range(parts + 1)]
    calls = [(part, edges[part], edges[part + 1]) for part in range(parts)]
    if parts == 1:
        function(*calls[0], *arguments)
    else:
        list(pool(threads).map(lambda call: function(*call, *arguments), calls))


def is_right(what: str, trial: Callable[[], float], tolerance: float) -> bool:
    """Whether what is computed by kernels is to be used; if not, the log says why.

    trial: says by which share of its norm something comes out otherwise than in the library
    """
    try:
        if config.DISABLE_JIT:  # type: ignore[attr-defined]
            raise RuntimeError("Numba's compiler is disabled")
        off = trial()
        fault = "" if off <= tolerance else f"numbers are off by {off:.1%}"
    except Exception as error:  # whatever another release of the library, or another machine, has to say
        said = str(error).strip().splitlines() or [""]  # paddle tells its own calls before it says what is wrong
        fault = f"{type(error).__name__}: {said[-1]}"
    if fault:
        get_logger().warning(f"On this machine {what} are left out ({fault}): the same, more slowly.")
    return not fault


# ---- numbers ---------------------------------------------------------------------------------------------------------


@intrinsic
def bits_of(_: Any, x: Any) -> Any:
    """The bits of a float32, as an uint32."""

    def code(context: Any, builder: Any, _: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], context.get_value_type(types.uint32))

    return types.uint32(types.float32), code


@intrinsic
def number_of(_: Any, bits: Any) -> Any:
    """The float32 with these bits, an uint32."""

    def code(context: Any, builder: Any, _: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], context.get_value_type(types.float32))

    return types.float32(types.uint32), code


def as_float(x):
    """An element of an array as a float32."""


def as_element(x, old):
    """A float32 as an element of the array that `old` is of, rounded to the nearest, halves to even."""


@overload(as_float, inline="always")
def _(x):
    if x == types.uint16:
        return lambda x: number_of(u32(u32(x) << SIXTEEN))
    return lambda x: x


@overload(as_element, inline="always")
def _(x, old):
    if old == types.uint16:
        return lambda x, old: np.uint16(
            u32(bits_of(x) + BITS_OF_ONE_HALF + ((bits_of(x) >> SIXTEEN) & LAST)) >> SIXTEEN
        )
    return lambda x, old: x


LOWEST = f32(-87)  # e to that is still an ordinary float32
LOG2_E, LN2, LN2_REST = f32(1.4426950408889634), f32(0.693359375), f32(-2.12194440e-4)  # ln 2 in two parts: Cody, Waite
TAYLOR = [f32(1 / math.factorial(n)) for n in range(8)]
C2, C3, C4, C5, C6, C7 = TAYLOR[2:]
BIAS, MANTISSA = np.int32(127), u32(23)


@inlined
def exp(x):
    """e**x of a float32 up to 88, to 2e-7 of it: 2**n times the Taylor series of what is left, at most ln(2) / 2."""
    x = max(x, LOWEST)
    n = np.rint(x * LOG2_E)
    r = (x - n * LN2) - n * LN2_REST
    series = ONE + r * (ONE + r * (C2 + r * (C3 + r * (C4 + r * (C5 + r * (C6 + r * C7))))))
    return series * number_of(u32(u32(np.int32(n) + BIAS) << MANTISSA))


P, E1, E2, E3, E4, E5 = (f32(x) for x in (0.3275911, 0.254829592, -0.284496736, 1.421413741, -1.453152027, 1.061405429))
ROOT_HALF, DENSITY_AT_0 = f32(math.sqrt(0.5)), f32(1 / math.sqrt(2 * math.pi))


@inlined
def normal(u):
    """(distribution, density) of the standard normal at u, to 4e-7.

    By the error function's approximation 7.1.26 in Abramowitz and Stegun, Handbook of Mathematical Functions, 1964.
    """
    power = exp(-HALF * u * u)
    t = ONE / (ONE + P * abs(u) * ROOT_HALF)
    tail = HALF * power * t * (E1 + t * (E2 + t * (E3 + t * (E4 + t * E5))))
    return (ONE - tail if u > ZERO else tail), DENSITY_AT_0 * power


M1, M2, S1, S2, GOLDEN = u32(0x85EBCA6B), u32(0xC2B2AE35), u32(16), u32(13), u32(0x9E3779B9)


@inlined
def noise(seed, number):
    """A random uint32 for an element of an array: MurmurHash3's finalizer of its number and a seed."""
    h = u32(u32(number * GOLDEN) + seed)
    h = u32(u32(h ^ u32(h >> S1)) * M1)
    h = u32(u32(h ^ u32(h >> S2)) * M2)
    return u32(h ^ u32(h >> S1))


# ---- passes ----------------------------------------------------------------------------------------------------------


@kernel
def convert(part, first, last, x, out):
    """x [rows, units] in the precision of `out`."""
    for i in range(first, last):
        for j in range(x.shape[1]):
            out[i, j] = as_element(as_float(x[i, j]), out[i, j])


@kernel
def add(part, first, last, total, x):
    """total += x, both [rows, units]."""
    for i in range(first, last):
        for j in range(x.shape[1]):
            total[i, j] += as_float(x[i, j])


@kernel
def gelu(part, first, last, product, bias, out):
    """GELU of product + bias, [rows, units]."""
    for i in range(first, last):
        for j in range(product.shape[1]):
            u = as_float(product[i, j]) + bias[j]
            out[i, j] = as_element(u * normal(u)[0], out[i, j])


@kernel
def gelu_gradient(part, first, last, gradient, product, bias, out, of_bias):
    """The gradient with respect to product + bias, and its sums [parts, units] over the rows."""
    for i in range(first, last):
        for j in range(product.shape[1]):
            u = as_float(product[i, j]) + bias[j]
            distribution, density = normal(u)
            value = as_float(gradient[i, j]) * (distribution + u * density)
            of_bias[part, j] += value
            out[i, j] = as_element(value, out[i, j])


@kernel
def relu(part, first, last, product, bias, out):
    """ReLU of product + bias, [rows, units]."""
    for i in range(first, last):
        for j in range(product.shape[1]):
            out[i, j] = as_element(max(as_float(product[i, j]) + bias[j], ZERO), out[i, j])


@kernel
def relu_gradient(part, first, last, gradient, product, bias, out, of_bias):
    """As `gelu_gradient`."""
    for i in range(first, last):
        for j in range(product.shape[1]):
            value = as_float(gradient[i, j]) if as_float(product[i, j]) + bias[j] > ZERO else ZERO
            of_bias[part, j] += value
            out[i, j] = as_element(value, out[i, j])


@kernel
def add_normalize(
    part, first, last, x, product, bias, gamma, beta, epsilon, seed, below, scale, kept, normalized, inverse, out
):
    """Layer normalization of x + dropout(product + bias), [rows, H].

    seed, below, scale: of dropout, which leaves out what has noise `below` a number, and multiplies the rest. kept,
    normalized, inverse: which are left in, the output before gamma and beta, 1 / standard deviation [rows].
    """
    units = x.shape[1]
    for i in range(first, last):
        start, mean, square = u32(i * units), ZERO, ZERO
        for j in range(units):
            kept[i, j] = noise(seed, u32(start + u32(j))) >= below
            value = x[i, j] + (as_float(product[i, j]) + bias[j]) * (scale if kept[i, j] else ZERO)
            normalized[i, j] = value
            mean += value
        mean /= f32(units)
        for j in range(units):
            square += (normalized[i, j] - mean) * (normalized[i, j] - mean)
        inverse[i] = ONE / np.sqrt(square / f32(units) + epsilon)
        for j in range(units):
            value = (normalized[i, j] - mean) * inverse[i]
            normalized[i, j] = value
            out[i, j] = value * gamma[j] + beta[j]


@kernel
def normalize_gradient(
    part, first, last, gradient, normalized, inverse, gamma, scale, kept, of_x, of_product, of_gamma, of_beta, of_bias
):
    """The gradients of `add_normalize`, with respect to x and product [rows, H]; of gamma, beta, bias [parts, H]."""
    units = gradient.shape[1]
    for i in range(first, last):
        mean, along = ZERO, ZERO
        for j in range(units):
            value = gradient[i, j]
            of_gamma[part, j] += value * normalized[i, j]
            of_beta[part, j] += value
            value *= gamma[j]
            mean += value
            along += value * normalized[i, j]
        mean, along = mean / f32(units), along / f32(units)
        for j in range(units):
            value = (gradient[i, j] * gamma[j] - mean - normalized[i, j] * along) * inverse[i]
            of_x[i, j] = value
            value *= scale if kept[i, j] else ZERO
            of_bias[part, j] += value
            of_product[i, j] = as_element(value, of_product[i, j])


@kernel
def to_heads(part, first, last, product, bias, scale, out):
    """(product + bias) * scale [n, T, A * d], by heads: [n, A, T, d]."""
    _, heads, tokens, units = out.shape
    for text in range(first, last):
        for head in range(heads):
            for i in range(tokens):
                for k in range(units):
                    value = as_float(product[text, i, head * units + k]) + bias[head * units + k]
                    out[text, head, i, k] = value * scale


@kernel
def from_heads(part, first, last, x, scale, out, sums):
    """x [n, A, T, d] * scale as [n, T, A * d], and its sums [parts, A * d] over texts and tokens."""
    _, heads, tokens, units = x.shape
    for text in range(first, last):
        for i in range(tokens):
            for head in range(heads):
                for k in range(units):
                    value = x[text, head, i, k] * scale
                    j = head * units + k
                    sums[part, j] += value
                    out[text, i, j] = as_element(value, out[text, i, j])


@kernel
def softmax(part, first, last, scores, mask, seed, below, scale, out):
    """Soft-max of scores [n, A, queries, T] + mask [n, T], in their place; with dropout, see `add_normalize`, in `out`.

    What is smaller than e**-87 of the largest is 0: masked tokens are, and no denormal comes of them.
    """
    _, heads, queries, tokens = scores.shape
    for text in range(first, last):
        for head in range(heads):
            for i in range(queries):
                start = u32(((text * heads + head) * queries + i) * tokens)
                row, highest, total = scores[text, head, i], f32(-math.inf), ZERO
                for j in range(tokens):
                    row[j] += mask[text, j]
                    highest = max(highest, row[j])
                for j in range(tokens):
                    below_highest = row[j] - highest
                    row[j] = exp(below_highest) if below_highest > LOWEST else ZERO
                    total += row[j]
                for j in range(tokens):
                    row[j] /= total
                    keep = noise(seed, u32(start + u32(j))) >= below
                    out[text, head, i, j] = row[j] * (scale if keep else ZERO)


@kernel
def softmax_gradient(part, first, last, gradient, probabilities, after_dropout):
    """The gradient with respect to the scores, in the place of that with respect to the output, [n, A, queries, T].

    With the output D and the probabilities P it is D * gradient - P * sum(D * gradient): D has the dropout in it.
    """
    _, heads, queries, tokens = gradient.shape
    for text in range(first, last):
        for head in range(heads):
            for i in range(queries):
                total = ZERO
                for j in range(tokens):
                    gradient[text, head, i, j] *= after_dropout[text, head, i, j]
                    total += gradient[text, head, i, j]
                for j in range(tokens):
                    gradient[text, head, i, j] -= probabilities[text, head, i, j] * total


@kernel
def squares(part, first, last, gradient, of_rows):
    """The sums of the squares of gradient [rows, units], by rows [rows]."""
    for i in range(first, last):
        total = ZERO
        for j in range(gradient.shape[1]):
            total += gradient[i, j] * gradient[i, j]
        of_rows[i] = total


@kernel
def adamw(part, first, last, gradient, squares, parameter, moment1, moment2, clip, decay, rate, epsilon, beta1, beta2):
    """A step of AdamW in the place of parameter, moment1 and moment2, all [rows, units]; squares: as above.

    rate, epsilon: with the corrections of Kingma and Ba (2015), section 2, in them; decay: a factor. Most rows of an
    embedding belong to tokens that have not been seen: what is 0 in every array is only read.
    """
    units = gradient.shape[1]
    for i in range(first, last):
        if squares[i] == ZERO and decay == ONE:
            total = ZERO
            for j in range(units):
                total += abs(gradient[i, j]) + abs(moment1[i, j]) + moment2[i, j]
            if total == ZERO:
                continue
        for j in range(units):
            value = gradient[i, j] * clip
            first_moment = beta1 * moment1[i, j] + (ONE - beta1) * value
            second_moment = beta2 * moment2[i, j] + (ONE - beta2) * value * value
            moment1[i, j], moment2[i, j] = first_moment, second_moment
            parameter[i, j] = parameter[i, j] * decay - rate * first_moment / (np.sqrt(second_moment) + epsilon)
