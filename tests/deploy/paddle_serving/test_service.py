"""The real service, asked over both ports.

The service and the gRPC client run in an environment of their own, .venv-paddle-serving: the first test that needs it
has make_environment.sh make it (measured: 19 s, with a fast package index).
"""

import contextlib
import http.client
import json
import os
import platform
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import yaml

from deploy.paddle_serving import http_client, make_config
from deploy.paddle_serving.protocol import MAX_BYTES, ROUTE, labels_of
from hierarchical.calibration import Calibration
from hierarchical.checkpoints import write_decision
from hierarchical.long_texts import LongText
from hierarchical.predictor import Predictor
from metric import Decision, decide

from tests.conftest import ROOT  # isort: skip
from tests.ports import free_ports  # isort: skip


pytestmark = pytest.mark.slow

HERE = "deploy/paddle_serving"
# Reads one JSON value of `sentence` a line, asks for all of them side by side, and prints the answers in that order.
ASK_BY_RPC = """
import json, sys
from concurrent.futures import ThreadPoolExecutor
sys.path.insert(0, ".")
from deploy.paddle_serving.rpc_client import connect
ask = connect(sys.argv[1], 60)
def answer(line):
    number, message, keys, values = ask(json.loads(line))
    return json.dumps([number, message, list(keys), list(values)])
with ThreadPoolExecutor(8) as pool:
    print(*pool.map(answer, sys.stdin), sep="\\n")
"""
# What the library's own RequestOp would unpickle, and so run.
PICKLED_BY_RPC = """
import io, os, sys
sys.path.insert(0, ".")
import numpy as np
from deploy.paddle_serving.rpc_client import load_messages
class Payload:
    def __reduce__(self):
        return os.mkdir, (sys.argv[2],)
content = io.BytesIO()
np.save(content, np.array([Payload()], object), allow_pickle=True)
grpc, messages, services = load_messages()
request = messages.Request(name="seq_cls")
request.tensors.add(name="sentence", elem_type=13, byte_data=content.getvalue())
answer = services.PipelineServiceStub(grpc.insecure_channel(sys.argv[1])).inference(request, timeout=60)
print(answer.err_no, answer.err_msg)
"""


def answers(predictor, texts, decision=None):
    """What the predictor says: for each text (names, probabilities)."""
    probabilities = predictor.probabilities(texts)
    rows = decide(probabilities, predictor.tree, decision or predictor.decision)
    rows = [np.flatnonzero(row) if text.strip() else [] for row, text in zip(rows, texts)]
    return [([predictor.tree.labels[i] for i in row], [p[i] for i in row]) for row, p in zip(rows, probabilities)]


def same(found, expected):
    assert [names for names, _ in found] == [names for names, _ in expected]
    for (_, one), (_, other) in zip(found, expected):
        assert one == pytest.approx(other, abs=1e-4)
    return True


@pytest.fixture(scope="module")
def python():
    """The Python of .venv-paddle-serving, which is made if it is not there, or not of these requirements."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        pytest.skip("Paddle Serving exists for Linux on x86-64")
    environment = os.environ | {"PYTHON": sys.executable}
    done = subprocess.run(
        ["bash", f"{HERE}/make_environment.sh"], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return ROOT / ".venv-paddle-serving/bin/python"


class Running:
    """A service in a process group of its own: `http`, `rpc` (addresses), `process`, `log()`."""

    def __init__(self, python, export, folder, batch_size=1, flags=()):
        self.python, (http, rpc) = python, free_ports(2)
        self.http, self.rpc, self.folder = f"127.0.0.1:{http}", f"127.0.0.1:{rpc}", folder / "serving"
        words = ["--model_path", export, "--output", self.folder, "--http_port", http, "--rpc_port", rpc, *flags]
        make_config.main(["--num_threads", "1", *map(str, words)])
        path = self.folder / "config.yml"
        config = yaml.safe_load(path.read_text("utf-8"))
        if batch_size > 1:
            config["op"]["seq_cls"] |= {"batch_size": batch_size, "auto_batching_timeout": 20}
            path.write_text(yaml.safe_dump(config), "utf-8")
        self.log_path = folder / "log"
        command = [python, f"{HERE}/service.py", "--config", path]
        with open(self.log_path, "wb") as log:
            self.process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log, start_new_session=True)
        end = time.monotonic() + 120
        while "Serving on" not in self.log():
            assert time.monotonic() < end and self.process.poll() is None, self.log()[-3000:]
            time.sleep(0.1)

    def log(self):
        return self.log_path.read_text("utf-8", "replace")

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)

    def kill(self):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(60)

    def post(self, body, path=ROUTE, headers=None):
        """(status, answer) of the bytes of a body."""
        request = urllib.request.Request(f"http://{self.http}{path}", body, headers or {})
        try:
            with urllib.request.urlopen(request, timeout=60) as response:
                return response.status, json.load(response)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)

    def ask(self, texts):
        """(names, probabilities) of each text, by one HTTP request."""
        body = {"key": ["sentence"], "value": [json.dumps(texts)]}
        status, answer = self.post(json.dumps(body).encode())
        assert status == 200 and answer["err_no"] == 0, answer
        return labels_of(answer["key"], answer["value"], len(texts))

    def ask_rpc(self, values):
        """[error number, message, keys, values] of each value, by gRPC, side by side."""
        lines = "".join(json.dumps(value) + "\n" for value in values)
        return [json.loads(line) for line in self.run(ASK_BY_RPC, self.rpc, input=lines).splitlines()]

    def run(self, code, *words, input=""):
        command = [self.python, "-c", code, *words]
        done = subprocess.run(command, cwd=ROOT, input=input, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout


@pytest.fixture(scope="module", params=[1, 8], ids=["alone", "joined"])
def service(request, python, tiny_export, tmp_path_factory):
    """A service that takes requests one by one, and one that joins up to 8 of them."""
    folder = tmp_path_factory.mktemp("service")
    one = Running(python, tiny_export, folder, request.param)
    try:
        yield one
        assert one.stop() == 0
    finally:
        one.kill()
    assert "Traceback" not in one.log(), one.log()[-3000:]


def test_http(service, texts, predictor):
    same(service.ask(texts), answers(predictor, texts))
    same(service.ask(texts[3:4]), [([], [])])


def test_rpc(service, texts, predictor):
    ((number, message, keys, values),) = service.ask_rpc([json.dumps(texts)])
    assert (number, message) == (0, "")
    same(labels_of(keys, values, len(texts)), answers(predictor, texts))


def test_more_texts_than_numpy_prints(service, texts, predictor):
    many = texts * 8
    assert len(many) == 1200
    same(service.ask(many), answers(predictor, many))


def test_requests_of_unequal_length_side_by_side(service, texts, predictor):
    expected = answers(predictor, texts)
    cuts = [slice(i, i + 1 + i % 5) for i in range(100)]
    with ThreadPoolExecutor(8) as pool:
        found = pool.map(lambda cut: service.ask(texts[cut]), cuts)
        assert all(same(rows, expected[cut]) for rows, cut in zip(found, cuts))
    for (number, _, keys, values), cut in zip(service.ask_rpc([json.dumps(texts[cut]) for cut in cuts]), cuts):
        assert number == 0
        same(labels_of(keys, values, len(texts[cut])), expected[cut])


def test_an_answer_depends_on_its_text_alone(service, texts):
    """Asked alone, or by one of eight clients at once in requests of any size and order."""
    texts = texts[:60]
    alone = [service.ask([text])[0] for text in texts]
    orders = [np.random.default_rng(seed).permutation(len(texts)) for seed in range(8)]
    parts = [order[i : i + n] for order, n in zip(orders, [1, 2, 3, 5, 10, 20, 30, 60]) for i in range(0, 60, n)]
    with ThreadPoolExecutor(8) as pool:
        for rows, found in zip(parts, pool.map(lambda part: service.ask([texts[i] for i in part]), parts)):
            for i, (names, probabilities) in zip(rows, found, strict=True):
                assert names == alone[i][0]
                assert probabilities == pytest.approx(alone[i][1], abs=1e-5 + 1e-6)  # they are rounded


def test_strange_texts(service, predictor):
    strange = ["球队赢了" * 50_000, "x\0y", "a" * 1000, "😀", "\\", '"]', "\u2028"]
    same(service.ask(strange), answers(predictor, strange))


def test_bad_requests_are_answered_and_nothing_is_run(service, texts, predictor, tmp_path):
    mark = tmp_path / "mark"
    code = f"__import__('os').mkdir({str(mark)!r})"
    values = [
        code,
        f"[{code}]",
        f"array([{code}])",
        "[]",
        "{}",
        "1",
        '"文"',
        "[1]",
        "[null]",
        '[["文"]]',
        "",
        "[" * 9999,
    ]
    for value in values:
        status, answer = service.post(json.dumps({"key": ["sentence"], "value": [value]}).encode())
        assert (status, answer["err_no"], answer["key"]) == (400, 5000, []) and "sentence" in answer["err_msg"], value
    good = json.dumps(texts[:2])
    mixed = service.ask_rpc([one for value in values for one in (value, good)])
    assert [number for number, *_ in mixed] == [5000, 0] * len(values)
    for body in (
        {"key": [], "value": []},
        {"key": ["text"], "value": [good]},
        {"key": ["sentence"], "value": []},
        {"key": "sentence", "value": good},
        {"key": ["sentence"], "value": [texts[:2]]},
        {"sentence": texts[:2]},
        {"key": ["sentence"], "value": [good], "tensors": [{"name": "x", "elem_type": 13, "byte_data": "gASVAA=="}]},
        [],
        None,
    ):
        status, answer = service.post(json.dumps(body).encode())
        assert (status, answer["err_no"]) == (400, 5000) and answer["err_msg"], body
    for body in (b"", b"\xff\xfe", b'{"key"', b"[" * 100_000, b'{"key": ["\\ud800"], "value": ["[]"]}'):
        assert service.post(body)[0] == 400, body[:20]
    assert not mark.exists()
    same(service.ask(texts[:2]), answers(predictor, texts[:2]))


def test_pickled_arrays_are_not_read(service, tmp_path):
    assert service.run(PICKLED_BY_RPC, service.rpc, str(tmp_path / "mark")).startswith("5000 tensors are not read here")
    assert not (tmp_path / "mark").exists()


def test_other_paths_methods_and_sizes(service):
    body = b'{"key": ["sentence"], "value": ["[]"]}'
    assert service.post(body, "/other/prediction")[0] == 404
    assert service.post(None)[0] == 405 and service.post(None, "/")[0] == 404  # without a body, urllib sends GET
    assert service.post(b"", headers={"Content-Length": str(MAX_BYTES + 1)})[0] == 413
    for length in ("-1", "x", "9" * 5000):
        assert service.post(b"", headers={"Content-Length": length})[0] in (411, 413)
    assert service.post(json.dumps({"key": ["sentence"], "value": [body.decode()], "name": "other"}).encode())[0] == 404


def test_every_method_is_answered_as_json(service):
    connection = http.client.HTTPConnection(service.http, timeout=60)
    for method, path, status in (
        *((method, ROUTE, 405) for method in ("GET", "HEAD", "OPTIONS", "PUT", "PATCH", "DELETE")),
        ("PUT", "/", 404), ("TRACE", ROUTE, 501), ("NONSENSE", ROUTE, 501), ("GET", "/" + "x" * 70_000, 414),
    ):  # fmt: skip
        connection.request(method, path, b"{}")
        response = connection.getresponse()
        content = response.read()
        assert response.status == status and response.headers["Content-Type"].startswith("application/json"), method
        assert response.headers["Allow"] == ("POST" if status == 405 else None)
        assert content == b"" if method == "HEAD" else json.loads(content)["err_no"] == 5000


def test_what_is_no_http_is_answered_as_json(service):
    host, port = service.http.split(":")
    for sent in (
        b"GET / HTTP/9.9\r\n\r\n",
        b"one two three four\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 200 + b"\r\n",
    ):
        with socket.create_connection((host, int(port)), timeout=60) as sock:
            sock.sendall(sent)
            head, _, body = b"".join(iter(lambda sock=sock: sock.recv(65_536), b"")).partition(b"\r\n\r\n")
        assert b"application/json" in head and json.loads(body)["err_msg"]


def test_a_large_body_is_refused_and_not_reset(service):
    for path, status in ((ROUTE, 413), ("/other", 404)):
        assert service.post(b"x" * 30_000_000, path)[0] == status


def test_a_lone_surrogate_is_refused(service):
    body = json.dumps({"key": ["sentence"], "value": ['["\\ud800"]']}).encode()
    status, answer = service.post(body)
    assert status == 400 and "lone surrogate" in answer["err_msg"]
    status, answer = service.post(b'{"key": ["sentence"], "value": ["[\\"\\ud800\\"]"]}')
    assert status == 400 and answer["err_no"] == 5000


def test_clients_that_stay_silent_do_not_stop_others(service, texts):
    host, port = service.http.split(":")
    silent = [socket.create_connection((host, int(port))) for _ in range(20)]
    silent[0].sendall(b"POST /seq_cls/prediction HTTP/1.1\r\nContent-Length: 100\r\n\r\n{")
    assert len(service.ask(texts[:2])) == 2
    for one in silent:
        one.close()


def test_it_listens_on_one_address(service):
    for address in (service.http, service.rpc):
        port = int(address.rpartition(":")[2])
        socket.create_connection(("127.0.0.1", port), timeout=10).close()
        with pytest.raises(OSError):
            socket.create_connection(("127.0.0.2", port), timeout=10)


def test_clients_as_typed(service, data_dir, predictor, capsys):
    data = data_dir(data_txt="门将扑出点球\n\n央行下调利率\t体育,体育##足球\n")
    texts, lines = ["门将扑出点球", "", "央行下调利率"], []
    for text, (names, probabilities) in zip(texts, answers(predictor, texts)):
        lines += [f"text: {text}", f"label: {','.join(names)}"]
        lines += [f"confidence: {','.join(f'{p:.4f}' for p in probabilities)}", "-" * 20]
    http_client.main(["--url", f"http://{service.http}", "--dataset_dir", str(data)])
    assert capsys.readouterr().out.splitlines() == lines
    http_client.main(["--url", f"http://{service.http}", "--dataset_dir", str(data), "--certainty", "0.5"])
    certain = predictor.predict(texts, certainty=0.5)
    told = [f"certainty: {one.certainty:.4f} ({'sure' if one.sure else 'unsure'})" for one in certain]
    assert [line for line in capsys.readouterr().out.splitlines() if "certainty" in line] == told
    command = [service.python, f"{HERE}/rpc_client.py", "--url", service.rpc, "--data_file", "-"]
    done = subprocess.run(command, cwd=ROOT, input="\n".join(texts), capture_output=True, text=True)
    assert (done.returncode, done.stdout.splitlines()) == (0, lines), done.stderr
    command = [service.python, f"{HERE}/rpc_client.py", "--url", service.http, "--texts", "文", "--timeout", "20"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and "Is this the gRPC port" in done.stderr and "Traceback" not in done.stderr


def test_a_second_service_on_the_same_ports(service):
    command = [service.python, f"{HERE}/service.py", "--config", service.folder / "config.yml"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, start_new_session=True)
    assert done.returncode == 2 and "already used" in done.stderr and "Traceback" not in done.stderr


def test_logs_hold_no_texts_and_lie_beside_the_config(service, texts):
    service.ask([texts[0]])
    logs = sorted((service.folder / "PipelineServingLogs").iterdir())
    assert logs and not any(texts[0] in path.read_text("utf-8", "replace") for path in logs)
    assert not (ROOT / "PipelineServingLogs").exists() and not (ROOT / "ProcessInfo.json").exists()


def test_settings_are_obeyed(python, tiny_export, tmp_path, texts, predictor):
    one = Running(python, tiny_export, tmp_path, flags=["--threshold", "0.9", "--decoding", "topdown"])
    try:
        same(one.ask(texts[:40]), answers(predictor, texts[:40], Decision(0.9, "topdown")))
    finally:
        one.kill()


def test_stored_settings_are_obeyed(python, tiny_export, tmp_path, texts, predictor):
    """A path, calibrated probabilities, and windows of long texts, as the predictor gives them."""
    lines = Calibration("per_level", [[0.5, 0.3], [0.8, -0.2], [1.2, 0.0]], [])
    stored = Decision([0.6, 0.5, 0.4], "path", stop="confident", calibration=lines)
    export = shutil.copytree(tiny_export, tmp_path / "export")
    write_decision(export, 14, stored, LongText("windows", 7, 5))
    calibrated = Predictor(export)
    found = calibrated.probabilities(texts[:40])
    assert np.abs(found - predictor.probabilities(texts[:40])).max() > 0.05
    one = Running(python, export, tmp_path)
    try:
        same(one.ask(texts[:40]), answers(calibrated, texts[:40], stored))
    finally:
        one.kill()


def test_a_dead_model_ends_the_service(python, tiny_export, tmp_path, texts):
    """The library would leave every client waiting, for ever."""
    one = Running(python, tiny_export, tmp_path)
    try:
        children = Path(f"/proc/{one.process.pid}/task/{one.process.pid}/children").read_text().split()
        assert len(children) == 2
        os.kill(int(children[-1]), signal.SIGKILL)
        assert one.process.wait(30) == 1 and "has died" in one.log()
    finally:
        one.kill()


def test_what_can_be_wrong_at_the_start(python, make):
    http, rpc = free_ports(2)
    folder = make("--http_port", http, "--rpc_port", rpc)
    path, good = folder / "config.yml", (folder / "config.yml").read_text("utf-8")

    def start(*words):
        command = [python, f"{HERE}/service.py", "--config", path, *words]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, start_new_session=True)
        assert "Traceback" not in done.stderr
        return done.returncode, done.stderr

    for old, new, message in (
        ("seq_cls:", "other:", "not the settings of a service"),
        (f"rpc_port: {rpc}", "rpc_port: [", "not the settings of a service"),
        ("is_thread_op: false", "is_thread_op: true", "must be false"),
        ("batch_size: 1 ", "batch_size: 8 ", "would wait for ever"),
        (f"http_port: {http}", "http_port: 80", "must be 1024 or above"),
        ("model_config: serving_server", "model_config: none", "serving_server_conf.prototxt: no such file"),
    ):
        assert old in good
        path.write_text(good.replace(old, new), "utf-8")
        code, said = start()
        assert code == 2 and message in said, said
    path.write_text(good, "utf-8")
    code, said = start("--host", "192.0.2.1")
    assert code == 2 and f"--host 192.0.2.1, port {http}" in said, said
    (folder / "serving_server/float32.pdiparams").write_bytes(b"damaged")
    code, said = start()
    assert code == 2 and "float32.pdiparams: not the file that export.json beside it lists" in said, said
    (folder / "serving_server/export.json").unlink()
    code, said = start()
    assert code == 1 and "has died" in said, said
    path.unlink()
    assert start()[0] == 2


def test_environment_is_not_made_twice(python, tmp_path):
    environment = os.environ | {"PYTHON": "/none"}
    command = ["bash", f"{HERE}/make_environment.sh"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")
    done = subprocess.run([*command, tmp_path / "new"], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 2 and "name it with PYTHON" in done.stderr
