"""tokenizer_files.py: whatever form a tokenizer comes in, its ids are transformers', and it is saved in one form.

The stored ids, in tests/data/encoders, are of transformers 5.24.0; see make_encoders.py there. What is equal on the 20
texts there was on 10,000 mixed ones too, with real and with trained vocabularies.
"""

import json
import shutil
import subprocess
import sys

import pytest

from hierarchical.added_tokens import grow_tokenizer, read_added_tokens
from hierarchical.errors import InputError
from hierarchical.tokenizer import load_tokenizer
from tests.conftest import ROOT

ENCODERS = ROOT / "tests" / "data" / "encoders"
KINDS = ("bert", "ernie", "roberta", "xlm-roberta")
WHOLE = 10_000
# what a checkpoint has of each
SAVED = {kind: {"vocab.txt", "tokenizer_config.json"} for kind in ("bert", "ernie")}
SAVED |= {kind: {"tokenizer.json", "tokenizer_config.json"} for kind in ("roberta", "xlm-roberta")}


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


@pytest.fixture
def folder(kind, tmp_path):
    """A stored encoder, to be changed."""
    return shutil.copytree(ENCODERS / kind, tmp_path / kind)


@pytest.fixture
def expected(kind):
    found = json.loads((ENCODERS / kind / "expected.json").read_text("utf-8"))
    return found["texts"], found["ids"]


def copy_of(kind, tmp_path):
    return shutil.copytree(ENCODERS / kind, tmp_path / kind)


def write_json(folder, name, value):
    (folder / name).write_text(json.dumps(value), "utf-8")


def read_json(path):
    return json.loads(path.read_text("utf-8"))


def as_saved(folder, target):
    """The folder of a checkpoint with an encoder's tokenizer."""
    target.mkdir()
    load_tokenizer(folder, WHOLE).save(target)
    return target


# ---- ids -------------------------------------------------------------------------------------------------------------


def test_ids_are_those_of_transformers(kind, expected):
    texts, ids = expected
    tokenizer = load_tokenizer(ENCODERS / kind, WHOLE)
    assert tokenizer.encode(texts) == ids and tokenizer.lengths(texts) == list(map(len, ids))
    assert [tokenizer.count(text)[0] for text in texts] == list(map(len, ids))
    for length in (3, 4, 9):
        cut = [row if len(row) <= length else [*row[: length - 1], row[-1]] for row in ids]
        assert load_tokenizer(ENCODERS / kind, length).encode(texts) == cut


def test_saved_it_has_our_form_and_the_same_ids(kind, folder, expected, tmp_path):
    saved = as_saved(folder, tmp_path / "saved")
    assert {path.name for path in saved.iterdir()} == SAVED[kind]
    assert load_tokenizer(saved, WHOLE).encode(expected[0]) == expected[1]
    again = as_saved(saved, tmp_path / "again")
    assert all((again / name).read_bytes() == (saved / name).read_bytes() for name in SAVED[kind])


def test_special_tokens_and_their_ids(kind):
    tokenizer = load_tokenizer(ENCODERS / kind, WHOLE)
    ids = (tokenizer.pad_id, tokenizer.unk_id, tokenizer.cls_id, tokenizer.sep_id)
    assert ids == ((0, 1, 2, 3) if kind in ("bert", "ernie") else (1, 3, 0, 2))
    assert tokenizer.mask_token == ("[MASK]" if kind in ("bert", "ernie") else "<mask>")
    assert tokenizer.mask_id == tokenizer.vocab[tokenizer.mask_token] == {"xlm-roberta": 641}.get(kind, 4)


def test_every_id_has_a_span_and_spans_never_go_back(kind, expected):
    tokenizer = load_tokenizer(ENCODERS / kind, WHOLE)
    for text in [*expected[0], "a\ud800b", "\udfff"]:
        spans = tokenizer.spans(text)
        assert len(spans) == len(tokenizer.encode([text])[0]) and spans[0] == spans[-1] == (0, 0), repr(text)
        inner = spans[1:-1]
        assert all(0 <= start <= end <= len(text) for start, end in inner), repr(text)
        assert all(one[0] <= two[0] and one[1] <= two[1] for one, two in zip(inner, inner[1:])), repr(text)
    covered = [spans for spans in tokenizer.spans("北京 hello")[1:-1]]
    assert covered[-1][1] == 8 and {start for start, _ in covered} >= {0, 3}


def test_parts_that_a_vocabulary_lacks():
    found = {kind: load_tokenizer(ENCODERS / kind, WHOLE).count("a \U0001f9ff \u0e01")[1] for kind in KINDS}
    assert found == {
        "bert": ["\U0001f9ff", "\u0e01"],
        "ernie": ["\U0001f9ff", "\u0e01"],
        "roberta": [],
        "xlm-roberta": ["\U0001f9ff", "\u0e01"],
    }


def test_neither_order_nor_company_of_texts_matters(kind, expected):
    texts, ids = expected
    tokenizer = load_tokenizer(ENCODERS / kind, WHOLE)
    assert tokenizer.encode(texts[::-1]) == ids[::-1]
    assert [tokenizer.encode([text])[0] for text in texts] == ids


# ---- BERT's options --------------------------------------------------------------------------------------------------


def bert(tmp_path, **config):
    """The tokens that BERT makes of a text with these entries in tokenizer_config.json."""
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "A", "e", "é", "|", "足", "##足", "²", "½", "😀", "®"]
    (tmp_path / "vocab.txt").write_text("".join(f"{token}\n" for token in tokens), "utf-8")
    write_json(tmp_path, "tokenizer_config.json", {"tokenizer_class": "BertTokenizer"} | config)
    return lambda text: [tokens[i] for i in load_tokenizer(tmp_path, WHOLE).encode([text])[0][1:-1]]


@pytest.mark.parametrize(
    "config, words",
    [
        ({}, "a e | e"),
        ({"do_lower_case": False}, "A é | e"),
        ({"strip_accents": False}, "a é | e"),
        ({"do_lower_case": False, "strip_accents": True}, "A e | e"),
    ],
)
def test_lower_case_and_accents(tmp_path, config, words):
    assert bert(tmp_path, **config)("A é|e") == words.split()


def test_chinese_characters_apart_or_not(tmp_path):
    assert bert(tmp_path)("a足足") == ["a", "足", "足"]
    assert bert(tmp_path, tokenize_chinese_chars=False)("a足足") == ["a", "##足", "##足"]


def test_symbols_beyond_ascii_are_parts_of_words(tmp_path):
    """ERNIE's tokenizer sets them apart. What Unicode 8 did not have is a letter, whatever it is today."""
    cut = bert(tmp_path)
    assert cut("² ½ 😀 ® a|a") == ["²", "½", "😀", "®", "a", "|", "a"]
    assert cut("a² a😀 a®") == ["[UNK]"] * 3
    assert cut("a\u2e43a a\u1dfaa") == ["[UNK]"] * 2, "punctuation and a mark of Unicode 9"
    assert cut("a\u2e42a a\u0301") == ["a", "[UNK]", "a", "a"], "of Unicode 7 and 1"


def test_options_of_a_tokenizer_json_alone_are_kept(tmp_path):
    saved = as_saved(ENCODERS / "ernie", tmp_path / "saved")
    config = read_json(saved / "tokenizer_config.json")
    assert (config["tokenizer_class"], config["do_lower_case"]) == ("BertTokenizer", False)
    folder = copy_of("ernie", tmp_path)
    (folder / "tokenizer_config.json").unlink()  # and then they stand in tokenizer.json alone
    config = read_json(as_saved(folder, tmp_path / "other") / "tokenizer_config.json")
    assert (config["tokenizer_class"], config["do_lower_case"]) == ("BertTokenizer", False)


def test_tokens_can_be_added(kind, tmp_path):
    """train.py --add_tokens, on every form of tokenizer; what is added is saved, and found again."""
    before = load_tokenizer(ENCODERS / kind, WHOLE)
    (tmp_path / "tokens.txt").write_text("足球队\n🧿\nzqx\n", "utf-8")
    grown = grow_tokenizer(before, read_added_tokens(tmp_path / "tokens.txt", before))
    first = len(before.vocab)
    assert [grown.vocab[token] for token in ("足球队", "🧿", "zqx")] == [first, first + 1, first + 2]
    (tmp_path / "saved").mkdir()
    grown.save(tmp_path / "saved")
    for tokenizer in (grown, load_tokenizer(tmp_path / "saved", WHOLE)):
        ids = tokenizer.encode(["足球队 🧿 zqx azqxb", "国足今晚出战"])
        assert {first, first + 1, first + 2} <= set(ids[0]) and ids[0].count(first + 2) == 1, "not within words"
        assert ids[1] == before.encode(["国足今晚出战"])[0]


# ---- which class -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("named", ["PreTrainedTokenizerFast", "TokenizersBackend", None])
def test_a_class_that_says_nothing_is_that_of_the_family(folder, expected, named):
    path = folder / "tokenizer_config.json"
    config = read_json(path) if path.exists() else {}
    write_json(folder, path.name, {key: value for key, value in config.items() if key != "tokenizer_class"})
    if named:
        write_json(folder, path.name, read_json(path) | {"tokenizer_class": named})
    assert load_tokenizer(folder, WHOLE).encode(expected[0]) == expected[1]


def test_paddlenlps_ernie_must_name_its_class(tmp_path):
    folder = copy_of("ernie", tmp_path)
    (folder / "tokenizer_config.json").unlink()
    write_json(folder, "config.json", {"model_type": "ernie"})
    with pytest.raises(InputError, match="tokenizer_config.json: No such file"):
        load_tokenizer(folder, 16)


@pytest.mark.parametrize("name", ["RobertaTokenizer", "RobertaChineseTokenizer"])
def test_chinese_robertas_have_berts_tokens(tmp_path, name):
    folder = copy_of("bert", tmp_path)
    expected = json.loads((folder / "expected.json").read_text("utf-8"))
    write_json(folder, "tokenizer_config.json", {"tokenizer_class": name})
    assert load_tokenizer(folder, WHOLE).encode(expected["texts"]) == expected["ids"]
    assert (
        read_json(as_saved(folder, tmp_path / "saved") / "tokenizer_config.json")["tokenizer_class"] == "BertTokenizer"
    )


def test_a_blank_before_the_text(tmp_path):
    folder = copy_of("roberta", tmp_path)
    plain = load_tokenizer(folder, WHOLE)
    write_json(folder, "tokenizer_config.json", {"tokenizer_class": "RobertaTokenizer", "add_prefix_space": True})
    spaced = load_tokenizer(folder, WHOLE)
    assert spaced.encode(["the first"]) == plain.encode([" the first"]) != plain.encode(["the first"])
    saved = load_tokenizer(as_saved(folder, tmp_path / "saved"), WHOLE)
    assert saved.encode(["the first"]) == spaced.encode(["the first"])


def test_cutting_and_padding_in_a_tokenizer_json_are_not_ours(tmp_path):
    folder = as_saved(ENCODERS / "roberta", tmp_path / "saved")
    value = read_json(folder / "tokenizer.json")
    value["truncation"] = {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0}
    padding = {"strategy": {"Fixed": 12}, "direction": "Right", "pad_to_multiple_of": None}
    value["padding"] = padding | {"pad_id": 1, "pad_type_id": 0, "pad_token": "<pad>"}
    write_json(folder, "tokenizer.json", value)
    texts = ["a", "The first train to Beijing left at 10:30"]
    assert load_tokenizer(folder, WHOLE).encode(texts) == load_tokenizer(ENCODERS / "roberta", WHOLE).encode(texts)


# ---- what is wrong ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kind, gone, needed",
    [
        ("bert", ["vocab.txt"], "vocab.txt or tokenizer.json"),
        ("ernie", ["tokenizer.json"], "vocab.txt or tokenizer.json"),
        ("roberta", ["merges.txt"], "tokenizer.json, or vocab.json and merges.txt"),
        ("roberta", ["vocab.json", "merges.txt"], "tokenizer.json, or vocab.json and merges.txt"),
        ("xlm-roberta", ["sentencepiece.bpe.model"], "tokenizer.json or sentencepiece.bpe.model"),
    ],
)
def test_a_missing_file(tmp_path, kind, gone, needed):
    folder = copy_of(kind, tmp_path)
    for name in gone:
        (folder / name).unlink()
    with pytest.raises(InputError, match=f"{kind}: no tokenizer in it; needed is {needed}: copy the file"):
        load_tokenizer(folder, 16)


@pytest.mark.parametrize("kind, other, of_kind, wanted", [
    ("bert", "xlm-roberta", "Unigram", "WordPiece"),
    ("bert", "roberta", "BPE", "WordPiece"),
    ("roberta", "ernie", "WordPiece", "BPE"),
    ("xlm-roberta", "roberta", "BPE", "Unigram"),
])  # fmt: skip
def test_a_tokenizer_of_another_kind(tmp_path, kind, other, of_kind, wanted):
    folder = copy_of(kind, tmp_path)
    source = as_saved(ENCODERS / other, tmp_path / "saved") if other != "ernie" else ENCODERS / "ernie"
    shutil.copy(source / "tokenizer.json", folder)
    with pytest.raises(
        InputError, match=f"tokenizer.json: is of the kind {of_kind}; needed is {wanted}, by tokenizer_"
    ):
        load_tokenizer(folder, 16)


@pytest.mark.parametrize(
    "change, says",
    [
        (lambda value: value["normalizer"].update(type="NFKC"), "normalizer 'NFKC'"),
        (lambda value: value["pre_tokenizer"].update(type="Whitespace"), "pre_tokenizer 'Whitespace'"),
        (lambda value: value["model"].update(continuing_subword_prefix="@@"), "continuing_subword_prefix '@@'"),
        (lambda value: value["model"]["vocab"].update(new=5000), "its ids are not 0 to"),
        (lambda value: value["added_tokens"].append({"id": 300, "content": "[new]"}), r"tokens were added.*\[new\]"),
        (lambda value: value.update(model=3), "is of the kind None; needed is WordPiece"),
    ],
)
def test_tokenizers_that_cut_in_another_way(tmp_path, change, says):
    folder = copy_of("ernie", tmp_path)
    value = read_json(folder / "tokenizer.json")
    change(value)
    write_json(folder, "tokenizer.json", value)
    with pytest.raises(InputError, match=says):
        load_tokenizer(folder, 16)


@pytest.mark.parametrize(
    "kind, name, content, says",
    [
        ("ernie", "tokenizer.json", b"{", "not JSON"),
        ("ernie", "tokenizer.json", b"[]", "not a JSON object"),
        ("roberta", "tokenizer.json", b'{"model": {"type": "BPE"}}', "not read by tokenizers"),
        ("roberta", "vocab.json", b"[1]", "not a JSON object"),
        ("roberta", "merges.txt", b"\xff", "not UTF-8"),
        ("roberta", "merges.txt", b"a b\na b c\n", "'a b c' is not a pair"),
        ("roberta", "vocab.json", b'{"a": 0}', "roberta: not read by tokenizers"),
        ("xlm-roberta", "sentencepiece.bpe.model", b"\x0a\xff", "not a SentencePiece model"),
        ("xlm-roberta", "sentencepiece.bpe.model", b"no protobuf at all", "not a SentencePiece model"),
        ("xlm-roberta", "sentencepiece.bpe.model", b"", "not a SentencePiece model"),
        ("bert", "vocab.txt", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS pointer"),
        ("xlm-roberta", "sentencepiece.bpe.model", b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
    ],
)
def test_damaged_files(tmp_path, kind, name, content, says):
    folder = copy_of(kind, tmp_path)
    (folder / name).write_bytes(content)
    if kind == "roberta" and name != "tokenizer.json":
        (folder / "tokenizer.json").unlink(missing_ok=True)
    with pytest.raises(InputError, match=says) as error:
        load_tokenizer(folder, 16)
    assert str(folder) in str(error.value)


def test_a_cut_sentencepiece_model_is_refused(tmp_path):
    folder = copy_of("xlm-roberta", tmp_path)
    path = folder / "sentencepiece.bpe.model"
    content = path.read_bytes()
    for share in (0.01, 0.5, 0.9, 0.99):
        path.write_bytes(content[: int(len(content) * share)])
        with pytest.raises(InputError, match="sentencepiece.bpe.model: not a SentencePiece model"):
            load_tokenizer(folder, 16)


def test_more_tokens_than_the_model_knows(tmp_path):
    for kind in KINDS:
        tokenizer = load_tokenizer(ENCODERS / kind, 16)
        known = len(tokenizer.vocab)
        tokenizer.require_known({"vocab_size": known})
        with pytest.raises(InputError, match=rf"{known} tokens, but the model knows {known - 1}"):
            tokenizer.require_known({"vocab_size": known - 1})


def test_what_the_package_tokenizers_is_needed_for():
    code = (
        "import sys; sys.modules['tokenizers'] = sys.modules['sentencepiece'] = None\n"
        "from hierarchical.tokenizer import load_tokenizer\n"
        "for kind in ('bert', 'ernie', 'roberta'):\n"
        f"    print(load_tokenizer({str(ENCODERS)!r} + '/' + kind, 16).encode(['a']))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert len(done.stdout.splitlines()) == 2
    assert "roberta: this encoder's tokens need the package tokenizers: pip install tokenizers" in done.stderr
