"""downloads.py against a server on this machine: whatever happens on the way, a file is there whole or not at all."""

import errno
from collections import namedtuple

import pytest

from hierarchical import downloads
from hierarchical.downloads import download
from hierarchical.errors import InputError
from tests.hierarchical.web import Answer, Broken, Served, Silent, Web
from tests.ports import free_ports

CONTENT = bytes(range(256)) * 4000  # 1,024,000
PATH = "/models/encoder.pdparams"


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch):
    monkeypatch.setattr(downloads, "PAUSES", (0, 0, 0))
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def web():
    with Web() as server:
        server.files[PATH] = CONTENT
        yield server


@pytest.fixture
def target(tmp_path):
    return tmp_path / "model_state.pdparams"


def left(target):
    return sorted(path.name for path in target.parent.iterdir())


def refusal(web, target, path=PATH):
    with pytest.raises(InputError) as error:
        download(web.url(path), target)
    assert not target.exists()
    return str(error.value)


def starts(web):
    """Where each request began."""
    return [headers.get("Range") for _, headers in web.asked]


def test_a_file_comes_whole_and_nothing_else_stays(web, target):
    download(web.url(PATH), target)
    assert target.read_bytes() == CONTENT and left(target) == [target.name]
    assert starts(web) == [None] and web.asked[0][1]["Accept-Encoding"] == "identity"


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
def test_redirects_are_followed(web, target, code):
    web.plans["/old"] = [Answer(code, {"Location": web.url(PATH)})]
    download(web.url("/old"), target)
    assert target.read_bytes() == CONTENT and web.paths() == ["/old", PATH]


def test_redirects_in_a_circle_or_to_a_file_of_this_machine(web, target):
    web.plans["/a"] = [Answer(302, {"Location": "/a"})] * 20
    assert "302" in refusal(web, target, "/a")
    web.plans["/b"] = [Answer(302, {"Location": "file:///etc/hostname"})]
    assert "302" in refusal(web, target, "/b") and left(target) == []


def test_a_broken_connection_is_taken_up_where_it_broke(web, target, printed):
    web.plans[PATH] = [Broken(300_000), Broken(0), Broken(200_000)]
    download(web.url(PATH), target)
    assert target.read_bytes() == CONTENT
    assert starts(web) == [None, "bytes=300000-", "bytes=300000-", "bytes=500000-"]
    assert "broke after 300,000 of 1,024,000 bytes; going on after 300,000 bytes" in printed[0] and len(printed) == 3


def test_the_next_run_goes_on_after_one_that_gave_up(web, target):
    web.plans[PATH] = [Broken(300_000), *[Broken(0)] * 3]
    assert "300,000 bytes are there, with which the next run goes on" in refusal(web, target)
    assert left(target) == [f"{target.name}.part", f"{target.name}.part.json"]
    web.asked.clear()
    download(web.url(PATH), target)
    assert target.read_bytes() == CONTENT and starts(web) == ["bytes=300000-"] and left(target) == [target.name]


def test_a_run_killed_after_the_last_byte_asks_no_more(web, target):
    web.plans[PATH] = [Broken(300_000), *[Broken(0)] * 3]
    refusal(web, target)
    (target.parent / f"{target.name}.part").write_bytes(CONTENT)
    web.asked.clear()
    download(web.url(PATH), target)
    assert target.read_bytes() == CONTENT and web.asked == []


@pytest.mark.parametrize("new", [CONTENT[::-1], CONTENT[:1000]], ids=["another content", "a shorter file"])
def test_a_file_that_has_changed_meanwhile_is_not_mixed_with_its_older_part(web, target, new):
    web.plans[PATH] = [Broken(300_000), *[Broken(0)] * 3]
    refusal(web, target)
    web.files[PATH] = new
    download(web.url(PATH), target)
    assert target.read_bytes() == new


def test_a_part_of_another_address_or_without_a_note_is_not_used(web, target):
    part = target.parent / f"{target.name}.part"
    part.write_bytes(b"x" * 5000)
    download(web.url(PATH), target)
    assert target.read_bytes() == CONTENT
    web.files["/other"] = CONTENT[::-1]
    web.plans["/other"] = [Broken(5000), *[Broken(0)] * 3]
    target.unlink()
    refusal(web, target, "/other")
    download(web.url(PATH), target)
    assert target.read_bytes() == CONTENT


def test_a_server_that_can_only_begin_anew(web, target):
    web.ranges = False
    web.plans[PATH] = [Broken(300_000)]
    download(web.url(PATH), target)
    assert target.read_bytes() == CONTENT and starts(web) == [None, "bytes=300000-"]


def test_a_server_that_says_nothing_of_versions_is_asked_from_the_beginning(web, target):
    plain = {"ETag": None}
    web.plans[PATH] = [Served(plain, CONTENT[:300_000]), Served(plain)]
    download(web.url(PATH), target)
    assert target.read_bytes() == CONTENT and starts(web) == [None, None]


def test_a_server_that_goes_on_elsewhere_than_asked_is_asked_from_the_beginning(web, target):
    web.plans[PATH] = [Broken(300_000), Served({"Content-Range": "bytes 5-1023999/1024000"})]
    download(web.url(PATH), target)
    assert target.read_bytes() == CONTENT and starts(web) == [None, "bytes=300000-", None]


def test_the_md5_that_the_server_tells(web, target):
    web.digests = True
    download(web.url(PATH), target)
    assert target.read_bytes() == CONTENT
    target.unlink()
    web.plans[PATH] = [Served({}, b"\0" * len(CONTENT))]
    assert "another MD5" in refusal(web, target)
    assert f"{target.name}.part" not in left(target)
    web.plans[PATH] = [Broken(300_000)]  # the part was right: the MD5 of the first answer counts for the whole
    download(web.url(PATH), target)
    assert target.read_bytes() == CONTENT
    target.unlink()
    web.plans[PATH] = [Served({"Content-MD5": "not one"})]
    download(web.url(PATH), target)
    assert target.read_bytes() == CONTENT


@pytest.mark.parametrize("code", [401, 403, 404, 410])
def test_what_waiting_does_not_mend_is_told_at_once(web, target, code):
    web.plans[PATH] = [Answer(code)]
    assert f"{web.url(PATH)}: the server answered {code}" in refusal(web, target)
    assert len(web.asked) == 1 and left(target) == []


@pytest.mark.parametrize("code", [429, 500, 502, 503])
def test_a_busy_server_is_asked_again(web, target, code, printed):
    web.plans[PATH] = [Answer(code)] * 3
    download(web.url(PATH), target)
    assert target.read_bytes() == CONTENT and len(printed) == 3 and f"answered {code}" in printed[0]
    target.unlink()
    web.plans[PATH] = [Answer(code)] * 9
    assert f"answered {code}" in refusal(web, target) and web.plans[PATH] == [Answer(code)] * 5


def test_a_silent_server(web, target, monkeypatch, printed):
    build_opener = downloads.build_opener

    def build():
        monkeypatch.setattr(downloads, "SILENCE", 30 if web.asked else 1)  # the other answers take what time they need
        return build_opener()

    monkeypatch.setattr(downloads, "build_opener", build)
    web.plans[PATH] = [Silent(300_000)]
    download(web.url(PATH), target)
    assert target.read_bytes() == CONTENT and starts(web) == [None, "bytes=300000-"]
    assert "timed out" in printed[0]


def test_no_network(target, monkeypatch):
    (port,) = free_ports(1)
    with pytest.raises(InputError, match="no connection .*refused"):
        download(f"http://127.0.0.1:{port}/x", target)
    with pytest.raises(InputError, match="no connection"):
        download("http://nowhere.invalid/x", target)
    assert left(target) == []


def test_a_proxy_of_the_environment(web, target, monkeypatch):
    web.files["http://hub.invalid/models/x"] = CONTENT
    monkeypatch.setenv("http_proxy", web.address)
    download("http://hub.invalid/models/x", target)
    assert target.read_bytes() == CONTENT and web.paths() == ["http://hub.invalid/models/x"]
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    target.unlink()
    download(web.url(PATH), target)
    assert web.paths()[-1] == PATH  # not by way of it


def test_a_proxy_that_fails_is_named_without_its_password(web, target, monkeypatch):
    monkeypatch.setenv("http_proxy", web.address.replace("//", "//me:secret@"))
    with pytest.raises(InputError, match="404.*by way of the proxy 127.0.0.1, which http_proxy names") as error:
        download("http://hub.invalid/models/x", target)
    assert "secret" not in str(error.value)


def test_a_disk_without_room(web, target, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(downloads.shutil, "disk_usage", lambda _: usage(9, 8, 1000))
    assert "1,024,000 bytes are to come, and 1,000 are free" in refusal(web, target)
    monkeypatch.undo()

    class Full:
        def __init__(self, file):
            self.file = file

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self.file.close()

        def write(self, piece):
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(downloads, "open", lambda *arguments: Full(open(*arguments)), raising=False)
    assert "the disk is full" in refusal(web, target)


def test_without_a_length_the_end_is_that_of_the_chunks(web, target):
    def chunks(*sizes, end=b"0\r\n\r\n"):
        return b"".join(b"%x\r\n%s\r\n" % (size, b"x" * size) for size in sizes) + end

    headers, web.ranges = {"Transfer-Encoding": "chunked", "Content-Length": None}, False
    web.plans[PATH] = [Served(headers, chunks(1000, 500, end=b"1000\r\nxx")), Served(headers, chunks(1000, 500))]
    download(web.url(PATH), target)
    assert target.read_bytes() == b"x" * 1500
