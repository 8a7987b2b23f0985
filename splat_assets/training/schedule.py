"""What happens when: every interval, ramp and rate as a function of the length of the run.

The published recipes are written for 30 000 steps; cut short they never leave their warm-up. Here
each interval is a fraction of the run, so that 300 steps and 30 000 steps are both whole runs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from splat_assets.datasets.options import TrainOptions

StrategyName = Literal["mcmc", "gradient"]

# Below this many steps relocation has no time to settle, and clone/split from few, large Gaussians
# gives better pictures (measured: see the benchmarks).
SHORT_RUN = 700
_LR_MEANS = 1.6e-4  # × scene extent; falls to 1 % of it, as in 3DGS
_LR_MEANS_FINAL = 0.01


@dataclass(frozen=True)
class Schedule:
    """The plan of one run of `steps` steps. Steps count from 0."""

    steps: int
    sh_degree: int
    strategy: StrategyName
    refine_from: int
    refine_until: int
    refine_every: int
    sh_every: int  # steps between two SH degrees
    ramp: tuple[tuple[int, float], ...]  # (first step, resolution factor), ascending
    eval_every: int
    means_rate: float  # × scene extent
    init_opacity: float
    init_scale: float  # × mean distance to the three nearest neighbours

    def sh_degree_at(self, step: int) -> int:
        """The number of SH bands in use: one more every `sh_every` steps."""
        return min(self.sh_degree, step // self.sh_every)

    def resolution_at(self, step: int) -> float:
        """The factor by which training images are reduced."""
        factor = 1.0
        for first, value in self.ramp:
            if step >= first:
                factor = value
        return factor

    def means_lr_at(self, step: int, extent: float) -> float:
        """Exponential decay, as 3DGS has it."""
        progress = min(step / max(self.steps, 1), 1.0)
        return self.means_rate * extent * _LR_MEANS_FINAL**progress

    def refines_at(self, step: int) -> bool:
        """Whether Gaussians are added, moved or removed after this step."""
        inside = self.refine_from <= step < self.refine_until
        return inside and (step - self.refine_from) % self.refine_every == 0

    @property
    def refinements(self) -> int:
        """How often `refines_at` is true."""
        return len(range(self.refine_from, self.refine_until, self.refine_every))

    def learning_rates(self, extent: float) -> dict[str, float]:
        """Adam's rate of each parameter at the first step."""
        return {
            "means": self.means_lr_at(0, extent),
            "scales": 5e-3,
            "quats": 1e-3,
            "opacities": 5e-2,
            "sh0": 2.5e-3,
            "shN": 2.5e-3 / 20,
        }


def plan(options: TrainOptions, *, long_side: int) -> Schedule:
    """The schedule for these options; `long_side` is the real one of the training images."""
    steps = options.steps
    strategy: StrategyName
    if options.strategy == "auto":
        strategy = "gradient" if steps < SHORT_RUN else "mcmc"
    else:
        strategy = options.strategy
    # 100 steps in a run of 30 000, never so often that a refinement shows no effect
    every = max(10, min(100, steps // 30))
    mcmc = strategy == "mcmc"
    return Schedule(
        steps=steps,
        sh_degree=options.sh_degree,
        strategy=strategy,
        refine_from=min(500, steps // 15),
        refine_until=int(steps * (0.85 if mcmc else 0.6)),
        refine_every=every,
        sh_every=max(1, min(1000, steps // 8)),
        ramp=_resolution_ramp(steps, long_side),
        eval_every=max(1, steps // 10),
        means_rate=_LR_MEANS,
        init_opacity=0.5 if mcmc else 0.1,
        init_scale=0.5 if mcmc else 1.0,
    )


def _resolution_ramp(steps: int, long_side: int) -> tuple[tuple[int, float], ...]:
    """Coarse first, but never below 120 pixels, where nothing is left to learn from."""
    stages = ((0.0, 0.25), (0.1, 0.5), (0.25, 1.0))
    ramp = [(int(steps * at), factor) for at, factor in stages if factor * long_side >= 120]
    return ((0, ramp[0][1]), *ramp[1:]) if ramp else ((0, 1.0),)
