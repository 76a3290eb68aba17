"""deploy/simple_serving: slow and strange clients, most of them bare sockets."""

import json
import re
import select
import socket
import time
from contextlib import suppress

import pytest

for package in ("fastapi", "fastapi_offline", "httptools", "httpx", "prometheus_client"):
    pytest.importorskip(package)

# ruff: noqa: E402
import httpx

pytestmark = pytest.mark.slow

HEAD = b"POST /v1/classify HTTP/1.1\r\nHost: localhost\r\n"


def read_answer(sock):
    """(head, body) of an answer with a length."""
    answer = b""
    while b"\r\n\r\n" not in answer:
        assert (piece := sock.recv(65_536)), answer
        answer += piece
    head, _, body = answer.partition(b"\r\n\r\n")
    length = int(re.search(rb"content-length: (\d+)", head)[1])
    while len(body) < length:
        assert (piece := sock.recv(65_536)), body
        body += piece
    return head, body


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
        HEAD + b"X: " + b"y" * 5_000_000 + b"\r\n\r\n",
        b"GET /\xff\xfe HTTP/1.1\r\nHost: localhost\r\n\r\n",
    ],
    ids=lambda value: repr(value[-30:]),
)
def test_what_is_no_http_is_refused(shared, client, request_bytes):
    with shared.connect() as sock:
        sock.sendall(request_bytes)
        head, _, body = b"".join(iter(lambda: sock.recv(65_536), b"")).partition(b"\r\n\r\n")
    assert head.split(b" ")[1] == (b"431" if len(request_bytes) > 65_536 else b"400")
    assert b"content-type: application/json" in head
    (problem,) = json.loads(body)["problems"]
    assert problem["where"] and problem["what"] and problem["how"]
    assert client.get("/health").status_code == 200


def test_too_large_a_body_of_unknown_length(shared):
    with shared.connect() as sock:
        sock.sendall(HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
        for _ in range(40):
            sock.sendall(b"400\r\n" + b"x" * 1024 + b"\r\n")
        sock.sendall(b"0\r\n\r\n")
        assert sock.recv(65_536).startswith(b"HTTP/1.1 413 ")


@pytest.mark.parametrize("path", [b"/v1/classify", b"/nothing"])
def test_a_body_that_nobody_reads_is_no_reset(shared, path):
    """Most clients listen only when they have sent everything."""
    size = 30_000_000
    with shared.connect() as sock:
        for _ in range(2):  # the connection can be used again
            sock.sendall(b"POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % (path, size))
            sock.sendall(b"x" * size)
            assert read_answer(sock)[0].startswith(b"HTTP/1.1 413 " if path == b"/v1/classify" else b"HTTP/1.1 404 ")


def test_a_connection_whose_body_nobody_read_is_idle_afterwards(start, tiny_export):
    change = "import uvicorn; real = uvicorn.Config; uvicorn.Config = lambda *a, **k: real(*a, **k | {'timeout_keep_alive': 1})"
    one = start("--model_path", tiny_export, change=change)
    with one.connect() as sock:
        sock.sendall(b"POST /nothing HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n\r\n")
        assert read_answer(sock)[0].startswith(b"HTTP/1.1 404 ")
        sock.sendall(b"x" * 100_000)
        sock.settimeout(10)
        assert sock.recv(10) == b""


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"GET /health HTTP/1.1\r\n\r\n", 400),
        (b"GET /health HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n", 400),
        (b"GET /health HTTP/1.1\r\nHost: evil.example\r\n\r\n", 421),
        (b"GET /health HTTP/1.0\r\n\r\n", 200),
        (b"GET /health HTTP/1.1\r\nHost: \t localhost:1 \t\r\n\r\n", 200),
        (b"POST /v1/classify HTTP/1.1\r\nHost: localhost\r\nContent-Encoding: gzip\r\nContent-Length: 1\r\n\r\nx", 415),
    ],
)
def test_hosts_and_encodings(shared, head, status):
    with shared.connect() as sock:
        sock.sendall(head)
        line, body = read_answer(sock)
    assert line.startswith(b"HTTP/1.1 %d " % status)
    assert status == 200 or json.loads(body)["problems"][0]["how"]


def slow_ones(one, heads, bodies):
    """Connections that send a part of a head, a part of a body, and nothing."""

    def sending(number, part):
        found = [one.connect() for _ in range(number)]
        for sock in found:
            sock.sendall(part)
        return found

    parts = HEAD + b"X-Slow: ", HEAD + b'Content-Length: 100\r\n\r\n{"texts"'
    return sending(heads, parts[0]), sending(bodies, parts[1]), one.connect()


def test_slow_heads_and_bodies_stop_nobody(shared, client):
    heads, bodies, silent = slow_ones(shared, 100, 20)
    half = shared.connect()
    half.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
    half.shutdown(socket.SHUT_WR)
    assert client.post("/v1/classify", json={"texts": "国足"}).status_code == 200
    slow = [*heads, *bodies, silent]
    assert select.select(slow, [], [], 0)[0] == []  # the server still waits for them
    for sock in [*slow, half]:
        sock.close()


def test_slow_heads_and_bodies_end(start, tiny_export):
    one = start("--model_path", tiny_export, change="service.BODY_SECONDS = protocol.HEAD_SECONDS = 1")
    heads, bodies, silent = slow_ones(one, 10, 5)
    for sock in bodies:
        answer = b"".join(iter(lambda sock=sock: sock.recv(65_536), b""))
        assert answer.startswith(b"HTTP/1.1 408 ") and b"only 8 bytes" in answer
        sock.close()
    for sock in [*heads, silent]:
        with suppress(ConnectionResetError):
            assert sock.recv(10) == b""  # closed by the server
        sock.close()


def test_where_connections_run_out_the_oldest_slow_one_makes_room(start, tiny_export):
    one = start("--model_path", tiny_export, change="answering.most_connections = lambda: 10")
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
        idle[-1].sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert idle[-1].recv(65_536).startswith(b"HTTP/1.1 200 ")
    for _ in range(110):
        unfinished.append(one.connect())
        unfinished[-1].sendall(HEAD + b"Content-Length: 100\r\n\r\n{")
    assert httpx.post(f"{one.url}/v1/classify", json={"texts": "国足"}, timeout=5).status_code == 200
    for sock in [*idle, *unfinished]:
        sock.close()
    assert "Too many open files" not in one.log()


@pytest.mark.parametrize("rest", [b"POST /nothing HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n", b""])
def test_what_comes_drop_by_drop_ends(start, tiny_export, rest):
    """Bodies that nobody reads, and line ends before a request: neither is a request that the app could give up on."""
    one = start("--model_path", tiny_export, change="protocol.HEAD_SECONDS = protocol.BODY_SECONDS = 1")
    with one.connect() as sock:
        sock.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n" + rest)
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
            head, body = read_answer(sock)
            assert head.startswith(b"HTTP/1.1 200 ") and "国足".encode() in body
        sock.sendall(b"CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n")
        assert sock.recv(65_536).startswith(b"HTTP/1.1 400 ")
