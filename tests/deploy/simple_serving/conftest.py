"""Real servers on free ports, and what they are compared with."""

import hashlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import pytest

from hierarchical.predictor import Predictor
from utils import load_rows

from tests.conftest import ROOT, SAMPLE  # isort: skip

KEY = "correct horse battery staple"
# Runs the server's main() after a line that changes it, for what would take too long to wait for.
LAUNCHER = """
import sys, time
sys.path.insert(0, ".")
from deploy.simple_serving import answering, model, protocol, server, service, serving
from utils import run
{change}
run(server.main)
"""
# The change by which the model answers nobody until the file {gate} is there.
AT_THE_GATE = """
import os
def run_at_the_gate(items):
    while not os.path.exists({gate!r}):
        time.sleep(0.01)
    return model.run(items)
service.run = run_at_the_gate
"""
# The change after that by which the log tells how long the first text of each batch is.
LENGTHS = """
at_the_gate = service.run
service.run = lambda items: (print(len(items[0].work.text), file=sys.stderr), at_the_gate(items))[1]
"""


class Running:
    """A server in a process of its own: `url`, `process`, `log()`. stdout: a descriptor."""

    def __init__(self, folder, *flags, change="", environment=(), stdout=None):
        words = ["--port", "0", "--num_threads", "2", *map(str, flags)]
        self.log_path = folder / f"{time.monotonic_ns()}.log"
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONIOENCODING": "utf-8"} | dict(environment)
        with open(self.log_path, "w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", LAUNCHER.format(change=change), *words],
                cwd=ROOT, env=environment, stdout=stdout, stderr=log,
            )  # fmt: skip
        self.url = self.wait_for(r"Serving on (https?://\S+);")
        self.address = ("127.0.0.1", int(self.url.rpartition(":")[2]))

    def log(self):
        return self.log_path.read_text(encoding="utf-8")

    def wait_for(self, pattern, seconds=60):
        end = time.monotonic() + seconds
        while time.monotonic() < end and self.process.poll() is None:
            if found := re.search(pattern, self.log()):
                return found[found.re.groups]
            time.sleep(0.05)
        raise AssertionError(f"no {pattern} in: {self.log()}")

    def stop(self, signal_number=signal.SIGTERM):
        self.process.send_signal(signal_number)
        return self.process.wait(timeout=60)

    def connect(self):
        return socket.create_connection(self.address, timeout=30)


@pytest.fixture
def start(tmp_path):
    """start(*flags, change=...): a server, which is killed after the test."""
    running = []

    def start(*flags, **more):
        running.append(Running(tmp_path, *flags, **more))
        return running[-1]

    yield start
    for one in running:
        one.process.kill()
        one.process.wait()


@pytest.fixture
def gate(tmp_path):
    """A path: the model of start(..., change=held_by(gate)) answers nobody until a test makes the file."""
    return tmp_path / "gate"


def held_by(gate):
    return AT_THE_GATE.format(gate=str(gate))


@pytest.fixture(scope="module")
def shared(tiny_export, tmp_path_factory):
    """A server with small limits that all tests ask which leave it as it is."""
    flags = "--precision float32 --max_texts 5 --max_chars 1000 --max_bytes 20000 --timeout 60".split()
    one = Running(tmp_path_factory.mktemp("server"), "--model_path", tiny_export, *flags)
    yield one
    assert one.stop() == 0
    assert "Traceback" not in one.log() and "ERROR" not in one.log()


@pytest.fixture
def client(shared):
    import httpx

    with httpx.Client(base_url=shared.url, timeout=60) as client:
        yield client


@pytest.fixture(scope="module")
def predictor(tiny_export):
    return Predictor(tiny_export, max_seq_length=64)


@pytest.fixture(scope="module")
def texts(predictor):
    return load_rows(SAMPLE / "dev.txt", predictor.tree).texts


@pytest.fixture
def certificate(tmp_path):
    """(certificate, key) for localhost, for the years that a test takes."""
    paths = tmp_path / "cert.pem", tmp_path / "key.pem"

    def make():
        command = (
            "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -addext subjectAltName=IP:127.0.0.1"
        )
        done = subprocess.run([*command.split(), "-out", paths[0], "-keyout", paths[1]], capture_output=True)
        assert done.returncode == 0, done.stderr
        return paths

    make()
    return make


def key_line(name, value, **fields):
    row = {"name": name, "sha256": hashlib.sha256(value.encode()).hexdigest(), "rights": ["classify"]} | fields
    return json.dumps(row) + "\n"


def probabilities(predictor, texts):
    return predictor.probabilities(texts)


def problem(response):
    """The first problem of an error; every one of them says where, what and how."""
    content = response.json()
    assert content["error"] and content["problems"]
    assert all(entry["where"] and entry["what"] and entry["how"] for entry in content["problems"])
    return content["problems"][0]


def figures(client):
    lines = client.get("/metrics").raise_for_status().text.splitlines()
    return {name: float(value) for line in lines if line[0] != "#" for name, value in [line.rsplit(" ", 1)]}


def in_background(function, *args, **kwargs):
    box = SimpleNamespace(value=None)
    box.thread = threading.Thread(target=lambda: setattr(box, "value", function(*args, **kwargs)))
    box.thread.start()
    return box


def wait_until(condition, seconds=30):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)
