"""losses.py: worked examples, gradients, and that the tensors' losses and NumPy's are the same."""

import warnings

import numpy as np
import pytest

from hierarchical.losses import LOSSES

# three labels; a row with two of its own, one with none, one with all
LOGITS = [[2.0, -1.0, 0.5], [0.0, -3.0, 1.0], [-2.0, 0.0, 4.0]]
TARGETS = [[1, 0, 1], [0, 0, 0], [1, 1, 1]]


def e(x):
    return np.exp(x)


BY_HAND = {
    # -log sigma(s) = log(1 + e^-s) for a label of the row, log(1 + e^s) for another
    "bce": [
        (np.log(1 + e(-2)) + np.log(1 + e(-1)) + np.log(1 + e(-0.5))) / 3,
        (np.log(2) + np.log(1 + e(-3)) + np.log(1 + e(1))) / 3,
        (np.log(1 + e(2)) + np.log(2) + np.log(1 + e(-4))) / 3,
    ],
    "zlpr": [
        np.log(1 + e(-1)) + np.log(1 + e(-2) + e(-0.5)),  # one absent label, two of its own
        np.log(1 + 1 + e(-3) + e(1)),  # no label of its own
        np.log(1 + e(2) + 1 + e(-4)),  # no absent one
    ],
}


def of_batch(paddle, name, logits, targets):
    """The loss of the tensors, and its gradient."""
    logits = paddle.to_tensor(np.asarray(logits, np.float32), stop_gradient=False)
    loss = LOSSES[name].of_batch(logits, paddle.to_tensor(np.asarray(targets, np.float32)))
    loss.backward()
    return float(loss), logits.grad.numpy()


@pytest.mark.parametrize("name", LOSSES)
def test_by_hand(paddle, name):
    found = LOSSES[name].of_rows(np.array(LOGITS), np.array(TARGETS, bool))
    np.testing.assert_allclose(found, BY_HAND[name], rtol=1e-12)
    assert of_batch(paddle, name, LOGITS, TARGETS)[0] == pytest.approx(sum(BY_HAND[name]), rel=1e-6)
    for row in range(3):  # a row's loss does not depend on the rows beside it
        alone = of_batch(paddle, name, LOGITS[row : row + 1], TARGETS[row : row + 1])[0]
        assert alone == pytest.approx(BY_HAND[name][row], rel=1e-6)


SOFT = [[0.25, 1, 0], [0.5, 0.5, 0.9]]
SOFT_BY_HAND = {
    "bce": [  # -t log sigma(s) - (1 - t) log(1 - sigma(s)) = log(1 + e^s) - t s
        (np.log(1 + e(2)) - 0.5 + np.log(1 + e(-1)) + 1 + np.log(1 + e(0.5))) / 3,
        (np.log(2) + np.log(1 + e(-3)) + 1.5 + np.log(1 + e(1)) - 0.9) / 3,
    ],
    "zlpr": [
        np.log(1 + 0.75 * e(2) + e(0.5)) + np.log(1 + 0.25 * e(-2) + e(1)),
        np.log(1 + 0.5 + 0.5 * e(-3) + 0.1 * e(1)) + np.log(1 + 0.5 + 0.5 * e(3) + 0.9 * e(-1)),
    ],
}


@pytest.mark.parametrize("name", LOSSES)
def test_soft_targets_by_hand(paddle, name):
    found, gradient = of_batch(paddle, name, LOGITS[:2], SOFT)
    assert found == pytest.approx(sum(SOFT_BY_HAND[name]), rel=1e-6)
    step = np.zeros((2, 3))
    step[1, 2] = 1e-2
    higher, lower = (of_batch(paddle, name, LOGITS[:2] + way * step, SOFT)[0] for way in (1, -1))
    assert gradient[1, 2] == pytest.approx((higher - lower) / 2e-2, abs=1e-3)
    # as far from 0 or 1 as float32 can tell, a soft target is a hard one
    hard, almost = np.array(TARGETS[:2], np.float32), np.clip(TARGETS[:2], 1e-30, 1 - 1e-7)
    for here, there in zip(of_batch(paddle, name, LOGITS[:2], hard), of_batch(paddle, name, LOGITS[:2], almost)):
        np.testing.assert_allclose(here, there, atol=1e-6)


def test_where_the_loss_of_a_soft_target_is_least(paddle):
    for share in (0.1, 0.6, 0.8):  # not 0.5: see `test_the_gradient_is_the_slope`
        logit = np.log(share / (1 - share))
        assert of_batch(paddle, "bce", [[logit]], [[share]])[1] == pytest.approx(0, abs=1e-6)
        assert of_batch(paddle, "zlpr", [[logit / 2]], [[share]])[1] == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("share", [0, 0.1, 0.5, 1])
@pytest.mark.parametrize("spread", [0.5, 5, 40])
def test_tensors_and_arrays_have_the_same_loss(paddle, name, share, spread):
    rng = np.random.default_rng(0)
    logits, gold = rng.normal(0, spread, (40, 17)).astype(np.float32), rng.random((40, 17)) < share
    rows = LOSSES[name].of_rows(logits, gold)
    assert rows.shape == (40,) and (rows >= 0).all()
    assert of_batch(paddle, name, logits, gold)[0] == pytest.approx(rows.sum(), rel=1e-5)
    for i in (0, 17, 39):
        assert of_batch(paddle, name, logits[i : i + 1], gold[i : i + 1])[0] == pytest.approx(
            rows[i], rel=1e-5, abs=1e-6
        )


@pytest.mark.parametrize("name", LOSSES)
def test_the_gradient_is_the_slope(paddle, name):
    logits, gold = (
        np.array(LOGITS) + 0.25,
        np.array(TARGETS, bool),
    )  # none is 0, where paddle 3.1.1 is off by -1 for bce
    _, gradient = of_batch(paddle, name, logits, gold)
    for at in np.ndindex(logits.shape):
        step = np.zeros_like(logits)
        step[at] = 1e-5
        higher, lower = (LOSSES[name].of_rows(logits + way * step, gold).sum() for way in (1, -1))
        assert gradient[at] == pytest.approx((higher - lower) / 2e-5, abs=1e-6)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_extreme_logits(paddle, name, dtype):
    logits = np.array([[80, -80], [80, -80], [80, -80], [-80, -80], [80, 80]], dtype)
    gold = np.array([[1, 0], [0, 1], [1, 1], [0, 0], [1, 1]], bool)
    worst = {"bce": [0, 80, 40, 0, 0], "zlpr": [0, 160, 80, 0, 0]}[name]  # log(1 + e^80) = 80
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rows = LOSSES[name].of_rows(logits, gold)
    np.testing.assert_allclose(rows, worst, rtol=1e-6, atol=1e-12)
    loss, gradient = of_batch(paddle, name, logits, gold)
    assert loss == pytest.approx(sum(worst), rel=1e-6) and np.isfinite(gradient).all()


def test_zlpr_by_hand_and_its_gradient(paddle):
    logits = paddle.to_tensor([[2.0, -1.0, 0.5], [0.0, -3.0, 1.0]], stop_gradient=False)
    targets = paddle.to_tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 0.0]])
    loss = LOSSES["zlpr"].of_batch(logits, targets)
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
    assert float(LOSSES["zlpr"].of_batch(logits, paddle.to_tensor([[0.0, 1.0]]))) == pytest.approx(400)
    assert float(LOSSES["zlpr"].of_batch(logits, paddle.to_tensor([[1.0, 0.0]]))) == 0
