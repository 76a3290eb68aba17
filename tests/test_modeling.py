"""modeling.py: parameter files that are safe to read, checkpoints that fit, logits that depend on the text alone."""

import json
import os
import pickle
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import modeling
from metric import Decision
from modeling import (
    DECISION,
    PICKLED_WEIGHTS,
    WEIGHTS,
    build_model,
    encode_features,
    find_weights,
    load_checkpoint,
    load_weights,
    model_directory,
    model_inputs,
    predict_logits,
    prepare_runtime,
    read_config,
    read_settings,
    read_weights,
    require_same_labels,
    set_device,
    sigmoid,
    write_settings,
    write_weights,
)
from tokenizer import load_tokenizer
from utils import InputError, LabelTree

ROOT = Path(__file__).resolve().parents[1]
TREE = LabelTree(["体育", "体育##足球", "财经"])
TINY = dict(num_hidden_layers=1, hidden_size=16, num_attention_heads=2, intermediate_size=32, vocab_size=50)
TEXTS = ["北京今天有雨", "国足三比零获胜，主帅赛后表示满意", "", "A股三大指数集体高开", "雨" * 60, "网红餐厅开业"]


def tiny_model(paddle, n_labels=3, family="Ernie", seed=0, **config):
    import paddlenlp.transformers as library

    paddle.seed(seed)
    config = {**TINY, "max_position_embeddings": 64, "initializer_range": 0.3, "num_labels": n_labels} | config
    model = build_model(getattr(library, f"{family}Config")(**config))
    model.eval()
    return model


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
    load_weights(target, save_pickle(tmp_path / "m.pdparams", state), encoder_only=True)
    for name, value in state_of(target).items():
        assert np.array_equal(value, before[name] if name.startswith("classifier") else state[name]), name

    without_pooler = {name: state[name] for name in state if name.startswith("ernie.") and "pooler" not in name}
    load_weights(tiny_model(paddle), save_pickle(tmp_path / "m.pdparams", without_pooler), encoder_only=True)
    del without_pooler["ernie.embeddings.word_embeddings.weight"]
    with pytest.raises(InputError, match="word_embeddings.weight is missing"):
        load_weights(tiny_model(paddle), save_pickle(tmp_path / "m.pdparams", without_pooler), encoder_only=True)


def test_the_library_loads_a_checkpoint(tiny_checkpoint):
    from paddlenlp.transformers import AutoModelForSequenceClassification

    ids = load_tokenizer(tiny_checkpoint, 64).encode(TEXTS)
    own = load_checkpoint(tiny_checkpoint)
    theirs = AutoModelForSequenceClassification.from_pretrained(str(tiny_checkpoint))
    theirs.eval()
    assert same(state_of(own), state_of(theirs))
    assert np.array_equal(predict_logits(own, ids, 0, 4), predict_logits(theirs, ids, 0, 4))


# ---- checkpoints -----------------------------------------------------------------------------------------------------


@pytest.fixture
def checkpoint(tmp_path):
    """What read_settings looks at: its own files, and that the others are there."""
    write_settings(tmp_path, TREE, 64, Decision())
    (tmp_path / WEIGHTS).write_bytes(b"x")
    (tmp_path / "config.json").write_text("{}")
    return tmp_path


@pytest.mark.parametrize(
    "decision", [Decision(), Decision([0.5, 0.25, 0.125], "topdown", 1, 3), Decision(0.3, "closure"), Decision(top_k=2)]
)
def test_settings_round_trip(checkpoint, decision):
    write_settings(checkpoint, TREE, 256, decision)
    tree, max_seq_length, read = read_settings(checkpoint)
    assert (tree.labels, max_seq_length, read) == (TREE.labels, 256, decision)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ('{"max_seq_length": 64, "threshold": [0.5, 0.5]}', "2 thresholds for 3 labels"),
        ('{"max_seq_length": 64, "threshold": 7}', "from 0 to 1"),
        ('{"max_seq_length": 64, "threshold": NaN}', "from 0 to 1"),
        ('{"max_seq_length": 64, "decoding": "best"}', "decoding must be one of"),
        ('{"max_seq_length": 64, "treshold": 0.5}', "unknown decision settings treshold"),
        ('{"max_seq_length": 2}', "max_seq_length is 2"),
        ('{"max_seq_length": "64"}', "max_seq_length is '64'"),
        ('{"max_seq_length": true}', "max_seq_length is True"),
        ("{}", "max_seq_length"),
        ("[]", "decision settings"),
        ("3", "decision settings"),
        ('{"max_seq_length": 64', "decision settings"),
        ("[" * 100_000, "decision settings"),
        (b"\xff\xfe", "decision settings"),
    ],
)
def test_broken_settings_name_the_file(checkpoint, content, says):
    (checkpoint / DECISION).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError, match=f"{DECISION}: not the decision settings") as error:
        read_settings(checkpoint)
    assert says in str(error.value)


@pytest.mark.parametrize("name", [WEIGHTS, "config.json", "label.txt", DECISION])
def test_an_incomplete_checkpoint_is_named_with_the_fix(checkpoint, name):
    (checkpoint / name).unlink()
    with pytest.raises(InputError, match=name):
        read_settings(checkpoint)
    with pytest.raises(InputError, match="no such directory. Pass the --save_dir of train.py"):
        read_settings(checkpoint / "nowhere")


@pytest.mark.parametrize(
    ("labels", "says"),
    [
        (["体育", "财经", "体育##足球"], "same labels in another order"),
        (["体育", "体育##足球", "财经", "科技"], "only in the file: 科技"),
        (["体育", "财经"], "only in the checkpoint: 体育##足球"),
        (["体育", "体育##足球", "金融"], "only in the checkpoint: 财经; only in the file: 金融"),
    ],
)
def test_labels_of_data_and_checkpoint(tmp_path, labels, says):
    path = tmp_path / "label.txt"
    require_same_labels(TREE, path)  # a data folder need not bring its own
    path.write_text("\ufeff" + "\r\n".join(TREE.labels), encoding="utf-8")
    require_same_labels(TREE, path)
    path.write_text("\n".join(labels), encoding="utf-8")
    with pytest.raises(InputError, match=f"label.txt: differs.*{says}"):
        require_same_labels(TREE, path)


def test_load_checkpoint_with_files_that_do_not_fit(tiny_checkpoint, tmp_path):
    folder = shutil.copytree(tiny_checkpoint, tmp_path / "checkpoint")
    with open(folder / "label.txt", "a", encoding="utf-8") as file:
        file.write("新标签\n")
    with pytest.raises(InputError, match="the model has 31 outputs, but label.txt 32 labels"):
        load_checkpoint(folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config["id2label"]["31"] = "新标签"
    config["label2id"]["新标签"] = 31
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(InputError, match=r"classifier.weight has the shape \[128, 31\], this model needs \[128, 32\]"):
        load_checkpoint(folder)
    for name in (WEIGHTS, PICKLED_WEIGHTS):
        (folder / name).unlink()
    with pytest.raises(InputError, match=f"{WEIGHTS}: no such file"):
        load_checkpoint(folder)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("{", "not a model configuration"),
        ("[]", "not a model configuration"),
        ("[" * 100_000, "not a model configuration"),
        ('{"model_type": "llama"}', "'llama'"),
        ("{}", "None"),
    ],
)
def test_foreign_configurations(tmp_path, content, says):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(InputError, match=f"config.json: .*{says}"):
        read_config(tmp_path)


def test_model_directory(paddle, tmp_path, monkeypatch):
    with pytest.raises(InputError, match="config.json: no such file"):
        model_directory(str(tmp_path))
    (tmp_path / "config.json").write_text("{}")
    assert model_directory(str(tmp_path)) == tmp_path
    with pytest.raises(InputError, match="neither a local directory nor a known name. Known: .*ernie-3.0-medium-zh"):
        model_directory("ernie-9.0")

    def no_network(*_, **__):
        raise OSError("Network is unreachable")

    monkeypatch.setattr("paddlenlp.utils.env.MODEL_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(socket, "create_connection", no_network)
    monkeypatch.setattr(socket, "getaddrinfo", no_network)
    for name in ("ernie-3.0-medium-zh", "ernie-m-base"):
        with pytest.raises(InputError, match="could not be downloaded.*--model_name path/to/directory"):
            model_directory(name)


# ---- logits ----------------------------------------------------------------------------------------------------------


def test_model_inputs(paddle):
    inputs = model_inputs([[1, 7, 8, 2], [1, 2]], pad_id=0)
    assert inputs["input_ids"].tolist() == [[1, 7, 8, 2], [1, 2, 0, 0]]
    assert inputs["attention_mask"].tolist() == [[1, 1, 1, 1], [1, 1, 0, 0]]
    # "[PAD]" spelt out in a text is hidden too: an exported graph has only the ids to tell by
    assert model_inputs([[1, 0, 2], [1, 2]], pad_id=0)["attention_mask"].tolist() == [[1, 0, 1], [1, 1, 0]]


@pytest.mark.parametrize("family", ["Ernie", "ErnieM"])
def test_logits_do_not_depend_on_batch_mates_or_order(paddle, family):
    model, rng = tiny_model(paddle, family=family), np.random.default_rng(0)
    ids = [rng.integers(3, 50, length).tolist() for length in (3, 40, 7, 7, 21, 60, 3, 33)]
    alone = predict_logits(model, ids, 0, batch_size=1)
    assert np.std(alone, axis=0).min() > 0.01  # the texts do differ
    order = rng.permutation(len(ids))
    for batch_size in (2, 3, 8, 100):
        np.testing.assert_allclose(predict_logits(model, ids, 0, batch_size), alone, atol=1e-5)
        shuffled = predict_logits(model, [ids[i] for i in order], 0, batch_size)
        np.testing.assert_allclose(shuffled, alone[order], atol=1e-5)


@pytest.mark.parametrize("family", ["Ernie", "ErnieM"])
def test_features_are_what_the_classifier_sees(paddle, family):
    model = tiny_model(paddle, family=family)
    tokenizer = SimpleNamespace(pad_id=0, encode=lambda texts: [[1, *(3 + ord(c) % 40 for c in t), 2] for t in texts])
    model.train()
    features = encode_features(model, tokenizer, TEXTS[:4], batch_size=2, name="encode")
    assert features.shape == (4, 16) and features.dtype == np.float32 and model.training
    weight, bias = model.classifier.weight.numpy(), model.classifier.bias.numpy()
    logits = predict_logits(model, tokenizer.encode(TEXTS[:4]), 0, batch_size=3)
    np.testing.assert_allclose(features @ weight + bias, logits, atol=1e-5)
    assert encode_features(model, tokenizer, [], 2, "encode").shape == (0, 16)


def test_predict_logits_leaves_the_model_as_it_was(paddle):
    model, done = tiny_model(paddle, hidden_dropout_prob=0.5), []
    ids = [[1, 5, 2], [1, 6, 7, 2], [1, 2]]
    expected = predict_logits(model, ids, 0, 2, progress=done.append)
    assert expected.shape == (3, 3) and expected.dtype == np.float32 and done == [2, 1] and not model.training
    model.train()
    assert np.array_equal(predict_logits(model, ids, 0, 2), expected) and model.training
    assert predict_logits(model, [], 0, 2).shape == (0, 3)


def test_sigmoid():
    logits = np.array([-1000, -100, -20, -1, 0, 1, 20, 100, 1000], np.float32)
    with np.errstate(all="raise", under="ignore"):
        found = sigmoid(logits)
    assert found.dtype == np.float32 and found[0] == 0 and found[-1] == 1 and found[4] == 0.5
    assert np.all(np.diff(found) >= 0)
    np.testing.assert_allclose(found[2:7], 1 / (1 + np.exp(-logits[2:7].astype(np.float64))), rtol=1e-6)
    expit = pytest.importorskip("scipy.special").expit
    values = np.random.default_rng(0).normal(0, 20, (50, 7)).astype(np.float32)
    np.testing.assert_allclose(sigmoid(values), expit(values.astype(np.float64)), rtol=1e-6)


# ---- runtime ---------------------------------------------------------------------------------------------------------


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
    assert modeling._mkl_code_path(tmp_path / "cpuinfo") == code_path


def test_prepare_runtime_overrides_nothing(monkeypatch):
    monkeypatch.setattr(modeling, "_mkl_code_path", lambda: "7")
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
    monkeypatch.setattr(modeling, "available_cores", lambda: 3)
    monkeypatch.setattr(os, "environ", dict(others))
    prepare_runtime("cpu")
    assert os.environ.get("MKL_NUM_THREADS") == threads


def test_a_missing_device_is_replaced_with_a_warning(paddle, monkeypatch):
    said = []
    monkeypatch.setattr(modeling.get_logger(), "warning", said.append)
    monkeypatch.setattr(paddle, "is_compiled_with_cuda", lambda: False)
    for device in ("gpu", "gpu:1", "npu", "abacus"):
        assert set_device(device) is paddle and paddle.get_device() == "cpu"
        assert f"--device {device} asked for" in said.pop() and not said
    set_device("cpu")
    assert not said
    with pytest.raises(InputError, match="--device cpu:x: "):
        set_device("cpu:x")


def test_nothing_heavy_is_imported_with_the_module():
    code = "import sys, modeling; print(any(name in sys.modules for name in ('paddle', 'paddlenlp', 'safetensors')))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stdout == "False\n"
