"""token_rows.py: the same ids as without a cache, encoded once, checked when opened, and not in memory."""

import subprocess
import sys

import numpy as np
import pytest

from hierarchical import token_rows
from hierarchical.long_texts import Windows
from hierarchical.rows import load_rows
from hierarchical.token_rows import FOLDER, TokenRows, encode_file, in_windows
from hierarchical.tokenizer import load_tokenizer
from tests.conftest import ROOT, SAMPLE
from tests.hierarchical.test_labels import TREE
from tests.memory import peak_bytes
from utils import InputError

TEXTS = [f"第{i}期消息{'新' * (i % 7)}" for i in range(50)]


class Counting:
    """A tokenizer that counts the texts it is given."""

    def __init__(self, max_seq_length=16):
        self.inner, self.texts = load_tokenizer(SAMPLE / "tiny-ernie", max_seq_length), 0
        self.files, self.vocab, self.max_seq_length = self.inner.files, self.inner.vocab, max_seq_length
        self.long_text = self.inner.long_text

    def encode(self, texts):
        self.texts += len(texts)
        return self.inner.encode(texts)


@pytest.fixture
def file(tmp_path, monkeypatch):
    """A file of TEXTS, in the folder of which there may be a cache."""
    monkeypatch.setattr(token_rows, "CACHED_FROM", 50)
    monkeypatch.setattr(token_rows, "CHUNK", 8)
    (tmp_path / "rows.txt").write_text("".join(f"{text}\t体育\n" for text in TEXTS), "utf-8")
    return tmp_path / "rows.txt"


def as_lists(rows):
    return [row.tolist() for row in rows]


def caches(file):
    return sorted(path.name for path in (file.parent / FOLDER).glob("*.tokens"))


def test_windows_by_hand():
    rows = TokenRows(np.array([1, 5, 6, 7, 8, 9, 2, 1, 4, 2], np.uint16), np.array([0, 7, 10]))
    found, texts = in_windows(rows, Windows(4, 2))  # two tokens between the ends
    assert as_lists(found) == [[1, 5, 6, 2], [1, 7, 8, 2], [1, 8, 9, 2], [1, 4, 2]] and found.ids.dtype == np.uint16
    assert texts.tolist() == [0, 0, 0, 1]
    same, texts = in_windows(rows, None)
    assert same is rows and texts.tolist() == [0, 1]


def test_the_ids_are_those_of_the_tokenizer_and_are_made_once(file):
    expected = Counting().inner.encode(TEXTS)
    for made in (50, 0, 0):
        tokenizer = Counting()
        found = encode_file(tokenizer, TEXTS, file)
        assert tokenizer.texts == made and as_lists(found) == expected and isinstance(found.ids, np.memmap)
        assert found.lengths.tolist() == list(map(len, expected)) and as_lists(found[3:9:2]) == expected[3:9:2]
    assert len(caches(file)) == 1 and found.ids.dtype == np.uint16
    few = encode_file(Counting(), TEXTS[:49], file)
    assert (
        as_lists(few) == expected[:49]
        and not isinstance(few.ids, np.memmap)
        and as_lists(few[-1:]) == [few[48].tolist()]
    )
    with pytest.raises(IndexError):
        few[49]


def test_another_file_tokenizer_or_length_is_another_cache(file, monkeypatch):
    encode_file(Counting(), TEXTS, file)
    longer = Counting(20)
    encode_file(longer, TEXTS, file)
    other = Counting()
    other.files = other.files | {"vocab.txt": b"x"}
    encode_file(other, TEXTS, file)
    assert longer.texts == other.texts == 50 and len(caches(file)) == 3
    file.write_text(file.read_text("utf-8").replace("第0期", "第零期"), "utf-8")
    changed = Counting()
    encode_file(changed, ["第零期消息", *TEXTS[1:]], file)
    assert changed.texts == 50 and len(caches(file)) == 3  # the oldest is gone


@pytest.mark.parametrize("place", [0, 3, 600, -5, None])
def test_a_damaged_cache_is_made_again(file, place, caplog):
    expected = as_lists(encode_file(Counting(), TEXTS, file))
    path = file.parent / FOLDER / caches(file)[0]
    content = bytearray(path.read_bytes())
    if place is None:
        content = content[:700]
    else:
        content[place] ^= 1
    path.write_bytes(content)
    tokenizer = Counting()
    assert as_lists(encode_file(tokenizer, TEXTS, file)) == expected and tokenizer.texts == 50
    tokenizer = Counting()
    encode_file(tokenizer, TEXTS, file)
    assert tokenizer.texts == 0


def test_where_nothing_can_be_written_tokens_are_in_memory(file, tmp_path):
    (tmp_path / "taken").write_text("")
    found = encode_file(Counting(), TEXTS, file, tmp_path / "taken")
    assert as_lists(found) == Counting().inner.encode(TEXTS) and not isinstance(found.ids, np.memmap)


def test_a_file_that_is_changed_meanwhile(file):
    with pytest.raises(InputError, match="changed while it was read"):
        encode_file(Counting(), Fewer(TEXTS), file)


class Fewer(list):
    """Says that it has more than comes."""

    def __iter__(self):
        return iter(self[:-3])


def test_texts_and_tokens_are_not_in_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(token_rows, "CACHED_FROM", 1)
    path, tokenizer = tmp_path / "rows.txt", Counting(128)
    path.write_text("".join(f"{'体' * 100}{i % 10}\t体育\n" for i in range(20_000)), "utf-8")
    tokenizer.encode(["体" * 100])
    rows, of_rows = peak_bytes(load_rows, path, TREE, keep_texts=False)
    assert list(rows.texts) == load_rows(path, TREE).texts and of_rows < 1e6  # the texts take 5 MB
    monkeypatch.setattr(token_rows, "CHUNK", 100)
    made, while_made = peak_bytes(encode_file, tokenizer, rows.texts, path)
    assert while_made < 2.7e6 < 4e6 < made.ids.nbytes  # blocks of a megabyte, for digests
    assert peak_bytes(encode_file, tokenizer, rows.texts, path)[1] < 2.3e6


def test_a_file_of_texts_that_changes(tmp_path):
    path = tmp_path / "rows.txt"
    path.write_text("一\t体育\n二\t财经\n", "utf-8")
    rows = load_rows(path, TREE, keep_texts=False)
    assert list(rows.texts) == list(rows.texts) == ["一", "二"] and len(rows.texts) == 2
    path.write_text("一\t体育\n", "utf-8")
    with pytest.raises(InputError, match="changed while it was read"):
        list(rows.texts)


@pytest.mark.slow
def test_several_processes_share_the_work_of_one(file):
    code = (
        "import sys; from tests.hierarchical.test_token_rows import *; token_rows.CACHED_FROM = 1;"
        "t = Counting(); encode_file(t, TEXTS * 40, sys.argv[1]); print(t.texts)"
    )
    processes = [
        subprocess.Popen([sys.executable, "-c", code, str(file)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    assert sorted(int(process.communicate()[0]) for process in processes) == [0, 0, 2000]


def test_token_rows_by_hand():
    rows = TokenRows(np.array([7, 8, 9], np.uint16), np.array([0, 1, 1, 3]))
    assert as_lists(rows) == [[7], [], [8, 9]] and rows[-1].tolist() == [8, 9] and rows.lengths.tolist() == [1, 0, 2]
