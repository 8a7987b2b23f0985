"""Depth supervision: the sparse points of the reconstruction tell how far the surface is.

At the pixels where a training view observes a sparse point, the rendered depth is held to the
point's, as an L1 difference of disparities, as gsplat's trainer does and DS-NeRF (Deng et al. 2022,
arXiv 2107.02791) proposed. It steadies captures with few views.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from splat_assets.training.tracks import Sightings

_MIN_ALPHA = 0.5


class SparseDepth:
    """What the training views know of depth."""

    def __init__(self, sightings: dict[int, Sightings], *, weight: float) -> None:
        """`sightings` by index of the training view, not empty."""
        self._sightings = sightings
        self._weight = weight
        # the weight means the same in a scene of any scale
        self._unit = float(np.median(np.concatenate([s.depth for s in sightings.values()])))

    def __len__(self) -> int:
        return sum(len(seen.depth) for seen in self._sightings.values())

    def loss(self, index: int, depth: Tensor, alpha: Tensor) -> Tensor | None:
        """The weighted mean difference of disparities at the points of view `index`.

        Args:
            depth: [H, W] blended depth Σ w z.
            alpha: [H, W].
        """
        seen = self._sightings.get(index)
        if seen is None:
            return None
        height, width = depth.shape
        x = np.minimum((seen.at[:, 0] * width).astype(np.int64), width - 1)
        y = np.minimum((seen.at[:, 1] * height).astype(np.int64), height - 1)
        # one point a pixel, so that the gradients of no two are added in an order of chance
        pixel, first = np.unique(y * width + x, return_index=True)
        device = depth.device
        where = torch.from_numpy(pixel).to(device)
        wanted = torch.from_numpy(np.float32(self._unit) / seen.depth[first]).float().to(device)
        trust = torch.from_numpy(1.0 / (1.0 + seen.error_px[first])).float().to(device)
        blended, opacity = depth.reshape(-1)[where], alpha.reshape(-1)[where]
        trust = trust * (opacity.detach() > _MIN_ALPHA)
        disparity = self._unit * opacity / blended.clamp(min=1e-6)
        return self._weight * (trust * (disparity - wanted).abs()).sum() / len(pixel)
