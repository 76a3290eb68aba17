"""deploy/simple_serving: overload, the end, the key, new models, the command line, and the page in a browser."""

import http.client
import json
import random
import shutil
import signal
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

for package in ("fastapi", "fastapi_offline", "httptools", "httpx", "prometheus_client"):
    pytest.importorskip(package)

# ruff: noqa: E402
import httpx

from deploy.simple_serving import server, serving
from hierarchical.engines import find_gpu
from utils import InputError

from tests.deploy.simple_serving.conftest import KEY, figures, held_by, in_background, key_line  # isort: skip
from tests.deploy.simple_serving.conftest import problem, wait_until  # isort: skip

pytestmark = pytest.mark.slow

BRIEF = "service.BODY_SECONDS = protocol.HEAD_SECONDS = 1"


def test_the_device_is_that_of_the_model(monkeypatch, printed):
    """Every model goes to the GPU asked for, or to the CPU where there is none, with a word about it."""
    asked = []
    monkeypatch.setattr(server, "serve", lambda args, loads: [load() for load in loads.values()])

    def load(path, precision, unseen, device, num_threads, **settings):
        asked.append((path, precision, device, num_threads))

    monkeypatch.setattr("deploy.simple_serving.model.load_exported", load)
    flags = ["--model_path", "a", "--model", "b=c", "--precision", "float32", "--device", "gpu:1"]
    flags += ["--num_threads", "3"]
    monkeypatch.setattr(serving, "find_gpu", lambda device, backend: device)
    server.main(flags)
    assert asked == [("a", "float32", "gpu:1", 3), ("c", "float32", "gpu:1", 3)]
    monkeypatch.setattr(serving, "find_gpu", find_gpu)
    monkeypatch.setattr("hierarchical.engines.has_nvidia_driver", lambda: False)
    server.main(flags)
    assert asked[2:] == [("a", "float32", "cpu", 3), ("c", "float32", "cpu", 3)]
    assert "device gpu:1: predicting on the CPU (this machine has no NVIDIA GPU)" in "\n".join(printed)


# ---- strangers' texts ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("export_of", "precision"), [("tiny_export", "float32"), ("tiny_export", "int8"), ("older_export", "int8")]
)
def test_an_answer_depends_on_its_text_alone(start, request, texts, export_of, precision):
    """Asked alone, or by one of eight clients at once in requests of any size and order; int8 texts never share a call."""
    one = start("--model_path", request.getfixturevalue(export_of), "--precision", precision, "--queue_size", "1000")
    texts, orders = list(dict.fromkeys(texts))[:60], [random.Random(seed).sample(range(60), 60) for seed in range(8)]
    with httpx.Client(base_url=one.url, timeout=60) as client:

        def ask(rows):
            answer = client.post("/v1/classify", json={"texts": [texts[i] for i in rows], "floor": 0})
            results = answer.raise_for_status().json()["results"]
            return [[row["probabilities"][label] for label in sorted(row["probabilities"])] for row in results]

        alone = np.array([ask([i])[0] for i in range(60)])
        assert np.ptp(alone) > 0.9
        before = figures(client)["batch_size_count"]
        size = [1, 2, 3, 5, 6, 10, 20, 30]
        parts = [order[i : i + n] for order, n in zip(orders, size) for i in range(0, 60, n)]
        random.Random(0).shuffle(parts)
        with ThreadPoolExecutor(8) as pool:
            for rows, found in zip(parts, pool.map(ask, parts)):
                assert np.abs(np.array(found) - alone[rows]).max() < 1e-5 + 1e-6  # they are rounded
        calls = figures(client)["batch_size_count"] - before
        assert calls == 480 if precision == "int8" else calls < 300


# ---- overload, time and the end --------------------------------------------------------------------------------------


def test_a_full_queue_refuses(start, tiny_export, tmp_path, gate):
    """And charges nobody's limit of texts a second for what it refuses; who waits may do so for longer than a body may."""
    flags = "--num_threads 1 --batch_size 1 --queue_size 2 --max_texts 2".split()
    (tmp_path / "keys").write_text(key_line("some", KEY) + key_line("slow", "a slow one", texts_per_second=0.001))
    one = start("--model_path", tiny_export, *flags, "--keys_file", tmp_path / "keys", change=held_by(gate) + BRIEF)
    slow = {"X-API-Key": "a slow one"}
    with httpx.Client(base_url=one.url, timeout=30, headers={"X-API-Key": KEY}) as client:
        first = in_background(client.post, "/v1/classify", json={"texts": "一"})
        wait_until(lambda: figures(client)["batch_size_count"] == 1)
        second = in_background(client.post, "/v1/classify", json={"texts": ["二", "三"]})
        wait_until(lambda: figures(client)["queue_length"] == 2)
        refused = client.post("/v1/classify", json={"texts": "四"}, headers=slow)
        assert refused.status_code == 429 and int(refused.headers["Retry-After"]) >= 1
        assert problem(refused)["how"] == "Ask again later."
        time.sleep(1.1)
        gate.touch()
        for box, count in ((first, 1), (second, 2)):
            box.thread.join()
            assert box.value.status_code == 200 and len(box.value.json()["results"]) == count
        assert client.post("/v1/classify", json={"texts": "五"}, headers=slow).status_code == 200
        assert client.post("/v1/classify", json={"texts": "六"}, headers=slow).status_code == 429


def test_no_answer_in_time(start, tiny_export, gate):
    one = start("--model_path", tiny_export, "--timeout", "0.1", "--num_threads", "1", change=held_by(gate))
    with httpx.Client(base_url=one.url, timeout=30) as client:
        late = client.post("/v1/classify", json={"texts": ["一", "二"]})
        assert late.status_code == 503 and "Retry-After" in late.headers
        assert problem(late)["what"] == "no answer within 0.1 s"
        wait_until(lambda: figures(client)["queue_length"] == 0)  # nobody works for those who have gone
    gate.touch()
    assert one.stop() == 0
    assert one.log().count("\n") == 3, one.log()


def test_a_client_that_leaves_costs_nothing(start, tiny_export, gate):
    flags = ("--num_threads", "1", "--batch_size", "1")
    one = start("--model_path", tiny_export, *flags, change=held_by(gate))
    with httpx.Client(base_url=one.url, timeout=30) as client:
        leaving = http.client.HTTPConnection(*one.address, timeout=30)
        leaving.request("POST", "/v1/classify", json.dumps({"texts": ["一"] * 50}))
        wait_until(lambda: figures(client)["queue_length"] == 49)
        leaving.close()
        wait_until(lambda: figures(client)["queue_length"] == 0)
        gate.touch()
        assert client.post("/v1/classify", json={"texts": "二"}).status_code == 200
        assert figures(client)['http_requests_total{path="/v1/classify",status="499"}'] == 1
    assert one.stop() == 0
    assert one.log().count("\n") == 3, one.log()


@pytest.mark.parametrize("signal_number", [signal.SIGTERM, signal.SIGINT])
def test_what_was_taken_is_answered_before_the_end(start, tiny_export, signal_number, gate):
    flags = ("--num_threads", "1", "--batch_size", "1")
    one = start("--model_path", tiny_export, *flags, change=held_by(gate))
    with httpx.Client(base_url=one.url, timeout=30) as client:
        client.get("/health")
        boxes = [in_background(client.post, "/v1/classify", json={"texts": text}) for text in "一二三"]
        wait_until(lambda: figures(client)["queue_length"] == 2)
        one.process.send_signal(signal_number)
        wait_until(lambda: client.get("/ready").status_code == 503)
        refused = client.post("/v1/classify", json={"texts": "四"})
        assert refused.status_code == 503 and problem(refused)["what"] == "it is shutting down"
        gate.touch()
        for box in boxes:
            box.thread.join()
            assert box.value.status_code == 200
    assert one.process.wait(timeout=30) == 0
    assert one.log().endswith("Every request is answered; the server has ended\n")


def test_a_second_signal_does_not_wait(start, tiny_export, gate):
    """For a request that would never be answered."""
    one = start("--model_path", tiny_export, "--num_threads", "1", change=held_by(gate))
    with httpx.Client(base_url=one.url, timeout=30) as client:
        box = in_background(pytest.raises, httpx.TransportError, client.post, "/v1/classify", json={"texts": "一"})
        wait_until(lambda: "batch_size_count 1.0" in httpx.get(f"{one.url}/metrics").text)
        one.process.terminate()
        wait_until(lambda: httpx.get(f"{one.url}/ready").status_code == 503)
        assert one.stop() == -signal.SIGTERM
        box.thread.join()
        assert box.value


def test_a_fault_of_the_server_reaches_the_client(start, tiny_export):
    one = start("--model_path", tiny_export, change="service.run = lambda items: 1 / 0")
    response = httpx.post(f"{one.url}/v1/classify", json={"texts": "一"}, timeout=30)
    assert response.status_code == 500 and "log" in problem(response)["how"]
    one.wait_for("(ZeroDivisionError)")
    assert httpx.get(f"{one.url}/health").status_code == 200


def test_what_the_model_needs_may_be_out_of_reach(start, tiny_export):
    """As an index on another machine may; then the answer is to ask again, and the log says what is wrong."""
    change = (
        "from utils import InputError; "
        "service.run = lambda items: (_ for _ in ()).throw(InputError('no way to the machine 10.0.0.7'))"
    )
    one = start("--model_path", tiny_export, change=change)
    response = httpx.post(f"{one.url}/v1/classify", json={"texts": ["一", "二"]}, timeout=30)
    assert response.status_code == 503 and response.headers["Retry-After"] == "5"
    assert problem(response)["what"] == "the model cannot answer" and "10.0.0.7" not in response.text
    assert one.stop() == 0
    assert "no way to the machine 10.0.0.7" in one.log() and "Traceback" not in one.log()


RAISES = """
import onnxruntime
from onnxruntime.capi.onnxruntime_pybind11_state import RuntimeException
real = onnxruntime.InferenceSession.run
def run_session(session, names, feed):
    if {when}:
        raise RuntimeException("Status Message: bfc_arena.cc:376 Failed to allocate memory for requested buffer of size 9")
    return real(session, names, feed)
onnxruntime.InferenceSession.run = run_session
"""


def test_out_of_memory(start, tiny_export):
    one = start(
        "--model_path",
        tiny_export,
        change=RAISES.format(when="(feed['input_ids'] == feed['input_ids'][0, 1]).sum() > 20"),
    )
    response = httpx.post(f"{one.url}/v1/classify", json={"texts": "长" * 30}, timeout=30)
    assert response.status_code == 503 and problem(response)["what"] == "the model cannot answer"
    assert httpx.post(f"{one.url}/v1/classify", json={"texts": "短"}, timeout=30).status_code == 200
    assert one.stop() == 0
    assert "out of memory on cpu: lower --batch_size" in one.log() and "Traceback" not in one.log()


def test_one_failing_text_fails_no_other(start, tiny_export, gate):
    """In one batch with it, but of other requests."""
    change = held_by(gate) + RAISES.format(when="335 in feed['input_ids']")  # the token 天
    flags = ("--precision", "float32", "--num_threads", "1")  # int8 has no batches
    one = start("--model_path", tiny_export, *flags, change=change)
    with httpx.Client(base_url=one.url, timeout=30) as client:
        boxes = [in_background(client.post, "/v1/classify", json={"texts": "一一"})]
        wait_until(lambda: figures(client)["batch_size_count"] == 1)
        for text in ("国足", "\u5929\u6c14", "两市", "央行"):
            boxes.append(in_background(client.post, "/v1/classify", json={"texts": text}))
        wait_until(lambda: figures(client)["queue_length"] == 4)
        gate.touch()
        for box in boxes:
            box.thread.join()
        told = figures(client)
        assert told['batch_size_bucket{le="2.0"}'] == 1 and told["batch_size_count"] == 2  # the four were together
    assert [box.value.status_code for box in boxes] == [200, 200, 503, 200, 200]


# ---- the key, and new models -----------------------------------------------------------------------------------------


@pytest.fixture
def export(tiny_export, tmp_path):
    """A copy of the exported model that a test may change."""
    return shutil.copytree(tiny_export, tmp_path / "export")


def test_key(start, export, tmp_path):
    (tmp_path / "key.txt").write_text(f"{KEY}\nsecond line\n", encoding="utf-8")
    by_file = start("--model_path", export, "--api_key_file", tmp_path / "key.txt")
    by_variable = start("--model_path", export, environment={"SERVING_API_KEY": KEY})
    for one in (by_file, by_variable):
        with httpx.Client(base_url=one.url, timeout=30) as client:
            for path in ("/v1/classify", "/v1/explain", "/models/cls_hierarchical", "/admin/reload"):
                for headers in ({}, {"X-API-Key": KEY[:-1]}, {"X-API-Key": ""}, {b"X-API-Key": b"\xff"}):
                    response = client.post(path, content=b"{", headers=headers)
                    assert response.status_code == 401 and "X-API-Key" in problem(response)["how"]
                assert client.post(path, content=b"{", headers={"X-API-Key": KEY}).status_code in (200, 400)
                connection = http.client.HTTPConnection(*one.address, timeout=30)
                connection.request("POST", path, b"{", {"X-API-Key": KEY + " \t"})  # blanks around it are none of it
                assert connection.getresponse().status in (200, 400)
                connection.close()
            assert client.get("/health").status_code == client.get("/").status_code == 200
            document = client.get("/openapi.json").json()
            assert document["paths"]["/v1/classify"]["post"]["security"] == [{"key": []}]
            assert document["components"]["securitySchemes"]["key"]["name"] == "X-API-Key"
        assert KEY not in one.log()


def test_reload_drops_no_request(start, export):
    one = start("--model_path", export, environment={"SERVING_API_KEY": KEY})
    headers = {"X-API-Key": KEY}
    settings = json.loads((export / "decision.json").read_text(encoding="utf-8"))
    going, statuses, counts = True, set(), set()

    def ask():
        with httpx.Client(base_url=one.url, timeout=30, headers=headers) as client:
            while going:
                response = client.post("/v1/classify", json={"texts": ["国足今晚出战"] * 3})
                statuses.add(response.status_code)
                counts.add(tuple(len(row["labels"]) for row in response.json()["results"]))

    askers = [in_background(ask) for _ in range(3)]
    try:
        with httpx.Client(base_url=one.url, timeout=30, headers=headers) as client:
            (export / "decision.json").write_text(json.dumps(settings | {"top_k": 2}), encoding="utf-8")
            assert client.post("/admin/reload").raise_for_status().json()["status"] == "reloaded"
            assert len(client.post("/v1/classify", json={"texts": "一"}).json()["results"][0]["labels"]) == 2
            (export / "decision.json").write_text(json.dumps(settings | {"top_k": 1}), encoding="utf-8")
            one.process.send_signal(signal.SIGHUP)
            one.wait_for("(?s)Reloaded .* Reloaded ")
            assert len(client.post("/v1/classify", json={"texts": "一"}).json()["results"][0]["labels"]) == 1

            (export / "int8.onnx").write_bytes((export / "int8.onnx").read_bytes()[:5000])
            broken = client.post("/admin/reload")
            assert broken.status_code == 409 and "int8.onnx" in problem(broken)["what"]
            assert "stays in service" in problem(broken)["how"] and "stays in service" in one.log()
            assert len(client.post("/v1/classify", json={"texts": "一"}).json()["results"][0]["labels"]) == 1
            assert figures(client)['model_reloads_total{outcome="done"}'] == 2
            assert figures(client)['model_reloads_total{outcome="failed"}'] == 1
    finally:
        going = False
        for asker in askers:
            asker.thread.join()
    assert statuses == {200}
    assert all(len(set(row)) == 1 for row in counts), "one answer, two models"
    assert {(2, 2, 2), (1, 1, 1)} <= counts


# ---- the command line ------------------------------------------------------------------------------------------------


@pytest.fixture
def call(tiny_export):
    """call(*flags): main() in this process, with faults that end it before it serves."""

    def call(*flags):
        server.main(["--model_path", str(tiny_export), *map(str, flags)])

    return call


@pytest.mark.parametrize(
    "flags",
    [
        ["--port", "70000"],
        ["--batch_size", "0"],
        ["--timeout", "nan"],
        ["--timeout", "0"],
        ["--queue_size", "3"],
        ["--precision", "int4"],
    ],
)
def test_bad_flags(call, flags):
    with pytest.raises(SystemExit) as stopped:
        call(*flags)
    assert stopped.value.code == 2


def test_what_can_be_wrong_at_the_start(call, shared, tmp_path, monkeypatch):
    with pytest.raises(InputError, match=f"--port {shared.address[1]}: .*choose another one"):
        call("--port", shared.address[1])
    with pytest.raises(InputError, match="--host nowhere.invalid"):
        call("--host", "nowhere.invalid")
    with pytest.raises(InputError, match="no such file.*openssl"):
        call("--api_key_file", tmp_path / "key.txt")
    (tmp_path / "key.txt").write_text("short\n")
    with pytest.raises(InputError, match="8 or more"):
        call("--api_key_file", tmp_path / "key.txt")
    with pytest.raises(InputError, match="float32.onnx: no such file"):
        call("--port", "0", "--model_path", tmp_path)
    monkeypatch.setenv("SERVING_API_KEY", "")
    with pytest.raises(InputError, match="SERVING_API_KEY: the key must be"):
        call()


def test_missing_packages_are_named(call, monkeypatch):
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    monkeypatch.delitem(sys.modules, "deploy.simple_serving.answering", raising=False)  # as in a new process
    with pytest.raises(InputError, match="uvicorn is not installed: pip install -r deploy/simple_serving/requirements"):
        call("--port", "0")


def test_paddle_is_not_imported(start, tiny_export):
    change = (
        "import atexit; atexit.register(lambda: print('LOADED', {'paddle', 'paddlenlp', 'tokenizers', 'torch'} "
        "& set(sys.modules), file=sys.stderr))"
    )
    one = start("--model_path", tiny_export, change=change)
    httpx.post(f"{one.url}/v1/explain", json={"text": "国足"}, timeout=30).raise_for_status()
    assert one.stop() == 0 and "LOADED set()" in one.log()


def test_warns_when_everybody_may_use_it(start, tiny_export):
    one = start("--model_path", tiny_export, "--host", "0.0.0.0")
    assert "whoever reaches this machine may use the server" in one.log()


def test_names_that_it_goes_by(start, tiny_export):
    one = start("--model_path", tiny_export, "--allowed_hosts", "classify.example", "other.example")
    for host, status in (("classify.example:80", 200), ("other.example", 200), ("127.0.0.1", 421)):
        response = httpx.get(f"{one.url}/health", headers={"Host": host})
        assert response.status_code == status
    assert "--allowed_hosts 127.0.0.1" in problem(response)["how"]


# ---- the page --------------------------------------------------------------------------------------------------------


def test_page_in_a_browser(shared, chromium):
    for width, language, title in (
        (1280, "zh-CN", "层次文本分类"),
        (390, "en", "Hierarchical text classification"),
    ):
        page, faults = chromium.new_page(viewport={"width": width, "height": 800}, locale=language), []
        page.on("pageerror", lambda error, faults=faults: faults.append(str(error)))
        page.on("console", lambda message, faults=faults: message.type == "error" and faults.append(message.text))
        page.goto(shared.url)
        assert page.inner_text("h1") == title
        page.fill("#text", "国足今晚<img src=x onerror=alert(1)>😀出战")
        page.click("#send")
        page.wait_for_selector("#words span[style]", timeout=30_000)
        assert page.inner_text("#words") == "国足今晚<img src=x onerror=alert(1)>😀出战"
        assert page.locator(".node.predicted").count() > 0 and page.locator("#tree img, #words img").count() == 0
        page.locator(".node:not(.chosen)").last.click()
        assert page.locator(".node.chosen").count() == 1
        page.wait_for_selector("#words span[style]", timeout=30_000)
        assert page.locator(".node.chosen .name").inner_text() in page.inner_text("#chosen")
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        page.fill("#text", "长" * 1500)
        page.click("#send")
        page.locator("#error", has_text="1500").wait_for()
        assert len(faults) == 1 and "413" in faults[0]  # the browser's own line about the refused request
