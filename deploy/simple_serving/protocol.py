"""The server below HTTP: connections that cost nothing, however slow or strange the client.

What uvicorn leaves open is closed here: a request must come within seconds and its head be of a usual size, an answer
must be fetched within seconds, and where too many connections stand open, the one that has owed a request for longest
makes room. A client that offers to change the protocol (Upgrade: h2c, as Java's does) is answered in HTTP/1.1. SIGTERM
and Ctrl-C end the server once everything it has taken is answered.
"""

import json
import signal

import httptools
import uvicorn
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol
from uvicorn.server import HANDLED_SIGNALS

from deploy.simple_serving.taking import Taking

HEAD_SECONDS, ANSWER_SECONDS = 10, 30
BODY_SECONDS = 15  # for bodies that nobody reads, such as after a 404; Service.read gives up on the others earlier
REFUSED_SECONDS = 5  # for a client to read why its request was no HTTP, and to leave
FAREWELL_SECONDS = 1
HEAD_BYTES = 65_536


class HeadTooLarge(Exception):
    """A head of more than HEAD_BYTES."""


class Protocol(HttpToolsProtocol):
    """One connection."""

    most_connections = 900  # open files that a process may have are often limited to 1024
    owing: dict["Protocol", None] = {}  # those from which a request, or the rest of one, is to come; the longest first

    def connection_made(self, transport):
        super().connection_made(transport)
        self.request_timer = self.answer_timer = None
        self.head_bytes = None  # what has come of a head; None outside of one
        self.refused = False
        if len(self.connections) > self.most_connections and self.owing:
            oldest = next(iter(self.owing))
            oldest._owes_nothing()  # it may take a while until the next line has told it
            oldest.transport.abort()
        self.owing[self] = None
        self._expect_within(HEAD_SECONDS)

    def connection_lost(self, exc):
        self._owes_nothing()
        self._answer_flows()
        super().connection_lost(exc)

    def data_received(self, data):
        if self.refused:
            return
        self._unset_keepalive_if_required()
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._answer_as_it_is(data[upgrade.args[0] :])
        except httptools.HttpParserError as error:
            if isinstance(error.__context__, HeadTooLarge):
                return self._refuse_head()
            return self._refuse(400, "request", "it is no HTTP", "Send HTTP/1.1, as any client's library does.")
        if self.head_bytes is not None:
            self.head_bytes += len(data)
            if self.head_bytes > HEAD_BYTES:
                return self._refuse_head()
        if self in self.owing and not self.request_timer:
            self._expect_within(BODY_SECONDS if self.head_bytes is None else HEAD_SECONDS)

    def on_message_begin(self):
        super().on_message_begin()
        self.head_bytes = 0
        self.owing.setdefault(self)

    def on_header(self, name, value):
        super().on_header(name, value.strip(b" \t"))  # blanks around a value are none of it

    def on_headers_complete(self):
        self.head_bytes = None
        if len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers) > HEAD_BYTES:
            raise HeadTooLarge  # all of it came at once
        self._stop_expecting()
        if not self._offers_upgrade():
            super().on_headers_complete()

    def on_message_complete(self):
        if not self._offers_upgrade():
            self._owes_nothing()
            super().on_message_complete()
            if self.cycle.response_complete and not self.transport.is_closing():  # it was answered before its end
                self.owing[self] = None
                self._unset_keepalive_if_required()
                self.timeout_keep_alive_task = self.loop.call_later(
                    self.timeout_keep_alive, self.timeout_keep_alive_handler
                )

    def on_response_complete(self):
        if not self.pipeline and not self.transport.is_closing():
            self.owing.setdefault(self)
        super().on_response_complete()

    def shutdown(self):
        super().shutdown()
        if self.transport.is_closing():  # over TLS it waits for a farewell, which an idle client does not give
            self.loop.call_later(FAREWELL_SECONDS, self.transport.abort)

    def pause_writing(self):
        super().pause_writing()
        self.answer_timer = self.loop.call_later(ANSWER_SECONDS, self.transport.abort)

    def resume_writing(self):
        self._answer_flows()
        super().resume_writing()

    def _offers_upgrade(self):
        return self.parser.should_upgrade() and self.parser.get_method() != b"CONNECT"

    def _answer_as_it_is(self, rest):
        """Read a request again without its offer of an upgrade, after which the parser would take no body."""
        if not self._offers_upgrade():
            return self._refuse(400, "request", "this is no proxy", "Ask this server for its own paths; see /docs.")
        version = self.parser.get_http_version().encode()
        lines = [b"%s %s HTTP/%s" % (self.parser.get_method(), self.url, version)]
        lines += [b"%s: %s" % header for header in self.headers if header[0] != b"upgrade"]
        self.parser = httptools.HttpRequestParser(self)
        self.data_received(b"\r\n".join([*lines, b"", rest]))

    def _refuse_head(self):
        how = f"Send at most {HEAD_BYTES} bytes before the body."
        self._refuse(431, "headers", f"more than {HEAD_BYTES} bytes", how)

    def _refuse(self, status, where, what, how):
        """Answer what never becomes a request; in the form of bodies.ErrorAnswer, and so that the client can read it.

        To close at once would reset the connection where more has come than was read, and the answer would be lost.
        """
        if self.cycle and self.cycle.response_started and not self.cycle.response_complete:
            return self.transport.abort()  # in the middle of another answer
        problem = {"where": where, "what": what, "how": how}
        content = json.dumps({"error": f"{where}: {what}", "problems": [problem]}).encode()
        head = b"content-type: application/json\r\nconnection: close\r\ncontent-length: %d\r\n\r\n" % len(content)
        self.transport.write(STATUS_LINE[status] + head + content)
        if self.transport.can_write_eof():  # TLS has none
            self.transport.write_eof()
        self.refused = True
        self._owes_nothing()
        self.owing[self] = None  # it may make room
        if self.cycle:  # whoever works on its body need not go on
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        self._expect_within(REFUSED_SECONDS)

    def _expect_within(self, seconds):
        self.request_timer = self.loop.call_later(seconds, self.transport.abort)

    def _stop_expecting(self):
        if self.request_timer:
            self.request_timer.cancel()
            self.request_timer = None

    def _owes_nothing(self):
        self._stop_expecting()
        self.owing.pop(self, None)

    def _answer_flows(self):
        if self.answer_timer:
            self.answer_timer.cancel()
            self.answer_timer = None


class Server(uvicorn.Server):
    """On SIGTERM or Ctrl-C new requests are refused, and the process ends, with code 0, when all others are answered.

    A second signal ends it without waiting. service: a Service, which may let requests in for some seconds more.
    shared: a shared.Shared, where other processes take connections from the same sockets.
    """

    def __init__(self, config, service, shared=None):
        super().__init__(config)
        self.service, self.shared, self.taking = service, shared, None

    async def startup(self, sockets=None):
        if not self.shared:
            return await super().startup(sockets)
        await super().startup([])

        def protocol():
            return Protocol(config=self.config, server_state=self.server_state, app_state=self.lifespan.state)

        (sock,), counts = sockets, self.shared.connections
        self.taking = Taking(sock, self.config.ssl, protocol, self.server_state.connections, counts, self.shared.worker)
        self.servers.append(self.taking)  # which are closed

    def handle_exit(self, sig, frame):
        self.service.leave()
        for one in HANDLED_SIGNALS:
            signal.signal(one, signal.SIG_DFL)

    async def on_tick(self, counter):
        self.service.drain_if_due()
        if self.taking:
            self.taking.tell()
        return await super().on_tick(counter) or (self.service.draining and not self.service.active)
