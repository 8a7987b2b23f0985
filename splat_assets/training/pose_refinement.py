"""Pose refinement: small corrections of the training cameras, learnt with the splat.

Each training view gets a rotation and a translation in its own camera frame, as in BARF (Lin et al.
2021, arXiv 2104.06405), driven by the rasteriser's gradient of the view matrix. (Rotations about
the scene's middle were tried and are worse: their gradient is faint, and Adam amplifies its noise.)
What all cameras share (a common motion, turn or scale of the world, seven freedoms) would move the
scene away from the held-out cameras without making anything better, and is removed after each step.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from splat_assets.training.row_adam import RowAdam

_TRAVEL_RAD = 0.05  # first rate × visits: what a rotation can move in a run, before the decay
_TRAVEL = 0.05  # the same for translations, as a fraction of the median distance to the subject
_FINAL = 0.01  # rate at the end of the run, of the first
_BEGIN = 0.05  # fraction of the run in which only the splat learns


class PoseRefinement:
    """Corrections [N, 6] (rotation vector, translation / distance), one a training view."""

    def __init__(
        self,
        views: list[int],
        viewmats: np.ndarray,
        *,
        center: np.ndarray,
        steps: int,
        device: str = "cpu",
    ) -> None:
        """
        Args:
            views: indices of the training views.
            viewmats: [N, 4, 4] their cameras, world → camera.
            center: [3] what the cameras look at, in the world.
        """
        self._row_of = {index: row for row, index in enumerate(views)}
        self._steps = max(1, steps)
        centers = -np.einsum("nji,nj->ni", viewmats[:, :3, :3], viewmats[:, :3, 3])
        self._distance = float(np.median(np.linalg.norm(centers - center, axis=1))) or 1.0
        visits = max(1.0, (1 - _BEGIN) * steps / max(1, len(views)))
        rates = [_TRAVEL_RAD / visits] * 3 + [_TRAVEL / visits] * 3
        self._rates = torch.tensor(rates, device=device)
        self._table = RowAdam(len(views), 6, device)
        basis = _shared_motions(viewmats, centers, center, self._distance)
        self._basis = torch.from_numpy(np.float32(basis)).to(device)
        self._leaf: tuple[int, Tensor] | None = None

    def apply(self, index: int, viewmat: Tensor) -> Tensor:
        """[1, 4, 4] the refined camera of view `index`; gradients flow into its correction."""
        row = self._row_of[index]
        correction = self._table.values[row].clone().requires_grad_()
        self._leaf = row, correction
        return (self._motion(correction) @ viewmat[0])[None]

    @torch.no_grad()
    def step(self, step: int) -> None:
        """After the backward pass of the view last applied."""
        leaf, self._leaf = self._leaf, None
        if leaf is None or step < _BEGIN * self._steps:
            return
        row, correction = leaf
        if correction.grad is None:
            return
        self._table.step(row, correction.grad, self._rates * _FINAL ** (step / self._steps))
        if self._basis.shape[1]:
            flat = self._table.values.view(-1)
            # one row of the basis at a time: the same bits whatever the number of threads
            shared = torch.stack([(column * flat).double().sum() for column in self._basis.T])
            flat -= (self._basis * shared.float()).sum(dim=1)

    @torch.no_grad()
    def viewmats(self, viewmats: np.ndarray) -> np.ndarray:
        """[N, 4, 4] the refined cameras of the training views, float64."""
        motions = torch.stack([self._motion(row) for row in self._table.values.double()])
        return motions.cpu().numpy() @ viewmats

    def change(self) -> tuple[float, float]:
        """Median rotation in degrees, and median translation over the distance to the subject."""
        values = self._table.values.cpu().numpy().astype(np.float64)
        turned = np.degrees(np.linalg.norm(values[:, :3], axis=1))
        return float(np.median(turned)), float(np.median(np.linalg.norm(values[:, 3:], axis=1)))

    def state_dict(self) -> dict[str, Any]:
        return self._table.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._table.load_state_dict(state)

    def _motion(self, correction: Tensor) -> Tensor:
        """[4, 4] of one correction: rotation by the exponential map, then the translation."""
        x, y, z = correction[:3]
        zero = torch.zeros_like(x)
        skew = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero]).view(3, 3)
        rotation = torch.linalg.matrix_exp(skew)
        top = torch.cat([rotation, (correction[3:] * self._distance)[:, None]], dim=1)
        return torch.cat([top, top.new_tensor([[0.0, 0.0, 0.0, 1.0]])])


def _shared_motions(
    viewmats: np.ndarray, centers: np.ndarray, center: np.ndarray, distance: float
) -> np.ndarray:
    """[6 N, K] orthonormal: the corrections that a similarity of the whole world amounts to.

    Moving the world by x → x + ω × (x - c) + t + s (x - c) moves camera i, seen from itself, by the
    rotation -R ω and the translation -R (ω × (o - c) + t + s (o - c)), o its centre.
    """
    R = viewmats[:, :3, :3]
    arms = (centers - center) / distance
    columns = []
    for axis in np.eye(3):
        turn = -np.einsum("nij,j->ni", R, axis)
        move = -np.einsum("nij,nj->ni", R, np.cross(axis, arms))
        columns.append(np.concatenate([turn, move], axis=1).ravel())
    nothing = np.zeros_like(arms)
    for axis in np.eye(3):
        move = -np.einsum("nij,j->ni", R, axis)
        columns.append(np.concatenate([nothing, move], axis=1).ravel())
    move = -np.einsum("nij,nj->ni", R, arms)
    columns.append(np.concatenate([nothing, move], axis=1).ravel())
    basis, singular, _ = np.linalg.svd(np.stack(columns, axis=1), full_matrices=False)
    return basis[:, singular > 1e-6 * singular[0]]
