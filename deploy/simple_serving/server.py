"""Serve an exported model over HTTP.

    python deploy/simple_serving/server.py --model_path export                  # http://127.0.0.1:8189
    python deploy/simple_serving/server.py --model_path export --host 0.0.0.0 --api_key_file key.txt

Reads   model_path/{float32,int8}.onnx and what export_model.py left beside it; api_key_file. Writes nothing.

    GET  /                           a page to try it on: the label tree, and the words that mattered
    POST /v1/classify                texts -> labels by name, probabilities, levels
    POST /v1/explain                 text -> by how much a label's probability falls without each word
    POST /models/cls_hierarchical    texts -> class indices and confidences, as PaddleNLP's server answers
    POST /admin/reload               load the model files anew; so does SIGHUP
    GET  /health, /ready, /metrics   for whoever watches over it; /docs describes everything

SIGTERM and Ctrl-C end it once all requests it has taken are answered. Needs neither paddle nor a network.
"""

import argparse
import asyncio
import os
import signal
import socket
import sys
import time
from contextlib import asynccontextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from utils import HelpFormatter, InputError, check_minima, get_logger, require_file, run

PAGE = Path(__file__).with_name("page.html")
KEY_VARIABLE = "SERVING_API_KEY"
LOCAL = ("127.0.0.1", "::1", "localhost")
PAGE_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def parse_args():
    parser = argparse.ArgumentParser(description="Serve an exported model over HTTP.", formatter_class=HelpFormatter)
    model = parser.add_argument_group("model")
    model.add_argument("--model_path", required=True, help="folder of export_model.py, or a model without its ending")
    precisions = ("auto", "int8", "float32", "float16")
    model.add_argument("--precision", choices=precisions, default="auto", help="auto: int8 if it is there")
    model.add_argument("--max_seq_length", type=int, help="tokens of a text that are read; left out: as in training")
    add_serving_arguments(parser)
    args = parser.parse_args()
    check_serving_arguments(parser, args)
    return args


def add_serving_arguments(parser):
    """The flags of everything but the model."""
    address = parser.add_argument_group("address")
    address.add_argument("--host", default="127.0.0.1", help="0.0.0.0: reachable from other machines")
    address.add_argument("--port", type=int, default=8189, help="0: any free one")
    address.add_argument(
        "--api_key_file", type=Path, help=f"every POST must bring its first line as X-API-Key (or set {KEY_VARIABLE})"
    )
    work = parser.add_argument_group("work")
    work.add_argument("--num_threads", type=int, help="model calls side by side (default: all cores)")
    work.add_argument("--batch_size", type=int, default=8, help="texts of a model call, at most")
    work.add_argument("--queue_size", type=int, default=512, help="texts that may wait; then requests get 429")
    work.add_argument("--timeout", type=float, default=10, help="seconds for an answer; then the request gets 503")
    limits = parser.add_argument_group("limits of a request")
    limits.add_argument("--max_texts", type=int, default=128, help="texts of a request")
    limits.add_argument("--max_chars", type=int, default=100_000, help="characters of a text")
    limits.add_argument("--max_bytes", type=int, default=1_000_000, help="bytes of a request")


def check_serving_arguments(parser, args):
    check_minima(parser, args, num_threads=1, batch_size=1, queue_size=1, max_texts=1, max_chars=1, max_bytes=1)
    if not 0 <= args.port <= 65_535:
        parser.error(f"argument --port: must be from 0 to 65535, got {args.port}")
    if not 0 < args.timeout < 3600:
        parser.error(f"argument --timeout: must be above 0 and below 3600, got {args.timeout}")
    if args.queue_size < max(2, args.max_texts):
        parser.error(f"argument --queue_size: must be at least 2, and hold the {args.max_texts} texts of --max_texts")


def read_api_key(path):
    """The key that requests must bring, as bytes, or None."""
    key = os.environ.get(KEY_VARIABLE, "")
    if path:
        require_file(path, "Its first line is the key, such as what `openssl rand -hex 32` prints.")
        key = path.read_text(encoding="utf-8", errors="replace").split("\n")[0]
    key = key.strip()
    if (path or KEY_VARIABLE in os.environ) and (len(key) < 8 or not key.isascii() or not key.isprintable()):
        raise InputError(f"{path or KEY_VARIABLE}: the key must be 8 or more letters, digits or signs of ASCII.")
    return key.encode() or None


def listen(host, port):
    """A listening socket. Raises InputError for an address that cannot be had."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=2048)
    except (OSError, UnicodeError) as error:
        raise InputError(
            f"--host {host} --port {port}: {getattr(error, 'strerror', error)}. Another server may have this port; "
            "choose another one, or stop that server."
        ) from None


# ---- the app ---------------------------------------------------------------------------------------------------------


class Watch:
    """Counts and times the requests, and knows how many are being worked on."""

    def __init__(self, app, service, paths):
        self.app, self.service, self.paths = app, service, paths

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        service, began, status = self.service, time.perf_counter(), 500

        async def send_and_note(message):
            nonlocal status
            status = message.get("status", status)
            await send(message)

        service.active += 1
        try:
            await self.app(scope, receive, send_and_note)
        finally:
            service.active -= 1
            path = scope["path"] if scope["path"] in self.paths else "other"
            service.requests.labels(path, status).inc()
            service.seconds.labels(path).observe(time.perf_counter() - began)


def make_app(service):
    """The FastAPI app: its routes, errors as JSON, and a description of both."""
    from fastapi import Request, Response
    from fastapi.responses import HTMLResponse, JSONResponse
    from fastapi_offline import FastAPIOffline
    from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
    from pydantic.json_schema import models_json_schema
    from starlette.exceptions import HTTPException

    from deploy.simple_serving import bodies
    from deploy.simple_serving import model as answers

    @asynccontextmanager
    async def lifespan(app):
        service.start()
        if hasattr(signal, "SIGHUP"):
            asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, service.reload_in_background)
        yield
        service.stop()

    app = FastAPIOffline(
        title="Hierarchical text classification", version="1", lifespan=lifespan, redoc_url=None,
        redirect_slashes=False, description="Errors tell where, what and how to mend it. Texts are JSON in UTF-8.",
    )  # fmt: skip

    def post(path, body, answer, *statuses):
        """A decorator for the POST routes: their bodies are read by Service.read, which the description cannot see."""
        content = {"application/json": {"schema": {"$ref": f"#/components/schemas/{body.__name__}"}}} if body else None
        extra = {"requestBody": {"required": True, "content": content}} if body else {}
        if service.api_key:
            extra["security"] = [{"key": []}]
        responses = {200: {"model": answer}} | {status: {"model": bodies.ErrorAnswer} for status in statuses}
        return app.post(path, responses=responses, openapi_extra=extra, response_class=JSONResponse)

    of_texts = 400, 401, 408, 413, 422, 429, 503

    @post("/v1/classify", bodies.ClassifyBody, bodies.ClassifyAnswer, *of_texts)
    async def classify(request: Request):
        """The labels of texts, by name. What the request leaves open is decided as stored with the model."""
        body, model = await service.read(request, bodies.ClassifyBody), service.model
        service.check_texts(body.texts, "texts")
        settings = body.model_dump(exclude={"texts", "floor"})
        decision = service.decision(model, **settings)
        works = [
            answers.Work(text.strip(), model.max_seq_length, answers.named, decision, body.floor) for text in body.texts
        ]
        rows = await service.answers(request, model, works)
        return json_response('{"results": [' + ", ".join(rows) + "]}")

    @post("/v1/explain", bodies.ExplainBody, bodies.ExplainAnswer, *of_texts)
    async def explain(request: Request):
        """By how much the probability of each label falls when a word is left out of the text."""
        body, model = await service.read(request, bodies.ExplainBody), service.model
        service.check_texts([body.text], "text")
        labels = service.class_indices(model, body.labels)
        most = min(answers.MOST_PIECES, service.args.queue_size - 1)
        read, pieces = await asyncio.to_thread(answers.pieces_of, model, body.text, most)
        head = body.text[:read]
        texts = [head, *(head[:start] + head[end:] for start, end in pieces)]
        works = [answers.Work(text.strip(), model.max_seq_length, answers.plain) for text in texts]
        probabilities = await service.answers(request, model, works)
        return json_response(answers.evidence(model, body.text, read, pieces, labels, probabilities))

    @post("/models/cls_hierarchical", bodies.ReferenceBody, bodies.ReferenceAnswer, *of_texts)
    async def cls_hierarchical(request: Request):
        """The labels of texts as class indices, with the bodies of PaddleNLP's server."""
        body, model = await service.read(request, bodies.ReferenceBody), service.model
        service.check_texts(body.data.text, "data.text")
        length = body.parameters.max_seq_len or model.max_seq_length
        if length > model.most_tokens:
            how = f"Send at most {model.most_tokens}."
            raise bodies.Refusal(422, "body.parameters.max_seq_len", f"this model cannot read {length} tokens", how)
        decision = service.decision(model, threshold=body.parameters.prob_limit)
        works = [answers.Work(text.strip(), length, answers.numbered, decision) for text in body.data.text]
        rows = await service.answers(request, model, works, body.parameters.batch_size)
        labels, confidence = map(list, zip(*rows))
        return JSONResponse({"result": {"label": labels, "confidence": confidence}})

    @post("/admin/reload", None, bodies.State, 401, 403, 409)
    async def reload(request: Request):
        """Load the model files anew. Needs a key, so a server that has none refuses it; SIGHUP does the same."""
        if not service.api_key:
            how = f"Start the server with --api_key_file or {KEY_VARIABLE}, or send SIGHUP to its process."
            raise bodies.Refusal(403, "server", "it has no key, so nobody may reload its model by HTTP", how)
        service.check_key(request)
        await service.reload()
        return JSONResponse(service.state("reloaded").model_dump())

    @app.get("/health")
    async def health() -> bodies.State:
        """The process lives, and which model it serves."""
        return service.state("alive")

    @app.get("/ready", responses={503: {"model": bodies.State}})
    async def ready() -> bodies.State:
        """Requests are welcome; 503 while the server shuts down."""
        if service.draining:
            return JSONResponse(service.state("shutting down").model_dump(), 503)
        return service.state("ready")

    @app.get("/metrics", response_class=Response)
    async def metrics():
        """Figures for Prometheus."""
        return Response(generate_latest(service.registry), media_type=CONTENT_TYPE_LATEST)

    @app.get("/", include_in_schema=False)
    async def page():
        return HTMLResponse(html, headers={"Content-Security-Policy": PAGE_POLICY})

    def json_response(text):
        return Response(text, media_type="application/json")

    def refused(request, refusal):
        first = refusal.problems[0]
        content = bodies.ErrorAnswer(error=f"{first.where}: {first.what}", problems=refusal.problems)
        return JSONResponse(content.model_dump(), refusal.status, refusal.headers)

    def refused_by_library(request, error):
        how = f"The paths are {', '.join(watched)}; see /docs."
        where = f"{request.method} {request.url.path[:100]}"
        return refused(request, bodies.Refusal(error.status_code, where, error.detail, how, error.headers))

    def failed(request, error):
        how = "This is a fault of the server, which its log describes."
        return refused(request, bodies.Refusal(500, "server", "an unexpected error", how))

    def describe():
        if not app.openapi_schema:
            document, wanted = get_openapi(), [(body, "validation") for body in bodies.REQUESTS]
            definitions = models_json_schema(wanted, ref_template="#/components/schemas/{model}")[1]["$defs"]
            document["components"]["schemas"] |= definitions
            document["components"]["securitySchemes"] = {"key": {"type": "apiKey", "in": "header", "name": "X-API-Key"}}
        return app.openapi_schema

    html = PAGE.read_text(encoding="utf-8")
    get_openapi, app.openapi = app.openapi, describe
    app.add_exception_handler(bodies.Refusal, refused)
    app.add_exception_handler(HTTPException, refused_by_library)
    app.add_exception_handler(Exception, failed)
    watched = ["/", "/docs", *(path for path in app.openapi()["paths"])]
    app.add_middleware(Watch, service=service, paths=frozenset(watched))
    return app


def main():
    args = parse_args()

    def load():
        from deploy.simple_serving.model import load_exported

        return load_exported(args.model_path, args.precision, args.max_seq_length)

    serve(args, load)


def serve(args, load):
    """Answer requests until a signal ends it. args: see add_serving_arguments; load: see Service."""
    api_key = read_api_key(args.api_key_file)
    logger = get_logger()
    try:
        import fastapi_offline  # noqa: F401 (used by make_app, missed here)
        import uvicorn

        from deploy.simple_serving.protocol import Protocol, Server
        from deploy.simple_serving.service import Service
    except ModuleNotFoundError as error:
        hint = "pip install -r deploy/simple_serving/requirements.txt"
        raise InputError(f"The package {error.name} is not installed: {hint}") from None
    with listen(args.host, args.port) as sock:
        service = Service(args, load, api_key)
        Protocol.most_connections = most_connections()
        config = uvicorn.Config(
            make_app(service), http=Protocol, ws="none", access_log=False, log_level="error", server_header=False,
            proxy_headers=False, timeout_keep_alive=65, timeout_graceful_shutdown=int(args.timeout) + 5,
        )  # fmt: skip
        if args.host not in LOCAL and not api_key:
            logger.warning(f"--host {args.host}: whoever reaches this machine may use the server; see --api_key_file")
        model, (host, port) = service.model, sock.getsockname()[:2]
        logger.info(f"Loaded {model.path} ({len(model.tree)} labels, {model.max_seq_length} tokens of a text)")
        logger.info(f"Serving on http://{f'[{host}]' if ':' in host else host}:{port}; Ctrl-C ends it")
        Server(config, service).run([sock])
    logger.info("Every request is answered; the server has ended")


def most_connections():
    """How many connections may stand open: as many files as this process may have, less some for its own."""
    try:
        import resource
    except ImportError:  # Windows
        return 400
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    wanted = 65_536 if hard == resource.RLIM_INFINITY else min(hard, 65_536)
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return wanted - 100


if __name__ == "__main__":
    run(main)
