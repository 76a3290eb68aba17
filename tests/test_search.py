"""search.py: what is tried, stopped, kept and said at the end; going on after a kill; several processes.

Most trainings are played by a script that writes the scores of a training at once: the nearer the rate to 2e-3, the better.
"""

import json
import re
import signal
import subprocess
import sys
import time
from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest

import search
from tests.conftest import ROOT, SAMPLE
from utils import InputError, LabelTree, Rows, run

PLAYED = """
import json, math, pathlib, sys, time
flags = dict(zip(sys.argv[1::2], sys.argv[2::2]))
folder, epochs = pathlib.Path(flags["--save_dir"]), int(flags["--epochs"])
(folder / "flags.json").write_text(json.dumps(flags))
print("resumed" if "--resume" in sys.argv else "begun", flush=True)
if MODE == "broken":
    sys.exit("out of memory")
if MODE == "diverging" and folder.name != "0000":  # a rate drawn by chance may be that of the defaults
    print("error: the loss is nan at step 3: training diverged; lower --learning_rate")
    sys.exit(2)
if MODE == "dropping":
    import sqlite3
    sqlite3.connect(folder.parents[1] / "search.db").execute("DROP TABLE trial_values")
end = time.time() + 60
while MODE == "together" and len(list(folder.parent.iterdir())) < 2 and time.time() < end:
    time.sleep(0.01)  # until another process has a trial, too
lines, worth = [], 1 - abs(math.log10(float(flags["--learning_rate"]) / 2e-3)) / 2
for epoch in range(epochs):
    lines.append({"macro_f1": worth * (epoch + 1) / epochs, "micro_f1": 0.5})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\\n" for line in lines))
    for name in ("model.safetensors", "state.safetensors"):
        (folder / name).write_bytes(b"-")
    time.sleep(600 if MODE == "slow" and worth < 0.6 else PAUSE)  # until it is stopped
"""
EVALUATED = """
import json, pathlib, sys
flags = dict(zip(sys.argv[1::2], sys.argv[2::2]))
assert pathlib.Path(flags["--params_path"], "model.safetensors").exists() and flags["--dev_file"] == "dev.txt"
pathlib.Path(flags["--output_json"]).write_text(json.dumps({"dev": {"micro_f1": 0.9, "macro_f1": 0.8}}))
"""


@pytest.fixture
def played(tmp_path, monkeypatch):
    """played(mode, pause) puts a script in the place of train.py; pause: seconds an epoch.

    "well", "diverging", "broken"; "dropping" the storage; "slow" after a first epoch that is worth little; "together":
    it waits until there are two trials
    """

    def play(mode="well", pause=0.0):
        (tmp_path / "train.py").write_text(f"MODE, PAUSE = {mode!r}, {pause}\n{PLAYED}")
        (tmp_path / "evaluate.py").write_text(EVALUATED)
        monkeypatch.setattr(search, "TRAIN", tmp_path / "train.py")
        monkeypatch.setattr(search, "EVALUATE", tmp_path / "evaluate.py")

    play()
    return play


@pytest.fixture
def data(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    for name, count in (("train.txt", 60), ("dev.txt", 20), ("label.txt", 99)):
        lines = (SAMPLE / name).read_text("utf-8").splitlines(keepends=True)[:count]
        (folder / name).write_text("".join(lines), "utf-8")
    return folder


@pytest.fixture
def searched(data, tmp_path, capsys):
    """searched(*flags) runs the script; what it logged, and its exit code."""

    def call(*flags):
        own = ["--dataset_dir", data, "--model_name", SAMPLE / "tiny-ernie", "--device", "cpu"]
        own += ["--work_dir", tmp_path / "work", "--max_epochs", 4, *flags]
        code = 0
        try:
            run(lambda: search.main([str(word) for word in own]))
        except SystemExit as end:
            code = end.code
        return capsys.readouterr().err, code

    return call


def folders(tmp_path, name="model.safetensors"):
    return sorted(path.parent.name for path in (tmp_path / "work" / "trials").glob(f"*/{name}"))


def trials(tmp_path):
    import optuna

    return optuna.load_study(study_name="search", storage=f"sqlite:///{tmp_path / 'work' / 'search.db'}").trials


def test_flags_by_hand():
    settings = {"learning_rate": 0.000123456, "epochs": 3, "batch_size": 8, "warmup": 0.1, "loss": "zlpr"}
    words = "--learning_rate 0.000123 --epochs 3 --batch_size 8 --loss zlpr --warmup_steps 4"  # 39 steps of 100 rows
    assert search.flags(settings, 100) == words.split()


@pytest.mark.slow
def test_the_trainings_get_the_graph_of_the_labels(tmp_path):
    tree = LabelTree(["A", "A##B", "C"], further=[(1, 2)])
    args = SimpleNamespace(inner_dev=Fraction(1, 4), seed=1, work_dir=tmp_path)
    search.inner_split(args, tree, Rows([f"text {i}" for i in range(12)], [(0, 1, 2)] * 12, 0, 0))
    assert LabelTree.read(tmp_path / "data" / "label.txt").is_same(tree)


def test_a_search_keeps_the_best_and_says_what_to_type(searched, played, data, tmp_path):
    log, code = searched("--trials", 4, "--", "--weight_decay", "0.05")
    assert code == 0 and len(trials(tmp_path)) == 4
    for name in folders(tmp_path, "flags.json"):
        assert json.loads((tmp_path / "work" / "trials" / name / "flags.json").read_bytes())["--weight_decay"] == "0.05"
    ended = [trial for trial in trials(tmp_path) if trial.state.name == "COMPLETE"]
    first, best = trials(tmp_path)[0], max(ended, key=lambda trial: trial.value)
    assert first.params["learning_rate"] == 1e-3 and first.params["epochs"] == 4 and first.params["warmup"] == 0
    assert first.value == pytest.approx(1 - np.log10(2) / 2)
    assert folders(tmp_path) == sorted({"0000", f"{best.number:04}"}) and len(folders(tmp_path, "metrics.jsonl")) == 4
    assert (
        "defaults (0000), trained on the inner rows, on dev.txt: micro f1 score: 0.90000, macro f1 score: 0.80000"
        in log
    )
    command = re.search(r"Train with:\n(python train.py .*)", log)[1]
    assert f"--dataset_dir {data}" in command and f"--learning_rate {best.params['learning_rate']:.3g} " in command
    steps = best.params["epochs"] * -(-60 // best.params["batch_size"])  # of all rows, not of the inner ones
    assert command.endswith(f"--warmup_steps {round(best.params['warmup'] * steps)} --weight_decay 0.05")
    page = (tmp_path / "work" / "report.html").read_text("utf-8")
    assert page.count("<svg") >= 1 and page.count("<tr>") == 5 and "<script" not in page
    inner = [
        json.loads(line)["text"]
        for name in ("train", "dev")
        for line in open(tmp_path / "work" / "data" / f"{name}.jsonl")
    ]
    assert sorted(inner) == sorted(line.split("\t")[0] for line in open(data / "train.txt"))  # and no row of dev.txt
    again, code = searched("--trials", 4, "--", "--weight_decay", "0.05")  # there is nothing left to do, but to say it
    assert code == 0 and command in again and len(trials(tmp_path)) == 4
    (tmp_path / "work" / "search.db").unlink()
    _, code = searched("--trials", 2)  # a new search, which takes nothing of the old one's trainings
    assert code == 0 and (tmp_path / "work" / "trials" / "0000" / "output.log").read_text().split() == ["begun"]


@pytest.mark.slow
def test_a_trial_that_others_beat_is_stopped(searched, played, tmp_path):
    import optuna

    searched("--trials", 2)
    study = optuna.load_study(study_name="search", storage=f"sqlite:///{tmp_path / 'work' / 'search.db'}")
    for rate in (1e-3, 1e-3, 1e-3, 1e-3, 2e-4):  # scores of 0.85, and of 0.5
        study.enqueue_trial({"learning_rate": rate, "epochs": 4})
    played("slow")
    log, code = searched("--trials", 7)
    assert code == 0 and [trial.state.name for trial in trials(tmp_path)] == ["COMPLETE"] * 6 + ["PRUNED"]
    assert "trial 6: stopped after 1 of 4 epochs" in log


@pytest.mark.slow
def test_trainings_that_fail(searched, played, tmp_path):
    played("diverging")
    log, code = searched("--trials", 3)
    assert code == 0 and [trial.state.name for trial in trials(tmp_path)] == ["COMPLETE", "PRUNED", "PRUNED"]
    assert "No trial was better than the defaults" in log and log.count("trained on the inner rows") == 1
    played("broken")
    log, code = searched("--trials", 4)
    assert code == 2 and "train.py failed: out of memory (" in log and "Traceback" not in log


@pytest.mark.slow
def test_a_storage_that_fails_in_the_middle(searched, played):
    played("dropping")
    log, code = searched("--trials", 2)
    assert code == 2 and "no such table: trial_values. Once it answers, the same command goes on." in log
    assert "Traceback" not in log


@pytest.mark.slow
def test_what_a_user_gets_wrong(searched, played, data, tmp_path):
    assert searched("--trials", 2)[1] == 0
    inner = (tmp_path / "work" / "data" / "train.jsonl").read_bytes()
    first, second = [line for line in (data / "label.txt").read_text("utf-8").split() if "##" not in line][:2]
    child = next(line for line in (data / "label.txt").read_text("utf-8").split() if line.startswith(f"{first}##"))
    (data / "label_graph.txt").write_text(f"{child}\t{second}\n", "utf-8")
    log, code = searched("--trials", 2)
    assert code == 2 and "holds a search that differs in label_graph. Give another place." in log
    assert searched("--trials", 2, "--work_dir", tmp_path / "graph")[1] == 0
    (data / "label_graph.txt").unlink()
    log, code = searched("--trials", 2, "--work_dir", tmp_path / "graph")
    assert code == 2 and "holds a search that differs in label_graph. Give another place." in log
    log, code = searched("--trials", 2, "--seed", 4)
    assert (tmp_path / "work" / "data" / "train.jsonl").read_bytes() == inner  # that of the search which is there
    assert code == 2 and "holds a search that differs in seed. Give another place." in log
    for flags, message in (
        (("--storage", "nonsense"), "--storage nonsense: Could not parse"),
        (("--inner_dev", "1"), "--inner_dev: must be between 0 and 1, got 1"),
        (
            ("--inner_dev", "0.001", "--work_dir", tmp_path / "other"),
            "--inner_dev 0.001: of 60 train rows none is left to dev.",
        ),
        (("--trials", "1"), "--trials: must be at least 2"),
        (("--trials", "2", "--", "--amp"), "holds a search that differs in train flags. Give another place."),
        (("--", "--hybrid", "--epochs=3"), "--epochs: each trial has its own; leave it out after --"),
        (("--", "--epoch", "3"), "--epochs: each trial has its own; leave it out after --"),
        (("--", "--resume"), "--resume: each trial has its own; leave it out after --"),
        (("extra",), "extra: is no flag; those of train.py follow a bare --"),
    ):
        log, code = searched(*flags)
        assert code == 2 and message in log and "Traceback" not in log, log


def test_a_model_that_another_process_removes_meanwhile(tmp_path, monkeypatch):
    monkeypatch.setattr(search, "EVALUATE", tmp_path / "evaluate.py")
    args = SimpleNamespace(dataset_dir=tmp_path, dev_file="dev.txt", label_file="label.txt", device="cpu")
    (tmp_path / "model.safetensors").write_bytes(b"-")
    (tmp_path / "evaluate.py").write_text("import sys; sys.exit('out of memory')")
    with pytest.raises(InputError, match="analysis/evaluate.py failed: out of memory"):
        search.dev_scores(args, tmp_path)
    (tmp_path / "evaluate.py").write_text(f"import os; os.unlink({str(tmp_path / 'model.safetensors')!r}); 1 / 0")
    assert search.dev_scores(args, tmp_path) is None


RUN = """
import sys
import search
from hierarchical import trial_storage
search.TRAIN, search.EVALUATE = sys.argv.pop(1), sys.argv.pop(1)
trial_storage.ALIVE, trial_storage.DEAD = 1, int(sys.argv.pop(1))
search.pictures = lambda study: ()  # whose libraries take two seconds to load; other tests look at the report
search.main()
"""


def start(data, tmp_path, *flags, dead=60):
    """dead: seconds without a sign of life after which other processes give a trial up"""
    command = [sys.executable, "-c", RUN, tmp_path / "train.py", tmp_path / "evaluate.py", dead, "--dataset_dir", data]
    command += ["--model_name", SAMPLE / "tiny-ernie", "--device", "cpu", "--work_dir", tmp_path / "work", *flags]
    return subprocess.Popen([str(word) for word in command], cwd=ROOT, stderr=subprocess.PIPE, text=True)


def wait_for_scores(process, tmp_path):
    """Until the first trial has one, and a state to go on from, which is written last."""
    while not (tmp_path / "work" / "trials" / "0000" / "state.safetensors").exists():
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.1)


@pytest.mark.slow
def test_a_killed_search_takes_its_trial_up_where_it_was(data, played, tmp_path):
    played(pause=1.0)
    process = start(data, tmp_path, "--trials", "2", "--max_epochs", "9", dead=2)
    wait_for_scores(process, tmp_path)
    process.kill()  # and with it nothing tells the storage
    process.wait()
    subprocess.run(["pkill", "-f", str(tmp_path / "train.py")])
    time.sleep(3)
    played()
    process = start(data, tmp_path, "--trials", "2", "--max_epochs", "9", dead=2)
    assert process.wait() == 0, process.stderr.read()
    assert (tmp_path / "work" / "trials" / "0000" / "output.log").read_text().split() == ["begun", "resumed"]
    assert [trial.state.name for trial in trials(tmp_path)].count("COMPLETE") == 2


@pytest.mark.slow
def test_an_interrupted_search_goes_on(data, played, tmp_path):
    played(pause=0.5)
    process = start(data, tmp_path, "--trials", "2", "--max_epochs", "9")
    wait_for_scores(process, tmp_path)
    process.send_signal(signal.SIGTERM)
    process.wait()
    assert not subprocess.run(["pgrep", "-f", str(tmp_path / "train.py")], capture_output=True).stdout
    played()
    process = start(data, tmp_path, "--trials", "2", "--max_epochs", "9")
    assert process.wait() == 0, process.stderr.read()
    assert (tmp_path / "work" / "trials" / "0000" / "output.log").read_text().split() == ["begun", "resumed"]


@pytest.mark.slow
def test_a_training_that_is_stopped_from_outside_stops_the_search(data, played, tmp_path):
    """As a signal that reaches both, where the training is the first to end. (SIGINT may be ignored by what runs this.)"""
    played(pause=0.5)
    process = start(data, tmp_path, "--trials", "2", "--max_epochs", "9")
    wait_for_scores(process, tmp_path)
    subprocess.run(["pkill", "-TERM", "-f", str(tmp_path / "train.py --dataset_dir")])
    assert process.wait() != 0 and "KeyboardInterrupt" in process.stderr.read()
    assert [trial.state.name for trial in trials(tmp_path)] == ["FAIL", "WAITING"]
    assert trials(tmp_path)[1].user_attrs["folder"] == "0000"


@pytest.mark.slow
@pytest.mark.parametrize("storage", ["sqlite", "journal"])
def test_two_processes_share_the_trials(data, played, tmp_path, storage):
    played("together")
    flags = ["--trials", "5", "--max_epochs", "2", "--storage", f"{storage}:///{tmp_path / 'shared.db'}"]
    both = [start(data, tmp_path, *flags) for _ in range(2)]
    logs = [process.communicate()[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], logs
    ends = [sorted(map(int, re.findall(r"trial (\d+): ", log))) for log in logs]
    assert all(ends) and sorted(ends[0] + ends[1])[:5] == list(range(5)) and len(ends[0] + ends[1]) <= 6
    commands = {re.search(r"Train with:\n(.*)", log)[1] for log in logs}
    assert len(commands) <= 2 and all("--learning_rate" in command for command in commands)


@pytest.mark.slow
def test_two_real_trainings(searched, tmp_path):
    log, code = searched("--trials", 2, "--max_epochs", 2, "--select_by", "micro_f1")
    assert code == 0 and log.count("trained on the inner rows") in (1, 2), log
    assert re.search(r"python train.py .*--learning_rate", log)


def test_report_of_a_single_trial(tmp_path):
    """No importance yet, and nothing of the command is HTML."""
    import optuna

    study = optuna.create_study(direction="maximize")
    study.optimize(lambda trial: trial.suggest_float("learning_rate", 1e-4, 1e-3), n_trials=1)
    search.write_report(tmp_path / "report.html", study, "python train.py <&>")
    page = (tmp_path / "report.html").read_text("utf-8")
    assert "python train.py &lt;&amp;&gt;" in page and page.count("<tr>") == 2
    assert search.best_of(SimpleNamespace(best_trial=study.best_trial)).number == 0
