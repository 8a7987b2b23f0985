"""Kernels of SSIM and L1: separable Gaussian windows over interleaved images.

An image [H, W, 3] is treated as H rows of 3 W numbers, so that a horizontal tap is a step of three
numbers and no channel has to be taken apart. Values are used less 0.5: variances then lose fewer
digits to cancellation. Sums are kept per row, so they do not depend on the number of threads.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from splat_assets.rendering.cpu.simd import (
    above,
    absolute,
    at_least,
    choose,
    fill,
    fma,
    fnma,
    lane_sum,
    load,
    store,
)
from splat_assets.rendering.cpu.tasks import next_task

TAPS = 11  # of the window; the literals 10 (= TAPS - 1) and 30 below belong to it
ROWS = 8  # image rows a task


def window_taps() -> np.ndarray:
    """The normalised Gaussian window, sigma 1.5 (Wang et al. 2004), [11] float32."""
    taps = np.exp(-0.5 * ((np.arange(TAPS) - TAPS // 2) / 1.5) ** 2)
    return (taps / taps.sum()).astype(np.float32)


@njit(cache=True, nogil=True, error_model="numpy")
def ssim_map(  # type: ignore[no-untyped-def]
    share, taps, image, target, height, width, weights, weight_step, planes, scratches, sums,
):  # fmt: skip
    """`sums` [height - 10] float64: the weighted SSIM of every row of windows. (The two mean
    squares only ever appear as their sum.)

    `weights` is one row for all windows (weight_step 0) or one a row of windows, zero beyond the
    last window. When `planes` is not empty, its three planes of rows [height + 10, 3 width + 46]
    get the derivatives with respect to the window's mean, mean square and mean product.
    """
    scratch = scratches[share[1]]
    row_size = 3 * width
    size = (row_size + 47) // 16 * 16
    wide = row_size + 46
    plane = (height + 10) * wide
    half = fill(np.float32(0.5))
    none = fill(np.float32(0.0))
    two = fill(np.float32(2.0))
    c1, c2 = fill(np.float32(0.0001)), fill(np.float32(0.0009))
    while True:
        begin = next_task(share) * ROWS
        if begin >= height - 10:
            break
        for y in range(begin, min(begin + ROWS, height - 10)):
            for chunk in range(0, row_size, 16):
                at = min(chunk, row_size - 16)
                first = other_first = squares = cross = none
                for k in range(TAPS):
                    tap = fill(taps[k])
                    value = load(image, (y + k) * row_size + at) - half
                    other = load(target, (y + k) * row_size + at) - half
                    weighted, other_weighted = tap * value, tap * other
                    first = first + weighted
                    other_first = other_first + other_weighted
                    squares = fma(weighted, value, fma(other_weighted, other, squares))
                    cross = fma(weighted, other, cross)
                store(scratch, at, first)
                store(scratch, size + at, other_first)
                store(scratch, 2 * size + at, squares)
                store(scratch, 3 * size + at, cross)
            total = none
            for at in range(0, row_size - 30, 16):
                m = n = squares = cross = none
                for k in range(TAPS):
                    tap = fill(taps[k])
                    m = fma(tap, load(scratch, at + 3 * k), m)
                    n = fma(tap, load(scratch, size + at + 3 * k), n)
                    squares = fma(tap, load(scratch, 2 * size + at + 3 * k), squares)
                    cross = fma(tap, load(scratch, 3 * size + at + 3 * k), cross)
                mu_x, mu_y = m + half, n + half
                a1 = fma(two * mu_x, mu_y, c1)
                b1 = fma(mu_x, mu_x, fma(mu_y, mu_y, c1))
                a2 = fma(two, fnma(m, n, cross), c2)
                b2 = fnma(m, m, fnma(n, n, squares)) + c2
                weight = load(weights, y * weight_step + at)
                inverse = weight / (b1 * b2)
                value = a1 * a2 * inverse
                total = total + value
                if len(planes) > 0:
                    by_square = none - value / b2
                    by_cross = two * a1 * inverse
                    # means enter a1 and b1 directly, a2 and b2 through the (co)variances
                    by_mean = two * mu_y * a2 * inverse - two * mu_x * value / b1
                    by_mean = by_mean - two * m * by_square - n * by_cross
                    to = (y + 10) * wide + 30 + at
                    store(planes, to, by_mean)
                    store(planes, plane + to, by_square)
                    store(planes, 2 * plane + to, by_cross)
            sums[y] = lane_sum(total)


@njit(cache=True, nogil=True, error_model="numpy")
def l1_ssim_gradient(  # type: ignore[no-untyped-def]
    share, taps, image, target, height, width, planes, scale_l1, scale_ssim, gradient, lanes,
    scratches, sums,
):  # fmt: skip
    """`gradient` (flat, like the image) of scale_l1 Σ|image - target| + scale_ssim Σ w SSIM, and
    `sums` [height] float64 of |image - target| per row. Without planes only L1 counts."""
    scratch = scratches[share[1]]
    row_size = 3 * width
    wide = row_size + 46
    size = (row_size + 47) // 16 * 16
    plane = (height + 10) * wide
    half = fill(np.float32(0.5))
    none = fill(np.float32(0.0))
    lane = load(lanes, 0)
    l1, minus_l1 = fill(np.float32(scale_l1)), fill(np.float32(-scale_l1))
    factor = fill(np.float32(scale_ssim))
    while True:
        begin = next_task(share) * ROWS
        if begin >= height:
            break
        for y in range(begin, min(begin + ROWS, height)):
            if len(planes) > 0:
                for at in range(0, row_size + 30, 16):
                    first = second = cross = none
                    for k in range(TAPS):
                        tap = fill(taps[k])
                        source = (y + k) * wide + at
                        first = fma(tap, load(planes, source), first)
                        second = fma(tap, load(planes, plane + source), second)
                        cross = fma(tap, load(planes, 2 * plane + source), cross)
                    store(scratch, at, first)
                    store(scratch, size + at, second)
                    store(scratch, 2 * size + at, cross)
            total = none
            for chunk in range(0, row_size, 16):
                at = min(chunk, row_size - 16)
                value = load(image, y * row_size + at)
                other = load(target, y * row_size + at)
                difference = value - other
                slope = choose(above(difference, none), l1, none)
                slope = choose(above(none, difference), minus_l1, slope)
                fresh = at_least(lane, fill(np.float32(chunk - at)))
                total = total + choose(fresh, absolute(difference), none)
                if len(planes) > 0:
                    first = second = cross = none
                    for k in range(TAPS):
                        tap = fill(taps[k])
                        first = fma(tap, load(scratch, at + 3 * k), first)
                        second = fma(tap, load(scratch, size + at + 3 * k), second)
                        cross = fma(tap, load(scratch, 2 * size + at + 3 * k), cross)
                    value = value - half
                    other = other - half
                    by_pixel = fma(other, cross, fma(value + value, second, first))
                    slope = fma(factor, by_pixel, slope)
                store(gradient, y * row_size + at, slope)
            sums[y] = lane_sum(total)
