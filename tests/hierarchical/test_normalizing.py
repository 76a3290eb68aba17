"""Normalised texts by hand, against unicodedata, and that each character knows where it comes from."""

import json
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hierarchical.errors import InputError
from hierarchical.normalizing import LOOK_ALIKES, Normalizer, clusters
from hierarchical.tokenizer import load_tokenizer, normalizing
from tests.hierarchical.test_tokenizer import ODD_TEXTS, write_model

WORDS = '[PAD] [CLS] [SEP] [MASK] [UNK] 人 车 1 2 12 ##2 a ab ##b ， - " 北 京 ( 株 ) é'.split()
VOCAB = {token: i for i, token in enumerate(WORDS)}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("⼈⻋１２", "人车12"),  # radicals, of which NFKC knows the first
        ("北京，ａｂ：１", "北京，ab:1"),  # the comma is in the vocabulary, the colon is not
        ("a\u200bb\ufeff", "ab"),
        ("a—b「“x”」", 'a-b「"x"」'),
        ("㈱", "(株)"),
        ("e\u0301，\u0301", "é，\u0301"),
        ("plain ascii - [SEP]", "plain ascii - [SEP]"),
        ("", ""),
    ],
)
def test_by_hand(text, expected):
    assert Normalizer(VOCAB)(text) == expected == Normalizer(VOCAB).aligned(text)[0]


def test_where_characters_come_from_by_hand():
    text, sources = Normalizer(VOCAB).aligned("x㈱\u200b，e\u0301")
    assert text == "x(株)，é"
    assert sources == [(0, 1), (1, 2), (1, 2), (1, 2), (3, 4), (4, 6)]


def test_the_table_holds_only_what_nfkc_leaves():
    left = [char for char in LOOK_ALIKES if unicodedata.normalize("NFKC", char) == char]
    assert sorted(left) == sorted(set(LOOK_ALIKES) - {"″", "‑"})  # two that NFKC makes others of the table
    assert (
        all(len(other) <= 1 for other in LOOK_ALIKES.values())
        and "长" == LOOK_ALIKES["⻓"]
        and "龙" == LOOK_ALIKES["⻰"]
    )
    known = Normalizer(VOCAB | {"—": 99})
    assert known("—–") == "—-"  # what the vocabulary has stays


ANY = st.text(
    st.one_of(
        st.sampled_from(
            "ab，：⼈⻋㈱ﬁé\u0301\u0323\u0327\u200b—\u1100\u1161\u11a8가１ｶﾞ½Å\ufdfa\u0958\u09c7\u09be\u0344"
        ),
        st.characters(exclude_categories=["Cs"]),
    ),
    max_size=12,
)


@given(ANY)
@settings(max_examples=500)
def test_every_character_has_its_source(text):
    normalizer = Normalizer(VOCAB)
    whole, sources = normalizer.aligned(text)
    assert whole == normalizer(text) and len(sources) == len(whole)
    assert all(0 <= start < end <= len(text) for start, end in sources)
    assert all(a[0] <= b[0] and a[1] <= b[1] for a, b in zip(sources, sources[1:]))
    assert whole == normalizer("".join(normalizer(text[i:j]) for i, j in clusters(text)))  # and nothing more to do
    bare = Normalizer({})
    bare._table = {}
    assert bare(text) == unicodedata.normalize("NFKC", text)


# ---- in a tokenizer --------------------------------------------------------------------------------------------------


def test_a_tokenizer_reads_what_is_normalised(tmp_path):
    plain = load_tokenizer(write_model(tmp_path / "m", WORDS), 16)
    tokenizer, text = normalizing(plain, "nfkc"), "⼈⻋，１２㈱"
    unknown = plain.unk_id
    assert plain.encode([text])[0].count(unknown) == 4 and plain.count(text)[1] == ["⼈", "⻋", "１２", "㈱"]
    ids = [VOCAB[token] for token in ("[CLS]", "人", "车", "，", "12", "(", "株", ")", "[SEP]")]
    assert tokenizer.encode([text]) == [ids] and tokenizer.encode_whole(text) == ids[1:-1]
    assert tokenizer.count(text) == (9, []) and tokenizer.lengths([text]) == [9]
    places = [text[start:end] for start, end in tokenizer.spans(text)]
    assert places == ["", "⼈", "⻋", "，", "１２", "㈱", "㈱", "㈱", ""]


def test_it_is_saved_with_the_tokenizer_and_tied_to_its_files(tmp_path):
    tokenizer = normalizing(load_tokenizer(write_model(tmp_path / "m", WORDS), 16), "nfkc")
    (tmp_path / "saved").mkdir()
    tokenizer.save(tmp_path / "saved")
    saved = load_tokenizer(tmp_path / "saved", 16)
    assert saved.files == tokenizer.files and saved.encode(["⼈"]) == tokenizer.encode(["人"])
    path = tmp_path / "saved" / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | {"normalize": "nfkd"}), encoding="utf-8")
    with pytest.raises(InputError, match="normalize is 'nfkd', which a newer version writes"):
        load_tokenizer(tmp_path / "saved", 16)


def test_spans_of_odd_texts_stay_within_them(tmp_path):
    tokenizer = normalizing(load_tokenizer(write_model(tmp_path / "m"), 4096), "nfkc")
    for text in ODD_TEXTS:
        spans = tokenizer.spans(text)
        assert len(spans) == len(tokenizer.encode([text])[0])
        inner = spans[1:-1]
        assert all(0 <= start <= end <= len(text) for start, end in inner), text
        assert all(a <= b for a, b in zip(inner, inner[1:])), text
