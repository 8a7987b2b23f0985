"""What is asked of every Gaussian and takes long on whole arrays, compiled: the smallest of 24
equivalent rotations and how it is stored, nearest levels, the place along a Hilbert curve, and the
squares of gradients.

Large results are written into arrays of numpy's, which come in large pages; numba's do not.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from splat_assets.numba_start import load_numba

load_numba()
_AT_ONCE = 256  # points, whose coordinates fit into the nearest cache


@njit(cache=True, nogil=True)
def nearest_of_group(
    quats: np.ndarray,
    scales: np.ndarray,
    group: np.ndarray,
    source: np.ndarray,
    tie: float,
    turned: np.ndarray,
    axes: np.ndarray,
) -> None:
    """Each rotation times the member of the group that makes its w largest, and scales to match.

    Args:
        quats: [N, 4] w, x, y, z, of any length > 0.
        scales: [N, 3].
        group: [G, 4] quaternions, the first of them the identity.
        source: [G, 3] the axis that each axis takes.
        tie: by how much another has to be better than the identity.
        turned: takes the quaternions [N, 4], with w >= 0.
        axes: takes the scales [N, 3].
    """
    for i in range(len(quats)):
        w, x = np.float64(quats[i, 0]), np.float64(quats[i, 1])
        y, z = np.float64(quats[i, 2]), np.float64(quats[i, 3])
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


@njit(cache=True, nogil=True)
def along_hilbert(positions: np.ndarray, bits: int, keys: np.ndarray) -> None:
    """`keys` [N] uint64: the index along a 3-D Hilbert curve of coordinates [N, 3] below 2**bits.

    Skilling, "Programming the Hilbert curve" (AIP Conf. Proc. 707, 2004).
    """
    x, y, z = np.empty((3, _AT_ONCE), np.int32)
    for first in range(0, len(positions), _AT_ONCE):
        count = min(_AT_ONCE, len(positions) - first)
        for i in range(count):
            x[i], y[i], z[i] = positions[first + i]
        # from the highest bit down, undo what the curve turned and mirrored above it
        for level in range(bits - 1, 0, -1):
            below = np.int32((1 << level) - 1)
            for i in range(count):
                x[i] ^= below & -(x[i] >> level & 1)
            _turn(x, y, level, below, count)
            _turn(x, z, level, below, count)
        for i in range(count):
            # Gray decoding across the axes
            y[i] ^= x[i]
            z[i] ^= y[i]
            flip = z[i] >> 1
            for shift in (1, 2, 4, 8, 16):
                flip ^= flip >> shift
            keys[first + i] = (
                _spread(x[i] ^ flip) << np.uint64(2)
                | _spread(y[i] ^ flip) << np.uint64(1)
                | _spread(z[i] ^ flip)
            )


@njit(inline="always")  # or the loops would not become vectors
def _turn(x: np.ndarray, other: np.ndarray, level: int, below: np.int32, count: int) -> None:
    """One level of two axes: mirrored where the other's bit is set, else swapped."""
    for i in range(count):
        mirrored = -(other[i] >> level & 1)
        swapped = (x[i] ^ other[i]) & below & ~mirrored
        x[i] ^= swapped | below & mirrored
        other[i] ^= swapped


@njit(cache=True, nogil=True)
def _spread(number: np.int32) -> np.uint64:
    """A number below 2**21 with two zero bits after each of its bits."""
    bits = np.uint64(number)
    bits = (bits | bits << np.uint64(32)) & np.uint64(0x1F00000000FFFF)
    bits = (bits | bits << np.uint64(16)) & np.uint64(0x1F0000FF0000FF)
    bits = (bits | bits << np.uint64(8)) & np.uint64(0x100F00F00F00F00F)
    bits = (bits | bits << np.uint64(4)) & np.uint64(0x10C30C30C30C30C3)
    return (bits | bits << np.uint64(2)) & np.uint64(0x1249249249249249)


@njit(cache=True, nogil=True)
def smallest_three(quats: np.ndarray, largest: np.ndarray, small: np.ndarray) -> None:
    """`quantize.smallest_three` into `largest` [N] and `small` [N, 3]."""
    for i in range(len(quats)):
        top = 0
        for c in range(1, 4):
            if abs(quats[i, c]) > abs(quats[i, top]):
                top = c
        sign = -1.0 if quats[i, top] < 0 else 1.0
        largest[i] = top
        for c in range(3):
            small[i, c] = sign * quats[i, c + (c >= top)]


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
