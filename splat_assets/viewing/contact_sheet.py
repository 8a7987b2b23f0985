"""A contact sheet: many pictures at a glance in one small JPEG."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

_GAP = 3
_BACKGROUND = (24, 24, 27)
_BEHIND_ALPHA = (205, 205, 210)


def contact_sheet(
    paths: Sequence[Path], *, max_cells: int = 48, width: int = 1440, max_bytes: int = 200_000
) -> bytes:
    """JPEG with at most `max_cells` of the pictures, evenly chosen, in reading order.

    Cells have the shape of the first picture; others are fitted inside. Quality, then size, goes
    down until the file is at most `max_bytes`. Raises `ValueError` without pictures.
    """
    if not paths:
        raise ValueError("a contact sheet needs at least one picture")
    with Image.open(paths[0]) as first:
        native, aspect = first.width, first.width / first.height
    columns = _columns(min(len(paths), max_cells), aspect)
    # Where a choice is made anyway, the last row is filled.
    count = len(paths) if len(paths) <= max_cells else max_cells // columns * columns
    chosen = [paths[i * len(paths) // count] for i in range(count)]
    cell_width = min(native, (width - _GAP) // columns - _GAP)  # pictures are never enlarged
    cell = (cell_width, max(1, round(cell_width / aspect)))
    rows = -(-len(chosen) // columns)
    size = (columns * (cell[0] + _GAP) + _GAP, rows * (cell[1] + _GAP) + _GAP)
    sheet = Image.new("RGB", size, _BACKGROUND)
    for number, path in enumerate(chosen):
        thumb = _thumbnail(path, cell)
        left = _GAP + number % columns * (cell[0] + _GAP) + (cell[0] - thumb.width) // 2
        top = _GAP + number // columns * (cell[1] + _GAP) + (cell[1] - thumb.height) // 2
        sheet.paste(thumb, (left, top))
    return _encode(sheet, max_bytes)


def _columns(count: int, aspect: float) -> int:
    """Columns for a sheet about 1.6 times as wide as high, but never wider than the pictures."""
    return max(1, min(count, round((count * 1.6 / aspect) ** 0.5), 12))


def _thumbnail(path: Path, size: tuple[int, int]) -> Image.Image:
    with Image.open(path) as image:
        image.draft("RGB", (2 * size[0], 2 * size[1]))
        image.load()
        thumb = image.convert("RGBA") if "A" in image.getbands() else image.convert("RGB")
    thumb.thumbnail(size, Image.Resampling.LANCZOS)
    if thumb.mode == "RGB":
        return thumb
    flat = Image.new("RGB", thumb.size, _BEHIND_ALPHA)
    flat.paste(thumb, mask=thumb.getchannel("A"))
    return flat


def _encode(sheet: Image.Image, max_bytes: int) -> bytes:
    while True:
        for quality in (88, 80, 70, 60):
            buffer = io.BytesIO()
            sheet.save(buffer, "JPEG", quality=quality, optimize=True)
            if buffer.tell() <= max_bytes:
                return buffer.getvalue()
        sheet = sheet.resize(
            (sheet.width * 3 // 4, sheet.height * 3 // 4), Image.Resampling.LANCZOS
        )
