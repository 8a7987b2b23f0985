"""What is asked of every Gaussian and takes long on whole arrays, compiled: the smallest of 24
equivalent rotations and how it is stored, nearest levels, the place along a Hilbert curve, and the
squares of gradients."""

from __future__ import annotations

import numpy as np
from numba import njit


@njit(cache=True, nogil=True)
def nearest_of_group(
    quats: np.ndarray, scales: np.ndarray, group: np.ndarray, source: np.ndarray, tie: float
) -> tuple[np.ndarray, np.ndarray]:
    """Each rotation times the member of the group that makes its w largest, and scales to match.

    Args:
        quats: [N, 4] float64 w, x, y, z, of any length > 0.
        scales: [N, 3].
        group: [G, 4] quaternions, the first of them the identity.
        source: [G, 3] the axis that each axis takes.
        tie: by how much another has to be better than the identity.

    Returns quaternions [N, 4] float64 with w >= 0, and scales [N, 3].
    """
    turned, axes = np.empty_like(quats), np.empty_like(scales)
    for i in range(len(quats)):
        w, x, y, z = quats[i, 0], quats[i, 1], quats[i, 2], quats[i, 3]
        length = np.sqrt(w * w + x * x + y * y + z * z)
        w, x, y, z = w / length, x / length, y / length, z / length
        best, chosen = abs(w) + tie, 0
        for g in range(1, len(group)):
            nearness = abs(w * group[g, 0] - x * group[g, 1] - y * group[g, 2] - z * group[g, 3])
            if nearness > best:
                best, chosen = nearness, g
        a, b, c, d = group[chosen, 0], group[chosen, 1], group[chosen, 2], group[chosen, 3]
        real = w * a - x * b - y * c - z * d
        sign = -1.0 if real < 0 else 1.0
        turned[i, 0] = sign * real
        turned[i, 1] = sign * (w * b + x * a + y * d - z * c)
        turned[i, 2] = sign * (w * c - x * d + y * a + z * b)
        turned[i, 3] = sign * (w * d + x * c - y * b + z * a)
        for axis in range(3):
            axes[i, axis] = scales[i, source[chosen, axis]]
    return turned, axes


@njit(cache=True, nogil=True)
def along_hilbert(positions: np.ndarray, bits: int) -> np.ndarray:
    """[N] uint64: the index along a 3-D Hilbert curve of coordinates [N, 3] below 2**bits.

    Skilling, "Programming the Hilbert curve" (AIP Conf. Proc. 707, 2004).
    """
    keys = np.empty(len(positions), np.uint64)
    x = np.empty(3, np.int64)
    for i in range(len(positions)):
        for axis in range(3):
            x[axis] = positions[i, axis]
        # from the highest bit down, undo what the curve turned and mirrored above it
        for level in range(bits - 1, 0, -1):
            below = (1 << level) - 1
            for axis in range(3):
                if x[axis] >> level & 1:
                    x[0] ^= below
                else:
                    swapped = (x[0] ^ x[axis]) & below
                    x[0] ^= swapped
                    x[axis] ^= swapped
        # Gray decoding across the axes
        x[1] ^= x[0]
        x[2] ^= x[1]
        flip = 0
        for level in range(bits - 1, 0, -1):
            if x[2] >> level & 1:
                flip ^= (1 << level) - 1
        key = 0
        for level in range(bits - 1, -1, -1):
            for axis in range(3):
                key = key << 1 | (x[axis] ^ flip) >> level & 1
        keys[i] = key
    return keys


@njit(cache=True, nogil=True)
def smallest_three(quats: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`quantize.smallest_three`."""
    largest, small = np.empty(len(quats), np.int64), np.empty((len(quats), 3))
    for i in range(len(quats)):
        top = 0
        for c in range(1, 4):
            if abs(quats[i, c]) > abs(quats[i, top]):
                top = c
        sign = -1.0 if quats[i, top] < 0 else 1.0
        largest[i] = top
        for c in range(3):
            small[i, c] = sign * quats[i, c + (c >= top)]
    return largest, small


@njit(cache=True, nogil=True)
def nearest_levels(numbers: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """[N] int16 index of the nearest of ascending `levels` [K] to each number [N]."""
    chosen = np.empty(len(numbers), np.int16)
    for i in range(len(numbers)):
        chosen[i] = nearest_level(numbers[i], levels)
    return chosen


@njit(cache=True, nogil=True)
def nearest_level(number: float, levels: np.ndarray) -> int:
    """The same of one, beginning where it would be among even levels, which most are."""
    last = len(levels) - 1
    span = levels[last] - levels[0]
    share = (number - levels[0]) / span if span > 0 else 0.0
    near = int(min(max(share, 0.0), 1.0) * last + 0.5)
    while near < last and number > (levels[near] + levels[near + 1]) / 2:
        near += 1
    while near > 0 and number <= (levels[near - 1] + levels[near]) / 2:
        near -= 1
    return near


@njit(cache=True, nogil=True)
def add_squares(
    total: np.ndarray, gradient: np.ndarray, largest: np.ndarray, small: np.ndarray
) -> None:
    """Add the squares of gradients [N, C] float32 to `total` [N, C] float64; what is not finite
    counts nothing.

    Args:
        gradient: of unit quaternions [N, 4] where `total` is [N, 3], the three numbers that are
            stored of each: what those change, the largest makes up for.
        largest: [N] which number of a quaternion is the largest.
        small: [N, 3] the others.
    """
    for i in range(len(gradient)):
        if gradient.shape[1] == total.shape[1]:
            for c in range(total.shape[1]):
                square = float(gradient[i, c]) ** 2
                if square < np.inf:
                    total[i, c] += square
            continue
        rest, top = 1.0, largest[i]
        for c in range(3):
            rest -= small[i, c] ** 2
        rest = np.sqrt(max(rest, 0.25))
        for c in range(3):
            own = gradient[i, c + (c >= top)]
            square = (own - small[i, c] / rest * gradient[i, top]) ** 2
            if square < np.inf:
                total[i, c] += square
