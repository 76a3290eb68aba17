"""predictions.py: texts of a file, windows of them, shares of processes, rows that are written, runs that go on."""

import json
import logging
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest

from hierarchical import predictions
from hierarchical.batches import Begun
from hierarchical.errors import InputError, Problems
from hierarchical.labelled import Labelled
from hierarchical.labels import LabelTree
from hierarchical.long_texts import CUT
from hierarchical.predictions import Job, jsonl_rows, open_output, predict_file, tsv_rows
from hierarchical.rows import multi_hot, read_rows
from metric import Decision

SMALL = LabelTree(["体育", "体育##足球", "财经"])


def test_no_more_is_read_than_the_window_that_is_predicted():
    read = []
    texts = (read.append(i) or str(i) for i in range(1000))
    for number, window in enumerate(predictions.windows(texts, 7, Problems()), start=1):
        assert len(read) == min(7 * number, 1000)
        assert window == [str(i) for i in read[-len(window) :]]
    assert len(read) == 1000


def test_shares_are_whole_windows_in_order():
    for total, size, world in ((0, 8, 2), (1, 8, 3), (100, 8, 2), (100, 8, 7), (64, 8, 8), (7, 8, 2)):
        shares = [predictions.share(total, size, rank, world) for rank in range(world)]
        assert shares[0][0] == 0 and shares[-1][1] == total
        assert all(stop == start for (_, stop), (start, _) in zip(shares, shares[1:]))
        assert all(start % size == 0 for start, _ in shares)
        assert all(stop >= start for start, stop in shares)


# ---- rows that are written -------------------------------------------------------------------------------------------


def jsonl_row(tree, text, labels, probabilities, *settings):
    (row,) = jsonl_rows(tree, Labelled.one(text, labels, probabilities), *settings)
    return row


def tsv_row(tree, text, labels, probabilities, *settings):
    (row,) = tsv_rows(tree, Labelled.one(text, labels, probabilities), *settings)
    return row


def labelled(*rows, tree=SMALL):
    """A Labelled of (text, class indices), with probabilities of 0."""
    selected = multi_hot([labels for _, labels in rows], len(tree))
    return Labelled([text for text, _ in rows], selected, np.zeros(selected.shape, np.float32))


def test_rows_by_hand():
    probabilities = np.array([0.25, 0.75, 0.015625], np.float32)
    row = json.loads(jsonl_row(SMALL, "进\t球", [1], probabilities, 0.125))
    assert row == {
        "text": "进\t球",
        "labels": ["体育##足球"],
        "probabilities": {"体育##足球": 0.75, "体育": 0.25},
        "levels": {"1": ["体育"], "2": ["体育##足球"]},
    }
    assert list(row["probabilities"]) == ["体育##足球", "体育"]
    assert jsonl_row(SMALL, "", [], np.zeros(3, np.float32), 0.125).endswith('"levels": {}}\n')
    assert tsv_row(SMALL, "进\t球\n了", [0, 2], probabilities, 0) == "进 球 了\t体育,财经\n"
    assert tsv_row(SMALL, "", [], probabilities, 0) == "\t\n"


def test_rows_with_their_certainty_by_hand():
    probabilities = np.array([0.25, 0.75, 0.015625], np.float32)  # 体育 is left out, with .75 of certainty
    row = json.loads(jsonl_row(SMALL, "进", [1], probabilities, 0.125, 0.75))
    assert list(row)[-2:] == ["certainty", "sure"] and (row["certainty"], row["sure"]) == (0.75, True)
    assert tsv_row(SMALL, "进", [1], probabilities, 0, 0.75) == "进\t体育##足球\tsure\n"
    assert tsv_row(SMALL, "进", [0, 1], probabilities, 0, 0.75) == "进\t体育,体育##足球\tunsure\n"
    assert json.loads(jsonl_row(SMALL, "", [], probabilities, 0.125, 0))["certainty"] == 0  # no labels, no certainty
    outcome = predictions.Outcome(SMALL, 0.75)
    outcome.update(
        labelled(("进", [1]), ("球", [0, 1]), ("", []))._replace(probabilities=np.tile(probabilities, (3, 1)))
    )
    assert outcome.lines()[-1] == "Certain enough (0.75): 1 of 2 texts (50.0%); the others are for people"


def test_what_came_out_by_hand():
    outcome = predictions.Outcome(SMALL)
    assert outcome.lines() == []
    rows = [("甲", [0, 1]), ("乙", [0]), ("", []), ("丙", []), ("丁", [2]), ("戊", [0, 2])]
    outcome.update(labelled(*rows[:2]))
    outcome.update(labelled(*rows[2:]))
    assert outcome.lines() == [  # 财经 is a root, and a leaf
        "Without a label: 1 of 5 texts (20.0%), to which --min_labels 1 gives the likeliest; with labels of upper levels "
        "alone: 1 (20.0%)",
        "3 of 3 labels were given; the commonest: 体育 3, 财经 2, 体育##足球 1",
    ]


def test_what_came_out_of_nothing_and_of_a_flat_tree():
    tree = LabelTree(list("abcdefg"))
    outcome = predictions.Outcome(tree)
    outcome.update(labelled(("甲", []), tree=tree))
    assert outcome.lines()[1] == "0 of 7 labels were given" and "upper" not in outcome.lines()[0]
    outcome.update(labelled(("甲", range(6)), tree=tree))
    assert outcome.lines()[1] == "6 of 7 labels were given; the commonest: a 1, b 1, c 1, d 1, e 1"


def test_a_prediction_without_a_label_is_read_back_as_a_row_without_one(tmp_path):
    tree, path = LabelTree(["a", "a##b"]), tmp_path / "predicted.tsv"
    lines = [tsv_row(tree, text, found, np.zeros(2), 0) for text, found in (("甲", [0, 1]), ("乙", []))]
    assert lines == ["甲\ta,a##b\n", "乙\t\n"]
    path.write_text("".join(lines), "utf-8")
    problems, seen = Problems(), Counter()
    assert [row[1:] for row in read_rows(path, tree, problems, seen)] == [("甲", (0, 1)), ("乙", None)]
    assert not problems.count and seen["unlabelled"] == 1


# ---- files, and going on ---------------------------------------------------------------------------------------------


def test_an_output_is_whole_or_a_part(tmp_path):
    path, log = tmp_path / "out.jsonl", logging.getLogger("silent")
    part, record = tmp_path / "out.jsonl.part", tmp_path / "out.jsonl.part.json"
    with pytest.raises(KeyboardInterrupt), open_output(path, False, {"a": 1}, 2, log) as (file, done):
        assert done == 0
        file.write(b"1\n2\n3\n4\n5")
        raise KeyboardInterrupt
    assert not path.exists() and part.read_bytes() == b"1\n2\n3\n4\n5" and json.loads(record.read_text()) == {"a": 1}
    with pytest.raises(InputError, match="since then these have changed: a"):
        with open_output(path, True, {"a": 2}, 2, log):
            pass
    assert part.read_bytes() == b"1\n2\n3\n4\n5"
    with open_output(path, True, {"a": 1}, 2, log) as (file, done):
        assert done == 4
        file.write(b"five\n")
    assert path.read_bytes() == b"1\n2\n3\n4\nfive\n" and not part.exists() and not record.exists()


@pytest.mark.parametrize(
    ("content", "size", "kept"),
    [(b"", 2, 0), (b"1\n", 2, 0), (b"1\n2\n", 2, 2), (b"1\n2\n3\n4", 2, 2), (b"1\n2\n3\n", 1, 3), (b"1\n2", 1, 1)],
)
def test_whole_windows_are_kept(tmp_path, content, size, kept):
    (tmp_path / "part").write_bytes(content)
    (tmp_path / "record").write_text("{}")
    assert predictions.rows_to_keep(tmp_path / "part", tmp_path / "record", {}, size) == kept
    assert (tmp_path / "part").read_bytes() == b"".join(content.splitlines(keepends=True)[:kept])


class Labeller:
    """What predict_file asks of a Predictor: a text has the label whose name is in it."""

    tree, tokenizer = SMALL, SimpleNamespace(max_seq_length=64, long_text=CUT)

    def __init__(self, file):
        self.file, self.loads, self.windows = file, 0, []
        file.write_bytes(b"numbers")

    def load(self):
        self.loads += 1

    def begin(self, texts):
        return Begun(lambda: self.probabilities(texts))

    def probabilities(self, texts):
        assert self.loads == 1
        self.windows.append(len(texts))
        return np.array([[0.75 * (name in text) for name in self.tree.words] for text in texts], np.float32)


@pytest.fixture
def labeller(tmp_path):
    return Labeller(tmp_path / "model")


def test_windows_are_as_large_as_batches_ask_for_and_no_larger_than_is_good(labeller, tmp_path):
    (tmp_path / "data.txt").write_text("体育\n" * 9000, encoding="utf-8")
    for batch_size, windows in (
        (32, [2048] * 4 + [808]),
        (256, [4096, 4096, 808]),
        (200, [4000, 4000, 1000]),
        (8192, [8192, 808]),
    ):
        labeller.loads, labeller.windows = 0, []
        predict_file(
            Job(tmp_path / "data.txt", output_file=str(tmp_path / "out.tsv"), batch_size=batch_size),
            labeller,
            Decision(),
        )
        assert labeller.windows == windows


def test_any_labeller_can_label_a_file(labeller, tmp_path, monkeypatch, printed):
    monkeypatch.setattr(predictions, "WINDOW_BATCHES", 2)
    monkeypatch.setattr(predictions, "LOGGED_ROWS", 3)
    (tmp_path / "data.txt").write_text("体育\n\n足球与财经\n无\n财经\n", encoding="utf-8")
    output = tmp_path / "out.tsv"
    job = Job(tmp_path / "data.txt", tmp_path / "label.txt", str(output), batch_size=1)
    predict_file(job, labeller, Decision(decoding="closure"))
    assert output.read_text(encoding="utf-8") == "体育\t体育\n\t\n足球与财经\t体育,体育##足球,财经\n无\t\n财经\t财经\n"
    assert labeller.windows == [1, 2, 1] and labeller.loads == 1  # windows of two rows; a blank one is not asked about
    assert [line for line in printed if line.startswith("text: ")] == ["text: 体育", "text: ", "text: 足球与财经"]
    assert f"{tmp_path / 'data.txt'}: blank rows: 1 " in printed[-4]
    assert printed[-3].startswith("Without a label: 1 of 4 texts (25.0%)") and printed[-3].endswith("alone: 1 (25.0%)")
    assert printed[-2] == "3 of 3 labels were given; the commonest: 体育 2, 财经 2, 体育##足球 1"
    assert printed[-1].startswith("Predicted 5 texts in ")


AWKWARD = [
    "体育",
    "",
    '引号" 反\\斜',
    "行\u2028足球",
    "😀 财经",
    "1234567890123456789012345678901234567890",
    "a\tb",
    "\x01\x7f",
    "NaN",
]


@pytest.mark.parametrize("name", ["data.txt", "data.jsonl"])
def test_rows_are_written_as_json_writes_them_one_by_one(labeller, tmp_path, monkeypatch, name):
    monkeypatch.setattr(predictions, "WINDOW_BATCHES", 1)
    rows = [json.dumps({"text": text, "labels": ["体育"], "id": 10**30}) if text else "" for text in AWKWARD]
    lines = rows if name.endswith("l") else [f"{text}\t财经" if text else "" for text in AWKWARD]
    (tmp_path / name).write_text("".join(f"{line}\n" for line in lines), "utf-8")
    read = [text.replace("\t", " ") if name == "data.txt" else text for text in AWKWARD]
    expected = []
    for text in read:
        there = [i for i, word in enumerate(SMALL.words) if word in text]
        levels = {
            level: [SMALL.labels[i] for i in SMALL.closure(there) if SMALL.levels[i] == level] for level in (1, 2)
        }
        row = {"text": text, "labels": [SMALL.labels[i] for i in there], "probabilities": {}, "levels": {}}
        row["probabilities"] = {SMALL.labels[i]: 0.75 for i in there}
        row["levels"] = {level: found for level, found in levels.items() if found}
        row |= {"certainty": 0.75 if there else 0.0, "sure": bool(there)}
        expected.append(json.dumps(row, ensure_ascii=False) + "\n")
    job = Job(tmp_path / name, output_file=str(tmp_path / "out.jsonl"), batch_size=2, quiet=True, certainty=0.7)
    predict_file(job, labeller, Decision())
    assert (tmp_path / "out.jsonl").read_bytes() == "".join(expected).encode()
    assert labeller.windows == [1, 2, 2, 2, 1]


def test_a_stream_is_not_read_on_before_its_rows_are_written(labeller, tmp_path, monkeypatch):
    monkeypatch.setattr(predictions, "WINDOW_BATCHES", 1)
    written, part = [], tmp_path / "out.tsv.part"

    def lines():
        for text in AWKWARD:
            written.append(part.read_bytes().count(b"\n") if part.exists() else 0)
            yield f"{text}\n".encode()

    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=lines()))
    predict_file(Job("-", output_file=str(tmp_path / "out.tsv"), batch_size=2), labeller, Decision())
    assert written == [0, 0, 2, 2, 4, 4, 6, 6, 8]


def test_a_long_text_is_logged_by_its_beginning_and_written_whole(labeller, tmp_path, printed):
    (tmp_path / "data.txt").write_text("体育" * 500_000 + "\n", encoding="utf-8")
    predict_file(Job(tmp_path / "data.txt", output_file=str(tmp_path / "out.jsonl")), labeller, Decision())
    assert printed[0] == f"text: {'体育' * 100}... (1,000,000 characters)" and len("\n".join(printed)) < 1000
    assert json.loads((tmp_path / "out.jsonl").read_text("utf-8"))["text"] == "体育" * 500_000


def test_nothing_is_loaded_before_everything_is_in_order(labeller, tmp_path):
    (tmp_path / "label.txt").write_text("体育\n", encoding="utf-8")
    (tmp_path / "data.txt").write_bytes(b"\xff\n")
    for job, says in (
        (Job(tmp_path / "data.txt", tmp_path / "label.txt"), "label.txt: differs from the labels"),
        (Job(tmp_path / "data.txt"), "data.txt:1: byte 1 is not UTF-8"),
        (Job(tmp_path / "none.txt"), "none.txt: no such file"),
        (Job(tmp_path / "data.txt", output_file=str(tmp_path)), "is a directory"),
    ):
        with pytest.raises(InputError, match=says):
            predict_file(job, labeller, Decision())
    assert labeller.loads == 0 and not list(tmp_path.glob("*.part*"))


def test_a_run_goes_on_only_as_what_it_was(labeller, tmp_path, monkeypatch, printed):
    monkeypatch.setattr(predictions, "WINDOW_BATCHES", 1)
    (tmp_path / "data.txt").write_text("体育\n财经\n足球\n", encoding="utf-8")
    job = Job(tmp_path / "data.txt", output_file=str(tmp_path / "out.jsonl"), batch_size=1, resume=True)

    def fail(texts, probabilities=labeller.probabilities):
        if texts == ["财经"]:
            raise KeyboardInterrupt
        return probabilities(texts)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(labeller, "probabilities", fail)
        predict_file(job, labeller, Decision(), {"precision": "float32"})
    for further, changed in (
        ({"precision": "int8"}, "precision"),
        ({"precision": "float32", "template": "x"}, "template"),
    ):
        with pytest.raises(InputError, match=f"these have changed: {changed}"):
            predict_file(job, labeller, Decision(), further)
    labeller.file.write_bytes(b"other numbers")
    with pytest.raises(InputError, match="these have changed: weights"):
        predict_file(job, labeller, Decision(), {"precision": "float32"})
    labeller = Labeller(tmp_path / "model")
    predict_file(job, labeller, Decision(), {"precision": "float32"})
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [row["labels"] for row in rows] == [["体育"], ["财经"], ["体育##足球"]] and labeller.windows == [1, 1]
    assert "Resuming after 1 rows" in printed
