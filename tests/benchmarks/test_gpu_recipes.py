"""benchmarks/gpu_recipes.py: what is made, in which order, by which process, and the table; trainings need torch."""

import json

import numpy as np
import pytest

from benchmarks import gpu_recipes
from benchmarks.gpu_recipes import Job


def args_of(tmp_path, *flags):
    return gpu_recipes.parse_args(["--dataset_dir", "d", "--model_name", "m", "--work_dir", str(tmp_path), *flags])


def names(jobs):
    return [job.name for job in jobs]


def test_what_a_student_needs_is_made_before_it(tmp_path):
    args = args_of(tmp_path, "--rows", "2000", "--seeds", "5", "--techniques", "soft_three_linear", "plain")
    plain = ["2000-5-plain", "2000-5-plain.1", "2000-5-plain.2"]
    assert names(gpu_recipes.jobs_of(args)) == [*plain, "2000-5-soft_three_linear"]
    of_all = Job("all", 3, "soft_three_linear")
    assert names(of_all.needs()) == ["all-1-plain", "all-2-plain", "all-3-plain"]  # the same rows, whatever the seed
    assert names(Job("20x", 1, "masked").needs()) == ["texts-0-masked"] and Job("", 0, "masked").needs() == []
    assert names(Job("20x", 1, "soft_own_linear_warm").needs()) == ["20x-1-plain", "20x-1-plain"]


def test_teachers_of_another_technique(tmp_path):
    student = Job("2000", 1, "both_layers_soft_own")
    assert names(student.needs()) == ["2000-1-both_layers"]
    assert student.needs()[0].teaches() and not student.teaches() and not Job("2000", 1, "longer").teaches()


def test_a_job_is_claimed_once_and_when_its_needs_are_there(tmp_path):
    args = args_of(tmp_path, "--rows", "20x", "--seeds", "1", "--techniques", "soft_own")
    jobs = gpu_recipes.jobs_of(args)
    plain, student = jobs
    assert gpu_recipes.claim(args, jobs) == (plain, True)
    assert gpu_recipes.claim(args, jobs) == (None, True)  # the student has to wait
    (tmp_path / f"{plain.name}.npz").touch()
    assert gpu_recipes.claim(args, jobs) == (student, True)
    assert gpu_recipes.claim(args, jobs) == (None, False)


def test_the_table(tmp_path, capsys):
    scores = {"last": [95.0, 92.0, 90.0]}
    for seed, more in ((1, 0), (2, 1), (3, 0)):
        entry = {"rows": "all", "seed": seed, "technique": "plain", "other": 0, "steps": 10}
        entry |= {name: list(np.add(value, more)) for name, value in scores.items()}
        (tmp_path / f"all-{seed}-plain.json").write_text(json.dumps(entry))
    another = json.dumps(entry | {"other": 1, "last": [0, 0, 0]})  # a teacher's: not of the comparison
    (tmp_path / "all-3-plain.1.json").write_text(another)
    gpu_recipes.main(["--dataset_dir", "d", "--model_name", "m", "--work_dir", str(tmp_path), "--table"])
    rows = capsys.readouterr().out.splitlines()
    assert len(rows) == 3 and rows[2] == "| all | plain | 3 | 10 |  |  | 95.33 / 92.33 |  |  |  |  |  |"
    assert rows[0].split(" | ")[6] == "last"


def test_flags(capsys):
    with pytest.raises(SystemExit):
        gpu_recipes.parse_args(["--dataset_dir", "d", "--model_name", "m", "--linear", "recipes"])
    assert "--linear: needs --linear_dir" in capsys.readouterr().err
