"""Fixtures of the tests of Triton's repository, steps and server."""

import pytest

from deploy.triton_serving import make_repository

from tests.deploy.triton_serving.asking import answers  # isort: skip


@pytest.fixture
def make(tiny_export, tmp_path):
    """make(*flags): make_repository.py's main() on the tiny export, in this process; returns the repository."""

    def make(*flags):
        words = ["--model_path", tiny_export, "--output", tmp_path / "models", *flags]
        make_repository.main([str(word) for word in words])
        return tmp_path / "models"

    return make


@pytest.fixture(scope="module")
def expected(predictor, texts):
    """What the predictor says: for each text a list of (class index, name, probability)."""
    return answers(predictor, texts, predictor.decision)
