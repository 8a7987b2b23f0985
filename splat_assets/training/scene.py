"""Where a scene is, how large and which way is up, from its cameras or from its Gaussians.

The world frame of the poses is never changed, so that poses and splat agree; these figures are for
learning rates (`extent`) and for viewers (`up`, `center`, `radius`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from splat_assets.gaussians.gaussians import Gaussians
from splat_assets.training.dataset import TrainingView


@dataclass(frozen=True)
class SceneFrame:
    """Figures of a scene in the world frame."""

    up: np.ndarray  # [3] unit vector
    center: np.ndarray  # [3] what the cameras look at
    radius: float  # of the sphere around `center` that holds most of the subject
    extent: float  # 1.1 × the largest distance of a camera from their mean: scales learning rates

    def summary(self) -> dict[str, object]:
        """The entries `scene_*` of a `SplatModel`'s summary."""
        return {
            "scene_up": [round(float(v), 6) for v in self.up],
            "scene_center": [round(float(v), 6) for v in self.center],
            "scene_radius": round(float(self.radius), 6),
        }


def frame_from_cameras(
    views: list[TrainingView], points: np.ndarray, *, gravity_is_z: bool = False
) -> SceneFrame:
    """Figures from cameras and sparse points [P, 3] (may be empty).

    Args:
        gravity_is_z: the poses were aligned to GPS (east, north, up), so up is +z.
    """
    viewmats = np.stack([view.viewmat for view in views])
    rotations = viewmats[:, :3, :3]
    centers = -np.einsum("nji,nj->ni", rotations, viewmats[:, :3, 3])
    forwards = rotations[:, 2]
    up = np.array([0.0, 0.0, 1.0]) if gravity_is_z else _up(rotations)
    focus = _focus_point(centers, forwards)
    if focus is None:
        near = _points_in_front(points, centers, forwards)
        focus = np.median(near, axis=0) if len(near) else centers.mean(0) + forwards.mean(0)
    distance = float(np.median(np.linalg.norm(centers - focus, axis=1)))
    radius = 0.5 * distance
    if len(points) >= 10:
        radius = float(np.quantile(np.linalg.norm(points - focus, axis=1), 0.8))
    extent = 1.1 * float(np.linalg.norm(centers - centers.mean(0), axis=1).max())
    # a camera that only turned has no baseline: fall back on how far it looks
    extent = max(extent, 0.1 * distance, 1e-6)
    return SceneFrame(up, focus, max(radius, 1e-6), extent)


def frame_from_gaussians(gaussians: Gaussians) -> SceneFrame:
    """Robust figures for a splat that came without cameras; up is -y, as 3DGS scenes have it."""
    opacity = 1.0 / (1.0 + np.exp(-np.clip(gaussians.opacities.astype(np.float64), -30, 30)))
    up = np.array([0.0, -1.0, 0.0])
    if not len(opacity):
        return SceneFrame(up, np.zeros(3), 1.0, 1.0)
    solid = gaussians.means[opacity >= min(0.1, float(np.median(opacity)))]
    center = np.median(solid.astype(np.float64), axis=0)
    radius = float(np.quantile(np.linalg.norm(solid - center, axis=1), 0.8))
    return SceneFrame(up, center, max(radius, 1e-6), max(radius, 1e-6))


def camera_centers(views: list[TrainingView]) -> np.ndarray:
    """[N, 3] positions of the cameras."""
    viewmats = np.stack([view.viewmat for view in views])
    return -np.einsum("nji,nj->ni", viewmats[:, :3, :3], viewmats[:, :3, 3])


def _up(rotations: np.ndarray) -> np.ndarray:
    """[3] the direction that most cameras [N, 3, 3] hold upright.

    People hold a camera level: its x axis is horizontal however far it looks up or down. So up is
    the direction least along the x axes, once they point several ways; robustly, because some
    photos are taken upright. Where all point one way, up is the mean of the pictures' own.
    """
    mean = -rotations[:, 1].mean(axis=0)
    sides = rotations[:, 0]
    weight = np.ones(len(sides))
    for _ in range(10):
        values, vectors = np.linalg.eigh(np.einsum("n,ni,nj->ij", weight, sides, sides))
        up = vectors[:, 0]
        weight = 1.0 / (0.1 + np.abs(sides @ up))
    if values[1] < 0.03 * values.sum():  # all x axes within about ten degrees
        length = np.linalg.norm(mean)
        return mean / length if length > 1e-3 else np.array([0.0, -1.0, 0.0])
    # straight down, the pictures' own up is level, but then up is where the cameras come from
    forward = rotations[:, 2].mean(axis=0)
    sign = up @ mean if abs(up @ mean) > 0.2 else -(up @ forward)
    return up if sign >= 0 else -up


def _focus_point(centers: np.ndarray, forwards: np.ndarray) -> np.ndarray | None:
    """The point nearest to all viewing rays; None when they are parallel or it lies behind."""
    projectors = np.eye(3) - forwards[:, :, None] * forwards[:, None, :]
    A = projectors.sum(axis=0)
    # the smallest eigenvalue over N is the mean sin² to the common axis: too small = parallel rays
    if np.linalg.eigvalsh(A)[0] < 0.003 * len(centers):
        return None
    focus = np.linalg.solve(A, np.einsum("nij,nj->i", projectors, centers))
    depths = np.einsum("ni,ni->n", focus - centers, forwards)
    return focus if np.mean(depths > 0) >= 0.7 else None


def _points_in_front(points: np.ndarray, centers: np.ndarray, forwards: np.ndarray) -> np.ndarray:
    if not len(points):
        return points
    mean_center, mean_forward = centers.mean(0), forwards.mean(0)
    ahead = (points - mean_center) @ mean_forward > 0
    return points[ahead]
