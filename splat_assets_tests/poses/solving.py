"""Running the stage and looking at what it wrote."""

from __future__ import annotations

import hashlib
from pathlib import Path

from splat_assets.datasets.options import PoseOptions
from splat_assets.frames.frame_set import FrameSet
from splat_assets.poses.pose_model import PoseModel
from splat_assets.poses.solve import solve_poses
from splat_assets.progress import Progress, silent

VERSIONED = ("images/", "masks/", "sparse/", "transforms.json")


def solve(
    frames: FrameSet, out: Path, progress: Progress | None = None, **options: object
) -> PoseModel:
    """The stage with small features by default, into the new folder `out`."""
    out.mkdir(parents=True)
    chosen = {"feature_long_side": 640, "max_features": 2048, **options}
    return solve_poses(
        frames,
        out,
        options=PoseOptions.model_validate(chosen),
        progress=progress or silent(),
    )


def versioned_hashes(poses: PoseModel) -> dict[str, str]:
    """sha256 of the files that make up the data version, read anew."""
    found = {}
    for path in sorted(p for p in poses.path.rglob("*") if p.is_file()):
        name = path.relative_to(poses.path).as_posix()
        if name.startswith(VERSIONED):
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found
