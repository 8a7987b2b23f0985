"""What is looked at: the whole of a usual splat, the parts of a large one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from splat_assets.compression import judging
from splat_assets.compression.judging import choose_looks, weigh_errors
from splat_assets.compression.precision import measure_sensitivity
from splat_assets.compression.quality import psnr
from splat_assets.compression.targets import encode_as_wished
from splat_assets.compression.views import around, frame_splat
from splat_assets.datasets.options import CompressOptions
from splat_assets.formats.merge import merge
from splat_assets.gaussians.cleanup import clean
from splat_assets.gaussians.gaussians import Gaussians
from splat_assets.progress import silent
from splat_assets.viewing.camera import camera_position
from splat_assets_tests.compression.splat_models import two_tone_ball, upright_views

BLACK = (0.0, 0.0, 0.0)


@pytest.fixture(scope="module")
def row() -> Gaussians:
    """Four balls of 1000, side by side."""
    ball = clean(two_tone_ball(1000))[0]
    return merge([replace(ball, means=ball.means + np.float32([20 * i, 0, 0])) for i in range(4)])


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four thousand Gaussians are many."""
    monkeypatch.setattr(judging, "MANY", 3000)
    monkeypatch.setattr(judging, "_PART", 1000)


def test_usual_splats_are_looked_at_as_a_whole(row: Gaussians) -> None:
    weighed, checks = choose_looks(row, None)
    assert weighed.part_of is None and len(weighed.views[0]) == len(around(*frame_splat(row)))
    np.testing.assert_array_equal(checks.shown(len(row)), np.arange(len(row)))


@pytest.mark.parametrize("with_cameras", [False, True])
def test_results_are_looked_at_in_large_pictures_half_of_them_unknown(
    with_cameras: bool, row: Gaussians
) -> None:
    cameras = upright_views(count=12, size=1600) if with_cameras else None
    weighed, checks = choose_looks(row, cameras)
    assert len(checks.views[0]) == 8
    assert {max(view.width, view.height) for view in checks.views[0]} == {400}
    known = {view.viewmat.tobytes() for view in weighed.views[0]}
    assert sum(view.viewmat.tobytes() in known for view in checks.views[0]) == 4


@pytest.mark.usefixtures("large")
def test_cameras_are_trusted_whatever_the_size(row: Gaussians) -> None:
    cameras = upright_views(count=3)
    weighed, _ = choose_looks(row, cameras)
    assert weighed.part_of is None
    assert [view.name for view in weighed.views[0][:3]] == [view.name for view in cameras]


@pytest.mark.usefixtures("large")
def test_large_splats_are_looked_at_part_by_part(row: Gaussians) -> None:
    weighed, checks = choose_looks(row, None)
    part_of = weighed.part_of
    assert part_of is not None and np.bincount(part_of).tolist() == [1000] * 4
    for part, views in enumerate(weighed.views):
        (ball,) = set(np.flatnonzero(part_of == part) // 1000)  # one ball each
        for view in views:
            distance = np.linalg.norm(camera_position(view.viewmat) - [20 * ball, 0, 0])
            assert distance < 20
    for number, views in enumerate(checks.views):  # not the views that errors are weighed in
        assert not {view.name for view in views} & {v.name for v in weighed.views[number]}


@pytest.mark.usefixtures("large")
def test_parts_are_drawn_from_what_has_become_of_them(row: Gaussians) -> None:
    _, checks = choose_looks(row, None)
    everything = np.arange(len(row))
    exact = checks.draw(row, everything, BLACK)
    assert len(exact) == 4 and min(picture.max() for picture in exact) > 0.1
    shuffled = np.random.default_rng(0).permutation(len(row))
    for one, other in zip(exact, checks.draw(row.select(shuffled), shuffled, BLACK), strict=True):
        assert psnr(one, other) > 60
    # only the ball that changes looks different
    moved = replace(row, means=row.means + np.float32([0, 0.3, 0]) * (everything < 1000)[:, None])
    changed = [
        psnr(one, other) < 50
        for one, other in zip(exact, checks.draw(moved, everything, BLACK), strict=True)
    ]
    assert sum(changed) == 1


@pytest.mark.usefixtures("large")
def test_errors_are_weighed_part_by_part(row: Gaussians) -> None:
    weighed, _ = choose_looks(row, None)
    done: list[float] = []
    found = weigh_errors(row, weighed, report=done.append)
    assert done == [0.0, 0.25, 0.5, 0.75]
    assert weighed.part_of is not None
    first = None  # by which the next parts go where looking at displaced Gaussians is spared
    for part in (0, 2, 3):
        index = np.flatnonzero(weighed.part_of == part)
        like = first if part == 2 else None
        alone = measure_sensitivity(
            row.select(index), weighed.views[part], probes=1, compared=1, like=like
        )
        first = first or alone
        for name, values in alone.worth.items():
            np.testing.assert_allclose(found.worth[name][index], values / 4, rtol=1e-5)
    assert len(found.worth["means"]) == len(row)


@pytest.mark.usefixtures("large")
def test_a_large_splat_gets_the_quality_of_its_preset_in_its_parts(row: Gaussians) -> None:
    for prune in (False, True):
        wished = encode_as_wished(row, CompressOptions(prune=prune), None, silent())
        assert wished.measured_db is not None and abs(wished.measured_db - 48) < 2
        assert wished.notes == ()
