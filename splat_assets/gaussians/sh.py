"""Real spherical harmonics as 3DGS uses them: evaluation, colours, and rotation of coefficients.

The basis (order and signs) is that of the 3DGS paper's code: degree 1 is (-y, z, -x), and so on.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from splat_assets.gaussians.gaussians import SH_C0

_C1 = 0.4886025119029199
_C2 = (1.0925484305920792, -1.0925484305920792, 0.31539156525252005, -1.0925484305920792,
       0.5462742152960396)  # fmt: skip
_C3 = (-0.5900435899266435, 2.890611442640554, -0.4570457994644658, 0.3731763325901154,
       -0.4570457994644658, 1.445305721320277, -0.5900435899266435)  # fmt: skip


def rgb_to_sh0(rgb: np.ndarray) -> np.ndarray:
    """Constant coefficient of a colour in 0..1 (any shape)."""
    return (rgb - 0.5) / SH_C0


def sh0_to_rgb(sh0: np.ndarray) -> np.ndarray:
    """Colour of a constant coefficient; not clamped."""
    return 0.5 + SH_C0 * sh0


def basis(directions: np.ndarray, degree: int) -> np.ndarray:
    """[..., (degree + 1)²] values of the basis at unit `directions` [..., 3]."""
    x, y, z = np.moveaxis(np.asarray(directions, np.float64), -1, 0)
    values = [np.full_like(x, SH_C0)]
    if degree >= 1:
        values += [-_C1 * y, _C1 * z, -_C1 * x]
    if degree >= 2:
        xx, yy, zz = x * x, y * y, z * z
        values += [
            _C2[0] * x * y,
            _C2[1] * y * z,
            _C2[2] * (2 * zz - xx - yy),
            _C2[3] * x * z,
            _C2[4] * (xx - yy),
        ]
    if degree >= 3:
        values += [
            _C3[0] * y * (3 * xx - yy),
            _C3[1] * x * y * z,
            _C3[2] * y * (4 * zz - xx - yy),
            _C3[3] * z * (2 * zz - 3 * xx - 3 * yy),
            _C3[4] * x * (4 * zz - xx - yy),
            _C3[5] * z * (xx - yy),
            _C3[6] * x * (xx - 3 * yy),
        ]
    return np.stack(values, axis=-1)


def rotate_shN(shN: np.ndarray, rotation: np.ndarray) -> np.ndarray:  # noqa: N802
    """Coefficients of the same colour function turned with the scene by `rotation` [3, 3].

    f'(R d) = f(d). Within each degree the functions span their own rotations, so the matrix of a
    degree is found by evaluating the basis at some directions before and after, exact to rounding.

    Args:
        shN: [N, K, 3], K in {0, 3, 8, 15}.
    """
    out = np.array(shN, dtype=np.float32)
    start = 0
    for degree in range(1, 4):
        stop = start + 2 * degree + 1
        if stop > shN.shape[1]:
            break
        matrix = _degree_rotation(rotation, degree)
        out[:, start:stop] = np.einsum("ij,njc->nic", matrix, shN[:, start:stop])
        start = stop
    return out


def _degree_rotation(rotation: np.ndarray, degree: int) -> np.ndarray:
    """[2d+1, 2d+1] matrix M with coefficients' = M @ coefficients."""
    directions = _sample_directions()
    own = slice(degree**2, (degree + 1) ** 2)
    after = basis(directions, degree)[:, own]
    before = basis(directions @ rotation, degree)[:, own]  # rows are Rᵀ d
    # after @ M c = before @ c for all c
    return np.linalg.lstsq(after, before, rcond=None)[0]


@lru_cache(maxsize=1)
def _sample_directions() -> np.ndarray:
    """[64, 3] directions on a Fibonacci sphere, enough to determine degree 3."""
    i = np.arange(64) + 0.5
    z = 1 - 2 * i / 64
    azimuth = np.pi * (1 + np.sqrt(5)) * i
    radius = np.sqrt(1 - z * z)
    return np.stack([radius * np.cos(azimuth), radius * np.sin(azimuth), z], axis=1)
