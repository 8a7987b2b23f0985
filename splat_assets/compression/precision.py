"""How finely each property is stored, so that the picture keeps the quality asked for.

Every property is disturbed alone by noise of a known size and the splat is drawn again: that
tells what an error in it costs in the picture (its sensitivity). The error allowed in all is then
shared so that every stored number contributes alike, which is where an entropy coder spends the
fewest bits (reverse water-filling; Cover and Thomas, "Elements of Information Theory", 10.3).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from splat_assets.compression.palette import build_palette
from splat_assets.compression.quantize import signed_exp, signed_log
from splat_assets.gaussians.gaussians import Gaussians
from splat_assets.gaussians.splat_model import View

# numbers a Gaussian stores of each property
_COMPONENTS = {"means": 3, "quats": 3, "scales": 3, "sh0": 3, "opacities": 1}
_SH_SHARE = 0.5  # of the error allowed, where there is view-dependent colour
_PROBE_VIEWS = 4
_PROBE_SIDE = 400  # pixels
_PROBE_WORK = 1.5e6  # Gaussians times views
_QUAT_STEP = 2 / 255 * np.sqrt(0.5)  # of one byte of a packed rotation
_PROBES = 4  # of a property at most, until the step is of the right size
_PROBE_ENTRIES = 256
_SEED = 0


@dataclass(frozen=True)
class Precision:
    """Distances between neighbouring values; 0 is as fine as the format goes, or exact."""

    means: float = 0.0  # in the signed logarithm
    quats: int = 1  # in bytes of the packed rotation
    scales: float = 0.0  # natural logarithm
    sh0: float = 0.0
    opacities: int = 1  # of 255
    palette_mse: float = 0.0  # mean squared distance of the shared vectors of SH coefficients


@dataclass(frozen=True)
class Sensitivity:
    """Mean squared error of a picture (0..1) per squared step of each property, and per squared
    distance of SH vectors."""

    per_squared_step: dict[str, float]
    per_palette_mse: float  # 0 without view-dependent colour

    def precision(self, psnr_db: float) -> Precision:
        """The coarsest storage with which pictures should have `psnr_db`."""
        allowed = 10 ** (-psnr_db / 10)
        palette_mse = 0.0
        if self.per_palette_mse > 0:
            palette_mse = _SH_SHARE * allowed / self.per_palette_mse
            allowed *= 1 - _SH_SHARE
        steps = self._steps(allowed)
        return Precision(
            means=_rounded(steps["means"]),
            quats=int(np.clip(np.floor(steps["quats"] / _QUAT_STEP), 1, 32)),
            scales=_rounded(min(steps["scales"], 1.0)),
            sh0=_rounded(min(steps["sh0"], 1.0)),
            opacities=int(np.clip(np.floor(steps["opacities"] * 255), 1, 32)),
            palette_mse=_rounded(palette_mse),
        )

    def _steps(self, allowed: float) -> dict[str, float]:
        """Steps with which every stored number adds the same error; what a property cannot use
        (the format has no finer step) is taken from the others."""
        finest = {"quats": _QUAT_STEP, "opacities": 1 / 255}
        fixed: dict[str, float] = {}
        while True:
            free = [name for name in _COMPONENTS if name not in fixed]
            spent = sum(self.per_squared_step[n] * step**2 for n, step in fixed.items())
            left = max(allowed - spent, 0.1 * allowed)
            count = sum(_COMPONENTS[name] for name in free)
            steps = dict(fixed)
            for name in free:
                cost = max(self.per_squared_step[name], 1e-12)
                steps[name] = float(np.sqrt(left * _COMPONENTS[name] / count / cost))
            stuck = [n for n in free if n in finest and steps[n] < finest[n]]
            if not stuck:
                return steps
            fixed |= {name: finest[name] for name in stuck}


def measure_sensitivity(
    gaussians: Gaussians, views: Sequence[View], *, background: Sequence[float] = (0.0, 0.0, 0.0)
) -> Sensitivity:
    """Disturb each property alone and look.

    Always on the CPU, so that the same splat is stored alike on every machine.

    Args:
        gaussians: finite, with normalised quaternions.
        views: cameras to look from; a few of them are used.
    """
    from splat_assets.rendering import render

    chosen = probe_views(views, len(gaussians))
    cameras = [render.View(v.viewmat, v.K, v.width, v.height) for v in chosen]

    def draw(g: Gaussians) -> list[np.ndarray]:
        pictures = render.render_views(g, cameras, background=background)
        return [np.clip(picture.rgb, 0, 1) for picture in pictures]

    exact = draw(gaussians)
    rng = np.random.default_rng(_SEED)

    def cost(disturb: Callable[[float], Gaussians], step: float) -> float:
        """Per squared step, measured where the picture has about 55 dB."""
        found = 0.0
        for _ in range(_PROBES):
            pairs = zip(draw(disturb(step)), exact, strict=True)
            error = float(np.mean([((a - b) ** 2).mean() for a, b in pairs]))
            found = error / step**2
            if error == 0 or 1e-6 < error < 1e-5:
                break
            step *= float(np.clip(np.sqrt(3e-6 / error), 0.05, 20))
        return found

    def noise(*shape: int) -> np.ndarray:
        return rng.uniform(-0.5, 0.5, shape)

    disturbances = {
        name: (lambda step, f=function, s=_shapes(gaussians)[name]: f(gaussians, step * noise(*s)))
        for name, function in _DISTURBANCES.items()
    }
    first = {"means": 1e-3, "quats": 0.01, "scales": 0.1, "sh0": 0.05, "opacities": 0.01}
    per_squared_step = {name: cost(disturbances[name], first[name]) for name in _COMPONENTS}
    per_palette = 0.0
    if gaussians.sh_degree and gaussians.shN.any():
        # neighbours share an entry and with it the error, which therefore does not average out in
        # the picture as noise would: disturb by what a real, coarse palette leaves
        points = np.ascontiguousarray(gaussians.shN.reshape(len(gaussians), -1))
        weights = np.ones(len(points))
        palette = build_palette(points, weights, size=_PROBE_ENTRIES, max_mse=0.0, seed=_SEED)
        missed = (points - palette.vectors[palette.labels]).reshape(gaussians.shN.shape)
        spread = float(np.sqrt((missed.astype(np.float64) ** 2).sum(axis=(1, 2)).mean()))

        def disturb(step: float) -> Gaussians:
            moved = gaussians.shN - step / spread * missed
            return replace(gaussians, shN=moved.astype(np.float32))

        per_palette = cost(disturb, 0.1) if spread > 0 else 0.0
    return Sensitivity(per_squared_step, per_palette)


def probe_views(views: Sequence[View], count: int) -> list[View]:
    """A few of the views, evenly spread and small, fewer for many Gaussians."""
    wanted = int(np.clip(_PROBE_WORK // max(count, 1), 1, _PROBE_VIEWS))
    picked = np.unique(np.linspace(0, len(views) - 1, min(wanted, len(views))).astype(int))
    chosen = []
    for index in picked:
        view = views[index]
        factor = min(1.0, _PROBE_SIDE / max(view.width, view.height))
        width, height = max(1, round(view.width * factor)), max(1, round(view.height * factor))
        K = view.K.astype(np.float64).copy()
        K[0] *= width / view.width
        K[1] *= height / view.height
        chosen.append(replace(view, width=width, height=height, K=K))
    return chosen


def _shapes(g: Gaussians) -> dict[str, tuple[int, ...]]:
    n = len(g)
    return {"means": (n, 3), "quats": (n, 3), "scales": (n, 3), "sh0": (n, 1, 3), "opacities": (n,)}


def _move_means(g: Gaussians, offset: np.ndarray) -> Gaussians:
    return replace(g, means=signed_exp(signed_log(g.means) + offset).astype(np.float32))


def _move_quats(g: Gaussians, offset: np.ndarray) -> Gaussians:
    # in the frame of each Gaussian: the stored components are small, so the two agree
    turn = np.concatenate([np.ones((len(g), 1)), offset], axis=1)
    from splat_assets.gaussians.transform import multiply_quats

    moved = multiply_quats(g.quats.astype(np.float64), turn)
    moved /= np.linalg.norm(moved, axis=1, keepdims=True)
    return replace(g, quats=moved.astype(np.float32))


def _move_scales(g: Gaussians, offset: np.ndarray) -> Gaussians:
    return replace(g, scales=(g.scales + offset).astype(np.float32))


def _move_sh0(g: Gaussians, offset: np.ndarray) -> Gaussians:
    return replace(g, sh0=(g.sh0 + offset).astype(np.float32))


def _move_opacities(g: Gaussians, offset: np.ndarray) -> Gaussians:
    opacity = 1 / (1 + np.exp(-np.clip(g.opacities.astype(np.float64), -30, 30)))
    moved = np.clip(opacity + offset, 1e-6, 1 - 1e-6)
    return replace(g, opacities=np.log(moved / (1 - moved)).astype(np.float32))


_DISTURBANCES: dict[str, Callable[[Gaussians, np.ndarray], Gaussians]] = {
    "means": _move_means,
    "quats": _move_quats,
    "scales": _move_scales,
    "sh0": _move_sh0,
    "opacities": _move_opacities,
}


def _rounded(step: float) -> float:
    """To a 16th of an octave, so that the last digits of a measurement do not change a file."""
    return float(2 ** (np.round(16 * np.log2(step)) / 16)) if step > 0 else 0.0
