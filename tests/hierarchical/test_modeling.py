"""modeling.py: networks as their configuration says, and logits that depend on the text alone."""

import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from hierarchical import cpu_network, modeling
from hierarchical.calibration import sigmoid
from hierarchical.cpu_layers import speed_up
from hierarchical.encoders import family_of, read_config
from hierarchical.first_token import is_alone
from hierarchical.modeling import (
    build_model,
    build_network,
    classify_features,
    classifying,
    encode_features,
    library_config,
    model_inputs,
    predict_logits,
    score,
)
from metric import Decision
from tests.conftest import ROOT, SAMPLE
from tests.hierarchical.layers import noted_passes
from utils import LabelTree, Rows

TINY = dict(num_hidden_layers=1, hidden_size=16, num_attention_heads=2, intermediate_size=32, vocab_size=50)
TEXTS = ["北京今天有雨", "国足三比零获胜，主帅赛后表示满意", "", "A股三大指数集体高开", "雨" * 60, "网红餐厅开业"]


def tiny_model(paddle, n_labels=3, family="Ernie", seed=0, kind=None, **config):
    """kind: of encoders.FAMILIES, where the library's name of the family does not say it."""
    import paddlenlp.transformers as library

    paddle.seed(seed)
    config = {**TINY, "max_position_embeddings": 64, "initializer_range": 0.3, "num_labels": n_labels} | config
    config = getattr(library, f"{family}Config")(**config)
    config.model_type = kind or config.model_type
    model = build_model(config)
    model.eval()
    return model


def test_a_library_configuration_leaves_the_dict_as_it_was(paddle):
    config = read_config(SAMPLE / "tiny-ernie")
    before = repr(config)
    made = library_config(config)
    made.num_labels, made.hidden_size = 7, 16
    assert type(made).__name__ == "ErnieConfig" and repr(config) == before
    assert library_config(config).hidden_size == config["hidden_size"] == 128


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
    np.testing.assert_allclose(classify_features(model, features), logits, atol=1e-5)
    assert encode_features(model, tokenizer, [], 2, "encode").shape == (0, 16)


@pytest.mark.parametrize("family", ["Ernie", "ErnieM"])
def test_features_are_computed_of_the_first_token_alone(paddle, monkeypatch, family):
    tokenizer = SimpleNamespace(pad_id=0, encode=lambda texts: [[1, *(3 + ord(c) % 40 for c in t), 2] for t in texts])
    model = tiny_model(paddle, family=family, num_hidden_layers=2)
    expected = encode_features(model, tokenizer, TEXTS[:4], batch_size=4, name="encode")
    monkeypatch.setattr(modeling, "MANY_ROWS", 4)
    speed_up(model)  # with its trials
    passes = noted_passes(monkeypatch)
    found = encode_features(model, tokenizer, TEXTS[:4], batch_size=4, name="encode")
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert passes == [False, True]


def test_networks_whose_last_layer_computes_all_tokens(paddle):
    model = tiny_model(paddle, num_hidden_layers=2)
    first, last = model.ernie.encoder.layers
    with classifying(model):
        assert is_alone(last) and not is_alone(first)
        with classifying(build_network(model.config, "ForMaskedLM")):
            assert not is_alone(last)
        assert is_alone(last)
    model.forward = lambda **inputs: family_of(model).tokens(model, **inputs)
    with classifying(model):
        assert not is_alone(last)


def test_predict_logits_leaves_the_model_as_it_was(paddle):
    model, done = tiny_model(paddle, hidden_dropout_prob=0.5), []
    ids = [[1, 5, 2], [1, 6, 7, 2], [1, 2]]
    expected = predict_logits(model, ids, 0, 2, progress=done.append)
    assert expected.shape == (3, 3) and expected.dtype == np.float32 and done == [2, 1] and not model.training
    model.train()
    assert np.array_equal(predict_logits(model, ids, 0, 2), expected) and model.training
    assert predict_logits(model, [], 0, 2).shape == (0, 3)


def test_many_rows_are_computed_faster_and_alike(paddle, monkeypatch):
    monkeypatch.setattr(cpu_network, "FEW_TOKENS", 1)
    monkeypatch.setattr(modeling, "MANY_ROWS", 3)
    model, ids = tiny_model(paddle), [[1, 7, 8, 2], [1, 9, 2], [1, 2]]
    few = predict_logits(model, ids[:2], pad_id=0, batch_size=2)
    assert not any("forward" in vars(layer) for layer in model.sublayers())
    many = predict_logits(model, ids, pad_id=0, batch_size=2)
    assert any("forward" in vars(layer) for layer in model.sublayers())
    np.testing.assert_allclose(many[:2], few, atol=1e-5)


@pytest.mark.parametrize("loss", ["bce", "zlpr"])
def test_score_by_hand(paddle, loss):
    model, tree = tiny_model(paddle), LabelTree(["a", "a##b", "c"])
    ids = [[1, 5, 2], [1, 6, 7, 2], [1, 2]]
    rows = Rows(["", "", ""], [(0, 1), (), (2,)], 0, 0)
    logits = predict_logits(model, ids, 0, 3).astype(np.float64)
    gold = np.array([[1, 1, 0], [0, 0, 0], [0, 0, 1]], bool)
    p = 1 / (1 + np.exp(-logits))
    losses = {
        "bce": -np.log(np.where(gold, p, 1 - p)).mean(1),
        "zlpr": np.log(1 + (np.exp(logits) * ~gold).sum(1)) + np.log(1 + (np.exp(-logits) * gold).sum(1)),
    }[loss]

    def scored(*shared):
        return score(model, tree, rows, ids, 0, Decision(0.4), 2, None, *shared, loss=loss).result()

    result = scored()
    assert result["loss"] == pytest.approx(losses.mean(), rel=1e-5) and result["n_rows"] == 3
    assert result["accuracy"] == ((p > 0.4) == gold).all(1).mean()
    assert scored(0, 2)["loss"] == pytest.approx((losses[0] + losses[2]) / 2, rel=1e-5)  # every second row
    assert scored(1, 2)["loss"] == pytest.approx(losses[1], rel=1e-5)


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


def test_nothing_heavy_is_imported_with_the_module():
    code = "import sys, hierarchical.checkpoints, hierarchical.devices; print(any(name in sys.modules for name in ('paddle', 'paddlenlp', 'safetensors')))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stdout == "False\n"
