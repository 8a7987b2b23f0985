"""The little web server: the folder's files, to this machine only."""

from __future__ import annotations

import http.client
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from splat_assets.errors import UserError
from splat_assets.viewing.serve import HOST, FolderServer


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.mktemp("served")
    (base / "secret.txt").write_text("not yours")
    shown = base / "my scene"
    (shown / "scene").mkdir(parents=True)
    (shown / "viewer.html").write_text("<!doctype html><title>hello</title>")
    (shown / "scene.sog").write_bytes(b"PK" + bytes(range(256)))
    (shown / "scene" / "meta.json").write_text("{}")
    (shown / "scene" / "means_l.webp").write_bytes(b"RIFF")
    (shown / "index.js").write_text("1")
    return shown


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[FolderServer]:
    with FolderServer(folder) as running:
        yield running


def _ask(
    server: FolderServer, path: str, method: str = "GET", **headers: str
) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection(HOST, server.port, timeout=10)
    try:
        # http.client sends the path as it is, dots and all
        connection.putrequest(method, path, skip_host="Host" in headers)
        for name, value in headers.items():
            connection.putheader(name, value)
        connection.endheaders()
        answer = connection.getresponse()
        return answer.status, dict(answer.getheaders()), answer.read()
    finally:
        connection.close()


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/viewer.html", "text/html"),
        ("/scene.sog", "application/octet-stream"),
        ("/scene/meta.json", "application/json"),
        ("/scene/means_l.webp", "image/webp"),
        ("/index.js", "text/javascript"),
    ],
)
def test_files_come_whole_with_their_type(
    path: str, kind: str, server: FolderServer, folder: Path
) -> None:
    status, headers, body = _ask(server, path)
    assert status == 200 and headers["Content-type"] == kind
    assert headers["Cache-Control"] == "no-store"  # a new run shows at the next reload
    assert body == (folder / path[1:]).read_bytes()


def test_the_page_is_at_the_url(server: FolderServer) -> None:
    assert server.url == f"http://127.0.0.1:{server.port}/viewer.html"
    with urllib.request.urlopen(server.url) as answer:
        assert b"hello" in answer.read()
    assert _ask(server, "/viewer.html?noui", "HEAD")[::2] == (200, b"")


@pytest.mark.parametrize(
    "path",
    [
        "/../secret.txt",
        "/scene/../../secret.txt",
        "/%2e%2e/secret.txt",
        "/..%2fsecret.txt",
        "//../secret.txt",
        "/scene/..%5c..%5c..%5csecret.txt",
        "/",
        "/scene/",
        "/nothing.html",
        "/viewer.html%00",
    ],
)
def test_nothing_outside_and_no_listings(path: str, server: FolderServer) -> None:
    status, _, body = _ask(server, path)
    assert status == 404 and b"not yours" not in body and b"meta.json" not in body


def test_links_do_not_lead_out(folder: Path, server: FolderServer) -> None:
    link = folder / "link.txt"
    link.symlink_to(folder.parent / "secret.txt")
    try:
        assert _ask(server, "/link.txt")[0] == 404
    finally:
        link.unlink()


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", ""])
def test_pages_of_other_names_get_nothing(host: str, server: FolderServer) -> None:
    """A web page that made its own name point to 127.0.0.1 cannot read the splat."""
    status, _, body = _ask(server, "/viewer.html", Host=host)
    assert status == 403 and b"hello" not in body


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "LOCALHOST:99"])
def test_this_machine_by_its_names(host: str, server: FolderServer) -> None:
    assert _ask(server, "/viewer.html", Host=host)[0] == 200


def test_it_only_reads(server: FolderServer) -> None:
    for method in ("POST", "PUT", "DELETE"):
        assert _ask(server, "/viewer.html", method)[0] == 501


def test_only_the_loopback_address_listens(server: FolderServer) -> None:
    for address in {info[4][0] for info in socket.getaddrinfo(socket.gethostname(), None)}:
        if str(address).startswith("127.") or ":" in str(address):
            continue
        with socket.socket() as probe:
            probe.settimeout(2)
            assert probe.connect_ex((str(address), server.port)) != 0


def test_what_cannot_be_served_is_a_sentence(folder: Path, server: FolderServer) -> None:
    with pytest.raises(UserError, match=r"holds no other\.html"):
        FolderServer(folder, page="other.html")
    with pytest.raises(UserError, match=f"Port {server.port} cannot be used"):
        FolderServer(folder, server.port)


def test_closing_frees_the_port(folder: Path) -> None:
    with FolderServer(folder) as first:
        port = first.port
    with FolderServer(folder, port) as second:
        assert _ask(second, "/viewer.html")[0] == 200


def test_serve_says_where_and_ends_on_ctrl_c(folder: Path) -> None:
    # a runner in the background hands on that Ctrl-C is ignored
    code = (
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
        "from splat_assets.viewing.serve import serve; serve(sys.argv[1])"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(folder)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        assert "http://127.0.0.1:" in line and str(folder) in line
        time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 0
    finally:
        process.kill()
    process.stdout.close()
