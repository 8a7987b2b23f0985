"""Poses that come with the dataset are taken as they are, at the size of the frames."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from splat_assets.errors import UserError
from splat_assets.frames.frame_set import FrameSet
from splat_assets_tests.poses.rings import grey_frames, ring_model, ring_points
from splat_assets_tests.poses.solving import solve
from splat_assets_tests.training.scenes import ring_viewmats

NAMES = [f"view_{i}.png" for i in range(5)]
OPENGL = np.diag([1.0, -1.0, -1.0, 1.0])


@pytest.fixture
def frames(tmp_path: Path) -> FrameSet:
    """Five pictures of 80 x 60 as frames of 40 x 30."""
    return grey_frames(tmp_path / "frames", NAMES)


def give_colmap(frames: FrameSet, names: list[str], kind: str = "bin") -> Path:
    folder = frames.given / "sparse"
    folder.mkdir(parents=True)
    model = ring_model(names)
    model.write_binary(folder) if kind == "bin" else model.write_text(folder)
    return folder


def give_transforms(
    frames: FrameSet,
    paths: list[str],
    name: str = "transforms.json",
    *,
    per_frame: list[dict[str, Any]] | None = None,
    count: int | None = None,
    first: int = 0,
    **shared: Any,
) -> Path:
    """A file with the ring's poses `first`, first + 1, … of `count`."""
    frames.given.mkdir(exist_ok=True)
    viewmats = ring_viewmats(count or len(paths))[first:]
    listed = []
    for row, path in enumerate(paths):
        matrix = np.linalg.inv(viewmats[row]) @ OPENGL
        extra = per_frame[row] if per_frame else {}
        listed.append({"file_path": path, "transform_matrix": matrix.tolist(), **extra})
    target = frames.given / name
    target.write_text(json.dumps({**shared, "frames": listed}))
    return target


@pytest.mark.parametrize("kind", ["bin", "txt"])
def test_a_colmap_model_at_the_frames_size(frames: FrameSet, tmp_path: Path, kind: str) -> None:
    give_colmap(frames, NAMES, kind)
    poses = solve(frames, tmp_path / "out")
    cameras = poses.cameras()
    assert cameras.names == tuple(NAMES)
    np.testing.assert_allclose(cameras.viewmats, ring_viewmats(5), atol=1e-12)
    K = [[45.0, 0, 20.75], [0, 45.0, 14.75], [0, 0, 1]]  # half of the model's
    np.testing.assert_allclose(cameras.Ks, np.tile(K, (5, 1, 1)))
    assert set(cameras.widths) == {40}
    assert set(cameras.heights) == {30}
    points = poses.points()
    np.testing.assert_allclose(points.xyz, [p.xyz for p in ring_points().values()])
    np.testing.assert_array_equal(points.rgb, [p.rgb for p in ring_points().values()])
    summary = poses.summary
    assert summary["poses_given"] is True
    assert (summary["mapper"], summary["attempts"]) == ("given", 0)
    assert (summary["num_registered"], summary["num_points"]) == (5, 20)
    assert summary["reprojection_error_px"] < 1e-3  # observations were scaled along
    assert summary["mean_track_length"] == 5
    assert poses.report()["source"] == "COLMAP model"


def test_a_model_of_more_and_other_pictures(frames: FrameSet, tmp_path: Path) -> None:
    """Frames without a pose are named; pictures without a frame are left out."""
    give_colmap(frames, ["a/view_3.jpg", "a/view_1.jpg", "a/gone.jpg"])
    poses = solve(frames, tmp_path / "out")
    assert poses.cameras().names == ("view_1.png", "view_3.png")
    assert poses.summary["unregistered"] == ["view_0.png", "view_2.png", "view_4.png"]
    assert poses.summary["mean_track_length"] == 2
    assert poses.summary["num_points"] == 20


def test_nerfstudio_with_lens_and_cloud(frames: FrameSet, tmp_path: Path) -> None:
    lens = {"w": 80, "h": 60, "fl_x": 90.0, "fl_y": 92.0, "cx": 41.0, "cy": 29.0, "k1": -0.08}
    give_transforms(
        frames,
        [f"./images/{name}" for name in NAMES],
        ply_file_path="somewhere/cloud.ply",
        camera_model="OPENCV",
        **lens,
    )
    (frames.given / "cloud.ply").write_text(
        "ply\nformat ascii 1.0\nelement vertex 2\nproperty float32 x\nproperty float32 y\n"
        "property float32 z\nproperty uint8 red\nproperty uint8 green\nproperty uint8 blue\n"
        "end_header\n0.5 0 0.25 10 20 30\n-1 2 3 40 50 60\n"
    )
    poses = solve(frames, tmp_path / "out")
    cameras = poses.cameras()
    assert cameras.names == tuple(NAMES)
    np.testing.assert_allclose(cameras.viewmats, ring_viewmats(5), atol=1e-12)
    (before,) = poses.report()["cameras"]
    assert before["model"] == "OPENCV"
    np.testing.assert_allclose(before["params"], [45, 46, 20.5, 14.5, -0.08, 0, 0, 0])
    assert (before["width"], before["height"]) == (40, 30)
    for name, width, height in zip(cameras.names, cameras.widths, cameras.heights, strict=True):
        with Image.open(poses.images / name) as picture:
            assert picture.size == (width, height)
    points = poses.points()
    np.testing.assert_allclose(points.xyz, [[0.5, 0, 0.25], [-1, 2, 3]])
    np.testing.assert_array_equal(points.rgb, [[10, 20, 30], [40, 50, 60]])
    assert np.isnan(points.error_px).all()
    assert poses.summary["num_points"] == 2
    assert poses.summary["reprojection_error_px"] is None
    assert poses.summary["mean_track_length"] is None


def test_intrinsics_of_each_frame(frames: FrameSet, tmp_path: Path) -> None:
    focals = [100.0 + 10 * row for row in range(5)]
    give_transforms(
        frames, NAMES, per_frame=[{"fl_x": f, "fl_y": f} for f in focals], w=80, h=60, cx=40, cy=30
    )
    poses = solve(frames, tmp_path / "out")
    np.testing.assert_allclose(poses.cameras().Ks[:, 0, 0], np.array(focals) / 2)
    content = json.loads((poses.path / "transforms.json").read_text())
    assert [frame["fl_x"] for frame in content["frames"]] == [f / 2 for f in focals]
    assert "fl_x" not in content


def test_nerf_synthetic(tmp_path: Path) -> None:
    """`file_path` without suffix, a field of view for a lens, splits in files of their own."""
    names = ["train/r_0.png", "train/r_1.png", "test/r_0.png", "test/r_1.png"]
    frames = grey_frames(tmp_path / "frames", names)
    table = frames.table()
    table["split"] = ["train", "train", "test", "test"]
    table.to_parquet(frames.path / "frames.parquet")
    give_transforms(frames, ["./train/r_0", "./train/r_1"], camera_angle_x=0.8, count=4)
    give_transforms(
        frames,
        ["./test/r_0", "./test/r_1"],
        "transforms_test.json",
        camera_angle_x=0.8,
        count=4,
        first=2,
    )
    poses = solve(frames, tmp_path / "out")
    cameras = poses.cameras()
    assert cameras.names == tuple(sorted(names))
    assert list(cameras.is_test) == [True, True, False, False]
    np.testing.assert_allclose(cameras.viewmats, ring_viewmats(4)[[2, 3, 0, 1]], atol=1e-12)
    np.testing.assert_allclose(cameras.Ks[:, 0, 0], 20 / np.tan(0.4))
    np.testing.assert_allclose(cameras.Ks[:, 1, 2], 15)
    content = json.loads((poses.path / "transforms.json").read_text())
    assert content["train_filenames"] == ["images/train/r_0.png", "images/train/r_1.png"]
    assert content["test_filenames"] == ["images/test/r_0.png", "images/test/r_1.png"]


def refused(frames: FrameSet, out: Path) -> str:
    with pytest.raises(UserError) as caught:
        solve(frames, out)
    assert list(out.iterdir()) == []
    message = str(caught.value)
    assert message.endswith(".")
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        ({"frames": None}, "transforms.json cannot be read"),
        ({"frames": [{"file_path": "view_0.png"}]}, "frame 0 .*'transform_matrix' is missing"),
        (
            {"frames": [{"transform_matrix": np.eye(4).tolist()}]},
            "frame 0 .*'file_path' is missing",
        ),
        ({"frames": [7]}, "transforms.json: frame 0 has no usable pose"),
        ({"pose": np.zeros((4, 4)).tolist()}, "frame 0 .*no rotation"),
        ({"pose": np.diag([1.0, 1, -1, 1]).tolist()}, "frame 0 .*no rotation"),
        ({"pose": [[1, 2], [3, 4]]}, "frame 0 .*finite 4 x 4"),
        ({"fl_x": None}, "view_0.png has no usable camera .no focal length"),
        ({"fl_x": "wide"}, "view_0.png has no usable camera .*wide"),
        ({"fl_x": -3.0}, "view_0.png has no usable camera"),
        ({"camera_model": "EQUIRECTANGULAR"}, "view_0.png .*EQUIRECTANGULAR"),
    ],
)
def test_damaged_transforms(
    frames: FrameSet, tmp_path: Path, damage: dict[str, Any], said: str
) -> None:
    path = give_transforms(frames, NAMES, fl_x=90.0, w=80, h=60)
    content = json.loads(path.read_text())
    pose = damage.pop("pose", None)
    if pose is not None:
        content["frames"][0]["transform_matrix"] = pose
    path.write_text(json.dumps({**content, **damage}))
    assert re.search(said, refused(frames, tmp_path / "out"))


def test_transforms_that_are_no_json(frames: FrameSet, tmp_path: Path) -> None:
    frames.given.mkdir()
    (frames.given / "transforms.json").write_text('{"frames": [')
    assert "transforms.json cannot be read" in refused(frames, tmp_path / "out")


def test_poses_of_other_pictures(frames: FrameSet, tmp_path: Path) -> None:
    give_transforms(frames, ["elsewhere.png"], fl_x=90.0)
    assert refused(frames, tmp_path / "out") == (
        "The transforms.json has no pose for any of the 5 frames."
    )


def test_a_cloud_that_is_no_ply(frames: FrameSet, tmp_path: Path) -> None:
    give_transforms(frames, NAMES, fl_x=90.0, ply_file_path="cloud.ply")
    (frames.given / "cloud.ply").write_bytes(b"nothing of the kind")
    assert "cloud.ply" in refused(frames, tmp_path / "out")


@pytest.mark.parametrize("kind", ["bin", "txt"])
@pytest.mark.parametrize("part", ["cameras", "images", "points3D", "frames"])
@pytest.mark.parametrize("damage", ["missing", "cut", "garbage"])
def test_a_damaged_colmap_model(
    frames: FrameSet, tmp_path: Path, kind: str, part: str, damage: str
) -> None:
    path = give_colmap(frames, NAMES, kind) / f"{part}.{kind}"
    content = path.read_bytes()
    if damage == "missing":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(content[: len(content) * 2 // 3])
    else:
        path.write_bytes(b"\x7f" * 64)
    assert "COLMAP model" in refused(frames, tmp_path / "out")
