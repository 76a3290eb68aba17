"""export_model.py: the rows that are compared, the table, and what is told of losses and wrong folders."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest

import export_model
import hierarchical
from export_model import warn_about
from hierarchical import exporting
from hierarchical.calibration import sigmoid
from hierarchical.checkpoints import Checkpoint, save_checkpoint
from hierarchical.modeling import predict_logits
from hierarchical.predictor import Predictor
from hierarchical.weights import find_weights
from metric import Decision
from tests.conftest import ROOT, SAMPLE
from tests.hierarchical.test_checkpoints import COUNTING
from tests.hierarchical.test_exporting import TEXTS
from tests.hierarchical.test_modeling import tiny_model
from utils import InputError, LabelTree, load_rows, run


class Log:
    """A logger that keeps what it is told."""

    def __init__(self):
        self.infos, self.warnings = [], []
        self.info, self.warning = self.infos.append, self.warnings.append


@pytest.fixture
def call(tmp_path):
    """call(*flags): main() in this process; returns the output directory."""

    def call(params_path, *flags):
        words = ["--params_path", params_path, "--output_path", tmp_path / "export", *flags]
        export_model.main([str(word) for word in words])
        return tmp_path / "export"

    return call


@pytest.mark.slow
def test_ernie_m_has_one_input(paddle, tiny_checkpoint, call, tmp_path, capsys):
    """The flag --multilingual is left out: the checkpoint knows."""
    tiny = Checkpoint.open(tiny_checkpoint)
    tree, tokenizer = tiny.tree, tiny.tokenizer
    model = tiny_model(paddle, len(tree), "ErnieM", vocab_size=1075, max_position_embeddings=130)
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    save_checkpoint(folder, model, tokenizer, tree, Decision())
    export = call(folder, "--precision", "float32", "float16", "int8")
    assert "This checkpoint is ERNIE-M: its models read input_ids alone" in capsys.readouterr().err
    ids = tokenizer.encode(TEXTS)
    logits = predict_logits(model, ids, tokenizer.pad_id, 4)
    for flags, tolerance in (
        ((), 1e-4), (("float32", "paddle"), 1e-4), (("float16",), 0.02), (("int8",), 0.2),
    ):  # fmt: skip
        predictor = Predictor(export, *flags)
        assert predictor.engine.inputs == ["input_ids"]
        np.testing.assert_allclose(predictor.logits(ids), logits, atol=tolerance)
    assert np.ptp(logits) > 1


@pytest.mark.slow
def test_table_has_the_scores_of_the_dev_rows(tiny_checkpoint, call, capsys):
    folder = call(tiny_checkpoint, "--dataset_dir", SAMPLE, "--precision", "float32", "--multilingual")
    printed = capsys.readouterr().err
    assert "--multilingual: this checkpoint is not ERNIE-M" in printed
    report = json.loads((folder / "export.json").read_text(encoding="utf-8"))
    assert report["version"] == hierarchical.__version__
    checkpoint = Checkpoint.open(tiny_checkpoint)
    tree, tokenizer = checkpoint.tree, checkpoint.tokenizer
    rows = load_rows(SAMPLE / "dev.txt", tree)
    assert report["rows"] == len(rows.texts)
    assert [row["model"] for row in report["models"]] == ["checkpoint", "float32.pdmodel", "float32.onnx"]
    # scikit-learn's figures for the same predictions
    from sklearn.metrics import f1_score

    model = checkpoint.load_model()
    predicted = sigmoid(predict_logits(model, tokenizer.encode(rows.texts), tokenizer.pad_id, 64)) > 0.5
    gold = rows.multi_hot(len(tree))
    for row in report["models"]:
        for average in ("micro", "macro"):
            reference = f1_score(gold, predicted, average=average, zero_division=0)
            assert row[f"{average}_f1"] == pytest.approx(reference, abs=2e-3)
        assert row["milliseconds_per_text"] > 0
        assert row["largest_difference"] < 1e-4
        assert f"{row['model']:<18}" in printed
    assert report["models"][0]["megabytes"] == find_weights(tiny_checkpoint).stat().st_size / 1e6


@pytest.mark.slow
def test_int8_is_compared_as_it_will_predict(tiny_checkpoint, call, capsys):
    """One text at a time; and what was found out decides what auto takes."""
    tree = LabelTree.read(SAMPLE / "label.txt")
    texts = load_rows(SAMPLE / "dev.txt", tree).texts
    for drop in ("100", "0"):
        flags = ["--dataset_dir", SAMPLE, "--format", "onnx", "--max_f1_drop", drop]
        folder = call(tiny_checkpoint, *flags)
        report = json.loads((folder / "export.json").read_text(encoding="utf-8"))
        assert report["max_f1_drop"] == float(drop)
        found = {row["model"]: row for row in report["models"]}
        apart = Predictor(folder, "int8").probabilities(texts) - Predictor(tiny_checkpoint).probabilities(texts)
        assert found["int8.onnx"]["largest_difference"] == pytest.approx(np.abs(apart).max(), abs=1e-5)
        faster = found["int8.onnx"]["milliseconds_per_text"] < found["float32.onnx"]["milliseconds_per_text"]
        lost = max(found["checkpoint"][name] - found["int8.onnx"][name] for name in ("micro_f1", "macro_f1"))
        expected = "int8" if faster and 100 * lost <= float(drop) else "float32"
        assert f"Where the precision is auto, it is {expected}" in capsys.readouterr().err
        assert Predictor(folder, "auto").file == folder / f"{expected}.onnx"


@pytest.mark.slow
def test_without_dev_rows_the_names_of_the_labels_are_compared(tiny_checkpoint, call, capsys):
    folder = call(tiny_checkpoint, "--format", "onnx", "--precision", "float32")
    assert "No dev rows to check on" in capsys.readouterr().err
    report = json.loads((folder / "export.json").read_text(encoding="utf-8"))
    assert report["rows"] == len(LabelTree.read(SAMPLE / "label.txt"))
    assert "micro_f1" not in report["models"][0]


@pytest.mark.slow
def test_rows_default_to_those_of_the_training(tiny_checkpoint, tmp_path, call, data_dir):
    folder = tmp_path / "checkpoint"
    shutil.copytree(tiny_checkpoint, folder)
    label = LabelTree.read(SAMPLE / "label.txt").labels[0]
    data = data_dir(
        label_txt=(SAMPLE / "label.txt").read_text(encoding="utf-8"),
        dev_txt=f"文\t{label}\n",
        own_jsonl="".join(json.dumps({"text": text, "labels": [label]}) + "\n" for text in ("文一", "文二")),
    )
    arguments = {"dataset_dir": str(data), "dev_file": "own.jsonl"}
    (folder / "run.json").write_text(json.dumps({"arguments": arguments}), encoding="utf-8")
    for flags, rows in (((), 2), (("--dev_file", "dev.txt"), 1)):
        output = call(folder, "--format", "onnx", "--precision", "float32", *flags)
        assert json.loads((output / "export.json").read_text(encoding="utf-8"))["rows"] == rows


def test_what_is_lost_is_told():
    def row(model, micro, macro, time):
        return {"model": model, "micro_f1": micro, "macro_f1": macro, "milliseconds_per_text": time}

    log = Log()
    table = [row("checkpoint", 0.95, 0.92, 9), row("float32.onnx", 0.95, 0.92, 4), row("int8.onnx", 0.9471, 0.91, 5)]
    warn_about(table, 0.3, log)
    assert len(log.warnings) == 2
    assert "int8.onnx: macro-F1 is 1.00 points below" in log.warnings[0]
    assert "slower than float32.onnx on this processor" in log.warnings[1]
    log = Log()
    warn_about([*table[:2], row("int8.onnx", 0.9471, 0.9171, 3)], 0.3, log)
    assert log.warnings == []


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("model.safetensors", "no model.safetensors in it"),
        ("decision.json", "not a complete checkpoint"),
        ("vocab.txt", "vocab.txt"),
    ],
)
def test_incomplete_checkpoint(tiny_checkpoint, tmp_path, call, missing, message):
    folder = tmp_path / "checkpoint"
    shutil.copytree(tiny_checkpoint, folder)
    (folder / missing).unlink()
    (folder / "model_state.pdparams").unlink(missing_ok=True)
    with pytest.raises(InputError, match=message):
        call(folder)
    assert not (tmp_path / "export").exists()


def test_foreign_and_damaged_checkpoints(tiny_checkpoint, tmp_path, capsys):
    """What a user sees: exit code 2, and a message without a traceback."""
    folder = tmp_path / "checkpoint"
    shutil.copytree(tiny_checkpoint, folder)

    def fails():
        words = ["--params_path", folder, "--output_path", tmp_path / "export"]
        with pytest.raises(SystemExit) as stopped:
            run(lambda: export_model.main(list(map(str, words))))
        assert stopped.value.code == 2 and not (tmp_path / "export").exists()
        message = capsys.readouterr().err
        assert "Traceback" not in message
        return message

    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    assert "model.safetensors: not a usable parameter file" in fails()
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "albert"}), encoding="utf-8")
    assert "config.json: model_type is 'albert'; supported are ernie, ernie_m" in fails()
    shutil.rmtree(folder)
    assert "checkpoint: no such directory. Pass the --save_dir of train.py." in fails()


def test_folder_that_cannot_be_written(tiny_checkpoint, capsys):
    """/sys is read-only for everybody, also for root, whom the rights of a folder would not stop."""
    words = ["--params_path", tiny_checkpoint, "--output_path", "/sys/export", "--format", "paddle"]
    with pytest.raises(SystemExit) as stopped:
        run(lambda: export_model.main(list(map(str, words))))
    assert stopped.value.code == 2
    assert "error: /sys/export: " in capsys.readouterr().err


@pytest.mark.slow
def test_an_export_replaces_an_export(tiny_export, tiny_checkpoint, tmp_path, call):
    """Of this version, and of the one that listed its models only in the table."""
    listed = json.loads((tiny_export / "export.json").read_text(encoding="utf-8"))["files"]
    assert set(listed) == {path.name for path in tiny_export.iterdir() if path.name.startswith(("float", "int"))}
    for i, record in enumerate([None, {"version": "0.9.0", "rows": 3, "models": [{"model": "checkpoint"}]}]):
        folder = shutil.copytree(tiny_export, tmp_path / f"export{i}")
        if record:
            for name in ("float32.onnx", "int8.onnx", "float32.pdmodel"):
                record["models"].append({"model": name})
            (folder / "export.json").write_text(json.dumps(record), encoding="utf-8")
        (folder / "mine.onnx").write_bytes(b"of the user")
        call(tiny_checkpoint, "--format", "onnx", "--precision", "float16", "--output_path", folder)
        models = {path.name for path in folder.iterdir() if path.suffix in (".onnx", ".pdmodel", ".pdiparams", ".info")}
        assert models == {"float16.onnx", "mine.onnx"}
        assert Predictor(folder, "float16").labels
        with pytest.raises(InputError, match="mine.onnx: not of this export, since export.json beside it does not"):
            shutil.copy(folder / "float16.onnx", folder / "mine.onnx")
            Predictor(folder / "mine")


def test_no_export_into_the_folder_of_another_checkpoint(tiny_checkpoint, tmp_path, call):
    other = shutil.copytree(tiny_checkpoint, tmp_path / "other")
    before = {path.name: path.read_bytes() for path in other.iterdir()}
    with pytest.raises(InputError, match="other: holds another checkpoint, which would be spoilt"):
        call(tiny_checkpoint, "--output_path", other)
    assert {path.name: path.read_bytes() for path in other.iterdir()} == before


def test_other_labels_and_missing_rows(tiny_checkpoint, call, data_dir):
    with pytest.raises(InputError, match="differs from the labels the checkpoint was trained with"):
        call(tiny_checkpoint, "--dataset_dir", data_dir())
    with pytest.raises(InputError, match="no such file"):
        call(tiny_checkpoint, "--dataset_dir", SAMPLE, "--dev_file", "dev2.txt")
    empty = data_dir(label_txt=(SAMPLE / "label.txt").read_bytes(), dev_txt="没有标签的一行\n")
    with pytest.raises(InputError, match="dev.txt: no labelled row in it"):
        call(tiny_checkpoint, "--dataset_dir", empty)


@pytest.mark.parametrize(
    "flags",
    [
        ["--max_f1_drop", "nan"], ["--precision", "int4"], ["--precision"], ["--format", "torch"],
        ["--format", "paddle", "--precision", "float32", "int8"],
    ],
)  # fmt: skip
def test_bad_flags(tiny_checkpoint, call, flags):
    with pytest.raises(SystemExit) as stopped:
        call(tiny_checkpoint, *flags)
    assert stopped.value.code == 2


@pytest.mark.slow
def test_the_files_of_the_checkpoint_are_opened_once_to_read_and_once_to_copy(tiny_checkpoint, tmp_path):
    code = f"{COUNTING}import json, export_model\nexport_model.main(sys.argv[2:])\nprint(json.dumps(count_of(sys.argv[1])))"
    flags = ["--params_path", tiny_checkpoint, "--output_path", tmp_path / "export", "--precision", "float32"]
    command = [sys.executable, "-c", code, str(tiny_checkpoint), *map(str, flags)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    counts = json.loads(done.stdout)
    small = ("config.json", "label.txt", "decision.json", "vocab.txt", "tokenizer_config.json")
    assert counts["model.safetensors"] == 1 and all(1 <= counts[name] <= 2 for name in small), counts


def test_a_model_too_large_for_onnx_is_refused_before_paddle_is_loaded(tiny_checkpoint, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(exporting, "ONNX_BYTES", 1000)
    monkeypatch.setattr(export_model, "set_device", lambda device: pytest.fail("paddle was loaded"))
    words = ["--params_path", str(tiny_checkpoint), "--output_path", str(tmp_path / "export")]
    with pytest.raises(SystemExit) as ended:
        run(lambda: export_model.main(words))
    assert ended.value.code == 2 and "--format paddle" in capsys.readouterr().err
    assert not (tmp_path / "export").exists()
