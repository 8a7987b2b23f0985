"""`Gaussians`: the parameters of a splat as plain arrays, in the storage form of 3DGS PLY files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Self

import numpy as np

# number of SH coefficients beyond the constant one, by degree
SH_REST = {0: 0, 1: 3, 2: 8, 3: 15}
SH_C0 = 0.28209479177387814  # 1 / (2 sqrt(pi)); colour = 0.5 + SH_C0 * sh0


@dataclass(frozen=True)
class Gaussians:
    """N Gaussians, float32, *before* activation, in world space (OpenCV/COLMAP axes of the poses).

    The names are those of gsplat's checkpoints; the values are those of the 3DGS PLY.
    """

    means: np.ndarray  # [N, 3]
    quats: np.ndarray  # [N, 4] w, x, y, z; any length > 0
    scales: np.ndarray  # [N, 3] natural log of the standard deviations
    opacities: np.ndarray  # [N] logits
    sh0: np.ndarray  # [N, 1, 3] constant SH coefficient of R, G, B
    shN: np.ndarray  # [N, K, 3] the higher ones, K in {0, 3, 8, 15}
    antialiased: bool = False  # trained with the Mip-Splatting opacity compensation
    flat: bool = False  # 2D Gaussians (2DGS): discs, whose smallest axis means nothing

    def __post_init__(self) -> None:
        n = len(self.means)
        k = self.shN.shape[1] if self.shN.ndim == 3 else -1
        shapes = {
            "means": (n, 3),
            "quats": (n, 4),
            "scales": (n, 3),
            "opacities": (n,),
            "sh0": (n, 1, 3),
            "shN": (n, k, 3),
        }
        for name, shape in shapes.items():
            if getattr(self, name).shape != shape:
                raise ValueError(f"{name} has shape {getattr(self, name).shape}, expected {shape}")
        if k not in SH_REST.values():
            raise ValueError(f"shN holds {k} coefficients; 0, 3, 8 or 15 are possible")

    def __len__(self) -> int:
        return len(self.means)

    @property
    def sh_degree(self) -> int:
        return {count: degree for degree, count in SH_REST.items()}[self.shN.shape[1]]

    def select(self, index: np.ndarray | slice) -> Self:
        """The Gaussians at `index` (integers in any order, a boolean mask, or a slice)."""
        if isinstance(index, np.ndarray):  # taking is quicker than indexing
            rows = np.flatnonzero(index) if index.dtype == bool else index
            return self._each(lambda array: array.take(rows, axis=0))
        return self._each(lambda array: array[index])

    def _each(self, change: Callable[[np.ndarray], np.ndarray]) -> Self:
        return replace(
            self,
            means=change(self.means),
            quats=change(self.quats),
            scales=change(self.scales),
            opacities=change(self.opacities),
            sh0=change(self.sh0),
            shN=change(self.shN),
        )
