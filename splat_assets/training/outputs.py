"""What training leaves behind besides the splat: cameras, scores, pictures, the curve.

`cameras.json` with `views/` makes the artifact self-contained for the stages after it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from splat_assets.artifacts.manifest import write_text_atomic
from splat_assets.compute import Compute
from splat_assets.gaussians.gaussians import Gaussians
from splat_assets.progress import Progress
from splat_assets.training.dataset import TrainingSet
from splat_assets.training.evaluate import (
    ViewScore,
    evaluation_background,
    mean_scores,
    render_pair,
    score_fully,
    score_views,
)
from splat_assets.training.lpips import load_lpips

_MAX_RENDERS = 24  # side-by-side pictures written
_MAX_TRAIN_SCORES = 8


def to_gaussians(params: Mapping[str, Tensor]) -> Gaussians:
    """Training parameters as storage arrays; quaternions normalised."""
    arrays: dict[str, Any] = {
        name: tensor.detach().cpu().float().numpy() for name, tensor in params.items()
    }
    lengths = np.linalg.norm(arrays["quats"].astype(np.float64), axis=1, keepdims=True)
    identity = np.array([1.0, 0.0, 0.0, 0.0])
    quats = np.where(lengths > 0, arrays["quats"] / np.maximum(lengths, 1e-30), identity)
    return Gaussians(**{**arrays, "quats": quats.astype(np.float32)})


def write_evaluation(
    out: Path,
    params: Mapping[str, Tensor],
    data: TrainingSet,
    *,
    sh_degree: int,
    compute: Compute,
    progress: Progress,
) -> dict[str, Any]:
    """Score all held-out views, write `eval.json`, `views/` and `renders/`; the contents of the
    former are returned. Without held-out views some training views are shown, and no mean given.
    """
    shown = data.test or _spread(data.train, 4)
    lpips, about_lpips = load_lpips(compute.device)
    scores = []
    for number, index in enumerate(shown):
        progress.update(number / len(shown), f"Scoring view {number + 1} of {len(shown)}")
        image, photo, mask = render_pair(params, data, index, sh_degree=sh_degree, compute=compute)
        scores.append(score_fully(image, photo, data.views[index].name, mask, lpips))
        if number < _MAX_RENDERS:
            _write_side_by_side(out / "renders" / f"{number:03d}.jpg", photo, image)
        if data.test:
            _write_png(out / "views" / f"{number:03d}.png", photo)
            if mask is not None:
                _write_png(out / "views" / f"{number:03d}.mask.png", mask)
        del image, photo, mask  # else they stay until the next ones are complete
    report: dict[str, Any] = {
        "background": evaluation_background(data, "cpu").tolist(),
        "split": "test" if data.test else "train",
        "num_test_views": len(data.test),
        "views": [_row(score) for score in scores],
    }
    report |= {"lpips_net": about_lpips} if lpips else {"lpips_absent": about_lpips}
    if data.test:
        psnr_db, ssim = mean_scores(scores)
        corrected = sum(score.psnr_corrected_db for score in scores) / len(scores)
        report |= {
            "psnr_db": round(psnr_db, 4),
            "ssim": round(ssim, 5),
            "psnr_corrected_db": round(corrected, 4),
        }
        perceived = [score.lpips for score in scores if score.lpips is not None]
        if perceived:
            report["lpips"] = round(sum(perceived) / len(perceived), 5)
        train_scores = score_views(
            params,
            data,
            _spread(data.train, _MAX_TRAIN_SCORES),
            sh_degree=sh_degree,
            compute=compute,
        )
        # the gap to the held-out figure says how far the run has overfitted
        report["train_psnr_db"] = round(mean_scores(train_scores)[0], 4)
    write_text_atomic(out / "eval.json", json.dumps(report, indent=1) + "\n")
    return report


def write_cameras(out: Path, data: TrainingSet) -> None:
    """`cameras.json`: every view at training resolution, the held-out ones with their photos."""
    number_of = {index: number for number, index in enumerate(data.test)}
    entries = []
    for index, view in enumerate(data.views):
        photo = mask = None
        if index in number_of:
            stem = f"views/{number_of[index]:03d}"
            photo = f"{stem}.png"
            mask = f"{stem}.mask.png" if view.mask is not None else None
        entries.append(
            {
                "name": view.name,
                "width": view.width,
                "height": view.height,
                "K": view.K.tolist(),
                "viewmat": view.viewmat.tolist(),
                "is_test": view.is_test,
                "photo": photo,
                "mask": mask,
            }
        )
    write_text_atomic(out / "cameras.json", json.dumps({"views": entries}) + "\n")


def write_curve(out: Path, curve: list[dict[str, float]]) -> None:
    """`training.parquet`: step, loss, psnr_db, num_gaussians, seconds."""
    import pandas as pd

    kinds = {
        "step": "int64",
        "loss": "float64",
        "psnr_db": "float64",
        "num_gaussians": "int64",
        "seconds": "float64",
    }
    pd.DataFrame(curve, columns=list(kinds)).astype(kinds).to_parquet(out / "training.parquet")


def _row(score: ViewScore) -> dict[str, Any]:
    row: dict[str, Any] = {
        "name": score.name,
        "psnr_db": round(score.psnr_db, 4),
        "ssim": round(score.ssim, 5),
        "psnr_corrected_db": round(score.psnr_corrected_db, 4),
    }
    return row if score.lpips is None else {**row, "lpips": round(score.lpips, 5)}


def _spread(indices: list[int], count: int) -> list[int]:
    """At most `count` of the indices, evenly spaced."""
    chosen = np.linspace(0, len(indices) - 1, min(count, len(indices))).round().astype(int)
    return [indices[i] for i in dict.fromkeys(chosen.tolist())]


def _write_side_by_side(path: Path, photo: Tensor, image: Tensor) -> None:
    path.parent.mkdir(exist_ok=True)
    pixels = np.concatenate([_to_uint8(photo), _to_uint8(image)], axis=1)
    Image.fromarray(pixels).save(path, quality=92)


def _write_png(path: Path, pixels: Tensor) -> None:
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(_to_uint8(pixels)).save(path)


def _to_uint8(pixels: Tensor) -> np.ndarray:
    return (pixels.clamp(0, 1) * 255.0 + 0.5).to("cpu").numpy().astype(np.uint8)
