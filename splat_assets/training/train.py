"""`train_splat`: from camera poses to a trained splat, the stage `trained_splat`.

It puts the parts together (views, initial Gaussians, schedule, strategy, trainer), resumes from a
checkpoint where one fits, and writes the artifact. A source that is already a splat is passed on.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from splat_assets.artifacts.manifest import build_manifest, write_manifest
from splat_assets.compute import Compute, peak_memory_bytes
from splat_assets.datasets.options import TrainOptions
from splat_assets.errors import UserError
from splat_assets.gaussians.cleanup import clean
from splat_assets.gaussians.ply import read_ply, write_ply
from splat_assets.gaussians.splat_model import SplatModel
from splat_assets.poses.pose_model import PoseModel
from splat_assets.progress import Progress
from splat_assets.rendering.cpu.team import set_threads
from splat_assets.rendering.warm_up import warm_up
from splat_assets.training.budget import automatic_budget
from splat_assets.training.checkpoint import fingerprint, load_checkpoint, save_checkpoint
from splat_assets.training.dataset import TrainingSet, load_training_set
from splat_assets.training.gradient import GradientStrategy
from splat_assets.training.initialise import initial_gaussians
from splat_assets.training.mcmc import MCMCStrategy
from splat_assets.training.multiview import MultiViewStrategy
from splat_assets.training.optimizer import SplatOptimizer
from splat_assets.training.outputs import (
    to_gaussians,
    write_cameras,
    write_curve,
    write_evaluation,
)
from splat_assets.training.per_view import make_per_view
from splat_assets.training.plane_sweep import DensePoints, dense_points
from splat_assets.training.scene import SceneFrame, frame_from_cameras, frame_from_gaussians
from splat_assets.training.scene_cleanup import clean_scene
from splat_assets.training.schedule import Schedule, plan
from splat_assets.training.trainer import Strategy, Trainer

# With few views stereo fits them from wrong depths: 4.4 dB lost on held-out views with six to
# train on, 1 to 3 dB gained with twelve and more.
_MIN_STEREO_VIEWS = 10
# Fewer training views than this raise the price of opacity in proportion, at most threefold: with
# 13 it gained 0.2 dB on the mean over four splits, with 40 and more it lost as much.
_PLENTY_OF_VIEWS, _MAX_STRICTNESS = 36, 3.0
_VERSIONED = ("splat.ply", "cameras.json", "eval.json", "views/")


def train_splat(
    poses: PoseModel,
    out: Path,
    *,
    options: TrainOptions,
    compute: Compute,
    resume_dir: Path | None = None,
    progress: Progress,
) -> SplatModel:
    """Train a splat on `poses` and write it to the empty folder `out`.

    Args:
        resume_dir: where the checkpoint lies and is written; it is left there on success, and the
            caller deletes it (`checkpoint.delete_checkpoint`) once the artifact is published.

    Raises:
        UserError: too few cameras, unreadable images, a damaged given splat, a diverged run.
        Cancelled: on request; the checkpoint in `resume_dir` then holds the last step.
    """
    given = poses.given / "splat.ply"
    if given.is_file():
        return _take_given(given, out, options=options, progress=progress)
    if poses.skipped is not None:
        raise UserError(poses.skipped)
    set_threads(compute.threads)
    if compute.device == "cpu":
        progress.update(0.0, "Compiling the kernels")  # or waiting for who does
        warm_up()
    with _torch_threads(compute.threads):
        data = load_training_set(poses, long_side=options.long_side, test_every=options.test_every)
        try:
            return _train(poses, data, out, options, compute, resume_dir, progress)
        finally:
            data.close()


def _train(
    poses: PoseModel,
    data: TrainingSet,
    out: Path,
    options: TrainOptions,
    compute: Compute,
    resume_dir: Path | None,
    progress: Progress,
) -> SplatModel:
    progress.update(0.0, f"Loading {len(data)} views")
    points = poses.points()
    gravity_is_z = bool(poses.summary.get("gps_aligned", False))
    frame = frame_from_cameras(data.views, points.xyz, gravity_is_z=gravity_is_z)
    schedule = plan(options, long_side=max(max(v.width, v.height) for v in data.views))
    mark = fingerprint(options, poses.data_version)
    state, reason = load_checkpoint(resume_dir, mark) if resume_dir else (None, "")
    if reason:
        progress.warn(reason)
    budget = options.max_gaussians or automatic_budget(data, compute)
    began = time.monotonic(), time.process_time()
    if state is None:
        tensors, origin = initial_gaussians(
            data,
            points,
            frame,
            budget=budget,
            sh_degree=options.sh_degree,
            init_opacity=schedule.init_opacity,
            init_scale=schedule.init_scale,
            seed=options.seed,
            dense=_dense(data, points.xyz, frame, budget, options, compute, progress),
        )
    else:
        origin = str(state["origin"])
        tensors = {name: entry["value"] for name, entry in state["optimizer"].items()}
    optimizer = SplatOptimizer(
        {name: tensor.to(compute.device) for name, tensor in tensors.items()},
        schedule.learning_rates(frame.extent),
        selective=options.selective_adam,
    )
    strategy = make_strategy(schedule, budget, len(optimizer), views=len(data.train))
    trainer = Trainer(
        data,
        frame,
        schedule,
        optimizer,
        strategy,
        compute=compute,
        seed=options.seed,
        per_view=make_per_view(poses, data, frame, options, compute),
    )
    trainer.add_time(time.monotonic() - began[0], time.process_time() - began[1])
    resumed_from = 0
    if state is not None:
        trainer.load_state_dict(state)
        resumed_from = trainer.step
        progress.update(0.05, f"Going on at step {resumed_from} of {schedule.steps}")
    del tensors, state  # not to stand beside what the optimiser makes of them

    if (schedule.patience or schedule.target_psnr_db) and not data.test:
        text = "There are no held-out views to stop early by; all planned steps are trained."
        if text not in trainer.warnings:
            trainer.warnings.append(text)
            progress.warn(text)

    def save(state: dict[str, Any]) -> None:
        if resume_dir:
            save_checkpoint(resume_dir, mark, {**state, "origin": origin})

    # the kernels share the CPU's threads; torch's own would spin beside them between small tasks
    with _torch_threads(1 if compute.device == "cpu" else compute.threads):
        trainer.run(
            progress.span(0.04, 0.95), checkpoint_every_sec=options.checkpoint_every_sec, save=save
        )
    return _write(
        trainer, poses, out, options, origin=origin, resumed_from=resumed_from, progress=progress
    )


def _dense(
    data: TrainingSet,
    sparse: np.ndarray,
    frame: SceneFrame,
    budget: int,
    options: TrainOptions,
    compute: Compute,
    progress: Progress,
) -> DensePoints | None:
    """Stereo points where the options want them."""
    fitting = len(data.train) >= _MIN_STEREO_VIEWS
    if options.dense_init == "off" or (options.dense_init == "auto" and not fitting):
        return None
    return dense_points(
        data,
        sparse,
        frame,
        wanted=budget,
        device=compute.device,
        progress=progress.span(0.01, 0.04),
    )


def make_strategy(schedule: Schedule, budget: int, initial: int, *, views: int) -> Strategy:
    """The strategy of the schedule, its growth such that the budget is reached when it ends.

    With few `views` to train on, what each Gaussian must prove itself by grows.
    """
    if schedule.strategy == "gradient":
        return GradientStrategy(budget)
    growth = (max(budget, 1) / max(initial, 1)) ** (1.0 / max(schedule.refinements, 1))
    if schedule.strategy == "multiview":
        return MultiViewStrategy(budget, growth=max(growth, 1.05))
    few = min(max(_PLENTY_OF_VIEWS / max(views, 1), 1.0), _MAX_STRICTNESS)
    return MCMCStrategy(
        budget, growth=max(growth, 1.05), opacity_reg=few * MCMCStrategy.opacity_reg
    )


def _write(
    trainer: Trainer,
    poses: PoseModel,
    out: Path,
    options: TrainOptions,
    *,
    origin: str,
    resumed_from: int,
    progress: Progress,
) -> SplatModel:
    """Splat, evaluation, curve, then the manifest."""
    data, compute, schedule = trainer.data, trainer.compute, trainer.schedule
    if trainer.per_view.cameras is not None:
        data.move(data.train, trainer.per_view.cameras.viewmats(data.viewmats(data.train)))
    gaussians, cleaned = clean(to_gaussians(trainer.params), drop_invisible=True)
    # what is scored is what is written
    written = {
        name: torch.from_numpy(getattr(gaussians, name)).to(compute.device)
        for name in trainer.params
    }
    tidied: dict[str, Any] = {}
    if options.cleanup and len(gaussians):
        keep, scene_cleanup = clean_scene(
            written,
            data,
            trainer.frame,
            sh_degree=gaussians.sh_degree,
            compute=compute,
            report=lambda fraction: progress.update(0.95 + 0.02 * fraction, "Removing floaters"),
        )
        written = {name: tensor[keep] for name, tensor in written.items()}
        gaussians = gaussians.select(keep.cpu().numpy())
        tidied = {"cleanup": scene_cleanup.summary()}
    write_ply(out / "splat.ply", gaussians)
    evaluation = write_evaluation(
        out,
        written,
        data,
        sh_degree=gaussians.sh_degree,
        compute=compute,
        progress=progress.span(0.97, 1.0),
    )
    write_cameras(out, data)
    write_curve(out, trainer.curve)
    summary: dict[str, Any] = {
        "num_gaussians": len(gaussians),
        "ply_bytes": (out / "splat.ply").stat().st_size,
        "num_test_views": len(data.test),
        "num_train_views": len(data.train),
        "steps": schedule.steps,
        "steps_planned": schedule.planned,
        "budget": trainer.strategy.budget,
        "seconds": round(trainer.seconds, 2),
        "cpu_seconds": round(trainer.cpu_seconds, 2),
        "peak_memory_bytes": peak_memory_bytes(compute.device),
        "backend": compute.backend,
        "device": compute.device,
        "threads": compute.threads,
        "resumed_from_step": resumed_from,
        "strategy": schedule.strategy,
        "sh_degree": gaussians.sh_degree,
        "initialised_from": origin,
        "width": max(view.width for view in data.views),
        "height": max(view.height for view in data.views),
        "background": evaluation["background"],
        "dropped": cleaned.describe(),
        **tidied,
        "dropped_non_finite": trainer.dropped_non_finite,
        "non_finite_steps": trainer.non_finite_steps,
        "warnings": trainer.warnings,
        **_registration(poses),
        **trainer.per_view.summary(),
        **trainer.frame.summary(),
    }
    if schedule.ended_at is not None:
        summary["stopped_early_at"] = schedule.ended_at
    for name in ("psnr_db", "ssim", "lpips", "psnr_corrected_db", "train_psnr_db"):
        if name in evaluation:
            summary[name] = evaluation[name]
    manifest = build_manifest(
        out,
        SplatModel.KIND,
        versioned=_VERSIONED,
        summary=summary,
        options=options.model_dump(mode="json"),
    )
    write_manifest(out, manifest)
    progress.update(1.0, f"{len(gaussians)} Gaussians trained")
    return SplatModel.open(out)


def _registration(poses: PoseModel) -> dict[str, Any]:
    """How many frames have a camera, and those that have none and were not trained on."""
    known: dict[str, Any] = poses.summary
    names = ("num_frames", "num_registered")
    found: dict[str, Any] = {name: known[name] for name in names if name in known}
    if known.get("unregistered"):
        found["unregistered"] = known["unregistered"]
    return {**found, "scene_units": "metres" if known.get("gps_aligned") else "arbitrary"}


def _take_given(given: Path, out: Path, *, options: TrainOptions, progress: Progress) -> SplatModel:
    """The source is a splat: check it, write it in the standard layout, and say so."""
    progress.update(0.1, "Reading the splat that was given")
    gaussians, report = clean(read_ply(given))
    frame: SceneFrame = frame_from_gaussians(gaussians)
    write_ply(out / "splat.ply", gaussians)
    if report.dropped:
        progress.warn(report.describe())
    summary = {
        "num_gaussians": len(gaussians),
        "ply_bytes": (out / "splat.ply").stat().st_size,
        "num_test_views": 0,
        "sh_degree": gaussians.sh_degree,
        "dropped": report.describe(),
        **frame.summary(),
    }
    manifest = build_manifest(
        out,
        SplatModel.KIND,
        versioned=_VERSIONED,
        summary=summary,
        options=options.model_dump(mode="json"),
        skipped="The source is already a Gaussian splat, so nothing was trained.",
    )
    write_manifest(out, manifest)
    progress.update(1.0, f"{len(gaussians)} Gaussians taken as given")
    return SplatModel.open(out)


@contextmanager
def _torch_threads(count: int) -> Iterator[None]:
    """Let torch use `count` CPU threads, and put its setting back afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(max(1, count))
    try:
        yield
    finally:
        torch.set_num_threads(before)
