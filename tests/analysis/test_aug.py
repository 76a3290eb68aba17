"""analysis/aug.py: every change by hand, the masked model, files, and what can be wrong."""

import json
import random
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from analysis import aug
from analysis.aug import CHANGES, CYCLE, MaskedModel, augment, cut, how_many, mask_word
from utils import InputError

ROOT = Path(__file__).resolve().parents[2]
WORDS = ["公司", "，", "今天", "裁员", "100", "人"]
SAME = {"公司": ["企业"], "裁员": ["减员"]}


class Choices:
    """A random.Random that takes the first it can, and tosses a given side."""

    def __init__(self, toss=0.0):
        self.toss = toss

    def sample(self, items, k):
        return items[:k]

    def choice(self, items):
        return items[0]

    def random(self):
        return self.toss


@pytest.fixture(autouse=True)
def log(log_of):
    return log_of(aug)


@pytest.fixture
def call(monkeypatch):
    def call(*flags):
        monkeypatch.setattr(sys, "argv", ["aug.py", *map(str, flags)])
        aug.main()

    return call


@pytest.fixture
def dictionary(tmp_path):
    path = tmp_path / "same.json"
    path.write_text(
        json.dumps({"出战": ["出场", "上阵"], "开打": ["开赛"], "收涨": ["上涨"], "上市": ["挂牌"]}), "utf-8"
    )
    return path


# ---- changes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change, toss, share, expected",
    [
        ("substitute", 0, 0.1, "企业，今天裁员100人"),  # 4 words: 0.4 rounded up is 1
        ("substitute", 0, 0.3, "企业，今天减员100人"),
        ("substitute", 0, 1.0, "企业，今天减员100人"),  # no more than can be
        ("insert", 0.9, 0.1, "企业公司，今天裁员100人"),
        ("insert", 0.1, 0.3, "公司企业，今天裁员减员100人"),
        ("delete", 0, 0.1, "，今天裁员100人"),
        ("delete", 0, 1.0, "，100人"),  # one word stays
        ("swap", 0, 0.1, "今天，公司裁员100人"),
        ("swap", 0, 0.5, "今天，裁员公司100人"),
    ],
)
def test_changes_by_hand(change, toss, share, expected):
    assert "".join(CHANGES[change](WORDS, share, SAME, Choices(toss))) == expected


@pytest.mark.parametrize("change", CYCLE)
def test_nothing_to_change(change):
    assert CHANGES[change](["100", "！"], 0.5, SAME, Choices()) is None


def test_words_of_an_alphabet_keep_their_blanks():
    words = cut("big deal, new CEO")
    assert "".join(words) == "big deal, new CEO"
    assert "".join(CHANGES["insert"](words, 0.1, {"deal": ["sale"]}, Choices(0.9))) == "big sale deal, new CEO"


def test_how_many():
    assert [how_many(0.1, n, 99) for n in (1, 10, 11, 99, 500)] == [1, 1, 2, 10, 10]
    assert how_many(0.5, 10, 2) == 2


@pytest.mark.parametrize("strategy", ("mix", *CYCLE))
def test_copies_differ_and_the_seed_decides(strategy):
    texts = ["公司今天宣布裁员一千人", "球队昨晚战胜对手夺冠"] * 3
    same = {word: [word + char for char in "一二三四五六七八九十"] for word in ("公司", "宣布", "球队", "战胜")}
    new = augment(texts, strategy, 2, 0.2, random.Random(5), same)
    assert new == augment(texts, strategy, 2, 0.2, random.Random(5), same)
    assert new != augment(texts, strategy, 2, 0.2, random.Random(6), same)
    assert [row for row, _ in new] == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5]
    for row in range(6):
        copies = [text for i, text in new if i == row]
        assert len(set(copies)) == 2 and texts[row] not in copies


def test_mix_goes_round(monkeypatch):
    used = []
    for name in CYCLE:
        monkeypatch.setitem(CHANGES, name, lambda words, *_, name=name: used.append(name) or [*words, name])
    augment(["甲", "乙", "丙"], "mix", 2, 0.1, random.Random(0))
    assert used == ["substitute", "insert", "delete", "swap", "substitute", "insert"]


def test_a_text_without_words_has_no_copies():
    assert augment(["123", "裁员"], "delete", 3, 0.1, random.Random(0)) == []


# ---- the masked model ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "insert_it, toss, expected",
    [
        (False, 0, "[MASK][MASK]，今天裁员100人"),
        (True, 0, "公司[MASK]，今天裁员100人"),
        (True, 0.9, "[MASK]公司，今天裁员100人"),
    ],
)
def test_masked_words(insert_it, toss, expected):
    assert mask_word(WORDS, insert_it, Choices(toss)) == expected


def test_texts_that_cannot_be_masked():
    assert mask_word(["12"], False, Choices()) is None
    for text in ("[MASK]人", "公司[MASK]裁员"):  # which jieba cuts in three
        assert mask_word(cut(text), False, Choices()) is None


@pytest.fixture(scope="module")
def masked_directory(paddle, tmp_path_factory):
    """A tiny masked language model with random weights, but for a bias that makes 5 tokens by far the likeliest.

    It has some more outputs than vocab.txt has lines, as published models can have.
    """
    from hierarchical.modeling import read_config
    from paddlenlp.transformers import ErnieForMaskedLM
    from hierarchical.tokenizer import load_tokenizer
    from hierarchical.weights import write_weights

    source, folder = ROOT / "data" / "tiny-ernie", tmp_path_factory.mktemp("mlm")
    tokenizer = load_tokenizer(source, 64)
    paddle.seed(0)
    config = read_config(source)
    config.vocab_size += 3
    model = ErnieForMaskedLM(config)
    bias = np.zeros(config.vocab_size, np.float32)
    bias[-3:] = 300  # no token at all
    bias[[tokenizer.vocab[char] for char in "天地人上下"]] = 100
    bias[[tokenizer.vocab[token] for token in ("[SEP]", "[UNK]", "。")]] = 200  # never to be taken
    model.cls.predictions.decoder.bias.set_value(bias)
    tokenizer.save(folder)
    (folder / "config.json").write_text(json.dumps(config.to_dict()), encoding="utf-8")
    write_weights(folder, model)
    return folder


def test_gaps_are_filled_with_likely_tokens(masked_directory):
    model = MaskedModel(masked_directory, "cpu")
    texts = ["公司[MASK][MASK]了", "[MASK]", "没有", "[MASK]" + "人" * 600 + "[MASK]"]
    filled = model.fill(texts, random.Random(0), batch_size=3)
    assert len(filled[0]) == 5 and set(filled[0][2:4]) <= set("天地人上下") and filled[1] in "天地人上下"
    assert filled[2] == "没有" and filled[3][1:] == "人" * 600  # the end is beyond what the model reads
    assert filled == model.fill(texts, random.Random(0), batch_size=3)


def test_mlm_from_file_to_file(masked_directory, data_dir, tmp_path, call):
    folder = data_dir()
    flags = ["--train_path", folder / "train.txt", "--aug_path", tmp_path / "aug.txt", "--aug_type", "mlm"]
    call(*flags, "--mlm_model", masked_directory, "--device", "cpu", "--create_n", 1)
    rows = [line.split("\t") for line in (tmp_path / "aug.txt").read_text(encoding="utf-8").splitlines()]
    assert len(rows) == 4 and rows[0][1] == "体育,体育##足球"
    assert rows[0][0] != "国足今晚出战" and len(rows[0][0]) == 6 and "[MASK]" not in rows[0][0]


def test_models_that_cannot_fill_gaps(tiny_checkpoint, tmp_path, data_dir, refused):
    flags = ["--train_path", data_dir() / "train.txt", "--aug_type", "mlm", "--aug_path", tmp_path / "aug.txt"]
    assert "needed for --aug_type mlm" in refused(*flags)
    assert "no such directory" in refused(*flags, "--mlm_model", tmp_path / "nowhere")
    assert "cls.predictions" in refused(*flags, "--device", "cpu", "--mlm_model", tiny_checkpoint)
    assert not (tmp_path / "aug.txt").exists()


def test_a_vocabulary_that_is_larger_than_the_model(masked_directory, tmp_path):
    folder = shutil.copytree(masked_directory, tmp_path / "mlm")
    with open(folder / "vocab.txt", "a", encoding="utf-8") as file:
        file.writelines(f"多{i}\n" for i in range(4))
    with pytest.raises(InputError, match="vocab.txt has 1079 lines, but config.json a vocab_size of 1078"):
        MaskedModel(folder, "cpu")


def test_a_text_that_spells_out_the_mask_is_left_alone(masked_directory):
    model = MaskedModel(masked_directory, "cpu")
    assert augment(["公司[MASK]裁员"], "substitute", 2, 0.1, random.Random(0), masked_model=model) == []


# ---- files -----------------------------------------------------------------------------------------------------------


def test_new_rows_alone_with_their_labels(data_dir, dictionary, call, log):
    folder = data_dir(train_txt="国足今晚出战\t体育,体育##足球\n\n无标签\n联赛开打 😀\t没听说过的标签\n无词\t财经\n")
    flags = ["--train_path", folder / "train.txt", "--aug_path", folder / "aug.txt", "--dictionary", dictionary]
    call(*flags)
    lines = (folder / "aug.txt").read_text(encoding="utf-8").splitlines()
    assert sorted(lines[:2]) == ["国足今晚上阵\t体育,体育##足球", "国足今晚出场\t体育,体育##足球"]
    assert lines[2:] == ["联赛开赛 😀\t没听说过的标签"]  # one other word only: one copy
    assert "skipped 1 blank and 1 unlabelled" in log.text and "3 copies could not be made" in log.text
    first = (folder / "aug.txt").read_bytes()
    call(*flags)
    assert (folder / "aug.txt").read_bytes() == first
    assert not {path.name for path in folder.iterdir()} - {"aug.txt", "train.txt", "dev.txt", "label.txt", "data.txt"}


def test_jsonl(data_dir, call):
    row = {"text": "第一行\n第二行说公司裁员", "labels": ["a,b"]}
    folder = data_dir(train_jsonl=json.dumps(row, ensure_ascii=False) + "\n")
    call("--train_path", folder / "train.jsonl", "--aug_path", folder / "aug.jsonl", "--aug_strategy", "swap")
    new = [json.loads(line) for line in (folder / "aug.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(new) == 2 and all(one["labels"] == ["a,b"] and sorted(one["text"]) == sorted(row["text"]) for one in new)


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--train_path", "{}/dev.txt"], "would measure nothing"),
        (["--aug_path", "{}/dev.txt"], "augmented dev rows would measure nothing"),
        (["--aug_path", "{}/label.txt"], "holds the label tree"),
        (["--aug_path", "{}/train.txt"], "would overwrite"),
        (["--aug_path", "{}/aug.csv"], "not .csv"),
        (["--train_path", "{}/none.txt"], "no such file"),
        (["--train_path", "{}/data.txt"], "no labelled row"),
        (["--create_n", "0"], "at least 1"),
        (["--aug_percent", "0"], "above 0"),
        (["--aug_percent", "nan"], "above 0"),
        (["--dictionary", "{}/train.txt"], "not JSON"),
        (["--aug_strategy", "replace"], "invalid choice"),
    ],
)
def test_what_can_be_wrong(data_dir, refused, flags, message):
    folder = data_dir()
    before = {path: path.read_bytes() for path in folder.iterdir()}
    flags = [flag.format(folder) for flag in flags]
    message_shown = refused("--train_path", folder / "train.txt", "--aug_path", folder / "aug.txt", *flags)
    assert message in message_shown
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


def test_no_word_that_can_be_changed(data_dir, tmp_path, refused):
    folder, dictionary = data_dir(aug_txt="of an earlier run"), tmp_path / "same.json"
    dictionary.write_text('{"没有": ["不存在"]}', encoding="utf-8")
    flags = ["--train_path", folder / "train.txt", "--aug_path", folder / "aug.txt", "--dictionary", dictionary]
    assert "no row has a word that --aug_strategy substitute can change" in refused(*flags)
    assert (folder / "aug.txt").read_text(encoding="utf-8") == "of an earlier run"


def test_all_bad_rows_at_once(data_dir, refused):
    folder = data_dir(train_txt="甲\t体育,\n\t体育\n乙\t一\t二\n丙\t体育\n")
    shown = refused("--train_path", folder / "train.txt", "--aug_path", folder / "aug.txt")
    assert all(
        part in shown for part in ("3 problems", "train.txt:1: an empty label", ":2: the text is empty", ":3: 2 TABs")
    )


def test_the_exit_code_of_the_script():
    command = [sys.executable, "analysis/aug.py", "--train_path", "data/dev.txt"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, encoding="utf-8")
    assert done.returncode == 2 and "dev.txt" in done.stderr and "Traceback" not in done.stderr
