"""Which differences of view-dependent colour can be seen at all.

Cameras look at a scene from some directions and not from others, and what they see of a Gaussian's
harmonics is their values in those directions only. On them the basis is not orthogonal: a large
part of any difference looks like a change of the constant colour, which can make up for it, and
some combinations of coefficients hardly show. The metric here is the mean of the squared difference
over the directions that were seen, each as much as it matters in the pictures, once the constant
coefficient has taken over what it can (the Schur complement of that coefficient).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from splat_assets.gaussians.gaussians import SH_C0
from splat_assets.gaussians.sh import basis

# least share of the metric that counts all directions alike: people look from elsewhere, too
_ELSEWHERE = 0.05


@dataclass(frozen=True)
class ShMetric:
    """Of differences of the K coefficients of one colour channel beyond the constant one."""

    inner: np.ndarray  # [K, K] symmetric, positive definite; of the constant one alone it were 1
    fold: np.ndarray  # [K] what a difference looks like in units of the constant one

    @staticmethod
    def plain(coefficients: int) -> ShMetric:
        """All directions count alike: no coefficient looks like another."""
        return ShMetric(np.eye(coefficients), np.zeros(coefficients))

    @staticmethod
    def from_directions(seen: np.ndarray, places: int) -> ShMetric:
        """From the weighted sum of Y Yᵀ over directions of view, Y [1 + K] with the constant, seen
        from so many places: from few of them little is known of the others."""
        if not seen[0, 0] > 0:
            return ShMetric.plain(len(seen) - 1)
        elsewhere = max(_ELSEWHERE, 1 / max(places, 1))
        whole = (1 - elsewhere) * seen / seen[0, 0] + elsewhere * np.eye(len(seen))
        fold = whole[0, 1:] / whole[0, 0]
        return ShMetric(whole[1:, 1:] - np.outer(fold, fold), fold)

    @property
    def is_plain(self) -> bool:
        return np.array_equal(self.inner, np.eye(len(self.inner)))

    def squared(self, difference: np.ndarray) -> np.ndarray:
        """[N] squared length of differences [N, 3 K], channels together."""
        white = self.whitened(difference)
        return np.einsum("nd,nd->n", white, white, dtype=np.float64)

    def whitened(self, vectors: np.ndarray) -> np.ndarray:
        """[N, 3 K] float32 in which the ordinary distance is that of this metric."""
        if self.is_plain:
            return vectors
        # the matrix for all three channels at once: one product, for three times the sums
        root = np.kron(self._root, np.eye(3)).astype(np.float32)
        return vectors.astype(np.float32, copy=False) @ root

    def folded(self, difference: np.ndarray) -> np.ndarray:
        """[N, 3] by how much constant coefficients have to be larger where the others have become
        larger by `difference` [N, 3 K]."""
        return -np.einsum("nkc,k->nc", difference.reshape(len(difference), -1, 3), self.fold)

    @cached_property
    def evenness(self) -> float:
        """Geometric mean of the squared lengths of the axes: what an error costs that goes where it
        costs least."""
        return float(np.exp(np.linalg.slogdet(self.inner)[1] / len(self.inner)))

    @cached_property
    def _root(self) -> np.ndarray:
        """[K, K] symmetric square root."""
        lengths, axes = np.linalg.eigh(self.inner)
        return (axes * np.sqrt(np.maximum(lengths, 0))) @ axes.T


def seen_from(
    means: np.ndarray, camera: np.ndarray, weights: np.ndarray, degree: int
) -> np.ndarray:
    """[1 + K, 1 + K] sum of Y Yᵀ over Gaussians at `means` [N, 3] as a camera at `camera` [3] sees
    them, each `weights` [N] times; the constant function counts as 1."""
    rays = means.astype(np.float64) - camera
    lengths = np.linalg.norm(rays, axis=1, keepdims=True)
    values = basis(rays / np.maximum(lengths, 1e-30), degree) / SH_C0
    return (values * weights[:, None]).T @ values
