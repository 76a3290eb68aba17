"""deploy/parts.py: the four models of Triton, for one, are replaced together, whatever fails, and whenever."""

import os

import pytest
from filelock import FileLock

from deploy.parts import new_parts
from deploy.triton_serving.repository import MODELS
from hierarchical.sets import LOCK
from tests.hierarchical.faults import Faults
from utils import InputError


def write(folder, content):
    for name in MODELS:
        (folder / name).mkdir(parents=True)
        (folder / name / "config.pbtxt").write_text(content, "utf-8")
        (folder / name / "model").write_text(content, "utf-8")


def replace(output, content="new"):
    with new_parts(output, MODELS) as folder:
        write(folder, content)


def read(output):
    """Name -> contents of its files, of the models that are there."""
    return {
        name: {path.read_text("utf-8") for path in (output / name).iterdir()}
        for name in MODELS
        if (output / name).exists()
    }


OLD, NEW = ({name: {content} for name in MODELS} for content in ("old", "new"))


@pytest.fixture
def repository(tmp_path):
    def make(number):
        write(tmp_path / str(number) / "models", "old")
        (tmp_path / str(number) / "models" / "another").mkdir()
        return tmp_path / str(number) / "models"

    return make


@pytest.mark.slow
def test_killed_at_every_step_nobody_is_answered_by_models_of_two_sets(repository):
    found = []
    for at in range(1, 200):
        output = repository(at)
        with Faults("kill", at) as faults:
            replace(output)
        found.append(read(output))
        assert found[-1] in (OLD, NEW) or "seqcls" not in found[-1], at
        replace(output, "newer")
        assert read(output) == {name: {"newer"} for name in MODELS} and (output / "another").is_dir()
        assert [path.name for path in output.parent.iterdir()] == ["models"], "what was left is cleared"
        if faults.count < at:
            break
    assert found[0] == OLD and found[-1] == NEW and any("seqcls" not in one for one in found)


def test_on_a_full_disk_the_old_models_stay(repository):
    for at in range(1, 200):
        output = repository(at)
        with Faults("full", at) as faults:
            try:
                replace(output)
            except OSError:
                pass
        assert read(output) == (OLD if faults.count >= at else NEW)
        if faults.count < at:
            break
    assert at > 10


@pytest.mark.parametrize("at", range(8))
def test_where_a_model_cannot_be_moved_the_old_ones_come_back(repository, monkeypatch, at):
    output, calls, real = repository(0), [], os.replace

    def refuse(source, target):
        calls.append(source)
        if len(calls) == at + 1:
            raise PermissionError(13, "Permission denied", str(source))
        real(source, target)

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(PermissionError):
        replace(output)
    assert read(output) == OLD and (output / "another").is_dir()


def test_a_second_run_is_refused(repository):
    output = repository(0)
    with FileLock(output / LOCK), pytest.raises(InputError, match="another process is writing there"):
        replace(output)
    assert read(output) == OLD


def test_a_new_folder_and_a_failure_in_it(tmp_path):
    with pytest.raises(InputError), new_parts(tmp_path / "models", MODELS) as folder:
        write(folder, "new")
        raise InputError("no such thing")
    assert read(tmp_path / "models") == {} and [path.name for path in tmp_path.iterdir()] == ["models"]
    replace(tmp_path / "models")
    assert read(tmp_path / "models") == NEW
