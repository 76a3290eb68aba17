"""Servers, and load on them: what the serving*.py beside it share. No script of its own.

Locust is the client (pip install locust==2.47.0); import it, as begin_load does, only when no threads are at work.
"""

import json
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from hierarchical.devices import available_cores
from utils import InputError, atomic_write

ROOT = Path(__file__).resolve().parents[1]

# ---- servers ---------------------------------------------------------------------------------------------------------


def start(words, log):
    """A process whose output goes to the file `log`; Ctrl-C is left to this program."""
    with open(log, "wb") as file:
        return subprocess.Popen(list(map(str, words)), cwd=ROOT, stdout=file, stderr=file, start_new_session=True)


def wait_for(found, process, log, seconds=120):
    """The first true value of found(log's text); raises InputError if the process ends or takes too long."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and process.poll() is None:
        if value := found(log.read_text("utf-8", "replace")):
            return value
        time.sleep(0.02)
    raise InputError(f"The server did not start:\n{log.read_text('utf-8', 'replace')[-3000:]}")


@contextmanager
def http_server(args, *flags):
    """The project's server on a free port: `url`, `process`, and how to ask it."""
    with tempfile.TemporaryDirectory() as folder:
        log, words = Path(folder) / "log", ["deploy/simple_serving/server.py", "--precision", args.precision]
        words += ["--model_path", Path(args.model_path).resolve(), *flags, "--port", 0]
        server = SimpleNamespace(
            process=start([sys.executable, *words], log), log=log, command=[sys.executable, *words],
            path="/v1/classify", body=lambda text, number: {"texts": [text]},
            is_for=lambda answer, text, number: answer["results"][0]["text"] == text,
        )  # fmt: skip
        try:
            server.url = wait_for(lambda text: re.search(r"Serving on (http://\S+);", text), server.process, log)[1]
            yield server
        finally:
            server.process.terminate()  # the one that runs now: it may have been started anew
            server.process.wait()


@contextmanager
def triton(args):
    """Triton with the same model, on its usual ports; it joins requests that wait, one instance for each core."""
    with tempfile.TemporaryDirectory() as folder:
        log, models, python = Path(folder) / "log", Path(folder) / "models", args.triton_python
        words = ["--model_path", Path(args.model_path).resolve(), "--output", models, "--backend", "python"]
        words += ["--precision", args.precision, "--instances", available_cores()]
        made = start([python, "deploy/triton_serving/make_repository.py", *words], log)
        if made.wait():
            raise InputError(f"No repository for Triton:\n{log.read_text('utf-8', 'replace')[-3000:]}")
        process = start([python, "deploy/triton_serving/start_triton.py", "--model_repository", models], log)
        try:
            wait_for(lambda text: "Started HTTPService" in text, process, log)
            yield SimpleNamespace(
                url="http://127.0.0.1:8000", process=process, path="/v2/models/seqcls/infer",
                body=lambda text, number: {
                    "id": str(number),
                    "inputs": [{"name": "INPUT", "shape": [1, 1], "datatype": "BYTES", "data": [text]}],
                },
                is_for=lambda answer, text, number: answer["id"] == str(number) and len(answer["outputs"]) == 3,
            )  # fmt: skip
        finally:
            process.terminate()
            process.wait()


def processes(server):
    import psutil

    parent = psutil.Process(server.process.pid)
    return [parent, *parent.children(recursive=True)]


def cpu_seconds(server):
    return sum(sum(process.cpu_times()[:2]) for process in processes(server))


# ---- load ------------------------------------------------------------------------------------------------------------


def begin_load(server, text_of, clients, note, rate=None, numbers=None):
    """A running Locust: its clients send text_of(0), text_of(1) ..., until end_load or the end of `numbers`.

    note: called with every answer, which has status (0: broken connection), began, ended, right, content
    rate: requests per second of all clients together, at random moments (Poisson); None: as fast as answers come
    """
    import gevent
    from locust import FastHttpUser, task
    from locust.env import Environment
    from locust.exception import StopUser

    numbers, seeds = numbers or count(), count()

    class Client(FastHttpUser):
        host = server.url
        connection_timeout = network_timeout = 60.0

        def on_start(self):
            self.random, self.due = np.random.default_rng(next(seeds)), time.perf_counter()
            gevent.sleep(self.wait_time())

        def wait_time(self):
            if not rate:
                return 0
            self.due += self.random.exponential(clients / rate)
            return max(0, self.due - time.perf_counter())

        @task
        def ask(self):
            if (number := next(numbers, None)) is None:
                raise StopUser
            text, began = text_of(number), self.due if rate else time.perf_counter()
            answer = self.client.post(server.path, json=server.body(text, number))
            ended, right = time.perf_counter(), None
            if answer.status_code == 200:
                right = server.is_for(answer.json(), text, number)
            note(
                SimpleNamespace(
                    status=answer.status_code, began=began, ended=ended, right=right, content=answer.content
                )
            )

    environment = Environment(user_classes=[Client], stop_timeout=60)
    runner = environment.create_local_runner()
    runner.start(clients, spawn_rate=max(clients, 10))
    return runner


def end_load(runner):
    """Let the clients wait for the answers they are owed, and stop."""
    runner.quit()
    runner.greenlet.join()


def figures(answers, elapsed):
    """Requests per second, percentiles in ms, and how many failed, by status, or were another text's."""
    good = [1000 * (answer.ended - answer.began) for answer in answers if answer.status == 200]
    p50, p95, p99 = np.percentile(good, [50, 95, 99]).tolist() if good else [float("nan")] * 3
    failed = Counter(f"status {answer.status}" for answer in answers if answer.status != 200)
    failed["mixed up"] = sum(answer.right is False for answer in answers)
    return {
        "requests_per_second": len(good) / elapsed, "p50_ms": p50, "p95_ms": p95, "p99_ms": p99,
        "failed": {name: number for name, number in failed.items() if number},
    }  # fmt: skip


def report(targets, results, output_json):
    """Print the rows (what, measured, wanted) as a table, and write all results if there is a file for them."""
    print("\n| | measured | wanted |\n| --- | --- | --- |")
    for row in targets:
        print(f"| {' | '.join(map(str, row))} |")
    if output_json:
        with atomic_write(output_json) as file:
            json.dump(results, file, indent=1)
