"""train.py and training.py: what a run writes and prints, and several processes.

Runs are a few steps of data/tiny-ernie on a dozen rows; most call main() in this process, because importing the library
takes seconds. Stopping and resuming: test_resume.py; teachers: test_students.py; mistakes: test_train_mistakes.py.
"""

import json
import math
import re
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest

import hierarchical
import train
from hierarchical import cpu_layers, shortlist
from hierarchical.checkpoints import Checkpoint
from hierarchical.linear_training import fit_linear
from hierarchical.modeling import predict_logits, score
from hierarchical.predictor import Predictor
from metric import Decision, evaluate
from tests.conftest import NO_GRADIENT, ROOT, SAMPLE
from tests.trainings import QUICK, arrays, assert_same_arrays, fails, interrupted
from utils import InputError, load_rows

# ---- a run -----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_run_writes_a_self_contained_checkpoint_and_the_reference_log_lines(run_train, rows_dir, tmp_path, capsys):
    save = tmp_path / "new" / "checkpoint"
    run_train("--dataset_dir", rows_dir, "--save_dir", save, "--epochs", 2, "--log_dir", tmp_path / "vdl")
    written = {path.name for path in save.iterdir()}
    assert written >= {
        "config.json", "model.safetensors", "model_state.pdparams", "vocab.txt", "tokenizer_config.json", "label.txt",
        "decision.json", "setting.txt", "run.json", "metrics.jsonl", "curves.png", "train.log", "state.safetensors",
    }  # fmt: skip
    assert not [name for name in written if name.endswith(".tmp")]
    assert list((tmp_path / "vdl").iterdir())
    assert (save / "label.txt").read_text("utf-8") == (rows_dir / "label.txt").read_text("utf-8")
    assert (save / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads((save / "decision.json").read_text())["max_seq_length"] == 128
    told = json.loads((save / "run.json").read_text())
    assert told["data"] == {"labels": 5, "train_rows": 20, "dev_rows": 2}
    assert told["arguments"]["epochs"] == 2 and told["versions"]["hierarchical"] == hierarchical.__version__
    assert "\nepochs : 2\n" in (save / "setting.txt").read_text() and (save / "setting.txt").read_text().endswith("\n")
    history = [json.loads(line) for line in (save / "metrics.jsonl").read_text().splitlines()]
    assert [entry["epoch"] for entry in history] == [1, 2] and history[-1]["step"] == 20
    log = capsys.readouterr().err
    assert log == (save / "train.log").read_text("utf-8")
    number, prefix = r"\d+\.\d{5}", r"^\[\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3}\] \[    INFO\] - "
    for pattern in (
        rf"global step 13, epoch: 2, batch: 3, loss: {number}, speed: \d+\.\d\d step/s$",
        rf"eval loss: {number}, micro f1 score: {number}, macro f1 score: {number}$",
        rf"Current best macro f1 score: {number}$",
        rf"Final best macro f1 score: {number}$",
        rf"Save best macro f1 text classification model in {re.escape(str(save))}$",
    ):
        assert re.search(prefix + pattern, log, re.M), pattern


@pytest.mark.slow
def test_auto_trains_at_the_rate_that_fits_and_goes_on_with_it(run_train, rows_dir, tmp_path, capsys):
    """tiny-ernie has 2 layers x 128 and no weights; the checkpoint that comes of it has weights."""
    flags = ["--dataset_dir", rows_dir, "--seed", 1]
    run_train(*flags, "--save_dir", tmp_path / "typed", "--epochs", 2, "--learning_rate", 1e-3)
    assert "--learning_rate" not in capsys.readouterr().err
    run_train(*flags, "--save_dir", tmp_path / "auto", "--epochs", 1, "--learning_rate", "auto")
    said = "--learning_rate auto: 0.001, for a start from scratch of 2 layers x 128 (docs/encoders.md has"
    assert said in capsys.readouterr().err
    assert json.loads((tmp_path / "auto" / "run.json").read_text("utf-8"))["arguments"]["learning_rate"] == 1e-3
    run_train(*flags, "--save_dir", tmp_path / "auto", "--epochs", 2, "--learning_rate", "auto", "--resume")
    assert_same_arrays(tmp_path / "typed" / "model.safetensors", tmp_path / "auto" / "model.safetensors")
    again = [*flags, "--model_name", tmp_path / "auto", "--save_dir", tmp_path / "again", "--epochs", 1]
    run_train(*again, "--learning_rate", "auto")
    assert "for a pre-trained encoder of 2 layers x 128" in capsys.readouterr().err


@pytest.mark.slow
def test_a_rate_far_below_what_fits_is_warned_of(run_train, rows_dir, tmp_path, capsys):
    run_train("--dataset_dir", rows_dir, "--save_dir", tmp_path / "checkpoint", "--epochs", 1)
    said = "--learning_rate 3e-05 is low for a start from scratch of 2 layers x 128: it will learn slowly"
    assert said in (log := capsys.readouterr().err) and "--learning_rate auto takes 0.001" in log


@pytest.mark.slow
def test_the_saved_model_has_the_score_that_was_logged(run_train, rows_dir, tmp_path):
    save = tmp_path / "checkpoint"
    run_train("--dataset_dir", rows_dir, "--save_dir", save, "--epochs", 3, "--learning_rate", "1e-3")
    history = [json.loads(line) for line in (save / "metrics.jsonl").read_text().splitlines()]
    best = max(history, key=lambda entry: entry["macro_f1"])  # the first of equals, as the run keeps it
    checkpoint = Checkpoint.open(save)
    tree, tokenizer = checkpoint.tree, checkpoint.tokenizer
    dev = load_rows(rows_dir / "dev.txt", tree)
    again = score(checkpoint.load_model(), tree, dev, tokenizer.encode(dev.texts), tokenizer.pad_id, Decision(), 2)
    assert again.result()["loss"] == pytest.approx(best["loss"], rel=1e-5)
    assert again.result()["macro_f1"] == pytest.approx(best["macro_f1"])


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["bce", "zlpr"])
def test_the_dev_loss_is_the_one_that_is_trained(run_train, rows_dir, tmp_path, loss):
    save = tmp_path / "checkpoint"
    run_train("--dataset_dir", rows_dir, "--save_dir", save, "--epochs", 1, "--loss", loss, "--learning_rate", "1e-3")
    (entry,) = [json.loads(line) for line in (save / "metrics.jsonl").read_text().splitlines()]
    checkpoint = Checkpoint.open(save)
    dev, tokenizer = load_rows(rows_dir / "dev.txt", checkpoint.tree), checkpoint.tokenizer
    logits = predict_logits(checkpoint.load_model(), tokenizer.encode(dev.texts), tokenizer.pad_id, 2)
    expected = {"bce": [], "zlpr": []}
    for row, own in zip(logits.tolist(), dev.labels):
        p = [1 / (1 + math.exp(-x)) for x in row]
        expected["bce"].append(-sum(math.log(p[i] if i in own else 1 - p[i]) for i in range(5)) / 5)
        absent, present = (
            sum(math.exp(-x if i in own else x) for i, x in enumerate(row) if (i in own) == side)
            for side in (False, True)
        )
        expected["zlpr"].append(math.log(1 + absent) + math.log(1 + present))
    bce, zlpr = (sum(losses) / 2 for losses in expected.values())
    assert entry["loss"] == pytest.approx({"bce": bce, "zlpr": zlpr}[loss], rel=1e-5)
    assert zlpr > 1.5 * bce  # they are not to be mixed up


@pytest.mark.slow
def test_zero_f1_is_saved_and_explained(run_train, rows_dir, tmp_path, capsys):
    run_train("--dataset_dir", rows_dir, "--save_dir", tmp_path / "c", "--epochs", 1, "--threshold", 1)
    assert (tmp_path / "c" / "model.safetensors").exists()
    log = capsys.readouterr().err
    assert "F1 is 0: 5 of 5 labels are never predicted" in log
    assert "least 7" not in log and "least 6, median 7, most 14" in log  # 7 + 7 + 6 rows, 体育 in 14 of them
    assert "Final best macro f1 score: 0.00000" in log


@pytest.mark.slow
def test_early_stop_after_so_many_epochs_without_improvement(run_train, rows_dir, tmp_path, capsys):
    flags = ("--early_stop", "--early_stop_nums", 2, "--epochs", 9, "--threshold", 1)  # F1 stays 0
    run_train("--dataset_dir", rows_dir, "--save_dir", tmp_path / "c", *flags)
    assert "Early stop!" in capsys.readouterr().err
    assert len((tmp_path / "c" / "metrics.jsonl").read_text().splitlines()) == 3  # the best one and two more


def test_tuned_thresholds_are_stored_with_the_model(run_train, rows_dir, tmp_path, capsys):
    save = tmp_path / "c"
    flags = ("--epochs", 1, "--tune_threshold", "per_label", "--decoding", "path", "--stop", "confident")
    run_train("--dataset_dir", rows_dir, "--save_dir", save, *flags)
    stored = json.loads((save / "decision.json").read_text())
    assert (stored["decoding"], stored["stop"], stored["per_level"]) == ("path", "confident", 0)
    thresholds = stored["threshold"]
    assert len(thresholds) == 5 and len(set(thresholds)) == 1  # two dev rows: the guard keeps one for all
    assert "Thresholds tuned on dev (per_label)" in capsys.readouterr().err


@pytest.mark.slow
def test_a_linear_branch_is_added_to_the_best_model(run_train, tmp_path, capsys):
    """Of 200 rows, mixed by 60 others, to what a run without it left: with --resume."""
    data, save = tmp_path / "data", tmp_path / "c"
    data.mkdir()
    shutil.copy(SAMPLE / "label.txt", data)
    lines = (SAMPLE / "train.txt").read_text("utf-8").splitlines(keepends=True)
    for name, part in (("train.txt", lines[:200]), ("dev.txt", lines[200:260])):
        (data / name).write_text("".join(part), "utf-8")
    flags = ["--dataset_dir", data, "--save_dir", save, "--epochs", 1, "--batch_size", 50, "--learning_rate", "1e-3"]
    run_train(*flags)
    plain = Checkpoint.open(shutil.copytree(save, tmp_path / "plain"))
    assert plain.linear is None and not (save / "linear.safetensors").exists()
    capsys.readouterr()

    run_train(*flags, "--resume", "--hybrid", "--tune_threshold", "global")
    log = capsys.readouterr().err
    assert re.search(r"Linear branch mixed with weight \d+ and shift -?\d+\.\d\d, stored with the model", log)
    found = re.findall(r"(?:mixing|alone|mixture): micro f1 score: (0\.\d{5}), macro f1 score: (0\.\d{5})", log)
    (mixed, _), (alone, _), (tuned, _) = found
    hybrid = Checkpoint.open(save)
    assert np.array_equal(arrays(save / "model.safetensors")["classifier.weight"], plain_weights(plain))
    rows = load_rows(data / "train.txt", hybrid.tree)
    expected = fit_linear(rows.texts, rows.labels, 31).scaled(hybrid.linear.weight, hybrid.linear.shift)
    dev = load_rows(data / "dev.txt", hybrid.tree)
    assert np.array_equal(hybrid.linear.logits(dev.texts), expected.logits(dev.texts))
    ids = hybrid.tokenizer.encode(dev.texts)
    of_encoder = predict_logits(plain.load_model(), ids, hybrid.tokenizer.pad_id, 50)
    gold = dev.multi_hot(31)
    assert float(alone) == pytest.approx(evaluate(of_encoder > 0, gold, hybrid.tree)["micro_f1"], abs=1e-5)
    assert float(mixed) > float(alone) + 0.2 and float(tuned) > float(alone) + 0.2
    predictor = Predictor(save)
    wanted = of_encoder + hybrid.linear.logits(dev.texts)
    np.testing.assert_allclose(predictor.text_logits(dev.texts), wanted, atol=1e-4)
    assert predictor.decision == hybrid.decision and isinstance(hybrid.decision.threshold, float)

    run_train(*flags, "--resume", "--tune_threshold", "global")  # the branch stays, and the threshold is for both
    again = Checkpoint.open(save)
    assert again.linear is not None and again.decision == hybrid.decision

    run_train(*flags)  # a run without it leaves none
    assert Checkpoint.open(save).linear is None and not (save / "linear.safetensors").exists()


def plain_weights(checkpoint):
    return checkpoint.load_model().classifier.weight.numpy()


@pytest.mark.slow
def test_too_few_dev_rows_for_a_linear_branch(run_train, rows_dir, tmp_path, capsys):
    run_train("--dataset_dir", rows_dir, "--save_dir", tmp_path / "c", "--epochs", 1, "--hybrid")
    assert "Linear branch left out: it needs 20 dev rows or more" in capsys.readouterr().err
    assert Checkpoint.open(tmp_path / "c").linear is None


def test_warmup_steps_turn_warmup_on_and_a_missing_gpu_is_said(run_train, rows_dir, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(cpu_layers, "has_bf16", lambda: False)
    flags = ("--epochs", 1, "--warmup_steps", 3, "--device", "gpu", "--amp")
    run_train("--dataset_dir", rows_dir, "--save_dir", tmp_path / "c", *flags)
    log = capsys.readouterr().err
    assert "--warmup_steps 3 turns --warmup on" in log
    import paddle

    if not paddle.is_compiled_with_cuda():
        assert "running on the CPU" in log and "--amp: this CPU has no products in bfloat16" in log


@pytest.mark.parametrize(
    "flags, shape",
    [
        ([], "constant"),  # the reference: no schedule without --warmup
        (["--warmup"], "linear"),
        (["--warmup", "--lr_scheduler", "constant"], "constant"),
        (["--lr_scheduler", "cosine"], "cosine"),
    ],
)
def test_the_shape_of_the_rate(flags, shape):
    assert train.schedule(train.parse_args(["--dataset_dir", "data", *flags])) == shape


@pytest.mark.slow
def test_training_continues_from_init_from_ckpt(run_train, rows_dir, tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    run_train("--dataset_dir", rows_dir, "--save_dir", first, "--epochs", 2, "--learning_rate", "1e-3")
    run_train(
        *("--dataset_dir", rows_dir, "--save_dir", second, "--epochs", 1, "--init_from_ckpt"),
        *(first / "model_state.pdparams", "--learning_rate", "1e-12", "--head_learning_rate", 0),
    )
    for name, value in arrays(first / "model.safetensors").items():
        np.testing.assert_allclose(arrays(second / "model.safetensors")[name], value, atol=1e-6, err_msg=name)


def test_jsonl_rows_one_label_and_a_very_long_line(run_train, data_dir, tmp_path, capsys):
    rows = [
        {"text": "甲" * 400_000, "labels": ["只,有"]},
        {"text": "乙", "labels": []},
        {"text": "丙", "labels": ["只,有"]},
    ]
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    folder = data_dir(label_txt="只,有\n", train_jsonl=text, dev_jsonl=text + '{"text": "未标"}\n\n')
    flags = ("--train_file", "train.jsonl", "--dev_file", "dev.jsonl", "--epochs", 1, "--save_dir", tmp_path / "c")
    run_train("--dataset_dir", folder, *flags)
    assert "dev.jsonl: skipped 1 blank and 1 unlabelled lines" in capsys.readouterr().err


def test_labels_without_rows_and_missing_parents_are_reported(run_train, data_dir, tmp_path, capsys):
    folder = data_dir(train_txt="国足今晚出战\t体育##足球\n大盘跳水\t财经,财经##股票\n")
    run_train("--dataset_dir", folder, "--save_dir", tmp_path / "c", "--epochs", 1)
    log = capsys.readouterr().err
    assert "train.txt: 1 rows lack a parent of one of their labels, first '国足今晚出战'" in log
    assert "train.txt: no row for 2 of 5 labels (体育, 体育##篮球)" in log
    assert "dev.txt: no row for 1 of 5 labels (体育##篮球)" in log


@pytest.mark.slow
def test_the_last_model(run_train, rows_dir, tmp_path, capsys):
    """--select_by last keeps what a run ends with, though another epoch may have scored better."""
    save, flags = tmp_path / "c", ["--dataset_dir", rows_dir, "--learning_rate", "1e-3", "--select_by", "last"]
    run_train(*flags, "--epochs", 3, "--save_dir", save)
    log = (save / "train.log").read_text("utf-8")
    assert "best" not in log and f"Save last text classification model in {save}" in log
    state = arrays(save / "state.safetensors")
    for name, value in arrays(save / "model.safetensors").items():
        assert np.array_equal(value, state[f"parameter/{name}"]), name
    error = fails(run_train, capsys, *flags, "--early_stop", "--save_dir", save)
    assert "--early_stop: needs a dev score that stagnates, and --select_by last has none" in error


@pytest.mark.slow
def test_a_recipe(run_train, rows_dir, tmp_path):
    """Flags that are given count more; the others are those of the recipe, and of the number of rows."""
    save = tmp_path / "c"
    run_train("--dataset_dir", rows_dir, "--save_dir", save, "--recipe", "best", "--loss", "bce", "--epochs", 2)
    told = (
        "--epochs 2, --batch_size 2, --warmup_steps 2, --loss bce, --learning_rate auto, --lr_scheduler linear, "
        "--select_by last, --hybrid"
    )
    assert f"--recipe best: {told}" in (save / "train.log").read_text("utf-8")
    arguments = json.loads((save / "run.json").read_text("utf-8"))["arguments"]
    expected = {"recipe": "best", "loss": "bce", "learning_rate": 1e-3, "hybrid": True, "warmup": True, "epochs": 2}
    assert expected.items() <= arguments.items()
    written_out = told.split(", --hybrid")[0].replace(",", "").split()
    run_train("--dataset_dir", rows_dir, "--save_dir", save, *written_out, "--resume")


@pytest.mark.slow
def test_shortlists_of_labels(run_train, rows_dir, tmp_path, monkeypatch):
    """--head sampled: the same files, of all labels; stopped within the second epoch and resumed, the same bits."""
    monkeypatch.setattr(shortlist, "SIZE", 4)
    with open(rows_dir / "label.txt", "a", encoding="utf-8") as file:
        file.writelines(f"其他{i}\n" for i in range(9))
    flags = ["--dataset_dir", rows_dir, "--head", "sampled", "--learning_rate", "1e-3", "--tune_threshold", "global"]
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    run_train(*flags, "--epochs", 2, "--save_dir", whole)
    assert "a step sees 8 of 14 labels" in (whole / "train.log").read_text("utf-8")  # twice the labels of two rows
    with monkeypatch.context() as patch:
        step = train.Trainer.train_step
        patch.setattr(train.Trainer, "train_step", lambda *given, **named: interrupted(step, *given, **named))
        with pytest.raises(SystemExit) as end:
            run_train(*flags, "--epochs", 2, "--save_dir", broken)
    assert end.value.code == 128 + signal.SIGTERM
    run_train(*flags, "--epochs", 2, "--save_dir", broken, "--resume")
    assert_same_arrays(whole / "state.safetensors", broken / "state.safetensors")
    assert_same_arrays(whole / "model.safetensors", broken / "model.safetensors")
    assert arrays(whole / "model.safetensors")["classifier.weight"].shape == (128, 14)
    assert Checkpoint.open(whole).decision.threshold != 0.5


@pytest.mark.slow
def test_texts_are_normalised_as_in_training_from_then_on(run_train, rows_dir, tmp_path, capsys):
    """In the checkpoint, in its export, and in a training that starts from it; and that is no question of chance."""
    texts = [(rows_dir / "train.txt").read_text("utf-8"), "国足今晚出战第１２期\u200b"]
    flags = ("--dataset_dir", rows_dir, "--epochs", 1, "--save_dir")
    run_train(*flags, tmp_path / "plain")
    run_train(*flags, tmp_path / "c", "--normalize", "nfkc")
    run_train(*flags, tmp_path / "d", "--model_name", tmp_path / "c")
    for name in ("c", "d"):
        config = json.loads((tmp_path / name / "tokenizer_config.json").read_text("utf-8"))
        assert config["normalize"] == "nfkc"
        predictor = Predictor(tmp_path / name)
        assert predictor.tokenizer.encode(texts[1:]) == predictor.tokenizer.encode(["国足今晚出战第12期"])
    assert "normalize" not in json.loads((tmp_path / "plain" / "tokenizer_config.json").read_text("utf-8"))
    (tmp_path / "c" / "tokenizer_config.json").write_bytes((tmp_path / "plain" / "tokenizer_config.json").read_bytes())
    with pytest.raises(InputError, match="tokenizer_config.json: is not the file that goes with model.safetensors"):
        Predictor(tmp_path / "c")
    error = fails(run_train, capsys, *flags, tmp_path / "plain", "--resume", "--normalize", "nfkc")
    assert "normalize: None then, 'nfkc' now" in error


# ---- several processes -----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_two_gloo_processes_equal_one_with_the_same_global_batch(run_train, rows_dir, tmp_path):
    model = tmp_path / "model"  # without dropout, whose masks differ between processes on purpose
    shutil.copytree(SAMPLE / "tiny-ernie", model)
    config = json.loads((model / "config.json").read_text())
    config |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    (model / "config.json").write_text(json.dumps(config))
    common = ["--dataset_dir", str(rows_dir), "--model_name", str(model), "--epochs", "2", "--learning_rate", "1e-3"]
    common.append("--keep_dynamics")
    run_train(*common, "--batch_size", 4, "--save_dir", tmp_path / "one")
    command = [sys.executable, "-m", "paddle.distributed.launch", "--nproc_per_node", "2", "--backend", "gloo"]
    command += ["--log_dir", str(tmp_path / "log"), "train.py", *QUICK, *common, "--batch_size", "2"]
    done = subprocess.run(
        [*command, "--save_dir", str(tmp_path / "two")], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    one, two = ([json.loads(line) for line in (tmp_path / n / "metrics.jsonl").open()] for n in ("one", "two"))
    for a, b in zip(one, two, strict=True):
        assert a["step"] == b["step"] and a["n_rows"] == b["n_rows"] == 2  # dev is shared out, not repeated
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-3)
        assert a["micro_f1"] == b["micro_f1"] and a["macro_f1"] == b["macro_f1"]
    first, second = arrays(tmp_path / "one" / "state.safetensors"), arrays(tmp_path / "two" / "state.safetensors")
    for name in first:
        if name == "dynamics" or name.startswith("parameter/") and NO_GRADIENT not in name:
            np.testing.assert_allclose(first[name], second[name], atol=2e-3, err_msg=name)
    assert (tmp_path / "two" / "train.log").read_text("utf-8").count("eval loss") == 2  # one writer
