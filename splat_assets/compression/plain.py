"""The plainest codebook and palette the format can hold: what is written when the search for better
ones fails. Nothing is learned, and little memory is needed."""

from __future__ import annotations

import numpy as np

from splat_assets.compression.palette import MAX_ENTRIES, Palette, Size
from splat_assets.compression.quantize import LEVELS, Codebook

_SAMPLES = 4096  # entries where there are too many vectors for each to be one
_ROWS = 2048  # vectors compared with all entries at a time


def plain_codebook(x: np.ndarray) -> Codebook:
    """256 even steps over the range of `x`, finite and of any shape."""
    levels = np.linspace(float(x.min()), float(x.max()), LEVELS).astype(np.float32)
    return Codebook(levels, "uniform")


def plain_palette(
    points: np.ndarray,
    worth: np.ndarray,
    *,
    size_of: Size,
    size: int | None = None,
) -> Palette:
    """Every vector of `points` [N, D] its own entry; where they are too many (more than `size`),
    evenly spread samples of them, and the nearest for each. Arguments as for `PaletteSearch`."""
    count = len(points)
    if count <= min(size or MAX_ENTRIES, MAX_ENTRIES):
        entries, labels, kind = points, np.arange(count), "own"
    else:
        entries = points[np.linspace(0, count - 1, size or _SAMPLES).astype(np.int64)]
        labels, kind = _nearest(points, entries), "shared"
    book = plain_codebook(entries)
    codes = book.encode(entries)
    stored = book.decode(codes)
    error = 0.0
    for first in range(0, count, _ROWS):
        rows = slice(first, first + _ROWS)
        distance = ((stored[labels[rows]] - points[rows]) ** 2).sum(axis=1, dtype=np.float64)
        error += float(worth[rows] @ distance)
    tier = np.zeros(len(codes), np.int64)
    return Palette(codes, labels, book, error, tier, size_of(codes, labels, tier), kind)


def _nearest(points: np.ndarray, entries: np.ndarray) -> np.ndarray:
    """[N] index of the nearest entry: |p - e|² is smallest where p·e - |e|²/2 is largest."""
    half = 0.5 * (entries**2).sum(axis=1)
    labels = np.empty(len(points), np.int64)
    for first in range(0, len(points), _ROWS):
        rows = slice(first, first + _ROWS)
        labels[rows] = (points[rows] @ entries.T - half).argmax(axis=1)
    return labels
