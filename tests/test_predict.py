"""predict.py: what it logs and writes, odd and bad input, and pipes; going on after a kill: test_predict_resume.py."""

import io
import json
import os
import pickle
import shutil
import subprocess
import sys

import numpy as np
import pytest

from hierarchical import predictions
from hierarchical.checkpoints import Checkpoint, write_settings
from hierarchical.modeling import model_inputs
from hierarchical.tokenizer import load_tokenizer
from hierarchical.weights import WEIGHTS
from metric import Decision, decide
from tests import predicting
from tests.conftest import ROOT, SAMPLE, without_identity
from tests.predicting import LOAD_MODEL, TEXTS, fails, lines, rows_of
from utils import LabelTree

TREE = LabelTree.read(SAMPLE / "label.txt")
call = predicting.call  # the fixture


def by_hand(checkpoint, text, max_seq_length=64):
    """float32 [L]: the model's sigmoid for one text alone."""
    ids = load_tokenizer(checkpoint, max_seq_length).encode([text])
    logits = LOAD_MODEL(Checkpoint.open(checkpoint))(**model_inputs(ids, 0)).numpy()[0]
    return 1 / (1 + np.exp(-logits.astype(np.float64)))


# ---- what it says ----------------------------------------------------------------------------------------------------


def test_log_is_the_references(call, tiny_checkpoint):
    result = call("--threshold", 0.6, data_txt=lines(*TEXTS[:3]))
    assert result.code == 0
    expected = []
    for text in TEXTS[:3]:
        labels = [TREE.labels[i] for i in np.flatnonzero(by_hand(tiny_checkpoint, text) > 0.6)]
        expected += [f"text: {text}", f"prediction result: {','.join(labels)}"]
        for level in (1, 2, 3):
            names = dict.fromkeys(label.split("##")[level - 1] for label in labels if label.count("##") >= level - 1)
            expected += [f"level {level} : {','.join(names)}"] * bool(names)
        expected += ["--------------------"]
    assert any(line.startswith("level 2 : ") for line in expected)
    assert result.log[:-3] == expected
    assert result.log[-3].startswith("Without a label: 0 of 3 texts (0.0%); with labels of upper levels alone: ")
    assert " of 31 labels were given; the commonest: " in result.log[-2]
    assert result.log[-1].startswith("Predicted 3 texts in ")


def test_empty_prediction_is_told_from_a_failure(call, tiny_checkpoint):
    result = call("--threshold", 1, data_txt=lines(TEXTS[0], ""))
    best = by_hand(tiny_checkpoint, TEXTS[0])
    most_likely = f"(no label above the threshold; most likely: {TREE.labels[best.argmax()]} {best.max():.2f})"
    assert result.log[:4] == [f"text: {TEXTS[0]}", "prediction result: ", most_likely, "-" * 20]
    assert result.log[4:8] == ["text: ", "prediction result: ", "(blank row)", "-" * 20]


def test_jsonl_rows(call, tiny_checkpoint):
    result = call("--output_file", "out.jsonl", "--floor", 0.2, data_txt=lines(*TEXTS))
    rows = rows_of(result.output)
    assert [row["text"] for row in rows] == TEXTS
    for row in rows[:5]:
        p = by_hand(tiny_checkpoint, row["text"])
        assert list(row) == ["text", "labels", "probabilities", "levels"]
        assert row["labels"] == [TREE.labels[i] for i in np.flatnonzero(p > 0.5)]
        assert set(row["probabilities"]) == {TREE.labels[i] for i in np.flatnonzero(p > 0.2)}
        for label, value in row["probabilities"].items():
            assert value == pytest.approx(p[TREE.index[label]], abs=1e-5)
        assert list(row["probabilities"].values()) == sorted(row["probabilities"].values(), reverse=True)
        shown = [label for level in row["levels"].values() for label in level]
        assert sorted(TREE.index[label] for label in shown) == TREE.closure(TREE.index[x] for x in row["labels"])
        assert all(label.count("##") == int(k) - 1 for k, level in row["levels"].items() for label in level)
    assert "公司动态##人事变动" in str(rows) and result.output.decode("utf-8").count("\\u") == 0


def test_a_chosen_label_shows_its_probability_below_the_floor(call):
    (row,) = rows_of(call("--output_file", "out.jsonl", "--floor", 1, "--top_k", 2, data_txt=lines(TEXTS[0])).output)
    assert set(row["probabilities"]) == set(row["labels"]) and len(row["labels"]) == 2


def test_tsv_reads_back_as_labelled_rows(call):
    data = json.dumps({"text": "一\t二\n三"}) + "\n"
    result = call("--output_file", "out.tsv", "--data_file", "data.jsonl", data_jsonl=data + '{"text": ""}\n')
    text, labels = result.output.decode("utf-8").splitlines()[0].split("\t")
    assert text == "一 二 三" and labels and all(label in TREE.index for label in labels.split(","))
    assert result.output.endswith(b"\n\t\n")


def test_the_log_beside_a_file(call):
    data = lines(*TEXTS)
    log = call("--output_file", "out.jsonl", data_txt=data).log
    assert sum(line.startswith("text: ") for line in log) == predictions.LOGGED_ROWS
    assert "20 texts" in log[-1] and "texts/s" in log[-1] and log[-1].endswith("in out.jsonl")
    assert len(call("--output_file", "out.jsonl", "--quiet").log) == 3


@pytest.mark.slow
def test_decision_flags(call, tiny_checkpoint, tmp_path):
    def labels(*arguments, **options):
        return [row["labels"] for row in rows_of(call("--output_file", "out.jsonl", *arguments, **options).output)]

    p = np.stack([by_hand(tiny_checkpoint, text) for text in TEXTS[:6]])

    def expected(**settings):
        return [[TREE.labels[i] for i in np.flatnonzero(row)] for row in decide(p, TREE, Decision(**settings))]

    assert labels(data_txt=lines(*TEXTS[:6])) == expected()
    assert labels("--threshold", 0.8) == expected(threshold=0.8)
    assert labels("--top_k", 3) == expected(top_k=3)
    assert labels("--decoding", "closure", "--threshold", 0.7) == expected(decoding="closure", threshold=0.7)
    assert labels("--decoding", "topdown", "--max_labels", 4) == expected(decoding="topdown", max_labels=4)
    assert labels("--decoding", "path") == expected(decoding="path")
    assert labels("--per_level", 1, "--stop", "confident") == expected(per_level=1, stop="confident")
    stored = tmp_path / "stored"
    shutil.copytree(tiny_checkpoint, stored)
    thresholds = np.linspace(0.2, 0.9, len(TREE)).tolist()
    write_settings(stored, TREE, 64, Decision(threshold=thresholds, decoding="closure"))
    assert labels(params=stored) == expected(threshold=thresholds, decoding="closure")
    assert labels("--threshold", 0.6, params=stored) == expected(threshold=0.6, decoding="closure")


def test_max_seq_length(call, tiny_checkpoint):
    long = "，".join(TEXTS[:6])
    for arguments, length in (((), 64), (("--max_seq_length", 16), 16)):
        result = call("--output_file", "out.jsonl", "--floor", 0, *arguments, data_txt=lines(long))
        shown = rows_of(result.output)[0]["probabilities"]
        p = by_hand(tiny_checkpoint, long, length)
        np.testing.assert_allclose([shown[label] for label in TREE.labels], p, atol=1e-5)
        assert any("trained with 64" in line for line in result.log) == (length == 16)
    result = call("--max_seq_length", 300)
    assert result.code == 2 and "at most 256" in result.error


# ---- odd input -------------------------------------------------------------------------------------------------------


def test_blank_rows_keep_the_rows_in_step(call):
    result = call("--output_file", "out.jsonl", "--top_k", 1, data_txt=f"\n{TEXTS[0]}\n  \u3000\r\n\t\n{TEXTS[1]}\n\n")
    rows = rows_of(result.output)
    assert [row["text"] for row in rows] == ["", TEXTS[0], "", "", TEXTS[1], ""]
    assert [len(row["labels"]) for row in rows] == [0, 1, 0, 0, 1, 0]
    assert any("data.txt: blank rows: 4 " in line for line in result.log)
    assert rows[0] == {"text": "", "labels": [], "probabilities": {}, "levels": {}}
    assert [row["text"] for row in rows_of(call("--output_file", "out.jsonl", data_txt="\n\n").output)] == ["", ""]


@pytest.mark.parametrize("data", [
    b"\xef\xbb\xbf" + lines(*TEXTS[:3]).encode(),
    lines(*TEXTS[:3], end="\r\n").encode(),
    lines(*TEXTS[:3]).rstrip("\n").encode(),
    lines(*(f" {text}\t" for text in TEXTS[:3])).encode(),
])  # fmt: skip
def test_byte_order_mark_line_ends_blanks(call, data):
    plain = call("--output_file", "out.jsonl", data_txt=lines(*TEXTS[:3])).output
    assert call("--output_file", "out.jsonl", data_txt=data).output == plain


def test_line_ends_of_other_alphabets_are_text(call):
    text = "北\u2028京\u2029天\x85气\x0b好\x0c吗"
    assert [row["text"] for row in rows_of(call("--output_file", "out.jsonl", data_txt=lines(text)).output)] == [text]


def test_a_labelled_file_does_not_leak_its_labels(call):
    labelled = f"{TEXTS[0]}\t体育赛事,体育赛事##伤病\n\t体育赛事\n"
    plain = call("--output_file", "out.jsonl", data_txt=lines(TEXTS[0], "")).output
    result = call("--output_file", "out.jsonl", data_txt=labelled)
    assert result.output == plain
    assert any("rows with labels after a TAB: 2 " in line for line in result.log)


def test_a_tab_in_a_text_is_a_blank(call):
    plain = call("--output_file", "out.jsonl", data_txt="甲 乙 体育\n").output
    result = call("--output_file", "out.jsonl", data_txt="甲\t乙\t体育\n")
    assert result.output == plain
    assert any("that no known labels follow: 1 " in line for line in result.log)


def test_jsonl_and_csv_rows(call):
    plain = call("--output_file", "out.jsonl", data_txt=lines(TEXTS[0], "", "甲,乙")).output
    rows = json.dumps({"text": TEXTS[0], "labels": ["体育赛事"]}), "", json.dumps({"text": "甲,乙"})
    assert call("--output_file", "out.jsonl", "--data_file", "a.jsonl", a_jsonl=lines(*rows)).output == plain
    rows = f'text,label\n{TEXTS[0]},体育赛事\n\n"甲,乙"\n'
    assert call("--output_file", "out.jsonl", "--data_file", "a.csv", a_csv=rows).output == plain


def test_the_gold_label_is_never_in_the_text(call, monkeypatch):
    """Of each format the prediction is that of the texts alone."""
    plain = call("--output_file", "out.jsonl", data_txt=lines(*TEXTS[:2])).output
    rows = [{"text": text, "labels": ["体育赛事"], "note": "x"} for text in TEXTS[:2]]
    one_each = lines(*(json.dumps(row, ensure_ascii=False) for row in rows))
    for name, content in (
        ("a.json", json.dumps(rows)),
        ("b.json", json.dumps(rows, ensure_ascii=False, indent=2)),
        ("c.jsonl", one_each.replace('"labels"', '"label"')),
        ("d.ndjson", one_each),
        ("e.tsv", lines(*(f"{row['text']}\t体育赛事\t体育赛事,公司动态" for row in rows))),
    ):
        result = call("--output_file", "out.jsonl", "--data_file", name, **{name.replace(".", "_"): content})
        assert result.output == plain, name
        assert any("labels after a TAB: 2 " in line for line in result.log) == (name == "e.tsv")
    for content in (one_each, json.dumps(rows), json.dumps(rows, indent=1)):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content.encode())))
        assert call("--output_file", "out.jsonl", "--data_file", "-").output == plain


def test_other_files_are_refused_once(call, tmp_path):
    rows = lines(*(json.dumps({"text": text, "labels": ["体育赛事"]}) for text in TEXTS))
    for name, content, says in (
        ("rows.xlsx", b"PK\x03\x04" + bytes(100), "not from .xlsx. convert.py makes a data folder of it."),
        ("rows.txt", b"PK\x03\x04\n\xff\n" * 100, "1: the file is a zip file"),
        ("rows.csv", b"\x1f\x8b\x08\n\xff\n" * 100, "1: the file is compressed with gzip"),
        ("lines.txt", rows, "1: the file holds JSON lines, not lines of text: give it a name that ends in .jsonl"),
        ("head.txt", "text\n" + lines(*TEXTS), "1: 'text' looks like a header"),
        (
            "gb.txt",
            lines(*TEXTS).encode("gb18030"),
            "the file has another encoding. Convert it: iconv -f GB18030 -t UTF-8",
        ),
    ):
        result = call("--output_file", "out.jsonl", "--data_file", name, **{name.replace(".", "_"): content})
        assert fails(result, f"{name}:", says) and result.error.count(f"{name}:") == 1
    assert not list(tmp_path.glob("out*"))


def test_an_absolute_data_file(call, tmp_path):
    (tmp_path / "elsewhere.txt").write_text(lines(*TEXTS[:2]), encoding="utf-8")
    assert len(rows_of(call("--output_file", "out.jsonl", "--data_file", tmp_path / "elsewhere.txt").output)) == 2


def test_stdin_to_stdout(call, monkeypatch):
    plain = call("--output_file", "out.jsonl", data_txt=lines(TEXTS[0], "", TEXTS[1])).output
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(f"{TEXTS[0]}\n\n{TEXTS[1]}".encode())))
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="utf-8"))
    result = call("--data_file", "-", "--output_file", "-")
    assert written.getvalue() == plain
    assert any("-: blank rows: 1 " in line for line in result.log)


def test_a_named_pipe_is_read_once(call, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    writer = subprocess.Popen([sys.executable, "-c", "open('pipe', 'w').write('a\\nb\\n')"], cwd=tmp_path)
    assert len(rows_of(call("--data_file", tmp_path / "pipe", "--output_file", "out.jsonl").output)) == 2
    writer.wait()


# ---- order and batches -----------------------------------------------------------------------------------------------


def test_results_depend_neither_on_batches_nor_on_neighbours(call, monkeypatch):
    def by_text(*arguments, data):
        rows = rows_of(call("--output_file", "out.jsonl", "--floor", 0, *arguments, data_txt=data).output)
        return {row["text"]: row for row in rows}, [row["text"] for row in rows]

    reference, _ = by_text(data=lines(*TEXTS))
    monkeypatch.setattr(predictions, "WINDOW_BATCHES", 2)
    for batch_size in (1, 3, 64):
        shuffled = TEXTS[::-1] if batch_size == 3 else TEXTS
        rows, order = by_text("--batch_size", batch_size, data=lines(*shuffled))
        assert order == shuffled
        for text, row in rows.items():
            assert row["labels"] == reference[text]["labels"]
            for label, value in row["probabilities"].items():
                assert value == pytest.approx(reference[text]["probabilities"][label], abs=1e-5)


# ---- bad input -------------------------------------------------------------------------------------------------------


def test_bad_data_files(call, tmp_path):
    assert fails(call("--output_file", "out.jsonl"), "data.txt: no such file")
    assert fails(call(data_txt=""), "data.txt", "empty")
    assert fails(call("--data_file", "."), "directory")
    gb = lines(TEXTS[0]).encode() + "中文".encode("gb18030") + b"\n" + lines(TEXTS[1]).encode() + b"\xff\n"
    assert fails(call("--output_file", "out.jsonl", data_txt=gb), "2 problems", "data.txt:2: ", "'中文'", ":4: ")
    assert fails(call(data_txt=TEXTS[0].encode("utf-16")), "UTF-16")
    assert fails(call("--data_file", "a.jsonl", a_jsonl='{"text": "a"}\n{"text": 1}\n{\n'), "a.jsonl:2", "a.jsonl:3")
    assert fails(call("--data_file", "a.csv", a_csv="标题,x\n"), "a.csv:1", "header")
    assert fails(call("--data_file", "b.csv", b_csv="\ntext\na\n"), "b.csv:1", "header")
    assert not list(tmp_path.glob("out*"))


def test_a_bad_line_from_stdin(call, monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"a\n\xff\n")))
    assert fails(call("--data_file", "-", "--output_file", "out.jsonl"), "-:2: byte 1 is not UTF-8")
    assert not list(tmp_path.glob("out*"))


def test_bad_arguments(call, tmp_path):
    data = dict(data_txt=lines(TEXTS[0]))
    assert fails(call("--output_file", "out.xlsx", **data), "--output_file", ".jsonl or .tsv")
    assert fails(call("--output_file", "out"), ".jsonl or .tsv")
    assert fails(call("--batch_size", 0), "--batch_size")
    assert fails(call("--max_seq_length", 2), "--max_seq_length")
    assert fails(call("--floor", 1.5), "--floor")
    assert fails(call("--threshold", 1.5), "threshold")
    assert fails(call("--top_k", 2, "--max_labels", 2), "top_k")
    assert fails(call("--resume"), "--output_file")
    assert fails(call("--output_file", "missing/out.jsonl"), "missing/out.jsonl")
    (tmp_path / "out.jsonl").mkdir()
    assert fails(call("--output_file", "out.jsonl"), "directory")


def test_other_labels_than_the_checkpoints(call, tiny_checkpoint, tmp_path):
    labels = (SAMPLE / "label.txt").read_text(encoding="utf-8")
    data = dict(data_txt=lines(TEXTS[0]))
    assert call(label_txt=labels, **data).code == 0
    assert fails(call(label_txt=labels + "新的\n"), "label.txt", "新的")
    assert fails(call(label_txt=lines(*reversed(TREE.labels))), "another order")
    assert call("--label_file", "other.txt").code == 0
    edited = tmp_path / "edited"
    without_identity(shutil.copytree(tiny_checkpoint, edited))
    for tree in (TREE.labels + ["新的"], TREE.labels[:-1]):
        write_settings(edited, LabelTree(tree), 64, Decision())
        assert fails(call("--label_file", "other.txt", params=edited), "31 outputs", f"{len(tree)} labels")


def test_a_comma_in_a_label_needs_jsonl(call, tiny_checkpoint, tmp_path):
    odd = tmp_path / "odd"
    without_identity(shutil.copytree(tiny_checkpoint, odd))
    write_settings(odd, LabelTree([*TREE.labels[:-1], "甲,乙"]), 64, Decision())
    assert fails(call("--output_file", "out.tsv", params=odd, data_txt="甲\n"), "甲,乙", ".jsonl")
    assert call("--output_file", "out.jsonl", params=odd).code == 0


class Bomb:
    def __reduce__(self):
        return os.system, ("touch exploded",)


def test_bad_checkpoints(call, tiny_checkpoint, tmp_path):
    data = dict(data_txt=lines(TEXTS[0]))
    assert fails(call(params="nowhere", **data), "nowhere")
    broken = tmp_path / "broken"
    shutil.copytree(tiny_checkpoint, broken)
    weights = (broken / WEIGHTS).read_bytes()
    for cut in (0, 7, 1000, len(weights) - 1):
        (broken / WEIGHTS).write_bytes(weights[:cut])
        assert fails(call("--output_file", "out.jsonl", params=broken), WEIGHTS)
        assert not list(tmp_path.glob("out*"))
    (broken / WEIGHTS).unlink()
    (broken / "model_state.pdparams").write_bytes(pickle.dumps({"classifier.bias": Bomb()}))
    assert fails(call(params=broken), "model_state.pdparams")
    assert not list(tmp_path.rglob("exploded"))
    (broken / "vocab.txt").unlink()
    assert fails(call(params=broken), "vocab.txt")


# ---- as a command ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_help_and_mistakes_do_not_wait_for_paddle(tmp_path):
    command = [sys.executable, "-X", "importtime", str(ROOT / "predict.py")]
    for arguments, code in ((["--help"], 0), ([], 2), (["--dataset_dir", "x", "--params_path", "x"], 2)):
        done = subprocess.run([*command, *arguments], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == code and "Traceback" not in done.stderr
        assert "| paddle" not in done.stderr and "|   paddle" not in done.stderr


@pytest.mark.slow
def test_a_reader_that_has_seen_enough(tiny_checkpoint, tmp_path):
    (tmp_path / "in.txt").write_text(lines(*TEXTS * 40), encoding="utf-8")
    with open(tmp_path / "in.txt", "rb") as stdin, open(tmp_path / "log", "wb") as log:
        command = [sys.executable, ROOT / "predict.py", *"--data_file - --output_file - --device cpu".split()]
        command += ["--params_path", tiny_checkpoint, "--batch_size", "1"]
        process = subprocess.Popen(command, stdin=stdin, stdout=subprocess.PIPE, stderr=log, cwd=tmp_path)
        first = json.loads(process.stdout.readline())
        process.stdout.close()
    assert process.wait() == 0 and first["text"] == TEXTS[0]
    assert (tmp_path / "log").read_bytes() == b""
