"""`viewer.html`: one file that shows a splat in any browser, offline.

Built from PlayCanvas' SuperSplat Viewer (MIT; see `vendor_fetch`): its page has one JSON block for
the content and the settings, which is filled here, and its script and style sheet are inlined.
"""

from __future__ import annotations

import base64
import html
import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from splat_assets.artifacts.manifest import write_text_atomic
from splat_assets.errors import TransientError, UserError
from splat_assets.formats.registry import LOD_META
from splat_assets.gaussians.splat_model import View
from splat_assets.viewing import vendor_fetch
from splat_assets.viewing.camera import camera_position, fov_of_long_side, middle_ray

VENDOR_VARIABLE = "SPLAT_ASSETS_VIEWER"
# phones and Safari give up on pages of a few hundred megabytes; larger scenes stay a file beside it
MAX_EMBEDDED_BYTES = 64 << 20
_FOV_RANGE = (10.0, 120.0)


def vendor_folder() -> Path:
    """Where the viewer's files are: in the package, or where `SPLAT_ASSETS_VIEWER` points."""
    given = os.environ.get(VENDOR_VARIABLE)
    return Path(given) if given else Path(__file__).parent / "vendor"


def viewer_problem() -> str | None:
    """Why `viewer.html` cannot be written as things are, or None."""
    return vendor_fetch.vendor_problem(vendor_folder())


def install_viewer() -> bool:
    """Fetch the viewer's files unless they are there; returns whether anything was fetched.

    Raises `UserError` when it cannot be fetched here, `TransientError` when npm's registry cannot
    be reached at the moment.
    """
    folder = vendor_folder()
    try:
        return vendor_fetch.fetch_viewer(folder)
    except vendor_fetch.FetchError as error:
        kind = (
            TransientError if "cannot fetch" in str(error) or "answer" in str(error) else UserError
        )
        raise kind(f"The browser viewer is not installed: {error}.") from None
    except OSError as error:
        raise UserError(
            f"The browser viewer cannot be written to {folder} ({error.strerror}); set "
            f"{VENDOR_VARIABLE} to a folder that can."
        ) from None


def write_viewer_html(
    path: Path | str,
    sog_path: Path | str,
    *,
    title: str,
    view: View,
    target: np.ndarray | None = None,
    background: Sequence[float] = (0.0, 0.0, 0.0),
    caption: Sequence[str] = (),
    embed: bool | None = None,
) -> int:
    """Write the page for a `.sog` or the `lod-meta.json` of a streamed one; returns its size.

    Args:
        view: the camera to start from, in the frame of the `.sog`. It is shown without roll, its
            field of view along the longer side of the window.
        target: [3] what to orbit; the start looks along the view's axis to the point nearest to
            it. Default: a point two units ahead.
        background: RGB in 0..1.
        caption: short texts under the title (count, size, quality).
        embed: put the splat into the page; False refers to the file, which must lie beside the
            page and then needs `splat-assets view`. Default: embed up to 64 MB, but nothing that
            is streamed.

    Raises `UserError` when the viewer's files are missing and cannot be fetched.
    """
    path, sog_path = Path(path), Path(sog_path)
    if viewer_problem() is not None:
        install_viewer()
    if sog_path.name == LOD_META:
        embed = False
    elif embed is None:
        embed = sog_path.stat().st_size <= MAX_EMBEDDED_BYTES
    if embed:
        payload = base64.b64encode(sog_path.read_bytes()).decode("ascii")
        content = f"data:application/octet-stream;base64,{payload}"
    else:
        content = quote(Path(os.path.relpath(sog_path, path.parent)).as_posix())
    bootstrap = {
        "contentUrl": content,
        "contentFilename": sog_path.name,
        "settings": viewer_settings(view, target, background),
    }
    page = _fill_page(title, bootstrap, background, caption, needs_server=not embed)
    write_text_atomic(path, page)
    return path.stat().st_size


def viewer_settings(
    view: View, target: np.ndarray | None, background: Sequence[float]
) -> dict[str, Any]:
    """The viewer's settings, version 2, with the camera in its frame (the splat turned by 180
    degrees about z, so that y is up)."""
    position = camera_position(view.viewmat)
    forward = middle_ray(view)  # the viewer's principal point is the middle
    ahead = 2.0 if target is None else float((np.asarray(target) - position) @ forward)
    if ahead <= 1e-6:
        ahead = float(np.linalg.norm(np.asarray(target) - position)) or 2.0
    to_viewer = np.array([-1.0, -1.0, 1.0])
    pose = {
        "position": (position * to_viewer).tolist(),
        "target": ((position + ahead * forward) * to_viewer).tolist(),
        "fov": float(np.clip(fov_of_long_side(view), *_FOV_RANGE)),
    }
    return {
        "version": 2,
        "tonemapping": "none",
        "highPrecisionRendering": False,
        "background": {"color": [float(c) for c in background]},
        "postEffectSettings": {
            "sharpness": {"enabled": False, "amount": 0},
            "bloom": {"enabled": False, "intensity": 0.1, "blurLevel": 2},
            "grading": {
                "enabled": False, "brightness": 1, "contrast": 1, "saturation": 1,
                "tint": [1, 1, 1],
            },
            "vignette": {
                "enabled": False, "intensity": 0.5, "inner": 0.3, "outer": 0.75, "curvature": 1,
            },
            "fringing": {"enabled": False, "intensity": 0.5},
        },
        "animTracks": [],
        "cameras": [{"initial": pose}],
        "annotations": [],
        "startMode": "default",
    }  # fmt: skip


def _fill_page(
    title: str,
    bootstrap: dict[str, Any],
    background: Sequence[float],
    caption: Sequence[str],
    *,
    needs_server: bool,
) -> str:
    """The viewer's page with everything inlined. What the user wrote goes in last, so that it is
    never taken for one of the places to fill."""
    folder = vendor_folder()
    page, css, script = (
        (folder / name).read_text(encoding="utf-8")
        for name in ("index.html", "index.css", "index.js")
    )
    licence = (folder / "LICENSE").read_text(encoding="utf-8").replace("--", "- -")
    script = re.sub(r"\n//# sourceMappingURL=\S+\s*$", "\n", script)
    script = re.sub(r"\nexport \{ createViewer \};\s*$", "\n", script)
    color = ", ".join(str(round(255 * c)) for c in background)
    dark = sum(background) < 1.5
    style = _STYLE.replace("BACKGROUND", color).replace("INK", "#fff" if dark else "#111")
    data = json.dumps(bootstrap, ensure_ascii=True, separators=(",", ":")).replace("<", "\\u003c")
    overlay = _overlay(title, caption, needs_server=needs_server)
    fillings = (
        (r'<link\b[^>]*href="\./index\.css"[^>]*>', f"<style>\n{css}\n</style>"),
        (r"import \{ createViewer \} from '\./index\.js';", script + _STILL),
        (r"<body>", f"<body>\n{overlay}"),
        (r"<title>[^<]*</title>", f"<title>{html.escape(title)}</title>\n{style}"),
        (
            r'<script type="application/json" id="sse-bootstrap">[\s\S]*?</script>',
            f'<script type="application/json" id="sse-bootstrap">{data}</script>',
        ),
        (
            r"<!doctype html>",
            f"<!doctype html>\n<!-- SuperSplat Viewer {vendor_fetch.VERSION}\n{licence}-->",
        ),
    )
    # positions first, contents later: what is put in cannot match a later pattern
    spans = []
    for pattern, content in fillings:
        match = re.search(pattern, page)
        if match is None:
            raise RuntimeError(f"the viewer's page has no place that matches {pattern}")
        spans.append((match.start(), match.end(), content))
    for start, end, content in sorted(spans, reverse=True):
        page = page[:start] + content + page[end:]
    return page


def _overlay(title: str, caption: Sequence[str], *, needs_server: bool) -> str:
    figures = " · ".join(html.escape(text) for text in caption)
    message = (
        "This scene is too large for one page: open it with <code>splat-assets view</code>."
        if needs_server
        else ""
    )
    return (
        f'<div id="sa-caption"><b>{html.escape(title)}</b><span>{figures}</span></div>\n'
        f'<div id="sa-message" hidden>{message}</div>\n<script>{_SCRIPT}</script>'
    )


_STYLE = """<style>
body { background: rgb(BACKGROUND); }
#sa-caption { position: fixed; z-index: 10; top: env(safe-area-inset-top, 0); left: 0;
  max-width: calc(100% - 24px); padding: 10px 12px; pointer-events: none; color: INK; opacity: .8;
  font: 13px/1.35 system-ui, sans-serif; }
#sa-caption b, #sa-caption span { display: block; overflow: hidden; text-overflow: ellipsis; }
#sa-message { position: fixed; z-index: 20; inset: 30% 10% auto; padding: 16px 20px;
  border-radius: 8px; background: #222; color: #fff; text-align: center;
  font: 15px/1.5 system-ui, sans-serif; }
</style>"""

# the page opens on the registered camera and stays there until someone plays or drags
_STILL = """
window.sse.options.noanim = !new URL(location.href).searchParams.has('anim');
"""

_SCRIPT = """
(() => {
  try {  // the key-binding panel would cover a third of a small screen
    localStorage.getItem('controlsPanelOpen') ?? localStorage.setItem('controlsPanelOpen', 'false');
  } catch { /* no storage: the panel opens */ }
  const box = document.getElementById('sa-message');
  const show = (text) => { if (text) box.textContent = text; box.hidden = false; };
  let seen = false, told = false;
  const noGraphics = () => {
    told = true;
    show('This browser cannot show the scene: WebGL 2 is missing or switched off. ' +
      'Allow hardware acceleration in its settings, or open the page in another browser.');
  };
  if (!document.createElement('canvas').getContext('webgl2')) {
    // WebGPU may be there by name only
    const adapter = navigator.gpu ? navigator.gpu.requestAdapter() : Promise.resolve(null);
    adapter.catch(() => null).then((found) => { if (!found) noGraphics(); });
  }
  if (location.protocol === 'file:' && box.innerHTML) { show(); return; }
  const previous = window.firstFrame;
  window.firstFrame = () => { seen = true; box.hidden = true; if (previous) previous(); };
  const failed = (reason) => {
    if (seen || told) return;
    show('The scene could not be shown: ' + (reason && reason.message || reason));
  };
  window.addEventListener('unhandledrejection', (event) => failed(event.reason));
  window.addEventListener('error', (event) => failed(event.message));
})();
"""
