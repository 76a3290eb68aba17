"""checkpoints.py: settings that survive a round trip, and checkpoints whose files do not fit each other."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest

from hierarchical.checkpoints import (
    DECISION,
    Checkpoint,
    read_settings,
    require_same_labels,
    save_checkpoint,
    write_settings,
)
from hierarchical.encoders import FAMILIES, encoder_config
from hierarchical.modeling import predict_logits
from hierarchical.tokenizer import load_tokenizer
from hierarchical.weights import PICKLED_WEIGHTS, WEIGHTS
from metric import Decision
from tests.conftest import ROOT, SAMPLE, without_identity
from utils import InputError, LabelTree

TREE = LabelTree(["体育", "体育##足球", "财经"])


@pytest.fixture
def checkpoint(tmp_path):
    """What read_settings looks at: its own files, and that the others are there."""
    write_settings(tmp_path, TREE, 64, Decision())
    (tmp_path / WEIGHTS).write_bytes(b"x")
    (tmp_path / "config.json").write_text("{}")
    return tmp_path


@pytest.mark.parametrize(
    "decision", [Decision(), Decision([0.5, 0.25, 0.125], "topdown", 1, 3), Decision(0.3, "closure"), Decision(top_k=2)]
)
def test_settings_round_trip(checkpoint, decision):
    write_settings(checkpoint, TREE, 256, decision)
    tree, max_seq_length, read, _ = read_settings(checkpoint)
    assert (tree.labels, max_seq_length, read) == (TREE.labels, 256, decision)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ('{"max_seq_length": 64, "threshold": [0.5, 0.5, 0.5, 0.5]}', "4 thresholds for 3 labels"),
        ('{"max_seq_length": 64, "threshold": 7}', "from 0 to 1"),
        ('{"max_seq_length": 64, "threshold": NaN}', "from 0 to 1"),
        ('{"max_seq_length": 64, "decoding": "best"}', "decoding must be one of"),
        ('{"max_seq_length": 64, "treshold": 0.5}', "unknown decision settings treshold"),
        ('{"max_seq_length": 2}', "max_seq_length is 2"),
        ('{"max_seq_length": "64"}', "max_seq_length is '64'"),
        ('{"max_seq_length": true}', "max_seq_length is True"),
        ("{}", "max_seq_length"),
        ("[]", "decision settings"),
        ("3", "decision settings"),
        ('{"max_seq_length": 64', "decision settings"),
        ("[" * 100_000, "decision settings"),
        (b"\xff\xfe", "decision settings"),
    ],
)
def test_broken_settings_name_the_file(checkpoint, content, says):
    (checkpoint / DECISION).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError, match=f"{DECISION}: not the decision settings") as error:
        read_settings(checkpoint)
    assert says in str(error.value)


@pytest.mark.parametrize("name", [WEIGHTS, "config.json", "label.txt", DECISION])
def test_an_incomplete_checkpoint_is_named_with_the_fix(checkpoint, name):
    (checkpoint / name).unlink()
    with pytest.raises(InputError, match=name):
        read_settings(checkpoint)
    with pytest.raises(InputError, match="no such directory. Pass the --save_dir of train.py"):
        read_settings(checkpoint / "nowhere")


@pytest.mark.parametrize(
    ("labels", "says"),
    [
        (["体育", "财经", "体育##足球"], "same labels in another order"),
        (["体育", "体育##足球", "财经", "科技"], "only in the file: 科技"),
        (["体育", "财经"], "only in the checkpoint: 体育##足球"),
        (["体育", "体育##足球", "金融"], "only in the checkpoint: 财经; only in the file: 金融"),
    ],
)
def test_labels_of_data_and_checkpoint(tmp_path, labels, says):
    path = tmp_path / "label.txt"
    require_same_labels(TREE, path)  # a data folder need not bring its own
    path.write_text("\ufeff" + "\r\n".join(TREE.labels), encoding="utf-8")
    require_same_labels(TREE, path)
    path.write_text("\n".join(labels), encoding="utf-8")
    with pytest.raises(InputError, match=f"label.txt: differs.*{says}"):
        require_same_labels(TREE, path)


def test_load_checkpoint_with_files_that_do_not_fit(tiny_checkpoint, tmp_path):
    """In a checkpoint that does not say what belongs together."""
    folder = without_identity(shutil.copytree(tiny_checkpoint, tmp_path / "checkpoint"))
    with open(folder / "label.txt", "a", encoding="utf-8") as file:
        file.write("新标签\n")
    with pytest.raises(InputError, match="the model has 31 outputs, but label.txt 32 labels"):
        Checkpoint.open(folder).load_model()
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config["id2label"]["31"] = "新标签"
    config["label2id"]["新标签"] = 31
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(InputError, match=r"classifier.weight has the shape \[128, 31\], this model needs \[128, 32\]"):
        Checkpoint.open(folder).load_model()
    opened = Checkpoint.open(folder)
    for name in (WEIGHTS, PICKLED_WEIGHTS):
        (folder / name).unlink()
    with pytest.raises(InputError, match=f"{WEIGHTS}: no such file"):
        opened.load_model()
    with pytest.raises(InputError, match=f"no {WEIGHTS} in it"):
        Checkpoint.open(folder)


# ---- Checkpoint ------------------------------------------------------------------------------------------------------


def test_what_a_checkpoint_holds(tiny_checkpoint, tiny_export):
    opened = Checkpoint.open(str(tiny_checkpoint))
    assert opened.directory == tiny_checkpoint and opened.weights == tiny_checkpoint / WEIGHTS
    assert opened.config == json.loads((tiny_checkpoint / "config.json").read_text(encoding="utf-8"))
    assert opened.tree.labels == LabelTree.read(SAMPLE / "label.txt").labels and opened.decision == Decision()
    assert opened.tokenizer.encode(["北京"]) == load_tokenizer(SAMPLE / "tiny-ernie", 64).encode(["北京"])
    assert opened.tokenizer.max_seq_length == 64 and opened.family is FAMILIES["ernie"]
    export = Checkpoint.open(tiny_export, exported=True)
    assert export.weights is None and export.tree.labels == opened.tree.labels and export.config == opened.config
    with pytest.raises(InputError, match=f"no {WEIGHTS} in it. .* is not a complete checkpoint of train.py"):
        Checkpoint.open(tiny_export)
    with pytest.raises(InputError, match="no such directory. Pass the --output_path of export_model.py"):
        Checkpoint.open(tiny_export / "nowhere", exported=True)


def test_a_length_of_ones_own(tiny_checkpoint, printed):
    assert Checkpoint.open(tiny_checkpoint, 64).tokenizer.max_seq_length == 64 and not printed
    assert Checkpoint.open(tiny_checkpoint, 256).tokenizer.max_seq_length == 256
    assert printed == ["max_seq_length 256: the model was trained with 64"]
    with pytest.raises(InputError, match="max_seq_length 257: this model reads at most 256 tokens"):
        Checkpoint.open(tiny_checkpoint, 257)


def test_a_model_can_be_loaded_twice_and_saved_again(tiny_checkpoint, tmp_path):
    opened = Checkpoint.open(tiny_checkpoint)
    config, ids = json.dumps(opened.config), opened.tokenizer.encode(["北京今天有雨", "国足"])
    one, other = opened.load_model(), opened.load_model()
    assert not one.training and one is not other and json.dumps(opened.config) == config
    logits = predict_logits(one, ids, 0, 2)
    one.classifier.bias.set_value(one.classifier.bias * 0)
    assert np.array_equal(predict_logits(other, ids, 0, 2), logits)
    save_checkpoint(tmp_path, other, opened.tokenizer, opened.tree, Decision(0.25))
    assert sorted(os.listdir(tmp_path)) == sorted(os.listdir(tiny_checkpoint))
    again = Checkpoint.open(tmp_path)
    assert (again.tree.labels, again.decision) == (opened.tree.labels, Decision(0.25))
    assert np.array_equal(predict_logits(again.load_model(), ids, 0, 2), logits)


# ---- other kinds of models -------------------------------------------------------------------------------------------


@pytest.fixture
def of_kind(tiny_checkpoint, tmp_path):
    """of_kind(kind, exported): a folder that holds such a model, as far as its settings tell."""

    def make(kind, exported=False):
        target = tmp_path / f"{kind}{exported}"
        folder = without_identity(shutil.copytree(tiny_checkpoint, target))
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        if kind == "few-shot":
            config |= {"mlm_transform": False, "architectures": ["Network"]}
            (folder / "template_config.json").write_text('{"method": "similarity", "template": ""}')
        if kind == "retrieval":
            config |= {
                "encoder_id": "0" * 64,
                "output_emb_size": 8,
                "id2label": {str(i): f"LABEL_{i}" for i in range(8)},
            }
        (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
        if exported:
            for name in (WEIGHTS, PICKLED_WEIGHTS):
                (folder / name).unlink()
            (folder / "float32.onnx").touch()
        return folder

    return make


@pytest.mark.parametrize("exported", [False, True])
def test_a_model_of_another_kind_is_told_what_it_is_for(of_kind, exported):
    takes = {
        "classifier": ("predict.py", "deploy/predictor/infer.py")[exported],
        "few-shot": ("few-shot/train.py, as --output_dir", "few-shot/infer.py")[exported],
        "retrieval": "the scripts of retrieval_based/",
    }
    for found in takes:
        folder = of_kind(found, exported)
        for wanted in takes:
            if found == wanted or (found, wanted, exported) == ("few-shot", "classifier", True):
                assert Checkpoint.open(folder, exported=exported, kind=wanted).tree.labels
                continue
            with pytest.raises(InputError, match=f"{folder}: holds .*, not .*. It is for {takes[found]}"):
                Checkpoint.open(folder, exported=exported, kind=wanted)
        if exported:
            with pytest.raises(InputError, match=f"float32.onnx is an exported model: it is for {takes[found]}"):
                Checkpoint.open(folder)


def test_a_folder_that_holds_the_one_that_is_meant(tiny_checkpoint, tmp_path):
    shutil.copytree(tiny_checkpoint, tmp_path / "prune" / "width_mult_0.5")
    with pytest.raises(InputError, match=r"no model.safetensors in it.* \S+/prune/width_mult_0.5 may be what you mean"):
        Checkpoint.open(tmp_path / "prune")


@pytest.mark.parametrize("left", [{"mlm_transform": True}, {"encoder_id": "0" * 64, "output_emb_size": 8}])
def test_entries_that_older_trainings_took_over_from_other_kinds(tiny_checkpoint, tmp_path, left):
    """train.py --model_name few-shot-checkpoint kept what that has in its config.json, and is a classifier."""
    folder = without_identity(shutil.copytree(tiny_checkpoint, tmp_path / "checkpoint"))
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps(config | left), encoding="utf-8")
    assert Checkpoint.open(folder).config.items() >= left.items()
    assert encoder_config(folder) == config, "a new training takes over nothing"


# Code before a script's: count_of(folder) is how often each file of a folder has been opened since, and the weights read.
COUNTING = """
import collections, os, sys
import safetensors.numpy
opened = collections.Counter()

def count(event, arguments):
    if event == "open" and isinstance(arguments[0], (str, bytes, os.PathLike)):
        opened[os.path.abspath(os.fsdecode(arguments[0]))] += 1

def load_file(path, load_file=safetensors.numpy.load_file):  # it does not open as Python does
    opened[os.path.abspath(path)] += 1
    return load_file(path)

def count_of(folder):
    inside = {os.path.split(path)[1]: count for path, count in opened.items() if os.path.split(path)[0] == folder}
    return {name: inside[name] for name in sorted(inside)}

sys.addaudithook(count)
safetensors.numpy.load_file = load_file
"""


@pytest.mark.slow
def test_each_file_is_read_once(tiny_checkpoint):
    code = (
        f"{COUNTING}import json\nfrom hierarchical.checkpoints import Checkpoint\n"
        "checkpoint = Checkpoint.open(sys.argv[1])\nprint(json.dumps(count_of(sys.argv[1])))\n"
        "checkpoint.load_model()\nprint(json.dumps(count_of(sys.argv[1])))"
    )
    command = [sys.executable, "-c", code, str(tiny_checkpoint)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    before, after = map(json.loads, done.stdout.splitlines())
    assert before == dict.fromkeys(("config.json", "label.txt", DECISION, "vocab.txt", "tokenizer_config.json"), 1)
    assert after == before | {WEIGHTS: 1}
