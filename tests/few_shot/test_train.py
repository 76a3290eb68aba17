"""few-shot/train.py and infer.py: from rows to predictions, resuming, and what can be wrong."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.few_shot.conftest import load_script
from utils import InputError
from weights import read_weights

ROOT = Path(__file__).resolve().parents[2]
LABELS = "体育\n体育##足球==踢球\n体育##篮球\n财经\n财经##股票\n"


@pytest.fixture
def run_script(monkeypatch):
    def call(name, *arguments):
        module = load_script(name)
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *map(str, arguments)])
        before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            module.main()
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

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


def test_training_learns_its_rows(arguments, tmp_path, run_script):
    run_script("train", *arguments, "--do_train", "--num_train_epochs", 25)
    losses = [entry["train_loss"] for entry in lines(tmp_path / "out" / "metrics.jsonl")]
    assert len(losses) == 25 and losses[-1] < losses[0] / 3


@pytest.mark.parametrize("stopped_at", [1, 3, 4])  # before the first evaluation, within an epoch, at an evaluation
def test_a_resumed_run_ends_as_an_uninterrupted_one(arguments, tmp_path, run_script, monkeypatch, stopped_at):
    """Evaluations after steps 2, 4 and 5, epochs of 2 steps: what is due at a stop must not be left out."""
    import training

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
    with pytest.raises(InputError, match="eval_steps: 2 then, 3 now"):
        run_script("train", *arguments, *resume, "--eval_steps", 3)
    run_script("train", *arguments, *resume)
    resumed = read_weights(out / "state.safetensors")
    assert whole.keys() == resumed.keys() and lines(out / "metrics.jsonl") == history
    for name in whole:
        np.testing.assert_array_equal(whole[name], resumed[name], name)


def test_a_frozen_encoder_stays_as_it_was(arguments, tiny_checkpoint, tmp_path, run_script):
    run_script("train", *arguments, "--do_train", "--freeze_plm", "--prompt", "{'soft'}这是")
    before, after = (
        read_weights(tiny_checkpoint / "model.safetensors"),
        read_weights(tmp_path / "out" / "model.safetensors"),
    )
    shared = before.keys() & after.keys()
    assert len(shared) > 20 and all((before[name] == after[name]).all() for name in shared)


def test_without_dev_test_and_data(folder, arguments, tmp_path, run_script, printed):
    (folder / "dev.txt").unlink()
    (folder / "data.txt").unlink()
    run_script("train", *arguments, "--do_train", "--do_predict")
    assert any("neither test.txt nor data.txt" in message for message in printed)
    assert any("the model of the last step is kept" in message for message in printed)
    assert (tmp_path / "out" / "model.safetensors").exists()
    with pytest.raises(InputError, match="--do_eval: there is no"):
        run_script("train", *arguments, "--do_eval")


def test_data_txt_is_predicted_row_for_row(folder, arguments, tmp_path, run_script, printed):
    (folder / "data.txt").write_text("门将扑出点球\n\n央行下调利率\n", encoding="utf-8")
    run_script("train", *arguments, "--do_train", "--max_steps", 1, "--do_predict")
    rows = lines(tmp_path / "out" / "data_predictions.jsonl")
    assert [row["text"] for row in rows] == ["门将扑出点球", "", "央行下调利率"]
    assert rows[1]["labels"] == [] and any("blank rows: 1" in message for message in printed)


def test_patience(arguments, tmp_path, run_script, printed):
    flags = ["--do_train", "--ppt_learning_rate", 0, "--learning_rate", 1e-12, "--early_stop_patience", 2]
    run_script("train", *arguments, *flags, "--num_train_epochs", 9)
    assert "Early stop!" in printed and len(lines(tmp_path / "out" / "metrics.jsonl")) == 3


def test_rows_with_no_label_and_with_several_leaves(folder, arguments, tmp_path, run_script):
    (folder / "train.txt").write_text(
        "国足今晚出战\t体育,体育##足球\n球队老板公司上市\t体育,体育##足球,财经,财经##股票\n", encoding="utf-8"
    )
    run_script("train", *arguments, "--do_train")
    assert (tmp_path / "out" / "model.safetensors").exists()


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
