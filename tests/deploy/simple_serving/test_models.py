"""deploy/simple_serving: several models behind one port, two versions side by side, the end in a rolling change."""

import json
import re
import shutil
import signal
import subprocess
import threading
import time
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest

for package in ("fastapi", "fastapi_offline", "httptools", "httpx", "prometheus_client"):
    pytest.importorskip(package)

# ruff: noqa: E402
import httpx

from deploy.simple_serving import server
from deploy.simple_serving.models import Models
from deploy.simple_serving.versions import compare
from hierarchical.labels import LabelTree
from hierarchical.predictor import Predictor
from utils import InputError

from tests.conftest import ROOT  # isort: skip
from tests.deploy.simple_serving.conftest import KEY, LENGTHS, Running, figures, held_by, in_background  # isort: skip
from tests.deploy.simple_serving.conftest import problem, wait_until  # isort: skip
from tests.ports import free_ports  # isort: skip


def test_what_differs_between_two_versions():
    tree = LabelTree(["a", "b", "c"])
    first, second = np.array([0.9, 0.1, 0.2], np.float32), np.array([0.4, 0.6, 0.2], np.float32)
    differences, largest = compare([([0], first), ([0], first)], [([0], first), ([1], second)], tree)
    assert differences == [{"text": 1, "missing": ["a"], "added": ["b"]}] and largest == pytest.approx(0.5)


@pytest.mark.parametrize(
    "flags",
    [
        ["--model", "export"],
        ["--model", "a b=export"],
        ["--model", "default=export"],
        ["--model", "a=export", "a=other"],
        ["--split", "new=0.1"],
        ["--model", "new=export", "--split", "new=2"],
        ["--shadow", "new"],
        ["--drain_seconds", "-1"],
    ],
)
def test_bad_flags(flags):
    with pytest.raises(SystemExit, match="2"):
        server.main(["--model_path", "export", *flags])


@pytest.mark.slow
def test_models_are_asked_by_name_and_loaded_and_unloaded(start, tiny_export, plain_export, tmp_path):
    copy = shutil.copytree(plain_export, tmp_path / "plain")
    flags = ("--precision", "float32", "--model", f"plain={copy}")
    one = start("--model_path", tiny_export, *flags, environment={"SERVING_API_KEY": KEY})
    text, floor = "国足今晚出战", {"floor": 0}
    with httpx.Client(base_url=one.url, timeout=30, headers={"X-API-Key": KEY}) as client:

        def ask(**body):
            return client.post("/v1/classify", json={"texts": text} | floor | body)

        for name, export in (("default", tiny_export), ("plain", plain_export)):
            (row,) = ask(model=name).raise_for_status().json()["results"]
            (p,) = Predictor(export).probabilities([text])
            labels = Predictor(export).labels
            assert [row["probabilities"][label] for label in labels] == pytest.approx(p, abs=1e-4)
        assert ask().json() == ask(model="default").json() != ask(model="plain").json()
        wrong = ask(model="plane")
        assert wrong.status_code == 422 and problem(wrong)["how"] == "Did you mean 'plain'?"
        assert client.post("/v1/explain", json={"text": text, "model": "plain"}).status_code == 200

        states = client.get("/v1/models").raise_for_status().json()["models"]
        assert [(state["name"], state["default"], state["loaded"]) for state in states] == [
            ("default", True, True), ("plain", False, True)
        ]  # fmt: skip
        assert states[0]["memory_bytes"] > 0 and states[0]["version"] != states[1]["version"]
        assert client.get("/v1/models", headers={"X-API-Key": "wrong"}).status_code == 401

        assert client.post("/v1/models/plain/unload").raise_for_status().json()["loaded"] is False
        assert ask(model="plain").status_code == 503 and ask().status_code == 200
        assert sum(name.startswith("model_info{") for name in figures(client)) == 1
        (copy / "label.txt").rename(tmp_path / "label.txt")
        broken = client.post("/v1/models/plain/load")
        assert broken.status_code == 409 and "label.txt" in problem(broken)["what"]
        (tmp_path / "label.txt").rename(copy / "label.txt")
        assert client.post("/v1/models/plain/load").raise_for_status().json()["loaded"] is True
        assert ask(model="plain").status_code == 200
        assert client.post("/v1/models/default/unload").status_code == 409
        before = client.get("/v1/models").json()["models"]
        (copy / "label.txt").write_bytes(b"")
        assert client.post("/admin/reload").status_code == 409  # of one; the other is loaded anew
        after = client.get("/v1/models").json()["models"]
        assert after[1] == before[1] and after[0]["version"] == before[0]["version"]
        assert ask(model="plain").status_code == 200 and figures(client)['model_reloads_total{outcome="done"}'] == 2
        assert (
            client.post("/v1/models/..%2Fetc/load").status_code == client.post("/v1/models/a/load").status_code == 404
        )


@pytest.mark.slow
def test_versions_side_by_side(start, tiny_export, plain_export, tmp_path):
    log = tmp_path / "log"
    flags = ["--model_path", tiny_export, "--model", f"new={plain_export}", "--precision", "float32"]
    split = start(*flags, "--split", "new=0.3", "--access_log", log)
    with httpx.Client(base_url=split.url, timeout=30) as client:
        names = Counter(client.post("/v1/classify", json={"texts": "国足"}).headers["X-Model"] for _ in range(200))
        assert client.post("/v1/classify", json={"texts": "国足", "model": "new"}).headers["X-Model"] == "new"
    assert 30 < names["new"] < 95 and names["new"] + names["default"] == 200  # 60, give or take 5 deviations
    split.stop()
    assert Counter(json.loads(line)["model"] for line in log.read_text("utf-8").splitlines())["new"] == names["new"] + 1

    log.unlink()
    shadow = start(*flags, "--shadow", "new", "--access_log", log)
    texts = ["国足今晚出战", "央行下调利率", "门将扑出点球", ""]
    with httpx.Client(base_url=shadow.url, timeout=30) as client:
        answer = client.post("/v1/classify", json={"texts": texts}, headers={"X-Request-ID": "mine"}).json()["results"]
        reference = {"data": {"text": texts}}
        client.post("/models/cls_hierarchical", json=reference).raise_for_status()
        told = 'shadow_texts_total{outcome="%s"}'
        wait_until(lambda: sum(figures(client).get(told % name, 0) for name in ("same", "different")) == 8)
    shadow.stop()
    expected = Predictor(plain_export).predict(texts)
    differing = [i for i, (row, other) in enumerate(zip(answer, expected)) if row["labels"] != other.labels]
    assert differing and 3 not in differing
    (line,) = (
        row for row in map(json.loads, log.read_text("utf-8").splitlines()) if row["id"] == "mine" and "shadow" in row
    )
    assert [row["text"] for row in line["differences"]] == differing and line["different"] == len(differing)
    for row in line["differences"]:
        labels = set(answer[row["text"]]["labels"])
        assert labels - set(row["missing"]) | set(row["added"]) == set(expected[row["text"]].labels)
    assert "国足" not in log.read_text("utf-8")


def test_versions_have_the_same_labels():
    """Class indices of the one would be read as those of the other."""

    def model(*labels):
        return lambda: SimpleNamespace(tree=LabelTree(list(labels)), path="file")

    Models({"default": model("a", "b"), "new": model("a", "b"), "other": model("c")}, alike=["new"])
    with pytest.raises(InputError, match="labels of 'new' are not those of 'default'"):
        Models({"default": model("a", "b"), "new": model("b", "a")}, alike=["new"])


@pytest.mark.slow
def test_explanations_leave_room_for_answers(start, tiny_export, gate):
    change = held_by(gate) + LENGTHS
    one = start("--model_path", tiny_export, "--explain_limit", 1, "--num_threads", 1, change=change)
    with httpx.Client(base_url=one.url, timeout=60) as client:
        first = in_background(client.post, "/v1/explain", json={"text": "长文本分类" * 8})
        wait_until(lambda: figures(client)["queue_length"] > 4)
        refused = client.post("/v1/explain", json={"text": "国足"})
        assert refused.status_code == 429 and "1 explanations" in problem(refused)["what"]
        waiting = figures(client)["queue_length"]
        second = in_background(client.post, "/v1/classify", json={"texts": "国足"})
        wait_until(lambda: figures(client)["queue_length"] == waiting + 1)
        gate.touch()
        for box in (first, second):
            box.thread.join()
            assert box.value.status_code == 200
        lengths = re.findall(r"^\d+$", one.log(), re.M)
        assert len(lengths) > 6 and lengths.index("2") <= 2, "the answer comes before the explanation"
        assert client.post("/v1/explain", json={"text": "国足"}).status_code == 200


# ---- the end ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_it_goes_on_for_a_while_after_it_said_that_it_leaves(start, tiny_export):
    one = start("--model_path", tiny_export, "--drain_seconds", 3)
    with httpx.Client(base_url=one.url, timeout=30) as client:
        began = time.monotonic()
        one.process.send_signal(signal.SIGTERM)
        wait_until(lambda: client.get("/ready").status_code == 503)
        answer = client.post("/v1/classify", json={"texts": "国足"})
        assert answer.status_code == 200 and answer.headers["Connection"] == "close"
    assert one.process.wait(timeout=30) == 0 and time.monotonic() - began > 2.9


@pytest.fixture
def nginx(tmp_path):
    """(its address, the ports of the two servers behind it): deploy/simple_serving/nginx.conf with free ports."""
    if not (found := shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")):
        pytest.skip("nginx is not installed")
    listen, *ports = free_ports(3)
    text = (ROOT / "deploy/simple_serving/nginx.conf").read_text("utf-8")
    for old, new in zip(("8080", "8189", "8190"), (listen, *ports)):
        assert old in text
        text = re.sub(rf"\b{old}\b", str(new), text)
    paths = "".join(
        f"{name}_temp_path {tmp_path}/{name};" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    conf = tmp_path / "nginx.conf"
    conf.write_text(f"pid {tmp_path}/pid; error_log {tmp_path}/error.log; daemon off; events {{}}\n"
                    f"http {{ access_log off; {paths}\n{text} }}")  # fmt: skip
    done = subprocess.run([found, "-t", "-p", tmp_path, "-c", conf], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    process = subprocess.Popen([found, "-p", tmp_path, "-c", conf], stderr=subprocess.DEVNULL)
    yield f"http://127.0.0.1:{listen}", ports
    process.terminate()
    process.wait()


@pytest.mark.slow
def test_a_rolling_change_loses_nothing(nginx, tiny_export, tmp_path):
    """24 clients ask through nginx while one server after the other is ended and started again."""
    address, ports = nginx
    flags = ["--model_path", tiny_export, "--allowed_hosts", "*", "--drain_seconds", 1]
    servers = [Running(tmp_path, *flags, "--port", port) for port in ports]
    going, statuses, faults = threading.Event(), Counter(), []

    def ask():
        with httpx.Client(base_url=address, timeout=60) as client:
            while not going.is_set():
                try:
                    answer = client.post("/v1/classify", json={"texts": "国足今晚出战"})
                    statuses[answer.status_code] += 1
                except httpx.HTTPError as error:
                    faults.append(repr(error))

    clients = [threading.Thread(target=ask) for _ in range(24)]
    for one in clients:
        one.start()
    try:
        time.sleep(1)
        for i, port in enumerate(ports):
            before = sum(statuses.values())
            assert servers[i].stop() == 0
            servers[i] = Running(tmp_path, *flags, "--port", port)
            time.sleep(2.5)  # nginx looks at it again
            assert sum(statuses.values()) > before + 24
    finally:
        going.set()
        for one in clients:
            one.join()
        for one in servers:
            one.process.kill()
            one.process.wait()
    assert faults == [] and set(statuses) == {200}
