"""benchmarks/drawing.py: which labels and rows, and how often they are read."""

from argparse import Namespace

import numpy as np
import pytest

from benchmarks import analysis_experiments, drawing, learning_rates, main_job, recipes, routes, unseen
from benchmarks.planting import plant
from utils import LabelTree, write_rows

GRAPH = LabelTree(["体育", "体育##转会", "财经", "财经##股票"], words=["", "换队", "", ""], further=[(1, 2)])


@pytest.fixture
def source(tmp_path):
    folder = tmp_path / "source"
    folder.mkdir()
    GRAPH.write(folder / "label.txt")
    (folder / "label.txt").write_text("\n".join(GRAPH.lines()) + "\n", "utf-8")
    for name in ("train.txt", "dev.txt"):
        write_rows(folder / name, [(f"第{i}行", ["财经", "财经##股票"]) for i in range(8)])
    (folder / "data.txt").write_text("第一行\n", "utf-8")
    return folder


@pytest.fixture
def args(source, tmp_path):
    counts = {"rows": 4, "choose": 2, "dev_rows": 2, "train_rows": 4, "predict_rows": 1}
    return Namespace(dataset_dir=source, work_dir=tmp_path, **counts)


def of_main_job(args, folder):
    folder.mkdir()
    main_job.write_data(args, folder)


@pytest.mark.parametrize(
    "make",
    [
        lambda args, folder: plant(args.dataset_dir, folder, 2, 1),
        lambda args, folder: recipes.make_data(args, GRAPH, folder, "4", 1),
        lambda args, folder: routes.make_data(args, GRAPH, folder, "all", 0, set()),
        lambda args, folder: learning_rates.write_data(args, folder),
        lambda args, folder: analysis_experiments.Bench(args, 1),
        of_main_job,
    ],
    ids=["planting", "recipes", "routes", "learning_rates", "analysis_experiments", "main_job"],
)
def test_labels_keep_their_parents_and_words(args, make):
    folder = args.work_dir / "4-1"
    make(args, folder)
    there = LabelTree.read(folder / "label.txt")
    assert there.is_same(GRAPH) and there.words == GRAPH.words


def test_a_graph_of_earlier_labels_goes(source, tmp_path):
    drawing.copy_labels(source, tmp_path)
    (source / "label_graph.txt").unlink()
    drawing.copy_labels(source, tmp_path)
    assert LabelTree.read(tmp_path / "label.txt").further == []


@pytest.mark.parametrize(("new", "known", "of_new"), [({1}, "", "体育##转会\t财经\n"), ({3}, "体育##转会\t财经\n", "")])
def test_new_labels_and_known_ones_keep_their_parents(args, monkeypatch, tmp_path, new, known, of_new):
    monkeypatch.setattr(unseen, "withheld_labels", lambda tree, count: new)
    args.withheld = 1
    unseen.make_rows(args, tmp_path / "rows")
    for name, content in (("label_graph.txt", known), ("new_labels_graph.txt", of_new)):
        path = tmp_path / "rows" / name
        assert (path.read_text("utf-8") if path.exists() else "") == content


def test_rows_that_choose_are_always_the_same_and_never_drawn():
    choose, others = drawing.split(50, 20)
    assert sorted([*choose, *others]) == list(range(50)) and len(choose) == 20
    assert np.array_equal(drawing.split(50, 20)[0], choose)


def test_rows_that_are_drawn():
    targets = np.zeros((100, 3), bool)
    targets[:90, 0], targets[80:, 1], targets[99, 2] = True, True, True
    assert sorted(drawing.drawn(targets, "all", 1)) == list(range(100))
    some = drawing.drawn(targets, "30", 1)
    assert len(set(some)) == 30 and set(some) != set(drawing.drawn(targets, "30", 2))
    few = drawing.drawn(targets, "5x", 1)
    assert len(set(few)) == 1 + 5 + 5 and 99 in few and targets[few, 1].sum() >= 5


def test_fewer_rows_are_read_more_often():
    assert [drawing.plan(n) for n in (74, 370, 1480, 2000, 10_000)] == [
        (60, 8, 1e-4), (60, 8, 1e-4), (16, 32, 3e-4), (12, 32, 3e-4), (8, 32, 3e-4),
    ]  # fmt: skip
    assert drawing.plan(74, 0.01)[0] == 1
