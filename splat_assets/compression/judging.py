"""What is looked at when a splat is judged, and how it looks there.

Usually that are views of the whole. Many Gaussians without cameras are judged part by part instead:
each part alone fills its pictures, as it does when people walk up to it; a picture of the whole
would show none of the Gaussians well, and would take longer to draw.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from splat_assets.compression.precision import Sensitivity, exact_levels, measure_sensitivity
from splat_assets.compression.views import (
    AROUND,
    around,
    frame_splat,
    picture_side,
    shrunk,
    spread,
    views_between,
)
from splat_assets.gaussians.gaussians import Gaussians
from splat_assets.gaussians.splat_model import View

MANY = 300_000  # Gaussians, of which a small picture of the whole does not show each
_PART = 100_000  # Gaussians at most of a part
_VIEWS, _CHECKED = 3, 6  # views of each part; parts that results are looked at in, in one view each
_PART_PROBES, _PART_COMPARED = 1, 1  # pictures of noise a view; views with displaced Gaussians
_ALIKE = 3  # parts that are taken to be like the first of them, where that spares pictures
_FRAMED = 8_000  # Gaussians of a part that tell where it is
BETWEEN = 24  # views between others, that count as well
_SIDE = 256  # pixels of what errors are weighed in
_CHECK_WORK = 8e5  # Gaussians times views
_LEAST_CHECKS, _MOST_CHECKS, _CHECK_SIDE = 4, 8, 400


@dataclass(frozen=True)
class Looks:
    """Views of the whole, or of parts that are drawn alone."""

    views: tuple[tuple[View, ...], ...]  # of each part
    part_of: np.ndarray | None = None  # [N] int: of each Gaussian; None where all are one part
    cameras: int | None = None  # of those that took photos; others are between them

    def draw(
        self, gaussians: Gaussians, which: np.ndarray, background: Sequence[float]
    ) -> list[np.ndarray]:
        """Pictures [H, W, 3] float32 in 0..1 of all views.

        Args:
            gaussians: any of those that are judged, changed at will.
            which: [M] int, the place of each of them among all.
        """
        from splat_assets.rendering import render

        drawn = []
        for part, views in enumerate(self.views):
            if not views:
                continue
            chosen = gaussians
            if self.part_of is not None:
                chosen = gaussians.select(np.flatnonzero(self.part_of[which] == part))
            cameras = [render.View(v.viewmat, v.K, v.width, v.height) for v in views]
            pictures = render.render_views(chosen, cameras, background=background)
            drawn += [np.clip(picture.rgb, 0, 1) for picture in pictures]
        return drawn

    def shown(self, count: int) -> np.ndarray:
        """[M] int, the places of those Gaussians (of `count`) that any view shows."""
        if self.part_of is None:
            return np.arange(count)
        has_views = np.array([bool(views) for views in self.views])
        return np.flatnonzero(has_views[self.part_of])


class Judge:
    """Compares what a splat has become with what it was, in pictures of some looks.

    Of Gaussians that are handed in, `which` [M] int tells the place of each in the original.
    """

    def __init__(self, original: Gaussians, looks: Looks, background: Sequence[float]) -> None:
        self._original, self._looks, self._background = original, looks, background

    @property
    def by_parts(self) -> bool:
        """Whether parts are looked at alone."""
        return self._looks.part_of is not None

    def shown(self, which: np.ndarray) -> np.ndarray:
        """[S] int, those of M Gaussians that any picture shows."""
        return np.flatnonzero(np.isin(which, self._looks.shown(len(self._original))))

    def draw(self, gaussians: Gaussians, which: np.ndarray) -> list[np.ndarray]:
        """Pictures [H, W, 3] float32 in 0..1."""
        return self._looks.draw(gaussians, which, self._background)

    def error(
        self,
        gaussians: Gaussians,
        which: np.ndarray,
        wanted: Sequence[np.ndarray] | None = None,
    ) -> float:
        """Mean squared error of the pictures, to those of the original or to others."""
        pairs = zip(self.draw(gaussians, which), wanted or self._pictures, strict=True)
        return float(np.mean([((a - b) ** 2).mean() for a, b in pairs]))

    def psnr(self, gaussians: Gaussians, which: np.ndarray) -> float:
        """PSNR to the original's pictures, the mean over them."""
        from splat_assets.compression.quality import psnr

        pairs = zip(self.draw(gaussians, which), self._pictures, strict=True)
        return float(np.mean([psnr(a, b) for a, b in pairs]))

    @cached_property
    def _pictures(self) -> list[np.ndarray]:
        """Of the original."""
        return self.draw(self._original, np.arange(len(self._original)))


def choose_looks(gaussians: Gaussians, cameras: Sequence[View] | None) -> tuple[Looks, Looks]:
    """Where errors are weighed, and where results are looked at.

    Args:
        cameras: those the splat was made with, if any; it is looked at from between them, too.
    """
    count = len(gaussians)
    if not cameras and count > MANY:
        return _looks_at_parts(gaussians)
    wanted = int(np.clip(_CHECK_WORK // max(count, 1), _LEAST_CHECKS, _MOST_CHECKS))
    side = picture_side(_CHECK_SIDE, count)
    # nothing is adjusted in half of what is looked at
    if cameras:
        weighed = [*cameras, *views_between(cameras, BETWEEN)]
        between = spread(views_between(cameras, BETWEEN, seed=1), wanted // 2)
        checks = [*spread(cameras, wanted - len(between)), *between]
        checks = [shrunk(view, side) for view in checks]
    else:
        sphere = frame_splat(gaussians)
        weighed = around(*sphere)
        checks = spread(around(*sphere, side=side), wanted)
        checks[1::2] = spread(around(*sphere, side=side, elsewhere=True), wanted)[1::2]
    taken = len(cameras) if cameras else None
    return Looks((tuple(weighed),), cameras=taken), Looks((tuple(checks),))


def weigh_errors(
    gaussians: Gaussians,
    looks: Looks,
    *,
    background: Sequence[float] = (0.0, 0.0, 0.0),
    report: Callable[[float], object] = lambda _: None,
) -> Sensitivity:
    """What errors in each Gaussian cost in the pictures of `looks`, on average over them.

    Args:
        gaussians: all of them, finite, with normalised quaternions.
        report: told the share done; what it raises stops the work.
    """
    if looks.part_of is None:
        found = measure_sensitivity(gaussians, looks.views[0], background=background)
        return replace(found, places=min(found.places, looks.cameras or found.places))
    worth: dict[str, np.ndarray] = {}
    known = None
    directions = np.zeros(((gaussians.sh_degree + 1) ** 2,) * 2)
    for part, views in enumerate(looks.views):
        report(part / len(looks.views))
        index = np.flatnonzero(looks.part_of == part)
        found = measure_sensitivity(
            gaussians.select(index),
            views,
            background=background,
            probes=_PART_PROBES,
            compared=_PART_COMPARED,
            like=known if part % _ALIKE else None,
        )
        known = found
        for name, values in found.worth.items():
            # pictures of other parts do not change
            whole = worth.setdefault(
                name, np.empty((len(gaussians), *values.shape[1:]), np.float32)
            )
            values /= len(looks.views)
            whole[index] = values
        if found.directions is not None:
            directions += found.directions
    return replace(
        found,
        worth=worth,
        exact_levels=exact_levels(gaussians),
        directions=directions,
        places=sum(map(len, looks.views)),
    )


def _looks_at_parts(gaussians: Gaussians) -> tuple[Looks, Looks]:
    parts = _cut(gaussians.means)
    part_of = np.empty(len(gaussians), np.int32)
    checked = set(np.linspace(0, len(parts) - 1, min(_CHECKED, len(parts))).astype(int).tolist())
    weighed: list[tuple[View, ...]] = []
    checks: list[tuple[View, ...]] = []
    for number, index in enumerate(parts):
        part_of[index] = number
        sample = gaussians.select(index[:: -(-len(index) // _FRAMED)])
        sphere = frame_splat(sample)
        # neighbours are seen from different sides
        places = [(5 * number + 13 * view) % AROUND for view in range(_VIEWS)]
        weighed.append(tuple(around(*sphere, places, side=_SIDE)))
        # every second is as far away as the part is large: one part is like another
        place = (10 * number + 6) % AROUND
        seen = around(*sphere, [place], side=_CHECK_SIDE) if number in checked else ()
        checks.append(tuple(seen))
    return Looks(tuple(weighed), part_of), Looks(tuple(checks), part_of)


def _cut(means: np.ndarray) -> list[np.ndarray]:
    """Ascending indices of neighbouring points [N, 3], at most `_PART` a part: halves of halves."""
    part_of, parts = np.empty(len(means), np.uint16), 0
    pending = [np.arange(len(means))]
    while pending:
        index = pending.pop()
        if len(index) <= _PART:
            part_of[index] = parts
            parts += 1
            continue
        places = means.take(index, axis=0)
        sample = places[:: -(-len(places) // _FRAMED)]
        low, high = np.quantile(sample, (0.02, 0.98), axis=0)
        half = len(index) // 2
        order = np.argpartition(places[:, int(np.argmax(high - low))], half)
        pending += [index[order[half:]], index[order[:half]]]
    # numbers of 16 bits are sorted by counting them
    order = np.argsort(part_of, kind="stable")
    return np.split(order, np.cumsum(np.bincount(part_of, minlength=parts))[:-1])
