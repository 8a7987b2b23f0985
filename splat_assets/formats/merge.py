"""Several splats in one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from splat_assets.gaussians.gaussians import SH_REST, Gaussians


def merge(splats: Sequence[Gaussians]) -> Gaussians:
    """All Gaussians of all splats, in order; those of a lower SH degree get zeros for the rest.

    The result is antialiased, or made of flat discs, only when all are. Raises `ValueError` without
    splats.
    """
    if not splats:
        raise ValueError("there is nothing to merge")
    if len(splats) == 1:
        return splats[0]
    rest = SH_REST[max(g.sh_degree for g in splats)]
    names = ("means", "quats", "scales", "opacities", "sh0")
    joined = {name: np.concatenate([getattr(g, name) for g in splats]) for name in names}
    shN = np.zeros((len(joined["means"]), rest, 3), np.float32)
    first = 0
    for g in splats:
        shN[first : first + len(g), : g.shN.shape[1]] = g.shN
        first += len(g)
    whole = Gaussians(**joined, shN=shN)  # type: ignore[arg-type]  # arrays, no flags
    return replace(
        whole,
        antialiased=all(g.antialiased for g in splats),
        flat=all(g.flat for g in splats),
    )
