"""Undistortion: what a straight pinhole would have seen, with masks, alpha and observations."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pycolmap
import pytest
from PIL import Image

from splat_assets.errors import UserError
from splat_assets.frames.frame_set import FrameSet
from splat_assets.poses.report import reprojection_errors
from splat_assets.poses.sparse_model import View
from splat_assets.poses.undistort import distortion_px, pinhole_of, undistort_views
from splat_assets.progress import silent
from splat_assets_tests.poses.frame_sets import frame_set
from splat_assets_tests.poses.rings import ring_points, ring_views

WIDTH, HEIGHT = 160, 120


def lens(model: str, *extra: float) -> pycolmap.Camera:
    focal = {"SIMPLE_RADIAL": [150.0]}.get(model, [150.0, 152.0])
    params = [*focal, 81.0, 59.0, *extra]
    return pycolmap.Camera(model=model, width=WIDTH, height=HEIGHT, params=params)


LENSES = [
    lens("SIMPLE_RADIAL", -0.25),
    lens("OPENCV", -0.2, 0.03, 0.002, -0.001),
    lens("OPENCV_FISHEYE", -0.02, 0.003, 0.0, 0.0),
]


def rays(camera: pycolmap.Camera) -> np.ndarray:
    """[height, width, 2] where the pixels' centres look, at depth one."""
    x, y = np.meshgrid(np.arange(camera.width) + 0.5, np.arange(camera.height) + 0.5)
    flat = camera.cam_from_img(np.stack([x.ravel(), y.ravel()], axis=1))
    return np.asarray(flat).reshape(camera.height, camera.width, 2)


def picture_of(directions: np.ndarray) -> np.ndarray:
    """[H, W, 4] uint8 of smooth waves, alpha another one."""
    x, y = directions[..., 0], directions[..., 1]
    waves = [np.sin(9 * x + 2 * y), np.cos(7 * y), np.sin(6 * x) * np.cos(5 * y), np.cos(4 * x)]
    return (127 + 110 * np.dstack(waves)).astype(np.uint8)


def make_frames(folder: Path, camera: pycolmap.Camera, name: str) -> FrameSet:
    picture = picture_of(rays(camera))
    alpha = name.endswith(".png")
    return frame_set(folder, [(name, Image.fromarray(picture[..., : 4 if alpha else 3]))])


def one_view(name: str, camera: pycolmap.Camera) -> View:
    xyz = np.array([point.xyz for point in ring_points().values()])
    return ring_views([name], camera, xyz)[0]


def undistort(view: View, frames: FrameSet, out: Path) -> View:
    (found,) = undistort_views([view], frames, out, threads=1, progress=silent())
    return found


@pytest.mark.parametrize("camera", LENSES, ids=lambda camera: camera.model_name)
@pytest.mark.parametrize("name", ["a b/one.png", "one.jpg"])
def test_pixels_are_those_of_the_pinhole(
    tmp_path: Path, camera: pycolmap.Camera, name: str
) -> None:
    frames = make_frames(tmp_path / "frames", camera, name)
    before = one_view(name, camera)
    view = undistort(before, frames, tmp_path / "out")
    assert view.camera.model_name == "PINHOLE"
    pixels = np.asarray(Image.open(tmp_path / "out" / "images" / name)).astype(float)
    channels = 4 if name.endswith(".png") else 3  # alpha is kept, and moves along
    assert pixels.shape == (view.camera.height, view.camera.width, channels)
    expected = picture_of(rays(view.camera)).astype(float)[..., :channels]
    inside = np.s_[2:-2, 2:-2]
    assert np.abs(pixels - expected)[inside].mean() < 2.0
    # the lens bent it by far more
    bent = picture_of(rays(camera)).astype(float)[..., :channels]
    rows, columns = (min(a, b) for a, b in zip(pixels.shape[:2], bent.shape[:2], strict=True))
    assert np.abs(bent[:rows, :columns] - expected[:rows, :columns]).mean() > 5
    # observations move with the pixels
    assert reprojection_errors(view, ring_points()).max() < 1e-3


def test_a_straight_line_is_straight_again(tmp_path: Path) -> None:
    camera = LENSES[0]
    x, y = np.moveaxis(rays(camera), -1, 0)
    line = np.exp(-(((y - 0.1 * x - 0.28) / 0.008) ** 2))
    grey = Image.fromarray((line * 255).astype(np.uint8)).convert("RGB")
    frames = frame_set(tmp_path / "frames", [("line.png", grey)])
    undistort(one_view("line.png", camera), frames, tmp_path / "out")
    straight = np.asarray(Image.open(tmp_path / "out" / "images" / "line.png"))[..., 0]
    assert bow(np.asarray(grey)[..., 0]) > 1.5
    assert bow(straight) < 0.15


def bow(line: np.ndarray) -> float:
    """Largest distance in pixels of the bright curve from its best straight line."""
    weights = line.astype(float)
    weights[weights < 20] = 0
    columns = np.flatnonzero(weights.sum(axis=0) > 300)
    rows = np.arange(len(line)) + 0.5
    middle = (weights[:, columns] * rows[:, None]).sum(axis=0) / weights[:, columns].sum(axis=0)
    fit = np.polyval(np.polyfit(columns, middle, 1), columns)
    return float(np.abs(middle - fit).max())


def test_masks_move_along(tmp_path: Path) -> None:
    camera = LENSES[0]
    frames = make_frames(tmp_path / "frames", camera, "one.png")
    keep = rays(camera)[..., 0] > -0.3
    (frames.masks).mkdir()
    Image.fromarray(np.where(keep, 255, 0).astype(np.uint8)).save(frames.masks / "one.png.png")
    view = undistort(one_view("one.png", camera), frames, tmp_path / "out")
    mask = np.asarray(Image.open(tmp_path / "out" / "masks" / "one.png.png"))
    assert set(np.unique(mask)) == {0, 255}
    wanted = rays(view.camera)[..., 0] > -0.3
    assert ((mask == 255) != wanted).mean() < 0.012  # a column of pixels on the border
    assert not (mask == 255)[~wanted].any()  # nothing half masked is kept


@pytest.mark.parametrize(
    "camera",
    [lens("PINHOLE"), lens("SIMPLE_RADIAL", 1e-5), lens("OPENCV", 0.0, 0.0, 0.0, 0.0)],
    ids=lambda camera: camera.model_name,
)
def test_straight_pictures_are_not_compressed_again(
    tmp_path: Path, camera: pycolmap.Camera
) -> None:
    frames = make_frames(tmp_path / "frames", camera, "one.jpg")
    frames.masks.mkdir()
    Image.new("L", (WIDTH, HEIGHT), 255).save(frames.masks / "one.jpg.png")
    before = one_view("one.jpg", camera)
    view = undistort(before, frames, tmp_path / "out")
    for folder, name in (("images", "one.jpg"), ("masks", "one.jpg.png")):
        source, target = frames.path / folder / name, tmp_path / "out" / folder / name
        assert target.read_bytes() == source.read_bytes()
        assert target.samefile(source)
    assert view.camera.model_name == "PINHOLE"
    focal = [camera.focal_length_x, camera.focal_length_y]
    np.testing.assert_allclose(view.camera.params, [*focal, 81.0, 59.0])
    np.testing.assert_array_equal(view.xy, before.xy)


def test_how_far_a_lens_bends() -> None:
    bends = [distortion_px(camera, pinhole_of(camera)) for camera in (*LENSES, lens("PINHOLE"))]
    assert min(bends[:3]) > 1
    assert bends[3] == 0


def test_a_picture_of_another_size_is_named(tmp_path: Path) -> None:
    frames = frame_set(tmp_path / "frames", [("one.png", Image.new("RGB", (100, 100)))])
    with pytest.raises(
        UserError, match=r"^one.png is 100 x 100 pixels but its camera is 160 x 120"
    ):
        undistort(one_view("one.png", LENSES[0]), frames, tmp_path / "out")
