"""Leave Gaussians out whose contribution to the pictures is worth less than their bytes.

Merging neighbours besides was measured and does not pay: 0.9 to 1.9 × the bytes at equal quality
(`benchmarks.compression_merging`).
"""

from __future__ import annotations

import math

import numpy as np

from splat_assets.compression.precision import Sensitivity
from splat_assets.gaussians.gaussians import Gaussians

_BITS = 80.0  # of a Gaussian, about
_MOST = 0.1  # of the error allowed, that leaving out may take
_TOGETHER = 4.0  # what is left out adds up in the same direction


def prune(
    gaussians: Gaussians, sensitivity: Sensitivity, psnr_db: float, share: float = 1.0
) -> np.ndarray:
    """[N] bool, those to keep, when pictures shall keep `psnr_db`.

    Leaving one out takes its whole opacity away, whose error the sensitivity tells to first order.
    What no view has seen is kept. With a smaller `share` fewer are left out.
    """
    opacity = 1 / (1 + np.exp(-np.clip(gaussians.opacities.astype(np.float64), -60, 60)))
    error = _TOGETHER * sensitivity.removal * opacity**2
    price = sensitivity.precision(psnr_db).bit_price
    seen = sensitivity.removal > 0
    order = np.argsort(error, kind="stable")
    # and all of them together may take a small part of the error allowed
    allowed = share * _MOST * 10 ** (-psnr_db / 10)
    total = np.empty(len(order))
    total[order] = np.cumsum(error[order])
    keep = ~seen | (error > price * _BITS) | (total > allowed)
    return keep if keep.any() and math.isfinite(price) else np.ones(len(keep), bool)
