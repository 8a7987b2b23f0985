"""Which camera a splat is shown from."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from splat_assets.gaussians.splat_model import View
from splat_assets.viewing.camera import (
    camera_position,
    fov_of_long_side,
    look_at,
    middle_ray,
    orbit_views,
    pick_view,
    turn_view,
    upright_rotation,
)

UP = np.array([0.0, -1.0, 0.0])


def _view(name: str, position: tuple[float, float, float], target: np.ndarray) -> View:
    K = np.array([[50.0, 0, 32], [0, 50, 24], [0, 0, 1]])
    return View(name, 64, 48, K, look_at(np.array(position), target, UP), False, None)


def test_opening_view_looks_at_the_scene_from_a_usual_distance() -> None:
    center = np.zeros(3)
    views = [
        _view("beside", (4, 0, 0), np.array([4.0, 0, 4])),
        _view("away", (0, 0, 4), np.array([0.0, 0, 8])),
        _view("too close", (0, 0, -0.2), center),
        _view("good", (0, -1, -4), center),
        _view("aslant", (-4, 0, 0), np.array([0.0, 2, 0])),
    ]
    assert pick_view(views, center).name == "good"
    assert pick_view(views[:1], center).name == "beside"
    with pytest.raises(ValueError, match="no view"):
        pick_view([], center)


def test_the_opening_view_is_held_level() -> None:
    """The viewer shows no roll."""
    level = _view("level", (0.4, -1, -4), np.zeros(3))
    rolled = _view("rolled", (0, -1, -4), np.zeros(3))
    tilt = np.eye(4)
    tilt[:2, :2] = [[0.98, -0.2], [0.2, 0.98]]
    rolled = replace(rolled, viewmat=tilt @ rolled.viewmat)
    assert pick_view([rolled, level], np.zeros(3), UP).name == "level"
    assert pick_view([rolled], np.zeros(3), UP).name == "rolled"


def test_a_camera_at_the_centre_is_no_division_by_zero() -> None:
    views = [_view("inside", (0, 0, 0), np.array([0.0, 0, 1]))]
    assert pick_view(views, np.zeros(3)).name == "inside"


@pytest.mark.parametrize("up", [(0, -1, 0), (0, 0, 1), (0.6, -0.8, 0)])
def test_orbit_holds_the_scene_upright_in_the_picture(up: tuple[float, float, float]) -> None:
    center, radius = np.array([1.0, 2, 3]), 2.0
    rng = np.random.default_rng(0)
    points = rng.normal(size=(500, 3))
    points = center + radius * points / np.linalg.norm(points, axis=1, keepdims=True)
    views = orbit_views(center, radius, up=np.array(up, np.float64), count=5, size=100)
    assert len({tuple(np.round(camera_position(v.viewmat), 6)) for v in views}) == 5
    for view in views:
        rotation = view.viewmat[:3, :3]
        np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-12)
        assert np.linalg.det(rotation) > 0
        assert rotation[1] @ up < -0.9  # y of the picture points down
        assert (camera_position(view.viewmat) - center) @ up > 0  # a little from above
        seen = points @ rotation.T + view.viewmat[:3, 3]
        assert (seen[:, 2] > 0).all()
        pixels = seen @ view.K.T
        pixels = pixels[:, :2] / pixels[:, 2:]
        assert pixels.min() > 0 and pixels.max() < 100
        assert np.ptp(pixels[:, 0]) > 70  # and fills it


def test_look_at_straight_down_is_defined() -> None:
    viewmat = look_at(np.array([0.0, -5, 0]), np.zeros(3), UP)
    assert np.isfinite(viewmat).all()
    np.testing.assert_allclose(viewmat[2, :3], (0, 1, 0), atol=1e-12)


@pytest.mark.parametrize("up", [(0, -1, 0), (0, 1, 0), (0, 0, 2), (1, -2, 0.5), (1e-12, 1, 0)])
def test_upright_rotation_turns_up_to_minus_y(up: tuple[float, float, float]) -> None:
    direction = np.array(up, np.float64)
    turn = upright_rotation(direction)
    np.testing.assert_allclose(turn @ turn.T, np.eye(3), atol=1e-9)
    assert np.linalg.det(turn) == pytest.approx(1)
    np.testing.assert_allclose(turn @ direction / np.linalg.norm(direction), UP, atol=1e-9)


def test_turned_view_sees_the_turned_scene_alike() -> None:
    view = _view("a", (1, -2, -3), np.zeros(3))
    turn = upright_rotation(np.array([0.3, 0.2, 1.0]))
    point = np.array([0.4, -0.1, 0.7, 1])
    moved = np.append(turn @ point[:3], 1)
    np.testing.assert_allclose(turn_view(view, turn).viewmat @ moved, view.viewmat @ point)


def test_field_of_view_is_of_the_longer_side() -> None:
    K = np.array([[100.0, 0, 100], [0, 60, 50], [0, 0, 1]])
    assert fov_of_long_side(View("w", 200, 100, K, np.eye(4), False, None)) == pytest.approx(90)
    assert fov_of_long_side(View("h", 100, 120, K, np.eye(4), False, None)) == pytest.approx(90)


def test_the_middle_of_the_picture_is_where_the_ray_goes() -> None:
    K = np.array([[50.0, 0, 40], [0, 60, 20], [0, 0, 1]])
    view = replace(_view("off axis", (1, -2, -4), np.array([0.5, 0, 0])), K=K)
    point = camera_position(view.viewmat) + 3 * middle_ray(view)
    x, y, z = K @ (view.viewmat[:3, :3] @ point + view.viewmat[:3, 3])
    np.testing.assert_allclose([x / z, y / z], [32, 24])
