"""The training loop: one view a step, densification by a strategy, checkpoints, and guards.

Everything that decides the result (order of views, backgrounds, noise, schedule) comes from seeded
state that the checkpoint holds; the clock decides only when to report and to save.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from splat_assets.compute import Compute
from splat_assets.errors import Cancelled, UserError
from splat_assets.progress import Progress
from splat_assets.rendering.cpu.buffers import release
from splat_assets.rendering.l1_ssim import l1_ssim
from splat_assets.training.blur import blurred
from splat_assets.training.contribution import Survey, survey
from splat_assets.training.dataset import Sample, TrainingSet
from splat_assets.training.evaluate import mean_scores, score_views
from splat_assets.training.guards import finite_rows, keep_clear
from splat_assets.training.optimizer import SplatOptimizer
from splat_assets.training.per_view import PerView
from splat_assets.training.plateau import should_end
from splat_assets.training.scene import SceneFrame
from splat_assets.training.schedule import Schedule
from splat_assets.training.step import Regularisers, shoot

_LAMBDA_SSIM = 0.2
_REPORT_STEPS = 10
_REPORT_SEC = 0.5
_CURVE_VIEWS = 6  # held-out views scored during training
_MAX_BAD_STEPS = 20
_MAX_MEMORY_RETRIES = 6
_PRUNING_VIEWS = 64  # looked at to prune by contribution, spread over all training views


class Strategy(Protocol):
    """How Gaussians come and go; see `mcmc`, `gradient` and `multiview`."""

    needs_absgrad: bool
    budget: int

    def regularisers(self, count: int, extent: float) -> Regularisers: ...
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
    ) -> None: ...
    def shrink(self, budget: int, optimizer: SplatOptimizer) -> None: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class Trainer:
    """One run, from its current step to the end of its schedule."""

    def __init__(
        self,
        data: TrainingSet,
        frame: SceneFrame,
        schedule: Schedule,
        optimizer: SplatOptimizer,
        strategy: Strategy,
        *,
        compute: Compute,
        seed: int,
        per_view: PerView | None = None,
    ) -> None:
        self.per_view = per_view or PerView()
        self.data, self.frame, self.schedule = data, frame, schedule
        self.optimizer, self.strategy, self.compute = optimizer, strategy, compute
        self.step = 0
        self.curve: list[dict[str, float]] = []
        self.warnings: list[str] = []
        self.dropped_non_finite = 0  # Gaussians
        self.non_finite_steps = 0  # left out, or (seen on the CPU only) with such gradients
        self._order: list[int] = []
        self._centers = torch.from_numpy(np.float32(data.train_centers)).to(compute.device)
        self._views_rng = torch.Generator().manual_seed(seed)
        self._noise_rng = torch.Generator(compute.device).manual_seed(seed + 1)
        self._bad_steps = 0
        self._loss = math.nan
        self._seconds = 0.0
        self._cpu_seconds = 0.0

    def run(
        self,
        progress: Progress,
        *,
        checkpoint_every_sec: float = math.inf,
        save: Callable[[dict[str, Any]], None] | None = None,
    ) -> None:
        """Train to the end. On `Cancelled`, and every so often, `save` gets the state. In the end
        the optimiser's memory is given back: there is no going on.

        Raises `UserError` when the loss stays non-finite, or memory runs out on CUDA even with a
        much smaller budget.
        """
        clock = _Clock(self)
        saved = reported = time.monotonic()
        psnr_db = self.curve[-1]["psnr_db"] if self.curve else math.nan
        try:
            while self.step < self.schedule.steps:
                self._train_one(progress)
                clock.tick()
                last = self.step == self.schedule.steps
                if self.step % self.schedule.eval_every == 0 or last:
                    psnr_db = self._record()
                    self._end_where_nothing_is_gained()
                now = time.monotonic()
                if last or self.step % _REPORT_STEPS == 0 or now - reported > _REPORT_SEC:
                    reported = now
                    self._report(progress, psnr_db)
                if save and not last and now - saved > checkpoint_every_sec:
                    save(self.state_dict())
                    saved = time.monotonic()
        except Cancelled:
            if save:
                save(self.state_dict())
            raise
        self.optimizer.forget_moments()
        release()

    def add_time(self, seconds: float, cpu_seconds: float) -> None:
        """Count what was spent on the run outside it (finding the initial Gaussians)."""
        self._seconds += seconds
        self._cpu_seconds += cpu_seconds

    @property
    def seconds(self) -> float:
        """Wall seconds of training, earlier parts of a resumed run included."""
        return self._seconds

    @property
    def cpu_seconds(self) -> float:
        """CPU seconds of this process, earlier parts of a resumed run included."""
        return self._cpu_seconds

    @property
    def params(self) -> dict[str, Tensor]:
        """The current parameters, detached, before activation."""
        return {name: p.detach() for name, p in self.optimizer.params.items()}

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint holds."""
        return {
            "step": self.step,
            "steps": self.schedule.steps,
            "ended_at": self.schedule.ended_at,
            "optimizer": self.optimizer.state_dict(),
            "strategy": self.strategy.state_dict(),
            "per_view": self.per_view.state_dict(),
            "order": list(self._order),
            "views_rng": self._views_rng.get_state(),
            "noise_rng": self._noise_rng.get_state(),
            "noise_device": torch.device(self.compute.device).type,
            "curve": self.curve,
            "warnings": self.warnings,
            "dropped_non_finite": self.dropped_non_finite,
            "non_finite_steps": self.non_finite_steps,
            "seconds": self._seconds,
            "cpu_seconds": self._cpu_seconds,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken. Tensors may be taken over as they are."""
        self.step = int(state["step"])
        if state["ended_at"] is not None:
            self.schedule = self.schedule.ending(int(state["ended_at"]))
        self.optimizer.load_state_dict(state["optimizer"])
        device = self.compute.device
        self.strategy.load_state_dict(
            {
                key: value.to(device) if isinstance(value, Tensor) else value
                for key, value in state["strategy"].items()
            }
        )
        self.per_view.load_state_dict(state["per_view"])
        self._order = list(state["order"])
        self._views_rng.set_state(state["views_rng"])
        if state["noise_device"] == torch.device(device).type:
            self._noise_rng.set_state(state["noise_rng"])
        else:  # another device has another generator; go on from a state of its own
            self._noise_rng.manual_seed(self._noise_rng.initial_seed() + self.step)
        self.curve = list(state["curve"])
        self.warnings = list(state["warnings"])
        self.dropped_non_finite = int(state["dropped_non_finite"])
        self.non_finite_steps = int(state["non_finite_steps"])
        self._seconds = float(state["seconds"])
        self._cpu_seconds = float(state["cpu_seconds"])

    def _train_one(self, progress: Progress) -> None:
        """One step; on CUDA, again with fewer Gaussians when memory runs out."""
        index = self._next_view()
        for _ in range(_MAX_MEMORY_RETRIES):
            try:
                self._step_on(index)
                self.step += 1
                return
            except torch.cuda.OutOfMemoryError:
                self.optimizer.drop_gradients()
                budget = max(100, int(0.7 * min(self.strategy.budget, len(self.optimizer))))
                self.strategy.shrink(budget, self.optimizer)
                torch.cuda.empty_cache()
                text = f"GPU memory ran out at step {self.step}; going on with {budget} Gaussians."
                self.warnings.append(text)
                progress.warn(text)
        raise UserError(
            "GPU memory runs out even with few Gaussians; train with a smaller long_side."
        )

    def _step_on(self, index: int) -> None:
        schedule, optimizer = self.schedule, self.optimizer
        factor = schedule.resolution_at(self.step)
        if self._order:
            self.data.prefetch(self._order[-1], factor)
        background = self._background()
        sample = self.data.sample(
            index, factor=factor, background=background, device=self.compute.device
        )
        blur = schedule.blur_at(self.step)
        if blur > 0:
            sample = replace(sample, image=blurred(sample.image, sample.mask, blur))
        rates = schedule.learning_rates(self.frame.extent, self.step)
        for name, rate in rates.items():
            optimizer.set_learning_rate(name, rate)
        info = self._learn(index, sample, background)
        if info is None:
            return
        self.per_view.step(self.step)
        self.strategy.after_step(
            self.step,
            schedule,
            optimizer,
            info,
            self._noise_rng,
            means_lr=rates["means"],
            extent=self.frame.extent,
            look=self._look,
        )
        if schedule.min_contribution_px > 0 and self.step == schedule.refine_until:
            self._prune_negligible()
        if schedule.keeps_clear_at(self.step):
            keep_clear(self.params, self._centers, schedule.camera_clearance, self.frame.extent)
        if schedule.refines_at(self.step) or self.step == schedule.steps - 1:
            self._drop_non_finite()

    def _learn(self, index: int, sample: Sample, background: Tensor) -> dict[str, Any] | None:
        """Render, loss, gradients and Adam; None when the loss is not finite and the step void."""
        shot = shoot(
            self.optimizer,
            self.per_view.posed(index, sample),
            sh_degree=self.schedule.sh_degree_at(self.step),
            background=background,
            compute=self.compute,
            absgrad=self.strategy.needs_absgrad,
            depth=self.per_view.needs_depth,
        )
        image = self.per_view.exposed(index, shot.image)
        loss = l1_ssim(image, sample.image, mask=sample.mask, lambda_ssim=_LAMBDA_SSIM)
        self._loss = float(loss.detach())
        if not math.isfinite(self._loss):
            self._skip()
            return None
        self._bad_steps = 0
        extra = self.per_view.loss(index, shot.info)
        weights = self.strategy.regularisers(len(self.optimizer), self.frame.extent)
        if not shot.learn(loss if extra is None else loss + extra, self.optimizer, weights):
            self.non_finite_steps += 1
        return shot.info

    def _skip(self) -> None:
        """Leave this step out, and with it the Gaussians that spoil it; not for ever."""
        self.non_finite_steps += 1
        self._bad_steps += 1
        self._drop_non_finite()
        if self._bad_steps > _MAX_BAD_STEPS:
            raise UserError(
                f"Training diverged at step {self.step} (the loss is {self._loss}); "
                "check the camera poses and images of this dataset."
            )

    def _look(self, count: int) -> Survey:
        """What the Gaussians contribute to `count` training views, drawn at random."""
        order = torch.randperm(len(self.data.train), generator=self._views_rng)
        return self._survey([self.data.train[i] for i in order[:count].tolist()])

    def _survey(self, indices: list[int]) -> Survey:
        return survey(
            self.params,
            self.data,
            indices,
            sh_degree=self.schedule.sh_degree_at(self.step),
            compute=self.compute,
            factor=self.schedule.resolution_at(self.step),
            exposed=self.per_view.exposed,
        )

    def _prune_negligible(self) -> None:
        """Remove the Gaussians that hardly contribute to any training view."""
        train = self.data.train
        spread = torch.linspace(0, len(train) - 1, min(_PRUNING_VIEWS, len(train))).round()
        found = self._survey([train[int(i)] for i in dict.fromkeys(spread.tolist())])
        keep = ~found.negligible(self.schedule.min_contribution_px)
        if keep.any() and not keep.all():
            self.optimizer.select(keep)

    def _end_where_nothing_is_gained(self) -> None:
        """Begin the last phase once the held-out views say so."""
        schedule = self.schedule
        known = [p["psnr_db"] for p in self.curve if p["step"] > schedule.settled_from]
        if schedule.ended_at is None and should_end(
            known, patience=schedule.patience, target_psnr_db=schedule.target_psnr_db
        ):
            self.schedule = schedule.ending(self.step)

    def _drop_non_finite(self) -> bool:
        """Remove Gaussians with non-finite parameters; False when none was found, or all are."""
        finite = finite_rows(self.params)
        bad = int((~finite).sum())
        if bad and bad < len(finite):
            self.optimizer.select(finite)
            self.dropped_non_finite += bad
        return 0 < bad < len(finite)

    def _next_view(self) -> int:
        """Views in random order, each once before any comes again."""
        if not self._order:
            order = torch.randperm(len(self.data.train), generator=self._views_rng)
            self._order = [self.data.train[i] for i in order.tolist()]
        return self._order.pop()

    def _background(self) -> Tensor:
        """Random with alpha, so that nothing opaque can hide in the background's colour."""
        if self.data.has_alpha:
            colour = torch.rand(3, generator=self._views_rng)
        else:
            colour = torch.zeros(3)
        return colour.to(self.compute.device)

    def _record(self) -> float:
        """Append a point to the curve; the held-out PSNR, NaN without held-out views."""
        psnr_db = math.nan
        if self.data.test:
            spread = torch.linspace(0, len(self.data.test) - 1, _CURVE_VIEWS).round().tolist()
            views = list(dict.fromkeys(self.data.test[int(i)] for i in spread))
            scores = score_views(
                self.params,
                self.data,
                views,
                sh_degree=self.schedule.sh_degree_at(self.step),
                compute=self.compute,
            )
            psnr_db = mean_scores(scores)[0]
        self.curve.append(
            {
                "step": self.step,
                "loss": self._loss,
                "psnr_db": psnr_db,
                "num_gaussians": len(self.optimizer),
                "seconds": self._seconds,
            }
        )
        return psnr_db

    def _report(self, progress: Progress, psnr_db: float) -> None:
        figures: dict[str, float] = {
            "step": self.step,
            "loss": self._loss,
            "num_gaussians": len(self.optimizer),
        }
        if math.isfinite(psnr_db):
            figures["psnr_db"] = psnr_db
        progress.update(
            self.step / self.schedule.steps,
            f"Training, step {self.step} of {self.schedule.steps}",
            **figures,
        )


class _Clock:
    """Adds wall and CPU time to a trainer."""

    def __init__(self, trainer: Trainer) -> None:
        self._trainer = trainer
        self._wall, self._cpu = time.monotonic(), time.process_time()

    def tick(self) -> None:
        wall, cpu = time.monotonic(), time.process_time()
        self._trainer._seconds += wall - self._wall
        self._trainer._cpu_seconds += cpu - self._cpu
        self._wall, self._cpu = wall, cpu
