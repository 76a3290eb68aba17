"""checkpoints.py: settings that survive a round trip, and checkpoints whose files do not fit each other."""

import json
import shutil

import pytest
from hierarchical.checkpoints import DECISION, load_checkpoint, read_settings, require_same_labels, write_settings
from hierarchical.weights import PICKLED_WEIGHTS, WEIGHTS

from metric import Decision
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
    tree, max_seq_length, read = read_settings(checkpoint)
    assert (tree.labels, max_seq_length, read) == (TREE.labels, 256, decision)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ('{"max_seq_length": 64, "threshold": [0.5, 0.5]}', "2 thresholds for 3 labels"),
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
    folder = shutil.copytree(tiny_checkpoint, tmp_path / "checkpoint")
    with open(folder / "label.txt", "a", encoding="utf-8") as file:
        file.write("新标签\n")
    with pytest.raises(InputError, match="the model has 31 outputs, but label.txt 32 labels"):
        load_checkpoint(folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config["id2label"]["31"] = "新标签"
    config["label2id"]["新标签"] = 31
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(InputError, match=r"classifier.weight has the shape \[128, 31\], this model needs \[128, 32\]"):
        load_checkpoint(folder)
    for name in (WEIGHTS, PICKLED_WEIGHTS):
        (folder / name).unlink()
    with pytest.raises(InputError, match=f"{WEIGHTS}: no such file"):
        load_checkpoint(folder)
