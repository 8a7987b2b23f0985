"""How much each Gaussian contributes to the training views, and how much of it goes wrong there.

A render is linear in the Gaussians' colours, so the gradient of Σ render · map with respect to a
colour is Σ blending weight · map over the pixels: one backward pass measures three maps at once, on
any backend. It serves pruning by contribution (as in Trick-GS, arXiv 2501.14534) and multi-view
densification (as in FastGS, arXiv 2511.04283).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from splat_assets.compute import Compute
from splat_assets.rendering.rasterize import rasterize
from splat_assets.training.dataset import Sample, TrainingSet
from splat_assets.training.evaluate import evaluation_background, render

HIGH_ERROR = 1.5  # times a view's mean error: a pixel that counts as badly drawn


@dataclass(frozen=True)
class Survey:
    """Sums over the surveyed views, per Gaussian. All [N] float32, in pixels.

    Attributes:
        weight: blending weights, over all views.
        peak: the same in the view where they are largest.
        high: blending weights of badly drawn pixels (see `HIGH_ERROR`), over all views.
        seen: in how many views it is before the camera and within the picture, hidden or not.
    """

    weight: Tensor
    peak: Tensor
    high: Tensor
    seen: Tensor

    def negligible(self, min_peak: float) -> Tensor:
        """[N] bool: within some view, but in none with `min_peak` pixels or more."""
        return (self.seen > 0) & (self.peak < min_peak)

    @property
    def share(self) -> Tensor:
        """[N] the part of a Gaussian's contribution that falls on badly drawn pixels, 0..1."""
        return self.high / self.weight.clamp(min=1e-6)


def survey(
    params: Mapping[str, Tensor],
    data: TrainingSet,
    indices: Sequence[int],
    *,
    sh_degree: int,
    compute: Compute,
    factor: float = 1.0,
    exposed: Callable[[int, Tensor], Tensor] = lambda index, image: image,
) -> Survey:
    """Measure the views `indices` at `factor` times the training resolution.

    Args:
        exposed: gives a render the exposure of that view's photo.
    """
    params = {name: tensor.detach() for name, tensor in params.items()}
    count = len(params["means"])
    total = torch.zeros(count, 3, device=compute.device)
    peak, seen = torch.zeros(2, count, device=compute.device)
    background = evaluation_background(data, compute.device)
    for index in indices:
        sample = data.sample(index, factor=factor, background=background, device=compute.device)
        with torch.no_grad():
            image, info = render(
                params, sample, sh_degree=sh_degree, background=background, compute=compute
            )
            seen += info["visible"][0]
            high = badly_drawn(exposed(index, image), sample)
        ones = torch.ones_like(high) if sample.mask is None else sample.mask
        sums = blending_sums(params, sample, torch.stack([ones, high, high], dim=-1))
        total += sums
        peak = torch.maximum(peak, sums[:, 0])
    return Survey(total[:, 0], peak, total[:, 1], seen)


def badly_drawn(image: Tensor, sample: Sample) -> Tensor:
    """[H, W] 1 where the error is above `HIGH_ERROR` times its mean over the view, else 0."""
    error = (image - sample.image).abs().mean(dim=-1)
    if sample.mask is None:
        return (error > HIGH_ERROR * error.mean()).float()
    error = error * sample.mask
    mean = error.sum() / sample.mask.sum().clamp(min=1)
    return (error > HIGH_ERROR * mean).float()


@torch.enable_grad()
def blending_sums(params: Mapping[str, Tensor], sample: Sample, maps: Tensor) -> Tensor:
    """[N, 3] sums over pixels of blending weight × `maps` [H, W, 3], one column a map."""
    colours = torch.zeros_like(params["means"]).requires_grad_()
    renders, _, _ = rasterize(
        params["means"],
        params["quats"],
        torch.exp(params["scales"]),
        torch.sigmoid(params["opacities"]),
        colours,
        sample.viewmat,
        sample.K,
        sample.width,
        sample.height,
        backend="auto",
    )
    (sums,) = torch.autograd.grad((renders[0] * maps).sum(), colours)
    return sums
