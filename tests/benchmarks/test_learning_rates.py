"""benchmarks/learning_rates.py: which trainings are made, and the rate that comes of their scores."""

import numpy as np
import pytest

from benchmarks.learning_rates import RATES, means, missing, top


def tried(score, seeds=(1, 2)):
    """The rates in the order in which each seed tries them, where a training at a rate has score(rate)."""
    results, order = {}, {seed: [] for seed in seeds}
    for seed in seeds:
        while wanted := missing(results, "one", seed, seeds[0]):
            order[seed].append(wanted[0])
            results["one", wanted[0], seed] = {"micro_f1": score(wanted[0])}
    return order, results


@pytest.mark.parametrize(
    "best, first, second",
    [
        (2e-4, [2e-4, 1e-4, 4e-4], [2e-4, 1e-4, 4e-4]),
        (5e-5, [2e-4, 1e-4, 5e-5], [5e-5, 1e-4]),
        (8e-4, [2e-4, 1e-4, 4e-4, 8e-4], [8e-4, 4e-4]),
    ],
)
def test_the_first_seed_climbs_and_the_others_try_the_neighbours(best, first, second):
    order, results = tried(lambda rate: -abs(np.log(rate / best)))
    assert order == {1: first, 2: second}
    assert set(means(results, "one", [1, 2])) == set(second)  # of the rates that both have tried


def test_the_top_is_that_of_a_parabola_over_the_logarithm_of_the_rate():
    assert top({rate: 90 - np.log(rate / 1.5e-4) ** 2 for rate in RATES}) == pytest.approx(1.5e-4)
    assert top({1e-4: 3.0, 2e-4: 2.0, 4e-4: 1.0}) == 1e-4  # at an end of what was tried
