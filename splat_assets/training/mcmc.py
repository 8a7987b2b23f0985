"""Densification as sampling: 3D Gaussian Splatting as Markov Chain Monte Carlo (arXiv 2404.09591).

Gaussians that became transparent are moved onto opaque ones, new ones are added in the same way up
to a budget, and noise keeps the faint ones exploring. The count is known beforehand and nothing is
ever reset. Plain torch, but for the noise on the CPU, which is a kernel of its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from splat_assets.training.contribution import Survey
from splat_assets.training.optimizer import Params, SplatOptimizer
from splat_assets.training.sampling import draw_indices, rotate_by_quats
from splat_assets.training.schedule import Schedule
from splat_assets.training.step import Regularisers

_MAX_COPIES = 51  # the paper's bound on how many Gaussians share one place


@dataclass
class MCMCStrategy:
    """Relocation, addition and noise, with these settings.

    Attributes:
        budget: never more Gaussians than this.
        growth: factor of the count at each refinement.
        min_opacity: a Gaussian below is dead and relocated.
        noise: noise per unit of the means' learning rate (5e5 in the paper).
        opacity_reg, scale_reg: weights of the mean opacity, and of the mean standard deviation as a
            fraction of the scene's extent, in the loss.
    """

    budget: int
    growth: float = 1.05
    min_opacity: float = 0.005
    noise: float = 5e5
    opacity_reg: float = 0.01
    scale_reg: float = 0.01

    needs_absgrad = False

    def regularisers(self, count: int, extent: float) -> Regularisers:
        """Those of the two means, for so many Gaussians."""
        n = max(count, 1)
        return Regularisers(self.opacity_reg / n, self.scale_reg / (3 * n * extent))

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
        """Refine when the schedule says so; then disturb the faint ones."""
        if schedule.refines_at(step):
            self._relocate(optimizer, generator)
            self._add(optimizer, generator)
        self._disturb(optimizer.params, generator, means_lr)

    def shrink(self, budget: int, optimizer: SplatOptimizer) -> None:
        """Go on with a smaller budget, keeping the most opaque (memory ran out)."""
        self.budget = budget
        keep_most_opaque(optimizer, budget)

    def state_dict(self) -> dict[str, Any]:
        return {"budget": self.budget, "growth": self.growth}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.budget, self.growth = int(state["budget"]), float(state["growth"])

    def _relocate(self, optimizer: SplatOptimizer, generator: torch.Generator) -> None:
        opacities = torch.sigmoid(optimizer.params["opacities"].detach())
        dead = torch.nonzero(opacities <= self.min_opacity)[:, 0]
        alive = torch.nonzero(opacities > self.min_opacity)[:, 0]
        if not len(dead) or not len(alive):
            return
        source = alive[draw_indices(opacities[alive], len(dead), generator)]
        self._thin_out(optimizer, source)
        rows = {name: p.detach()[source] for name, p in optimizer.params.items()}
        optimizer.write(dead, rows)

    def _add(self, optimizer: SplatOptimizer, generator: torch.Generator) -> None:
        n = len(optimizer)
        count = min(self.budget, math.ceil(n * self.growth)) - n
        if count <= 0:
            return
        opacities = torch.sigmoid(optimizer.params["opacities"].detach())
        source = draw_indices(opacities, count, generator)
        self._thin_out(optimizer, source)
        optimizer.append({name: p.detach()[source] for name, p in optimizer.params.items()})

    def _thin_out(self, optimizer: SplatOptimizer, source: Tensor) -> None:
        """Make the Gaussians at `source` (with repeats) what each of their copies shall be."""
        params = optimizer.params
        chosen, copies = torch.unique(source, return_counts=True)
        opacities, scales = relocated(
            torch.sigmoid(params["opacities"].detach()[chosen]),
            torch.exp(params["scales"].detach()[chosen]),
            copies + 1,
        )
        opacities = opacities.clamp(self.min_opacity, 1.0 - 1e-6)
        optimizer.write(chosen, {"opacities": torch.logit(opacities), "scales": torch.log(scales)})

    def _disturb(self, params: Params, generator: torch.Generator, means_lr: float) -> None:
        means, quats, scales, opacities = (
            params[name].detach() for name in ("means", "quats", "scales", "opacities")
        )
        strength = self.noise * means_lr
        if not means.is_cuda:
            from splat_assets.training.cpu_kernels import disturb

            seed = int(torch.randint(2**62, (1,), generator=generator))
            disturb(means, quats, scales, opacities, strength, seed)
            return
        # the gate sigmoid(100 (0.005 - opacity)) is below 1e-4 beyond 0.1: leave those alone
        faint = torch.nonzero(opacities < math.log(0.1 / 0.9))[:, 0]
        gate = torch.sigmoid(100.0 * (0.005 - torch.sigmoid(opacities[faint])))
        white = torch.randn((len(faint), 3), generator=generator, device=means.device)
        white *= (gate * strength)[:, None]
        variances = torch.exp(2.0 * scales[faint])
        # covariance × noise = R S² Rᵀ noise
        local = rotate_by_quats(quats[faint], white, inverse=True) * variances
        means.index_add_(0, faint, rotate_by_quats(quats[faint], local))


def relocated(opacities: Tensor, scales: Tensor, copies: Tensor) -> tuple[Tensor, Tensor]:
    """Opacity and scale of each of `copies` Gaussians that together look like one (eq. 9).

    With o' = 1 - (1 - o)^(1/N), the paper's double sum collapses, by the hockey-stick identity, to
    scale' = scale · o / Σ_j C(N, j) (-1)^(j-1) o'^j / √j.

    Args:
        opacities: [M] in 0..1.   scales: [M, 3].   copies: [M] integers ≥ 1, the original counted.
    """
    n = copies.clamp(1, _MAX_COPIES)
    o = opacities.double().clamp(1e-9, 1.0 - 1e-6)
    new = -torch.expm1(torch.log1p(-o) / n)
    j = torch.arange(1, _MAX_COPIES + 1, device=o.device, dtype=torch.float64)
    weights = _series(str(o.device))[n - 1]
    denominator = (weights * new[:, None] ** j).sum(dim=1)
    factor = (o / denominator).to(scales.dtype)
    return new.to(opacities.dtype), scales * factor[:, None]


@lru_cache(maxsize=4)
def _series(device: str) -> Tensor:
    """[51, 51] C(N, j) (-1)^(j-1) / √j, row N - 1, column j - 1."""
    rows = [
        [math.comb(n, j) * (-1.0) ** (j - 1) / math.sqrt(j) for j in range(1, _MAX_COPIES + 1)]
        for n in range(1, _MAX_COPIES + 1)
    ]
    return torch.tensor(rows, dtype=torch.float64, device=device)


def keep_most_opaque(optimizer: SplatOptimizer, count: int) -> None:
    """Drop all but the `count` most opaque Gaussians, keeping their order."""
    if len(optimizer) > count:
        order = torch.argsort(optimizer.params["opacities"].detach(), descending=True, stable=True)
        optimizer.select(torch.sort(order[:count]).values)
