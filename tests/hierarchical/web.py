"""A web server on this machine that stands in for a hub of encoders, with what can go wrong on the way.

with Web() as web:
    web.files["/model/vocab.txt"] = b"..."
    web.plans["/model/vocab.txt"] = [Broken(100), Answer(503)]    # the first two answers; then it serves the file
    web.url("/model/vocab.txt"), web.asked                        # [(path, headers), ...]
"""

import base64
import hashlib
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple


class Answer(NamedTuple):
    """Another answer than the file."""

    code: int
    headers: dict = {}
    body: bytes = b""


class Broken(NamedTuple):
    """The connection ends after so many bytes of the body."""

    after: int


class Silent(NamedTuple):
    """Nothing more comes after so many bytes."""

    after: int


class Served(NamedTuple):
    """The file, with other headers ({name: None} leaves one out), and as another content."""

    headers: dict = {}
    body: bytes | None = None


class Web:
    def __init__(self):
        self.files, self.plans, self.asked = {}, {}, []
        self.ranges, self.digests = True, False  # whether the server can go on in the middle, and tells an MD5
        self.stopping = threading.Event()
        web = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                web.answer(self)

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.address = f"http://127.0.0.1:{self.server.server_port}"

    def __enter__(self):
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.stopping.set()
        self.server.shutdown()
        self.server.server_close()

    def url(self, path):
        return self.address + path

    def paths(self):
        return [path for path, _ in self.asked]

    def answer(self, request):
        self.asked.append((request.path, dict(request.headers)))
        request.close_connection = True
        plans = self.plans.get(request.path, [])
        plan = plans.pop(0) if plans else Served()
        if isinstance(plan, Answer) or request.path not in self.files and not isinstance(plan, Served):
            return self.send(request, plan.code, {"Content-Length": len(plan.body), **plan.headers}, plan.body)
        if request.path not in self.files:
            return self.send(request, 404, {"Content-Length": 0}, b"")
        self.serve(request, self.files[request.path], plan)

    def serve(self, request, content, plan):
        code, etag = 200, f'"{hashlib.sha1(content).hexdigest()}"'
        headers = {"ETag": etag}
        if self.digests:
            headers["Content-MD5"] = base64.b64encode(hashlib.md5(content).digest()).decode()
        asked, condition = request.headers.get("Range"), request.headers.get("If-Range")
        if asked and self.ranges and condition in (None, etag):
            first = int(asked.removeprefix("bytes=").removesuffix("-"))
            if first >= len(content):
                return self.send(request, 416, {"Content-Range": f"bytes */{len(content)}", "Content-Length": 0}, b"")
            headers["Content-Range"] = f"bytes {first}-{len(content) - 1}/{len(content)}"
            code, content = 206, content[first:]
        headers["Content-Length"] = len(content)
        if isinstance(plan, Served):
            content = content if plan.body is None else plan.body
            headers |= plan.headers
        self.send(request, code, headers, content, plan)

    def send(self, request, code, headers, body, plan=None):
        request.send_response(code)
        for name, value in headers.items():
            if value is not None:
                request.send_header(name, str(value))
        request.end_headers()
        if isinstance(plan, Broken | Silent):
            request.wfile.write(body[: plan.after])
            request.wfile.flush()
            if isinstance(plan, Silent):
                self.stopping.wait(10)
            return
        request.wfile.write(body)
        time.sleep(0)
