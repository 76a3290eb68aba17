"""A real Triton, asked by HTTP and gRPC."""

import contextlib
import importlib.util
import json
import os
import re
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
from types import SimpleNamespace

import numpy as np
import pytest

from deploy.triton_serving import make_repository, seqcls_grpc_client
from deploy.triton_serving.repository import require_one_set
from utils import InputError

from tests.conftest import ROOT  # isort: skip

from tests.deploy.triton_serving.asking import answers, certain_rows, column, labels_of, MODELS, same  # isort: skip
from tests.ports import free_ports  # isort: skip


pytestmark = pytest.mark.slow


CHANGES = "shared-memory,model-repository,statistics,trace,logging"  # what the README has a key for
RESTRICTED = [
    f"--http-restricted-api={CHANGES}:x-api-key=secret",
    f"--grpc-restricted-protocol={CHANGES}:x-api-key=secret",
]


@pytest.fixture(scope="module")
def server(tiny_export, tmp_path_factory):
    """A Triton that serves the float32 model."""
    with running(tiny_export, "float32", tmp_path_factory.mktemp("triton")) as one:
        yield one


@contextlib.contextmanager
def running(export, precision, folder):
    """A Triton of its own process on free ports: `http`, `grpc` and `metrics` are its addresses."""
    for package in ("pytriton", "tritonclient"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed: pip install -r deploy/triton_serving/requirements.txt")
    http, grpc, metrics = free_ports(3)
    words = [
        "--model_path",
        export,
        "--output",
        folder / "models",
        "--precision",
        precision,
        "--backend",
        "python",
    ]
    make_repository.main([str(word) for word in words])
    command = [sys.executable, "deploy/triton_serving/start_triton.py", "--model_repository", folder / "models"]
    command += ["--http_port", http, "--grpc_port", grpc, "--metrics_port", metrics, "--", *RESTRICTED]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "TMPDIR": str(folder)}
    with open(folder / "log", "wb") as log:
        process = subprocess.Popen([*map(str, command)], cwd=ROOT, env=environment, stdout=log, stderr=log)
    try:
        wait_until_ready(f"http://127.0.0.1:{http}/v2/health/ready", process, folder / "log")
        addresses = {name: f"127.0.0.1:{port}" for name, port in (("http", http), ("grpc", grpc), ("metrics", metrics))}
        yield SimpleNamespace(**addresses, process=process, log=folder / "log")
    finally:
        process.terminate()
        code = process.wait(60)
    assert code == 0, (folder / "log").read_text("utf-8", "replace")[-3000:]
    assert not list(folder.glob("triton-*")), "the folder of back ends was left behind"


def wait_until_ready(url, process, log, seconds=120):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=5) as response:
                if response.status == 200:
                    return
        except OSError:
            time.sleep(0.2)
    pytest.fail(f"Triton did not start:\n{log.read_text('utf-8', 'replace')[-3000:]}")


def ask_http(server, texts):
    from tritonclient import http

    with http.InferenceServerClient(server.http) as client:
        tensor = http.InferInput("INPUT", [len(texts), 1], "BYTES")
        tensor.set_data_from_numpy(column(texts))
        result = client.infer("seqcls", [tensor])
        return labels_of(*map(result.as_numpy, ("label", "label_name", "confidence")))


def test_http(server, texts, expected):
    same(ask_http(server, texts[:64]), expected[:64])
    same(ask_http(server, texts[3:4]), [[]])


def test_http_as_json(server, texts, expected):
    body = {"inputs": [{"name": "INPUT", "shape": [2, 1], "datatype": "BYTES", "data": texts[:2]}]}
    with urllib.request.urlopen(f"http://{server.http}/v2/models/seqcls/infer", json.dumps(body).encode()) as response:
        outputs = {output["name"]: output for output in json.load(response)["outputs"]}
    assert outputs["label"]["shape"][0] == 2
    names = np.reshape(outputs["label_name"]["data"], outputs["label_name"]["shape"])
    assert [[name for name in row if name] for row in names] == [[name for _, name, _ in row] for row in expected[:2]]


def test_grpc_client_with_more_texts_than_a_request_holds(server, texts, expected):
    same(list(seqcls_grpc_client.Client(server.grpc).classify(texts)), expected)


def test_too_many_texts_are_refused(server, texts):
    from tritonclient.utils import InferenceServerException

    with pytest.raises(InferenceServerException, match="must be <= 64"):
        ask_http(server, texts[:65])


def test_requests_side_by_side_keep_their_answers(server, texts, expected):
    client = seqcls_grpc_client.Client(server.grpc)
    cuts = [(i, i + 1 + i % 3) for i in range(120)]
    with ThreadPoolExecutor(8) as pool:
        found = pool.map(lambda cut: list(client.classify(texts[slice(*cut)])), cuts)
        assert all(same(rows, expected[slice(*cut)]) for rows, cut in zip(found, cuts))


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_an_answer_depends_on_its_text_alone(request, tiny_export, texts, tmp_path, precision):
    """Asked alone, or by one of eight clients at once in requests of any size and order."""
    folder = contextlib.nullcontext(request.getfixturevalue("server"))
    with folder if precision == "float32" else running(tiny_export, precision, tmp_path) as one:
        client = seqcls_grpc_client.Client(one.grpc)
        alone = [next(client.classify([text])) for text in texts]
        orders = [np.random.default_rng(seed).permutation(len(texts)) for seed in range(8)]
        with ThreadPoolExecutor(8) as pool:
            sizes = [1, 2, 3, 5, 10, 20, 40, 64]
            parts = [order[i : i + n] for order, n in zip(orders, sizes) for i in range(0, len(texts), n)]
            for rows, found in zip(
                parts, pool.map(lambda part: list(client.classify([texts[i] for i in part])), parts)
            ):
                for i, labels in zip(rows, found, strict=True):
                    assert [label[:2] for label in labels] == [label[:2] for label in alone[i]]
                    assert [p for *_, p in labels] == pytest.approx([p for *_, p in alone[i]], abs=1e-5)


def test_bad_utf_8_is_answered_and_the_next_request_too(server, texts, expected):
    from tritonclient.utils import InferenceServerException

    with pytest.raises(InferenceServerException, match="a text is not UTF-8"):
        ask_http(server, [b"\xff\xfe", "好".encode()])
    same(ask_http(server, texts[:1]), expected[:1])


def test_long_texts(server, predictor):
    texts = ["球队赢了" * 50_000, "x\0y"] * 4
    same(ask_http(server, texts), answers(predictor, texts, predictor.decision))


def status_of(url, body=None, headers=None):
    try:
        with urllib.request.urlopen(urllib.request.Request(url, body, headers or {}), timeout=60) as response:
            return response.status
    except urllib.error.HTTPError as error:
        return error.code


def test_bodies_that_would_overflow_a_thread(server):
    """With the usual 8 MiB of stack the chunks end the server, and a body of 5 MB from some clients does."""
    text = "文" * 26_000
    body = {"inputs": [{"name": "INPUT", "shape": [64, 1], "datatype": "BYTES", "data": [text] * 64}]}
    body = json.dumps(body, ensure_ascii=False).encode()
    assert len(body) > 4_900_000 and status_of(f"http://{server.http}/v2/models/seqcls/infer", body) == 200
    host, port = server.http.split(":")
    with socket.create_connection((host, int(port)), timeout=60) as sock:
        sock.sendall(b"POST /v2/models/seqcls/infer HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
        sock.sendall(b"1\r\n{\r\n" * 600_000 + b"0\r\n\r\n")
        assert sock.recv(100).startswith(b"HTTP/1.1 500 ")  # no JSON, and answered
    assert "has ended Triton" not in server.log.read_text("utf-8", "replace")


def test_flags_are_passed_on(server):
    """Nobody without the key may change the server; asking is free."""
    log = f"http://{server.http}/v2/logging"
    assert status_of(log, b"{}") == 403 and status_of(log, b"{}", {"x-api-key": "secret"}) == 200
    assert status_of(f"http://{server.http}/v2/health/ready") == 200


def test_a_crash_is_told_and_mended(server, texts, expected):
    (child,) = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children").read_text().split()
    os.kill(int(child), signal.SIGSEGV)
    end = time.monotonic() + 60
    while "SIGSEGV has ended Triton" not in server.log.read_text("utf-8", "replace"):
        assert time.monotonic() < end
        time.sleep(0.1)
    wait_until_ready(f"http://{server.http}/v2/health/ready", server.process, server.log)
    same(ask_http(server, texts[:2]), expected[:2])


@pytest.mark.skipif(not shutil.which("nginx"), reason="nginx is not installed")
def test_nginx_in_front(server, predictor, tmp_path):
    """The sample configuration, with the ports of this test in it."""
    http, grpc = free_ports(2)
    text = (ROOT / "deploy/triton_serving/nginx.conf").read_text("utf-8")
    for old, new in (
        ("http://127.0.0.1:8000", f"http://{server.http}"), ("grpc://127.0.0.1:8001", f"grpc://{server.grpc}"),
        ("listen 8080;", f"listen {http};"), ("listen 8081 ", f"listen {grpc} "), ('"change-me"', '"a key of ours"'),
    ):  # fmt: skip
        assert old in text
        text = text.replace(old, new)
    (tmp_path / "triton.conf").write_text(text, "utf-8")
    temporary = "".join(
        f"{name}_temp_path {tmp_path}/{name};\n" for name in "client_body proxy fastcgi uwsgi scgi".split()
    )
    (tmp_path / "nginx.conf").write_text(
        f"pid {tmp_path}/pid; daemon off; events {{}}\nhttp {{ access_log off; {temporary} include triton.conf; }}\n"
    )
    command = ["nginx", "-e", tmp_path / "errors", "-c", tmp_path / "nginx.conf"]
    done = subprocess.run([*command, "-t"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    process = subprocess.Popen(command)
    try:
        wait_until_ready(f"http://127.0.0.1:{http}/v2/health/ready", process, tmp_path / "errors")
        url, key = f"http://127.0.0.1:{http}/v2/models/seqcls/infer", {"x-api-key": "a key of ours"}
        body = b'{"inputs": [{"name": "INPUT", "shape": [1, 1], "datatype": "BYTES", "data": ["%s"]}]}'
        assert status_of(url, body % b"a") == 401 and status_of(url, body % b"a", key) == 200
        assert status_of(url, body % (b"a" * 5_000_000), key) == 413
        for path in ("/v2/logging", "/v2/repository/index", "/v2/models/seqcls/config"):
            assert status_of(f"http://127.0.0.1:{http}{path}", b"{}", key) == 404
        with pytest.raises(InputError, match="status: 401. Send the server's key"):
            list(seqcls_grpc_client.Client(f"127.0.0.1:{grpc}").classify(["文"]))
        texts = ["文" * 30_000] * 40 + ["球"]  # more than one request may hold
        found = list(seqcls_grpc_client.Client(f"127.0.0.1:{grpc}", api_key="a key of ours").classify(texts))
        same(found, answers(predictor, texts, predictor.decision))
    finally:
        process.terminate()
        process.wait()


def test_requests_of():
    cut = seqcls_grpc_client.requests_of
    large = b"x" * (seqcls_grpc_client.REQUEST_BYTES + 1)
    assert [len(batch) for batch in cut([b"a"] * 130, 64)] == [64, 64, 2] and list(cut([], 64)) == []
    assert [list(map(len, batch)) for batch in cut([b"a", large, b"b", b"c"], 64)] == [[1], [len(large)], [1, 1]]


def test_metrics(server):
    with urllib.request.urlopen(f"http://{server.metrics}/metrics") as response:
        assert 'nv_inference_request_success{model="seqcls"' in response.read().decode()


def test_client_as_typed(server, data_dir, predictor, capsys):
    data = data_dir(data_txt="门将扑出点球\n\n央行下调利率\t体育,体育##足球\n")
    words = ["--url", server.grpc, "--dataset_dir", str(data)]
    seqcls_grpc_client.main(words)
    texts, lines = ["门将扑出点球", "", "央行下调利率"], []
    for text, row in zip(texts, answers(predictor, texts, predictor.decision)):
        lines += [f"text: {text}", f"label: {','.join(str(i) for i, _, _ in row)}"]
        lines += [f"label name: {','.join(name for _, name, _ in row)}"]
        lines += [f"confidence: {','.join(f'{p:.4f}' for _, _, p in row)}", "-" * 20]
    assert capsys.readouterr().out.splitlines() == lines
    seqcls_grpc_client.main([*words, "--certainty", "0.5"])
    told = [
        f"certainty: {one.certainty:.4f} ({'sure' if one.sure else 'unsure'})" for one in certain_rows(predictor, texts)
    ]
    assert [line for line in capsys.readouterr().out.splitlines() if "certainty" in line] == told
    with pytest.raises(InputError, match="unknown model: 'none'"):
        seqcls_grpc_client.main([*words, "--model_name", "none"])


def test_the_client_refuses_models_of_two_exports(server, monkeypatch):
    """The server's own four fit; of one that says otherwise nothing is asked."""
    seen = []
    monkeypatch.setattr(seqcls_grpc_client, "require_one_set", lambda where, made_of: seen.append((where, made_of)))
    seqcls_grpc_client.Client(server.grpc)
    assert seen[0][0] == server.grpc and set(seen[0][1]) == set(MODELS) and len(set(seen[0][1].values())) == 1
    assert re.fullmatch("[0-9a-f]{16}", seen[0][1]["seqcls"])
    with pytest.raises(InputError, match="tokenizer and seqcls were not made together"):
        require_one_set(server.grpc, seen[0][1] | {"tokenizer": "0"})


def test_client_without_a_server():
    pytest.importorskip("tritonclient.grpc", reason="tritonclient is not installed")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(InputError, match=f"127.0.0.1:{port}, model seqcls: .* is it up"):
        seqcls_grpc_client.main(["--url", f"127.0.0.1:{port}", "--texts", "文"])
    for words in ([], ["--texts", "文", "--timeout", "0"]):
        with pytest.raises(SystemExit):
            seqcls_grpc_client.main(words)
