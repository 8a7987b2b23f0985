"""A local S3 server (moto's), and a proxy in front of it that lets requests fail.

with s3_server() as endpoint, stumbling(endpoint) as proxy, s3_environment(proxy.url): …
"""

from __future__ import annotations

import contextlib
import http.client
import logging
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlparse

import pytest

BUCKET = "splats"
FAILURES = ("500", "503", "closed", "cut")
# "closed": not carried out, no answer; "lost": carried out, no answer; "cut": half an answer;
# "slow": an answer after 4 s
Rule = Callable[[int, str, str], str | None]  # (number, method, path) → how to fail, or None


@contextlib.contextmanager
def s3_server() -> Iterator[str]:
    """moto's server on a free loopback port, with an empty bucket; yields its address."""
    server_module = pytest.importorskip("moto.server", reason="moto[server] is not installed")
    server = server_module.ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server.start()
    try:
        host, port = server.get_host_and_port()
        endpoint = f"http://{host}:{port}"
        request(endpoint, "POST", "/moto-api/reset")
        request(endpoint, "PUT", "/" + BUCKET)
        yield endpoint
    finally:
        server.stop()


def request(endpoint: str, method: str, path: str) -> bytes:
    connection = http.client.HTTPConnection(urlparse(endpoint).netloc, timeout=20)
    try:
        connection.request(method, path)
        return connection.getresponse().read()
    finally:
        connection.close()


@contextlib.contextmanager
def s3_environment(endpoint: str) -> Iterator[None]:
    """The variables by which S3 clients find the stand-in."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", endpoint)
        patch.setenv("AWS_ACCESS_KEY_ID", "testing")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.delenv("AWS_PROFILE", raising=False)
        patch.setattr("botocore.retryhandler.delay_exponential", lambda *_, **__: 0.01)
        clear()
        try:
            yield
        finally:
            clear()


def clear() -> None:
    """Forget cached file systems: they remember their endpoint."""
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()


class Proxy:
    """Forwards to S3, and fails the requests that `rule` says."""

    def __init__(self, endpoint: str, rule: Rule) -> None:
        self.rule = rule
        self.seen: list[tuple[str, str, str | None]] = []  # method, path, failure
        self._lock = threading.Lock()
        proxy, target = self, urlparse(endpoint).netloc

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_any(self) -> None:
                body = self._body()
                failure = proxy.note(self.command, self.path)
                if failure in ("500", "503"):
                    self._refuse(int(failure))
                    return
                if failure == "closed":
                    self.close_connection = True
                    return
                if failure == "slow":
                    time.sleep(4)
                upstream = http.client.HTTPConnection(target, timeout=60)
                try:
                    upstream.request(self.command, self.path, body, dict(self.headers))
                    answer = upstream.getresponse()
                    data = answer.read()
                finally:
                    upstream.close()
                if failure == "lost":
                    self.close_connection = True
                    return
                self.send_response(answer.status)
                for key, value in answer.getheaders():
                    if key.lower() not in ("transfer-encoding", "connection", "content-length"):
                        self.send_header(key, value)
                length = answer.getheader("content-length") or str(len(data))
                self.send_header("Content-Length", length)
                self.end_headers()
                if failure == "cut":
                    self.close_connection = True
                    data = data[: len(data) // 2]
                if self.command != "HEAD":
                    with contextlib.suppress(OSError):
                        self.wfile.write(data)

            do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = handle_any

            def _body(self) -> bytes:
                if "chunked" in self.headers.get("Transfer-Encoding", ""):
                    del self.headers["Transfer-Encoding"]
                    parts = []
                    while size := int(self.rfile.readline().split(b";")[0], 16):
                        parts.append(self.rfile.read(size))
                        self.rfile.readline()
                    while self.rfile.readline().strip():
                        pass
                    return b"".join(parts)
                return self.rfile.read(int(self.headers.get("Content-Length") or 0))

            def _refuse(self, status: int) -> None:
                code = "InternalError" if status == 500 else "SlowDown"
                text = f"<Error><Code>{code}</Code><Message>stumbled</Message></Error>".encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/xml")
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(text)

            def log_message(self, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def note(self, method: str, path: str) -> str | None:
        with self._lock:
            number = len(self.seen)
            self.seen.append((method, path, None))
        failure = self.rule(number, method, path)  # may itself make requests
        self.seen[number] = (method, path, failure)
        return failure

    def count(self, method: str, text: str) -> int:
        return sum(m == method and text in path for m, path, _ in self.seen)

    def start(self) -> None:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def every_second(number: int, method: str, path: str) -> str | None:
    """Fails requests 0, 2, 4, … in turn by an error, a refusal, a closed and a cut answer."""
    return FAILURES[number // 2 % len(FAILURES)] if number % 2 == 0 else None


@contextlib.contextmanager
def stumbling(endpoint: str, rule: Rule = every_second) -> Iterator[Proxy]:
    proxy = Proxy(endpoint, rule)
    proxy.start()
    try:
        yield proxy
    finally:
        proxy.stop()
