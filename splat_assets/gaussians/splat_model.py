"""`SplatModel`: a trained splat with its held-out views, self-contained for what comes after."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from splat_assets.artifacts.contract import ArtifactFolder

CHECKPOINT = "training.ckpt"  # of an unfinished training, in its resume folder


@dataclass(frozen=True)
class View:
    """One camera at training resolution, as stored in `cameras.json`."""

    name: str
    width: int
    height: int
    K: np.ndarray  # [3, 3]
    viewmat: np.ndarray  # [4, 4] world → camera, OpenCV axes
    is_test: bool
    photo: str | None  # path below the artifact of the photo at this size (held-out views only)
    mask: str | None = None


@dataclass(frozen=True)
class SplatModel(ArtifactFolder):
    """Layout: `splat.ply` (3DGS), `cameras.json` (all views), `views/<n>.png` (held-out photos at
    training resolution) and optional `views/<n>.mask.png`, `renders/<n>.jpg` (photo | render side
    by side), `training.parquet` (step, loss, psnr_db, num_gaussians, seconds), `eval.json` (figures
    and a per-view table), `manifest.json`. Checkpoints live in the resume folder, outside.

    `manifest.summary`: `num_gaussians`, `ply_bytes`, `psnr_db`, `ssim` (absent without held-out
    views), `num_test_views`, `steps`, `seconds`, `cpu_seconds`, `peak_memory_bytes`, `backend`,
    `device`, `resumed_from_step`, `sh_degree`, `scene_up` (unit vector), `scene_center`,
    `scene_radius`, `scene_units` (metres where GPS aligned the poses), `unregistered`, `cleanup`
    (removed and kept by kind, PSNR before and after), `psnr_corrected_db` (after the affine map of
    colours that fits each photo best), `lpips` and `exposure_spread` where there are any.
    """

    KIND: ClassVar[str] = "trained_splat"

    @property
    def ply(self) -> Path:
        return self.path / "splat.ply"

    def views(self) -> list[View]:
        """All views in `cameras.json`; empty when the splat came without cameras."""
        path = self.path / "cameras.json"
        if not path.exists():
            return []
        entries = json.loads(path.read_text(encoding="utf-8"))["views"]
        return [
            View(
                **{
                    **entry,
                    "K": np.array(entry["K"], dtype=np.float64),
                    "viewmat": np.array(entry["viewmat"], dtype=np.float64),
                }
            )
            for entry in entries
        ]

    def evaluation(self) -> dict[str, Any]:
        path = self.path / "eval.json"
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
