"""Parameter files of PyTorch (pytorch_model.bin), read without PyTorch, and without running what is in them.

    read_torch("pytorch_model.bin")     # {name: array}

Both forms of torch.save are read: a zip file with a pickle and one file for each storage, and what there was before
version 1.6, pickles one after another with the storages behind them. The pickles go through an unpickler that knows
tensors and plain containers.
"""

import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

MAGIC = 0x1950A86A20F9469CFC6C  # the first pickle of the older form
# bfloat16 are the upper halves of float32, which weights.py makes of uint16
DTYPES = {
    "FloatStorage": "<f4",
    "DoubleStorage": "<f8",
    "HalfStorage": "<f2",
    "BFloat16Storage": "<u2",
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "<i1",
    "ByteStorage": "<u1",
    "BoolStorage": "?",
}


class Storage(NamedTuple):
    """Numbers in a row, under a key by which they are found."""

    key: str
    dtype: str
    size: int


class Tensor(NamedTuple):
    """A view of a storage; offset and strides in numbers, not bytes."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def rebuild_tensor(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> Tensor:
    if not isinstance(storage, Storage):
        raise pickle.UnpicklingError("a tensor without a storage")
    return Tensor(storage, int(offset), tuple(map(int, shape)), tuple(map(int, strides)))


def rebuild_parameter(tensor: Any, *_: Any) -> Any:
    return tensor


KNOWN: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch._utils", "_rebuild_tensor"): rebuild_tensor,
    ("torch._utils", "_rebuild_tensor_v2"): rebuild_tensor,
    ("torch._utils", "_rebuild_parameter"): rebuild_parameter,
    **{("torch", name): dtype for name, dtype in DTYPES.items()},
}


class _TensorUnpickler(pickle.Unpickler):
    """Knows tensors and plain containers, and refuses everything else: nothing in the file is run."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in KNOWN:
            raise pickle.UnpicklingError(f"it holds {module}.{name}, which is code, not numbers")
        return KNOWN[module, name]

    def persistent_load(self, pid: Any) -> Storage:
        kind, dtype, key, _, size, *view = pid
        if kind != "storage" or dtype not in DTYPES.values() or any(view):
            raise pickle.UnpicklingError(f"it holds {kind!r} of a form that is not known")
        return Storage(str(key), dtype, int(size))


def read_torch(path: str | Path) -> dict[str, np.ndarray]:
    """Parameter name -> array, of a file of torch.save. What is wrong with it raises any kind of exception."""
    with open(path, "rb") as file:
        if zipfile.is_zipfile(file):
            with zipfile.ZipFile(file) as archive:
                return _read_zip(archive)
        file.seek(0)
        return _read_pickles(file)


def _read_zip(archive: zipfile.ZipFile) -> dict[str, np.ndarray]:
    names = archive.namelist()
    (main,) = (name for name in names if name.count("/") == 1 and name.endswith("/data.pkl"))
    folder = main.removesuffix("data.pkl")
    if f"{folder}byteorder" in names and archive.read(f"{folder}byteorder") != b"little":
        raise ValueError("its numbers begin with the highest byte")
    with archive.open(main) as file:
        state = _TensorUnpickler(file).load()
    return _arrays(state, lambda storage: archive.read(f"{folder}data/{storage.key}"))


def _read_pickles(file: IO[bytes]) -> dict[str, np.ndarray]:
    """magic number, version of the format, facts about the system, the state, keys of the storages; the storages."""
    magic, _, _, state, keys = (_TensorUnpickler(file).load() for _ in range(5))
    if magic != MAGIC:
        raise ValueError("not written by torch.save")
    storages = {value.storage.key: value.storage for value in state.values() if isinstance(value, Tensor)}
    contents = {}
    for key in keys:
        size = int.from_bytes(file.read(8), "little")
        if key not in storages or size != storages[key].size:
            raise ValueError("its storages are not those of its tensors")
        contents[key] = file.read(size * np.dtype(storages[key].dtype).itemsize)
    return _arrays(state, lambda storage: contents[storage.key])


def _arrays(state: dict, content_of: Callable[[Storage], bytes]) -> dict[str, np.ndarray]:
    """The tensors of a state as arrays; those that share a storage do so still."""
    if not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError("not a dict of tensors")
    storages: dict[Storage, np.ndarray] = {}
    found = {}
    for name, (storage, offset, shape, strides) in state.items():
        if storage not in storages:
            storages[storage] = np.frombuffer(content_of(storage), storage.dtype, storage.size)
        numbers = storages[storage]
        last = offset + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))
        if min((offset, *shape, *strides), default=0) < 0 or (0 not in shape and last >= len(numbers)):
            raise ValueError(f"{name} reaches beyond its storage")
        steps = [stride * numbers.itemsize for stride in strides]
        found[name] = np.lib.stride_tricks.as_strided(numbers[offset:], shape, steps, writeable=False)
    return found
