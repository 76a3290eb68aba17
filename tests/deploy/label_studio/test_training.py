"""deploy/label_studio/training.py: when it trains, in which order, and what is left when something fails or is killed."""

import asyncio
import json
import logging
import os
import subprocess
import sys
import time
from contextlib import suppress

import pytest

from deploy.label_studio import backend, training
from deploy.label_studio.training import Trainer
from hierarchical.ledger import Decision, Ledger, id_of
from hierarchical.rounds import Done, read_done, write_done
from tests.conftest import ROOT
from utils import InputError, run

# A script that notes its flags, and does what the file of its name in the work folder says.
STUB = """
import json, os, sys, time
from pathlib import Path
flags = sys.argv[1:]
folder = Path({work!r})
with open(folder / "calls", "a") as file:
    file.write(json.dumps([{name!r}, *flags]) + "\\n")
print("working, as", {name!r})
how = folder / {name!r}
exec(how.read_text() if how.exists() else {usual!r})
"""
ROUND = (
    "state = json.loads((folder / 'state.json').read_text());"
    "state['round'] += '--resume' not in flags; state['done'] = ['train', 'compare'];"
    "(folder / 'state.json').write_text(json.dumps(state))"
)


@pytest.fixture
def work(tmp_path, monkeypatch):
    """work: the folder of rounds, of which the first has trained a model; scripts are stubs there."""
    work, toolkit = tmp_path / "work", tmp_path / "toolkit"
    (toolkit / "analysis").mkdir(parents=True)
    (tmp_path / "data").mkdir()
    (tmp_path / "export").mkdir()
    (tmp_path / "export" / "float32.onnx").write_bytes(b"")
    for script, usual in (("analysis/improve.py", ROUND), ("export_model.py", "")):
        name = script.rpartition("/")[2]
        (toolkit / script).write_text(STUB.format(work=str(work), name=name, usual=usual), encoding="utf-8")
    write_done(work, Done({"dataset_dir": str(tmp_path / "data")}, 1, ["train", "compare"], time.time()))
    monkeypatch.setattr(training, "TOOLKIT", toolkit)
    monkeypatch.setattr(training, "LOOK_SECONDS", 0.05)
    return work


@pytest.fixture
def answer(tmp_path):
    """answer(*texts): somebody answers them."""

    def answer(*texts):
        Ledger(tmp_path / "data").add(Decision(id_of(text), "changed", "ann", (), ("体育",), text) for text in texts)

    return answer


@pytest.fixture
def trainer(work, tmp_path):
    return lambda after=2: Trainer(after, work, tmp_path / "data", tmp_path / "export")


def calls(work):
    path = work / "calls"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def scripts(work):
    return [name for name, *_ in calls(work)]


def note(work):
    return json.loads((work / "training.json").read_text())


def watched(trainer, until, meanwhile=None, seconds=20, broken=()):
    """Run a trainer until something holds, then stop it as a server does; how often the model was loaded anew.

    broken: what loading it raises at first
    """

    async def watch():
        reloads, trainer.wanted = [], asyncio.Event()  # of this loop

        faults = list(broken)

        async def reload():
            if faults:
                raise faults.pop(0)
            reloads.append(1)

        task = asyncio.ensure_future(trainer.run(reload))
        end = time.monotonic() + seconds
        while not until(reloads):
            assert time.monotonic() < end and not task.done(), f"{note(trainer.work_dir)} {task}"
            if meanwhile:
                meanwhile()
            await asyncio.sleep(0.02)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        return len(reloads)

    return asyncio.run(watch())


def test_a_round_an_export_and_the_new_model(work, trainer, answer, tmp_path):
    answer("早先的")  # answers from before somebody has trained on
    one = trainer()
    answer("一")
    assert not one.is_time() and note(work) == {"trained": 1, "begun": 0, "round": 0}
    answer("二")
    assert watched(one, lambda reloads: reloads) == 1
    train, export = calls(work)
    assert train == ["improve.py", "--work_dir", str(work), "--skip", "texts", "ask"]
    model, folder = str(work / "model-2"), str(tmp_path / "export")
    assert export == ["export_model.py", "--params_path", model, "--output_path", folder, "--precision", "float32"]
    assert note(work) == {"trained": 3, "begun": 0, "round": 2} and "working, as improve.py" in (
        work / "training.log"
    ).read_text("utf-8")
    assert not trainer().is_time(), "started again, it knows what it has learned from"


def test_what_comes_meanwhile_counts_for_the_next(work, trainer, answer):
    (work / "improve.py").write_text(f"while not (folder / 'go').exists(): time.sleep(0.01)\n{ROUND}")
    one, late = trainer(), []
    answer("一", "二")

    def meanwhile():
        if scripts(work) == ["improve.py"] and not late:
            late.append(answer("三", "四"))
            (work / "go").touch()

    assert watched(one, lambda reloads: len(reloads) == 2, meanwhile) == 2
    assert scripts(work) == ["improve.py", "export_model.py"] * 2
    assert note(work) == {"trained": 4, "begun": 0, "round": 3}


def test_what_fails_is_not_tried_again_at_once(work, trainer, answer, log_of_training):
    (work / "improve.py").write_text("sys.exit('out of memory')")
    one = trainer()
    answer("一", "二")
    watched(one, lambda _: "Not trained" in log_of_training.text)
    assert (
        scripts(work) == ["improve.py"] and not one.is_time() and "out of memory" in (work / "training.log").read_text()
    )
    assert "training.log tells why. It is tried again after 2 more answers" in log_of_training.text
    answer("三")
    assert not one.is_time()
    one.look(now=True)
    (work / "improve.py").unlink()
    assert watched(one, lambda reloads: reloads) == 1
    assert note(work) == {"trained": 2, "begun": 0, "round": 2}, "the round that had begun, with the answers of then"
    assert one.is_time() is False


def test_an_export_that_fails_is_made_without_another_training(work, trainer, answer, log_of_training):
    (work / "export_model.py").write_text("sys.exit(2)")
    one = trainer()
    answer("一", "二")
    watched(one, lambda _: "model-2 was not exported" in log_of_training.text)
    (work / "export_model.py").unlink()
    assert watched(trainer(), lambda reloads: reloads) == 1  # started again
    assert scripts(work) == ["improve.py", "export_model.py", "export_model.py"] and note(work)["trained"] == 2


def test_an_export_that_cannot_be_loaded_is_made_and_loaded_again(work, trainer, answer, log_of_training):
    one = trainer()
    answer("一", "二")
    watched(one, lambda _: "not served" in log_of_training.text, broken=[InputError("float32.onnx: damaged")])
    assert "model-2 was exported, but not served: float32.onnx: damaged. It is exported" in log_of_training.text
    assert "Training has ended" not in log_of_training.text
    assert note(work) == {"trained": 0, "begun": 2, "round": 2} and not one.is_time()
    one.look(now=True)
    assert watched(one, lambda reloads: reloads) == 1
    assert scripts(work) == ["improve.py", "export_model.py", "export_model.py"] and note(work)["trained"] == 2


def test_nothing_ends_the_trainer_in_silence(work, trainer, answer, log_of_training):
    one = trainer()
    answer("一", "二")
    fault = RuntimeError("nobody thought of this")
    watched(one, lambda _: "Not trained, the model stays. It is tried" in log_of_training.text, broken=[fault])
    assert "RuntimeError: nobody thought of this" in log_of_training.text and not one.is_time()
    answer("三", "四")
    assert watched(one, lambda reloads: reloads) == 1


# A process that goes on after SIGTERM, as train.py does, and then saves.
LATE = """
import os, signal, sys, time
def end(*_):
    time.sleep({seconds})
    open({saved!r}, "w").close()
    sys.exit()
signal.signal(signal.SIGTERM, end)
with open({pids!r}, "w") as file:
    file.write(f"{{os.getppid()}} {{os.getpid()}}")
time.sleep(600)
"""


@pytest.mark.parametrize(("seconds", "patience"), [pytest.param(0.1, 20, marks=pytest.mark.slow), (600, 0.1)])
def test_a_server_that_ends_takes_its_training_along(work, trainer, answer, monkeypatch, seconds, patience):
    monkeypatch.setattr(training, "END_SECONDS", patience)
    child = LATE.format(seconds=seconds, saved=str(work / "saved"), pids=str(work / "pids"))
    (work / "improve.py").write_text(f"import subprocess; subprocess.run([sys.executable, '-c', {child!r}])")
    one = trainer()
    answer("一", "二")
    watched(one, lambda _: (work / "pids").exists() and (work / "pids").read_text())
    processes = list(map(int, (work / "pids").read_text().split()))
    end = time.monotonic() + (60 if seconds > patience else 0)  # it did not wait for what was killed
    while any(map(is_running, processes)):
        assert time.monotonic() < end
        time.sleep(0.01)
    assert (work / "saved").exists() == (seconds < patience)
    assert note(work) == {"trained": 0, "begun": 2, "round": 2}
    answer("三")
    state = read_done(work)
    write_done(work, state._replace(number=2, steps=["train"]))  # as far as it had come
    (work / "improve.py").unlink()
    assert watched(trainer(), lambda reloads: reloads) == 1
    assert calls(work)[1] == ["improve.py", "--work_dir", str(work), "--skip", "texts", "ask", "--resume"]
    assert note(work) == {"trained": 2, "begun": 0, "round": 2}, "the third counts for the next"


def is_running(process):
    """Whether a process is there and no zombie."""
    try:
        with open(f"/proc/{process}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_two_at_once_never(work, trainer, answer, monkeypatch, log_of_training):
    one = trainer()
    answer("一", "二")
    monkeypatch.setattr(training, "is_busy", lambda folder: True)
    assert not one.is_time() and not one.is_time()
    assert log_of_training.text.count("waiting for another process that works in") == 1 and not calls(work)
    monkeypatch.undo()
    assert one.is_time()


def test_the_folder_of_a_round_has_one_worker(work):
    hold = (
        "import sys, time; from hierarchical.sets import only_writer\n"
        "with only_writer(sys.argv[1]): print('held', flush=True); time.sleep(60)"
    )
    other = subprocess.Popen([sys.executable, "-c", hold, str(work)], cwd=ROOT, stdout=subprocess.PIPE)
    try:
        assert other.stdout.readline() == b"held\n" and training.is_busy(work)
    finally:
        other.kill()
        other.wait()
    assert not training.is_busy(work)


def test_a_damaged_ledger_is_told_once(work, trainer, answer, tmp_path, log_of_training):
    one = trainer()
    with open(tmp_path / "data" / "ledger.jsonl", "a") as file:
        file.write('{"id": 7}\n')
    looked = []
    watched(one, lambda _: looked.append(1) or len(looked) > 20)
    assert log_of_training.text.count("Not trained") == 1 and not calls(work)
    one.ledger.add([Decision(id_of(text), "changed", "ann", (), ("体育",), text) for text in "一二"])
    assert watched(one, lambda reloads: reloads) == 1


@pytest.fixture
def log_of_training(monkeypatch, caplog):
    """What the trainer logs, as caplog."""
    logger = logging.getLogger("hierarchical")
    caplog.set_level(logging.INFO, logger.name)
    monkeypatch.setattr(logger, "propagate", True)
    monkeypatch.setattr(training, "get_logger", lambda: logger)
    return caplog


def spoilt(work, **values):
    """Write other values into the state of the rounds."""
    path = work / "state.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda work: (work / "state.json").unlink(), "--skip texts ask merge retrain compare"),
        (lambda work: (work / "state.json").write_text("{"), "state.json: is damaged"),
        (lambda work: spoilt(work, settings=[]), "state.json: is damaged"),
        (lambda work: spoilt(work, settings={"dataset_dir": 7}), "state.json: is damaged"),
        (lambda work: spoilt(work, round="2"), "state.json: is damaged"),
        (lambda work: spoilt(work, done=None), "state.json: is damaged"),
        (lambda work: spoilt(work, done=["train", "dance"]), "state.json: is damaged"),
        (lambda work: (work / "training.json").write_text("{}"), "training.json: is damaged"),
        (lambda work: write_done(work, Done({"dataset_dir": "/elsewhere"}, 1, [], 0)), "those of /elsewhere, not"),
        (lambda work: os.rename(work.parent / "export", work.parent / "gone"), "no folder; --train_after exports"),
    ],
)
def test_what_is_wrong_is_said_at_the_start(work, trainer, spoil, message):
    spoil(work)
    with pytest.raises(InputError, match=message):
        trainer()


def test_an_environment_without_paddle(trainer, monkeypatch):
    monkeypatch.setattr(training, "find_spec", lambda name: None if name == "paddlenlp" else name)
    with pytest.raises(InputError, match="--train_after: the package paddlenlp is not installed: pip install"):
        trainer()


def test_a_state_that_disappears_is_told(work, trainer, answer, log_of_training):
    one = trainer()
    answer("一", "二")
    (work / "state.json").unlink()
    watched(one, lambda _: "Not trained, the model stays: --work_dir" in log_of_training.text)
    assert not calls(work)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--train_after", "5"], "--train_after: needs --dataset_dir and --work_dir"),
        (["--work_dir", "w"], "--work_dir: goes with --train_after"),
        (["--train_after", "0", "--dataset_dir", "d", "--work_dir", "w"], "--train_after: must be at least 1"),
    ],
)
def test_flags_that_belong_together(flags, message, capsys):
    with pytest.raises(SystemExit, match="2"):
        run(lambda: backend.main(["--model_path", "e", *flags]))
    assert message in capsys.readouterr().err
