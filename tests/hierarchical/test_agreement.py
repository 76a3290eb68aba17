"""hierarchical/agreement.py: alpha against a table worked out by hand, and who says what for what."""

import krippendorff
import numpy as np
import pytest

from hierarchical.agreement import agreement, agreement_lines
from utils import LabelTree

TREE = LabelTree(["A", "A##B", "A##C", "D"])


def test_one_annotator_agrees_with_nobody():
    assert agreement([("1", "ann", ["A"]), ("2", "bob", ["A"]), ("1", "ann", ["D"])], TREE) is None


def test_alpha_of_each_label_and_level():
    b, c, d = ["A", "A##B"], ["A", "A##C"], ["D"]
    ann, bob = [b, b, c, d], [b, c, c, d]
    answers = [(str(i), who, labels) for who, said in (("ann", ann), ("bob", bob)) for i, labels in enumerate(said)]
    found = agreement([*answers, ("9", "ann", d)], TREE)  # 9 has one annotator
    assert found.annotators == ["ann", "bob"] and found.texts == 4
    # Eight values; one text of four differs, so 2 of the 8 ordered pairs do: observed 1/4. Expected by chance:
    # sum over pairs of values n_c n_k / (8 * 7). A##B is there 3 times: 2 * 3 * 5 / 56.
    assert found.labels == pytest.approx(
        {"A": 1, "A##B": 1 - (1 / 4) / (30 / 56), "A##C": 1 - (1 / 4) / (30 / 56), "D": 1}
    )
    # Level 2 has {B}, {C} and nothing: 3, 3 and 2 times.
    assert found.levels == pytest.approx([1, 1 - (1 / 4) / (2 * (9 + 6 + 6) / 56)])
    assert found.confused == [("A##B", "A##C", 1)]
    text = "\n".join(agreement_lines(found))
    assert "4 texts by 2 annotators; Krippendorff's alpha of level 1: 1.00, level 2: 0.67" in text
    assert "least agreement: A##B 0.53, A##C 0.53, A 1.00" in text and "one for the other: A##B / A##C (1)" in text


def test_no_alpha_where_all_have_the_same():
    found = agreement([("1", "ann", ["A"]), ("1", "bob", ["A"])], TREE)
    assert found.levels == [None] and "level 1: –" in agreement_lines(found)[0] and len(agreement_lines(found)) == 1


def test_alpha_equals_that_of_the_package_where_answers_are_missing():
    rng, people = np.random.default_rng(0), ["ann", "bob", "cyd", "dee"]
    said = {(text, who): rng.integers(4) for text in range(40) for who in people if rng.random() < 0.6}
    answers = [(str(text), who, [TREE.labels[label]]) for (text, who), label in said.items()]
    table = np.array([[said.get((text, who), np.nan) for text in range(40)] for who in people])
    flat = LabelTree(list(TREE.labels[:1]) + ["B", "C", "D"])
    names = flat.labels
    found = agreement([(text, who, [names[TREE.index[labels[0]]]]) for text, who, labels in answers], flat)
    assert found.levels == pytest.approx([krippendorff.alpha(table, level_of_measurement="nominal")], abs=1e-9)


def test_thousands_of_labels_take_no_table_of_them():
    """What an export of 2,000 texts and as many labels asks for: the package would ask for 45 GB."""
    names = [f"label {i}" for i in range(2000)]
    answers = [(str(i), who, [names[i - (who == "bob" and i % 7 == 0)]]) for i in range(2000) for who in ("ann", "bob")]
    (alpha,) = agreement(answers, LabelTree(names)).levels
    assert alpha == pytest.approx(1 - len(range(0, 2000, 7)) / 2000, abs=1e-3)
