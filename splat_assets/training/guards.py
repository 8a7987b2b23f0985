"""What keeps Gaussians sound during training: finite, and not too large for how near they are."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

_AT_ONCE = 1 << 22  # distances held at once
_SMALL = 0.02  # of the scene's extent; what is smaller is not looked at


@torch.no_grad()
def finite_rows(params: Mapping[str, Tensor]) -> Tensor:
    """[N] bool: all of a Gaussian's parameters are finite."""
    finite = [
        torch.isfinite(tensor.reshape(len(tensor), -1)).all(dim=1)
        for tensor in params.values()
        if tensor.numel()
    ]
    return torch.stack(finite).all(dim=0)


@torch.no_grad()
def keep_clear(
    params: Mapping[str, Tensor], centers: Tensor, clearance: float, extent: float
) -> int:
    """Shrink, in place, what is too large for its distance to the nearest camera.

    Splatting draws a Gaussian by the projection's linearisation at its centre (EWA, Zwicker et al.
    2001). For a large one beside a camera and only just before it that footprint covers the
    picture, whatever the Gaussian's real place: the cameras of training see and mend it, one a step
    further gets a veil. So no standard deviation may exceed the distance over `clearance`.

    Args:
        params: before activation; `means` [N, 3] are read and `scales` [N, 3] changed.
        centers: [C, 3] of the cameras.
        clearance: 3 keeps the cameras out of the 3 σ ellipsoid, however it is turned.
        extent: of the scene; Gaussians below 2 % of it are left alone.

    Returns:
        How many were shrunk.
    """
    largest = params["scales"].max(dim=1).values
    large = torch.nonzero(largest > torch.log(largest.new_tensor(_SMALL * extent)))[:, 0]
    shrunk = 0
    for rows in large.split(max(1, _AT_ONCE // max(len(centers), 1))):
        # not by matrix products, whose sums depend on the number of threads
        distances = torch.cdist(
            params["means"][rows], centers, compute_mode="donot_use_mm_for_euclid_dist"
        )
        bound = (distances.min(dim=1).values / clearance).clamp(min=_SMALL * extent)
        limit = torch.log(bound)[:, None]
        scales = params["scales"][rows]
        shrunk += int((scales > limit).any(dim=1).sum())
        params["scales"][rows] = torch.minimum(scales, limit)
    return shrunk
