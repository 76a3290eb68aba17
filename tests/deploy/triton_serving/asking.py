"""The steps of the repository without Triton, and answers that can be compared."""

import importlib.util
import json
import re
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from hierarchical.labels import LabelTree
from metric import decide

from tests.conftest import SAMPLE  # isort: skip

TREE = LabelTree.read(SAMPLE / "label.txt")
MODELS = ("tokenizer", "seqcls_model", "seqcls_postprocess", "seqcls")


def answers(predictor, texts, decision):
    probabilities = predictor.probabilities(texts)
    rows = decide(probabilities, predictor.tree, decision)
    return [
        [(i, predictor.tree.labels[i], p[i]) for i in np.flatnonzero(row)] if text.strip() else []
        for text, row, p in zip(texts, rows, probabilities)
    ]


def certain_rows(predictor, texts):
    """What the predictor says of how certain their labels are."""
    return predictor.predict(texts, certainty=0.5)


def same(found, expected):
    assert [[label[:2] for label in row] for row in found] == [[label[:2] for label in row] for row in expected]
    for one, other in zip(found, expected):
        assert [p for _, _, p in one] == pytest.approx([p for _, _, p in other], abs=1e-4)
    return True


def labels_of(label, name, confidence):
    """Lists of (class index, name, probability) from the three outputs, which must fill up what a row has less."""
    assert label.shape == name.shape == confidence.shape
    assert label.dtype == np.int64 and confidence.dtype == np.float32
    filled = label >= 0
    assert (np.diff(filled.astype(int), axis=1) <= 0).all(), "the filling stands at the end"
    assert (label[~filled] == -1).all() and (confidence[~filled] == 0).all() and (name[~filled] == b"").all()
    assert label.shape[1] == max(1, filled.sum(1).max())
    rows = zip(label, name, confidence)
    return [[(i, n.decode("utf-8"), p) for i, n, p in zip(*row) if i >= 0] for row in rows]


class Tensor(SimpleNamespace):
    """Stands in for Triton's: what the steps use of it."""

    def __init__(self, name, value):
        super().__init__(name=name, as_numpy=lambda: value)


def step(models, name, requests):
    """The outputs of a step for requests that Triton hands over together: for each {name: array}, or its error."""
    stand_in = SimpleNamespace(
        Tensor=Tensor,
        TritonError=str,
        InferenceResponse=lambda tensors=None, error=None: error or {t.name: t.as_numpy() for t in tensors},
        get_input_tensor_by_name=lambda request, key: Tensor(key, request[key]) if key in request else None,
    )
    path = models / name / "1" / "model.py"
    config = (models / name / "config.pbtxt").read_text("utf-8")
    sides = {
        side: [{"name": n} for n in re.findall(rf'^{side} {{ name: "(\w+)"', config, re.M)]
        for side in ("input", "output")
    }
    values = re.findall(r'^parameters { key: "(\w+)" value: { string_value: "([^"]*)" } }$', config, re.M)
    parameters = {key: {"string_value": value} for key, value in values}
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "triton_python_backend_utils", stand_in)
        patch.setattr(sys, "path", sys.path[:])
        spec = importlib.util.spec_from_file_location(f"step_{name}", path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    model = module.TritonPythonModel()
    model.initialize({"model_config": json.dumps(sides | {"parameters": parameters}), "model_instance_kind": "CPU"})
    return model.execute(requests)


def column(texts):
    return np.array([[text if isinstance(text, bytes) else text.encode("utf-8")] for text in texts], object)


def ask(models, requests):
    """The labels of each request's texts, all requests handed from step to step together."""
    found = outputs_of(models, requests)
    return [labels_of(*(row[f"POST_{name}"] for name in ("label", "label_name", "confidence"))) for row in found]


def outputs_of(models, requests):
    """The outputs of the last step for each of these requests."""
    tokens = step(models, "tokenizer", [{"INPUT_0": column(texts)} for texts in requests])
    names = ("input_ids", "token_type_ids")
    logits = step(models, "seqcls_model", [dict(zip(names, values.values())) for values in tokens])
    posts = [{"POST_INPUT": rows["logits"], "POST_TEXT": column(texts)} for rows, texts in zip(logits, requests)]
    return step(models, "seqcls_postprocess", posts)
