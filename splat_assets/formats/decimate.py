"""Fewer Gaussians by merging neighbours, not only by dropping.

Rounds of pairwise merging: each Gaussian looks at its nearest neighbours, the pairs that cost
least are merged, each Gaussian at most once a round. A merged Gaussian has the mean and covariance
of the mixture of the two (moment matching), weighted by what they contribute to a picture.
"""

from __future__ import annotations

import numpy as np

from splat_assets.compute import available_threads
from splat_assets.formats.values import sigmoid
from splat_assets.gaussians.gaussians import SH_C0, Gaussians
from splat_assets.gaussians.transform import quat_to_matrix
from splat_assets.progress import Progress, silent

_NEIGHBOURS = 8
_MOST_A_ROUND = 0.25  # share of the Gaussians merged away at once: better pairs appear meanwhile
_COLOR_WEIGHT = 8.0  # squared RGB distance against squared distance in sizes
_MAX_OPACITY = 0.995


def decimate(gaussians: Gaussians, count: int, progress: Progress | None = None) -> Gaussians:
    """At most `count` Gaussians that look as much like `gaussians` as merging allows.

    Args:
        gaussians: finite, with normalised quaternions (see `cleanup.clean`).
        count: at least 1.
    """
    progress = progress or silent()
    total = len(gaussians)
    while len(gaussians) > count:
        done = (total - len(gaussians)) / max(1, total - count)
        progress.update(done, f"Merging: {len(gaussians):,} Gaussians left")
        excess = len(gaussians) - count
        pairs = _cheapest_pairs(gaussians, min(excess, max(1, int(_MOST_A_ROUND * len(gaussians)))))
        gaussians = _merge_pairs(gaussians, pairs)
    return gaussians


def _cheapest_pairs(g: Gaussians, count: int) -> np.ndarray:
    """[P, 2] disjoint pairs, P from 1 to `count`."""
    from scipy.spatial import cKDTree

    n = len(g)
    means = g.means.astype(np.float64)
    k = min(_NEIGHBOURS + 1, n)
    _, near = cKDTree(means).query(means, k=k, workers=available_threads())
    first = np.repeat(np.arange(n), k)
    second = near.reshape(-1)
    low, high = np.minimum(first, second), np.maximum(first, second)
    code = np.sort((low * n + high)[low < high])
    code = code[np.diff(code, prepend=-1) > 0]  # each once; numpy's own `unique` is slower
    low, high = code // n, code % n
    cost = _cost(g, low, high)
    order = np.argsort(cost, kind="stable")
    taken = _disjoint(low[order], high[order], n)
    chosen = order[taken][:count]
    return np.stack([low[chosen], high[chosen]], axis=1)


def _disjoint(first: np.ndarray, second: np.ndarray, n: int) -> np.ndarray:
    """Greedy matching in the order given: indices of the pairs taken, ascending.

    Whole arrays at a time: a pair is taken when it is the earliest left for both of its ends.
    """
    alive = np.arange(len(first))
    taken = []
    free = np.ones(n, bool)
    while len(alive):
        earliest = np.full(n, len(first), np.int64)
        np.minimum.at(earliest, first[alive], alive)
        np.minimum.at(earliest, second[alive], alive)
        won = alive[(earliest[first[alive]] == alive) & (earliest[second[alive]] == alive)]
        taken.append(won)
        free[first[won]] = free[second[won]] = False
        alive = alive[free[first[alive]] & free[second[alive]]]
    return np.sort(np.concatenate(taken)) if taken else np.zeros(0, np.int64)


def _cost(g: Gaussians, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """[P] what a picture loses when a and b become one: the weight of the lesser, times how unlike
    the two are in place, shape and colour."""
    mass = _mass(g)
    sigma = np.exp(np.clip(g.scales.astype(np.float64), -20, 20))
    size = np.sort(sigma, axis=1)[:, 1]
    offset = g.means[a].astype(np.float64) - g.means[b]
    place = (offset**2).sum(axis=1) / (size[a] ** 2 + size[b] ** 2 + 1e-20)
    shape = ((np.sort(g.scales[a], axis=1) - np.sort(g.scales[b], axis=1)) ** 2).sum(axis=1)
    color = ((g.sh0[a, 0] - g.sh0[b, 0]) ** 2).sum(axis=1) * SH_C0**2
    if g.shN.size:
        color = color + ((g.shN[a] - g.shN[b]) ** 2).sum(axis=(1, 2)) * SH_C0**2
    lesser = mass[a] * mass[b] / (mass[a] + mass[b] + 1e-300)
    return lesser * (place + 0.25 * shape + _COLOR_WEIGHT * color + 1e-3)


def _mass(g: Gaussians) -> np.ndarray:
    """[N] opacity times area as seen, on average, from all around."""
    sigma = np.exp(np.clip(g.scales.astype(np.float64), -20, 20))
    area = sigma[:, 0] * sigma[:, 1] + sigma[:, 1] * sigma[:, 2] + sigma[:, 0] * sigma[:, 2]
    return sigmoid(g.opacities) * area + 1e-300


def _merge_pairs(g: Gaussians, pairs: np.ndarray) -> Gaussians:
    """The Gaussians in no pair, then one for each pair."""
    a, b = pairs.T
    mass = _mass(g)
    share = (mass[a] / (mass[a] + mass[b]))[:, None]

    def mix(values: np.ndarray) -> np.ndarray:
        weight = share.reshape(-1, *([1] * (values.ndim - 1)))
        return weight * values[a].astype(np.float64) + (1 - weight) * values[b]

    means = mix(g.means)
    covariance = np.zeros((len(a), 3, 3))
    for index, weight in ((a, share), (b, 1 - share)):
        sigma = np.exp(np.clip(g.scales[index].astype(np.float64), -20, 20))
        axes = quat_to_matrix(g.quats[index]) * sigma[:, None, :]
        offset = g.means[index] - means
        spread = axes @ axes.transpose(0, 2, 1) + offset[:, :, None] * offset[:, None, :]
        covariance += weight[:, :, None] * spread
    variance, vectors = np.linalg.eigh(covariance)
    vectors[np.linalg.det(vectors) < 0, :, 0] *= -1
    sigma = np.sqrt(np.maximum(variance, 1e-24))
    area = sigma[:, 0] * sigma[:, 1] + sigma[:, 1] * sigma[:, 2] + sigma[:, 0] * sigma[:, 2]
    opacity = np.clip((mass[a] + mass[b]) / area, 1e-6, _MAX_OPACITY)
    kept = np.ones(len(g), bool)
    kept[pairs.reshape(-1)] = False
    rest = g.select(kept)

    def join(old: np.ndarray, new: np.ndarray) -> np.ndarray:
        return np.concatenate([old, new.astype(np.float32)])

    return Gaussians(
        means=join(rest.means, means),
        quats=join(rest.quats, _quats_of(vectors)),
        scales=join(rest.scales, np.log(sigma)),
        opacities=join(rest.opacities, np.log(opacity / (1 - opacity))),
        sh0=join(rest.sh0, mix(g.sh0)),
        shN=join(rest.shN, mix(g.shN)),
        antialiased=g.antialiased,
        flat=g.flat,
    )


def _quats_of(matrices: np.ndarray) -> np.ndarray:
    """[P, 4] (w, x, y, z) of rotation matrices [P, 3, 3], by the largest of the four squares."""
    m = matrices
    trace = np.stack(
        [
            m[:, 0, 0] + m[:, 1, 1] + m[:, 2, 2],
            m[:, 0, 0] - m[:, 1, 1] - m[:, 2, 2],
            m[:, 1, 1] - m[:, 0, 0] - m[:, 2, 2],
            m[:, 2, 2] - m[:, 0, 0] - m[:, 1, 1],
        ],
        axis=1,
    )
    wx, wy, wz = m[:, 2, 1] - m[:, 1, 2], m[:, 0, 2] - m[:, 2, 0], m[:, 1, 0] - m[:, 0, 1]
    xy, xz, yz = m[:, 0, 1] + m[:, 1, 0], m[:, 0, 2] + m[:, 2, 0], m[:, 1, 2] + m[:, 2, 1]
    four = 1 + trace  # 4 times the square of each component
    rows = np.stack(
        [
            np.stack([four[:, 0], wx, wy, wz], axis=1),
            np.stack([wx, four[:, 1], xy, xz], axis=1),
            np.stack([wy, xy, four[:, 2], yz], axis=1),
            np.stack([wz, xz, yz, four[:, 3]], axis=1),
        ],
        axis=1,
    )
    best = rows[np.arange(len(m)), trace.argmax(axis=1)]
    return best / np.linalg.norm(best, axis=1, keepdims=True)
