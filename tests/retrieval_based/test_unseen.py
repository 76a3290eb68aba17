"""unseen.py, fit_unseen.py and `predict.py --unseen`: features and label sets by hand, the whole chain, bad input."""

import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest

import predict
from hierarchical.calibration import sigmoid
from metric import Decision
from retrieval_based import fit_unseen
from retrieval_based.encoder import Encoder, path_text
from retrieval_based.unseen import (
    Curve,
    NewLabels,
    WithUnseen,
    best_other,
    features,
    label_text,
    leaves_of,
    require_no_number,
)
from tests.conftest import SAMPLE
from tests.retrieval_based.conftest import call, fails
from utils import InputError, LabelTree

KNOWN = LabelTree(["体育", "体育##足球", "财经", "财经##股票"])
CURVE = Curve([10.0, -5.0, -0.5], -2.0, 0.5, "e", "c")


def test_best_other_by_hand():
    values = np.array([[0.1, 0.9, 0.4], [0.5, 0.2, 0.3]])
    found = best_other(values, np.array([0, 1, 2, -1]))
    assert found.tolist() == [[0.9, 0.4, 0.9, 0.9], [0.3, 0.5, 0.5, 0.5]]
    assert values[0, 1] == 0.9, "the caller's own numbers stay"


def test_features_by_hand():
    # Leaves 足球, 股票 and the new 篮球, 期货 below 股票: so 股票 is none any more, but the classifier still has it.
    similarities = np.array([[0.2, 0.8, 0.5]])  # 足球, 篮球, 期货
    logits = np.array([[-30.0, 2.0]])  # 足球, 股票
    found = features(similarities, np.array([1, 2]), logits, np.array([-1, 1]))
    assert found.tolist() == [[[0.8, 0.5, 2.0], [0.5, 0.8, -10.0]]]


def test_a_curve_is_the_logistic_regression_of_what_it_has_seen(tmp_path):
    rng = np.random.default_rng(0)
    found = rng.normal(size=(800, 5, 3))
    gold = rng.random((800, 5)) < sigmoid(found @ [3.0, -1.0, -0.5] - 1)
    curve = Curve.fit(found, gold, threshold=0.4, encoder="e", classifier="c")
    assert [*curve.weights, curve.bias] == pytest.approx([3.0, -1.0, -0.5, -1.0], abs=0.3)
    curve.write(tmp_path)
    assert Curve.read(tmp_path, "e", "c") == curve == Curve.read(tmp_path, "e", "")
    assert curve.probabilities(found)[0, 0] == pytest.approx(sigmoid(found[0, 0] @ curve.weights + curve.bias))
    with pytest.raises(InputError, match="right less often the nearer"):
        Curve.fit(-found, gold, threshold=0.4, encoder="e", classifier="c")


def labels_in(folder, text, **more):
    path = folder / "new.txt"
    path.write_text(text, encoding="utf-8")
    for name, content in more.items():
        (folder / f"{name}.jsonl").write_text(content, encoding="utf-8")
    return NewLabels.read(path, KNOWN)


def stand_in(labels):
    """A WithUnseen of a predictor and an encoder whose numbers are given: a text is a row of them, as JSON."""

    def encode(texts):
        return np.array([json.loads(text)[0] for text in texts], np.float32)

    predictor = SimpleNamespace(tree=KNOWN, tokenizer=None, file="f", decision=Decision())
    predictor.text_logits = lambda texts: np.array([json.loads(text)[1] for text in texts], np.float32)
    labeller = WithUnseen(predictor, SimpleNamespace(encode=encode), labels, CURVE, "cpu")
    labeller.vectors = np.eye(len(labels.texts), dtype=np.float32)
    return labeller


def test_known_labels_stay_and_new_ones_come_beside_them(tmp_path):
    labels = labels_in(tmp_path, "体育\n体育##篮球\n\n军事\n军事##演习\n")
    assert labels.tree.labels == [*KNOWN.labels, "体育##篮球", "军事", "军事##演习"]
    assert labels.texts == ["体育,足球", "财经,股票", "体育,篮球", "军事,演习"]
    labeller = stand_in(labels)
    text = json.dumps([[0.1, 0.0, 0.9, 0.3], [1.5, -4, -1, -2]])  # near the leaves; logits of the known labels
    found = labeller.probabilities([text])
    assert found[0, :4] == pytest.approx(sigmoid(np.array([1.5, -4, -1, -2])))
    # 篮球: 10 x 0.9 - 5 x 0.3 + 0.5 x 2 - 2 = 6.5; 演习: 3 - 4.5 + 1 - 2 = -2.5, and 军事 with it
    assert found[0, 4:] == pytest.approx(sigmoid(np.array([6.5, -2.5, -2.5])), abs=1e-6)
    chosen = {name: labeller.decide(found, labels.tree, Decision(decoding=name)) for name in ("raw", "topdown")}
    assert [np.flatnonzero(one[0]).tolist() for one in chosen.values()] == [[0, 4], [0, 4]]


def test_decodings_and_new_labels(tmp_path):
    labeller = stand_in(labels_in(tmp_path, "财经##期货\n"))
    found = np.array([[0.1, 0.2, 0.3, 0.4, 0.9]])  # 期货 is likely, 财经 not

    def chosen(**settings):
        return np.flatnonzero(labeller.decide(found, labeller.tree, Decision(**settings))[0]).tolist()

    assert chosen() == [4] and chosen(decoding="closure") == [2, 4] and chosen(decoding="topdown") == []
    assert chosen(threshold=0.25) == [2, 3, 4] and chosen(threshold=0.95) == [4], "the curve has its own"
    assert chosen(min_labels=1) == [3, 4]
    for settings, flag in (({"top_k": 1}, "--top_k"), ({"max_labels": 1}, "--max_labels"), ({"per_level": 1}, "--per")):
        with pytest.raises(InputError, match=flag):
            require_no_number(Decision(**settings))
    with pytest.raises(InputError, match="--decoding path"):
        require_no_number(Decision(decoding="path"))
    require_no_number(Decision(0.3, "closure", min_labels=1))


def test_a_new_label_under_several_parents(tmp_path):
    (tmp_path / "new_graph.txt").write_text("财经##期货\t体育\n财经##股票\t体育\n", "utf-8")
    labeller = stand_in(labels_in(tmp_path, "体育\n财经\n财经##股票\n财经##期货\n"))
    assert labeller.tree.graph_lines() == ["财经##期货\t体育"], "of known labels the checkpoint's parents hold"
    found = np.array([[0.6, 0.2, 0.3, 0.4, 0.9]])
    for decoding, labels in (("raw", [0, 4]), ("closure", [0, 2, 4]), ("topdown", [0])):
        chosen = labeller.decide(found, labeller.tree, Decision(decoding=decoding))
        assert np.flatnonzero(chosen[0]).tolist() == labels
    with_graph = labeller.labels.digest
    (tmp_path / "new_graph.txt").unlink()
    assert labels_in(tmp_path, "体育\n财经\n财经##股票\n财经##期货\n").digest != with_graph


def test_label_txt_with_new_labels_is_compared_with_its_graph(tmp_path):
    known = LabelTree(KNOWN.labels, further=[(1, 2)])
    both = LabelTree([*KNOWN.labels, "军事"], further=[(1, 2)])
    for there in (known, both, LabelTree(["军事", *KNOWN.labels, "军事##演习"], further=[(2, 3), (5, 2)])):
        there.write(tmp_path / "label.txt")
        new = LabelTree([*KNOWN.labels, "军事", "军事##演习"], further=[(1, 2)])
        predict.require_known_labels(known, new, tmp_path / "label.txt")
    LabelTree(both.labels).write(tmp_path / "label.txt")
    with pytest.raises(InputError, match="label.txt: differs from the labels"):
        predict.require_known_labels(known, both, tmp_path / "label.txt")
    LabelTree(known.labels).write(tmp_path / "label.txt")
    with pytest.raises(InputError, match="label_graph.txt: differs from the further parents"):
        predict.require_known_labels(known, both, tmp_path / "label.txt")


def test_descriptions_are_read_with_their_labels(tmp_path):
    row = json.dumps({"label": "军事", "description": " 军队与演习 "}, ensure_ascii=False)
    labels = labels_in(tmp_path, "军事\n财经##期货\n", label_descriptions=f"{row}\n\n")
    assert labels.texts == ["体育,足球", "财经,股票", "军事,军队与演习", "财经,期货"]
    assert label_text("a##b") == "a,b"
    assert labels.digest != labels_in(tmp_path, "军事\n财经##期货\n", label_descriptions="").digest


@pytest.mark.parametrize(
    "text, descriptions, says",
    [
        ("体育\n财经\n", None, "no label in it that the checkpoint does not know"),
        ("军事##演习\n", None, "new.txt:1: the parent of '军事##演习' is missing"),
        ("军事\n体育\n军事\n", None, "new.txt:3: label '军事' is already on line 1"),
        ("军事\n", '{"label": "军事"}\n[1]\n', "2 problems found"),
        (
            "军事\n",
            '{"label": "军士", "description": "x"}',
            "label_descriptions.jsonl:1: unknown label '军士'; did you",
        ),
        ("军事\n", '{"label": "军事", "description": "x"}\n' * 2, "jsonl:2: label '军事' is described twice"),
    ],
)
def test_bad_lists_of_new_labels(tmp_path, text, descriptions, says):
    with pytest.raises(InputError, match=says.replace("[", r"\[")):
        labels_in(tmp_path, text, **({} if descriptions is None else {"label_descriptions": descriptions}))


@pytest.mark.parametrize(
    "content, says",
    [
        (None, "unseen.json: no such file. .*Make it with"),
        ("{}", "not what retrieval_based/fit_unseen.py writes"),
        ("[" * 9999, "not what retrieval_based/fit_unseen.py writes"),
        ({"weights": [1, 2]}, "three weights"),
        ({"threshold": 2}, "threshold must be from 0 to 1"),
        ({"bias": float("nan")}, "three weights"),
        ({"encoder": "other"}, "was fitted for another encoder"),
        ({"classifier": "other"}, "was fitted for another classifier"),
    ],
)
def test_bad_curves(tmp_path, content, says):
    CURVE.write(tmp_path)
    path = tmp_path / "unseen.json"
    if content is None:
        path.unlink()
    else:
        text = content if isinstance(content, str) else json.dumps(json.loads(path.read_text()) | content)
        path.write_text(text)
    with pytest.raises(InputError, match=says):
        Curve.read(tmp_path, "e", "c")


# ---- the scripts -----------------------------------------------------------------------------------------------------


@pytest.fixture
def ready(trained, tiny_checkpoint, tmp_path):
    """(flags of predict.py but for --unseen, the encoder's folder with a curve, the folder of data) of the sample data."""
    encoder, data = tmp_path / "encoder", tmp_path / "data"
    shutil.copytree(trained[1] / "model_best", encoder)
    data.mkdir()
    shutil.copy(SAMPLE / "label.txt", data)
    lines = (SAMPLE / "data.txt").read_text("utf-8").splitlines()[:5]
    (data / "data.txt").write_text("\n".join([*lines, ""]) + "\n\n", "utf-8")
    (data / "new.txt").write_text("地理\n地理##山川\n公司动态##登山\n", "utf-8")
    Curve([0.5, -0.5, -0.01], 0.3, 0.5, Encoder(encoder).id, "").write(encoder)
    flags = ["--dataset_dir", data, "--params_path", tiny_checkpoint, "--unseen_encoder", encoder, "--device", "cpu"]
    return flags, encoder, data


@pytest.mark.slow
def test_predictions_with_new_labels(ready, printed):
    flags, _, data = ready
    outputs = [data / "plain.jsonl", data / "both.jsonl", data / "both.tsv"]
    call(predict, *flags, "--output_file", outputs[0], "--floor", 0)
    more = ["--unseen", data / "new.txt", "--floor", 0, "--certainty", 0.5]
    for output in outputs[1:]:
        call(predict, *flags, "--output_file", output, *more)
    plain, both = ([json.loads(line) for line in path.read_text("utf-8").splitlines()] for path in outputs[:2])
    given = 0
    for one, other in zip(plain, both, strict=True):
        assert [label for label in other["labels"] if label not in other["unseen"]] == one["labels"]
        known = {label: p for label, p in other["probabilities"].items() if label in one["probabilities"]}
        assert known == one["probabilities"] and "unseen" not in one
        assert other["unseen"] == [label for label in other["labels"] if label.startswith("地理") or "登山" in label]
        given += len(other["unseen"])
    assert 0 < given and both[-1]["labels"] == both[-1]["unseen"] == [], "a blank row has none"
    columns = [line.split("\t") for line in outputs[2].read_text("utf-8").splitlines()]
    assert [(row[1], row[3]) for row in columns] == [(",".join(r["labels"]), ",".join(r["unseen"])) for r in both]
    assert any(line.startswith("(new, by their words alone: ") for line in printed)
    assert f"New labels, by their words alone: in {sum(bool(r['unseen']) for r in both)} of 5 texts" in printed
    (data / "label.txt").write_text((data / "label.txt").read_text("utf-8") + "地理\n", "utf-8")
    call(predict, *flags, *more)  # label.txt may name new labels already


@pytest.mark.slow
def test_what_predict_refuses(ready, capsys):
    flags, encoder, data = ready
    new = ["--unseen", data / "new.txt"]
    assert "new labels beside the known ones, and --top_k" in fails(predict, capsys, *flags, *new, "--top_k", 2)
    assert "none.txt: no such file" in fails(predict, capsys, *flags, "--unseen", data / "none.txt")
    Curve([0.5, -0.5, -0.01], 0.3, 0.5, "0" * 64, "").write(encoder)
    assert "fitted for another encoder" in fails(predict, capsys, *flags, *new)
    (data / "label.txt").write_text("别的\n", "utf-8")
    assert "differs from the labels" in fails(predict, capsys, *flags, *new)


@pytest.mark.slow
def test_fitting(ready, tiny_checkpoint, printed, capsys):
    _, encoder, data = ready
    (encoder / "unseen.json").unlink()
    tree = LabelTree.read(data / "label.txt")  # texts that spell a label are nearest to it, whatever the encoder
    rows = [f"{path_text(tree.labels[i])}\t{tree.labels[i]}\n" for i in leaves_of(tree)] * 4
    flags = ["--dataset_dir", data, "--params_path", encoder, "--classifier", tiny_checkpoint, "--device", "cpu"]
    (data / "dev.txt").write_text("".join(rows[:6]), "utf-8")
    assert "is too little to learn from" in fails(fit_unseen, capsys, *flags)
    assert not (encoder / "unseen.json").exists()
    with pytest.raises(SystemExit):
        fit_unseen.parse_args(["--dataset_dir", "d", "--threshold", "1.5"])
    (data / "dev.txt").write_text("".join(rows), "utf-8")
    call(fit_unseen, *flags, "--threshold", 0.3)
    found = Curve.read(encoder, Encoder(encoder).id, "")
    assert found.threshold == 0.3 and found.weights[0] > 0
    assert any(line.startswith("Known labels, each fifth of them by what the others tell: ") for line in printed)
