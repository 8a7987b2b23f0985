"""From where a splat is judged: the cameras it was trained with, and between them, or, where it
came without any, cameras at several heights and distances around what is visible of it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np

from splat_assets.gaussians.gaussians import Gaussians
from splat_assets.gaussians.splat_model import View
from splat_assets.viewing.camera import DOWN, camera_position, look_at

AROUND = 36
_DISTANCES = (1.15, 0.7, 1.15, 1.8)  # of the distance from which the scene fills the picture
_HEIGHTS = (-0.35, 0.9)  # sine of the elevation, from a little below to nearly above
_SIDE, _MOST_PIXELS, _FOV_DEG = 256, 1024, 50.0
_USUAL = 100_000  # Gaussians for which the usual size of pictures does
_GOLDEN = math.pi * (3 - math.sqrt(5))
_NEIGHBOURS = 3
_ALIKE = 0.5  # cosine between directions of view that have something between them


def around(
    center: np.ndarray,
    radius: float,
    places: Iterable[int] = range(AROUND),
    *,
    side: int = _SIDE,
    elsewhere: bool = False,
) -> list[View]:
    """Square views spread over a sphere, or those of them at some `places`; any evenly spread part
    is spread, too. There are as many others `elsewhere`, none of them from the same side."""
    focal = side / 2 / math.tan(math.radians(_FOV_DEG) / 2)
    K = np.array([[focal, 0, side / 2], [0, focal, side / 2], [0, 0, 1.0]])
    fills = radius / math.sin(math.radians(_FOV_DEG) / 2)
    views = []
    for i in places:
        along = i + 0.5 * elsewhere
        sine = _HEIGHTS[0] + (along + 0.5) / AROUND * (_HEIGHTS[1] - _HEIGHTS[0])
        cosine, turn = math.sqrt(1 - sine**2), along * _GOLDEN + 0.2
        level = np.array([math.cos(turn), 0.0, math.sin(turn)])
        offset = cosine * level - sine * DOWN
        position = center + fills * _DISTANCES[i % len(_DISTANCES)] * offset
        views.append(
            View(f"around_{i:02d}", side, side, K, look_at(position, center, -DOWN), False, None)
        )
    return views


def picture_side(usual: int, count: int) -> int:
    """Pixels of a picture that shows `count` Gaussians about as well as usual."""
    if count <= 3 * _USUAL:
        return usual
    return min(_MOST_PIXELS, round(usual * math.sqrt(count / _USUAL)))


def views_between(views: Sequence[View], count: int, seed: int = 0) -> list[View]:
    """Up to `count` views between neighbouring cameras that look alike: people do not stand where
    the photographer stood."""
    if len(views) < 2:
        return []
    rng = np.random.default_rng(seed)
    positions = np.stack([camera_position(view.viewmat) for view in views])
    made = []
    forwards = np.stack([view.viewmat[2, :3] for view in views])
    for i in range(count):
        first = i % len(views)
        distance = np.linalg.norm(positions - positions[first], axis=1)
        distance[forwards @ forwards[first] < _ALIKE] = np.inf
        distance[first] = np.inf
        near = np.argsort(distance, kind="stable")[:_NEIGHBOURS]
        near = near[np.isfinite(distance[near])]
        if not len(near):
            continue
        second = int(rng.choice(near))
        position = positions[first] + rng.uniform(0.2, 0.8) * (positions[second] - positions[first])
        summed = views[first].viewmat[:3, :3] + views[second].viewmat[:3, :3]
        left, _, right = np.linalg.svd(summed)
        rotation = left @ right
        viewmat = np.eye(4)
        viewmat[:3, :3], viewmat[:3, 3] = rotation, -rotation @ position
        view = replace(
            views[first], name=f"between_{i:02d}", viewmat=viewmat, photo=None, mask=None
        )
        made.append(view)
    return made


def spread(views: Sequence[View], count: int) -> list[View]:
    """Up to `count` of the views, evenly over the list."""
    indices = np.linspace(0, len(views) - 1, min(count, len(views))).astype(int)
    return [views[index] for index in np.unique(indices)]


def shrunk(view: View, side: int) -> View:
    """The same camera with at most `side` pixels each way."""
    factor = min(1.0, side / max(view.width, view.height))
    width, height = max(1, round(view.width * factor)), max(1, round(view.height * factor))
    K = view.K.astype(np.float64).copy()
    K[0] *= width / view.width
    K[1] *= height / view.height
    return replace(view, width=width, height=height, K=K)


def frame_splat(gaussians: Gaussians) -> tuple[np.ndarray, float]:
    """Centre [3] and radius of what is visible of a splat that came without cameras."""
    finite = np.isfinite(gaussians.means).all(axis=1)
    means = gaussians.means[finite].astype(np.float64)
    if not len(means):
        return np.zeros(3), 1.0
    weights = importance(gaussians.select(finite))
    low, high = np.empty(3), np.empty(3)
    for axis in range(3):
        # outliers by area and by number both stay out
        order = np.argsort(means[:, axis], kind="stable")
        share = np.cumsum(0.5 * weights[order] + 0.5 / len(means))
        low[axis], high[axis] = np.interp((0.02, 0.98), share / share[-1], means[order, axis])
    radius = float(np.linalg.norm(high - low)) / 2
    return (low + high) / 2, max(radius, 1e-6)


def importance(gaussians: Gaussians) -> np.ndarray:
    """[N] float64, how much of a picture each Gaussian is likely to fill: opacity times its area
    as seen from around the scene's centre. Relative values only."""
    distance2 = np.zeros(len(gaussians))
    for column in gaussians.means.T:
        places = column.astype(np.float64)
        places -= np.median(places)
        distance2 += np.square(places, out=places)
    radius2 = np.median(distance2)
    # the two larger ones; by column, because sorting many short rows takes long
    a, b, c = np.clip(gaussians.scales.T, -20.0, 20.0)
    high = np.maximum(a, b)
    middle = np.maximum(np.minimum(a, b), np.minimum(high, c))
    seen = np.add(np.maximum(high, c), middle, dtype=np.float64)
    np.exp(seen, out=seen)
    seen /= 1 + np.exp(-np.clip(gaussians.opacities, -60, 60, dtype=np.float64))
    # the viewer stands about as far from the centre as the scene is wide
    seen /= distance2 + 4 * radius2 + 1e-12
    total = seen.sum()
    return seen / total if total > 0 else np.full(len(seen), 1 / len(seen))
