"""weights.py: parameter files that are safe to read, and parameters that fit a model or are refused."""

import json
import os
import pickle

import numpy as np
import pytest
from safetensors.numpy import load, save, save_file

from hierarchical.checkpoints import Checkpoint
from hierarchical.modeling import predict_logits
from hierarchical.weights import (
    PICKLED_WEIGHTS,
    WEIGHTS,
    find_encoder_weights,
    find_weights,
    load_state,
    load_weights,
    read_weights,
    refuse_foreign_weights,
    write_tensors,
    write_weights,
)
from tests.hierarchical.test_modeling import TEXTS, tiny_model
from tests.memory import peak_bytes
from utils import InputError


def state_of(model):
    return {name: value.numpy() for name, value in model.state_dict().items()}


def same(one, other):
    return one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)


def save_pickle(path, value):
    path.write_bytes(pickle.dumps(value, protocol=4))
    return path


# ---- parameter files -------------------------------------------------------------------------------------------------


def test_write_and_read_weights(paddle, tmp_path):
    model = tiny_model(paddle)
    write_weights(tmp_path, model)
    for name in (WEIGHTS, PICKLED_WEIGHTS):
        assert same(read_weights(tmp_path / name), state_of(model)), name
    assert sorted(os.listdir(tmp_path)) == sorted([WEIGHTS, PICKLED_WEIGHTS])


def test_the_bytes_are_those_of_the_library(paddle, tmp_path):
    """But for the order of metadata, which the library leaves to chance: here is one entry."""
    state = state_of(tiny_model(paddle)) | {"step": np.array([7], np.int64), "scale": np.array(0.5)}
    with open(tmp_path / "ours", "wb") as file:
        write_tensors(file, state, {"format": "np"})
    expected = load(save(state, {"format": "np"}))
    assert same(load((tmp_path / "ours").read_bytes()), expected) and expected["scale"].shape == ()
    floats = {name: value for name, value in state.items() if value.dtype == np.float32}
    with open(tmp_path / "ours", "wb") as file:
        write_tensors(file, floats, {"format": "np"})
    assert (tmp_path / "ours").read_bytes() == save(floats, {"format": "np"})


class Lazy:
    """Looks like one of Paddle's tensors; its numbers come to be when they are asked for, like the copy that it gives."""

    dtype, shape = "paddle.float32", [250_000]  # a megabyte

    def __array__(self, dtype=None, copy=None):
        return np.ones(250_000, np.float32)


def test_a_save_holds_one_tensor_at_a_time(tmp_path):
    class Model:
        def state_dict(self):
            return {f"layer.{i}": Lazy() for i in range(40)}

    _, peak = peak_bytes(write_weights, tmp_path, Model(), {"label.txt": "0"})
    assert peak < 3.5e6  # of 40
    for name in (WEIGHTS, PICKLED_WEIGHTS):
        assert len(read_weights(tmp_path / name)) == 40


@pytest.mark.parametrize("protocol", [2, 4])
def test_what_paddle_saved_is_read(paddle, tmp_path, protocol):
    model = tiny_model(paddle)
    paddle.save(model.state_dict(), str(tmp_path / "m.pdparams"), protocol=protocol)
    assert same(read_weights(tmp_path / "m.pdparams"), state_of(model))


def test_what_was_written_is_read_by_paddle(paddle, tmp_path):
    model = tiny_model(paddle)
    write_weights(tmp_path, model)
    loaded = paddle.load(str(tmp_path / PICKLED_WEIGHTS), return_numpy=True)
    assert same(loaded, state_of(model))


def test_bfloat16_is_not_taken_for_integers(paddle, tmp_path):
    values = paddle.to_tensor([1.0, -2.5, 0.15625])
    paddle.save({"a": values.astype("bfloat16")}, str(tmp_path / "m.pdparams"))
    read = read_weights(tmp_path / "m.pdparams")["a"]
    assert read.dtype == np.float32 and read.tolist() == [1.0, -2.5, 0.15625]


class Payload:
    """Unpickled freely, it calls a function."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("nested", [lambda bomb: bomb, lambda bomb: {"weight": bomb}, lambda bomb: {"a": [(bomb,)]}])
@pytest.mark.parametrize("how", ["system", "eval", "exec", "getattr"])
def test_a_pickle_bomb_is_refused_and_does_not_go_off(tmp_path, how, nested):
    marker = tmp_path / "marker"
    bomb = {
        "system": Payload(os.system, f"echo x > {marker}"),
        "eval": Payload(eval, f"open({str(marker)!r}, 'w')"),
        "exec": Payload(exec, f"open({str(marker)!r}, 'w')"),
        "getattr": Payload(getattr, np.ndarray, "tofile"),
    }[how]
    path = save_pickle(tmp_path / "m.pdparams", nested(bomb))
    with pytest.raises(InputError, match="m.pdparams: not a usable parameter file.*which is code"):
        read_weights(path)
    assert not marker.exists()


@pytest.mark.parametrize("name", ["m.pdparams", "m.safetensors"])
@pytest.mark.parametrize(
    "content",
    [b"hello", "权重\n".encode(), b"{}", b"\0" * 64, b"\xff" * 64, b"\x80\x04", b"\x80\x04\x8e" + b"\xff" * 8],
)
def test_foreign_files(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=f"{name}: not a usable parameter file"):
        read_weights(tmp_path / name)


@pytest.mark.parametrize("name", [WEIGHTS, PICKLED_WEIGHTS])
@pytest.mark.parametrize("share", [0.001, 0.3, 0.999])
def test_truncated_files(tiny_checkpoint, tmp_path, name, share):
    content = (tiny_checkpoint / name).read_bytes()
    (tmp_path / name).write_bytes(content[: int(len(content) * share)])
    with pytest.raises(InputError, match=f"{name}: not a usable parameter file.*cut short"):
        read_weights(tmp_path / name)


@pytest.mark.parametrize(
    "value", [[1, 2], {"a": {"b": np.ones(2)}}, {"a": [1.0]}, {"a": "text"}, {"a": np.array([{}, None])}, 3, None]
)
def test_other_pickles(tmp_path, value):
    with pytest.raises(InputError, match="not a usable parameter file"):
        read_weights(save_pickle(tmp_path / "m.pdparams", value))


def test_missing_and_empty_files(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        read_weights(tmp_path / WEIGHTS)
    (tmp_path / WEIGHTS).touch()
    with pytest.raises(InputError, match="empty"):
        read_weights(tmp_path / WEIGHTS)


def test_find_weights_prefers_what_can_hold_no_code(tmp_path):
    assert find_weights(tmp_path) is None
    (tmp_path / PICKLED_WEIGHTS).touch()
    assert find_weights(tmp_path).name == PICKLED_WEIGHTS
    (tmp_path / WEIGHTS).touch()
    assert find_weights(tmp_path).name == WEIGHTS


# ---- several files ---------------------------------------------------------------------------------------------------


def write_shards(folder):
    """Two files of parameters and their index, whose path is returned."""
    weight_map = {}
    for i, name in ((1, "a"), (2, "b")):
        weight_map[name] = f"model-0000{i}-of-00002.safetensors"
        save_file({name: np.full(3, i, np.float32)}, folder / weight_map[name])
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return folder / "model.safetensors.index.json"


def test_shards_are_read_by_their_index(tmp_path):
    state = read_weights(write_shards(tmp_path))
    assert {name: value.tolist() for name, value in state.items()} == {"a": [1, 1, 1], "b": [2, 2, 2]}


def test_an_index_and_what_it_lists(tmp_path):
    index, second = write_shards(tmp_path), tmp_path / "model-00002-of-00002.safetensors"
    second.write_bytes(second.read_bytes()[:-4])
    with pytest.raises(InputError, match="model-00002-of-00002.safetensors: not a usable parameter file.*cut short"):
        read_weights(index)
    save_file({"c": np.ones(3, np.float32)}, second)
    with pytest.raises(InputError, match="index.json: lists b, in none of its files. Copy the whole folder again"):
        read_weights(index)
    second.unlink()
    with pytest.raises(InputError, match="00002.safetensors: no such file.*model.safetensors.index.json lists it"):
        read_weights(index)


@pytest.mark.parametrize(
    "content",
    ["{", "[]", "{}", '{"weight_map": []}', '{"weight_map": {"a": 1}}', '{"weight_map": {"a": "../model.safetensors"}}']
    + ['{"weight_map": {"a": "/etc/passwd"}}', '{"weight_map": {"a": "model.exe"}}', "[" * 100_000],
)
def test_what_is_no_index(tmp_path, content):
    (tmp_path / "model.safetensors.index.json").write_text(content)
    with pytest.raises(InputError, match="index.json: not the index of a model's parameter files"):
        read_weights(tmp_path / "model.safetensors.index.json")


@pytest.mark.parametrize("name", [WEIGHTS, PICKLED_WEIGHTS, "pytorch_model.bin", "model.safetensors.index.json"])
def test_a_note_of_git_in_the_place_of_the_weights(tmp_path, name):
    (tmp_path / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 438007537\n")
    with pytest.raises(InputError, match=rf"{name}: .*Git LFS pointer\); run `git lfs pull` in its folder"):
        read_weights(tmp_path / name)


def test_which_weights_an_encoder_starts_from(tmp_path):
    assert find_encoder_weights(tmp_path) is None
    names = ["pytorch_model.bin.index.json", "pytorch_model.bin", PICKLED_WEIGHTS, "model.safetensors.index.json"]
    for name in [*names, WEIGHTS]:
        (tmp_path / name).touch()
        assert find_encoder_weights(tmp_path).name == name
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "tf_model.bin").touch()
    with pytest.raises(InputError, match="tf_model.bin.*Needed is one of model.safetensors, model.safetensors.index"):
        refuse_foreign_weights(tmp_path / "other")


def test_bfloat16_of_safetensors(tmp_path):
    header = json.dumps({"a": {"dtype": "BF16", "shape": [2], "data_offsets": [0, 4]}}).encode()
    content = len(header).to_bytes(8, "little") + header + bytes([0x80, 0x3F, 0x20, 0xC0])
    (tmp_path / WEIGHTS).write_bytes(content)
    read = read_weights(tmp_path / WEIGHTS)["a"]
    assert read.dtype == np.float32 and read.tolist() == [1.0, -2.5]


# ---- parameters into models ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rename", [str, lambda name: name.removeprefix("ernie.")], ids=["prefix", "no prefix"])
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
def test_load_weights(paddle, tmp_path, rename, dtype):
    source, target = tiny_model(paddle, seed=1), tiny_model(paddle, seed=2)
    wanted = {name: value.astype(dtype) for name, value in state_of(source).items()}
    load_weights(target, save_pickle(tmp_path / "m.pdparams", {rename(name): value for name, value in wanted.items()}))
    assert same(state_of(target), {name: value.astype("float32") for name, value in wanted.items()})


@pytest.mark.parametrize("gone", ["ernie.embeddings.layer_norm.weight", "ernie.pooler.dense.bias", "classifier.bias"])
def test_a_missing_parameter_is_an_error(paddle, tmp_path, gone):
    state = state_of(tiny_model(paddle))
    del state[gone]
    with pytest.raises(InputError, match=f"m.pdparams: does not fit this model: {gone} is missing"):
        load_weights(tiny_model(paddle), save_pickle(tmp_path / "m.pdparams", state))


def test_a_different_shape_is_an_error_and_changes_nothing(paddle, tmp_path):
    model = tiny_model(paddle)
    before = state_of(model)
    for other in (tiny_model(paddle, 4), tiny_model(paddle, hidden_size=32), tiny_model(paddle, vocab_size=60)):
        with pytest.raises(InputError, match=r"has the shape \[.*this model needs \["):
            load_weights(model, save_pickle(tmp_path / "m.pdparams", state_of(other)))
    with pytest.raises(InputError, match="and .* more"):
        load_weights(model, save_pickle(tmp_path / "m.pdparams", {"a": np.ones(1)}))
    assert same(state_of(model), before)


def test_encoder_only(paddle, tmp_path):
    source, target = tiny_model(paddle, n_labels=7, seed=1), tiny_model(paddle, seed=2)
    state, before = state_of(source), state_of(target)
    state["cls.predictions.decoder_bias"] = np.ones(50, np.float32)  # a head that only pre-training has
    load_state(target, state, "m.pdparams", encoder_only=True)
    for name, value in state_of(target).items():
        assert np.array_equal(value, before[name] if name.startswith("classifier") else state[name]), name

    without_pooler = {name: state[name] for name in state if name.startswith("ernie.") and "pooler" not in name}
    load_state(tiny_model(paddle), without_pooler, "m.pdparams", encoder_only=True)
    del without_pooler["ernie.embeddings.word_embeddings.weight"]
    with pytest.raises(InputError, match="word_embeddings.weight is missing"):
        load_state(tiny_model(paddle), without_pooler, "m.pdparams", encoder_only=True)


def test_the_library_loads_a_checkpoint(tiny_checkpoint):
    from paddlenlp.transformers import AutoModelForSequenceClassification

    checkpoint = Checkpoint.open(tiny_checkpoint)
    ids, own = checkpoint.tokenizer.encode(TEXTS), checkpoint.load_model()
    theirs = AutoModelForSequenceClassification.from_pretrained(str(tiny_checkpoint))
    theirs.eval()
    assert same(state_of(own), state_of(theirs))
    assert np.array_equal(predict_logits(own, ids, 0, 4), predict_logits(theirs, ids, 0, 4))
