"""client_texts.py: the clients send what predict.py would label, row by row."""

import argparse
import io
import sys

import pytest

from deploy import client_texts
from deploy.paddle_serving import client
from utils import InputError, make_parser


def sent(**flags):
    return client_texts.texts_to_send(argparse.Namespace(**{"texts": None, "dataset_dir": None} | flags))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.txt", "进球\t体育,体育##足球\n\n升息\t再升\n"),
        ("a.tsv", "进球\t体育\t体育\n\n升息\t再升\n"),
        ("a.jsonl", '{"text": "进球", "label": "体育"}\n\n{"text": "升息 再升"}\n'),
        ("a.json", '[{"text": "进球",\n"labels": ["体育"]}, {"text": ""}, {"text": "升息 再升"}]'),
        ("a.csv", "text,label\n进球,体育\n,\n升息 再升,\n"),
    ],
)
def test_all_formats_and_never_the_labels(data_dir, name, content, printed):
    folder = data_dir(**{name.replace(".", "_"): content})
    assert sent(dataset_dir=str(folder), data_file=name) == ["进球", "", "升息 再升"]
    assert any("blank rows: 1" in line for line in printed)
    assert any("rows with labels after a TAB: 1" in line for line in printed) == (name in ("a.txt", "a.tsv"))


def test_a_tab_without_a_label_file_is_refused(data_dir):
    folder = data_dir(label_txt=None, data_txt="进球\t体育\n升息\n")
    with pytest.raises(InputError, match="data.txt:1: a TAB: are labels or more of the text behind it"):
        sent(dataset_dir=str(folder), data_file="data.txt")


def test_from_standard_input(data_dir, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO('{"text": "进球", "labels": ["体育"]}\n'.encode())))
    assert sent(data_file="-") == ["进球"]
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("进球\t体育\n".encode())))
    assert sent(data_file="-", dataset_dir=str(data_dir())) == ["进球"]


def test_texts_that_begin_with_a_dash():
    parser = make_parser("A client.")
    client_texts.add_arguments(parser, "x:1", "it")
    args = client_texts.parse_args(parser, ["--texts", "-5度", "--", "甲"])
    assert client_texts.texts_to_send(args) == ["-5度", "--", "甲"]


def test_shown_texts_are_cut(monkeypatch, capsys):
    monkeypatch.setattr(client, "classify", lambda texts, ask, certainty: [(["体育"], [0.75], 0.7)] * len(texts))
    args = argparse.Namespace(texts=["长" * 1_000_000], certainty=0.7)
    client.print_labels(args, None)
    first, *_, certainty, _ = capsys.readouterr().out.splitlines()
    assert first == f"text: {'长' * 200}... (1,000,000 characters)"
    assert certainty == "certainty: 0.7000 (sure)"
