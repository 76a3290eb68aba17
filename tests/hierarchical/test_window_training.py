"""window_training.py: the loss is that of all windows of a text, its gradient flows through a few."""

from pathlib import Path

import numpy as np
import pytest

from hierarchical.encoders import family_of
from hierarchical.long_texts import Windows
from hierarchical.modeling import predict_logits
from hierarchical.window_training import SAMPLED, choose, joined_logits
from tests.hierarchical.test_shortlist import make_trainer, weights_of

WINDOWS = Windows(6, 2)
IDS = [[1, 9, 8, 2], [1, *range(10, 18), 2], [1, *range(20, 40), 2], [1, *range(50, 70), 2]]  # 1, 3, 9 and 9 windows
TARGETS = [(0, 3), (0, 5), (1, 8), (1,)]


def test_the_windows_that_gradients_flow_through():
    logits = np.zeros((9, 3), np.float32)
    logits[6, 0] = logits[2, 1] = 1
    labels = np.array([True, True, False])
    picks = [choose(logits, labels, np.random.default_rng([3, step])) for step in range(20)]
    assert all(len(set(pick)) == SAMPLED and {2, 6} <= set(pick) and pick == sorted(pick) for pick in picks)
    assert picks[0] == choose(logits, labels, np.random.default_rng([3, 0])) and len({*map(tuple, picks)}) > 3
    assert len(set(choose(logits, labels & False, np.random.default_rng(0)))) == SAMPLED  # a text without labels


def test_joined_are_the_logits_of_all_windows(paddle):
    model = make_trainer(paddle).model
    labels = np.zeros((4, model.config.num_labels), bool)
    joined = joined_logits(paddle, model, model, WINDOWS, IDS, labels, 0, np.random.default_rng(0))
    np.testing.assert_allclose(joined.numpy(), predict_logits(model, IDS, 0, 2, windows=WINDOWS), atol=1e-5)
    assert model.training
    bias = family_of(model).classifier(model).bias
    joined.sum().backward()
    counts = bias.grad.numpy()  # of the texts whose largest logit stands in a window with a gradient
    assert counts.min() > 2 - 1e-5 and 2 * len(counts) < counts.sum() < 4 * len(counts)


def trained(paddle, size, first, last, state=None, **flags):
    """A trainer after the steps [first, last), from a state if there is one."""
    trainer = make_trainer(paddle, size, **flags)
    trainer.windows = WINDOWS
    if state:
        trainer.restore(state, first, Path())
    for step in range(first, last):
        trainer.train_step(IDS, TARGETS, np.roll(np.arange(4), step), pad_id=0)
    return trainer


@pytest.mark.slow
@pytest.mark.parametrize("flags", [{}, {"gradient_accumulation_steps": 2}])
def test_with_a_shortlist_of_all_labels_as_without(paddle, flags):
    dense, sampled = (weights_of(trained(paddle, size, 0, 3, **flags)) for size in (None, 15))
    for name in dense:
        np.testing.assert_allclose(sampled[name], dense[name], atol=2e-4, err_msg=name)


@pytest.mark.slow
def test_a_restored_trainer_goes_on_to_the_same_bits(paddle):
    state = {name: tensor.numpy().copy() for name, tensor in trained(paddle, None, 0, 2).state().items()}
    whole, resumed = weights_of(trained(paddle, None, 0, 4)), weights_of(trained(paddle, None, 2, 4, state))
    for name in whole:
        assert np.array_equal(whole[name], resumed[name]), name
