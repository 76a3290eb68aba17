"""Connections taken from a socket that several processes listen on, so that each has about as many.

Left to themselves, event loops take all that is there as soon as they are woken: one of four processes had 15 of 16
clients. Here one that has more than another leaves a new connection to that one for a moment.
"""

import asyncio
import select
import socket
import time
from contextlib import suppress

PAUSE_SECONDS = 0.001  # until one that has more connections looks again
PATIENCE_SECONDS = 0.02  # after that a busy one's share is taken by another
HURRY_SECONDS = 1  # and for so long nobody waits for it
FULL_SECONDS = 0.1  # until the next try where this process may open no more files


class Taking:
    """Take connections in the running event loop, until close().

    sock: it listens; tls: an SSLContext or None; protocol: makes that of a connection
    connections: those that there are; counts: see shared.Shared.connections; own: which of them is this process's
    """

    def __init__(self, sock, tls, protocol, connections, counts, own):
        self.sock, self.tls, self.protocol, self.connections = sock, tls, protocol, connections
        self.counts, self.own, self.tasks, self.since, self.timer = counts, own, set(), None, None
        self.hurried = 0.0  # until then it leaves nothing to others
        self.opening = set()  # protocols of connections that were taken, and may not be among the others yet
        self.loop, self.waiting = asyncio.get_running_loop(), select.poll()
        self.waiting.register(sock, select.POLLIN)
        sock.setblocking(False)
        self.tell()
        self.loop.add_reader(sock.fileno(), self._look)

    def tell(self):
        """Let the others know how many connections this process has."""
        if self.loop:
            opening = sum(one not in self.connections for one in self.opening)
            self.counts[self.own] = len(self.connections) + opening

    def close(self):
        self.loop.remove_reader(self.sock.fileno())
        if self.timer:
            self.timer.cancel()
        self.loop, self.counts[self.own] = None, float("inf")

    async def wait_closed(self):
        """As of asyncio's servers; there is nothing to wait for."""

    def _look(self):
        """There is a connection, or was: take it, or leave it to another for a while."""
        self.tell()
        now = time.monotonic()
        self.since = self.since or now
        if self.counts[self.own] > min(self.counts) and now > self.hurried:
            if now - self.since < PATIENCE_SECONDS:
                return self._pause(PAUSE_SECONDS)
            self.hurried = now + HURRY_SECONDS
        self.since = None
        self._take()

    def _pause(self, seconds):
        """Look again later; until then the loop would tell of the same connection all the time."""
        self.loop.remove_reader(self.sock.fileno())
        self.timer = self.loop.call_later(seconds, self._look_again)

    def _look_again(self):
        self.timer = None
        self.loop.add_reader(self.sock.fileno(), self._look)
        if self.waiting.poll(0):
            self._look()
        else:  # another has taken it
            self.since = None

    def _take(self):
        try:
            connection, _ = self.sock.accept()
        except (BlockingIOError, ConnectionAbortedError):  # another was faster, or the client has left
            return
        except OSError:  # too many open files
            return self._pause(FULL_SECONDS)
        connection.setblocking(False)
        with suppress(OSError):
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.opening.add(protocol := self.protocol())
        self.tell()
        task = asyncio.ensure_future(self._connect(connection, protocol))
        self.tasks.add(task)  # the loop alone would lose it
        task.add_done_callback(self.tasks.discard)

    async def _connect(self, connection, protocol):
        loop = asyncio.get_running_loop()
        try:
            await loop.connect_accepted_socket(lambda: protocol, connection, ssl=self.tls)
        except (OSError, asyncio.TimeoutError):  # it speaks no TLS
            connection.close()
        finally:
            self.opening.discard(protocol)
