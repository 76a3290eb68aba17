"""benchmarks/craft.py: losses by hand, what each technique does to a step, and the checkpoints that a run leaves."""

import subprocess
import sys

import numpy as np
import pytest
from safetensors.numpy import load_file

from benchmarks import craft
from hierarchical.checkpoints import Checkpoint
from hierarchical.encoders import read_config
from hierarchical.modeling import build_model, library_config
from hierarchical.training import Settings, Trainer
from tests.conftest import ROOT, SAMPLE

LOGITS, LABELS = [[2.0, -1.0], [0.5, -3.0]], [[1.0, 0.0], [0.0, 1.0]]


def test_losses_by_hand(paddle):
    logits, labels = paddle.to_tensor(LOGITS), paddle.to_tensor(LABELS)
    p = 1 / (1 + np.exp(-np.array(LOGITS)))
    truth = np.where(np.array(LABELS) > 0, p, 1 - p)
    assert float(craft.focal_loss(logits, labels)) == pytest.approx(((1 - truth) ** 2 * -np.log(truth)).sum() / 2)
    assert float(craft.focal_loss(logits, labels, gamma=0)) == pytest.approx(-np.log(truth).sum() / 2)
    absent = np.maximum(p - 0.05, 0)
    terms = np.where(np.array(LABELS) > 0, -np.log(p), -(absent**4) * np.log(1 - absent))
    assert float(craft.asymmetric_loss(logits, labels)) == pytest.approx(terms.sum() / 2, rel=1e-5)
    assert float(craft.asymmetric_loss(logits, labels, 0, 0)) == pytest.approx(-np.log(truth).sum() / 2, rel=1e-5)


IDS, TARGETS = [[1, 9, 8, 2], [1, 7, 2]], np.array([[1, 0, 0], [0, 1, 1]], bool)


def stepped(paddle, technique, dropout=0.0, rate=1e-3):
    """(trainer, name -> by how much its parameter has moved) after one step."""
    config = library_config(read_config(SAMPLE / "tiny-ernie"))
    config.num_labels, config.hidden_dropout_prob, config.attention_probs_dropout_prob = 3, dropout, dropout
    paddle.seed(0)
    model = build_model(config)
    model.train()
    trainer = Trainer(paddle, Settings(rate, 5e-3, "zlpr"), model, 10)
    if technique is craft.layer_rates:
        trainer.optimizer = craft.layered(trainer)
    before = {name: value.numpy().copy() for name, value in model.named_parameters()}
    craft.train_step(trainer, technique, IDS, TARGETS, 0)
    return trainer, {name: value.numpy() - before[name] for name, value in model.named_parameters()}


@pytest.mark.parametrize("name", ["r_drop", "many_masks", "layer_rates"])
def test_without_dropout_the_head_moves_as_ever(paddle, name):
    """Both passes of R-Drop, and all masks, are then the same; rates of layers leave that of the head alone."""
    expected = stepped(paddle, craft.plain)[1]["classifier.weight"]
    np.testing.assert_allclose(stepped(paddle, craft.TECHNIQUES[name])[1]["classifier.weight"], expected, atol=1e-5)
    if name != "layer_rates":
        dropped = stepped(paddle, craft.TECHNIQUES[name], 0.5)[1]["classifier.weight"]
        assert not np.allclose(dropped, stepped(paddle, craft.plain, 0.5)[1]["classifier.weight"], atol=1e-5)


def test_rates_fall_from_layer_to_layer(paddle):
    """Adam's first step is as long as its rate."""
    moved = {name: np.abs(by).max() for name, by in stepped(paddle, craft.layer_rates)[1].items()}
    assert moved["classifier.weight"] == pytest.approx(5e-3, rel=0.01)
    for name, depth in (("pooler.dense", 0), ("encoder.layers.1.linear1", 0), ("encoder.layers.0.linear1", 1)):
        assert moved[f"ernie.{name}.weight"] == pytest.approx(1e-3 * 0.85**depth, rel=0.01), name
    assert moved["ernie.embeddings.word_embeddings.weight"] == pytest.approx(1e-3 * 0.85**2, rel=0.01)


def test_adversarial_steps_leave_the_embeddings_where_they_were(paddle):
    """With a rate of nearly 0 nothing but the head moves, and that otherwise than without."""
    moved, plain = (stepped(paddle, how, rate=1e-12)[1] for how in (craft.adversarial, craft.plain))
    assert np.abs(moved["ernie.embeddings.word_embeddings.weight"]).max() < 1e-6
    assert np.abs(moved["classifier.weight"]).max() == pytest.approx(5e-3, rel=0.01)
    assert not np.array_equal(moved["classifier.weight"], plain["classifier.weight"])


@pytest.mark.slow
def test_a_run(data_dir, tmp_path):
    """In a process of its own, as products in bfloat16 would stay with this one."""
    folder = data_dir(train_txt="国足今晚出战\t体育,体育##足球\n两市收涨\t财经,财经##股票\n" * 4)
    flags = ["--dataset_dir", folder, "--model_name", SAMPLE / "tiny-ernie", "--save_dir", tmp_path / "tried"]
    command = [sys.executable, ROOT / "benchmarks" / "craft.py", *flags, "--epochs", 4, "--batch_size", 4]
    subprocess.run([*map(str, command), "--warmup_steps", "0"], check=True, capture_output=True)
    opened = {name: Checkpoint.open(tmp_path / "tried" / name) for name in ("last", "average", "moving")}
    assert all(len(one.tree) == 5 for one in opened.values())
    last, average, moving = (
        load_file(tmp_path / "tried" / name / "model.safetensors")["classifier.weight"] for name in opened
    )
    assert not np.array_equal(last, average) and not np.array_equal(average, moving)
    np.testing.assert_allclose(average, last, atol=0.05)
