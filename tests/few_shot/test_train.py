"""few-shot/train.py and infer.py: from rows to predictions, resuming, and what can be wrong."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from filelock import FileLock
from safetensors.numpy import save_file

from hierarchical import batches
from hierarchical.calibration import sigmoid
from hierarchical.encoders import FAMILIES
from hierarchical.predictor import Predictor
from hierarchical.weights import read_weights
from tests.few_shot.conftest import load_script
from utils import InputError

ROOT = Path(__file__).resolve().parents[2]
LABELS = "体育\n体育##足球==踢球\n体育##篮球\n财经\n财经##股票\n"


@pytest.fixture
def run_script():
    def call(name, *arguments):
        load_script(name).main(list(map(str, arguments)))

    return call


@pytest.fixture
def folder(data_dir, tiny_checkpoint, paddle):
    """The data folder, with words for labels and no test.txt; its `arguments` train on it in seconds."""
    return data_dir(label_txt=LABELS)


@pytest.fixture
def arguments(folder, tiny_checkpoint, tmp_path):
    words = "--device cpu --num_train_epochs 2 --per_device_train_batch_size 2 --max_seq_length 32 --logging_steps 1"
    rates = "--learning_rate 1e-3 --ppt_learning_rate 1e-2"
    names = ["--data_dir", folder, "--model_name_or_path", tiny_checkpoint, "--output_dir", tmp_path / "out"]
    return [*names, *words.split(), *rates.split()]


def lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.slow
@pytest.mark.parametrize("prompt", [None, "{'soft':'这是'}{'text':'text_a'}{'mask'}"])
def test_chain(folder, arguments, tmp_path, run_script, printed, prompt):
    out = tmp_path / "out"
    shutil.copy(folder / "dev.txt", folder / "test.txt")
    flags = [*arguments, *(["--prompt", prompt] if prompt else [])]
    run_script("train", *flags, "--do_train", "--do_eval", "--do_predict", "--do_export")
    assert any(message.startswith("global step 4, epoch: 2, batch: 2, loss: ") for message in printed)
    scores = [message for message in printed if message.startswith("eval loss: ")]
    assert len(scores) == 3 and scores[-1] in scores[:2], "--do_eval scores one of the two models of training"
    assert json.loads((out / "verbalizer_config.json").read_text(encoding="utf-8"))["体育##足球"] == "踢球"
    assert (out / "verbalizer_config.json").read_bytes() == (out / "export" / "verbalizer_config.json").read_bytes()
    assert (out / "label.txt").read_text(encoding="utf-8") == LABELS.replace("==踢球", "")

    rows = lines(out / "test_predictions.jsonl")
    assert [row["text"] for row in rows] == ["前锋梅开二度", "大盘午后跳水"]
    shutil.copy(folder / "test.txt", folder / "data.txt")
    for suffix in (".onnx", ".pdmodel"):  # without the first, infer.py takes the second
        output = tmp_path / f"{suffix[1:]}.jsonl"
        names = ["--model_path_prefix", out / "export" / "model", "--data_dir", folder, "--output_file", output]
        run_script("infer", *names, "--device", "cpu", "--floor", 0.01)
        for row, exported in zip(rows, lines(output), strict=True):
            assert row["labels"] == exported["labels"]
            for label in row["probabilities"].keys() | exported["probabilities"].keys():
                pair = [part["probabilities"].get(label, 0.01) for part in (row, exported)]
                assert pair[0] == pytest.approx(pair[1], abs=1e-4)
        (out / "export" / "model.onnx").unlink(missing_ok=True)


@pytest.mark.slow
def test_an_export_leaves_no_older_model(folder, arguments, tmp_path, run_script):
    export = tmp_path / "out" / "export"
    run_script("train", *arguments, "--do_train", "--max_steps", 1, "--do_export", "--export_type", "onnx")
    assert {path.suffix for path in export.glob("model.*")} == {".onnx"}
    run_script("train", *arguments, "--do_export", "--export_type", "paddle")
    made = {path.suffix for path in export.glob("model.*")}
    assert ".onnx" not in made and made >= {".pdiparams"} and made & {".pdmodel", ".json"}
    run_script("train", *arguments, "--do_export", "--export_type", "onnx")
    assert {path.suffix for path in export.glob("model.*")} == {".onnx"}


@pytest.mark.slow
@pytest.mark.parametrize("prompt", [None, "这是"])
def test_the_predictor_reads_exports_without_a_template(folder, arguments, tmp_path, run_script, prompt):
    flags = [*arguments, "--export_type", "onnx", *(["--prompt", prompt] if prompt else [])]
    run_script("train", *flags, "--do_train", "--max_steps", 1, "--do_predict", "--do_export")
    if prompt:
        with pytest.raises(InputError, match="reads its texts in a template. Use few-shot/infer.py"):
            Predictor(tmp_path / "out" / "export" / "model")
        (tmp_path / "out" / "export" / "template_config.json").write_text("{")
        with pytest.raises(InputError, match="template_config.json: is not the file that goes with export.json"):
            Predictor(tmp_path / "out" / "export" / "model")
        return
    predictor, rows = (
        Predictor(tmp_path / "out" / "export" / "model"),
        lines(tmp_path / "out" / "data_predictions.jsonl"),
    )
    probabilities = sigmoid(predictor.logits(predictor.tokenizer.encode([row["text"] for row in rows])))
    for row, found in zip(rows, probabilities, strict=True):
        for label, probability in row["probabilities"].items():
            assert found[predictor.tree.index[label]] == pytest.approx(probability, abs=1e-4)


@pytest.mark.slow
def test_training_learns_its_rows(arguments, tmp_path, run_script):
    run_script("train", *arguments, "--do_train", "--num_train_epochs", 25)
    losses = [entry["train_loss"] for entry in lines(tmp_path / "out" / "metrics.jsonl")]
    assert len(losses) == 25 and losses[-1] < losses[0] / 3


@pytest.mark.slow
@pytest.mark.parametrize("stopped_at", [1, 3, 4])  # before the first evaluation, within an epoch, at an evaluation
def test_a_resumed_run_ends_as_an_uninterrupted_one(arguments, tmp_path, run_script, monkeypatch, stopped_at):
    """Evaluations after steps 2, 4 and 5, epochs of 2 steps: what is due at a stop must not be left out."""
    from hierarchical import training

    out, flags = tmp_path / "out", ["--do_train", "--max_steps", 5, "--eval_steps", 2]
    run_script("train", *arguments, *flags)
    whole, history = read_weights(out / "state.safetensors"), lines(out / "metrics.jsonl")
    assert [entry["step"] for entry in history] == [2, 4, 5]
    shutil.rmtree(out)
    step = training.Trainer.train_step

    def ask_to_stop(trainer, *rows):
        if trainer.step == stopped_at - 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(trainer, *rows)

    with monkeypatch.context() as patch:
        patch.setattr(training.Trainer, "train_step", ask_to_stop)
        with pytest.raises(SystemExit) as end:
            run_script("train", *arguments, *flags)
        assert end.value.code == 128 + signal.SIGTERM
    resume = [*flags, "--resume_from_checkpoint", out]
    for flag, then in (("--eval_steps", "2"), ("--top_k", "None")):
        with pytest.raises(InputError, match=f"{flag[2:]}: {then} then, 3 now"):
            run_script("train", *arguments, *resume, flag, 3)
    run_script("train", *arguments, *resume)
    resumed = read_weights(out / "state.safetensors")
    assert whole.keys() == resumed.keys() and lines(out / "metrics.jsonl") == history
    for name in whole:
        np.testing.assert_array_equal(whole[name], resumed[name], name)


def test_a_frozen_encoder_stays_as_it_was(arguments, tiny_checkpoint, tmp_path, run_script):
    """With the transform of its masked language model, which is pre-trained as well."""
    renamed = {theirs: ours for ours, theirs in FAMILIES["ernie"].masked_transform.items()}

    encoder, rng = shutil.copytree(tiny_checkpoint, tmp_path / "encoder"), np.random.default_rng(0)
    before, theirs = read_weights(encoder / "model.safetensors"), "cls.predictions."
    width = len(before["ernie.pooler.dense.bias"])
    shapes = {"transform.weight": (width, width), "transform.bias": width}
    shapes |= {"layer_norm.weight": width, "layer_norm.bias": width}
    before |= {theirs + name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    save_file(before, encoder / "model.safetensors")
    flags = ["--model_name_or_path", encoder, "--do_train", "--freeze_plm", "--prompt", "{'soft'}这是"]
    run_script("train", *arguments, *flags)
    after = read_weights(tmp_path / "out" / "model.safetensors")
    before = {renamed.get(name, name): value for name, value in before.items()}
    shared = before.keys() & after.keys()
    assert len(shared) > 20 and shared >= {"transform.weight", "transform_norm.bias"}
    assert all((before[name] == after[name]).all() for name in shared)


def test_the_best_model_is_kept(arguments, tmp_path, run_script, printed, monkeypatch):
    """A score that falls with each evaluation: the model of the first one stays."""
    given, module = iter([0.9, 0.5]), load_script("train")
    score = module.score

    def falling(*arguments):
        result = score(*arguments).result() | {"macro_f1": next(given)}
        return SimpleNamespace(result=lambda: result)

    saved, save = [], module.save_checkpoint
    monkeypatch.setattr(module, "score", falling)
    monkeypatch.setattr(module, "save_checkpoint", lambda *rest: saved.append(save(*rest)))
    module.main([*map(str, arguments), "--do_train"])
    assert len(saved) == 1 and "Final best macro f1 score: 0.90000" in printed
    history = lines(tmp_path / "out" / "metrics.jsonl")
    assert [entry["macro_f1"] for entry in history] == [0.9, 0.5]
    printed.clear()
    run_script("train", *arguments, "--do_eval")  # scores what was saved, the first model
    (found,) = [message for message in printed if message.startswith("eval loss: ")]
    assert found.startswith(f"eval loss: {history[0]['loss']:.5f}, ") and history[0]["loss"] != history[1]["loss"]


def test_the_rows_are_not_trained_into(folder, arguments, run_script):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(InputError, match="--output_dir .*: is the data folder"):
        run_script("train", *arguments, "--output_dir", folder, "--do_train")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_the_encoder_is_not_overwritten(arguments, tiny_checkpoint, run_script):
    before = (tiny_checkpoint / "model.safetensors").read_bytes()
    with pytest.raises(InputError, match="--output_dir .*: the encoder lies there and would be overwritten"):
        run_script("train", *arguments, "--output_dir", tiny_checkpoint, "--do_train")
    assert (tiny_checkpoint / "model.safetensors").read_bytes() == before


def test_a_second_run_is_refused(arguments, tmp_path, run_script):
    (tmp_path / "out").mkdir()
    with FileLock(tmp_path / "out" / ".lock"):  # as another process would
        with pytest.raises(InputError, match="another process is writing there; wait until it ends, or give another"):
            run_script("train", *arguments, "--do_train")
        assert [path.name for path in (tmp_path / "out").iterdir()] == [".lock"]


def test_a_checkpoint_of_another_kind(folder, tiny_checkpoint, tiny_export, run_script):
    with pytest.raises(InputError, match="holds a classifier, not a few-shot model. It is for predict.py"):
        run_script("train", "--data_dir", folder, "--output_dir", tiny_checkpoint, "--do_predict")
    with pytest.raises(
        InputError, match="holds a classifier, not a few-shot model. It is for deploy/predictor/infer.py"
    ):
        run_script("infer", "--model_path_prefix", tiny_export, "--data_dir", folder, "--device", "cpu")


def test_a_signal_during_the_last_evaluation_ends_the_run(arguments, tmp_path, monkeypatch):
    module = load_script("train")
    score = module.score

    def asked_to_stop(*arguments):
        os.kill(os.getpid(), signal.SIGTERM)
        return score(*arguments)

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(module, "score", asked_to_stop)
    with pytest.raises(SystemExit) as end:
        module.main([*map(str, arguments), "--do_train", "--max_steps", "1", "--do_export"])
    assert end.value.code == 128 + signal.SIGTERM and not (tmp_path / "out" / "export").exists()
    assert signal.getsignal(signal.SIGTERM) == before  # what comes after training ends as usual


def test_without_dev_test_and_data(folder, arguments, tmp_path, run_script, printed):
    (folder / "dev.txt").unlink()
    (folder / "data.txt").unlink()
    run_script("train", *arguments, "--do_train", "--do_predict")
    assert any("neither test.txt nor data.txt" in message for message in printed)
    assert any("the model of the last step is kept" in message for message in printed)
    assert (tmp_path / "out" / "model.safetensors").exists()
    with pytest.raises(InputError, match="--do_eval: there is no"):
        run_script("train", *arguments, "--do_eval")
    with pytest.raises(InputError, match="nothing to predict"):
        run_script("train", *arguments, "--do_predict")


def test_data_txt_is_predicted_row_for_row(folder, arguments, tmp_path, run_script, printed):
    (folder / "data.txt").write_text("门将扑出点球\n\n央行下调利率\n", encoding="utf-8")
    run_script("train", *arguments, "--do_train", "--max_steps", 1, "--do_predict")
    rows = lines(tmp_path / "out" / "data_predictions.jsonl")
    assert [row["text"] for row in rows] == ["门将扑出点球", "", "央行下调利率"]
    assert rows[1]["labels"] == [] and any("blank rows: 1" in message for message in printed)


@pytest.mark.slow
def test_test_rows_stay_in_step_and_are_scored(folder, arguments, tmp_path, run_script, printed, monkeypatch):
    """Every row gets the label 体育 alone, by --top_k and a word that is nearest: of 3 rows with labels 2 have it."""
    rows = " 国足今晚出战\t体育\n\n球队夺冠\n大盘午后跳水\t财经\n球员转会\t体育\n"
    (folder / "test.txt").write_text(rows, encoding="utf-8")
    (folder / "label.txt").write_text("体育\n财经\n", encoding="utf-8")
    rows = "国足今晚出战\t体育\n球队夺冠\t体育\n"
    (folder / "train.txt").write_text(rows, encoding="utf-8")
    (folder / "dev.txt").write_text(rows, encoding="utf-8")
    run_script("train", *arguments, "--do_train", "--do_predict", "--top_k", 1, "--num_train_epochs", 20)
    found = lines(tmp_path / "out" / "test_predictions.jsonl")
    assert [row["text"] for row in found] == ["国足今晚出战", "", "球队夺冠", "大盘午后跳水", "球员转会"]
    assert [row["labels"] for row in found] == [["体育"], [], ["体育"], ["体育"], ["体育"]]
    # 2 of 3 right: micro-F1 2/3; 体育 2 x 2 / (3 + 2) = 0.8, 财经 0: macro-F1 0.4
    shown = "test.txt: micro f1 score: 0.66667, macro f1 score: 0.40000, accuracy: 0.66667"
    assert shown in printed and "test.txt: not scored are 1 blank and 1 unlabelled rows" in printed
    printed.clear()
    module = load_script("train")
    monkeypatch.setattr(batches, "WINDOW", 1)  # some windows have no row to score
    module.main([*map(str, arguments), "--do_predict", "--top_k", "1"])
    assert shown in printed
    (folder / "test.txt").write_text("国足今晚出战\n", encoding="utf-8")  # no row has labels: labelled, not scored
    printed.clear()
    run_script("train", *arguments, "--do_predict")
    assert not any("micro f1" in message for message in printed)


def test_a_bad_test_file_is_told_before_training(folder, arguments, tmp_path, run_script):
    (folder / "test.txt").write_text("前锋\t体育,棒球\n", encoding="utf-8")
    with pytest.raises(InputError, match="test.txt:1: unknown label '棒球'"):
        run_script("train", *arguments, "--do_train", "--do_predict")
    assert not (tmp_path / "out" / "metrics.jsonl").exists()


def test_patience(arguments, tmp_path, run_script, printed):
    flags = ["--do_train", "--ppt_learning_rate", 0, "--learning_rate", 1e-12, "--early_stop_patience", 2]
    run_script("train", *arguments, *flags, "--num_train_epochs", 9)
    assert "Early stop!" in printed and len(lines(tmp_path / "out" / "metrics.jsonl")) == 3


@pytest.mark.slow
def test_rows_with_no_label_and_with_several_leaves(folder, arguments, tmp_path, run_script):
    """What is learned by heart: no label above a half for the one, about a half for both leaves of the other."""
    rows = {"今天天气很好": [], "球队老板公司上市": ["体育", "体育##足球", "财经", "财经##股票"]}
    content = "".join(json.dumps({"text": text, "labels": labels}) + "\n" for text, labels in rows.items())
    (folder / "rows.jsonl").write_text(content, encoding="utf-8")
    (folder / "dev.txt").unlink()  # the last model is kept, not the first of those that score alike
    files = ["--train_file", "rows.jsonl", "--test_file", "rows.jsonl"]
    run_script(
        "train", *arguments, *files, "--do_train", "--do_predict", "--num_train_epochs", 100, "--ppt_learning_rate", 0.1
    )
    none, several = lines(tmp_path / "out" / "rows_predictions.jsonl")
    assert none["labels"] == [] and none["text"] == "今天天气很好"
    assert several["probabilities"]["体育##足球"] == pytest.approx(0.5, abs=0.1)
    assert several["probabilities"]["财经##股票"] == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize(
    "content, says",
    [
        ("国足\t体育,体育##棒球\n", "train.txt:1: unknown label '体育##棒球'"),
        ("国足\t体育\t体育##足球\n", "train.txt:1: 2 TABs"),
        ("国足\n", "train.txt:1: no label"),
    ],
)
def test_bad_rows(folder, arguments, run_script, content, says):
    (folder / "train.txt").write_text(content, encoding="utf-8")
    with pytest.raises(InputError) as error:
        run_script("train", *arguments, "--do_train")
    assert says in str(error.value)


def test_other_labels_than_the_checkpoint(folder, arguments, run_script):
    run_script("train", *arguments, "--do_train", "--max_steps", 1)
    (folder / "label.txt").write_text("体育\n", encoding="utf-8")
    with pytest.raises(InputError, match="differs from the labels"):
        run_script("train", *arguments, "--do_predict")


def test_what_is_not_there_yet(folder, tmp_path, run_script):
    with pytest.raises(InputError, match="Train first"):
        run_script("train", "--data_dir", folder, "--output_dir", tmp_path / "none", "--do_predict")
    with pytest.raises(InputError, match="model.onnx nor .*model.pdiparams. Make them"):
        run_script("infer", "--model_path_prefix", tmp_path / "model", "--data_dir", folder, "--device", "cpu")


@pytest.mark.parametrize(
    "flags, says",
    [
        ("", "nothing to do"),
        ("--do_train --method similarity --prompt 这是", "belongs to --method prompt"),
        ("--do_train --early_stop_patience 0", "must be at least 1"),
        ("--do_train --use_rgl", "unrecognized arguments"),
    ],
)
def test_arguments(folder, arguments, run_script, capsys, flags, says):
    with pytest.raises(SystemExit) as end:
        run_script("train", *arguments, *flags.split())
    assert end.value.code == 2 and says in capsys.readouterr().err


def test_exit_code_of_a_missing_folder(tmp_path):
    done = subprocess.run(
        [sys.executable, ROOT / "few-shot" / "train.py", "--data_dir", "none", "--output_dir", "o", "--do_train"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert done.returncode == 2 and done.stderr == "error: --data_dir none: no such directory.\n"
    assert not (tmp_path / "o").exists()
