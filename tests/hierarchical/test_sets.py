"""sets.py: a folder has the old set of files or the new one, whole, at whatever operation a save is killed or fails."""

import errno
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest

from hierarchical import exporting, sets
from hierarchical.checkpoints import Checkpoint, save_checkpoint
from hierarchical.decisions import Decision
from hierarchical.errors import InputError
from hierarchical.exporting import export_checkpoint
from hierarchical.identity import RECORD
from hierarchical.labels import LabelTree
from hierarchical.sets import in_force, new_set, only_writer, read_set
from hierarchical.tokenizer import load_tokenizer
from hierarchical.weights import read_weights
from tests.conftest import ROOT
from tests.hierarchical.faults import Faults
from tests.hierarchical.test_tokenizer import VOCAB, write_model


class Tensor:
    """Stands in for one of Paddle's."""

    def __init__(self, value):
        self.value, self.dtype, self.shape = value, value.dtype, value.shape

    def numpy(self):
        return self.value

    def __array__(self, *_, **__):
        return self.value


class Model:
    """Stands in for a network: a configuration and two parameters."""

    def __init__(self, seed, **config):
        text = json.dumps({"model_type": "ernie", "vocab_size": len(VOCAB), "seed": seed, **config})
        self.config = SimpleNamespace(model_type="ernie", to_json_string=lambda: text)
        numbers = np.random.default_rng(seed).random((2, 3, 4), np.float32)
        self.state = {name: Tensor(value) for name, value in zip("ab", numbers)}

    def state_dict(self):
        return self.state


class Saved:
    """What one training saves: labels, tokenizer, decision and weights of its own."""

    def __init__(self, folder, seed):
        names = ["体育", "体育##足球", "财经"]
        special = {"special_tokens_map.json": '{"mask_token": "[MASK]"}'} if seed % 2 else {}
        write_model(folder, VOCAB[:5] + sorted(VOCAB[5:], key=lambda token: hash((token, seed))))
        for name, content in special.items():
            (folder / name).write_text(content, encoding="utf-8")
        self.tree = LabelTree(names[:2] + names[2:] if seed % 2 else names[2:] + names[:2])
        self.tokenizer, self.decision, self.model = load_tokenizer(folder, 16 + seed), Decision(seed / 10), Model(seed)

    def save(self, folder):
        save_checkpoint(folder, self.model, self.tokenizer, self.tree, self.decision)

    def export(self, folder):
        """Its graphs, beside it if they are in the folder of the checkpoint."""
        export_checkpoint(None, Checkpoint.open(self.checkpoint), self.model, folder, precisions=("float32", "int8"))


def found_in(folder):
    """All that a checkpoint says, as one value."""
    opened = Checkpoint.open(folder)
    weights = {name: value.tolist() for name, value in read_weights(opened.weights).items()}
    tokenizer = opened.tokenizer
    settings = opened.config, opened.decision, tokenizer.max_seq_length, list(tokenizer.vocab), tokenizer.files
    return opened.tree.labels, *settings, weights


def graphs_in(folder):
    """All that an export says, and the content of its models, once they are found to belong to it."""

    def read(place):
        opened = Checkpoint.open(place, exported=True)
        paths = sorted(path for path in place.iterdir() if path.name.startswith("float32") or path.suffix == ".onnx")
        opened.require_models(paths, {})
        contents = {path.name: path.read_bytes() for path in paths}
        return opened.tree.labels, opened.config, opened.decision, opened.tokenizer.files, contents

    return read_set(folder, read)


def files_in(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file() and path.name != ".lock"}


@pytest.fixture
def trainings(tmp_path):
    """Three of them."""
    return [Saved(tmp_path / f"model{seed}", seed) for seed in (1, 2, 3)]


@pytest.fixture
def graphs(monkeypatch):
    """Exporting writes small files, which tell what they are of."""

    def export_static(paddle, model, pad_id, prefix):
        for suffix in (".pdmodel", ".pdiparams", ".pdiparams.info"):
            with open(prefix.with_name(prefix.name + suffix), "w") as file:
                file.write(f"{suffix} {model.state['a'].numpy().tolist()}")
        return prefix.with_suffix(".pdmodel")

    def export_onnx(program, path, labels, **metadata):
        with open(path, "w") as file:
            file.write(f"{path.name} {program.read_text()} {labels} {metadata}")

    monkeypatch.setattr(exporting, "export_static", export_static)
    monkeypatch.setattr(exporting, "export_onnx", export_onnx)
    monkeypatch.setattr(
        exporting, "quantize", lambda source, path, labels, **metadata: export_onnx(source, path, labels)
    )


def fail_everywhere(kind, old, save, found, again, tmp_path):
    """Let a save over a copy of the folder `old` fail at each of its operations in turn: it is there as it was, or new.

    found: what is read in a folder; again: another save, which takes the place of whatever was left. Returns how many
    operations there were, and after how many of them failing the new one was in force.
    """
    before, folder, came = found(old), tmp_path / "folder", 0

    def fresh():
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(old, folder)

    fresh()
    with Faults(kind, 0) as faults:
        save(folder)
    after, files = found(folder), files_in(folder)
    assert before != after and not (folder / ".saving").exists()
    for n in range(1, faults.count + 1):
        fresh()
        try:
            with Faults(kind, n):
                save(folder)
        except OSError as error:
            assert kind == "full" and error.errno == 28
        there = found(folder)
        assert there in (before, after), n
        came += there == after
        if kind == "full" and there == before:  # and gives its room back
            assert files_in(folder) == files_in(old) and not (folder / ".saving").exists(), n
        if n % 7 == 0:
            with only_writer(folder):  # whoever writes next
                left = files_in(folder)
                assert left.keys() in (files_in(old).keys(), files.keys()) and left in (files_in(old), files), n
            again(folder)
            assert not (folder / ".saving").exists() and not list(folder.glob("*.tmp")), n
    return faults.count, came


# ---- a save that fails -----------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("links", [True, False], ids=["links", "no links"])
@pytest.mark.parametrize("kind", ["kill", "full"])
def test_a_checkpoint_is_the_old_one_or_the_new_one(trainings, tmp_path, monkeypatch, kind, links):
    one, two, three = trainings
    if not links:
        monkeypatch.setattr(os, "link", without_links)
    one.save(tmp_path / "old")

    def again(folder):
        three.save(folder)
        assert found_in(folder) == third

    three.save(tmp_path / "third")
    third = found_in(tmp_path / "third")
    count, came = fail_everywhere(kind, tmp_path / "old", two.save, found_in, again, tmp_path)
    assert count > 40 and (came > 10 or kind == "full")  # a disk that fills up stops it earlier


def without_links(*_):
    raise PermissionError(1, "Operation not permitted")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["kill", "full"])
def test_an_export_is_the_old_one_or_the_new_one(trainings, graphs, tmp_path, kind):
    for i, one in enumerate(trainings):
        one.checkpoint = tmp_path / f"checkpoint{i}"
        one.save(one.checkpoint)
    one, two, three = trainings
    one.export(tmp_path / "old")
    fail_everywhere(kind, tmp_path / "old", two.export, graphs_in, three.export, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["kill", "full"])
def test_graphs_beside_a_checkpoint(trainings, graphs, tmp_path, kind):
    """As prune.py does: graphs come into the folder of the checkpoint, and go when another one takes its place."""
    one, two, three = trainings
    one.save(tmp_path / "old")
    nothing = found_in(tmp_path / "old"), None

    def both(folder):
        return found_in(folder), graphs_in(folder) if (in_force(folder) / RECORD).exists() else None

    def export(folder):
        one.checkpoint = folder
        one.export(folder)

    assert both(tmp_path / "old") == nothing
    fail_everywhere(kind, tmp_path / "old", export, both, three.save, tmp_path)
    export(tmp_path / "old")
    fail_everywhere(kind, tmp_path / "old", two.save, both, three.save, tmp_path)
    two.save(tmp_path / "old")
    assert both(tmp_path / "old")[1] is None and not list((tmp_path / "old").glob("*.onnx"))


def test_what_else_lies_there_stays(trainings, tmp_path):
    one, two, _ = trainings
    one.save(tmp_path)
    for name in ("notes.txt", "run.json", "state.safetensors"):
        (tmp_path / name).write_text("mine")
    assert (tmp_path / "special_tokens_map.json").exists()
    two.save(tmp_path)
    assert not (tmp_path / "special_tokens_map.json").exists(), "the new tokenizer has none"
    assert all((tmp_path / name).read_text() == "mine" for name in ("notes.txt", "run.json", "state.safetensors"))


def test_a_folder_where_a_file_is_to_be(trainings, tmp_path):
    one, two, _ = trainings
    one.save(tmp_path)
    before = found_in(tmp_path)
    (tmp_path / "model_config.json").unlink()
    (tmp_path / "model_config.json").mkdir()
    with pytest.raises(InputError, match="model_config.json: is a directory, where a file is to be written"):
        two.save(tmp_path)
    assert found_in(tmp_path) == before and not (tmp_path / ".saving").exists()


# ---- reading while it is written -------------------------------------------------------------------------------------


def test_a_set_in_force_is_read_from_where_it_is(trainings, tmp_path):
    """On a disk that nobody may write to, too."""
    one, two, _ = trainings
    one.save(tmp_path / "a")
    two.save(tmp_path / "b")
    old, new = found_in(tmp_path / "a"), found_in(tmp_path / "b")
    saving = tmp_path / "a" / ".saving"
    shutil.copytree(tmp_path / "b", saving)
    assert found_in(tmp_path / "a") == old
    (saving / "manifest.json").write_text('{"remove": ["special_tokens_map.json"]}')
    assert found_in(tmp_path / "a") == new and in_force(tmp_path / "a" / "float32") == saving / "float32"
    assert found_in(tmp_path / "a") == new and saving.exists()
    with only_writer(tmp_path / "a"):
        pass
    assert found_in(tmp_path / "a") == new and not saving.exists()
    assert not (tmp_path / "a" / "special_tokens_map.json").exists()


def test_a_manifest_names_nothing_elsewhere(trainings, tmp_path):
    folder, precious = tmp_path / "folder", tmp_path / "precious.txt"
    trainings[0].save(folder)
    precious.write_text("x")
    (folder / ".saving").mkdir()
    (folder / ".saving" / "manifest.json").write_text(json.dumps({"remove": ["../precious.txt", str(precious)]}))
    trainings[1].save(folder)
    assert precious.exists()


@pytest.mark.slow
def test_readers_never_see_a_mixture(trainings, tmp_path, monkeypatch):
    """Two sets take turns as fast as they can; what is opened meanwhile is one of them."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # which takes its time
    one, two, _ = trainings
    one.save(tmp_path / "folder")
    both = [found_in(tmp_path / "folder")]
    two.save(tmp_path / "folder")
    both.append(found_in(tmp_path / "folder"))
    done, seen = threading.Event(), []

    def write():
        for i in range(60):
            (one, two)[i % 2].save(tmp_path / "folder")
            time.sleep(0.01)
        done.set()

    writer = threading.Thread(target=write)
    writer.start()
    while not done.is_set():
        opened = Checkpoint.open(tmp_path / "folder")
        seen.append(opened.tree.labels)
        whole = next(one for one in both if one[0] == opened.tree.labels)
        assert (opened.config, opened.decision, opened.tokenizer.max_seq_length) == whole[1:4]
        assert opened.tokenizer.files == whole[5]
    writer.join()
    assert len(seen) > 10 and both[0][0] in seen and both[1][0] in seen


def test_weights_of_another_model_than_was_opened(trainings, tmp_path, monkeypatch):
    one, two, _ = trainings
    one.save(tmp_path)
    opened, loaded = Checkpoint.open(tmp_path), []
    monkeypatch.setattr("hierarchical.checkpoints.load_weights", lambda model, path: loaded.append(path))
    opened.load_weights(None)
    two.save(tmp_path)
    with pytest.raises(InputError, match="holds another model than when it was opened. Start again"):
        opened.load_weights(None)
    assert loaded == [tmp_path / "model.safetensors"]


def test_reading_begins_anew_only_where_something_has_changed(tmp_path):
    tries = []

    def read(place, change=False):
        tries.append(place)
        if change and len(tries) < 3:
            (tmp_path / f"file{len(tries)}").touch()
        raise InputError("no")

    with pytest.raises(InputError):
        read_set(tmp_path, read)
    assert tries == [tmp_path]
    tries.clear()
    with pytest.raises(InputError):
        read_set(tmp_path / "float32", lambda place: read(place, True))
    assert tries == [tmp_path / "float32"] * 3
    tries.clear()

    def always(place):
        tries.append(place)
        (tmp_path / f"again{len(tries)}").touch()
        return len(tries)

    assert read_set(tmp_path, always) == sets.ATTEMPTS


# ---- one writer ------------------------------------------------------------------------------------------------------


def test_without_the_package_that_locks(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "filelock", None)
    with pytest.raises(InputError, match="pip install filelock"):
        with only_writer(tmp_path):
            pass


@pytest.mark.parametrize("error", [OSError(errno.ENOLCK, "No locks available"), NotImplementedError("no flock")])
def test_a_file_system_without_locks(monkeypatch, tmp_path, printed, error):
    def acquire(*_, **__):
        raise error

    monkeypatch.setattr("filelock.FileLock.acquire", acquire)
    with only_writer(tmp_path / "folder"):
        pass
    assert printed == [f"{tmp_path / 'folder'}: no locks on this file system; make sure that nothing else writes there"]
    error = PermissionError(errno.EACCES, "Permission denied")
    with pytest.raises(PermissionError):
        with only_writer(tmp_path / "other"):
            pass


def test_one_writer_at_a_time_and_none_after_its_death(tmp_path):
    code = "import sys, time; from hierarchical.sets import only_writer\n"
    code += "with only_writer(sys.argv[1]): print('locked', flush=True); time.sleep(600)"
    path = tmp_path / "new" / "folder"
    process = subprocess.Popen([sys.executable, "-c", code, str(path)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "locked\n"
        with pytest.raises(InputError, match=f"{path}: another process is writing there; go away."):
            with only_writer(path, "go away"):
                pass
    finally:
        process.kill()
        process.communicate()
    with only_writer(path):
        with only_writer(f"{path}/../folder"):  # what belongs to a run may ask again
            pass
        refused = []
        thread = threading.Thread(target=lambda: refused.append(lock_refused(path)))
        thread.start()
        thread.join()
        assert refused == [True]
        with new_set(path, lambda directory: ()) as folder:
            (folder / "a").touch()
    assert (path / "a").exists()


def lock_refused(path):
    try:
        with only_writer(path):
            return False
    except InputError:
        return True
