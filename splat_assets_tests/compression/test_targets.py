"""Quality and size as asked for: presets, targets, and what is said when they cannot be had."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from splat_assets.compression import aim, rate_control
from splat_assets.compression.precision import Precision, _probes, measure_sensitivity
from splat_assets.compression.quality import draw_views, psnr
from splat_assets.compression.sog_bundle import bundle_bytes
from splat_assets.compression.sog_reader import decode_members
from splat_assets.compression.targets import PRESET_DB, encode_as_wished
from splat_assets.datasets.options import CompressOptions
from splat_assets.errors import Cancelled, UserError
from splat_assets.gaussians.cleanup import clean
from splat_assets.gaussians.gaussians import Gaussians
from splat_assets.gaussians.ply import write_ply
from splat_assets.progress import Progress, Report, silent
from splat_assets_tests.compression.splat_models import CPU, two_tone_ball, upright_views

VIEWS = upright_views(count=4)


@pytest.fixture(scope="module")
def ball() -> Gaussians:
    return clean(two_tone_ball(3000))[0]


def _encode(g: Gaussians, **options: object) -> tuple[float, int, tuple[str, ...]]:
    """(dB, bytes, notes)."""
    wished = encode_as_wished(g, CompressOptions.model_validate(options), VIEWS, silent())
    size = len(bundle_bytes(wished.encoded))
    pictures = (
        draw_views(splat, VIEWS, background=(0.0, 0.0, 0.0), compute=CPU)
        for splat in (g, decode_members(wished.encoded.files))
    )
    found = float(np.mean([psnr(a, b) for a, b in zip(*pictures, strict=True)]))
    return found, size, wished.notes


def test_presets_are_near_their_quality_and_ordered(ball: Gaussians) -> None:
    found = {name: _encode(ball, preset=name) for name in PRESET_DB}
    for name, (reached, _, notes) in found.items():
        assert abs(reached - PRESET_DB[name]) < 7 and notes == ()
    sizes = [found[name][1] for name in ("web", "standard", "archive")]
    assert sizes == sorted(sizes) and sizes[0] < 0.75 * sizes[2]


@pytest.mark.parametrize("target", [38.0, 50.0])
def test_a_quality_by_number_is_met(target: float, ball: Gaussians) -> None:
    reached, _, notes = _encode(ball, target_db=target)
    assert target - 1 <= reached < target + 3 and notes == ()


def test_a_size_by_number_is_met_with_the_quality_that_fits(ball: Gaussians) -> None:
    reached, size, _ = _encode(ball, preset="archive")
    less_db, less, notes = _encode(ball, preset="archive", max_mb=0.8 * size / 1e6)
    assert less <= 0.8 * size and less_db < reached and notes == ()
    assert less > 0.6 * size  # nothing is given away
    same = _encode(ball, preset="archive", max_mb=1.0)
    assert same[1] <= size  # what fits is not made larger
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


def test_a_quality_out_of_reach_is_told(ball: Gaussians, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aim, "_ROUNDS", 2)
    _, _, notes = _encode(ball, target_db=70, palette_size=64)
    assert len(notes) == 1 and "70 dB could not be reached; the file has" in notes[0]


def test_sensitivity_predicts_what_a_step_costs(ball: Gaussians) -> None:
    """An error of known size costs about what was foretold, for each property."""
    found = measure_sensitivity(ball, VIEWS)
    rng = np.random.default_rng(0)
    exact = list(draw_views(ball, VIEWS, background=(0.0, 0.0, 0.0), compute=CPU))
    for name, size in (("scales", 0.05), ("sh0", 0.05), ("shN", 0.05)):
        values = getattr(ball, name)
        errors = rng.uniform(-size / 2, size / 2, values.shape)
        moved = replace(ball, **{name: (values + errors).astype(np.float32)})
        pictures = draw_views(moved, VIEWS, background=(0.0, 0.0, 0.0), compute=CPU)
        seen = np.mean([((a - b) ** 2).mean() for a, b in zip(pictures, exact, strict=True)])
        foretold = found.worth[name].sum() * size**2 / 12
        if name == "shN":
            foretold *= values[0].size
        assert 0.5 < seen / foretold < 2, name
    # positions besides cost what changes in the order of depth does
    assert found.worth["means"].sum() > 0 and np.isfinite(found.worth["means"]).all()


def test_finer_storage_for_better_pictures(ball: Gaussians) -> None:
    found = measure_sensitivity(ball, VIEWS)
    coarse, fine = found.precision(35), found.precision(55)
    assert coarse.means > 5 * fine.means and coarse.sh0 > 5 * fine.sh0
    assert coarse.quats >= fine.quats >= 1 and coarse.bit_price > 20 * fine.bit_price
    assert 10 ** (-35 / 10) > found.error(coarse) > 20 * found.error(fine)
    assert found.precision(48) == measure_sensitivity(ball, VIEWS).precision(48)
    # out of reach: fine, but not absurdly so
    assert found.fitting(0.0).means > 1e-9 and Precision().means == 0


def test_many_gaussians_are_probed_in_few_views() -> None:
    views = upright_views(count=50, size=1000)
    few, probes = _probes(views, 1000)
    assert len(few) == 36 and probes == 3 and {view.width for view in few} == {256}
    assert few[0].K[0, 0] == pytest.approx(0.256 * views[0].K[0, 0])
    many, probes = _probes(views, 5_000_000)
    assert len(many) == 6 and probes == 1
    # a small picture would not show what an error in one of so many costs
    assert {view.width for view in many} == {1000}


def test_what_contributes_little_is_left_out(ball: Gaussians) -> None:
    faint = np.arange(len(ball)) % 3 == 0
    opacities = np.where(faint, -5.0, ball.opacities).astype(np.float32)
    splat = replace(ball, opacities=opacities)
    wished = encode_as_wished(splat, CompressOptions(prune=True), VIEWS, silent())
    assert wished.pruned > 0.8 * faint.sum() > wished.encoded.count / 10
    assert wished.encoded.count == len(splat) - wished.pruned
    whole = encode_as_wished(splat, CompressOptions(prune=False), VIEWS, silent())
    assert whole.pruned == 0 and whole.encoded.count == len(splat)
    assert len(bundle_bytes(wished.encoded)) < 0.85 * len(bundle_bytes(whole.encoded))


def test_nothing_is_left_out_of_splats_too_large_to_be_looked_at(
    ball: Gaussians, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rate_control, "_LOOKED_AT", len(ball) - 1)
    wished = encode_as_wished(ball, CompressOptions(prune=True), VIEWS, silent())
    assert wished.pruned == 0 and wished.encoded.count == len(ball)


def test_without_sensitivity_all_is_stored_finely_and_said(
    ball: Gaussians, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("no renderer")

    monkeypatch.setattr(rate_control, "weigh_errors", fail)
    reached, _, notes = _encode(ball)
    assert reached > 50 and "no renderer" in notes[0]


def test_same_bytes_whatever_the_number_of_threads(tmp_path: Path, ball: Gaussians) -> None:
    write_ply(tmp_path / "in.ply", ball)
    made = set()
    for threads in ("1", "2"):
        out = tmp_path / f"{threads}.sog"
        environment = {**os.environ, "OMP_NUM_THREADS": threads, "NUMBA_NUM_THREADS": threads}
        command = [sys.executable, "-m", "splat_assets", "compress", str(tmp_path / "in.ply")]
        command += ["-o", str(out), "--set", "preset=web"]
        subprocess.run(command, env=environment, check=True, capture_output=True)
        made.add(out.read_bytes())
    assert len(made) == 1


def test_targets_on_the_command_line(tmp_path: Path, ball: Gaussians) -> None:
    write_ply(tmp_path / "in.ply", ball)

    def compress(*wishes: str) -> dict[str, Any]:
        command = [sys.executable, "-m", "splat_assets", "compress", str(tmp_path / "in.ply")]
        command += ["-o", str(tmp_path / "out.sog"), "--force", "--json"]
        command += [word for wish in wishes for word in ("--set", wish)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        return json.loads(done.stdout)

    good = compress("target_db=45")
    small = compress("target_db=45", f"max_mb={0.8 * good['sog_bytes'] / 1e6}")
    assert good["notes"] == [] and small["sog_bytes"] <= 0.8 * good["sog_bytes"]
    assert (tmp_path / "out.sog").stat().st_size == small["sog_bytes"]
