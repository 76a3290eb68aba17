"""What goes in and out of the server: the bodies of requests and answers, and errors that say where, what and how."""

import difflib
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Tag, ValidationError

from hierarchical.decisions import DECODINGS, RULES_TEXT, STOPS, STOPS_TEXT

SHOWN = 20  # problems of a request that are told in full
HOW = {
    "missing": "Add it.",
    "json_invalid": "Send one JSON object in UTF-8, as the examples at /docs show.",
    "too_short": "Send at least one text.",
    "string_unicode": "Send valid UTF-8.",
}


# ---- requests --------------------------------------------------------------------------------------------------------


class Body(BaseModel):
    """Unknown fields are refused, and nothing is converted: "1" is no number, 1 no text."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


def _as_list(value):
    return [value] if isinstance(value, str) else value


def _as_whole(value):
    return int(value) if isinstance(value, float) and value.is_integer() else value  # JSON has one kind of numbers


def _whole(least):
    return Annotated[int, Field(ge=least), BeforeValidator(_as_whole)]  # the limit inside, so that /docs tells it


Texts = Annotated[list[str], BeforeValidator(_as_list, json_schema_input_type=str | list[str]), Field(min_length=1)]
Share = Annotated[float, Field(ge=0, le=1)]
Thresholds = Annotated[
    Annotated[Share, Tag("a number")] | Annotated[list[Share], Tag("a list")],  # no names, so errors do not tell them
    Discriminator(lambda value: "a list" if isinstance(value, list) else "a number"),
]


Named = Annotated[str | None, Field(max_length=64)]


class ClassifyBody(Body):
    texts: Texts = Field(description="one text or a list; a blank one gets no labels", examples=[["国足今晚出战"]])
    threshold: Thresholds | None = Field(
        None, description="a label needs a probability above this; a list has one per level, or one per label"
    )
    decoding: Literal[DECODINGS] | None = Field(None, description=RULES_TEXT)
    min_labels: _whole(0) | None = Field(None, description="at least this many labels for every text")
    max_labels: _whole(1) | None = Field(None, description="at most this many labels for every text")
    top_k: _whole(1) | None = Field(None, description="exactly this many labels, whatever the threshold")
    per_level: _whole(0) | None = Field(
        None, description="this many labels of every level, below those of the level above; 0: off"
    )
    stop: Literal[tuple(STOPS)] | None = Field(
        None, description=f"where a path, or what per_level chooses, ends; {STOPS_TEXT}"
    )
    floor: Share = Field(0.01, description="tell the probabilities of labels above this")
    certainty: Share | None = Field(None, description="tell how certain the labels are, and whether it is this much")
    model: Named = Field(None, description="one of /v1/models; left out: the default")


class ExplainBody(Body):
    text: str = Field(min_length=1, description="the text to explain", examples=["国足今晚出战"])
    labels: list[str] | None = Field(
        None, min_length=1, max_length=100, description="full paths; left out: the predicted labels"
    )
    model: Named = Field(None, description="one of /v1/models; left out: the default")


class ReferenceData(Body):
    text: Texts = Field(description="one text or a list", examples=[["国足今晚出战"]])


class ReferenceParameters(Body):
    max_seq_len: _whole(3) | None = Field(None, description="tokens of a text that are read; left out: as in training")
    batch_size: _whole(1) | None = Field(None, description="texts per model call, at most")
    prob_limit: Share | None = Field(None, description="a label needs a probability above this")


class ReferenceBody(Body):
    data: ReferenceData
    parameters: ReferenceParameters = ReferenceParameters()


# ---- answers ---------------------------------------------------------------------------------------------------------


class Result(BaseModel):
    text: str
    labels: list[str] = Field(description="full paths of the predicted labels, in class-index order")
    probabilities: dict[str, float] = Field(description="of all labels above `floor`, highest first")
    levels: dict[str, list[str]] = Field(description="level -> the predicted labels there, ancestors included")
    certainty: float | None = Field(None, description="of all labels; only where a certainty is asked for")
    sure: bool | None = Field(None, description="whether that is as much as is asked for")
    unseen: list[str] | None = Field(
        None, description="those of the labels that are new, known by their words alone; only where --unseen names some"
    )


class ClassifyAnswer(BaseModel):
    results: list[Result] = Field(description="one for each text, in the same order")


class LabelEvidence(BaseModel):
    label: str
    probability: float
    falls: list[float] = Field(description="for each word: by how much the probability falls without it")


class ExplainAnswer(BaseModel):
    text: str
    read: int = Field(description="the model reads this many characters of the text")
    words: list[tuple[int, int]] = Field(description="first character, character after the last")
    labels: list[LabelEvidence]


class ReferenceResult(BaseModel):
    label: list[list[int]] = Field(description="class indices: line numbers of label.txt, counted from 0")
    confidence: list[list[float]] = Field(description="their probabilities")


class ReferenceAnswer(BaseModel):
    result: ReferenceResult


class State(BaseModel):
    status: str
    model: str = Field(description="the file that is loaded; with its folder for whoever may reload it")
    version: str = Field(description="tells one set of numbers from another")
    labels: int
    max_seq_length: int
    loaded: str = Field(description="when, in UTC")


class ModelState(BaseModel):
    name: str
    default: bool = Field(description="it answers requests that name none")
    loaded: bool
    version: str | None = Field(None, description="tells one set of numbers from another")
    labels: int | None = None
    unseen: int | None = Field(None, description="of these, the new ones, known by their words alone")
    max_seq_length: int | None = None
    since: str | None = Field(None, description="when it was loaded, in UTC")
    memory_bytes: int | None = Field(None, description="by which the process grew when it was loaded")


class ModelsAnswer(BaseModel):
    models: list[ModelState]


# ---- errors ----------------------------------------------------------------------------------------------------------


class Problem(BaseModel):
    where: str
    what: str
    how: str


class ErrorAnswer(BaseModel):
    error: str
    problems: list[Problem]


class Refusal(Exception):
    """A request that gets no answer: the status, and what was wrong where and how to mend it.

    reason: the word by which /metrics and the access log tell it, where the status does not say enough.
    """

    def __init__(self, status, where, what, how, headers=None, reason=""):
        super().__init__(what)
        self.status, self.problems, self.headers = status, [Problem(where=where, what=what, how=how)], headers
        self.reason = reason


def parse(body_class, content):
    """An object of `body_class` from the bytes of a request. Raises Refusal with every problem in it."""
    try:
        return body_class.model_validate_json(content)
    except ValidationError as error:
        faults = error.errors(include_url=False, include_input=False, include_context=False)
    broken = faults[0]["type"] == "json_invalid"
    refusal = Refusal(400 if broken else 422, "", "", "")
    refusal.problems = [_problem(body_class, fault) for fault in faults[:SHOWN]]
    if len(faults) > SHOWN:
        more = f"{len(faults) - SHOWN} more like these"
        refusal.problems.append(Problem(where="body", what=more, how="Correct the first ones."))
    raise refusal


def _problem(body_class, fault):
    location = [part for part in fault["loc"] if isinstance(part, int) or part.isidentifier()]
    where = "body" + "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location)
    what, how = fault["msg"], HOW.get(fault["type"], "Correct it; /docs describes every field.")
    if fault["type"] == "extra_forbidden":
        *parents, name = map(str, fault["loc"])
        known = list(_fields(body_class, parents))
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
        where, what = f"{'.'.join(['body', *parents])}.{name[:60]}", "unknown field"
        how = f"Did you mean {near[0]!r}?" if near else f"Known are: {', '.join(known)}."
    return Problem(where=where, what=what, how=how)


def _fields(body_class, parents):
    for parent in parents:
        body_class = body_class.model_fields[parent].annotation
    return body_class.model_fields
