"""unseen.py: features, probabilities and label sets by hand, what is kept of labels, bad input."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from hierarchical import unseen
from hierarchical.batches import Begun
from hierarchical.calibration import sigmoid
from hierarchical.predictions import Job
from hierarchical.unseen import (
    Curve,
    NewLabels,
    WithUnseen,
    best_other,
    features,
    label_text,
    read_vectors,
    require_no_number,
    write_vectors,
)
from metric import Decision
from utils import InputError, LabelTree

KNOWN = LabelTree(["体育", "体育##足球", "财经", "财经##股票"])
CURVE = Curve([10.0, -5.0, -0.5], -2.0, 0.5, "e", "c", "")


def test_best_other_by_hand():
    values = np.array([[0.1, 0.9, 0.4], [0.5, 0.2, 0.3]])
    found = best_other(values, np.array([0, 1, 2, -1]))
    assert found.tolist() == [[0.9, 0.4, 0.9, 0.9], [0.3, 0.5, 0.5, 0.5]]
    assert best_other(values, np.array([0, 1, -1]), {1: [1, 2]}).tolist() == [[0.9, 0.1, 0.9], [0.3, 0.5, 0.5]]
    assert best_other(values, np.array([2]), {0: [0, 1, 2]}).tolist() == [[-np.inf], [-np.inf]]
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
    curve = Curve.fit(found, gold, threshold=0.4, encoder="e", classifier="c", vectors="v")
    assert [*curve.weights, curve.bias] == pytest.approx([3.0, -1.0, -0.5, -1.0], abs=0.3)
    curve.write(tmp_path)
    assert Curve.read(tmp_path, "e", "c") == curve == Curve.read(tmp_path, "e", "")
    assert curve.probabilities(found)[0, 0] == pytest.approx(sigmoid(found[0, 0] @ curve.weights + curve.bias))
    with pytest.raises(InputError, match="right less often the nearer"):
        Curve.fit(-found, gold, threshold=0.4, encoder="e", classifier="c", vectors="v")


def labels_in(folder, text, known=KNOWN, **more):
    path = folder / "new.txt"
    path.write_text(text, encoding="utf-8")
    for name, content in more.items():
        (folder / f"{name}.jsonl").write_text(content, encoding="utf-8")
    return NewLabels.read(path, known)


def stand_in(labels, folder=None, curve=CURVE, known=KNOWN):
    """A WithUnseen of a predictor and an encoder whose numbers are given: a text is a row of them, as JSON.

    Of labels the encoder makes the vector of ones, and notes which; folder: where vectors of the known ones are.
    """

    def encode(texts):
        encoded.extend(texts)
        return np.array([json.loads(text)[0] if text[0] == "[" else [1, 1] for text in texts], np.float32)

    def logits(texts):
        return np.array([json.loads(text)[1] for text in texts], np.float32)

    encoded = []
    predictor = SimpleNamespace(tree=known, tokenizer=None, file="f", decision=Decision(), load=lambda: None)
    predictor.begin_text_logits = lambda texts: Begun(lambda: logits(texts))
    encoder = SimpleNamespace(encode=encode, directory=folder, load=lambda device: None, encoded=encoded)
    encoder.begin = lambda texts: Begun(lambda: encode(texts))
    labeller = WithUnseen(predictor, encoder, labels, curve)
    if folder is None:
        labeller.vectors = np.eye(len(labels.texts), dtype=np.float32)
    return labeller


def test_only_new_labels_are_encoded(tmp_path):
    curve = replace(CURVE, vectors=write_vectors(tmp_path, KNOWN, np.array([[0.25, 0], [0, 0.5]])))  # 足球, 股票
    labeller = stand_in(labels_in(tmp_path, "体育\n体育##篮球\n军事\n"), tmp_path, curve)
    labeller.load()
    assert labeller.encoder.encoded == ["体育,篮球", "军事"]
    assert labeller.vectors.tolist() == [[0.25, 0], [0, 0.5], [1, 1], [1, 1]]
    row = json.dumps({"label": "体育##足球", "description": "踢"}, ensure_ascii=False)
    described = stand_in(labels_in(tmp_path, "体育##篮球\n", label_descriptions=row), tmp_path, curve)
    described.load()
    assert described.encoder.encoded == ["体育,足球,踢", "体育,篮球"], "its words are others than those that were kept"
    assert described.version != labeller.version and len(labeller.version) == 8


def test_a_resumed_run_goes_by_the_predictor_too(tmp_path, monkeypatch):
    labeller, asked = stand_in(labels_in(tmp_path, "体育##篮球\n")), []
    labeller.predictor.settings = {"use_bf16": True}
    monkeypatch.setattr(unseen, "predict_file", lambda job, model, decision, settings, *others: asked.append(settings))
    labeller.predict_file(Job(tmp_path / "data.txt"), Decision())
    assert asked == [{"use_bf16": True, **labeller.settings}] and "unseen" in labeller.settings


def test_vectors_that_do_not_belong(tmp_path):
    with pytest.raises(InputError, match="unseen.npy: no such file.*It belongs to unseen.json"):
        read_vectors(tmp_path, KNOWN, "d")
    digest = write_vectors(tmp_path, KNOWN, np.eye(2))
    assert np.array_equal(read_vectors(tmp_path, KNOWN, digest), np.eye(2))
    for tree, told in ((KNOWN, "d"), (LabelTree(["体育", "财经"]), digest)):
        with pytest.raises(InputError, match="holds vectors of other labels than the classifier's, or is not the file"):
            read_vectors(tmp_path, tree, told)


def test_predictions_say_which_labels_are_new(tmp_path):
    labeller = stand_in(labels_in(tmp_path, "体育##篮球\n"))
    text = json.dumps([[0.1, 0.0, 0.9], [1.5, -4, -1, -2]])
    (row,) = labeller.predict([text], decoding="closure")
    assert (row.labels, row.unseen) == (["体育", "体育##篮球"], ["体育##篮球"])
    assert labeller.labels == [*KNOWN.labels, "体育##篮球"]
    for wrong, says in (({"top_k": 2}, "--top_k"), ({"threshold": [0.1] * 5}, "threshold"), ({"floor": 2}, "floor")):
        with pytest.raises(ValueError, match=says):
            labeller.predict([text], **wrong)


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
    with pytest.raises(InputError, match="decision.json: decoding path says how many labels"):
        require_no_number(Decision(decoding="path"), "decision.json")


def test_a_new_label_under_several_parents(tmp_path):
    (tmp_path / "new_graph.txt").write_text("财经##期货\t体育\n财经##股票\t体育\n", "utf-8")
    labeller = stand_in(labels_in(tmp_path, "体育\n财经\n财经##股票\n财经##期货\n"))
    assert labeller.tree.graph_lines() == ["财经##期货\t体育"], "of known labels the checkpoint's parents hold"
    found = np.array([[0.6, 0.2, 0.3, 0.4, 0.9]])
    for decoding, labels in (("raw", [0, 4]), ("closure", [0, 2, 4]), ("topdown", [0])):
        chosen = labeller.decide(found, labeller.tree, Decision(decoding=decoding))
        assert np.flatnonzero(chosen[0]).tolist() == labels
    with_graph = labeller.new.digest
    (tmp_path / "new_graph.txt").unlink()
    assert labels_in(tmp_path, "体育\n财经\n财经##股票\n财经##期货\n").digest != with_graph


def test_a_known_label_comes_under_no_new_one(tmp_path):
    lines = "财经##期货\t体育\n财经##股票\t体育\n体育##足球\t财经\n体育##足球\t财经##期货\n"
    (tmp_path / "new_graph.txt").write_text(lines, "utf-8")
    with pytest.raises(InputError) as error:
        labels_in(tmp_path, "财经##期货\n")
    assert "new_graph.txt: '体育##足球' under '财经##期货': the checkpoint knows" in str(error.value)


def test_known_leaves_above_a_new_label_are_no_other_labels(tmp_path):
    (tmp_path / "new_graph.txt").write_text("体育##足球##转会\t财经##股票\n", "utf-8")
    known = LabelTree([*KNOWN.labels, "科技"])
    labeller = stand_in(labels_in(tmp_path, "体育##足球##转会\n军事\n", known), known=known)
    assert labeller.labels[5:] == ["体育##足球##转会", "军事"] and labeller.several == {0: [0, 1]}
    text = json.dumps([[0.1, 0.4, 0.2], [0, 3, 0, 5, -1]])  # near 科技, 转会, 军事; logits 足球 3, 股票 5, 科技 -1
    found = labeller.probabilities([text])
    # 转会: 10 x 0.4 - 5 x 0.2 + 0.5 x 1 - 2 = 1.5, by 科技 alone; 军事: 2 - 2 - 0.5 x 5 - 2 = -4.5, by 股票
    assert found[0, 5:] == pytest.approx(sigmoid(np.array([1.5, -4.5])), abs=1e-6)


def test_a_new_label_below_a_further_path_of_a_known_one(tmp_path):
    known = LabelTree(KNOWN.labels, further=[(1, 2)])
    for text in ("财经##足球##世界杯\n", "财经##足球\n财经##足球##世界杯\n"):
        with pytest.raises(InputError, match="'财经##足球' is '体育##足球', .*; write '体育##足球##世界杯'"):
            labels_in(tmp_path, text, known)
    assert labels_in(tmp_path, "体育##足球##世界杯\n", known).tree.ancestors(4) == [0, 2, 1]
    (tmp_path / "new_graph.txt").write_text("军事##演习\t体育\n", "utf-8")
    with pytest.raises(InputError, match="new.txt:3: .* write '军事##演习##海上'"):
        labels_in(tmp_path, "军事\n军事##演习\n体育##演习##海上\n", known)


def test_label_txt_with_new_labels_is_compared_with_its_graph(tmp_path):
    def require(known, both):
        stands_in = SimpleNamespace(tree=both, predictor=SimpleNamespace(tree=known))
        WithUnseen.require_known_labels(stands_in, tmp_path / "label.txt")

    known = LabelTree(KNOWN.labels, further=[(1, 2)])
    both = LabelTree([*KNOWN.labels, "军事"], further=[(1, 2)])
    for there in (known, both, LabelTree(["军事", *KNOWN.labels, "军事##演习"], further=[(2, 3), (5, 2)])):
        there.write(tmp_path / "label.txt")
        new = LabelTree([*KNOWN.labels, "军事", "军事##演习"], further=[(1, 2)])
        require(known, new)
    LabelTree(both.labels).write(tmp_path / "label.txt")
    with pytest.raises(InputError, match="label.txt: differs from the labels"):
        require(known, both)
    LabelTree(known.labels).write(tmp_path / "label.txt")
    with pytest.raises(InputError, match="label_graph.txt: differs from the further parents"):
        require(known, both)


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
            '{"label": "军事", "description": " "}',
            "label_descriptions.jsonl:1: a line is .*, with words in both",
        ),
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
