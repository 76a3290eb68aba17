"""deploy/simple_serving/client.py, as typed."""

import json
import socket

import numpy as np
import pytest

for package in ("fastapi", "fastapi_offline", "httptools", "httpx", "prometheus_client"):
    pytest.importorskip(package)

# ruff: noqa: E402

from deploy.simple_serving import client as simple_client
from utils import InputError

from tests.deploy.simple_serving.conftest import KEY, probabilities  # isort: skip


def test_client_as_typed(shared, predictor, texts, capsys):
    def ask(*words):
        url = f"{shared.url.rstrip('/')}/models/cls_hierarchical"
        simple_client.main(["--url", url, *words])
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
    with pytest.raises(ZeroDivisionError):
        simple_client.main(["--texts", "文", "--api_key_file", str(tmp_path / "key.txt")])
    assert seen[0].full_url == "http://127.0.0.1:8189/models/cls_hierarchical"
    assert seen[0].get_header("X-api-key") == KEY
    parameters = {"max_seq_len": 128, "batch_size": 1, "prob_limit": 0.5}
    assert json.loads(seen[0].data) == {"data": {"text": ["文"]}, "parameters": parameters}


def test_client_without_a_server():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    for url, message in (
        (f"http://127.0.0.1:{port}/models/cls_hierarchical", "Is the server up"),
        ("x", "unknown url"),
    ):
        with pytest.raises(InputError, match=message):
            simple_client.main(["--texts", "文", "--url", url])
    for words in ([], ["--texts", "文", "--timeout", "0"]):
        with pytest.raises(SystemExit):
            simple_client.main(words)
