"""deploy/simple_serving: keys with names, what they may do, how much; CORS, TLS, figures on their own address."""

import json
import re
import ssl
import sys

import pytest

for package in ("fastapi", "fastapi_offline", "httptools", "httpx", "prometheus_client"):
    pytest.importorskip(package)

# ruff: noqa: E402
import httpx

from deploy.simple_serving import keys as keys_module
from deploy.simple_serving import server
from deploy.simple_serving.bodies import Refusal
from deploy.simple_serving.keys import Key, Keys
from utils import InputError

from tests.deploy.simple_serving.conftest import KEY, LENGTHS, figures, held_by, in_background, key_line  # isort: skip
from tests.deploy.simple_serving.conftest import problem, wait_until  # isort: skip


@pytest.fixture
def file(tmp_path):
    return tmp_path / "keys.jsonl"


# ---- the file --------------------------------------------------------------------------------------------------------


def test_a_made_key_is_found_and_is_not_in_the_file(file, capsys):
    with pytest.raises(SystemExit) as ended:
        server.main(["--make_key", "shop"])
    out, err = capsys.readouterr()
    file.write_text(out + key_line("other", "another key"))
    value = re.search(r"The key of shop, shown this once: ([\w-]{43})\n", err)[1]
    assert ended.value.code == 0 and value not in out
    keys = Keys(file)
    assert keys.find(value.encode()).name == "shop" and keys.find(value.encode()).rights == {"classify", "explain"}
    assert keys.find(b"another key").rights == {"classify"}
    assert keys.find(value[:-1].encode()) is None and keys.find(b"") is None and keys.find(out.encode()) is None
    with pytest.raises(SystemExit, match="2"):
        server.main(["--make_key", "my shop"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", ".jsonl:1: no JSON"),
        ("[]", ".jsonl:1: no JSON object"),
        (key_line("a b", "x"), ".jsonl:1: name: 1 to 64"),
        (key_line("key", "x"), ".jsonl:1: the name 'key' is taken"),
        (key_line("a", "x") + key_line("a", "y"), ".jsonl:2: the name 'a' is taken"),
        (key_line("a", "x", sha256="ab"), ".jsonl:1: sha256: 64 hex"),
        (key_line("a", "x", rights=["all"]), "rights: a list of some of classify, explain, admin"),
        (key_line("a", "x", rights=[]), "rights: a list"),
        (key_line("a", "x", limit=3), "unknown 'limit'; known are name"),
        (key_line("a", "x", texts_per_second=0), "texts_per_second: a number above 0"),
        (key_line("a", "x", concurrency=1.5), "concurrency: a number above 0"),
        (key_line("a", "x", concurrency=True), "concurrency: a number above 0"),
        ("\n", "no key in it"),
    ],
)
def test_bad_lines_are_told(file, content, message):
    file.write_text(content)
    with pytest.raises(InputError) as found:
        Keys(file)
    assert message in str(found.value)


def test_changes_are_read_and_faults_change_nothing(file, printed, monkeypatch):
    now = 100.0
    monkeypatch.setattr(keys_module.time, "monotonic", lambda: now)
    file.write_text(key_line("a", "first", concurrency=1))
    keys = Keys(file)
    keys.find(b"first").begin()
    file.write_text(key_line("a", "second", concurrency=1) + key_line("b", "third"))
    assert keys.find(b"second") is None  # not looked at again yet
    now += 1.1
    assert keys.find(b"first") is None and keys.find(b"third").name == "b"
    with pytest.raises(Refusal):
        keys.find(b"second").begin()  # what its name has in use was kept
    file.write_text("{")
    now += 1.1
    assert keys.find(b"third") and keys.find(b"third")
    file.unlink()
    keys.look(now=True)
    assert keys.find(b"third") and len([text for text in printed if "stay in force" in text]) == 2


# ---- limits ----------------------------------------------------------------------------------------------------------


def test_texts_per_second(monkeypatch):
    now = 100.0
    monkeypatch.setattr(keys_module.time, "monotonic", lambda: now)
    key = Key("a", "", frozenset(), texts_per_second=10)
    key.take(10)
    with pytest.raises(Refusal) as refused:
        key.take(1)
    assert refused.value.status == 429 and refused.value.reason == "rate"
    now += 0.5
    key.take(35)  # 5 were saved: 30 are owed
    with pytest.raises(Refusal) as refused:
        key.take(1)
    assert refused.value.headers == {"Retry-After": "3"}
    now += 3.1
    key.take(1)
    now += 1000
    key.take(10)  # no more than a second's worth is saved
    with pytest.raises(Refusal):
        key.take(1)


# ---- servers ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_rights_and_limits_of_keys(start, tiny_export, file, tmp_path, gate):
    admin, some, one_at_once = "admin's key", "some other key", "one at once"
    file.write_text(
        key_line("boss", admin, rights=["classify", "explain", "admin"])
        + key_line("some", some, texts_per_second=0.01)
        + key_line("one", one_at_once, concurrency=1)
    )
    log = tmp_path / "log"
    one = start("--model_path", tiny_export, "--keys_file", file, "--access_log", log, change=held_by(gate))
    gate.touch()
    with httpx.Client(base_url=one.url, timeout=30) as client:

        def ask(key, path="/v1/classify", **body):
            return client.post(path, json=body or {"texts": "国足"}, headers={"X-API-Key": key} if key else {})

        assert ask("").status_code == ask(KEY).status_code == 401
        assert ask(some).status_code == 200
        refused = ask(some)
        assert refused.status_code == 429 and int(refused.headers["Retry-After"]) > 60
        for path, body in (("/v1/explain", {"text": "国足"}), ("/admin/reload", {})):
            refused = ask(some, path, **body)
            assert refused.status_code == 403 and "the key 'some' has classify" in problem(refused)["how"]
        gate.unlink()
        running = in_background(ask, one_at_once)
        wait_until(lambda: figures(client)["http_requests_in_flight"] == 2)
        refused = ask(one_at_once)
        assert refused.status_code == 429 and "1 requests of this key" in problem(refused)["what"]
        gate.touch()
        running.thread.join()
        assert running.value.status_code == 200 and ask(one_at_once).status_code == 200
        told = figures(client)
        for reason, count in (("key", 2), ("rate", 1), ("rights", 2), ("concurrency", 1)):
            assert told[f'requests_rejected_total{{reason="{reason}"}}'] == count
        assert client.get("/health").json()["model"] in ("int8.onnx", "float32.onnx")
        assert str(tiny_export) in client.get("/health", headers={"X-API-Key": admin}).json()["model"]
        assert str(tiny_export) not in client.get("/health", headers={"X-API-Key": some}).text

        file.write_text(key_line("new", "a new key", rights=["admin"]))
        wait_until(lambda: ask("a new key", "/admin/reload").status_code == 200, seconds=5)
        assert ask(admin).status_code == 401
    one.stop()
    clients = [json.loads(row).get("client") for row in log.read_text("utf-8").splitlines()]
    assert {"some", "one", "new", None} == set(clients)
    assert not any(key in log.read_text("utf-8") + one.log() for key in (admin, some, one_at_once))


@pytest.mark.slow
def test_pages_of_other_origins_and_figures_on_their_own_port(start, tiny_export):
    one = start("--model_path", tiny_export, "--cors_origins", "https://a.example", "--metrics_port", 0)
    asked = {"Origin": "https://a.example", "Access-Control-Request-Method": "POST"}
    asked["Access-Control-Request-Headers"] = "content-type,x-api-key"
    with httpx.Client(base_url=one.url, timeout=30) as client:
        allowed = client.options("/v1/classify", headers=asked)
        assert allowed.status_code == 200 and allowed.headers["Access-Control-Allow-Origin"] == "https://a.example"
        assert client.options("/v1/classify", headers=asked | {"Origin": "https://b.example"}).status_code == 400
        refused = client.post("/v1/classify", json={"texts": []}, headers={"Origin": "https://a.example"})
        assert refused.status_code == 422 and refused.headers["Access-Control-Allow-Origin"] == "https://a.example"
        other = client.post("/v1/classify", json={"texts": "一"}, headers={"Origin": "https://b.example"})
        assert "Access-Control-Allow-Origin" not in other.headers
        assert client.get("/metrics").status_code == 404
    address = re.search(r"Figures on (http://\S+)", one.log())[1]
    assert "http_requests_total" in httpx.get(address, timeout=30).text


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="needs openssl")
def test_tls_and_its_renewal(start, tiny_export, certificate):
    import signal

    cert, key = certificate()
    one = start("--model_path", tiny_export, "--tls_cert", cert, "--tls_key", key)
    assert one.url.startswith("https://")

    def ask():
        return httpx.post(
            f"{one.url}/v1/classify", json={"texts": "国足"}, verify=ssl.create_default_context(cafile=cert)
        )

    assert ask().status_code == 200
    with one.connect() as plain:
        plain.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert b"200" not in plain.recv(1000)
    context = ssl.create_default_context(cafile=cert)
    with context.wrap_socket(one.connect(), server_hostname="127.0.0.1") as strange:
        strange.sendall(b"no HTTP\r\n\r\n")
        assert strange.recv(1000).startswith(b"HTTP/1.1 400 ")
    certificate()  # another one, in the same files
    with pytest.raises(httpx.ConnectError):
        ask()
    one.process.send_signal(signal.SIGHUP)
    one.wait_for("Reloaded ")
    assert ask().status_code == 200
    right, fitting = cert.read_text(), key.read_text()
    certificate()  # a certificate, before its key
    key.write_text(fitting)
    one.process.send_signal(signal.SIGHUP)
    one.wait_for("Not reloaded.*They must be PEM files that fit")
    cert.write_text(right)
    assert ask().status_code == 200  # with what was there before
    cert.write_text("none")
    one.process.send_signal(signal.SIGHUP)
    one.wait_for("Not reloaded.*They must be PEM files")
    assert one.stop() == 0


@pytest.mark.parametrize(
    "flags",
    [
        ["--tls_cert", "a.pem"],
        ["--cors_origins", "a.example"],
        ["--cors_origins", "https://a.example/"],
        ["--metrics_port", "-1"],
        ["--log_texts"],
        ["--sample", "0"],
        ["--otlp_endpoint", "localhost:4318"],
    ],
)
def test_bad_flags(flags):
    with pytest.raises(SystemExit, match="2"):
        server.main(["--model_path", "export", *flags])


@pytest.mark.slow
def test_a_short_text_does_not_wait_for_a_hundred_long_ones(start, tiny_export, gate):
    """One thread, one text of a time: the short one is the next but one or two, not the 101st."""
    flags = ("--num_threads", 1, "--batch_size", 1, "--timeout", 60)
    one = start("--model_path", tiny_export, *flags, change=held_by(gate) + LENGTHS)
    with httpx.Client(base_url=one.url, timeout=60) as client:
        boxes = [in_background(client.post, "/v1/classify", json={"texts": ["长" * 60] * 100})]
        wait_until(lambda: figures(client)["queue_length"] == 99)
        boxes.append(in_background(client.post, "/v1/classify", json={"texts": "短"}))
        wait_until(lambda: figures(client)["queue_length"] == 100)
        gate.touch()
        for box in boxes:
            box.thread.join()
            assert box.value.status_code == 200
    lengths = re.findall(r"^\d+$", one.log(), re.M)
    assert len(lengths) == 101 and lengths.count("1") == 1 and lengths.index("1") <= 2
