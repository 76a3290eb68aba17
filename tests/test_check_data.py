"""check_data.py: every fault in one go, the numbers of small folders worked out by hand, every warning."""

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

import check_data
import utils
from tests.conftest import without_identity

ROOT = Path(__file__).resolve().parents[1]
SAMPLE = ROOT / "data"


@pytest.fixture
def check(capsys):
    """check(folder, *flags) -> (exit code, stdout, stderr) of the script, run in this process."""

    def call(folder, *flags):
        try:
            utils.run(lambda: check_data.main(["--dataset_dir", str(folder), *map(str, flags)]))
            code = 0
        except SystemExit as end:
            code = end.code
        return code, *capsys.readouterr()

    return call


def numbers(out):
    """Line of the table -> its columns, as text."""
    rows = [
        line
        for line in out.split("\n\n")[1].splitlines()
        if line.strip() and not line.startswith(("tokens: ", "every "))
    ]
    return {row[:36].strip(): row[36:].split() for row in rows}


def warnings_in(out):
    """Message -> examples."""
    blocks = [block.splitlines() for block in out.split("\n\n") if block.startswith("Warning ")]
    return {head.partition(". ")[2]: [line.strip() for line in examples] for head, *examples in blocks}


# ---- good data -------------------------------------------------------------------------------------------------------


def test_small_data(data_dir, check):
    code, out, err = check(data_dir())
    assert (code, err) == (0, "")
    assert out.startswith("label.txt: 5 labels in 2 levels (2 + 3)\n")
    table = numbers(out)
    assert table[""] == ["train.txt", "dev.txt"]
    assert table["labelled rows"] == ["4", "2"]
    assert table["rows with a label of level 1"] == ["4", "2"] and table["rows with a label of level 2"] == ["4", "2"]
    assert table["labels per row, mean"] == ["2.25", "2.00"] and table["labels per row, most"] == ["3", "2"]
    assert table["rows per label, least"] == ["1", "0"] and table["rows per label, most"] == ["3", "1"]
    assert table["rows per label, median"] == ["2.00", "1.00"] and table["labels without a row"] == ["0", "1"]
    assert table["tokens, longest"] == ["10", "8"] and table["share of rows above 128 tokens"] == ["0.0%", "0.0%"]
    assert table["rows that are one path to a leaf"] == ["3", "2"] and "--decoding path" not in out
    assert warnings_in(out) == {"dev.txt: labels without a row, whose F1 is always 0: 1": ["体育##篮球"]}
    rarest = out.split("The rarest labels in train.txt\n")[1].split("\n\n")[0].splitlines()
    assert [line.split() for line in rarest[:2]] == [["1", "体育##足球"], ["1", "体育##篮球"]] and len(rarest) == 5
    assert out.endswith("\nNo fatal fault. 1 warning.\n")


def test_the_sample_data_are_clean(check):
    code, out, err = check(SAMPLE, "--model_name", SAMPLE / "tiny-ernie")
    assert (code, err) == (0, "") and out.endswith("\nNo fatal fault. 0 warnings.\n")


def test_the_columns_are_aligned(check):
    table = check(SAMPLE)[1].split("\n\n")[1].splitlines()
    assert len({len(line) for line in table[:-1]}) == 1


def test_test_file_is_checked_when_it_is_there(data_dir, check):
    code, out, _ = check(data_dir(test_txt="前锋梅开二度\t体育,体育##足球\n"))
    assert code == 0 and numbers(out)["labelled rows"] == ["4", "2", "1"]
    assert warnings_in(out)["test.txt: texts that dev.txt holds, too; scores will be too good: 1"]
    code, _, err = check(data_dir(test_txt="前锋\t无此标签\n"))
    assert code == 2 and "test.txt:1: unknown label" in err


def test_a_test_file_in_another_format_is_looked_at(data_dir, check):
    code, out, _ = check(data_dir(test_jsonl='{"text": "前锋梅开二度", "labels": ["体育", "体育##足球"]}\n'))
    assert code == 0 and numbers(out)[""] == ["train.txt", "dev.txt", "test.jsonl"]
    assert warnings_in(out)["test.jsonl: texts that dev.txt holds, too; scores will be too good: 1"]
    code, _, err = check(data_dir(test_jsonl='{"text": "前锋", "label": ["体育"]}\n'))
    assert code == 2 and "test.jsonl:1: unknown field 'label', did you mean 'labels'?" in err
    code, out, _ = check(data_dir(test_jsonl="[", test_txt="前锋\t体育\n"))
    assert code == 0 and numbers(out)[""] == ["train.txt", "dev.txt", "test.txt"]


def test_a_file_of_no_rows_is_a_fault_beside_the_others(data_dir, check):
    code, _, err = check(data_dir(train_xlsx=b"PK", dev_txt="一\t无\n"), "--train_file", "train.xlsx")
    assert code == 2 and "train.xlsx: rows and texts are read from" in err and "dev.txt:1: unknown label '无'" in err


def test_other_names_and_formats(data_dir, check):
    folder = data_dir(
        train_txt=None,
        train_jsonl='{"text": "一", "labels": ["体育"]}\n{"text": "二", "labels": []}\n',
        dev_csv="text,label\n三,财经\n",
        tree_txt="体育\n财经\n",
    )
    flags = ["--train_file", "train.jsonl", "--dev_file", "dev.csv", "--label_file", "tree.txt"]
    code, out, _ = check(folder, *flags)
    assert code == 0 and numbers(out)["rows that no label applies to"] == ["1", "0"]


def test_rows_that_are_one_path_are_told_of(data_dir, check):
    label = "体育\n体育##足球\n体育##足球##中超\n财经\n"
    paths = "一\t体育,体育##足球,体育##足球##中超\n二\t财经\n"
    out = check(data_dir(label_txt=label, train_txt=paths, dev_txt="三\t财经\n"))[1]
    assert numbers(out)["rows that are one path to a leaf"] == ["2", "1"]
    assert "every row is one path to a leaf: with --decoding path more rows are right" in out
    others = "四\t体育,体育##足球\n五\t体育##足球##中超\n六\t体育,体育##足球,体育##足球##中超,财经\n"
    out = check(data_dir(label_txt=label, train_txt=paths, dev_txt=others))[1]
    assert numbers(out)["rows that are one path to a leaf"] == ["2", "0"] and "--decoding path" not in out


# ---- warnings --------------------------------------------------------------------------------------------------------


def test_missing_ancestors_say_what_to_add(data_dir, check):
    label = "体育\n体育##足球\n体育##足球##中超\n"
    train = "一\t体育##足球##中超\n\n二\t体育,体育##足球\n三\t体育,体育##足球##中超\n"
    folder = data_dir(label_txt=label, train_txt=train, dev_txt="四\t体育\n")
    out = check(folder)[1]
    assert warnings_in(out)["train.txt: rows without an ancestor of a label, which then counts as absent: 2"] == [
        "train.txt:1: add 体育,体育##足球",
        "train.txt:4: add 体育##足球",
    ]
    assert numbers(out)["rows without an ancestor of a label"] == ["2", "0"]
    assert "train.txt: blank lines, skipped: 1" in warnings_in(out)


def test_repeats_and_leaks(data_dir, check):
    train = "一\t体育\n二\t财经\n一\t体育\n 二 \t体育\n二\t财经\n"
    out = check(data_dir(train_txt=train, dev_txt="新\t体育\n\n二\t财经\n"))[1]
    found = warnings_in(out)
    assert found["train.txt: texts that were in it before, with the same labels: 2"] == [
        "train.txt:3 = train.txt:1",
        "train.txt:5 = train.txt:2",
    ]
    assert found["train.txt: texts that were in it before, with other labels: 1"] == ["train.txt:4 = train.txt:2"]
    assert found["dev.txt: texts that train.txt holds, too; scores will be too good: 1"] == ["dev.txt:3 = train.txt:2"]
    table = numbers(out)
    assert table["repeated texts"] == ["3", "0"] and table["repeated texts with other labels"] == ["1", "0"]


def test_labels_without_rows(data_dir, check):
    found = warnings_in(check(data_dir(train_txt="一\t体育\n", dev_txt="二\t财经\n三\n四\t财经\n"))[1])
    assert found["train.txt: labels without a row, which can't be learned: 4"] == [
        "体育##足球  (0 rows in other files)",
        "体育##篮球  (0 rows in other files)",
        "财经  (2 rows in other files)",
        "财经##股票  (0 rows in other files)",
    ]
    assert found["dev.txt: rows without a label column, skipped: 1"] == []


def test_long_texts(data_dir, check):
    texts = ["长" * n for n in (1, 8, 9, 30)]
    folder = data_dir(train_txt="".join(f"{text}\t体育\n" for text in texts))
    out = check(folder, "--max_seq_length", 10)[1]
    table = numbers(out)
    assert table["share of rows above 10 tokens"] == ["50.0%", "0.0%"]
    assert table["tokens, median"] == ["11", "8"]  # a length that occurs, the upper one of the two in the middle
    assert table["tokens, longest"] == ["32", "8"]
    assert (
        "train.txt: by an estimate, texts longer than --max_seq_length 10, which are cut (see train.py --long_text): 2"
        in warnings_in(out)
    )
    assert "which are cut" not in check(folder, "--max_seq_length", 32)[1]
    out = check(folder, "--max_seq_length", 10, "--model_name", SAMPLE / "tiny-ernie")[1]
    assert (
        "train.txt: texts longer than --max_seq_length 10, which are cut (see train.py --long_text): 2"
        in warnings_in(out)
    )


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("国足今晚出战。", 7),
        ("2024年GDP 增长", 5),
        ("The government announced it", 6),  # govern ment, announ ced
        ("don't", 3),
        ("naïve façade", 2),
        ("サッカー 축구", 6),
        ("Футбол", 2),
        ("", 0),
        ("𠮷", 1),
    ],
)
def test_the_estimate_fits_the_script(text, tokens):
    assert check_data.estimate(text) == (tokens + 2, [])


def test_english_texts_are_not_said_to_be_cut_for_their_letters(data_dir, check):
    """100 words have some 600 letters."""
    out = check(data_dir(train_txt=f"{'market ' * 100}\t财经\n" * 10))[1]
    assert numbers(out)["tokens, longest"][0] == "102" and "which are cut" not in out


def test_tokens_that_the_model_does_not_know(data_dir, check, tmp_path):
    model = tmp_path / "model"
    shutil.copytree(SAMPLE / "tiny-ernie", model)
    vocab = [*"[PAD] [UNK] [CLS] [SEP] [MASK]".split(), *"人工智能abc，", "##b", "##c"]
    (model / "vocab.txt").write_text("\n".join(vocab), encoding="utf-8")
    train = "⼈⼯智能，𝓪𝓫𝓬\t财经\n⼈龘🀄\t财经\n[UNK]人\t财经\n"  # KANGXI RADICAL MAN and WORK, script letters
    out = check(data_dir(train_txt=train, dev_txt="人工\t财经\n"), "--model_name", model)[1]
    # ⼈ ⼯ 智 能 ， 𝓪𝓫𝓬 | ⼈ 龘 🀄 | [UNK] 人: 11 tokens, of which 6 are unknown, and 4 would be known
    assert numbers(out)["share of unknown tokens"] == ["54.5%", "0.0%"]
    assert "Tokens in train.txt that the model does not know: 6: ⼈ 2, ⼯ 1, 𝓪𝓫𝓬 1, 龘 1, 🀄 1\n" in out
    what = "train.txt: different tokens that the model does not know, 54.5% of all; Unicode NFKC would mend 36.4%: 5"
    assert warnings_in(out)[what] == [
        "2 times '⼈' (U+2F08), which NFKC makes '人'",
        "1 times '⼯' (U+2F2F), which NFKC makes '工'",
        "1 times '𝓪𝓫𝓬', which NFKC makes 'abc'",
        "1 times '龘' (U+9F98)",
        "1 times '🀄' (U+1F004)",
    ]
    assert "does not know" not in check(data_dir(train_txt=train))[1]  # without a model, nobody knows


def test_a_model_counts_exactly(data_dir, check):
    folder = data_dir(train_txt="2024年GDP\t财经\n", dev_txt="年 年\t财经\n")
    assert numbers(check(folder)[1])["tokens, longest"] == ["5", "4"]
    out = check(folder, "--model_name", SAMPLE / "tiny-ernie")[1]
    assert numbers(out)["tokens, longest"][1] == "4" and "an estimate" not in out


def test_suspicious_labels_and_texts(data_dir, check):
    label = "体育\n体育##NBA\n体育##nba\n体育##ＮＢＡ\n金融,保险\n财\u200b经\n"
    folder = data_dir(label_txt=label, train_txt="坏\ufffd了\t体育\n", dev_txt="好\t体育\n")
    found = warnings_in(check(folder)[1])
    assert found["label.txt: labels with a comma, impossible in .txt rows; use .jsonl or .csv: 1"] == ["金融,保险"]
    assert found["label.txt: labels with characters that can't be seen: 1"] == ["'财\\u200b经'"]
    groups = found["label.txt: groups of labels that differ only in case, width or blanks: 1"]
    assert groups == ["体育##NBA = 体育##nba = 体育##ＮＢＡ"]
    assert found["train.txt: texts with U+FFFD, damaged when their encoding was converted: 1"] == ["train.txt:1"]


def test_twenty_examples_then_a_count(data_dir, check, tmp_path):
    folder = data_dir(train_txt="".join(f"文{i}\t体育##足球\n" for i in range(1234)))
    out = check(folder, "--output_json", tmp_path / "report.json")[1]
    examples = warnings_in(out)["train.txt: rows without an ancestor of a label, which then counts as absent: 1,234"]
    assert len(examples) == 21 and examples[-1] == "... and 1,214 more"
    report = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert report["labels"] == 5 and report["files"]["train.txt"]["labelled rows"] == 1234
    assert report["rarest"][0] == [0, "体育"]
    warning = next(entry for entry in report["warnings"] if "ancestor" in entry["message"])
    assert warning["count"] == 1234 and len(warning["examples"]) == 20


# ---- faults ----------------------------------------------------------------------------------------------------------


def test_faults_of_all_files_in_one_go(data_dir, check, tmp_path):
    dev = "三\t体育,\n".encode() + "四\t体育\n".encode("gbk")
    folder = data_dir(train_txt="一\t体玉\n二\n", dev_txt=dev, test_txt="\t体育\n")
    code, out, err = check(folder, "--output_json", tmp_path / "report.json")
    assert (code, out) == (2, "") and not (tmp_path / "report.json").exists()
    assert "train.txt:1: unknown label" in err and "train.txt:2: no label" in err
    assert "dev.txt:1: an empty label" in err and "dev.txt:2: byte 1" in err and "test.txt:1: the text is empty" in err
    assert "did you mean '体育'" in err and "Traceback" not in err


def test_label_faults_come_first_and_hide_the_rows(data_dir, check):
    code, out, err = check(data_dir(label_txt="体育\n体育\n财经##股票\n", train_txt="一\t无\n", dev_txt=None))
    assert (code, out) == (2, "")
    assert err.index("label.txt:2: label '体育' is already on line 1") < err.index("label.txt:3: the parent of")
    assert "rows of the other files can't be checked" in err and "train.txt:1" not in err
    assert err.index("label.txt:3") < err.index("dev.txt: no such file")


@pytest.mark.parametrize("name", ["train_txt", "dev_txt", "label_txt"])
@pytest.mark.parametrize("content", [None, "", "\n"])
def test_missing_or_empty_files_are_faults(data_dir, check, name, content):
    code, out, err = check(data_dir(**{name: content}))
    assert (code, out) == (2, "") and f"{name.replace('_', '.')}: " in err and "Traceback" not in err


def test_wrong_flags(data_dir, check, tmp_path):
    code, _, err = check(tmp_path / "nowhere")
    assert code == 2 and "no such directory" in err
    code, _, err = check(data_dir(), "--max_seq_length", 2)
    assert code == 2 and "must be at least 3" in err
    code, _, err = check(data_dir(), "--model_name", "ernie-3.0-medium-zh")
    assert code == 2 and "no such directory" in err
    code, _, err = check(data_dir(), "--model_name", tmp_path)
    assert code == 2 and "tokenizer_config.json" in err
    code, _, err = check(data_dir(), "--output_json", tmp_path / "nowhere" / "report.json")
    assert code == 2 and "No such file or directory" in err


def test_labels_give_the_terminal_no_orders(data_dir, check):
    label = "a\x1b[31m"
    code, out, _ = check(data_dir(label_txt=f"{label}\n", train_txt=f"文\t{label}\n", dev_txt=f"字\t{label}\n"))
    assert code == 0 and "\x1b" not in out and "1  a [31m\n" in out and r"'a\x1b[31m'" in out


def test_a_model_whose_files_do_not_belong_together(data_dir, check, tiny_checkpoint, tmp_path):
    folder = shutil.copytree(tiny_checkpoint, tmp_path / "copy")
    assert check(data_dir(), "--model_name", folder)[0] == 0
    lines = (folder / "vocab.txt").read_text("utf-8").splitlines()
    (folder / "vocab.txt").write_text("\n".join(lines[:-1]) + "\n", "utf-8")
    code, _, err = check(data_dir(), "--model_name", folder)
    assert code == 2 and "vocab.txt: is not the file that goes with model.safetensors" in err
    (folder / "vocab.txt").write_text("\n".join([*lines, "🙂", ""]), "utf-8")
    code, _, err = check(data_dir(), "--model_name", without_identity(folder))
    assert code == 2 and f"{len(lines) + 1} tokens, but the model knows {len(lines)}" in err and "--add_tokens" in err
    (folder / "config.json").unlink()  # of the tokenizer's files alone nothing more is asked
    assert check(data_dir(), "--model_name", folder)[0] == 0


# ---- speed -----------------------------------------------------------------------------------------------------------


def test_a_large_folder(data_dir, check):
    rows = "".join(f"第{i}条新闻的正文大约有二十个字左右\t体育,体育##足球\n" for i in range(30_000))
    folder = data_dir(train_txt=rows)
    started = time.process_time()
    assert check(folder)[0] == 0
    assert time.process_time() - started < 3


def test_help_loads_no_framework():
    code = (
        "import sys, check_data; sys.argv[1:] = ['--help']\ntry: check_data.main()\nfinally: "
        "assert not {'paddle', 'paddlenlp', 'tqdm', 'onnxruntime', 'safetensors'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and "--max_seq_length" in done.stdout and done.stderr == ""
