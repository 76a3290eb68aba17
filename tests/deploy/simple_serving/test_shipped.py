"""deploy/simple_serving: what is shipped beside the code fits it: image, manifests, units, figures of alerts."""

import json
import os
import re
import shutil
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

for package in ("fastapi", "fastapi_offline", "httptools", "httpx", "prometheus_client", "yaml"):
    pytest.importorskip(package)

# ruff: noqa: E402
import httpx
import yaml

from deploy.simple_serving import server
from deploy.simple_serving.figures import Figures

from tests.conftest import ROOT  # isort: skip
from tests.deploy.simple_serving.conftest import Running  # isort: skip

HERE = ROOT / "deploy/simple_serving"


def dockerfile():
    """[[word, ...] of each line]"""
    text = (HERE / "Dockerfile").read_text("utf-8").replace("\\\n", " ")
    return [line.split() for line in text.splitlines() if line and line[0] != "#"]


def copied():
    """What the image holds of the repository: paths."""
    lines = dockerfile()
    start = lines.index(["FROM", "python:3.12-slim", "AS", "server"])
    copies = [words[1:-1] for words in lines[start:] if words[0] == "COPY" and words[-1] not in ("/venv", "/model")]
    return [name for words in copies for name in words]


@pytest.mark.slow
def test_what_the_image_holds_serves(tiny_export, tmp_path):
    """Read-only, from the files that the Dockerfile copies alone, by its own command."""
    place = tmp_path / "srv"
    for name in copied():
        target = place / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, target)
    for path in (place, *place.rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)
    (command,) = (json.loads(" ".join(words)) for first, *words in dockerfile() if first == "ENTRYPOINT")
    assert command[0] == "/venv/bin/python" and command[-2:] == ["--model_path", "/model"]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    log = tmp_path / "log"
    with open(log, "w") as file:
        process = subprocess.Popen(
            [sys.executable, *command[1:-1], str(tiny_export), "--port", "0"],
            cwd=place, env=environment | {"PYTHONDONTWRITEBYTECODE": "1"}, stderr=file,
        )  # fmt: skip
    try:
        one = Running.__new__(Running)
        one.process, one.log_path = process, log
        port = one.wait_for(r"Serving on http://0.0.0.0:(\d+);")
        answer = httpx.post(f"http://127.0.0.1:{port}/v1/classify", json={"texts": "国足"}, timeout=30)
        assert answer.raise_for_status().json()["results"][0]["text"] == "国足"
    finally:
        process.kill()
        process.wait()
    for path in (place, *place.rglob("*")):
        path.chmod(0o755)


def flags_of(path):
    """The words of the server's command in a file that starts it."""
    text = (HERE / path).read_text("utf-8")
    if path.endswith(".service"):
        return re.search(r"^ExecStart=\S+ \S+server.py (.*)", text, re.M)[1].split()
    document = yaml.safe_load(text)
    if path.endswith("compose.yaml"):
        return ["--model_path", "/model", *document["services"]["server"]["command"]]
    (container,) = document["spec"]["template"]["spec"]["containers"]
    return ["--model_path", "/model", *container["args"]]


@pytest.mark.parametrize("path", ["classify.service", "compose/compose.yaml", "kubernetes/deployment.yaml"])
def test_flags_that_exist(path):
    args = server.parse_args(flags_of(path))
    assert args.keys_file and args.access_log and args.drain_seconds


def test_times_of_the_end_fit():
    """Whoever ends the server waits longer than it takes."""
    for path, waits in (
        ("classify.service", int(re.search(r"TimeoutStopSec=(\d+)", (HERE / "classify.service").read_text("utf-8"))[1])),
        ("compose/compose.yaml", int(yaml.safe_load((HERE / "compose/compose.yaml").read_text("utf-8"))["services"]["server"]["stop_grace_period"][:-1])),
        ("kubernetes/deployment.yaml", yaml.safe_load((HERE / "kubernetes/deployment.yaml").read_text("utf-8"))["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]),
    ):  # fmt: skip
        args = server.parse_args(flags_of(path))
        assert args.drain_seconds + args.timeout + 5 < waits, path


def names_of_figures():
    figures = Figures()
    for name in ("queue_length", "http_requests_in_flight"):
        figures.gauge(name, name, lambda: 0)
    return {family.name for family in figures.registry.collect()} | {"up"}


def test_alerts_and_dashboard_ask_for_figures_that_exist():
    rules = yaml.safe_load((HERE / "monitoring/alerts.yml").read_text("utf-8"))["groups"][0]["rules"]
    asked = [rule["expr"] for rule in rules]
    dashboard = HERE / "monitoring/dashboard.json"
    if dashboard.exists():
        panels = json.loads(dashboard.read_text("utf-8"))["panels"]
        asked += [target["expr"] for panel in panels for target in panel.get("targets", ())]
        places = [(panel["gridPos"]["y"], panel["gridPos"]["x"]) for panel in panels]
        assert places == sorted(places) and all(a != b for a, b in pairwise(places))
    known = names_of_figures()
    for expression in asked:
        bare = re.sub(
            r'"[^"]*"|\{[^}]*\}|\[[^]]*\]|\b(by|le|instance|stage|path|reason|status|model|outcome|version)\b',
            " ",
            expression,
        )
        for name in re.findall(r"\b[a-z]+(?:_[a-z]+)+\b|\bup\b", bare):
            if name in ("histogram_quantile", "clamp_min", "label_replace"):
                continue
            assert re.sub(r"_(total|bucket|sum|count)$", "", name) in known or name in known, name
    assert len(rules) == 3


@pytest.mark.skipif(not shutil.which("kubectl"), reason="kubectl is not installed")
def test_manifests_fit_together(tmp_path):
    folder = Path(shutil.copytree(HERE / "kubernetes", tmp_path / "kubernetes"))
    (folder / "keys.jsonl").write_text("{}")
    done = subprocess.run(["kubectl", "kustomize", folder], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    made = {document["kind"]: document for document in yaml.safe_load_all(done.stdout)}
    assert made.keys() == {
        "Namespace",
        "Secret",
        "Deployment",
        "Service",
        "PodDisruptionBudget",
        "HorizontalPodAutoscaler",
    }
    pod = made["Deployment"]["spec"]["template"]
    labels = pod["metadata"]["labels"]
    for kind, selector in (("Service", "selector"), ("PodDisruptionBudget", "selector"), ("Deployment", "selector")):
        chosen = made[kind]["spec"][selector]
        assert (chosen if kind == "Service" else chosen["matchLabels"]).items() <= labels.items()
    (container,) = pod["spec"]["containers"]
    assert made["Secret"]["metadata"]["name"] == pod["spec"]["volumes"][0]["secret"]["secretName"]
    assert made["Service"]["spec"]["ports"][0]["targetPort"] in [port["name"] for port in container["ports"]]
    assert container["image"] == "registry.example/classify-news:1"
