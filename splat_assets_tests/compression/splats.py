"""Small splats for the tests of compression and viewing."""

from __future__ import annotations

import numpy as np

from splat_assets.gaussians.gaussians import SH_REST, Gaussians


def random_splat(n: int, sh_degree: int = 0, seed: int = 0, *, antialiased: bool = False):
    """`n` Gaussians in a ball of radius 1 with a few far away, all values plausible."""
    rng = np.random.default_rng(seed)
    means = rng.normal(0, 0.4, (n, 3))
    means[::50] *= 30
    shN = rng.normal(0, 0.1, (n, SH_REST[sh_degree], 3))
    return Gaussians(
        means=means.astype(np.float32),
        quats=rng.normal(size=(n, 4)).astype(np.float32),
        scales=rng.normal(-3.5, 0.7, (n, 3)).astype(np.float32),
        opacities=rng.normal(1, 2, n).astype(np.float32),
        sh0=rng.normal(0, 0.8, (n, 1, 3)).astype(np.float32),
        shN=shN.astype(np.float32),
        antialiased=antialiased,
    )


def covariances(quats: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """[N, 3, 3] of quaternions (w, x, y, z) and log scales."""
    from splat_assets.gaussians.transform import quat_to_matrix

    axes = quat_to_matrix(quats) * np.exp(scales.astype(np.float64))[:, None, :]
    return axes @ axes.transpose(0, 2, 1)
