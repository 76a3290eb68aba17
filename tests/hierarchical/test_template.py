"""template.py: the template language, and the ids that come of it."""

import json
import shutil

import pytest

from hierarchical.encoders import read_config
from hierarchical.template import TEXT_ONLY, Part, TemplateTokenizer, load_template, parse_template
from hierarchical.tokenizer import load_tokenizer
from utils import InputError

VOCAB_SIZE = 100
TEXT, MASK = Part("text"), Part("mask")


@pytest.mark.parametrize(
    "prompt, parts",
    [
        ("这是", [TEXT, Part("hard", "这是"), MASK]),
        ("这是{'mask'}。", [TEXT, Part("hard", "这是"), MASK, Part("hard", "。")]),
        ("{'text': 'text_a'}{'hard': '这是'}{'mask'}", [TEXT, Part("hard", "这是"), MASK]),
        ("{'mask'}{'sep'}{'text':'text_a'}", [MASK, Part("sep"), TEXT]),
        ("{'soft'}{'soft': '事件'}{'text': 'text_a'}", [Part("soft"), Part("soft", "事件"), TEXT, MASK]),
        ("{'soft': None, 'length': 3}{'mask': None}", [TEXT, Part("soft", None, 3), MASK]),
        (" {'text': 'text_a'} {'sep'} {'mask'} ", [TEXT, Part("sep"), MASK]),
        (None, [Part("soft"), TEXT, MASK]),
        ("", [Part("soft"), TEXT, MASK]),
        (" ", [Part("soft"), TEXT, MASK]),
    ],
)
def test_parts(prompt, parts):
    assert parse_template(prompt) == parts


@pytest.mark.parametrize(
    "prompt, says",
    [
        ("{'mask'", "brace { without its partner"),
        ("这是}", "brace } without its partner"),
        ("{mask}", "{mask} is not a part"),
        ("{}", "{} is not a part"),
        ("{'mask' for x in ()}", "is not a part"),
        ("{__import__('os').abort()}", "is not a part"),
        ("{'prefix': '这是'}", "no part is called 'prefix'"),
        ("{'options': 'a.txt'}", "no part is called 'options'"),
        ("{'soft': '这是', 'encoder': 'lstm'}", "not known: encoder"),
        ("{'soft': None, 'length': 0}", "from 1 to 100"),
        ("{'text': 'text_b'}", "a row has one text"),
        ("{'text': 'text_a'}{'text': 'text_a'}", "may stand in it once"),
        ("{'hard'}", "needs its words"),
        ("{'hard': ' '}", "needs its words"),
        ("{'mask': None, 3: 4}", "not known: 3"),
        ("这是[MASK]新闻", "the mask is written {'mask'}"),
        ("{'soft': 3}", "starts as words"),
        ("{'mask': 'x'}", "takes no value"),
    ],
)
def test_faulty_parts_are_quoted(prompt, says):
    with pytest.raises(InputError) as error:
        parse_template(prompt)
    assert says in str(error.value) and prompt in str(error.value)


def test_a_prompt_that_is_not_utf8():
    with pytest.raises(InputError, match="--prompt: not UTF-8"):
        parse_template("这是".encode("gbk").decode("utf-8", "surrogateescape"))


@pytest.fixture
def tokenizer(tmp_path):
    words = "[PAD] [CLS] [SEP] [MASK] [UNK] 天 地 人 这 是".split()
    (tmp_path / "vocab.txt").write_text("\n".join(words) + "\n", encoding="utf-8")
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "ErnieTokenizer"}')
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "ernie", "vocab_size": VOCAB_SIZE}))
    return load_tokenizer(tmp_path, 8)


# ids: [CLS] 1, [SEP] 2, [MASK] 3, [UNK] 4, 天地人 5 6 7, 这是 8 9
@pytest.mark.parametrize(
    "prompt, method, ids",
    [
        ("这是", "prompt", [1, 5, 6, 7, 8, 9, 3, 2]),
        ("{'mask'}{'sep'}{'text':'text_a'}", "prompt", [1, 3, 2, 5, 6, 7, 2]),
        ("{'soft'}{'soft':'这是'}{'text':'text_a'}", "prompt", [1, 100, 101, 102, 5, 6, 3, 2]),
        (TEXT_ONLY, "similarity", [1, 5, 6, 7, 2]),
    ],
)
def test_ids(tokenizer, prompt, method, ids):
    wrapped = TemplateTokenizer(tokenizer, prompt, method, VOCAB_SIZE)
    assert wrapped.encode(["天地人"]) == [ids]


def test_only_the_text_is_cut_and_a_mask_in_it_is_unknown(tokenizer):
    wrapped = TemplateTokenizer(tokenizer, "这是", "prompt", VOCAB_SIZE)
    assert wrapped.room == 3
    assert wrapped.encode(["天[MASK]天天天天天天天", "人", ""]) == [
        [1, 5, 4, 5, 8, 9, 3, 2],
        [1, 7, 8, 9, 3, 2],
        [1, 8, 9, 3, 2],
    ]
    assert wrapped.word_ids("天地人天地人天地人") == [5, 6, 7] * 3 and wrapped.room == 3


def test_soft_tokens_know_what_they_start_as(tokenizer):
    wrapped = TemplateTokenizer(tokenizer, "{'soft'}{'soft':'是'}{'soft': None, 'length': 2}", "prompt", VOCAB_SIZE)
    assert wrapped.soft_words == [-1, 9, -1, -1]


def test_a_template_that_leaves_no_room(tokenizer):
    with pytest.raises(InputError, match="template alone has 8 tokens"):
        TemplateTokenizer(tokenizer, "这是这是这", "prompt", VOCAB_SIZE)


def test_saved_as_one_json_document_and_read_back(tokenizer, tmp_path):
    target = tmp_path / "saved"
    target.mkdir()
    wrapped = TemplateTokenizer(tokenizer, "{'soft'}这是", "prompt", VOCAB_SIZE)
    wrapped.save(target)
    shutil.copy(tmp_path / "config.json", target)
    path = target / "template_config.json"
    assert json.loads(path.read_text(encoding="utf-8")) == {"method": "prompt", "template": "{'soft'}这是"}
    again = load_template(target, load_tokenizer(target, 8), read_config(target))
    assert again.encode(["天地"]) == wrapped.encode(["天地"]) == [[1, 5, 6, 100, 8, 9, 3, 2]]
    for content in ('{"method": "prompt"}', "[]", "{'a'}", '{"method": "x", "template": ""}'):
        path.write_text(content)
        with pytest.raises(InputError, match="template_config.json: not a template"):
            load_template(target, tokenizer, {"vocab_size": VOCAB_SIZE})
    path.unlink()
    with pytest.raises(InputError, match="template_config.json: no such file"):
        load_template(target, tokenizer, {"vocab_size": VOCAB_SIZE})
