"""hierarchical/predictor.py: the door for other people's programs."""

import numpy as np
import pytest

from hierarchical.errors import InputError
from hierarchical.predictor import Predictor


def test_other_length_than_trained_with(tiny_export, printed):
    assert Predictor(tiny_export, max_seq_length=16).tokenizer.max_seq_length == 16
    assert "the model was trained with 64" in printed[0]
    with pytest.raises(InputError, match="this model reads at most"):
        Predictor(tiny_export, max_seq_length=100_000)


def test_results_do_not_depend_on_batches_or_threads(tiny_export):
    one, many = (Predictor(tiny_export, num_threads=n, batch_size=b) for n, b in ((1, 1), (4, 5)))
    ids = one.tokenizer.encode(["甲" * n for n in (3, 60, 1, 17, 17, 8, 40, 2, 5, 9, 33)])
    np.testing.assert_allclose(one.logits(ids), many.logits(ids), atol=1e-3)
    assert one.logits([]).shape == (0, len(one.tree))
