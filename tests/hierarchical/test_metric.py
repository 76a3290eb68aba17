"""Scores: worked examples by hand, parity with scikit-learn and hiclass."""

import json
import warnings

import networkx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hierarchical.labels import LabelTree
from hierarchical.tables.taxonomies import read_taxonomy, tree_of
from metric import (
    Decision,
    Scores,
    decide,
    evaluate,
)
from tests.hierarchical.trees import PATHS, TREE, ancestors_of, multi_hot, random_graph, random_tree


def test_scores_by_hand():
    gold = multi_hot([0, 1], [3, 4, 5], [], [3])
    predicted = multi_hot([0, 1], [4, 5], [], [0])
    result = evaluate(predicted, gold, TREE)
    # Counts tp/fp/fn per label: 0: 1/1/0, 1: 1/0/0, 2: 0/0/0, 3: 0/0/2, 4: 1/0/0, 5: 1/0/0. Sums: 4/1/2.
    assert result["n_rows"] == 4 and result["loss"] is None
    assert result["accuracy"] == 2 / 4  # the first row and the empty one
    assert result["micro_precision"] == 4 / 5
    assert result["micro_recall"] == 4 / 6
    assert result["micro_f1"] == pytest.approx(2 * 4 / (2 * 4 + 1 + 2))  # 8/11
    # F1 per label: 2/3, 1, 0 (never seen), 0, 1, 1
    assert result["macro_f1"] == pytest.approx((2 / 3 + 3) / 6)
    assert result["macro_f1_supported"] == pytest.approx((2 / 3 + 3) / 5)
    assert result["macro_precision"] == pytest.approx((1 / 2 + 3) / 6)
    assert result["macro_recall"] == pytest.approx(4 / 6)
    assert result["labels_without_support"] == 1  # 组织##其他
    assert result["labels_never_predicted"] == 2  # 组织##其他 and 财经
    assert result["labels"]["组织"] == {"precision": 1 / 2, "recall": 1.0, "f1": pytest.approx(2 / 3), "support": 1}
    assert list(result["labels"]) == PATHS
    # Closed predictions: {0,1}, {3,4,5}, {}, {0} = 6 nodes; closed gold: {0,1}, {3,4,5}, {}, {3} = 6; common: 2+3.
    assert result["hierarchical_precision"] == result["hierarchical_recall"] == 5 / 6
    assert result["hierarchical_f1"] == pytest.approx(5 / 6)
    # Level 1 (labels 0, 3): tp 1, fp 1, fn 2 -> 2/5; F1s 2/3 and 0. Rows 1, 2, 4 hold a label there; only row 1 is
    # right: row 2 predicts 财经##其他 without 财经, and a child is no substitute for its parent.
    # Level 2 (1, 2, 4): tp 2; F1s 1, 0, 1; rows 1 and 2. Level 3 (5): row 2.
    third = pytest.approx(1 / 3)
    assert result["levels"] == [
        {"level": 1, "n_labels": 2, "n_rows": 3, "micro_f1": 2 / 5, "macro_f1": third, "accuracy": third},
        {"level": 2, "n_labels": 3, "n_rows": 2, "micro_f1": 1.0, "macro_f1": pytest.approx(2 / 3), "accuracy": 1.0},
        {"level": 3, "n_labels": 1, "n_rows": 1, "micro_f1": 1.0, "macro_f1": 1.0, "accuracy": 1.0},
    ]
    assert json.loads(json.dumps(result)) == result  # plain Python types


def test_a_row_empty_at_a_level_does_not_count_as_correct_there():
    # Of ten rows only one has a level 2 label, and it is missed: 0/1, not 9/10.
    gold = multi_hot([0, 1], *[[0]] * 9)
    predicted = multi_hot(*[[0]] * 10)
    level_2 = evaluate(predicted, gold, TREE)["levels"][1]
    assert (level_2["n_rows"], level_2["accuracy"]) == (1, 0.0)


def test_equal_names_under_two_parents_are_two_nodes():
    # Gold 组织##其他, predicted 财经##其他: by name level 2 would be perfect.
    result = evaluate(multi_hot([3, 4]), multi_hot([0, 2]), TREE)
    assert result["levels"][1]["micro_f1"] == result["levels"][1]["accuracy"] == 0.0
    assert result["hierarchical_f1"] == 0.0
    assert result["labels"]["组织##其他"]["support"] == 1 and result["labels"]["财经##其他"]["support"] == 0


@pytest.mark.slow
@pytest.mark.parametrize("density", [0.02, 0.3, 0.9])
def test_equals_scikit_learn(density):
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(int(density * 100))
    tree = random_tree(rng, 60)
    gold = rng.random((80, 60)) < density
    predicted = gold ^ (rng.random(gold.shape) < 0.05)
    gold[:, 5] = predicted[:, 5] = False  # no support, never predicted
    gold[:, 6] = False
    predicted[:, 7] = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = evaluate(predicted, gold, tree)

    def expected(average, labels=slice(None)):
        pair = gold[:, labels].astype(int), predicted[:, labels].astype(int)
        return metrics.precision_recall_fscore_support(*pair, average=average, zero_division=0)

    for average in ("micro", "macro"):
        got = [result[f"{average}_{name}"] for name in ("precision", "recall", "f1")]
        np.testing.assert_allclose(got, expected(average)[:3], rtol=1e-12)
    got = [[row[name] for row in result["labels"].values()] for name in ("precision", "recall", "f1", "support")]
    np.testing.assert_allclose(got, expected(None), rtol=1e-12)
    assert result["accuracy"] == pytest.approx(metrics.accuracy_score(gold, predicted))
    assert len(result["levels"]) == tree.depth
    for level in result["levels"]:
        labels = np.flatnonzero(tree.levels == level["level"])
        pair = gold[:, labels].astype(int), predicted[:, labels].astype(int)
        for average in ("micro", "macro"):  # a single column would make scikit-learn see a binary problem
            f1 = (
                metrics.f1_score(*pair, labels=range(len(labels)), average=average, zero_division=0)
                if len(labels) > 1
                else metrics.f1_score(*pair, zero_division=0)
            )
            assert level[f"{average}_f1"] == pytest.approx(f1, rel=1e-12)
        used = (pair[0] | pair[1]).any(axis=1)
        exact = metrics.accuracy_score(pair[0][used], pair[1][used]) if used.any() else 0.0
        assert level["accuracy"] == pytest.approx(exact) and level["n_rows"] == used.sum()


@pytest.mark.slow
def test_hierarchical_scores_equal_hiclass():
    """hiclass averages "micro" by default (sums over rows before dividing) and knows no root above level 1, as here.

    It takes one path per row as a list of nodes padded with "", and compares what it is given as plain sets: full paths
    are passed, because with bare names two nodes of one name would be the same. It always receives whole paths, so the
    predictions passed here hold only the last node, and closing them is this module's part.
    """
    hiclass = pytest.importorskip("hiclass.metrics")
    rng = np.random.default_rng(3)
    tree = random_tree(rng, 40)
    chosen = rng.integers(0, 40, (2, 300))
    chosen[1, :100] = chosen[0, :100]

    def whole_path(label):
        path = []
        while label >= 0:
            path.insert(0, tree.labels[label])
            label = tree.parents[label]
        return path + [""] * (tree.depth - len(path))

    true_paths, predicted_paths = ([whole_path(label) for label in labels] for labels in chosen)
    gold, predicted = (multi_hot(*[[label] for label in labels], n_labels=40) for labels in chosen)
    result = evaluate(predicted, gold, tree)
    for name in ("precision", "recall", "f1"):
        expected = getattr(hiclass, name)(np.array(true_paths), np.array(predicted_paths))
        assert result[f"hierarchical_{name}"] == pytest.approx(expected, rel=1e-12)
    closed = evaluate(*(decide(sets, tree, Decision(decoding="closure")) for sets in (predicted, gold)), tree)
    assert closed["hierarchical_f1"] == result["hierarchical_f1"]  # closing twice changes nothing


# SemEval-2024 task 4 (Dimitrov et al.): 22 techniques of persuasion, six of them under two parents.
PERSUASION = {
    "Ethos": ["Ad Hominem", "Glittering generalities (Virtue)", "Appeal to authority", "Bandwagon", "Transfer"],
    "Ad Hominem": ["Name calling/Labeling", "Doubt", "Smears", "Reductio ad hitlerum", "Whataboutism"],
    "Pathos": ["Exaggeration/Minimisation", "Loaded Language", "Appeal to (Strong) Emotions", "Appeal to fear/prejudice",
               "Flag-waving", "Transfer"],
    "Logos": ["Repetition", "Obfuscation, Intentional vagueness, Confusion", "Justification", "Reasoning"],
    "Justification": ["Slogans", "Bandwagon", "Appeal to authority", "Flag-waving", "Appeal to fear/prejudice"],
    "Reasoning": ["Distraction", "Simplification"],
    "Distraction": ["Misrepresentation of Someone's Position (Straw Man)", "Presenting Irrelevant Data (Red Herring)",
                    "Whataboutism"],
    "Simplification": ["Causal Oversimplification", "Black-and-white Fallacy/Dictatorship",
                       "Thought-terminating cliché"],
}  # fmt: skip


@pytest.fixture
def persuasion(tmp_path):
    """(LabelTree, the names of its labels in their order, networkx graph), by the way that a user has."""
    edges = [f"{parent}\t{child}\n" for parent, children in PERSUASION.items() for child in children]
    top = [f"Root\t{name}\n" for name in ("Ethos", "Pathos", "Logos")]
    (tmp_path / "techniques.txt").write_text("".join(top + edges), "utf-8")
    tree = tree_of(*read_taxonomy(tmp_path / "techniques.txt", None, "keep").labels)
    graph = networkx.DiGraph((parent, child) for parent, children in PERSUASION.items() for child in children)
    return tree, [label.split("##")[-1] for label in tree.labels], graph


def test_levels_of_semeval_2024_task_4(persuasion):
    tree, names, graph = persuasion
    assert sorted(names) == sorted(graph) and len(tree.further) == 6 and tree.depth == 4
    assert sum(not children for children in tree.children) == 22
    level = dict(zip(names, tree.levels.tolist()))
    # By the longest way: Flag-waving is below Pathos on level 2, and below Logos > Justification on level 3.
    assert (level["Transfer"], level["Flag-waving"], level["Bandwagon"], level["Whataboutism"]) == (2, 3, 3, 4)
    above = {names[i] for i in tree.ancestors(names.index("Whataboutism"))}
    assert above == {"Ethos", "Ad Hominem", "Logos", "Reasoning", "Distraction"}


@pytest.mark.parametrize("every", ["techniques", "all"])
def test_scores_of_semeval_2024_task_4(persuasion, every):
    """Its scorer closes both label sets, without the root that all share, and sums over rows before it divides.

    So do these scores; where nothing is common to any row it divides by 0, and here that is a 0.
    """
    tree, names, graph = persuasion
    rng = np.random.default_rng(7)
    gold, predicted = rng.random((2, 300, len(tree))) < 0.08
    predicted |= gold & (rng.random(gold.shape) < 0.6)
    if every == "techniques":  # which is all that annotators and systems give
        inner = [i for i, children in enumerate(tree.children) if children]
        gold[:, inner] = predicted[:, inner] = False

    def closed(sets):
        chosen = [{names[i] for i in np.flatnonzero(row)} for row in sets]
        return [row.union(*(networkx.ancestors(graph, name) for name in row)) for row in chosen]

    pairs = list(zip(closed(predicted), closed(gold)))
    both, given, wanted = (sum(map(len, sets)) for sets in ([a & b for a, b in pairs], *zip(*pairs)))
    precision, recall = both / given, both / wanted
    expected = {"precision": precision, "recall": recall, "f1": 2 * precision * recall / (precision + recall)}
    result = evaluate(predicted, gold, tree)
    assert {name: result[f"hierarchical_{name}"] for name in expected} == pytest.approx(expected, rel=1e-12)
    assert [level["n_labels"] for level in result["levels"]] == [3, 10, 11, 6]
    # As a tree, with the first parent alone, or with a copy under each parent, it would be another score.
    alone = evaluate(predicted, gold, LabelTree(tree.labels))
    assert abs(alone["hierarchical_f1"] - result["hierarchical_f1"]) > 0.001


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=100)
def test_hierarchical_scores_of_any_graph(seed):
    rng = np.random.default_rng(seed)
    tree = random_graph(rng, 12)
    gold, predicted = rng.random((2, 4, 12)) < 0.2

    def closed(sets):
        return [{int(i) for i in np.flatnonzero(row)} | {a for i in np.flatnonzero(row) for a in ancestors_of(tree, i)}
                for row in sets]  # fmt: skip

    pairs = list(zip(closed(predicted), closed(gold)))
    both, all_of_them = sum(len(a & b) for a, b in pairs), sum(len(a) + len(b) for a, b in pairs)
    assert evaluate(predicted, gold, tree)["hierarchical_f1"] == pytest.approx(2 * both / max(all_of_them, 1))


def test_batches_and_processes_add_up():
    rng = np.random.default_rng(1)
    tree = random_tree(rng, 30)
    gold, predicted, losses = rng.random((50, 30)) < 0.2, rng.random((50, 30)) < 0.2, rng.integers(0, 9, 50) / 8
    whole = Scores(tree)
    whole.update(predicted, gold, losses)
    processes = [Scores(tree), Scores(tree)]
    for start in range(0, 50, 7):
        rows = slice(start, start + 7)
        processes[start % 2].update(predicted[rows].astype(np.float32), gold[rows].astype(int), losses[rows])
    summed = processes[0].to_vector() + processes[1].to_vector()
    assert summed.dtype == np.float64
    assert (summed == whole.to_vector()).all()
    assert Scores.from_vector(tree, summed).result() == whole.result()
    assert whole.result()["loss"] == losses.mean()
    # from_vector and to_vector share no memory with anybody.
    copy = Scores.from_vector(tree, summed)
    taken = copy.to_vector()
    copy.update(predicted, gold)
    assert (summed == whole.to_vector()).all() and (taken == summed).all()


def test_a_mean_loss_counts_for_its_rows():
    scores = Scores(TREE)
    scores.update(multi_hot([0], [1], [2]), multi_hot([0], [1], [2]), 0.5)
    scores.update(multi_hot([0]), multi_hot([0]), 0.9)
    assert scores.result()["loss"] == pytest.approx((3 * 0.5 + 0.9) / 4)


def test_memory_depends_on_the_tree_only():
    scores = Scores(TREE)
    size = scores.to_vector().size
    assert size == 3 * 6 + 2 * 3 + 7
    arrays = {name: value.nbytes for name, value in vars(scores).items() if isinstance(value, np.ndarray)}
    for _ in range(20):
        scores.update(np.ones((50, 6), bool), np.ones((50, 6), bool))
    assert scores.to_vector().size == size
    assert {name: value.nbytes for name, value in vars(scores).items() if isinstance(value, np.ndarray)} == arrays
    assert scores.result()["n_rows"] == 1000


def test_update_leaves_its_inputs_alone():
    predicted, gold = multi_hot([5]), multi_hot([1])
    evaluate(predicted, gold, TREE)
    assert (predicted == multi_hot([5])).all() and (gold == multi_hot([1])).all()


def test_nothing_counted_is_all_zero_without_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for result in (Scores(TREE).result(), evaluate(np.zeros((0, 6)), np.zeros((0, 6)), TREE)):
            assert result["n_rows"] == result["accuracy"] == result["macro_f1"] == result["hierarchical_f1"] == 0
            assert result["labels_without_support"] == 6 and result["macro_f1_supported"] == 0


@pytest.mark.parametrize(
    "predicted, gold, said",
    [
        (np.zeros((2, 5)), np.zeros((2, 6)), "predicted must have the shape"),
        (np.zeros((2, 6)), np.zeros((2, 5)), "gold must have the shape"),
        (np.zeros((2, 6)), np.zeros((3, 6)), r"gold must have the shape \[2, 6\]"),
        (np.zeros(6), np.zeros(6), "shape"),
        (np.full((2, 6), 0.7), np.zeros((2, 6)), "decide"),
        (np.zeros((2, 6)), np.full((2, 6), 2), "gold must be multi-hot"),
    ],
)
def test_bad_label_sets(predicted, gold, said):
    scores = Scores(TREE)
    with pytest.raises(ValueError, match=said):
        scores.update(predicted, gold)
    assert not scores.to_vector().any()


def test_losses_of_the_wrong_length_count_nothing():
    scores = Scores(TREE)
    with pytest.raises(ValueError):
        scores.update(np.zeros((3, 6)), np.zeros((3, 6)), [0.1, 0.2])
    assert not scores.to_vector().any()


def test_counts_of_another_tree():
    with pytest.raises(ValueError, match="vector of 31"):
        Scores.from_vector(TREE, np.zeros(30))
