"""analysis/words.py: synonyms and homonyms, by hand and from CC-CEDICT, and dictionaries of one's own."""

import sys

import pytest

from analysis import words
from utils import InputError


@pytest.fixture(scope="module")
def entries():
    pytest.importorskip("lindera", reason="needs the package lindera-python-cc-cedict")
    return words.cedict_entries()


def test_synonyms_share_meanings(entries, monkeypatch):
    monkeypatch.setattr(words, "cedict_entries", lambda: entries)
    found = words.synonyms()
    assert "辞去" in found["辞职"] and "由于" in found["因为"] and "击败" in found["打败"]
    assert len(found) > 5000 and not any(word in others for word, others in found.items())


def test_synonyms_by_hand(monkeypatch):
    entries = [
        ("裁员", "", {"to cut staff", "to lay off"}),
        ("减员", "", {"to lay off", "to fall in number"}),  # one of two and two shared: 1/2
        ("解雇", "", {"to lay off", "a", "b", "c", "d", "e", "f", "g", "h"}),  # 1/sqrt(18)
        ("足球", "", {"soccer"}),
    ]
    monkeypatch.setattr(words, "cedict_entries", lambda: entries)
    assert words.synonyms() == {"裁员": ["减员"], "减员": ["裁员"]}
    monkeypatch.setattr(words, "VAGUE", 2)  # three words mean "to lay off"
    assert words.synonyms() == {}


def test_homonyms(entries, monkeypatch):
    monkeypatch.setattr(words, "cedict_entries", lambda: entries)
    found = words.homonyms()
    assert "骨粉" in found["股份"] and "股份" not in found["股份"]
    assert all(len(word) == len(other) for word, others in found.items() for other in others)


def test_without_the_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "lindera", None)
    with pytest.raises(InputError, match="lindera-python-cc-cedict.*--dictionary"):
        words.cedict_entries()


@pytest.mark.parametrize(
    "content, message",
    [
        ("{", "not JSON"),
        ("[]", "not a list"),
        ('{"甲": "乙", "丙": [1], "丁": [" "]}', "3 problems"),
        ('{"甲": ["甲"], "乙": []}', "no word in it has another"),
        (
            '{"甲": ["乙\\t丙"], "丁": ["戊\\n"], "己": ["\\ud800"], "庚": ["辛"]}',
            "3 problems(.|\\n)*'甲' must .* without TABs",
        ),
        ("", "empty"),
    ],
)
def test_dictionaries_that_are_none(tmp_path, content, message):
    (tmp_path / "a.json").write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match=message):
        words.read_dictionary(tmp_path / "a.json")


def test_a_dictionary_is_cleaned(tmp_path):
    (tmp_path / "a.json").write_text('\ufeff{"甲": ["乙", "甲", "乙"], "丙": []}', encoding="utf-8")
    assert words.read_dictionary(tmp_path / "a.json") == {"甲": ["乙"]}
