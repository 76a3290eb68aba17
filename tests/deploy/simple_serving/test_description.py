"""deploy/simple_serving/description.py: what is valid by the description is not refused, and the other way round."""

import itertools
from types import SimpleNamespace

import pytest

jsonschema = pytest.importorskip("jsonschema")

# ruff: noqa: E402
from deploy.simple_serving.bodies import ClassifyBody, ExplainBody, ReferenceBody
from deploy.simple_serving.description import add_limits
from hierarchical.decisions import Decision
from hierarchical.labels import LabelTree


def schemas_of(decision=Decision(), labels=("体育", "体育##足球"), known=None):
    from pydantic.json_schema import models_json_schema

    wanted = [(body, "validation") for body in (ClassifyBody, ExplainBody, ReferenceBody)]
    schemas = models_json_schema(wanted, ref_template="#/$defs/{model}")[1]["$defs"]
    tree, trained = LabelTree(list(labels)), LabelTree(list(labels)[:known])
    model = SimpleNamespace(tree=tree, trained=trained, known=known, decision=decision, most_tokens=64)
    models = SimpleNamespace(find=lambda: model, loaded={"default": model}, loads={"default": None})
    add_limits(schemas, SimpleNamespace(max_texts=3, max_chars=5), models)
    return schemas


def valid(schemas, name, body):
    return jsonschema.Draft202012Validator(schemas[name] | {"$defs": schemas}).is_valid(body)


@pytest.mark.parametrize(
    ("name", "body", "expected"),
    [
        ("ClassifyBody", {"texts": "12345"}, True),
        ("ClassifyBody", {"texts": "123456"}, False),
        ("ClassifyBody", {"texts": ["一二三四五"] * 3}, True),
        ("ClassifyBody", {"texts": ["1"] * 4}, False),
        ("ClassifyBody", {"texts": ["1", "123456"]}, False),
        ("ClassifyBody", {"texts": []}, False),
        ("ClassifyBody", {"texts": "1", "threshold": [0.5, 1], "decoding": "path", "stop": "confident"}, True),
        ("ClassifyBody", {"texts": "1", "threshold": [0.5, 1, 1]}, False),
        ("ClassifyBody", {"texts": "1", "threshold": [0.5, 2]}, False),
        ("ClassifyBody", {"texts": "1", "per_level": 1, "top_k": 1}, True),
        ("ExplainBody", {"text": "12345", "labels": ["体育##足球"]}, True),
        ("ExplainBody", {"text": "123456"}, False),
        ("ExplainBody", {"text": "1", "model": "default"}, True),
        ("ClassifyBody", {"texts": "1", "model": "other"}, False),
        ("ExplainBody", {"text": "1", "labels": ["足球"]}, False),
        ("ReferenceBody", {"data": {"text": ["1"] * 3}, "parameters": {"max_seq_len": 64}}, True),
        ("ReferenceBody", {"data": {"text": ["1"] * 4}}, False),
        ("ReferenceBody", {"data": {"text": "1"}, "parameters": {"max_seq_len": 65}}, False),
    ],
)
def test_limits(name, body, expected):
    assert valid(schemas_of(), name, body) == expected


@pytest.mark.parametrize("stored", [Decision(), Decision(min_labels=2), Decision(max_labels=2), Decision(top_k=1)])
def test_numbers_of_labels_that_go_together(stored):
    """The description is never wider than what the decision takes, and as wide up to ten labels."""
    schemas, numbers = schemas_of(stored), (None, 0, 1, 2, 3, 9, 10, 11)
    for least, most, top in itertools.product(numbers, numbers, (None, 1, 12)):
        given = {"min_labels": least, "max_labels": most, "top_k": top}
        body = {"texts": "1"} | given
        try:
            ClassifyBody.model_validate(body)
            stored.updated(**given)
            taken = True
        except ValueError:
            taken = False
        described = valid(schemas, "ClassifyBody", body)
        assert taken or not described, given
        both_given = least is not None and most is not None
        if stored in (Decision(), Decision(top_k=1)) and not (both_given and least > 10):
            assert described == taken, given


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"decoding": "closure", "threshold": [0.5, 1], "min_labels": 2, "per_level": 0, "top_k": None}, True),
        ({"threshold": [0.5, 1, 1]}, False),  # the new label has its own
        ({"decoding": "path"}, False),
        ({"per_level": 1}, False),
        ({"top_k": 1}, False),
        ({"max_labels": 1}, False),
    ],
)
def test_where_there_are_new_labels(settings, expected):
    schemas = schemas_of(labels=("体育", "体育##足球", "体育##篮球"), known=2)
    assert valid(schemas, "ClassifyBody", {"texts": "1"} | settings) == expected
    assert valid(schemas, "ExplainBody", {"text": "1", "labels": ["体育##篮球"]})


def test_many_labels_are_not_listed():
    labels = [f"标签{i}" for i in range(1001)]
    assert valid(schemas_of(labels=labels), "ExplainBody", {"text": "1", "labels": ["any"]})
