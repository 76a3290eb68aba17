"""Hierarchical text classification: what other people's programs import.

    from hierarchical import Predictor

    predictor = Predictor("export")                    # or a checkpoint
    for result in predictor.predict(["国足今晚出战"]):
        print(result.labels, result.probabilities, result.levels)

Importing this package loads nothing heavy; `Predictor` brings numpy, and its first use ONNX Runtime or paddle.
"""

from typing import TYPE_CHECKING

from hierarchical.errors import InputError

if TYPE_CHECKING:
    from hierarchical.labelled import Prediction
    from hierarchical.predictor import Predictor

__version__ = "0.9.0"
__all__ = ["InputError", "Prediction", "Predictor", "__version__"]


def __getattr__(name: str) -> object:
    if name in ("Prediction", "Predictor"):
        from hierarchical import predictor

        return getattr(predictor, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
