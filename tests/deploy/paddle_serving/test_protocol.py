"""What the service and its clients agree on."""

import json
import socket
import subprocess
import sys

import pytest

from deploy.paddle_serving import client, http_client
from deploy.paddle_serving.protocol import MAX_BYTES, MAX_TEXTS, certainties_of, labels_of, texts_of
from utils import InputError

from tests.conftest import ROOT  # isort: skip


pytestmark = pytest.mark.slow

HERE = "deploy/paddle_serving"


def test_texts_of():
    assert texts_of(["sentence"], ['["文", ""]']) == ["文", ""]
    assert texts_of(["sentence"], [json.dumps(["1"] * MAX_TEXTS)]) == ["1"] * MAX_TEXTS


@pytest.mark.parametrize(
    ("keys", "values", "message"),
    [
        ([], [], "the one key 'sentence'"),
        (["sentence"], [], "the one key 'sentence'"),
        (["text"], ['["文"]'], "the one key 'sentence'"),
        (["sentence", "sentence"], ['["文"]'] * 2, "the one key 'sentence'"),
        (["sentence"], ["[b'\\xe6']"], "not JSON"),
        (["sentence"], ["array(['文'], dtype=object)"], "not JSON"),
        (["sentence"], ["[" * 100_000], "not JSON"),
        (["sentence"], ["1" * 5000], "not JSON"),
        (["sentence"], ['"文"'], "a JSON array with at least one text"),
        (["sentence"], ["[]"], "a JSON array with at least one text"),
        (["sentence"], ['{"文": 1}'], "a JSON array with at least one text"),
        (["sentence"], ['["文", 1, null]'], "entry 1 of 'sentence' is not a text"),
        (["sentence"], ['[["文"]]'], "entry 0 of 'sentence' is not a text"),
        (["sentence"], ['["😀", "\\ud83d"]'], "entry 1 of 'sentence' has a lone surrogate"),
        (["sentence"], [json.dumps(["文"] * (MAX_TEXTS + 1))], f"send at most {MAX_TEXTS}"),
    ],
)
def test_requests_that_are_refused(keys, values, message):
    with pytest.raises(InputError, match=message):
        texts_of(keys, values)


def test_labels_of():
    values = ['[["体育", "体育##足球"], []]', "[[0.9, 0.75], []]"]
    assert labels_of(["label", "confidence"], values, 2) == [(["体育", "体育##足球"], [0.9, 0.75]), ([], [])]
    for keys, wrong, count in (
        (["label"], values[:1], 2),
        (["label", "confidence"], values, 1),
        (["label", "confidence"], ["__import__('os')", "[]"], 2),
        (["label", "confidence"], ['[["体育"]]', "[[]]"], 1),
        (["label", "confidence"], ["[[7]]", "[[0.5]]"], 1),
        (["label", "confidence"], ["1", "2"], 1),
    ):
        with pytest.raises(InputError, match="the server's answer is not one of"):
            labels_of(keys, wrong, count)


def test_certainties_of():
    assert certainties_of(["label", "certainty"], ["[]", "[0.25, 0]"], 2) == [0.25, 0]
    for keys, values, message in (
        (["label"], ["[]"], "the service tells no certainty: it is an older one"),
        (["certainty"], ["[0.5]"], "is not one of"),
        (["certainty"], ["7"], "is not one of"),
        (["certainty"], ['["sure", 1]'], "is not one of"),
        (["certainty"], ["[0.5"], "is not one of"),
    ):
        with pytest.raises(InputError, match=message):
            certainties_of(keys, values, 2)
    answer = 0, "", ["label", "confidence", "certainty"], ['[["体育"]]', "[[0.9]]", "[0.7]"]
    assert list(client.classify(["文"], lambda value: answer, certainty=True)) == [(["体育"], [0.9], 0.7)]
    assert list(client.classify(["文"], lambda value: answer)) == [(["体育"], [0.9], None)]


def test_requests_of():
    assert [len(batch) for batch in client.requests_of(["文"] * 130)] == [64, 64, 2]
    long = "文" * MAX_BYTES
    assert list(client.requests_of(["一", long, "二", "三"])) == [["一"], [long], ["二", "三"]]
    assert list(client.requests_of([])) == []


def test_a_refused_request_ends_the_client():
    with pytest.raises(InputError, match="error 5000.: too long"):
        list(client.classify(["文"], lambda value: (5000, "too long", [], [])))


def test_client_without_a_service():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    for url, message in ((f"http://127.0.0.1:{port}", "is it up"), ("nonsense", "unknown url type")):
        with pytest.raises(InputError, match=message):
            http_client.main(["--texts", "文", "--url", url])
    for words in ([], ["--texts", "文", "--timeout", "0"], ["--texts", "文", "--certainty", "1.5"]):
        with pytest.raises(SystemExit):
            http_client.main(words)


def test_where_paddle_serving_is_missing():
    for words in (["service.py"], ["rpc_client.py", "--texts", "文"]):
        command = [sys.executable, f"{HERE}/{words[0]}", *words[1:]]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 2 and "make_environment.sh" in done.stderr and "Traceback" not in done.stderr
