"""recipes.py: how long a training is, by hand."""

import pytest

from hierarchical.recipes import by_rows, defaults_of, repeats, typed


@pytest.mark.parametrize(
    ("n_rows", "given", "expected"),
    [
        (74, {}, (60, 8, 60)),  # at most 60 epochs, of 10 steps: a tenth of 600
        (1000, {}, (24, 8, 300)),
        (1001, {}, (24, 32, 76)),  # 32 steps an epoch
        (10_708, {}, (8, 32, 268)),
        (2000, {"epochs": 3}, (3, 32, 18)),
        (2000, {"batch_size": 100}, (12, 100, 24)),
        (2000, {"parts": 4}, (12, 32, 19)),  # 16 steps of 128 rows
        (2000, {"n_texts": 15_000}, (4, 32, 262)),  # 3 x 2000 + 15,000 rows an epoch: 657 steps
        (10_708, {"n_texts": 15_000, "epochs": 10}, (10, 32, 804)),  # 1 x 10,708 + 15,000
    ],
)
def test_by_rows(n_rows, given, expected):
    assert by_rows(n_rows, **given) == dict(zip(("epochs", "batch_size", "warmup_steps"), expected))


def test_how_often_labelled_rows_stand_in_a_pass_over_unlabelled_texts():
    found = {n_rows: [repeats(n_rows, epochs) for epochs in (1, 4, 10)] for n_rows in (74, 2000, 10_708)}
    assert found == {74: [60, 15, 6], 2000: [12, 3, 1], 10_708: [8, 2, 1]}  # 60, 12 and 8 epochs alone


def test_the_rows_settle_what_the_recipe_leaves_open():
    defaults = defaults_of("best")
    settled = {name: value if value is not None else by_rows(2000)[name] for name, value in defaults.items()}
    assert settled == {
        "loss": "zlpr", "learning_rate": "auto", "lr_scheduler": "linear", "warmup": True, "select_by": "last",
        "hybrid": True, "epochs": 12, "batch_size": 32, "warmup_steps": 75,
    }  # fmt: skip


def test_flags_as_they_are_typed():
    told = [typed(name, value) for name, value in (("epochs", 1), ("hybrid", True), ("hybrid", False))]
    assert told == ["--epochs 1", "--hybrid", "--no_hybrid"]
