"""The scripts of retrieval_based/ one after the other on a dozen rows with data/tiny-ernie, and what users get wrong."""

import json
import shutil
import subprocess
import sys

import numpy as np
import onnx
import pytest
from filelock import FileLock

from hierarchical.bi_encoder import Encoder
from retrieval_based import build_index, evaluate, export_model, predict, recall, run_system, train
from retrieval_based.index import SemanticIndex
from retrieval_based.vectors import MilvusVectors
from tests.conftest import ROOT, without_identity
from tests.hierarchical.faults import Faults
from tests.retrieval_based.conftest import LABELS, call, fails, train_flags, with_other_id
from utils import InputError


def test_recall_and_scores(trained, use, tmp_path, printed):
    data, _ = trained
    dev, result = tmp_path / "dev.txt", tmp_path / "recall"
    dev.write_text((data / "dev.txt").read_text("utf-8") + "\n\n", encoding="utf-8")
    call(recall, *use, "--similar_text_pair_file", dev, "--recall_result_dir", result)
    lines = [line.split("\t") for line in (result / "recall_result_file.txt").read_text("utf-8").splitlines()]
    assert len(lines) == 11 * 3 and {len(line) for line in lines} == {3}  # three leaves, less than recall_num
    assert {line[1] for line in lines} == {"体育##足球", "体育##篮球", "财经##股票"}
    assert [lines[i][0] for i in (0, 32)] == ["前锋梅开二度第0期"] * 2  # the same text twice is two queries
    flags = ["--similar_text_pair", dev, "--recall_result_file", result / "recall_result_file.txt"]
    call(evaluate, *flags, "--threshold", 0, "--output_json", tmp_path / "scores.json")
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert scores["recall@5"] == 1 and scores["n_rows"] == 11
    history = [json.loads(line) for line in (trained[1] / "metrics.jsonl").read_text().splitlines()]
    assert scores["recall@1"] == pytest.approx(max(entry["recall@1"] for entry in history))  # model_best is the best
    assert any(line.startswith("Micro avg in dev dataset") for line in printed)


@pytest.mark.slow
def test_a_killed_recall_leaves_no_result_with_the_settings_of_another(trained, use, tmp_path):
    """The older result was made with other labels; what is there after a kill has the settings it was made with."""
    labels = tmp_path / "label.txt"
    labels.write_text("".join(f"{line}\n" for line in LABELS.splitlines()[::-1] if "##" not in line) + "体育##足球\n")
    rows = ["--similar_text_pair_file", trained[0] / "dev.txt"]
    old, new = tmp_path / "old", tmp_path / "new"
    dev = tmp_path / "one.txt"
    dev.write_text("前锋梅开二度\t体育##足球\n", "utf-8")
    call(recall, *use, "--corpus_file", labels, "--similar_text_pair_file", dev, "--recall_result_dir", old)
    call(recall, *use, *rows, "--recall_result_dir", new)

    def content(folder):
        place = folder / "recall_result_file.txt.settings"
        return [path.read_bytes() if path.exists() else None for path in (
            folder / "recall_result_file.txt", place / "label.txt", place / "decision.json")]  # fmt: skip

    allowed, found = (content(old), content(new)), []
    assert allowed[0][:2] != allowed[1][:2]
    for at in range(1, 99):
        there = shutil.copytree(old, tmp_path / str(at))
        with Faults("kill", at) as faults:
            call(recall, *use, *rows, "--recall_result_dir", there)
        found.append(content(there))
        assert found[-1][0] is None or found[-1] in allowed, at
        if faults.count < at:
            break
    assert found[0] == allowed[0] and found[-1] == allowed[1] and len(found) > 10


def test_a_long_text_is_not_written_with_every_label(trained, use, tmp_path):
    dev, result = tmp_path / "dev.txt", tmp_path / "recall"
    dev.write_text(f"前锋{'梅开二度' * 5000}\t体育##足球\n前锋{'梅开二度' * 5001}\t体育##足球\n", "utf-8")
    call(recall, *use, "--similar_text_pair_file", dev, "--recall_result_dir", result)
    lines = (result / "recall_result_file.txt").read_text("utf-8").splitlines()
    assert len(lines) == 6 and max(map(len, lines)) < 1100 and "... (20,002 characters)" in lines[0]
    call(evaluate, "--similar_text_pair", dev, "--recall_result_file", result / "recall_result_file.txt")


def test_results_replace_no_other_files(trained, use, tmp_path, capsys):
    """A recall into a data folder leaves its label.txt and decision.json; no result takes a file's place that is read."""
    data = shutil.copytree(trained[0], tmp_path / "data")
    (data / "label.txt").write_text(LABELS.replace("体育##足球", "体育##足球==球"), encoding="utf-8")
    (data / "decision.json").write_text("{}")
    before = {path.name: path.read_bytes() for path in data.iterdir()}
    dev = ["--similar_text_pair_file", data / "dev.txt", "--corpus_file", data / "label.txt"]
    call(recall, *use, *dev, "--recall_result_dir", data, "--recall_result_file", "found.txt")
    added = {path.name for path in data.iterdir()} - before.keys()
    assert added == {"found.txt", "found.txt.settings"}
    flags = ["--similar_text_pair", data / "dev.txt", "--recall_result_file", data / "found.txt"]
    call(evaluate, *flags)
    settings = data / "found.txt.settings"
    for place, name in ((data, "label.txt"), (data, "dev.txt"), (use[1], "decision.json"), (use[1], "label.txt")):
        there = ["--recall_result_dir", place, "--recall_result_file", name]
        assert "--recall_result_file would overwrite" in fails(recall, capsys, *use, *dev, *there)
    for name in (settings / "label.txt", settings / "decision.json", data / "found.txt", data / "dev.txt"):
        assert "--output_json would overwrite" in fails(evaluate, capsys, *flags, "--output_json", name)
    (settings / "label.txt").unlink()
    assert "run recall.py again" in fails(evaluate, capsys, *flags)
    assert {path.name: path.read_bytes() for path in data.iterdir() if path.name in before} == before


def test_scores_by_hand(data_dir, tmp_path, capsys):
    """Four rows, one file of recalled labels written by hand; no model anywhere."""
    data = data_dir(dev_txt="甲\t体育##足球\n甲\t体育##篮球\n乙\t体育##足球,财经##股票\n丙\t财经\n")
    recalled = [("甲", "体育##足球", 0.9), ("甲", "体育##篮球", 0.3)] * 2
    recalled += [("乙", "财经##股票", 0.8), ("乙", "体育##足球", 0.7), ("丙", "财经##股票", 0.6)]
    path = data / "recall.txt"
    path.write_text("".join(f"{t}\t{label}\t{s}\n" for t, label, s in recalled), encoding="utf-8")
    settings = data / "recall.txt.settings"
    settings.mkdir()
    (settings / "decision.json").write_text('{"max_seq_length": 8, "threshold": 0.5, "decoding": "closure"}')
    shutil.copy(data / "label.txt", settings)
    flags = ["--similar_text_pair", data / "dev.txt", "--recall_result_file", path]
    call(evaluate, *flags, "--output_json", tmp_path / "scores.json")
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert scores["recall@1"] == pytest.approx((1 + 0 + 1 / 2 + 0) / 4) and scores["recall@5"] == 3 / 4
    # predicted: {体育, 足球} {体育, 足球} {体育, 足球, 财经, 股票} {财经, 股票}; gold has 篮球 in the second, 财经 in the last:
    # 8 right of 10 predicted and of 9 true ones
    assert (scores["micro_precision"], scores["micro_recall"]) == pytest.approx((8 / 10, 8 / 9))
    # nothing is near the first two rows, which have one text: 5 right of 6 predicted and of 9 true ones
    nothing = [("甲", "", 0)] * 2 + recalled[4:]
    path.write_text("".join(f"{t}\t{label}\t{s}\n" for t, label, s in nothing), encoding="utf-8")
    call(evaluate, *flags, "--output_json", tmp_path / "scores.json")
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert scores["recall@5"] == pytest.approx((0 + 0 + 1 + 0) / 4)
    assert (scores["micro_precision"], scores["micro_recall"]) == pytest.approx((5 / 6, 5 / 9))
    for content, message in (
        ("甲\t体育##足球\n", "recall.txt:1: a line is: text<TAB>label<TAB>similarity"),
        ("甲\t体育##足球\t0.5\n甲\t财经\tnan\n", "recall.txt:2: a line is: text<TAB>label<TAB>similarity, a number"),
        ("甲\t体育##足球\tinf\n", "recall.txt:1: a line is: text<TAB>label<TAB>similarity, a number"),
        ("甲\t体育,足球\t0.5\n", "unknown label '体育,足球'"),
        ("甲\t体育##足球\t0.5\n乙\t体育##足球\t0.5\n", "recall.txt:2: '乙' is not the row in its place"),
        ("甲\t体育##足球\t0.5\n", "has 1 texts, the rows are 4"),
    ):
        path.write_text(content, encoding="utf-8")
        assert message in fails(evaluate, capsys, *flags)


def test_a_new_label_reaches_a_running_system(trained, use, monkeypatch, tmp_path, capsys):
    index, corpus = tmp_path / "index", tmp_path / "label.txt"
    call(build_index, *use, "--index_dir", index)
    corpus.write_text(f"{LABELS}财经##基金\n", encoding="utf-8")

    def typed():
        yield "基金净值".encode()
        call(build_index, *use, "--index_dir", index, "--corpus_file", corpus, "--add")
        yield "基金净值".encode()

    monkeypatch.setattr(sys, "stdin", type("Stdin", (), {"buffer": Buffer(typed())}))
    call(run_system, *use, "--index_dir", index, "--top_k", 9)
    shown = [line.split("\t")[1] for line in capsys.readouterr().out.splitlines()]
    assert len(shown) == 3 + 4 and "财经##基金" not in shown[:3] and "财经##基金" in shown[3:]
    corpus.write_text("体育\n", encoding="utf-8")
    error = fails(build_index, capsys, *use, "--index_dir", index, "--corpus_file", corpus, "--add")
    assert "lacks 5 labels of the index" in error


def test_rows_vote_in_a_running_system_as_in_recall(trained, use, monkeypatch, tmp_path, capsys):
    """recall_num rows vote whatever top_k; what nothing is near has a line, too; a broken line is told at once."""
    data, index = trained[0], tmp_path / "index"
    call(build_index, *use, "--index_dir", index, "--train_set_file", data / "train.txt")
    capsys.readouterr()
    told = []

    def typed():
        yield "前锋梅开二度第0期\n".encode()
        yield "国足".encode("gb18030")
        told.append("line 2: byte 1 is not UTF-8" in capsys.readouterr().err)
        monkeypatch.setattr(SemanticIndex, "retrieve", lambda *_: [[]])
        yield "无\t关".encode()

    monkeypatch.setattr(sys, "stdin", type("Stdin", (), {"buffer": Buffer(typed())}))
    shown = []
    monkeypatch.setattr(run_system, "print", lambda text, flush: shown.append(text), raising=False)
    error = fails(run_system, capsys, *use, "--index_dir", index, "--recall_num", 1, "--top_k", 3)
    assert shown == ["前锋梅开二度第0期\t体育##足球\t1.0000", "无 关\t\t0"]
    assert told == [True] and "-:2: byte 1 is not UTF-8" in error


class Buffer:
    """Standard input whose lines come when they are asked for."""

    def __init__(self, lines):
        self.lines = lines

    def __enter__(self):
        return self.lines

    def __exit__(self, *_):
        pass

    def __iter__(self):
        return self.lines


def test_rows_as_index_and_more_of_them(trained, use, tmp_path, printed, capsys):
    data, index = trained[0], tmp_path / "index"
    rows = ["--train_set_file", data / "train.txt"]
    call(build_index, *use, "--index_dir", index, *rows)
    call(build_index, *use, "--index_dir", index, *rows, "--add")
    assert printed[-1].startswith("Added 10 rows; Total index number:20")
    assert "an index of rows; give" in fails(build_index, capsys, *use, "--index_dir", index, "--add")
    call(recall, *use, "--index_dir", index, "--similar_text_pair_file", data / "train.txt",
         "--recall_num", 2, "--recall_result_dir", tmp_path)  # fmt: skip
    lines = [line.split("\t") for line in (tmp_path / "recall_result_file.txt").read_text("utf-8").splitlines()]
    # every train row is in the index twice, so both neighbours are the row itself
    assert [line[1:] for line in lines[:2]] == [["体育##足球", "1.000000"], ["体育##篮球", "1.000000"]]


def test_a_second_writer_is_refused_and_loses_nothing(trained, use, tmp_path, capsys):
    index, rows = tmp_path / "index", ["--train_set_file", trained[0] / "train.txt"]
    call(build_index, *use, "--index_dir", index, *rows)
    before = {path.name: path.read_bytes() for path in index.iterdir()}
    with FileLock(index / ".lock"):  # as another process would
        for flags in (["--add"], []):
            error = fails(build_index, capsys, *use, "--index_dir", index, *rows, *flags)
            assert f"{index}: another process is writing there; wait until it ends." in error
    assert {path.name: path.read_bytes() for path in index.iterdir()} == before
    fails(build_index, capsys, *use, "--index_dir", tmp_path / "none", *rows, "--add")
    assert not (tmp_path / "none").exists()


def test_what_of_the_search_can_be_changed(trained, use, monkeypatch, tmp_path, capsys):
    flags = [*use, "--index_dir", tmp_path / "index"]
    call(build_index, *flags, "--hnsw_m", 8)
    before = json.loads((tmp_path / "index" / "index.json").read_text())
    call(build_index, *flags, "--add", "--hnsw_ef", 300)
    after = json.loads((tmp_path / "index" / "index.json").read_text())
    assert (before["hnsw"], after["hnsw"]) == ({"m": 8, "ef": 128}, {"m": 8, "ef": 300})
    assert before["entries"] == after["entries"] == 3
    assert "argument --hnsw_m: " in fails(build_index, capsys, *flags, "--add", "--hnsw_m", 8)
    for flag in ("--hnsw_m", "--hnsw_ef"):
        milvus = ["--milvus_uri", "http://127.0.0.1:1", flag, 8]
        assert f"argument {flag}: " in fails(build_index, capsys, *flags, *milvus)
    index = SemanticIndex.read(tmp_path / "index", Encoder(use[1]))
    index.vectors = MilvusVectors.__new__(MilvusVectors)
    monkeypatch.setattr(SemanticIndex, "read", lambda *_: index)
    error = fails(build_index, capsys, *flags, "--add", "--hnsw_ef", 8)
    assert "--hnsw_ef: the vectors of" in error and "are in Milvus" in error


def test_a_broken_index_is_built_again(trained, use, tmp_path, capsys, printed):
    index = tmp_path / "index"
    call(build_index, *use, "--index_dir", index)
    for content in (b'{"entries": 3', b""):
        (index / "index.json").write_bytes(content)
        error = fails(build_index, capsys, *use, "--index_dir", index, "--add")
        assert f"{index / 'index.json'}: " in error
        assert (index / "index.json").read_bytes() == content  # --add needs it, and leaves it
        call(build_index, *use, "--index_dir", index)
        assert len(SemanticIndex.read(index, Encoder(use[1])).entries) == 3
        (kept,) = [path for path in index.glob("index.json.*") if path.read_bytes() == content]
        assert any(f"the broken file is kept as {kept.name}" in message for message in printed)


def test_thresholds_of_other_labels(trained, use, tmp_path, capsys):
    """A decision.json with a threshold per label goes with the labels of the training alone, or with rows."""
    best, corpus, index = tmp_path / "best", tmp_path / "label.txt", tmp_path / "index"
    shutil.copytree(trained[1] / "model_best", best)
    decision = json.loads((best / "decision.json").read_text()) | {"threshold": [0.5] * 5}
    (best / "decision.json").write_text(json.dumps(decision))
    corpus.write_text(f"{LABELS}财经##基金\n", encoding="utf-8")
    flags = ["--params_path", best, "--device", "cpu", "--index_dir", index]
    message = "decision.json of the encoder has one threshold per label"
    assert message in fails(build_index, capsys, *flags, "--corpus_file", corpus)
    assert message in fails(recall, capsys, *flags[:4], "--corpus_file", corpus,
                            "--similar_text_pair_file", trained[0] / "dev.txt", "--recall_result_dir", tmp_path)  # fmt: skip
    call(build_index, *flags)
    assert message in fails(build_index, capsys, *flags, "--corpus_file", corpus, "--add")
    call(build_index, *flags, "--corpus_file", corpus, "--train_set_file", trained[0] / "train.txt")


@pytest.mark.slow
def test_with_milvus_as_without(trained, use, real_milvus, monkeypatch, tmp_path, capsys, printed):
    """Build, recall, add, recall, build again: the same labels, and of the collections only the own one is dropped."""
    from pymilvus import MilvusClient

    client, rows, results = MilvusClient(real_milvus), ["--train_set_file", trained[0] / "train.txt"], {}
    before = set(client.list_collections())
    for kind in ("embedded", "milvus"):
        index, place = tmp_path / kind, ["--milvus_uri", real_milvus] if kind == "milvus" else []
        call(build_index, *use, "--index_dir", index, *rows, *place)
        first = set(client.list_collections()) - before
        call(build_index, *use, "--index_dir", index, *rows, "--add")
        assert printed[-1].startswith("Added 10 rows; Total index number:20")
        call(recall, *use, "--index_dir", index, "--similar_text_pair_file", trained[0] / "train.txt",
             "--recall_num", 2, "--recall_result_dir", tmp_path)  # fmt: skip
        results[kind] = (tmp_path / "recall_result_file.txt").read_text("utf-8")
        call(build_index, *use, "--index_dir", index, *place)
    try:
        assert results["milvus"] == results["embedded"]
        second = set(client.list_collections()) - before
        assert len(first) == len(second) == 1 and first != second and before <= set(client.list_collections())
        call(build_index, *use, "--index_dir", index)  # embedded from now on
        assert set(client.list_collections()) == before
        monkeypatch.setattr(Encoder, "load", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            call(build_index, *use, "--index_dir", index, *place)
        assert set(client.list_collections()) == before  # nor does a build that fails leave one
    finally:
        for name in set(client.list_collections()) - before:
            client.drop_collection(name)


def test_predictions_are_written_as_by_the_main_route(trained, use, tmp_path, capsys):
    data, output = trained[0], tmp_path / "predictions.jsonl"
    call(predict, *use, "--dataset_dir", data, "--output_file", output, "--min_labels", 2)
    rows = [json.loads(line) for line in output.read_text("utf-8").splitlines()]
    assert [row["text"] for row in rows] == ["门将扑出点球", "", "央行下调利率"] and rows[1]["labels"] == []
    encoder = Encoder(trained[1] / "model_best")
    encoder.load("cpu")
    text, label = encoder.encode(["门将扑出点球", "体育,足球"])
    assert rows[0]["probabilities"].get("体育##足球", 0) == pytest.approx(max(text @ label, 0), abs=1e-3)
    assert len(rows[0]["labels"]) >= 2 and rows[0]["labels"][0] == rows[0]["labels"][1].split("##")[0]
    call(predict, *use, "--text_pair_file", data / "dev.txt")
    lines = capsys.readouterr().out.splitlines()
    text, label, cosine = lines[0].split("\t")
    assert (text, label) == ("前锋梅开二度第0期", "体育") and -1 <= float(cosine) <= 1
    assert len(lines) == 3 * 2 + 3 * 1 + 3 * 2 + 2 + 1  # a line for every pair
    (tmp_path / "pairs.csv").write_text('text,label\n文,"a\nb\x1b"\n', encoding="utf-8")
    call(predict, *use, "--text_pair_file", tmp_path / "pairs.csv")
    assert capsys.readouterr().out.startswith("文\ta b \t")
    (tmp_path / "pairs.txt").write_text("\n \n")
    error = fails(predict, capsys, *use, "--text_pair_file", tmp_path / "pairs.txt")
    assert "pairs.txt: no labelled row in it. A row is: text<TAB>label" in error


@pytest.mark.slow
def test_an_unfinished_prediction_goes_on_with_the_same_settings_alone(trained, use, monkeypatch, tmp_path, capsys):
    index, output = tmp_path / "index", tmp_path / "predictions.jsonl"
    call(build_index, *use, "--index_dir", index)
    (tmp_path / "data.txt").write_text("".join(f"国足第{i}期\n" for i in range(70)), encoding="utf-8")
    flags = [*use, "--index_dir", index, "--dataset_dir", tmp_path, "--output_file", output, "--batch_size", 1]
    call(predict, *flags, "--recall_num", 1)
    whole = output.read_bytes()

    def broken(*arguments):
        windows.append(arguments)
        if len(windows) == 2:
            raise OSError(5, "the disk is gone")
        return retrieve(*arguments)

    retrieve, windows = SemanticIndex.retrieve, []
    output.unlink()
    with monkeypatch.context() as patched:
        patched.setattr(SemanticIndex, "retrieve", broken)
        assert "the disk is gone" in fails(predict, capsys, *flags, "--recall_num", 1)
    error = fails(predict, capsys, *flags, "--recall_num", 2, "--resume")
    assert "these have changed: recall_num." in error
    call(predict, *flags, "--recall_num", 1, "--resume")
    assert output.read_bytes() == whole


@pytest.mark.slow
def test_an_export_gives_the_same_vectors_and_serves_the_same_index(trained, use, tmp_path, capsys):
    best, out, index = trained[1] / "model_best", tmp_path / "out", tmp_path / "index"
    call(build_index, *use, "--index_dir", index)
    call(export_model, "--params_path", best, "--output_path", out)
    assert (out / "inference.get_pooled_embedding.pdiparams").is_file()
    texts, vectors = ["国足今晚出战", "两市"], []
    for directory in (best, out):
        encoder = Encoder(directory)
        encoder.load("cpu")
        vectors.append(encoder.encode(texts))
    np.testing.assert_allclose(*vectors, atol=1e-5)
    call(predict, "--params_path", out, "--index_dir", index, "--dataset_dir", trained[0])
    assert "is an export already" in fails(export_model, capsys, "--params_path", out)
    error = fails(export_model, capsys, "--params_path", best, "--output_path", trained[0])
    assert "holds a label.txt and no model, as a data folder does" in error


@pytest.mark.slow
def test_vectors_of_another_encoder_than_config_names_are_refused(trained, monkeypatch, tmp_path, capsys):
    best, out = trained[1] / "model_best", tmp_path / "out"
    before = {path.name: path.read_bytes() for path in best.iterdir()}
    error = fails(export_model, capsys, "--params_path", best, "--output_path", best)
    assert f"{best}: holds a checkpoint" in error
    assert {path.name: path.read_bytes() for path in best.iterdir()} == before
    with monkeypatch.context() as patched:
        patched.setattr("hierarchical.exporting.ONNX_BYTES", 1000)
        error = fails(export_model, capsys, "--params_path", best, "--output_path", out)
        assert "an ONNX file ends at 2.1. Export it with a smaller encoder" in error and not out.exists()
    call(export_model, "--params_path", best, "--output_path", out)
    Encoder(best).load("cpu")
    Encoder(out).load("cpu")
    name = "inference.get_pooled_embedding.onnx"
    out, best = (without_identity(shutil.copytree(path, tmp_path / f"old_{path.name}")) for path in (out, best))
    with pytest.raises(InputError, match=f"{name}: is not the encoder that config.json .* Export again"):
        Encoder(with_other_id(out, tmp_path / "stale")).load("cpu")
    with pytest.raises(InputError, match="model.safetensors: is not the encoder that config.json .* --resume"):
        Encoder(with_other_id(best, tmp_path / "torn")).load("cpu")
    model = onnx.load(out / name)
    (entry,) = [entry for entry in model.metadata_props if entry.key == "encoder_id"]
    model.metadata_props.remove(entry)
    onnx.save(model, out / name)
    with pytest.raises(InputError, match="does not name its encoder. Export it again"):
        Encoder(out).load("cpu")


def test_what_users_get_wrong(trained, use, tiny_checkpoint, tmp_path, capsys):
    data, save = trained
    bad = tmp_path / "bad"
    shutil.copytree(data, bad)
    (bad / "train.txt").write_text("国足\t体育##足求\n空\t\n国足 体育\n", encoding="utf-8")
    error = fails(train, capsys, *train_flags(bad, tmp_path / "run"))
    assert "train.txt:1: unknown label '体育##足求'; did you mean '体育##足球'" in error and "train.txt:2" in error
    (bad / "train.txt").write_text("国足\t体育##足球\n" * 3, encoding="utf-8")
    assert "same label" in fails(train, capsys, *train_flags(bad, tmp_path / "run"))
    assert "at least" in fails(train, capsys, *train_flags(data, tmp_path, "--epochs", 0))
    error = fails(recall, capsys, "--params_path", tiny_checkpoint)
    assert "holds a classifier, not an encoder" in error
    (bad / "dev.txt").write_text("国足\t体育##棒球\n", encoding="utf-8")
    flags = ["--similar_text_pair_file", bad / "dev.txt", "--recall_result_dir", tmp_path]
    assert "unknown label '体育##棒球'" in fails(recall, capsys, *use, *flags)
    (bad / "label.txt").write_text(f"{LABELS}军事\n", encoding="utf-8")
    assert "pass --corpus_file" in fails(predict, capsys, *use, "--dataset_dir", bad)
    assert "--index_dir" in fails(predict, capsys, *use, "--dataset_dir", data, "--resume",
                                  "--output_file", tmp_path / "p.tsv")  # fmt: skip


def test_exit_code_of_the_script_itself():
    done = subprocess.run(
        [sys.executable, "retrieval_based/evaluate.py", "--recall_result_file", "nowhere.txt"],
        cwd=ROOT, capture_output=True, encoding="utf-8",
    )  # fmt: skip
    assert done.returncode == 2 and "nowhere.txt: no such file" in done.stderr and "Traceback" not in done.stderr
