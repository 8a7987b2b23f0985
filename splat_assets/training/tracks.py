"""Which training view sees which sparse point, and where: what exposure and depth are told by."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from splat_assets.poses.pose_model import PoseModel
from splat_assets.training.dataset import TrainingSet

_MAX_ERROR_PX = 2.0  # points of a larger mean reprojection error are not believed


@dataclass(frozen=True)
class Sightings:
    """The sparse points that one view observes, as they project into it."""

    points: np.ndarray  # [M] int64, ids of the points, ascending
    at: np.ndarray  # [M, 2] float64, x / width and y / height in 0..1
    depth: np.ndarray  # [M] float64 > 0
    error_px: np.ndarray  # [M] float64, the point's mean reprojection error


def load_sightings(poses: PoseModel, data: TrainingSet) -> dict[int, Sightings]:
    """By index of the training view; views without any point are left out."""
    import pycolmap

    model = pycolmap.Reconstruction(str(poses.sparse))
    by_name = {image.name: image for image in model.images.values() if image.has_pose}
    known = sorted(
        number
        for number, point in model.points3D.items()
        if point.track.length() and 0 <= point.error <= _MAX_ERROR_PX
    )
    numbers = np.array(known, np.int64)
    xyz = np.array([model.points3D[number].xyz for number in known]).reshape(-1, 3)
    errors = np.array([model.points3D[number].error for number in known])
    found = {}
    for index in data.train:
        view = data.views[index]
        image = by_name.get(view.name)
        if image is None:
            continue
        seen = [point.point3D_id for point in image.points2D if point.has_point3D()]
        rows = np.flatnonzero(np.isin(numbers, np.array(seen, np.uint64).astype(np.int64)))
        camera = xyz[rows] @ view.viewmat[:3, :3].T + view.viewmat[:3, 3]
        depth = camera[:, 2]
        with np.errstate(divide="ignore", invalid="ignore"):
            at = (camera @ view.K.T)[:, :2] / depth[:, None] / [view.width, view.height]
        good = (depth > 1e-6) & (at >= 0).all(axis=1) & (at < 1).all(axis=1)
        if good.any():
            rows = rows[good]
            found[index] = Sightings(numbers[rows], at[good], depth[good], errors[rows])
    return found
