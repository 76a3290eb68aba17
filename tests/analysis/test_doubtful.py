"""analysis/doubtful.py, and the file of trusted rows that `dirty.py --merge` makes by it."""

import json

import numpy as np
import pytest

from analysis import dirty, doubtful
from analysis.doubtful import checked_rows, doubtful_rows, even_odds
from analysis.suspicion import Search
from hierarchical.ledger import Decision, Ledger, id_of
from tests.analysis.conftest import PLANTED, TREE, planted_rows
from utils import run

WRONG = (*PLANTED, 5, 8, 10, 11, 16)  # with those that somebody has put right


@pytest.fixture
def folder(data_dir):
    """A data folder of 100 rows, three of them wrong, and answers about the rows 4 to 45, of which five were wrong."""
    train = planted_rows()
    names = [tuple(TREE.labels[i] for i in labels) for labels in train.labels]
    other = {("财经",): ("组织", "组织##裁员"), ("组织", "组织##裁员"): ("财经",)}
    given = [other[own] if i in WRONG[3:] else own for i, own in enumerate(names)]
    lines = [f"{text}\t{','.join(own)}\n" for text, own in zip(train.texts, given)]
    folder = data_dir(label_txt="\n".join(TREE.labels), train_txt="".join(lines))
    ledger = Ledger(folder)
    ledger.add(ledger.answer(train.texts[i], "ann", names[i], before=given[i]) for i in range(4, 46))
    return folder


@pytest.fixture
def call(folder, log_of):
    log_of(dirty)

    def call(*flags):
        dirty.main(["--dataset_dir", str(folder), "--merge", *map(str, flags)])

    return call


def lines_of(path):
    return path.read_text(encoding="utf-8").splitlines()


# ---- how far is too far ----------------------------------------------------------------------------------------------


def test_even_odds_lie_between_right_and_wrong():
    assert even_odds(np.array([1.0, 3.0]), np.array([False, True])) == pytest.approx(2)
    assert even_odds(np.array([1.0, 4.0, 6.0, 9.0]), np.array([False, False, True, True])) == pytest.approx(5)


@pytest.mark.parametrize("n_wrong", [0, 1, 20, 39, 40])
def test_as_many_errors_are_expected_as_were_found(n_wrong):
    rng = np.random.default_rng(n_wrong)
    gains, wrong = 4 * rng.standard_normal(40), np.arange(40) < n_wrong
    bar = even_odds(gains, wrong)
    expected = (1 / (1 + np.exp(-1.5 * (gains - bar)))).mean()
    assert expected == pytest.approx((n_wrong + 0.5) / 41, abs=1e-6)


def test_where_nothing_was_wrong_no_gain_of_a_checked_row_is_too_large():
    assert even_odds(np.linspace(0, 6, 50), np.zeros(50, bool)) > 6


# ---- which rows ------------------------------------------------------------------------------------------------------


def test_checked_rows_have_the_labels_that_were_asked_about(tmp_path):
    ledger = Ledger(tmp_path)
    ledger.add(
        [
            ledger.answer("甲", "ann", ["财经"], before=("组织##裁员",)),
            ledger.answer("乙", "ann", ["财经"], before=("财经",)),
            ledger.answer("丙", "ann", ["财经"]),  # a new text: it had none
            ledger.answer("丁", "ann", ["财经"], before=("一个旧标签",)),
            ledger.answer("戊", "ann", None, before=("财经",)),  # skipped
            ledger.answer("己", "ann", ["财经"], before=("组织",)),
            ledger.answer("己", "bob", ["组织"], before=("组织",)),  # disputed
            ledger.answer("辛", "ann", ["财经"], before=()),  # a row of train, whose labels are not known
            ledger.answer("壬", "ann", ["财经"], before=("组织",), via="train_dirty.txt"),  # edited by hand
            ledger.answer("癸", "ann", [], before=("财经",), via="doccano.py --dirty"),  # no label applies
        ]
    )
    found = checked_rows(list("甲甲乙丙丁戊己庚辛壬癸"), ledger, TREE)
    assert found == {0: ({0, 1}, {3}), 2: ({3}, {3}), 10: ({3}, set())}


def found_in(folder):
    train, ledger = planted_rows(), Ledger(folder)
    return doubtful_rows(train, checked_rows(train.texts, ledger, TREE), ledger, TREE, Search())


def test_errors_that_nobody_has_looked_at_are_doubtful(folder):
    assert sorted(found_in(folder)) == list(PLANTED)


def test_what_somebody_has_looked_at_is_not(folder):
    text = planted_rows().texts[47]
    Ledger(folder).add([Decision(id_of(planted_rows().texts[82]), "asked"), Decision(id_of(text), "skipped", "ann")])
    assert sorted(found_in(folder)) == [3, 82]


def test_a_label_is_not_left_with_too_few_rows(folder, monkeypatch):
    of_lay_offs = sum(labels == (0, 1) for labels in planted_rows().labels)  # 82 is one of them; 3 and 47 are not
    monkeypatch.setattr(doubtful, "RARE", of_lay_offs - 1)
    assert 82 in found_in(folder)
    monkeypatch.setattr(doubtful, "RARE", of_lay_offs)
    assert 82 not in found_in(folder)


# ---- from file to file -----------------------------------------------------------------------------------------------


def test_trusted_rows(folder, call, caplog):
    call("--trusted_file", "train_trusted.txt")
    clean = lines_of(folder / "train_clean.txt")
    assert len(clean) == 100
    assert lines_of(folder / "train_trusted.txt") == [line for i, line in enumerate(clean) if i not in PLANTED]
    assert "97 rows saved in" in caplog.text and "3 left out that nobody has checked" in caplog.text
    assert "judging by 42 that were checked" in caplog.text
    rows = [clean[i].split("\t") for i in PLANTED]
    assert all(f"left out, {labels}: {text}" in caplog.text for text, labels in rows)


def test_rows_without_labels_and_further_fields_stay(folder, call):
    rows = [line.split("\t") for line in lines_of(folder / "train.txt")]
    rows = [{"text": text, "labels": labels.split(","), "id": i} for i, (text, labels) in enumerate(rows, 1)]
    rows.insert(0, {"text": "无标签", "id": 0})
    (folder / "train.txt").unlink()
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    call("--trusted_file", "trusted.jsonl")
    kept = [json.loads(line)["id"] for line in lines_of(folder / "trusted.jsonl")]
    assert kept == [i for i in range(101) if i - 1 not in PLANTED]


def test_with_few_answers_all_rows_are_trusted(folder, call, caplog, monkeypatch):
    monkeypatch.setattr(doubtful, "out_of_fold", None)  # nothing is computed
    monkeypatch.setattr(dirty, "LEAST_CHECKED", 43)
    call("--trusted_file", "trusted.txt")
    assert lines_of(folder / "trusted.txt") == lines_of(folder / "train_clean.txt")
    assert "100 rows saved in" in caplog.text and "0 left out that nobody has checked" in caplog.text
    assert "too few were checked to tell, 42 of 43" in caplog.text


def test_where_nothing_was_wrong_no_row_is_left_out(folder, call, monkeypatch):
    monkeypatch.setattr(doubtful, "out_of_fold", None)  # nothing is computed
    train = planted_rows()
    names = [tuple(TREE.labels[i] for i in labels) for labels in train.labels]
    ledger = Ledger(folder)
    ledger.add(ledger.answer(train.texts[i], "ann", names[i], before=names[i], final=True) for i in range(4, 46))
    call("--trusted_file", "trusted.txt")
    assert len(lines_of(folder / "trusted.txt")) == 100


def test_what_was_mended_by_hand_says_nothing_of_other_rows(folder, call, caplog):
    """Of 60 suspects 40 are put right in the file; the other 20 were read, or were not."""
    (folder / "ledger.jsonl").unlink()
    dirty.main(["--dataset_dir", str(folder), "--dirty_num", "60"])
    lines = lines_of(folder / "train_dirty.txt")
    mended = [line.replace("财经", "组织") if i < 40 and "财经" in line else line for i, line in enumerate(lines)]
    (folder / "train_dirty.txt").write_text("\n".join(mended) + "\n", "utf-8")
    call("--trusted_file", "trusted.txt")
    assert "too few were checked to tell, 0 of 30" in caplog.text and len(lines_of(folder / "trusted.txt")) == 100


def test_what_can_be_wrong(folder, call, refused):
    (folder / "dev.txt").write_text("甲\t财经\n", "utf-8")
    before = {path: path.read_bytes() for path in folder.iterdir()}
    for name, message in (
        ("train.txt", "would overwrite"),
        ("train_clean.txt", "--clean_file and --trusted_file must have different names"),
        ("dev.txt", "--trusted_file would overwrite a file of the data set"),
        ("ledger.jsonl", "would overwrite what people have answered"),
        ("trusted.csv", "--trusted_file has the lines of train_clean.txt"),
        ("trusted.jsonl", "--trusted_file has the lines of train_clean.txt"),
        ("nowhere/trusted.txt", "cannot be written"),
    ):
        assert message in refused("--trusted_file", name)
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


def test_it_goes_with_merge(folder, capsys):
    with pytest.raises(SystemExit, match="2"):
        run(lambda: dirty.main(["--dataset_dir", str(folder), "--trusted_file", "a.txt"]))
    assert "argument --trusted_file: goes with --merge" in capsys.readouterr().err
