"""benchmarks/analysis_experiments.py: planted errors, and runs that are made once; the trainings themselves take hours."""

import random

import numpy as np
import pytest

from benchmarks import analysis_experiments as experiments
from benchmarks.planting import wrong_labels
from hierarchical.ledger import Ledger, id_of
from utils import InputError, LabelTree, load_rows

TREE = LabelTree(["体育", "体育##足球", "体育##篮球", "财经", "财经##股票", "财经##基金"])
FOOTBALL = (0, 1)


@pytest.mark.parametrize(
    "error, possible",
    [
        ("anywhere", {(0, 2), (3, 4), (3, 5)}),
        ("sibling", {(0, 2)}),
        ("missing", {(0, 2), (3, 4), (3, 5)}),  # the only leaf becomes another one
        ("extra", {(0, 1, 2), (0, 1, 3, 4), (0, 1, 3, 5)}),
    ],
)
def test_wrong_labels(error, possible):
    rng = random.Random(0)
    made = {wrong_labels(TREE, FOOTBALL, error, rng) for _ in range(100)}
    assert made == possible


def test_a_missing_label_takes_its_ancestors_along():
    made = {wrong_labels(TREE, (0, 1, 3, 4), "missing", random.Random(seed)) for seed in range(20)}
    assert made == {(0, 1), (3, 4)}


@pytest.fixture
def bench(tmp_path, monkeypatch):
    """A bench over eight rows, of which four are drawn; its scripts do nothing but note how they were called."""
    labels = [label for label in TREE.labels if "##" in label] * 2
    rows = "".join(f"第{i}行\t{label.split('##')[0]},{label}\n" for i, label in enumerate(labels))
    (tmp_path / "train.txt").write_text(rows, encoding="utf-8")
    (tmp_path / "dev.txt").write_text(rows, encoding="utf-8")
    (tmp_path / "label.txt").write_text("\n".join(TREE.labels) + "\n", encoding="utf-8")
    flags = f"annotate --dataset_dir {tmp_path} --model_name none --work_dir {tmp_path / 'work'} --rows 4 --dev_rows 3"
    bench = experiments.Bench(experiments.parse_args(flags.split()), 1)
    bench.calls = []

    def script(name, *flags):
        bench.calls.append((name, *map(str, flags)))
        if name == "analysis/evaluate.py":
            path = flags[flags.index("--output_json") + 1]
            path.write_text('{"dev": {"micro_f1": 0.5, "macro_f1": 0.25}}', encoding="utf-8")

    monkeypatch.setattr(bench, "script", script)
    return bench


def test_what_was_found_is_counted(bench):
    found = np.zeros(300, bool)
    found[[0, 1, 60, 120, 299]] = True  # wrong rows, by their place in the order of suspicion
    experiments.report_found(bench, "sibling, x", found)
    expected = {"precision@50": 4.0, "precision@100": 3.0, "precision@150": 2.67, "recall@5": 40.0}
    assert experiments.read_results(bench.record) == {(4, 1, "sibling, x"): expected}


def test_suspects_are_asked_of_the_planted_rows_without_a_model(bench, monkeypatch):
    bench.rows = [(f"第{i}行", FOOTBALL) for i in range(40)]
    given = []
    monkeypatch.setattr(experiments, "out_of_fold", lambda *given_: given.append(given_) or (-np.arange(40.0), None))
    experiments.suspects(bench)
    rows, tree, _ = given[0]
    wrong = [labels != FOOTBALL for labels in rows.labels]
    assert sum(wrong) == 4 and tree is bench.tree and not bench.calls
    (found,) = experiments.read_results(bench.record).values()
    assert found["recall@4"] == round(100 * sum(wrong[:4]) / 4, 2)


def test_rows_of_a_draw(bench):
    files = {path.name: path.read_text(encoding="utf-8").splitlines() for path in bench.folder.glob("*.txt")}
    assert len(files["train.txt"]) == 4 and len(files["dev.txt"]) == 8 and len(files["dev_epoch.txt"]) == 3
    assert {text for text, _ in bench.rows}.isdisjoint(text for text, _ in bench.others)


def test_a_known_run_is_not_made_again_and_steps_stay_the_same(bench):
    bench.write("twice.txt", bench.rows * 2)
    bench.train("baseline")
    bench.train("twice", "twice.txt")
    bench.train("baseline")
    passes = [call[call.index("--epochs") + 1] for call in bench.calls if call[0] == "train.py"]
    assert passes == ["8", "4"]
    scores = {"micro_f1": 50, "macro_f1": 25}
    assert experiments.read_results(bench.record) == {(4, 1, "baseline"): scores, (4, 1, "twice"): scores}


@pytest.mark.parametrize("one_model", [False, True])
def test_each_round_chooses_among_the_texts_that_are_left(bench, monkeypatch, one_model):
    """With the model of the last, or with the first one, which spares a training."""
    bench.args.one_model = one_model
    bench.args.support, bench.args.rounds, left, script = [1], 2, [], bench.script

    def choosing(name, *flags):
        script(name, *flags)
        if name == "analysis/sparse.py":
            texts = (bench.folder / "data.txt").read_text(encoding="utf-8").splitlines()
            left.append(texts)
            (bench.folder / "support.txt").write_text(f"{texts[0]}\n", encoding="utf-8")

    monkeypatch.setattr(bench, "script", choosing)
    experiments.annotate(bench)
    chosen = [call for call in bench.calls if call[0] == "analysis/sparse.py"]
    assert [len(texts) for texts in left] == [4, 3] and left[0][1:] == left[1]
    assert [call[call.index("--train_file") + 1] for call in chosen] == ["train.txt", "train-annotate-1.txt"]
    models = ["baseline", "baseline" if one_model else "annotate-1"]
    checkpoints = [bench.folder / f"checkpoint-{what}" for what in models]
    assert [call[call.index("--params_path") + 1] for call in chosen] == list(map(str, checkpoints))
    first, second, others = (
        (bench.folder / f"train-{what}.txt").read_text("utf-8").splitlines()
        for what in ("annotate-1", "annotate-1-1", "random-2")
    )
    assert len(first) == 5 and second[:5] == first and len(second) == len(others) == 6
    trained = ["annotate-1-1-one-model"] if one_model else ["annotate-1", "annotate-1-1"]
    assert [what for *_, what in experiments.read_results(bench.record)] == ["baseline", *trained, "random-2"]


def test_each_round_puts_suspects_right_that_none_before_had(bench, monkeypatch):
    bench.args.rounds, wrong = 2, [(text, (3, 4)) for text, _ in bench.rows]
    monkeypatch.setattr(experiments, "out_of_fold", lambda rows, tree, search: (np.array([3, 2, 4, 1]), None))
    experiments.clean(bench, "wrong", wrong, np.array([2, 1, 3, 0]), 1)
    first, second = (load_rows(bench.folder / f"wrong-clean-{what}.txt", TREE).labels for what in ("1", "1-1"))
    right = [labels for _, labels in bench.rows]
    assert first == [(3, 4), (3, 4), right[2], (3, 4)] and second == [right[0], (3, 4), right[2], (3, 4)]


def test_trusted_rows_are_made_of_the_answers(bench):
    bench.args.trusted, wrong = True, [(text, (3, 4)) for text, _ in bench.rows]
    bench.write("wrong-clean-2-trusted.txt", bench.rows[:3])  # as dirty.py would
    experiments.clean(bench, "wrong", wrong, np.array([2, 1, 3, 0]), 2)
    merge, train = bench.calls[0], bench.calls[1]
    folder = bench.folder / "wrong-clean-2-trusted"
    assert merge[1:3] == ("--dataset_dir", str(folder)) and merge[-1] == f"{folder}.txt"
    assert load_rows(folder / "train.txt", TREE).labels == [labels for _, labels in wrong]
    ledger = Ledger(folder)
    assert [ledger.verdict(id_of(bench.rows[i][0])) is not None for i in range(4)] == [False, True, True, False]
    right = {TREE.labels[k] for k in bench.rows[2][1]}
    assert set(ledger.verdict(id_of(bench.rows[2][0])).labels) == right
    assert train[train.index("--train_file") + 1] == f"{folder.name}.txt"


def test_summary(capsys):
    scores = {(4, 1, "baseline"): {"micro_f1": 50.0}, (4, 2, "baseline"): {"micro_f1": 60.0}}
    experiments.summary(scores)
    assert capsys.readouterr().out == "4 rows, baseline, 2 seeds: micro_f1 55.00 (50.00 to 60.00)\n"


def test_a_script_that_fails_is_named(tmp_path, bench, monkeypatch):
    monkeypatch.undo()
    with pytest.raises(InputError, match=r"train.py failed; .*log.txt tells why"):
        bench.script("train.py", "--dataset_dir", tmp_path / "nowhere", "--save_dir", tmp_path / "checkpoint")
