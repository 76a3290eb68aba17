"""deploy/simple_serving: several processes take connections from one socket; here several takers in one loop."""

import asyncio
import math
import socket
import ssl
import sys
import time

import pytest

from deploy.simple_serving import taking
from deploy.simple_serving.taking import Taking

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no workers there")


class Connection(asyncio.Protocol):
    """It counts itself, as uvicorn's protocol does."""

    def __init__(self, connections):
        self.connections = connections

    def connection_made(self, transport):
        self.transport = transport
        self.connections.add(self)

    def connection_lost(self, error):
        self.connections.discard(self)


@pytest.fixture
def listening():
    with socket.create_server(("127.0.0.1", 0), backlog=1000) as sock:
        yield sock


def take(sock, counts, own, tls=None):
    """A Taking, and the connections that it has."""
    connections = set()
    return Taking(sock, tls, lambda: Connection(connections), connections, counts, own), connections


async def connect(sock, number):
    """So many clients at once, that stay."""
    return await asyncio.gather(*(asyncio.open_connection(*sock.getsockname()) for _ in range(number)))


async def until(condition):
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end
        await asyncio.sleep(0.001)


def test_each_has_as_many(listening, monkeypatch):
    monkeypatch.setattr(taking, "PATIENCE_SECONDS", 5)

    async def test():
        counts = [math.inf] * 4
        takers = [take(listening.dup(), counts, own) for own in range(3)]  # the fourth has not begun, or has died

        async def shares(total):
            await until(lambda: sum(len(connections) for _, connections in takers) == total)
            return [len(connections) for _, connections in takers]

        clients = await connect(listening, 30)
        assert await shares(30) == [10, 10, 10]
        for one in takers[1][1]:
            one.transport.close()
        assert await shares(20) == [10, 0, 10]
        takers[1][0].tell()
        clients += await connect(listening, 10)
        assert await shares(30) == [10, 10, 10]
        takers[0][0].close()
        clients += await connect(listening, 6)
        assert await shares(36) == [10, 13, 13] and counts == [math.inf, 13, 13, math.inf]
        for taker, _ in takers[1:]:
            taker.close()

    asyncio.run(test())


def test_one_that_is_busy_keeps_nobody_waiting(listening, monkeypatch):
    monkeypatch.setattr(taking, "PATIENCE_SECONDS", 0.2)

    async def test():
        taker, connections = take(listening, [math.inf, 0.0], 0)  # the other has none, and takes none
        began, clients = time.monotonic(), await connect(listening, 200)
        await until(lambda: len(connections) == len(clients))
        assert time.monotonic() - began < 10  # each by itself would have waited, 40 s in all
        taker.close()

    asyncio.run(test())


def test_what_speaks_no_tls_is_let_go(listening):
    async def test():
        taker, connections = take(listening, [math.inf], 0, ssl.create_default_context(ssl.Purpose.CLIENT_AUTH))
        ((reader, writer),) = await connect(listening, 1)
        writer.write(b"GET / HTTP/1.1\r\n\r\n")
        assert b"HTTP" not in await reader.read()
        await until(lambda: not taker.tasks)
        taker.tell()
        assert not connections and taker.counts == [0]
        taker.close()

    asyncio.run(test())
