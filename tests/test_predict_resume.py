"""predict.py: going on after a kill, and several processes, of which one may have to be started again."""

import errno
import os
import subprocess
import sys

import pytest

from hierarchical import predictions
from tests import predicting
from tests.conftest import ROOT
from tests.predicting import TEXTS, fails, lines, rows_of

call = predicting.call  # the fixture

# ---- going on after a kill -------------------------------------------------------------------------------------------

KILL_IN_THE_THIRD_WINDOW = """
import os, signal, sys
import predict
from hierarchical import predictions
predictions.WINDOW_BATCHES = 2
sys.argv = ["predict.py", *sys.argv[1:]]
if "--resume" not in sys.argv:
    sys.argv[-1] = "whole.jsonl"
    predict.main()
    sys.argv[-1] = "killed.jsonl"
    seen, write = [], predictions.jsonl_rows
    def jsonl_rows(*arguments):
        seen.append(1)
        if len(seen) == 3:
            part = open("killed.jsonl.part", "ab")
            part.write(b'{"text": "torn')
            part.flush()
            os.kill(os.getpid(), signal.SIGKILL)
        return write(*arguments)
    predictions.FORMATS[".jsonl"] = jsonl_rows
predict.main()
"""


@pytest.mark.slow
def test_resuming_after_sigkill_gives_the_same_bytes(tiny_checkpoint, tmp_path):
    (tmp_path / "data.txt").write_text(lines(*TEXTS), encoding="utf-8")
    base = f"--dataset_dir . --params_path {tiny_checkpoint} --device cpu --batch_size 3".split()
    command = [sys.executable, "-c", KILL_IN_THE_THIRD_WINDOW, *base]
    options = dict(cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    killed = subprocess.run([*command, "--output_file", "x.jsonl"], **options)
    assert killed.returncode == -9, killed.stderr
    part = tmp_path / "killed.jsonl.part"
    assert part.read_bytes().endswith(b"torn") and part.read_bytes().count(b"\n") == 12
    assert not (tmp_path / "killed.jsonl").exists()
    resumed = subprocess.run([*command, "--resume", "--output_file", "killed.jsonl"], **options)
    assert resumed.returncode == 0 and "Resuming after 12 rows" in resumed.stderr, resumed.stderr
    assert (tmp_path / "killed.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    assert sorted(path.name for path in tmp_path.glob("*.jsonl*")) == ["killed.jsonl", "whole.jsonl"]


@pytest.fixture
def interrupted(call, monkeypatch):
    """A run over TEXTS that broke off after two windows of six rows."""
    monkeypatch.setattr(predictions, "WINDOW_BATCHES", 2)

    def break_off(texts, size, problems):
        for number, window in enumerate(windows(texts, size, problems)):
            if number == 3:  # the third one is begun, and lost
                raise KeyboardInterrupt
            yield window

    windows = predictions.windows
    with monkeypatch.context() as patch:
        patch.setattr(predictions, "windows", break_off)
        assert call("--output_file", "out.jsonl", "--batch_size", 3, data_txt=lines(*TEXTS)).code == 130


def test_resume_needs_the_same_run(call, interrupted, tmp_path):
    resume = "--output_file", "out.jsonl", "--batch_size", 3, "--resume"
    for arguments, changed in (
        (("--threshold", 0.7), "threshold"),
        (("--floor", 0.3), "floor"),
        (("--use_bf16",), "use_bf16"),
    ):
        result = call(*resume, *arguments)
        assert result.code == 2 and changed in result.error
    result = call(*resume, data_txt=lines("新的", *TEXTS[1:]))
    assert result.code == 2 and "data" in result.error
    result = call(*resume, data_txt=lines(*TEXTS))
    assert result.code == 0 and "Resuming after 12 rows" in result.log
    assert [row["text"] for row in rows_of(result.output)] == TEXTS
    assert sorted(path.name for path in tmp_path.glob("out*")) == ["out.jsonl"]
    assert "complete" in call(*resume).log[-1]


def test_a_full_disk_names_the_file_and_keeps_the_rows(call, interrupted, monkeypatch, tmp_path):
    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    before = (tmp_path / "out.jsonl.part").read_bytes()
    monkeypatch.setattr(predictions, "label_windows", full)
    result = call("--output_file", "out.jsonl", "--batch_size", 3, "--resume")
    assert fails(result, "out.jsonl.part", "No space left")
    assert (tmp_path / "out.jsonl.part").read_bytes() == before


def test_without_resume_an_unfinished_run_is_overwritten(call, interrupted, tmp_path):
    result = call("--output_file", "out.jsonl")
    assert any("overwritten" in line for line in result.log) and len(rows_of(result.output)) == 20
    assert sorted(path.name for path in tmp_path.glob("out*")) == ["out.jsonl"]


def test_a_damaged_record_of_the_unfinished_run(call, interrupted, tmp_path):
    (tmp_path / "out.jsonl.part.json").write_text("{")
    result = call("--output_file", "out.jsonl", "--batch_size", 3, "--resume")
    assert result.code == 2 and "without --resume" in result.error


# ---- several processes -----------------------------------------------------------------------------------------------


def test_two_processes_share_the_rows_and_the_last_one_joins_them(call, monkeypatch, tmp_path):
    monkeypatch.setattr(predictions, "WINDOW_BATCHES", 2)
    whole = call("--output_file", "out.jsonl", "--batch_size", 3, data_txt=lines(*TEXTS[:10], "", *TEXTS[10:])).output
    before = {path.name for path in tmp_path.iterdir()}

    def start(rank, *flags):
        monkeypatch.setenv("PADDLE_TRAINER_ID", rank)
        return call("--output_file", "new.jsonl", "--batch_size", 3, *flags)

    monkeypatch.setenv("PADDLE_TRAINERS_NUM", "2")
    monkeypatch.setenv("PADDLE_MASTER", "first start")
    result = start("1")
    assert any("new.jsonl follows when 1 more parts are there" in line for line in result.log)
    assert not any("blank rows: 1 " in line for line in result.log)
    # The other process died; both are started again.
    monkeypatch.setenv("PADDLE_MASTER", "second start")
    assert "since then these have changed: threshold." in start("1", "--resume", "--threshold", 0.9).error
    result = start("0", "--resume")
    assert any("blank rows: 1 " in line for line in result.log) and not (tmp_path / "new.jsonl").exists()
    names = (tmp_path / "new.jsonl.parts").read_text().split()
    assert names == ["new.part-0000-of-0002.jsonl", "new.part-0001-of-0002.jsonl"]
    result = start("1", "--resume")
    assert [any(text in line for line in result.log) for text in ("is complete", "2 parts joined in new.jsonl")] == [
        1,
        1,
    ]
    assert (tmp_path / "new.jsonl").read_bytes() == whole
    assert {path.name for path in tmp_path.iterdir()} - before == {"new.jsonl"}
    assert any("new.jsonl is complete; remove it" in line for line in start("0", "--resume").log)
    assert "one process" in call("--data_file", "-", "--output_file", "new.jsonl").error
    assert "one process" in call("--output_file", "-").error
