"""training.py: the row order of an epoch, rates, the first bias, what one step does to the parameters, and states."""

import json
import re
from argparse import Namespace
from dataclasses import asdict, fields
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hierarchical.batches import length_sorted_batches
from hierarchical.encoders import read_config
from hierarchical.errors import InputError
from hierarchical.losses import LOSSES
from hierarchical.modeling import build_model, library_config, predict_logits
from hierarchical.training import (
    STATE,
    Progress,
    Settings,
    Trainer,
    label_frequency_bias,
    next_evaluation,
    rate_schedule,
    read_state,
    save_progress,
    train_batches,
)
from tests.conftest import NO_GRADIENT, SAMPLE
from tests.hierarchical.layers import noted_passes


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


def test_rows_that_an_epoch_has_several_times():
    batches = train_batches([9, 4, 5, 6, 7], 2, seed=3, epoch=1, rows=np.array([0, 1, 0, 1, 4]))
    assert sorted(np.concatenate(batches).tolist()) == [0, 0, 1, 1, 4] and len(batches) == 3
    assert as_lists(batches) == as_lists(train_batches([9, 4, 0, 0, 7], 2, 3, 1, np.array([0, 1, 0, 1, 4])))


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
    # of 4 rows: shares 1/4, 0 -> 0.5/4, 1 -> 3.5/4: log(1/3), log(1/7), log(7)
    bias = label_frequency_bias(np.array([1, 0, 4]), 4)
    np.testing.assert_allclose(bias, [-1.0986123, -1.9459101, 1.9459101], rtol=1e-6)


@pytest.mark.parametrize(
    "shape, warmup_steps, expected",
    [
        ("constant", 0, [1, 1, 1, 1, 1]),
        ("linear", 2, [0, 0.5, 1, 0.5, 0]),  # 2 steps up, 2 steps down
        ("constant", 2, [0, 0.5, 1, 1, 1]),
        ("cosine", 2, [0, 0.5, 1, 0.5, 0]),  # (1 + cos(pi / 2)) / 2 = 0.5
        ("linear", 0, [1, 0.75, 0.5, 0.25, 0]),
        ("cosine", 0, [1, (2 + 2**0.5) / 4, 0.5, (2 - 2**0.5) / 4, 0]),  # cos(pi / 4) = sqrt(2) / 2
    ],
)
def test_rate_schedule(shape, warmup_steps, expected):
    factor = rate_schedule(shape, warmup_steps, total_steps=4)
    np.testing.assert_allclose([factor(step) for step in range(5)], expected, atol=1e-12)


def make_trainer(paddle, **flags):
    config = library_config(read_config(SAMPLE / "tiny-ernie"))
    config.num_labels, config.hidden_dropout_prob, config.attention_probs_dropout_prob = 3, 0.0, 0.0
    paddle.seed(0)
    model = build_model(config)
    model.train()
    settings = Settings(**dict(learning_rate=1e-3, head_learning_rate=5e-3, max_grad_norm=0) | flags)
    return Trainer(paddle, settings, model, total_steps=10)


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
    logits = predict_logits(trainer.model, ROWS, 0, 4).astype(np.float64)
    gold = np.array([[1, 0, 0], [0, 1, 0], [1, 0, 1], [0, 0, 0]])
    p = 1 / (1 + np.exp(-logits))
    expected = -(gold * np.log(p) + (1 - gold) * np.log(1 - p)).mean()
    assert trainer.train_step(ROWS, TARGETS, np.arange(4), pad_id=0) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("loss", LOSSES)
def test_accumulation_over_uneven_parts_equals_one_large_batch(paddle, loss):
    """Taken together: of single parameters whose gradient is nearly 0, Adam makes a step of what rounding has left."""
    whole, parts = make_trainer(paddle, loss=loss), make_trainer(paddle, loss=loss, gradient_accumulation_steps=3)
    before = {name: tensor.numpy().copy() for name, tensor in whole.model.state_dict().items()}
    for trainer in (whole, parts):  # 4 rows in 3 parts: 2, 1 and 1
        for _ in range(3):
            trainer.train_step(ROWS, TARGETS, np.arange(4), pad_id=0)
    for (name, a), b in zip(whole.model.state_dict().items(), parts.model.state_dict().values()):
        if NO_GRADIENT not in name:
            assert np.linalg.norm(a - b) <= 0.005 * np.linalg.norm(a - before[name]), name


def test_of_the_last_layer_the_first_token_alone_is_computed(paddle, monkeypatch):
    trainer = make_trainer(paddle)
    passes = noted_passes(monkeypatch)
    trainer.train_step(ROWS, TARGETS, np.arange(4), pad_id=0)
    assert passes == [False, True]


def test_weight_decay_spares_biases_and_norms(paddle):
    decayed, plain = make_trainer(paddle, weight_decay=0.5), make_trainer(paddle)
    for trainer in (decayed, plain):
        trainer.train_step(ROWS, TARGETS, np.arange(4), pad_id=0)
    a, b = decayed.model.state_dict(), plain.model.state_dict()
    for name in a:
        same = np.array_equal(a[name].numpy(), b[name].numpy())
        assert same == ("bias" in name or "norm" in name), name


# ---- settings --------------------------------------------------------------------------------------------------------


def test_settings_take_the_flags_of_the_same_names_and_others_win():
    flags = Namespace(
        learning_rate=1e-4, head_learning_rate=2e-3, loss="zlpr", weight_decay=0.01, max_grad_norm=0.5, warmup_steps=7,
        gradient_accumulation_steps=2, amp=True, seed=11, logging_steps=9, dataset_dir="data", epochs=3,
    )  # fmt: skip
    settings = Settings.from_arguments(flags, schedule="cosine", seed=12)
    assert settings == Settings(1e-4, 2e-3, "zlpr", 0.01, 0.5, "cosine", 7, 2, True, 12, 9)
    assert asdict(settings).keys() == {field.name for field in fields(Settings)}
    few = Settings.from_arguments(Namespace(learning_rate=1e-4), head_learning_rate=0.0)
    assert few == Settings(1e-4, 0.0, "bce", 0.0, 1.0, "constant", 0, 1, False, 3, 5)  # the rest by default
    with pytest.raises(TypeError):
        Settings.from_arguments(Namespace(learning_rate=1e-4))
    with pytest.raises(TypeError):
        Settings.from_arguments(flags, scheduel="cosine")


def test_a_schedule_and_the_head_that_were_set_are_used(paddle):
    trainer = make_trainer(paddle, schedule="linear", warmup_steps=2)
    rates = []
    for step in range(4):
        trainer.step = step
        trainer.begin_step()
        rates.append(trainer.optimizer.get_lr())
    np.testing.assert_allclose(rates, [0, 5e-4, 1e-3, 1e-3 * 7 / 8], rtol=1e-6)  # of 10 steps


# ---- progress and its file -------------------------------------------------------------------------------------------


def test_when_dev_is_scored_next():
    def after(*scored, every=4):
        return next_evaluation(Progress(history=[{"step": step} for step in scored]), every)

    assert after() == 4 and after(4) == 8 and after(4, 8) == 12
    assert after(10) == 12 and after(20, every=100) == 100  # the end of a run, which goes on; another interval
    assert after(every=0) == after(10, 20, every=0) == 0


def test_progress_by_hand():
    progress, said = Progress(), []
    for score in (0.0, 0.5, 0.5, 0.4, 0.6, 0.1):
        progress.loss_sum = 3.0
        said.append((progress.evaluated(score, {"macro_f1": score}), progress.best, progress.stale, progress.loss_sum))
    assert said == [
        (True, 0.0, 0, 0.0),  # a score of 0 is one
        (True, 0.5, 0, 0.0),
        (False, 0.5, 1, 0.0),  # the first of equals is kept
        (False, 0.5, 2, 0.0),
        (True, 0.6, 0, 0.0),
        (False, 0.6, 1, 0.0),
    ]
    assert [entry["macro_f1"] for entry in progress.history] == [0.0, 0.5, 0.5, 0.4, 0.6, 0.1]
    assert Progress().history == [] and Progress() == Progress(0, 0, 0, None, 0, 0.0, [], {})


class Arrays:
    """What save_progress asks of a Trainer."""

    dynamics = None

    def state(self):
        return {"parameter/a": np.arange(3, dtype=np.float32), "moment1_0/a": np.zeros(3, np.float32)}


def test_a_state_is_read_as_it_was_saved(tmp_path):
    progress = Progress(2, 1, 9, 0.25, 1, 0.5, [{"epoch": 1, "标签": 0.25}, {"epoch": 2}], {"seed": 3})
    save_progress(tmp_path, Arrays(), progress)
    assert [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()] == progress.history
    read, arrays = read_state(tmp_path / STATE, {"seed": 3})
    assert read == progress and arrays.keys() == Arrays().state().keys()
    assert arrays["parameter/a"].tolist() == [0, 1, 2]
    with pytest.raises(InputError, match=r"--go_on: the run in .* was another one \(seed: 3 then, 4 now\)"):
        read_state(tmp_path / STATE, {"seed": 4}, "--go_on")
    with pytest.raises(InputError, match="--go_on: no .*Leave --go_on out"):
        read_state(tmp_path / "nowhere", {}, "--go_on")


@pytest.mark.parametrize("metadata", [None, {}, {"progress": "{"}, {"progress": "[]"}, {"progress": '{"epochs": 1}'}])
def test_a_state_of_something_else(tmp_path, metadata):
    from safetensors.numpy import save_file

    save_file(Arrays().state(), tmp_path / STATE, metadata)
    with pytest.raises(InputError, match=f"{STATE}: not a readable state"):
        read_state(tmp_path / STATE, {})


def test_a_restored_trainer_goes_on_as_the_saved_one(paddle):
    whole, broken = make_trainer(paddle), make_trainer(paddle)
    for _ in range(4):
        whole.train_step(ROWS, TARGETS, np.arange(4), pad_id=0)
    for _ in range(2):
        broken.train_step(ROWS, TARGETS, np.arange(4), pad_id=0)
    again = make_trainer(paddle)
    again.restore({name: value.numpy() for name, value in broken.state().items()}, 2, Path())
    for _ in range(2):
        again.train_step(ROWS, TARGETS, np.arange(4), pad_id=0)
    one, other = whole.state(), again.state()
    assert one.keys() == other.keys() and len(one) > 3 * 30
    for name in one:
        np.testing.assert_array_equal(one[name].numpy(), other[name].numpy(), err_msg=name)


@pytest.mark.parametrize(
    ("kind", "value", "said"),
    [
        ("moment1_0", np.zeros((1, 3), np.float32), r"float32 \[1, 3\], not float32 \["),
        ("moment1_0", None, "missing"),
        ("moment2_0", None, "missing"),
        ("beta1_pow_acc_0", np.ones(2, np.float32), r"float32 \[2\], not float32 \[1\]"),
        ("parameter", np.zeros(3, np.float16), "float16"),
    ],
)
def test_a_state_of_other_shapes_is_refused(paddle, kind, value, said):
    """Fast updates of parameters would write behind the end of an array."""
    trainer = make_trainer(paddle)
    trainer.train_step(ROWS, TARGETS, np.arange(4), pad_id=0)
    state = {name: tensor.numpy() for name, tensor in trainer.state().items()}
    name = next(name for name in state if name.startswith(f"{kind}/") and state[name].ndim > 1 - ("pow" in name))
    state[name] = value
    with pytest.raises(InputError, match=rf"^checkpoint/state.safetensors: damaged \({re.escape(name)}: {said}"):
        restored = {name: array for name, array in state.items() if array is not None}
        make_trainer(paddle).restore(restored, 1, Path("checkpoint"))


# ---- the model that a run starts from --------------------------------------------------------------------------------
