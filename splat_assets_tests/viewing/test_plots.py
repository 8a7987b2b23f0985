"""Plots and contact sheets: small pictures that show what is in the data, also for odd data."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from splat_assets.viewing.contact_sheet import contact_sheet
from splat_assets.viewing.plots import (
    MAX_BYTES,
    _ground_plane,
    camera_path_plot,
    frames_plot,
    training_plot,
)


def opened(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    image.load()
    assert image.format == "PNG"
    assert len(data) < MAX_BYTES
    assert image.width > 300
    return image.convert("RGB")


def has_colour(image: Image.Image, colour: tuple[int, int, int]) -> bool:
    return bool((np.abs(np.asarray(image, int) - colour).sum(axis=2) < 30).any())


def frame_table(count: int, sources: int = 1) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    reasons = np.where(np.arange(count) % 7 == 3, "blurred", "")
    return pd.DataFrame(
        {
            "timestamp_sec": np.tile(np.arange(count // sources) / 2, sources),
            "source_file": np.repeat([f"{i}.mp4" for i in range(sources)], count // sources),
            "sharpness": rng.uniform(50, 500, count),
            "kept": reasons == "",
            "dropped_reason": reasons,
        }
    )


@pytest.mark.parametrize(("count", "sources"), [(1, 1), (100, 1), (100, 2), (2000, 4)])
def test_frames_plot_shows_kept_and_dropped(count: int, sources: int) -> None:
    image = opened(frames_plot(frame_table(count, sources)))
    assert has_colour(image, (37, 99, 235))
    assert has_colour(image, (220, 38, 38)) == (count > 1)


def test_frames_plot_of_photos_and_of_nothing() -> None:
    table = frame_table(20)
    table["timestamp_sec"] = np.nan
    table["source_file"] = [f"{i}.jpg" for i in range(20)]
    table.loc[3, "sharpness"] = np.nan
    opened(frames_plot(table))
    opened(frames_plot(table.iloc[:0]))


def test_training_plot() -> None:
    steps = np.arange(30_000)
    table = pd.DataFrame(
        {
            "step": steps,
            "loss": 0.3 * np.exp(-steps / 5000) + 0.01,
            "psnr_db": np.where(steps % 500 == 0, 15 + steps / 3000, np.nan),
            "num_gaussians": np.minimum(500_000, 10_000 + 30 * steps),
            "seconds": steps * 0.1,
        }
    )
    assert has_colour(opened(training_plot(table)), (37, 99, 235))
    opened(training_plot(table.iloc[:0]))
    opened(training_plot(table.iloc[:1]))
    opened(training_plot(table.assign(psnr_db=np.nan, loss=np.nan)))


def test_camera_path_plot() -> None:
    rng = np.random.default_rng(0)
    angle = np.linspace(0, 5, 80)
    centers = np.stack([3 * np.cos(angle), np.full(80, 0.5), 3 * np.sin(angle)], axis=1)
    points = rng.normal(size=(100_000, 3))
    colors = rng.integers(0, 256, (100_000, 3), dtype=np.uint8)
    opened(camera_path_plot(centers, -centers, points, colors=colors, ordered=True))
    opened(camera_path_plot(centers, -centers))
    opened(camera_path_plot(centers[:1], -centers[:1], points[:3]))
    opened(camera_path_plot(np.zeros((0, 3)), np.zeros((0, 3))))
    opened(camera_path_plot(np.zeros((5, 3)), centers[:5]))


def test_seen_from_above_of_the_cameras_own_plane() -> None:
    rng = np.random.default_rng(1)
    rotation, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    angle = np.linspace(0, 5, 50)
    flat = np.stack([3 * np.cos(angle), 3 * np.sin(angle), np.ones(50)], axis=1)
    centers = flat @ rotation.T
    plane = _ground_plane(centers, -centers, None)
    assert plane @ plane.T == pytest.approx(np.eye(2), abs=1e-9)
    # a circle stays a circle, seen from the side to which the cameras are raised
    radii = np.linalg.norm((centers - rotation[:, 2]) @ plane.T, axis=1)
    assert radii == pytest.approx(np.full(50, 3.0), abs=1e-6)
    assert np.cross(plane[0], plane[1]) @ rotation[:, 2] == pytest.approx(1.0)


def test_contact_sheet_is_small_and_in_order(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    paths = []
    for i in range(200):
        path = tmp_path / f"{i:03d}.png"
        picture = rng.integers(0, 256, (90, 160), dtype=np.uint8) // 8 + i
        Image.fromarray(picture).save(path)
        paths.append(path)
    data = contact_sheet(paths, max_cells=40)
    assert len(data) <= 200_000
    sheet = Image.open(io.BytesIO(data))
    assert sheet.format == "JPEG"
    pixels = np.asarray(sheet.convert("L")).astype(int)
    height, width = pixels.shape
    first, last = pixels[10:40, 10 : width // 20], pixels[height - 40 : -10, -width // 20 : -10]
    assert first.mean() < 60
    assert last.mean() > 180
    with pytest.raises(ValueError, match="at least one"):
        contact_sheet([])


def test_contact_sheet_of_transparent_pictures(tmp_path: Path) -> None:
    Image.new("RGBA", (100, 50), (255, 0, 0, 0)).save(tmp_path / "a.png")
    sheet = Image.open(io.BytesIO(contact_sheet([tmp_path / "a.png"]))).convert("RGB")
    red, green, blue = sheet.getpixel((sheet.width // 2, sheet.height // 2))  # type: ignore[misc]
    assert min(red, green, blue) > 180
