"""files.py: what is written whole or not at all, and files that are refused before any work is done."""

import errno
import io
import os
import shutil
import subprocess
import sys
import time

import pytest

from hierarchical.errors import InputError, Problems
from hierarchical.files import atomic_write, read_lines, require_file, require_outputs
from tests.hierarchical.test_labels import write


def test_atomic_write(tmp_path):
    path = tmp_path / "文件.txt"
    with atomic_write(path) as file:
        file.write("一\n")
        assert not path.exists()
    assert path.read_bytes() == "一\n".encode()
    with atomic_write(path, "wb") as file:
        file.write(b"\r\n")
    assert path.read_bytes() == b"\r\n" and os.listdir(tmp_path) == ["文件.txt"]


@pytest.mark.parametrize("failure", [ValueError("x"), KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left")])
def test_a_failed_write_leaves_the_old_file(tmp_path, failure):
    path = write(tmp_path / "a.txt", "old")
    with pytest.raises(type(failure)) as error, atomic_write(path) as file:
        file.write("new")
        raise failure
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["a.txt"]
    if isinstance(failure, OSError):
        assert error.value.filename == str(path)


def test_atomic_write_where_nothing_can_be_written(tmp_path):
    with pytest.raises(OSError), atomic_write(tmp_path / "nowhere" / "a.txt"):
        pass


def test_outputs_are_different_files(tmp_path):
    one, other = tmp_path / "one", tmp_path / "other"
    require_outputs({"--one": one, "--other": other}, [tmp_path / "rows"])
    with pytest.raises(InputError, match="--one and --other must have different names"):
        require_outputs({"--one": one, "--other": tmp_path / ".." / tmp_path.name / "one"}, [])
    with pytest.raises(InputError, match="--other would overwrite"):
        require_outputs({"--one": one, "--other": other}, [other])


def test_require_file(tmp_path):
    assert require_file(write(tmp_path / "a", "x"), "") is None
    with pytest.raises(InputError, match="empty. The hint."):
        require_file(write(tmp_path / "a", ""), "The hint.")


# ---- other encodings -------------------------------------------------------------------------------------------------

CHINESE, FRENCH = "进球\t体育\n升息\t财经\n" * 30, "l'été\nle café\nla fête\n" * 30


def read(path):
    """(lines, what is wrong) of a file."""
    problems = Problems()
    return [text for _, text in read_lines(path, problems)], problems.shown


@pytest.mark.parametrize(
    ("content", "encoding", "says"),
    [
        (
            CHINESE,
            "gb18030",
            ":1: byte 1 is not UTF-8 (as GB18030 it reads '进球\\t体育'): the file has another encoding. ",
        ),
        ("id\n\n" + CHINESE, "gb18030", ":3: byte 1 is not UTF-8 (as GB18030 it reads '进球\\t体育'): the file"),
        (CHINESE, "utf-16", ":1: the file is UTF-16. Convert it: iconv"),
        (FRENCH, "latin-1", ":1: byte 3 is not UTF-8: the file has another encoding. "),
    ],
)
def test_another_encoding_is_told_once_with_what_converts_it(tmp_path, content, encoding, says):
    path = write(tmp_path / "my rows.txt", content.encode(encoding))
    lines, (told,) = read(path)
    assert f"{path}{says}" in told and "进球" not in "".join(lines)
    command = told[told.index("iconv") :].split(" (`file")[0].replace("ITS_ENCODING", "LATIN1")
    assert told.endswith("guesses it)") == (encoding == "latin-1")
    if shutil.which("iconv"):
        subprocess.run(command, shell=True, check=True)
        assert (tmp_path / "my rows.utf8.txt").read_text("utf-8") == content


def test_a_single_line_of_another_encoding_is_told_by_its_number(tmp_path):
    content = CHINESE.encode() + "进球\n".encode("gb18030") + b"caf\xe9\n" + CHINESE.encode()
    lines, told = read(write(tmp_path / "a.txt", content))
    assert [line.partition(".txt:")[2] for line in told] == [
        "61: byte 1 is not UTF-8 (as GB18030 it reads '进球'); other lines of the file are UTF-8: correct this one",
        "62: byte 4 is not UTF-8; other lines of the file are UTF-8: correct this one",
    ]
    assert len(lines) == 120


def test_many_such_lines_take_no_longer_than_others(tmp_path):
    content = (CHINESE.encode() + b"caf\xe9\n") * 3000
    started = time.process_time()
    lines, told = read(write(tmp_path / "a.txt", content))
    assert len(lines) == 180_000 and len(told) == 20 and time.process_time() - started < 3


def test_another_encoding_in_a_pipe(monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(CHINESE.encode("gb18030"))))
    assert read("-") == ([], ["-:1: byte 1 is not UTF-8 (as GB18030 it reads '进球\\t体育'): the file has another "
                              "encoding. Convert it on its way: ... | iconv -f GB18030 -t UTF-8 | ..."])  # fmt: skip
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("升息\n".encode() + b"caf\xe9\n" * 3 + b"tea\n")))
    lines, told = read("-")
    assert lines == ["升息", "tea"] and len(told) == 3


def test_what_killed_processes_left_of_a_file_is_cleared(tmp_path):
    """path.PID.tmp, if no such process is running, and nothing that only looks like it."""
    done = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True)
    dead, alive = int(done.stdout), os.getppid()
    path = tmp_path / "state.safetensors"
    gone = [f"state.safetensors.{dead}.tmp", "state.safetensors.99999999999.tmp"]
    stay = [f"state.safetensors.{alive}.tmp", f"other.{dead}.tmp", f"state.safetensors.{dead}.tmp.txt"]
    stay += [
        f"my-state.safetensors.{dead}.tmp",
        "state.safetensors.x.tmp",
        "state.safetensors..tmp",
        f"state.{dead}.tmp",
    ]
    for name in gone + stay:
        (tmp_path / name).write_text("half")
    with atomic_write(path) as file:
        file.write("new")
    assert sorted(os.listdir(tmp_path)) == sorted([*stay, "state.safetensors"]) and path.read_text() == "new"
