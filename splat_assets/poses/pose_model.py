"""`PoseModel`: cameras, sparse points and the undistorted images they belong to."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from splat_assets.artifacts.contract import ArtifactFolder


@dataclass(frozen=True)
class CameraSet:
    """Pinhole cameras, one per image, OpenCV axes (x right, y down, z forward).

    Pixel (0.5, 0.5) is the centre of the top-left pixel (COLMAP's convention).
    """

    names: tuple[str, ...]  # N, relative to images/
    viewmats: np.ndarray  # [N, 4, 4] float64, world → camera
    Ks: np.ndarray  # [N, 3, 3] float64
    widths: np.ndarray  # [N] int64
    heights: np.ndarray  # [N] int64
    is_test: np.ndarray  # [N] bool: held out by the dataset itself (else all False)

    def __len__(self) -> int:
        return len(self.names)

    @property
    def centers(self) -> np.ndarray:
        """[N, 3] camera positions in the world."""
        rotations = self.viewmats[:, :3, :3]
        return -np.einsum("nji,nj->ni", rotations, self.viewmats[:, :3, 3])


@dataclass(frozen=True)
class SparsePoints:
    """Triangulated scene points."""

    xyz: np.ndarray  # [P, 3] float64
    rgb: np.ndarray  # [P, 3] uint8
    error_px: np.ndarray  # [P] float64, mean reprojection error; NaN when unknown


@dataclass(frozen=True)
class PoseModel(ArtifactFolder):
    """Layout, itself a COLMAP workspace and a nerfstudio folder: `images/<name>` (undistorted),
    optional `masks/<name>.png`, `sparse/0/{cameras,images,points3D}.bin` (PINHOLE cameras of those
    images), `transforms.json`, `report.json`, optional `given/`, `manifest.json`.

    `manifest.summary`: `num_frames`, `num_registered`, `registered_ratio`, `reprojection_error_px`,
    `num_points`, `mean_track_length`, `mapper`, `matching`, `attempts`, `unregistered` (names, at
    most 20), `other_models` (sizes), `poses_given` (bool), `gps_aligned` (bool).
    """

    KIND: ClassVar[str] = "camera_poses"

    @property
    def images(self) -> Path:
        return self.path / "images"

    @property
    def masks(self) -> Path:
        return self.path / "masks"

    @property
    def sparse(self) -> Path:
        return self.path / "sparse" / "0"

    def report(self) -> dict[str, Any]:
        return json.loads((self.path / "report.json").read_text(encoding="utf-8"))

    def cameras(self) -> CameraSet:
        """The registered cameras, sorted by name; splits from `report.json`'s `test_images`."""
        import pycolmap

        model = pycolmap.Reconstruction(str(self.sparse))
        images = sorted(
            (image for image in model.images.values() if image.has_pose), key=lambda i: i.name
        )
        viewmats = np.tile(np.eye(4), (len(images), 1, 1))
        Ks = np.tile(np.eye(3), (len(images), 1, 1))
        sizes = np.zeros((len(images), 2), dtype=np.int64)
        for row, image in enumerate(images):
            viewmats[row, :3] = image.cam_from_world().matrix()
            camera = model.cameras[image.camera_id]
            Ks[row] = camera.calibration_matrix()
            sizes[row] = camera.width, camera.height
        test_images = set(self.report().get("test_images", ()))
        names = tuple(image.name for image in images)
        is_test = np.array([name in test_images for name in names], dtype=bool)
        return CameraSet(names, viewmats, Ks, sizes[:, 0], sizes[:, 1], is_test)

    def points(self) -> SparsePoints:
        """The sparse points; empty arrays when the poses came without any."""
        import pycolmap

        model = pycolmap.Reconstruction(str(self.sparse))
        points = [point for _, point in sorted(model.points3D.items())]
        if not points:
            return SparsePoints(np.zeros((0, 3)), np.zeros((0, 3), np.uint8), np.zeros(0))
        errors = np.array([p.error for p in points], dtype=np.float64)
        return SparsePoints(
            np.array([p.xyz for p in points], dtype=np.float64),
            np.array([p.color for p in points], dtype=np.uint8),
            np.where(errors < 0, np.nan, errors),  # COLMAP's mark for unknown
        )
