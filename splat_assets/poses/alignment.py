"""Similarity alignment of two point sets (Umeyama 1991), and the errors left after it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Similarity:
    """`target = scale * rotation @ source + translation`."""

    scale: float
    rotation: np.ndarray  # [3, 3]
    translation: np.ndarray  # [3]

    def apply(self, points: np.ndarray) -> np.ndarray:
        """Map points [N, 3]."""
        return self.scale * points @ self.rotation.T + self.translation


def umeyama(source: np.ndarray, target: np.ndarray) -> Similarity:
    """The least-squares similarity that takes `source` [N, 3] onto `target` [N, 3], N >= 3.

    Raises `ValueError` when the source points coincide or lie on one line (no unique rotation).
    """
    source, target = np.asarray(source, np.float64), np.asarray(target, np.float64)
    mean_source, mean_target = source.mean(axis=0), target.mean(axis=0)
    a, b = source - mean_source, target - mean_target
    spread = np.linalg.svd(a, compute_uv=False)
    if len(source) < 3 or spread[1] <= 1e-9 * max(spread[0], 1e-300):
        raise ValueError("three points that are not on one line are needed to align two sets")
    u, singular, vt = np.linalg.svd(b.T @ a / len(a))
    sign = np.array([1.0, 1.0, np.sign(np.linalg.det(u) * np.linalg.det(vt))])
    rotation = (u * sign) @ vt
    scale = float((singular * sign).sum() / (a**2).sum(axis=1).mean())
    return Similarity(scale, rotation, mean_target - scale * rotation @ mean_source)


def center_errors(estimated: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Distances [N] of camera centres after alignment, in units of the truth's size.

    The size is the largest distance of a true centre from their mean.
    """
    aligned = umeyama(estimated, truth).apply(np.asarray(estimated, np.float64))
    size = np.linalg.norm(truth - truth.mean(axis=0), axis=1).max()
    return np.linalg.norm(aligned - truth, axis=1) / size


def rotation_errors_deg(estimated: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Angles [N] between world → camera rotations [N, 3, 3], one common world rotation removed."""
    u, _, vt = np.linalg.svd(np.einsum("nji,njk->ik", estimated, truth))
    common = u @ np.diag([1.0, 1.0, np.linalg.det(u @ vt)]) @ vt
    cosine = (np.einsum("nij,jk,nik->n", estimated, common, truth) - 1) / 2
    return np.degrees(np.arccos(np.clip(cosine, -1, 1)))
