"""Small tensor helpers of the strategies: weighted draws and rotations by quaternion."""

from __future__ import annotations

import torch
from torch import Tensor


def draw_indices(weights: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """[count] indices drawn with replacement in proportion to `weights` [N] ≥ 0.

    By inverse transform of the running sum: no limit on N (torch.multinomial stops at 2²⁴), and the
    same result for any number of threads.
    """
    cumulative = torch.cumsum(weights.double(), dim=0)
    uniform = torch.rand(count, generator=generator, device=weights.device, dtype=torch.float64)
    drawn = torch.searchsorted(cumulative, uniform * cumulative[-1], right=True)
    return drawn.clamp(max=len(weights) - 1)


def rotate_by_quats(quats: Tensor, vectors: Tensor, *, inverse: bool = False) -> Tensor:
    """Vectors [N, 3] turned by the rotations of quats [N, 4] (w, x, y, z; any length > 0)."""
    unit = torch.nn.functional.normalize(quats, dim=-1)
    w, axis = unit[:, :1], unit[:, 1:]
    if inverse:
        axis = -axis
    twice = 2.0 * torch.linalg.cross(axis, vectors)
    return vectors + w * twice + torch.linalg.cross(axis, twice)
