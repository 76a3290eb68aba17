"""Fixtures of the tests of Paddle Serving's folder, protocol and service."""

import pytest

from deploy.paddle_serving import make_config


@pytest.fixture
def make(tiny_export, tmp_path):
    """make(*flags): make_config.py's main() on the tiny export, in this process; returns the folder."""

    def make(*flags):
        words = ["--model_path", tiny_export, "--output", tmp_path / "serving", *flags]
        make_config.main([str(word) for word in words])
        return tmp_path / "serving"

    return make
