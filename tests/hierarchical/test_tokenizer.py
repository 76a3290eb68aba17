"""tokenizer.py gives the ids of PaddleNLP's Python tokenizers: on odd texts, on random ones, cut or whole."""

import json
import pickle
import random
import subprocess
import sys
import time
import unicodedata
from itertools import product
from pathlib import Path
from types import SimpleNamespace

import pytest

from hierarchical.tokenizer import load_tokenizer
from tests.conftest import ROOT, SAMPLE

MODELS = ROOT.parent / "shared" / "models"

SPECIAL = ["[PAD]", "[CLS]", "[SEP]", "[MASK]", "[UNK]"]
VOCAB = (
    SPECIAL
    + list("北京今天下雨abcdeilnosuwσ0123456789，。!?[]|#·々가アก")
    + (
        "##a ##b ##c ##e ##i ##n ##s ##1 ##2 ##0 ##ア ##σ un ##ion ab ##abc www hello ##lo ｜ ㎡ ® ° × + < 〇 ² 凉 \u1100 ##\u1161 豈 \U0001d165 ##\u302e"
    ).split()
)

ODD = {
    "empty": ["", " ", "\t\r\n", "\u3000\u00a0\u2009", "\u2028\u2029", "\x0b\x0c\x1c\x85", "\u200b"],
    "controls": ["a\0b", "a\x01b", "\ufffd北\ufffd", "a\u200bb", "a\u200db\ufeff", "a\u00adb", "a\u2028b\u2029c", "a\x85b", "\ue000a"],
    "surrogates": ["a\ud800b", "\udfff北"],
    "specials": ["[SEP]", "a[SEP]b", "a [CLS]  [MASK] b", "[sep]", "[SEP", "[[SEP]]", "[UNK][PAD]", "[MASK]\n", " x [SEP] y "]
    + ["［SEP］", "[ SEP ]", "[CLS[CLS]", "\x1c[SEP]\x1ca", "北[MASK]京", "##a", "▁", "▁▁a", "。▁", "a▁。▁北"],
    "symbols": ["100㎡的｜房", "®a°b℃", "a×b＋c≤d", "²µºØŋƱ〇", "a☃b★★", "a$b^c`d~e", "€£¥", "½ⅷ①㈱"],
    "wide": ["ＡＢＣ１２３，。！？", "ｱｲｳ", "～〜", "￥１００", "，。！？《》【】；："],
    "emoji": ["😀a😀b", "👨‍👩‍👧", "❤️", "🇨🇳", "\U0001fae8", "1️⃣"],
    "marks": ["café", "cafe\u0301", "naïve Ångström", "a\u0300\u0323", "a\u0323\u0300", "ệ", "≠", "a\u302e\ufe0f\U0001d165b", "\u302e\u200d\U0001d165", "\u302e\U0001d165"],
    "case": ["HeLLo UNion", "İstanbul ıI", "ΑΣ Σ ΣΑ", "Straße ẞ", "ǅ", "K Å Ω", "ﬁ"],
    "digits": ["2022年12月", "12ab34", "١٢٣", "一二三", "a²b", "3.14", "1" * 99, "1" * 100, "1" * 101],
    "long": ["a" * 100, "a" * 101, "北" * 150, "ab" * 60 + " ab", "é" * 100, "e\u0301" * 60, "hello" * 30, "W" * 100 + "\0"],
    "scripts": ["한국어 가", "ひらがなカタカナア", "ภาษาไทยก", "العربية", "עִבְרִית", "हिन्दी", "Русский", "தமிழ்"],
    "rare CJK": ["\u3400\U00020000\U0002a700\U0002f800\U00030000", "豈更\uf979凉", "a\u9fffb\ua000c", "々〆〇", "\u2e80⼀"],
}  # fmt: skip
ODD_TEXTS = [text for texts in ODD.values() for text in texts]
ENCODABLE = [text for text in ODD_TEXTS if not any("\ud800" <= char <= "\udfff" for char in text)]


def write_model(folder: Path, vocab: list[str] = VOCAB, **config) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(vocab) + "\n", encoding="utf-8")
    config = {"tokenizer_class": "ErnieTokenizer"} | config
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


def shared_model(name: str) -> Path:
    if not (MODELS / name).is_dir():
        pytest.skip(f"no model {MODELS / name}")
    return MODELS / name


def slow_tokenizer(folder: Path):
    """PaddleNLP's own tokenizer for the folder, as a function text, length -> ids."""
    transformers = pytest.importorskip("paddlenlp.transformers")
    name = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))["tokenizer_class"]
    tokenizer = getattr(transformers, name).from_pretrained(str(folder))
    return lambda text, length=100_000: tokenizer(text, max_seq_len=length)["input_ids"]


def assert_equal(folder: Path, texts: list[str], length: int, slow=None) -> None:
    slow = slow or slow_tokenizer(folder)
    for text, ids in zip(texts, load_tokenizer(folder, length).encode(texts), strict=True):
        assert ids == slow(text, length), (length, text[:200])


@pytest.mark.slow
@pytest.mark.parametrize("lower", [True, False])
def test_odd_texts_as_paddlenlp(tmp_path, lower):
    folder = write_model(tmp_path, do_lower_case=lower)
    slow = slow_tokenizer(folder)
    mixed = random.Random(0)
    texts = ODD_TEXTS + ["".join(mixed.choices(ODD_TEXTS, k=4)) for _ in range(300)]
    for length in (3, 4, 10, 10_000):
        assert_equal(folder, texts, length, slow)
    assert load_tokenizer(folder, 3).lengths(texts) == [len(slow(text)) for text in texts]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["zh-6l", "zh-4l", "ernie-m-small"])
def test_odd_texts_with_real_vocabularies(name):
    folder = shared_model(name)
    slow, mixed = slow_tokenizer(folder), random.Random(0)
    texts = ENCODABLE + ["".join(mixed.choices(ENCODABLE, k=4)) for _ in range(300)]
    texts += [chr(code) + "a" + chr(code) + "一1" for code in range(1, 0xD800, 23)]
    for length in (16, 10_000):
        assert_equal(folder, texts, length, slow)
    assert load_tokenizer(folder, 3).lengths(texts) == [len(slow(text)) for text in texts]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tiny", "ernie-m-small"])
def test_random_texts_as_paddlenlp(tmp_path, name):
    hypothesis = pytest.importorskip("hypothesis")
    strategies = hypothesis.strategies
    folder = write_model(tmp_path) if name == "tiny" else shared_model(name)
    slow, tokenizer = slow_tokenizer(folder), load_tokenizer(folder, 12)
    any_char = strategies.characters(exclude_categories=[] if name == "tiny" else ["Cs"])
    pieces = strategies.one_of(any_char, strategies.sampled_from(VOCAB + ENCODABLE + [" ", "AB", "\u0301"]))

    @hypothesis.settings(max_examples=300)
    @hypothesis.given(strategies.lists(pieces, max_size=40).map("".join))
    def check(text):
        assert tokenizer.encode([text]) == [slow(text, 12)]
        assert tokenizer.lengths([text]) == [len(slow(text))]

    check()


def test_sentencepiece_pieces_are_cut_as_paddlenlp_cuts_them():
    """Pieces of every shape, those included that this model's sentencepiece never makes."""
    transformers = pytest.importorskip("paddlenlp.transformers")
    folder = shared_model("ernie-m-small")
    slow, tokenizer = transformers.ErnieMTokenizer.from_pretrained(str(folder)), load_tokenizer(folder, 16)
    slow.sp_model = SimpleNamespace(EncodeAsPieces=lambda text: [text])
    for length in range(1, 5):
        for piece in map("".join, product("▁a1，北²", repeat=length)):
            assert list(tokenizer._word_ids(piece)) == slow.convert_tokens_to_ids(slow._tokenize(piece)), piece


def test_ids_by_hand(tmp_path):
    tokenizer = load_tokenizer(write_model(tmp_path), 8)
    cls, sep, unk = VOCAB.index("[CLS]"), VOCAB.index("[SEP]"), VOCAB.index("[UNK]")
    union = [VOCAB.index("un"), VOCAB.index("##ion")]
    assert tokenizer.encode(["北Union", "", "unx", "unx[SEP]"]) == [
        [cls, VOCAB.index("北"), *union, sep],
        [cls, sep],
        [cls, unk, sep],
        [cls, unk, sep, sep],
    ]
    assert tokenizer.encode(["北京" * 10])[0] == [cls, *[VOCAB.index(char) for char in "北京" * 3], sep]
    assert tokenizer.encode([]) == tokenizer.lengths([]) == []
    assert (tokenizer.pad_id, tokenizer.unk_id, tokenizer.cls_id, tokenizer.sep_id) == (0, unk, cls, sep)


def test_what_the_vocabulary_lacks(tmp_path):
    tokenizer = load_tokenizer(write_model(tmp_path), 5)
    texts = ["北京今天下雨", "北⼈京，Hello WORLD unionX", "[UNK]北[SEP]", "", "b" * 101]
    found = [tokenizer.count(text) for text in texts]
    assert [unknown for _, unknown in found] == [[], ["⼈", "world", "unionx"], [], [], ["b" * 101]]
    assert [count for count, _ in found] == tokenizer.lengths(texts)


def test_cutting_a_long_text_early_changes_nothing(tmp_path):
    """Blanks, vanishing characters, long words and special tokens around every place where the text may be cut."""
    folder = write_model(tmp_path)
    mixed = random.Random(1)
    for fill in (" ", "\0", "a", "[SEP]", "北", "un ", "e\u0301", "hello[MASK] "):
        for _ in range(12):
            text = fill * mixed.randrange(20, 120) + "".join(mixed.choices(ODD_TEXTS, k=60)) + "[SEP] 北京 union" * 9
            whole = load_tokenizer(folder, 10**6).encode([text])[0]
            for length in (3, 5, 9, 30):
                ids = load_tokenizer(folder, length).encode([text])[0]
                assert ids == (whole[: length - 1] + whole[-1:] if len(whole) > length else whole)


@pytest.mark.slow
def test_cutting_a_long_text_early_changes_nothing_with_sentencepiece():
    folder = shared_model("ernie-m-small")
    whole, mixed = load_tokenizer(folder, 10**6), random.Random(1)
    lines = (SAMPLE / "train.txt").read_text("utf-8").split("\n")
    odd = [*ODD_TEXTS, "中国人民", "hello world ", "ＡＢ", "\u3000", "龘龖", "[SEP]", "e\u0301", "１２３", "。", " "]
    early = {length: load_tokenizer(folder, length) for length in (3, 9, 30, 128)}
    for _ in range(150):
        text = "".join(mixed.choices(odd, k=20)) + "".join(mixed.choices([*lines, *odd], k=60))
        ids = whole.encode([text])[0]
        for length, tokenizer in early.items():
            assert tokenizer.encode([text])[0] == (ids[: length - 1] + ids[-1:] if len(ids) > length else ids)


@pytest.mark.parametrize("text", ["中国队今晚出战亚洲杯，" * 40_000, "China plays tonight " * 25_000])
def test_of_a_long_text_sentencepiece_reads_the_head(text, monkeypatch):
    tokenizer, read = load_tokenizer(shared_model("ernie-m-small"), 128), []
    split = tokenizer._split
    monkeypatch.setattr(tokenizer, "_split", lambda part: read.append(len(part)) or split(part))
    assert len(tokenizer.encode([text])[0]) == 128 and sum(read) < 5_000


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tiny", "ernie-m-small"])
def test_a_megabyte_in_one_line_takes_no_time(tmp_path, name):
    tokenizer = load_tokenizer(write_model(tmp_path) if name == "tiny" else shared_model(name), 128)
    letters = "".join(random.Random(0).choices("abcdelo", k=1_000_000))
    words = " ".join(letters[i : i + 99] for i in range(0, len(letters), 100))
    for text in (
        "北京hello 2022，" * 80_000,
        letters,
        words,
        " " * 1_000_000 + "a",
        "\0" * 1_000_000,
        "[SEP" * 250_000,
    ):
        start = time.process_time()
        ids = tokenizer.encode([text])[0]
        assert len(ids) <= 128 and tokenizer.lengths([text])[0] >= len(ids)
        assert time.process_time() - start < 2, text[:20]


def test_memory_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr("hierarchical.tokens.REMEMBERED", 50)
    tokenizer = load_tokenizer(write_model(tmp_path), 16)
    texts = [f"{number} union 北{chr(0x4E00 + number)}" for number in range(500)]
    assert tokenizer.encode(texts) == load_tokenizer(tmp_path, 16).encode(texts)
    assert max(map(len, (tokenizer._ids_of, tokenizer._normal, tokenizer._clean, tokenizer._part))) <= 50


@pytest.mark.parametrize("kind", ["ErnieTokenizer", "BertTokenizer"])
def test_characters_one_by_one_give_what_the_whole_text_gives(tmp_path, kind):
    codes = [code for code in range(0x30000) if unicodedata.normalize("NFKD", chr(code)) != chr(code) or code % 97 == 0]
    marks, mixed = [chr(code) for code in range(0x20000) if unicodedata.combining(chr(code))], random.Random(0)
    texts = ["".join([*mixed.choices(marks, k=3), chr(code), *mixed.choices(marks, k=2), "a\0"]) for code in codes[::9]]
    texts += ["".join(map(chr, codes[i::200])) for i in range(200)] + ODD_TEXTS
    for config in ({}, {"do_lower_case": False}):
        tokenizer = load_tokenizer(write_model(tmp_path, tokenizer_class=kind, **config), 16)
        for text in texts:
            clean = text.translate(tokenizer._clean)
            whole = unicodedata.normalize("NFD", clean) if tokenizer.strip_accents else clean
            assert tokenizer._normalize(text) == whole.translate(tokenizer._part), ascii(text)


def test_special_tokens_may_have_other_names(tmp_path):
    vocab = ["<pad>", "<s>", "</s>", "<unk>", "<e1>", "a"]
    folder = write_model(tmp_path, vocab, pad_token="<pad>", cls_token={"content": "<s>"}, unk_token="[UNK]")
    names = {"sep_token": "</s>", "unk_token": "<unk>", "additional_special_tokens": ["<e1>"]}
    (folder / "special_tokens_map.json").write_text(json.dumps(names))
    tokenizer = load_tokenizer(folder, 16)
    assert tokenizer.encode(["a<e1>a</s>z"]) == [[1, 5, 4, 5, 2, 3, 2]]
    assert (tokenizer.pad_id, tokenizer.unk_id) == (0, 3)


# ---- where the ids come from -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["tiny", "zh-6l", "ernie-m-small"])
def test_every_id_has_a_span_and_spans_never_go_back(tmp_path, name):
    folder = write_model(tmp_path / "model") if name == "tiny" else shared_model(name)
    tokenizer = load_tokenizer(folder, 20)
    for text in ODD_TEXTS:
        spans = tokenizer.spans(text)
        assert len(spans) == len(tokenizer.encode([text])[0]), repr(text)
        inner = spans[1:-1]
        assert spans[0] == spans[-1] == (0, 0)
        assert all(0 <= start <= end <= len(text) for start, end in inner), repr(text)
        assert all(one[0] <= other[0] and one[1] <= other[1] for one, other in zip(inner, inner[1:])), repr(text)


@pytest.mark.parametrize(
    "name, text, parts",
    [
        ("zh-6l", "北京 Hello，iPhone12 Café [SEP] x", "北 京 Hello ， iPhone 12 Ca fé [SEP] x"),
        ("zh-6l", "ﬁne\u3000½ 天", "ﬁne ½ 天"),  # two unknown words: all of each
        ("ernie-m-small", "北京ＡＢＣ iPhone12 [SEP] 天", "北 京 Ａ ＢＣ iPhone 12 [SEP] 天"),
        ("ernie-m-small", "今天：㈱", "今 天 ： ㈱"),  # read as （株）
    ],
)
def test_spans_by_hand(name, text, parts):
    spans = load_tokenizer(shared_model(name), 64).spans(text)
    assert [text[start:end].strip() for start, end in spans if text[start:end].strip()] == parts.split()


@pytest.mark.parametrize("name", ["tiny", "ernie-m-small"])
def test_saved_or_pickled_it_is_the_same(tmp_path, name):
    folder = write_model(tmp_path / "model") if name == "tiny" else shared_model(name)
    tokenizer = load_tokenizer(folder, 20)
    (tmp_path / "saved").mkdir()
    tokenizer.save(tmp_path / "saved")
    expected = tokenizer.encode(ODD_TEXTS)
    assert load_tokenizer(tmp_path / "saved", 20).encode(ODD_TEXTS) == expected
    assert pickle.loads(pickle.dumps(tokenizer)).encode(ODD_TEXTS) == expected


def test_the_libraries_own_saved_form_loads(tmp_path):
    """What `save_pretrained` writes, empty `added_tokens_decoder` and special_tokens_map.json included."""
    transformers = pytest.importorskip("paddlenlp.transformers")
    folder = write_model(tmp_path / "model")
    transformers.ErnieTokenizer.from_pretrained(str(folder)).save_pretrained(str(tmp_path / "saved"))
    assert load_tokenizer(tmp_path / "saved", 9).encode(ODD_TEXTS) == load_tokenizer(folder, 9).encode(ODD_TEXTS)


def test_needs_neither_paddle_nor_paddlenlp(tmp_path):
    folders = [write_model(tmp_path)] + [path for path in [MODELS / "ernie-m-small"] if path.is_dir()]
    code = (
        "import sys; sys.modules.update(dict.fromkeys(('paddle', 'paddlenlp', 'tokenizers')))\n"
        "from hierarchical.tokenizer import load_tokenizer\n"
        f"for folder in {list(map(str, folders))}: load_tokenizer(folder, 9).encode(['北京'])"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=60)


@pytest.mark.parametrize(
    "spoil, words",
    [
        (lambda folder: (folder / "vocab.txt").unlink(), ["vocab.txt", "No such file", "copy"]),
        (lambda folder: (folder / "tokenizer_config.json").unlink(), ["tokenizer_config.json", "No such file", "give"]),
        (lambda folder: (folder / "tokenizer_config.json").write_text("{"), ["tokenizer_config.json", "not JSON"]),
        (
            lambda folder: (folder / "tokenizer_config.json").write_text("[]"),
            ["tokenizer_config.json", "not a JSON object"],
        ),
        (lambda folder: (folder / "vocab.txt").write_bytes(b"[PAD]\n\xff\n"), ["vocab.txt", "not UTF-8"]),
        (lambda folder: (folder / "vocab.txt").write_text("[PAD]\n[CLS]\n"), ["vocab.txt", "[UNK], [SEP]"]),
        (lambda folder: (folder / "vocab.txt").write_text(""), ["vocab.txt", "[PAD], [UNK], [CLS], [SEP]"]),
        (lambda folder: (folder / "added_tokens.json").write_text('{"[new]": 99}'), ["[new]", "not supported"]),
        (lambda folder: write_model(folder, tokenizer_class="GPTTokenizer"), ["GPTTokenizer", "ErnieMTokenizer"]),
        (lambda folder: write_model(folder, tokenizer_class=None), ["unknown tokenizer_class None"]),
        (lambda folder: write_model(folder, tokenizer_class="BertTokenizer", never_split=["a"]), ["never_split"]),
        (lambda folder: write_model(folder, tokenizer_class="ErnieMTokenizer"), ["sentencepiece.bpe.model", "copy"]),
    ],
)
def test_what_is_wrong_is_said(tmp_path, spoil, words):
    folder = write_model(tmp_path)
    spoil(folder)
    with pytest.raises(ValueError) as error:
        load_tokenizer(folder, 16)
    assert all(word in str(error.value) for word in [str(tmp_path), *words]), error.value


def test_a_length_without_room_is_refused(tmp_path):
    with pytest.raises(ValueError, match="max_seq_length is 2"):
        load_tokenizer(write_model(tmp_path), 2)
