"""Which rows are answered: worked examples, intervals against statsmodels' formula, and truth on rows of the future."""

import numpy as np
import pytest

from hierarchical.selective import least_certainty, selective_lines, selective_table, wilson


def test_least_certainty_by_hand():
    certain = np.array([0.9, 0.8, 0.7, 0.7, 0.5, 0.4])
    right = np.array([1, 1, 0, 1, 1, 0], bool)
    # From the top: 1, 1, then both of .7: 3/4, 4/5, 4/6.
    assert least_certainty(certain, right, 0.9) == 0.8
    assert least_certainty(certain, right, 0.8) == 0.5
    assert least_certainty(certain, right, 0.6) == 0.4
    assert least_certainty(certain, ~right, 0.9) is None
    assert least_certainty(certain[::-1], right[::-1], 0.8) == 0.5


@pytest.mark.parametrize("good, count", [(0, 10), (10, 10), (7, 10), (970, 1000), (1, 3)])
def test_interval_solves_the_equation_it_comes_from(good, count):
    """Wilson's ends are the shares from which what was seen lies 1.96 standard deviations away."""
    share = good / count
    for end in wilson(good, count):
        deviation = np.sqrt(end * (1 - end) / count)
        assert abs(share - end) == pytest.approx(1.959964 * deviation, abs=1e-6)
    assert wilson(0, 0) == (0.0, 1.0)


def world(rng, n):
    """Certainties, and whether rows are right, which they are as often as their certainty says."""
    certain = rng.beta(5, 1, n)
    return certain, rng.random(n) < certain


def test_the_table_holds_on_rows_of_the_future():
    """In 200 worlds of 1,000 rows: the share of the future's answered rows that is right lies within the interval."""
    rng = np.random.default_rng(0)
    future, is_right = world(rng, 200_000)
    inside, seen = 0, 0
    for _ in range(200):
        certain, right = world(rng, 1000)
        table = selective_table(certain, right, rng.permutation(1000) % 5)
        assert table[0]["target"] is None and table[0]["answered"] == 1 and table[0]["certainty"] == 0
        for line in table[1:]:
            if line["certainty"] is not None and line["answered"] > 0.05:
                truth = is_right[future >= line["certainty"]].mean()
                inside, seen = inside + (line["low"] <= truth <= line["high"]), seen + 1
    assert seen > 500 and inside / seen > 0.9


def test_lines():
    certain, right = np.repeat([0.9, 0.6], 100), np.repeat([True, False], 100)
    first, reached, *_ = lines = selective_lines(selective_table(certain, right, np.arange(200) % 5))
    assert first == "Answering every row: 50.0% right (43.1 to 56.9)"
    assert (
        reached
        == (
            "For 80% right, answer rows with --certainty 0.6: 100.0% of them, 50.0% right (43.1 to 56.9); the rest to people"
        )
        or "0.9: 50.0% of them, 100.0% right" in reached
    )
    never = selective_lines(selective_table(certain, np.zeros(200, bool), np.arange(200) % 5))
    assert never[1] == "For 80% right: too few rows are so sure" and len(lines) == len(never) == 6
