"""The exact cameras of a synthetic capture, and how far a reconstruction is from them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import numpy as np

from splat_assets.artifacts.manifest import write_text_atomic
from splat_assets.errors import UserError

if TYPE_CHECKING:
    from splat_assets.poses.pose_model import PoseModel


@dataclass(frozen=True)
class Truth:
    """What `truth.json` holds: one pinhole camera, a pose per photo, OpenCV axes."""

    names: tuple[str, ...]  # N file names of the photos
    viewmats: np.ndarray  # [N, 4, 4] float64, world → camera
    K: np.ndarray  # [3, 3] float64; pixel (0.5, 0.5) is the centre of the top-left pixel
    width: int
    height: int
    scene_size: float  # metres

    @property
    def centers(self) -> np.ndarray:
        """[N, 3] camera positions in metres."""
        return -np.einsum("nji,nj->ni", self.viewmats[:, :3, :3], self.viewmats[:, :3, 3])

    def save(self, path: Path) -> None:
        content = {
            "camera_model": "PINHOLE",
            "w": self.width,
            "h": self.height,
            "fl_x": self.K[0, 0],
            "fl_y": self.K[1, 1],
            "cx": self.K[0, 2],
            "cy": self.K[1, 2],
            "scene_size": self.scene_size,
            "frames": [
                {"file_path": name, "world_to_camera": viewmat.tolist()}
                for name, viewmat in zip(self.names, self.viewmats, strict=True)
            ],
        }
        write_text_atomic(path, json.dumps(content, indent=1) + "\n")

    @classmethod
    def open(cls, path: Path) -> Truth:
        raw = json.loads(path.read_text(encoding="utf-8"))
        K = np.array([[raw["fl_x"], 0, raw["cx"]], [0, raw["fl_y"], raw["cy"]], [0, 0, 1]])
        names = tuple(frame["file_path"] for frame in raw["frames"])
        viewmats = np.array([frame["world_to_camera"] for frame in raw["frames"]])
        return cls(names, viewmats, K, raw["w"], raw["h"], raw["scene_size"])


def compare_centers(truth: Truth, poses: PoseModel) -> float:
    """Largest distance of a registered camera's centre from the truth, as a fraction of the scene's
    size, after the best similarity alignment. `UserError` with fewer than three common cameras.
    """
    cameras = poses.cameras()
    return float(center_errors(truth, cameras.names, cameras.centers).max())


def center_errors(truth: Truth, names: tuple[str, ...], centers: np.ndarray) -> np.ndarray:
    """Per-camera errors [M] as fractions of the scene's size; photos are matched by file stem."""
    known = {PurePosixPath(name).stem: row for row, name in enumerate(truth.names)}
    stems = [PurePosixPath(name).stem for name in names]
    rows = [row for row, stem in enumerate(stems) if stem in known]
    if len(rows) < 3:
        raise UserError(
            f"Only {len(rows)} of {len(names)} cameras are in the truth; comparing needs three."
        )
    true = truth.centers[[known[stems[row]] for row in rows]]
    aligned = _align(np.asarray(centers, np.float64)[rows], true)
    return np.linalg.norm(aligned - true, axis=1) / truth.scene_size


def _align(points: np.ndarray, target: np.ndarray) -> np.ndarray:
    """`points` [M, 3] moved onto `target` by the least-squares similarity (Umeyama, 1991)."""
    p, q = points - points.mean(0), target - target.mean(0)
    u, sigma, vt = np.linalg.svd(q.T @ p)
    mirror = np.array([1, 1, np.sign(np.linalg.det(u @ vt))])
    rotation = (u * mirror) @ vt
    scale = (sigma * mirror).sum() / (p**2).sum()
    return scale * p @ rotation.T + target.mean(0)
