"""What is not rounded yet adjusted to what is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from splat_assets.compression import rate_control
from splat_assets.compression.finetune import THOROUGH, Draft, finetune
from splat_assets.compression.precision import measure_sensitivity
from splat_assets.compression.quality import draw_views, psnr
from splat_assets.compression.sog_reader import decode_members
from splat_assets.compression.sog_writer import SogEncoder, SogOptions
from splat_assets.compression.targets import encode_as_wished
from splat_assets.compression.views import around, frame_splat
from splat_assets.datasets.options import CompressOptions
from splat_assets.gaussians.cleanup import clean
from splat_assets.gaussians.gaussians import Gaussians
from splat_assets.progress import silent
from splat_assets_tests.compression.splat_models import CPU, two_tone_ball, upright_views

BLACK = (0.0, 0.0, 0.0)
SEEN, UNSEEN = upright_views(8)[::2], upright_views(8)[1::2]


@pytest.fixture(scope="module")
def ball() -> Gaussians:
    return clean(two_tone_ball(800))[0]


def _quality(splat: Gaussians, original: Gaussians) -> float:
    pictures = (draw_views(g, UNSEEN, background=BLACK, compute=CPU) for g in (splat, original))
    return float(np.mean([psnr(a, b) for a, b in zip(*pictures, strict=True)]))


def _on_grid(step: float) -> Callable[[np.ndarray], np.ndarray]:
    return lambda values: (np.rint(values / step) * step).astype(np.float32)


def _draft(ball: Gaussians) -> Draft:
    """Positions have become coarse, and all else is about to."""
    grids = {"sh0": 0.2, "opacities": 0.5, "scales": 0.2, "entries": 0.05}
    labels = np.arange(len(ball)) // 2
    shN = ball.shN.reshape(len(ball), -1)
    exact = {name: getattr(ball, name) for name in ("sh0", "opacities", "scales")}
    exact["entries"] = (shN[::2] + shN[1::2]) / 2
    stored = replace(ball, means=_on_grid(0.05)(ball.means))
    return Draft(stored, exact, grids, lambda name, x: _on_grid(grids[name])(x), labels)


def _with(draft: Draft, values: dict[str, np.ndarray]) -> Gaussians:
    changed: dict[str, Any] = dict(values)
    changed["shN"] = changed.pop("entries")[draft.labels].reshape(draft.stored.shN.shape)
    return replace(draft.stored, **changed)


def test_what_was_lost_comes_back_in_part(ball: Gaussians) -> None:
    """In views that it was not done in as well, with nothing but numbers that can be stored."""
    draft = _draft(ball)
    plain = {name: draft.rounded(name, values) for name, values in draft.exact.items()}
    told: list[float] = []
    better = finetune(draft, ball, SEEN, report=told.append)
    assert better is not None and better.keys() == draft.exact.keys()
    for name, values in better.items():
        np.testing.assert_allclose(values, draft.rounded(name, values), atol=1e-6)
    gained = _quality(_with(draft, better), ball) - _quality(_with(draft, plain), ball)
    assert gained > 0.8
    assert told == sorted(told) and told[-1] == 1.0
    again = finetune(draft, ball, SEEN)
    assert again is not None and all((again[name] == better[name]).all() for name in better)


def test_rounding_part_by_part_beats_rounding_at_the_end(ball: Gaussians) -> None:
    draft = _draft(ball)
    found = [
        finetune(draft, ball, SEEN, effort=effort)
        for effort in (THOROUGH, replace(THOROUGH, rests=()))
    ]
    by_parts, at_once = (_quality(_with(draft, values), ball) for values in found if values)
    assert by_parts > at_once + 0.3


def test_what_was_found_is_what_a_decoder_reads(ball: Gaussians) -> None:
    views = around(*frame_splat(ball))
    encoder = SogEncoder(ball, SogOptions(), sensitivity=measure_sensitivity(ball, views))
    precision = measure_sensitivity(ball, views).precision(50)
    draft = encoder.draft(precision)
    values = finetune(draft, encoder.gaussians, views)
    assert values is not None and "entries" in values
    encoded = encoder.encode(precision, values=values)
    wanted = _with(draft, values).select(encoded.order)
    decoded = decode_members(encoded.files)
    for name in ("means", "quats", "scales", "opacities", "sh0", "shN"):
        np.testing.assert_array_equal(getattr(decoded, name), getattr(wanted, name))


def test_not_without_cameras_nor_when_switched_off(ball: Gaussians) -> None:
    def tuned(views: object, on: bool) -> bool:
        options = CompressOptions(preset="web", finetune=on)
        return encode_as_wished(ball, options, views, silent()).finetuned  # type: ignore[arg-type]

    assert tuned(SEEN, True) and not tuned(SEEN, False) and not tuned(None, True)
    assert finetune(_draft(ball), ball, []) is None


def test_a_failure_costs_bytes_and_not_quality(
    ball: Gaussians, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("no kernels")

    plain = encode_as_wished(ball, CompressOptions(finetune=False), SEEN, silent())
    monkeypatch.setattr(rate_control, "finetune", fail)
    found = encode_as_wished(ball, CompressOptions(finetune=True), SEEN, silent())
    assert "no kernels" in found.notes[0] and not found.finetuned
    assert found.measured_db is not None and plain.measured_db is not None
    assert found.measured_db > plain.measured_db - 1
