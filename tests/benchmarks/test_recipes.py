"""benchmarks/recipes.py: the table, and runs that are made once; the trainings themselves take hours."""

import json

import pytest

from benchmarks import recipes
from utils import LabelTree, load_rows

TREE = LabelTree(["体育", "体育##足球", "财经"])


def test_what_a_recipe_builds_on_is_made_before_it():
    assert recipes.with_bases(["hybrid"]) == ["plain", "hybrid"]
    assert recipes.with_bases(["hybrid", "linear"]) == ["linear", "plain", "hybrid"]


@pytest.mark.parametrize("rows", ["0", "x", "0x", "some"])
def test_flags(capsys, rows):
    with pytest.raises(SystemExit):
        recipes.parse_args(["--dataset_dir", "d", "--model_name", "m", "--rows", rows])
    assert "such as 2000 or 20x, or all" in capsys.readouterr().err


@pytest.fixture
def bench(tmp_path, monkeypatch):
    """(flags, calls): 60 rows, and scripts that do nothing but note how they were called, and score 50 and 25 %."""
    labels = ["体育,体育##足球", "财经", "体育"] * 20
    rows = "".join(f"第{i}行\t{names}\n" for i, names in enumerate(labels))
    for name, content in (("train.txt", rows), ("dev.txt", rows), ("label.txt", "\n".join(TREE.labels))):
        (tmp_path / name).write_text(content, encoding="utf-8")
    calls = []

    def call(log, script, *arguments):
        calls.append((script, *map(str, arguments)))
        if "--output_json" in arguments:
            by_label = {label: {"f1": share} for label, share in zip(TREE.labels, (0.1, 0.2, 0.3))}
            content = {"dev": {"micro_f1": 0.5, "macro_f1": 0.25, "labels": by_label}}
            arguments[arguments.index("--output_json") + 1].write_text(json.dumps(content), encoding="utf-8")

    monkeypatch.setattr(recipes, "call", call)
    flags = ["--dataset_dir", tmp_path, "--model_name", "encoder", "--work_dir", tmp_path / "work", "--choose", "20"]
    return [*map(str, flags), "--rows", "30", "--seeds", "1", "2"], calls


def test_runs_are_made_once_and_make_a_table(bench, tmp_path, capsys):
    flags, calls = bench
    recipes.main([*flags, "--recipes", "hybrid"])
    assert [call[0] for call in calls] == ["train.py", "analysis/evaluate.py"] * 4  # plain and hybrid, two seeds
    assert "--hybrid" not in calls[0] and "--hybrid" in calls[2]
    folder = tmp_path / "work" / "30-1"
    parts = {name: load_rows(folder / f"{name}.txt", TREE).texts for name in ("train", "dev", "test")}
    assert {name: len(texts) for name, texts in parts.items()} == {"train": 30, "dev": 20, "test": 60}
    assert not {*parts["train"]} & {*parts["dev"]}
    said = capsys.readouterr().out.splitlines()
    # 体育 has 20 of the 30 rows, 体育##足球 and 财经 about 10: all fewer than 30
    assert "| 30 | hybrid | 2 | 50.00 (50.00 to 50.00) | 25.00 (25.00 to 25.00) | 20.00 (20.00 to 20.00) |" in said[-1]
    del calls[:]
    recipes.main(flags)
    assert [call[0] for call in calls] == ["analysis/baseline.py", "analysis/evaluate.py"] * 2  # linear alone was new
    lines = (tmp_path / "work" / "results.jsonl").read_text("utf-8").splitlines()
    assert len(lines) == 6 and len({(json.loads(line)["seed"], json.loads(line)["recipe"]) for line in lines}) == 6
