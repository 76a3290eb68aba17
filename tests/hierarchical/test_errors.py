"""errors.py: faults that are collected, the first of them in full, and lists that are cut short."""

import pytest

from hierarchical.errors import SHOWN, InputError, Problems, some


def test_problems_by_hand():
    problems = Problems()
    problems.raise_if_any()
    problems.add("a.txt", 3, "no label")
    with pytest.raises(InputError) as error:
        problems.raise_if_any()
    assert str(error.value) == "1 problem found\n  a.txt:3: no label"
    problems.add("b.txt", None, "the file is empty")
    with pytest.raises(ValueError) as error:  # an InputError is one
        problems.raise_if_any()
    assert str(error.value) == "2 problems found\n  a.txt:3: no label\n  b.txt: the file is empty"


def test_what_is_not_shown_is_counted():
    problems = Problems()
    for line in range(1, SHOWN + 1):
        problems.add("a.txt", line, "wrong")
    with pytest.raises(InputError) as error:
        problems.raise_if_any()
    assert len(str(error.value).splitlines()) == 21 and "more like these" not in str(error.value)
    problems.add("a.txt", 21, "wrong")
    problems.add("a.txt", 22, "wrong")
    with pytest.raises(InputError, match="^22 problems found\n") as error:
        problems.raise_if_any()
    assert str(error.value).splitlines()[-2:] == ["  a.txt:20: wrong", "  ... and 2 more like these"]
    assert problems.count == 22 and len(problems.shown) == 20


def test_some():
    assert some([]) == "" and some(["a"]) == "a"
    assert some(list("abcde")) == "a, b, c, d, e"
    assert some(list("abcdef")) == "a, b, c, d, e, ..." and some(list("abc"), shown=2) == "a, b, ..."
