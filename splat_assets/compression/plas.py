"""Parallel linear assignment sorting: lay feature vectors into a picture so that it becomes smooth.

Morgenstern, Barthel, Hilsmann and Eisert, "Compact 3D Scene Representation via Self-Organizing
Gaussian Grids" (ECCV 2024): again and again the picture is blurred, and groups of four cells of a
block trade their vectors for the assignment nearest to the blurred picture, while the radius of
the blur shrinks. Here on the CPU (numba), and from an arrangement along a Hilbert curve instead
of a random one, which lets the radius begin small.
"""

from __future__ import annotations

from itertools import permutations

import numpy as np
from numba import njit

RADIUS = 24.0  # of the first blur, in cells; a random start needs half the side
_SHRINK = 0.95
_LEAST_GAIN = 1e-3  # of the mean distance, below which a radius is done
_PATIENCE = 2  # passes without gain, each with other blocks, that end a radius
_LEAST_BLOCK = 16
_TRADES = np.array(list(permutations(range(4))), np.int64)


def plas_order(
    features: np.ndarray,
    start: np.ndarray | None = None,
    *,
    seed: int = 0,
    radius: float = RADIUS,
    least_gain: float = _LEAST_GAIN,
) -> np.ndarray:
    """[N] permutation that fills a square picture of side ceil(sqrt(N)) row by row.

    Args:
        features: [N, C] float; every column counts by its spread.
        start: [N] order to begin with, laid along a Hilbert curve; None begins at random, and then
            with a radius of half the side.
        seed: of everything random; equal input gives an equal result.
        radius: of the first blur when `start` is given.
        least_gain: the smaller, the longer it goes on.
    """
    n = len(features)
    side = int(np.ceil(np.sqrt(n)))
    if n < 4:
        return np.arange(n)
    spread = features.std(axis=0)
    scaled = (features - features.mean(axis=0)) / np.where(spread > 0, spread, 1)
    rng = np.random.default_rng(seed)
    cells = np.empty(side * side, np.int64)
    if start is None:
        # what fills the square up are copies of the last one, spread over it
        cells[:] = rng.permutation(side * side)
        radius = max(1.0, side / 2 - 1)
    else:
        cells[_curve_cells(side)] = np.concatenate([start, np.arange(n, side * side)])
    grid = cells.reshape(side, side)
    padded = np.concatenate([scaled, np.repeat(scaled[-1:], side * side - n, axis=0)])
    vectors = np.ascontiguousarray(padded[grid], np.float32)
    radius = min(radius, max(1.0, side / 2 - 1))
    while radius >= 1:
        target = _blurred(vectors, int(radius))
        idle = 0
        while idle < _PATIENCE:
            shift = rng.integers(0, side, 2)
            block = int(min(side, max(_LEAST_BLOCK, 2 * radius + 2)))
            places = rng.permutation(block * block)
            before, after = _trade(
                vectors, grid, target, places, shift[0], shift[1], block, _TRADES
            )
            idle = idle + 1 if before - after <= least_gain * before else 0
        radius *= _SHRINK
    order = grid.reshape(-1)
    return order[order < n]


def _curve_cells(side: int) -> np.ndarray:
    """[side²] the cells of a square picture, row-major indices, in the order of a Hilbert curve."""
    levels = max(1, int(np.ceil(np.log2(side))))
    index = np.arange(4**levels, dtype=np.int64)
    x, y, rest = np.zeros_like(index), np.zeros_like(index), index.copy()
    for level in range(levels):
        size = 1 << level
        turn_x = 1 & (rest // 2)
        turn_y = 1 & (rest ^ turn_x)
        mirrored = (turn_y == 0) & (turn_x == 1)
        x, y = np.where(mirrored, size - 1 - x, x), np.where(mirrored, size - 1 - y, y)
        x, y = np.where(turn_y == 0, y, x), np.where(turn_y == 0, x, y)
        x, y = x + size * turn_x, y + size * turn_y
        rest //= 4
    inside = (x < side) & (y < side)
    return y[inside] * side + x[inside]


def _blurred(vectors: np.ndarray, radius: int) -> np.ndarray:
    """[H, W, C] mean over a square window, round in x, mirrored in y."""
    return _box(_box(vectors, radius, "wrap", 1), radius, "symmetric", 0)


def _box(vectors: np.ndarray, radius: int, edge: str, axis: int) -> np.ndarray:
    pad = [(0, 0)] * 3
    pad[axis] = (radius + 1, radius)
    wide = np.pad(vectors, pad, mode=edge)  # type: ignore[call-overload]
    sums = np.cumsum(wide, axis=axis, dtype=np.float64)
    width = 2 * radius + 1
    high = np.take(sums, range(width, sums.shape[axis]), axis=axis)
    low = np.take(sums, range(sums.shape[axis] - width), axis=axis)
    return ((high - low) / width).astype(np.float32)


@njit(cache=True, nogil=True)
def _trade(
    vectors: np.ndarray,
    grid: np.ndarray,
    target: np.ndarray,
    cells: np.ndarray,
    shift_y: int,
    shift_x: int,
    block: int,
    trades: np.ndarray,
) -> tuple[float, float]:
    """One pass over all blocks; the summed distances to `target` before and after."""
    side, channels = grid.shape[0], vectors.shape[2]
    across = side // block
    ys, xs = np.empty(4, np.int64), np.empty(4, np.int64)
    distance = np.empty((4, 4))
    held = np.empty((4, channels), np.float32)
    names = np.empty(4, np.int64)
    before = after = 0.0
    for part in range(across * across):
        top, left = (part // across) * block + shift_y, (part % across) * block + shift_x
        for group in range(len(cells) // 4):
            for i in range(4):
                cell = cells[4 * group + i]
                ys[i] = (top + cell // block) % side
                xs[i] = (left + cell % block) % side
            for i in range(4):
                for j in range(4):
                    total = 0.0
                    for c in range(channels):
                        apart = vectors[ys[i], xs[i], c] - target[ys[j], xs[j], c]
                        total += apart * apart
                    distance[i, j] = total
            best, least = 0, np.inf
            for k in range(len(trades)):
                total = 0.0
                for j in range(4):
                    total += distance[trades[k, j], j]
                if total < least:
                    best, least = k, total
            before += distance[0, 0] + distance[1, 1] + distance[2, 2] + distance[3, 3]
            after += least
            if best:
                for i in range(4):
                    held[i] = vectors[ys[i], xs[i]]
                    names[i] = grid[ys[i], xs[i]]
                for j in range(4):
                    vectors[ys[j], xs[j]] = held[trades[best, j]]
                    grid[ys[j], xs[j]] = names[trades[best, j]]
    return before, after
