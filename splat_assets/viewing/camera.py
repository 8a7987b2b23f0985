"""Which camera to show a splat from, and cameras around it when it came with none."""

from __future__ import annotations

import math

import numpy as np

from splat_assets.gaussians.splat_model import View

_ROLL_WEIGHT = 5.0  # of the sine of the roll, against the cosine of the aim
DOWN = np.array([0.0, 1.0, 0.0])  # of 3DGS files and their viewers; up is -y


def pick_view(views: list[View], center: np.ndarray, up: np.ndarray | None = None) -> View:
    """The view that looks most directly at `center` from a usual distance, held level.

    Args:
        up: [3] unit vector; viewers show no roll, so a camera that has some is shown tilted.

    Raises `ValueError` when `views` is empty.
    """
    if not views:
        raise ValueError("there is no view to pick from")
    positions = np.stack([camera_position(view.viewmat) for view in views])
    forwards = np.stack([view.viewmat[2, :3] for view in views])
    offsets = center - positions
    distances = np.linalg.norm(offsets, axis=1)
    aim = np.einsum("ni,ni->n", forwards, offsets) / np.maximum(distances, 1e-12)
    usual = np.median(distances)
    odd = np.abs(np.log(np.maximum(distances, 1e-12) / max(usual, 1e-12)))
    tilt = 0.0 if up is None else np.abs([view.viewmat[0, :3] @ up for view in views])
    return views[int(np.argmax(aim - 0.25 * odd - _ROLL_WEIGHT * tilt))]


def frame_points(means: np.ndarray) -> tuple[np.ndarray, float]:
    """Middle [3] and radius of the box of all but the outermost of points [N, 3]."""
    finite = means[np.isfinite(means).all(axis=1)]
    if not len(finite):
        return np.zeros(3), 1.0
    low, high = np.quantile(finite.astype(np.float64), (0.02, 0.98), axis=0)
    return (low + high) / 2, max(float(np.linalg.norm(high - low)) / 2, 1e-6)


def orbit_views(
    center: np.ndarray,
    radius: float,
    *,
    count: int = 8,
    size: int = 400,
    up: np.ndarray = -DOWN,
    elevation_deg: float = 15.0,
    fov_deg: float = 50.0,
) -> list[View]:
    """Square views on a circle that looks a little down on a sphere and holds it in the picture."""
    focal = size / 2 / math.tan(math.radians(fov_deg) / 2)
    distance = 1.15 * radius / math.sin(math.radians(fov_deg) / 2)
    K = np.array([[focal, 0, size / 2], [0, focal, size / 2], [0, 0, 1.0]])
    first, second = _horizontal_axes(up)
    tilt = math.radians(elevation_deg)
    views = []
    for i in range(count):
        turn = 2 * math.pi * i / count
        level = math.cos(turn) * first + math.sin(turn) * second
        position = center + distance * (math.cos(tilt) * level + math.sin(tilt) * up)
        viewmat = look_at(position, center, up)
        views.append(View(f"orbit_{i:02d}", size, size, K, viewmat, False, None))
    return views


def look_at(position: np.ndarray, target: np.ndarray, up: np.ndarray) -> np.ndarray:
    """[4, 4] world → camera, OpenCV axes, of a camera without roll."""
    forward = target - position
    forward = forward / np.linalg.norm(forward)
    right = np.cross(forward, up)
    length = np.linalg.norm(right)
    right = _horizontal_axes(up)[0] if length < 1e-9 else right / length
    rotation = np.stack([right, np.cross(forward, right), forward])
    viewmat = np.eye(4)
    viewmat[:3, :3], viewmat[:3, 3] = rotation, -rotation @ position
    return viewmat


def camera_position(viewmat: np.ndarray) -> np.ndarray:
    """[3] where a camera [4, 4] stands."""
    return -viewmat[:3, :3].T @ viewmat[:3, 3]


def middle_ray(view: View) -> np.ndarray:
    """[3] unit vector through the middle of the picture, which need not be the principal point."""
    middle = np.array([view.width / 2, view.height / 2, 1.0])
    ray = view.viewmat[:3, :3].T @ np.linalg.solve(view.K, middle)
    return ray / np.linalg.norm(ray)


def fov_of_long_side(view: View) -> float:
    """Degrees that the longer side of the picture spans."""
    wide = view.width >= view.height
    length, focal = (view.width, view.K[0, 0]) if wide else (view.height, view.K[1, 1])
    return math.degrees(2 * math.atan(length / (2 * focal)))


def upright_rotation(up: np.ndarray) -> np.ndarray:
    """[3, 3] the smallest rotation that turns the direction `up` to -y."""
    a = np.asarray(up, np.float64)
    a = a / np.linalg.norm(a)
    b = -DOWN
    axis, cosine = np.cross(a, b), float(a @ b)
    if cosine < -1 + 1e-9:
        return np.diag([1.0, -1.0, -1.0])
    skew = np.array([[0, -axis[2], axis[1]], [axis[2], 0, -axis[0]], [-axis[1], axis[0], 0]])
    return np.eye(3) + skew + skew @ skew / (1 + cosine)


def turn_view(view: View, rotation: np.ndarray) -> View:
    """The same view of a scene that has been turned by `rotation`."""
    turn = np.eye(4)
    turn[:3, :3] = rotation.T
    return View(
        view.name, view.width, view.height, view.K, view.viewmat @ turn, view.is_test, view.photo,
        view.mask,
    )  # fmt: skip


def _horizontal_axes(up: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Two unit vectors across `up`."""
    helper = np.eye(3)[int(np.argmin(np.abs(up)))]
    first = np.cross(up, helper)
    first = first / np.linalg.norm(first)
    return first, np.cross(first, up)
