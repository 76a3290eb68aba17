"""analysis/baseline.py: the scores scikit-learn gives by itself, and data with little in it."""

import json
import sys
import warnings
from pathlib import Path

import pytest

from analysis import baseline
from utils import LabelTree, Rows, load_rows, run

SAMPLE = Path(__file__).resolve().parents[2] / "data"
TREE = LabelTree(["体育", "体育##足球", "财经"])


def rows_of(**labels_of_texts):
    return Rows(list(labels_of_texts), list(labels_of_texts.values()), 0, 0)


def scores_without_warnings(train, dev, tree=TREE):
    import sklearn.multiclass  # noqa: F401  what it warns of on being imported is not ours

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return baseline.baseline_scores(train, dev, tree)


def test_scores_are_those_of_scikit_learn_alone():
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.metrics import f1_score
    from sklearn.multiclass import OneVsRestClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.svm import LinearSVC

    tree = LabelTree.read(SAMPLE / "label.txt")
    train, dev = (load_rows(SAMPLE / name, tree) for name in ("train.txt", "dev.txt"))
    train = train._replace(texts=train.texts[:400], labels=train.labels[:400])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of labels without a row
        vectorizer = TfidfVectorizer(analyzer="char", ngram_range=(1, 4), min_df=2, sublinear_tf=True)
        model = make_pipeline(vectorizer, OneVsRestClassifier(LinearSVC()))
        predicted = model.fit(train.texts, train.multi_hot(len(tree)).astype(int)).predict(dev.texts)
    gold = dev.multi_hot(len(tree))
    expected = {f"{mean}_f1": f1_score(gold, predicted, average=mean, zero_division=0) for mean in ("micro", "macro")}
    found = scores_without_warnings(train, dev, tree)
    assert found["n_rows"] == 300 and found["micro_f1"] > 0.7
    for name, score in expected.items():
        assert found[name] == pytest.approx(score, abs=0.02)
    assert found == scores_without_warnings(train, dev, tree)  # run after run


def test_labels_of_no_train_row_and_of_all():
    # never 体育##足球, always 体育
    train = rows_of(足球联赛开打=(0,), 篮球联赛开打=(0,), 股市上涨=(0, 2), 股市下跌=(0, 2))
    found = scores_without_warnings(train, rows_of(股市大涨=(0, 2), 足球队开打=(0, 1)))
    assert found["labels"]["体育"] == {"precision": 1, "recall": 1, "f1": 1, "support": 2}
    assert found["labels"]["体育##足球"] == {"precision": 0, "recall": 0, "f1": 0, "support": 1}
    assert found["labels"]["财经"]["f1"] == 1


def test_a_single_label():
    tree = LabelTree(["财经"])
    train = rows_of(股市上涨=(0,), 股市下跌=(0,), 球队取胜=(), 球队落败=())
    assert scores_without_warnings(train, rows_of(股市震荡=(0,), 球队晋级=()), tree)["accuracy"] == 1


def test_a_single_row():
    found = scores_without_warnings(rows_of(股市上涨=(2,)), rows_of(股市下跌=(2,), 球队取胜=(0,)))
    assert (found["n_rows"], found["accuracy"]) == (2, 0.5)


def test_rows_that_share_no_character():
    assert scores_without_warnings(rows_of(股市=(2,), 球队=(0,)), rows_of(股市=(2,), 球队=(0,)))["accuracy"] == 1


# ---- the script ------------------------------------------------------------------------------------------------------


@pytest.fixture
def call(monkeypatch):
    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["baseline.py", *map(str, arguments)])
        run(baseline.main)

    return call


def test_prints_and_writes_the_scores(data_dir, call, tmp_path, monkeypatch):
    printed = []
    monkeypatch.setattr(baseline.get_logger(), "handle", lambda record: printed.append(record.getMessage()))
    data = data_dir(dev_txt="前锋梅开二度\t体育,体育##足球\n\n未标注\n大盘午后跳水\t财经,财经##股票\n")
    call("--dataset_dir", data, "--output_json", tmp_path / "scores.json")
    tree = LabelTree.read(data / "label.txt")
    train, dev = (load_rows(data / name, tree, unlabelled="skip") for name in ("train.txt", "dev.txt"))
    scores = baseline.baseline_scores(train, dev, tree)
    assert json.loads((tmp_path / "scores.json").read_text(encoding="utf-8")) == scores
    skipped, sizes, *lines, last = printed
    assert skipped == "dev.txt: skipped 1 blank and 1 unlabelled lines"
    assert sizes == "Linear baseline: 5 labels, 4 train rows, 2 dev rows"
    assert lines == baseline.headline(scores)
    assert last.startswith("Done in ") and "look at the labels" in last


def test_the_model_is_told_when_it_is_no_better():
    better, worse = (dict.fromkeys(("accuracy", "macro_f1", "micro_f1", "hierarchical_f1"), x) for x in (0.875, 0.5))
    assert baseline.comparison(better, worse) == [
        "Model / linear baseline in dev dataset: accuracy: 87.50 / 50.00 | macro_f1: 87.50 / 50.00 | "
        "micro_f1: 87.50 / 50.00 | hierarchical_f1: 87.50 / 50.00"
    ]
    assert "should beat" in baseline.comparison(worse, better)[1]


@pytest.mark.parametrize(
    "contents, message",
    [
        ({"train_txt": None}, "train.txt: no such file"),
        ({"label_txt": "体育\n体育\n"}, "label.txt:2: label '体育' is already on line 1"),
        ({"dev_txt": "一行\t体于\n"}, "dev.txt:1: unknown label '体于'; did you mean '体育'?"),
    ],
)
def test_bad_data(data_dir, call, capsys, contents, message):
    with pytest.raises(SystemExit) as stopped:
        call("--dataset_dir", data_dir(**contents))
    assert stopped.value.code == 2 and message in capsys.readouterr().err


def test_unwritable_output_is_found_first(data_dir, call, capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(baseline, "baseline_scores", lambda *_: pytest.fail("too late"))
    for path in (tmp_path / "nowhere" / "scores.json", tmp_path):
        with pytest.raises(SystemExit) as stopped:
            call("--dataset_dir", data_dir(), "--output_json", path)
        assert stopped.value.code == 2 and str(path) in capsys.readouterr().err
