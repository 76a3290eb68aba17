"""The server of analysis/review.py: one page, and what it asks for. Every request must bring the token."""

import secrets
import threading
from pathlib import Path
from typing import Literal

from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, JSONResponse
from pydantic import BaseModel, Field

from analysis.desk import KINDS
from analysis.guidelines import read_guidelines, write_guideline
from deploy.simple_serving.app import PAGE_POLICY
from deploy.simple_serving.bodies import Refusal
from deploy.simple_serving.guard import Guard
from hierarchical.labels import SEPARATOR

PAGE = Path(__file__).parent / "templates" / "review.html"
SAFE = {"Content-Security-Policy": PAGE_POLICY, "Referrer-Policy": "no-referrer", "Cache-Control": "no-store"}
SHORT = 200


class Asker(BaseModel):
    browser: str = Field(min_length=8, max_length=64)
    who: str = Field(min_length=1, max_length=SHORT)


class Wanted(Asker):
    kinds: list[Literal[KINDS]] = Field(default=list(KINDS), min_length=1, max_length=len(KINDS))


class Answer(Asker):
    id: str = Field(max_length=64)
    labels: list[str] | None = Field(max_length=10_000)
    answer: Literal["disputed"] | None = None


class Guideline(BaseModel):
    label: str = Field(max_length=10_000)
    text: str = Field(max_length=1_000)


class Evidenced(BaseModel):
    id: str = Field(max_length=64)
    towards: str | None = Field(default=None, max_length=10_000)
    against: str | None = Field(default=None, max_length=10_000)


def make_app(desk, evidence, tree, directory, token, hosts, name):
    """The app. desk: a Desk; evidence: an Evidence; token: what the address brings; name: who works here, usually."""
    app, writing = FastAPI(openapi_url=None, docs_url=None, redoc_url=None), threading.Lock()

    @app.middleware("http")
    async def check_token(request: Request, proceed):
        brought = request.headers.get("X-Token") or request.query_params.get("token") or ""
        if not secrets.compare_digest(brought.encode(), token.encode()):
            return JSONResponse({"error": "The address lacks its token: open the one that review.py printed."}, 401)
        return await proceed(request)

    @app.get("/")
    def page():
        return HTMLResponse(PAGE.read_text(encoding="utf-8"), headers=SAFE)

    # What a label's path does not say: where labels have several parents, all that is above each.
    above = {label: [tree.labels[k] for k in tree.ancestors(i)] for i, label in enumerate(tree.labels) if tree.further}

    @app.get("/api/labels")
    def labels():
        """The tree, and what its labels are for."""
        return {
            "labels": tree.labels,
            "separator": SEPARATOR,
            "above": above,
            "guidelines": read_guidelines(directory),
            "name": name,
        }

    @app.post("/api/next")
    def next_item(body: Wanted):
        return state(body, desk.next(body.browser, body.who, body.kinds))

    @app.post("/api/answer")
    def answer(body: Answer):
        if body.id not in desk.items:
            return refused("This row is in the queue no more; reload the page.", 409)
        if unknown := [label for label in body.labels or () if label not in tree.index]:
            return refused(f"label.txt has no label {unknown[0]!r}.", 422)
        chosen = body.labels
        if chosen is not None:
            chosen = [tree.labels[k] for k in tree.closure([tree.index[label] for label in chosen])]
        desk.answer(body.browser, body.who, body.id, chosen, body.answer)
        return {}

    @app.post("/api/undo")
    def undo(body: Asker):
        item = desk.undo(body.browser, body.who)
        return state(body, item) if item else refused("There is nothing to undo.", 409)

    @app.post("/api/finish")
    def finish(body: Asker):
        """End the server; rows on other screens can still be answered when it is started again."""
        app.state.finish()
        return {}

    @app.post("/api/guideline")
    def guideline(body: Guideline):
        if body.label not in tree.index:
            return refused(f"label.txt has no label {body.label!r}.", 422)
        return {"text": write_guideline(directory, body.label, body.text, writing)}

    @app.post("/api/words")
    def words(body: Evidenced):
        if body.id not in desk.items or any(label not in tree.index for label in (body.towards, body.against) if label):
            return refused("No such row, or label.", 409)
        return {"words": evidence.words(desk.items[body.id]["text"], body.towards, body.against)}

    @app.post("/api/neighbours")
    def neighbours(body: Evidenced):
        if body.id not in desk.items:
            return refused("No such row.", 409)
        found, train = evidence.neighbours(desk.items[body.id]["text"]), evidence.train
        return {
            "rows": [
                {"text": train.texts[i], "labels": [tree.labels[k] for k in train.labels[i]], "cosine": cosine}
                for i, cosine in found
            ]
        }

    def state(body, item):
        """What the page needs of an item; not what kind it is, so that nobody judges the control sample otherwise."""
        shown = item and {
            key: item.get(key) for key in ("id", "text", "labels", "proposal", "says", "model", "opinions")
        }
        return {"item": shown, "progress": desk.progress(body.who)}

    def refused(what, status):
        return JSONResponse({"error": what}, status)

    def refused_by_guard(scope, refusal):
        first = refusal.problems[0]
        return refused(f"{first.where}: {first.what}. {first.how}", refusal.status)

    app.add_exception_handler(Refusal, lambda request, error: refused_by_guard(request, error))
    app.add_middleware(Guard, hosts=hosts, refused=refused_by_guard)
    return app
