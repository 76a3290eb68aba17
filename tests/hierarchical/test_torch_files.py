"""torch_files.py: tensors of torch.save are read, in both forms, and nothing else; torch itself is not there.

What torch 2.13.0 wrote lies in tests/data/encoders. Other files are made here, with classes that pickle as torch's do.
"""

import io
import os
import pickle
import zipfile
from collections import OrderedDict

import numpy as np
import pytest

from hierarchical.errors import InputError
from hierarchical.torch_files import MAGIC, read_torch
from hierarchical.weights import read_weights
from tests.conftest import ROOT
from tests.hierarchical.test_weights import Payload

ENCODERS = ROOT / "tests" / "data" / "encoders"


class Named:
    """Pickles as a global of any name."""

    def __init__(self, module, name):
        self.module, self.name = module, name


class Tensor:
    def __init__(self, storage, offset, shape, strides):
        self.parts = storage, offset, shape, strides


class Storage:
    def __init__(self, kind, key, size):
        self.kind, self.key, self.size = kind, key, size


class Pickler(pickle._Pickler):
    """Writes Tensor, Storage and Named as torch does."""

    def persistent_id(self, value):
        if isinstance(value, Storage):
            return ("storage", Named("torch", value.kind), value.key, "cpu", value.size)

    def save(self, value, save_persistent_id=True):
        if isinstance(value, Named):
            self.write(b"c" + f"{value.module}\n{value.name}\n".encode())
        elif isinstance(value, Tensor):
            rebuild = Named("torch._utils", "_rebuild_tensor_v2")
            self.save(rebuild)
            self.save((*value.parts, False, OrderedDict()))
            self.write(b"R")
        else:
            super().save(value, save_persistent_id)


def dumped(value):
    buffer = io.BytesIO()
    Pickler(buffer, 2).dump(value)
    return buffer.getvalue()


def write_zip(path, state, order=b"little", **storages):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", dumped(state))
        archive.writestr("archive/byteorder", order)
        for key, content in storages.items():
            archive.writestr(f"archive/data/{key}", content)
    return path


def numbers(dtype="<f4", n=6):
    return np.arange(n).astype(dtype).tobytes()


def test_what_torch_wrote_in_both_forms():
    new, old = (read_torch(ENCODERS / kind / "pytorch_model.bin") for kind in ("ernie", "roberta"))
    assert len(new) > 40 and len(old) > 38
    assert new["ernie.embeddings.word_embeddings.weight"].dtype == np.float32
    assert old["roberta.embeddings.position_embeddings.weight"].shape == (66, 8)
    assert "roberta.encoder.layer.1.output.LayerNorm.gamma" in old
    for state in (new, old):
        assert all(np.isfinite(value).all() for value in state.values())


@pytest.mark.parametrize(
    "kind, dtype", [("FloatStorage", "<f4"), ("DoubleStorage", "<f8"), ("HalfStorage", "<f2"), ("LongStorage", "<i8")]
)
def test_views_of_storages(tmp_path, kind, dtype):
    storage = Storage(kind, "k0", 6)
    state = {
        "all": Tensor(storage, 0, (2, 3), (3, 1)),
        "transposed": Tensor(storage, 0, (3, 2), (1, 3)),
        "part": Tensor(storage, 4, (2,), (1,)),
        "one": Tensor(storage, 5, (), ()),
        "none": Tensor(storage, 0, (0, 3), (3, 1)),
    }
    found = read_torch(write_zip(tmp_path / "m.bin", state, k0=numbers(dtype)))
    assert found["all"].tolist() == [[0, 1, 2], [3, 4, 5]] and found["all"].dtype == np.dtype(dtype)
    assert found["transposed"].tolist() == [[0, 3], [1, 4], [2, 5]]
    assert found["part"].tolist() == [4, 5] and found["one"].tolist() == 5 and found["none"].shape == (0, 3)


def test_bfloat16(tmp_path):
    values = np.array([1.0, -2.5, 0.15625], np.float32)
    halves = (values.view(np.uint32) >> 16).astype("<u2").tobytes()
    path = write_zip(tmp_path / "m.bin", {"a": Tensor(Storage("BFloat16Storage", "x", 3), 0, (3,), (1,))}, x=halves)
    read = read_weights(path)["a"]
    assert read.dtype == np.float32 and read.tolist() == values.tolist()


@pytest.mark.parametrize(
    "tensor",
    [
        Tensor(Storage("FloatStorage", "x", 6), 3, (2, 3), (3, 1)),
        Tensor(Storage("FloatStorage", "x", 6), 0, (2, 3), (1000, 1)),
        Tensor(Storage("FloatStorage", "x", 6), -1, (2,), (1,)),
        Tensor(Storage("FloatStorage", "x", 6), 5, (2,), (-1,)),
        Tensor(Storage("FloatStorage", "x", 7), 0, (7,), (1,)),
        Tensor(Storage("FloatStorage", "absent", 6), 0, (6,), (1,)),
        Tensor(Storage("FloatStorage", "../data.pkl", 6), 0, (6,), (1,)),
        Tensor(Storage("QInt8Storage", "x", 6), 0, (6,), (1,)),
        Tensor("no storage", 0, (6,), (1,)),
        [1, 2],
        "text",
    ],
)
def test_what_is_no_view_of_a_storage(tmp_path, tensor):
    path = write_zip(tmp_path / "m.bin", {"a": tensor}, x=numbers())
    with pytest.raises(InputError, match="m.bin: not a usable parameter file"):
        read_weights(path)


@pytest.mark.parametrize("nested", [lambda bomb: bomb, lambda bomb: {"weight": bomb}, lambda bomb: {"a": [(bomb,)]}])
@pytest.mark.parametrize("how", ["system", "eval", "getattr", "import"])
@pytest.mark.parametrize("form", ["zip", "old"])
def test_a_payload_is_refused_and_not_run(tmp_path, form, how, nested):
    marker = tmp_path / "marker"
    bomb = {
        "system": Payload(os.system, f"echo x > {marker}"),
        "eval": Payload(eval, f"open({str(marker)!r}, 'w')"),
        "getattr": Payload(getattr, np.ndarray, "tofile"),
        "import": Payload(__import__, "antigravity"),
    }[how]
    path = tmp_path / "pytorch_model.bin"
    if form == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("archive/data.pkl", pickle.dumps(nested(bomb), 2))
    else:
        path.write_bytes(b"".join(pickle.dumps(value, 2) for value in (MAGIC, 1001, {}, nested(bomb), [])))
    with pytest.raises(InputError, match="pytorch_model.bin: not a usable parameter file.*which is code"):
        read_weights(path)
    assert not marker.exists()


@pytest.mark.parametrize("kind", ["ernie", "roberta"])
@pytest.mark.parametrize("share", [0.001, 0.3, 0.999])
def test_files_cut_short(tmp_path, kind, share):
    content = (ENCODERS / kind / "pytorch_model.bin").read_bytes()
    path = tmp_path / "pytorch_model.bin"
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(InputError, match="pytorch_model.bin: not a usable parameter file.*cut short"):
        read_weights(path)


@pytest.mark.parametrize(
    "content", [b"hello", b"PK\x03\x04", b"\x80\x02", pickle.dumps({"a": np.ones(2)}, 2), b"\0" * 64]
)
def test_foreign_files(tmp_path, content):
    (tmp_path / "m.bin").write_bytes(content)
    with pytest.raises(InputError, match="m.bin: not a usable parameter file"):
        read_weights(tmp_path / "m.bin")


def test_numbers_of_other_machines(tmp_path):
    state = {"a": Tensor(Storage("FloatStorage", "x", 6), 0, (6,), (1,))}
    with pytest.raises(InputError, match="highest byte"):
        read_weights(write_zip(tmp_path / "m.bin", state, order=b"big", x=numbers()))
