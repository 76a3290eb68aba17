"""training.py: the row order of an epoch, rates, the first bias, and what one step does to the parameters."""

from argparse import Namespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hierarchical.training import LOSSES, Trainer, label_frequency_bias, rate_schedule, train_batches

from tests.conftest import NO_GRADIENT, SAMPLE
from utils import length_sorted_batches


@given(
    st.lists(st.integers(3, 512), min_size=1, max_size=300), st.integers(1, 40), st.integers(0, 5), st.integers(1, 5)
)
def test_every_row_once(lengths, batch_size, seed, epoch):
    for batches in (train_batches(lengths, batch_size, seed, epoch), length_sorted_batches(lengths, batch_size)):
        assert sorted(np.concatenate(batches).tolist()) == list(range(len(lengths)))
        assert max(map(len, batches)) <= batch_size and len(batches) == -(-len(lengths) // batch_size)


def as_lists(batches):
    return [batch.tolist() for batch in batches]


def test_order_is_fixed_by_seed_and_epoch():
    lengths = np.random.default_rng(0).integers(3, 129, 500)
    first = as_lists(train_batches(lengths, 16, seed=3, epoch=1))
    assert as_lists(train_batches(list(lengths), 16, seed=3, epoch=1)) == first
    assert as_lists(train_batches(lengths, 16, seed=3, epoch=2)) != first
    assert as_lists(train_batches(lengths, 16, seed=4, epoch=1)) != first


def padding_share(lengths, batches):
    cells = sum(lengths[batch].max() * len(batch) for batch in batches)
    return 1 - lengths.sum() / cells


def test_like_lengths_share_a_batch():
    rng = np.random.default_rng(0)
    lengths = np.minimum(rng.lognormal(3.7, 0.6, 3000).astype(int) + 3, 256)
    random = np.array_split(rng.permutation(3000), 94)
    grouped = train_batches(lengths, 32, seed=3, epoch=1)
    assert padding_share(lengths, grouped) < 0.1 < 0.5 < padding_share(lengths, random)
    means = [lengths[batch].mean() for batch in grouped]
    assert abs(np.corrcoef(means, range(len(means)))[0, 1]) < 0.3  # and not from short to long


def test_label_frequency_bias_is_the_log_odds_and_finite_for_never_and_always():
    targets = np.array([[1, 0, 1], [0, 0, 1], [0, 0, 1], [0, 0, 1]], bool)
    # shares 1/4, 0 -> 0.5/4, 1 -> 3.5/4: log(1/3), log(1/7), log(7)
    np.testing.assert_allclose(label_frequency_bias(targets), [-1.0986123, -1.9459101, 1.9459101], rtol=1e-6)


@pytest.mark.parametrize(
    "shape, warmup, expected",
    [
        (None, False, [1, 1, 1, 1, 1]),  # the reference: no schedule without --warmup
        (None, True, [0, 0.5, 1, 0.5, 0]),  # 2 steps up, 2 steps down
        ("constant", True, [0, 0.5, 1, 1, 1]),
        ("cosine", True, [0, 0.5, 1, 0.5, 0]),  # (1 + cos(pi / 2)) / 2 = 0.5
    ],
)
def test_rate_schedule(shape, warmup, expected):
    args = Namespace(lr_scheduler=shape, warmup=warmup, warmup_steps=2 if warmup else 0)
    factor = rate_schedule(args, total_steps=4)
    np.testing.assert_allclose([factor(step) for step in range(5)], expected, atol=1e-12)


def make_trainer(paddle, **flags):
    from hierarchical.modeling import build_model, read_config

    config = read_config(SAMPLE / "tiny-ernie")
    config.num_labels, config.hidden_dropout_prob, config.attention_probs_dropout_prob = 3, 0.0, 0.0
    paddle.seed(0)
    model = build_model(config)
    model.train()
    defaults = dict(
        learning_rate=1e-3, head_learning_rate=5e-3, weight_decay=0.0, max_grad_norm=0, amp=False, seed=3,
        gradient_accumulation_steps=1, lr_scheduler="constant", warmup=False, warmup_steps=0, loss="bce",
    )  # fmt: skip
    return Trainer(paddle, Namespace(**(defaults | flags)), model, total_steps=10)


ROWS, TARGETS = [[1, 9, 8, 2], [1, 7, 2], [1, 30, 31, 32, 33, 2], [1, 12, 13, 2]], [(0,), (1,), (0, 2), ()]


def test_first_adam_step_moves_encoder_and_head_by_their_own_rates(paddle):
    trainer = make_trainer(paddle)
    before = {name: value.numpy().copy() for name, value in trainer.model.state_dict().items()}
    trainer.train_step(ROWS, TARGETS, np.arange(4), pad_id=0)
    moved = {name: np.abs(value.numpy() - before[name]).max() for name, value in trainer.model.state_dict().items()}
    # Adam's first step is rate * g / (|g| + eps): as long as the rate wherever the gradient is not tiny
    assert moved["classifier.weight"] == pytest.approx(5e-3, rel=0.01)
    assert moved["ernie.pooler.dense.weight"] == pytest.approx(1e-3, rel=0.01)


def test_loss_is_the_mean_binary_cross_entropy(paddle):
    trainer = make_trainer(paddle)
    from hierarchical.modeling import predict_logits

    logits = predict_logits(trainer.model, ROWS, 0, 4).astype(np.float64)
    gold = np.array([[1, 0, 0], [0, 1, 0], [1, 0, 1], [0, 0, 0]])
    p = 1 / (1 + np.exp(-logits))
    expected = -(gold * np.log(p) + (1 - gold) * np.log(1 - p)).mean()
    assert trainer.train_step(ROWS, TARGETS, np.arange(4), pad_id=0) == pytest.approx(expected, rel=1e-5)


def test_zlpr_by_hand_and_its_gradient(paddle):
    logits = paddle.to_tensor([[2.0, -1.0, 0.5], [0.0, -3.0, 1.0]], stop_gradient=False)
    targets = paddle.to_tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 0.0]])
    loss = LOSSES["zlpr"](logits, targets)
    first = np.log(1 + np.exp(-1)) + np.log(1 + np.exp(-2) + np.exp(-0.5))  # one absent label, two of its own
    second = np.log(1 + 1 + np.exp(-3) + np.exp(1))  # no label of its own
    assert float(loss) == pytest.approx(first + second, rel=1e-6)
    loss.backward()
    own, absent = 1 + np.exp(-2) + np.exp(-0.5), 2 + np.exp(-3) + np.exp(1)
    np.testing.assert_allclose(
        logits.grad.numpy(),
        [
            [-np.exp(-2) / own, np.exp(-1) / (1 + np.exp(-1)), -np.exp(-0.5) / own],
            [1 / absent, np.exp(-3) / absent, np.exp(1) / absent],
        ],
        rtol=1e-5,
    )


def test_zlpr_of_large_logits_is_finite(paddle):
    logits = paddle.to_tensor([[200.0, -200.0]])
    assert float(LOSSES["zlpr"](logits, paddle.to_tensor([[0.0, 1.0]]))) == pytest.approx(400)
    assert float(LOSSES["zlpr"](logits, paddle.to_tensor([[1.0, 0.0]]))) == 0


@pytest.mark.parametrize("loss", LOSSES)
def test_accumulation_over_uneven_parts_equals_one_large_batch(paddle, loss):
    whole, parts = make_trainer(paddle, loss=loss), make_trainer(paddle, loss=loss, gradient_accumulation_steps=3)
    for trainer in (whole, parts):  # 4 rows in 3 parts: 2, 1 and 1
        for _ in range(3):
            trainer.train_step(ROWS, TARGETS, np.arange(4), pad_id=0)
    for (name, a), b in zip(whole.model.state_dict().items(), parts.model.state_dict().values()):
        if NO_GRADIENT not in name:
            np.testing.assert_allclose(a.numpy(), b.numpy(), atol=2e-4, err_msg=name)


def test_weight_decay_spares_biases_and_norms(paddle):
    decayed, plain = make_trainer(paddle, weight_decay=0.5), make_trainer(paddle)
    for trainer in (decayed, plain):
        trainer.train_step(ROWS, TARGETS, np.arange(4), pad_id=0)
    a, b = decayed.model.state_dict(), plain.model.state_dict()
    for name in a:
        same = np.array_equal(a[name].numpy(), b[name].numpy())
        assert same == ("bias" in name or "norm" in name), name
