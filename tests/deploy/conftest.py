"""Fixtures of the servers' tests: what they are asked, and who knows the answers.

All that is deployed there has a linear branch beside its encoder, which takes nothing else out of use.
"""

import pytest

from hierarchical.predictor import Predictor
from utils import load_rows

from tests.conftest import SAMPLE  # isort: skip


@pytest.fixture(scope="session")
def tiny_export(hybrid_export):
    return hybrid_export


@pytest.fixture(scope="module")
def predictor(tiny_export):
    return Predictor(tiny_export, "float32")


@pytest.fixture(scope="module")
def texts(predictor):
    """150 texts of different lengths, and blank ones at 3 and 70."""
    texts = load_rows(SAMPLE / "dev.txt", predictor.tree).texts[:150]
    texts[5] *= 40
    texts[3], texts[70] = "", " \u3000\t"
    return texts
