"""URLs: content checks, resuming, revalidation, and which errors are worth another try."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from splat_assets.errors import Cancelled, SourceError, TransientError
from splat_assets.formats.registry import write_splat
from splat_assets.sources import url
from splat_assets_tests.compression.splats import random_splat
from splat_assets_tests.sources.samples import (
    MESH_PLY,
    MP4,
    Fetcher,
    jpeg,
    names,
    photos,
    splat_ply,
)
from splat_assets_tests.sources.test_archives import pack


class Site:
    """A web server with resources that can change, vanish, or break off."""

    def __init__(self) -> None:
        self.bodies: dict[str, bytes] = {}
        self.headers: dict[str, dict[str, str]] = {}
        self.statuses: list[int] = []  # answered first, one a request
        self.cuts: list[int] = []  # bytes after which a body breaks off, one a request
        self.ranges = True
        self.requests: list[dict[str, str]] = []
        self.sent = 0
        site = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *args: object) -> None: ...

            def do_GET(self) -> None:
                site.answer(self)

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.base = f"http://127.0.0.1:{self.server.server_address[1]}"

    def put(self, path: str, body: bytes, **headers: str) -> str:
        self.bodies[path] = body
        self.headers[path] = {key.replace("_", "-"): value for key, value in headers.items()}
        return self.base + path

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        asked = {key.lower(): value for key, value in handler.headers.items()}
        self.requests.append(asked)
        if self.statuses:
            return self.reply(handler, self.statuses.pop(0), {}, b"")
        path = handler.path.partition("?")[0]
        if path not in self.bodies:
            return self.reply(handler, 404, {}, b"")
        body, headers = self.bodies[path], self.headers[path]
        etag = headers.get("ETag", "")
        if "Location" in headers:
            return self.reply(handler, 302, headers, b"")
        if etag and asked.get("if-none-match") == etag:
            return self.reply(handler, 304, headers, b"")
        found = re.fullmatch(r"bytes=(\d+)-", asked.get("range", ""))
        if found and self.ranges and asked.get("if-range") == etag:
            start = int(found[1])
            if start >= len(body):
                return self.reply(handler, 416, {"Content-Range": f"bytes */{len(body)}"}, b"")
            span = f"bytes {start}-{len(body) - 1}/{len(body)}"
            return self.reply(handler, 206, {**headers, "Content-Range": span}, body[start:])
        return self.reply(handler, 200, headers, body)

    def reply(
        self, handler: BaseHTTPRequestHandler, status: int, headers: dict[str, str], body: bytes
    ) -> None:
        handler.send_response(status)
        for key, value in headers.items():
            handler.send_header(key, value)
        if status != 304:
            handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        cut = self.cuts.pop(0) if self.cuts and body else len(body)
        handler.wfile.write(body[:cut])
        self.sent += cut
        if cut < len(body):
            handler.close_connection = True


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setattr(url, "PAUSES_SEC", (0.01, 0.01, 0.01))
    site = Site()
    thread = threading.Thread(target=site.server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield site
    site.server.shutdown()
    site.server.server_close()


def test_video_archive_and_splat(site: Site, tmp_path: Path, fetch: Fetcher) -> None:
    video = fetch(site.put("/dir/my%20walk.mp4", MP4, ETag='"v1"'))
    assert (video.content, names(video)) == ("video", ["my walk.mp4"])
    assert video.summary["revision"] == '"v1"'
    for name in ("s.spz", "s.sog", "s.splat"):  # two of them begin like archives
        write_splat(tmp_path / name, random_splat(9))
        data = (tmp_path / name).read_bytes()
        packed = fetch(site.put(f"/{name}", data))
        assert (packed.content, names(packed)) == ("ply", [name])
    assert video.summary["downloaded_bytes"] == len(MP4)
    archive = pack(tmp_path / "x.tar.gz", photos(3)).read_bytes()
    assert names(fetch(site.put("/get", archive))) == ["p00.jpg", "p01.jpg", "p02.jpg"]
    assert names(fetch(site.put("/s", splat_ply()))) == ["s.ply"]
    assert not (tmp_path / "runs" / ".downloads").exists()


def test_names_come_from_the_server_and_stay_inside(site: Site, fetch: Fetcher) -> None:
    disposition = 'attachment; filename="../../up \\"x\\".mov"'
    (name,) = names(fetch(site.put("/download.php", MP4, Content_Disposition=disposition)))
    assert "/" not in name and name.endswith(".mov")
    site.put("/real", MP4)
    (name,) = names(fetch(site.put("/short", b"", Location="/real")))
    assert name == "real.mp4"


def test_nothing_is_downloaded_twice(site: Site, tmp_path: Path, fetch: Fetcher) -> None:
    for path, body, headers in [
        ("/a.mp4", MP4, {"ETag": '"v1"'}),
        ("/a.zip", pack(tmp_path / "x.zip", photos(3)).read_bytes(), {"ETag": 'W/"weak"'}),
    ]:
        address = site.put(path, body, **headers)
        first = fetch(address)
        site.sent = 0
        second = fetch(address, first)
        assert site.sent == 0
        assert second.summary["unchanged"] and second.summary["revision"] == headers["ETag"]
        assert second.data_version == first.data_version
        third = fetch(address, second)
        assert third.summary["unchanged"] and site.sent == 0
    changed = fetch(site.put("/a.mp4", MP4 + b"more", ETag='"v2"'), first)
    assert not changed.summary["unchanged"]


def test_a_broken_download_goes_on_where_it_stopped(site: Site, fetch: Fetcher) -> None:
    site.cuts = [300_000, 200_000]
    raw = fetch(site.put("/a.mp4", MP4, ETag='"v1"'))
    assert (raw.files / "a.mp4").read_bytes() == MP4
    assert site.sent == len(MP4)
    assert [r.get("range") for r in site.requests] == [None, "bytes=300000-", "bytes=500000-"]
    assert len(fetch.warnings) == 2


def test_the_next_run_resumes(site: Site, tmp_path: Path, fetch: Fetcher) -> None:
    address = site.put("/a.mp4", MP4, ETag='"v1"')
    site.cuts = [300_000]
    site.statuses = []
    calls = iter(range(10**6))
    with pytest.raises(Cancelled):  # while it waits for the next attempt
        fetch(address, should_cancel=lambda: next(calls) > 1 and site.sent >= 300_000)
    assert list(fetch.out.iterdir()) == []
    kept = tmp_path / "runs" / ".downloads"
    (part,) = kept.rglob("*.part")
    assert 0 < part.stat().st_size <= 300_000
    had, site.sent = part.stat().st_size, 0
    raw = fetch(address)
    assert (raw.files / "a.mp4").read_bytes() == MP4
    assert site.sent == len(MP4) - had
    assert not kept.exists()


@pytest.mark.parametrize("ranges", [True, False])
def test_a_changed_resource_is_not_glued_together(ranges: bool, site: Site, fetch: Fetcher) -> None:
    site.put("/a.mp4", MP4, ETag='"v1"')
    site.cuts = [300_000]
    site.statuses = []
    original = site.answer
    new = MP4[:32] + b"new" * 200_000

    def answer(handler: BaseHTTPRequestHandler) -> None:
        if site.requests:
            site.put("/a.mp4", new, ETag='"v2"')
            site.ranges = ranges
        original(handler)

    site.answer = answer  # type: ignore[method-assign]
    raw = fetch(site.base + "/a.mp4")
    assert (raw.files / "a.mp4").read_bytes() == new
    assert raw.summary["revision"] == '"v2"'


def test_a_server_without_validators_starts_again(site: Site, fetch: Fetcher) -> None:
    site.cuts = [300_000]
    raw = fetch(site.put("/a.mp4", MP4))
    assert (raw.files / "a.mp4").read_bytes() == MP4
    assert all("range" not in request for request in site.requests)


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"\n<!DOCTYPE html><html>Sign in</html>", "is a web page, not a file"),
        (jpeg(0), "is one photo"),
        (b"hello", "no video, archive or splat"),
        (b"", "0 bytes"),
        (MESH_PLY, "is a mesh"),
        (b"PK\x03\x04" + bytes(2000), "damaged or cut short"),
    ],
)
def test_content_is_checked(body: bytes, says: str, site: Site, fetch: Fetcher) -> None:
    with pytest.raises(SourceError, match=says):
        fetch(site.put("/garden.mp4", body, ETag='"x"'))
    assert list(fetch.out.iterdir()) == []
    assert not (fetch.out.parent / ".downloads").exists() or not list(
        (fetch.out.parent / ".downloads").iterdir()
    )


def test_a_web_page_is_noticed_before_it_is_downloaded(site: Site, fetch: Fetcher) -> None:
    page = b"<html>" + bytes(30 * 2**20)
    with pytest.raises(SourceError, match="web page"):
        fetch(site.put("/garden.mp4", page))


def test_sizes(site: Site, fetch: Fetcher) -> None:
    with pytest.raises(SourceError, match=r"larger than the limit of 1\.0 kB"):
        fetch(site.put("/a.mp4", MP4), max_bytes=1000)
    assert site.sent < len(MP4) or len(site.requests) == 1


@pytest.mark.parametrize(
    ("status", "error", "says", "requests"),
    [
        (401, SourceError, "refuses access", 1),
        (403, SourceError, "refuses access", 1),
        (404, SourceError, "does not exist", 1),
        (410, SourceError, "does not exist", 1),
        (418, SourceError, "HTTP 418", 1),
        (429, TransientError, "not available now", 4),
        (503, TransientError, "not available now", 4),
    ],
)
def test_statuses(
    status: int, error: type[Exception], says: str, requests: int, site: Site, fetch: Fetcher
) -> None:
    site.statuses = [status] * 9
    with pytest.raises(error, match=says):
        fetch(site.put("/a.mp4", MP4))
    assert len(site.requests) == requests
    assert list(fetch.out.iterdir()) == []


def test_a_short_outage_is_ridden_out(site: Site, fetch: Fetcher) -> None:
    site.statuses = [503, 500]
    assert fetch(site.put("/a.mp4", MP4)).content == "video"


def test_no_server(site: Site, fetch: Fetcher) -> None:
    site.server.server_close()
    with pytest.raises(TransientError, match="cannot be reached now"):
        fetch("http://127.0.0.1:9/a.mp4")


def test_secrets_are_not_written_down(site: Site, fetch: Fetcher) -> None:
    address = site.put("/a.mp4", MP4).replace("://", "://me:secret@")
    raw = fetch(address)
    for path in raw.path.glob("*.json"):
        assert "secret" not in path.read_text()
