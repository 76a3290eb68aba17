"""benchmarks/growth.py: exponents by hand, and its table of one stage."""

import json
import re

import pytest

from benchmarks import growth


def test_exponents_by_hand():
    assert growth.exponent([10, 20, 40], [3, 6, 12]) == pytest.approx(1)
    assert growth.exponent([10, 20, 40], [3, 12, 48]) == pytest.approx(2)
    assert growth.exponent([10, 20, 40], [5, 5, 5]) == pytest.approx(0)


def test_made_rows_have_a_leaf_and_its_parent():
    tree, rows = growth.made_tree(50), growth.made_rows(100, 50)
    assert all(tree.closure(labels) == list(labels) and len(labels) == 2 for labels in rows.labels)
    assert {len(text) for text in rows.texts} == {28}


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["stratify", "evaluate"])
def test_a_table(tmp_path, capfd, stage):
    growth.main(["--work_dir", str(tmp_path), "--stages", stage, "--rows", "200", "400", "--labels", "20"])
    *_, line = capfd.readouterr().out.splitlines()
    assert re.fullmatch(rf"\| {stage} \| 200 · 400 rows \| 20 labels \|( [\d. ·-]+ \|){{4}}", line), line


@pytest.mark.slow
def test_a_script_counts_as_its_stage(tmp_path):
    args = growth.parse_args(["--work_dir", str(tmp_path), "--rows", "300", "--labels", "20"])
    seconds, memory = growth.measured(args, "evaluate", 300, 20)
    scores = json.loads((tmp_path / "scores.json").read_text("utf-8"))
    assert seconds > 0.2 and memory > 50e6  # of a process that does nothing but start another one, and of that
    assert scores["dev"]["n_rows"] == 300 and len(scores["dev"]["labels"]) == 20


@pytest.mark.parametrize("flags", [["--rows", "5"], ["--rows", "0", "--labels", "3"]])
def test_wrong_flags(flags, capsys):
    with pytest.raises(SystemExit) as caught:
        growth.parse_args(flags)
    assert caught.value.code == 2 and "--labels" in capsys.readouterr().err
