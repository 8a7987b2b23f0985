"""Projection of Gaussians onto the image plane and evaluation of their colours.

EWA splatting (Zwicker et al. 2001, eq. 22–33) for pinhole cameras: the covariance is carried
through the linearised projection, `eps2d` is added to its diagonal, and the exact bounds of the
ellipse where alpha reaches 1/255 follow from 2 ln(255 o). The screen-space Gaussian is kept as

    log2 alpha = lo - A (dx - k dy)² - B dy²,   k = Sxy / Syy,  A ~ Syy / det,  B ~ 1 / Syy

which cannot turn negative by cancellation. Geometry is done in float64 in registers; what is stored
is float32. Every Gaussian is computed alone, so results do not depend on how work is divided.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from splat_assets.rendering.cpu.activation import activate
from splat_assets.rendering.cpu.harmonics import RELAXED, sh_basis
from splat_assets.rendering.cpu.simd import read
from splat_assets.rendering.cpu.tasks import next_task

# One row of 16 float32 (a cache line) per Gaussian and camera:
#   0 mean x   1 mean y   2 k   3 A   4 B   5 lo = log2(opacity)   6 lo + log2(255), widened a hair
#   7 dy of the ellipse's right-most point   8 1/A   9–11 colour   12 depth
#   13, 14 half extents of the ellipse
# One row of 16 float32 sums over pixels per Gaussian and tile on the way back; v = dL/dlog alpha:
#   0 v   1 v u   2 v dy   3 v u²   4 v u dy   5 v dy²   6–8 colour   9 depth
#   10, 11 absolute gradient of the mean
# Camera, float64:
#   0–8 rotation   9–11 translation   12–14 centre   15–18 fx fy cx cy
#   19–22 limits of x/z (low, high) and y/z (low, high)   23 near   24 far   25 eps2d
ROW = 16
TASK = 256  # Gaussians a task; fixed, so that sums over a task do not depend on threads
TILE = 32  # pixels; the kernels rely on 8 × 8 blocks of 4 × 4
HIDDEN = np.uint32(0xFFFFFFFF)  # depth of a Gaussian that is not visible
LARGE = np.uint64(0)  # span of a Gaussian that reaches over more than 8 × 8 tiles
ONE = np.uint64(1)


@njit(cache=True, nogil=True, error_model="numpy", fastmath=RELAXED)
def tile_columns(rows, r, tile_row, first, last):  # type: ignore[no-untyped-def]
    """The range of tile columns, within first..last, that the ellipse of row offset `r` touches in
    a row of tiles; empty (1, 0) when none."""
    dy0 = np.float32(tile_row * TILE) + np.float32(0.5) - rows[r + 1]
    dy1 = dy0 + np.float32(TILE - 1)
    edge = rows[r + 7]
    right = min(max(edge, dy0), dy1)
    left = min(max(-edge, dy0), dy1)
    reach_right = (rows[r + 6] - rows[r + 4] * right * right) * rows[r + 8]
    reach_left = (rows[r + 6] - rows[r + 4] * left * left) * rows[r + 8]
    if not (reach_right >= 0.0 and reach_left >= 0.0):
        return 1, 0
    x0 = rows[r] + rows[r + 2] * left - math.sqrt(reach_left) - np.float32(0.01)
    x1 = rows[r] + rows[r + 2] * right + math.sqrt(reach_right) + np.float32(0.01)
    # a column of tiles holds the pixel centres 0.5 … TILE - 0.5
    low = math.ceil((x0 - (TILE - 0.5)) / TILE)
    high = math.floor((x1 - 0.5) / TILE)
    return int(max(low, np.float64(first))), int(min(high, np.float64(last)))


@njit(cache=True, nogil=True, error_model="numpy", fastmath=RELAXED)
def tile_rect(rows, r, tiles_x, tiles_y):  # type: ignore[no-untyped-def]
    """First and last tile column and row of the bounding box, clipped to the image."""
    x0 = (rows[r] - rows[r + 13] - 0.51) / TILE
    x1 = (rows[r] + rows[r + 13] - 0.49) / TILE
    y0 = (rows[r + 1] - rows[r + 14] - 0.51) / TILE
    y1 = (rows[r + 1] + rows[r + 14] - 0.49) / TILE
    return (
        int(max(0.0, math.floor(x0))),
        int(min(tiles_x - 1.0, math.floor(x1))),
        int(max(0.0, math.floor(y0))),
        int(min(tiles_y - 1.0, math.floor(y1))),
    )


# without RELAXED: numba would hand it down to `activate`, whose `exp2` does not survive it
@njit(cache=True, nogil=True, error_model="numpy")
def project(  # type: ignore[no-untyped-def]
    share, means, quats, scales, opacities, sh0, stride0, shN, strideN, offsetN, degree, log_scales,
    logits, camera, width, height, antialiased, rows, depths, corners, spans, offsets, radii,
):  # fmt: skip
    """Fill `rows`, `depths` (the bits of positive float32, uint32), `radii` and the touched tiles.

    The tiles are bits 8·row + column of `spans`, relative to tile `corners`; their number is left
    at place i + 1 of `offsets`. Where `log_scales` [N, 3] and `logits` [N] are not empty, `scales`
    and `opacities` are first filled from them; where `radii` is empty, nobody wants them.

    All arrays are flat but `means` [N, 3], `quats`, `scales`, `radii` [N, 2]; `sh0` and `shN` hold
    coefficient c of Gaussian i at i·stride + c. degree < 0: `sh0` holds the colour itself.
    """
    count = means.shape[0]
    while True:
        begin = next_task(share) * TASK
        if begin >= count:
            break
        end = min(begin + TASK, count)
        if len(logits) > 0:
            activate(begin, end, log_scales, logits, scales, opacities)
        _project_range(
            begin, end, means, quats, scales, opacities, sh0, stride0, shN, strideN, offsetN,
            degree, camera, width, height, antialiased, rows, depths, corners, spans, offsets,
            radii,
        )  # fmt: skip


@njit(cache=True, nogil=True, error_model="numpy", fastmath=RELAXED)
def _project_range(  # type: ignore[no-untyped-def]
    begin, end, means, quats, scales, opacities, sh0, stride0, shN, strideN, offsetN, degree,
    camera, width, height, antialiased, rows, depths, corners, spans, offsets, radii,
):  # fmt: skip
    tiles_x = (width + TILE - 1) // TILE
    tiles_y = (height + TILE - 1) // TILE
    basis = np.zeros(15, np.float64)
    w00, w01, w02 = camera[0], camera[1], camera[2]
    w10, w11, w12 = camera[3], camera[4], camera[5]
    w20, w21, w22 = camera[6], camera[7], camera[8]
    fx, fy, cx, cy = camera[15], camera[16], camera[17], camera[18]
    near, far, eps2d = camera[23], camera[24], camera[25]
    bands = (degree + 1) * (degree + 1) - 1
    for i in range(begin, end):
        depths[i] = HIDDEN
        offsets[i + 1] = 0
        if len(radii) > 0:
            radii[i, 0] = 0
            radii[i, 1] = 0
        r = i * ROW
        rows[r] = 0.0
        rows[r + 1] = 0.0
        px, py, pz = np.float64(means[i, 0]), np.float64(means[i, 1]), np.float64(means[i, 2])
        z = w20 * px + w21 * py + w22 * pz + camera[11]
        opacity = np.float64(opacities[i])
        if not (z > near and z < far and z > 1e-12 and opacity >= 1.0 / 255.0):
            continue
        x = w00 * px + w01 * py + w02 * pz + camera[9]
        y = w10 * px + w11 * py + w12 * pz + camera[10]
        rz = 1.0 / z
        tx = min(max(x * rz, camera[19]), camera[20])
        ty = min(max(y * rz, camera[21]), camera[22])
        # V = J W R S, rows 0 and 1; the covariance is V Vᵀ
        j0, j1 = fx * rz, fy * rz
        a0, a1, a2 = j0 * (w00 - tx * w20), j0 * (w01 - tx * w21), j0 * (w02 - tx * w22)
        b0, b1, b2 = j1 * (w10 - ty * w20), j1 * (w11 - ty * w21), j1 * (w12 - ty * w22)
        qw, qx = np.float64(quats[i, 0]), np.float64(quats[i, 1])
        qy, qz = np.float64(quats[i, 2]), np.float64(quats[i, 3])
        norm = qw * qw + qx * qx + qy * qy + qz * qz
        if not norm > 0.0:
            continue
        two = 2.0 / norm
        s0, s1 = np.float64(scales[i, 0]), np.float64(scales[i, 1])
        s2 = np.float64(scales[i, 2])
        r00 = (1.0 - two * (qy * qy + qz * qz)) * s0
        r10 = two * (qx * qy + qw * qz) * s0
        r20 = two * (qx * qz - qw * qy) * s0
        r01 = two * (qx * qy - qw * qz) * s1
        r11 = (1.0 - two * (qx * qx + qz * qz)) * s1
        r21 = two * (qy * qz + qw * qx) * s1
        r02 = two * (qx * qz + qw * qy) * s2
        r12 = two * (qy * qz - qw * qx) * s2
        r22 = (1.0 - two * (qx * qx + qy * qy)) * s2
        u0 = a0 * r00 + a1 * r10 + a2 * r20
        u1 = a0 * r01 + a1 * r11 + a2 * r21
        u2 = a0 * r02 + a1 * r12 + a2 * r22
        v0 = b0 * r00 + b1 * r10 + b2 * r20
        v1 = b0 * r01 + b1 * r11 + b2 * r21
        v2 = b0 * r02 + b1 * r12 + b2 * r22
        raw_xx = u0 * u0 + u1 * u1 + u2 * u2
        raw_yy = v0 * v0 + v1 * v1 + v2 * v2
        sxy = u0 * v0 + u1 * v1 + u2 * v2
        # |u × v|² is the determinant without cancellation
        n0, n1, n2 = u1 * v2 - u2 * v1, u2 * v0 - u0 * v2, u0 * v1 - u1 * v0
        raw_det = n0 * n0 + n1 * n1 + n2 * n2
        sxx = raw_xx + eps2d
        syy = raw_yy + eps2d
        det = raw_det + eps2d * (raw_xx + raw_yy) + eps2d * eps2d
        if not (det > 0.0 and syy > 0.0 and sxx < 1e30 and syy < 1e30):
            continue
        if antialiased:
            opacity *= math.sqrt(raw_det / det)
            if not opacity >= 1.0 / 255.0:
                continue
        # 2 ln(255 o): the squared Mahalanobis radius where alpha falls to 1/255
        log_opacity = math.log2(opacity)
        reach = 1.3862943611198906 * (log_opacity + 7.994353436858858)
        hx = math.sqrt(reach * sxx)
        hy = math.sqrt(reach * syy)
        mx = fx * x * rz + cx
        my = fy * y * rz + cy
        if not (
            mx + hx >= 0.5 and mx - hx <= width - 0.5 and my + hy >= 0.5
            and my - hy <= height - 0.5 and abs(mx) < 1e8 and abs(my) < 1e8
        ):  # fmt: skip
            continue
        rows[r] = mx
        rows[r + 1] = my
        rows[r + 2] = sxy / syy
        rows[r + 3] = 0.7213475204444817 * syy / det  # log2(e) / 2
        rows[r + 4] = 0.7213475204444817 / syy
        rows[r + 5] = log_opacity
        rows[r + 6] = (log_opacity + 7.994353436858858) * 1.00001 + 1e-4
        rows[r + 7] = sxy / sxx * hx
        rows[r + 8] = 1.3862943611198906 * det / syy
        rows[r + 12] = z
        rows[r + 13] = hx
        rows[r + 14] = hy
        # tiles
        tx0, tx1, ty0, ty1 = tile_rect(rows, r, tiles_x, tiles_y)
        tiles = 1
        span = ONE
        if ty0 != ty1 or tx0 != tx1:
            tiles = 0
            span = LARGE
            small = tx1 - tx0 < 8 and ty1 - ty0 < 8
            for tile_row in range(ty0, ty1 + 1):
                first, last = tile_columns(rows, r, tile_row, tx0, tx1)
                if last >= first:
                    tiles += last - first + 1
                    if small:
                        run = (ONE << np.uint64(last - first + 1)) - ONE
                        span |= run << np.uint64(8 * (tile_row - ty0) + first - tx0)
        if tiles == 0:
            continue
        corners[i] = ty0 * tiles_x + tx0
        spans[i] = span
        offsets[i + 1] = tiles
        if len(radii) > 0:
            radii[i, 0] = math.ceil(min(hx, 1e9))
            radii[i, 1] = math.ceil(min(hy, 1e9))
        depths[i] = np.float32(z).view(np.uint32)
        # colour
        at = i * stride0
        if degree < 0:
            rows[r + 9] = sh0[at]
            rows[r + 10] = sh0[at + 1]
            rows[r + 11] = sh0[at + 2]
            continue
        c0 = 0.5 + 0.28209479177387814 * sh0[at]
        c1 = 0.5 + 0.28209479177387814 * sh0[at + 1]
        c2 = 0.5 + 0.28209479177387814 * sh0[at + 2]
        if degree > 0:
            dx, dy, dz = px - camera[12], py - camera[13], pz - camera[14]
            length = math.sqrt(dx * dx + dy * dy + dz * dz)
            inverse = 1.0 / length if length > 0.0 else 0.0
            sh_basis(dx * inverse, dy * inverse, dz * inverse, degree, basis)
            at = i * strideN + offsetN
            for k in range(bands):
                c0 += basis[k] * read(shN, at + 3 * k)
                c1 += basis[k] * read(shN, at + 3 * k + 1)
                c2 += basis[k] * read(shN, at + 3 * k + 2)
        rows[r + 9] = max(c0, 0.0)
        rows[r + 10] = max(c1, 0.0)
        rows[r + 11] = max(c2, 0.0)
