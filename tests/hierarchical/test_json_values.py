"""json_values.py: values out of pieces of any size, and faults with their line."""

import json
import tracemalloc

import pytest

from hierarchical import json_values
from hierarchical.json_values import JsonFault, JsonReader

LIST = '\n[ {"a": "一,[]\\u4e00\\n"},\n  [1, -2.5e3, null],\n"\\"x",\n\n true ]\n'
ITEMS = [(2, {"a": "一,[]一\n"}), (3, [1, -2500.0, None]), (4, '"x'), (6, True)]


def cut(text, size):
    return [text[i : i + size] for i in range(0, len(text), size)]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_items_do_not_depend_on_the_pieces(size):
    assert list(JsonReader(cut(LIST, size)).items()) == ITEMS
    values = '{"a": 1}\n12 "x"\n\n{"b":\n[2]}'
    assert list(JsonReader(cut(values, size)).values()) == [(1, {"a": 1}), (2, 12), (2, "x"), (4, {"b": [2]})]
    assert JsonReader(cut("  \n ", size)).peek() == "" and list(JsonReader(cut("[ ]", size)).items()) == []


@pytest.mark.parametrize("size", [1, 4, 1000])
@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ('[\n{"a": 1},\n{"a" 2}]', 3, "not JSON: Expecting ':' delimiter, at character 6"),
        ("[1\n2]", 2, "not JSON: Expecting ',' or ']', at character 1"),
        ('[1,\n"a', 2, "not JSON: Unterminated string starting at, at character 1"),
        ("[1] [2]", 1, "something stands behind the end of the list"),
        ('{"a": 1}', 1, "not JSON: Expecting a list"),
        ("[1,\n" + "[" * 100_000, 2, "too deep"),
        ("[" + "1" * 5000 + "]", 1, "a number of thousands of digits"),
    ],
)
def test_faults(text, line, says, size):
    with pytest.raises(JsonFault, match=says.replace("[", r"\[")) as error:
        list(JsonReader(cut(text, size)).items())
    assert error.value.line == line


def test_no_more_is_held_than_a_value_needs():
    def pieces():
        yield "["
        for i in range(20_000):
            yield json.dumps({"text": "x" * 1000, "number": i}) + ","
        yield "0]"

    tracemalloc.start()
    count = sum(1 for _ in JsonReader(pieces()).items())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 20_001 and peak < 500_000


def test_a_value_that_does_not_end_is_not_read_to_the_end(monkeypatch):
    monkeypatch.setattr(json_values, "LONGEST_VALUE", 10_000)
    read = []

    def pieces():
        yield '["'
        for i in range(1000):
            read.append(i)
            yield "x" * 1000

    with pytest.raises(
        JsonFault, match="a value of more than 10,000 characters, or one without an end; put each record on a line"
    ):
        list(JsonReader(pieces()).items())
    assert len(read) < 50
