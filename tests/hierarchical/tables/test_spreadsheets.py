"""spreadsheets.py: workbooks and Parquet files; damaged and hostile ones end in a message, soon and in little memory."""

import random
import re
import time
import zipfile

import pyarrow
import pytest
from openpyxl import Workbook
from pyarrow import parquet

from hierarchical.errors import InputError, Problems
from hierarchical.tables import open_table, spreadsheets
from hierarchical.tables.table import Dialect, Tally

SHEET, STRINGS = "xl/worksheets/sheet1.xml", "xl/sharedStrings.xml"
BOMB = b'<!DOCTYPE x [<!ENTITY a "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa">' + b"".join(
    b'<!ENTITY %c "%s">' % (98 + i, b"&%c;" % (97 + i) * 50) for i in range(8)
) + b"]>"  # fmt: skip


@pytest.fixture
def book(tmp_path):
    """book(*rows, sheets={title: rows}) -> the path of a workbook."""

    def call(*rows, **sheets):
        made = Workbook()
        for title, held in {"Sheet": rows, **sheets}.items():
            sheet = made.active if title == "Sheet" else made.create_sheet(title)
            for row in held:
                sheet.append(row)
        made.save(tmp_path / "a.xlsx")
        return tmp_path / "a.xlsx"

    return call


def read(path, *wanted, **dialect):
    table, problems = open_table(path, Dialect(**dialect), wanted), Problems()
    rows = list(table.read(range(len(table.columns)), Tally(), problems))
    problems.raise_if_any()
    return table, rows


def refused(path, *wanted, **dialect):
    with pytest.raises(InputError) as error:
        read(path, *wanted, **dialect)
    return str(error.value)


def edited(path, part, old, new):
    """The workbook with `new` for `old` in one of its parts."""
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    assert old in parts[part]
    parts[part] = parts[part].replace(old, new, 1)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    return path


# ---- Excel -----------------------------------------------------------------------------------------------------------


def test_a_sheet(book):
    path = book(["Sales"], [], ["id", "text", None], [1, "文", 2.5], [None, None, None], [3.0, True, "x"])
    table, rows = read(path, "text")
    assert table.columns == ["id", "text"] and table.said == "Excel, sheet 'Sheet', header in row 3"
    assert rows == [(4, ("1", "文")), (5, (None, None)), (6, ("3", "True"))]


def shared(path, *texts):
    """The workbook with its texts in a table of their own, as Excel writes them."""
    main = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
    items = "".join(f"<si>{text}</si>" for text in texts)
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name).decode("utf-8") for name in archive.namelist()}
    parts[STRINGS] = f'<sst xmlns="{main}">{items}</sst>'
    kind = "application/vnd.openxmlformats-officedocument.spreadsheetml.sharedStrings+xml"
    override = f'<Override PartName="/{STRINGS}" ContentType="{kind}"/>'
    parts["[Content_Types].xml"] = parts["[Content_Types].xml"].replace("</Types>", f"{override}</Types>")
    for number in range(len(texts)):
        old = re.search(r't="inlineStr"><is><t>.*?</t></is>', parts[SHEET])[0]
        parts[SHEET] = parts[SHEET].replace(old, f't="s"><v>{number}</v>', 1)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    return path


def test_texts_that_are_shared(book):
    rich = '<r><rPr><b/></rPr><t>rich</t></r><r><t> text</t></r><rPh sb="0" eb="1"><t>not this</t></rPh>'
    path = shared(book(["text"], ["a"], ["b"]), "<t>text</t>", "<t>一</t>", rich)
    assert read(path)[1] == [(2, ("一",)), (3, ("rich text",))]
    assert "not a workbook that can be read" in refused(edited(path, SHEET, b"<v>1</v>", b"<v>99999</v>"))
    assert "not a workbook that can be read" in refused(edited(path, STRINGS, b"</sst>", b""))


def test_sheets(book):
    path = book(["text"], ["a"], Second=[["text"], ["b"]])
    table, rows = read(path)
    assert rows == [(2, ("a",))] and "sheet 'Sheet' (not 'Second')" in table.said
    assert read(path, sheet="Second")[1] == read(path, sheet="2")[1] == [(2, ("b",))]
    assert "--sheet 3: no such sheet. There are: Sheet, Second." in refused(path, sheet="3")


def test_the_first_sheet_that_can_be_seen(tmp_path):
    made = Workbook()
    made.active.append(["hidden"])
    made.active.sheet_state = "hidden"
    made.create_sheet("Seen").append(["text"])
    made.save(tmp_path / "a.xlsx")
    assert "sheet 'Seen'" in read(tmp_path / "a.xlsx")[0].said


def test_formulas_and_errors_are_told_by_their_cell(book):
    path = book(["text", "label", "sum"], ["=A1&B1", "A", "=1+1"], ["b", "#N/A", 1])
    table, problems = open_table(path, Dialect(), ()), Problems()
    assert len(list(table.read([2], Tally(), Problems()))) == 1
    list(table.read([0, 1], Tally(), problems))
    assert problems.shown == [
        f"{path}:2: cell A2 holds the formula '=A1&B1', and formulas are not computed: copy the column, and paste it as values",
        f"{path}:3: cell B3 holds the error #N/A; write what should stand there, or nothing",
    ]


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        (
            b'r="B3"',
            b'r="ZZZZZZZZ3"',
            "not a workbook that can be read (ValueError: 'ZZZZZZZZ' is not a valid column name",
        ),
        (b"<t>b</t>", BOMB, "not a workbook that can be read (ParseError"),
        (b"<worksheet", b'<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]><worksheet', None),
        (b"</row>", b"", "not a workbook that can be read (ParseError"),
    ],
)
def test_hostile_sheets(book, old, new, says):
    path = edited(book(["text", "label"], ["a", "A"], ["b", "B"]), SHEET, old, new)
    if says is None:
        path, says = edited(path, SHEET, b"<t>b</t>", b"<t>&a;</t>"), "undefined entity &a;"
    assert says in refused(path)


def test_entities_that_grow_are_not_expanded(book):
    path = edited(book(["text"], ["b"]), SHEET, b"<worksheet", BOMB + b"<worksheet")
    began = time.process_time()
    assert "not a workbook that can be read" in refused(edited(path, SHEET, b"<t>b</t>", b"<t>&i;</t>"))
    assert time.process_time() - began < 2


def test_a_size_that_is_not_so_is_not_believed(book):
    path = edited(book(["text", "label"], ["a", "A"]), SHEET, b'ref="A1:B2"', b'ref="A1:XFD1048576"')
    assert read(path)[1] == [(2, ("a", "A"))]


def test_rows_beyond_the_last(book, monkeypatch):
    monkeypatch.setattr(spreadsheets, "MOST_ROWS", 1000)
    path = edited(book(["text"], ["a"], ["b"]), SHEET, b'<row r="3"', b'<row r="1000000000"')
    assert "more than 1,000 rows in 'Sheet'; Excel has no more" in refused(path)


def test_zip_bombs_are_not_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr(spreadsheets, "MOST_TEXTS", 1 << 20)
    for part in (STRINGS, SHEET):
        with zipfile.ZipFile(tmp_path / "a.xlsx", "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("xl/workbook.xml", "<x/>")
            archive.writestr(part, bytes(3 << 20))
        assert "MB that unpack to 3 MB, more than is read" in refused(tmp_path / "a.xlsx")
        monkeypatch.setattr(spreadsheets, "MOST_UNPACKED", 2 << 20)


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (["a.csv"], "a zip file with a.csv; unpack it"),
        (["content.xml"], "an OpenDocument file; save the table as .xlsx or .csv"),
        (["xl/workbook.bin"], "a binary workbook (.xlsb)"),
        (["xl/workbook.xml"], "not a workbook that can be read"),
    ],
)
def test_other_zip_files(tmp_path, names, says):
    with zipfile.ZipFile(tmp_path / "a.xlsx", "w") as archive:
        for name in names:
            archive.writestr(name, "x")
    assert says in refused(tmp_path / "a.xlsx")


def test_damaged_workbooks(book, tmp_path):
    content = book(["text"], ["a"]).read_bytes()
    for kept in (content[:-300], content[:100], b"PK\x03\x04" + bytes(100)):
        (tmp_path / "a.xlsx").write_bytes(kept)
        assert "a damaged spreadsheet or zip file" in refused(tmp_path / "a.xlsx")
    assert "no row in it" in refused(book())
    number = random.Random(0)
    for _ in range(30):  # whatever the damage, there is an answer, or a message
        noisy = bytearray(content)
        for _ in range(20):
            noisy[number.randrange(4, len(noisy))] = number.randrange(256)
        (tmp_path / "a.xlsx").write_bytes(noisy)
        try:
            read(tmp_path / "a.xlsx")
        except InputError:
            pass


# ---- Parquet ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def columns(tmp_path):
    """columns(**values) -> the path of a Parquet file."""

    def call(**values):
        parquet.write_table(pyarrow.table(values), tmp_path / "a.parquet")
        return tmp_path / "a.parquet"

    return call


def test_columns_of_all_kinds(columns):
    path = columns(
        text=["a", None],
        number=[1.0, float("nan")],
        labels=[["A", "B"], []],
        meta=[{"a": [{"name": "C"}], "n": 3}, None],
        kind=pyarrow.array(["x", "y"]).dictionary_encode(),
    )
    table, rows = read(path)
    assert table.columns == ["text", "number", "labels", "meta.a.name", "meta.n", "kind"] and table.said == "Parquet"
    assert rows == [(1, ("a", "1", ["A", "B"], ["C"], "3", "x")), (2, (None, None, [], None, None, "y"))]


def test_damaged_parquet(columns):
    path = columns(text=["a" * 50] * 100, label=["b"] * 100)
    content = path.read_bytes()
    path.write_bytes(content[:-30])
    assert "a damaged Parquet file" in refused(path)
    number = random.Random(0)
    for _ in range(30):
        noisy = bytearray(content)
        for _ in range(10):
            noisy[number.randrange(4, len(noisy) - 8)] = number.randrange(256)
        path.write_bytes(noisy)
        try:
            read(path)
        except InputError:
            pass


def test_parquet_that_is_too_large(columns, monkeypatch):
    path = columns(**{f"c{i}": ["a"] for i in range(5)})
    monkeypatch.setattr(spreadsheets, "MOST_COLUMNS", 4)
    assert "says that it has 1 rows of 5 columns" in refused(path)
    monkeypatch.setattr(spreadsheets, "is_bomb", lambda size, packed: size > packed / 1000)
    assert "far more than a file of texts does" in refused(path)
