"""Spherical harmonics of degree 1 to 3 inside kernels, in the order and with the signs of 3DGS.

(`splat_assets.gaussians.sh` is the same basis for arrays.)
"""

from __future__ import annotations

from numba import njit

# of kernels without SIMD lanes; NaN and infinity keep their meaning
RELAXED = {"contract", "arcp", "nsz", "reassoc"}


@njit(cache=True, nogil=True, error_model="numpy", fastmath=RELAXED)
def sh_basis(x, y, z, degree, basis):  # type: ignore[no-untyped-def]
    """The 15 basis values beyond the constant one at a unit direction."""
    if degree >= 1:
        basis[0] = -0.4886025119029199 * y
        basis[1] = 0.4886025119029199 * z
        basis[2] = -0.4886025119029199 * x
    if degree >= 2:
        xx, yy, zz = x * x, y * y, z * z
        basis[3] = 1.0925484305920792 * x * y
        basis[4] = -1.0925484305920792 * y * z
        basis[5] = 0.31539156525252005 * (2.0 * zz - xx - yy)
        basis[6] = -1.0925484305920792 * x * z
        basis[7] = 0.5462742152960396 * (xx - yy)
        if degree >= 3:
            basis[8] = -0.5900435899266435 * y * (3.0 * xx - yy)
            basis[9] = 2.890611442640554 * x * y * z
            basis[10] = -0.4570457994644658 * y * (4.0 * zz - xx - yy)
            basis[11] = 0.3731763325901154 * z * (2.0 * zz - 3.0 * xx - 3.0 * yy)
            basis[12] = -0.4570457994644658 * x * (4.0 * zz - xx - yy)
            basis[13] = 1.445305721320277 * z * (xx - yy)
            basis[14] = -0.5900435899266435 * x * (xx - 3.0 * yy)


@njit(cache=True, nogil=True, error_model="numpy", fastmath=RELAXED)
def sh_gradient(x, y, z, degree, q):  # type: ignore[no-untyped-def]
    """The gradient with respect to the direction of Σ q[k] basis[k]."""
    gx = gy = gz = 0.0
    if degree >= 1:
        gx -= 0.4886025119029199 * q[2]
        gy -= 0.4886025119029199 * q[0]
        gz += 0.4886025119029199 * q[1]
    if degree >= 2:
        a, b, c = 1.0925484305920792 * q[3], -1.0925484305920792 * q[4], 0.31539156525252005 * q[5]
        d, e = -1.0925484305920792 * q[6], 0.5462742152960396 * q[7]
        gx += a * y - 2.0 * c * x + d * z + 2.0 * e * x
        gy += a * x + b * z - 2.0 * c * y - 2.0 * e * y
        gz += b * y + 4.0 * c * z + d * x
        if degree >= 3:
            xx, yy, zz = x * x, y * y, z * z
            c0, c1, c2 = (
                -0.5900435899266435 * q[8],
                2.890611442640554 * q[9],
                -0.4570457994644658 * q[10],
            )
            c3, c4, c5 = (
                0.3731763325901154 * q[11],
                -0.4570457994644658 * q[12],
                1.445305721320277 * q[13],
            )
            c6 = -0.5900435899266435 * q[14]
            gx += (
                6.0 * c0 * x * y
                + c1 * y * z
                - 2.0 * c2 * x * y
                - 6.0 * c3 * x * z
                + c4 * (4.0 * zz - 3.0 * xx - yy)
                + 2.0 * c5 * x * z
                + 3.0 * c6 * (xx - yy)
            )
            gy += (
                3.0 * c0 * (xx - yy)
                + c1 * x * z
                + c2 * (4.0 * zz - xx - 3.0 * yy)
                - 6.0 * c3 * y * z
                - 2.0 * c4 * x * y
                - 2.0 * c5 * y * z
                - 6.0 * c6 * x * y
            )
            gz += (
                c1 * x * y
                + 8.0 * c2 * y * z
                + c3 * (6.0 * zz - 3.0 * xx - 3.0 * yy)
                + 8.0 * c4 * x * z
                + c5 * (xx - yy)
            )
    return gx, gy, gz
