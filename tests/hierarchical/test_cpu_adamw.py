"""cpu_adamw.py: parameters, and the state of a run, go the way that the library's optimizer takes them."""

import sys

import numpy as np
import pytest

from hierarchical import cpu_adamw, cpu_kernels
from hierarchical.cpu_adamw import AdamW
from hierarchical.cpu_layers import adamw

SHAPES = {"embedding.weight": (50, 6), "linear.weight": (6, 3), "linear.bias": (3,), "unused": (4,)}
SEEN = [3, 4, 9]  # tokens


def parameters(paddle):
    rng, made = np.random.default_rng(0), {}
    for name, shape in SHAPES.items():
        attribute = paddle.ParamAttr(initializer=paddle.nn.initializer.Assign(rng.normal(size=shape).astype("float32")))
        made[name] = paddle.create_parameter(shape, "float32", attr=attribute)
    return made


def optimizers(paddle, plain, fast, weight_decay=0.1, max_norm=1.0, threads=1):
    """The library's of one set of parameters, and this one of the other; the linear layer learns ten times as fast."""

    def groups(owner):
        return [
            {"params": [owner["embedding.weight"], owner["unused"]]},
            {"params": [owner["linear.weight"], owner["linear.bias"]], "learning_rate": 10.0},
        ]

    decayed = {owner[name].name for owner in (plain, fast) for name in SHAPES if name.endswith("weight")}
    clip = paddle.nn.ClipGradByGlobalNorm(max_norm) if max_norm else None
    library = paddle.optimizer.AdamW(
        1e-2, parameters=groups(plain), weight_decay=weight_decay, apply_decay_param_fun=decayed.__contains__,
        grad_clip=clip,
    )  # fmt: skip
    return library, AdamW(1e-2, groups(fast), weight_decay, decayed.__contains__, max_norm, threads)


def learn(paddle, owner, optimizer, steps, seed=1):
    rng = np.random.default_rng(seed)
    for step in range(steps):
        optimizer.set_lr(1e-2 * (step + 1))
        target = paddle.to_tensor(rng.normal(size=(len(SEEN), 3)), "float32")
        found = paddle.nn.functional.embedding(paddle.to_tensor(SEEN), owner["embedding.weight"])
        found = paddle.matmul(found, owner["linear.weight"]) + owner["linear.bias"]
        (10 * (found - target) ** 2).mean().backward()
        optimizer.step()
        optimizer.clear_grad()


@pytest.mark.parametrize("max_norm", [0.0, 1.0, 1e6])
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_steps_are_those_of_the_library(paddle, weight_decay, max_norm):
    plain, fast = parameters(paddle), parameters(paddle)
    before = {name: tensor.numpy() for name, tensor in fast.items()}
    library, own = optimizers(paddle, plain, fast, weight_decay, max_norm)
    for owner, optimizer in ((plain, library), (fast, own)):
        learn(paddle, owner, optimizer, 5)
    for name in SHAPES:
        np.testing.assert_allclose(fast[name].numpy(), plain[name].numpy(), rtol=1e-4, atol=1e-5, err_msg=name)
    assert own.get_lr() == library.get_lr() == 5e-2
    unseen = np.delete(np.arange(50), SEEN)
    changed = (fast["embedding.weight"].numpy() != before["embedding.weight"]).any(1)
    assert changed[SEEN].all() and changed[unseen].any() == (weight_decay > 0)
    np.testing.assert_array_equal(fast["unused"].numpy(), before["unused"])


def test_a_token_seen_before_goes_on_moving(paddle):
    """Its moments outlive the gradient."""
    plain, fast = parameters(paddle), parameters(paddle)
    pairs = list(zip((plain, fast), optimizers(paddle, plain, fast, 0.0)))
    for owner, optimizer in pairs:
        learn(paddle, owner, optimizer, 1)
    after_one = fast["embedding.weight"].numpy()
    for owner, optimizer in pairs:
        (owner["embedding.weight"][20:22] ** 2).sum().backward()
        optimizer.step()
    np.testing.assert_allclose(fast["embedding.weight"].numpy(), plain["embedding.weight"].numpy(), atol=1e-6)
    assert (fast["embedding.weight"].numpy() != after_one).any(1).nonzero()[0].tolist() == [3, 4, 9, 20, 21]


def test_without_a_gradient_a_parameter_stays(paddle):
    """The library's would go on moving it by old moments, and in a run that was resumed it would not."""
    owner = parameters(paddle)
    own = optimizers(paddle, owner, owner)[1]
    learn(paddle, owner, own, 1)
    before = {name: tensor.numpy() for name, tensor in owner.items()}
    (owner["unused"] ** 2).sum().backward()
    own.step()
    changed = {name for name, tensor in owner.items() if (tensor.numpy() != before[name]).any()}
    assert changed == {"unused"}


def test_where_it_comes_out_otherwise_the_library_steps(paddle, monkeypatch, capsys):
    monkeypatch.setattr(cpu_adamw, "EPSILON", 0.1)
    cpu_adamw.agrees.cache_clear()
    try:
        assert isinstance(adamw(1e-4, [{"params": list(parameters(paddle).values())}]), paddle.optimizer.AdamW)
    finally:
        cpu_adamw.agrees.cache_clear()
    assert "steps of AdamW in one pass are left out (numbers are off by " in capsys.readouterr().err


@pytest.mark.parametrize("missing", [True, False])
def test_the_library_steps_alike_where_this_cannot(paddle, monkeypatch, missing):
    """Without Numba, or with parameters of another precision."""
    plain, fast = parameters(paddle), parameters(paddle)
    groups = [{"params": [fast[name] for name in SHAPES if name != "linear.bias"]}]
    groups += [{"params": [fast["linear.bias"]], "learning_rate": 10.0}]
    if missing:
        monkeypatch.setitem(sys.modules, "hierarchical.cpu_adamw", None)
    else:
        other = paddle.create_parameter([2], "float64")
        groups[0]["params"].append(other)
    decayed = {fast["linear.weight"].name}
    found = adamw(1e-2, groups, 0.1, decayed.__contains__, 1.0)
    assert isinstance(found, paddle.optimizer.AdamW)
    own = AdamW(
        1e-2,
        [{"params": [plain[name] for name in SHAPES if name != "linear.bias"]}]
        + [{"params": [plain["linear.bias"]], "learning_rate": 10.0}],
        0.1, {plain["linear.weight"].name}.__contains__, 1.0, 1,
    )  # fmt: skip
    for owner, optimizer in ((plain, own), (fast, found)):
        learn(paddle, owner, optimizer, 3)
    for name in SHAPES:
        np.testing.assert_allclose(fast[name].numpy(), plain[name].numpy(), rtol=1e-4, atol=1e-5, err_msg=name)


def test_the_state_is_the_librarys(paddle):
    plain, fast = parameters(paddle), parameters(paddle)
    library, own = optimizers(paddle, plain, fast)
    learn(paddle, plain, library, 3)
    for name in SHAPES:
        fast[name].set_value(plain[name])
    names = {plain[name].name: fast[name].name for name in SHAPES}

    def renamed(state, names):
        return {
            f"{names[owner]}{key[len(owner) :]}": t
            for owner in names
            for key, t in state.items()
            if key.startswith(f"{owner}_m") or key.startswith(f"{owner}_b")
        }

    own.set_state_dict({key: paddle.assign(tensor) for key, tensor in renamed(library.state_dict(), names).items()})
    for owner, optimizer in ((plain, library), (fast, own)):
        learn(paddle, owner, optimizer, 3, seed=2)
    state = renamed(own.state_dict(), {new: old for old, new in names.items()})
    expected = library.state_dict()
    assert len(state) == 3 * 4 and state.keys() <= expected.keys()
    for key, tensor in state.items():
        np.testing.assert_allclose(tensor.numpy(), expected[key].numpy(), rtol=1e-4, atol=1e-7, err_msg=key)
    for name in SHAPES:
        np.testing.assert_allclose(fast[name].numpy(), plain[name].numpy(), rtol=1e-4, atol=1e-5, err_msg=name)


def test_a_run_that_goes_on_has_the_same_bits(paddle):
    whole, stopped = parameters(paddle), parameters(paddle)
    one, other = (optimizers(paddle, owner, owner)[1] for owner in (whole, stopped))
    learn(paddle, whole, one, 2), learn(paddle, stopped, other, 2)
    state = {key: paddle.assign(tensor) for key, tensor in other.state_dict().items()}
    again = optimizers(paddle, stopped, stopped)[1]
    again.set_state_dict(state)
    learn(paddle, whole, one, 2, seed=5), learn(paddle, stopped, again, 2, seed=5)
    for name in SHAPES:
        np.testing.assert_array_equal(whole[name].numpy(), stopped[name].numpy())


def test_the_same_bits_in_any_number_of_threads(paddle, monkeypatch):
    monkeypatch.setattr(cpu_kernels, "LEAST_SHARE", 1)  # these are too small for several
    alone, many = parameters(paddle), parameters(paddle)
    for owner, threads in ((alone, 1), (many, 3)):
        learn(paddle, owner, optimizers(paddle, owner, owner, threads=threads)[1], 3)
    for name in SHAPES:
        np.testing.assert_array_equal(alone[name].numpy(), many[name].numpy())
