"""What a file stores, brought nearer to the pictures of the original while it is being rounded.

The error that one number's rounding leaves in the pictures can be made up for by numbers that are
not rounded yet. Colours, opacities, scales and the palette of view-dependent colour therefore begin
as they were, beside positions and rotations that are final, and go down the gradient of the error
in the cameras of training. Part by part they are rounded and stay as they are, while those that are
left go on (fine-tuning after quantisation as in "Compressed 3D Gaussian Splatting", Niedermayr et
al., 2024; part by part as in "Incremental Network Quantization", Zhou et al., 2017).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from splat_assets.compression.precision import as_splats
from splat_assets.compression.views import shrunk
from splat_assets.gaussians.gaussians import Gaussians
from splat_assets.gaussians.splat_model import View

LEAST_STEPS = 10
_SIDE = 256  # pixels
# of a property's step of rounding that its numbers change by at first, at most
_RATES = {"sh0": 0.25, "opacities": 0.25, "scales": 0.1, "entries": 0.025}
_SEED = 0


@dataclass(frozen=True)
class Draft:
    """A splat at one precision, of which something may still change.

    Properties that may are "sh0" [N, 1, 3], "opacities" [N] (logits), "scales" [N, 3] (logarithms)
    and "entries" [K, D] of the palette.
    """

    stored: Gaussians  # as a decoder will see it
    exact: Mapping[str, np.ndarray]  # by property, where to begin
    steps: Mapping[str, np.ndarray | float]  # [rows] or one number, of rounding
    # of a property's numbers, such that can be stored: all at once, which tells what is frequent
    rounded: Callable[[str, np.ndarray], np.ndarray]
    labels: np.ndarray | None = None  # [N] int64, the entry of each Gaussian


@dataclass(frozen=True)
class Effort:
    """How long to go on."""

    steps: int  # at most
    work: float  # Gaussians times steps, at most
    # share of the steps done → share of the numbers rounded then; the last are at the end
    rests: tuple[tuple[float, float], ...]
    gain_db: float  # seen as a rule
    decay: float = 0.2  # of the rates, by the last step


QUICK = Effort(150, 2.5e6, ((0.25, 0.3), (0.5, 0.6), (0.75, 0.85)), gain_db=1.6)
THOROUGH = Effort(
    400,
    7.5e6,
    ((0.4, 0.3), (0.5, 0.5), (0.6, 0.65), (0.7, 0.75), (0.8, 0.85), (0.9, 0.94)),
    gain_db=2.8,
)
MOST_TUNED = int(QUICK.work / LEAST_STEPS)  # Gaussians


def finetune(
    draft: Draft,
    original: Gaussians,
    views: Sequence[View],
    *,
    background: Sequence[float] = (0.0, 0.0, 0.0),
    effort: Effort = QUICK,
    report: Callable[[float], None] = lambda fraction: None,
) -> dict[str, np.ndarray] | None:
    """The properties of `draft` that may change, as they should be stored; None where there are too
    many Gaussians for it.

    Args:
        original: what pictures shall look like.
        report: called with the fraction done.
    """
    from splat_assets.compression.descent import Descent

    steps = int(min(effort.steps, effort.work // max(len(draft.stored), 1)))
    if steps < LEAST_STEPS or not views:
        return None
    chosen = [shrunk(view, _SIDE) for view in views]
    wanted = _pictures(original, chosen, background)
    going = {name: Descent(values, draft.steps[name]) for name, values in draft.exact.items()}
    rng, order = np.random.default_rng(_SEED), np.zeros(0, np.int64)
    turns = {name: rng.permutation(len(values)) for name, values in draft.exact.items()}
    rests = [(int(when * steps), share) for when, share in effort.rests]

    def rest(share: float) -> None:
        for name, descent in going.items():
            rows = turns[name][: int(np.ceil(share * len(turns[name])))]
            rows = rows[~descent.at_rest[rows]]
            if len(rows):
                descent.rest(rows, draft.rounded(name, descent.values)[rows])

    for step in range(steps):
        while rests and step >= rests[0][0]:
            rest(rests.pop(0)[1])
        if not len(order):
            order = rng.permutation(len(chosen))
        index, order = int(order[0]), order[1:]
        current = _current(draft, {name: descent.values for name, descent in going.items()})
        gradients = _gradients(draft, current, chosen[index], wanted[index], background)
        fade = effort.decay ** (step / steps)
        for name, descent in going.items():
            descent.step(gradients[name], fade * _RATES[name])
        report((step + 1) / steps)
    if not all(np.isfinite(descent.values).all() for descent in going.values()):
        return None
    rest(1.0)
    return {name: descent.values for name, descent in going.items()}


def _current(draft: Draft, values: Mapping[str, np.ndarray]) -> Gaussians:
    changed: dict[str, Any] = dict(values)
    entries = changed.pop("entries", None)
    if entries is not None:
        changed["shN"] = entries[draft.labels].reshape(draft.stored.shN.shape)
    return replace(draft.stored, **changed)


def _gradients(
    draft: Draft, current: Gaussians, view: View, wanted: np.ndarray, background: Sequence[float]
) -> dict[str, np.ndarray]:
    """Of the mean squared error of one picture, `wanted` being flat; by property."""
    from splat_assets.compression.descent import sums_by
    from splat_assets.rendering.cpu.draw import Frame, Gradients, draw, draw_backward

    splats = as_splats(current)
    frame = Frame(view.width, view.height, antialiased=current.antialiased, depth=False)
    viewmat, K = np.asarray(view.viewmat, np.float64), np.asarray(view.K, np.float64)
    image = np.empty(view.height * view.width * 3, np.float32)
    alphas = np.empty(view.height * view.width, np.float32)
    behind = np.asarray(background, np.float32)
    drawn = draw(splats, viewmat, K, behind, frame, image, alphas, save=True)
    slope = (2 / image.size) * (image - wanted)
    slope[((image < 0) & (slope < 0)) | ((image > 1) & (slope > 0))] = 0
    into = Gradients.empty(splats, 1)
    draw_backward(splats, viewmat, frame, drawn, slope, None, False, into, 0)
    opacities = splats.opacities
    found = {
        "sh0": into.colors[0],
        "opacities": into.opacities * opacities * (1 - opacities),
        "scales": into.scales * splats.scales,
    }
    if draft.labels is not None:
        rows = into.colors[1].reshape(len(current), -1)
        found["entries"] = sums_by(draft.labels, rows, len(draft.exact["entries"]))
    return found


def _pictures(
    gaussians: Gaussians, views: Sequence[View], background: Sequence[float]
) -> list[np.ndarray]:
    """Flat, in 0..1."""
    from splat_assets.rendering import render

    cameras = [render.View(v.viewmat, v.K, v.width, v.height) for v in views]
    drawn = render.render_views(gaussians, cameras, background=background)
    return [np.clip(picture.rgb, 0, 1).reshape(-1).copy() for picture in drawn]
