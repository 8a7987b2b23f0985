"""How many Gaussians a scene is worth when the options leave it open."""

from __future__ import annotations

import math

import numpy as np

from splat_assets.compute import Compute
from splat_assets.training.dataset import TrainingSet

_PIXELS = 12.0  # of a view, times √views, for one Gaussian
_BYTES = 1500  # that training needs for one Gaussian
_MEMORY_SHARE = 0.25  # of the machine's
_LEAST, _MOST = 5_000, 4_000_000


def automatic_budget(data: TrainingSet, compute: Compute) -> int:
    """A budget from the pixels of a view and the number of views, within the memory there is.

    More views show more surface, but much of it again: hence their square root. Transparent pixels
    do not count. The memory counted is all the machine has, not what is free, so that the same
    machine gives the same result.
    """
    pixels = [data.views[i].width * data.views[i].height for i in data.train]
    worth = float(np.mean(pixels)) * _opaque_share(data) * math.sqrt(len(pixels)) / _PIXELS
    possible = _MEMORY_SHARE * _memory_bytes(compute) / _BYTES
    return int(max(min(worth, possible, _MOST), _LEAST))


def _opaque_share(data: TrainingSet) -> float:
    """Of the pixels of a few views."""
    if not data.has_alpha:
        return 1.0
    chosen = [data.train[i] for i in range(0, len(data.train), max(1, len(data.train) // 8))]
    alphas = [data.alpha(index) for index in chosen]
    return float(np.mean([1.0 if alpha is None else (alpha > 8).mean() for alpha in alphas]))


def _memory_bytes(compute: Compute) -> float:
    if compute.device.startswith("cuda"):
        import torch

        return float(torch.cuda.mem_get_info(compute.device)[1])
    import psutil

    return float(psutil.virtual_memory().total)
