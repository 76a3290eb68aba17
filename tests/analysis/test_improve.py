"""analysis/improve.py: the steps in their order, what a stopped round leaves, and two real rounds answered by a script."""

import json
import os
import re
import subprocess
import sys
import threading
from contextlib import contextmanager

import httpx
import pytest

from analysis import improve
from hierarchical.rounds import Done, write_done
from tests.conftest import ROOT
from utils import InputError, run


@pytest.fixture
def calls(monkeypatch):
    """The commands that were run, as lists of words; `calls.fail` names a script that fails."""

    class Calls(list):
        fail = None

    calls = Calls()

    def call(command, step, logger, may_fail=False):
        calls.append(command)
        if command[0] == calls.fail and not may_fail:
            raise InputError(f"the step {step} ended with exit code 2")

    monkeypatch.setattr(improve, "call", call)
    return calls


@pytest.fixture
def work(data_dir, tmp_path):
    """work(*flags): main() in a work folder of its own."""
    folder = data_dir()

    def work(*flags, first=True):
        given = ["--dataset_dir", folder, "--model_name", "encoder"] if first else []
        improve.main(list(map(str, [*given, "--work_dir", tmp_path / "work", *flags])))

    work.data, work.folder = folder, tmp_path / "work"
    return work


def scripts(calls):
    return [command[0].rpartition("/")[2] for command in calls]


def flag(command, name):
    return command[command.index(name) + 1]


def test_a_round_that_trains_nothing_leaves_the_model_before(work, calls):
    work("--params_path", "checkpoint", "--skip", "retrain", "compare")
    calls.clear()
    work(first=False)
    assert flag(calls[1], "--params_path") == flag(calls[-1], "--compare") == "checkpoint"


def test_two_rounds(work, calls):
    work("--device", "cpu", "--", "--epochs", "3")
    (work.folder / "model-1").mkdir(parents=True)
    assert scripts(calls) == [
        "train.py",
        "evaluate.py",
        "sparse.py",
        "review.py",
        "dirty.py",
        "train.py",
        "evaluate.py",
    ]
    first, report, _, page, merge, second, compared = calls
    assert flag(merge, "--trusted_file") == "train_trusted.txt"
    assert flag(first, "--train_file") == "train.txt" and flag(second, "--train_file") == "train_trusted.txt"
    assert first[-2:] == second[-2:] == ["--epochs", "3"] and "--refresh" in page and "--compare" not in report
    model = str(work.folder / "model-{}")
    assert [flag(first, "--save_dir"), flag(page, "--params_path")] == [model.format(0)] * 2
    assert flag(second, "--save_dir") == flag(compared, "--params_path") == model.format(1)
    assert flag(compared, "--compare") == model.format(0) and flag(compared, "--report").endswith("report-1.html")
    calls.clear()
    work(first=False)  # the settings are known
    assert scripts(calls) == ["sparse.py", "review.py", "dirty.py", "train.py", "evaluate.py"]
    assert flag(calls[-1], "--compare") == model.format(1) and flag(calls[3], "--save_dir") == model.format(2)
    assert flag(calls[3], "--device") == "cpu" and calls[3][-2:] == ["--epochs", "3"]


def test_a_stopped_round_goes_on_where_it_stopped(work, calls, capsys):
    calls.fail = "analysis/dirty.py"
    with pytest.raises(InputError, match="the step merge ended with exit code 2"):
        work()
    with pytest.raises(InputError, match="round 1 stopped at the step merge. --resume goes on with it"):
        work()
    calls.clear()
    calls.fail = None
    work("--resume", first=False)
    assert scripts(calls) == ["dirty.py", "train.py", "evaluate.py"]
    with pytest.raises(InputError, match="round 1 has ended"):
        work("--resume", first=False)


def test_steps_can_be_left_out_and_a_checkpoint_can_be_given(work, calls):
    work("--params_path", "checkpoint", "--skip", "texts", "report")
    assert scripts(calls) == ["review.py", "dirty.py", "train.py", "evaluate.py"]
    assert flag(calls[0], "--params_path") == flag(calls[-1], "--compare") == "checkpoint"


def test_jsonl_by_default_names(data_dir, tmp_path, calls):
    row = '{"text": "甲", "labels": ["体育"]}\n'
    folder = data_dir(train_txt=None, dev_txt=None, data_txt=None, train_jsonl=row, dev_jsonl=row)
    improve.main(["--dataset_dir", str(folder), "--model_name", "e", "--work_dir", str(tmp_path / "w")])
    assert "sparse.py" not in scripts(calls)
    assert [flag(one, "--train_file") for one in calls if one[0] == "train.py"] == [
        "train.jsonl",
        "train_trusted.jsonl",
    ]
    assert flag(calls[-1], "--dev_file") == "dev.jsonl"


def test_rows_that_were_merged_by_hand_since_are_trained_on(work, calls):
    clean, trusted = work.data / "train_clean.txt", work.data / "train_trusted.txt"

    def trained_on(*flags, **first):
        calls.clear()
        work("--skip", "merge", *flags, **first)
        return [flag(one, "--train_file") for one in calls if one[0] == "train.py"][-1]

    clean.write_text("a")
    assert trained_on() == "train_clean.txt"  # there is no other
    trusted.write_text("a")
    os.utime(clean, ns=(10**18, 10**18))
    os.utime(trusted, ns=(10**18 + 1, 10**18 + 1))
    assert trained_on(first=False) == "train_trusted.txt"
    os.utime(clean, ns=(10**18 + 2, 10**18 + 2))
    assert trained_on(first=False) == "train_clean.txt"


def test_answers_from_another_tool(work, calls, log_of):
    log = log_of(improve)
    work("--ask", "files")
    assert scripts(calls) == ["train.py", "evaluate.py", "sparse.py", "dirty.py", "doccano.py"]
    assert "--resume --answers all.jsonl" in log.text and flag(calls[-1], "--annotate_file").endswith(
        "train_dirty.jsonl"
    )
    calls.clear()
    work("--resume", "--answers", "all.jsonl", first=False)
    assert scripts(calls) == ["doccano.py", "dirty.py", "train.py", "evaluate.py"] and "--dirty" in calls[0]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "--dataset_dir: needed"),
        (["--resume"], "no round to go on with"),
        (["--dataset_dir", "nowhere", "--model_name", "e"], "no such directory"),
        (["--answers", "a"], "goes with --resume"),
        (["--skip", "lunch"], "invalid choice"),
        (["--", "5"], "is no flag"),
    ],
)
def test_what_can_be_wrong(tmp_path, capsys, flags, message):
    with pytest.raises(SystemExit) as ended:
        run(lambda: improve.main(["--work_dir", str(tmp_path / "work"), *flags]))
    assert ended.value.code == 2 and message in capsys.readouterr().err and not (tmp_path / "work").exists()


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--answers", "a"], "--answers: round 1 does not wait for files."),
        (["--model_name", "another"], "--model_name: not what round 1 began with."),
        (["--", "--epochs", "3"], "the flags after --: not what round 1 began with."),
    ],
)
def test_flags_that_a_round_which_goes_on_cannot_take(tmp_path, capsys, flags, message):
    settings = dict.fromkeys(improve.KEPT) | {"dataset_dir": "d", "model_name": "m", "ask": "page", "train_flags": []}
    state = {"settings": settings, "round": 1, "done": [], "began": 1.0}
    (tmp_path / "state.json").write_text(json.dumps(state), "utf-8")
    with pytest.raises(SystemExit) as ended:
        run(lambda: improve.main(["--work_dir", str(tmp_path), "--resume", *flags]))
    assert ended.value.code == 2 and message in capsys.readouterr().err


def test_a_damaged_state(tmp_path, capsys):
    (tmp_path / "state.json").write_text("{", "utf-8")
    with pytest.raises(SystemExit):
        run(lambda: improve.main(["--work_dir", str(tmp_path), "--resume"]))
    assert "is damaged" in capsys.readouterr().err


def test_the_state_is_read_when_nobody_else_works(tmp_path, monkeypatch):
    settings = dict.fromkeys(improve.KEPT) | {"dataset_dir": "d", "model_name": "m", "ask": "page", "train_flags": []}
    write_done(tmp_path, Done(settings, 1, ["train"], 1.0))

    @contextmanager
    def waited(folder, instead):
        write_done(tmp_path, Done(settings, 1, ["train", "report"], 1.0))  # by the process that was waited for
        yield

    found = []
    monkeypatch.setattr(improve, "only_writer", waited)
    monkeypatch.setattr(improve, "work", lambda args, round_, logger: found.append(round_.done))
    improve.main(["--work_dir", str(tmp_path), "--resume"])
    assert found == [["train", "report"]]


# ---- for real --------------------------------------------------------------------------------------------------------


def answer_by_script(process, truth, number, answered):
    """Read what the process says; where a page is opened, answer with the truth and finish."""
    said = []
    for line in process.stderr:
        said.append(line)
        if found := re.search(r"Open (http://\S+)\?token=(\S+)", line):
            me = {"browser": "12345678", "who": "ann"}
            with httpx.Client(base_url=found[1], headers={"X-Token": found[2]}, timeout=60) as client:
                for _ in range(number):
                    item = client.post("api/next", json=me).json()["item"]
                    labels = truth.get(item["text"], item["labels"] or item["proposal"])
                    client.post("api/answer", json=me | {"id": item["id"], "labels": labels})
                    answered.append(item["text"])
                client.post("api/finish", json=me)
    return "".join(said)


@pytest.mark.slow
def test_two_real_rounds(tmp_path):
    folder, work_dir = tmp_path / "data", tmp_path / "work"
    folder.mkdir()
    truth, answered = {}, []
    rows = (ROOT / "data" / "train.txt").read_text("utf-8").splitlines()[:150]
    truth = {text: labels.split(",") for text, labels in (row.split("\t") for row in rows)}
    wrong = {5: "社会民生", 30: "财经", 60: "科技产品", 90: "公司动态"}
    names = (ROOT / "data" / "label.txt").read_text("utf-8").split()
    for i, label in wrong.items():
        rows[i] = rows[i].split("\t")[0] + "\t" + (label if label in names else names[0])
    (folder / "train.txt").write_text("\n".join(rows) + "\n", "utf-8")
    (folder / "label.txt").write_bytes((ROOT / "data" / "label.txt").read_bytes())
    for name in ("dev.txt", "data.txt"):
        lines = (ROOT / "data" / name).read_text("utf-8").splitlines()[:40]
        (folder / name).write_text("\n".join(lines) + "\n", "utf-8")
    command = [sys.executable, "analysis/improve.py", "--work_dir", work_dir, "--device", "cpu", "--port", "0"]
    first = ["--dataset_dir", folder, "--model_name", "data/tiny-ernie", "--", "--epochs", "1", "--batch_size", "16"]
    for number in (1, 2):
        words = [*command, *(first if number == 1 else [])]
        process = subprocess.Popen(list(map(str, words)), cwd=ROOT, stderr=subprocess.PIPE, encoding="utf-8")
        timer = threading.Timer(1200, process.kill)
        timer.start()
        said = answer_by_script(process, truth, 20, answered)
        timer.cancel()
        assert process.wait() == 0, said[-3000:]
        assert f"Round {number} has ended" in said and "could be luck" in said
    assert len(set(answered)) == len(answered) == 40  # nothing was asked twice
    clean = dict(row.split("\t") for row in (folder / "train_trusted.txt").read_text("utf-8").splitlines())
    assert list(clean)[:150] == [row.split("\t")[0] for row in rows]
    for text in {*answered} & truth.keys():
        assert set(clean[text].split(",")) == set(truth[text])
    state = json.loads((work_dir / "state.json").read_bytes())
    assert state["round"] == 2 and state["done"] == list(improve.STEPS)
    assert "Compared with the older model" in (work_dir / "report-2.html").read_text("utf-8")
