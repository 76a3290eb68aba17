"""Fixtures of the servers' tests: what they are asked, and who knows the answers.

All that is deployed there has a linear branch beside its encoder, which takes nothing else out of use.
"""

import json

import pytest

from deploy.ray_batch import predict
from deploy.ray_batch.labelling import COUNTED, Labeller
from hierarchical.predictor import Predictor
from utils import load_rows

from tests.conftest import SAMPLE  # isort: skip


def without_ray(monkeypatch):
    """From now on predict.py of deploy/ray_batch works in this process: one actor, which gets piece after piece."""

    def label(args, ray, pieces, settings, files, logger):
        actor, counts, problems = Labeller(settings, lambda: files), predict.Counter(), predict.Problems()
        for piece in pieces:
            result = actor({"piece": [json.dumps(predict.asdict(piece))]})
            counts.update({name: result[name][0] for name in COUNTED})
            if fault := result["fault"][0]:
                problems.count += 1
                problems.shown.append(fault)
        return counts, problems

    class NoRay:
        exceptions = type("exceptions", (), {"RayError": ()})

        def shutdown():
            pass

    monkeypatch.setattr(predict, "label", label)
    monkeypatch.setattr(predict, "start_ray", lambda args, size, logger: NoRay)


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
