"""Small pictures of a splat: `preview.jpg`, and thumbnails that fit into Markdown."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from splat_assets.artifacts.manifest import write_bytes_atomic
from splat_assets.compute import Compute
from splat_assets.gaussians.gaussians import Gaussians
from splat_assets.gaussians.splat_model import View

QUALITY = 88


def write_preview(
    path: Path | str,
    gaussians: Gaussians,
    view: View,
    *,
    compute: Compute,
    background: Sequence[float] = (0.0, 0.0, 0.0),
) -> np.ndarray:
    """Render `view` into a JPEG; returns the picture [H, W, 3] float32 in 0..1."""
    from splat_assets.rendering import render

    camera = render.View(view.viewmat, view.K, view.width, view.height)
    drawn = next(
        render.render_views(gaussians, [camera], background=background, device=compute.device)
    )
    picture = np.clip(drawn.rgb, 0.0, 1.0)
    write_bytes_atomic(Path(path), encode_jpeg(picture))
    return picture


def encode_jpeg(picture: np.ndarray | Image.Image, quality: int = QUALITY) -> bytes:
    """JPEG bytes of [H, W, 3] (float in 0..1 or uint8) or of a Pillow image."""
    if isinstance(picture, np.ndarray):
        if picture.dtype != np.uint8:
            picture = np.rint(np.clip(picture, 0, 1) * 255).astype(np.uint8)
        picture = Image.fromarray(picture)
    buffer = io.BytesIO()
    picture.convert("RGB").save(buffer, "JPEG", quality=quality, optimize=True)
    return buffer.getvalue()


def thumbnail_url(
    picture: Path | str | np.ndarray, *, long_side: int = 320, quality: int = 75
) -> str:
    """A picture, made small and upright, as a `data:` URL for Markdown and HTML."""
    source = io.BytesIO(encode_jpeg(picture, 95)) if isinstance(picture, np.ndarray) else picture
    with Image.open(source) as image:
        image.draft("RGB", (2 * long_side, 2 * long_side))
        small = ImageOps.exif_transpose(image).convert("RGB")
        small.thumbnail((long_side, long_side), Image.Resampling.LANCZOS)
    data = base64.b64encode(encode_jpeg(small, quality)).decode("ascii")
    return f"data:image/jpeg;base64,{data}"


def thumbnail_markdown(
    picture: Path | str | np.ndarray, caption: str = "", *, long_side: int = 320
) -> str:
    """A Markdown image that carries its own data; a sentence where the picture is damaged."""
    text = caption.replace("[", "(").replace("]", ")").replace("\n", " ")
    try:
        return f"![{text}]({thumbnail_url(picture, long_side=long_side)})"
    except (OSError, SyntaxError, ValueError):  # what Pillow raises for damaged files
        return f"({text or 'picture'} is not readable)"
