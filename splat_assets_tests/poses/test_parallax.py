"""Does the camera move? Made-up videos with known answers, and real ones."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter, map_coordinates

from splat_assets.compute import Compute
from splat_assets.datasets.options import FrameOptions, SourceOptions, TrainOptions
from splat_assets.datasets.spec import make_spec
from splat_assets.errors import Cancelled, UserError
from splat_assets.frames.extract import extract_frames
from splat_assets.frames.frame_set import FrameSet
from splat_assets.poses.parallax import CameraMotion, camera_motions, no_parallax
from splat_assets.progress import Progress, silent
from splat_assets.sources.fetch import fetch_raw_dataset
from splat_assets.stages import StageOutcome
from splat_assets_tests.data import Capture
from splat_assets_tests.paths import shared_data
from splat_assets_tests.poses.frame_sets import frame_set
from splat_assets_tests.poses.solving import solve

WIDTH, HEIGHT, COUNT = 320, 240, 14


@functools.cache
def texture(seed: int, width: int, height: int) -> np.ndarray:
    """[H, W] float32 full of corners of all sizes, 0..255."""
    rng = np.random.default_rng(seed)
    layers = [gaussian_filter(rng.normal(size=(height, width)), s) * s for s in (1.5, 3, 6)]
    total = sum(layers)
    return np.clip(128 + 60 * total / np.std(total), 0, 255).astype(np.float32)


WALL, ARM = texture(0, 900, 500), texture(1, 120, 180)
BOXES = {(40, 30): 2, (210, 20): 3, (120, 130): 4, (280, 140): 5}  # place → seed


def scene(x: float, y: float = 0.0) -> np.ndarray:
    """A wall, and boxes three times as near, seen by a camera at (x, y) pixels of the wall."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    image = map_coordinates(WALL, [rows + 120 + y, columns + 200 + x], order=1)
    for (left, top), seed in BOXES.items():
        paste(image, texture(seed, 80, 90), round(left - 3 * x), round(top - 3 * y))
    return image


def paste(image: np.ndarray, patch: np.ndarray, left: int, top: int) -> None:
    """Draw over, cut at the borders."""
    a, b = max(0, left), min(WIDTH, left + patch.shape[1])
    c, d = max(0, top), min(HEIGHT, top + patch.shape[0])
    if a < b and c < d:
        image[c:d, a:b] = patch[c - top : d - top, a - left : b - left]


def video(
    folder: Path,
    picture: Callable[[int], np.ndarray],
    *,
    cameras: Sequence[str] = ("clip.mp4",),
    mask: np.ndarray | None = None,
) -> FrameSet:
    rng = np.random.default_rng(3)
    pictures = []
    for camera in range(len(cameras)):
        for i in range(COUNT):
            pixels = picture(i) + rng.normal(scale=2.0, size=(HEIGHT, WIDTH))
            grey = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
            pictures.append((f"c{camera}_{i:03d}.jpg", grey.convert("RGB")))
    column = [name for name in cameras for _ in range(COUNT)]
    frames = frame_set(folder, pictures, ordered=True, columns={"camera": column})
    if mask is not None:
        (folder / "masks").mkdir()
        for name, _ in pictures:
            Image.fromarray(mask).save(folder / "masks" / f"{name}.png")
    return frames


def look(frames: FrameSet) -> list[CameraMotion]:
    return camera_motions(frames, frames.kept(), 0, silent())


def kind(frames: FrameSet) -> str:
    (motion,) = look(frames)
    return motion.kind


def with_arm(i: int) -> np.ndarray:
    """A camera that stands still, and an arm that sweeps through a quarter of its picture."""
    image = scene(0)
    paste(image, ARM, int(-60 + 6 * i), int(40 + 20 * np.sin(i / 3)))
    return image


def with_gripper(i: int) -> np.ndarray:
    """A camera that moves, and a gripper it carries along."""
    image = scene(3.0 * i, 1.0 * i)
    paste(image, texture(5, 240, 120), 60, HEIGHT - 120)
    return image


def turned(i: int) -> np.ndarray:
    """A camera that pans by 15 degrees over the video; focal length 1.2 widths."""
    angle, focal = np.deg2rad(15 * i / (COUNT - 1) - 7.5), 1.2 * WIDTH
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    x, y = (columns - WIDTH / 2) / focal, (rows - HEIGHT / 2) / focal
    depth = np.cos(angle) - x * np.sin(angle)
    u, v = (x * np.cos(angle) + np.sin(angle)) / depth, y / depth
    return map_coordinates(WALL, [v * focal + 250, u * focal + 450], order=1)


def test_a_camera_that_moves(tmp_path: Path) -> None:
    assert kind(video(tmp_path, lambda i: scene(4.0 * i))) == "moves"


def test_a_slow_camera_that_moves(tmp_path: Path) -> None:
    assert kind(video(tmp_path, lambda i: scene(1.5 * i, 0.5 * i))) == "moves"


def test_a_fixed_camera_with_an_arm_in_its_picture(tmp_path: Path) -> None:
    (motion,) = look(video(tmp_path, with_arm))
    assert motion.kind == "fixed" and motion.parallax_px < 1 and motion.shift_px < 1
    assert "In clip.mp4 the camera stands still" in str(no_parallax([motion]))


def test_a_robots_sway_is_no_motion(tmp_path: Path) -> None:
    sway = video(tmp_path, lambda i: scene(0.4 * np.sin(i), 0.3 * np.cos(2 * i)))
    assert kind(sway) == "fixed"


def test_a_camera_that_only_turns(tmp_path: Path) -> None:
    (motion,) = look(video(tmp_path, turned))
    assert motion.kind == "turns" and motion.shift_px > 20
    assert "only turns on the spot" in str(no_parallax([motion]))


def test_a_gripper_that_moves_along_is_no_fixed_camera(tmp_path: Path) -> None:
    assert kind(video(tmp_path, with_gripper)) == "moves"


def test_what_is_masked_out_does_not_count(tmp_path: Path) -> None:
    """An object that moves before a background that stands still, such as on a turntable."""
    still = texture(7, WIDTH, HEIGHT)

    def turntable(i: int) -> np.ndarray:
        image = still.copy()
        image[60:180, 60:300] = scene(4.0 * i)[60:180, 60:300]
        return image

    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[60:180, 60:300] = 255
    assert kind(video(tmp_path / "masked", turntable, mask=mask)) == "moves"
    assert kind(video(tmp_path / "bare", turntable)) == "fixed"


def test_too_little_says_nothing(tmp_path: Path) -> None:
    flat = video(tmp_path / "flat", lambda i: np.full((HEIGHT, WIDTH), 128.0))
    assert kind(flat) == "unknown" and no_parallax(look(flat)) is None


def test_photos_around_a_scene(small_capture: Capture, tmp_path: Path) -> None:
    photos = [(p.name, p) for p in sorted(small_capture.photos.glob("*.jpg"))]
    assert kind(frame_set(tmp_path, photos, ordered=True)) in ("moves", "unknown")


def test_several_cameras(tmp_path: Path) -> None:
    def motion(camera: str, kind: str) -> CameraMotion:
        return CameraMotion(camera, kind, 40, 0.5, 0.5)  # type: ignore[arg-type]

    fixed = [motion(f"cam{i} | 640x480", "fixed") for i in range(3)]
    assert no_parallax([]) is None
    assert no_parallax([fixed[0], motion("wrist", "moves")]) is None
    assert no_parallax([fixed[0], motion("wrist", "unknown")]) is None
    assert "In cam0 and cam1 the camera stands still" in str(no_parallax(fixed[:2]))
    assert no_parallax(fixed) is None  # three places see depth


def test_the_stage_ends_at_once_and_says_why(tmp_path: Path) -> None:
    from splat_assets.defs.checks import evaluate
    from splat_assets.training.train import train_splat

    frames = video(tmp_path / "frames", with_arm)
    poses = solve(frames, tmp_path / "poses")
    assert poses.skipped and "stands still" in poses.skipped
    assert poses.summary == {"num_frames": COUNT, "num_registered": 0, "camera_motion": "fixed"}
    assert {p.name for p in poses.path.iterdir()} == {"report.json", "manifest.json"}
    report = json.loads((poses.path / "report.json").read_text())
    assert report["motion"][0]["kind"] == "fixed"

    spec = make_spec(name="bench", source=str(tmp_path))
    gates = {
        gate.check_name: gate
        for gate in evaluate(StageOutcome("camera_poses", poses, False, 1.0, ""), spec)
    }
    assert [name for name, gate in gates.items() if not gate.passed] == ["camera_moves"]
    assert poses.skipped in str(gates["camera_moves"].description)
    assert "Choose a camera that moves" in str(gates["camera_moves"].description)

    (tmp_path / "splat").mkdir()
    with pytest.raises(UserError, match="stands still"):
        train_splat(
            poses,
            tmp_path / "splat",
            options=TrainOptions(),
            compute=Compute("cpu", "numba", "", 1),
            progress=silent(),
        )


def test_the_look_can_be_stopped_and_switched_off(tmp_path: Path) -> None:
    frames = video(tmp_path / "frames", with_arm)
    with pytest.raises(Cancelled):
        solve(frames, tmp_path / "stopped", Progress(should_cancel=lambda: True))
    assert not list((tmp_path / "stopped").iterdir())
    calls = []

    def stop() -> bool:
        return bool(calls)

    def sink(report: object) -> None:
        if "Features" in str(report):
            calls.append(report)

    with pytest.raises(Cancelled):  # COLMAP was asked
        solve(frames, tmp_path / "off", Progress(sink, stop), check_motion=False)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("video_static/bottle-detection.mp4", "fixed"),
        ("video_static/one-by-one-person-detection.mp4", "fixed"),
        ("video_walkaround/walkaround_2fps_540p.mp4", "moves"),
        ("video_pan/gopro_karma_coast.mp4", "moves"),
    ],
)
def test_real_videos(source: str, expected: str, tmp_path: Path) -> None:
    path = shared_data(*source.split("/"))
    for name in ("raw", "frames"):
        (tmp_path / name).mkdir()
    raw = fetch_raw_dataset(
        str(path), tmp_path / "raw", options=SourceOptions(), previous=None, progress=silent()
    )
    frames = extract_frames(
        raw,
        tmp_path / "frames",
        options=FrameOptions(max_frames=36, max_long_side=640),
        progress=silent(),
    )
    assert kind(frames) == expected
