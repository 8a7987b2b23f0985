"""The pictures of a SOG file: one texel for each Gaussian or palette entry, row by row, encoded as
lossless WebP."""

from __future__ import annotations

import io
import math
from collections.abc import Callable

import numpy as np
from PIL import Image

from splat_assets.compression.fallback import first_that_works

PALETTE_COLUMNS = 64  # palette entries per image row, fixed by the format
Note = Callable[[str], object]
Pictures = tuple[bytes, bytes]  # of palette entries and of labels
# quality and method: no effort is the best for all pictures, so small ones are tried with several
_QUICK = ((75, 1),)
_QUICKER = ((50, 1),)  # 40 % less time for 0.2 % more bytes
_EFFORTS = ((75, 1), (75, 2), (75, 4), (75, 6))
_LARGE = 3 << 20  # numbers of a picture
_MANY = 4  # Gaussians an entry, below which entries are probably best in the order of their use


def image_size(count: int) -> tuple[int, int]:
    """(height, width), multiples of four, nearly square."""
    width = 4 * math.ceil(math.sqrt(count) / 4)
    return 4 * math.ceil(count / width / 4), width


def encode_image(
    texels: np.ndarray, size: tuple[int, int], note: Note, *, trial: bool = False
) -> bytes:
    """[N, 3 or 4] uint8 in row order; what is left of the image repeats the last.

    `note` is told when the encoder had to be used in a plainer way. A trial is quick.
    """
    height, width = size
    pixels = np.empty((height * width, texels.shape[1]), np.uint8)
    pixels[: len(texels)], pixels[len(texels) :] = texels, texels[-1]
    return _encode_webp(pixels.reshape(height, width, -1), note, trial)


def encode_palette(
    codes: np.ndarray,
    labels: np.ndarray,
    size: tuple[int, int],
    note: Note,
    *,
    trial: bool = False,
) -> Pictures:
    """The pictures of entries and of labels.

    Entries are in the order they have (like beside like), or in the order of their first use (with
    many entries the labels then mostly count up), whichever makes the smaller images.

    Args:
        codes: [K, 3 C] uint8.
        labels: [N] below K.
    """
    orders = [np.arange(len(codes)), first_uses(labels, len(codes)).argsort(kind="stable")]
    if trial:
        orders = orders[are_many(len(codes), len(labels)) :][:1]
    entries = codes.reshape(len(codes), -1, 3)
    candidates = []
    for order in orders:
        rank = np.empty(len(order), np.int64)
        rank[order] = np.arange(len(order))
        renamed = rank[labels]
        texels = np.zeros((len(labels), 3), np.uint8)
        texels[:, 0], texels[:, 1] = renamed & 255, renamed >> 8
        pair = (
            _encode_entries(entries[order], note, trial),
            encode_image(texels, size, note, trial=trial),
        )
        candidates.append(pair)
    return min(candidates, key=lambda pair: len(pair[0]) + len(pair[1]))


def are_many(entries: int, users: int) -> bool:
    """Whether labels are cheapest where they count up."""
    return entries * _MANY > users


def first_uses(labels: np.ndarray, entries: int) -> np.ndarray:
    """[K] where each entry is used first in `labels` [N]; N where never."""
    first = np.full(entries, len(labels), np.int64)
    np.minimum.at(first, labels, np.arange(len(labels)))
    return first


def _encode_entries(codes: np.ndarray, note: Note, trial: bool) -> bytes:
    """64 entries a row, the coefficients of one beside each other, RGB in the channels."""
    count, coefficients, _ = codes.shape
    height = -(-count // PALETTE_COLUMNS)
    rows = np.empty((height * PALETTE_COLUMNS, coefficients, 3), np.uint8)
    rows[:count], rows[count:] = codes, codes[-1]
    return _encode_webp(rows.reshape(height, PALETTE_COLUMNS * coefficients, 3), note, trial)


def _encode_webp(pixels: np.ndarray, note: Note, trial: bool) -> bytes:
    image = Image.fromarray(pixels)
    efforts = _QUICK if trial else _QUICKER if pixels.size > _LARGE else _EFFORTS
    return first_that_works(
        "Encoding a picture tightly",
        (
            ("", lambda: min((webp_bytes(image, *effort) for effort in efforts), key=len)),
            ("it is plain lossless WebP, a little larger", lambda: webp_bytes(image)),
        ),
        note,
    )


def webp_bytes(image: Image.Image, quality: int = 0, method: int = 0) -> bytes:
    """Lossless WebP. `quality` and `method` are the effort, by default the least there is."""
    buffer = io.BytesIO()
    # exact: without it the encoder may change colours where alpha is 0
    image.save(buffer, "WEBP", lossless=True, exact=True, quality=quality, method=method)
    return buffer.getvalue()
