"""text_files.py: encodings that are found out, packed files, and files that only look like text."""

import bz2
import gzip

import pytest

from hierarchical.errors import InputError
from hierarchical.tables import text_files
from hierarchical.tables.text_files import open_text

TEXTS = {  # a language: (a text, the encodings it may be in)
    "simplified": ("雷电黄色预警生效，东栖部分航班延误，股市今天小幅上涨。", ["gb18030", "utf-16", "utf-16-le", "utf-16-be", "utf-32"]),
    "traditional": ("雷電黃色預警生效，東棲部分航班延誤，股市今天小幅上漲。", ["big5"]),
    "Japanese": ("雷の警報が発令され、株式市場は今日小幅に上昇しています。", ["cp932", "euc_jp"]),
    "Korean": ("번개 경보가 발효되어 일부 항공편이 지연되었습니다.", ["cp949"]),
    "Russian": ("Предупреждение о грозе вступило в силу.", ["cp1251", "koi8_r"]),
    "German": ("Über zwölf Flüge verspäten sich, die Börse schloß höher.", ["cp1252"]),
    "Vietnamese": ("Khách sạn rất tốt, nhân viên thân thiện.", ["utf-8", "utf-8-sig"]),
}  # fmt: skip


def refused(path, encoding=None):
    with pytest.raises(InputError) as error:
        list(open_text(path, encoding).lines())
    return str(error.value)


@pytest.mark.parametrize("language", TEXTS)
@pytest.mark.parametrize("packed", [False, True])
def test_encodings_are_found_out(tmp_path, language, packed):
    text, encodings = TEXTS[language]
    content = f"text,label\r\n{text},A\r\n" + f"2,{text},B\n" * 3
    for encoding in encodings:
        data = content.encode(encoding)
        (tmp_path / "a").write_bytes(gzip.compress(data) if packed else data)
        found = open_text(tmp_path / "a")
        assert "".join(found.lines()) == "".join(found.pieces()) == content, encoding
        assert found.said == encoding.upper().removesuffix("-SIG") + (", gzip" if packed else "")


def test_an_encoding_that_is_told_is_checked(tmp_path):
    (tmp_path / "a").write_bytes("一\n二\nčeský\n".encode("cp1250", "replace"))
    assert open_text(tmp_path / "a", "cp1250").said == "CP1250 (as told)"
    assert "".join(open_text(tmp_path / "a", "CP1250").lines()) == "?\n?\nčeský\n"
    assert f"{tmp_path / 'a'}:3: not UTF-8 (" in refused(tmp_path / "a", "utf8")
    for name in ("klingon", "hex", "a\0b"):
        assert f"--encoding {name}: unknown" in refused(tmp_path / "a", name)


def test_two_encodings_in_one_file(tmp_path):
    (tmp_path / "a").write_bytes("一\n".encode() * 30 + "雷电黄色\n".encode("gb18030") + b"x\n" + b"\xff\n")
    message = refused(tmp_path / "a")
    assert message.startswith("2 problems found") and "a:33: byte 1 is not UTF-8; other lines" in message
    assert "a:31: byte 1 is not UTF-8 (as GB18030 it reads '雷电黄色'); other lines of the file are UTF-8" in message


def test_no_encoding_fits(tmp_path):
    (tmp_path / "a").write_bytes(bytes(range(128, 256)) * 50 + b"\n")
    assert "in no encoding that can be guessed. --encoding names it" in refused(tmp_path / "a")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "the file is empty"),
        (bytes(5000), "no text: every fourth byte"),
        (b"\xd0\xcf\x11\xe0" + bytes(100), "an old spreadsheet"),
        (b"%PDF-1.7\n", "a PDF"),
        (bz2.compress(b"a" * 100), "compressed with bzip2"),
        (gzip.compress(b"a,b\n" * 1000, mtime=0)[:-20], "a damaged gzip file"),
        (gzip.compress(b"a,b\n" * 1000, mtime=0)[:20] + b"xxxx" * 9, "a damaged gzip file"),
    ],
)
def test_what_is_no_text(tmp_path, content, says):
    (tmp_path / "a").write_bytes(content)
    assert says in refused(tmp_path / "a")


def test_a_gzip_bomb_is_not_unpacked_to_its_end(tmp_path, monkeypatch):
    (tmp_path / "a.gz").write_bytes(gzip.compress(bytes(20 << 20)))
    monkeypatch.setattr(text_files, "BOMBS_FROM", 2 << 20)
    message = refused(tmp_path / "a.gz")
    assert "unpacks to more than 4 MB, over 200 times its size" in message


def test_lines_have_a_longest_length(tmp_path, monkeypatch):
    monkeypatch.setattr(text_files, "LONGEST_LINE", 100)
    (tmp_path / "a").write_text("一" * 99 + "\n" + "x" * 98 + "\r\n" + "y" * 100)
    assert f"{tmp_path / 'a'}:3: a line of more than 100 characters" in refused(tmp_path / "a")
    (tmp_path / "a").write_text("一" * 99 + "\n" + "y" * 99)
    assert [len(line) for line in open_text(tmp_path / "a").lines()] == [100, 99]


def test_line_ends(tmp_path):
    (tmp_path / "a").write_bytes("a\x85b\u2028c\rd\r\ne\n".encode())
    assert list(open_text(tmp_path / "a").lines()) == ["a\x85b\u2028c\rd\r\n", "e\n"]
    (tmp_path / "a").write_bytes(b"a,b\rc,d\r")
    assert list(open_text(tmp_path / "a").lines()) == ["a,b\n", "c,d\n"]
