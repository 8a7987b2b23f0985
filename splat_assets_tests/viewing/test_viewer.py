"""`viewer.html`: opens anywhere, asks the network for nothing, shows the registered camera."""

from __future__ import annotations

import base64
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from splat_assets.compression.precision import Precision
from splat_assets.compression.quality import draw_views, psnr
from splat_assets.compression.sog_bundle import write_bundle
from splat_assets.compression.sog_reader import read_sog
from splat_assets.compression.sog_writer import encode_sog
from splat_assets.compression.streamed import StreamOptions, write_streamed
from splat_assets.compression.streamed_reader import read_streamed
from splat_assets.errors import UserError
from splat_assets.gaussians.splat_model import View
from splat_assets.viewing import vendor_fetch, viewer
from splat_assets.viewing.camera import camera_position
from splat_assets.viewing.serve import FolderServer
from splat_assets.viewing.viewer import viewer_settings, write_viewer_html
from splat_assets_tests.browser import FIRST_FRAME, open_page, wait_for_splat
from splat_assets_tests.compression.splat_models import CENTER, CPU, two_tone_ball, upright_views

BACKGROUND = (0.2, 0.3, 0.1)
HOSTILE = (
    "</title></script><script>window.hacked = 1</script><!-- \"quoted\" 'it' & & \\u003c $& \\1"
)
FAKE = {
    "index.html": """<!doctype html>
<html lang="en"><head><title>SuperSplat Viewer</title>
<link rel="stylesheet" href="./index.css" />
<script type="application/json" id="sse-bootstrap">
null
</script>
</head><body><script type="module">
import { createViewer } from './index.js';
createViewer();
</script></body></html>
""",
    "index.css": "body { color: red }",
    "index.js": "let createViewer;\nexport { createViewer };\n//# sourceMappingURL=a.map\n",
    "LICENSE": "MIT -- as is",
}


@pytest.fixture
def fake_vendor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stands for the viewer's files where only the filling in is looked at."""
    folder = tmp_path / "vendor"
    folder.mkdir()
    for name, text in FAKE.items():
        (folder / name).write_text(text)
    monkeypatch.setenv(viewer.VENDOR_VARIABLE, str(folder))
    monkeypatch.setattr(vendor_fetch, "vendor_problem", lambda folder: None)
    return folder


class _Page(HTMLParser):
    """What a browser would make of it: the text of each element, by tag."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.stack: list[str] = []
        self.texts: dict[str, list[str]] = {}
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.stack.append(tag)
        self.texts.setdefault(tag, []).append("")

    def handle_endtag(self, tag: str) -> None:
        if self.stack and self.stack[-1] == tag:
            self.stack.pop()

    def handle_data(self, data: str) -> None:
        if self.stack:
            self.texts[self.stack[-1]][-1] += data


def _bootstrap(page: str) -> dict[str, Any]:
    found = re.search(r'id="sse-bootstrap">(.*?)</script>', page, re.S)
    assert found
    return json.loads(found[1])


def test_page_holds_the_file_and_the_settings(fake_vendor: Path, tmp_path: Path) -> None:
    sog = tmp_path / "scene.sog"
    sog.write_bytes(bytes(range(256)))
    view = upright_views()[0]
    size = write_viewer_html(
        tmp_path / "viewer.html", sog, title="Ball", view=view, target=CENTER, background=BACKGROUND
    )
    page = (tmp_path / "viewer.html").read_text(encoding="utf-8")
    assert size == len(page.encode())
    filled = _bootstrap(page)
    head, data = filled["contentUrl"].split(",")
    assert head == "data:application/octet-stream;base64"
    assert base64.b64decode(data) == sog.read_bytes()
    assert filled["contentFilename"] == "scene.sog"
    assert filled["settings"] == json.loads(json.dumps(viewer_settings(view, CENTER, BACKGROUND)))
    assert "export {" not in page and "sourceMappingURL" not in page and "./index" not in page
    assert "SuperSplat Viewer " + vendor_fetch.VERSION in page and "MIT - - as is" in page


def test_what_people_wrote_stays_text(fake_vendor: Path, tmp_path: Path) -> None:
    """Names with quotes, tags and regular-expression signs neither run nor fill another place."""
    sog = tmp_path / "a </script><b>.sog".replace("/", "_")
    sog.write_bytes(b"PK")
    out = tmp_path / "viewer.html"
    write_viewer_html(
        out, sog, title=HOSTILE, view=upright_views()[0], caption=[HOSTILE, "<i>12</i> MB"]
    )
    page = out.read_text(encoding="utf-8")
    parsed = _Page(page)
    assert parsed.texts["title"] == [HOSTILE]
    assert parsed.texts["b"] == [HOSTILE] and "i" not in parsed.texts
    assert parsed.texts["span"] == [f"{HOSTILE} · <i>12</i> MB"]
    assert _bootstrap(page)["contentFilename"] == sog.name
    assert len(parsed.texts["script"]) == 3  # the message's, the settings, the viewer
    # a title that looks like a place to fill is not filled
    write_viewer_html(out, sog, title="<body> import { createViewer }", view=upright_views()[0])
    assert _Page(out.read_text()).texts["title"] == ["<body> import { createViewer }"]


def test_large_scenes_stay_beside_the_page(
    fake_vendor: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(viewer, "MAX_EMBEDDED_BYTES", 10)
    sog = tmp_path / "my scene #1.sog"
    sog.write_bytes(bytes(11))
    write_viewer_html(tmp_path / "viewer.html", sog, title="Large", view=upright_views()[0])
    page = (tmp_path / "viewer.html").read_text()
    assert _bootstrap(page)["contentUrl"] == "my%20scene%20%231.sog"
    assert "splat-assets view" in page


def test_streamed_scenes_are_never_embedded(fake_vendor: Path, tmp_path: Path) -> None:
    document = tmp_path / "streamed" / "lod-meta.json"
    document.parent.mkdir()
    document.write_text("{}")
    write_viewer_html(tmp_path / "viewer.html", document, title="Huge", view=upright_views()[0])
    page = (tmp_path / "viewer.html").read_text()
    assert _bootstrap(page)["contentUrl"] == "streamed/lod-meta.json"
    assert _bootstrap(page)["contentFilename"] == "lod-meta.json"  # the name viewers go by
    assert "splat-assets view" in page


def test_settings_start_at_the_camera_and_orbit_the_centre() -> None:
    """The viewer turns the scene by 180 degrees about z, and so are its cameras."""
    view = upright_views()[2]
    settings = viewer_settings(view, CENTER, BACKGROUND)
    pose = settings["cameras"][0]["initial"]
    to_scene = np.array([-1.0, -1, 1])
    np.testing.assert_allclose(pose["position"] * to_scene, camera_position(view.viewmat))
    np.testing.assert_allclose(pose["target"] * to_scene, CENTER, atol=1e-9)
    assert pose["fov"] == pytest.approx(50)
    assert settings["background"]["color"] == list(BACKGROUND)
    behind = viewer_settings(view, 2 * camera_position(view.viewmat) - CENTER, BACKGROUND)
    ahead = behind["cameras"][0]["initial"]["target"] * to_scene - camera_position(view.viewmat)
    assert ahead @ view.viewmat[2, :3] > 0  # the centre lies behind: still look ahead
    json.dumps(behind, allow_nan=False)


def test_an_unknown_page_is_not_published_half_filled(fake_vendor: Path, tmp_path: Path) -> None:
    (fake_vendor / "index.html").write_text("<!doctype html><body></body>")
    (tmp_path / "s.sog").write_bytes(b"PK")
    with pytest.raises(RuntimeError, match="has no place that matches"):
        write_viewer_html(
            tmp_path / "v.html", tmp_path / "s.sog", title="", view=upright_views()[0]
        )
    assert not (tmp_path / "v.html").exists()


def test_missing_files_that_cannot_be_fetched_are_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(viewer.VENDOR_VARIABLE, str(tmp_path / "empty"))
    monkeypatch.setattr(vendor_fetch, "npm_command", lambda: None)
    (tmp_path / "s.sog").write_bytes(b"PK")
    with pytest.raises(UserError, match="not installed: npm is missing"):
        write_viewer_html(
            tmp_path / "v.html", tmp_path / "s.sog", title="", view=upright_views()[0]
        )
    assert not (tmp_path / "v.html").exists()


# ---------------------------------------------------------------- in a browser


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, View]:
    """A folder with `viewer.html` of the ball, and the camera it opens with."""
    problem = viewer.viewer_problem()
    if problem:
        pytest.skip(f"the browser viewer is not installed: {problem}")
    folder = tmp_path_factory.mktemp("published")
    write_bundle(folder / "scene.sog", encode_sog(two_tone_ball(3000)))
    view = upright_views(size=240)[1]
    write_viewer_html(
        folder / "viewer.html",
        folder / "scene.sog",
        title=HOSTILE,
        view=view,
        target=CENTER,
        background=BACKGROUND,
        caption=["3,000 Gaussians", HOSTILE],
    )
    return folder, view


@pytest.mark.slow
def test_it_shows_the_registered_camera_offline(
    published: tuple[Path, View], tmp_path: Path
) -> None:
    folder, view = published
    url = (folder / "viewer.html").as_uri() + "?webgl&noui"
    with open_page(url, width=240, height=240, init_script=FIRST_FRAME) as page:
        wait_for_splat(page)
        assert page.title() == HOSTILE
        assert HOSTILE in page.locator("#sa-caption").inner_text()
        assert page.evaluate("window.hacked === undefined")
        assert page.locator("#sa-message").is_hidden()
        page.add_style_tag(content="#sa-caption { visibility: hidden }")
        page.screenshot(path=str(tmp_path / "shot.png"))
        outside = [r for r in page.requests if not r.startswith(("data:", "blob:"))]
        assert outside == [url]
        assert page.errors == []
    with Image.open(tmp_path / "shot.png") as image:
        shown = np.asarray(image.convert("RGB"), np.float32) / 255
    expected = next(
        draw_views(read_sog(folder / "scene.sog"), [view], background=BACKGROUND, compute=CPU)
    )
    assert psnr(shown, expected) > 25


@pytest.mark.slow
def test_it_works_from_the_little_server_on_a_phone(
    published: tuple[Path, View], tmp_path: Path
) -> None:
    """A scene too large for one page is read over HTTP."""
    folder, view = published
    write_viewer_html(
        folder / "served.html",
        folder / "scene.sog",
        title="A dataset with a long name that does not fit",
        view=view,
        background=BACKGROUND,
        caption=["3,000 Gaussians"],
        embed=False,
    )
    with (
        FolderServer(folder, page="served.html") as server,
        open_page(server.url + "?webgl", width=360, height=640, init_script=FIRST_FRAME) as page,
    ):
        wait_for_splat(page)
        assert {r for r in page.requests if r.startswith("http")} == {
            server.url + "?webgl",
            server.url.replace("served.html", "scene.sog"),
        }
        box = page.locator("#sa-caption").bounding_box()
        assert box["x"] >= 0 and box["x"] + box["width"] <= 360
        assert page.locator("#sa-message").is_hidden()
        page.screenshot(path=str(tmp_path / "shot.png"))
    with Image.open(tmp_path / "shot.png") as image:
        shown = np.asarray(image.convert("RGB"), np.float32) / 255
    middle = shown[280:360, 140:220]
    assert np.ptp(middle) > 0.3  # the ball, not the background


@pytest.mark.slow
def test_it_streams_chunks_and_levels(published: tuple[Path, View], tmp_path: Path) -> None:
    """From the little server: the coarsest level first, then what the camera needs."""
    folder, view = published
    options = StreamOptions(chunk=1000, levels=2, precision=Precision())
    write_streamed(folder / "streamed" / "lod-meta.json", two_tone_ball(3000), options)
    write_viewer_html(
        folder / "streamed.html",
        folder / "streamed" / "lod-meta.json",
        title="Streamed",
        view=view,
        background=BACKGROUND,
    )
    with (
        FolderServer(folder, page="streamed.html") as server,
        open_page(
            server.url + "?webgl&noui", width=240, height=240, init_script=FIRST_FRAME
        ) as page,
    ):
        wait_for_splat(page)
        page.wait_for_timeout(3000)
        page.add_style_tag(content="#sa-caption { visibility: hidden }")
        page.screenshot(path=str(tmp_path / "shot.png"))
        asked = [r.partition("/streamed/")[2] for r in page.requests if "/streamed/" in r]
        assert asked[0] == "lod-meta.json"
        assert asked.index("1_0/meta.json") < asked.index("0_0/meta.json")
        assert page.errors == []
    with Image.open(tmp_path / "shot.png") as image:
        shown = np.asarray(image.convert("RGB"), np.float32) / 255
    exact = read_streamed(folder / "streamed")
    expected = next(draw_views(exact, [view], background=BACKGROUND, compute=CPU))
    assert psnr(shown, expected) > 25


@pytest.mark.slow
def test_without_webgl_it_says_so(published: tuple[Path, View]) -> None:
    folder, _ = published
    with open_page((folder / "viewer.html").as_uri(), webgl=False) as page:
        page.wait_for_timeout(500)
        message = page.locator("#sa-message")
        assert message.is_visible() and "WebGL 2 is missing" in message.inner_text()
