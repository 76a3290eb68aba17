"""output_parts.py: when parts are joined, by whom, and what a kill or an earlier start leaves."""

import logging

import pytest

from hierarchical import output_parts
from hierarchical.output_parts import Parts, done_mark

LOGGER = logging.getLogger("parts")


@pytest.fixture
def started(tmp_path, monkeypatch):
    """started(name) gives what three processes of one start see, each with its rows written."""

    def start(name):
        monkeypatch.setenv("PADDLE_MASTER", name)
        parts = [Parts(tmp_path / "out.tsv", rank, 3) for rank in range(3)]
        for number, one in enumerate(parts):
            one.begin()
            one.own.write_text(f"{name} {number}\n")
        return parts

    return start


def test_the_last_to_end_joins_them_in_order(started, tmp_path):
    first, second, third = started("a")
    for one in (third, first):
        one.end({}, LOGGER)
        assert not one.path.exists() and not one.are_joined()
    second.end({}, LOGGER)
    assert first.path.read_text() == "a 0\na 1\na 2\n" and first.are_joined()
    assert [path.name for path in tmp_path.iterdir()] == ["out.tsv"]


def test_parts_of_an_earlier_start_do_not_count_until_their_process_has_seen_them(started):
    for one in started("a")[1:]:
        one.end({}, LOGGER)
    first, second, third = started("b")
    done_mark(third.own).write_text("a ")  # as if the third had not begun yet
    for one in (first, second):
        one.end({}, LOGGER)
    assert not first.path.exists()
    third.end({}, LOGGER)
    assert first.path.read_text() == "b 0\nb 1\nb 2\n"


def test_of_two_that_end_together_one_joins(started, monkeypatch):
    parts = started("a")
    for one in parts[:2]:
        one.end({}, LOGGER)
    done_mark(parts[2].own).write_text(parts[2].start)  # all marks are there when both look
    monkeypatch.setattr(
        output_parts.shutil, "copyfileobj", lambda *_: parts[1].end({}, LOGGER)
    )  # joins nothing meanwhile
    parts[2].end({}, LOGGER)
    assert parts[0].are_joined() and not parts[2].own.exists()


def test_a_kill_while_they_are_joined(started, monkeypatch):
    parts = started("a")
    for one in parts[:2]:
        one.end({}, LOGGER)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(output_parts.Path, "unlink", killed)  # the file is there, its parts too
        parts[2].end({}, LOGGER)
    assert parts[0].path.exists() and not parts[0].are_joined()
    for one in started("b"):
        one.end({}, LOGGER)
    assert parts[0].path.read_text() == "b 0\nb 1\nb 2\n" and parts[0].are_joined()


def killed(path, missing_ok=False):
    if path.name.endswith("-of-0003.tsv"):
        raise KeyboardInterrupt
