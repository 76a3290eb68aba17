"""analysis/augmentation.py: every change by hand, and the masked model."""

import random
import shutil

import pytest

from analysis.augmentation import CHANGES, CYCLE, MaskedModel, augment, cut, how_many, mask_word
from utils import InputError

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


@pytest.mark.slow
def test_words_of_an_alphabet_keep_their_blanks():
    words = cut("big deal, new CEO")
    assert "".join(words) == "big deal, new CEO"
    assert "".join(CHANGES["insert"](words, 0.1, {"deal": ["sale"]}, Choices(0.9))) == "big sale deal, new CEO"


def test_how_many():
    assert [how_many(0.1, n, 99) for n in (1, 10, 11, 99, 500)] == [1, 1, 2, 10, 10]
    assert how_many(0.5, 10, 2) == 2


@pytest.mark.slow
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


def test_gaps_are_filled_with_likely_tokens(masked_directory):
    model = MaskedModel(masked_directory, "cpu")
    texts = ["公司[MASK][MASK]了", "[MASK]", "没有", "[MASK]" + "人" * 600 + "[MASK]"]
    filled = model.fill(texts, random.Random(0), batch_size=3)
    assert len(filled[0]) == 5 and set(filled[0][2:4]) <= set("天地人上下") and filled[1] in "天地人上下"
    assert filled[2] == "没有" and filled[3][1:] == "人" * 600  # the end is beyond what the model reads
    assert filled == model.fill(texts, random.Random(0), batch_size=3)


def test_a_vocabulary_that_is_larger_than_the_model(masked_directory, tmp_path):
    folder = shutil.copytree(masked_directory, tmp_path / "mlm")
    with open(folder / "vocab.txt", "a", encoding="utf-8") as file:
        file.writelines(f"多{i}\n" for i in range(4))
    with pytest.raises(InputError, match="vocab.txt: 1079 tokens, but the model knows 1078"):
        MaskedModel(folder, "cpu")


def test_a_text_that_spells_out_the_mask_is_left_alone(masked_directory):
    model = MaskedModel(masked_directory, "cpu")
    assert augment(["公司[MASK]裁员"], "substitute", 2, 0.1, random.Random(0), masked_model=model) == []
