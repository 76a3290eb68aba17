"""That of a layer's outputs those of the first token of each text alone are read: it can then leave the others out.

with first_token_alone(layer):    # the last one of a network that classifies, see modeling.classifying
    logits = model(**inputs)
is_alone(layer)                   # within: what the layer asks
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

OWN = threading.local()  # of this thread


@contextmanager
def first_token_alone(layer: Any) -> Iterator[None]:
    """layer: None where all tokens are read"""
    before, OWN.layer = getattr(OWN, "layer", None), layer
    try:
        yield
    finally:
        OWN.layer = before


def is_alone(layer: Any) -> bool:
    """Whether this thread reads the first token alone of what the layer gives: [n, 1, units] will do."""
    return getattr(OWN, "layer", None) is layer
