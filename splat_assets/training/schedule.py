"""What happens when: every interval, ramp and rate as a function of the length of the run.

The published recipes are written for 30 000 steps; cut short they never leave their warm-up. Here
each interval is a fraction of the run, so that 300 steps and 30 000 steps are both whole runs, and
a run that ends early still passes through its last phase.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from splat_assets.datasets.options import TrainOptions

StrategyName = Literal["mcmc", "gradient", "multiview"]
Stages = tuple[tuple[int, float], ...]  # (first step, value), ascending

# Adam's rates in a run of 30 000 steps (those of 3DGS), and how they grow with its shortness: a
# run of a hundredth of the steps gets 100 to that power times the rate.
_LONG_RUN, _SHORT_RUN = 30_000, 300
_RATES = {
    "means": (1.6e-4, 0.55),  # × scene extent
    "scales": (5e-3, 0.4),
    "quats": (1e-3, 0.4),
    "opacities": (5e-2, 0.2),
    "sh0": (2.5e-3, 0.4),
    "shN": (2.5e-3 / 20, 0.4),
}
_MEANS_FINAL = (0.01, 0.4)  # of the first at the end; likewise
_LATE, _LATE_FINAL = 0.7, 0.2  # from this part of the run the other rates fall to this
_RESOLUTION = ((0.0, 0.25), (0.1, 0.5), (0.25, 1.0))  # from this part of the run, this factor
_BLUR = ((0.0, 2.4), (0.1, 1.2), (0.25, 0.6), (0.5, 0.0))  # standard deviation in pixels
_MIN_PIXELS = 240  # of the long side; smaller pictures save 6 % of the time and cost 0.2 dB
_WIND_DOWN = 0.15  # of the steps so far, when a run ends early


@dataclass(frozen=True)
class Schedule:
    """The plan of one run. Steps count from 0."""

    steps: int  # where the run ends
    planned: int  # where it was to end at the start
    sh_degree: int
    strategy: StrategyName
    refine_from: int
    refine_until: int
    refine_every: int
    sh_every: int  # steps between two SH degrees; 0: all from the start
    ramp: Stages  # resolution factors
    blur: Stages  # of the target pictures, standard deviation in pixels
    eval_every: int
    rates: Mapping[str, float]  # at the first step; "means" × scene extent
    means_final: float  # the means' last rate, of their first
    init_opacity: float
    init_scale: float  # × mean distance to the three nearest neighbours
    patience: int = 0  # end after so many scores without gain; 0: never
    target_psnr_db: float | None = None  # end when it is reached
    min_contribution_px: float = 0.0  # prune what adds less to any view, after the refinement
    camera_clearance: float = 0.0  # distance to the nearest camera over the largest scale; 0: any
    ended_at: int | None = None  # when it was decided to end early

    def position(self, step: int) -> float:
        """How much of the plan has passed, 0..1; an early end hurries through the rest."""
        start = step if self.ended_at is None else min(step, self.ended_at)
        passed = min(start / max(self.planned, 1), 1.0)
        if self.ended_at is None or step <= self.ended_at:
            return passed
        hurried = (step - self.ended_at) / max(self.steps - self.ended_at, 1)
        return min(passed + (1.0 - passed) * hurried, 1.0)

    def sh_degree_at(self, step: int) -> int:
        """The number of SH bands in use: one more every `sh_every` steps."""
        if self.sh_every == 0:
            return self.sh_degree
        return min(self.sh_degree, int(self.position(step) * self.planned + 0.5) // self.sh_every)

    def resolution_at(self, step: int) -> float:
        """The factor by which training images are reduced."""
        return _at(self.ramp, step)

    def blur_at(self, step: int) -> float:
        """Standard deviation, in pixels at that step's resolution, of the targets' blur."""
        return _at(self.blur, step)

    def learning_rates(self, extent: float, step: int = 0) -> dict[str, float]:
        """Adam's rate of each parameter: the means' decays throughout, as 3DGS has it, the others
        late in the run."""
        position = self.position(step)
        late = _LATE_FINAL ** (max(0.0, position - _LATE) / (1.0 - _LATE))
        rates = {name: rate * late for name, rate in self.rates.items()}
        rates["means"] = self.rates["means"] * extent * self.means_final**position
        return rates

    def refines_at(self, step: int) -> bool:
        """Whether Gaussians are added, moved or removed after this step."""
        inside = self.refine_from <= step < self.refine_until
        return inside and (step - self.refine_from) % self.refine_every == 0

    def keeps_clear_at(self, step: int) -> bool:
        """Whether Gaussians that grew too large near a camera are shrunk after this step."""
        due = step % self.refine_every == 0 or step == self.steps - 1
        return due and self.camera_clearance > 0

    @property
    def refinements(self) -> int:
        """How often `refines_at` is true."""
        return len(range(self.refine_from, self.refine_until, self.refine_every))

    @property
    def settled_from(self) -> int:
        """The first step at full resolution with sharp targets: scores before it may fall."""
        return max(self.ramp[-1][0], self.blur[-1][0])

    def ending(self, step: int) -> Schedule:
        """This plan when it is decided after `step` steps that the rest would gain little: no more
        refinement, and all rates fall to their ends within 15 % more steps."""
        if self.ended_at is not None:
            return self
        end = min(self.steps, step + max(1, round(_WIND_DOWN * step)))
        return replace(self, steps=end, ended_at=step, refine_until=min(self.refine_until, step))


def plan(options: TrainOptions, *, long_side: int) -> Schedule:
    """The schedule for these options; `long_side` is the real one of the training images."""
    steps = options.steps
    strategy: StrategyName = "mcmc" if options.strategy == "auto" else options.strategy
    mcmc = strategy == "mcmc"
    stops_early = options.plateau_patience > 0 or options.target_psnr_db is not None
    return Schedule(
        steps=steps,
        planned=steps,
        sh_degree=options.sh_degree,
        strategy=strategy,
        refine_from=min(500, steps // 15),
        refine_until=int(steps * (0.85 if mcmc else 0.6)),
        # 100 steps in a run of 30 000, never so often that a refinement shows no effect
        refine_every=max(10, min(100, steps // 30)),
        sh_every=max(1, min(1000, steps // 8)) if options.sh_ramp else 0,
        ramp=_resolution_ramp(steps, long_side) if options.progressive_resolution else ((0, 1.0),),
        blur=_stages(_BLUR, steps) if options.progressive_blur else ((0, 0.0),),
        eval_every=max(1, steps // (30 if stops_early else 10)),
        rates={name: _for_length(steps, *rate) for name, rate in _RATES.items()},
        means_final=_for_length(steps, *_MEANS_FINAL),
        init_opacity=0.5 if mcmc else 0.1,
        init_scale=0.5 if mcmc else 1.0,
        patience=options.plateau_patience,
        target_psnr_db=options.target_psnr_db,
        min_contribution_px=options.min_contribution_px,
        camera_clearance=options.camera_clearance,
    )


def _for_length(steps: int, value: float, power: float) -> float:
    return value * (_LONG_RUN / min(max(steps, _SHORT_RUN), _LONG_RUN)) ** power


def _resolution_ramp(steps: int, long_side: int) -> Stages:
    stages = tuple(stage for stage in _RESOLUTION if stage[1] * long_side >= _MIN_PIXELS)
    return _stages(stages or ((0.0, 1.0),), steps)


def _stages(parts: tuple[tuple[float, float], ...], steps: int) -> Stages:
    """Parts of the run as steps; the first stage begins with the run."""
    stages = [(int(steps * at), value) for at, value in parts]
    return ((0, stages[0][1]), *stages[1:])


def _at(stages: Stages, step: int) -> float:
    return [value for first, value in stages if step >= first][-1]
