"""What compression cost in the picture: the decoded splat against the uncompressed one, and both
against the photos, over views that training did not see."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from splat_assets.compute import Compute
from splat_assets.gaussians.gaussians import Gaussians
from splat_assets.gaussians.splat_model import View
from splat_assets.progress import Progress
from splat_assets.viewing.camera import turn_view

MAX_VIEWS = 12
_MAX_PSNR = 100.0  # of an exact match


@dataclass(frozen=True)
class ViewLoss:
    """One view's figures; those against the photo are None where there is none."""

    name: str
    psnr_vs_splat_db: float
    ssim_vs_splat: float
    psnr_before_db: float | None = None
    psnr_after_db: float | None = None
    ssim_before: float | None = None
    ssim_after: float | None = None


@dataclass(frozen=True)
class Quality:
    """The figures of all views; means are over views, as papers report them."""

    views: tuple[ViewLoss, ...]

    def mean(self, name: str) -> float | None:
        values = [getattr(view, name) for view in self.views]
        known = [value for value in values if value is not None]
        return float(np.mean(known)) if known else None

    @property
    def worst(self) -> ViewLoss:
        return min(self.views, key=lambda view: view.psnr_vs_splat_db)

    def to_dict(self) -> dict[str, Any]:
        """Means under their names, the loss against photos, the worst view, and the table."""
        names = [f.name for f in fields(ViewLoss) if f.name != "name"]
        means = {name: self.mean(name) for name in names}
        out: dict[str, Any] = {k: round(v, 4) for k, v in means.items() if v is not None}
        before, after = means["psnr_before_db"], means["psnr_after_db"]
        if before is not None and after is not None:
            out["psnr_loss_db"] = round(before - after, 4)
            out["ssim_loss"] = round((means["ssim_before"] or 0) - (means["ssim_after"] or 0), 5)
        out["num_views"] = len(self.views)
        out["worst_view"] = self.worst.name
        out["views"] = [
            {k: round(v, 4) if isinstance(v, float) else v for k, v in asdict(view).items()}
            for view in self.views
        ]
        return out


def choose_views(views: list[View]) -> list[View]:
    """The held-out views with a photo, else all, at most `MAX_VIEWS` of them, evenly spread."""
    held_out = [view for view in views if view.photo]
    pool = held_out or views
    chosen = np.unique(np.linspace(0, len(pool) - 1, min(MAX_VIEWS, len(pool))).round().astype(int))
    return [pool[i] for i in chosen]


def measure_loss(
    before: Gaussians,
    after: Gaussians,
    views: list[View],
    *,
    compute: Compute,
    progress: Progress,
    background: tuple[float, float, float] = (0.0, 0.0, 0.0),
    folder: Path | None = None,
    rotation: np.ndarray | None = None,
) -> Quality:
    """Render both splats in every view and compare.

    Args:
        views: in the frame of `before`.
        folder: below which the views' photos and masks are.
        rotation: [3, 3] by which `after` has been turned.
    """
    turned = views if rotation is None else [turn_view(view, rotation) for view in views]
    losses = []
    pictures = zip(
        views,
        draw_views(before, views, background=background, compute=compute),
        draw_views(after, turned, background=background, compute=compute),
        strict=True,
    )
    progress.update(0.0, f"Comparing {len(views)} views")
    for number, (view, one, two) in enumerate(pictures, start=1):
        figures: dict[str, float] = {}
        if folder is not None and view.photo:
            photo, mask = load_photo(folder, view)
            figures["psnr_before_db"], figures["ssim_before"] = _compare(one, photo, mask)
            figures["psnr_after_db"], figures["ssim_after"] = _compare(two, photo, mask)
        losses.append(ViewLoss(view.name, *_compare(two, one, None), **figures))
        progress.update(number / len(views), f"Compared view {number} of {len(views)}")
    return Quality(tuple(losses))


def draw_views(
    gaussians: Gaussians,
    views: list[View],
    *,
    background: tuple[float, float, float],
    compute: Compute,
) -> Iterator[np.ndarray]:
    """Pictures [H, W, 3] float32 in 0..1, one at a time."""
    from splat_assets.rendering import render

    cameras = [render.View(view.viewmat, view.K, view.width, view.height) for view in views]
    for picture in render.render_views(
        gaussians, cameras, background=background, device=compute.device
    ):
        yield np.clip(picture.rgb, 0.0, 1.0)


def psnr(image: np.ndarray, other: np.ndarray, mask: np.ndarray | None = None) -> float:
    """dB for peak 1 over the pixels where `mask` [H, W] counts; at most 100."""
    squared = (image.astype(np.float64) - other) ** 2
    error = squared.mean() if mask is None else np.average(squared.mean(-1), weights=mask)
    return min(_MAX_PSNR, -10 * math.log10(max(float(error), 1e-10)))


def _compare(image: np.ndarray, other: np.ndarray, mask: np.ndarray | None) -> tuple[float, float]:
    """(PSNR, SSIM)."""
    import torch

    from splat_assets.rendering.l1_ssim import ssim

    weight = None if mask is None else torch.from_numpy(mask)
    value = ssim(torch.from_numpy(image), torch.from_numpy(other), mask=weight)
    return psnr(image, other, mask), float(value)


def load_photo(folder: Path, view: View) -> tuple[np.ndarray, np.ndarray | None]:
    """Photo [H, W, 3] and mask [H, W] or None, float32 in 0..1."""
    from PIL import Image

    assert view.photo is not None
    with Image.open(folder / view.photo) as image:
        photo = np.asarray(image.convert("RGB"), np.float32) / 255
    if view.mask is None:
        return photo, None
    with Image.open(folder / view.mask) as image:
        mask = np.asarray(image.convert("L"), np.float32) / 255
    return photo, mask if mask.any() else None
