"""Rendering views during and after training, and how close they come to the photos.

PSNR, SSIM and LPIPS are means over images, as the papers report them; masked pixels do not count.
The PSNR is that of the render as it is. Beside it stands the corrected one, after the affine map of
colours that fits the photo best: how much of the error is the photo's own exposure.
Pictures with alpha are compared on white, as the NeRF-synthetic tables are; others have no
background to choose, and the renderer's is black.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from splat_assets.compute import Compute
from splat_assets.rendering.l1_ssim import ssim
from splat_assets.rendering.rasterize import rasterize
from splat_assets.training.dataset import Sample, TrainingSet
from splat_assets.training.lpips import Metric

_MAX_PSNR = 100.0  # of an exact match


@dataclass(frozen=True)
class ViewScore:
    """One view's figures."""

    name: str
    psnr_db: float
    ssim: float
    psnr_corrected_db: float = math.nan
    lpips: float | None = None


def render(
    params: Mapping[str, Tensor],
    sample: Sample,
    *,
    sh_degree: int,
    background: Tensor,
    compute: Compute,
    absgrad: bool = False,
    depth: bool = False,
) -> tuple[Tensor, dict[str, Any]]:
    """Draw the splat (parameters before activation) for a sample's camera: ([H, W, 3], info).

    With `depth`, `info["depth"]` is the blended depth [H, W] and `info["alpha"]` [H, W].
    """
    # without the higher bands their parameters stay out of the graph, and Adam leaves them alone
    colors = (params["sh0"], params["shN"]) if sh_degree else params["sh0"]
    renders, alphas, info = rasterize(
        params["means"],
        params["quats"],
        torch.exp(params["scales"]),
        torch.sigmoid(params["opacities"]),
        colors,
        sample.viewmat,
        sample.K,
        sample.width,
        sample.height,
        sh_degree=sh_degree,
        backgrounds=background[None],
        absgrad=absgrad,
        render_mode="RGB+D" if depth else "RGB",
        backend="auto",  # by the tensors' device, which `compute` chose
    )
    if depth:
        info["depth"], info["alpha"] = renders[0, ..., 3], alphas[0, ..., 0]
        return renders[0, ..., :3], info
    return renders[0], info


@torch.no_grad()
def score_views(
    params: Mapping[str, Tensor],
    data: TrainingSet,
    indices: list[int],
    *,
    sh_degree: int,
    compute: Compute,
) -> list[ViewScore]:
    """PSNR and SSIM of the views `indices`, at training resolution."""
    scores = []
    for index in indices:
        image, photo, mask = render_pair(params, data, index, sh_degree=sh_degree, compute=compute)
        scores.append(score_view(image, photo, data.views[index].name, mask))
    return scores


@torch.no_grad()
def render_pair(
    params: Mapping[str, Tensor],
    data: TrainingSet,
    index: int,
    *,
    sh_degree: int,
    compute: Compute,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Render, photo [H, W, 3] in 0..1 and mask [H, W] or None of one view."""
    background = evaluation_background(data, compute.device)
    sample = data.sample(index, background=background, device=compute.device)
    image, _ = render(params, sample, sh_degree=sh_degree, background=background, compute=compute)
    return image.clamp(0.0, 1.0), sample.image, sample.mask


def score_view(image: Tensor, photo: Tensor, name: str, mask: Tensor | None) -> ViewScore:
    """PSNR and SSIM of one render against its photo."""
    return ViewScore(name, psnr(image, photo, mask), float(ssim(image, photo, mask=mask)))


def score_fully(
    image: Tensor, photo: Tensor, name: str, mask: Tensor | None, lpips: Metric | None
) -> ViewScore:
    """The same with the corrected PSNR, and LPIPS where there is one (masked pixels are black)."""
    corrected = correct_colours(image, photo, mask)
    score = replace(
        score_view(image, photo, name, mask), psnr_corrected_db=psnr(corrected, photo, mask)
    )
    if lpips is None or min(image.shape[:2]) < 64:  # smaller ones vanish in its networks
        return score
    if mask is not None:
        image, photo = image * mask[..., None], photo * mask[..., None]
    return replace(score, lpips=lpips(image, photo))


def correct_colours(image: Tensor, photo: Tensor, mask: Tensor | None = None) -> Tensor:
    """The render [H, W, 3] after the affine map of colours that fits the photo best (least squares
    over the pixels that count), clipped to 0..1."""
    x = image.reshape(-1, 3).double().cpu().numpy()
    y = photo.reshape(-1, 3).double().cpu().numpy()
    x = np.concatenate([x, np.ones((len(x), 1))], axis=1)
    weighted = x if mask is None else x * mask.reshape(-1, 1).double().cpu().numpy()
    # a little weight on the identity, so that a picture of one colour has a solution
    ridge = 1e-6 * len(x)
    gram = np.einsum("ni,nj->ij", weighted, x) + ridge * np.eye(4)
    moments = np.einsum("ni,nj->ij", weighted, y) + ridge * np.eye(4, 3)
    fitted = np.clip(x @ np.linalg.solve(gram, moments), 0.0, 1.0)
    return torch.from_numpy(fitted.astype(np.float32)).view_as(image).to(image.device)


def psnr(image: Tensor, photo: Tensor, mask: Tensor | None = None) -> float:
    """Peak signal-to-noise ratio in dB, peak 1, over the pixels that count; at most 100."""
    squared = (image.double() - photo.double()).square()
    if mask is None:
        error = squared.mean()
    else:
        error = (squared * mask[..., None]).sum() / (3 * mask.sum()).clamp(min=1)
    return min(_MAX_PSNR, -10.0 * math.log10(max(float(error), 1e-10)))


def mean_scores(scores: list[ViewScore]) -> tuple[float, float]:
    """Means over images of PSNR and SSIM."""
    count = len(scores)
    return sum(s.psnr_db for s in scores) / count, sum(s.ssim for s in scores) / count


def evaluation_background(data: TrainingSet, device: str) -> Tensor:
    """[3] white where pictures have alpha, black otherwise."""
    return torch.full((3,), 1.0 if data.has_alpha else 0.0, device=device)
