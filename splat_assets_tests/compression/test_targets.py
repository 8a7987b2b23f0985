"""Quality and size as asked for: presets, targets, and what is said when they cannot be had."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from splat_assets.compression.precision import Precision, measure_sensitivity, probe_views
from splat_assets.compression.sog_writer import bundle_bytes
from splat_assets.compression.targets import PRESET_DB, encode_as_wished, measured_db
from splat_assets.datasets.options import CompressOptions
from splat_assets.errors import Cancelled, UserError
from splat_assets.gaussians.cleanup import clean
from splat_assets.gaussians.gaussians import Gaussians
from splat_assets.progress import Progress, Report, silent
from splat_assets_tests.compression.splat_models import two_tone_ball, upright_views

VIEWS = upright_views(count=4)


@pytest.fixture(scope="module")
def ball() -> Gaussians:
    return clean(two_tone_ball(3000))[0]


def _encode(g: Gaussians, **options: object) -> tuple[float, int, tuple[str, ...]]:
    """(dB, bytes, notes)."""
    wished = encode_as_wished(g, CompressOptions.model_validate(options), VIEWS, silent())
    size = len(bundle_bytes(wished.encoded))
    return measured_db(g, wished.encoded, VIEWS), size, wished.notes


def test_presets_are_near_their_quality_and_ordered(ball: Gaussians) -> None:
    found = {name: _encode(ball, preset=name) for name in PRESET_DB}
    for name, (reached, _, notes) in found.items():
        assert abs(reached - PRESET_DB[name]) < 4 and notes == ()
    sizes = [found[name][1] for name in ("web", "standard", "archive")]
    assert sizes == sorted(sizes) and sizes[0] < 0.75 * sizes[2]


@pytest.mark.parametrize("target", [38.0, 50.0])
def test_a_quality_by_number_is_met(target: float, ball: Gaussians) -> None:
    reached, _, notes = _encode(ball, target_db=target)
    assert target <= reached < target + 2 and notes == ()


def test_a_size_by_number_is_met_with_the_quality_that_fits(ball: Gaussians) -> None:
    reached, size, _ = _encode(ball, preset="archive")
    less_db, less, notes = _encode(ball, preset="archive", max_mb=0.8 * size / 1e6)
    assert less <= 0.8 * size and less_db < reached and notes == ()
    assert less > 0.6 * size  # nothing is given away
    same = _encode(ball, preset="archive", max_mb=1.0)
    assert same[1] == size
    _, _, notes = _encode(ball, max_mb=0.001)
    assert "0.001 MB could not be reached" in notes[0]


def test_equal_input_equal_bytes(ball: Gaussians) -> None:
    options = CompressOptions.model_validate({})
    one, two = (encode_as_wished(ball, options, VIEWS, silent()).encoded for _ in range(2))
    assert bundle_bytes(one) == bundle_bytes(two)


def test_nothing_to_encode_and_cancel(ball: Gaussians) -> None:
    options = CompressOptions.model_validate({"target_db": 45})
    empty = replace(ball, means=np.full_like(ball.means, np.nan))
    with pytest.raises(UserError, match="nothing to encode"):
        encode_as_wished(empty, options, VIEWS, silent())
    seen: list[Report] = []
    stop = Progress(seen.append, lambda: len(seen) > 3)
    with pytest.raises(Cancelled):
        encode_as_wished(ball, options, VIEWS, stop)


def test_sensitivity_predicts_what_a_step_costs(ball: Gaussians) -> None:
    """The finer the storage, the better the picture, and each property has its price."""
    found = measure_sensitivity(ball, VIEWS)
    assert set(found.per_squared_step) == {"means", "quats", "scales", "sh0", "opacities"}
    assert min(found.per_squared_step.values()) > 0 and found.per_palette_mse > 0
    coarse, fine = found.precision(35), found.precision(55)
    assert coarse.means > 5 * fine.means and coarse.sh0 > 5 * fine.sh0
    assert coarse.quats >= fine.quats >= 1 and coarse.palette_mse > 20 * fine.palette_mse
    plain = measure_sensitivity(replace(ball, shN=ball.shN[:, :0]), VIEWS)
    assert plain.per_palette_mse == 0 and plain.precision(50).palette_mse == 0
    assert found.precision(48) == measure_sensitivity(ball, VIEWS).precision(48)
    assert Precision() == Precision(0.0, 1, 0.0, 0.0, 1, 0.0)


def test_probe_views_are_few_and_small() -> None:
    views = upright_views(count=12, size=1000)
    few = probe_views(views, 1000)
    assert len(few) == 4 and {view.width for view in few} == {400}
    assert few[0].K[0, 0] == pytest.approx(0.4 * views[0].K[0, 0])
    assert len(probe_views(views, 5_000_000)) == 1
