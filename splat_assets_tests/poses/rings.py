"""A ring of cameras around known points, as a COLMAP model: poses without any picture work."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pycolmap
from PIL import Image

from splat_assets.frames.frame_set import FrameSet
from splat_assets.poses.sparse_model import ScenePoint, View, build_model
from splat_assets_tests.poses.frame_sets import frame_set
from splat_assets_tests.training.scenes import ring_viewmats


def pinhole(width: int = 80, height: int = 60, focal: float = 90.0) -> pycolmap.Camera:
    params = [focal, focal, width / 2 + 1.5, height / 2 - 0.5]
    return pycolmap.Camera(model="PINHOLE", width=width, height=height, params=params)


def ring_views(
    names: list[str], camera: pycolmap.Camera, xyz: np.ndarray, *, distance: float = 4.0
) -> list[View]:
    """Cameras on a ring, each seeing all `xyz` [P, 3] exactly where they project."""
    views = []
    for name, viewmat in zip(names, ring_viewmats(len(names), distance), strict=True):
        pose = pycolmap.Rigid3d(viewmat[:3])
        local = xyz @ viewmat[:3, :3].T + viewmat[:3, 3]
        xy = np.asarray(camera.img_from_cam(local)).reshape(-1, 2)
        views.append(View(name, 1, camera, pose, xy, np.arange(1, len(xyz) + 1)))
    return views


def ring_points(count: int = 20, seed: int = 0) -> dict[int, ScenePoint]:
    rng = np.random.default_rng(seed)
    return {
        number: ScenePoint(rng.uniform(-0.6, 0.6, 3), rng.integers(0, 255, 3).astype(np.uint8), 0.5)
        for number in range(1, count + 1)
    }


def ring_model(names: list[str], *, distance: float = 4.0) -> pycolmap.Reconstruction:
    points = ring_points()
    xyz = np.array([point.xyz for point in points.values()])
    return build_model(ring_views(names, pinhole(), xyz, distance=distance), points)


def grey_frames(
    folder: Path, names: list[str], *, size: tuple[int, int] = (80, 60), long_side: int = 40
) -> FrameSet:
    """Frames of plain pictures of `size`, reduced to `long_side`."""
    picture = Image.new("RGB", size, (120, 130, 140))
    return frame_set(folder, [(name, picture) for name in names], long_side=long_side)
