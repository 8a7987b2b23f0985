"""What a finished training leaves that no photo asked for: unseen Gaussians, floaters, giants.

Each kind is removed only if the held-out views do not suffer for it (the training views, where none
is held out), so that a sky of giants or a corner that a single photo shows stays where it is real.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from splat_assets.compute import Compute
from splat_assets.rendering.rasterize import rasterize
from splat_assets.training.dataset import TrainingSet
from splat_assets.training.evaluate import mean_scores, score_views
from splat_assets.training.scene import SceneFrame

MAX_LOSS_DB = 0.05  # held-out, all kinds together
_MIN_WEIGHT = 0.1  # pixels' worth of colour, below which a Gaussian is not seen by a view
_MIN_VIEWS = 2
_NEAR = 0.3  # of a camera's distance to the middle: what hangs before it, if hardly another sees it
_MOSTLY = 0.9  # of a Gaussian's weight in one view
_MIN_TRAIN_VIEWS = 6  # with fewer, being seen once is nothing unusual
_HUGE = 1.0  # largest standard deviation, of the extent of the cameras
_FAR = 20.0  # distance to the centre, of the extent
_JUDGES = 12  # views that are scored


@dataclass(frozen=True)
class SceneCleanup:
    """What was removed by kind, what was kept for the views' sake, and the PSNR of both ends."""

    total: int
    removed: dict[str, int] = field(default_factory=dict)
    kept: dict[str, int] = field(default_factory=dict)
    judged_by: str = "test"
    psnr_before_db: float = float("nan")
    psnr_after_db: float = float("nan")

    def summary(self) -> dict[str, object]:
        """The entry `cleanup` of a `SplatModel`'s summary."""
        return {
            "removed": self.removed,
            "kept": self.kept,
            "judged_by": self.judged_by,
            "psnr_before_db": round(self.psnr_before_db, 4),
            "psnr_after_db": round(self.psnr_after_db, 4),
        }


def clean_scene(
    params: Mapping[str, Tensor],
    data: TrainingSet,
    frame: SceneFrame,
    *,
    sh_degree: int,
    compute: Compute,
    report: Callable[[float], None] = lambda fraction: None,
) -> tuple[Tensor, SceneCleanup]:
    """[N] bool, the Gaussians to keep, and what that changes.

    Args:
        params: before activation, on the device of `compute`.
        report: told the fraction done, now and then; may raise to stop.
    """
    kinds = _suspects(params, data, frame, report)
    judges = _spread(data.test or data.train, _JUDGES)

    def psnr_of(keep: Tensor | None) -> float:
        rest = params if keep is None else {name: p[keep] for name, p in params.items()}
        scores = score_views(rest, data, judges, sh_degree=sh_degree, compute=compute)
        return mean_scores(scores)[0]

    total = len(params["means"])
    keep = torch.ones(total, dtype=torch.bool, device=params["means"].device)
    removed: dict[str, int] = {}
    kept: dict[str, int] = {}
    before = after = psnr_of(None)
    for kind, suspect in kinds.items():
        found = suspect & keep
        count = int(found.sum())
        rest = keep & ~found
        if not count or not bool(rest.any()):
            continue
        psnr_db = psnr_of(rest)
        if before - psnr_db <= MAX_LOSS_DB:
            keep, after = rest, psnr_db
            removed[kind] = count
        else:
            kept[kind] = count
    judged_by = "test" if data.test else "train"
    return keep, SceneCleanup(total, removed, kept, judged_by, before, after)


def _suspects(
    params: Mapping[str, Tensor],
    data: TrainingSet,
    frame: SceneFrame,
    report: Callable[[float], None],
) -> dict[str, Tensor]:
    """[N] bool by kind."""
    seen = count_views(params, data, frame.center, report)
    means, scales = params["means"].detach(), torch.exp(params["scales"].detach())
    center = torch.from_numpy(frame.center).to(means)
    kinds = {"unseen": (seen.views == 0) & (seen.total < _MIN_WEIGHT)}
    if len(data.train) >= _MIN_TRAIN_VIEWS:
        kinds["floaters"] = (seen.largest > _MOSTLY * seen.total) & (seen.nearness < _NEAR)
        kinds["seen once"] = (seen.views < _MIN_VIEWS) & ~kinds["floaters"]
    kinds["huge"] = scales.max(dim=1).values > _HUGE * frame.extent
    kinds["far outside"] = (means - center).norm(dim=1) > _FAR * frame.extent
    return kinds


@dataclass(frozen=True)
class Seen:
    """What N Gaussians lend to the training views. A weight is summed over a view's pixels."""

    views: Tensor  # [N] int64, that it lends colour to
    total: Tensor  # [N] float32, weights of all views
    largest: Tensor  # [N] float32, weight in the view that sees most of it
    nearness: Tensor  # [N] float32, depth there over that camera's distance to the middle


def count_views(
    params: Mapping[str, Tensor],
    data: TrainingSet,
    center: np.ndarray,
    report: Callable[[float], None] = lambda fraction: None,
) -> Seen:
    """Render every training view once, for the weights. `center` [3] is the scene's middle."""
    means = params["means"].detach()
    quats = params["quats"].detach()
    scales = torch.exp(params["scales"].detach())
    opacities = torch.sigmoid(params["opacities"].detach())
    count = torch.zeros(len(means), dtype=torch.int64, device=means.device)
    total = torch.zeros(len(means), device=means.device)
    largest = torch.zeros(len(means), device=means.device)
    nearness = torch.full((len(means),), torch.inf, device=means.device)
    for number, index in enumerate(data.train):
        report(number / len(data.train))
        view = data.views[index]
        # the derivative of the picture's sum by a Gaussian's colour is its weight
        colours = torch.zeros(len(means), 3, device=means.device, requires_grad=True)
        image, _, _ = rasterize(
            means, quats, scales, opacities, colours,
            torch.from_numpy(np.float32(view.viewmat))[None].to(means.device),
            torch.from_numpy(np.float32(view.K))[None].to(means.device),
            view.width, view.height,
        )  # fmt: skip
        image[..., 0].sum().backward()
        assert colours.grad is not None
        weight = colours.grad[:, 0]
        count += weight >= _MIN_WEIGHT
        total += weight
        viewmat = torch.from_numpy(np.float32(view.viewmat)).to(means.device)
        depth = means @ viewmat[2, :3] + viewmat[2, 3]
        reach = float(np.linalg.norm(view.viewmat[:3, :3] @ center + view.viewmat[:3, 3]))
        nearness = torch.where(weight > largest, depth / max(reach, 1e-9), nearness)
        largest = torch.maximum(largest, weight)
    return Seen(count, total, largest, nearness)


def _spread(indices: list[int], count: int) -> list[int]:
    chosen = np.linspace(0, len(indices) - 1, min(count, len(indices))).round().astype(int)
    return [indices[i] for i in dict.fromkeys(chosen.tolist())]
