"""From floats to the bytes of SOG v2, and back: positions, rotations, and scalar codebooks.

Everything is rounded to the nearest value a decoder can see. An ellipsoid has 24 equivalent pairs
of rotation and axis order; `canonical_rotations` picks the pair nearest to the identity, which
halves the range of what has to be stored.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import permutations, product
from typing import Protocol

import numpy as np

from splat_assets.gaussians.transform import quat_to_matrix

LEVELS = 256
QUAT_STEP = 2 / 255 * np.sqrt(0.5)  # of one byte of a packed rotation, in the tangent
_TIE = 0.01  # in the cosine of half an angle; a few steps of the packed rotations
_LLOYD_ROUNDS = 30
_HISTOGRAM_BINS = 4096


class Choose(Protocol):
    """Picks levels for the numbers x [N, C]: [N, C] index into `levels` [K], ascending. A distance
    of 1 between levels is `unit` of the property."""

    def __call__(self, x: np.ndarray, levels: np.ndarray, unit: float = 1.0) -> np.ndarray: ...


def signed_log(x: np.ndarray) -> np.ndarray:
    """sign(x) ln(1 + |x|), the domain in which SOG stores positions; float64."""
    logs = np.abs(x, dtype=np.float64)
    np.log1p(logs, out=logs)
    return np.copysign(logs, x, out=logs)


def signed_exp(n: np.ndarray) -> np.ndarray:
    """The inverse of `signed_log`."""
    return np.sign(n) * np.expm1(np.abs(n))


@dataclass(frozen=True)
class QuantizedMeans:
    values: np.ndarray  # [N, 3] uint16
    mins: np.ndarray  # [3] float64, of the signed logs
    maxs: np.ndarray  # [3] float64


def quantize_means(
    logs: np.ndarray, step: float = 0.0, choose: Sequence[Choose] | None = None
) -> QuantizedMeans:
    """Positions on even levels of their signed logarithms [N, 3], `step` apart or a little less
    where 65536 levels would be finer. `choose`, one for each axis, may take other levels than the
    nearest, of those that share the high byte.

    Levels are thinned out in the low byte, which then has few values, and not by moving `maxs` away
    to leave the upper levels unused: viewers take the scene's box from `maxs`, and their depth sort
    has no resolution left in a box too large.
    """
    # by column: along rows of three numpy takes long
    mins = np.array([column.min() for column in logs.T])
    tops = np.array([column.max() for column in logs.T])
    span = np.where(tops > mins, tops - mins, 1.0)
    per_high_byte = np.full(3, 256)
    if step > 0:
        per_high_byte = np.clip(np.ceil(span / step / 256), 1, 256).astype(np.int64)
    last = 256 * per_high_byte - 1
    values = np.empty(logs.shape, np.uint16)
    for axis, levels in enumerate(per_high_byte.tolist()):
        places = (logs[:, axis] - mins[axis]) * (last[axis] / span[axis])
        nearest = np.rint(places).astype(np.int32)
        high = nearest // levels
        low = nearest - high * levels
        if choose is not None:
            inside = (places - high * levels)[:, None]
            unit = float(span[axis] / last[axis])
            low = choose[axis](inside, np.arange(levels), unit)[:, 0].astype(np.int32)
        values[:, axis] = 256 * high + 256 * low // levels
    # the outermost position lies on the last level in use
    top_value = 65280 + 256 * (per_high_byte - 1) // per_high_byte
    maxs = np.where(top_value < 65535, mins + span * (65535 / top_value), tops)
    return QuantizedMeans(values, mins, maxs)


def dequantize_means(values: np.ndarray, mins: np.ndarray, maxs: np.ndarray) -> np.ndarray:
    """[N, 3] float32 positions."""
    span = np.where(maxs > mins, maxs - mins, 1.0)
    return signed_exp(mins + span * (values.astype(np.float64) / 65535)).astype(np.float32)


@lru_cache(maxsize=1)
def _octahedral_group() -> tuple[np.ndarray, np.ndarray]:
    """The 24 rotations of the cube: quaternions [24, 4], and the axis each axis takes [24, 3]."""
    half = np.sqrt(0.5)
    quats = [tuple(row) for row in np.eye(4)]
    quats += [
        (half, sign * half * x, sign * half * y, sign * half * z)
        for x, y, z in np.eye(3)
        for sign in (1, -1)
    ]
    quats += [
        tuple(half if i == a else sign * half if i == b else 0.0 for i in range(4))
        for a, b in ((1, 2), (1, 3), (2, 3))
        for sign in (1, -1)
    ]
    quats += [(0.5, *(0.5 * s for s in signs)) for signs in product((1, -1), repeat=3)]
    group = np.array(quats, np.float64)
    source = np.abs(quat_to_matrix(group)).argmax(axis=1)  # row that holds the 1 of each column
    assert len(group) == 24 and {tuple(s) for s in source} == set(permutations(range(3)))
    return group, source


def canonical_rotations(quats: np.ndarray, scales: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The same ellipsoids with the axes reordered so that each rotation is as small as can be.

    Args:
        quats: [N, 4] w, x, y, z, any length > 0.
        scales: [N, 3].

    Returns:
        Unit quaternions [N, 4] float64 whose w is positive and as good as the largest any form
        has, and the scales [N, 3].
    """
    from splat_assets.compression.kernels import nearest_of_group

    group, source = _octahedral_group()
    # near ties stay as they are, so that the rounding of a decoded file does not turn them over
    turned, axes = np.empty(quats.shape), np.empty_like(scales)
    nearest_of_group(quats, scales, group, source, _TIE, turned, axes)
    return turned, axes


def pack_quats(quats: np.ndarray, step: int = 1, choose: Choose | None = None) -> np.ndarray:
    """[N, 4] uint8 "smallest three" of unit quaternions: three components, then 252 + the largest's
    index in (w, x, y, z). With a `step` above 1 only every so many-th byte is used."""
    largest, small = smallest_three(quats)
    out = np.empty((len(quats), 4), np.uint8)
    places = small
    places *= np.sqrt(0.5)  # in this order and in place: `small` is not used again
    places *= 255
    places -= 0.5
    if choose is None:
        codes = step * np.rint(places / step)
        out[:, :3] = np.clip(128 + codes, 0, 255)
    else:
        levels = step * np.arange(-(128 // step), 127 // step + 1)
        codes = np.clip(128 + levels, 0, 255).astype(np.uint8)
        out[:, :3] = codes[choose(places, levels, QUAT_STEP)]
    out[:, 3] = 252 + largest
    return out


def unpack_quats(packed: np.ndarray) -> np.ndarray:
    """[N, 4] float32 unit quaternions; an unknown index byte gives the identity, as elsewhere."""
    small = (packed[:, :3].astype(np.float64) / 255 - 0.5) * np.sqrt(2)
    known = packed[:, 3] >= 252
    largest = np.where(known, packed[:, 3].astype(np.int64) - 252, 0)
    quats = from_smallest_three(largest, small)
    quats[~known] = (1, 0, 0, 0)
    return quats.astype(np.float32)


def smallest_three(quats: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The index [N] of the largest component of unit quaternions [N, 4], and the others [N, 3] in
    their order, with the sign that makes the largest positive."""
    from splat_assets.compression import kernels

    largest, small = np.empty(len(quats), np.int64), np.empty((len(quats), 3))
    kernels.smallest_three(quats, largest, small)
    return largest, small


def from_smallest_three(largest: np.ndarray, small: np.ndarray) -> np.ndarray:
    """[N, 4] float64, the inverse of `smallest_three`."""
    quats = np.empty((len(small), 4))
    np.put_along_axis(quats, OTHERS[largest], small, axis=1)
    rest = np.sqrt(np.maximum(0.0, 1 - (small**2).sum(axis=1)))
    np.put_along_axis(quats, largest[:, None], rest[:, None], axis=1)
    return quats


OTHERS = np.array([[j for j in range(4) if j != i] for i in range(4)])


@dataclass(frozen=True)
class Codebook:
    """256 ascending values for one property, and which way they were found."""

    values: np.ndarray  # [256] float32, ascending
    kind: str  # "exact", "uniform" or "lloyd"
    count: int = LEVELS  # of values in use; the others repeat the last or lie beyond it
    step: float = 0.0  # between neighbours, where it is the same everywhere and 0 is a value

    def encode(self, x: np.ndarray, choose: Choose | None = None) -> np.ndarray:
        """uint8 index of the nearest value, or of what `choose` takes, any shape."""
        used = self.values[: self.count].astype(np.float64)
        if choose is not None:
            return choose(x, used).astype(np.uint8)
        from splat_assets.compression.kernels import nearest_levels

        return nearest_levels(x.ravel(), used).reshape(x.shape).astype(np.uint8)

    def levels(self, stride: int = 1) -> np.ndarray:
        """Indices of the values in use, or of every `stride`-th, counted from that of 0."""
        zero = int(np.abs(self.values[: self.count]).argmin())
        return np.arange(zero % stride, self.count, stride)

    def decode(self, index: np.ndarray) -> np.ndarray:
        return self.values[index]

    @property
    def typical_step(self) -> float:
        """Between neighbours in use."""
        return typical_step(self.values[: self.count])


def typical_step(values: np.ndarray) -> float:
    """The median distance of neighbours among ascending `values`; 0 of a single one."""
    return float(np.median(np.diff(values))) if len(values) > 1 else 0.0


def fit_codebook(x: np.ndarray, weights: Callable[[], np.ndarray], step: float = 0.0) -> Codebook:
    """The best of three codebooks for the numbers `x`: their own values when 256 (or as many as
    `step` asks for) are enough; even steps; or, where those have to be coarser than `step`, a
    Lloyd-Max quantiser if its weighted squared error is clearly smaller.

    Args:
        x: any shape, finite.
        weights: gives what is non-negative and broadcastable to `x`, where that is needed.
        step: distance of levels that is fine enough; 0 for as fine as can be.
    """
    flat = x.ravel().astype(np.float32, copy=False)
    low, high = float(flat.min()), float(flat.max())
    span = high - low
    wanted = LEVELS if step <= 0 else int(min(LEVELS, np.ceil(span / step) + 1))
    unique = _few_values(flat, max(wanted, 2))
    if unique is not None:
        # unused entries: a number that is short in JSON and not below any value
        padded = np.concatenate([unique, np.full(LEVELS - len(unique), np.ceil(unique[-1]))])
        return Codebook(padded.astype(np.float32), "exact", len(unique))
    if wanted < LEVELS:
        even = _even_levels(low, high, step)
        if even is not None:
            return even
    uniform = np.linspace(low, high, LEVELS)
    decimals = int(np.ceil(-np.log10(span / LEVELS / 10)))
    # both are judged, and the second is found, on a fine histogram: its cost is one pass
    counts, sums = _histogram(x, weights(), low, _HISTOGRAM_BINS / span)
    filled = counts > 0
    counts, centers = counts[filled], sums[filled] / counts[filled]
    candidates = [
        Codebook(_short(uniform, decimals), "uniform"),
        Codebook(_short(_lloyd(centers, counts), decimals), "lloyd"),
    ]
    errors = [float((counts * (c.decode(c.encode(centers)) - centers) ** 2).sum())
              for c in candidates]  # fmt: skip
    # even steps make smaller files, so the other has to be clearly better
    return candidates[0] if errors[0] <= errors[1] / 0.7 else candidates[1]


def _histogram(
    x: np.ndarray, weights: np.ndarray, low: float, bins_per_unit: float
) -> tuple[np.ndarray, np.ndarray]:
    """Of each bin, the sum of the weights and that of the weighted numbers."""
    if not weights.any():
        weights = np.ones_like(weights)
    counts, sums = np.zeros((2, _HISTOGRAM_BINS))
    spread = np.broadcast_to(weights, x.shape).reshape(len(x), -1)
    for numbers, shares in zip(x.reshape(len(x), -1).T, spread.T, strict=True):
        places = np.subtract(numbers, low, dtype=np.float64)
        places *= bins_per_unit
        bins = np.minimum(places, _HISTOGRAM_BINS - 1, out=places).astype(np.intp)
        counts += np.bincount(bins, shares, _HISTOGRAM_BINS)
        sums += np.bincount(bins, np.multiply(shares, numbers, out=places), _HISTOGRAM_BINS)
    return counts, sums


def _few_values(flat: np.ndarray, most: int) -> np.ndarray | None:
    """The distinct values, ascending, when there are at most `most`; a sample rules out quickly."""
    if len(np.unique(flat[:: max(1, len(flat) // 4096)])) > most:
        return None
    unique = np.unique(flat)
    return unique if len(unique) <= most else None


def _even_levels(low: float, high: float, step: float) -> Codebook | None:
    """Multiples of about `step` from `low` to `high`, 0 among them where it lies between; None
    where 256 are not enough."""
    decimals = int(np.ceil(-np.log10(step / 20)))
    step = round(step, decimals + 1)
    first, last = math.floor(low / step + 0.499), math.ceil(high / step - 0.499)
    count = last - first + 1
    if count > LEVELS:
        return None
    levels = np.round(step * np.arange(first, last + 1), decimals + 1)
    padded = np.concatenate([levels, np.full(LEVELS - count, np.ceil(levels[-1]))])
    has_zero = first <= 0 <= last
    return Codebook(padded.astype(np.float32), "uniform", count, step if has_zero else 0.0)


def _short(levels: np.ndarray, decimals: int) -> np.ndarray:
    """Rounded far below a step, for a shorter meta.json; still ascending."""
    return np.round(levels, decimals).astype(np.float32)


def _lloyd(centers: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Lloyd-Max levels for weighted points; starts at the density that is best for many levels."""
    density = np.cumsum((counts / counts.sum()) ** (1 / 3))
    density = np.concatenate([[0.0], density]) / density[-1]
    edges = np.concatenate([centers[:1], (centers[1:] + centers[:-1]) / 2, centers[-1:]])
    levels = np.interp((np.arange(LEVELS) + 0.5) / LEVELS, density, edges)
    for _ in range(_LLOYD_ROUNDS):
        owner = np.searchsorted((levels[1:] + levels[:-1]) / 2, centers)
        mass = np.bincount(owner, counts, LEVELS)
        mean = np.bincount(owner, counts * centers, LEVELS) / np.maximum(mass, 1e-300)
        levels = np.sort(np.where(mass > 0, mean, levels))
    return levels
