"""From sums over pixels back to the parameters of the Gaussians and the camera.

The derivative of projection.py, by hand: screen-space Gaussian → 2D covariance → its square root
V = J W R S → scales, quaternion, camera, mean; and colour → SH coefficients and direction.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from splat_assets.rendering.cpu.harmonics import RELAXED, sh_basis, sh_gradient
from splat_assets.rendering.cpu.projection import ROW, TASK
from splat_assets.rendering.cpu.simd import fill, read, store, write
from splat_assets.rendering.cpu.tasks import next_task


@njit(inline="always")
def add_to(array, index, value):  # type: ignore[no-untyped-def]
    write(array, index, np.float32(read(array, index) + value))


@njit(cache=True, nogil=True, error_model="numpy", fastmath=RELAXED)
def project_backward(  # type: ignore[no-untyped-def]
    share, means, quats, scales, opacities, sh0, stride0, shN, strideN, offsetN, degree, camera,
    antialiased, rows, offsets, sums, absgrad, first,
    v_means, v_quats, v_scales, v_opacities, v_sh0, v_shN, v_camera, v_means2d,
):  # fmt: skip
    """Add up the rows of `sums` that belong to each Gaussian and carry them back to its parameters.

    Gradients are added to the `v_` arrays (shaped like the parameters; `v_shN` as `shN`), which the
    `first` camera overwrites. `v_camera` [tasks, 15] takes rotation, translation and
    centre; `v_means2d` [N, 4] takes the signed and absolute gradients of the projected mean.
    """
    count = means.shape[0]
    while True:
        task = next_task(share)
        begin = task * TASK
        if begin >= count:
            break
        range_backward(
            begin, min(begin + TASK, count), 0, means, quats, scales, opacities, sh0, stride0, shN,
            strideN, offsetN, degree, camera, antialiased, rows, offsets, sums, absgrad, first,
            v_means, v_quats, v_scales, v_opacities, v_sh0, v_shN, v_camera[task], v_means2d,
        )  # fmt: skip


@njit(cache=True, nogil=True, error_model="numpy", fastmath=RELAXED)
def range_backward(  # type: ignore[no-untyped-def]
    begin, end_of_range, base, means, quats, scales, opacities, sh0, stride0, shN, strideN, offsetN,
    degree, camera, antialiased, rows, offsets, sums, absgrad, first,
    v_means, v_quats, v_scales, v_opacities, v_sh0, v_shN, v_camera, v_means2d,
):  # fmt: skip
    """`project_backward` of Gaussians begin … end_of_range - 1, the gradients of Gaussian i in row
    i - base of the arrays; `v_camera` [15]; an empty `v_means2d` is left alone."""
    basis = np.zeros(15, np.float64)
    q = np.zeros(15, np.float64)
    w00, w01, w02 = camera[0], camera[1], camera[2]
    w10, w11, w12 = camera[3], camera[4], camera[5]
    w20, w21, w22 = camera[6], camera[7], camera[8]
    fx, fy, eps2d = camera[15], camera[16], camera[25]
    bands = (degree + 1) * (degree + 1) - 1
    total = np.zeros(12, np.float64)
    none = fill(np.float32(0.0))
    with_means2d = len(v_means2d) > 0
    g00 = g01 = g02 = g10 = g11 = g12 = g20 = g21 = g22 = 0.0
    gt0 = gt1 = gt2 = gc0 = gc1 = gc2 = 0.0
    for i in range(begin, end_of_range):
        slot, end = offsets[i], offsets[i + 1]
        j = i - base
        if with_means2d:
            for n in range(4):
                write(v_means2d, 4 * i + n, np.float32(0.0))
        if first:
            for n in range(3):
                v_means[j, n] = 0.0
                v_scales[j, n] = 0.0
                v_sh0[j * stride0 + n] = 0.0
            for n in range(4):
                v_quats[j, n] = 0.0
            v_opacities[j] = 0.0
            at, beyond = j * strideN + offsetN, (j + 1) * strideN
            while at + 16 <= beyond:
                store(v_shN, at, none)
                at += 16
            while at < beyond:
                write(v_shN, at, np.float32(0.0))
                at += 1
        if slot == end:
            continue
        for k in range(12):
            total[k] = read(sums, slot * ROW + k)
        for at in range(slot + 1, end):
            for k in range(12):
                total[k] += read(sums, at * ROW + k)
        # ---- forward once more
        px, py, pz = np.float64(means[i, 0]), np.float64(means[i, 1]), np.float64(means[i, 2])
        x = w00 * px + w01 * py + w02 * pz + camera[9]
        y = w10 * px + w11 * py + w12 * pz + camera[10]
        z = w20 * px + w21 * py + w22 * pz + camera[11]
        rz = 1.0 / z
        free_x = camera[19] <= x * rz <= camera[20]
        free_y = camera[21] <= y * rz <= camera[22]
        tx = min(max(x * rz, camera[19]), camera[20])
        ty = min(max(y * rz, camera[21]), camera[22])
        j0, j1 = fx * rz, fy * rz
        a0, a1, a2 = j0 * (w00 - tx * w20), j0 * (w01 - tx * w21), j0 * (w02 - tx * w22)
        b0, b1, b2 = j1 * (w10 - ty * w20), j1 * (w11 - ty * w21), j1 * (w12 - ty * w22)
        qw, qx = np.float64(quats[i, 0]), np.float64(quats[i, 1])
        qy, qz = np.float64(quats[i, 2]), np.float64(quats[i, 3])
        inverse_norm = 1.0 / math.sqrt(qw * qw + qx * qx + qy * qy + qz * qz)
        qw *= inverse_norm
        qx *= inverse_norm
        qy *= inverse_norm
        qz *= inverse_norm
        s0, s1 = np.float64(scales[i, 0]), np.float64(scales[i, 1])
        s2 = np.float64(scales[i, 2])
        r00 = 1.0 - 2.0 * (qy * qy + qz * qz)
        r10 = 2.0 * (qx * qy + qw * qz)
        r20 = 2.0 * (qx * qz - qw * qy)
        r01 = 2.0 * (qx * qy - qw * qz)
        r11 = 1.0 - 2.0 * (qx * qx + qz * qz)
        r21 = 2.0 * (qy * qz + qw * qx)
        r02 = 2.0 * (qx * qz + qw * qy)
        r12 = 2.0 * (qy * qz - qw * qx)
        r22 = 1.0 - 2.0 * (qx * qx + qy * qy)
        # e = J W R, f = e S
        e0, e1 = a0 * r00 + a1 * r10 + a2 * r20, a0 * r01 + a1 * r11 + a2 * r21
        e2 = a0 * r02 + a1 * r12 + a2 * r22
        f0, f1 = b0 * r00 + b1 * r10 + b2 * r20, b0 * r01 + b1 * r11 + b2 * r21
        f2 = b0 * r02 + b1 * r12 + b2 * r22
        u0, u1, u2 = e0 * s0, e1 * s1, e2 * s2
        v0, v1, v2 = f0 * s0, f1 * s1, f2 * s2
        raw_xx = u0 * u0 + u1 * u1 + u2 * u2
        raw_yy = v0 * v0 + v1 * v1 + v2 * v2
        sxy = u0 * v0 + u1 * v1 + u2 * v2
        n0, n1, n2 = u1 * v2 - u2 * v1, u2 * v0 - u0 * v2, u0 * v1 - u1 * v0
        raw_det = n0 * n0 + n1 * n1 + n2 * n2
        sxx = raw_xx + eps2d
        syy = raw_yy + eps2d
        det = raw_det + eps2d * (raw_xx + raw_yy) + eps2d * eps2d
        # ---- screen space: a = Syy / det, slope k = Sxy / Syy, b = 1 / Syy
        a = syy / det
        b = 1.0 / syy
        slope = sxy * b
        d_mx = a * total[1]
        d_my = b * total[2] - slope * d_mx
        if with_means2d:
            write(v_means2d, 4 * i, np.float32(d_mx))
            write(v_means2d, 4 * i + 1, np.float32(d_my))
            if absgrad:
                write(v_means2d, 4 * i + 2, np.float32(total[10]))
                write(v_means2d, 4 * i + 3, np.float32(total[11]))
        d_a = -0.5 * total[3]
        d_b = -0.5 * total[5]
        d_k = a * total[4]
        d_xx = -d_a * a * a
        d_xy = 2.0 * d_a * a * a * slope + d_k * b
        d_yy = -d_a * a * a * slope * slope - d_k * slope * b - d_b * b * b
        v_opacities[j] += total[0] / np.float64(opacities[i])
        if antialiased:
            ratio = raw_det / det
            # log(opacity · sqrt(ratio)) is what total[0] belongs to
            d_ratio = 0.5 * total[0] / ratio
            d_xx += d_ratio * (raw_yy - ratio * syy) / det
            d_yy += d_ratio * (raw_xx - ratio * sxx) / det
            d_xy -= 2.0 * d_ratio * sxy * (1.0 - ratio) / det
        # ---- covariance = V Vᵀ, V = (u; v)
        d_u0, d_v0 = 2.0 * d_xx * u0 + d_xy * v0, d_xy * u0 + 2.0 * d_yy * v0
        d_u1, d_v1 = 2.0 * d_xx * u1 + d_xy * v1, d_xy * u1 + 2.0 * d_yy * v1
        d_u2, d_v2 = 2.0 * d_xx * u2 + d_xy * v2, d_xy * u2 + 2.0 * d_yy * v2
        v_scales[j, 0] += d_u0 * e0 + d_v0 * f0
        v_scales[j, 1] += d_u1 * e1 + d_v1 * f1
        v_scales[j, 2] += d_u2 * e2 + d_v2 * f2
        d_u0 *= s0
        d_u1 *= s1
        d_u2 *= s2
        d_v0 *= s0
        d_v1 *= s1
        d_v2 *= s2
        # rotation R: dR = (a; b)ᵀ (d_u; d_v)
        m00, m01, m02 = a0 * d_u0 + b0 * d_v0, a0 * d_u1 + b0 * d_v1, a0 * d_u2 + b0 * d_v2
        m10, m11, m12 = a1 * d_u0 + b1 * d_v0, a1 * d_u1 + b1 * d_v1, a1 * d_u2 + b1 * d_v2
        m20, m21, m22 = a2 * d_u0 + b2 * d_v0, a2 * d_u1 + b2 * d_v1, a2 * d_u2 + b2 * d_v2
        d_qw = 2.0 * (qz * (m10 - m01) + qy * (m02 - m20) + qx * (m21 - m12))
        d_qx = 2.0 * (
            qy * (m01 + m10) + qz * (m02 + m20) + qw * (m21 - m12) - 2.0 * qx * (m11 + m22)
        )
        d_qy = 2.0 * (
            qx * (m01 + m10) + qz * (m12 + m21) + qw * (m02 - m20) - 2.0 * qy * (m00 + m22)
        )
        d_qz = 2.0 * (
            qx * (m02 + m20) + qy * (m12 + m21) + qw * (m10 - m01) - 2.0 * qz * (m00 + m11)
        )
        along = d_qw * qw + d_qx * qx + d_qy * qy + d_qz * qz
        v_quats[j, 0] += (d_qw - along * qw) * inverse_norm
        v_quats[j, 1] += (d_qx - along * qx) * inverse_norm
        v_quats[j, 2] += (d_qy - along * qy) * inverse_norm
        v_quats[j, 3] += (d_qz - along * qz) * inverse_norm
        # (a; b) = J W: their gradient is (d_u; d_v) Rᵀ
        d_a0 = d_u0 * r00 + d_u1 * r01 + d_u2 * r02
        d_a1 = d_u0 * r10 + d_u1 * r11 + d_u2 * r12
        d_a2 = d_u0 * r20 + d_u1 * r21 + d_u2 * r22
        d_b0 = d_v0 * r00 + d_v1 * r01 + d_v2 * r02
        d_b1 = d_v0 * r10 + d_v1 * r11 + d_v2 * r12
        d_b2 = d_v0 * r20 + d_v1 * r21 + d_v2 * r22
        # a = j0 (w0 - tx w2), b = j1 (w1 - ty w2)
        d_tx = -j0 * (d_a0 * w20 + d_a1 * w21 + d_a2 * w22)
        d_ty = -j1 * (d_b0 * w20 + d_b1 * w21 + d_b2 * w22)
        d_rz = (d_a0 * a0 + d_a1 * a1 + d_a2 * a2 + d_b0 * b0 + d_b1 * b1 + d_b2 * b2) * z
        # ---- camera space: tx = x rz and ty = y rz where not clamped; mx = fx x rz + cx
        d_tx = d_tx if free_x else 0.0
        d_ty = d_ty if free_y else 0.0
        d_tx += fx * d_mx
        d_ty += fy * d_my
        d_rz += d_tx * x + d_ty * y
        d_x = d_tx * rz
        d_y = d_ty * rz
        d_z = total[9] - d_rz * rz * rz
        d_px = w00 * d_x + w10 * d_y + w20 * d_z
        d_py = w01 * d_x + w11 * d_y + w21 * d_z
        d_pz = w02 * d_x + w12 * d_y + w22 * d_z
        g00 += j0 * d_a0 + d_x * px
        g01 += j0 * d_a1 + d_x * py
        g02 += j0 * d_a2 + d_x * pz
        g10 += j1 * d_b0 + d_y * px
        g11 += j1 * d_b1 + d_y * py
        g12 += j1 * d_b2 + d_y * pz
        g20 += d_z * px - j0 * tx * d_a0 - j1 * ty * d_b0
        g21 += d_z * py - j0 * tx * d_a1 - j1 * ty * d_b1
        g22 += d_z * pz - j0 * tx * d_a2 - j1 * ty * d_b2
        gt0 += d_x
        gt1 += d_y
        gt2 += d_z
        # ---- colour
        r = i * ROW
        at = j * stride0
        if degree < 0:
            v_sh0[at] += total[6]
            v_sh0[at + 1] += total[7]
            v_sh0[at + 2] += total[8]
        else:
            c0 = total[6] if rows[r + 9] > 0.0 else 0.0
            c1 = total[7] if rows[r + 10] > 0.0 else 0.0
            c2 = total[8] if rows[r + 11] > 0.0 else 0.0
            v_sh0[at] += 0.28209479177387814 * c0
            v_sh0[at + 1] += 0.28209479177387814 * c1
            v_sh0[at + 2] += 0.28209479177387814 * c2
            if degree > 0:
                dx, dy, dz = px - camera[12], py - camera[13], pz - camera[14]
                length = math.sqrt(dx * dx + dy * dy + dz * dz)
                inverse = 1.0 / length if length > 0.0 else 0.0
                dx *= inverse
                dy *= inverse
                dz *= inverse
                sh_basis(dx, dy, dz, degree, basis)
                at, to = i * strideN + offsetN, j * strideN + offsetN
                for n in range(bands):
                    add_to(v_shN, to, basis[n] * c0)
                    add_to(v_shN, to + 1, basis[n] * c1)
                    add_to(v_shN, to + 2, basis[n] * c2)
                    q[n] = c0 * read(shN, at) + c1 * read(shN, at + 1) + c2 * read(shN, at + 2)
                    at += 3
                    to += 3
                gx, gy, gz = sh_gradient(dx, dy, dz, degree, q)
                along = gx * dx + gy * dy + gz * dz
                gx = (gx - along * dx) * inverse
                gy = (gy - along * dy) * inverse
                gz = (gz - along * dz) * inverse
                d_px += gx
                d_py += gy
                d_pz += gz
                gc0 -= gx
                gc1 -= gy
                gc2 -= gz
        v_means[j, 0] += d_px
        v_means[j, 1] += d_py
        v_means[j, 2] += d_pz
    v_camera[0], v_camera[1], v_camera[2] = g00, g01, g02
    v_camera[3], v_camera[4], v_camera[5] = g10, g11, g12
    v_camera[6], v_camera[7], v_camera[8] = g20, g21, g22
    v_camera[9], v_camera[10], v_camera[11] = gt0, gt1, gt2
    v_camera[12], v_camera[13], v_camera[14] = gc0, gc1, gc2
