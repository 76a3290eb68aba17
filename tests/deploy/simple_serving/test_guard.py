"""deploy/simple_serving/guard.py: by which names a server is called, and which bodies are not unpacked."""

import socket

import pytest

pytest.importorskip("pydantic")

# ruff: noqa: E402
from deploy.simple_serving.bodies import Refusal
from deploy.simple_serving.guard import Hosts, check_encoding


def status(hosts, *values, version="1.1"):
    """What the Host headers of a request get: 200, or the status of the refusal."""
    headers = [(b"accept", b"*/*"), *((b"host", value.encode("latin-1")) for value in values)]
    try:
        hosts.check({"headers": headers, "http_version": version})
    except Refusal as refusal:
        return refusal.status
    return 200


@pytest.mark.parametrize(
    ("listens", "allowed", "value", "expected"),
    [
        ("127.0.0.1", None, "127.0.0.1:8189", 200),
        ("127.0.0.1", None, "localhost", 200),
        ("127.0.0.1", None, "LocalHost.:80", 200),
        ("127.0.0.1", None, "[::1]:8189", 200),
        ("127.0.0.1", None, "[0:0:0:0:0:0:0:1]", 200),
        ("127.0.0.1", None, "[::ffff:127.0.0.1]", 200),
        ("127.0.0.1", None, "evil.example:8189", 421),
        ("127.0.0.1", None, "localhost.evil.example", 421),
        ("127.0.0.1", None, "192.168.0.7", 421),
        ("192.168.0.7", None, "192.168.0.7:8189", 200),
        ("192.168.0.7", None, "192.168.0.8:8189", 421),
        ("192.168.0.7", None, socket.gethostname(), 200),
        ("classify.example", None, "classify.example", 200),
        ("0.0.0.0", None, "192.168.0.7:8189", 200),
        ("::", None, "[fe80::1]:8189", 200),
        ("0.0.0.0", None, socket.gethostname().upper(), 200),
        ("0.0.0.0", None, "evil.example", 421),
        ("0.0.0.0", ["classify.example", "10.0.0.1"], "classify.example", 200),
        ("0.0.0.0", ["classify.example", "10.0.0.1"], "10.0.0.1:1", 200),
        ("0.0.0.0", ["classify.example", "10.0.0.1"], "localhost", 421),
        ("0.0.0.0", ["*"], "evil.example", 200),
        *(("0.0.0.0", ["*"], value, 400) for value in ("", "a b", "a,b", "a@b", "a:x", "[::1", "é", "http://a", "a/b")),
    ],
)
def test_names_of_a_server(listens, allowed, value, expected):
    assert status(Hosts(listens, allowed), value) == expected


def test_one_host_and_no_other():
    hosts = Hosts("127.0.0.1")
    assert status(hosts) == 400 and status(hosts, version="1.0") == 200
    assert status(hosts, "localhost", "localhost") == 400
    assert status(hosts, "evil.example", version="1.0") == 421


@pytest.mark.parametrize(
    ("name", "value", "packed"),
    [
        (b"content-encoding", b"gzip", True),
        (b"content-encoding", b"GZIP, br", True),
        (b"content-encoding", b"identity", False),
        (b"content-encoding", b"", False),
        (b"transfer-encoding", b"chunked", False),
        (b"transfer-encoding", b"gzip, chunked", True),
        (b"accept-encoding", b"gzip", False),
    ],
)
def test_packed_bodies(name, value, packed):
    if not packed:
        return check_encoding({"headers": [(name, value)]})
    with pytest.raises(Refusal) as refused:
        check_encoding({"headers": [(name, value)]})
    assert refused.value.status == 415 and name.decode().title() in refused.value.problems[0].how
