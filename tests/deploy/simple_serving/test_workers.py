"""deploy/simple_serving with --workers: a real server of two processes behind one port."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

for package in ("fastapi", "fastapi_offline", "httptools", "httpx", "prometheus_client"):
    pytest.importorskip(package)
if not sys.platform.startswith("linux"):
    pytest.skip("which process has which connection is told by /proc", allow_module_level=True)

# ruff: noqa: E402
import httpx

from deploy.simple_serving import server
from deploy.simple_serving.supervisor import share_of
from hierarchical.predictor import Predictor

from tests.conftest import ROOT  # isort: skip
from tests.deploy.simple_serving.conftest import figures, key_line, problem, wait_until  # isort: skip

ADMIN, SOME = "admin's key", "some other key"
WORKERS = ("--workers", 2)


def workers_of(one):
    """The process ids of a server's workers, alive or not yet buried."""
    return [int(pid) for pid in Path(f"/proc/{one.process.pid}/task/{one.process.pid}/children").read_text().split()]


def connections(pid, port):
    """How many connections to a port of this machine a process has taken."""
    rows = [line.split() for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]]
    taken = {f"socket:[{row[9]}]" for row in rows if row[1].endswith(f":{port:04X}") and row[3] == "01"}
    return sum(os.readlink(file) in taken for file in Path(f"/proc/{pid}/fd").iterdir() if file.is_symlink())


def on_both(one, **more):
    """Clients, of one connection each, until both workers have some."""
    clients = []
    while len(clients) < 100:
        clients.append(httpx.Client(base_url=one.url, timeout=30, **more))
        clients[-1].get("/ready").raise_for_status()
        if len(clients) > 3 and all(connections(pid, one.address[1]) for pid in workers_of(one)):
            return clients
    raise AssertionError("one worker has all connections")


class Load(threading.Thread):
    """A client that asks over one connection, and a new one where that breaks, until it is told to end."""

    def __init__(self, one, texts, expected, ending):
        super().__init__()
        self.one, self.texts, self.expected, self.ending = one, texts, expected, ending
        self.outcomes = Counter()
        self.asked = None  # when it asked what is not yet answered

    def run(self):
        with httpx.Client(base_url=self.one.url, timeout=30, headers={"X-API-Key": ADMIN}) as client:
            while not self.ending.is_set():
                for text, labels in zip(self.texts, self.expected):
                    self.asked = time.monotonic()
                    try:
                        answer = client.post("/v1/classify", json={"texts": text})
                        found = answer.json()["results"][0]
                        self.outcomes["right" if (found["text"], found["labels"]) == (text, labels) else "wrong"] += 1
                    except httpx.TransportError:
                        self.outcomes["broken"] += 1


def test_shares_of_a_worker(monkeypatch):
    monkeypatch.setattr("deploy.simple_serving.supervisor.available_cores", lambda: 16)
    args = server.parse_args("--model_path export --workers 3 --max_texts 100 --queue_size 600".split())
    assert share_of(args) == "--device cpu --num_threads 6 --queue_size 200 --explain_limit 2".split()
    args = server.parse_args("--model_path export --workers 8 --num_threads 4".split())
    assert share_of(args) == "--device cpu --num_threads 1 --queue_size 128 --explain_limit 1".split()


@pytest.mark.slow
def test_two_workers_are_one_server(start, tiny_export, plain_export, texts, tmp_path):
    export, keys, log = shutil.copytree(tiny_export, tmp_path / "export"), tmp_path / "keys", tmp_path / "log"
    rights = ["classify", "explain", "admin"]
    keys.write_text(
        key_line("boss", ADMIN, rights=rights) + key_line("some", SOME, texts_per_second=0.001, concurrency=3)
    )
    flags = ("--precision", "float32", "--keys_file", keys, "--access_log", log, "--model", f"plain={plain_export}")
    flags += ("--sample_file", tmp_path / "sample", "--sample", 1)
    change = "from deploy.simple_serving import taking; taking.PATIENCE_SECONDS = 5"  # a busy worker keeps its share
    one = start("--model_path", export, *WORKERS, *flags, change=change)
    texts = [text for text in dict.fromkeys(texts) if text.strip()][:8]
    expected = [row.labels for row in Predictor(tiny_export, "float32").predict(texts)]

    # one that dies under load
    ending = threading.Event()
    load, port, before = [], one.address[1], workers_of(one)
    while len(load) < 4 or not all(connections(pid, port) for pid in before):
        load.append(Load(one, texts, expected, ending))
        load[-1].start()
        wait_until(lambda: sum(connections(pid, port) for pid in before) == len(load))
        assert len(load) < 50
    victim = before[0]
    held = connections(victim, port)
    os.kill(victim, signal.SIGSTOP)
    wait_until(lambda: sum(time.monotonic() - client.asked > 1 for client in load) == held)  # all it holds are waiting
    os.kill(victim, signal.SIGKILL)
    one.wait_for(r"Worker \d .* is ready")
    ending.set()
    for client in load:
        client.join()
    total = sum((client.outcomes for client in load), Counter())
    assert total["right"] > 50 and not total["wrong"] and 0 < total["broken"] <= held < len(load)
    assert len(workers_of(one)) == 2 and victim not in workers_of(one)

    clients = on_both(one, headers={"X-API-Key": ADMIN})
    shares = [connections(pid, port) for pid in workers_of(one)]
    assert sum(shares) == len(clients) and max(shares) - min(shares) <= 1
    # figures and limits are those of the server
    counted = {figures(client)['http_requests_total{path="/v1/classify",status="200"}'] for client in clients}
    assert (
        counted.pop() >= 0.5 * total["right"] and not counted
    )  # what the victim had counted is lost since the last look
    assert {figures(client)["workers"] for client in clients} == {2} and figures(clients[0])["worker_deaths_total"] == 1
    answers = [client.post("/v1/classify", json={"texts": "一"}, headers={"X-API-Key": SOME}) for client in clients]
    assert Counter(answer.status_code for answer in answers) == {200: 1, 429: len(clients) - 1}
    keys.write_text(keys.read_text() + key_line("late", "a late key", texts_per_second=0.001))
    time.sleep(1.1)  # until the file is looked at again
    answers = [
        client.post("/v1/classify", json={"texts": "一"}, headers={"X-API-Key": "a late key"}) for client in clients
    ]
    assert Counter(answer.status_code for answer in answers) == {200: 1, 429: len(clients) - 1}

    # a new model, and a broken one
    versions = {client.get("/health").json()["version"] for client in clients}
    shutil.copytree(plain_export, export, dirs_exist_ok=True)
    (export / "linear.safetensors").unlink()  # which it has not
    clients[0].post("/admin/reload").raise_for_status()
    new = {client.get("/health").json()["version"] for client in clients}
    assert len(versions) == len(new) == 1 and new != versions
    (export / "label.txt").write_bytes(b"")
    refused = clients[-1].post("/admin/reload")
    assert refused.status_code == 409 and "label.txt" in problem(refused)["what"]
    assert {client.get("/health").json()["version"] for client in clients} == new
    clients[1].post("/v1/models/plain/unload").raise_for_status()
    asked = [client.post("/v1/classify", json={"texts": "一", "model": "plain"}).status_code for client in clients]
    assert set(asked) == {503}
    reloads = figures(clients[0])
    assert reloads['model_reloads_total{outcome="done"}'] == 3 and reloads['model_reloads_total{outcome="failed"}'] == 1

    # the end
    for client in clients:
        client.close()
    children = workers_of(one)
    assert one.stop() == 0
    assert not any(Path(f"/proc/{pid}").exists() for pid in children)
    told = one.log()
    assert told.count("Serving on") == told.count("Loaded") - 1 == 1 == told.count("the server has ended")
    assert "Traceback" not in told
    lines = [json.loads(row) for row in log.read_text("utf-8").splitlines()]
    sampled = [json.loads(row) for row in (tmp_path / "sample").read_text("utf-8").splitlines()]
    answered = sum(row["texts"] for row in lines if row["route"] == "/v1/classify" and row["status"] == 200)
    assert total["right"] <= answered <= len(sampled) <= answered + held  # the victim may not have come to its line


WRITERS = """
import os, sys
sys.path.insert(0, ".")
from deploy.simple_serving.journal import Journal
from deploy.simple_serving.shared import Lock, Shared
shared = Shared.make(2)
number = os.fork()
journal = Journal("-", Lock(shared, 1))
for _ in range(40):
    journal.write({"contents": str(bool(number)) * 10_000})
if number:
    os.wait()
"""


def test_long_lines_in_a_pipe_stay_whole():
    """Of two processes; without the lock the pieces that fit into the pipe change about."""
    with subprocess.Popen([sys.executable, "-c", WRITERS], cwd=ROOT, stdout=subprocess.PIPE) as process:
        lines = [json.loads(row)["contents"] for row in process.stdout]
    assert process.returncode == 0 and Counter(lines) == {"True" * 10_000: 40, "False" * 10_000: 40}


@pytest.mark.slow
def test_tls_and_figures_apart_and_the_end_of_the_process_above(start, tiny_export, certificate):
    """HTTPS, figures on their own port, an access log in a pipe; no worker outlives the process above it."""
    cert, key = certificate()
    reading, writing = os.pipe()
    flags = ("--tls_cert", cert, "--tls_key", key, "--metrics_port", 0, "--access_log", "-", "--log_texts")
    one = start("--model_path", tiny_export, *WORKERS, *flags, stdout=writing)
    os.close(writing)
    assert one.url.startswith("https://")
    clients = on_both(one, verify=False)
    for client in clients:
        client.post("/v1/classify", json={"texts": "国足"}).raise_for_status()
        client.close()
    with httpx.Client(base_url=one.wait_for(r"Figures on (http://\S+)/metrics")) as client:
        assert figures(client)['http_requests_total{path="/v1/classify",status="200"}'] == len(clients)
    children = workers_of(one)
    one.process.kill()
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in children))
    with os.fdopen(reading, encoding="utf-8") as log:
        assert [row["contents"] for row in map(json.loads, log) if "contents" in row] == [["国足"]] * len(clients)


@pytest.mark.slow
def test_what_is_wrong_is_told_once(start, tiny_export, tmp_path):
    """By the process above, at once; the workers are silent."""
    taken = socket.create_server(("127.0.0.1", 0))
    for flags, why in (
        (["--model_path", tmp_path], "float32.onnx: no such file"),
        (["--model_path", tiny_export, "--port", taken.getsockname()[1]], "choose another one"),
    ):
        with pytest.raises(AssertionError) as told:
            start(*WORKERS, *flags)
        assert why in str(told.value) and str(told.value).count("error:") == 1 and "Traceback" not in str(told.value)
