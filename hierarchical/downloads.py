"""Files from a web server, whole or not at all.

    download("https://.../model_state.pdparams", Path("folder/model_state.pdparams"))

What has come is kept in folder/model_state.pdparams.part, so that the next run goes on where a broken one stopped, and
beside it, in .part.json, which version of the file it is. The file takes its name when its size, and its MD5 where the
server tells one, are right. Proxies are those of the environment: https_proxy, http_proxy, no_proxy.
"""

import base64
import errno
import hashlib
import http.client
import json
import os
import shutil
import time
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import Request, build_opener, getproxies, proxy_bypass

from hierarchical.console import get_logger, progress_bar
from hierarchical.errors import InputError
from hierarchical.files import atomic_write

SILENCE = 30  # seconds without a byte, after which a connection counts as broken
PAUSES = (1, 2, 4, 8)  # seconds before the next attempts, of which so many in a row may bring nothing
BUSY = (408, 425, 429, 500, 502, 503, 504)  # answers that may be others a little later
PIECE = 1 << 18  # bytes


class Broken(Exception):
    """A transfer ended early; the message says how. Another attempt may do."""


def download(url: str, path: Path) -> None:
    """Fetch a file. Raises InputError, which says what failed, when it cannot be had whole."""
    part, note = Path(f"{path}.part"), Path(f"{path}.part.json")
    before, failures = -1, 0
    while True:
        try:
            _transfer(url, part, note)
            break
        except Broken as error:
            came = part.stat().st_size if part.exists() else 0
            failures = 1 if came > before else failures + 1
            before = came
            if failures > len(PAUSES):
                raise InputError(f"{url}: {error}; {came:,} bytes are there, with which the next run goes on") from None
            pause = PAUSES[failures - 1]
            get_logger().warning(f"{url}: {error}; going on after {came:,} bytes, in {pause} s")
            time.sleep(pause)
    told = _read_note(note, url)
    if told.get("md5") and _md5(part) != told["md5"]:
        part.unlink()
        raise InputError(f"{url}: what came has another MD5 than the server tells; it was removed, so try again")
    os.replace(part, path)
    note.unlink()


def _transfer(url: str, part: Path, note: Path) -> None:
    """Go on with the part, or begin anew where the server has another file by now, or cannot go on."""
    told = _read_note(note, url)
    have = part.stat().st_size if part.exists() and told else 0
    if told.get("size") == have > 0:
        return
    headers = {"Accept-Encoding": "identity", "User-Agent": "hierarchical"}
    if have and told.get("version"):
        headers |= {"Range": f"bytes={have}-", "If-Range": told["version"]}
    with _answer(url, Request(url, headers=headers), bool(told)) as response:
        continued = response.status == 206 and _begins_at(response, have)
        if not continued:
            if response.status != 200:
                part.unlink(missing_ok=True)
                raise Broken(f"the server sent another part than that asked for (HTTP {response.status})")
            have, told = 0, _describe(url, response)
            with atomic_write(note) as file:
                json.dump(told, file)
            _require_room(part.parent, told["size"])
        _receive(response, part, have, told["size"])


def _answer(url: str, request: Request, reached_before: bool) -> Any:
    """The server's answer. What cannot be mended by waiting is an InputError."""
    try:
        return build_opener().open(request, timeout=SILENCE)
    except HTTPError as error:
        error.close()
        if error.code == 416:  # there is nothing from there on: the file is another one
            request.remove_header("Range")
            request.remove_header("If-range")
            return _answer(url, request, reached_before)
        if error.code in BUSY:
            raise Broken(f"the server answered {error.code} {error.reason}") from None
        raise InputError(f"{url}: the server answered {error.code} {error.reason}{_by_way_of(url)}") from None
    except (URLError, OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error) or type(error).__name__
        if reached_before or isinstance(error, http.client.HTTPException | ConnectionError):
            raise Broken(f"no connection ({reason})") from None
        raise InputError(f"{url}: no connection ({reason}){_by_way_of(url)}") from None


def _receive(response: Any, part: Path, have: int, size: int | None) -> None:
    with open(part, "ab" if have else "wb") as file:
        with progress_bar(size, part.name.removesuffix(".part"), have, unit="B", unit_scale=True) as bar:
            try:
                while piece := response.read1(PIECE):
                    file.write(piece)
                    bar.update(len(piece))
            except (TimeoutError, ConnectionError, http.client.HTTPException) as error:
                raise Broken(f"the connection broke ({str(error) or type(error).__name__})") from None
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
                raise InputError(f"{part.parent}: the disk is full; make room, the next run goes on") from None
        file.flush()
        os.fsync(file.fileno())
        came = file.tell()
    if size is not None and came < size:
        raise Broken(f"the connection broke after {came:,} of {size:,} bytes")
    if size is not None and came > size:
        part.unlink()
        raise Broken(f"{came:,} bytes came instead of {size:,}")


def _describe(url: str, response: Any) -> dict:
    """What the server says about the file: its size, its MD5, and what tells this version of it from others."""
    size, digest, etag = (response.headers.get(name) for name in ("Content-Length", "Content-MD5", "ETag"))
    try:
        digest = base64.b64decode(digest, validate=True).hex() if digest else None
    except ValueError:
        digest = None  # not what the standard has under this name
    strong = etag if etag and not etag.startswith("W/") else None
    version = strong or response.headers.get("Last-Modified")
    return {"url": url, "size": int(size) if size else None, "md5": digest, "version": version}


def _begins_at(response: Any, first: int) -> bool:
    return str(response.headers.get("Content-Range", "")).startswith(f"bytes {first}-")


def _read_note(note: Path, url: str) -> dict:
    """What was known of the file when its first part came; {} if that is nothing, or was about another address."""
    try:
        told = json.loads(note.read_text("utf-8"))
        return told if told["url"] == url else {}
    except (OSError, ValueError, TypeError, KeyError):
        return {}


def _require_room(folder: Path, size: int | None) -> None:
    if (size or 0) > (free := shutil.disk_usage(folder).free):
        raise InputError(f"{folder}: {size:,} bytes are to come, and {free:,} are free on this disk")


def _md5(path: Path) -> str:
    md5 = hashlib.md5(usedforsecurity=False)
    with open(path, "rb") as file:
        while piece := file.read(PIECE):
            md5.update(piece)
    return md5.hexdigest()


def _by_way_of(url: str) -> str:
    """Which proxy was asked, without the password that may be in its address."""
    parts = urlsplit(url)
    proxy = getproxies().get(parts.scheme)
    if not proxy or proxy_bypass(parts.hostname or ""):
        return ""
    return f", by way of the proxy {urlsplit(proxy).hostname or proxy}, which {parts.scheme}_proxy names"
