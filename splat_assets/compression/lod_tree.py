"""The k-d tree that `lod-meta.json` describes: boxes, and what a viewer finds in each leaf."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from splat_assets.gaussians.gaussians import Gaussians
from splat_assets.gaussians.transform import quat_to_matrix

_BLOCK = 1 << 18  # Gaussians worked on at a time
_REACH = 2.0  # standard deviations of a Gaussian that count as inside of its leaf


@dataclass
class Node:
    """A box of the tree: two children, or the runs of a leaf by level."""

    low: np.ndarray  # [3]
    high: np.ndarray  # [3]
    children: tuple[Node, Node] | None = None
    runs: dict[int, tuple[int, int, int]] = field(default_factory=dict)  # (file, offset, count)

    def to_dict(self) -> dict[str, Any]:
        bound = {"min": _short(self.low), "max": _short(self.high)}
        if self.children is not None:
            return {"bound": bound, "children": [child.to_dict() for child in self.children]}
        runs = {
            str(level): {"file": file, "offset": offset, "count": count}
            for level, (file, offset, count) in self.runs.items()
        }
        return {"bound": bound, "lods": runs}


def ellipsoid_bounds(g: Gaussians) -> tuple[np.ndarray, np.ndarray]:
    """Corners [3], [3] of the box that the ellipsoids reach into."""
    if not len(g):
        return np.zeros(3), np.zeros(3)
    low, high = np.full(3, np.inf), np.full(3, -np.inf)
    for first in range(0, len(g), _BLOCK):
        block = slice(first, first + _BLOCK)
        sigma = np.exp(np.clip(g.scales[block].astype(np.float64), -20, 20))
        reach = _REACH * np.sqrt(
            ((quat_to_matrix(g.quats[block]) * sigma[:, None, :]) ** 2).sum(axis=2)
        )
        means = g.means[block].astype(np.float64)
        low = np.minimum(low, (means - reach).min(axis=0))
        high = np.maximum(high, (means + reach).max(axis=0))
    return low, high


def _short(values: np.ndarray) -> list[float]:
    """To the digits of a float32, as the format has it."""
    return [float(f"{value:.7g}") for value in values]
