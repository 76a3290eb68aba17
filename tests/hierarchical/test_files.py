"""files.py: what is written whole or not at all, and files that are refused before any work is done."""

import errno
import os

import pytest

from hierarchical.errors import InputError
from hierarchical.files import atomic_write, require_file, require_outputs
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
