"""fit_unseen.py, and --unseen of predict.py, evaluate.py, infer.py, Ray and the HTTP server, which all answer alike."""

import json
import shutil

import numpy as np
import pytest

import predict
from analysis import evaluate
from deploy.predictor import infer
from deploy.ray_batch import predict as ray_batch
from deploy.simple_serving import server
from hierarchical import Predictor
from hierarchical.bi_encoder import Encoder, path_text
from hierarchical.client import Client
from hierarchical.unseen import Curve, leaves_of, write_vectors
from retrieval_based import export_model, fit_unseen
from retrieval_based.encoder import texts_of_labels
from tests.conftest import SAMPLE
from tests.deploy.conftest import without_ray
from tests.deploy.simple_serving.conftest import KEY, Running
from tests.retrieval_based.conftest import call, fails
from utils import LabelTree

pytestmark = pytest.mark.slow
TREE = LabelTree.read(SAMPLE / "label.txt")
NOTE_PADDLE = (
    "import atexit; atexit.register(lambda: print('LOADED', {'paddle', 'sklearn'} & set(sys.modules), file=sys.stderr))"
)


def make_curve(folder, **changed):
    """unseen.json and unseen.npy beside an encoder: with these weights new labels are given to some texts."""
    encoder = Encoder(folder)
    encoder.load("cpu")
    digest = write_vectors(folder, TREE, encoder.encode(texts_of_labels(TREE, leaves_of(TREE))))
    about = {"encoder": encoder.id, "classifier": "", "vectors": digest}
    Curve(**{"weights": [0.5, -0.5, -0.01], "bias": 0.3, "threshold": 0.5} | about | changed).write(folder)


@pytest.fixture
def ready(trained, tiny_checkpoint, tmp_path):
    """(flags of predict.py but for --unseen, the encoder's folder with a curve, the folder of data) of the sample data."""
    encoder, data = tmp_path / "encoder", tmp_path / "data"
    shutil.copytree(trained[1] / "model_best", encoder)
    data.mkdir()
    shutil.copy(SAMPLE / "label.txt", data)
    lines = (SAMPLE / "data.txt").read_text("utf-8").splitlines()[:5]
    (data / "data.txt").write_text("\n".join([*lines, ""]) + "\n\n", "utf-8")
    (data / "new.txt").write_text("地理\n地理##山川\n公司动态##登山\n", "utf-8")
    make_curve(encoder)
    flags = ["--dataset_dir", data, "--params_path", tiny_checkpoint, "--unseen_encoder", encoder, "--device", "cpu"]
    return flags, encoder, data


def test_predictions_with_new_labels(ready, printed):
    flags, _, data = ready
    outputs = [data / "plain.jsonl", data / "both.jsonl", data / "both.tsv"]
    call(predict, *flags, "--output_file", outputs[0], "--floor", 0)
    more = ["--unseen", data / "new.txt", "--floor", 0, "--certainty", 0.5]
    for output in outputs[1:]:
        call(predict, *flags, "--output_file", output, *more)
    plain, both = ([json.loads(line) for line in path.read_text("utf-8").splitlines()] for path in outputs[:2])
    given = 0
    for one, other in zip(plain, both, strict=True):
        assert [label for label in other["labels"] if label not in other["unseen"]] == one["labels"]
        known = {label: p for label, p in other["probabilities"].items() if label in one["probabilities"]}
        assert known == one["probabilities"] and "unseen" not in one
        assert other["unseen"] == [label for label in other["labels"] if label.startswith("地理") or "登山" in label]
        given += len(other["unseen"])
    assert 0 < given and both[-1]["labels"] == both[-1]["unseen"] == [], "a blank row has none"
    columns = [line.split("\t") for line in outputs[2].read_text("utf-8").splitlines()]
    assert [(row[1], row[3]) for row in columns] == [(",".join(r["labels"]), ",".join(r["unseen"])) for r in both]
    assert any(line.startswith("(new, by their words alone: ") for line in printed)
    assert f"New labels, by their words alone: in {sum(bool(r['unseen']) for r in both)} of 5 texts" in printed
    (data / "label.txt").write_text((data / "label.txt").read_text("utf-8") + "地理\n", "utf-8")
    call(predict, *flags, *more)  # label.txt may name new labels already


def test_what_predict_refuses(ready, capsys):
    flags, encoder, data = ready
    new = ["--unseen", data / "new.txt"]
    assert "new labels beside the known ones, and --top_k" in fails(predict, capsys, *flags, *new, "--top_k", 2)
    assert "none.txt: no such file" in fails(predict, capsys, *flags, "--unseen", data / "none.txt")
    make_curve(encoder, encoder="0" * 64)
    assert "fitted for another encoder" in fails(predict, capsys, *flags, *new)
    make_curve(encoder)
    (data / "label.txt").write_text("别的\n", "utf-8")
    assert "differs from the labels" in fails(predict, capsys, *flags, *new)


def test_fitting(ready, tiny_checkpoint, printed, capsys):
    _, encoder, data = ready
    for name in ("unseen.json", "unseen.npy"):
        (encoder / name).unlink()
    # Texts that spell a label are nearest to it, whatever the encoder.
    rows = [f"{path_text(TREE.labels[i])}\t{TREE.labels[i]}\n" for i in leaves_of(TREE)] * 4
    flags = ["--dataset_dir", data, "--params_path", encoder, "--classifier", tiny_checkpoint, "--device", "cpu"]
    (data / "dev.txt").write_text("".join(rows[:6]), "utf-8")
    assert "is too little to learn from" in fails(fit_unseen, capsys, *flags)
    assert not (encoder / "unseen.json").exists()
    with pytest.raises(SystemExit):
        fit_unseen.parse_args(["--dataset_dir", "d", "--threshold", "1.5"])
    (data / "dev.txt").write_text("".join(rows), "utf-8")
    call(fit_unseen, *flags, "--threshold", 0.3)
    found = Curve.read(encoder, Encoder(encoder).id, "")
    assert found.threshold == 0.3 and found.weights[0] > 0
    assert any(line.startswith("Known labels, each fifth of them by what the others tell: ") for line in printed)


@pytest.fixture(scope="module")
def output(trained, tmp_path_factory):
    """The export of an encoder with a curve, which it takes along."""
    folder = tmp_path_factory.mktemp("unseen")
    shutil.copytree(trained[1] / "model_best", folder / "encoder")
    make_curve(folder / "encoder")
    call(export_model, "--params_path", folder / "encoder", "--output_path", folder / "output")
    return folder / "output"


@pytest.fixture
def deployed(ready, output, hybrid_checkpoint, hybrid_export, tmp_path):
    """(flags of predict.py, of infer.py and of the server, the folder of data), all with --unseen."""
    _, encoder, data = ready
    shutil.copytree(output, tmp_path / "output")
    new = ["--unseen", data / "new.txt", "--unseen_encoder"]
    of_checkpoint = ["--dataset_dir", data, "--params_path", hybrid_checkpoint, "--device", "cpu", *new, encoder]
    of_export = ["--dataset_dir", data, "--model_path_prefix", hybrid_export / "float32", "--device", "cpu"]
    of_server = ["--model_path", hybrid_export, "--precision", "float32", *new, tmp_path / "output"]
    return of_checkpoint, [*of_export, *new, tmp_path / "output"], of_server, data


def rows_of(path):
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def same(rows, expected):
    """Whether answers are equal, but for rounding errors of probabilities; and some have new labels, others not."""
    for row, other in zip(rows, expected, strict=True):
        assert row["probabilities"] == pytest.approx(other["probabilities"], abs=1e-4)
        assert {**row, "probabilities": 0} == {**other, "probabilities": 0}
    return {bool(row["unseen"]) for row in rows} == {True, False}


def test_the_same_answers_everywhere(deployed, hybrid_export):
    httpx = pytest.importorskip("httpx")
    pytest.importorskip("fastapi")
    checkpoint, export, serving, data = deployed
    decided = ["--floor", 0, "--decoding", "raw"]
    call(predict, *checkpoint, "--output_file", data / "a.jsonl", *decided)
    expected = rows_of(data / "a.jsonl")
    call(infer, *export, "--output_file", data / "b.jsonl", *decided)
    assert same(rows_of(data / "b.jsonl"), expected)
    texts = [row["text"] for row in expected]
    door = Predictor(hybrid_export).with_unseen(data / "new.txt", serving[-1])
    assert same([json.loads(row.to_json()) for row in door.predict(texts, floor=0, decoding="raw")], expected)

    one = Running(data, *serving, change=NOTE_PADDLE, environment={"SERVING_API_KEY": KEY})
    try:
        assert f"({len(TREE) + 3} labels, 3 by their words alone, " in one.log()
        with httpx.Client(base_url=one.url, timeout=60, headers={"X-API-Key": KEY}) as client:

            def ask(**body):
                return client.post("/v1/classify", json={"texts": texts, "floor": 0, "decoding": "raw"} | body)

            assert same(ask().raise_for_status().json()["results"], expected)
            with Client(one.url, key=KEY) as ours:
                found = ours.classify(texts, floor=0, decoding="raw")
                assert [row.unseen for row in found] == [row["unseen"] for row in expected]
            refused = ask(top_k=1)
            assert refused.status_code == 422 and "top_k says how many labels a text has" in refused.text
            body = {"data": {"text": texts}, "parameters": {"prob_limit": 0.01}}
            numbers = client.post("/models/cls_hierarchical", json=body).raise_for_status().json()["result"]["label"]
            assert max(map(max, filter(None, numbers))) < len(TREE), "numbers are those of label.txt"
            body = {"text": texts[0], "labels": ["地理##山川"]}
            (row,) = client.post("/v1/explain", json=body).raise_for_status().json()["labels"]
            assert row["probability"] == pytest.approx(expected[0]["probabilities"]["地理##山川"], abs=1e-4)
            # A label on the day it is new: a line, and a reload; no training, no other command.
            version = client.get("/health").json()["version"]
            with open(data / "new.txt", "a", encoding="utf-8") as file:
                file.write("地理##河流\n")
            assert client.post("/admin/reload").raise_for_status().json()["version"] != version
            (state,) = client.get("/v1/models").json()["models"]
            assert (state["labels"], state["unseen"]) == (len(TREE) + 4, 4)
            assert all("地理##河流" in row["probabilities"] for row in ask().json()["results"] if row["text"])
            (data / "new.txt").write_text("地理##河流\n", "utf-8")
            broken = client.post("/admin/reload")
            assert broken.status_code == 409 and "the parent of '地理##河流' is missing" in broken.text
            assert "地理##河流" in ask().json()["results"][0]["probabilities"], "what was loaded answers on"
        assert one.stop() == 0 and "LOADED set()" in one.log()
    finally:
        one.process.kill()
        one.process.wait()


def test_a_data_lake_with_new_labels(deployed, hybrid_export, printed, capsys, monkeypatch):
    pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    without_ray(monkeypatch)
    _, export, _, data = deployed
    (data / "new_graph.txt").write_text("地理##山川\t公司动态\n", "utf-8")
    described = data / "label_descriptions.jsonl"
    described.write_text(json.dumps({"label": "公司动态##登山", "description": "爬山"}) + "\n", "utf-8")
    decided = ["--floor", 0, "--decoding", "closure", "--certainty", 0.5]
    call(infer, *export, "--output_file", data / "a.jsonl", *decided)
    expected = rows_of(data / "a.jsonl")
    texts = [row["text"] for row in expected]
    (data / "lake").mkdir()
    (data / "lake/lines.txt").write_text("".join(f"{text}\n" for text in texts), "utf-8")
    parquet.write_table(pa.table({"text": texts}), data / "lake/table.parquet")
    flags = ["--model_path", hybrid_export, "--precision", "float32", "--input", data / "lake", *decided, *export[-4:]]
    printed.clear()
    call(ray_batch, *flags, "--output", data / "out")
    rows = rows_of(data / "out/lines.txt-00000-of-00001.jsonl")
    assert same([{k: v for k, v in row.items() if k != "row"} for row in rows], expected)
    table = parquet.read_table(data / "out/table.parquet-00000-of-00001.parquet")
    assert table["unseen"].to_pylist() == [row["unseen"] for row in expected] and table.column_names[-1] == "unseen"
    assert table["labels"].to_pylist() == [row["labels"] for row in expected]
    new, filled = sum(bool(row["unseen"]) for row in expected), sum(bool(text) for text in texts)
    assert f"New labels, by their words alone: in {2 * new} of {2 * filled} texts" in printed

    assert "--unseen: gives new labels" in fails(ray_batch, capsys, *flags, "--output", data / "b", "--top_k", 2)
    assert "none: no such" in fails(
        ray_batch, capsys, *flags, "--output", data / "b", "--unseen_encoder", data / "none"
    )
    assert not (data / "b").exists()
    described.write_text(json.dumps({"label": "公司动态##登山", "description": "攀岩"}) + "\n", "utf-8")
    changed = fails(ray_batch, capsys, *flags, "--output", data / "out", "--resume")
    assert "since then these have changed: unseen." in changed


def test_scores_of_new_labels(ready, printed, capsys):
    flags, _, data = ready
    checkpoint = [*flags, "--unseen", data / "new.txt"]
    call(predict, *checkpoint, "--output_file", data / "a.jsonl", "--floor", 0, "--decoding", "raw")
    rows = [row for row in rows_of(data / "a.jsonl") if row["text"]]
    gold = [["地理", "地理##山川"] if i % 2 else [TREE.labels[0]] for i, row in enumerate(rows)]
    lines = (f"{row['text']}\t{','.join(labels)}\n" for row, labels in zip(rows, gold))
    (data / "dev.txt").write_text("".join(lines), "utf-8")
    flags = [*checkpoint, "--train_file", "", "--output_json", data / "s.json", "--decoding", "raw"]
    call(evaluate, *flags)
    found = json.loads((data / "s.json").read_text("utf-8"))
    for name, known in (("known", True), ("new", False)):
        predicted = [{label for label in row["labels"] if (label in TREE.index) == known} for row in rows]
        there = [{label for label in labels if (label in TREE.index) == known} for labels in gold]
        right = sum(len(a & b) for a, b in zip(predicted, there))
        given, support = (sum(map(len, sets)) for sets in (predicted, there))
        assert found["unseen"][name]["support"] == support > 0
        assert found["unseen"][name]["micro_f1"] == pytest.approx(2 * right / (given + support))
    leaves = ("地理##山川", "公司动态##登山")
    expected = sum(row["probabilities"][leaf] for row in rows for leaf in leaves)
    assert found["unseen"]["expected"] == pytest.approx(expected, abs=1e-3)
    assert found["unseen"]["leaf_rows"] == len(rows) // 2 == found["dev"]["labels"]["地理##山川"]["support"]
    assert any(line.startswith("New labels, by their words alone (3, ") for line in printed)
    with pytest.raises(SystemExit):
        evaluate.parse_args([*map(str, flags), "--calibrate", "per_level"])
    assert "--calibrate is about" in capsys.readouterr().err


def test_an_export_needs_both_files_of_new_labels(ready, tmp_path, capsys):
    _, encoder, _ = ready
    (encoder / "unseen.npy").unlink()
    error = fails(export_model, capsys, "--params_path", encoder, "--output_path", tmp_path / "out")
    assert f"{encoder / 'unseen.npy'}: no such file." in error and "It belongs to unseen.json. Make it with" in error
    assert not (tmp_path / "out").exists()


def test_what_exports_refuse(deployed, ready, tmp_path, capsys):
    pytest.importorskip("fastapi")
    _, export, serving, data = deployed
    _, encoder, _ = ready
    plain = "a checkpoint, where an export is needed. Make one with retrieval_based/export_model.py"
    assert plain in fails(infer, capsys, *export[:-1], encoder)
    serving = [*serving, "--port", 0]
    assert plain in fails(server, capsys, *serving, "--unseen_encoder", encoder)
    assert "none: no such directory" in fails(infer, capsys, *export[:-1], tmp_path / "none")
    of_rows = fails(infer, capsys, *export[:-1], data)
    assert "unseen.json: no such file" in of_rows and "Make it with retrieval_based/fit_unseen.py" in of_rows
    assert "--perf measures the model alone" in fails(infer, capsys, *export, "--perf")
    assert "--split and --shadow" in fails(server, capsys, *serving, "--model", "b=b", "--shadow", "b")
    copy = shutil.copytree(serving[1], tmp_path / "copy")
    settings = json.loads((copy / "decision.json").read_text("utf-8"))
    (copy / "decision.json").write_text(json.dumps(settings | {"top_k": 2}), "utf-8")
    assert "decision.json: top_k says how many" in fails(server, capsys, *serving, "--model_path", copy)
    (data / "new.txt").write_text("".join(f"{label}\n" for label in TREE.labels), "utf-8")
    assert "no label in it that the checkpoint does not know" in fails(server, capsys, *serving)
    (data / "new.txt").write_text("地理\n", "utf-8")
    np.save(tmp_path / "output" / "unseen.npy", np.eye(2))
    assert "unseen.npy: holds vectors of other labels" in fails(infer, capsys, *export)
    of_another = json.loads((tmp_path / "output" / "unseen.json").read_text()) | {"classifier": "another"}
    (tmp_path / "output" / "unseen.json").write_text(json.dumps(of_another))
    assert "was fitted for another classifier" in fails(server, capsys, *serving)
