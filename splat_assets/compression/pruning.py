"""Leave Gaussians out whose contribution to the pictures is worth less than their bytes.

Merging neighbours besides was measured and does not pay: 0.9 to 1.9 × the bytes at equal quality
(`benchmarks.compression_merging`).
"""

from __future__ import annotations

import math

import numpy as np

from splat_assets.compression.precision import Sensitivity
from splat_assets.formats.values import sigmoid
from splat_assets.gaussians.gaussians import Gaussians

_BITS = 80.0  # of a Gaussian, about
_MOST = 0.15  # of the error allowed, that leaving out may take
_TOGETHER = 4.0  # what is left out adds up in the same direction


class Pruning:
    """Which Gaussians to keep when pictures shall keep `psnr_db`.

    Leaving one out takes its whole opacity away, whose error the sensitivity tells to first order.
    What no view has seen is kept.
    """

    def __init__(self, gaussians: Gaussians, sensitivity: Sensitivity, psnr_db: float) -> None:
        opacity = sigmoid(gaussians.opacities)
        error = _TOGETHER * sensitivity.removal * opacity**2
        price = sensitivity.precision(psnr_db).bit_price
        dear = error > price * _BITS if math.isfinite(price) else np.ones(len(error), bool)
        self._count = len(gaussians)
        self._cheap = np.flatnonzero((sensitivity.removal > 0) & ~dear)
        self._cheap = self._cheap[np.argsort(error[self._cheap], kind="stable")]
        self._sums = np.cumsum(error[self._cheap])
        self._allowed = _MOST * 10 ** (-psnr_db / 10)

    def keep(self, share: float = 1.0) -> np.ndarray:
        """[N] bool. All that are left out may take a small part of the error allowed, and a
        smaller part with a smaller `share`."""
        keep = np.ones(self._count, bool)
        keep[self._cheap[: np.searchsorted(self._sums, share * self._allowed, side="right")]] = (
            False
        )
        return keep if keep.any() else np.ones(self._count, bool)
