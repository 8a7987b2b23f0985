"""The schedule is a whole run at every length; scene figures are right where they are known."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from splat_assets.datasets.options import TrainOptions
from splat_assets.training.dataset import TrainingView
from splat_assets.training.scene import frame_from_cameras, frame_from_gaussians
from splat_assets.training.schedule import plan
from splat_assets_tests.gaussians.test_ply import make_gaussians
from splat_assets_tests.training.scenes import ring_viewmats


@pytest.mark.parametrize("strategy", ["auto", "mcmc", "gradient", "multiview"])
@pytest.mark.parametrize("steps", [1, 7, 100, 300, 1000, 7000, 30_000])
def test_every_length_is_a_whole_run(steps: int, strategy: str) -> None:
    schedule = plan(TrainOptions(steps=steps, strategy=strategy), long_side=1000)
    assert schedule.resolution_at(0) <= schedule.resolution_at(steps - 1) == 1.0 or steps < 10
    first, last = schedule.learning_rates(2.0), schedule.learning_rates(2.0, steps)
    assert 0.01 <= last["means"] / first["means"] <= 0.1
    assert last["sh0"] == pytest.approx(0.2 * first["sh0"])
    if steps >= 100:
        assert schedule.sh_degree_at(0) == 0
        assert schedule.sh_degree_at(steps // 2) == 3
        assert schedule.refinements >= 5
        assert not schedule.refines_at(steps - 1)
    assert sum(schedule.refines_at(step) for step in range(steps)) == schedule.refinements


def test_short_runs_learn_faster_and_long_ones_as_published() -> None:
    long, short = (plan(TrainOptions(steps=n), long_side=320) for n in (30_000, 1000))
    rates = long.learning_rates(2.0)
    assert rates["means"] == pytest.approx(3.2e-4)
    assert rates["opacities"] == pytest.approx(5e-2)
    assert all(short.learning_rates(2.0)[name] > rate for name, rate in rates.items())


def test_small_images_are_not_reduced() -> None:
    assert plan(TrainOptions(), long_side=100).resolution_at(0) == 1.0


def views(count: int = 8) -> list[TrainingView]:
    return [
        TrainingView(f"{i}", Path("x"), None, 10, 10, np.eye(3), viewmat, False)
        for i, viewmat in enumerate(ring_viewmats(count))
    ]


def test_scene_of_a_ring() -> None:
    frame = frame_from_cameras(views(), np.zeros((0, 3)))
    np.testing.assert_allclose(frame.center, 0, atol=1e-9)
    assert frame.up @ np.array([0, -1, 0]) > 0.99
    assert frame.extent == pytest.approx(1.1 * 4.0)
    gps = frame_from_cameras(views(), np.zeros((0, 3)), gravity_is_z=True)
    np.testing.assert_array_equal(gps.up, [0, 0, 1])


def test_scene_of_parallel_cameras_is_where_the_points_are() -> None:
    cameras = views(4)
    for i, view in enumerate(cameras):
        viewmat = np.eye(4)
        viewmat[0, 3] = -i
        cameras[i] = replace(view, viewmat=viewmat)
    points = np.random.default_rng(0).normal(size=(100, 3)) * 0.1 + [1.5, 0, 7]
    frame = frame_from_cameras(cameras, points)
    np.testing.assert_allclose(frame.center, [1.5, 0, 7], atol=0.1)


def test_scene_of_gaussians_ignores_outliers() -> None:
    g = make_gaussians(n=1000)
    means = g.means.copy()
    means[:10] = 1e6
    frame = frame_from_gaussians(replace(g, means=means))
    np.testing.assert_allclose(frame.center, 0, atol=0.2)
    assert 1 < frame.radius < 4
    assert frame_from_gaussians(make_gaussians(n=0)).radius == 1.0
