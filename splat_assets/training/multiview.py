"""Densification by multi-view scores: add Gaussians where several views agree that it looks wrong.

Gradients of single views pull where one photo disagrees; here a Gaussian is judged by how many
badly drawn pixels it is responsible for over several views at once, and removed when it contributes
to none (the idea of FastGS, arXiv 2511.04283, with blending weights in place of its footprints).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from splat_assets.training.contribution import Survey
from splat_assets.training.gradient import clone_and_split
from splat_assets.training.mcmc import keep_most_opaque
from splat_assets.training.optimizer import SplatOptimizer
from splat_assets.training.schedule import Schedule
from splat_assets.training.step import Regularisers


@dataclass
class MultiViewStrategy:
    """Grow by shared error and prune by contribution, with these settings.

    Attributes:
        budget: never more Gaussians than this.
        growth: factor of the count at each refinement.
        views: how many training views a refinement looks at.
        min_share: a Gaussian grows only where at least this part of what it draws is badly drawn.
        min_peak: one that is within views but contributes less than this many pixels to any of
            them is removed.
        min_opacity: more transparent Gaussians are removed.
        clone_scale: Gaussians up to this fraction of the extent are cloned, larger ones split.
    """

    budget: int
    growth: float = 1.05
    views: int = 10
    min_share: float = 0.15
    min_peak: float = 0.02
    min_opacity: float = 0.005
    clone_scale: float = 0.01

    needs_absgrad = False

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
        look: Callable[[int], Survey],
    ) -> None:
        """Refine when the schedule says so."""
        if not schedule.refines_at(step):
            return
        found = look(self.views)
        count = min(self.budget, math.ceil(len(optimizer) * self.growth)) - len(optimizer)
        chosen = worst(found, count, self.min_share)
        keep = torch.sigmoid(optimizer.params["opacities"].detach()) > self.min_opacity
        keep &= ~found.negligible(self.min_peak)
        before = len(optimizer)
        clone_and_split(optimizer, chosen, self.clone_scale * extent, generator)
        keep = torch.cat([keep, keep.new_ones(len(optimizer) - before)])
        if not keep.all() and keep.any():
            optimizer.select(keep)

    def shrink(self, budget: int, optimizer: SplatOptimizer) -> None:
        """Go on with a smaller budget, keeping the most opaque (memory ran out)."""
        self.budget = budget
        keep_most_opaque(optimizer, budget)

    def state_dict(self) -> dict[str, Any]:
        return {"budget": self.budget, "growth": self.growth}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.budget, self.growth = int(state["budget"]), float(state["growth"])


def worst(found: Survey, count: int, min_share: float) -> Tensor:
    """Ascending indices of at most `count` Gaussians with the most badly drawn pixels to answer
    for, of those whose share of such pixels is at least `min_share`."""
    if count <= 0:
        return torch.zeros(0, dtype=torch.long, device=found.high.device)
    wanted = torch.nonzero((found.share >= min_share) & (found.high > 0))[:, 0]
    if len(wanted) > count:
        order = torch.argsort(found.high[wanted], descending=True, stable=True)
        wanted = torch.sort(wanted[order[:count]]).values
    return wanted
