"""The pictures of a SOG file: one texel for each Gaussian, row by row, as lossless WebP."""

from __future__ import annotations

import io
import math
from collections.abc import Callable

import numpy as np
from PIL import Image, WebPImagePlugin

from splat_assets.compression.fallback import first_that_works

assert WebPImagePlugin  # otherwise Pillow loads all the formats it knows to find this one
Note = Callable[[str], object]
# quality and method: no effort is the best for all pictures, so small ones are tried with several
_QUICK = ((75, 1),)
_QUICKER = ((50, 1),)
_EFFORTS = ((75, 1), (75, 4), (75, 6))
_LARGE = 1 << 20  # numbers of a picture, above which more effort brings 0.1 %


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
    return encode_webp(pixels.reshape(height, width, -1), note, trial=trial)


def encode_webp(pixels: np.ndarray, note: Note, *, trial: bool = False) -> bytes:
    """[H, W, 3 or 4] uint8, as tightly as pays."""
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
