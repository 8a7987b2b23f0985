"""Exposure compensation: each training photo has an affine map of its colours of its own.

Cameras that set exposure and white balance by themselves show one surface in many colours; without
compensation the splat explains that by fog and view-dependent colour. The map of the splat's
colours to those of a photo is learnt with the splat, as in "Reconstructing and rendering large
scenes" (hierarchical 3DGS, Kerbl et al. 2024, arXiv 2406.12080). The mean map is held at identity,
so the splat keeps the mean exposure of its photos, and held-out photos are compared with it as it
is.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from splat_assets.rendering.affine import affine_colours
from splat_assets.training.row_adam import RowAdam

_TRAVEL = 1.5  # first rate × visits of a view: with the decay each number can move by about 0.3
_MAX_RATE = 0.03
_FINAL = 0.01  # rate at the end of the run, of the first
_WEIGHT = 1e-3  # of the squared residuals, in the loss


class Exposure:
    """Residuals [N, 3, 4] on the identity, one a training view."""

    def __init__(self, views: list[int], *, steps: int, device: str = "cpu") -> None:
        """`views` are the indices of the training views."""
        self._row_of = {index: row for row, index in enumerate(views)}
        self._steps = max(1, steps)
        visits = max(1.0, steps / max(1, len(views)))
        self._rate = min(_MAX_RATE, _TRAVEL / visits)
        self._table = RowAdam(len(views), 12, device)
        self._identity = torch.eye(3, 4, device=device)
        self._leaf: tuple[int, Tensor] | None = None

    def apply(self, index: int, image: Tensor) -> Tensor:
        """The render [H, W, 3] of view `index` as its camera would have exposed it."""
        row = self._row_of[index]
        matrix = (self._identity + self._table.values[row].view(3, 4)).requires_grad_()
        self._leaf = row, matrix
        return affine_colours(image, matrix)

    @torch.no_grad()
    def step(self, step: int) -> None:
        """After the backward pass of the view last applied."""
        leaf, self._leaf = self._leaf, None
        if leaf is None:
            return
        row, matrix = leaf
        if matrix.grad is None:
            return
        gradient = matrix.grad.view(-1) + 2 * _WEIGHT * self._table.values[row]
        change = self._table.step(row, gradient, self._rate * _FINAL ** (step / self._steps))
        self._table.values -= change / len(self._table.values)

    def matrices(self) -> np.ndarray:
        """[N, 3, 4] in the order of the training views."""
        return (self._identity + self._table.values.view(-1, 3, 4)).cpu().numpy()

    def spread(self) -> float:
        """Standard deviation over views of how bright a mid-grey becomes, as a fraction of it."""
        matrices = self.matrices().astype(np.float64)
        grey = (matrices[:, :, :3].sum(axis=2) * 0.5 + matrices[:, :, 3]).mean(axis=1)
        return float(np.std(grey / 0.5))

    def state_dict(self) -> dict[str, Any]:
        return self._table.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._table.load_state_dict(state)
