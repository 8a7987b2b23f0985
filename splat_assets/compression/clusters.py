"""k-means on vectors: seeded, weighted, on the CPU, with distances as one matrix product.

Clusterings grow by adding centres where most error is (Linde, Buzo and Gray, 1980), so that every
size on the way is one that can be used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module

import numpy as np

from splat_assets.compute import available_threads

_BLOCK_BYTES = 4 << 20  # of a distance block: stays near the cache
_BLOCK_ROWS = 1 << 14
_EXACT_WORK = 5e7  # point-centre pairs up to which every centre is tried
_SEARCHED = 0.15  # share of the centres that is tried otherwise
_BATCHES = 4  # in which new entries are drawn
_SAMPLE, _EACH = 24_000, 3  # vectors from which centres are learned, at least and of each
_ROUNDS = 1  # of Lloyd's after each growth; a second buys a thousandth of the bytes


@dataclass(frozen=True)
class Clustering:
    """Centres that are the weighted means of the points that are nearest to them."""

    centers: np.ndarray  # [K, D] float32
    labels: np.ndarray  # [N] int64
    usage: np.ndarray  # [K] float64, sum of the weights
    error: float  # Σ weight · squared distance

    @cached_property
    def along(self) -> np.ndarray:
        """[K] the coordinate of each centre along the first principal axis."""
        centered = self.centers.astype(np.float64) - self.centers.mean(axis=0)
        with _one_blas_thread():
            axis = np.linalg.eigh(centered.T @ centered)[1][:, -1]
            axis = axis if axis[np.abs(axis).argmax()] > 0 else -axis  # the sign is arbitrary
            return centered @ axis


class Clusterings:
    """Clusterings of one set of points in ascending sizes, each found when first asked for."""

    def __init__(
        self, points: np.ndarray, mass: np.ndarray, sizes: Sequence[int], seed: int
    ) -> None:
        """Of `points` [N, D] float32, distinct, with weights `mass` [N], one of them not 0."""
        self.sizes = tuple(sizes)
        self._points, self._mass = points, mass
        self._known: list[Clustering] = []
        self._rng = np.random.default_rng(seed)
        self._weights = mass / mass.sum()
        self._drawn = np.arange(len(points))  # in the order in which they are learned from
        most = _sample_of(max(self.sizes, default=0))
        if most < len(points):
            p = _flattened(self._weights)
            self._drawn = self._rng.choice(len(points), most, replace=False, p=p)
        self._centers = points[:0]
        self._served = np.zeros(0, np.int64), np.zeros(0)  # by which centre, and how far from it

    def __len__(self) -> int:
        return len(self.sizes)

    def __getitem__(self, index: int) -> Clustering:
        while len(self._known) <= index:
            self._known.append(self._grown(self.sizes[len(self._known)]))
        return self._known[index]

    def _grown(self, size: int) -> Clustering:
        learned = np.sort(self._drawn[: _sample_of(size)])
        points, weights = self._points[learned], self._weights[learned]
        labels, errors = self._served
        if not len(self._centers):
            start = min(len(points), max(min(64, size), size // 4))
            seeds = self._rng.choice(len(points), start, replace=False, p=_flattened(weights))
            self._centers, labels, errors = lloyd(points, weights, points[seeds], _ROUNDS)
        else:
            labels, errors = labels[learned], errors[learned]
        if len(self._centers) < size:
            centers, labels, errors = grow(
                points, weights, self._centers, labels, errors, size, self._rng
            )
            self._centers, labels, errors = lloyd(
                points, weights, centers, _ROUNDS, (labels, errors)
            )
        if len(points) < len(self._points):
            labels, errors = nearest(self._points, self._centers)
        self._served = labels, errors
        centers = weighted_means(self._points, self._mass, labels, self._centers)
        error = 0.0
        for first in range(0, len(labels), _BLOCK_ROWS):
            rows = slice(first, first + _BLOCK_ROWS)
            off = self._points[rows] - centers[labels[rows]]
            error += float(self._mass[rows] @ np.einsum("nd,nd->n", off, off))
        return Clustering(centers, labels, np.bincount(labels, self._mass, len(centers)), error)


def _sample_of(size: int) -> int:
    """How many vectors `size` centres are learned from."""
    return max(_SAMPLE, _EACH * size)


def nearest(points: np.ndarray, centers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Index of the nearest centre [N] and the squared distance to it [N].

    With many centres only those near a point's cell are tried (an inverted file, Jégou et al.
    2011): a few points get the second nearest, for a fraction of the work.
    """
    with _one_blas_thread():
        if len(points) * len(centers) <= _EXACT_WORK:
            labels = _nearest_of(points, centers)
        else:
            labels = _nearest_by_cells(points, centers)
    return labels, ((points - centers[labels]) ** 2).sum(axis=1)


def _nearest_by_cells(points: np.ndarray, centers: np.ndarray) -> np.ndarray:
    count = max(16, int(2 * np.sqrt(len(centers))))
    coarse = centers[np.linspace(0, len(centers) - 1, count).astype(int)]
    for _ in range(3):
        owner = _nearest_of(centers, coarse)
        coarse = weighted_means(centers, np.ones(len(centers)), owner, coarse)
    owner = _nearest_of(centers, coarse)
    cell = _nearest_of(points, coarse)
    by_cell = np.argsort(cell, kind="stable")
    bounds = np.searchsorted(cell[by_cell], np.arange(count + 1))
    sizes = np.bincount(owner, minlength=count)
    labels = np.empty(len(points), np.int64)

    def search(c: int) -> None:
        rows = by_cell[bounds[c] : bounds[c + 1]]
        if not len(rows):
            return
        order = np.argsort(((coarse - coarse[c]) ** 2).sum(axis=1), kind="stable")
        cells = int(np.searchsorted(np.cumsum(sizes[order]), len(centers) * _SEARCHED)) + 1
        candidates = np.flatnonzero(np.isin(owner, order[:cells]))
        labels[rows] = candidates[_nearest_of(points[rows], centers[candidates], threads=1)]

    _in_threads(search, range(count))
    return labels


def _nearest_of(points: np.ndarray, centers: np.ndarray, threads: int | None = None) -> np.ndarray:
    """[N] index of the nearest centre: |p - c|² is smallest where p·c - |c|²/2 is largest."""
    rows = max(1, _BLOCK_BYTES // (4 * len(centers)))
    half = 0.5 * np.einsum("kd,kd->k", centers, centers)
    transposed = np.ascontiguousarray(centers.T)
    labels = np.empty(len(points), np.int64)

    def search(first: int) -> None:
        score = points[first : first + rows] @ transposed
        score -= half
        labels[first : first + rows] = score.argmax(axis=1)

    _in_threads(search, range(0, len(points), rows), threads)
    return labels


def _in_threads(
    work: Callable[[int], None], items: Iterable[int], threads: int | None = None
) -> None:
    """Independent pieces of numpy work, which frees the interpreter lock; results do not depend on
    how many run at once."""
    threads = available_threads() if threads is None else threads
    if threads == 1:
        for item in items:
            work(item)
        return
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(work, items))


@contextmanager
def _one_blas_thread() -> Iterator[None]:
    """The pieces run side by side; threads inside each would only wait for one another."""
    try:
        limits = import_module("threadpoolctl").threadpool_limits
    except ImportError:  # slower, not different
        yield
        return
    with limits(1, user_api="blas"):
        yield


def lloyd(
    points: np.ndarray,
    mass: np.ndarray,
    centers: np.ndarray,
    rounds: int,
    served: tuple[np.ndarray, np.ndarray] | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Some rounds of weighted k-means; a cluster left empty moves to the worst point.

    Args:
        served: what `nearest` gives for these centres, where that is known.

    Returns the centres and what `nearest` gives for them.
    """
    centers = centers.copy()
    labels, errors = nearest(points, centers) if served is None else served
    for _ in range(rounds):
        centers = weighted_means(points, mass, labels, centers)
        empty = np.flatnonzero(np.bincount(labels, minlength=len(centers)) == 0)
        if len(empty):
            worst = np.argsort(-(mass * errors), kind="stable")[: len(empty)]
            centers[empty[: len(worst)]] = points[worst]
        labels, errors = nearest(points, centers)
    return centers, labels, errors


def weighted_means(
    points: np.ndarray, mass: np.ndarray, labels: np.ndarray, centers: np.ndarray
) -> np.ndarray:
    """Weighted mean of each cluster, the old centre where a cluster has no weight."""
    from scipy.sparse import csr_matrix

    k = len(centers)
    owner = csr_matrix((mass, labels, np.arange(len(labels) + 1)), shape=(len(labels), k))
    sums = owner.T @ points.astype(np.float64)
    total = np.bincount(labels, mass, k)
    means = sums / np.maximum(total, 1e-300)[:, None]
    return np.where(total[:, None] > 0, means, centers).astype(np.float32)


def grow(
    points: np.ndarray,
    mass: np.ndarray,
    centers: np.ndarray,
    labels: np.ndarray,
    errors: np.ndarray,
    size: int,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`size` centres: the old ones and points drawn where the error is, a batch at a time, so that
    what one batch serves draws no more of the next (k-means++, Arthur and Vassilvitskii, 2007).
    `labels` and `errors` are what `nearest` gives for the old ones; returned for all."""
    missing = size - len(centers)
    for batch in range(_BATCHES):
        wanted = missing // (_BATCHES - batch)
        missing -= wanted
        candidates = np.flatnonzero(errors > 0)
        if wanted == 0 or len(candidates) == 0:
            continue
        if len(candidates) > wanted:
            share = _flattened(mass[candidates] * errors[candidates])
            candidates = np.sort(rng.choice(candidates, wanted, replace=False, p=share))
        added = points[candidates]
        news, distances = nearest(points, added)
        closer = distances < errors
        labels = np.where(closer, len(centers) + news, labels)
        errors = np.minimum(errors, distances)
        labels[candidates], errors[candidates] = len(centers) + np.arange(len(added)), 0
        centers = np.concatenate([centers, added])
    return centers, labels, errors


def _flattened(weights: np.ndarray) -> np.ndarray:
    """Probabilities from weights, none of them zero."""
    if not weights.any():
        return np.full(len(weights), 1 / len(weights))
    p = weights / weights.sum()
    p = 0.9 * p + 0.1 / len(p)
    return p / p.sum()
