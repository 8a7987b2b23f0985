"""The synthetic capture, as frames and solved; made once a session, do not write."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from splat_assets.frames.frame_set import FrameSet
from splat_assets.poses.pose_model import PoseModel
from splat_assets.progress import Progress, Report
from splat_assets_tests.data import Capture
from splat_assets_tests.poses.frame_sets import frame_set
from splat_assets_tests.poses.solving import solve


@dataclass(frozen=True)
class Solved:
    poses: PoseModel
    reports: tuple[Report, ...]


@pytest.fixture(scope="session")
def capture_frames(small_capture: Capture, tmp_path_factory: pytest.TempPathFactory) -> FrameSet:
    """All photos, the first ones in a folder whose name has a space."""
    pictures: list[tuple[str, Path]] = []
    for number, name in enumerate(small_capture.truth.names):
        where = f"first side/{name}" if number < 5 else name
        pictures.append((where, small_capture.photos / name))
    focal = float(small_capture.truth.K[0, 0])
    return frame_set(tmp_path_factory.mktemp("frames"), pictures, columns={"focal_px": focal})


@pytest.fixture(scope="session")
def solved(capture_frames: FrameSet, tmp_path_factory: pytest.TempPathFactory) -> Solved:
    reports: list[Report] = []
    out = tmp_path_factory.mktemp("solved") / "poses"
    poses = solve(capture_frames, out, Progress(reports.append))
    return Solved(poses, tuple(reports))
