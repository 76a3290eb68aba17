"""analysis/dirty.py: rows from file to file, merging, and what can be wrong."""

import json
import shutil
import subprocess
import sys

import pytest

from analysis import dirty
from tests.analysis.conftest import PLANTED, TREE, planted_rows
from tests.conftest import ROOT


@pytest.fixture(autouse=True)
def seen_by_caplog(log_of):
    log_of(dirty)


@pytest.fixture
def call():
    def call(*flags):
        dirty.main(list(map(str, flags)))

    return call


@pytest.fixture
def folder(data_dir):
    train = planted_rows()
    texts = [f"\x1b{text}" for text in train.texts]
    lines = [f"{text}\t{','.join(TREE.labels[i] for i in labels)}\n" for text, labels in zip(texts, train.labels)]
    return data_dir(label_txt="\n".join(TREE.labels), train_txt="\n无标签\n" + "".join(lines))


def test_files(folder, call, caplog):
    call("--dataset_dir", folder, "--dirty_num", 3)
    lines = (folder / "train.txt").read_text(encoding="utf-8").splitlines()[2:]
    assert (folder / "train_dirty.txt").read_text(encoding="utf-8").splitlines() == [lines[i] for i in PLANTED]
    rest = [line for i, line in enumerate(lines) if i not in PLANTED]
    assert (folder / "train_dirty_rest.txt").read_text(encoding="utf-8").splitlines() == rest
    suspects = [json.loads(line) for line in (folder / "train_dirty.jsonl").read_text(encoding="utf-8").splitlines()]
    assert {row["text"] for row in suspects} == {lines[i].split("\t")[0] for i in PLANTED}
    assert all(row["suspect"].startswith("has ") and row["model"] for row in suspects)
    log = caplog.text
    assert "\x1b" not in log
    assert "skipped 1 blank and 1 unlabelled lines" in log and suspects[0]["suspect"] in log


def test_merge_of_a_file_that_was_edited_by_hand(folder, call, caplog):
    call("--dataset_dir", folder, "--dirty_num", 3)
    train = (folder / "train.txt").read_text(encoding="utf-8")
    lines = (folder / "train_dirty.txt").read_text(encoding="utf-8").splitlines()
    texts = [line.split("\t")[0] for line in lines]
    # One is put right, one is left as it was, one is left out.
    (folder / "train_dirty.txt").write_text(f"{texts[0]}\t组织,组织##裁员\n{lines[1]}\n", encoding="utf-8")
    call("--dataset_dir", folder, "--merge")
    clean = (folder / "train_clean.txt").read_text(encoding="utf-8")
    assert clean == train.replace(lines[0], f"{texts[0]}\t组织,组织##裁员").replace("\n无标签", "无标签")
    still_open = [json.loads(line) for line in (folder / "train_open.jsonl").read_text("utf-8").splitlines()]
    assert [(row["text"], row["why"]) for row in still_open] == [(t.strip(), "asked, no answer yet") for t in texts[1:]]
    log = caplog.text
    assert "1 of 1 checked rows have other labels now" in log and "2 rows were asked about and keep their labels" in log
    assert "101 rows saved" in log and "(1 of them without labels, as before)" in log
    before = (folder / "ledger.jsonl").read_text("utf-8")
    call("--dataset_dir", folder, "--merge")  # again, and nothing is new
    assert (folder / "train_clean.txt").read_text(encoding="utf-8") == clean
    assert before.count("changed") == (folder / "ledger.jsonl").read_text("utf-8").count("changed") == 1


def test_what_can_be_wrong_with_a_merge(folder, call, refused):
    call("--dataset_dir", folder, "--dirty_num", 3)
    before = {path: path.read_bytes() for path in folder.iterdir()}
    for flags, message in (
        (["--open_file", "a.txt"], "--open_file is written as .jsonl"),
        (["--clean_file", "train.txt"], "would overwrite"),
        (["--clean_file", "train_open.jsonl"], "different names"),
    ):
        assert message in refused("--dataset_dir", folder, "--merge", *flags)
    (folder / "train_dirty.txt").write_text("\x1b甲县某厂股价大涨\t组织\n\x1b甲县某厂股价大涨\t财经\n", "utf-8")
    assert "is in it twice, with different labels" in refused("--dataset_dir", folder, "--merge")
    assert {path: path.read_bytes() for path in before if path.name != "train_dirty.txt"} == {
        path: content for path, content in before.items() if path.name != "train_dirty.txt"
    }


def test_jsonl_throughout_by_default_names(data_dir, call, caplog):
    rows = [{"id": i, "text": f"文{i}", "labels": ["a,b"] if i % 2 else [], "from": {"a": [i]}} for i in range(8)]
    content = "".join(json.dumps(row) + "\n" for row in rows)
    folder = data_dir(label_txt="a,b\n", train_txt=None, train_jsonl=content)
    call("--dataset_dir", folder, "--dirty_num", 2)
    parts = [(folder / name).read_text("utf-8") for name in ("train_dirty.jsonl", "train_dirty_rest.jsonl")]
    assert sorted("".join(parts).splitlines()) == sorted(content.splitlines()) and len(parts[0].splitlines()) == 2
    assert len((folder / "train_suspects.jsonl").read_text("utf-8").splitlines()) == 2
    row = json.loads(parts[0].splitlines()[0])
    row["labels"] = [] if row["labels"] else ["a,b"]
    (folder / "train_dirty.jsonl").write_text(json.dumps(row) + "\n", "utf-8")
    call("--dataset_dir", folder, "--merge")
    clean = [json.loads(line) for line in (folder / "train_clean.jsonl").read_text("utf-8").splitlines()]
    assert clean == [row if one["id"] == row["id"] else one for one in rows]
    assert [list(one) for one in clean] == [list(one) for one in rows]  # fields in their order


def test_too_few_different_texts(data_dir, refused):
    folder = data_dir(train_txt="国足出战\t体育\n" * 9)
    assert "at least 5 different texts" in refused("--dataset_dir", folder, "--dirty_num", 1)
    assert not (folder / "train_dirty.txt").exists()


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--dirty_num", "100"], "has 100 labelled rows"),
        (["--dirty_num", "0"], "at least 1"),
        (["--dirty_file", "train.txt"], "would overwrite"),
        (["--rest_file", "train_dirty.txt"], "different names"),
        (["--suspect_file", "a.txt"], ".jsonl"),
        (["--train_file", "none.txt"], "no such file"),
        (["--strategy", "representer", "--params_path", "nowhere"], "no such directory"),
        (["--merge"], "train_dirty.txt: no such file, and no answers in"),
        (["--strategy", "cleanlab"], "invalid choice"),
    ],
)
def test_what_can_be_wrong(folder, refused, flags, message):
    before = sorted(folder.iterdir())
    assert message in refused("--dataset_dir", folder, "--dirty_num", 3, *flags)
    assert sorted(folder.iterdir()) == before


def test_unknown_labels_are_named_with_their_line(folder, refused):
    with open(folder / "train.txt", "a", encoding="utf-8") as file:
        file.write("甲\t组织,组织##裁圆\n乙\t财金\n")
    message = refused("--dataset_dir", folder, "--dirty_num", 3)
    assert "train.txt:103" in message and "did you mean '组织##裁员'" in message and "train.txt:104" in message


# ---- with a model ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", ["neighbours", "representer"])
def test_strategies_with_a_checkpoint(tmp_path, tiny_checkpoint, call, strategy):
    lines = (ROOT / "data" / "train.txt").read_text(encoding="utf-8").splitlines()[:60]
    (tmp_path / "train.txt").write_text("\n".join(lines), encoding="utf-8")
    flags = ["--params_path", tiny_checkpoint, "--device", "cpu", "--strategy", strategy, "--dirty_num", 10]
    call("--dataset_dir", tmp_path, *flags)
    parts = [
        (tmp_path / name).read_text(encoding="utf-8").splitlines()
        for name in ("train_dirty.txt", "train_dirty_rest.txt")
    ]
    assert [len(part) for part in parts] == [10, 50] and sorted(sum(parts, [])) == sorted(lines)


def test_a_checkpoint_for_other_labels(folder, tiny_checkpoint, refused):
    flags = ["--params_path", tiny_checkpoint, "--strategy", "neighbours"]
    assert "differs from the labels" in refused("--dataset_dir", folder, *flags)


def test_the_exit_code_of_the_script(tmp_path):
    shutil.copy(ROOT / "data" / "label.txt", tmp_path)
    command = [sys.executable, "analysis/dirty.py", "--dataset_dir", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, encoding="utf-8")
    assert done.returncode == 2 and "train.txt: no such file" in done.stderr and "Traceback" not in done.stderr
