"""The synthetic capture: exact, repeatable, and without its poses in the photos."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image

from splat_assets.demo.scene import build_scene
from splat_assets.demo.truth import center_errors
from splat_assets.errors import UserError
from splat_assets_tests.data import Capture, Truth, make_capture


def test_photos_and_truth(small_capture: Capture) -> None:
    truth = Truth.open(small_capture.truth_path)
    assert sorted(path.name for path in small_capture.photos.iterdir()) == list(truth.names)
    np.testing.assert_array_equal(truth.viewmats, small_capture.truth.viewmats)
    rotations = truth.viewmats[:, :3, :3]
    np.testing.assert_allclose(
        rotations @ rotations.transpose(0, 2, 1), np.tile(np.eye(3), (12, 1, 1)), atol=1e-12
    )
    assert truth.scene_size == pytest.approx(4.9, abs=0.1)
    with Image.open(small_capture.photos / truth.names[0]) as photo:
        assert photo.size == (truth.width, truth.height) == (320, 240)
        exif = photo.getexif().get_ifd(ExifTags.IFD.Exif)
    focal_35mm = exif[ExifTags.Base.FocalLengthIn35mmFilm]
    assert focal_35mm * np.hypot(320, 240) / np.hypot(36, 24) == pytest.approx(truth.K[0, 0])


def test_equal_arguments_give_equal_photos(tmp_path: Path) -> None:
    first, again, other = (
        make_capture(tmp_path / name, num_images=1, width=64, height=48, seed=seed)
        for name, seed in (("a", 3), ("b", 3), ("c", 4))
    )
    photo = "IMG_0001.jpg"
    assert (first.photos / photo).read_bytes() == (again.photos / photo).read_bytes()
    assert (first.photos / photo).read_bytes() != (other.photos / photo).read_bytes()


def test_a_ball_appears_where_its_centre_projects(small_capture: Capture) -> None:
    """The renderer and the written pose agree: the orange ball is orange at its projection."""
    truth = small_capture.truth
    ball = np.array([*build_scene_ball(), 1.0])
    seen = 0
    for name, viewmat in zip(truth.names, truth.viewmats, strict=True):
        camera = (viewmat @ ball)[:3]
        x, y = (truth.K @ camera)[:2] / camera[2]
        with Image.open(small_capture.photos / name) as photo:
            around = np.asarray(photo)[int(y) - 6 : int(y) + 7, int(x) - 6 : int(x) + 7]
        red, _, blue = np.percentile(around.reshape(-1, 3), 60, axis=0)
        seen += red > blue + 40
    assert seen >= 8  # elsewhere something stands before it


def build_scene_ball() -> tuple[float, float, float]:
    return build_scene(0).shapes[5].center  # type: ignore[attr-defined]


def test_errors_are_measured_after_alignment(small_capture: Capture) -> None:
    truth = small_capture.truth
    rng = np.random.default_rng(0)
    turn, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    turn *= np.sign(np.linalg.det(turn))
    moved = 0.3 * truth.centers @ turn.T + [5.0, -2.0, 1.0]
    names = tuple(f"sub/{Path(name).stem}.png" for name in truth.names)
    assert center_errors(truth, names, moved).max() < 1e-12
    moved[4] += 0.3 * np.array([0.0, 0.0, 0.05])
    error = center_errors(truth, names, moved)
    assert error.argmax() == 4
    assert error[4] == pytest.approx(0.05 / truth.scene_size, rel=0.3)
    with pytest.raises(UserError, match="needs three"):
        center_errors(truth, ("IMG_0001.jpg", "x.jpg"), moved[:2])
