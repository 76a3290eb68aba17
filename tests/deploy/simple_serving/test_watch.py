"""deploy/simple_serving: ids and traces of requests, the access log, sampled answers, figures, spans."""

import asyncio
import json
import re
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from types import SimpleNamespace

import pytest

for package in ("fastapi", "fastapi_offline", "httptools", "httpx", "prometheus_client"):
    pytest.importorskip(package)

# ruff: noqa: E402
import httpx

from deploy.simple_serving import journal
from deploy.simple_serving.figures import Figures
from deploy.simple_serving.journal import Journal
from deploy.simple_serving.watch import Record, Watch, line_of, record_of
from utils import InputError, load_rows

from tests.deploy.simple_serving.conftest import figures, problem  # isort: skip

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


# ---- ids and traces --------------------------------------------------------------------------------------------------


def test_an_id_is_taken_or_made():
    def record(*headers):
        return record_of({"headers": list(headers)})

    assert record((b"x-request-id", b"order-7:b")).id == "order-7:b"
    made = [
        record(),
        record((b"x-request-id", b"")),
        record((b"x-request-id", b'a"b\n')),
        record((b"x-request-id", b"x" * 129)),
    ]
    assert all(re.fullmatch("[0-9a-f]{32}", one.id) for one in made) and len({one.id for one in made}) == 4


@pytest.mark.parametrize(
    ("value", "taken"),
    [
        (f"00-{TRACE}-{SPAN}-01", True),
        (f"cc-{TRACE}-{SPAN}-00-of-later-versions", True),
        (f"ff-{TRACE}-{SPAN}-01", False),
        (f"00-{'0' * 32}-{SPAN}-01", False),
        (f"00-{TRACE}-{'0' * 16}-01", False),
        (f"00-{TRACE.upper()}-{SPAN}-01", False),
        (f"00-{TRACE[1:]}-{SPAN}-01", False),
    ],
)
def test_traces_by_the_rules_of_w3c(value, taken):
    record = record_of({"headers": [(b"traceparent", value.encode())]})
    assert record.trace == (TRACE if taken else "")
    assert not taken or (re.fullmatch("[0-9a-f]{16}", record.span) and record.span != SPAN)


def test_a_refused_request_has_a_line_without_a_model():
    record = Record("a", reason="queue_full")
    line = line_of(record, "POST", "/v1/classify", 429, 0.0015)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00", line.pop("time"))
    assert line == {
        "id": "a", "method": "POST", "route": "/v1/classify", "status": 429, "total_ms": 1.5, "reason": "queue_full"
    }  # fmt: skip


def test_the_end_waits_for_what_was_taken_and_for_nothing_else():
    """Clients that go on asking while the server drains are refused, and must not keep it from ending."""
    service, active = SimpleNamespace(active=0, draining=False, leaving=False, figures=Figures()), []

    async def app(scope, receive, send):
        active.append(service.active)

    async def ask():
        await Watch(app, service, ())({"type": "http", "headers": [], "path": "/", "method": "GET"}, None, None)

    asyncio.run(ask())
    service.draining = True
    asyncio.run(ask())
    assert active == [1, 0] and service.active == 0


# ---- files -----------------------------------------------------------------------------------------------------------


def test_a_journal_survives_rotation_and_a_full_disk(tmp_path, printed, monkeypatch):
    now = 100.0
    monkeypatch.setattr(journal.time, "monotonic", lambda: now)
    path = tmp_path / "log"
    one = Journal(path)
    assert path.stat().st_mode & 0o777 == 0o640
    one.write({"text": "一\n\ud800"})
    path.rename(tmp_path / "log.1")
    now += 1.1
    one.write({"n": 1})
    assert (tmp_path / "log.1").read_text("utf-8") == '{"text": "一\\n\\ud800"}\n'
    assert path.read_text("utf-8") == '{"n": 1}\n'

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(journal.os, "write", full)
        one.write({"n": 2})
        one.write({"n": 3})
    one.write({"n": 4})
    assert [message for message in printed if "No space left" in message] == printed[:1] and len(printed) == 2
    assert path.read_text("utf-8") == '{"n": 1}\n{"n": 4}\n'
    with pytest.raises(InputError, match="no/log: No such file"):
        Journal(tmp_path / "no" / "log")


# ---- a server --------------------------------------------------------------------------------------------------------


@contextmanager
def collector():
    """Takes what is sent by OTLP over HTTP: yields (its address, a list of the spans)."""
    trace_service = pytest.importorskip("opentelemetry.proto.collector.trace.v1.trace_service_pb2")
    spans = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            content = self.rfile.read(int(self.headers["Content-Length"]))
            assert self.path == "/v1/traces"
            if self.headers.get("Content-Encoding") == "gzip":
                import gzip

                content = gzip.decompress(content)
            message = trace_service.ExportTraceServiceRequest.FromString(content)
            spans.extend(span for a in message.resource_spans for b in a.scope_spans for span in b.spans)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *args):
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", spans
        server.shutdown()


@pytest.mark.slow
def test_a_trace_that_is_not_sampled_ends_as_others_do():
    from deploy.simple_serving.tracing import Spans

    headers = [(b"traceparent", f"00-{TRACE}-{SPAN}-00".encode())]
    with collector() as (address, spans):
        tracing, record = Spans(address), record_of({"headers": headers})
        tracing.end(tracing.begin(record, {"method": "POST", "headers": headers}), record, "/v1/classify", 200, 0.1)
        tracing.close()
    assert record.trace == TRACE and not spans


@pytest.mark.slow
def test_what_is_told_of_requests(start, tiny_export, tmp_path, predictor):
    log, sample = tmp_path / "access.jsonl", tmp_path / "sample.jsonl"
    with collector() as (address, spans):
        flags = ("--access_log", log, "--log_texts", "--sample_file", sample, "--sample", 1, "--max_texts", 4)
        one = start("--model_path", tiny_export, *flags, "--otlp_endpoint", address)
        with httpx.Client(base_url=one.url, timeout=30) as client:
            headers = {"X-Request-ID": "mine", "traceparent": f"00-{TRACE}-{SPAN}-01"}
            answer = client.post(
                "/v1/classify", json={"texts": ["国足今晚出战", ""]}, headers=headers
            ).raise_for_status()
            assert answer.headers["X-Request-ID"] == "mine"
            refused = client.post("/v1/classify", json={"texts": ["一"] * 5})
            assert refused.status_code == 413 and len(refused.headers["X-Request-ID"]) == 32
            strange = client.get("/secret/path", headers={"Host": "evil.example"})
            assert strange.status_code == 421 and strange.headers["X-Request-ID"]
            client.post("/v1/explain", json={"text": "国足"}).raise_for_status()
            told = figures(client)
        assert one.stop() == 0
    version = re.search('version="([0-9a-f]{12})"', " ".join(told))[1]
    lines = [json.loads(line) for line in log.read_text("utf-8").splitlines()]
    first, second, third, fourth, _ = lines
    tokens = len(predictor.tokenizer.encode(["国足今晚出战"])[0])
    assert (first["id"], first["trace"], first["route"], first["status"]) == ("mine", TRACE, "/v1/classify", 200)
    assert (first["texts"], first["tokens"], first["model"], first["version"]) == (2, tokens, "default", version)
    assert 0 < first["queue_ms"] + first["tokenise_ms"] + first["model_ms"] <= first["total_ms"]
    assert first["contents"] == ["国足今晚出战", ""] and fourth["contents"] == ["国足"]
    assert (
        second["reason"] == "too_large" and "contents" not in second and second["id"] == refused.headers["X-Request-ID"]
    )
    assert (third["route"], third["reason"]) == ("other", "host") and "secret" not in log.read_text("utf-8")

    rows = [json.loads(line) for line in sample.read_text("utf-8").splitlines()]
    assert [{key: row[key] for key in ("text", "labels", "levels")} for row in rows] == [
        {key: row[key] for key in ("text", "labels", "levels")} for row in answer.json()["results"]
    ]
    assert {row["version"] for row in rows} == {version}
    sample.write_text(json.dumps(rows[0], ensure_ascii=False), encoding="utf-8")
    assert load_rows(sample, predictor.tree).texts == ["国足今晚出战"]

    assert told['requests_rejected_total{reason="too_large"}'] == told['requests_rejected_total{reason="host"}'] == 1
    assert told['texts_total{model="default"}'] > 2 and told['tokens_total{model="default"}'] > tokens
    for stage in ("queue", "tokenise", "model"):
        assert told[f'stage_duration_seconds_count{{stage="{stage}"}}'] == told['texts_total{model="default"}']
    assert told["http_requests_in_flight"] == 1 and told["process_resident_memory_bytes"] > 1e6

    mine = {span.name: span for span in spans if span.trace_id.hex() == TRACE}
    assert set(mine) == {"POST /v1/classify", "queue", "tokenise", "model"}
    root = mine.pop("POST /v1/classify")
    assert root.parent_span_id.hex() == SPAN and answer.headers["traceparent"] == f"00-{TRACE}-{root.span_id.hex()}-01"
    assert {span.parent_span_id for span in mine.values()} == {root.span_id}
    assert all(
        root.start_time_unix_nano <= span.start_time_unix_nano <= span.end_time_unix_nano <= root.end_time_unix_nano
        for span in mine.values()
    )


@pytest.mark.slow
def test_nothing_is_told_unless_asked_for(start, tiny_export):
    """Neither a file nor a package of OpenTelemetry's SDK; but every answer has its id."""
    change = (
        "import atexit; atexit.register(lambda: print('LOADED', 'opentelemetry.sdk' in sys.modules, file=sys.stderr))"
    )
    one = start("--model_path", tiny_export, change=change)
    answer = httpx.post(f"{one.url}/v1/classify", json={"texts": "国足"}, timeout=30)
    assert len(answer.headers["X-Request-ID"]) == 32 and "traceparent" not in answer.headers
    assert one.stop() == 0 and "LOADED False" in one.log() and one.log().count("\n") == 4


@pytest.mark.slow
def test_a_fault_has_an_id_too(start, tiny_export, tmp_path):
    one = start(
        "--model_path", tiny_export, "--access_log", tmp_path / "log", change="service.run = lambda items: 1 / 0"
    )
    answer = httpx.post(f"{one.url}/v1/classify", json={"texts": "一"}, timeout=30)
    assert answer.status_code == 500 and problem(answer)
    one.stop()
    (line,) = map(json.loads, (tmp_path / "log").read_text("utf-8").splitlines())
    assert (line["id"], line["status"], line["reason"]) == (answer.headers["X-Request-ID"], 500, "fault")
