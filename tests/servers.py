"""A real S3-protocol server (moto's) and a web server with ranges, both behind a proxy that injects faults.

`Faults` answers a share of the requests with 503, cuts bodies short, resets connections, delays answers or hides objects. What it
does to a request follows from a generator with a fixed seed.
"""

from __future__ import annotations

import contextlib
import functools
import http.client
import logging
import os
import random
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from unittest import mock

SECRET = "sEcReT-of-the-test-0123456789"
"""The secret key of the environment in which the tests run."""


@dataclass
class Faults:
    """Shares of requests with each fault, and what happened."""

    unavailable: float = 0.0
    cut: float = 0.0
    reset: float = 0.0
    slow: float = 0.0
    latency: float = 0.0
    """Seconds before every answer; slow ones take five times as long and 50 ms more."""
    missing: tuple[str, ...] = ()
    """Ends of paths that are not found."""
    only: str = ""
    """Part of a path that requests with faults have."""
    generator: random.Random = field(default_factory=lambda: random.Random(7))
    seen: Counter[str] = field(default_factory=Counter)
    requests: list[tuple[str, str, str]] = field(default_factory=list)
    """Method, path and range of every request."""

    def draw(self, path: str) -> str:
        """Returns the fault of a request for `path`, or an empty string."""
        if path.partition("?")[0].endswith(self.missing or ("\0",)):
            return "missing"
        chance = self.generator.random()
        for name in ("unavailable", "cut", "reset", "slow"):
            chance -= getattr(self, name)
            if chance < 0:
                return name if self.only in path else ""
        return ""

    def clear(self) -> None:
        """Ends all faults and forgets what happened."""
        self.__init__()  # type: ignore[misc]


class _Proxy(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    faults: Faults
    target: tuple[str, int]

    def _pass_on(self) -> None:
        faults = self.faults
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0)) if self.command in ("PUT", "POST") else None
        fault = faults.draw(self.path)
        faults.seen[fault] += 1
        faults.requests.append((self.command, self.path, self.headers.get("Range", "")))
        if faults.latency:
            time.sleep(faults.latency)
        if fault == "slow":
            time.sleep(0.05 + 5 * faults.latency)
        if fault == "reset":
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
            self.close_connection = True
            return
        if fault in ("unavailable", "missing"):
            code, name = (503, "SlowDown") if fault == "unavailable" else (404, "NoSuchKey")
            text = f"<Error><Code>{name}</Code><Message>{name} {SECRET}</Message></Error>".encode()
            self._answer(code, [("Content-Type", "application/xml")], text, len(text))
            return
        connection = http.client.HTTPConnection(*self.target, timeout=60)
        headers = {name: value for name, value in self.headers.items() if name.lower() not in ("connection",)}
        connection.request(self.command, self.path, body, headers)
        reply = connection.getresponse()
        content = reply.read()
        kept = [(n, v) for n, v in reply.getheaders() if n.lower() not in ("content-length", "transfer-encoding", "connection")]
        length = int(reply.getheader("Content-Length") or len(content)) if self.command == "HEAD" else len(content)
        connection.close()
        if fault == "cut" and len(content) > 1:
            self._answer(reply.status, kept, content[: len(content) // 2], length)
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        self._answer(reply.status, kept, content, length)

    def _answer(self, code: int, headers: list[tuple[str, str]], content: bytes, length: int) -> None:
        self.send_response_only(code)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("Content-Length", str(length))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _pass_on  # noqa: N815

    def log_message(self, *arguments: Any) -> None:
        """Logs nothing."""


class _Files(SimpleHTTPRequestHandler):
    """A web server of files with single ranges, as common servers answer them."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        path = Path(self.translate_path(self.path))
        if not path.is_file():
            self.send_error(404)
            return
        content, asked = path.read_bytes(), self.headers.get("Range")
        if asked:
            first, _, last = asked.removeprefix("bytes=").partition("-")
            start, end = int(first), min(int(last) + 1 if last else len(content), len(content))
            self.send_response_only(206)
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{len(content)}")
            content = content[start:end]
        else:
            self.send_response_only(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *arguments: Any) -> None:
        """Logs nothing."""


class _Quiet(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Says nothing: clients that give up are what these tests are about."""


@contextlib.contextmanager
def _running(server: ThreadingHTTPServer) -> Iterator[tuple[str, int]]:
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server.server_address[0], server.server_address[1]  # type: ignore[misc]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextlib.contextmanager
def proxied(target: tuple[str, int]) -> Iterator[tuple[str, Faults]]:
    """Yields the URL of a proxy of `target`, and its faults."""
    faults = Faults()
    handler = type("Proxy", (_Proxy,), {"faults": faults, "target": target})
    with _running(_Quiet(("127.0.0.1", 0), handler)) as (host, port):
        yield f"http://{host}:{port}", faults


@contextlib.contextmanager
def s3_environment(url: str) -> Iterator[None]:
    """Sets the variables by which S3 clients find the server at `url` and their credentials."""
    wanted = {"AWS_ENDPOINT_URL": url, "AWS_ACCESS_KEY_ID": "AKIATESTKEYOFTHETEST", "AWS_SECRET_ACCESS_KEY": SECRET}
    with mock.patch.dict(os.environ, wanted | {"AWS_DEFAULT_REGION": "us-east-1", "AWS_EC2_METADATA_DISABLED": "true"}):
        yield


@contextlib.contextmanager
def moto_server() -> Iterator[tuple[str, int]]:
    """Starts moto's server and yields its host and port."""
    from moto.server import ThreadedMotoServer  # optional package

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        yield server.get_host_and_port()
    finally:
        server.stop()


@contextlib.contextmanager
def emptied(address: tuple[str, int]) -> Iterator[Faults]:
    """Empties the server at `address`, puts a proxy before it and sets the environment for it; yields the faults of the proxy."""
    from s3fs import S3FileSystem  # optional package

    S3FileSystem.clear_instance_cache()  # those of another server
    reset = http.client.HTTPConnection(*address)
    reset.request("POST", "/moto-api/reset")
    reset.getresponse().read()
    reset.close()
    with proxied(address) as (url, faults), s3_environment(url):
        yield faults


@contextlib.contextmanager
def s3_server() -> Iterator[Faults]:
    """Starts moto's server behind a proxy and sets the environment for it; yields the faults of the proxy."""
    with moto_server() as address, emptied(address) as faults:
        yield faults


@contextlib.contextmanager
def web_server(folder: Path) -> Iterator[tuple[str, Faults]]:
    """Serves the files in `folder`; yields the URL of a proxy before it, and its faults."""
    handler = functools.partial(_Files, directory=str(folder))
    with _running(_Quiet(("127.0.0.1", 0), handler)) as target, proxied(target) as (url, faults):
        yield url, faults


def upload(folder: Path, url: str) -> str:
    """Copies the files of `folder` to the bucket and prefix of `url` and returns it."""
    import s3fs  # optional package

    system = s3fs.S3FileSystem(skip_instance_cache=True)
    root = url.removeprefix("s3://")
    bucket = root.partition("/")[0]
    if not system.exists(bucket):
        system.mkdir(bucket)
    for path in sorted(folder.iterdir()):
        system.pipe(f"{root}/{path.name}", path.read_bytes())
    return url
