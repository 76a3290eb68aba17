"""shortlist.py: what is drawn, that on average nothing is lost by it, and that a step sees and moves its labels only."""

import logging
from pathlib import Path

import numpy as np
import pytest

from hierarchical import shortlist
from hierarchical.encoders import read_config
from hierarchical.errors import InputError
from hierarchical.labels import LabelTree
from hierarchical.losses import LOSSES
from hierarchical.modeling import build_model, library_config, predict_logits, set_labels
from hierarchical.shortlist import SampledHead, Sampler, sampled_head
from hierarchical.training import Settings, Trainer
from tests.conftest import SAMPLE
from tests.hierarchical.trees import parents_of, random_graph

# 3 roots, 4 below each: "a" 0, "b" 1, "c" 2, "a##0" 3, ..., "c##3" 14
TREE = LabelTree([*"abc", *(f"{root}##{i}" for root in "abc" for i in range(4))])
ROWS = [(0, 3), (0, 5), (1, 8)]  # their siblings: root 2; 4, 6; 7, 9, 10
OWN, NEAR, OTHERS = {0, 1, 3, 5, 8}, {2, 4, 6, 7, 9, 10}, {11, 12, 13, 14}


def rng(seed=0):
    return np.random.default_rng(seed)


def test_siblings_by_hand():
    assert Sampler(TREE, 15).siblings(np.array(sorted(OWN))).tolist() == sorted(NEAR)
    assert Sampler(LabelTree(["甲"]), 1).siblings(np.array([0])).tolist() == []


def test_siblings_by_any_parent():
    graph = LabelTree(TREE.labels, further=[(3, 1)])  # a##0 lies below b, too
    for labels, expected in (
        ([3], [4, 5, 6, 7, 8, 9, 10]),
        ([7], [3, 8, 9, 10]),
        ([4], [3, 5, 6]),
        ([11], [12, 13, 14]),
    ):
        assert Sampler(graph, 15).siblings(np.array(labels)).tolist() == expected
    for seed in range(20):
        tree = random_graph(rng(seed), 40)
        parents = [set(parents_of(tree, i)) or {-1} for i in range(40)]
        labels = rng(seed).choice(40, 3, replace=False)
        above = set().union(*(parents[i] for i in labels))
        expected = [i for i in range(40) if parents[i] & above and i not in labels]
        assert Sampler(tree, 40).siblings(labels).tolist() == expected


def test_rows_without_labels():
    labels, weights = Sampler(TREE, 6).draw([(), ()], rng())
    assert len(np.unique(labels)) == 6 and np.allclose(weights, 15 / 6)


@pytest.mark.parametrize(
    "size, near, others",
    [
        (5, 0, 0),
        (8, 1, 2),  # half of the other places
        (9, 2, 2),
        (13, 4, 4),
        (14, 5, 4),  # as many of the others as there are; the rest are siblings
        (15, 6, 4),
    ],
)
def test_what_is_drawn(size, near, others):
    sampler = Sampler(TREE, size)
    for seed in range(20):
        labels, weights = sampler.draw(ROWS, rng(seed))
        assert labels.shape == weights.shape == (size,) and (np.diff(labels) > 0).all() and weights.dtype == np.float32
        of = dict(zip(labels.tolist(), weights.tolist()))
        assert of.keys() >= OWN and all(of[label] == 1 for label in OWN)
        for group, n in ((NEAR, near), (OTHERS, others)):
            found = group & of.keys()
            assert len(found) == n and all(of[label] == pytest.approx(len(group) / n) for label in found)


def test_each_label_counts_once_on_average():
    sampler, total = Sampler(TREE, 9), np.zeros(15)
    for seed in range(3000):
        labels, weights = sampler.draw(ROWS, rng(seed))
        total[labels] += weights
    np.testing.assert_allclose(total / 3000, 1, atol=0.1)  # standard error 0.03


def test_rows_on_the_list():
    drawn = Sampler(TREE, 9).draw(ROWS, rng())
    hot = drawn.multi_hot([*ROWS, ()])
    assert hot.shape == (4, 9) and [set(drawn.labels[row].tolist()) for row in hot] == [*map(set, ROWS), set()]


@pytest.mark.parametrize("name", LOSSES)
def test_weights_stand_for_labels_like_them(paddle, name):
    """A label with weight 3 is three labels with the same logit; all weights 1 change nothing."""

    def loss(logits, targets, *weights):
        return float(
            LOSSES[name].of_batch(*(paddle.to_tensor(np.array(x, "float32")) for x in (logits, targets, *weights)))
        )

    logits, targets = [[1.5, -0.5, 0.3], [-1.0, 2.0, 0.1]], [[1, 0, 0], [1, 0, 0]]
    assert loss(logits, targets, [1, 1, 1]) == pytest.approx(loss(logits, targets), rel=1e-6)
    thrice = [[*row, row[2], row[2]] for row in logits]
    expected = loss(thrice, [[1, 0, 0, 0, 0]] * 2)
    assert loss(logits, targets, [1, 1, 3]) == pytest.approx(expected, rel=1e-5)


# ---- in training -----------------------------------------------------------------------------------------------------

IDS = [[1, 9, 8, 2], [1, 7, 2], [1, 30, 31, 32, 33, 2], [1, 12, 13, 2]]
TARGETS = [(0, 3), (0, 5), (1, 8), (1,)]


def make_trainer(paddle, size=None, **flags):
    """A Trainer of a tiny network; size: of its shortlists, None: all labels."""
    config = library_config(read_config(SAMPLE / "tiny-ernie"))
    set_labels(config, TREE)
    config.hidden_dropout_prob = config.attention_probs_dropout_prob = 0.0
    paddle.seed(0)
    model = build_model(config)
    model.train()
    head = SampledHead(paddle, model, TREE, size, seed=3) if size else None
    settings = Settings(**dict(learning_rate=1e-3, head_learning_rate=5e-3, loss="zlpr") | flags)
    return Trainer(paddle, settings, model, 10, head)


def steps(trainer, first, last):
    for step in range(first, last):
        trainer.train_step(IDS, TARGETS, np.roll(np.arange(4), step)[:3], pad_id=0)


def weights_of(trainer):
    with trainer.whole():
        return {name: value.numpy().copy() for name, value in trainer.model.state_dict().items()}


@pytest.mark.parametrize("flags", [{}, {"gradient_accumulation_steps": 2, "weight_decay": 0.1, "loss": "bce"}])
def test_a_list_of_all_labels_is_the_whole_layer(paddle, flags):
    dense, sampled = make_trainer(paddle, **flags), make_trainer(paddle, 15, **flags)
    for trainer in (dense, sampled):
        steps(trainer, 0, 3)
    expected, found = weights_of(dense), weights_of(sampled)
    assert expected.keys() == found.keys()
    for name in expected:
        np.testing.assert_allclose(found[name], expected[name], atol=2e-4, err_msg=name)


def test_a_step_moves_the_labels_of_its_list_only(paddle):
    trainer = make_trainer(paddle, 9)
    for step in range(3):
        before, drawn = weights_of(trainer), trainer.head.sampler.draw(TARGETS[:3], rng([3, step]))
        trainer.train_step(IDS, TARGETS, np.arange(3), pad_id=0)
        after = weights_of(trainer)
        moved = (before["classifier.weight"] != after["classifier.weight"]).any(0)
        assert np.flatnonzero(moved).tolist() == drawn.labels.tolist()
        assert np.flatnonzero(before["classifier.bias"] != after["classifier.bias"]).tolist() == drawn.labels.tolist()
    moments = trainer.head.moments["moment1_0", "weight"].numpy()
    assert moments.shape == (15, 128) and 9 < np.count_nonzero(moments.any(1)) < 15


def test_all_labels_are_there_meanwhile(paddle):
    trainer = make_trainer(paddle, 9)
    assert trainer.model.classifier.weight.shape == [9, 128]
    with trainer.whole():
        assert predict_logits(trainer.model, IDS, 0, 4).shape == (4, 15)
    assert trainer.model.classifier is trainer.head.layer
    with pytest.raises(KeyError), trainer.whole():
        raise KeyError
    assert trainer.model.classifier is trainer.head.layer


def test_a_restored_trainer_goes_on_to_the_same_bits(paddle):
    whole, first = make_trainer(paddle, 9), make_trainer(paddle, 9)
    steps(whole, 0, 5)
    steps(first, 0, 2)
    state = {name: tensor.numpy().copy() for name, tensor in first.state().items()}
    assert state["parameter/classifier.weight"].shape == state["moment2_0/classifier.weight"].shape == (15, 128)
    second = make_trainer(paddle, 9)
    steps(second, 0, 1)  # whatever it was
    second.restore(state, 2, Path())
    steps(second, 2, 5)
    expected, found = whole.state(), second.state()
    assert expected.keys() == found.keys()
    for name in expected:
        assert np.array_equal(expected[name].numpy(), found[name].numpy()), name
    state["moment2_0/classifier.bias"] = state["moment2_0/classifier.bias"][:9]
    with pytest.raises(InputError, match=r"damaged \(moment2_0/classifier.bias: float32 \[9\], not float32 \[15\]\)"):
        make_trainer(paddle, 9).restore(state, 2, Path())


def test_the_size_fits_the_rows(paddle, monkeypatch):
    """Twice the labels that a batch can have at most, where that is more than SIZE."""
    monkeypatch.setattr(shortlist, "SIZE", 6)
    model, logger = make_trainer(paddle).model, logging.getLogger("test")
    head = sampled_head(paddle, model, TREE, [(0,), (0, 3), (0, 3, 4)], 2, 3, logger)
    assert head.sampler.size == len(head.layer.bias) == 10  # 2 x (3 + 2)
    head = sampled_head(paddle, make_trainer(paddle).model, TREE, [(0,)] * 9, 2, 3, logger)
    assert head.sampler.size == 6


def test_few_labels_need_no_list(paddle, caplog):
    trainer = make_trainer(paddle)
    assert sampled_head(paddle, trainer.model, TREE, TARGETS, 2, 3, logging.getLogger("test")) is None
    assert "--head sampled: a step could see 4,096 labels, there are 15: it sees them all" in caplog.text
    assert trainer.model.classifier.weight.shape == [128, 15]
