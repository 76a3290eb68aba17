"""train.py: runs that are killed, stopped and resumed, and what a run puts in the place of what was there."""

import json
import os
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

import train
from hierarchical.predictor import Predictor
from tests.conftest import ROOT, SAMPLE, without_identity
from tests.trainings import QUICK, arrays, assert_same_arrays, fails

# ---- stopped and resumed ---------------------------------------------------------------------------------------------


# train.py in a process that sends itself a signal (a number) after the n-th step.
SIGNALLED = """
import os, sys
import train
n, number, step = int(sys.argv.pop(1)), int(sys.argv.pop(1)), train.Trainer.train_step
def signalled(trainer, *given):
    loss = step(trainer, *given)
    if trainer.step == n:
        os.kill(os.getpid(), number)
    return loss
train.Trainer.train_step = signalled
train.main()
"""


def start(step, number, rows_dir, save, *flags):
    command = [sys.executable, "-c", SIGNALLED, str(step), str(int(number)), *QUICK, "--dataset_dir", str(rows_dir)]
    command += ["--save_dir", str(save), *flags]
    return subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True, encoding="utf-8")


@pytest.mark.slow
def test_killed_and_resumed_ends_bit_for_bit_like_an_uninterrupted_run(run_train, rows_dir, tmp_path, capsys):
    """While it runs, another one into its directory is refused; a kill gives the directory free."""
    flags = ["--epochs", "3", "--learning_rate", "1e-3", "--warmup_steps", "4", "--keep_dynamics"]
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    run_train("--dataset_dir", rows_dir, "--save_dir", whole, *flags)

    with start(7, signal.SIGTERM, rows_dir, broken, *flags) as process:  # inside the first epoch
        rest = process.stderr.read()
    assert process.returncode == 128 + signal.SIGTERM and "continue with --resume" in rest and "Traceback" not in rest

    with start(25, signal.SIGSTOP, rows_dir, broken, *flags, "--resume") as process:
        os.waitpid(process.pid, os.WUNTRACED)  # inside the third epoch: it will go back to the state after the second
        error = fails(run_train, capsys, "--dataset_dir", rows_dir, "--save_dir", broken)
        assert f"{broken}: another process is writing there; wait until it ends, or give another --save_dir." in error
        assert "another process" not in (broken / "train.log").read_text("utf-8")
        process.kill()
        assert "Resuming after 0 epochs" in process.stderr.read()
    assert process.returncode == -signal.SIGKILL

    run_train(
        "--dataset_dir", rows_dir, "--save_dir", broken, *flags[:-1], "--resume"
    )  # what it kept it goes on keeping
    assert_same_arrays(whole / "state.safetensors", broken / "state.safetensors")
    assert_same_arrays(whole / "model.safetensors", broken / "model.safetensors")
    assert (whole / "metrics.jsonl").read_text() == (broken / "metrics.jsonl").read_text()
    with np.load(whole / "dynamics.npz") as noted:
        assert noted["values"].shape == (3, 20) and (0 <= noted["values"]).all() and (noted["values"] <= 1).all()
        assert np.array_equal(noted["values"], arrays(broken / "state.safetensors")["dynamics"])
        assert noted["values"][2].mean() > noted["values"][0].mean() + 0.1, "it learns"


@pytest.mark.slow
def test_a_power_cut_within_an_epoch_costs_the_steps_since_the_last_state(run_train, rows_dir, tmp_path):
    """Evaluations within epochs: the killed and resumed run has the same ones, to the last bit."""
    flags = ["--epochs", "2", "--learning_rate", "1e-3", "--eval_steps", "4", "--save_steps", "3"]
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    run_train("--dataset_dir", rows_dir, "--save_dir", whole, *flags)
    history = [json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines()]
    assert [entry["step"] for entry in history] == [4, 8, 12, 16, 20]  # of 10 steps an epoch
    assert [entry["epoch"] for entry in history] == [0.4, 0.8, 1.2, 1.6, 2]

    with start(10, signal.SIGKILL, rows_dir, broken, *flags) as process:
        process.communicate()
    assert process.returncode == -signal.SIGKILL
    with safe_open(broken / "state.safetensors", "np") as file:
        assert json.loads(file.metadata()["progress"])["step"] == 9
    run_train("--dataset_dir", rows_dir, "--save_dir", broken, *flags, "--resume")
    assert_same_arrays(whole / "state.safetensors", broken / "state.safetensors")
    assert_same_arrays(whole / "model.safetensors", broken / "model.safetensors")
    assert (whole / "metrics.jsonl").read_text() == (broken / "metrics.jsonl").read_text()


@pytest.mark.slow
def test_a_signal_during_the_last_evaluation_is_not_lost(run_train, rows_dir, tmp_path, monkeypatch):
    evaluate, before = train.evaluate, signal.getsignal(signal.SIGTERM)

    def asked_to_stop(*arguments):
        os.kill(os.getpid(), signal.SIGTERM)
        return evaluate(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(train, "evaluate", asked_to_stop)
        with pytest.raises(SystemExit) as end:
            run_train("--dataset_dir", rows_dir, "--save_dir", tmp_path / "c", "--epochs", 1)
    assert end.value.code == 128 + signal.SIGTERM and signal.getsignal(signal.SIGTERM) == before
    run_train("--dataset_dir", rows_dir, "--save_dir", tmp_path / "c", "--epochs", 1, "--resume")
    assert len((tmp_path / "c" / "metrics.jsonl").read_text().splitlines()) == 1  # it was done, and is not done again


@pytest.mark.slow
def test_resume_refuses_another_run_and_a_damaged_state(run_train, rows_dir, tmp_path, capsys):
    flags = ("--dataset_dir", rows_dir, "--save_dir", tmp_path / "c", "--epochs", 1)
    assert "--resume: no" in fails(run_train, capsys, *flags, "--resume")
    run_train(*flags)
    error = fails(run_train, capsys, *flags, "--resume", "--seed", 4)
    assert "was another one (seed: 3 then, 4 now)" in error
    run_train(*flags[:-1], 2, "--resume")  # a constant rate may go on for more epochs
    assert len((tmp_path / "c" / "metrics.jsonl").read_text().splitlines()) == 2
    state = tmp_path / "c" / "state.safetensors"
    state.write_bytes(state.read_bytes()[:5000])
    assert "not a readable state" in fails(run_train, capsys, *flags[:-1], 3, "--resume")


@pytest.mark.slow
def test_a_resumed_run_keeps_its_tokenizer(run_train, rows_dir, tmp_path, capsys):
    model = shutil.copytree(SAMPLE / "tiny-ernie", tmp_path / "model")
    flags = ("--dataset_dir", rows_dir, "--save_dir", tmp_path / "c", "--model_name", model, "--epochs")
    run_train(*flags, 1)
    run_train(*flags, 2, "--resume")
    assert "0.9.0" not in capsys.readouterr().err
    lines = (model / "vocab.txt").read_text("utf-8").splitlines()
    (model / "vocab.txt").write_text("\n".join([*lines[:50], *lines[:49:-1]]), "utf-8")
    assert "--resume: the run began with another vocab.txt" in fails(run_train, capsys, *flags, 3, "--resume")


@pytest.mark.slow
def test_a_run_of_the_version_before_identities_is_continued(run_train, rows_dir, tmp_path, capsys):
    """Its checkpoint has no metadata, and its state does not say which tokenizer it had: that is told."""
    flags = ("--dataset_dir", rows_dir, "--save_dir", tmp_path / "c", "--epochs")
    run_train(*flags, 1)
    state = tmp_path / "c" / "state.safetensors"
    without_identity(tmp_path / "c")
    with safe_open(state, "np") as file:
        progress = json.loads(file.metadata()["progress"])
    for name in ("tokenizer", "add_tokens", "normalize", "per_level", "stop", "teacher", "unlabelled_file"):
        del progress["fingerprint"][name]
    save_file(arrays(state), state, {"progress": json.dumps(progress)})
    capsys.readouterr()
    run_train(*flags, 2, "--resume")
    told = "state.safetensors is of version 0.9.0, which did not note the tokenizer: going on with that of --model_name"
    assert told in capsys.readouterr().err
    with safe_open(state, "np") as file:
        assert json.loads(file.metadata()["progress"])["fingerprint"].keys() >= {"tokenizer", "add_tokens"}
    (tmp_path / "tokens.txt").write_text("🙂\n", "utf-8")
    error = fails(run_train, capsys, *flags, 3, "--resume", "--add_tokens", tmp_path / "tokens.txt")
    assert "add_tokens: None then" in error


# ---- what is replaced ------------------------------------------------------------------------------------------------


def test_the_encoder_is_not_overwritten(run_train, rows_dir, tiny_checkpoint, capsys):
    before = (tiny_checkpoint / "model.safetensors").read_bytes()
    names = ("--model_name", tiny_checkpoint, "--save_dir", tiny_checkpoint.parent / "." / tiny_checkpoint.name)
    error = fails(run_train, capsys, "--dataset_dir", rows_dir, *names)
    assert "--save_dir" in error and "the encoder lies there and would be overwritten" in error
    assert (tiny_checkpoint / "model.safetensors").read_bytes() == before


def test_the_rows_are_not_trained_into(run_train, rows_dir, capsys):
    before = {path.name: path.read_bytes() for path in rows_dir.iterdir()}
    error = fails(run_train, capsys, "--dataset_dir", rows_dir, "--save_dir", rows_dir / ".." / rows_dir.name)
    assert "--save_dir" in error and "is the data folder" in error
    assert {path.name: path.read_bytes() for path in rows_dir.iterdir()} == before


def test_a_run_into_an_export_is_refused(run_train, rows_dir, tmp_path, capsys):
    (tmp_path / "export.json").write_text("{}")
    error = fails(run_train, capsys, "--dataset_dir", rows_dir, "--save_dir", tmp_path)
    assert f"--save_dir {tmp_path}: holds an export, which would be replaced. Give another directory." in error
    assert not (tmp_path / "train.log").exists()


@pytest.mark.slow
def test_the_state_of_an_earlier_run_goes_with_its_model(run_train, rows_dir, tmp_path, monkeypatch, capsys):
    """Killed between the first model of a run and its state, the run before cannot go on beside that model."""
    save, flags = tmp_path / "c", ("--dataset_dir", rows_dir, "--save_dir", tmp_path / "c", "--epochs", 1)
    run_train(*flags)
    assert (save / "state.safetensors").exists()

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(train, "save_progress", killed)
        with pytest.raises(SystemExit):
            run_train(*flags, "--seed", 7)
    assert "--resume: no" in fails(run_train, capsys, *flags, "--resume")


@pytest.mark.slow
def test_a_full_disk_leaves_the_previous_best(run_train, rows_dir, tmp_path, capsys, monkeypatch):
    save = tmp_path / "c"
    run_train("--dataset_dir", rows_dir, "--save_dir", save, "--epochs", 1)
    before = (save / "model.safetensors").read_bytes()
    real = os.fsync

    def no_space(descriptor):
        if os.path.realpath(f"/proc/self/fd/{descriptor}").endswith(".safetensors." + str(os.getpid()) + ".tmp"):
            raise OSError(28, "No space left on device", "model.safetensors")
        return real(descriptor)

    monkeypatch.setattr(os, "fsync", no_space)
    error = fails(run_train, capsys, "--dataset_dir", rows_dir, "--save_dir", save, "--epochs", 1, "--seed", 5)
    assert "No space left on device" in error
    assert (save / "model.safetensors").read_bytes() == before and not list(save.glob("*.tmp"))


# Runs train.py once for each (function of os, n, flags), in a process that ends at the n-th call of that function, as a
# kill would end it. They are children of one that has loaded the libraries.
DIES = """
import json, os, sys
import paddle, paddlenlp.transformers
import train
for name, at, flags in json.loads(sys.argv[1]):
    if os.fork():
        assert os.waitstatus_to_exitcode(os.wait()[1]) == 9
        continue
    real, calls = getattr(os, name), []
    def dying(*args, **kwargs):
        calls.append(args)
        if len(calls) == at:
            os._exit(9)
        return real(*args, **kwargs)
    setattr(os, name, dying)
    try:
        train.main(flags)
    finally:
        os._exit(1)
"""


@pytest.mark.slow
def test_a_killed_run_leaves_the_old_checkpoint_or_the_new_one(run_train, data_dir, tmp_path):
    """A training into the checkpoint of another, whose labels came in another order."""

    def answer(folder):
        return Predictor(folder).predict(["国足今晚出战"], floor=0)

    data, old, new = data_dir(), tmp_path / "old", tmp_path / "new"
    run_train("--dataset_dir", data, "--save_dir", old, "--epochs", 1)
    labels = (data / "label.txt").read_text("utf-8").split()
    (data / "label.txt").write_text("\n".join([*labels[3:], *labels[:3]]), "utf-8")
    run_train("--dataset_dir", data, "--save_dir", new, "--epochs", 1)
    whole, flags = [answer(old), answer(new)], [*QUICK, "--dataset_dir", str(data), "--epochs", "1", "--save_dir"]
    kills = {"link 1": True, "link 6": True, "fsync 13": False}  # whether the new one is in force by then
    runs = [
        (kill.split()[0], int(kill.split()[1]), [*flags, str(shutil.copytree(old, tmp_path / kill))]) for kill in kills
    ]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", DIES, json.dumps(runs)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, env=environment, text=True)
    assert done.returncode == 0, done.stderr
    assert whole[0] != whole[1]
    for kill, is_new in kills.items():
        save = tmp_path / kill
        assert answer(save) == whole[is_new] and (save / ".saving").exists(), kill
        run_train("--dataset_dir", data, "--save_dir", save, "--epochs", 1)  # whatever was left is no hindrance
        assert answer(save) == whole[1] and not (save / ".saving").exists(), kill
