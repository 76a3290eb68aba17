"""Parameter files: safe to read, whoever wrote them, and never half fitting a model.

model.safetensors is what is read; model_state.pdparams, the library's older form, holds the same numbers. Encoders may
come in the files of torch too, and in several. Nothing is ever unpickled freely: a .pdparams is read through an
unpickler that knows arrays and plain containers, a pytorch_model.bin by torch_files.py.

With the numbers stands what they belong to, as the metadata "identity" of model.safetensors: see identity.py. Files of
others, and those that were written before there was one, have none.
"""

import hashlib
import json
import math
import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

from hierarchical.errors import InputError, some
from hierarchical.files import atomic_write, refuse_pointer, require_file
from hierarchical.sets import in_force
from hierarchical.torch_files import read_torch

WEIGHTS, PICKLED_WEIGHTS = "model.safetensors", "model_state.pdparams"
INDEX = ".index.json"  # of parameters in several files
# Of an encoder to start from, the first that is there; what can hold no code comes first.
ENCODER_WEIGHTS = [name + end for name in (WEIGHTS, PICKLED_WEIGHTS, "pytorch_model.bin") for end in ("", INDEX)]
NUMBERS = "weights"  # in an identity: the digest of the parameters, beside those of files by their names
# Of a run's state: what AdamW holds of each number, and of a parameter, by the library's names.
MOMENTS, POWERS = ("moment1_0", "moment2_0"), ("beta1_pow_acc_0", "beta2_pow_acc_0")


class _ArrayUnpickler(pickle.Unpickler):
    """Unpickles numpy arrays and plain containers, and refuses everything else: nothing in the file is run."""

    KNOWN = {
        ("numpy.core.multiarray", "_reconstruct"),
        ("numpy._core.multiarray", "_reconstruct"),
        ("numpy.core.multiarray", "scalar"),
        ("numpy._core.multiarray", "scalar"),
        ("numpy", "ndarray"),
        ("numpy", "dtype"),
        ("collections", "OrderedDict"),
        ("_codecs", "encode"),
    }

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self.KNOWN:
            raise pickle.UnpicklingError(f"it holds {module}.{name}, which is code, not numbers")
        return super().find_class(module, name)


def read_weights(path: str | Path) -> dict[str, np.ndarray]:
    """Parameter name -> numpy array, from a file of READERS, or of several that an index lists.

    Raises InputError for anything foreign. 16-bit numbers of bfloat16 become float32.
    """
    path = in_force(path)
    require_file(path, "It holds the parameters of a model.")
    if path.stat().st_size < 1024:
        refuse_pointer(path, path.read_bytes())
    if path.name.endswith(INDEX):
        return _read_shards(path)
    try:
        state = READERS.get(path.suffix, _read_pickled)(path)
        if not all(isinstance(value, np.ndarray) for value in state.values()):
            raise ValueError("not a dict of arrays of numbers")
        state = {name: _without_bfloat16(value) for name, value in state.items()}
        if not all(value.dtype.kind in "fiub" for value in state.values()):
            raise ValueError("not a dict of arrays of numbers")
        return state
    except (OSError, InputError):
        raise
    except Exception as error:  # a damaged or hostile file can make the readers raise anything
        raise InputError(
            f"{path}: not a usable parameter file ({error}). It may be cut short, or was not written by paddle or "
            "torch; copy it again, or train anew."
        ) from None


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    from safetensors.numpy import load_file

    state, identity = load_file(path), read_identity(path)
    if identity and identity.get(NUMBERS) != parameter_digest(state):
        raise ValueError("its numbers are not those that were written")
    return state


def _read_pickled(path: Path) -> dict[str, np.ndarray]:
    with open(path, "rb") as file:
        state = _ArrayUnpickler(file).load()
    state.pop("StructuredToParameterName@@", None)
    return state


def _read_shards(path: Path) -> dict[str, np.ndarray]:
    """The parameters of all files that an index lists: {"weight_map": {parameter name: file name}}."""
    try:
        shard_of = json.loads(path.read_bytes())["weight_map"]
        if not all(Path(shard).name == shard and Path(shard).suffix in READERS for shard in shard_of.values()):
            raise ValueError("weight_map names files in other folders, or of other kinds")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"{path}: not the index of a model's parameter files ({error}). Copy it again.") from None
    state: dict[str, np.ndarray] = {}
    for shard in sorted(set(shard_of.values())):
        require_file(path.with_name(shard), f"{path.name} lists it. Copy the whole folder again.")
        state |= read_weights(path.with_name(shard))
    if absent := [name for name in shard_of if name not in state]:
        raise InputError(f"{path}: lists {some(absent)}, in none of its files. Copy the whole folder again.")
    return state


def _without_bfloat16(value: np.ndarray) -> np.ndarray:
    """bfloat16, which numpy has not, as float32, whose upper half it is; paddle and torch_files.py say uint16."""
    if value.dtype.name not in ("bfloat16", "uint16"):
        return value
    return (value.view(np.uint16).astype(np.uint32) << 16).view(np.float32)


READERS = {".safetensors": _read_safetensors, ".pdparams": _read_pickled, ".bin": read_torch}


def parameter_digest(state: Mapping[str, Any]) -> str:
    """SHA-256 of parameters by name, as hexadecimal text; it does not depend on their order.

    state: arrays, or Paddle's tensors, of which one at a time is copied
    """
    sha256 = hashlib.sha256()
    for name, value in sorted(state.items()):
        sha256.update(name.encode())
        sha256.update(np.ascontiguousarray(np.asarray(value)).data)
    return sha256.hexdigest()


def write_weights(directory: str | Path, model: Any, identity: Mapping[str, str] | None = None) -> None:
    """model.safetensors, and the same numbers as model_state.pdparams for tools that expect the older name.

    identity: the digests of the files that the numbers belong with; that of the numbers is added.
    """
    state, metadata = model.state_dict(), {"format": "np"}
    if identity is not None:
        metadata["identity"] = json.dumps({**identity, NUMBERS: parameter_digest(state)})
    with atomic_write(Path(directory) / WEIGHTS, "wb") as file:
        write_tensors(file, state, metadata)
    with atomic_write(Path(directory) / PICKLED_WEIGHTS, "wb") as file:
        pickler = _TensorPickler(file, protocol=4)
        pickler.fast = True  # remembers nothing of what it has written, and so holds none of it
        pickler.dump({name: _Tensor(value) for name, value in state.items()})


def write_tensors(file: IO[bytes], tensors: Mapping[str, Any], metadata: Mapping[str, str]) -> None:
    """A .safetensors file of arrays or Paddle's tensors, written one after the other: no more than one is copied.

    The same numbers and metadata make the same bytes; the library writes metadata in any order.
    """
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    position = 0
    for name, value in sorted(tensors.items()):
        dtype = np.dtype(str(value.dtype).removeprefix("paddle."))
        end = position + math.prod(value.shape) * dtype.itemsize
        header[name] = {
            "dtype": f"{dtype.kind.upper()}{8 * dtype.itemsize}",
            "shape": list(value.shape),
            "data_offsets": [position, end],
        }
        position = end
    content = json.dumps(header, separators=(",", ":")).encode()
    content += b" " * (-len(content) % 8)
    file.write(len(content).to_bytes(8, "little") + content)
    for _, value in sorted(tensors.items()):
        file.write(np.ascontiguousarray(np.asarray(value)).data)


class _Tensor(NamedTuple):
    """A tensor that `_TensorPickler` makes an array of, when its turn has come."""

    value: Any


class _TensorPickler(pickle.Pickler):
    def reducer_override(self, value: Any) -> Any:
        return np.asarray(value.value).__reduce__() if isinstance(value, _Tensor) else NotImplemented


def array_of(arrays: Mapping[str, np.ndarray], name: str, shape: Sequence[int], path: Path) -> np.ndarray:
    """One of the arrays of a run's state; raises InputError unless it is there, of float32 and this shape.

    path: of the state's file. What updates parameters on CPUs trusts their shapes, and would write into other memory.
    """
    found = arrays.get(name)
    if found is None or found.dtype != np.float32 or list(found.shape) != list(shape):
        what = "missing" if found is None else f"{found.dtype} {list(found.shape)}, not float32 {list(shape)}"
        raise damaged_state(path, name, what)
    return found


def damaged_state(path: Path, name: str, what: str) -> InputError:
    """For an array of a run's state with which it cannot go on."""
    return InputError(f"{path}: damaged ({name}: {what}). Start again, without continuing that run.")


def read_identity(path: Path | None) -> dict[str, str] | None:
    """What a parameter file belongs to: file name -> digest, and that of its numbers; None if it does not say."""
    if path is None or path.suffix != ".safetensors":
        return None
    from safetensors import safe_open

    try:
        with safe_open(path, "np") as file:
            metadata = file.metadata() or {}
    except Exception:  # it is damaged, which `read_weights` tells
        return None
    return parse_identity(metadata.get("identity"), path)


def parse_identity(text: str | None, path: Path) -> dict[str, str] | None:
    """An identity as it stands in the metadata of a file; None stays None."""
    if text is None:
        return None
    try:
        return {name: str(digest) for name, digest in json.loads(text).items()}
    except (ValueError, AttributeError):
        raise InputError(f"{path}: damaged; copy it again from where it was made.") from None


def find_weights(directory: str | Path) -> Path | None:
    """The parameter file of a model directory, safetensors before .pdparams; None if it has neither."""
    folder = in_force(directory)
    return next((p for name in (WEIGHTS, PICKLED_WEIGHTS) if (p := folder / name).exists()), None)


def find_encoder_weights(directory: str | Path) -> Path | None:
    """The parameter file, or index of several, of an encoder to start from; None if it has none of ENCODER_WEIGHTS."""
    folder = in_force(directory)
    return next((path for name in ENCODER_WEIGHTS if (path := folder / name).exists()), None)


def refuse_foreign_weights(directory: str | Path) -> None:
    """Raise InputError when a directory without ENCODER_WEIGHTS has other parameter files."""
    suffixes = (".bin", ".pt", ".safetensors", ".pdparams")
    if foreign := sorted(path.name for path in Path(directory).iterdir() if path.suffix in suffixes):
        raise InputError(
            f"{directory}: weights in a form that is not read here ({', '.join(foreign)}). Needed is one of "
            f"{', '.join(ENCODER_WEIGHTS)}."
        )


def may_be_missing(name: str) -> bool:
    """Whether a pre-trained encoder can do without this parameter: encoders without a pooler exist."""
    return "pooler" in name


def load_weights(model: Any, path: str | Path) -> None:
    """Copy a file's parameters into `model`: see `load_state`."""
    load_state(model, read_weights(path), path)


def load_state(model: Any, state: Mapping[str, np.ndarray], path: str | Path, encoder_only: bool = False) -> list[str]:
    """Copy parameters into `model`, by name, with or without the encoder's prefix; returns the names of those missing.

    encoder_only: they are a pre-trained encoder's: heads it brings are ignored, ours need not be there, and a pooler
    may be missing. path: the file, for messages.
    Raises InputError for a parameter that is missing or whose shape differs: never a silent random start.
    """
    wanted, prefix = model.state_dict(), model.base_model_prefix + "."
    if encoder_only:
        wanted = {name: value for name, value in wanted.items() if name.startswith(prefix)}
    found, missing, faults = {}, [], []
    for name in wanted:
        value = state.get(name, state.get(name.removeprefix(prefix)))
        if value is None:
            missing.append(name)
            if not (encoder_only and may_be_missing(name)):
                faults.append(f"{name} is missing")
        elif list(value.shape) != list(wanted[name].shape):
            faults.append(f"{name} has the shape {list(value.shape)}, this model needs {list(wanted[name].shape)}")
        else:
            found[name] = value
    if faults:
        more = f" (and {len(faults) - 5} more)" if len(faults) > 5 else ""
        beside = f" and the {Path(path).with_name('config.json')} beside it" if encoder_only else ""
        fit = "do not fit each other" if encoder_only else "does not fit this model"
        raise InputError(f"{path}{beside}: {fit}: {'; '.join(faults[:5])}{more}.")
    model.set_state_dict({name: value.astype("float32") for name, value in found.items()})
    return missing
