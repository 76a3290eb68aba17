"""Who asked what, how long each part of the answer took, and who is told of it: figures, access log, spans."""

import re
import secrets
import time
from dataclasses import dataclass, field
from datetime import datetime, timezone

ID = re.compile(rb"[A-Za-z0-9._:+/=@-]{1,128}")
TRACEPARENT = re.compile(rb"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
REASONS = {  # of a refusal without a reason of its own
    400: "malformed", 401: "key", 403: "rights", 404: "path", 405: "method", 408: "slow_body", 409: "model",
    413: "too_large", 415: "packed", 421: "host", 422: "invalid", 429: "queue_full", 499: "client_gone", 500: "fault",
}  # fmt: skip


@dataclass(slots=True)
class Record:
    """What is known of a request; scope["record"]. Seconds of the stages are those of the text answered last."""

    id: str
    trace: str = ""  # the trace-id of W3C Trace Context, 32 hexadecimal digits
    span: str = ""  # this server's own id in it, 16
    flags: str = ""
    began: float = field(default_factory=time.perf_counter)
    client: str = ""  # the name of its key
    key: object = None  # the keys.Key that counts it as being worked on
    model: object = None
    texts: int = 0
    tokens: int = 0
    submitted: float = 0.0
    stages: tuple = (0.0, 0.0, 0.0)  # figures.STAGES
    reason: str = ""
    contents: list | None = None  # the texts, where --log_texts asks for them


class Watch:
    """The ASGI app around all others: gives each request its Record, and tells what became of it.

    service: counts the requests that are being worked on; paths: those that are told by name
    log: a Journal or None; spans: a tracing.Spans or None
    """

    def __init__(self, app, service, paths, log=None, spans=None):
        self.app, self.service, self.figures, self.paths = app, service, service.figures, paths
        self.log, self.spans = log, spans

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        service, status = self.service, 500
        scope["record"] = record = record_of(scope)
        span = self.spans.begin(record, scope) if self.spans else None
        told = [(b"x-request-id", record.id.encode())]
        if record.trace:
            told.append((b"traceparent", f"00-{record.trace}-{record.span}-{record.flags}".encode()))

        async def send_and_note(message):
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], *told]
                if record.model and service.split:
                    message["headers"].append((b"x-model", record.model.name.encode()))
                if service.leaving:
                    message["headers"].append((b"connection", b"close"))
            await send(message)

        taken = not service.draining  # those that come later are refused at once: the end does not wait for them
        service.active += taken
        try:
            await self.app(scope, receive, send_and_note)
        finally:
            service.active -= taken
            if record.key:
                record.key.end()
            route = getattr(scope.get("route"), "path", None)  # with the {name} of a model in it
            path = next((path for path in (scope["path"], route) if path in self.paths), "other")
            seconds = time.perf_counter() - record.began
            if status >= 400:
                record.reason = record.reason or REASONS.get(status, "other")
                self.figures.rejected.labels(record.reason).inc()
            self.figures.requests.labels(path, status).inc()
            self.figures.seconds.labels(path).observe(seconds)
            if self.log:
                self.log.write(line_of(record, scope["method"], path, status, seconds))
            if span:
                self.spans.end(span, record, path, status, seconds)


def record_of(scope):
    """The Record of a request: its X-Request-ID, or a new one; and the trace that it belongs to, if it says so."""
    name = trace = None
    for key, value in scope["headers"]:
        if key == b"x-request-id" and ID.fullmatch(value):
            name = value.decode()
        elif key == b"traceparent":
            trace = TRACEPARENT.fullmatch(value)
    record = Record(name or secrets.token_hex(16))
    if trace:
        record.trace, record.flags, record.span = trace[1].decode(), trace[3].decode(), secrets.token_hex(8)
    return record


def line_of(record, method, path, status, seconds):
    """The access log's line of a request: a dict. Of the text nothing, unless it was asked for."""
    queue, tokenise, model = (round(1000 * stage, 2) for stage in record.stages)
    line = {
        "time": datetime.now(timezone.utc).isoformat(timespec="milliseconds"), "id": record.id, "method": method,
        "route": path, "status": status, "total_ms": round(1000 * seconds, 2),
    }  # fmt: skip
    if record.model:
        line |= {"model": record.model.name, "version": record.model.version, "texts": record.texts}
        line |= {"tokens": record.tokens, "queue_ms": queue, "tokenise_ms": tokenise, "model_ms": model}
    more = {
        "client": record.client, "reason": record.reason, "trace": record.trace, "contents": record.contents,
    }  # fmt: skip
    return line | {name: value for name, value in more.items() if value}
