"""Ask the HTTP server of deploy/simple_serving from Python.

    with Client("http://127.0.0.1:8189", key="...") as client:
        for result in client.classify(texts, threshold=0.3):    # of any number
            print(result.labels, result.probabilities)

    async with AsyncClient("http://127.0.0.1:8189") as client:
        results = await client.classify(texts)

Needs httpx (requirements-client.txt), and neither a model nor Paddle. The answers are those of `Predictor`. Long lists
go in several requests. What the server is too busy for (429, 503), and connections that break, are tried again after
the seconds that it asks for; a question may be asked twice.
"""

import asyncio
import json
import random
import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, NamedTuple

import httpx

from hierarchical.labelled import Prediction

MOST_TEXTS, MOST_BYTES = 128, 900_000  # of a request; a bit less than the server's defaults allow
BUSY = (429, 502, 503, 504)
LONGEST_PAUSE = 30.0  # seconds, whatever Retry-After says


class Refused(Exception):
    """A request that got no answer. status: None where no server was reached; problems: each its where, what, how."""

    def __init__(self, message: str, status: int | None = None, problems: Sequence[dict[str, str]] = ()):
        super().__init__(message)
        self.status, self.problems = status, list(problems)


@dataclass(frozen=True)
class Explanation:
    """read: how many characters the model reads; words: (start, end) of each; falls: label -> one number for each word.

    A fall is by how much the label's probability falls without the word.
    """

    text: str
    read: int
    words: list[tuple[int, int]]
    probabilities: dict[str, float]
    falls: dict[str, list[float]]


class Call(NamedTuple):
    """A request to be made; the answer to it, or the error, is sent back."""

    method: str
    path: str
    body: dict[str, Any] | None


Answer = httpx.Response | httpx.TransportError | None
Steps = Generator[Call | float, Answer, Any]  # calls to make and seconds to wait, up to the content of an answer


def steps(method: str, path: str, body: dict[str, Any] | None, retries: int) -> Steps:
    """What is to be done for one answer. Raises Refused if there is none."""
    for attempt in range(retries + 1):
        answer = yield Call(method, path, body)
        if isinstance(answer, httpx.Response) and answer.status_code < 400:
            return answer.json()
        if attempt < retries and (not isinstance(answer, httpx.Response) or answer.status_code in BUSY):
            yield pause(answer, attempt)
        else:
            break
    raise refusal(answer)


def pause(answer: Answer, attempt: int) -> float:
    """Seconds until the next attempt: those of Retry-After, else twice as many each time, and up to a quarter more."""
    told = answer.headers.get("Retry-After", "") if isinstance(answer, httpx.Response) else ""
    seconds = float(told) if told.isdecimal() else 0.25 * 2**attempt
    return min(LONGEST_PAUSE, seconds) * random.uniform(1.0, 1.25)


def refusal(answer: Answer) -> Refused:
    """The error that tells what the server said."""
    if not isinstance(answer, httpx.Response):
        return Refused(f"no answer: {answer or type(answer).__name__}. Is the server up, and is this its address?")
    try:
        problems = [{name: str(row[name]) for name in ("where", "what", "how")} for row in answer.json()["problems"]]
    except (ValueError, TypeError, KeyError):  # of a proxy
        return Refused(f"{answer.status_code} {answer.reason_phrase}", answer.status_code)
    told = " ".join(f"{row['where']}: {row['what']}. {row['how']}" for row in problems)
    return Refused(f"{answer.status_code} {told}", answer.status_code, problems)


def parts(texts: Sequence[str]) -> Iterator[list[str]]:
    """A list of texts in pieces that a request may hold."""
    if isinstance(texts, (str, bytes)):
        raise TypeError("texts is a list of texts; for a single one write [text]")
    part: list[str] = []
    size = 0
    for text in texts:
        length = len(json.dumps(text, ensure_ascii=False).encode("utf-8", "surrogatepass")) + 2
        if part and (len(part) == MOST_TEXTS or size + length > MOST_BYTES):
            yield part
            part, size = [], 0
        part.append(text)
        size += length
    if part:
        yield part


def body_of(texts: list[str], settings: dict[str, Any]) -> dict[str, Any]:
    return {"texts": texts} | {name: value for name, value in settings.items() if value is not None}


def question(text: str, labels: list[str] | None, model: str | None) -> dict[str, Any]:
    """The body that asks for an explanation."""
    return {"text": text} | {name: value for name, value in (("labels", labels), ("model", model)) if value}


def predictions(content: dict[str, Any]) -> list[Prediction]:
    return [
        Prediction(
            row["text"],
            row["labels"],
            row["probabilities"],
            {int(level): row["levels"][level] for level in row["levels"]},
            **{name: row.get(name) for name in ("certainty", "sure", "unseen")},
        )
        for row in content["results"]
    ]


def explanation(content: dict[str, Any]) -> Explanation:
    return Explanation(
        content["text"],
        content["read"],
        [(start, end) for start, end in content["words"]],
        {row["label"]: row["probability"] for row in content["labels"]},
        {row["label"]: row["falls"] for row in content["labels"]},
    )


def headers(key: str | None) -> dict[str, str]:
    return {"X-API-Key": key} if key else {}


class Client:
    """url: the server's address; key: what it wants as X-API-Key; retries: further attempts of each request.

    timeout: seconds for an answer. What httpx.Client takes besides (verify, proxy, ...) may follow.
    """

    def __init__(self, url: str, key: str | None = None, timeout: float = 30.0, retries: int = 4, **more: Any):
        self.http = httpx.Client(base_url=url, headers=headers(key), timeout=timeout, **more)
        self.retries = retries

    def classify(self, texts: Sequence[str], **settings: Any) -> list[Prediction]:
        """One Prediction for each text, in their order.

        settings: those of a request, such as threshold, decoding, top_k, floor, model; see /docs of the server. Raises
        Refused.
        """
        found: list[Prediction] = []
        for part in parts(texts):
            found += predictions(self._ask("POST", "/v1/classify", body_of(part, settings)))
        return found

    def explain(self, text: str, labels: list[str] | None = None, model: str | None = None) -> Explanation:
        """By how much the probability of each label falls without each word. labels: None: the predicted ones."""
        return explanation(self._ask("POST", "/v1/explain", question(text, labels, model)))

    def models(self) -> list[dict[str, Any]]:
        """The models behind the server's port, as /v1/models lists them."""
        return self._ask("GET", "/v1/models", None)["models"]

    def close(self) -> None:
        self.http.close()

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, where: TracebackType | None) -> None:
        self.close()

    def _ask(self, method: str, path: str, body: dict[str, Any] | None) -> Any:
        run: Steps = steps(method, path, body, self.retries)
        answer: Answer = None
        while True:
            try:
                step = run.send(answer)
            except StopIteration as end:
                return end.value
            answer = None
            if isinstance(step, float):
                time.sleep(step)
            else:
                answer = self._call(step)

    def _call(self, call: Call) -> Answer:
        try:
            return self.http.request(call.method, call.path, json=call.body)
        except httpx.TransportError as error:
            return error


class AsyncClient:
    """The same for asyncio. concurrency: requests of one list of texts that are on their way at once."""

    def __init__(
        self,
        url: str,
        key: str | None = None,
        timeout: float = 30.0,
        retries: int = 4,
        concurrency: int = 4,
        **more: Any,
    ):
        self.http = httpx.AsyncClient(base_url=url, headers=headers(key), timeout=timeout, **more)
        self.retries, self.turn = retries, asyncio.Semaphore(concurrency)

    async def classify(self, texts: Sequence[str], **settings: Any) -> list[Prediction]:
        """See Client.classify."""
        bodies = [body_of(part, settings) for part in parts(texts)]
        tasks = [asyncio.ensure_future(self._ask("POST", "/v1/classify", body)) for body in bodies]
        try:
            answers = await asyncio.gather(*tasks)
        except BaseException:  # the others must not go on without anybody who waits for them
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            raise
        return [prediction for content in answers for prediction in predictions(content)]

    async def explain(self, text: str, labels: list[str] | None = None, model: str | None = None) -> Explanation:
        """See Client.explain."""
        return explanation(await self._ask("POST", "/v1/explain", question(text, labels, model)))

    async def models(self) -> list[dict[str, Any]]:
        """See Client.models."""
        return (await self._ask("GET", "/v1/models", None))["models"]

    async def close(self) -> None:
        await self.http.aclose()

    async def __aenter__(self) -> "AsyncClient":
        return self

    async def __aexit__(self, kind: type | None, error: BaseException | None, where: TracebackType | None) -> None:
        await self.close()

    async def _ask(self, method: str, path: str, body: dict[str, Any] | None) -> Any:
        run: Steps = steps(method, path, body, self.retries)
        answer: Answer = None
        while True:
            try:
                step = run.send(answer)
            except StopIteration as end:
                return end.value
            answer = None
            if isinstance(step, float):
                await asyncio.sleep(step)
            else:
                answer = await self._call(step)

    async def _call(self, call: Call) -> Answer:
        async with self.turn:
            try:
                return await self.http.request(call.method, call.path, json=call.body)
            except httpx.TransportError as error:
                return error
