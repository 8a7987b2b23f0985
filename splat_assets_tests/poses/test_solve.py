"""The stage as a whole: exact poses, readable by others, repeatable, stopped cleanly."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import pycolmap
import pytest
from PIL import Image

from splat_assets.artifacts.manifest import build_manifest, write_manifest
from splat_assets.errors import Cancelled, UserError
from splat_assets.frames.frame_set import FrameSet
from splat_assets.poses.pose_model import PoseModel
from splat_assets.progress import Progress, Report
from splat_assets_tests.data import Capture, compare_centers
from splat_assets_tests.paths import shared_data
from splat_assets_tests.poses.conftest import Solved
from splat_assets_tests.poses.frame_sets import frame_set
from splat_assets_tests.poses.solving import solve, versioned_hashes

OPENGL = np.diag([1.0, -1.0, -1.0, 1.0])


def test_cameras_match_the_truth(solved: Solved, small_capture: Capture) -> None:
    poses, truth = solved.poses, small_capture.truth
    poses.validate()
    cameras = poses.cameras()
    assert len(cameras) == 12
    assert compare_centers(truth, poses) < 0.005
    np.testing.assert_allclose(cameras.Ks[:, 0, 0], truth.K[0, 0], rtol=0.01)
    # turns between neighbours do not depend on the world's orientation
    order = [truth.names.index(Path(name).name) for name in cameras.names]
    found, true = cameras.viewmats[:, :3, :3], truth.viewmats[order, :3, :3]
    turns = np.einsum("nij,nkj->nik", found[1:], found[:-1])
    true_turns = np.einsum("nij,nkj->nik", true[1:], true[:-1])
    np.testing.assert_allclose(turns, true_turns, atol=np.deg2rad(0.3))


def test_colmap_reads_the_model(solved: Solved, capture_frames: FrameSet) -> None:
    poses = solved.poses
    model = pycolmap.Reconstruction(str(poses.sparse))
    assert model.num_reg_images() == 12
    assert {camera.model_name for camera in model.cameras.values()} == {"PINHOLE"}
    assert sorted(image.name for image in model.images.values()) == sorted(
        capture_frames.kept()["name"]
    )
    for image in model.images.values():
        camera = model.cameras[image.camera_id]
        with Image.open(poses.images / image.name) as picture:
            assert picture.size == (camera.width, camera.height)
    # every observation is where its point projects
    assert model.compute_mean_reprojection_error() < 1.0
    again = [
        np.linalg.norm(image.project_point(model.points3D[p.point3D_id].xyz) - p.xy)
        for image in model.images.values()
        for p in image.points2D
        if p.has_point3D()
    ]
    assert np.mean(again) == pytest.approx(poses.summary["reprojection_error_px"], rel=0.02)
    points = poses.points()
    assert len(points.xyz) == len(points.rgb) == poses.summary["num_points"] > 300
    assert points.rgb.std() > 20  # coloured from the photos
    assert np.nanmedian(points.error_px) < 1.0


def test_transforms_json_agrees_with_the_model(solved: Solved) -> None:
    poses = solved.poses
    content = json.loads((poses.path / "transforms.json").read_text())
    cameras = poses.cameras()
    by_name = {Path(f["file_path"]).relative_to("images").as_posix(): f for f in content["frames"]}
    assert tuple(sorted(by_name)) == cameras.names
    middle = np.append(np.median(poses.points().xyz, axis=0), 1.0)
    for row, name in enumerate(cameras.names):
        assert (poses.path / by_name[name]["file_path"]).is_file()
        matrix = np.array(by_name[name]["transform_matrix"])
        np.testing.assert_allclose(np.linalg.inv(matrix @ OPENGL), cameras.viewmats[row], atol=1e-9)
        np.testing.assert_allclose(matrix[:3, 3], cameras.centers[row], atol=1e-9)
        assert (np.linalg.inv(matrix) @ middle)[2] < 0  # OpenGL cameras look along -z
    assert content["camera_model"] == "OPENCV"
    assert (content["w"], content["h"]) == (cameras.widths[0], cameras.heights[0])
    K = cameras.Ks[0]
    assert [content[k] for k in ("fl_x", "fl_y", "cx", "cy")] == [
        K[0, 0],
        K[1, 1],
        K[0, 2],
        K[1, 2],
    ]
    assert all(content[k] == 0 for k in ("k1", "k2", "p1", "p2"))
    cloud = pycolmap.Reconstruction()
    cloud.import_PLY(poses.path / content["ply_file_path"])
    assert cloud.num_points3D() == poses.summary["num_points"]


def test_report_and_summary(solved: Solved) -> None:
    summary, report = solved.poses.summary, solved.poses.report()
    assert summary["num_frames"] == summary["num_registered"] == 12
    assert summary["registered_ratio"] == 1.0
    assert 0 < summary["reprojection_error_px"] < 1.0
    assert summary["mean_track_length"] > 2.5
    assert (summary["mapper"], summary["matching"]) == ("incremental", "exhaustive")
    assert summary["attempts"] == 1
    assert summary["unregistered"] == summary["other_models"] == []
    assert summary["poses_given"] is summary["gps_aligned"] is False
    assert {key: report[key] for key in summary if key != "attempts"} == {
        key: value for key, value in summary.items() if key != "attempts"
    }
    assert report["gps"]["reason"] == "there are no GPS positions"
    (attempt,) = report["attempts"]
    assert attempt["reason"] == "first attempt"
    assert attempt["num_registered"] == attempt["num_connected"] == 12
    assert attempt["num_pairs"] == 66
    assert [row["registered"] for row in report["images"]] == [True] * 12
    assert min(row["observations"] for row in report["images"]) > 50
    (camera,) = report["cameras"]
    assert camera["model"] == "RADIAL"  # 12 images share it
    assert camera["num_images"] == 12
    for stage in ("features", "matching", "mapping", "undistort"):
        assert report["cpu_seconds"][stage] >= 0


def test_progress_only_moves_forward(solved: Solved) -> None:
    fractions = [report.fraction for report in solved.reports if not report.warning]
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1.0
    for start in ("Features:", "Matching:", "Registered", "Undistorted"):
        assert any(report.message.startswith(start) for report in solved.reports), start
    assert solved.reports[-1].message == "12 of 12 images registered"
    assert solved.reports[-1].figures["registered"] == 12


def test_equal_seeds_give_equal_files(
    solved: Solved, capture_frames: FrameSet, tmp_path: Path
) -> None:
    again = solve(capture_frames, tmp_path / "again")
    assert versioned_hashes(again) == versioned_hashes(solved.poses)
    assert again.data_version == solved.poses.data_version


@pytest.mark.parametrize("stage", ["Features:", "Matching:", "Registered", "Undistorted"])
def test_cancel_leaves_nothing(capture_frames: FrameSet, tmp_path: Path, stage: str) -> None:
    out = tmp_path / "out"
    asked: list[float] = []

    def note(report: Report) -> None:
        if report.message.startswith(stage):
            asked.append(time.monotonic())

    progress = Progress(note, lambda: bool(asked))
    with pytest.raises(Cancelled):
        solve(capture_frames, out, progress, feature_long_side=320, max_features=512)
    assert time.monotonic() - asked[0] < 10
    assert len(asked) == 1
    assert list(out.iterdir()) == []


def test_a_skipped_stage_passes_on_what_the_source_brought(tmp_path: Path) -> None:
    folder = tmp_path / "frames"
    (folder / "given").mkdir(parents=True)
    (folder / "given" / "splat.ply").write_bytes(b"ply of somebody")
    why = "The dataset is a finished splat."
    write_manifest(folder, build_manifest(folder, FrameSet.KIND, skipped=why))
    poses = solve(FrameSet.open(folder), tmp_path / "out")
    assert poses.skipped == why
    assert (poses.given / "splat.ply").read_bytes() == b"ply of somebody"
    assert PoseModel.open(tmp_path / "out").summary["num_registered"] == 0
    poses.validate()


def test_two_photos_are_too_few(small_capture: Capture, tmp_path: Path) -> None:
    pictures = [(name, small_capture.photos / name) for name in small_capture.truth.names[:2]]
    with pytest.raises(UserError, match="at least 3 overlapping photos and there are 2"):
        solve(frame_set(tmp_path / "frames", pictures), tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_photos_of_nothing_in_common(tmp_path: Path) -> None:
    """Sharp, textured pictures that share nothing."""
    rng = np.random.default_rng(0)
    pictures = [
        (
            f"{i}.png",
            Image.fromarray(
                np.kron(rng.integers(0, 256, (20, 28)), np.ones((8, 8))).astype(np.uint8)
            ).convert("RGB"),
        )
        for i in range(5)
    ]
    with pytest.raises(UserError, match=r"^No common scene was found in the 5 photos.*overlap"):
        solve(frame_set(tmp_path / "frames", pictures), tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_photos_without_texture(tmp_path: Path) -> None:
    ramp = np.linspace(90, 140, 200, dtype=np.uint8)
    wall = Image.fromarray(np.tile(ramp, (150, 1))).convert("RGB")
    frames = frame_set(tmp_path / "frames", [(f"{i}.png", wall) for i in range(4)])
    with pytest.raises(UserError, match=r"^The 4 photos show too little texture.*features each"):
        solve(frames, tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_real_photos(tmp_path: Path) -> None:
    photos = sorted(shared_data("photos_banana").glob("*.jpg"))
    frames = frame_set(tmp_path / "frames", [(p.name, p) for p in photos], long_side=800)
    poses = solve(frames, tmp_path / "out", feature_long_side=800)
    assert poses.summary["num_frames"] == 16
    assert poses.summary["num_registered"] >= 14
    assert poses.summary["reprojection_error_px"] < 1.5
