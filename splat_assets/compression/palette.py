"""The palette of view-dependent colour: spherical-harmonic vectors shared between Gaussians.

k-means weighted by what errors cost in the picture, grown by adding entries where most error is
(Linde, Buzo and Gray, 1980), so that every size on the way is a candidate; beside them the palette
in which (nearly) every vector is an entry of its own, and no palette at all. The one is taken whose
bytes and error, at the price of a bit, cost least.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from splat_assets.compression.clusters import grow, lloyd, nearest
from splat_assets.compression.quantize import LEVELS, Codebook, fit_codebook

MAX_ENTRIES = 65536
_SAMPLE = 24_000  # vectors from which entries are learned
_ROUNDS = 3  # Lloyd rounds after each growth
_FIRST = 256  # Gaussians an entry of the smallest candidate
_TRIALS = 2e9  # vector-entry pairs up to which larger palettes are tried
_TIERS = (1, 2)  # of precision in a palette
_LEAST_TIER = 512  # entries
_FINE_ENOUGH = 2.0  # bits' price a number: of twice that error, a finer codebook may pay

Pictures = tuple[bytes, bytes]  # of entries and of labels


@dataclass(frozen=True)
class Palette:
    """Vectors as codes of a codebook, who uses which, and the encoded pictures of both."""

    codes: np.ndarray  # [K, D] uint8
    labels: np.ndarray  # [N] int64
    book: Codebook
    error: float  # of the picture: Σ worth · squared distance
    pictures: Pictures
    kind: str  # "shared", or "own" where nearly every Gaussian has its own

    @property
    def num_bytes(self) -> int:
        return sum(len(picture) for picture in self.pictures)


def choose_palette(
    points: np.ndarray,
    worth: np.ndarray,
    *,
    bit_price: float,
    draw: Callable[[np.ndarray, np.ndarray], Pictures],
    size: int | None = None,
    seed: int = 0,
    report: Callable[[float], None] = lambda fraction: None,
) -> Palette | None:
    """The palette of `points` [N, D] float32 that costs least, or None where none costs less.

    Args:
        worth: [N] positive, error of the picture per squared distance.
        bit_price: error of the picture that is worth one bit; 0 keeps all vectors as they are, as
            far as the format can.
        draw: encodes codes [K, D] and labels [N]; it may number entries anew.
        size: number of entries instead of the best.
        seed: of everything random; equal input gives an equal palette.
        report: called with the fraction done.
    """
    unique, inverse = np.unique(points, axis=0, return_inverse=True)
    inverse = inverse.reshape(-1)
    mass = np.bincount(inverse, worth, len(unique))
    search = _Search(unique, inverse, mass, bit_price, draw)
    if size is not None:
        if len(unique) <= size:
            return search.own()
        return next(search.shared([min(size, MAX_ENTRIES)], seed))
    nothing = float(mass @ np.einsum("nd,nd->n", unique, unique, dtype=np.float64))
    own = search.own()
    report(0.2)
    best, cost = own, search.cost(own)
    if bit_price > 0 and len(unique) > 64:
        sizes = _sizes(len(points), len(unique))
        for tried, shared in enumerate(search.shared(sizes, seed, cost), start=1):
            if search.cost(shared) < cost:
                best, cost = shared, search.cost(shared)
            report(0.2 + 0.8 * tried / len(sizes))
    return None if nothing <= cost else best


def _sizes(count: int, distinct: int) -> list[int]:
    """Candidates, each twice the one before."""
    sizes = []
    size = _round_up(count / _FIRST)
    while size <= min(MAX_ENTRIES, distinct // 2) and size * min(distinct, _SAMPLE) <= _TRIALS:
        sizes.append(size)
        size *= 2
    return sizes


class _Search:
    """Candidates for one set of distinct vectors."""

    def __init__(
        self,
        unique: np.ndarray,
        inverse: np.ndarray,
        mass: np.ndarray,
        bit_price: float,
        draw: Callable[[np.ndarray, np.ndarray], Pictures],
    ) -> None:
        self._unique, self._inverse, self._mass = unique, inverse, mass
        self._price, self._draw = bit_price, draw

    def cost(self, palette: Palette) -> float:
        return palette.error + self._price * 8 * palette.num_bytes

    def own(self) -> Palette:
        """Every vector an entry; where there are too many, those that matter most."""
        entries, labels = self._unique, np.arange(len(self._unique))
        if len(entries) > MAX_ENTRIES:
            kept = np.sort(np.argsort(-self._mass, kind="stable")[:MAX_ENTRIES])
            entries = entries[kept]
            labels, _ = nearest(self._unique, entries)
        return replace(self._quantized(entries, labels), kind="own")

    def shared(self, sizes: list[int], seed: int, ceiling: float = math.inf) -> Iterator[Palette]:
        """Palettes of these sizes, ascending, until they get dearer or will not undercut
        `ceiling`."""
        rng = np.random.default_rng(seed)
        points, mass = self._unique, self._mass / self._mass.sum()
        if len(points) > _SAMPLE and max(sizes, default=0) <= _SAMPLE // 2:
            chosen = np.sort(rng.choice(len(points), _SAMPLE, replace=False, p=_flattened(mass)))
            points, mass = points[chosen], mass[chosen]
        centers = points[:0]
        errors = np.einsum("nd,nd->n", points, points, dtype=np.float64)
        before, worst = math.inf, math.inf
        for size in sizes:
            if not len(centers):
                start = max(min(64, size), size // 4)
                first = rng.choice(len(points), start, replace=False, p=_flattened(mass))
                centers, _, errors = lloyd(points, mass, points[first].copy(), _ROUNDS)
            if len(centers) < size:
                centers = grow(points, mass, centers, errors, size, rng)
                centers, _, errors = lloyd(points, mass, centers, _ROUNDS)
            labels, _ = nearest(self._unique, centers)
            palette = self._quantized(centers, labels)
            yield palette
            cost = self.cost(palette)
            if cost > before:
                return
            if before < math.inf and self._price > 0:
                # what the largest would cost if errors went on shrinking as they just did
                doublings = math.log2(max(2.0, len(self._unique) / 2 / size))
                rest = palette.error * (palette.error / worst) ** doublings
                if rest > ceiling:
                    return
            before, worst = cost, palette.error

    def _quantized(self, entries: np.ndarray, labels: np.ndarray) -> Palette:
        """The cheapest of: one precision for all entries; a finer one for those that matter most;
        and, where even steps cannot be fine enough, the finest of them beside other codebooks."""
        if self._price <= 0:
            return self._in_tiers(entries, labels, 1)
        finest = float(np.ptp(entries)) / (LEVELS - 2)
        candidates = [
            self._in_tiers(entries, labels, tiers, finest)
            for tiers in _TIERS
            if tiers == 1 or len(entries) >= _LEAST_TIER
        ]
        if candidates[0].error > _FINE_ENOUGH * self._price * entries.size:
            candidates.append(self._in_tiers(entries, labels, 1))
        return min(candidates, key=self.cost)

    def _in_tiers(
        self, entries: np.ndarray, labels: np.ndarray, tiers: int, finest: float = 0.0
    ) -> Palette:
        usage = np.bincount(labels, self._mass, len(entries))
        used = usage > 0
        rank = np.cumsum(used) - 1
        entries, usage, labels = entries[used], usage[used], rank[labels]
        tier = _tiers(usage, tiers)
        present = np.unique(tier)  # of few entries, a tier may be empty
        steps = np.zeros(tiers)
        if self._price > 0:
            for t in present:
                worth = usage[tier == t].mean()
                steps[t] = max(math.sqrt(6 * self._price / math.log(2) / worth), finest)
        book = fit_codebook(entries, usage[:, None], float(steps[present].min()))
        codes = book.encode(entries)
        if book.step > 0:
            for t in range(tiers):
                stride = int(steps[t] / book.step + 0.01)
                if stride > 1:
                    codes[tier == t] = book.encode_coarsely(entries[tier == t], stride)
        # entries that have become equal are one; the dear tier comes first, each along its axis
        order = np.lexsort((_principal(entries), -tier))
        codes, place = codes[order], np.argsort(order, kind="stable")
        codes, names = _merged(codes)
        labels = names[place[labels]]
        distance = ((book.decode(codes)[labels] - self._unique) ** 2).sum(axis=1)
        pictures = self._draw(codes, labels[self._inverse])
        error = float(self._mass @ distance)
        return Palette(codes, labels[self._inverse], book, error, pictures, "shared")


def _merged(codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Equal rows once, in the order of the first of each; and the new number of each row."""
    _, first, inverse = np.unique(codes, axis=0, return_index=True, return_inverse=True)
    by_place = np.argsort(first, kind="stable")
    return codes[first[by_place]], np.argsort(by_place, kind="stable")[inverse.reshape(-1)]


def _tiers(usage: np.ndarray, count: int) -> np.ndarray:
    """[K] 0 for the entries that matter least, in equal parts."""
    rank = np.empty(len(usage), np.int64)
    rank[np.argsort(usage, kind="stable")] = np.arange(len(usage))
    return rank * count // len(usage)


def _principal(vectors: np.ndarray) -> np.ndarray:
    """[K] the coordinate along the first principal axis."""
    centered = vectors.astype(np.float64) - vectors.mean(axis=0)
    axis = np.linalg.eigh(centered.T @ centered)[1][:, -1]
    axis = axis if axis[np.abs(axis).argmax()] > 0 else -axis  # the sign is arbitrary: fix it
    return centered @ axis


def _flattened(weights: np.ndarray) -> np.ndarray:
    """Probabilities from weights, none of them zero."""
    if not weights.any():
        return np.full(len(weights), 1 / len(weights))
    p = 0.9 * weights / weights.sum() + 0.1 / len(weights)
    return p / p.sum()


def _round_up(size: float) -> int:
    return max(64, min(MAX_ENTRIES, int(np.ceil(size / 64)) * 64))
