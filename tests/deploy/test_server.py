"""deploy/simple_serving: real servers on free ports, asked by httpx, by bare sockets and by a browser."""

import asyncio
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from types import SimpleNamespace

import numpy as np
import pytest

for package in ("fastapi", "fastapi_offline", "httptools", "httpx", "prometheus_client"):
    pytest.importorskip(package)

# ruff: noqa: E402
import httpx

from deploy.predictor.predictor import Predictor
from deploy.simple_serving import client as simple_client
from deploy.simple_serving import server
from deploy.simple_serving.batcher import Batcher, Full, Item
from deploy.simple_serving.model import find_precision, words_of
from metric import decide
from modeling import sigmoid
from utils import InputError, load_rows

from tests.conftest import ROOT, SAMPLE  # isort: skip

KEY = "correct horse battery staple"
# Runs the server's main() after a line that changes it, for what would take too long to wait for.
LAUNCHER = """
import sys, time
sys.path.insert(0, ".")
from deploy.simple_serving import model, protocol, server, service
from utils import run
{change}
run(server.main)
"""
SLOW = """
service.run = lambda items: (time.sleep(0.4), model.run(items))[1]
service.BODY_SECONDS = protocol.HEAD_SECONDS = 1
"""


class Running:
    """A server in a process of its own: `url`, `process`, `log()`."""

    def __init__(self, folder, *flags, change="", environment=()):
        words = ["--port", "0", "--num_threads", "2", *map(str, flags)]
        self.log_path = folder / f"{time.monotonic_ns()}.log"
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONIOENCODING": "utf-8"} | dict(environment)
        with open(self.log_path, "w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", LAUNCHER.format(change=change), *words], cwd=ROOT, env=environment, stderr=log
            )
        self.url = self.wait_for(r"Serving on (http://\S+);")
        self.address = ("127.0.0.1", int(self.url.rpartition(":")[2]))

    def log(self):
        return self.log_path.read_text(encoding="utf-8")

    def wait_for(self, pattern, seconds=60):
        end = time.monotonic() + seconds
        while time.monotonic() < end and self.process.poll() is None:
            if found := re.search(pattern, self.log()):
                return found[found.re.groups]
            time.sleep(0.05)
        raise AssertionError(f"no {pattern} in: {self.log()}")

    def stop(self, signal_number=signal.SIGTERM):
        self.process.send_signal(signal_number)
        return self.process.wait(timeout=60)

    def connect(self):
        return socket.create_connection(self.address, timeout=30)


@pytest.fixture
def start(tmp_path):
    """start(*flags, change=...): a server, which is killed after the test."""
    running = []

    def start(*flags, **more):
        running.append(Running(tmp_path, *flags, **more))
        return running[-1]

    yield start
    for one in running:
        one.process.kill()
        one.process.wait()


@pytest.fixture(scope="module")
def shared(tiny_export, tmp_path_factory):
    """A server with small limits that all tests ask which leave it as it is."""
    flags = "--precision float32 --max_texts 5 --max_chars 1000 --max_bytes 20000 --timeout 60".split()
    one = Running(tmp_path_factory.mktemp("server"), "--model_path", tiny_export, *flags)
    yield one
    assert one.stop() == 0
    assert "Traceback" not in one.log() and "ERROR" not in one.log()


@pytest.fixture
def client(shared):
    with httpx.Client(base_url=shared.url, timeout=60) as client:
        yield client


@pytest.fixture(scope="module")
def predictor(tiny_export):
    return Predictor(tiny_export, max_seq_length=64)


@pytest.fixture(scope="module")
def texts(predictor):
    return load_rows(SAMPLE / "dev.txt", predictor.tree).texts


def probabilities(predictor, texts):
    return sigmoid(predictor.logits(predictor.tokenizer.encode(texts)))


def problem(response):
    """The first problem of an error; every one of them says where, what and how."""
    content = response.json()
    assert content["error"] and content["problems"]
    assert all(entry["where"] and entry["what"] and entry["how"] for entry in content["problems"])
    return content["problems"][0]


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
    assert len(ask(floor=0)["probabilities"]) == len(predictor.tree)
    assert set(ask(floor=1)["probabilities"]) == set(ask()["labels"])


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


def figures(client):
    lines = client.get("/metrics").raise_for_status().text.splitlines()
    return {name: float(value) for line in lines if line[0] != "#" for name, value in [line.rsplit(" ", 1)]}


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


def test_explain_long_and_wordless_texts(client):
    answer = client.post("/v1/explain", json={"text": "长文本" * 300}).raise_for_status().json()
    assert answer["read"] == 62 and len(answer["words"]) <= 64 and answer["words"][-1][1] == 62
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
    assert state["model"] == str(tiny_export / "float32.onnx")
    assert (state["labels"], state["max_seq_length"]) == (31, 64)
    assert client.get("/ready").raise_for_status().json()["status"] == "ready"
    name = 'http_requests_total{path="/health",status="200"}'
    before = figures(client)
    client.get("/health")
    client.get("/nothing/here")
    after = figures(client)
    assert after[name] == before[name] + 1 and after["queue_length"] == 0
    assert after['http_requests_total{path="other",status="404"}'] >= 1
    assert after['http_request_seconds_count{path="/health"}'] == before[name] + 1


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
    assert least == {"min_labels": 0, "max_labels": 1, "top_k": 1, "max_seq_len": 3, "batch_size": 1}
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


# ---- slow and strange clients ----------------------------------------------------------------------------------------

HEAD = b"POST /v1/classify HTTP/1.1\r\nHost: a\r\n"


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 50,
        b"GET / HTTP/9.9\r\n\r\n",
        HEAD + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        HEAD + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        HEAD + b"Content-Length: -5\r\n\r\nhello",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\nhello\r\n0\r\n\r\n",
        HEAD + b"X : y\r\n\r\n",
        HEAD + b"X: " + b"y" * 100_000 + b"\r\n\r\n",
        b"GET /\xff\xfe HTTP/1.1\r\nHost: a\r\n\r\n",
    ],
    ids=lambda value: repr(value[-30:]),
)
def test_what_is_no_http_is_refused(shared, client, request_bytes):
    with shared.connect() as sock:
        sock.sendall(request_bytes)
        status = sock.recv(64).split(b" ")[1]
    assert status in (b"400", b"404", b"431"), status
    assert client.get("/health").status_code == 200


def test_too_large_a_body_of_unknown_length(shared):
    with shared.connect() as sock:
        sock.sendall(HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
        for _ in range(40):
            sock.sendall(b"400\r\n" + b"x" * 1024 + b"\r\n")
        sock.sendall(b"0\r\n\r\n")
        assert sock.recv(65_536).startswith(b"HTTP/1.1 413 ")


def test_slow_heads_and_bodies_stop_nobody(start, tiny_export):
    one = start("--model_path", tiny_export, change="service.BODY_SECONDS = protocol.HEAD_SECONDS = 2")
    heads = [one.connect() for _ in range(100)]
    bodies = [one.connect() for _ in range(20)]
    silent = one.connect()
    for sock in heads:
        sock.sendall(HEAD + b"X-Slow: ")
    for sock in bodies:
        sock.sendall(HEAD + b'Content-Length: 100\r\n\r\n{"texts"')
    half = one.connect()
    half.sendall(b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n")
    half.shutdown(socket.SHUT_WR)
    began = time.monotonic()
    assert httpx.post(f"{one.url}/v1/classify", json={"texts": "国足"}, timeout=30).status_code == 200
    assert time.monotonic() - began < 2
    for sock in bodies:
        answer = b"".join(iter(lambda sock=sock: sock.recv(65_536), b""))
        assert answer.startswith(b"HTTP/1.1 408 ") and b"only 8 bytes" in answer
    for sock in [*heads, silent]:
        with suppress(ConnectionResetError):
            assert sock.recv(10) == b""  # closed by the server
        sock.close()


def test_where_connections_run_out_the_oldest_slow_one_makes_room(start, tiny_export):
    one = start("--model_path", tiny_export, change="server.most_connections = lambda: 10")
    slow = [one.connect() for _ in range(30)]
    assert httpx.get(f"{one.url}/health", timeout=30).status_code == 200
    for sock in slow:
        sock.close()


def test_idle_and_unfinished_connections_make_room_too(start, tiny_export):
    """The server may have 180 open files: without their making room it could accept nobody any more."""
    change = "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (180, 180))"
    one = start("--model_path", tiny_export, change=change)
    idle, unfinished = [], []
    for _ in range(110):
        idle.append(one.connect())
        idle[-1].sendall(b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n")
        assert idle[-1].recv(65_536).startswith(b"HTTP/1.1 200 ")
    for _ in range(110):
        unfinished.append(one.connect())
        unfinished[-1].sendall(HEAD + b"Content-Length: 100\r\n\r\n{")
    assert httpx.post(f"{one.url}/v1/classify", json={"texts": "国足"}, timeout=5).status_code == 200
    for sock in [*idle, *unfinished]:
        sock.close()
    assert "Too many open files" not in one.log()


@pytest.mark.parametrize("rest", [b"POST /nothing HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n", b""])
def test_what_comes_drop_by_drop_ends(start, tiny_export, rest):
    """Bodies that nobody reads, and line ends before a request: neither is a request that the app could give up on."""
    one = start("--model_path", tiny_export, change="protocol.HEAD_SECONDS = protocol.BODY_SECONDS = 1")
    with one.connect() as sock:
        sock.sendall(b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n" + rest)
        end = time.monotonic() + 10
        with pytest.raises((ConnectionResetError, BrokenPipeError)):
            while time.monotonic() < end:
                sock.sendall(b"\r\n")
                time.sleep(0.1)


def test_an_offer_of_another_protocol_is_passed_over(shared):
    """Java's client makes one with every request."""
    body = '{"texts": ["国足"]}'.encode()
    offer = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n"
    whole = HEAD + offer + b"Content-Length: %d\r\n\r\n" % len(body) + body
    chunked = HEAD + offer + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
    with shared.connect() as sock:
        for parts in (
            [whole],
            [whole[:-30], whole[-30:]],
            [whole[:90], whole[90:]],
            [chunked],
            [chunked[:-8], chunked[-8:]],
        ):
            for part in parts:
                sock.sendall(part)
                time.sleep(0.1)
            answer = sock.recv(65_536)
            assert answer.startswith(b"HTTP/1.1 200 ") and "国足".encode() in answer
        sock.sendall(b"CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n")
        assert sock.recv(65_536).startswith(b"HTTP/1.1 400 ")


# ---- overload, time and the end --------------------------------------------------------------------------------------


def in_background(function, *args, **kwargs):
    box = SimpleNamespace(value=None)
    box.thread = threading.Thread(target=lambda: setattr(box, "value", function(*args, **kwargs)))
    box.thread.start()
    return box


def wait_until(condition, seconds=30):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_a_full_queue_refuses(start, tiny_export):
    flags = "--num_threads 1 --batch_size 1 --queue_size 2 --max_texts 2".split()
    one = start("--model_path", tiny_export, *flags, change=SLOW)
    with httpx.Client(base_url=one.url, timeout=30) as client:
        first = in_background(client.post, "/v1/classify", json={"texts": "一"})
        wait_until(lambda: figures(client)["batch_size_count"] == 1)
        second = in_background(client.post, "/v1/classify", json={"texts": ["二", "三"]})
        wait_until(lambda: figures(client)["queue_length"] == 2)
        refused = client.post("/v1/classify", json={"texts": "四"})
        assert refused.status_code == 429 and int(refused.headers["Retry-After"]) >= 1
        assert problem(refused)["how"] == "Ask again later."
        for box, count in ((first, 1), (second, 2)):
            box.thread.join()
            assert box.value.status_code == 200 and len(box.value.json()["results"]) == count
        assert client.post("/v1/classify", json={"texts": "五"}).status_code == 200


def test_no_answer_in_time(start, tiny_export):
    one = start("--model_path", tiny_export, "--timeout", "0.1", "--num_threads", "1", change=SLOW)
    with httpx.Client(base_url=one.url, timeout=30) as client:
        late = client.post("/v1/classify", json={"texts": ["一", "二"]})
        assert late.status_code == 503 and "Retry-After" in late.headers
        assert problem(late)["what"] == "no answer within 0.1 s"
        wait_until(lambda: figures(client)["queue_length"] == 0)  # nobody works for those who have gone
    assert one.stop() == 0
    assert one.log().count("\n") == 3, one.log()


def test_a_client_that_leaves_costs_nothing(start, tiny_export):
    one = start("--model_path", tiny_export, "--num_threads", "1", "--batch_size", "1", change=SLOW)
    with httpx.Client(base_url=one.url, timeout=30) as client:
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{one.url}/v1/classify", json={"texts": ["一"] * 50}, timeout=0.3)
        wait_until(lambda: figures(client)["queue_length"] == 0, seconds=5)
        assert client.post("/v1/classify", json={"texts": "二"}).status_code == 200
        assert figures(client)['http_requests_total{path="/v1/classify",status="499"}'] == 1
    assert one.stop() == 0
    assert one.log().count("\n") == 3, one.log()


@pytest.mark.parametrize("signal_number", [signal.SIGTERM, signal.SIGINT])
def test_what_was_taken_is_answered_before_the_end(start, tiny_export, signal_number):
    one = start("--model_path", tiny_export, "--num_threads", "1", "--batch_size", "1", change=SLOW)
    with httpx.Client(base_url=one.url, timeout=30) as client:
        client.get("/health")
        boxes = [in_background(client.post, "/v1/classify", json={"texts": text}) for text in "一二三"]
        wait_until(lambda: figures(client)["queue_length"] == 2)
        one.process.send_signal(signal_number)
        wait_until(lambda: client.get("/ready").status_code == 503)
        refused = client.post("/v1/classify", json={"texts": "四"})
        assert refused.status_code == 503 and problem(refused)["what"] == "it is shutting down"
        for box in boxes:
            box.thread.join()
            assert box.value.status_code == 200
    assert one.process.wait(timeout=30) == 0
    assert one.log().endswith("Every request is answered; the server has ended\n")


def test_a_second_signal_does_not_wait(start, tiny_export):
    one = start("--model_path", tiny_export, "--num_threads", "1", "--batch_size", "1", change=SLOW)
    with httpx.Client(base_url=one.url, timeout=30) as client:
        box = in_background(
            pytest.raises, httpx.TransportError, client.post, "/v1/classify", json={"texts": ["一"] * 20}
        )
        wait_until(lambda: "queue_length 0.0" not in httpx.get(f"{one.url}/metrics").text)
        one.process.terminate()
        wait_until(lambda: httpx.get(f"{one.url}/ready").status_code == 503)
        began = time.monotonic()
        assert one.stop() == -signal.SIGTERM and time.monotonic() - began < 2
        box.thread.join()


def test_a_fault_of_the_server_reaches_the_client(start, tiny_export):
    one = start("--model_path", tiny_export, change="service.run = lambda items: 1 / 0")
    response = httpx.post(f"{one.url}/v1/classify", json={"texts": "一"}, timeout=30)
    assert response.status_code == 500 and "log" in problem(response)["how"]
    one.wait_for("(ZeroDivisionError)")
    assert httpx.get(f"{one.url}/health").status_code == 200


def test_what_the_model_needs_may_be_out_of_reach(start, tiny_export):
    """As an index on another machine may; then the answer is to ask again, and the log says what is wrong."""
    change = (
        "from utils import InputError; "
        "service.run = lambda items: (_ for _ in ()).throw(InputError('no way to the machine 10.0.0.7'))"
    )
    one = start("--model_path", tiny_export, change=change)
    response = httpx.post(f"{one.url}/v1/classify", json={"texts": ["一", "二"]}, timeout=30)
    assert response.status_code == 503 and response.headers["Retry-After"] == "5"
    assert problem(response)["what"] == "the model cannot answer" and "10.0.0.7" not in response.text
    assert one.stop() == 0
    assert "no way to the machine 10.0.0.7" in one.log() and "Traceback" not in one.log()


# ---- the key, and new models -----------------------------------------------------------------------------------------


@pytest.fixture
def export(tiny_export, tmp_path):
    """A copy of the exported model that a test may change."""
    return shutil.copytree(tiny_export, tmp_path / "export")


def test_key(start, export, tmp_path):
    (tmp_path / "key.txt").write_text(f"{KEY}\nsecond line\n", encoding="utf-8")
    by_file = start("--model_path", export, "--api_key_file", tmp_path / "key.txt")
    by_variable = start("--model_path", export, environment={"SERVING_API_KEY": KEY})
    for one in (by_file, by_variable):
        with httpx.Client(base_url=one.url, timeout=30) as client:
            for path in ("/v1/classify", "/v1/explain", "/models/cls_hierarchical", "/admin/reload"):
                for headers in ({}, {"X-API-Key": KEY[:-1]}, {"X-API-Key": ""}, {b"X-API-Key": b"\xff"}):
                    response = client.post(path, content=b"{", headers=headers)
                    assert response.status_code == 401 and "X-API-Key" in problem(response)["how"]
                assert client.post(path, content=b"{", headers={"X-API-Key": KEY}).status_code in (200, 400)
            assert client.get("/health").status_code == client.get("/").status_code == 200
            document = client.get("/openapi.json").json()
            assert document["paths"]["/v1/classify"]["post"]["security"] == [{"key": []}]
            assert document["components"]["securitySchemes"]["key"]["name"] == "X-API-Key"
        assert KEY not in one.log()


def test_reload_drops_no_request(start, export):
    one = start("--model_path", export, environment={"SERVING_API_KEY": KEY})
    headers = {"X-API-Key": KEY}
    settings = json.loads((export / "decision.json").read_text(encoding="utf-8"))
    going, statuses, counts = True, set(), set()

    def ask():
        with httpx.Client(base_url=one.url, timeout=30, headers=headers) as client:
            while going:
                response = client.post("/v1/classify", json={"texts": ["国足今晚出战"] * 3})
                statuses.add(response.status_code)
                counts.add(tuple(len(row["labels"]) for row in response.json()["results"]))

    askers = [in_background(ask) for _ in range(3)]
    try:
        with httpx.Client(base_url=one.url, timeout=30, headers=headers) as client:
            (export / "decision.json").write_text(json.dumps(settings | {"top_k": 2}), encoding="utf-8")
            assert client.post("/admin/reload").raise_for_status().json()["status"] == "reloaded"
            assert len(client.post("/v1/classify", json={"texts": "一"}).json()["results"][0]["labels"]) == 2
            (export / "decision.json").write_text(json.dumps(settings | {"top_k": 1}), encoding="utf-8")
            one.process.send_signal(signal.SIGHUP)
            one.wait_for("(?s)Reloaded .* Reloaded ")
            assert len(client.post("/v1/classify", json={"texts": "一"}).json()["results"][0]["labels"]) == 1

            (export / "int8.onnx").write_bytes((export / "int8.onnx").read_bytes()[:5000])
            broken = client.post("/admin/reload")
            assert broken.status_code == 409 and "int8.onnx" in problem(broken)["what"]
            assert "stays in service" in problem(broken)["how"] and "stays in service" in one.log()
            assert len(client.post("/v1/classify", json={"texts": "一"}).json()["results"][0]["labels"]) == 1
            assert figures(client)['model_reloads_total{outcome="done"}'] == 2
            assert figures(client)['model_reloads_total{outcome="failed"}'] == 1
    finally:
        going = False
        for asker in askers:
            asker.thread.join()
    assert statuses == {200}
    assert all(len(set(row)) == 1 for row in counts), "one answer, two models"
    assert {(2, 2, 2), (1, 1, 1)} <= counts


def test_precision(tiny_export, export):
    assert find_precision(tiny_export, "auto") == "int8" and find_precision(tiny_export, "float16") == "float16"
    (export / "int8.onnx").unlink()
    assert find_precision(export, "auto") == "float32"
    for path in export.glob("*.onnx"):
        path.unlink()
    assert find_precision(export, "auto") == "float32"  # which is then missed


# ---- the command line ------------------------------------------------------------------------------------------------


@pytest.fixture
def call(monkeypatch, tiny_export):
    """call(*flags): main() in this process, with faults that end it before it serves."""

    def call(*flags):
        monkeypatch.setattr(sys, "argv", ["server.py", "--model_path", str(tiny_export), *map(str, flags)])
        server.main()

    return call


@pytest.mark.parametrize(
    "flags",
    [
        ["--port", "70000"],
        ["--batch_size", "0"],
        ["--timeout", "nan"],
        ["--timeout", "0"],
        ["--queue_size", "3"],
        ["--precision", "int4"],
    ],
)
def test_bad_flags(call, flags):
    with pytest.raises(SystemExit) as stopped:
        call(*flags)
    assert stopped.value.code == 2


def test_what_can_be_wrong_at_the_start(call, shared, tmp_path, monkeypatch):
    with pytest.raises(InputError, match=f"--port {shared.address[1]}: .*choose another one"):
        call("--port", shared.address[1])
    with pytest.raises(InputError, match="--host nowhere.invalid"):
        call("--host", "nowhere.invalid")
    with pytest.raises(InputError, match="no such file.*openssl"):
        call("--api_key_file", tmp_path / "key.txt")
    (tmp_path / "key.txt").write_text("short\n")
    with pytest.raises(InputError, match="8 or more"):
        call("--api_key_file", tmp_path / "key.txt")
    with pytest.raises(InputError, match="float32.onnx: no such file"):
        call("--port", "0", "--model_path", tmp_path)
    monkeypatch.setenv("SERVING_API_KEY", "")
    with pytest.raises(InputError, match="SERVING_API_KEY: the key must be"):
        call()


def test_missing_packages_are_named(call, monkeypatch):
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    with pytest.raises(InputError, match="uvicorn is not installed: pip install -r deploy/simple_serving/requirements"):
        call("--port", "0")


def test_paddle_is_not_imported(start, tiny_export):
    change = (
        "import atexit; atexit.register(lambda: print('LOADED', {'paddle', 'paddlenlp', 'tokenizers', 'torch'} "
        "& set(sys.modules), file=sys.stderr))"
    )
    one = start("--model_path", tiny_export, change=change)
    httpx.post(f"{one.url}/v1/explain", json={"text": "国足"}, timeout=30).raise_for_status()
    assert one.stop() == 0 and "LOADED set()" in one.log()


def test_warns_when_everybody_may_use_it(start, tiny_export):
    one = start("--model_path", tiny_export, "--host", "0.0.0.0")
    assert "whoever reaches this machine may use the server" in one.log()


# ---- batches ---------------------------------------------------------------------------------------------------------


def run_batcher(script, **settings):
    """Run `script(batcher, gate, batches)`; the threads wait for the gate (an Event), and batches are noted."""
    gate, batches = threading.Event(), []

    def work(items):
        batches.append([item.work for item in items])
        assert gate.wait(30)
        if any(item.work == "bad" for item in items):
            raise ValueError("bad")
        return [f"{item.work}!" for item in items]

    async def main():
        batcher = Batcher(work, **{"workers": 1, "batch_size": 4, "queue_size": 100} | settings)
        try:
            await asyncio.wait_for(script(batcher, gate, batches), 30)
        finally:
            gate.set()
            batcher.close()

    asyncio.run(main())


def items(*works, group=None, most=100):
    return [Item(work, int(re.sub(r"\D", "", work) or 10), group, most) for work in works]


def test_idle_means_at_once_and_alone_then_what_waited_goes_together():
    async def script(batcher, gate, batches):
        first = batcher.submit(items("a"))
        later = [future for name in "bcdef" for future in batcher.submit(items(name))]
        await asyncio.sleep(0.1)
        assert batches == [["a"]]
        gate.set()
        assert await asyncio.gather(*first, *later) == ["a!", "b!", "c!", "d!", "e!", "f!"]
        assert batches == [["a"], ["b", "c", "d", "e"], ["f"]]

    run_batcher(script)


def test_free_workers_share_what_there_is():
    async def script(batcher, gate, batches):
        gate.set()
        await asyncio.gather(*batcher.submit(items("a", "b", "c", "d")))
        assert sorted(map(len, batches)) == [2, 2]

    run_batcher(script, workers=2)


def test_like_lengths_go_together_and_the_oldest_never_waits_for_others():
    async def script(batcher, gate, batches):
        futures = batcher.submit(items("x", "100", "20", "101", "21", "99", "500"))
        await asyncio.sleep(0.1)
        gate.set()
        await asyncio.gather(*futures)
        assert batches == [["x"], ["100", "101", "99"], ["20", "21"], ["500"]]

    run_batcher(script)


def test_limits_and_groups_of_items_are_kept():
    async def script(batcher, gate, batches):
        futures = batcher.submit(items("x"))
        futures += batcher.submit(items("a", "b", "c", most=2)) + batcher.submit(items("d", group="new"))
        futures += batcher.submit(items("e"))
        await asyncio.sleep(0.1)
        gate.set()
        await asyncio.gather(*futures)
        assert batches == [["x"], ["a", "b"], ["c", "e"], ["d"]]

    run_batcher(script)


def test_all_or_none_when_full():
    async def script(batcher, gate, batches):
        batcher.submit(items("x"))
        kept = batcher.submit(items("a", "b"))
        with pytest.raises(Full) as full:
            batcher.submit(items("c", "d"))
        assert full.value.seconds >= 1 and len(batcher.queue) == 2
        kept += batcher.submit(items("e"))
        gate.set()
        assert await asyncio.gather(*kept) == ["a!", "b!", "e!"]

    run_batcher(script, queue_size=3)


def test_forgotten_items_are_not_run():
    async def script(batcher, gate, batches):
        running, waiting = items("x"), items("a", "b")
        batcher.submit(running)
        futures = batcher.submit(waiting)
        await asyncio.sleep(0.1)
        batcher.forget([*running, waiting[0]])  # the result of what is already running is nobody's
        assert [item.work for item in batcher.queue] == ["b"]
        gate.set()
        assert await futures[1] == "b!" and batches == [["x"], ["b"]]
        assert running[0].future.cancelled() and futures[0].cancelled()

    run_batcher(script)


def test_errors_reach_all_of_a_batch_and_no_other():
    async def script(batcher, gate, batches):
        futures = batcher.submit(items("x"))
        futures += batcher.submit(items("bad", "c", "d"))
        await asyncio.sleep(0.1)
        gate.set()
        results = await asyncio.gather(*futures, return_exceptions=True)
        assert (
            results[0] == "x!" and all(isinstance(result, ValueError) for result in results[1:3]) and results[3] == "d!"
        )
        assert await batcher.submit(items("e"))[0] == "e!"

    run_batcher(script, batch_size=2)


# ---- client.py -------------------------------------------------------------------------------------------------------


def test_client_as_typed(shared, predictor, texts, monkeypatch, capsys):
    def ask(*words):
        url = f"{shared.url.rstrip('/')}/models/cls_hierarchical"
        monkeypatch.setattr(sys, "argv", ["client.py", "--url", url, *words])
        simple_client.main()
        return json.loads(capsys.readouterr().out)

    answer = ask("--max_seq_len", "64", "--texts", *texts[:3])
    expected = probabilities(predictor, texts[:3])
    assert answer["result"]["label"] == [np.flatnonzero(p > 0.5).tolist() for p in expected]
    answer = ask("--max_seq_len", "64", "--prob_limit", "0.9", "--batch_size", "2", "--texts", *texts[:3])
    assert answer["result"]["label"] == [np.flatnonzero(p > 0.9).tolist() for p in expected]
    with pytest.raises(InputError, match="422 .*body.parameters.batch_size"):
        ask("--texts", "文", "--batch_size", "0")
    with pytest.raises(InputError, match="413 "):
        ask("--texts", *["文"] * 6)


def test_client_sends_the_reference_defaults_and_the_key(monkeypatch, tmp_path):
    seen = []
    monkeypatch.setattr(simple_client.urllib.request, "urlopen", lambda request, timeout: seen.append(request) or 1 / 0)
    (tmp_path / "key.txt").write_text(f"{KEY}\n", encoding="utf-8")
    monkeypatch.setattr(sys, "argv", ["client.py", "--texts", "文", "--api_key_file", str(tmp_path / "key.txt")])
    with pytest.raises(ZeroDivisionError):
        simple_client.main()
    assert seen[0].full_url == "http://127.0.0.1:8189/models/cls_hierarchical"
    assert seen[0].get_header("X-api-key") == KEY
    parameters = {"max_seq_len": 128, "batch_size": 1, "prob_limit": 0.5}
    assert json.loads(seen[0].data) == {"data": {"text": ["文"]}, "parameters": parameters}


def test_client_without_a_server(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    for url, message in (
        (f"http://127.0.0.1:{port}/models/cls_hierarchical", "Is the server up"),
        ("x", "unknown url"),
    ):
        monkeypatch.setattr(sys, "argv", ["client.py", "--texts", "文", "--url", url])
        with pytest.raises(InputError, match=message):
            simple_client.main()
    for words in ([], ["--texts", "文", "--timeout", "0"]):
        monkeypatch.setattr(sys, "argv", ["client.py", *words])
        with pytest.raises(SystemExit):
            simple_client.main()


# ---- the page --------------------------------------------------------------------------------------------------------


def test_page_in_a_browser(shared, chromium):
    for width, language, title in (
        (1280, "zh-CN", "层次文本分类"),
        (390, "en", "Hierarchical text classification"),
    ):
        page, faults = chromium.new_page(viewport={"width": width, "height": 800}, locale=language), []
        page.on("pageerror", lambda error, faults=faults: faults.append(str(error)))
        page.on("console", lambda message, faults=faults: message.type == "error" and faults.append(message.text))
        page.goto(shared.url)
        assert page.inner_text("h1") == title
        page.fill("#text", "国足今晚<img src=x onerror=alert(1)>😀出战")
        page.click("#send")
        page.wait_for_selector("#words span[style]", timeout=30_000)
        assert page.inner_text("#words") == "国足今晚<img src=x onerror=alert(1)>😀出战"
        assert page.locator(".node.predicted").count() > 0 and page.locator("#tree img, #words img").count() == 0
        page.locator(".node:not(.chosen)").last.click()
        assert page.locator(".node.chosen").count() == 1
        page.wait_for_selector("#words span[style]", timeout=30_000)
        assert page.locator(".node.chosen .name").inner_text() in page.inner_text("#chosen")
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        page.fill("#text", "长" * 1500)
        page.click("#send")
        page.locator("#error", has_text="1500").wait_for()
        assert len(faults) == 1 and "413" in faults[0]  # the browser's own line about the refused request
