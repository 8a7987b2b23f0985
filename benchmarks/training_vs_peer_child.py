"""The parts of `training_vs_peer` that are measured as processes of their own, and the scoring.

    python -m benchmarks.training_vs_peer_child train POSES OUT STEPS MAX_GAUSSIANS SEED
    python -m benchmarks.training_vs_peer_child pace POSES PLY STEPS

`train` is our trainer as it ships, into the empty folder OUT. `pace` trains the splat PLY on with
a constant number of Gaussians at full resolution and prints CPU seconds a step.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.training_vs_peer_scenes import HOLD_OUT_EVERY, LONG_SIDE, Split
from splat_assets.compute import Compute, select_compute
from splat_assets.datasets.options import TrainOptions
from splat_assets.gaussians.ply import read_ply
from splat_assets.poses.pose_model import PoseModel
from splat_assets.progress import silent
from splat_assets.rendering.cpu.team import set_threads
from splat_assets.rendering.render import View, render_views
from splat_assets.training.dataset import load_training_set
from splat_assets.training.evaluate import mean_scores, score_view
from splat_assets.training.optimizer import NAMES, SplatOptimizer
from splat_assets.training.scene import frame_from_cameras
from splat_assets.training.schedule import plan
from splat_assets.training.train import make_strategy, train_splat
from splat_assets.training.trainer import Trainer

_WARM_UP_STEPS = 20


def score(ply: Path, split: Split, background: float = 0.0) -> dict[str, Any]:
    """Held-out PSNR and SSIM of any 3DGS PLY, drawn by our renderer, and its size.

    `background` is one grey level; transparent pictures are laid over it too.
    """
    data = split.data()
    gaussians = read_ply(ply)
    behind = torch.full((3,), background)
    scores = []
    for index in data.test:
        view, sample = data.views[index], data.sample(index, background=behind)
        camera = View(view.viewmat, view.K, view.width, view.height)
        picture = next(render_views(gaussians, [camera], background=[background] * 3))
        image = torch.from_numpy(np.clip(picture.rgb, 0.0, 1.0))
        scores.append(score_view(image, sample.image, view.name, sample.mask))
    data.close()
    psnr_db, ssim = mean_scores(scores)
    return {"psnr_db": psnr_db, "ssim": ssim, "num_gaussians": len(gaussians)}


def train(poses: Path, out: Path, *, steps: int, max_gaussians: int, seed: int) -> None:
    """One run of ours. The cleanup that asks the held-out views is off, and so is the correction of
    exposure: it leaves held-out photos at an exposure of their own, and the peer has none."""
    options = TrainOptions(
        steps=steps,
        max_gaussians=max_gaussians,
        long_side=LONG_SIDE,
        test_every=HOLD_OUT_EVERY,
        cleanup=False,
        exposure="off",
        seed=seed,
    )
    train_splat(
        PoseModel.open(poses), out, options=options, compute=select_compute("cpu"),
        progress=silent(),
    )  # fmt: skip


def pace(poses: Path, ply: Path, steps: int) -> float:
    """CPU seconds a training step takes from the splat `ply`, all SH bands, nothing refined."""
    compute = select_compute("cpu")
    set_threads(compute.threads)
    torch.set_num_threads(1)  # as in `train_splat`: the kernels have the threads
    _steps_from(poses, ply, _WARM_UP_STEPS, compute)
    return _steps_from(poses, ply, steps, compute).cpu_seconds / steps


def _steps_from(poses: Path, ply: Path, steps: int, compute: Compute) -> Trainer:
    model, gaussians = PoseModel.open(poses), read_ply(ply)
    data = load_training_set(model, long_side=LONG_SIDE, test_every=HOLD_OUT_EVERY)
    frame = frame_from_cameras(data.views, model.points().xyz)
    options = TrainOptions(
        steps=steps,
        max_gaussians=len(gaussians),
        long_side=LONG_SIDE,
        progressive_resolution=False,
    )
    schedule = replace(
        plan(options, long_side=LONG_SIDE),
        refine_from=steps,
        refine_until=steps,
        sh_every=0,  # all bands from the start
        eval_every=steps,
    )
    tensors = {name: torch.from_numpy(np.array(getattr(gaussians, name))) for name in NAMES}
    optimizer = SplatOptimizer(tensors, schedule.learning_rates(frame.extent))
    strategy = make_strategy(schedule, len(gaussians), len(gaussians), views=len(data.train))
    trainer = Trainer(data, frame, schedule, optimizer, strategy, compute=compute, seed=0)
    trainer.run(silent())
    data.close()
    return trainer


def main() -> None:
    match sys.argv[1:]:
        case ["train", poses, out, steps, max_gaussians, seed]:
            train(
                Path(poses), Path(out), steps=int(steps), max_gaussians=int(max_gaussians),
                seed=int(seed),
            )  # fmt: skip
        case ["pace", poses, ply, steps]:
            print(pace(Path(poses), Path(ply), int(steps)))
        case _:
            raise SystemExit(__doc__)


if __name__ == "__main__":
    main()
