"""learning_rates.py: the rates that were measured come out, and for other sizes those that are usual."""

import pytest

from hierarchical.learning_rates import fitting_rate


@pytest.mark.parametrize(
    "layers, width, rate",
    [
        (4, 384, 2e-4),  # measured: best 2.0e-4
        (6, 384, 2e-4),  # 1.6e-4 and 1.7e-4
        (12, 384, 1e-4),  # 1.4e-4
        (4, 312, 3e-4),
        (6, 768, 4e-5),
        (12, 768, 3e-5),  # the default, which is meant for these
        (24, 1024, 2e-5),
        (2, 128, 3e-4),  # the highest there is
    ],
)
def test_with_weights(layers, width, rate):
    assert fitting_rate(layers, width, pretrained=True) == rate


@pytest.mark.parametrize("width, rate", [(64, 1e-3), (128, 1e-3), (384, 3e-4), (768, 2e-4)])
def test_from_scratch_a_wider_one_learns_more_slowly(width, rate):
    assert fitting_rate(2, width, pretrained=False) == rate
