"""How good is a frame: sharpness, exposure, and a thumbnail that tells near-duplicates apart.

All three come from one small grey picture, so a score costs about a millisecond whatever the size
of the original, and pictures of different resolution can be compared.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

WORK_LONG_SIDE = 512  # pixels; fixed, so that sharpness does not depend on the resolution
THUMB_SIDE = 32


@dataclass(frozen=True)
class FrameStats:
    """What selection knows about a frame."""

    sharpness: float  # variance of the 4-neighbour Laplacian, grey levels², at the working size
    exposure: float  # mean luma, 0..1
    thumb: np.ndarray  # [THUMB_SIDE, THUMB_SIDE] uint8, the whole frame squeezed


def work_size(width: int, height: int) -> tuple[int, int]:
    """Size of the grey picture to score; smaller pictures are not enlarged."""
    return fit(width, height, WORK_LONG_SIDE)


def fit(width: int, height: int, max_long_side: int) -> tuple[int, int]:
    """(width, height) reduced so that the long side is at most `max_long_side`; never enlarged."""
    scale = min(1.0, max_long_side / max(width, height))
    return max(1, round(width * scale)), max(1, round(height * scale))


def score_image(image: Image.Image) -> FrameStats:
    """Score a picture of any size; an alpha channel is ignored."""
    grey = image.convert("RGB").convert("L") if image.mode == "RGBA" else image.convert("L")
    size = work_size(*grey.size)
    if size != grey.size:
        grey = grey.resize(size, Image.Resampling.BOX)
    return score_grey(np.asarray(grey))


def score_grey(grey: np.ndarray) -> FrameStats:
    """Score a grey picture [H, W] uint8, full range, already at its working size."""
    levels = grey.astype(np.int16)
    inner = levels[1:-1, 1:-1]
    laplacian = levels[:-2, 1:-1] + levels[2:, 1:-1] + levels[1:-1, :-2] + levels[1:-1, 2:]
    laplacian -= 4 * inner
    sharpness = float(laplacian.var(dtype=np.float64)) if laplacian.size else 0.0
    thumb = Image.fromarray(np.ascontiguousarray(grey)).resize(
        (THUMB_SIDE, THUMB_SIDE), Image.Resampling.BOX
    )
    return FrameStats(sharpness, float(grey.mean(dtype=np.float64)) / 255.0, np.asarray(thumb))


def difference(a: np.ndarray, b: np.ndarray) -> float:
    """Mean absolute difference of two thumbnails in grey levels, 0..255."""
    return float(np.abs(a.astype(np.int16) - b.astype(np.int16)).mean())
