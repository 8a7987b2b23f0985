"""Move, turn and scale a splat as a whole, its view-dependent colours included."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from splat_assets.gaussians.gaussians import Gaussians
from splat_assets.gaussians.sh import rotate_shN


def translate(gaussians: Gaussians, offset: np.ndarray) -> Gaussians:
    """Every mean moved by `offset` [3]."""
    means = gaussians.means.astype(np.float64) + np.asarray(offset, np.float64)
    return replace(gaussians, means=means.astype(np.float32))


def scale(gaussians: Gaussians, factor: float) -> Gaussians:
    """The scene scaled about the origin by `factor` > 0."""
    if not (math.isfinite(factor) and factor > 0):
        raise ValueError(f"a scene cannot be scaled by {factor}")
    return replace(
        gaussians,
        means=(gaussians.means * np.float32(factor)),
        scales=(gaussians.scales + np.float32(math.log(factor))),
    )


def rotate(gaussians: Gaussians, rotation: np.ndarray) -> Gaussians:
    """The scene turned about the origin by the proper rotation matrix `rotation` [3, 3]."""
    R = np.asarray(rotation, np.float64)
    if R.shape != (3, 3) or not np.allclose(R @ R.T, np.eye(3), atol=1e-5) or np.linalg.det(R) < 0:
        raise ValueError("rotation must be a proper 3x3 rotation matrix")
    means = gaussians.means.astype(np.float64) @ R.T
    quats = multiply_quats(matrix_to_quat(R), gaussians.quats.astype(np.float64))
    return replace(
        gaussians,
        means=means.astype(np.float32),
        quats=quats.astype(np.float32),
        shN=rotate_shN(gaussians.shN, R),
    )


def matrix_to_quat(R: np.ndarray) -> np.ndarray:
    """[4] unit quaternion (w, x, y, z), w ≥ 0, of a rotation matrix [3, 3]."""
    # the eigenvector form has no branch that loses precision (Bar-Itzhack 2000)
    K = np.array(
        [
            [R[0, 0] + R[1, 1] + R[2, 2], 0, 0, 0],
            [R[2, 1] - R[1, 2], R[0, 0] - R[1, 1] - R[2, 2], 0, 0],
            [R[0, 2] - R[2, 0], R[0, 1] + R[1, 0], R[1, 1] - R[0, 0] - R[2, 2], 0],
            [
                R[1, 0] - R[0, 1],
                R[0, 2] + R[2, 0],
                R[1, 2] + R[2, 1],
                R[2, 2] - R[0, 0] - R[1, 1],
            ],
        ]
    )
    quat = np.linalg.eigh(K / 3, UPLO="L")[1][:, -1]
    return -quat if quat[0] < 0 else quat


def quat_to_matrix(quats: np.ndarray) -> np.ndarray:
    """[..., 3, 3] rotation matrices of quaternions [..., 4] (w, x, y, z), any length > 0."""
    q = np.asarray(quats, np.float64)
    w, x, y, z = np.moveaxis(q / np.linalg.norm(q, axis=-1, keepdims=True), -1, 0)
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    return np.stack([np.stack(row, axis=-1) for row in rows], axis=-2)


def multiply_quats(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Hamilton product a ⊗ b of quaternions (w, x, y, z), broadcasting."""
    aw, ax, ay, az = np.moveaxis(np.asarray(a), -1, 0)
    bw, bx, by, bz = np.moveaxis(np.asarray(b), -1, 0)
    return np.stack(
        [
            aw * bw - ax * bx - ay * by - az * bz,
            aw * bx + ax * bw + ay * bz - az * by,
            aw * by - ax * bz + ay * bw + az * bx,
            aw * bz + ax * by - ay * bx + az * bw,
        ],
        axis=-1,
    )
