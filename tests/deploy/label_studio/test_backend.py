"""deploy/label_studio: what Label Studio asks and how it is answered, and its annotators' answers in the ledger."""

import asyncio
import base64
import json
import time
from functools import lru_cache, partial
from types import SimpleNamespace

import numpy as np
import pytest

for package in ("fastapi", "fastapi_offline", "httptools", "httpx", "prometheus_client"):
    pytest.importorskip(package)

# ruff: noqa: E402
import httpx

from analysis.merging import merge_answers, read_whole
from deploy.label_studio import backend
from deploy.label_studio.routes import add_routes
from deploy.simple_serving.app import make_app
from deploy.simple_serving.bodies import Refusal
from deploy.simple_serving.guard import Hosts
from deploy.simple_serving.keys import Keys
from deploy.simple_serving.model import Model
from deploy.simple_serving.service import Service
from hierarchical.annotation import import_files
from hierarchical.decisions import Decision
from hierarchical.ledger import Decision as Answer
from hierarchical.ledger import Ledger, id_of
from hierarchical.long_texts import CUT
from utils import InputError, LabelTree, run

from tests.deploy.label_studio.messages import MADE, annotation, choices, predict, setup, task, taxonomy, webhook  # isort: skip
from tests.deploy.simple_serving.conftest import KEY, Running, problem  # isort: skip

TREE = LabelTree(["财经", "财经##股市", "体育", "体育##胜负"])
CONFIG = "".join(import_files([], [], TREE)["label_studio_config.xml"][1])
SAYS = {
    "股市大涨": [0.98, 0.9, 0.02, 0.01],
    "主场获胜": [0.3, 0.1, 0.9, 0.6],
    "无人知晓": [0.1, 0.2, 0.1, 0.1],
    "大涨可疑": [0.98, 0.9, 0.02, 0.01],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A data folder that all tests add answers to, each about texts of its own."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "label.txt").write_text("\n".join(TREE.labels), encoding="utf-8")
    (folder / "train.txt").write_text("股市大涨\t体育\n主场获胜\t体育,体育##胜负\n", encoding="utf-8")
    return folder


class Asked:
    """The app of a server, asked in this process: without a socket, and in a loop that runs while it is."""

    def __init__(self, service, app):
        self.loop, self.service = asyncio.new_event_loop(), service
        self.client = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1")

        async def start():
            service.start()

        self.loop.run_until_complete(start())

    def get(self, path):
        return self.loop.run_until_complete(self.client.get(path))

    def post(self, path, **more):
        return self.loop.run_until_complete(self.client.post(path, **more))

    def close(self):
        self.service.stop()
        self.loop.run_until_complete(self.client.aclose())
        self.loop.close()


@pytest.fixture(scope="module")
def client(folder):
    """client(*flags): asks the back end of a model that knows the texts above; the same one for the same flags."""

    def score(ids, texts):
        return np.array([SAYS.get(text, [0] * len(TREE)) for text in texts], np.float32)

    def load():
        tokenizer = SimpleNamespace(
            max_seq_length=8, long_text=CUT, windows=False, encode=lambda texts: [[1] * len(text) for text in texts]
        )
        return Model(folder, {}, TREE, tokenizer, Decision(), score, version="v1")

    @lru_cache
    def client(*flags, directory=folder, control=None, trainer=None):
        args = backend.parse_args(["--model_path", "unused", "--num_threads", "1", *flags])
        args.split = args.shadow = None
        service = Service(args, {"default": load}, Keys(args.keys_file, args.api_key_file))
        more = {"directory": directory, "control": control, "trainer": trainer}
        app = make_app(service, Hosts(args.host), add_routes=partial(add_routes, **more))
        opened.append(Asked(service, app))
        return opened[-1]

    opened = []
    yield client
    for one in opened:
        one.close()


@pytest.fixture
def submit(client):
    """submit(action, ...): what /webhook answers to such a message."""
    return lambda action, config=CONFIG, **more: client().post("/webhook", json=webhook(action, config, **more))


def lines(folder, *texts):
    """What stands in the ledger about these texts."""
    path, ids = folder / "ledger.jsonl", set(map(id_of, texts))
    found = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return [line for line in map(json.loads, found) if line["id"] in ids]


# ---- proposals -------------------------------------------------------------------------------------------------------


def test_what_label_studio_asks_before_anything_else(client):
    asked = client()
    assert asked.get("/health").status_code == 200
    assert asked.post("/setup", json=setup(CONFIG)).raise_for_status().json() == {"model_version": "v1"}
    assert asked.get("/versions?project=3.1793609531").json() == {"versions": ["v1"]}
    schemas = asked.get("/openapi.json").json()
    assert {"/setup", "/predict", "/webhook", "/v1/classify"} <= schemas["paths"].keys()
    assert schemas["components"]["schemas"]["SetupBody"]["required"] == ["schema"]


def test_proposals_are_as_annotators_would_choose_and_scored_by_certainty(client):
    tasks = [task(41, "股市大涨"), task(42, "主场获胜"), task(43, "无人知晓"), task(44, "  ")]
    answer = client().post("/predict", json=predict(CONFIG, *tasks)).raise_for_status().json()
    assert answer["model_version"] == "v1"
    assert answer["results"] == [
        {"model_version": "v1", "score": 0.9, "result": taxonomy(("财经", "股市"))},
        {"model_version": "v1", "score": 0.6, "result": taxonomy(("体育", "胜负"))},
        {"model_version": "v1", "score": 0.0, "result": []},
        {"model_version": "v1", "score": 0.0, "result": []},
    ]
    assert client().post("/predict", json=predict(CONFIG)).json()["results"] == []


def test_another_control_and_another_field(client):
    options = "".join(f'<Choice value="{label}"/>' for label in TREE.labels)
    config = f'<View><Text name="text" value="$news"/><Choices name="topic" toName="text">{options}</Choices></View>'
    asked = client()
    (one,) = asked.post("/predict", json=predict(config, task(41, "股市大涨", field="news"))).json()["results"]
    assert one["result"] == choices("财经##股市", control="topic")
    assert problem(client(control="label").post("/setup", json=setup(config)))["what"].endswith("see --label_control.")


def test_the_labels_that_a_row_has_are_a_second_prediction(client, folder):
    Ledger(folder).add([Answer(id_of("大涨可疑"), "asked", before=("体育",), via="dirty.py", model={"财经": 0.98})])
    asked, known = client(), task(41, "大涨可疑")

    def results(one, **more):
        return asked.post("/predict", json=predict(CONFIG, one, **more)).json()["results"]

    proposed = {"model_version": "v1", "score": 0.9, "result": taxonomy(("财经", "股市"))}
    given = {"model_version": "data", "result": taxonomy(("体育",))}
    assert results(known) == [[proposed, given]]
    assert results(task(41, "大涨也可疑", row_id=id_of("大涨可疑")))[0][1] == given, "an edited text has its row's id"
    assert results(task(42, "主场获胜"))[0]["score"] == 0.6, "nobody was asked about it"
    assert results(known, context={"result": []}) == [proposed], "whoever annotates and waits gets one"
    assert results(task(41, "大涨可疑", predictions=[{"model_version": "data", "result": []}])) == [proposed]


def test_a_damaged_ledger_stops_no_proposals(client, tmp_path, capfd):
    asked = client(directory=tmp_path)
    (tmp_path / "ledger.jsonl").write_text('{"id": "x"}\n', encoding="utf-8")
    answer = asked.post("/predict", json=predict(CONFIG, task(41, "股市大涨"))).raise_for_status().json()
    assert answer["results"][0]["score"] == 0.9 and "ledger.jsonl:1: no decision" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("body", "status", "where", "what"),
    [
        ({"label_config": CONFIG}, 422, "body.tasks", "Field required"),
        (predict("<View/>", task(41, "一")), 422, "body.label_config", "neither a Choices nor a Taxonomy"),
        (
            predict(CONFIG, task(41, "一"), task(42, "二", field="other")),
            422,
            "body.tasks[1]",
            'no text in its field "text"',
        ),
        (predict(CONFIG, task(41, 5)), 422, "body.tasks[0]", 'no text in its field "text"'),
        (predict(CONFIG, task(41, "一" * 11)), 413, "body.tasks[0]", "11 characters"),
        (predict(CONFIG, *[task(k, "一") for k in range(4)]), 413, "body.tasks", "4 texts"),
    ],
)
def test_refused_tasks(client, body, status, where, what):
    refused = client("--max_texts", "3", "--max_chars", "10").post("/predict", json=body)
    assert refused.status_code == status and problem(refused)["where"] == where and what in problem(refused)["what"]


def test_a_key_comes_as_the_password_of_basic_authentication(client, tmp_path):
    (tmp_path / "key.txt").write_text(KEY)
    asked = client("--api_key_file", str(tmp_path / "key.txt"))
    assert problem(asked.post("/setup", json=setup(CONFIG)))["what"] == "the key is missing or wrong"
    for password, status in ((KEY, 200), ("wrong", 401), ("", 401)):
        packed = base64.b64encode(f"studio:{password}".encode()).decode()
        assert (
            asked.post("/setup", json=setup(CONFIG), headers={"Authorization": f"Basic {packed}"}).status_code == status
        )
    assert asked.post("/setup", json=setup(CONFIG), headers={"Authorization": "Basic ü".encode()}).status_code == 401
    assert asked.post("/setup", json=setup(CONFIG), headers={"X-API-Key": KEY}).status_code == 200


# ---- answers ---------------------------------------------------------------------------------------------------------


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


# ---- the script ------------------------------------------------------------------------------------------------------


def test_a_folder_with_other_labels(client, tmp_path):
    (tmp_path / "label.txt").write_text("月亮\n", encoding="utf-8")
    with pytest.raises(InputError, match="label.txt: its labels are not those of the model"):
        client(directory=tmp_path)


def test_a_folder_that_is_not_there(tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        run(lambda: backend.main(["--model_path", str(tmp_path), "--dataset_dir", str(tmp_path / "none")]))
    assert ended.value.code == 2 and "none" in capsys.readouterr().err


@pytest.mark.slow
def test_the_script_as_it_is_typed(tiny_export, tmp_path):
    (tmp_path / "label.txt").write_bytes((tiny_export / "label.txt").read_bytes())
    tree = LabelTree.read(tmp_path / "label.txt")
    config = "".join(import_files([], [], tree)["label_studio_config.xml"][1])
    flags = ["--model_path", tiny_export, "--dataset_dir", tmp_path]
    one = Running(tmp_path, *flags, change="from deploy.label_studio import backend as server")
    try:
        with httpx.Client(base_url=one.url, timeout=60) as asked:
            version = asked.post("/setup", json=setup(config)).raise_for_status().json()["model_version"]
            (row,) = asked.post("/predict", json=predict(config, task(1, "某公司宣布裁员"))).json()["results"]
            classified = asked.post("/v1/classify", json={"texts": "某公司宣布裁员", "certainty": 0}).json()["results"][
                0
            ]
            message = {"annotation": annotation(5, row["result"]), "task": task(1, "某公司宣布裁员")}
            asked.post("/webhook", json=webhook("ANNOTATION_CREATED", config, **message)).raise_for_status()
        assert row["model_version"] == version and row["score"] == pytest.approx(classified["certainty"], abs=1e-4)
        assert set(lines(tmp_path, "某公司宣布裁员")[0]["after"]) >= set(classified["labels"]) > set()
        assert f"Answers go into {tmp_path / 'ledger.jsonl'}" in one.log()
        assert one.stop() == 0 and "Traceback" not in one.log()
    finally:
        one.process.kill()
        one.process.wait()
