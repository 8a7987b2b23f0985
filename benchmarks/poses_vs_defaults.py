"""Camera poses against pycolmap's own defaults, side by side in one run.

    python -m benchmarks.poses_vs_defaults [--data FOLDER] [--preset preview] [--only NAME …]

Writes `benchmarks/results/poses_vs_defaults.md` when all inputs were measured.

Both sides get the same frames (made by our frames stage) and solve them on this machine in this
process; features, matching and mapping are timed, in CPU seconds of all threads. The defaults are
`extract_features`, `match_exhaustive` and `incremental_mapping` with no option changed but the
seed; cameras are shared and EXIF focal lengths taken as on our side.

Pose error: on the synthetic capture the distance of camera centres from the truth. On real photos
the distance of matched points from their epipolar lines under the poses, in pixels, over pairs
that both sides registered; the points are features of pictures reduced to 0.8 of their size, which
neither side has used, and are verified by a fundamental matrix alone.
"""

from __future__ import annotations

import argparse
import platform
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pycolmap

from splat_assets.compute import available_threads
from splat_assets.datasets.options import FrameOptions, PoseOptions, SourceOptions
from splat_assets.datasets.presets import PRESETS
from splat_assets.demo import center_errors, make_capture
from splat_assets.demo.truth import Truth
from splat_assets.frames.extract import extract_frames
from splat_assets.frames.frame_set import FrameSet
from splat_assets.poses.features import FeaturePlan, Workspace, create_database, make_workspace
from splat_assets.poses.ladder import make_scene, reconstruct
from splat_assets.poses.native import hush
from splat_assets.poses.report import Stopwatch
from splat_assets.progress import silent
from splat_assets.sources.fetch import fetch_raw_dataset

JUDGE_SHARE = 0.8
RESULTS = Path(__file__).parent / "results" / "poses_vs_defaults.md"
REAL = ("photos_banana", "drone_caliterra", "video_walkaround")


@dataclass(frozen=True)
class Side:
    """One line of the result."""

    cpu_seconds: float
    wall_seconds: float
    registered: int
    reprojection_error_px: float
    pose_error: float  # of the scene's size (synthetic) or epipolar pixels (real)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--preset", default="preview", choices=sorted(PRESETS))
    parser.add_argument("--only", nargs="*", default=["synthetic", *REAL])
    arguments = parser.parse_args()
    hush()
    options = PoseOptions(**PRESETS[arguments.preset].poses)
    lines = _head(arguments.preset)
    for name in arguments.only:
        with tempfile.TemporaryDirectory() as scratch:
            count, compared = compare(name, arguments, options, Path(scratch))
        ratio = compared["defaults"].cpu_seconds / compared["ours"].cpu_seconds
        for side, f in compared.items():
            unit = "% of the scene" if name == "synthetic" else "px"
            error = f.pose_error * (100 if name == "synthetic" else 1)
            gain = f"{ratio:.1f} x" if side == "ours" else ""
            lines.append(
                f"| {name} | {side} | {f.cpu_seconds:.1f} | {f.wall_seconds:.1f} | {f.registered} "
                f"of {count} | {f.reprojection_error_px:.3f} | {error:.3f} {unit} | {gain} |"
            )
            print(lines[-1], flush=True)
    if set(arguments.only) >= {"synthetic", *REAL}:
        RESULTS.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _head(preset: str) -> list[str]:
    command = "python -m benchmarks.poses_vs_defaults"
    machine = (
        f"{platform.machine()}, {available_threads()} threads, pycolmap {pycolmap.__version__}"
    )
    columns = (
        "input", "side", "CPU s", "wall s", "registered", "reproj. error px", "pose error", "faster"
    )  # fmt: skip
    return [
        f"# Camera poses against pycolmap's defaults, preset `{preset}`",
        "",
        f"`{command}` on {machine}. Pose error: of the camera centres against the exact ones "
        "(synthetic), or of matches that neither side used from their epipolar lines (photos).",
        "",
        "| " + " | ".join(columns) + " |",
        "|" + "---|" * len(columns),
    ]


def compare(
    name: str, arguments: argparse.Namespace, options: PoseOptions, scratch: Path
) -> tuple[int, dict[str, Side]]:
    """Number of frames, and both sides' figures."""
    truth = None
    source = arguments.data / name
    if name == "synthetic":
        capture = make_capture(scratch / "capture")
        truth, source = capture.truth, capture.photos
    if name.startswith("video"):
        source = next(source.glob("*.mp4"))
    frames = _frames(source, arguments.preset, scratch)
    kept = frames.kept()
    solved = {}
    for side, solve in (("defaults", _solve_by_defaults), ("ours", _solve_by_us)):
        workspace = make_workspace(scratch / side, frames, kept)
        wall, cpu = time.monotonic(), time.process_time()
        model = solve(workspace, frames, options)
        solved[side] = (time.process_time() - cpu, time.monotonic() - wall, model)
    models = {side: model for side, (_, _, model) in solved.items()}
    if truth is not None:
        errors = {side: _center_error(truth, model, frames) for side, model in models.items()}
    else:
        errors = _epipolar_errors(make_workspace(scratch / "judge", frames, kept), frames, models)
    return len(kept), {
        side: Side(
            cpu,
            wall,
            model.num_reg_images(),
            model.compute_mean_reprojection_error(),
            errors[side],
        )
        for side, (cpu, wall, model) in solved.items()
    }


def _frames(source: Path, preset: str, scratch: Path) -> FrameSet:
    raw_folder, frames_folder = scratch / "raw", scratch / "frames"
    raw_folder.mkdir()
    frames_folder.mkdir()
    raw = fetch_raw_dataset(
        str(source.resolve()),
        raw_folder,
        options=SourceOptions(),
        previous=None,
        progress=silent(),
    )
    options = FrameOptions(**PRESETS[preset].frames)
    return extract_frames(raw, frames_folder, options=options, progress=silent())


def _solve_by_us(
    workspace: Workspace, frames: FrameSet, options: PoseOptions
) -> pycolmap.Reconstruction:
    best, _ = reconstruct(
        workspace,
        make_scene(frames, frames.kept()),
        options,
        threads=available_threads(),
        stopwatch=Stopwatch(),
        progress=silent(),
    )
    return best.models[0]


def _solve_by_defaults(
    workspace: Workspace, frames: FrameSet, options: PoseOptions
) -> pycolmap.Reconstruction:
    _match_by_defaults(workspace, frames)
    out = workspace.folder / "models"
    out.mkdir()
    models = pycolmap.incremental_mapping(workspace.database, workspace.images, out)
    return max(models.values(), key=lambda model: model.num_reg_images())


def _match_by_defaults(workspace: Workspace, frames: FrameSet, share: float = 1.0) -> None:
    kept = frames.kept()
    pycolmap.set_random_seed(0)
    create_database(workspace, kept, "auto", FeaturePlan(0, 0))
    options = pycolmap.FeatureExtractionOptions()
    if share != 1.0:
        options.max_image_size = round(share * kept[["width", "height"]].to_numpy().max())
    pycolmap.extract_features(workspace.database, workspace.images, extraction_options=options)
    pycolmap.match_exhaustive(workspace.database)


def _center_error(truth: Truth, model: pycolmap.Reconstruction, frames: FrameSet) -> float:
    """Root mean square distance of the centres as a fraction of the scene's size."""
    names = dict(enumerate(frames.kept()["name"], start=1))
    images = [image for image in model.images.values() if image.has_pose]
    centers = np.array([image.projection_center() for image in images])
    errors = center_errors(truth, tuple(names[image.image_id] for image in images), centers)
    return float(np.sqrt((errors**2).mean()))


def _epipolar_errors(
    judge: Workspace, frames: FrameSet, models: dict[str, pycolmap.Reconstruction]
) -> dict[str, float]:
    """Median over pairs of the pairs' median epipolar distance, in pixels."""
    _match_by_defaults(judge, frames, JUDGE_SHARE)
    registered = [
        {number for number, image in model.images.items() if image.has_pose}
        for model in models.values()
    ]
    common = set.intersection(*registered)
    medians: dict[str, list[float]] = {side: [] for side in models}
    with pycolmap.Database.open(judge.database) as database:
        keypoints = {n: database.read_keypoints(n)[:, :2].astype(np.float64) for n in common}
        pair_ids, geometries = database.read_two_view_geometries()
    for pair_id, geometry in zip(pair_ids, geometries, strict=True):
        i, j = pycolmap.pair_id_to_image_pair(pair_id)
        if i not in common or j not in common or len(geometry.inlier_matches) < 30:
            continue
        a = keypoints[i][geometry.inlier_matches[:, 0]]
        b = keypoints[j][geometry.inlier_matches[:, 1]]
        for side, model in models.items():
            medians[side].append(_epipolar_px(model, i, j, a, b))
    return {side: float(np.median(values)) for side, values in medians.items()}


def _epipolar_px(
    model: pycolmap.Reconstruction, i: int, j: int, a: np.ndarray, b: np.ndarray
) -> float:
    """Median Sampson distance of matches `a`, `b` [M, 2], scaled to pixels by the focal length."""
    first, second = model.images[i], model.images[j]
    camera_i, camera_j = model.cameras[first.camera_id], model.cameras[second.camera_id]
    relative = second.cam_from_world() * first.cam_from_world().inverse()
    E = pycolmap.essential_matrix_from_pose(relative)
    x = np.column_stack(
        [np.asarray(camera_i.cam_from_img(np.ascontiguousarray(a))), np.ones(len(a))]
    )
    y = np.column_stack(
        [np.asarray(camera_j.cam_from_img(np.ascontiguousarray(b))), np.ones(len(b))]
    )
    Ex, Ety = x @ E.T, y @ E
    algebraic = np.abs((y * Ex).sum(axis=1))
    sampson = algebraic / np.sqrt((Ex[:, :2] ** 2).sum(1) + (Ety[:, :2] ** 2).sum(1))
    focal = (camera_i.mean_focal_length() + camera_j.mean_focal_length()) / 2
    return float(np.median(sampson) * focal)


if __name__ == "__main__":
    main()
