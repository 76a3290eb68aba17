"""What Label Studio asks a model's server: the routes of its ML back end protocol, and their bodies.

It sends more fields than are read here, and a later version may send others: they are passed over.
"""

import asyncio
import json
from functools import lru_cache, partial
from typing import Any
from urllib.parse import urlsplit

from fastapi import Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field

from deploy.label_studio.answers import Answers, NotKept
from deploy.label_studio.projects import Project
from deploy.simple_serving.bodies import Refusal
from deploy.simple_serving.model import Work
from hierarchical.console import get_logger
from hierarchical.errors import InputError
from hierarchical.labelled import Labelled

SUBMITTED = ("ANNOTATION_CREATED", "ANNOTATIONS_CREATED", "ANNOTATION_UPDATED")
DELETED, TRAIN = "ANNOTATIONS_DELETED", "START_TRAINING"
STATUSES = 400, 401, 403, 408, 413, 415, 422, 429, 503


class Sent(BaseModel):
    model_config = ConfigDict(strict=True)


class SetupBody(Sent):
    label_config: str = Field(alias="schema", description="the XML of the project's labelling interface")


class SetupAnswer(BaseModel):
    model_version: str


class PredictBody(Sent):
    tasks: list[dict[str, Any]] = Field(description='each with its text in "data"')
    label_config: str = Field(description="the XML of the project's labelling interface")
    params: dict[str, Any] | None = None


class PredictAnswer(BaseModel):
    results: list[Any] = Field(description="for each task a prediction; or two, if the labels it had are known")
    model_version: str


class WebhookBody(Sent):
    action: str = Field(description=f"{', '.join(SUBMITTED)} and {DELETED} are heeded, others passed over")
    annotation: dict[str, Any] | list[dict[str, Any]] | None = None
    task: dict[str, Any] | list[dict[str, Any]] | None = None
    annotations: list[dict[str, Any]] | None = Field(None, description="those that were deleted, with their ids")
    project: dict[str, Any] | None = Field(None, description="with the XML of its interface in label_config")


class WebhookAnswer(BaseModel):
    answers: int = Field(description="lines that were added to the ledger")


class TrainAnswer(BaseModel):
    answers: int = Field(description="how many the ledger has")


class VersionsAnswer(BaseModel):
    versions: list[str]


def add_routes(app, service, post, directory=None, control=None, trainer=None):
    """Give the server's app these routes.

    directory: the data folder that answers go into, None: they are not kept; control: as --label_control names it;
    trainer: a training.Trainer, None: the server trains nothing
    """
    answers = Answers(directory, service.model.tree) if directory else None

    async def reload():
        try:
            await service.changes.reload()
        except Refusal as refusal:
            raise InputError(str(refusal)) from None

    if trainer:
        service.tasks.append(partial(trainer.run, reload))
    writing, told = asyncio.Lock(), set()

    @post("/setup", SetupBody, SetupAnswer, *STATUSES)
    async def setup(request: Request):
        """Whether labels can be given in a project, and the version of the model."""
        body = await service.read(request, SetupBody)
        model = service.find(None)
        project = project_of(body.label_config, model, control, "body.schema")
        if project.missing and hash(body.label_config) not in told:
            told.add(hash(body.label_config))
            get_logger().warning(
                f"A project's control {project.control!r} lacks {len(project.missing)} labels of the model, such as "
                f"{project.missing[0]!r}; those above them are proposed in their place"
            )
        return JSONResponse({"model_version": model.version})

    @post("/predict", PredictBody, PredictAnswer, *STATUSES)
    async def predict(request: Request):
        """Labels for tasks, as annotators would choose them; the score is how certain the model is."""
        body = await service.read(request, PredictBody)
        model = service.find(None)
        project = project_of(body.label_config, model, control, "body.label_config")
        texts = [text_of(project, task, i) for i, task in enumerate(body.tasks)]
        service.check_texts(texts, "tasks")
        works = [Work(text.strip(), model.max_seq_length, partial(proposal, project), model.decision) for text in texts]
        results = await service.answers(request, model, works) if works else []
        if answers and not (body.params or {}).get("context"):  # with it somebody waits, and one is wanted
            try:
                async with writing:
                    given = await asyncio.to_thread(answers.given, project, body.tasks)
                results = [[one, *others] if others else one for one, others in zip(results, given)]
            except InputError as error:  # a line that somebody has edited; proposals do without
                get_logger().error(f"The labels that rows had are not shown: {error}")
        content = json.dumps({"results": results, "model_version": model.version}, ensure_ascii=False)
        return Response(content, media_type="application/json")

    @post("/webhook", WebhookBody, WebhookAnswer, *STATUSES, 409)
    async def webhook(request: Request):
        """Something has happened in Label Studio; what annotators have answered goes into the ledger."""
        refuse_pages(request)
        body = await service.read(request, WebhookBody)
        if body.action == TRAIN:
            start_training(trainer)
        if body.action not in (*SUBMITTED, DELETED):
            return JSONResponse({"answers": 0})
        if not answers:
            how = "Start the server with --dataset_dir, the folder whose ledger.jsonl answers go into."
            raise Refusal(409, "server", "answers are kept nowhere", how)
        try:
            if body.action == DELETED:
                work = partial(answers.take_back, [one.get("id") for one in body.annotations or ()], source_of(body))
            else:
                label_config = (body.project or {}).get("label_config")
                project = project_of(label_config, service.find(None), control, "body.project.label_config")
                work = partial(answers.add, project, pairs_of(body), source_of(body))
            async with writing:
                new = await asyncio.to_thread(work)
        except InputError as error:
            get_logger().error(f"An answer was not kept: {error}")
            raise Refusal(422, "body", str(error), "Correct it in Label Studio, and update the annotation.") from None
        except NotKept as error:
            get_logger().error(f"An answer was not kept: {error}")
            how = "The server's log tells why; when that is mended, update the annotation in Label Studio."
            raise Refusal(503, "server", "the ledger is out of reach", how, {"Retry-After": "5"}, "ledger") from None
        if trainer:
            trainer.look()
        return JSONResponse({"answers": new})

    @post("/train", None, TrainAnswer, *STATUSES, 409)
    async def train(request: Request):
        """Train now, without waiting for more answers; refused by a server that does not train."""
        refuse_pages(request)
        service.admit(request, "classify")
        start_training(trainer)
        return JSONResponse({"answers": trainer.known})

    @app.get("/versions")
    async def versions(request: Request) -> VersionsAnswer:
        """The versions of the model, of which there is one."""
        service.admit(request, "classify")
        return VersionsAnswer(versions=[service.find(None).version])


def project_of(label_config, model, control, where):
    """The Project of an interface. Raises Refusal, 422, for one that no labels can be given in."""
    if not isinstance(label_config, str):
        raise Refusal(422, where, "missing", "Let the webhook send its payload.")
    try:
        return read_project(label_config, model.tree, control)
    except InputError as error:
        get_logger().error(f"A project cannot be answered: {error}")
        raise Refusal(422, where, str(error), "Change it in the project's settings, Labeling Interface.") from None


@lru_cache(maxsize=2)  # one interface is asked about again and again, and 10,000 choices take their time
def read_project(label_config, tree, control):
    return Project.read(label_config, tree, control)


def text_of(project, task, i):
    try:
        return project.text_of(task)
    except ValueError as error:
        how = "The field is the one that the labelling interface shows."
        raise Refusal(422, f"body.tasks[{i}]", str(error), how) from None


def proposal(project, work, model, probabilities):
    """The prediction for a text; of one without labels the score is 0, so that it comes first."""
    labels = model.decide(probabilities, work.decision) if work.text else []
    score = round(Labelled.one(work.text, labels, probabilities).certainties()[0].item(), 4)
    return {"model_version": model.version, "score": score, "result": project.result(labels, probabilities)}


def refuse_pages(request):
    """Raise Refusal, 403, for a page of another address in somebody's browser: else any could write answers here."""
    origin = request.headers.get("origin")
    if origin is not None and urlsplit(origin).netloc != request.headers.get("host"):
        how = "Answers come from Label Studio's own process, which sends no Origin."
        raise Refusal(403, "header Origin", "a page of another address", how)


def pairs_of(body):
    """[(where, {"task", "annotation"})] of a message about one annotation, or several."""
    annotations, tasks = ([one] if isinstance(one, dict) else one or [] for one in (body.annotation, body.task))
    if len(annotations) != len(tasks) or not tasks:
        how = "Label Studio sends an annotation with its task; let the webhook send its payload."
        raise Refusal(422, "body", f"{len(annotations)} annotations with {len(tasks)} tasks", how)
    return [  # of the task its data alone: what else was said of it is none of this message's answers
        (f"body.annotation[{i}]", {"task": {"data": task.get("data")}, "annotation": annotation})
        for i, (task, annotation) in enumerate(zip(tasks, annotations))
    ]


def source_of(body):
    """What annotations are numbered in: the project's number, and when it was made, which tells installations apart."""
    project = body.project or {}
    return f"Label Studio, project {project.get('id')} of {project.get('created_at')}"


def start_training(trainer):
    """Let the trainer begin. Raises Refusal, 409, if there is none."""
    if not trainer:
        how = "Start the server with --train_after, or train with analysis/improve.py, export, and send it SIGHUP."
        raise Refusal(409, "server", "it trains nothing", how)
    trainer.look(now=True)
