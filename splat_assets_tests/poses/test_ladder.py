"""The retry ladder: which attempt follows which, why, and which result is kept."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from splat_assets.datasets.options import PoseOptions
from splat_assets.frames.frame_set import FrameSet
from splat_assets.poses import ladder
from splat_assets.poses.features import (
    FeaturePlan,
    Workspace,
    group_cameras,
    make_camera,
    make_workspace,
    plausible_focal,
)
from splat_assets.poses.ladder import Attempt, make_scene, reconstruct
from splat_assets.poses.mapping import Mapped, choose_mapper
from splat_assets.poses.matching import Matching, all_pairs
from splat_assets.poses.report import Stopwatch
from splat_assets.poses.sparse_model import build_model
from splat_assets.progress import Progress, Report
from splat_assets_tests.data import Capture, compare_centers
from splat_assets_tests.poses.frame_sets import frame_set
from splat_assets_tests.poses.rings import grey_frames, pinhole, ring_points, ring_views
from splat_assets_tests.poses.solving import solve
from splat_assets_tests.poses.test_gps import ORIGIN, geodetic_table

COUNT = 20
FOCAL = 90.0


class FakeColmap:
    """Stands in for every call that looks at pixels; `registers` says what an attempt gives."""

    def __init__(self, connected: int, registers: list[int], solved_focal: float = FOCAL) -> None:
        self.connected = connected
        self.registers = registers
        self.solved_focal = solved_focal
        self.features = 0
        self.matched: list[str] = []

    def install(self, patch: pytest.MonkeyPatch) -> None:
        patch.setattr(ladder, "create_database", lambda *_: None)
        patch.setattr(ladder, "extract_features", self._extract)
        patch.setattr(ladder, "choose_pairs", self._choose)
        patch.setattr(ladder, "match_pairs", lambda *_, **__: None)
        patch.setattr(ladder, "verified_pairs", lambda *_: [(1, 2)])
        patch.setattr(ladder, "largest_component", lambda *_: self.connected)
        patch.setattr(ladder, "run_mapper", self._map)

    def _extract(self, workspace: Workspace, plan: FeaturePlan, **_: object) -> list[int]:
        self.features += 1
        return [plan.max_features] * len(workspace.links)

    def _choose(self, wanted: str, *_: object, **__: object) -> Matching:
        pairs = all_pairs(COUNT)
        return (
            Matching("exhaustive", pairs) if wanted != "spatial" else Matching("spatial", pairs[:9])
        )

    def _map(self, mapper: str, workspace: Workspace, *, progress: Progress, **_: object) -> Mapped:
        progress.update(0.5, "mapping")
        count = self.registers.pop(0) if len(self.registers) > 1 else self.registers[0]
        if count == 0:
            return Mapped(mapper, ())
        points = ring_points()
        xyz = np.array([point.xyz for point in points.values()])
        camera = pinhole(focal=self.solved_focal)
        views = ring_views([f"{i}.png" for i in range(count)], camera, xyz)
        return Mapped(mapper, (build_model(views, points),))


def climb(
    tmp_path: Path,
    patch: pytest.MonkeyPatch,
    fake: FakeColmap,
    *,
    exif_focal: float = float("nan"),
    **options: object,
) -> tuple[Mapped, list[Attempt], list[Report]]:
    fake.install(patch)
    names = [f"{i}.png" for i in range(COUNT)]
    frames = grey_frames(tmp_path / "frames", names, long_side=80)
    kept = frames.kept().assign(focal_px=exif_focal)
    reports: list[Report] = []
    best, attempts = reconstruct(
        make_workspace(tmp_path / "work", frames, kept),
        make_scene(frames, kept),
        PoseOptions.model_validate({"feature_long_side": 64, "max_features": 500, **options}),
        threads=1,
        stopwatch=Stopwatch(),
        progress=Progress(reports.append),
    )
    return best, attempts, reports


def test_one_attempt_is_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    best, attempts, reports = climb(tmp_path, monkeypatch, FakeColmap(20, [16]))
    assert best.registered == 16  # 80 %
    assert [attempt.reason for attempt in attempts] == ["first attempt"]
    assert not any(report.warning for report in reports)


def test_the_rungs_in_their_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeColmap(connected=20, registers=[5])
    _, attempts, reports = climb(tmp_path, monkeypatch, fake, matching="spatial")
    assert [(a.reason, a.mapper, a.matching) for a in attempts] == [
        ("first attempt", "incremental", "spatial"),
        ("trying the global mapper", "global", "spatial"),
        ("matching every pair", "incremental", "exhaustive"),
        ("trying the global mapper", "global", "exhaustive"),
        ("looking for finer features", "incremental", "exhaustive"),
    ]
    assert fake.features == 2  # not found again for other pairs or another mapper
    first, last = attempts[0], attempts[-1]
    assert (last.feature_long_side, last.max_features) == (80, 1000)
    assert (first.feature_long_side, first.max_features) == (64, 500)
    warnings = [report.message for report in reports if report.warning]
    assert warnings == [f"Registered 5 of 20: {attempt.reason}" for attempt in attempts[1:]]
    fractions = [report.fraction for report in reports if not report.warning]
    assert fractions == sorted(fractions)


@pytest.mark.parametrize(
    ("exif", "solved", "registers", "left_aside"),
    [
        (FOCAL, FOCAL, [5], False),
        (FOCAL, FOCAL * 2, [5], True),  # the solution went far from EXIF
        (FOCAL, FOCAL * 40, [5], True),  # to where no camera is
        (FOCAL, FOCAL, [0], True),  # no solution at all
        (float("nan"), FOCAL * 2, [5], False),  # nothing to leave aside
    ],
)
def test_exif_focal_lengths_in_doubt(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    exif: float,
    solved: float,
    registers: list[int],
    left_aside: bool,
) -> None:
    fake = FakeColmap(20, registers, solved)
    _, attempts, _ = climb(tmp_path, monkeypatch, fake, exif_focal=exif)
    reasons = [attempt.reason for attempt in attempts]
    expected = ["first attempt", "trying the global mapper"]
    if left_aside:
        expected += ["leaving EXIF focal lengths aside", "trying the global mapper"]
    expected.append("looking for finer features")
    assert reasons[: len(expected)] == expected
    assert [a.focal_priors for a in attempts[:2]] == [True, True]
    if left_aside:
        assert not any(attempt.focal_priors for attempt in attempts[2:])


def test_rungs_that_cannot_help_are_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With all that hangs together registered, another mapper finds no more."""
    _, attempts, _ = climb(tmp_path, monkeypatch, FakeColmap(connected=9, registers=[9]))
    assert [a.reason for a in attempts] == ["first attempt", "looking for finer features"]
    # and where no two images match at all, finer features do not help either
    nothing = FakeColmap(connected=0, registers=[0])
    best, attempts, _ = climb(tmp_path / "b", monkeypatch, nothing)
    assert [a.reason for a in attempts] == ["first attempt"]
    assert best.registered == 0


def test_the_best_attempt_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    best, attempts, _ = climb(tmp_path, monkeypatch, FakeColmap(20, [12, 7, 10, 3]))
    assert best.registered == 12
    assert best.mapper == "incremental"
    assert [attempt.num_registered for attempt in attempts] == [12, 7, 10, 3]


def test_a_rung_that_helps_is_the_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    best, attempts, _ = climb(tmp_path, monkeypatch, FakeColmap(20, [4, 19]))
    assert best.mapper == "global"
    assert len(attempts) == 2


def test_the_mapper_follows_the_size() -> None:
    assert choose_mapper("auto", 150) == "incremental"
    assert choose_mapper("auto", 151) == "global"
    assert choose_mapper("global", 5) == "global"


def test_cameras_are_shared_by_device_size_and_zoom() -> None:
    nan = float("nan")
    kept = pd.DataFrame(
        {
            "name": list("abcdefg"),
            "camera": ["x", "x", "x", "x", "y", "", ""],
            "width": [80, 80, 60, 80, 80, 80, 80],
            "height": [60, 60, 80, 60, 60, 60, 60],
            "focal_px": [100.0, 100.4, 100.0, 180.0, nan, nan, nan],
        }
    )
    groups = ["".join(rows["name"]) for rows in group_cameras(kept)]
    assert groups == ["ab", "c", "d", "e", "f", "g"]


@pytest.mark.parametrize(
    ("wanted", "largest", "count", "side"),
    [(2000, 1000, 50, 480), (2000, 1000, 12, 600), (400, 1000, 50, 400), (2000, 400, 50, 384)],
)
def test_large_pictures_are_searched_at_a_part_of_their_size(
    wanted: int, largest: int, count: int, side: int
) -> None:
    plan = FeaturePlan.first(wanted, 100, num_images=count, largest_side=largest)
    assert plan.long_side == side
    assert plan.finer(largest).long_side == min(largest, round(1.5 * side))


def test_a_broken_exif_focal_length_is_no_prior() -> None:
    plan = FeaturePlan(1000, 2048)
    rows = pd.DataFrame({"width": [80], "height": [60], "focal_px": [95.0]})
    known = make_camera(rows, "auto", plan)
    assert known.has_prior_focal_length
    assert known.mean_focal_length() == 95
    for focal in (float("nan"), 5.0, 5000.0):
        guessed = make_camera(rows.assign(focal_px=focal), "OPENCV", plan)
        assert guessed.model_name == "OPENCV"
        assert not guessed.has_prior_focal_length
        assert guessed.mean_focal_length() == pytest.approx(1.2 * 80)
        assert not plausible_focal(focal, 80, 60)


def test_wrong_exif_and_gps_on_real_pixels(
    capture_frames: FrameSet, small_capture: Capture, tmp_path: Path
) -> None:
    """EXIF says three times the focal length; GPS of a scene ten times the size."""
    truth = small_capture.truth
    gps = geodetic_table(truth.centers * 10, *ORIGIN)
    pictures = [(name, small_capture.photos / name) for name in truth.names]
    columns = {"focal_px": truth.K[0, 0] * 3, **{k: list(v) for k, v in gps.items()}}
    frames = frame_set(tmp_path / "frames", pictures, columns=columns)
    poses = solve(frames, tmp_path / "out")
    assert poses.summary["num_registered"] >= 11
    assert compare_centers(truth, poses) < 0.01
    cameras = poses.cameras()
    np.testing.assert_allclose(cameras.Ks[:, 0, 0], truth.K[0, 0], rtol=0.02)
    assert poses.summary["gps_aligned"] is True
    measured = cameras.centers
    steps = np.linalg.norm(np.diff(measured, axis=0), axis=1)
    rows = [truth.names.index(name) for name in cameras.names]
    true_steps = np.linalg.norm(np.diff(truth.centers[rows] * 10, axis=0), axis=1)
    np.testing.assert_allclose(steps, true_steps, rtol=0.03)
    assert (cameras.viewmats[:, 1, 2] < -0.5).all()  # z is up
