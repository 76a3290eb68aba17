"""hierarchical/client.py: what is asked how often, in which pieces, and what becomes of refusals."""

import asyncio
import json

import pytest

pytest.importorskip("httpx")

# ruff: noqa: E402
import httpx

from hierarchical import client as client_module
from hierarchical.client import AsyncClient, Client, Explanation, Refused
from hierarchical.labelled import Prediction

ROW = {"labels": ["体育", "体育##足球"], "probabilities": {"体育": 0.9}, "levels": {"1": ["体育"], "2": ["体育##足球"]}}


def results(request):
    texts = json.loads(request.content)["texts"]
    return httpx.Response(200, json={"results": [{"text": text, **ROW} for text in texts]})


@pytest.fixture
def slept(monkeypatch):
    """The seconds that were waited, which pass at once."""
    seconds = []

    async def sleep(value):
        seconds.append(value)

    monkeypatch.setattr(client_module.time, "sleep", seconds.append)
    monkeypatch.setattr(client_module.asyncio, "sleep", sleep)
    monkeypatch.setattr(client_module.random, "uniform", lambda least, most: least)
    return seconds


@pytest.fixture(params=[Client, AsyncClient])
def ask(request):
    """ask(answers, method, *args): what a client gives whose server answers by a function or by a list of answers."""

    def ask(answers, method, *args, **settings):
        rest = iter(()) if callable(answers) else iter(answers)

        def handle(asked):
            answer = answers if callable(answers) else next(rest)
            if isinstance(answer, Exception):
                raise answer
            return answer(asked) if callable(answer) else answer

        one = request.param("http://server", "the key", transport=httpx.MockTransport(handle))
        found = getattr(one, method)(*args, **settings)
        return asyncio.run(found) if request.param is AsyncClient else found

    return ask


def test_answers_are_those_of_a_predictor(ask):
    asked = []
    found = ask(
        lambda request: asked.append(request) or results(request), "classify", ["a", ""], top_k=2, threshold=None
    )
    expected = {
        "labels": ROW["labels"],
        "probabilities": ROW["probabilities"],
        "levels": {1: ["体育"], 2: ["体育##足球"]},
    }
    assert found == [Prediction("a", **expected), Prediction("", **expected)]
    assert (
        json.loads(asked[0].content) == {"texts": ["a", ""], "top_k": 2} and asked[0].headers["X-API-Key"] == "the key"
    )
    content = {"text": "ab", "read": 2, "words": [[0, 1], [1, 2]]}
    content["labels"] = [{"label": "体育", "probability": 0.9, "falls": [0.2, 0.1]}]
    expected = Explanation("ab", 2, [(0, 1), (1, 2)], {"体育": 0.9}, {"体育": [0.2, 0.1]})
    assert ask([httpx.Response(200, json=content)], "explain", "ab") == expected
    assert ask([httpx.Response(200, json={"models": [{"name": "default"}]})], "models") == [{"name": "default"}]


def test_long_lists_go_in_pieces_and_keep_their_order(ask):
    sizes = []
    texts = [str(i) for i in range(300)]
    found = ask(
        lambda request: sizes.append(len(json.loads(request.content)["texts"])) or results(request), "classify", texts
    )
    assert [row.text for row in found] == texts and sorted(sizes) == [44, 128, 128]
    bodies = []
    texts = (
        ["长" * 100_000] * 5 + ["短"] + ["长" * 400_000]
    )  # 300,000 bytes each, and one too large, whose refusal tells
    ask(lambda request: bodies.append(len(request.content)) or results(request), "classify", texts)
    assert sorted(bodies) == pytest.approx([300_000, 600_000, 600_000, 1_200_000], abs=100)
    assert ask([], "classify", []) == []
    with pytest.raises(TypeError, match=r"write \[text\]"):
        ask([], "classify", "text")


def test_busy_servers_and_broken_connections_are_asked_again(ask, slept):
    busy = httpx.Response(429, headers={"Retry-After": "7"}, json={"problems": []})
    answers = [busy, httpx.ConnectError("refused"), httpx.Response(503), httpx.ReadError("reset"), results]
    assert len(ask(answers, "classify", ["a"])) == 1
    assert slept == [7, 0.5, 1, 2]


def test_what_is_refused_is_told(ask, slept):
    problem = {"where": "body.texts", "what": "1 text", "how": "Send none."}
    with pytest.raises(Refused, match="422 body.texts: 1 text. Send none.") as refused:
        ask([httpx.Response(422, json={"error": "e", "problems": [problem]})], "classify", ["a"])
    assert refused.value.status == 422 and refused.value.problems == [problem] and slept == []
    with pytest.raises(Refused, match="^413 Request Entity Too Large$"):
        ask([httpx.Response(413, text="<html>nginx</html>")], "classify", ["a"])
    with pytest.raises(Refused, match="Is the server up"):
        ask([httpx.ConnectError("no way")] * 5, "classify", ["a"])
    assert len(slept) == 4
    with pytest.raises(Refused) as refused:
        ask([httpx.Response(503, headers={"Retry-After": "9999"})] * 5, "classify", ["a"])
    assert refused.value.status == 503 and max(slept) == 30
