"""Colours and opacities adjusted to what quantisation and pruning did to everything else, so that
the pictures of the stored splat come nearer to those of the original, in the cameras it was trained
with (as after the quantisation of "Compressed 3D Gaussian Splatting", Niedermayr et al., 2024)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from splat_assets.compression.precision import as_splats
from splat_assets.compression.views import shrunk
from splat_assets.gaussians.gaussians import Gaussians
from splat_assets.gaussians.splat_model import View

LEAST_STEPS = 10
_SIDE = 256  # pixels
_RATES = {"sh0": 0.01, "opacities": 0.02}
_BETA1, _BETA2, _EPSILON = 0.8, 0.98, 1e-10
_SEED = 0


@dataclass(frozen=True)
class Effort:
    """How long to go on."""

    steps: int  # at most
    work: float  # Gaussians times steps, at most
    rates: float = 1.0  # times the usual ones, to begin with
    decay: float = 0.1  # of the rates, by the last step


QUICK = Effort(150, 2.5e6)
THOROUGH = Effort(400, 7.5e6, rates=2.0, decay=0.03)
MOST_TUNED = int(QUICK.work / LEAST_STEPS)  # Gaussians


def finetune(
    stored: Gaussians,
    start: Gaussians,
    original: Gaussians,
    views: Sequence[View],
    *,
    background: Sequence[float] = (0.0, 0.0, 0.0),
    effort: Effort = QUICK,
    report: Callable[[float], None] = lambda fraction: None,
) -> Gaussians | None:
    """`start` with other `sh0` and `opacities`, or None where there are too many Gaussians for it.

    Args:
        stored: as a decoder will see it, the same Gaussians in the same order as `start`.
        start: before its colours and opacities were rounded.
        original: what pictures shall look like.
        report: called with the fraction done.
    """
    from splat_assets.rendering.cpu.draw import Frame, Gradients, draw, draw_backward

    steps = int(min(effort.steps, effort.work // max(len(stored), 1)))
    if steps < LEAST_STEPS or not views:
        return None
    chosen = [shrunk(view, _SIDE) for view in views]
    behind = np.asarray(background, np.float32)
    wanted = _pictures(original, chosen, background)
    values = {name: getattr(start, name).astype(np.float32) for name in _RATES}
    first = {name: np.zeros_like(value) for name, value in values.items()}
    second = {name: np.zeros_like(value) for name, value in values.items()}
    rng, order = np.random.default_rng(_SEED), np.zeros(0, np.int64)
    for step in range(steps):
        if not len(order):
            order = rng.permutation(len(chosen))
        index, order = int(order[0]), order[1:]
        view = chosen[index]
        current = replace(stored, sh0=values["sh0"], opacities=values["opacities"])
        splats = as_splats(current)
        frame = Frame(view.width, view.height, antialiased=stored.antialiased, depth=False)
        viewmat, K = np.asarray(view.viewmat, np.float64), np.asarray(view.K, np.float64)
        image = np.empty(view.height * view.width * 3, np.float32)
        alphas = np.empty(view.height * view.width, np.float32)
        drawn = draw(splats, viewmat, K, behind, frame, image, alphas, save=True)
        slope = (2 / image.size) * (image - wanted[index])
        slope[((image < 0) & (slope < 0)) | ((image > 1) & (slope > 0))] = 0
        into = Gradients.empty(splats, 1)
        draw_backward(splats, viewmat, frame, drawn, slope, None, False, into, 0)
        opacity = splats.opacities
        gradients = {
            "sh0": into.colors[0].reshape(values["sh0"].shape),
            "opacities": into.opacities * opacity * (1 - opacity),
        }
        fade = effort.rates * effort.decay ** (step / steps)
        for name, gradient in gradients.items():
            first[name] += (1 - _BETA1) * (gradient - first[name])
            second[name] += (1 - _BETA2) * (gradient**2 - second[name])
            mean = first[name] / (1 - _BETA1 ** (step + 1))
            size = np.sqrt(second[name] / (1 - _BETA2 ** (step + 1)))
            values[name] = values[name] - fade * _RATES[name] * mean / (size + _EPSILON)
        report((step + 1) / steps)
    if not all(np.isfinite(value).all() for value in values.values()):
        return None
    return replace(start, sh0=values["sh0"], opacities=values["opacities"])


def _pictures(
    gaussians: Gaussians, views: Sequence[View], background: Sequence[float]
) -> list[np.ndarray]:
    """Flat, in 0..1."""
    from splat_assets.rendering import render

    cameras = [render.View(v.viewmat, v.K, v.width, v.height) for v in views]
    drawn = render.render_views(gaussians, cameras, background=background)
    return [np.clip(picture.rgb, 0, 1).reshape(-1).copy() for picture in drawn]
