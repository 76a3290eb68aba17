"""deploy/label_studio/answers.py: what annotators submit to the server goes into the ledger, and starts trainings."""

import asyncio
import json
import time

import pytest

for package in ("fastapi", "fastapi_offline", "httptools", "httpx", "prometheus_client"):
    pytest.importorskip(package)

# ruff: noqa: E402
from analysis.merging import merge_answers, read_whole
from deploy.simple_serving.bodies import Refusal
from hierarchical.ledger import Decision as Answer
from hierarchical.ledger import Ledger, id_of
from utils import InputError

from tests.deploy.label_studio.conftest import CONFIG, TREE, lines  # isort: skip
from tests.deploy.label_studio.messages import MADE, annotation, choices, predict, setup, task, taxonomy, webhook  # isort: skip
from tests.deploy.simple_serving.conftest import problem  # isort: skip


def test_answers_go_into_the_ledger_and_from_there_into_train(submit, folder):
    message = {"annotation": annotation(5, taxonomy(("财经", "股市"))), "task": task(41, "股市大涨")}
    assert submit("ANNOTATION_CREATED", **message).json() == {"answers": 1}
    wanted = {
        "id": id_of("股市大涨"),
        "answer": "changed",
        "who": "7",
        "after": ["财经", "财经##股市"],
        "text": "股市大涨",
    }
    (line,) = lines(folder, "股市大涨")
    assert {key: line[key] for key in wanted} == wanted and line[
        "via"
    ] == f"Label Studio, project 3 of {MADE}, annotation 5"
    assert submit("ANNOTATION_CREATED", **message).json() == {"answers": 0}, "said again it says nothing new"
    new = {"annotation": annotation(6, taxonomy(("体育", "胜负"))), "task": task(42, "客场\n也赢了 ")}
    assert submit("ANNOTATION_CREATED", **new).json() == {"answers": 1}
    ledger, path = Ledger(folder), folder / "train.txt"
    merged = merge_answers(read_whole(path, TREE), ledger, TREE, path).lines
    assert merged[:2] == ["股市大涨\t财经,财经##股市\n", "主场获胜\t体育,体育##胜负\n"]
    assert "客场 也赢了\t体育,体育##胜负\n" in merged[2:]


def test_an_answer_can_be_changed_skipped_settled_and_deleted(submit, folder):
    def verdict():
        return Ledger(folder).verdict(id_of("改了又改"))

    def send(action, number, labels, **more):
        found = submit(action, annotation=annotation(number, labels, **more), task=task(41, "改了又改"))
        assert found.raise_for_status().json() == {"answers": 1}

    Ledger(folder).add([Answer(id_of("改了又改"), "changed", "7", after=("体育",), via="page")])
    send("ANNOTATION_CREATED", 15, taxonomy(("财经",)))
    send("ANNOTATION_UPDATED", 15, taxonomy(("财经", "股市")))
    assert verdict().labels == ("财经", "财经##股市")
    send("ANNOTATION_CREATED", 16, taxonomy(("体育", "胜负")), who=8)
    assert verdict().state == "disputed"
    send("ANNOTATION_UPDATED", 16, taxonomy(("体育", "胜负")), who=8, ground_truth=True)
    assert verdict().labels == ("体育", "体育##胜负")
    assert submit("ANNOTATIONS_DELETED", annotations=[{"id": 16}]).json() == {"answers": 2}
    assert verdict().labels == ("财经", "财经##股市")
    assert submit("ANNOTATIONS_DELETED", annotations=[{"id": 15}, {"id": 99}]).json() == {"answers": 2}
    assert verdict().labels == ("体育",), "what was said on the page holds again"
    send("ANNOTATION_CREATED", 17, [], who=9, was_cancelled=True)
    assert verdict().labels == ("体育",) and lines(folder, "改了又改")[-1]["answer"] == "skipped"
    send("ANNOTATION_CREATED", 18, [], who=9)
    assert lines(folder, "改了又改")[-1]["after"] == [] and lines(folder, "改了又改")[-1]["who"] == "9", (
        "no label applies"
    )


def test_several_answers_in_a_message(submit, folder):
    annotations = [annotation(5, taxonomy(("财经",))), annotation(6, taxonomy(("体育",)))]
    found = submit("ANNOTATIONS_CREATED", annotation=annotations, task=[task(41, "其一"), task(42, "其二")])
    assert found.json() == {"answers": 2}
    assert [line["after"] for line in lines(folder, "其一", "其二")] == [["财经"], ["体育"]]


def test_other_controls_say_nothing_of_labels(submit, folder):
    config = CONFIG.replace("</View>", '<Choices name="quality" toName="text"><Choice value="good"/></Choices></View>')
    good, box = choices("good", control="quality"), {"from_name": "box", "type": "labels", "value": {"labels": ["x"]}}
    for number, labels, after in ((15, taxonomy(("体育",)), ["体育"]), (16, [], [])):
        message = {"annotation": annotation(number, [*good, box, *labels]), "task": task(41, "两个控件")}
        assert submit("ANNOTATION_CREATED", config, **message).json() == {"answers": 1}
        assert lines(folder, "两个控件")[-1]["after"] == after


def test_pages_of_other_addresses_write_nothing(client, folder):
    """A browser sends such a page's POST of text without asking, to 127.0.0.1 as well; it tells whose page it is."""
    message = webhook("ANNOTATION_CREATED", CONFIG, annotation=annotation(5, []), task=task(41, "别处网页"))
    for origin, status in (("https://a.example", 403), ("null", 403), ("http://127.0.0.1", 200)):
        assert lines(folder, "别处网页") == []
        headers = {"Origin": origin, "Content-Type": "text/plain"}
        found = client().post("/webhook", content=json.dumps(message), headers=headers)
        assert found.status_code == status, found.text
    assert len(lines(folder, "别处网页")) == 1


def test_one_thread_at_a_time_reads_the_ledger(client, monkeypatch):
    at_once, most, refresh = [], [], Ledger.refresh

    def slow(self):
        at_once.append(self)
        most.append(len(at_once))
        time.sleep(0.02)
        at_once.pop()
        refresh(self)

    asked = client()
    asked.post("/setup", json=setup(CONFIG))  # opens the ledger
    monkeypatch.setattr(Ledger, "refresh", slow)
    message = webhook("ANNOTATION_CREATED", CONFIG, annotation=annotation(5, []), task=task(41, "一起来"))
    both = ("/webhook", message), ("/predict", predict(CONFIG, task(41, "股市大涨")))

    async def ask():
        return await asyncio.gather(*(asked.client.post(path, json=body) for path, body in both * 3))

    assert {found.status_code for found in asked.loop.run_until_complete(ask())} == {200}
    assert len(most) > 6 and max(most) == 1


def test_what_is_no_answer_is_passed_over(submit):
    for action in ("PROJECT_UPDATED", "TASKS_CREATED", "LABEL_LINK_UPDATED", "A_NEW_ONE"):
        assert submit(action, tasks=[task(41, "股市大涨")]).json() == {"answers": 0}


@pytest.mark.parametrize(
    ("action", "more", "status", "message"),
    [
        ("ANNOTATION_CREATED", {}, 422, "0 annotations with 0 tasks"),
        ("ANNOTATIONS_CREATED", {"annotation": [annotation(5, []), annotation(6, [])], "task": []}, 422, "2 annotations with 0"),
        ("ANNOTATION_CREATED", {"annotation": annotation(5, taxonomy(("财经", "股"))), "task": task(41, "一")}, 422, "'财经##股' (did you mean '财经##股市'?)"),
        ("ANNOTATION_CREATED", {"annotation": annotation(5, []), "task": task(41, " \n")}, 422, "the text is empty"),
        ("ANNOTATION_CREATED", {"annotation": annotation(5, []), "task": task(41, "一", field="x")}, 422, 'no "text" among'),
        ("ANNOTATION_CREATED", {"annotation": annotation(5, [{"type": "labels"}]), "task": task(41, "一")}, 422, "labels on parts"),
        ("ANNOTATION_CREATED", {"project": {"id": 3}, "annotation": annotation(5, []), "task": task(41, "一")}, 422, "missing"),
        ("START_TRAINING", {}, 409, "it trains nothing"),
    ],
)  # fmt: skip
def test_answers_that_are_not_kept(submit, folder, action, more, status, message):
    refused = submit(action, **more)
    assert refused.status_code == status and message in problem(refused)["what"]
    assert lines(folder, "一", "") == []


def test_an_answer_comes_again_where_the_ledger_is_out_of_reach(client, tmp_path, monkeypatch, printed):
    """It is no fault of the annotation's: a full disk, or a line that somebody has edited."""
    (tmp_path / "label.txt").write_text("\n".join(TREE.labels), encoding="utf-8")
    asked, message = client(directory=tmp_path), {"annotation": annotation(5, []), "task": task(41, "一")}

    def submit(action, **more):
        return asked.post("/webhook", json=webhook(action, CONFIG, **more))

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "_append", full)
        refused = submit("ANNOTATION_CREATED", **message)
    assert refused.status_code == 503 and refused.headers["Retry-After"] == "5"
    assert problem(refused)["what"] == "the ledger is out of reach" and "No space left" in printed[-1]
    assert submit("ANNOTATION_CREATED", **message).json() == {"answers": 1}
    with open(tmp_path / "ledger.jsonl", "a", encoding="utf-8") as file:
        file.write('{"id": "x"}\n')
    assert submit("ANNOTATIONS_DELETED", annotations=[{"id": 5}]).status_code == 503
    assert "ledger.jsonl:2: no decision" in printed[-1]


def test_without_a_data_folder_nothing_is_kept(client):
    message = webhook("ANNOTATION_CREATED", CONFIG, annotation=annotation(5, []), task=task(41, "一"))
    refused = client(directory=None).post("/webhook", json=message)
    assert refused.status_code == 409 and "--dataset_dir" in problem(refused)["how"]
    assert client(directory=None).post("/train", json={}).status_code == 409


class StubTrainer:
    """Notes what is asked of it, after a training of no time."""

    known = 7

    def __init__(self):
        self.looks = []

    async def run(self, reload):
        await reload()
        self.looks.append("loaded")

    def look(self, now=False):
        self.looks.append(now)


def test_answers_and_people_start_a_training(client):
    trainer = StubTrainer()
    asked, looks = client(trainer=trainer), trainer.looks
    older, end = asked.service.model, time.monotonic() + 20
    while not looks:
        assert asked.get("/health").status_code == 200 and time.monotonic() < end
    assert asked.service.model is not older
    message = webhook(
        "ANNOTATION_CREATED", CONFIG, annotation=annotation(95, taxonomy(("体育",))), task=task(95, "训练")
    )
    assert asked.post("/webhook", json=message).json() == {"answers": 1} and looks == ["loaded", False]
    assert asked.post("/webhook", json=webhook("PROJECT_UPDATED", CONFIG)).status_code == 200
    assert asked.post("/webhook", json=webhook("START_TRAINING", CONFIG)).json() == {"answers": 0}
    assert asked.post("/train", json={}).json() == {"answers": 7} and looks == ["loaded", False, True, True]
    elsewhere = {"Origin": "http://elsewhere.example"}
    assert asked.post("/train", json={}, headers=elsewhere).status_code == 403 and len(looks) == 4


def test_a_model_that_cannot_be_loaded_is_told_to_the_trainer(client, monkeypatch):
    told = []

    class Listening(StubTrainer):
        async def run(self, reload):
            try:
                await reload()
            except InputError as error:
                told.append(str(error))

    async def broken(self):
        raise Refusal(409, "model", "config.json: damaged", "Mend the files.")

    monkeypatch.setattr("deploy.simple_serving.changes.Changes.reload", broken)
    asked, end = client(trainer=Listening()), time.monotonic() + 20
    while not told:
        assert asked.get("/health").status_code == 200 and time.monotonic() < end
    assert told == ["config.json: damaged"]
