"""Densification by gradient: clone and split where the picture pulls, prune what is transparent.

Adaptive density control of 3DGS with the absolute gradients of AbsGS (arXiv 2404.10484), so that
pulls in opposite directions do not cancel, and with a budget: the strongest go first. The opacity
reset of the original is left out; it costs more pictures than it saves floaters in short runs.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from splat_assets.training.contribution import Survey
from splat_assets.training.mcmc import keep_most_opaque
from splat_assets.training.optimizer import SplatOptimizer
from splat_assets.training.sampling import rotate_by_quats
from splat_assets.training.schedule import Schedule
from splat_assets.training.step import Regularisers

_SPLIT_SHRINK = 1.6


@dataclass
class GradientStrategy:
    """Clone, split and prune, with these settings.

    Attributes:
        budget: never more Gaussians than this.
        grow_grad2d: mean absolute gradient (in units of half the image) that asks for more detail.
        clone_scale: Gaussians up to this fraction of the extent are cloned, larger ones split.
        min_opacity: more transparent Gaussians are removed.
        max_scale: larger ones (fraction of the extent) are removed.
    """

    budget: int
    grow_grad2d: float = 8e-4
    clone_scale: float = 0.01
    min_opacity: float = 0.005
    max_scale: float = 0.5
    _sum: Tensor | None = field(default=None, repr=False)  # [N] of gradients since refinement
    _count: Tensor | None = field(default=None, repr=False)  # [N] times seen

    needs_absgrad = True

    def regularisers(self, count: int, extent: float) -> Regularisers:
        """None."""
        return Regularisers()

    @torch.no_grad()
    def after_step(
        self,
        step: int,
        schedule: Schedule,
        optimizer: SplatOptimizer,
        info: dict[str, Any],
        generator: torch.Generator,
        *,
        means_lr: float,
        extent: float,
        look: Callable[[int], Survey] | None = None,
    ) -> None:
        """Collect gradients, and refine when the schedule says so."""
        if step >= schedule.refine_until:
            return
        self._collect(info, len(optimizer))
        if schedule.refines_at(step):
            self._grow(optimizer, generator, extent)
            self._prune(optimizer, extent)
            self._sum = self._count = None

    def shrink(self, budget: int, optimizer: SplatOptimizer) -> None:
        """Go on with a smaller budget, keeping the most opaque (memory ran out)."""
        self.budget = budget
        keep_most_opaque(optimizer, budget)
        self._sum = self._count = None

    def state_dict(self) -> dict[str, Any]:
        return {"budget": self.budget, "sum": self._sum, "count": self._count}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.budget = int(state["budget"])
        self._sum, self._count = state["sum"], state["count"]

    def _collect(self, info: dict[str, Any], n: int) -> None:
        gradient = info["means2d_grads"].absolute
        if gradient is None:
            return
        half = torch.tensor([info["width"] / 2.0, info["height"] / 2.0], device=gradient.device)
        strength = (gradient[0] * half).norm(dim=-1)
        if self._sum is None or self._count is None or len(self._sum) != n:
            self._sum = torch.zeros_like(strength)
            self._count = torch.zeros_like(strength)
        seen = strength > 0
        self._sum += strength
        self._count += seen

    def _grow(self, optimizer: SplatOptimizer, generator: torch.Generator, extent: float) -> None:
        room = self.budget - len(optimizer)
        if self._sum is None or self._count is None or room <= 0:
            return
        score = self._sum / self._count.clamp(min=1)
        wanted = torch.nonzero(score > self.grow_grad2d)[:, 0]
        if len(wanted) > room:
            order = torch.argsort(score[wanted], descending=True, stable=True)
            wanted = torch.sort(wanted[order[:room]]).values
        clone_and_split(optimizer, wanted, self.clone_scale * extent, generator)

    def _prune(self, optimizer: SplatOptimizer, extent: float) -> None:
        params = optimizer.params
        keep = torch.sigmoid(params["opacities"].detach()) > self.min_opacity
        keep &= params["scales"].detach().exp().amax(dim=1) < self.max_scale * extent
        if not keep.all() and keep.any():
            optimizer.select(keep)


def clone_and_split(
    optimizer: SplatOptimizer, chosen: Tensor, clone_scale: float, generator: torch.Generator
) -> None:
    """Two in place of each of the Gaussians `chosen` (ascending indices, no repeats).

    Those up to `clone_scale` get a twin; larger ones become two smaller ones, drawn from the
    Gaussian itself, of which one takes the place of the original.
    """
    params = {name: p.detach() for name, p in optimizer.params.items()}
    large = params["scales"][chosen].exp().amax(dim=1) > clone_scale
    clones, splits = chosen[~large], chosen[large]
    new = {name: tensor[clones] for name, tensor in params.items()}
    if len(splits):
        halves = {name: tensor[splits].repeat_interleave(2, 0) for name, tensor in params.items()}
        white = torch.randn(
            halves["means"].shape, generator=generator, device=halves["means"].device
        )
        offset = rotate_by_quats(halves["quats"], white * halves["scales"].exp())
        halves["means"] = halves["means"] + offset
        halves["scales"] = halves["scales"] - math.log(_SPLIT_SHRINK)
        optimizer.write(splits, {name: tensor[0::2] for name, tensor in halves.items()})
        new = {name: torch.cat([new[name], halves[name][1::2]]) for name in new}
    if len(new["means"]):
        optimizer.append(new)
