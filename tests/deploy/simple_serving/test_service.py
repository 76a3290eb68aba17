"""deploy/simple_serving: what is answered and what is refused, by a real server."""

import json
import re
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

for package in ("fastapi", "fastapi_offline", "httptools", "httpx", "prometheus_client"):
    pytest.importorskip(package)

# ruff: noqa: E402

from deploy.simple_serving.model import words_of
from hierarchical.predictor import Predictor
from metric import decide

from tests.conftest import ROOT  # isort: skip
from tests.deploy.simple_serving.conftest import figures, probabilities, problem  # isort: skip

# ---- answers ---------------------------------------------------------------------------------------------------------


def test_classify_names_labels(client, predictor, texts):
    results = client.post("/v1/classify", json={"texts": texts[:4]}).raise_for_status().json()["results"]
    assert [row["text"] for row in results] == texts[:4]
    expected = probabilities(predictor, texts[:4])
    for row, p, selected in zip(results, expected, decide(expected, predictor.tree, predictor.decision)):
        labels = [predictor.tree.labels[i] for i in np.flatnonzero(selected)]
        assert row["labels"] == labels and set(labels) <= set(row["probabilities"])
        closed = {"##".join(label.split("##")[: k + 1]) for label in labels for k in range(label.count("##") + 1)}
        assert {label for level in row["levels"].values() for label in level} == closed
        assert list(row["probabilities"].values()) == sorted(row["probabilities"].values(), reverse=True)
        for label, value in row["probabilities"].items():
            assert value == pytest.approx(p[predictor.tree.index[label]], abs=1e-4)


def test_decision_of_a_request(client, predictor, texts):
    def ask(**settings):
        (row,) = client.post("/v1/classify", json={"texts": texts[0], **settings}).raise_for_status().json()["results"]
        return row

    p = probabilities(predictor, texts[:1])[0]
    assert ask(threshold=1)["labels"] == [] and len(ask(threshold=0)["labels"]) == len(predictor.tree)
    assert ask(threshold=0.9)["labels"] == [predictor.tree.labels[i] for i in np.flatnonzero(p > 0.9)]
    assert ask(top_k=1)["labels"] == [predictor.tree.labels[p.argmax()]]
    assert len(ask(threshold=1, min_labels=2)["labels"]) == 2 and len(ask(threshold=0, max_labels=3)["labels"]) == 3
    for label in ask(decoding="topdown", threshold=0.3)["labels"]:
        assert label.rpartition("##")[0] in ["", *ask(decoding="topdown", threshold=0.3)["labels"]]
    path = ask(decoding="path")["labels"]
    assert [label.count("##") for label in path] == list(range(len(path))) and path[1].startswith(path[0])
    assert ask(decoding="path", stop="confident", threshold=[0, 1, 1])["labels"] == path[:1]
    chosen = ask(per_level=1, threshold=1)["labels"]
    assert [label.count("##") for label in chosen] == list(range(len(chosen)))
    assert len(ask(floor=0)["probabilities"]) == len(predictor.tree)
    assert set(ask(floor=1)["probabilities"]) == set(ask()["labels"])
    sure, unsure, unasked = ask(certainty=0), ask(certainty=1), ask()
    least = min(value if value > 0.5 else 1 - value for value in p)
    assert sure["certainty"] == unsure["certainty"] == pytest.approx(least, abs=1e-4)
    assert (sure["sure"], unsure["sure"]) == (True, False) and not {"certainty", "sure"} & set(unasked)


@pytest.mark.parametrize("page", ["annotate.md", "annotate.zh-CN.md"])
def test_doccano_asks_as_the_page_says(client, predictor, texts, page):
    """Its auto labelling puts the text in the place of a value that is {{ text }}, and the answer into a template."""
    jinja2 = pytest.importorskip("jinja2")
    written = (ROOT / "docs" / page).read_text(encoding="utf-8")
    assert "`http://127.0.0.1:8189/v1/classify`" in written and "`texts`" in written and "`{{ text }}`" in written
    template = re.search(r"```\n(\{% set found.*?)```", written, re.S)[1]
    headers = {"Content-Type": "application/json"}
    for text, labels in ((texts[0], None), ("", []), (texts[1], None)):
        answer = client.request("POST", "/v1/classify", params={}, headers=headers, json={"texts": text}).json()
        predicted = answer["results"][0]["labels"]
        deepest = [label for label in predicted if not any(other.startswith(f"{label}##") for other in predicted)]
        assert json.loads(jinja2.Template(template).render(input=answer)) == [{"label": label} for label in deepest]
        assert deepest == [] if labels == [] else 0 < len(deepest) < len(predicted)
    answer = {"results": [{"labels": ["体育", '体育##"胜负"', "体育新闻", "a<b>"]}]}
    rendered = json.loads(jinja2.Template(template).render(input=answer))
    assert [one["label"] for one in rendered] == ['体育##"胜负"', "体育新闻", "a<b>"]


def test_blank_texts_keep_the_rows_in_step(client, texts):
    results = client.post("/v1/classify", json={"texts": ["", texts[0], " \n\t"]}).raise_for_status().json()["results"]
    assert [bool(row["labels"]) for row in results] == [False, True, False]


def test_the_reference_bodies(client, predictor, texts):
    body = {"data": {"text": texts[:3]}, "parameters": {"max_seq_len": 64, "batch_size": 1, "prob_limit": 0.5}}
    answer = client.post("/models/cls_hierarchical", json=body).raise_for_status().json()
    expected = probabilities(predictor, texts[:3])
    assert answer.keys() == {"result"} and answer["result"].keys() == {"label", "confidence"}
    assert answer["result"]["label"] == [np.flatnonzero(p > 0.5).tolist() for p in expected]
    for got, p in zip(answer["result"]["confidence"], expected):
        assert got == pytest.approx(p[p > 0.5], abs=1e-4)


def test_each_reference_parameter_is_obeyed(client, shared, predictor, texts, tiny_export):
    def ask(**parameters):
        body = {"data": {"text": texts[0]}, "parameters": parameters}
        return client.post("/models/cls_hierarchical", json=body).raise_for_status().json()["result"]

    assert ask() == ask(max_seq_len=64, prob_limit=0.5)
    (short,) = probabilities(Predictor(tiny_export, max_seq_length=8), texts[:1])
    assert ask(max_seq_len=8)["label"] == [np.flatnonzero(short > 0.5).tolist()]
    assert ask(max_seq_len=8)["confidence"][0] == pytest.approx(short[short > 0.5], abs=1e-4)
    (p,) = probabilities(predictor, texts[:1])
    assert ask(prob_limit=0.9)["label"] == [np.flatnonzero(p > 0.9).tolist()]
    for size, least in ((1, 5), (2, 3)):  # two threads share five texts: batches of 1, or of at most 2
        before = figures(client)
        body = {"data": {"text": texts[:5]}, "parameters": {"batch_size": size}}
        client.post("/models/cls_hierarchical", json=body).raise_for_status()
        after = figures(client)
        large = after[f'batch_size_bucket{{le="{size}.0"}}'] - before[f'batch_size_bucket{{le="{size}.0"}}']
        assert large == after["batch_size_count"] - before["batch_size_count"] >= least


@pytest.mark.slow
def test_explain_leaves_out_each_word(client, predictor):
    text = "国足今晚出战"
    answer = client.post("/v1/explain", json={"text": text}).raise_for_status().json()
    words = [tuple(word) for word in answer["words"]]
    assert answer["read"] == len(text) and words == words_of(text)
    (whole,) = probabilities(predictor, [text])
    for row in answer["labels"]:
        i = predictor.tree.index[row["label"]]
        assert row["probability"] == pytest.approx(whole[i], abs=1e-4)
        for (start, end), fall in zip(words, row["falls"], strict=True):
            (without,) = probabilities(predictor, [text[:start] + text[end:]])
            assert fall == pytest.approx(whole[i] - without[i], abs=2e-4)
    label = predictor.tree.labels[3]
    only = client.post("/v1/explain", json={"text": text, "labels": [label]}).raise_for_status().json()
    assert [row["label"] for row in only["labels"]] == [label]


@pytest.mark.slow
def test_explain_long_and_wordless_texts(client):
    answer = client.post("/v1/explain", json={"text": "长文本" * 300}).raise_for_status().json()
    # the linear branch reads all, the encoder 62 characters
    assert answer["read"] == 900 and len(answer["words"]) <= 64 and answer["words"][-1][1] == 900
    answer = client.post("/v1/explain", json={"text": "  "}).raise_for_status().json()
    assert answer["words"] == [] and len(answer["labels"]) == 1


def test_words_without_jieba(monkeypatch):
    monkeypatch.setitem(sys.modules, "jieba", None)
    text = "买 iPhone15，真3G！"
    assert [text[start:end] for start, end in words_of(text)] == ["买", "iPhone15", "，", "真", "3G", "！"]


def test_every_answer_belongs_to_its_request(client, predictor, texts):
    parts = [texts[i : i + 1 + i % 4] for i in range(0, 96, 3)]
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda part: client.post("/v1/classify", json={"texts": part, "floor": 0}), parts * 3))
    expected = dict(zip(texts, probabilities(predictor, texts)))
    for part, answer in zip(parts * 3, answers, strict=True):
        assert [row["text"] for row in answer.json()["results"]] == part
        for row in answer.json()["results"]:
            got = [row["probabilities"].get(label, 0) for label in predictor.tree.labels]
            assert got == pytest.approx(expected[row["text"]], abs=1e-4)


# ---- what watches over it --------------------------------------------------------------------------------------------


def test_health_ready_and_metrics(client, tiny_export):
    state = client.get("/health").raise_for_status().json()
    assert state["model"] == "float32.onnx" and str(tiny_export) not in str(state)  # its folder is nobody's business
    assert re.fullmatch("[0-9a-f]{12}", state["version"])
    assert (state["labels"], state["max_seq_length"]) == (31, 64)
    assert client.get("/ready").raise_for_status().json()["status"] == "ready"
    name = 'http_requests_total{path="/health",status="200"}'
    before = figures(client)
    client.get("/health")
    client.get("/nothing/here")
    after = figures(client)
    assert after[name] == before[name] + 1 and after["queue_length"] == 0
    assert after['http_requests_total{path="other",status="404"}'] >= 1
    assert after['http_request_duration_seconds_count{path="/health"}'] == before[name] + 1


def test_head_is_answered_as_get_without_the_body(client):
    for path in ("/", "/health", "/ready", "/metrics", "/docs", "/openapi.json"):
        got, head = client.get(path), client.head(path)
        assert head.status_code == got.status_code == 200 and head.content == b""
        assert head.headers["content-type"] == got.headers["content-type"]
        assert path == "/metrics" or head.headers["content-length"] == got.headers["content-length"]
    assert client.head("/v1/classify").status_code == 405


def test_description_and_pages_need_nothing_from_elsewhere(client):
    document = client.get("/openapi.json").raise_for_status().json()
    references = re.findall(r'"\$ref": "#/components/schemas/(\w+)"', json.dumps(document))
    assert set(references) <= set(document["components"]["schemas"])
    assert {"ClassifyBody", "ReferenceBody", "ReferenceParameters"} <= set(references)
    least = {
        name: field["anyOf"][0].get("minimum")
        for body in ("ClassifyBody", "ReferenceParameters")
        for name, field in document["components"]["schemas"][body]["properties"].items()
        if field.get("anyOf", [{}])[0].get("type") == "integer"
    }
    assert least == {
        "min_labels": 0, "max_labels": 1, "top_k": 1, "per_level": 0, "max_seq_len": 3, "batch_size": 1
    }  # fmt: skip
    assert document["components"]["schemas"]["ClassifyBody"]["properties"]["texts"]["anyOf"] == [
        {"type": "string", "maxLength": 1000},
        {"type": "array", "items": {"type": "string", "maxLength": 1000}, "minItems": 1, "maxItems": 5},
    ]
    for path in ("/", "/docs"):
        html = client.get(path).raise_for_status().text
        assert not re.search(r"""(?:src|href)=["'](?:https?:)?//""", html)
        for asset in re.findall(r"""(?:src|href)=["'](/static[^"']+)""", html):
            assert client.get(asset).status_code == 200


# ---- wrong requests --------------------------------------------------------------------------------------------------

BAD_BODIES = [
    (b"", 400, "body", "Invalid JSON"),
    (b'{"texts": ["a"]', 400, "body", "Invalid JSON"),
    (b'{"texts": ["\xff\xfe"]}', 400, "body", "Invalid JSON"),
    (b'{"texts": ["a\x00b"]}', 400, "body", "Invalid JSON"),
    (b'{"texts": ["\\ud800"]}', 400, "body", "Invalid JSON"),
    (b'{"texts": ' + b"[" * 9000, 400, "body", "Invalid JSON"),
    (b"[]", 422, "body", "object"),
    (b'"text"', 422, "body", "object"),
    (b"null", 422, "body", "object"),
    (b"{}", 422, "body.texts", "required"),
    (b'{"texts": []}', 422, "body.texts", "at least 1"),
    (b'{"texts": null}', 422, "body.texts", "array"),
    (b'{"texts": ["a", 1]}', 422, "body.texts[1]", "string"),
    (b'{"texts": {"a": 1}}', 422, "body.texts", "array"),
    (b'{"texts": "a", "threshold": NaN}', 422, "body.threshold", "finite"),
    (b'{"texts": "a", "threshold": 1e999}', 422, "body.threshold", "finite"),
    (b'{"texts": "a", "threshold": 1.5}', 422, "body.threshold", "less than"),
    (b'{"texts": "a", "threshold": "0.5"}', 422, "body.threshold", "number"),
    (b'{"texts": "a", "threshold": true}', 422, "body.threshold", "number"),
    (b'{"texts": "a", "threshold": [0.5, 1.5]}', 422, "body.threshold[1]", "less than"),
    (b'{"texts": "a", "threshold": [0.5, 0.5]}', 422, "body", "2 thresholds for 31 labels on 3 levels"),
    (b'{"texts": "a", "certainty": 2}', 422, "body.certainty", "less than"),
    (b'{"texts": "a", "stop": "root"}', 422, "body.stop", "leaf"),
    (b'{"texts": "a", "per_level": -1}', 422, "body.per_level", "greater"),
    (b'{"texts": "a", "top_k": 0}', 422, "body.top_k", "greater"),
    (b'{"texts": "a", "top_k": 1.5}', 422, "body.top_k", "integer"),
    (b'{"texts": "a", "top_k": ' + b"9" * 5000 + b"}", 400, "body", "out of range"),
    (b'{"texts": "a", "decoding": "greedy"}', 422, "body.decoding", "raw"),
    (b'{"texts": "a", "top_k": 2, "min_labels": 1}', 422, "body", "top_k"),
    (b'{"texts": "a", "min_labels": 3, "max_labels": 2}', 422, "body", "min_labels"),
    (b'{"texts": ["1", "2", "3", "4", "5", "6"]}', 413, "body.texts", "6 texts"),
    (b'{"texts": ["1", "' + b"x" * 1001 + b'"]}', 413, "body.texts[1]", "1001 characters"),
    (b'{"texts": "' + b"x" * 20000 + b'"}', 413, "body", "20000 bytes"),
]


@pytest.mark.parametrize(("body", "status", "where", "what"), BAD_BODIES, ids=lambda value: str(value)[:40])
def test_bad_bodies(client, body, status, where, what):
    response = client.post("/v1/classify", content=body)
    assert response.status_code == status, response.text
    found = problem(response)
    assert found["where"] == where and what in found["what"]


@pytest.mark.parametrize(
    ("path", "body", "where", "how"),
    [
        ("/v1/classify", {"texts": "a", "treshold": 0.5}, "body.treshold", "'threshold'"),
        ("/v1/classify", {"texts": "a", "§": 1}, "body.§", "Known are: texts, threshold"),
        ("/models/cls_hierarchical", {"data": {"text": "a"}, "para": {}}, "body.para", "'parameters'"),
        ("/models/cls_hierarchical", {"data": {"txt": "a", "text": "a"}}, "body.data.txt", "'text'"),
        (
            "/models/cls_hierarchical",
            {"data": {"text": "a"}, "parameters": {"max_seq_length": 9}},
            "body.parameters.max_seq_length",
            "'max_seq_len'",
        ),
        (
            "/models/cls_hierarchical",
            {"data": {"text": "a"}, "parameters": {"max_seq_len": 10**6}},
            "body.parameters.max_seq_len",
            "at most",
        ),
        ("/v1/explain", {"text": "a", "labels": ["体育##足求"]}, "body.labels[0]", "Did you mean"),
    ],
)
def test_the_nearest_right_thing_is_named(client, path, body, where, how):
    response = client.post(path, json=body)
    assert response.status_code == 422
    found = problem(response)
    assert found["where"] == where and how in found["how"]


def test_all_problems_of_a_body_in_one_go(client):
    response = client.post("/v1/classify", json={"texts": [1] * 40, "threshold": 7})
    assert len(response.json()["problems"]) == 21 and response.json()["problems"][-1]["what"] == "21 more like these"


def test_unknown_paths_and_methods(client):
    for method, path, status in (
        ("GET", "/v1/classfy", 404),
        ("GET", "/v1/classify", 405),
        ("DELETE", "/health", 405),
        ("POST", "/%00", 404),
        ("POST", "/../../etc/passwd", 404),
        ("GET", "/static-offline-docs/%2e%2e/core.py", 404),
    ):
        response = client.request(method, path)
        assert response.status_code == status, path
        assert "/v1/classify" in problem(response)["how"]


def test_reload_is_refused_without_a_key(client):
    response = client.post("/admin/reload")
    assert response.status_code == 403 and "SERVING_API_KEY" in problem(response)["how"]
