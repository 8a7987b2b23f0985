"""nerfstudio's `transforms.json`, and NeRF synthetic's form of it, read and written.

Format: docs.nerf.studio, "Nerfstudio dataset format". `transform_matrix` takes camera to world with
OpenGL axes (x right, y up, z backward); COLMAP's camera has y down and z forward. Both put the
principal point in pixels with (0, 0) at the corner of the top-left pixel.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pycolmap

from splat_assets.artifacts.manifest import write_text_atomic
from splat_assets.errors import UserError
from splat_assets.poses.sparse_model import View

OPENGL_FROM_OPENCV = np.diag([1.0, -1.0, -1.0, 1.0])

# camera_model → COLMAP model and its extra parameters, in COLMAP's order
_EXTRA = {
    "OPENCV": ("OPENCV", ("k1", "k2", "p1", "p2")),
    "OPENCV_FISHEYE": ("OPENCV_FISHEYE", ("k1", "k2", "k3", "k4")),
    "FULL_OPENCV": ("FULL_OPENCV", ("k1", "k2", "p1", "p2", "k3", "k4", "k5", "k6")),
}


@dataclass(frozen=True)
class TransformsFrame:
    """One frame of a transforms file."""

    file_path: str  # as written, relative to the file's folder; the suffix may be missing
    cam_from_world: pycolmap.Rigid3d
    intrinsics: dict[str, Any]  # the frame's keys over the file's: fl_x, camera_angle_x, k1, …


def read_transforms(path: Path) -> list[TransformsFrame]:
    """The frames of a transforms file.

    The world is the file's own; `applied_transform` is left in, as the file's point cloud has it
    too. Raises `UserError` naming the file and the frame that is wrong.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
        frames = list(content["frames"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path.name} cannot be read as transforms.json ({_reason(error)})."
        ) from None
    shared = {key: value for key, value in content.items() if key != "frames"}
    found = []
    for number, frame in enumerate(frames):
        try:
            pose = _rigid(np.array(frame["transform_matrix"], dtype=np.float64))
            found.append(TransformsFrame(str(frame["file_path"]), pose, {**shared, **frame}))
        except (KeyError, ValueError, TypeError) as error:
            raise UserError(
                f"{path.name}: frame {number} has no usable pose ({_reason(error)})."
            ) from None
    return found


def camera_of(
    intrinsics: dict[str, Any], source_size: tuple[int, int], size: tuple[int, int]
) -> pycolmap.Camera:
    """The COLMAP camera of a frame, for an image of `size` made from one of `source_size`.

    Raises `ValueError` when there is no focal length or the camera model is not known, and, as
    `TypeError` too, for values that are no numbers.
    """
    width = int(intrinsics.get("w") or source_size[0])
    height = int(intrinsics.get("h") or source_size[1])
    focal_x, focal_y = _focal(intrinsics, width, height)
    cx = float(intrinsics.get("cx", width / 2))
    cy = float(intrinsics.get("cy", height / 2))
    name = str(intrinsics.get("camera_model") or "OPENCV")
    if name in ("PINHOLE", "SIMPLE_PINHOLE", "SIMPLE_RADIAL", "RADIAL", "PERSPECTIVE"):
        name = "OPENCV"
    if name == "OPENCV" and any(float(intrinsics.get(k) or 0) for k in ("k3", "k4", "k5", "k6")):
        name = "FULL_OPENCV"
    if intrinsics.get("is_fisheye"):
        name = "OPENCV_FISHEYE"
    if name not in _EXTRA:
        raise ValueError(
            f"camera_model {name!r} is not known; undistort the images and export again"
        )
    model, keys = _EXTRA[name]
    extra = [float(intrinsics.get(key) or 0.0) for key in keys]
    camera = pycolmap.Camera(model=model, width=width, height=height)
    if not any(extra) and name != "OPENCV_FISHEYE":  # zero coefficients are a distortion there
        camera = pycolmap.Camera(model="PINHOLE", width=width, height=height)
        extra = []
    camera.params = [focal_x, focal_y, cx, cy, *extra]
    if not np.isfinite(camera.params).all() or min(focal_x, focal_y, width, height) <= 0:
        raise ValueError("its numbers are not those of a camera")
    if (width, height) != size:
        camera.rescale(*size)
    return camera


def write_transforms(
    path: Path,
    views: Sequence[View],
    *,
    masked: Collection[str] = (),
    test_images: Collection[str] = (),
    point_cloud: str | None = None,
) -> None:
    """Write PINHOLE `views` as nerfstudio reads them; names are below `images/`.

    Args:
        masked: names with a mask at `masks/<name>.png`.
        test_images: names held out; written as `test_filenames` and `val_filenames`.
        point_cloud: path of a PLY relative to the file.
    """
    shared = _intrinsics(views[0].camera)
    one_camera = all(_intrinsics(view.camera) == shared for view in views)
    frames = []
    for view in views:
        frame: dict[str, Any] = {"file_path": f"images/{view.name}"}
        if view.name in masked:
            frame["mask_path"] = f"masks/{view.name}.png"
        if not one_camera:
            frame.update(_intrinsics(view.camera))
        frame["transform_matrix"] = to_opengl(view.cam_from_world).tolist()
        frames.append(frame)
    content: dict[str, Any] = {"camera_model": "OPENCV", **(shared if one_camera else {})}
    if point_cloud is not None:
        content["ply_file_path"] = point_cloud
    if test_images:
        paths = {True: [], False: []}  # type: dict[bool, list[str]]
        for view in views:
            paths[view.name in test_images].append(f"images/{view.name}")
        content["train_filenames"] = paths[False]
        content["val_filenames"] = content["test_filenames"] = paths[True]
    content["frames"] = frames
    write_text_atomic(path, json.dumps(content, indent=1) + "\n")


def to_opengl(cam_from_world: pycolmap.Rigid3d) -> np.ndarray:
    """[4, 4] camera → world with OpenGL axes. Flips of sign only: no rounding beyond inversion."""
    matrix = np.eye(4)
    matrix[:3] = cam_from_world.inverse().matrix()
    flipped = matrix @ OPENGL_FROM_OPENCV
    return flipped + 0.0  # -0.0 → 0.0


def _reason(error: Exception) -> str:
    return f"{error} is missing" if isinstance(error, KeyError) else str(error)


def _rigid(matrix: np.ndarray) -> pycolmap.Rigid3d:
    """World → camera with OpenCV axes of a camera → world matrix with OpenGL axes."""
    if matrix.shape not in ((4, 4), (3, 4)) or not np.isfinite(matrix).all():
        raise ValueError("transform_matrix is not a finite 4 x 4 matrix")
    rotation = matrix[:3, :3]
    scale = np.cbrt(np.linalg.det(rotation))
    if (
        not scale > 0
        or np.abs(rotation.T @ rotation - scale**2 * np.eye(3)).max() > 0.01 * scale**2
    ):
        raise ValueError("transform_matrix holds no rotation")
    u, _, vt = np.linalg.svd(rotation / scale)
    world_from_cam = pycolmap.Rigid3d(
        pycolmap.Rotation3d(u @ vt @ OPENGL_FROM_OPENCV[:3, :3]), matrix[:3, 3]
    )
    return world_from_cam.inverse()


def _focal(intrinsics: dict[str, Any], width: int, height: int) -> tuple[float, float]:
    def focal(axis: str, size: int) -> float | None:
        if intrinsics.get(f"fl_{axis}"):
            return float(intrinsics[f"fl_{axis}"])
        if intrinsics.get(f"camera_angle_{axis}"):
            return size / 2 / math.tan(float(intrinsics[f"camera_angle_{axis}"]) / 2)
        return None

    x, y = focal("x", width), focal("y", height)
    if x is None and y is None:
        raise ValueError("no focal length: neither fl_x nor camera_angle_x")
    return x or y or 0.0, y or x or 0.0


def _intrinsics(camera: pycolmap.Camera) -> dict[str, Any]:
    fx, fy, cx, cy = (float(p) for p in camera.params)
    size = {"w": int(camera.width), "h": int(camera.height)}
    distortion = dict.fromkeys(("k1", "k2", "p1", "p2"), 0.0)
    return {**size, "fl_x": fx, "fl_y": fy, "cx": cx, "cy": cy, **distortion}
