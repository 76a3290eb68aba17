"""convert.py: the files of strangers become data folders that the other scripts read, and rows become spreadsheets.

The files are those of strangers.py, the commands those in the table of docs/data.md.
"""

import json
import shutil
from pathlib import Path

import pytest
from openpyxl import load_workbook

import check_data
import convert
import predict
import train
from tests import strangers
from tests.conftest import SAMPLE
from utils import LabelTree, load_rows, run

COMMANDS = strangers.commands()
SHAPES = {  # --input or --train_input -> rows of train and dev, labels, and two rows among all
    "sales.xlsx": (40, 7, {"Item 1 Bought in 2001, works well": "Home,Home##Garden"}),
    "goods.csv": (20, 4, {"Thing 0, new": "Home,Home##Kitchen,Toys", "Thing 1, new": "Home,Home##Garden"}),
    "reviews.csv": (30, 6, {"霁城的酒店0号店, 位置不错": "位置,服务,服务##前台"}),
    "onehot.csv": (30, 3, {"well, text 0": "anger,fear,joy", "well, text 2": "joy"}),
    "train.tsv": (50, 7, {'"Well train 1, he said': "positive,positive##joy,negative,negative##fear"}),
    "headlines.train.txt": (36, 3, {"东栖第1届train运动会开幕": "财经"}),
    "intents_train.csv": (40, 6, {"Please, train 6": "transfer,transfer##failed"}),
    "memes.json": (30, 8, {"MEME 0\nsecond line": "Ethos,Ethos##Ad Hominem,Ethos##Ad Hominem##Smears,Pathos",
                           "MEME 2\nsecond line": ""}),
    "news_train.json": (36, 8, {"train shares rose 2": "C,C##C2,M,M##M1,M##M1##M11"}),
    "toutiao.txt": (30, 3, {"霁城头条0，速看": "民生"}),
    "hotels.jsonl.gz": (30, 7, {"Khách sạn 0 rất tốt": "LOCATION,LOCATION##GENERAL,ROOM,ROOM##CLEANLINESS"}),
    "patents/*.parquet": (30, 8, {"Device 1-1 A device with 1 wheels": "A,A##A01,A##A01##A01C"}),
    "old/*.txt": (20, 3, {"霁城旧闻0": "天气,天气##暴雨"}),
}  # fmt: skip


@pytest.fixture
def here(tmp_path, monkeypatch):
    """The working directory, in which the files of strangers are."""
    strangers.write(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def call(tmp_path, capsys, printed, monkeypatch):
    """call(*flags) -> (exit code, what was printed, log and error text) of convert.py in tmp_path."""
    monkeypatch.chdir(tmp_path)

    def call(*flags):
        printed.clear()
        try:
            run(lambda: convert.main(list(map(str, flags))))
            code = 0
        except SystemExit as end:
            code = end.code
        out, error = capsys.readouterr()
        assert "Traceback" not in error
        return code, out, "\n".join([*printed, error])

    return call


def write(name, *lines):
    Path(name).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def rows_of(name="train.txt", folder="my_data"):
    """text -> labels of a file of rows in a data folder, joined by commas."""
    tree = LabelTree.read(Path(folder) / "label.txt")
    rows = load_rows(Path(folder) / name, tree)
    return {text: ",".join(tree.labels[i] for i in labels) for text, labels in zip(rows.texts, rows.labels)}


def first_input(command):
    return command[command.index("--input" if "--input" in command else "--train_input") + 1]


# ---- the table of docs/data.md ---------------------------------------------------------------------------------------


def test_the_pages_have_the_same_commands():
    assert strangers.commands("docs/data.zh-CN.md") == COMMANDS and len(COMMANDS) == 17


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_commands_of_the_page(here, call, command):
    code, out, log = call(*command)
    assert code == 0, log
    if "--to" in command:
        assert [cell.value for cell in load_workbook("predictions.xlsx").active[2]] == [
            "=Text 0",
            "A; A##B",
            "A",
            "B",
            0.7,
        ]
    elif command[0] == "--taxonomy":
        labels = ["Animals", "Animals##Pet Supplies", "Animals##Pet Supplies##Bird Supplies", "Arts", "Arts##Crafts"]
        assert LabelTree.read("my_data/label.txt").labels == labels and len(list(Path("my_data").iterdir())) == 1
    elif first_input(command) == "new.csv":
        texts = Path("my_data/data.txt").read_text("utf-8").splitlines()
        assert texts == [f"New text {i}" if i != 3 else "" for i in range(8)]
        assert "no column of labels was named or found" in log and "Next: python predict.py" in log
    elif "--label_file" in command:
        assert LabelTree.read("my_data/label.txt").labels == [
            "Toys",
            "Home",
            "Home##Garden",
            "Home##Kitchen",
            "Toys##Puzzles",
        ]
    else:
        count, labels, some_rows = SHAPES[first_input(command)]
        form = "jsonl" if "jsonl" in command else "txt"
        rows = {**rows_of(f"train.{form}"), **rows_of(f"dev.{form}")}
        assert (len(rows), len(LabelTree.read("my_data/label.txt"))) == (count, labels)
        assert some_rows.items() <= rows.items()
        assert "Next: python check_data.py --dataset_dir my_data" in log


@pytest.mark.slow
@pytest.mark.parametrize("source", SHAPES)
def test_from_a_raw_file_to_predictions(here, call, paddle, capsys, source):
    command = next(one for one in COMMANDS if source in one and "--label_file" not in one)
    assert call(*command)[0] == 0
    form = "jsonl" if "jsonl" in command else "txt"
    files = ["--train_file", f"train.{form}", "--dev_file", f"dev.{form}"]
    run(lambda: check_data.main(["--dataset_dir", "my_data", *files]))
    assert "No fatal fault." in capsys.readouterr().out
    quick = ["--model_name", str(SAMPLE / "tiny-ernie"), "--device", "cpu", "--epochs", "1", "--batch_size", "16"]
    run(lambda: train.main(["--dataset_dir", "my_data", *files, *quick]))
    asked = ["--dataset_dir", "my_data", "--data_file", f"data.{form}", "--device", "cpu", "--min_labels", "1"]
    run(lambda: predict.main([*asked, "--output_file", "predictions.jsonl"]))
    results = [json.loads(line) for line in Path("predictions.jsonl").read_text("utf-8").splitlines()]
    texts = rows_of("test.txt" if Path("my_data/test.txt").exists() else f"dev.{form}")
    labels = set(LabelTree.read("my_data/label.txt").labels)
    assert [one["text"] for one in results] == [" ".join(text.split("\n")) if form == "txt" else text for text in texts]
    assert all(one["labels"] and set(one["labels"]) <= labels for one in results)
    shutil.rmtree("checkpoint")
    assert call("--to", "csv", "--input", "predictions.jsonl")[0] == 0
    assert len(Path("predictions.csv").read_text("utf-8-sig").splitlines()) >= len(results) + 1


# ---- what is said ----------------------------------------------------------------------------------------------------


def test_what_was_understood(here, call):
    write(
        "a.csv",
        "Shop,,",
        "review,tag,x",
        "good,A > B,",
        "good,A > B,",
        ",A,",
        "bad,,",
        "odd, C  c,",
        "bad,D,",
        "so,A,",
        "so,C c,",
    )
    code, out, log = call(
        "--input",
        "a.csv",
        "--text_column",
        "review",
        "--label_column",
        "tag",
        "--separator",
        " > ",
        "--dry_run",
        "--splits",
        "1",
    )
    assert code == 0 and out.splitlines() == [
        "a.csv: cells separated by ',', header in line 2, UTF-8, 8 rows",
        "    columns: 0 review, 1 tag, 2 x",
        "    text: review; labels: tag",
        "",
        "Rows as they will be read",
        "  text    good",
        "  labels  A, A##B",
        "  text    bad",
        "  labels  D",
        "  text    odd",
        "  labels  C c",
        "",
        "Labels: 4",
        "         3 of level 1, in 3 rows",
        "         1 of level 2, in 1 rows",
        "",
        "Commonest",
        "         1  A",
        "         1  A##B",
        "         1  C c",
        "         1  D",
        "",
        "Mended, left out, or to be known",
        "         1  rows without a text, left out (first: a.csv:5)",
        "         1  labels with blanks mended (first: a.csv:7)",
        "         2  rows that repeat a text and say nothing else, left out",
        "         2  rows that repeat a text with other labels, to conflicts.jsonl (first: a.csv:9)",
        "",
        "Nothing was written (--dry_run). Without it: train.txt, data.txt, conflicts.jsonl, label.txt",
    ]


def test_what_was_understood_is_said_before_rows_turn_out_to_be_too_few(call):
    write("a.csv", "text,label", "a,A", "b,B")
    code, out, log = call("--input", "a.csv", "--save_dir", "out")
    assert code == 2 and "dev would get none of the 2 annotated rows" in log and "  labels  A\n" in out


def test_control_characters_do_not_reach_the_terminal(call):
    write("a.csv", "text,label,\x1b[1m", "\x1b[31ma,A", "b,B")
    code, out, _ = call("--input", "a.csv", "--dry_run", "--splits", "1")
    assert code == 0 and "\x1b" not in out and "  text     [31ma\n" in out and "2  [1m" in out
    write("a.csv", "text,label", "a,A", "b,\x1b]0;B")
    code, _, log = call("--input", "a.csv", "--dry_run")
    assert code == 2 and "a.csv:3: label '\\x1b]0;B' has a TAB, a line end or another control character in it" in log


@pytest.mark.parametrize(
    ("cells", "says"),
    [
        (["A > B", "A > C", "D"], "most labels hold '>': if that stands between levels, give --separator '>'"),
        (["A;B", "A;C", "D"], "most labels hold ';': if that stands between labels, give --label_delimiter ';'"),
        (["甲、乙", "丙、丁"], "most labels hold '、': if that stands between labels, give --label_delimiter '、'"),
        (["1", "2"], "all labels are numbers: --class_names names a file"),
        (["A", "B/C", "D"], None),
    ],
)
def test_hints(call, cells, says):
    write("a.csv", "text,label", *(f"text {i},{cell}" for i, cell in enumerate(cells)))
    code, _, log = call("--input", "a.csv", "--dry_run", "--splits", "1")
    assert code == 0 and (says in log if says else "hold" not in log)


# ---- the data folder -------------------------------------------------------------------------------------------------


def test_repeated_texts_conflicts_and_texts_without_a_label(call):
    write("a.csv", "text,label", "a,A##B", "b,A", "a,A##B", "b,C", "c,", "d,C", '"e', 'f",C')
    code, out, _ = call("--input", "a.csv", "--save_dir", "out", "--splits", "1")
    assert code == 0 and rows_of(folder="out") == {"a": "A,A##B", "d": "C", "e f": "C"}
    assert Path("out/unlabeled.txt").read_text() == "c\n"
    assert "1  texts without a label, to unlabeled; --keep_empty says that none applies (first: a.csv:6)" in out
    conflict = json.loads(Path("out/conflicts.jsonl").read_text())
    said = [{"annotator": "a.csv:3", "labels": ["A"]}, {"annotator": "a.csv:5", "labels": ["C"]}]
    assert conflict == {"text": "b", "labels": [], "annotations": said}
    code, _, _ = call("--input", "a.csv", "--save_dir", "all", "--splits", "1", "--keep_empty", "--format", "jsonl")
    assert code == 0 and rows_of("train.jsonl", "all") == {"a": "A,A##B", "c": "", "d": "C", "e\nf": "C"}


def test_the_same_seed_makes_the_same_files(call):
    write("a.csv", "text,label", *(f"text {i},{'AB'[i % 2]}" for i in range(40)))
    held = {}
    for seed, folder in ((3, "x"), (3, "y"), (4, "z")):
        assert call("--input", "a.csv", "--save_dir", folder, "--splits", 0.5, 0.25, 0.25, "--seed", seed)[0] == 0
        held[folder] = [Path(folder, f"{name}.txt").read_text() for name in ("train", "dev", "test", "data")]
    assert held["x"] == held["y"] != held["z"] and [text.count("A") for text in held["x"][:3]] == [10, 5, 5]


def test_no_rows_into_a_models_folder(call, tiny_export):
    write("a.csv", "text,label", "a,B", "b,A##C")
    model = shutil.copytree(tiny_export, "model")
    before = {path.name: path.read_bytes() for path in Path(model).iterdir()}
    code, _, log = call("--input", "a.csv", "--save_dir", "model", "--splits", "1", "--overwrite", "--add_labels")
    assert code == 2 and "model: holds a model, whose label.txt belongs to it" in log
    assert {path.name: path.read_bytes() for path in Path(model).iterdir()} == before


def test_a_second_run_keeps_the_classes(call):
    write("a.csv", "text,label", "a,B", "b,A##C")
    write("b.csv", "text,label", "c,A", "d,A##D", "e,A##CC")
    assert call("--input", "a.csv", "--save_dir", "out", "--splits", "1")[0] == 0
    Path("out/label.txt").write_text("B==word\nA\nA##C\n")
    again = ("--input", "b.csv", "--save_dir", "out", "--splits", "1")
    code, _, log = call(*again)
    assert code == 2 and "out: already has" in log and "train.txt" in log and "Nothing was written" in log
    code, _, log = call(*again, "--overwrite")
    assert code == 2 and "out/label.txt: 2 labels of the table are not in it:" in log
    assert "A##CC   (did you mean 'A##C'?)" in log and "a" in Path("out/train.txt").read_text()
    assert call(*again, "--overwrite", "--add_labels")[0] == 0
    assert Path("out/label.txt").read_text() == "B==word\nA\nA##C\nA##CC\nA##D\n"
    assert rows_of(folder="out") == {"c": "A", "d": "A,A##D", "e": "A,A##CC"}
    other = ("--input", "a.csv", "--save_dir", "new", "--splits", "1", "--label_file", "out/label.txt")
    assert call(*other)[0] == 0 and Path("new/label.txt").read_text() == Path("out/label.txt").read_text()
    write("mine.txt", "A", "A##C", "B")
    code, _, log = call(*other[:-1], "mine.txt", "--overwrite")
    assert code == 2 and "new/label.txt: has other classes than mine.txt" in log


def test_names_are_matched_with_the_classes_that_are_kept(call):
    write("a.csv", "text,label", "a,football")
    write("label.txt", "sport", "sport##football", "news")
    flags = ("--input", "a.csv", "--label_file", "label.txt", "--match_names", "--save_dir", "out", "--splits", "1")
    assert call(*flags)[0] == 0 and rows_of(folder="out") == {"a": "sport,sport##football"}


def test_parts_that_are_given(call):
    write("t.csv", "text,label", "a,A", "b,B", "b,B")
    write("d.csv", "text,label", "a,A", "c,B")
    code, out, log = call("--train_input", "t.csv", "--dev_input", "d.csv", "--save_dir", "out")
    assert code == 0 and rows_of(folder="out") == {"a": "A", "b": "B"}
    assert rows_of("dev.txt", "out") == {"a": "A", "c": "B"} and Path("out/data.txt").read_text() == "a\nc\n"
    assert "texts in dev that train holds, too; scores will be too good: 1" in log
    assert "1  rows that repeat a text and say nothing else, left out" in out
    write("e.csv", "text,label", "x,")
    code, _, log = call("--train_input", "t.csv", "--dev_input", "e.csv", "--save_dir", "new")
    assert code == 2 and "dev: no row with a label is left for it" in log and not Path("new").exists()


def test_test_rows_beside_rows_that_are_split(call):
    write("t.csv", "text,label", "a,A", "b,B", "c,A", "d,B")
    write("e.csv", "text,label", "a,A", "d,B", "e,B", "f,C##D")
    flags = ("--input", "t.csv", "--test_input", "e.csv", "--splits", "0.5", "0.5", "--is_shuffle", "false")
    code, out, log = call(*flags, "--save_dir", "out")
    assert (
        code == 0
        and rows_of(folder="out") == {"a": "A", "b": "B"}
        and rows_of("dev.txt", "out") == {"c": "A", "d": "B"}
    )
    assert rows_of("test.txt", "out") == {"a": "A", "d": "B", "e": "B", "f": "C,C##D"}
    assert Path("out/data.txt").read_text() == "a\nd\ne\nf\n" and "test: e.csv: " in out
    assert "texts in test that train holds, too; scores will be too good: 1" in log
    Path("out/train.txt").unlink()
    code, _, log = call(*flags, "--save_dir", "out")
    assert code == 2 and "test.txt" in log and not Path("out/train.txt").exists()
    assert call("--input", "t.csv", "--test_input", "e.csv", "--splits", "1", "--save_dir", "one")[0] == 0
    assert rows_of(folder="one").keys() == set("abcd") and not Path("one/dev.txt").exists()


# ---- what goes wrong -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ([], "--input: needed, or --train_input, or a --taxonomy alone"),
        (["--input", "a.csv"], "--save_dir: needed, unless with --dry_run"),
        (["--input", "a.csv", "--train_input", "a.csv"], "one or the other"),
        (["--dev_input", "a.csv"], "--train_input: needed"),
        (["--train_input", "a.csv", "--splits", "1"], "the parts are given, so leave it out"),
        (["--input", "a.csv", "--test_input", "a.csv", "--dev_input", "a.csv"], "one or the other"),
        (["--input", "a.csv", "--test_input", "a.csv", "--save_dir", "x", "--splits", "0.8", "0.1", "0.1"], "two numbers at most"),
        (["--input", "a.csv", "--label_column", "b", "--onehot_columns", "c"], "one of --label_column"),
        (["--input", "a.csv", "--label_columns", "b", "--label_delimiter", ";"], "--label_delimiter: is for --label_column"),
        (["--input", "a.csv", "--onehot_columns", "b", "--class_names", "c"], "--class_names: is for --label_column"),
        (["--input", "a.csv", "--delimiter", ""], "'' can't separate anything"),
        (["--input", "a.csv", "--save_dir", "x", "--keep_empty"], "add --format jsonl"),
        (["--input", "a.csv", "--save_dir", "x", "--dag", "both"], "invalid choice"),
        (["--to", "csv"], "--to: needs --input"),
        (["--to", "csv", "--input", "a.csv", "--text_column", "b"], "give --input, and no columns"),
        (["--input", "a.csv", "--save_dir", "x", "--match_names"], "needs a --taxonomy or a --label_file"),
        (["--input", "no.csv", "--save_dir", "x"], "no.csv: no such file"),
        (["--input", "no*.csv", "--save_dir", "x"], "no*.csv: no such file"),
        (["--input", "a.csv", "--save_dir", "x", "--text_column", "txt"], "--text_column txt: no such column. It has: 0 text, 1 label"),
        (["--input", "a.csv", "--save_dir", "x", "--onehot_columns", "label"], "a.csv:2: the column 'label' holds 'A', where 0 or 1"),
        (["--input", "b.csv", "--save_dir", "x"], "--text_column names the column of the texts. It has: 0 x, 1 y"),
        (["--input", "c.csv", "--save_dir", "x"], "--text_column names the column of the texts. It has: 0 (编号), 1 (投诉), 2 (类)"),
        (["--input", "a.csv", "--label_column", "b", "c"], "--label_columns b c if they are levels, --label_columns b --label_columns c if each holds"),
        (["--input", "head.csv", "--save_dir", "x"], "head.csv: no row in it"),
    ],
)  # fmt: skip
def test_wrong_flags(call, flags, says):
    write("a.csv", "text,label", "a,A")
    write("b.csv", "x,y", "a,A")
    write("c.csv", "编号,投诉,类", "1,慢,A", "2,坏,B")
    write("head.csv", "text,label")
    if "b.csv" in flags:
        flags = [*flags, "--label_column", "y"]
    code, _, log = call(*flags)
    assert code == 2 and says in log and not Path("x").exists()


def test_all_that_is_wrong_is_told_at_once(call):
    rows = [
        {"text": {"a": 1}, "label": "A"},
        {"text": "b", "label": "joyy"},
        5,
        {"text": "c", "label": ["joyy", {"x": 1}]},
    ]
    write("a.jsonl", *map(json.dumps, rows))
    write("tree.txt", "A", "A##joy")
    code, _, log = call("--input", "a.jsonl", "--taxonomy", "tree.txt", "--match_names", "--save_dir", "out")
    assert code == 2 and "4 problems found" in log and not Path("out").exists()
    assert "a.jsonl:1: an object where a text must stand; name the field in it with a dot, as in meta.text" in log
    assert "a.jsonl:2: unknown label 'joyy'; did you mean 'A##joy'? (2 rows)" in log
    assert "a.jsonl:3: a record must be an object {...}, not 5" in log
    assert "a.jsonl:4: \"{'x': 1}\" where the name of a label must stand" in log


def test_ambiguous_names_are_listed_with_all_candidates(call):
    write("a.csv", "text,label", "a,Other", "b,B##Other")
    write("tree.txt", "A > Other", "B > Other", "C > Other")
    flags = ("--input", "a.csv", "--taxonomy", "tree.txt", "--match_names", "--save_dir", "out", "--splits", "1")
    code, _, log = call(*flags)
    assert code == 2 and "a.csv:2: 'Other' is the end of 3 paths: 'A##Other', 'B##Other', 'C##Other'; write the" in log
    assert call(*flags, "--separator", "##", "--dag", "first")[0] == 0
    assert rows_of(folder="out") == {"a": "A,A##Other", "b": "B,B##Other"}


def test_a_label_with_a_comma_needs_jsonl(call):
    write("a.csv", "text,label", 'a,"Arts, Crafts"')
    code, _, log = call("--input", "a.csv", "--save_dir", "out", "--splits", "1")
    assert code == 2 and "'Arts, Crafts': a label with a comma can't stand in a .txt row. Add --format jsonl" in log
    assert call("--input", "a.csv", "--save_dir", "out", "--splits", "1", "--format", "jsonl")[0] == 0
    assert json.loads(Path("out/train.jsonl").read_text()) == {"text": "a", "labels": ["Arts, Crafts"]}


@pytest.mark.parametrize("name", ["a.xlsx", "a.parquet", "a.json", "a.csv", "a.csv.gz"])
def test_files_that_are_not_what_they_seem(call, name):
    for content in (
        b"",
        b"PK\x03\x04" + bytes(50),
        b"PAR1" + bytes(50),
        b"\x1f\x8b" + bytes(50),
        bytes(100),
        b"\xff" * 99,
    ):
        Path(name).write_bytes(content)
        code, _, log = call("--input", name, "--save_dir", "out")
        assert code == 2 and log.count("\n") <= 3 and name in log and not Path("out").exists()


def test_patterns_of_one_hot_columns_and_their_paths(call):
    write("a.csv", "text,ROOM#COMFORT,ROOM#PRICE,id", "a,1,0,7", "b,0,3,8")
    flags = ("--onehot_columns", "ROOM#*", "--separator", "#", "--save_dir", "out", "--splits", "1")
    assert call("--input", "a.csv", *flags)[0] == 0
    assert rows_of(folder="out") == {"a": "ROOM,ROOM##COMFORT", "b": "ROOM,ROOM##PRICE"}


def test_back_and_forth(call):
    write("train.txt", "一, 二\tA,A##B", "三\tC")
    assert call("--to", "parquet", "--input", "train.txt", "--save_dir", "p")[0] == 0
    assert call("--to", "xlsx", "--input", "train.txt")[0] == 0 and call("--to", "csv", "--input", "train.txt")[0] == 0
    for path in ("p/train.parquet", "train.xlsx", "train.csv"):
        delimiter = () if "parquet" in path else ("--label_delimiter", ";")
        assert call("--input", path, *delimiter, "--save_dir", "out", "--splits", "1", "--overwrite")[0] == 0
        assert rows_of(folder="out") == {"一, 二": "A,A##B", "三": "C"}
