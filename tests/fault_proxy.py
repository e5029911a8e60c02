"""An HTTP proxy before an S3 server that does to chosen requests what networks and servers do."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

Fault = str
"""One of:

* ``cut-after``: pass the request on, then close the connection without an answer
* ``500-after``: pass it on, then answer 500
* ``cut-before``, ``500-before``, ``503-before``, ``409-before``: the same, and nothing is passed on
* ``412-before``: refuse the condition although nothing is there
* ``403-AccessDenied-before`` and the like: answer with that status and code, and pass nothing on
* ``drop-condition``: pass it on without its If-None-Match, as servers do that don't know it
* ``half-body``: pass it on, and give half of the answer's body
* ``silent``: never answer
"""

ERROR_CODES = {409: "ConditionalRequestConflict", 412: "PreconditionFailed", 500: "InternalError", 503: "SlowDown"}


class FaultProxy:
    """Listens on 127.0.0.1 while the ``with`` block lasts. ``choose`` says what befalls a request, None for nothing.

    ``requests`` holds (method, path) of every request that came, in order.
    """

    def __init__(self, upstream: str) -> None:
        self.upstream = urlsplit(upstream).netloc
        self.requests: list[tuple[str, str]] = []
        self.choose: Callable[[str, str], Fault | None] = lambda _method, _path: None
        self.released = threading.Event()
        proxy = self

        class Handler(_Handler):
            owner = proxy

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> FaultProxy:
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.released.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def fail(self, method: str, *faults: Fault | None) -> None:
        """The next requests of ``method`` meet ``faults`` in turn; those after them none."""
        rest = list(faults)
        guard = threading.Lock()

        def choose(verb: str, path: str) -> Fault | None:
            with guard:
                return rest.pop(0) if verb == method and rest else None

        self.choose = choose

    def fail_always(self, method: str, fault: Fault) -> None:
        self.choose = lambda verb, _path: fault if verb == method else None


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    owner: FaultProxy

    def do(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.owner.requests.append((self.command, self.path))
        fault = self.owner.choose(self.command, self.path) or ""
        if fault == "silent":
            self.owner.released.wait(120)
        if fault.endswith("-before"):
            self.answer_fault(fault)
            return
        headers = {
            name: value
            for name, value in self.headers.items()
            if name.lower() not in ("connection", "expect")
            and not (fault == "drop-condition" and name.lower() == "if-none-match")
        }
        upstream = http.client.HTTPConnection(self.owner.upstream, timeout=60)
        try:
            upstream.request(self.command, self.path, body=body or None, headers=headers)
            answer = upstream.getresponse()
            content = answer.read()
        finally:
            upstream.close()
        if fault.endswith("-after"):
            self.answer_fault(fault)
            return
        self.answer(answer.status, content, dict(answer.getheaders()), half=fault == "half-body")

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = do

    def answer_fault(self, fault: Fault) -> None:
        kind, code, *_ = [*fault.split("-"), ""]
        if kind == "cut":
            self.close_connection = True
            return
        code = ERROR_CODES[int(kind)] if code in ("before", "after") else code
        text = f"<Error><Code>{code}</Code><Message>made by the test</Message></Error>"
        self.answer(int(kind), text.encode(), {"Content-Type": "application/xml"})

    def answer(self, status: int, content: bytes, headers: dict[str, str], *, half: bool = False) -> None:
        self.send_response_only(status)
        for name, value in headers.items():
            if name.lower() not in ("connection", "transfer-encoding", "content-length"):
                self.send_header(name, value)
        length = headers.get("Content-Length", len(content)) if self.command == "HEAD" else len(content)
        if status != 204:
            self.send_header("Content-Length", str(length))
        self.end_headers()
        if half:
            content = content[: len(content) // 2]
            self.close_connection = True
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""
