"""deploy/label_studio: a real encoder learns from what annotators submit, and the server answers with what it has learned."""

import json
import subprocess
import sys

import pytest

for package in ("fastapi", "fastapi_offline", "httptools", "httpx", "prometheus_client"):
    pytest.importorskip(package)

# ruff: noqa: E402
import httpx

from hierarchical.annotation import import_files
from tests.conftest import ROOT, SAMPLE
from utils import LabelTree

from tests.deploy.label_studio.messages import annotation, setup, task, taxonomy, webhook  # isort: skip
from tests.deploy.simple_serving.conftest import Running  # isort: skip


def script(*words):
    done = subprocess.run([sys.executable, *map(str, words)], cwd=ROOT, capture_output=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.fixture
def first_model(tmp_path):
    """Folders of the data, the rounds and the export after a first training: data, work, export."""
    data, work, export = (tmp_path / name for name in ("data", "work", "export"))
    data.mkdir()
    for name, count in (("train.txt", 60), ("dev.txt", 20), ("label.txt", None)):
        lines = (SAMPLE / name).read_text("utf-8").splitlines()[:count]
        (data / name).write_text("\n".join(lines) + "\n", "utf-8")
    flags = ["--dataset_dir", data, "--model_name", SAMPLE / "tiny-ernie", "--device", "cpu"]
    skipped = ["--skip", "texts", "ask", "merge", "retrain", "compare"]
    of_training = ["--", "--epochs", "1", "--batch_size", "16", "--learning_rate", "1e-3"]
    script("analysis/improve.py", *flags, "--work_dir", work, *skipped, *of_training)
    script("export_model.py", "--params_path", work / "model-0", "--output_path", export, "--precision", "float32")
    return data, work, export


@pytest.mark.slow
def test_answers_become_a_new_model_that_is_served(first_model, tmp_path):
    data, work, export = first_model
    rows = [line.split("\t") for line in (data / "train.txt").read_text("utf-8").splitlines()]
    tree = LabelTree.read(data / "label.txt")
    config = "".join(import_files([], [], tree)["label_studio_config.xml"][1])
    other = {
        text: next(label for label in tree.labels if label.count("##") == 1 and label not in labels)
        for text, labels in rows[:2]
    }

    flags = ["--model_path", export, "--dataset_dir", data, "--work_dir", work, "--train_after", "2"]
    one = Running(tmp_path, *flags, change="from deploy.label_studio import backend as server")
    try:
        with httpx.Client(base_url=one.url, timeout=60) as asked:

            def version():
                return asked.post("/setup", json=setup(config)).raise_for_status().json()["model_version"]

            before = version()
            for number, (text, label) in enumerate(other.items()):
                message = {"annotation": annotation(number, taxonomy(label.split("##"))), "task": task(number, text)}
                asked.post("/webhook", json=webhook("ANNOTATION_CREATED", config, **message)).raise_for_status()
            assert one.wait_for("(Training has ended|Not trained)", seconds=300) == "Training has ended", one.log()
            assert version() != before
        assert one.stop() == 0 and "Traceback" not in one.log()
    finally:
        one.process.kill()
        one.process.wait()

    learned = dict(line.split("\t") for line in (data / "train_clean.txt").read_text("utf-8").splitlines())
    assert [learned[text] for text, _ in rows[2:]] == [labels for _, labels in rows[2:]]
    for text, label in other.items():
        assert set(learned[text].split(",")) == {label.split("##")[0], label}
    assert json.loads((work / "training.json").read_text()) == {"trained": 2, "begun": 0, "round": 2}
    assert "Compared with the older model" in (work / "report-2.html").read_text("utf-8")
