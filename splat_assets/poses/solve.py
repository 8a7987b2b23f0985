"""The `camera_poses` stage: frames become posed, undistorted images and sparse points.

Poses that came with the dataset are taken as they are; otherwise COLMAP solves them. A video whose
camera stands still has none to find: the stage then ends at once and says so.
"""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from splat_assets.artifacts.manifest import build_manifest, link_or_copy, write_manifest
from splat_assets.compute import available_threads
from splat_assets.datasets.options import PoseOptions
from splat_assets.errors import UserError
from splat_assets.frames.frame_set import FrameSet
from splat_assets.poses.features import make_workspace
from splat_assets.poses.given import has_given_poses, read_given
from splat_assets.poses.gps import GpsAlignment, align_to_gps
from splat_assets.poses.ladder import make_scene, reconstruct
from splat_assets.poses.mapping import extract_colors
from splat_assets.poses.native import hush
from splat_assets.poses.parallax import CameraMotion, camera_motions, no_parallax
from splat_assets.poses.pose_model import PoseModel
from splat_assets.poses.report import Stopwatch, image_rows, summarise, write_report
from splat_assets.poses.sparse_model import (
    ScenePoint,
    View,
    build_model,
    points_of,
    views_of,
)
from splat_assets.poses.transforms_json import write_transforms
from splat_assets.poses.undistort import undistort_views
from splat_assets.progress import Progress

MIN_IMAGES = 3
POINT_CLOUD = "sparse/0/points3D.ply"  # where 3DGS keeps it too
_VERSIONED = ("images/", "masks/", "sparse/", "transforms.json")


@dataclass(frozen=True)
class _Solution:
    """Views with their original cameras, points, and what summary and report say of them."""

    views: list[View]
    points: dict[int, ScenePoint]
    summary: dict[str, Any]
    report: dict[str, Any] = field(default_factory=dict)


def solve_poses(
    frames: FrameSet, out: Path, *, options: PoseOptions, progress: Progress
) -> PoseModel:
    """Write the poses of `frames` into the empty folder `out` and return them.

    Of a video whose camera stands still the artifact is empty but for `report.json`, and
    `PoseModel.skipped` says why.

    Two runs with equal frames and options give equal files (up to about 200 images; larger sets
    are solved in several threads and agree to rounding).

    Raises:
        UserError: too few frames, photos that do not overlap, or given poses that are damaged.
        Cancelled: stopped; `out` is left empty, as after any error.
    """
    try:
        hush()
        if frames.skipped is not None:
            return _skip(frames, out, options)
        return _solve(frames, out, options, progress)
    except BaseException:
        for path in out.iterdir():
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink()
        raise


def _solve(frames: FrameSet, out: Path, options: PoseOptions, progress: Progress) -> PoseModel:
    kept = frames.kept()
    threads = available_threads()
    stopwatch = Stopwatch()
    motions: list[CameraMotion] = []
    if has_given_poses(frames):
        solution = _take_given(frames, kept)
    else:
        if frames.ordered and options.check_motion:
            with stopwatch.stage("motion"):
                motions = camera_motions(frames, kept, options.seed, progress.span(0, 0.05))
            still = no_parallax(motions)
            if still is not None:
                return _stand_still(out, still, motions, len(kept), options, progress)
            for motion in motions:
                if motion.stands and len(motions) > 1:
                    progress.warn(f"The camera {motion.name} stands still and helps little.")
        # a native call that was left behind by a cancel may still be writing there
        with tempfile.TemporaryDirectory(
            prefix=".work-", dir=out, ignore_cleanup_errors=True
        ) as scratch:
            solution = _run_colmap(
                frames, kept, Path(scratch), options, threads, stopwatch, progress.span(0.05, 0.9)
            )
        if motions:
            solution.report["motion"] = [motion.to_dict() for motion in motions]
            kinds = {motion.kind for motion in motions}
            stand = any(motion.stands for motion in motions)
            solution.summary["camera_motion"] = (
                "moves" if "moves" in kinds else "places" if stand else "unknown"
            )
    with stopwatch.stage("undistort"):
        views = undistort_views(
            solution.views, frames, out, threads=threads, progress=progress.span(0.9, 0.97)
        )
    progress.update(0.97, "Writing the model")
    return _write(frames, kept, out, solution, views, options, stopwatch, progress)


def _stand_still(
    out: Path,
    reason: str,
    motions: list[CameraMotion],
    num_frames: int,
    options: PoseOptions,
    progress: Progress,
) -> PoseModel:
    """An artifact that only says that there is nothing to solve, and what was measured."""
    kinds = {motion.kind for motion in motions}
    summary = {
        "num_frames": num_frames,
        "num_registered": 0,
        "camera_motion": "turns" if kinds == {"turns"} else "fixed",
    }
    write_report(out / "report.json", {**summary, "motion": [m.to_dict() for m in motions]})
    manifest = build_manifest(
        out,
        PoseModel.KIND,
        versioned=("report.json",),
        summary=summary,
        options=options.model_dump(mode="json"),
        skipped=reason,
    )
    write_manifest(out, manifest)
    progress.update(1.0, reason)
    return PoseModel.open(out)


def _take_given(frames: FrameSet, kept: pd.DataFrame) -> _Solution:
    given = read_given(frames, kept)
    summary = {
        "mapper": "given",
        "matching": "given",
        "attempts": 0,
        "other_models": [],
        "poses_given": True,
        "gps_aligned": False,
    }
    report = {"source": given.origin, "attempts": []}
    return _Solution(list(given.views), given.points, summary, report)


def _run_colmap(
    frames: FrameSet,
    kept: pd.DataFrame,
    scratch: Path,
    options: PoseOptions,
    threads: int,
    stopwatch: Stopwatch,
    progress: Progress,
) -> _Solution:
    if len(kept) < MIN_IMAGES:
        raise UserError(
            f"Camera poses need at least {MIN_IMAGES} overlapping photos and there are "
            f"{len(kept)}; take 20 or more around the scene."
        )
    workspace = make_workspace(scratch, frames, kept)
    scene = make_scene(frames, kept)
    best, attempts = reconstruct(
        workspace, scene, options, threads=threads, stopwatch=stopwatch, progress=progress
    )
    if best.registered < MIN_IMAGES:
        raise UserError(_no_model(len(kept), attempts[-1].mean_features))
    model = best.models[0]
    with stopwatch.stage("colors"):
        extract_colors(model, workspace.images, threads)
    alignment = GpsAlignment(False, "there are no GPS positions")
    if not options.use_gps:
        alignment = GpsAlignment(False, "use_gps is off")
    elif scene.positions is not None and scene.origin is not None:
        by_link = {
            link: position
            for link, position in zip(workspace.links, scene.positions, strict=True)
            if np.isfinite(position).all()
        }
        alignment = align_to_gps(model, by_link, scene.origin, options.seed)
    names = dict(zip(workspace.links, workspace.names, strict=True))
    chosen = max(attempts, key=lambda a: (a.num_registered, -(a.reprojection_error_px or 0)))
    summary = {
        "mapper": chosen.mapper,
        "matching": chosen.matching,
        "attempts": len(attempts),
        "other_models": list(chosen.models[1:]),
        "poses_given": False,
        "gps_aligned": alignment.aligned,
    }
    report = {
        "source": "COLMAP",
        "attempts": [attempt.to_dict() for attempt in attempts],
        "gps": asdict(alignment),
    }
    return _Solution(views_of(model, names), points_of(model), summary, report)


def _no_model(count: int, mean_features: float) -> str:
    if mean_features < 100:
        return (
            f"The {count} photos show too little texture to find cameras from (about "
            f"{mean_features:.0f} features each); take sharp, well lit photos of a textured scene."
        )
    return (
        f"No common scene was found in the {count} photos, so there are no camera poses; "
        "take photos that overlap by two thirds while walking around the subject."
    )


def _write(
    frames: FrameSet,
    kept: pd.DataFrame,
    out: Path,
    solution: _Solution,
    views: list[View],
    options: PoseOptions,
    stopwatch: Stopwatch,
    progress: Progress,
) -> PoseModel:
    """Write sparse model, transforms, report and, last, the manifest."""
    points = solution.points
    model = build_model(views, points)
    sparse = out / "sparse" / "0"
    sparse.mkdir(parents=True)
    model.write_binary(sparse)
    if points:
        model.export_PLY(out / POINT_CLOUD)
    test_images = [
        str(row["name"])
        for _, row in kept.iterrows()
        if row["split"] == "test" and any(view.name == row["name"] for view in views)
    ]
    masked = {view.name for view in views if (out / "masks" / f"{view.name}.png").exists()}
    write_transforms(
        out / "transforms.json",
        views,
        masked=masked,
        test_images=test_images,
        point_cloud=POINT_CLOUD if points else None,
    )
    rows = image_rows(kept, views, points)
    summary = summarise(kept, views, points, rows, **solution.summary)
    write_report(
        out / "report.json",
        {
            **summary,
            **solution.report,
            "test_images": test_images,
            "cameras": _describe_cameras(solution.views),
            **stopwatch.to_dict(),
            "images": rows,
        },
    )
    manifest = build_manifest(
        out,
        PoseModel.KIND,
        versioned=_VERSIONED,
        summary=summary,
        options=options.model_dump(mode="json"),
    )
    write_manifest(out, manifest)
    progress.update(
        1.0,
        f"{len(views)} of {len(kept)} images registered",
        registered=len(views),
        points=len(points),
    )
    return PoseModel.open(out)


def _describe_cameras(views: list[View]) -> list[dict[str, Any]]:
    """The cameras before undistortion."""
    described: dict[int, dict[str, Any]] = {}
    for view in views:
        entry = described.setdefault(
            view.camera_id,
            {
                "model": view.camera.model_name,
                "width": int(view.camera.width),
                "height": int(view.camera.height),
                "params": [float(p) for p in view.camera.params],
                "num_images": 0,
            },
        )
        entry["num_images"] += 1
    return list(described.values())


def _skip(frames: FrameSet, out: Path, options: PoseOptions) -> PoseModel:
    """Nothing to pose: pass on what the source brought."""
    for path in sorted(p for p in frames.given.rglob("*") if p.is_file()):
        link_or_copy(path, out / "given" / path.relative_to(frames.given))
    manifest = build_manifest(
        out,
        PoseModel.KIND,
        summary={"num_frames": 0, "num_registered": 0},
        options=options.model_dump(mode="json"),
        skipped=frames.skipped,
    )
    write_manifest(out, manifest)
    return PoseModel.open(out)
