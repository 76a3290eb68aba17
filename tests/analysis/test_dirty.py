"""analysis/dirty.py: heads against scikit-learn, planted errors, the words of a suspicion, merging, what can be wrong."""

import json
import shutil
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
from hierarchical.modeling import sigmoid
from sklearn.linear_model import LogisticRegression

from analysis import dirty
from analysis.dirty import fit_head, n_gram_features, neighbours, out_of_fold, representer, suspicion
from utils import LabelTree, Rows, load_rows

ROOT = Path(__file__).resolve().parents[2]
TREE = LabelTree(["组织", "组织##裁员", "组织##解雇", "财经"])
PLANTED = (3, 47, 82)


def rows_of(texts, labels):
    return Rows(list(texts), list(labels), 0, 0)


def planted_rows():
    """100 texts on lay-offs and shares, three of them with the labels of the other kind."""
    places = [name + kind for kind in "县市州省区镇乡村港岛" for name in "甲乙丙丁戊己庚辛壬癸"]
    texts = [f"{place}某厂{'大批裁员' if i % 2 else '股价大涨'}" for i, place in enumerate(places)]
    labels = [(0, 1) if (i % 2) != (i in PLANTED) else (3,) for i in range(100)]
    return rows_of(texts, labels)


@pytest.fixture(autouse=True)
def seen_by_caplog(log_of):
    log_of(dirty)


@pytest.fixture
def call(monkeypatch):
    def call(*flags):
        monkeypatch.setattr(sys, "argv", ["dirty.py", *map(str, flags)])
        dirty.main()

    return call


# ---- heads -----------------------------------------------------------------------------------------------------------


def test_sigmoid_heads_are_logistic_regressions():
    rng = np.random.default_rng(0)
    features = rng.standard_normal((60, 4)).astype(np.float32)
    targets = features[:, :2] + rng.standard_normal((60, 2)) > 0
    found = fit_head(features, targets, 0.01)
    for i in range(2):  # scikit-learn minimizes C * sum of losses + |w|^2 / 2
        reference = LogisticRegression(C=1 / (2 * 0.01 * 60), fit_intercept=False, tol=1e-8)
        np.testing.assert_allclose(found[:, i], reference.fit(features, targets[:, i]).coef_[0], atol=1e-3)


def test_soft_max_head_has_no_gradient_left():
    rng = np.random.default_rng(1)
    features = rng.standard_normal((30, 3)).astype(np.float32)
    targets = rng.dirichlet(np.ones(4), 30)
    found = fit_head(features, targets, 0.03, several=False)
    logits = features @ found
    expected = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    np.testing.assert_allclose(features.T @ (expected - targets) / 30 + 0.06 * found, 0, atol=1e-3)


@pytest.mark.parametrize("texts", [["甲", "乙", "丙"], ["同", "同", "同"], ["甲乙丙", "甲乙丁", "戊"]])
def test_n_grams_of_odd_texts(texts):
    features = n_gram_features(texts)
    assert len(features) == 3 and features.dtype == np.float32 and np.isfinite(features).all()
    np.testing.assert_allclose(features.mean(0), 0, atol=1e-6)


# ---- strategies ------------------------------------------------------------------------------------------------------


def test_out_of_fold_finds_what_was_planted():
    train = planted_rows()
    gold = train.multi_hot(len(TREE))
    scores, likely = out_of_fold(train, gold, Namespace(seed=3))
    assert set(np.argsort(-scores)[:3]) == set(PLANTED)
    np.testing.assert_allclose(scores, np.abs(gold - likely).max(1))
    assert np.array_equal(out_of_fold(train, gold, Namespace(seed=3))[0], scores)


def test_equal_texts_do_not_vouch_for_each_other():
    """Three copies of a text with the same wrong label: were they in different folds, they would confirm it."""
    train = planted_rows()
    train = rows_of(train.texts + ["丑厂裁员"] * 3, train.labels + [(3,)] * 3)
    for seed in range(3):
        scores, likely = out_of_fold(train, train.multi_hot(len(TREE)), Namespace(seed=seed))
        assert (likely[-3:, 3] < 0.5).all()
        # of one fold, but for the last bits: a BLAS may multiply the rows of a block in different ways
        np.testing.assert_allclose(likely[-3:], likely[[-1] * 3], rtol=1e-5)


def test_too_few_different_texts(data_dir, refused):
    folder = data_dir(train_txt="国足出战\t体育\n" * 9)
    assert "at least 5 different texts" in refused("--dataset_dir", folder, "--dirty_num", 1)
    assert not (folder / "train_dirty.txt").exists()


def outputs(monkeypatch, features, logits=None):
    monkeypatch.setattr(dirty, "model_outputs", lambda texts, args: (features, logits))


def test_neighbours_by_hand(monkeypatch):
    features = np.array([[1, 0], [1, 0.1], [1, -0.1], [0, 1], [0.1, 1]], np.float32)
    outputs(monkeypatch, features)
    monkeypatch.setattr(dirty, "NEIGHBOURS", 2)
    train = rows_of("甲乙丙丁戊", [(0,), (0,), (3,), (3,), (3,)])
    scores, likely = neighbours(train, train.multi_hot(4), None)
    # Row 2's nearest are 0 and 1, which have label 0; row 3's are 4 and 1; row 0's are 1 and 2.
    np.testing.assert_allclose(likely[[0, 2, 3]], [[0.5, 0, 0, 0.5], [1, 0, 0, 0], [0.5, 0, 0, 0.5]])
    np.testing.assert_allclose(scores[[0, 2]], [2 * np.log(2), 2 * np.log(100)])
    assert scores.argmax() == 2


def test_representer_weights(monkeypatch):
    """The weights of a row sum up, over the rows, to the layer that was fitted: the representer theorem."""
    rng = np.random.default_rng(2)
    features = rng.standard_normal((12, 3)).astype(np.float32)
    logits = rng.standard_normal((12, 4)).astype(np.float32)
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    outputs(monkeypatch, features, logits)
    rank, likely = representer(rows_of("甲" * 12, [()] * 12), None, Namespace(dirty_threshold=0.0))
    inputs = np.c_[features, np.ones(12, np.float32)]
    layer = fit_head(inputs, probabilities, 0.03, several=False)
    of_layer = np.exp(inputs @ layer) / np.exp(inputs @ layer).sum(1, keepdims=True)
    weights = (of_layer - probabilities) / (-2 * 0.03 * 12)
    np.testing.assert_allclose(inputs.T @ weights, layer, atol=2e-2)
    keys = [((row > 0).sum(), row[row > 0].sum()) for row in weights]
    assert [keys[i] for i in np.argsort(-rank)] == sorted(keys, reverse=True)
    np.testing.assert_allclose(likely, 1 / (1 + np.exp(-logits)), rtol=1e-5)


# ---- words -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "gold, likely, words",
    [
        ([1, 1, 0, 0], [0.98, 0.02, 0.97, 0], "has 组织##裁员, model says 组织##解雇, 0.97"),
        ([1, 1, 0, 0], [0.1, 0.02, 0, 0.93], "has 组织##裁员, model says 财经, 0.93"),
        ([1, 1, 0, 1], [0.9, 0.9, 0, 0.04], "has 财经, model gives it 0.04"),
        ([0, 0, 0, 1], [0.9, 0.8, 0, 0.9], "lacks a label, model says 组织##裁员, 0.80"),
        ([1, 1, 0, 0], [0.9, 0.9, 0, 0.4], "no single label stands out"),
    ],
)
def test_the_label_in_question(gold, likely, words):
    assert suspicion(TREE, np.array(gold, bool), np.array(likely)) == words


# ---- files -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(data_dir):
    train = planted_rows()
    lines = [f"{text}\t{','.join(TREE.labels[i] for i in labels)}\n" for text, labels in zip(train.texts, train.labels)]
    return data_dir(label_txt="\n".join(TREE.labels), train_txt="\n无标签\n" + "".join(lines))


def test_files(folder, call, caplog):
    call("--dataset_dir", folder, "--dirty_num", 3)
    lines = (folder / "train.txt").read_text(encoding="utf-8").splitlines()[2:]
    assert (folder / "train_dirty.txt").read_text(encoding="utf-8").splitlines() == [lines[i] for i in PLANTED]
    rest = [line for i, line in enumerate(lines) if i not in PLANTED]
    assert (folder / "train_dirty_rest.txt").read_text(encoding="utf-8").splitlines() == rest
    suspects = [json.loads(line) for line in (folder / "train_dirty.jsonl").read_text(encoding="utf-8").splitlines()]
    assert {row["text"] for row in suspects} == {lines[i].split("\t")[0] for i in PLANTED}
    assert all(row["suspect"].startswith("has ") and row["model"] for row in suspects)
    log = caplog.text
    assert "skipped 1 blank and 1 unlabelled lines" in log and suspects[0]["suspect"] in log


def test_merge(folder, call, caplog):
    call("--dataset_dir", folder, "--dirty_num", 3)
    lines = (folder / "train_dirty.txt").read_text(encoding="utf-8").splitlines()
    texts = [line.split("\t")[0] for line in lines]
    # One is put right, one is confirmed, one is left out.
    (folder / "train_dirty.txt").write_text(f"{texts[0]}\t组织,组织##裁员\n{lines[1]}\n", encoding="utf-8")
    call("--dataset_dir", folder, "--merge")
    rest = (folder / "train_dirty_rest.txt").read_text(encoding="utf-8")
    clean = (folder / "train_clean.txt").read_text(encoding="utf-8")
    assert clean == f"{rest}{texts[0]}\t组织,组织##裁员\n{lines[1]}\n"
    log = caplog.text
    assert "1 of 2 checked rows have other labels now" in log
    assert "1 texts of train.txt are in neither file" in log and "99 rows saved" in log


def test_jsonl_keeps_what_txt_cannot_hold(data_dir, call, refused):
    rows = [{"text": f"文{i}", "labels": ["a,b"] if i % 2 else []} for i in range(8)]
    content = "".join(json.dumps(row) + "\n" for row in rows)
    folder = data_dir(label_txt="a,b\n", train_jsonl=content)
    flags = ["--dataset_dir", folder, "--train_file", "train.jsonl", "--dirty_num", 2]
    assert "--dirty_file a name that ends in .jsonl" in refused(*flags)
    call(*flags, "--dirty_file", "dirty.jsonl", "--rest_file", "rest.jsonl")
    tree = LabelTree(["a,b"])
    parts = [load_rows(folder / name, tree) for name in ("dirty.jsonl", "rest.jsonl")]
    assert sorted(text for part in parts for text in part.texts) == [f"文{i}" for i in range(8)]


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--dirty_num", "100"], "has 100 labelled rows"),
        (["--dirty_num", "0"], "at least 1"),
        (["--dirty_file", "train.txt"], "would overwrite"),
        (["--rest_file", "train_dirty.txt"], "different names"),
        (["--suspect_file", "a.txt"], ".jsonl"),
        (["--train_file", "none.txt"], "no such file"),
        (["--strategy", "representer", "--params_path", "nowhere"], "no such directory"),
        (["--merge"], "train_dirty.txt: no such file"),
        (["--strategy", "cleanlab"], "invalid choice"),
    ],
)
def test_what_can_be_wrong(folder, refused, flags, message):
    before = sorted(folder.iterdir())
    assert message in refused("--dataset_dir", folder, "--dirty_num", 3, *flags)
    assert sorted(folder.iterdir()) == before


def test_unknown_labels_are_named_with_their_line(folder, refused):
    with open(folder / "train.txt", "a", encoding="utf-8") as file:
        file.write("甲\t组织,组织##裁圆\n乙\t财金\n")
    message = refused("--dataset_dir", folder, "--dirty_num", 3)
    assert "train.txt:103" in message and "did you mean '组织##裁员'" in message and "train.txt:104" in message


# ---- with a model ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", ["neighbours", "representer"])
def test_strategies_with_a_checkpoint(tmp_path, tiny_checkpoint, call, strategy):
    lines = (ROOT / "data" / "train.txt").read_text(encoding="utf-8").splitlines()[:60]
    (tmp_path / "train.txt").write_text("\n".join(lines), encoding="utf-8")
    flags = ["--params_path", tiny_checkpoint, "--device", "cpu", "--strategy", strategy, "--dirty_num", 10]
    call("--dataset_dir", tmp_path, *flags)
    parts = [
        (tmp_path / name).read_text(encoding="utf-8").splitlines()
        for name in ("train_dirty.txt", "train_dirty_rest.txt")
    ]
    assert [len(part) for part in parts] == [10, 50] and sorted(sum(parts, [])) == sorted(lines)


def test_a_checkpoint_for_other_labels(folder, tiny_checkpoint, refused):
    flags = ["--params_path", tiny_checkpoint, "--strategy", "neighbours"]
    assert "differs from the labels" in refused("--dataset_dir", folder, *flags)


def test_the_exit_code_of_the_script(tmp_path):
    shutil.copy(ROOT / "data" / "label.txt", tmp_path)
    command = [sys.executable, "analysis/dirty.py", "--dataset_dir", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, encoding="utf-8")
    assert done.returncode == 2 and "train.txt: no such file" in done.stderr and "Traceback" not in done.stderr


def test_probabilities_are_probabilities():
    train = planted_rows()
    _, likely = out_of_fold(train, train.multi_hot(len(TREE)), Namespace(seed=0))
    assert likely.min() >= 0 and likely.max() <= 1 and likely.dtype == sigmoid(np.zeros(1)).dtype
