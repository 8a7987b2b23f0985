"""Does the browser show what the renderer draws? The viewer page against our own picture.

    python -m benchmarks.viewer ARTIFACT... [--out FOLDER] [--streamed]

ARTIFACT is the folder of a trained_splat. It is compressed as the graph does it, the page is opened
in headless Chromium with the shape of the registered camera it starts from, and the screenshot is
compared with our renderer's image of that camera: PSNR, seconds to the first frame, what the page
asked the network for. `--streamed` shows the scene in chunks and levels of detail over the little
web server instead of embedding it. Goal: 25 dB, and no request but for the page and its scene.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

GOAL_DB = 25.0
_SETTLE_MS = 8000  # software WebGL sorts and streams slowly


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("artifacts", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, help="keep the pictures here, page and renderer beside")
    parser.add_argument("--streamed", action="store_true")
    arguments = parser.parse_args()
    for artifact in arguments.artifacts:
        print(json.dumps(measure(artifact, arguments.out, streamed=arguments.streamed)), flush=True)


def measure(artifact: Path, keep: Path | None, *, streamed: bool) -> dict[str, Any]:
    """One artifact's figures."""
    from splat_assets.compression import compress
    from splat_assets.compression.quality import draw_views, psnr
    from splat_assets.compression.sog_reader import read_sog
    from splat_assets.compute import select_compute
    from splat_assets.datasets.options import CompressOptions
    from splat_assets.gaussians.ply import read_ply
    from splat_assets.gaussians.splat_model import SplatModel
    from splat_assets.progress import silent
    from splat_assets.viewing.serve import FolderServer
    from splat_assets.viewing.viewer import write_viewer_html
    from splat_assets_tests.browser import FIRST_FRAME, open_page, wait_for_splat

    splat, compute = SplatModel.open(artifact), select_compute("cpu")
    scene = compress._prepare(splat, read_ply(splat.ply))
    view = scene.opening
    with tempfile.TemporaryDirectory(prefix="splat-assets-viewer-") as scratch:
        out = Path(scratch)
        options = CompressOptions(streamed="always" if streamed else "never")
        compress.compress_splat(splat, out, options=options, compute=compute, progress=silent())
        background = scene.background
        with contextlib.ExitStack() as stack:
            url = (out / "viewer.html").as_uri()
            if streamed:
                write_viewer_html(
                    out / "viewer.html",
                    out / "streamed" / "lod-meta.json",
                    title="streamed",
                    view=view,
                    target=scene.target,
                    background=background,
                )
                url = stack.enter_context(FolderServer(out)).url
            began = time.monotonic()
            page = stack.enter_context(
                open_page(
                    url + "?webgl&noui",
                    width=view.width,
                    height=view.height,
                    init_script=FIRST_FRAME,
                )
            )
            wait_for_splat(page, 120)
            seconds = time.monotonic() - began
            page.wait_for_timeout(_SETTLE_MS)
            page.add_style_tag(content="#sa-caption { visibility: hidden }")
            page.screenshot(path=str(out / "shot.png"))
            asked = [r for r in page.requests if not r.startswith(("data:", "blob:", url))]
            errors = list(page.errors)
        with Image.open(out / "shot.png") as image:
            shown = np.asarray(image.convert("RGB"), np.float32) / 255
        decoded = read_sog(out / "scene.sog")
        drawn = next(draw_views(decoded, [view], background=background, compute=compute))
    if keep is not None:
        keep.mkdir(parents=True, exist_ok=True)
        both = (255 * np.concatenate([shown, drawn], axis=1)).astype(np.uint8)
        Image.fromarray(both).save(keep / f"{splat.manifest.dataset or 'splat'}.png")
    return {
        "dataset": splat.manifest.dataset,
        "view": view.name,
        "gaussians": len(decoded),
        "psnr_db": round(psnr(shown, drawn), 2),
        "first_frame_seconds": round(seconds, 1),
        "requests": len(asked),
        "errors": errors,
    }


if __name__ == "__main__":
    main()
