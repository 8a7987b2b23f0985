"""Ending early: when it is decided, and that the rest of the plan is still passed through."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest

from splat_assets.datasets.options import TrainOptions
from splat_assets.errors import Cancelled
from splat_assets.training.plateau import should_end
from splat_assets.training.schedule import plan
from splat_assets_tests.training.scenes import make_scene
from splat_assets_tests.training.test_train import OPTIONS, cancel_at, train

NAN = math.nan


@pytest.mark.parametrize(
    ("scores", "patience", "target", "expected"),
    [
        ([20, 21, 22, 23], 2, None, False),
        ([20, 21, 21.01, 21.02], 2, None, True),
        ([20, 21, 21.03, 21.06], 2, None, False),  # slow, but it adds up
        ([21, 20, 19, 22], 2, None, False),
        ([20, 21, 21.0], 2, None, False),
        ([20, 20, 20, 20], 0, None, False),
        ([20, 25], 0, 24.9, True),
        ([20, 24], 3, 24.9, False),
        ([25, 20], 3, 24.9, False),
        ([NAN, NAN, NAN], 1, 1.0, False),
        ([], 1, 1.0, False),
    ],
)
def test_when_to_end(
    scores: list[float], patience: int, target: float | None, expected: bool
) -> None:
    assert should_end(scores, patience=patience, target_psnr_db=target) is expected


@pytest.mark.parametrize("at", [30, 400, 1000, 2900, 3000])
def test_an_early_end_passes_through_the_rest(at: int) -> None:
    whole = plan(TrainOptions(steps=3000), long_side=320)
    cut = whole.ending(at)
    assert at <= cut.steps <= min(3000, max(at + 1, int(1.15 * at) + 1))
    assert cut.ending(at + 1) is cut  # decided once
    for step in (0, at // 2, at):
        assert cut.learning_rates(2.0, step) == whole.learning_rates(2.0, step)
        assert cut.sh_degree_at(step) == whole.sh_degree_at(step)
    if cut.steps > at:
        ends, expected = cut.learning_rates(2.0, cut.steps), whole.learning_rates(2.0, 3000)
        assert ends == pytest.approx(expected)
        assert cut.sh_degree_at(cut.steps) == 3
    assert not any(cut.refines_at(step) for step in range(at, cut.steps))


def test_scores_count_once_pictures_are_whole() -> None:
    options = TrainOptions(steps=1000, progressive_blur=True)
    schedule = plan(options, long_side=1000)
    assert schedule.settled_from == max(schedule.ramp[-1][0], schedule.blur[-1][0]) > 0
    assert schedule.resolution_at(schedule.settled_from) == 1.0
    assert schedule.blur_at(schedule.settled_from) == 0.0
    assert schedule.blur_at(0) > 1


def test_a_run_that_reaches_its_target_ends_and_resumes_alike(tmp_path: Path) -> None:
    poses = make_scene(tmp_path / "poses")
    options = OPTIONS.model_copy(update={"steps": 600, "target_psnr_db": 26.0})
    whole = train(poses, tmp_path / "whole", options)
    assert 40 < whole.summary["steps"] < 600
    assert whole.summary["steps_planned"] == 600
    assert whole.summary["stopped_early_at"] < whole.summary["steps"]
    assert whole.summary["psnr_db"] > 25.8  # the last phase moves it by a little
    # interrupted in the last phase
    k = whole.summary["stopped_early_at"] + 3
    with pytest.raises(Cancelled):
        train(poses, tmp_path / "a", options, resume_dir=tmp_path / "r", progress=cancel_at(k))
    resumed = train(poses, tmp_path / "b", options, resume_dir=tmp_path / "r")
    assert resumed.summary["resumed_from_step"] >= k
    assert resumed.ply.read_bytes() == whole.ply.read_bytes()


def test_without_held_out_views_the_plan_is_kept(tmp_path: Path) -> None:
    options = OPTIONS.model_copy(
        update={"steps": 30, "target_psnr_db": 1.0, "plateau_patience": 1, "test_every": 0}
    )
    splat = train(make_scene(tmp_path / "poses"), tmp_path / "out", options)
    assert splat.summary["steps"] == 30
    assert any("held-out" in warning for warning in splat.summary["warnings"])


def test_every_switch_trains_and_repeats(tmp_path: Path) -> None:
    poses = make_scene(tmp_path / "poses")
    options = OPTIONS.model_copy(
        update={
            "steps": 60, "strategy": "multiview", "progressive_blur": True, "sh_ramp": False,
            "progressive_resolution": False, "min_contribution_px": 0.1, "max_gaussians": None,
        }
    )  # fmt: skip
    one = train(poses, tmp_path / "one", options)
    two = train(poses, tmp_path / "two", options, threads=2)
    assert one.ply.read_bytes() == two.ply.read_bytes()
    assert one.summary["strategy"] == "multiview"
    assert one.summary["budget"] >= one.summary["num_gaussians"]
    with pytest.raises(Cancelled):
        train(poses, tmp_path / "a", options, resume_dir=tmp_path / "r", progress=cancel_at(20))
    resumed = train(poses, tmp_path / "b", options, resume_dir=tmp_path / "r")
    assert resumed.ply.read_bytes() == one.ply.read_bytes()
    assert replace(plan(options, long_side=64)).sh_degree_at(0) == options.sh_degree
