"""deploy/label_studio: what Label Studio asks and how it is answered, and the script; answers go to test_answers.py."""

import base64

import pytest

for package in ("fastapi", "fastapi_offline", "httptools", "httpx", "prometheus_client"):
    pytest.importorskip(package)

# ruff: noqa: E402
import httpx

from deploy.label_studio import backend
from hierarchical.annotation import import_files
from hierarchical.ledger import Decision as Answer
from hierarchical.ledger import Ledger, id_of
from utils import InputError, LabelTree, run

from tests.deploy.label_studio.conftest import CONFIG, TREE, lines  # isort: skip
from tests.deploy.label_studio.messages import annotation, choices, predict, setup, task, taxonomy, webhook  # isort: skip
from tests.deploy.simple_serving.conftest import KEY, Running, problem  # isort: skip

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
