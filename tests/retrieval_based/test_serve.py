"""retrieval_based/serve.py: real servers on free ports, asked by httpx, beside what retrieval_based/predict.py writes."""

import json
import os
import shutil
import subprocess
import sys
from types import ModuleType

import pytest

for package in ("fastapi", "fastapi_offline", "httptools", "httpx", "prometheus_client"):
    pytest.importorskip(package)

# ruff: noqa: E402
import httpx

from retrieval_based import build_index, export_model, predict, serve
from tests.conftest import ROOT
from tests.deploy.simple_serving.conftest import Running, figures, in_background, problem, wait_until
from tests.retrieval_based.conftest import LABELS, call, fails

pytestmark = pytest.mark.slow

# The launcher of a server ends with server.main().
SERVE = "from retrieval_based import serve; server.main = serve.main; "
NOTE_PADDLE = (
    "import atexit; atexit.register(lambda: print('LOADED', {'paddle', 'paddlenlp', 'tokenizers', 'torch'} "
    "& set(sys.modules), file=sys.stderr))"
)


@pytest.fixture
def index(use, tmp_path):
    """An index of the labels the encoder was trained with."""
    call(build_index, *use, "--index_dir", tmp_path / "index")
    return tmp_path / "index"


@pytest.fixture(scope="module")
def export(trained, tmp_path_factory):
    """The trained encoder as an export."""
    out = tmp_path_factory.mktemp("export")
    call(export_model, "--params_path", trained[1] / "model_best", "--output_path", out)
    return out


@pytest.fixture
def start(tmp_path):
    """start(*flags, change=...): a server, which is killed after the test."""
    running = []

    def start(*flags, change=""):
        running.append(Running(tmp_path, *flags, change=SERVE + change))
        return running[-1]

    yield start
    for one in running:
        one.process.kill()
        one.process.wait()


@pytest.fixture
def predicted(trained, use, index, tmp_path):
    """predicted(threshold=0.3): the rows that predict.py writes for the index and data.txt, with flags of such names."""

    def predicted(**settings):
        flags = [
            *use,
            "--index_dir",
            index,
            "--dataset_dir",
            trained[0],
            "--output_file",
            tmp_path / "predictions.jsonl",
        ]
        call(predict, *flags, *(word for name, value in settings.items() for word in (f"--{name}", value)))
        return [json.loads(line) for line in (tmp_path / "predictions.jsonl").read_text("utf-8").splitlines()]

    return predicted


def same(rows, expected):
    """Whether rows are equal but for rounding errors of their similarities."""
    for row, other in zip(rows, expected, strict=True):
        assert row["probabilities"] == pytest.approx(other["probabilities"], abs=1e-4)
        assert [row[key] for key in ("text", "labels", "levels")] == [
            other[key] for key in ("text", "labels", "levels")
        ]
    return True


@pytest.mark.parametrize("kind", ["checkpoint", "export"])
def test_answers_are_those_of_predict(start, trained, use, export, index, predicted, kind):
    model = use if kind == "checkpoint" else ["--params_path", export]
    one = start("--index_dir", index, *model, change=NOTE_PADDLE)
    texts = (trained[0] / "data.txt").read_text("utf-8").split("\n")[:3]
    assert texts[1] == ""  # has no labels, and keeps its place
    with httpx.Client(base_url=one.url, timeout=60) as client:

        def ask(texts, **settings):
            return client.post("/v1/classify", json={"texts": texts, **settings}).raise_for_status().json()["results"]

        assert same(ask(texts), predicted())
        settings = {"threshold": 0.999, "min_labels": 2, "floor": 0}
        assert same(ask(texts, **settings), predicted(**settings))
        # the text that a label is encoded as lies exactly where the label does
        (row,) = ask("体育,足球", top_k=1, decoding="raw")
        assert row["labels"] == ["体育##足球"] and row["probabilities"]["体育##足球"] == pytest.approx(1, abs=1e-5)
        assert {"体育", "体育##足球"} <= set(ask("体育,足球")[0]["labels"])
        body = {"data": {"text": "体育,足球"}, "parameters": {"prob_limit": 0.9999}}
        answer = client.post("/models/cls_hierarchical", json=body).raise_for_status().json()["result"]
        assert answer["label"] == [[0, 1]]  # a label brings its ancestor, as stored with the encoder
        assert answer["confidence"][0] == pytest.approx([0, 1], abs=1e-5)
        found = (
            client.post("/v1/explain", json={"text": "体育,足球", "labels": ["体育##足球"]}).raise_for_status().json()
        )
        assert found["labels"][0]["probability"] == pytest.approx(1, abs=1e-5) and min(found["labels"][0]["falls"]) >= 0
        state = client.get("/health").raise_for_status().json()
        assert (state["model"], state["labels"], state["max_seq_length"]) == ("index.json", 5, 32)
        assert problem(client.post("/v1/classify", json={"texts": []}))["where"] == "body.texts"
        assert client.get("/ready").status_code == client.get("/").status_code == client.get("/docs").status_code == 200
    assert one.stop() == 0
    assert ("LOADED set()" in one.log()) == (kind == "export") and "Traceback" not in one.log()


def test_checkpoints_take_turns_during_a_reload_too(use, export, index, monkeypatch):
    """Every model that one server loads computes under the same lock, if it is a checkpoint."""
    turns, locks = [], []

    class Turn:
        def __enter__(self):
            turns.append("taken")

        def __exit__(self, *_):
            turns.append("given")

    def load_twice(args, loads):
        for _ in range(2):
            loads["default"]().score([[1, 2]], ["文"])

    monkeypatch.setattr(serve, "Lock", lambda: locks.append(Turn()) or locks[-1])
    monkeypatch.setattr(serve, "serve", load_twice)
    call(serve, *use, "--index_dir", index)
    assert len(locks) == 1 and turns == ["taken", "given"] * 4  # a model also answers once when it is loaded
    turns.clear()
    call(serve, "--params_path", export, "--index_dir", index)
    assert turns == []


def test_rows_vote(start, trained, use, export, tmp_path):
    rows = ["--train_set_file", trained[0] / "train.txt"]
    call(build_index, *use, "--index_dir", tmp_path / "rows", *rows)
    one = start("--index_dir", tmp_path / "rows", "--params_path", export, "--recall_num", 1)
    (row,) = httpx.post(f"{one.url}/v1/classify", json={"texts": "三分绝杀对手第1期"}, timeout=60).json()["results"]
    assert row["labels"] == ["体育", "体育##篮球"]  # those of the only row that is asked, which is the text itself
    assert row["probabilities"] == {"体育##篮球": 1, "体育": 0}


def test_a_new_label_is_taken_up_and_no_request_is_lost(start, use, export, index, tmp_path):
    one = start("--index_dir", index, "--params_path", export, change="service.RETRY_SECONDS = 0.2")
    going, statuses, counts = True, set(), set()

    def ask():
        with httpx.Client(base_url=one.url, timeout=60) as client:
            while going:
                response = client.post("/v1/classify", json={"texts": ["财经,基金"] * 3, "threshold": 0.9999})
                statuses.add(response.status_code)
                counts.add(tuple("财经##基金" in row["labels"] for row in response.json()["results"]))

    (tmp_path / "label.txt").write_text(f"{LABELS}财经##基金\n", encoding="utf-8")
    askers = [in_background(ask) for _ in range(3)]
    try:
        with httpx.Client(base_url=one.url, timeout=60) as client:
            wait_until(lambda: counts == {(False,) * 3})
            new = {"text": "财经,基金", "labels": ["财经##基金"]}
            assert problem(client.post("/v1/explain", json=new))["what"] == "unknown label"
            call(build_index, *use, "--index_dir", index, "--corpus_file", tmp_path / "label.txt", "--add")
            wait_until(lambda: client.get("/health").json()["labels"] == 6)
            found = client.post("/v1/explain", json=new).raise_for_status().json()["labels"]
            assert found[0]["probability"] == pytest.approx(1, abs=1e-5)
            wait_until(lambda: (True,) * 3 in counts)
            assert figures(client)['model_reloads_total{outcome="done"}'] == 1

            content = (index / "index.json").read_bytes()
            (index / "index.json").write_bytes(content[:20])
            one.wait_for("(Not reloaded, .* stays in service: .*not the description of an index)")
            assert client.get("/health").json()["labels"] == 6
            (index / "index.json").unlink()
            one.wait_for("(Not reloaded, .* stays in service: .*no such file)")
            call(build_index, *use, "--index_dir", index)  # the old labels only
            wait_until(lambda: client.get("/health").json()["labels"] == 5)
    finally:
        going = False
        for asker in askers:
            asker.thread.join()
    assert statuses == {200}
    assert counts == {(False,) * 3, (True,) * 3}, "one answer, two indexes"
    assert one.stop() == 0 and "Traceback" not in one.log()


# ---- what can be wrong at the start ----------------------------------------------------------------------------------


def spoil(index, name, change):
    """Replace the contents of a file of an index."""
    (path,) = index.glob(name)
    path.write_bytes(change(path.read_bytes()))


def test_bad_indexes_are_named(use, export, tiny_checkpoint, index, capsys, tmp_path):
    flags = ["--params_path", export, "--port", 0, "--index_dir"]
    assert "index.json: no such file. Build an index" in fails(serve, capsys, *flags, tmp_path / "no")
    for name, change, message in (
        ("index.json", lambda old: old[:30], "index.json: not the description of an index"),
        ("index.json", lambda old: b"[]", "index.json: not the description of an index"),
        ("vectors-*", lambda old: old[:-8], "not a readable index"),
        ("entries-*", lambda old: old[:-9], "not the entries of an index"),
        ("entries-*", lambda old: "[\"军事\"]\n".encode() + old, "not the entries of an index ('军事')"),
        ("label-*", lambda old: "体育##足球\n".encode(), "体育"),
    ):  # fmt: skip
        copy = shutil.copytree(index, tmp_path / f"copy{len(list(tmp_path.iterdir()))}")
        spoil(copy, name, change)
        assert message in fails(serve, capsys, *flags, copy), name
    other = ["--params_path", tiny_checkpoint, "--port", 0, "--index_dir", index]
    assert "holds a classifier, not an encoder" in fails(serve, capsys, *other)
    spoil(index, "index.json", lambda old: json.dumps(json.loads(old) | {"encoder_id": "other"}).encode())
    assert "made by another encoder" in fails(serve, capsys, *flags, index)


def test_milvus_that_cannot_be_reached(export, index, monkeypatch, capsys):
    def unreachable(uri, timeout):
        raise RuntimeError(f"Fail connecting to server on {uri}")

    milvus = {"uri": "http://127.0.0.1:1", "collection": "labels_1"}
    spoil(index, "index.json", lambda old: json.dumps(json.loads(old) | {"milvus": milvus}).encode())
    package = ModuleType("pymilvus")
    package.MilvusClient = unreachable
    monkeypatch.setitem(sys.modules, "pymilvus", package)
    flags = ["--params_path", export, "--port", 0, "--index_dir", index]
    error = fails(serve, capsys, *flags)
    assert "http://127.0.0.1:1: Fail connecting" in error and "is it running?" in error
    monkeypatch.setitem(sys.modules, "pymilvus", None)
    assert "pip install -r retrieval_based/requirements-milvus.txt" in fails(serve, capsys, *flags)


def test_a_checkpoint_where_paddle_is_missing(use, index, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "paddle", None)
    error = fails(serve, capsys, *use, "--port", 0, "--index_dir", index)
    assert "needs the package paddle" in error and "export_model.py" in error


@pytest.mark.parametrize(
    "flags",
    [[], ["--index_dir", "index", "--recall_num", "0"], ["--index_dir", "index", "--max_seq_length", "2"],
     ["--index_dir", "index", "--port", "70000"]],
)  # fmt: skip
def test_bad_flags(capsys, flags):
    assert "usage:" in fails(serve, capsys, *flags)


def test_exit_code_of_the_script_itself():
    done = subprocess.run(
        [sys.executable, "retrieval_based/serve.py", "--index_dir", "nowhere", "--params_path", "nowhere"],
        cwd=ROOT, capture_output=True, encoding="utf-8", env=os.environ | {"PYTHONIOENCODING": "utf-8"},
    )  # fmt: skip
    assert done.returncode == 2 and "nowhere" in done.stderr and "Traceback" not in done.stderr
