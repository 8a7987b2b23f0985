"""Contact sheets, previews and thumbnails."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from splat_assets.viewing.contact_sheet import contact_sheet
from splat_assets.viewing.preview import (
    encode_jpeg,
    thumbnail_markdown,
    thumbnail_url,
    write_preview,
)
from splat_assets_tests.compression.splat_models import BOTTOM, CPU, TOP, two_tone_ball
from splat_assets_tests.compression.splat_models import upright_views as views


def _pictures(folder: Path, count: int, size: tuple[int, int] = (90, 60)) -> list[Path]:
    """Pictures whose red grows from the first to the last."""
    paths = [folder / f"{i:03d}.png" for i in range(count)]
    for i, path in enumerate(paths):
        Image.new("RGB", size, (255 * i // max(1, count - 1), 0, 128)).save(path)
    return paths


def _open(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as image:
        assert image.format == "JPEG"
        return np.asarray(image.convert("RGB"), int)


def _cells(sheet: np.ndarray) -> list[int]:
    """The red of every cell, in reading order."""
    is_cell = sheet[..., 2] > 80
    rows, columns = is_cell.any(1), is_cell.any(0)
    tops = np.flatnonzero(rows & ~np.roll(rows, 1))
    lefts = np.flatnonzero(columns & ~np.roll(columns, 1))
    found = sheet[tops[:, None] + 20, lefts[None, :] + 20]
    return [int(cell[0]) for cell in found.reshape(-1, 3) if cell[2] > 80]


@pytest.mark.parametrize("count", [1, 2, 5, 12, 100])
def test_sheet_shows_pictures_in_order(count: int, tmp_path: Path) -> None:
    sheet = _open(contact_sheet(_pictures(tmp_path, count), max_cells=24))
    reds = _cells(sheet)
    assert len(reds) == count if count <= 24 else 18 <= len(reds) <= 24  # whole rows
    assert reds == sorted(reds)
    assert reds[0] < 15 and (count == 1 or reds[-1] > 200)
    assert sheet.shape[1] <= 1440


def test_sheet_stays_below_its_size(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    paths = [tmp_path / f"{i}.png" for i in range(6)]
    for path in paths:
        Image.fromarray(rng.integers(0, 255, (300, 400, 3), np.uint8)).save(path)
    assert len(contact_sheet(paths, max_bytes=30_000)) <= 30_000


def test_sheet_takes_any_shape_and_mode(tmp_path: Path) -> None:
    wide, tall = tmp_path / "w.png", tmp_path / "t.png"
    Image.new("RGB", (120, 80), (200, 0, 128)).save(wide)
    clear = Image.new("RGBA", (40, 120), (0, 0, 0, 0))
    clear.save(tall)
    grey = tmp_path / "g.jpg"
    Image.new("L", (120, 80), 77).save(grey)
    sheet = _open(contact_sheet([wide, tall, grey]))
    assert (np.abs(sheet - 205).max(-1) < 12).any()  # what was transparent is light, not black
    with pytest.raises(ValueError, match="at least one"):
        contact_sheet([])


def test_preview_is_the_view_it_was_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "preview.jpg"
    drawn = write_preview(path, two_tone_ball(), views()[0], compute=CPU, background=(1, 1, 1))
    with Image.open(path) as image:
        saved = np.asarray(image, np.float64) / 255
    assert saved.shape == drawn.shape == (96, 96, 3)
    assert np.abs(saved - drawn).mean() < 0.02
    np.testing.assert_allclose(saved[30, 48], TOP, atol=0.3)
    np.testing.assert_allclose(saved[66, 48], BOTTOM, atol=0.3)
    np.testing.assert_allclose(saved[2, 2], 1, atol=0.02)
    assert [p.name for p in tmp_path.iterdir()] == ["preview.jpg"]


def test_jpeg_takes_floats_beyond_range_and_bytes() -> None:
    picture = np.array([[[-1.0, 0.5, 2.0]] * 8] * 8, np.float32)
    np.testing.assert_allclose(_open(encode_jpeg(picture, 95))[4, 4], (0, 128, 255), atol=4)
    raw = np.full((8, 8, 3), 7, np.uint8)
    np.testing.assert_allclose(_open(encode_jpeg(raw))[4, 4], 7, atol=2)


def _unpack(url: str) -> np.ndarray:
    head, data = url.split(",", 1)
    assert head == "data:image/jpeg;base64"
    return _open(base64.b64decode(data))


def test_thumbnails_are_small_and_upright(tmp_path: Path) -> None:
    path = tmp_path / "photo.jpg"
    pixels = np.zeros((600, 800, 3), np.uint8)
    pixels[:, :400] = (250, 10, 10)  # left in the file
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise: left becomes top
    Image.fromarray(pixels).save(path, exif=exif, quality=95)
    small = _unpack(thumbnail_url(path, long_side=100))
    assert small.shape == (100, 75, 3)
    assert small[10, 37, 0] > 200 and small[90, 37, 0] < 50
    assert _unpack(thumbnail_url(np.ones((50, 20, 3)), long_side=25)).shape == (25, 10, 3)


def test_markdown_survives_odd_names_and_damaged_pictures(tmp_path: Path) -> None:
    good = tmp_path / "a.png"
    Image.new("RGB", (10, 10)).save(good)
    text = thumbnail_markdown(good, "a [1]\nb")
    assert re.fullmatch(r"!\[a \(1\) b\]\(data:image/jpeg;base64,[A-Za-z0-9+/=]+\)", text)
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"\xff\xd8\xff\xe0 not a photo")
    assert thumbnail_markdown(bad, "bad.jpg") == "(bad.jpg is not readable)"
    cut = tmp_path / "cut.png"
    cut.write_bytes(good.read_bytes()[:45])
    assert "is not readable" in thumbnail_markdown(cut)
