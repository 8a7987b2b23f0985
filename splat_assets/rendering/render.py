"""Pictures of a splat without gradients, for previews, evaluation and compression reports.

Takes `Gaussians` as they are stored; activates them once and then draws any number of views.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from splat_assets.gaussians.gaussians import Gaussians

if TYPE_CHECKING:
    from splat_assets.rendering.cpu.draw import Frame, Splats


@dataclass(frozen=True)
class View:
    """One pinhole camera, OpenCV axes."""

    viewmat: np.ndarray  # [4, 4] world → camera
    K: np.ndarray  # [3, 3]
    width: int
    height: int

    def scaled(self, factor: float) -> View:
        """The same camera with about `factor` times as many pixels each way."""
        width = max(1, round(self.width * factor))
        height = max(1, round(self.height * factor))
        K = np.asarray(self.K, np.float64).copy()
        K[0] *= width / self.width
        K[1] *= height / self.height
        return View(self.viewmat, K, width, height)


@dataclass(frozen=True)
class Picture:
    """What one view shows."""

    rgb: np.ndarray  # [H, W, 3] float32, on the background; may exceed 1
    alpha: np.ndarray  # [H, W] float32
    depth: np.ndarray | None  # [H, W] float32 blended depth / alpha, 0 where alpha is; if asked for

    def to_uint8(self) -> np.ndarray:
        """[H, W, 3] uint8, clipped."""
        return (np.clip(self.rgb, 0.0, 1.0) * 255.0 + 0.5).astype(np.uint8)


def render_views(
    gaussians: Gaussians,
    views: Sequence[View],
    *,
    background: Sequence[float] = (0.0, 0.0, 0.0),
    sh_degree: int | None = None,
    depth: bool = False,
    device: str = "cpu",
) -> Iterator[Picture]:
    """Draw the views one after the other (a generator: only one picture is held).

    Args:
        background: R, G, B in 0..1.
        sh_degree: use no more than this degree; all there is when None.
        depth: also return depth.
        device: "cpu" or "cuda:<n>".
    """
    degree = gaussians.sh_degree if sh_degree is None else min(sh_degree, gaussians.sh_degree)
    draw_one = (_on_cpu if device == "cpu" else _on_cuda)(
        gaussians, degree, np.asarray(background, np.float32), depth, device
    )
    for view in views:
        yield draw_one(view)


def blend_weights(
    gaussians: Gaussians, views: Sequence[View], maps: Sequence[np.ndarray] | None = None
) -> np.ndarray:
    """How much each Gaussian contributes to the views: float64 [N, 3], summed over all pixels.

    Column c is Σ weight · map[c], with `maps` one [H, W, 3] float32 a view (an error image, a mask,
    …); without maps every column is the plain sum of blending weights. CPU only.
    """
    from splat_assets.rendering.cpu.draw import Gradients, draw, draw_backward

    # colours that do not depend on the view: their gradient is the weighted sum
    colours = np.zeros((len(gaussians), 3), np.float32)
    splats = replace(_activated(gaussians, 0), colors=(colours,), degree=-1)
    total = np.zeros((len(gaussians), 3))
    for index, view in enumerate(views):
        chosen = np.ones(1, np.float32) if maps is None else maps[index]
        shape = (view.height, view.width, 3)
        if maps is not None and chosen.shape != shape:
            raise ValueError(f"map {index} has shape {chosen.shape}, expected {shape}")
        v_image = np.ascontiguousarray(np.broadcast_to(chosen, shape), np.float32).reshape(-1)
        frame = _frame(gaussians, view, False)
        viewmat, K = np.asarray(view.viewmat, np.float64), np.asarray(view.K, np.float64)
        image, alphas = np.empty_like(v_image), np.empty(view.height * view.width, np.float32)
        drawn = draw(splats, viewmat, K, np.zeros(3, np.float32), frame, image, alphas, save=True)
        sums = Gradients.empty(splats, 1)
        draw_backward(splats, viewmat, frame, drawn, v_image, None, False, sums, 0)
        total += sums.colors[0]
    return total


Draw = Callable[[View], Picture]


def _on_cpu(
    gaussians: Gaussians, degree: int, background: np.ndarray, depth: bool, device: str
) -> Draw:
    from splat_assets.rendering.cpu.draw import draw

    splats = _activated(gaussians, degree)

    def draw_one(view: View) -> Picture:
        frame = _frame(gaussians, view, depth)
        shape = (view.height, view.width, frame.channels)
        image = np.empty(int(np.prod(shape)), np.float32)
        alphas = np.empty(view.height * view.width, np.float32)
        viewmat, K = np.asarray(view.viewmat, np.float64), np.asarray(view.K, np.float64)
        draw(splats, viewmat, K, background, frame, image, alphas, save=False)
        return _picture(image.reshape(shape), alphas.reshape(shape[:2]), depth)

    return draw_one


def _on_cuda(
    gaussians: Gaussians, degree: int, background: np.ndarray, depth: bool, device: str
) -> Draw:
    import torch

    from splat_assets.rendering.rasterize import rasterize

    splats = _activated(gaussians, degree)
    arrays = (splats.means, splats.quats, splats.scales, splats.opacities)
    means, quats, scales, opacities = (torch.from_numpy(a).to(device) for a in arrays)
    coefficients = torch.cat([torch.from_numpy(part) for part in splats.colors], dim=1).to(device)
    behind = torch.from_numpy(background).to(device)[None]

    @torch.no_grad()
    def draw_one(view: View) -> Picture:
        renders, alphas, _ = rasterize(
            means, quats, scales, opacities, coefficients,
            torch.as_tensor(view.viewmat, dtype=torch.float32, device=device)[None],
            torch.as_tensor(view.K, dtype=torch.float32, device=device)[None],
            view.width, view.height, sh_degree=degree, backgrounds=behind,
            render_mode="RGB+D" if depth else "RGB",
            rasterize_mode="antialiased" if gaussians.antialiased else "classic",
        )  # fmt: skip
        return _picture(renders[0].cpu().numpy(), alphas[0, ..., 0].cpu().numpy(), depth)

    return draw_one


def _picture(image: np.ndarray, alpha: np.ndarray, depth: bool) -> Picture:
    if not depth:
        return Picture(image, alpha, None)
    return Picture(
        np.ascontiguousarray(image[..., :3]), alpha, image[..., 3] / np.maximum(alpha, 1e-10)
    )


def _activated(gaussians: Gaussians, degree: int) -> Splats:
    """The kernels' `Splats` of stored Gaussians."""
    from splat_assets.rendering.cpu.draw import Splats

    with np.errstate(over="ignore"):
        scales = np.exp(_float32(gaussians.scales))
        opacities = 1.0 / (1.0 + np.exp(-_float32(gaussians.opacities)))
    return Splats(
        _float32(gaussians.means),
        _float32(gaussians.quats),
        scales,
        _float32(opacities),
        (_float32(gaussians.sh0), _float32(gaussians.shN)),
        degree,
    )


def _frame(gaussians: Gaussians, view: View, depth: bool) -> Frame:
    from splat_assets.rendering.cpu.draw import Frame

    return Frame(view.width, view.height, antialiased=gaussians.antialiased, depth=depth)


def _float32(array: np.ndarray) -> np.ndarray:
    """Contiguous, writable float32: the one kind of array the kernels are compiled for."""
    return np.require(array, np.float32, ["C", "W"])
