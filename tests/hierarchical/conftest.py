"""Fixtures of the tests of predictor.py.

export       a copy of tiny_export
checkpoint   a copy of tiny_checkpoint
texts        texts of several batches and lengths
"""

import shutil

import pytest

from tests.conftest import SAMPLE


@pytest.fixture
def export(tiny_export, tmp_path):
    """A copy of the exported model that a test may damage."""
    return shutil.copytree(tiny_export, tmp_path / "export")


@pytest.fixture
def checkpoint(tiny_checkpoint, tmp_path):
    """A copy of the checkpoint that a test may damage."""
    return shutil.copytree(tiny_checkpoint, tmp_path / "checkpoint")


@pytest.fixture(scope="module")
def texts():
    """Texts of several batches and lengths: blank ones among them, one twice, one longer than the model reads."""
    rows = (SAMPLE / "dev.txt").read_text(encoding="utf-8").splitlines()[:90]
    texts = [row.split("\t")[0] for row in rows]
    texts[7], texts[40], texts[50], texts[60] = "", "", texts[3], texts[5] * 20
    return texts
