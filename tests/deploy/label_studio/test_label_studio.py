"""deploy/label_studio, asked by Label Studio itself, where the variable LABEL_STUDIO names its program.

It has an environment of its own: python -m venv studio && studio/bin/pip install label-studio==1.23.2
LABEL_STUDIO=studio/bin/label-studio python -m pytest tests/deploy/label_studio
"""

import json
import os
import subprocess

import pytest

for package in ("fastapi", "fastapi_offline", "httptools", "httpx", "prometheus_client"):
    pytest.importorskip(package)

# ruff: noqa: E402
import httpx

from hierarchical.annotation import import_files
from hierarchical.ledger import Ledger, id_of
from hierarchical.rows import Row
from utils import LabelTree

from tests.deploy.label_studio.messages import taxonomy  # isort: skip
from tests.deploy.simple_serving.conftest import Running, wait_until  # isort: skip
from tests.ports import free_ports  # isort: skip

PROGRAM = os.environ.get("LABEL_STUDIO")
TOKEN = "0123456789abcdef0123456789abcdef01234567"
OPEN = {"ML_BLOCK_LOCAL_IP": "false", "SSRF_PROTECTION_ENABLED": "false"}  # it may ask this machine
START_SECONDS = 600  # it makes its database first

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not PROGRAM, reason="LABEL_STUDIO names no program")]


@pytest.fixture
def studio(tmp_path):
    """studio(method, path, content): what Label Studio answers, as JSON; a new one, which ends with the test."""
    (port,) = free_ports(1)
    account = ["--username", "ann@example.org", "--password", "a-long-password", "--user-token", TOKEN]
    more = {"LABEL_STUDIO_BASE_DATA_DIR": str(tmp_path / "studio"), "LABEL_STUDIO_ENABLE_LEGACY_API_TOKEN": "true"}
    words = [PROGRAM, "start", "--no-browser", "--port", str(port), *account]
    environment = os.environ | OPEN | more | {"COLLECT_ANALYTICS": "false"}
    with open(tmp_path / "studio.log", "w") as log:
        process = subprocess.Popen(words, env=environment, stdout=log, stderr=log)
    headers = {"Authorization": f"Token {TOKEN}"}
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", headers=headers, timeout=60) as client:

        def is_up():
            assert process.poll() is None, (tmp_path / "studio.log").read_text()[-2000:]
            try:
                return client.get("/health").status_code == 200
            except httpx.TransportError:
                return False

        def studio(method, path, content=None):
            answer = client.request(method, path, json=content)
            assert answer.is_success, answer.text[:1000]
            return answer.json() if answer.content else None

        try:
            wait_until(is_up, START_SECONDS)
            yield studio
        finally:
            process.terminate()
            process.wait()


def test_proposals_and_answers(studio, tiny_export, tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "label.txt").write_bytes((tiny_export / "label.txt").read_bytes())
    tree, texts = LabelTree.read(folder / "label.txt"), ["某公司宣布裁员", "球队主场获胜", "股市大涨"]
    leaf = next(i for i in range(len(tree)) if not tree.children[i])
    rows = [Row(line, text, tuple(tree.closure([leaf]))) for line, text in enumerate(texts, 1)]
    files = {name: "".join(lines) for name, (_, lines) in import_files(rows, [], tree).items()}
    flags = ["--model_path", tiny_export, "--dataset_dir", folder]
    server = Running(tmp_path, *flags, change="from deploy.label_studio import backend as server")
    try:
        config = files["label_studio_config.xml"]
        project = studio("POST", "/api/projects", {"title": "news", "label_config": config})["id"]
        studio("POST", f"/api/projects/{project}/import", json.loads(files["label_studio_tasks.json"]))
        model = studio("POST", "/api/ml", {"url": server.url, "project": project, "title": "ours"})
        assert model["readable_state"] == "Connected"
        chosen = {"selectedItems": {"all": True, "excluded": []}}
        studio("POST", f"/api/dm/actions?id=retrieve_tasks_predictions&project={project}", chosen)
        tasks = studio("GET", f"/api/tasks?project={project}&fields=all")["tasks"]
        assert len(tasks) == len(texts)
        for one in tasks:
            given, proposed = sorted(one["predictions"], key=lambda p: p["model_version"] != "data")
            assert given["result"] == taxonomy(tuple(tree.segments(leaf)))
            assert proposed["model_version"] == model["model_version"] and 0 <= proposed["score"] <= 1
        first, second = tasks[:2]
        answer = {"result": taxonomy(tuple(tree.segments(leaf)))}
        made = studio("POST", f"/api/tasks/{first['id']}/annotations", answer)
        studio("POST", f"/api/tasks/{second['id']}/annotations", {"result": [], "was_cancelled": True})

        def states():
            ledger = Ledger(folder)
            return [ledger.verdict(id_of(one["data"]["text"])) for one in tasks]

        wait_until(lambda: all(states()[:2]))
        assert states()[0].labels == tuple(tree.labels[i] for i in tree.closure([leaf]))
        assert states()[1].state == "skipped" and states()[2] is None
        studio("DELETE", f"/api/annotations/{made['id']}")
        wait_until(lambda: states()[0] is None)
    finally:
        server.process.kill()
        server.process.wait()
