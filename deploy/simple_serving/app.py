"""The FastAPI app: its routes, errors as JSON, and a description of both."""

import asyncio
import signal
from contextlib import asynccontextmanager
from pathlib import Path

from fastapi import Request, Response
from fastapi.responses import HTMLResponse, JSONResponse
from fastapi_offline import FastAPIOffline
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic.json_schema import models_json_schema
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware

from deploy.simple_serving import bodies
from deploy.simple_serving import model as answers
from deploy.simple_serving.description import add_limits
from deploy.simple_serving.guard import Guard
from deploy.simple_serving.key import KEY_VARIABLE
from deploy.simple_serving.watch import Watch

PAGE = Path(__file__).with_name("page.html")
PAGE_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def make_app(service, hosts, log=None, spans=None, add_routes=None):
    """The app of a service.Service; hosts: the guard.Hosts by which it goes; log, spans: see Watch.

    add_routes: a function of the app, the service and `post`, that gives it routes besides those of every server
    """

    @asynccontextmanager
    async def lifespan(app):
        service.start()
        if service.worker:
            await service.worker.join(service)
        elif hasattr(signal, "SIGHUP"):
            asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, service.reload_in_background)
        yield
        service.stop()

    app = FastAPIOffline(
        title="Hierarchical text classification", version="1", lifespan=lifespan, redoc_url=None,
        redirect_slashes=False, description="Errors tell where, what and how to mend it. Texts are JSON in UTF-8.",
    )  # fmt: skip

    requests = []  # the classes of bodies

    def post(path, body, answer, *statuses, **more):
        """A decorator for the POST routes: their bodies are read by Service.read, which the description cannot see."""
        requests.extend([body] if body else [])
        content = {"application/json": {"schema": {"$ref": f"#/components/schemas/{body.__name__}"}}} if body else None
        extra = {"requestBody": {"required": True, "content": content}} if body else {}
        if service.keys:
            extra["security"] = [{"key": []}]
        responses = {200: {"model": answer}} | {status: {"model": bodies.ErrorAnswer} for status in statuses}
        return app.post(path, responses=responses, openapi_extra=extra, response_class=JSONResponse, **more)

    of_texts = 400, 401, 403, 408, 413, 415, 421, 422, 429, 503

    @post("/v1/classify", bodies.ClassifyBody, bodies.ClassifyAnswer, *of_texts)
    async def classify(request: Request):
        """The labels of texts, by name. What the request leaves open is decided as stored with the model."""
        body = await service.read(request, bodies.ClassifyBody)
        model = service.find(body.model)
        service.check_texts(body.texts, "texts")
        settings = body.model_dump(exclude={"texts", "floor", "certainty", "model"})
        decision = service.decision(model, **settings)
        works = [
            answers.Work(text.strip(), model.max_seq_length, answers.named, decision, body.floor, body.certainty)
            for text in body.texts
        ]
        rows = await service.answers(request, model, works)
        return json_response('{"results": [' + ", ".join(rows) + "]}")

    @post("/v1/explain", bodies.ExplainBody, bodies.ExplainAnswer, *of_texts)
    async def explain(request: Request):
        """By how much the probability of each label falls when a word is left out of the text."""
        body = await service.read(request, bodies.ExplainBody, "explain")
        model = service.find(body.model)
        service.check_text(body.text, "text")
        labels = service.class_indices(model, body.labels)
        most = min(answers.MOST_PIECES, service.args.queue_size - 1)
        with service.one_explanation():
            read, pieces = await asyncio.to_thread(answers.pieces_of, model, body.text, most)
            head = body.text[:read]
            texts = [head, *(head[:start] + head[end:] for start, end in pieces)]
            works = [answers.Work(text.strip(), model.max_seq_length, answers.plain) for text in texts]
            probabilities = await service.answers(request, model, works)
        return json_response(answers.evidence(model, body.text, read, pieces, labels, probabilities))

    @post("/models/cls_hierarchical", bodies.ReferenceBody, bodies.ReferenceAnswer, *of_texts)
    async def cls_hierarchical(request: Request):
        """The labels of texts as class indices, with the bodies of PaddleNLP's server."""
        body = await service.read(request, bodies.ReferenceBody)
        model = service.find(None)
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
        require_admin(request)
        await service.changes.reload()
        return JSONResponse(service.state("reloaded", request).model_dump())

    @app.get("/v1/models", responses={401: {"model": bodies.ErrorAnswer}, 403: {"model": bodies.ErrorAnswer}})
    async def models(request: Request) -> bodies.ModelsAnswer:
        """The models behind this port, loaded or not."""
        service.admit(request, "classify")
        return bodies.ModelsAnswer(models=service.models.states())

    @post("/v1/models/{name}/load", None, bodies.ModelState, 401, 403, 404, 409)
    async def load(request: Request, name: str):
        """Load one of the models that the server was started with, anew if it is there. Needs the right admin."""
        require_admin(request)
        service.models.require_known(name, "path", 404)
        await service.changes.load(name)
        return JSONResponse(service.models.state(name).model_dump())

    @post("/v1/models/{name}/unload", None, bodies.ModelState, 401, 403, 404, 409)
    async def unload(request: Request, name: str):
        """Free the memory of one of them. Needs the right admin."""
        require_admin(request)
        service.models.require_known(name, "path", 404)
        await service.changes.unload(name)
        return JSONResponse(service.models.state(name).model_dump())

    @app.get("/health")
    async def health(request: Request) -> bodies.State:
        """The process lives, and which model it serves."""
        return service.state("alive", request)

    @app.get("/ready", responses={503: {"model": bodies.State}})
    async def ready(request: Request) -> bodies.State:
        """Requests are welcome; 503 while the server shuts down."""
        if service.leaving:
            return JSONResponse(service.state("shutting down", request).model_dump(), 503)
        return service.state("ready", request)

    if service.args.metrics_port is None:

        @app.get("/metrics", response_class=Response)
        async def metrics():
            """Figures for Prometheus."""
            return Response(generate_latest(await service.collect()), media_type=CONTENT_TYPE_LATEST)

    @app.get("/", include_in_schema=False)
    async def page():
        return HTMLResponse(html, headers={"Content-Security-Policy": PAGE_POLICY})

    def require_admin(request):
        if not service.keys:
            how = f"Start it with --keys_file, --api_key_file or {KEY_VARIABLE}, or send SIGHUP to its process."
            raise bodies.Refusal(403, "server", "it has no key, so nobody may reload its model by HTTP", how)
        service.admit(request, "admin")

    def json_response(text):
        return Response(text, media_type="application/json")

    def refused(scope, refusal):
        scope["record"].reason = refusal.reason
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
            document, wanted = get_openapi(), [(body, "validation") for body in requests]
            definitions = models_json_schema(wanted, ref_template="#/components/schemas/{model}")[1]["$defs"]
            document["components"]["schemas"] |= definitions
            document["components"]["securitySchemes"] = {"key": {"type": "apiKey", "in": "header", "name": "X-API-Key"}}
        add_limits(app.openapi_schema["components"]["schemas"], service.args, service.models)
        return app.openapi_schema

    if add_routes:
        add_routes(app, service, post)
    html = PAGE.read_text(encoding="utf-8")
    get_openapi, app.openapi = app.openapi, describe
    app.add_exception_handler(bodies.Refusal, refused)
    app.add_exception_handler(HTTPException, refused_by_library)
    app.add_exception_handler(Exception, failed)
    watched = ["/", "/docs", "/openapi.json", *(path for path in app.openapi()["paths"])]
    app.add_middleware(Guard, hosts=hosts, refused=refused)
    if service.args.cors_origins:
        app.add_middleware(
            CORSMiddleware, allow_origins=service.args.cors_origins, allow_methods=["GET", "POST"],
            allow_headers=["Content-Type", "X-API-Key", "X-Request-ID", "traceparent"],
            expose_headers=["Retry-After", "X-Request-ID"], max_age=3600,
        )  # fmt: skip
    return Watch(app, service, frozenset(watched), log, spans)
