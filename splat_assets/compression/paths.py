"""A shorter way through the Gaussians than a space-filling curve takes.

What lossless WebP stores of the high bytes of positions is the step from each to the next, so the
way is improved by the bits that its steps take (2-opt: Croes, 1958; moved pieces: Or, 1976; both
among near neighbours only).
"""

from __future__ import annotations

import numpy as np
from numba import njit

MOST = 300_000  # Gaussians, beyond which a curve has to do
_NEIGHBOURS = 8
_REACH = 1000  # places along the way that a change spans at most
_PASSES, _ROUNDS = 2, 8
_LEAST_GAIN = 1e-9  # bits
_ENOUGH = 0.002  # changes a point and round, below which it is as good as done
_LONGEST_PIECE = 3


def shorter_path(positions: np.ndarray, start: np.ndarray) -> np.ndarray:
    """The indices `start` in a better order.

    Args:
        positions: [N, 3] uint16, as they are stored.
        start: [M] indices into `positions`, none twice.
    """
    from scipy.spatial import cKDTree

    if len(start) <= _NEIGHBOURS:
        return start
    points = positions[start]
    places = points.astype(np.float64)
    neighbours = cKDTree(places).query(places, _NEIGHBOURS + 1)[1][:, 1:].astype(np.int64)
    cells = np.ascontiguousarray(points >> 8).astype(np.int64)
    path = np.arange(len(start))
    for _ in range(_PASSES):
        _improve(path, cells, _step_bits(cells[path]), neighbours)
    return start[path]


def _step_bits(cells: np.ndarray) -> np.ndarray:
    """[256] bits that a step of so many cells along one axis takes, either way, on this path; never
    fewer for a longer one."""
    steps = np.abs(np.diff(cells, axis=0)).ravel()
    seen = np.bincount(steps, minlength=256) / np.where(np.arange(256) > 0, 2, 1)
    sums = np.concatenate([[0.0], np.cumsum(seen)])
    low, high = np.arange(256) * 4 // 5, np.minimum(np.arange(256) * 5 // 4, 255) + 1
    smooth = (sums[high] - sums[low]) / (high - low) + 1e-6 * len(steps)
    return np.maximum.accumulate(-np.log2(smooth / smooth.sum()))


@njit(cache=True, nogil=True)
def _improve(path: np.ndarray, cells: np.ndarray, bits: np.ndarray, neighbours: np.ndarray) -> None:
    count = len(path)
    place = np.empty(count, np.int64)
    for i in range(count):
        place[path[i]] = i
    for _ in range(_ROUNDS):
        changes = 0
        for point in range(count):
            changes += _reconnect(path, place, cells, bits, neighbours, point)
        for point in range(count):
            changes += _move_piece(path, place, cells, bits, neighbours, point)
        if changes < _ENOUGH * count:
            break


@njit(cache=True, nogil=True)
def _bits(cells: np.ndarray, bits: np.ndarray, i: int, j: int) -> float:
    total = 0.0
    for axis in range(3):
        total += bits[abs(cells[i, axis] - cells[j, axis])]
    return total


@njit(cache=True, nogil=True)
def _reverse(path: np.ndarray, place: np.ndarray, first: int, last: int) -> None:
    while first < last:
        path[first], path[last] = path[last], path[first]
        place[path[first]], place[path[last]] = first, last
        first += 1
        last -= 1
    if first == last:
        place[path[first]] = first


@njit(cache=True, nogil=True)
def _reconnect(
    path: np.ndarray,
    place: np.ndarray,
    cells: np.ndarray,
    bits: np.ndarray,
    neighbours: np.ndarray,
    point: int,
) -> int:
    """Step from the point to a neighbour, and from what followed it to what followed that."""
    count, changes = len(path), 0
    for way in (1, -1):
        here = place[point]
        if not 0 <= here + way < count:
            continue
        following = path[here + way]
        now = _bits(cells, bits, point, following)
        for neighbour in neighbours[point]:
            there = place[neighbour]
            gain = now - _bits(cells, bits, point, neighbour)
            if gain <= _LEAST_GAIN or neighbour == following or abs(there - here) > _REACH:
                continue
            if 0 <= there + way < count:
                last = path[there + way]
                gain += _bits(cells, bits, neighbour, last) - _bits(cells, bits, following, last)
            if gain <= _LEAST_GAIN:
                continue
            if way == 1:
                _reverse(path, place, min(here, there) + 1, max(here, there))
            else:
                _reverse(path, place, min(here, there), max(here, there) - 1)
            changes += 1
            break
    return changes


@njit(cache=True, nogil=True)
def _move_piece(
    path: np.ndarray,
    place: np.ndarray,
    cells: np.ndarray,
    bits: np.ndarray,
    neighbours: np.ndarray,
    point: int,
) -> int:
    """Take a few points that begin with this one out and put them in beside a neighbour."""
    count = len(path)
    for length in range(1, _LONGEST_PIECE + 1):
        begin = place[point]
        end = begin + length - 1
        if end >= count:
            break
        first, last = path[begin], path[end]
        saved = 0.0
        if begin > 0:
            saved += _bits(cells, bits, path[begin - 1], first)
        if end < count - 1:
            saved += _bits(cells, bits, last, path[end + 1])
        if begin > 0 and end < count - 1:
            saved -= _bits(cells, bits, path[begin - 1], path[end + 1])
        for neighbour in neighbours[point]:
            there = place[neighbour]
            if begin <= there <= end or abs(there - begin) > _REACH:
                continue
            for left in (there, there - 1):
                if left < 0 or left + 1 >= count or begin - 1 <= left <= end:
                    continue
                before, after = path[left], path[left + 1]
                apart = _bits(cells, bits, before, after)
                ahead = _bits(cells, bits, before, first) + _bits(cells, bits, last, after)
                turned = _bits(cells, bits, before, last) + _bits(cells, bits, first, after)
                if saved + apart - min(ahead, turned) <= _LEAST_GAIN:
                    continue
                # two reversals change the places of the piece and of what it passes
                if left > end:
                    _reverse(path, place, begin, left)
                    _reverse(path, place, begin, left - length)
                    begin = left - length + 1
                else:
                    _reverse(path, place, left + 1, end)
                    _reverse(path, place, left + 1 + length, end)
                    begin = left + 1
                if ahead <= turned:
                    _reverse(path, place, begin, begin + length - 1)
                return 1
    return 0
