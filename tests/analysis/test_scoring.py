"""analysis/scoring.py: the scores scikit-learn gives by itself, data with little in it, and the lines for people."""

import warnings

import numpy as np
import pytest

from analysis.scoring import comparison, fit_baseline
from tests.conftest import SAMPLE
from utils import LabelTree, Rows, get_logger, load_rows

TREE = LabelTree(["体育", "体育##足球", "财经"])


def rows_of(**labels_of_texts):
    return Rows(list(labels_of_texts), list(labels_of_texts.values()), 0, 0)


def scores_without_warnings(train, dev, tree=TREE):
    import sklearn.multiclass  # noqa: F401  what it warns of on being imported is not ours

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return fit_baseline(train, dev, tree, get_logger())[1]


@pytest.mark.slow
def test_a_shift_gains_what_the_cut_of_scikit_learn_loses():
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.metrics import f1_score
    from sklearn.multiclass import OneVsRestClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.svm import LinearSVC

    tree = LabelTree.read(SAMPLE / "label.txt")
    train, dev = (load_rows(SAMPLE / name, tree) for name in ("train.txt", "dev.txt"))
    train = train._replace(texts=train.texts[:400], labels=train.labels[:400])
    vectorizer = TfidfVectorizer(analyzer="char", ngram_range=(1, 4), min_df=2, sublinear_tf=True)
    model = make_pipeline(vectorizer, OneVsRestClassifier(LinearSVC(C=10)))
    values = model.fit(train.texts, train.multi_hot(len(tree)).astype(int)).decision_function(dev.texts)
    gold = dev.multi_hot(len(tree))

    def scores(shift):
        return np.array([f1_score(gold, values > -shift, average=mean, zero_division=0) for mean in ("micro", "macro")])

    best = max((scores(shift) for shift in np.arange(-0.5, 0.8, 0.02)), key=lambda found: found[0])
    assert best[0] > scores(0)[0] + 0.01
    found = scores_without_warnings(train, dev, tree)
    assert found["n_rows"] == 300 and best[0] - 0.02 < found["micro_f1"] < best[0] + 0.01
    assert found == scores_without_warnings(train, dev, tree)  # run after run


def test_the_estimate_holds_the_scoring(monkeypatch, caplog):
    monkeypatch.setattr("analysis.scoring.CELL_SECONDS", 10)
    train = rows_of(足球=(0, 1), 股市=(2,))
    monkeypatch.setattr(get_logger(), "propagate", True)
    fit_baseline(train, train, TREE, get_logger())
    assert caplog.messages[0] == "About 63 seconds of one core"  # 3 to begin with, 2 rows x 3 labels


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


def test_the_model_is_told_when_it_is_no_better():
    better, worse = (dict.fromkeys(("accuracy", "macro_f1", "micro_f1", "hierarchical_f1"), x) for x in (0.875, 0.5))
    assert comparison(better, worse) == [
        "Model / linear baseline in dev dataset: accuracy: 87.50 / 50.00 | macro_f1: 87.50 / 50.00 | "
        "micro_f1: 87.50 / 50.00 | hierarchical_f1: 87.50 / 50.00"
    ]
    assert "should beat" in comparison(worse, better)[1]
