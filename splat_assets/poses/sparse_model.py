"""A reconstruction as plain values, and back: the form in which we rename, filter and undistort.

Only what the artifact needs is kept: images with a pose, each a frame of its own, the points, and
where the images saw them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pycolmap


@dataclass(frozen=True)
class View:
    """A registered image. Views with equal `camera_id` share `camera`."""

    name: str
    camera_id: int
    camera: pycolmap.Camera
    cam_from_world: pycolmap.Rigid3d
    xy: np.ndarray  # [K, 2] float64, pixels
    point_ids: np.ndarray  # [K] int64, the 3D point each belongs to


@dataclass(frozen=True)
class ScenePoint:
    xyz: np.ndarray  # [3] float64
    rgb: np.ndarray  # [3] uint8
    error: float  # mean reprojection error in pixels; -1 when unknown, as COLMAP has it


def views_of(model: pycolmap.Reconstruction, names: Mapping[str, str] | None = None) -> list[View]:
    """The registered images by name, under new names where `names` is given (others left out)."""
    views = []
    for image in model.images.values():
        if not image.has_pose or (names is not None and image.name not in names):
            continue
        seen = [point for point in image.points2D if point.has_point3D()]
        camera = model.cameras[image.camera_id]
        views.append(
            View(
                name=names[image.name] if names is not None else image.name,
                camera_id=image.camera_id,
                camera=camera,
                cam_from_world=image.cam_from_world(),
                xy=np.array([point.xy for point in seen], np.float64).reshape(-1, 2),
                point_ids=np.array([point.point3D_id for point in seen], np.int64),
            )
        )
    return sorted(views, key=lambda view: view.name)


def points_of(model: pycolmap.Reconstruction) -> dict[int, ScenePoint]:
    """All 3D points by id, in ascending order of id."""
    return {
        number: ScenePoint(point.xyz.copy(), point.color.copy(), float(point.error))
        for number, point in sorted(model.points3D.items())
    }


def build_model(views: Sequence[View], points: Mapping[int, ScenePoint]) -> pycolmap.Reconstruction:
    """A reconstruction of `views` (image ids 1..N in their order) and `points`."""
    model = pycolmap.Reconstruction()
    tracks: dict[int, list[pycolmap.TrackElement]] = defaultdict(list)
    for camera_id, camera in sorted({v.camera_id: v.camera for v in views}.items()):
        copy = pycolmap.Camera(camera.todict())
        copy.camera_id = camera_id
        model.add_camera_with_trivial_rig(copy)
    for number, view in enumerate(views, start=1):
        known = [int(p) in points for p in view.point_ids]
        xy, ids = view.xy[known], view.point_ids[known]
        listed = pycolmap.Point2DList([pycolmap.Point2D(p) for p in xy])
        image = pycolmap.Image(view.name, listed, view.camera_id, number)
        model.add_image_with_trivial_frame(image, view.cam_from_world)
        for index, point_id in enumerate(ids):
            tracks[int(point_id)].append(pycolmap.TrackElement(number, index))
    for point_id, point in sorted(points.items()):
        made = pycolmap.Point3D(xyz=point.xyz, color=point.rgb, track=pycolmap.Track())
        model.add_point3D_with_id(point_id, made)
        for element in tracks[point_id]:
            model.add_observation(point_id, element)
        model.points3D[point_id].error = point.error
    return model
