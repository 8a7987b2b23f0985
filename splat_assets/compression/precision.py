"""How finely each property is stored, so that the picture keeps the quality asked for.

What an error in a number costs in the picture is measured for every Gaussian at once: the gradient
of a picture weighted by random signs, squared, is on average the sum of the squared derivatives of
all its pixels (Hutchinson, 1990; Bekas, Kokiopoulou and Saad, 2007), which is the diagonal of the
Gauss-Newton matrix. The error allowed is then shared so that every stored bit buys the same
(reverse water-filling; Cover and Thomas, "Elements of Information Theory", 10.3).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from splat_assets.compression.quantize import (
    LEVELS,
    QUAT_STEP,
    canonical_rotations,
    signed_exp,
    signed_log,
    smallest_three,
)
from splat_assets.compression.sh_metric import ShMetric, seen_from
from splat_assets.compression.views import picture_side, shrunk, spread
from splat_assets.gaussians.gaussians import Gaussians
from splat_assets.gaussians.splat_model import View
from splat_assets.viewing.camera import camera_position

if TYPE_CHECKING:
    from splat_assets.rendering.cpu.draw import Splats

# numbers a Gaussian stores of each property
_COMPONENTS = {"means": 3, "quats": 3, "scales": 3, "sh0": 3, "opacities": 1}
_COARSEST = {"means": math.inf, "quats": 64 * QUAT_STEP, "scales": 1.0, "sh0": 1.0,
             "opacities": 32 / 255}  # fmt: skip
_SH_NUMBERS = 0.4  # stored of a Gaussian's SH coefficients, about: entries are shared
_LEAST_WORTH = 1 / 16  # of the mean: what no view shows may be seen from another
_LEAST_SEEN = 1 / 32  # of the mean, the same for other numbers
_NEARLY = 1.15  # times the error of the finest storage: what is left to gain is not worth its bytes
_WORK = 2e6  # Gaussians times pictures drawn
_LEAST_VIEWS, _MAX_VIEWS, _MAX_PROBES = 6, 36, 3
_FINER = 0.7  # times the step at which every number is worth its bits: rounding is thrifty besides
_SIDE = 256  # pixels
_COMPARED_VIEWS, _USUAL_DB = 4, 48.0
_FARTHEST = 10.0  # that positions are displaced, in the signed logarithm
_SEED = 0


@dataclass(frozen=True)
class Precision:
    """Distances between neighbouring values; 0 is as fine as the format goes, or exact."""

    means: float = 0.0  # in the signed logarithm
    quats: int = 1  # in bytes of the packed rotation
    scales: float = 0.0  # natural logarithm
    sh0: float = 0.0
    opacities: int = 1  # of 255
    bit_price: float = 0.0  # mean squared error (0..1) of a picture that is worth one bit
    sh_worth: float = 0.0  # the same per squared distance of SH vectors, mean over Gaussians


@dataclass(frozen=True)
class Sensitivity:
    """Mean squared error of a picture (0..1) per squared unit of error in one number of each
    property ("means" in the signed logarithm, "quats" and "scales" in the form that is stored,
    "opacities" of 0..1) of each Gaussian: [N, C] float32 under the property's name; "shN" [N], of
    any of its coefficients."""

    worth: dict[str, np.ndarray]
    exact_levels: dict[str, tuple[float, int]]  # span and number of distinct values
    sh_numbers: int = 0  # SH coefficients beyond the first, of all channels
    # below steps of this, the error of positions falls with the step and not with its square:
    # Gaussians that change places in the order of depth leave most of it
    means_step: float = 0.0
    means_factor: float = 1.0  # by which errors of positions were seen to cost more than foretold
    # [1 + K, 1 + K] from where the Gaussians were seen, see `ShMetric.from_directions`
    directions: np.ndarray | None = None
    places: int = 0  # that they were seen from

    def precision(self, psnr_db: float) -> Precision:
        """The coarsest storage with which pictures should have `psnr_db`."""
        shared = _SH_NUMBERS * self.sh_numbers
        share = shared / (shared + sum(_COMPONENTS.values()))
        return self.fitting((1 - share) * 10 ** (-psnr_db / 10))

    def fitting(self, allowed: float) -> Precision:
        """The coarsest storage of all but the SH coefficients whose error is at most `allowed`, or
        hardly more than that of the finest there is."""
        allowed = max(allowed, _NEARLY * self.error(Precision()))
        low, high = -200.0, 100.0  # of ln price
        for _ in range(60):
            middle = (low + high) / 2
            if self.error(self.at(math.exp(middle))) <= allowed:
                low = middle
            else:
                high = middle
        return self.at(math.exp(low))

    def at(self, bit_price: float) -> Precision:
        """The steps at which one bit more or less of a number is worth `bit_price`."""
        steps = {}
        for name in _COMPONENTS:
            worth = max(self._total(name) / (self._count * _COMPONENTS[name]), 1e-100)
            step = math.sqrt(6 * bit_price / math.log(2) / worth)
            if name == "means":
                slower = 2 * step**2 / max(self.means_step, 1e-300)
                step = min(slower, max(step, self.means_step))
            steps[name] = min(_FINER * step, _COARSEST[name])
        return Precision(
            means=_rounded(steps["means"]) if math.isfinite(steps["means"]) else 1.0,
            quats=int(np.clip(np.floor(steps["quats"] / QUAT_STEP), 1, 64)),
            scales=_rounded(steps["scales"]),
            sh0=_rounded(steps["sh0"]),
            opacities=int(np.clip(np.floor(steps["opacities"] * 255), 1, 32)),
            bit_price=_rounded(bit_price),
            sh_worth=_rounded(self._total("shN") / self._count),
        )

    def error(self, precision: Precision) -> float:
        """Mean squared error expected of a picture, from all but the SH coefficients."""
        steps = {
            "means": precision.means,
            "quats": precision.quats * QUAT_STEP,
            "scales": self._scalar_step("scales", precision.scales),
            "sh0": self._scalar_step("sh0", precision.sh0),
            "opacities": precision.opacities / 255,
        }
        squares = {name: step**2 for name, step in steps.items()}
        squares["means"] *= self._more_for_means(precision.means)
        return sum(self._total(name) * square / 12 for name, square in squares.items())

    def select(self, keep: np.ndarray) -> Sensitivity:
        """Of some of the Gaussians."""
        if keep.dtype == bool:
            keep = np.flatnonzero(keep)
        chosen = {name: values.take(keep, axis=0) for name, values in self.worth.items()}
        return replace(self, worth=chosen)

    def floored(self, name: str, precision: Precision) -> np.ndarray:
        """[N, C] what an error in a number costs; what no view shows is not worth nothing."""
        worth = self.worth[name]
        worth = np.maximum(worth, max(_LEAST_SEEN * float(worth.mean(dtype=np.float64)), 1e-30))
        return worth * self._more_for_means(precision.means) if name == "means" else worth

    @property
    def sh_worth(self) -> np.ndarray:
        """[N] error of the picture per squared distance of a Gaussian's vector of SH coefficients;
        no Gaussian is worth nothing."""
        worth = self.worth["shN"]
        return np.maximum(worth, max(_LEAST_WORTH * float(worth.mean(dtype=np.float64)), 1e-30))

    @property
    def sh_metric(self) -> ShMetric:
        """Of differences of SH vectors; `sh_worth` is per squared distance in it."""
        if self.directions is None:
            return ShMetric.plain(self.sh_numbers // 3)
        return ShMetric.from_directions(self.directions, self.places)

    @property
    def removal(self) -> np.ndarray:
        """[N] error of the picture per squared opacity taken away."""
        return self.worth["opacities"][:, 0]

    def _more_for_means(self, step: float) -> float:
        """How much more errors cost than the square of this step says."""
        return max(1.0, self.means_step / max(step, 1e-6))

    @property
    def _count(self) -> int:
        return max(1, len(self.worth["means"]))

    def _total(self, name: str) -> float:
        return self._totals[name]

    @cached_property
    def _totals(self) -> dict[str, float]:
        return {name: float(values.sum(dtype=np.float64)) for name, values in self.worth.items()}

    def _scalar_step(self, name: str, step: float) -> float:
        """The step there will be: none where the values themselves fit the codebook."""
        span, count = self.exact_levels[name]
        wanted = LEVELS if step <= 0 else min(LEVELS, math.ceil(span / step) + 1)
        return 0.0 if count <= wanted else max(step, span / (LEVELS - 1))


def measure_sensitivity(
    gaussians: Gaussians,
    views: Sequence[View],
    *,
    background: Sequence[float] = (0.0, 0.0, 0.0),
    probes: int | None = None,
    compared: int = _COMPARED_VIEWS,
    like: Sensitivity | None = None,
) -> Sensitivity:
    """What errors cost in pictures from `views`, or from as many of them as there is time for.

    Always on the CPU, so that the same splat is stored alike on every machine.

    Args:
        gaussians: finite, with normalised quaternions.
        views: evenly spread over where people will look from.
        probes: pictures weighted by random signs of each view; as many as there is time for.
        compared: views in which displaced Gaussians are looked at.
        like: of Gaussians much like these: displaced ones are then not looked at, nor values
            counted.
    """
    from splat_assets.compression.kernels import add_squares
    from splat_assets.rendering.cpu.draw import Frame, Gradients, draw, draw_backward

    n = len(gaussians)
    chosen, affordable = _probes(views, n)
    probes = affordable if probes is None else probes
    quats, scales = canonical_rotations(gaussians.quats, gaussians.scales)
    gaussians = replace(gaussians, quats=quats.astype(np.float32), scales=scales)
    splats = as_splats(gaussians)
    largest, small = smallest_three(quats)
    behind = np.asarray(background, np.float32)
    rng = np.random.default_rng(_SEED)
    worth: dict[str, np.ndarray] = {k: np.zeros((n, count)) for k, count in _COMPONENTS.items()}
    directions = np.zeros(((gaussians.sh_degree + 1) ** 2,) * 2)
    pixels = 0
    few, pictures = spread(chosen, compared), []
    for view in chosen:
        frame = Frame(view.width, view.height, antialiased=gaussians.antialiased, depth=False)
        viewmat, K = np.asarray(view.viewmat, np.float64), np.asarray(view.K, np.float64)
        image = np.empty(view.height * view.width * 3, np.float32)
        alphas = np.empty(view.height * view.width, np.float32)
        drawn = draw(splats, viewmat, K, behind, frame, image, alphas, save=True)
        if any(view is other for other in few):
            pictures.append(image.reshape(view.height, view.width, 3))
        seen = np.zeros(n)
        for _ in range(probes):
            signs = rng.integers(0, 2, image.shape).astype(np.float32) * 2 - 1
            signs[(image < 0) | (image > 1)] = 0  # what is clipped does not change
            into = Gradients.empty(splats, 1)
            draw_backward(splats, viewmat, frame, drawn, signs, None, False, into, 0)
            gradients = {
                "means": into.means,
                "quats": into.quats,
                "scales": into.scales * splats.scales,
                "opacities": into.opacities[:, None],
                "sh0": into.colors[0].reshape(n, 3),
            }
            for name, gradient in gradients.items():
                add_squares(worth[name], gradient, largest, small)
            if gaussians.sh_degree:
                seen += np.einsum("nc,nc->n", gradients["sh0"], gradients["sh0"], dtype=np.float64)
            pixels += image.size
        if gaussians.sh_degree:
            camera = camera_position(viewmat)
            directions += seen_from(gaussians.means, camera, seen, gaussians.sh_degree)
    logs_per_unit = (1 + np.abs(gaussians.means.astype(np.float64))) ** 2
    worth["means"] *= logs_per_unit
    # half the memory: there are many, and they are put into another order
    worth = {name: (values / max(pixels, 1)).astype(np.float32) for name, values in worth.items()}
    # the squares of all functions of a band sum to the same for every direction (Unsöld's theorem),
    # which is the square of the constant one times their number
    worth["shN"] = worth["sh0"].mean(axis=1) * bool(gaussians.sh_degree)
    found = Sensitivity(
        worth,
        exact_levels(gaussians) if like is None else like.exact_levels,
        gaussians.shN[0].size if n else 0,
        directions=directions / max(pixels, 1),
        places=len(chosen),
    )
    if like is not None:
        worth["means"] *= like.means_factor
        return replace(found, means_step=like.means_step, means_factor=like.means_factor)
    step = total = 1.0
    for _ in range(2):  # the factor depends on the step, and the step on the factor
        step = min(found.precision(_USUAL_DB).means, _FARTHEST)
        factor = _means_factor(gaussians, found, step, few, pictures, background)
        total *= factor
        found = replace(found, worth={**found.worth, "means": found.worth["means"] * factor})
    return replace(found, means_step=step, means_factor=total)


def _means_factor(
    gaussians: Gaussians,
    found: Sensitivity,
    step: float,
    views: Sequence[View],
    pictures: Sequence[np.ndarray],
    background: Sequence[float],
) -> float:
    """How much more than foretold positions cost that are rounded to multiples of `step`: the first
    order does not know of Gaussians that change places in the order of depth. `pictures`
    [H, W, 3] are those of the views as they are."""
    from splat_assets.rendering import render

    rng = np.random.default_rng(_SEED)
    offsets = rng.uniform(-step / 2, step / 2, gaussians.means.shape)
    moved = signed_exp(signed_log(gaussians.means) + offsets).astype(np.float32)
    cameras = [render.View(v.viewmat, v.K, v.width, v.height) for v in views]
    others = render.render_views(replace(gaussians, means=moved), cameras, background=background)
    errors = [
        float(((np.clip(picture, 0, 1) - np.clip(other.rgb, 0, 1)) ** 2).mean())
        for picture, other in zip(pictures, others, strict=True)
    ]
    foretold = found._total("means") * step**2 / 12
    return float(np.clip(np.mean(errors) / max(foretold, 1e-30), 0.5, 50.0))


def as_splats(gaussians: Gaussians) -> Splats:
    """Activated, as the kernels of the rasteriser take them."""
    from splat_assets.rendering.cpu.draw import Splats

    opacities = 1 / (1 + np.exp(-np.clip(gaussians.opacities, -60, 60)))
    colors = (gaussians.sh0, gaussians.shN)
    arrays = (gaussians.means, gaussians.quats, np.exp(np.clip(gaussians.scales, -80, 80)))
    means, quats, scales, opacities, sh0, shN = (
        np.require(array, np.float32, ["C", "W"]) for array in (*arrays, opacities, *colors)
    )
    return Splats(means, quats, scales, opacities, (sh0, shN), gaussians.sh_degree)


def _probes(views: Sequence[View], count: int) -> tuple[list[View], int]:
    """Views to look from, evenly spread over those given, and pictures of each: fewer for many."""
    wanted = int(np.clip(_WORK // max(count, 1), _LEAST_VIEWS, _MAX_VIEWS))
    picked = spread(views, wanted)
    probes = int(np.clip(_WORK // max(count * len(picked), 1), 1, _MAX_PROBES))
    side = picture_side(_SIDE, count)
    return [shrunk(view, side) for view in picked], probes


def exact_levels(gaussians: Gaussians) -> dict[str, tuple[float, int]]:
    """`Sensitivity.exact_levels` of a splat."""
    return {"scales": _levels(gaussians.scales), "sh0": _levels(gaussians.sh0)}


def _levels(values: np.ndarray) -> tuple[float, int]:
    """Span and number of distinct values, counted no further than is of interest."""
    flat = values.ravel()
    sample = np.unique(flat[:: max(1, len(flat) // 4096)])
    distinct = sample if len(sample) > LEVELS else np.unique(flat)
    return float(np.ptp(flat)) if len(flat) else 0.0, len(distinct)


def _rounded(step: float) -> float:
    """To a 64th of an octave, so that the last digits of a measurement do not change a file."""
    return float(2 ** (np.round(64 * np.log2(step)) / 64)) if step > 0 else 0.0
