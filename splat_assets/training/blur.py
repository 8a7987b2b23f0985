"""Blurred targets to begin a run with (the progressive blur of Trick-GS, arXiv 2501.14534)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def blurred(image: Tensor, mask: Tensor | None, sigma: float) -> Tensor:
    """A picture [H, W, 3] under a Gaussian of standard deviation `sigma` pixels.

    The weights are renormalised over what there is: at the borders, and beside pixels that the
    mask [H, W] leaves out.
    """
    reach = min(max(1, round(3 * sigma)), min(image.shape[:2]) - 1)
    offsets = torch.arange(-reach, reach + 1, device=image.device, dtype=image.dtype)
    taps = torch.exp(-0.5 * (offsets / sigma) ** 2)
    weight = torch.ones(image.shape[:2], device=image.device) if mask is None else mask
    layers = torch.cat([image * weight[..., None], weight[..., None]], dim=-1)
    layers = layers.permute(2, 0, 1)[:, None]
    layers = functional.conv2d(layers, taps.view(1, 1, 1, -1), padding=(0, reach))
    layers = functional.conv2d(layers, taps.view(1, 1, -1, 1), padding=(reach, 0))[:, 0]
    return (layers[:3] / layers[3:].clamp(min=1e-6)).permute(1, 2, 0).contiguous()
