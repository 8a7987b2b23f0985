"""The palette of view-dependent colour: spherical-harmonic vectors shared between Gaussians.

Candidates are clusterings of every size (weighted by what errors cost in the picture), the palette
in which (nearly) every vector is an entry of its own, and no palette at all, each stored as finely
as pays. The one is taken whose bytes and error, at the price of a bit, cost least.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol

import numpy as np

from splat_assets.compression.clusters import Clustering, Clusterings, nearest, weighted_means
from splat_assets.compression.quantize import LEVELS, Codebook, fit_codebook, typical_step
from splat_assets.compression.sh_metric import ShMetric
from splat_assets.progress import Progress, silent

MAX_ENTRIES = 65536
_FIRST = 256  # Gaussians an entry of the smallest candidate
_TRIALS = 2e9  # vector-entry pairs up to which larger palettes are tried
_LEARNED = 24_000  # vectors that the work of one clustering counts at most
_UNSURE = 1.4  # times what a palette of all vectors is foretold to cost
_BY_FAR = 2.0  # times what a palette of all vectors costs: sharing would not pay later, either
_LEAST_TIERED = 512  # entries, from which some may be stored more finely than others
_FINER = 0.85  # times the step at which every number is worth its bits: rounding is thrifty besides
_FINE_ENOUGH = 2.0  # bits' price a number: of twice that error, a finer codebook may pay


class Size(Protocol):
    """About how many bytes codes [K, D] and labels [N] take, found quickly.

    `tier` [K] tells entries whose codes are of a kind, the greater ones first in `codes`.
    """

    def __call__(self, codes: np.ndarray, labels: np.ndarray, tier: np.ndarray) -> int: ...


@dataclass(frozen=True)
class Palette:
    """Vectors as codes of a codebook, and who uses which."""

    codes: np.ndarray  # [K, D] uint8
    labels: np.ndarray  # [N] int64
    book: Codebook
    error: float  # of the picture: Σ worth · squared distance in the metric
    tier: np.ndarray  # [K] greater for entries stored more finely
    num_bytes: int  # about, of the pictures of both
    kind: str  # "shared", or "own" where nearly every Gaussian has its own

    def decoded(self, rows: np.ndarray | slice = slice(None)) -> np.ndarray:
        """[M, D] float32, the vectors of Gaussians."""
        return self.book.decode(self.codes[self.labels[rows]])

    @property
    def levels(self) -> dict[int, np.ndarray]:
        """By tier, the codes that are used, ascending."""
        return {t: np.unique(self.codes[self.tier == t]) for t in np.unique(self.tier).tolist()}

    @property
    def steps(self) -> np.ndarray:
        """[K] about how far apart the numbers of an entry can be."""
        steps = np.zeros(len(self.codes))
        for tier, levels in self.levels.items():
            steps[self.tier == tier] = typical_step(self.book.values[levels])
        return steps


class PaletteSearch:
    """The palettes of one set of vectors, at any price of a bit; what is the same at every price is
    found once."""

    def __init__(
        self,
        points: np.ndarray,
        worth: np.ndarray,
        size_of: Size,
        *,
        metric: ShMetric | None = None,
        size: int | None = None,
        growth: float = 4.0,
        seed: int = 0,
    ) -> None:
        """Of `points` [N, D] float32, D = 3 K.

        Args:
            worth: [N] positive, error of the picture per squared distance.
            metric: of distances; by default the ordinary one.
            size: number of entries instead of the best.
            growth: from one number of entries that is tried to the next.
            seed: of everything random; equal input gives an equal palette.
        """
        self._unique, self._inverse = _distinct(points + np.float32(0))  # no -0
        self._worth = worth
        self._mass = np.bincount(self._inverse, worth, len(self._unique))
        self._size_of, self._size = size_of, size
        sizes = [min(size or 0, MAX_ENTRIES)]
        if size is None:
            sizes = _sizes(len(points), len(self._unique), growth)
        self._metric = metric or ShMetric.plain(points.shape[1] // 3)
        self._white = self._metric.whitened(self._unique)
        self._clusterings = Clusterings(self._white, self._mass, sizes, seed)
        self._nothing = float(self._mass @ self._metric.squared(self._unique))
        self._begin = 0  # at which of the sizes the search begins
        self._chosen: dict[float, int] = {}  # by price, which of the sizes was best
        self._whole_below = 0.0  # the price up to which nothing is shared

    def choose(self, bit_price: float, progress: Progress | None = None) -> Palette | None:
        """The palette that costs least, or None where none costs less.

        Args:
            bit_price: error of the picture that is worth one bit; 0 keeps all vectors as they are,
                as far as the format can.

        Raises `Cancelled` when asked to stop.
        """
        progress = progress or silent()
        if self._size is not None and len(self._unique) > self._size:
            return self._quantized(self._clustering(0), bit_price)
        whole = len(self._clusterings)  # stands for the palette of all vectors
        dearer = {price: i for price, i in self._chosen.items() if price >= bit_price}
        cheaper = {price: i for price, i in self._chosen.items() if price <= bit_price}
        only = None  # what is best at the next prices on either side, or was by far at a dearer one
        if bit_price <= self._whole_below:
            only = whole
        elif dearer and cheaper and dearer[min(dearer)] == cheaper[max(cheaper)]:
            only = dearer[min(dearer)]
        found: dict[int, Palette] = {}
        own = 0.0
        searched = bit_price > 0 and len(self._unique) > 64 and self._size is None
        if searched and only != whole:
            # a dearer bit never buys more shared entries
            least = max((i for i in dearer.values() if i < whole), default=0)
            most = min(cheaper.values(), default=whole)
            own = self._own_foretold(bit_price) if only is None else math.inf
            for index in self._ascending(found, bit_price, _UNSURE * own, least, most):
                progress.update((index + 1) / whole, "Building the palette")
        costs = {index: _cost(palette, bit_price) for index, palette in found.items()}
        if not costs or own / _UNSURE < min(costs.values()):
            found[whole] = self._own(bit_price)
            costs[whole] = _cost(found[whole], bit_price)
        best = min(costs, key=lambda index: costs[index])
        shared = [cost for index, cost in costs.items() if index != whole]
        if shared and whole in costs and _BY_FAR * costs[whole] < min(shared):
            self._whole_below = max(self._whole_below, bit_price)
        if best != whole:
            found[best] = self._cheaper(found[best], self._clustering(best), bit_price)
        if searched:
            self._chosen[bit_price] = best
        worthless = self._size is None and self._nothing <= costs[best]
        return None if worthless else found[best]

    def rounded(self, palette: Palette, entries: np.ndarray, bit_price: float) -> np.ndarray:
        """`entries` [K, D] as `palette` can store them at this price of a bit."""
        usage = np.bincount(palette.labels, self._worth, len(entries))
        stored = np.empty(entries.shape, np.float32)
        for tier, levels in palette.levels.items():
            of_tier = palette.tier == tier
            values = palette.book.values[levels]
            chosen = self._rounded(entries[of_tier], values, usage[of_tier], bit_price)
            stored[of_tier] = values[chosen]
        return stored

    def _own(self, price: float) -> Palette:
        return replace(self._quantized(self._each, price), kind="own")

    def _own_foretold(self, price: float) -> float:
        """About what `_own` will cost: as if every number were coded by how frequent it is."""
        each = self._each
        step = self._fitting_step(price, each.usage.mean())
        step = max(step, _finest_even(each))
        index = np.rint(each.centers / step).astype(np.int64)
        share = np.bincount((index - index.min()).ravel()) / index.size
        bits = -float(share @ np.log2(np.where(share > 0, share, 1))) * index.size
        off = each.centers - step * index
        error = each.error + float(each.usage @ self._metric.squared(off))
        return error + price * bits

    @cached_property
    def _each(self) -> Clustering:
        """Every vector an entry; where there are too many, those that matter most."""
        entries, labels, error = self._unique, np.arange(len(self._unique)), 0.0
        if len(entries) > MAX_ENTRIES:
            kept = np.sort(np.argsort(-self._mass, kind="stable")[:MAX_ENTRIES])
            entries = entries[kept]
            labels, _ = nearest(self._white, self._white[kept])
            entries = weighted_means(self._unique, self._mass, labels, entries)
            error = float(self._mass @ self._metric.squared(self._unique - entries[labels]))
        usage = np.bincount(labels, self._mass, len(entries))
        return Clustering(entries, labels, usage, error)

    def _clustering(self, index: int) -> Clustering:
        """Of that size, its centres in the coordinates of the vectors."""
        found = self._clusterings[index]
        if self._metric.is_plain:
            return found
        # means are means in any coordinates
        entries = np.zeros_like(found.centers)
        entries = weighted_means(self._unique, self._mass, found.labels, entries)
        return replace(found, centers=entries)

    def _fitting_step(self, price: float, worth: float) -> float:
        """At which every number is worth its bits."""
        return math.sqrt(6 * price / math.log(2) / (worth * self._metric.evenness))

    def _ascending(
        self, found: dict[int, Palette], price: float, ceiling: float, least: int, most: int
    ) -> Iterator[int]:
        """Which of the sizes, from `least` to `most`, were tried and put into `found`: from where
        the last search ended, down while that is cheaper, or else up until they get dearer or will
        not undercut `ceiling`."""
        most = max(least, min(most, len(self._clusterings) - 1))
        if not len(self._clusterings):
            return
        begin = int(np.clip(self._begin, least, most))

        def cost(index: int) -> float:
            found[index] = self._trial(self._clustering(index), price)
            return _cost(found[index], price)

        self._begin, lowest = begin, cost(begin)
        yield begin
        for smaller in range(begin - 1, least - 1, -1):
            now = cost(smaller)
            yield smaller
            if now >= lowest:
                break
            self._begin, lowest = smaller, now
        if self._begin < begin:
            return
        for larger in range(begin + 1, most + 1):
            now = cost(larger)
            yield larger
            if now > lowest:
                return
            self._begin, lowest = larger, now
            # what the largest would cost if errors went on shrinking as they just did
            sizes = self._clusterings.sizes
            left = math.log(max(2.0, len(self._unique) / 2 / sizes[larger]))
            steps = left / math.log(sizes[larger] / sizes[larger - 1])
            error, before = found[larger].error, found[larger - 1].error
            if error * (error / max(before, 1e-300)) ** steps > ceiling:
                return

    def _quantized(self, clustering: Clustering, price: float) -> Palette:
        """The cheapest found."""
        return self._cheaper(self._trial(clustering, price), clustering, price)

    def _trial(self, clustering: Clustering, price: float) -> Palette:
        """Of many entries those that matter most more finely, which is best most often."""
        tiers = 2 if len(clustering.centers) >= _LEAST_TIERED else 1
        return self._at_one_price(clustering, price, tiers)

    def _cheaper(self, trial: Palette, clustering: Clustering, price: float) -> Palette:
        """Of what `_trial` gives and one precision for all entries."""
        if price <= 0 or len(clustering.centers) < _LEAST_TIERED:
            return trial
        alike = self._at_one_price(clustering, price, 1)
        return min(alike, trial, key=lambda palette: _cost(palette, price))

    def _at_one_price(self, clustering: Clustering, price: float, tiers: int) -> Palette:
        """In even steps or, where those cannot be fine enough, in what another codebook has."""
        if price <= 0:
            return self._in_tiers(clustering, price, 1)
        evenly = self._in_tiers(clustering, price, tiers, _finest_even(clustering))
        enough = _FINE_ENOUGH * price * clustering.centers.size
        if evenly.error - clustering.error <= enough:
            return evenly
        unevenly = self._in_tiers(clustering, price, 1)
        return min(evenly, unevenly, key=lambda palette: _cost(palette, price))

    def _in_tiers(
        self, clustering: Clustering, price: float, tiers: int, finest: float = 0.0
    ) -> Palette:
        used = clustering.usage > 0
        rank = np.cumsum(used) - 1
        entries, usage = clustering.centers[used], clustering.usage[used]
        labels = rank[clustering.labels]
        tier = _tiers(usage, tiers)
        present = np.unique(tier)  # of few entries, a tier may be empty
        steps = np.zeros(tiers)
        if price > 0:
            for t in present:
                worth = usage[tier == t].mean()
                steps[t] = max(_FINER * self._fitting_step(price, worth), finest)
        book = fit_codebook(entries, lambda: usage[:, None], float(steps[present].min()))
        codes = np.empty(entries.shape, np.uint8)
        for t in present:
            stride = int(steps[t] / book.step + 0.01) if book.step > 0 else 1
            used_levels = book.levels(max(stride, 1))
            chosen = self._rounded(
                entries[tier == t], book.values[used_levels], usage[tier == t], price
            )
            codes[tier == t] = used_levels[chosen]
        # entries are the means of what they serve, so that errors of rounding only add
        off = book.decode(codes) - entries
        error = clustering.error + float(usage @ self._metric.squared(off.astype(np.float64)))
        # entries that have become equal are one; the dear tier comes first, each along its axis
        order = np.lexsort((clustering.along[used], -tier))
        codes, place = codes[order], np.argsort(order, kind="stable")
        codes, names = _distinct(codes)
        tier_of = np.zeros(len(codes), np.int64)
        np.maximum.at(tier_of, names, tier[order])
        labels = names[place[labels]][self._inverse]
        num_bytes = self._size_of(codes, labels, tier_of)
        return Palette(codes, labels, book, error, tier_of, num_bytes, "shared")

    def _rounded(
        self, entries: np.ndarray, levels: np.ndarray, usage: np.ndarray, price: float
    ) -> np.ndarray:
        """[K, D] index into `levels`."""
        from splat_assets.compression.rounding import thrifty_colors, thrifty_vectors

        colors = entries.reshape(len(entries), -1, 3)
        if self._metric.is_plain:
            worth = np.repeat(usage, colors.shape[1])
            chosen = thrifty_colors(colors.reshape(-1, 3), levels, worth, price)
        else:
            chosen = thrifty_vectors(colors, levels, usage, self._metric.inner, price)
        return chosen.reshape(entries.shape)


def _cost(palette: Palette, price: float) -> float:
    return palette.error + price * 8 * palette.num_bytes


def _finest_even(clustering: Clustering) -> float:
    """The least step with which a codebook reaches all numbers."""
    return float(np.ptp(clustering.centers)) / (LEVELS - 2)


def _sizes(count: int, distinct: int, growth: float) -> list[int]:
    """Candidates, each about `growth` times the one before."""
    most = min(MAX_ENTRIES, 3 * distinct // 5, int(_TRIALS / min(distinct, _LEARNED)))
    sizes: list[int] = []
    size = _round_up(count / _FIRST)
    while size <= most and size not in sizes:  # rounded, the largest would come again and again
        sizes.append(size)
        size = _round_up(growth * size)
    return sizes


def _distinct(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The different rows [U, D] in the order of the first of each, and which each is [N]."""
    whole = np.ascontiguousarray(rows).view(np.dtype((np.void, rows.shape[1] * rows.itemsize)))
    _, first, inverse = np.unique(whole.reshape(-1), return_index=True, return_inverse=True)
    by_place = np.argsort(first, kind="stable")
    return rows[first[by_place]], np.argsort(by_place, kind="stable")[inverse.reshape(-1)]


def _tiers(usage: np.ndarray, count: int) -> np.ndarray:
    """[K] 0 for the entries that matter least, in equal parts."""
    rank = np.empty(len(usage), np.int64)
    rank[np.argsort(usage, kind="stable")] = np.arange(len(usage))
    return rank * count // len(usage)


def _round_up(size: float) -> int:
    return max(64, min(MAX_ENTRIES, int(np.ceil(size / 64)) * 64))
