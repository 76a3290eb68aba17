"""The server below HTTP: connections that cost nothing, however slow or strange the client.

What uvicorn leaves open is closed here: the head of a request must come within seconds and be of a usual size, an
answer must be fetched within seconds, and where too many connections stand open, the one that has been sending its head
for longest makes room. SIGTERM and Ctrl-C end the server once everything it has taken is answered.
"""

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEAD_SECONDS, ANSWER_SECONDS = 10, 30
HEAD_BYTES = 65_536
HEAD_TOO_LARGE = b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"


class Protocol(HttpToolsProtocol):
    """One connection."""

    most_connections = 900  # open files that a process may have are often limited to 1024
    sending_heads: dict["Protocol", None] = {}  # in the order in which they began

    def connection_made(self, transport):
        super().connection_made(transport)
        self.head_timer = self.answer_timer = None
        if len(self.connections) > self.most_connections and self.sending_heads:
            next(iter(self.sending_heads)).transport.abort()
        self._expect_head()

    def connection_lost(self, exc):
        self._head_is_there()
        self._answer_flows()
        super().connection_lost(exc)

    def data_received(self, data):
        super().data_received(data)
        if self.head_timer:
            self.head_bytes += len(data)
            if self.head_bytes > HEAD_BYTES:
                self.transport.write(HEAD_TOO_LARGE)
                self.transport.close()

    def on_message_begin(self):
        super().on_message_begin()
        self._expect_head()

    def on_headers_complete(self):
        self._head_is_there()
        super().on_headers_complete()

    def pause_writing(self):
        super().pause_writing()
        self.answer_timer = self.loop.call_later(ANSWER_SECONDS, self.transport.abort)

    def resume_writing(self):
        self._answer_flows()
        super().resume_writing()

    def _expect_head(self):
        if not self.head_timer:
            self.head_bytes, self.sending_heads[self] = 0, None
            self.head_timer = self.loop.call_later(HEAD_SECONDS, self.transport.abort)

    def _head_is_there(self):
        if self.head_timer:
            self.head_timer.cancel()
            self.head_timer = None
            del self.sending_heads[self]

    def _answer_flows(self):
        if self.answer_timer:
            self.answer_timer.cancel()
            self.answer_timer = None


class Server(uvicorn.Server):
    """On SIGTERM or Ctrl-C new requests are refused, and the process ends, with code 0, when all others are answered.

    A second signal ends it without waiting. service: has `draining`, which is set here, and `active`, the requests that
    are being worked on.
    """

    def __init__(self, config, service):
        super().__init__(config)
        self.service = service

    def handle_exit(self, sig, frame):
        if self.service.draining:
            super().handle_exit(sig, frame)
        self.service.draining = True

    async def on_tick(self, counter):
        return await super().on_tick(counter) or (self.service.draining and not self.service.active)
