"""Colours and opacities adjusted to what compression did to the rest."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from splat_assets.compression import aim
from splat_assets.compression.finetune import finetune
from splat_assets.compression.quality import draw_views, psnr
from splat_assets.compression.sog_bundle import bundle_bytes
from splat_assets.compression.targets import encode_as_wished
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


def test_what_was_lost_comes_back_in_part(ball: Gaussians) -> None:
    """Scales that became coarse are made up for, in views it was not done in as well."""
    coarse = replace(ball, scales=(np.rint(ball.scales / 0.5) * 0.5).astype(np.float32))
    better = finetune(coarse, coarse, ball, SEEN)
    assert better is not None
    np.testing.assert_array_equal(better.scales, coarse.scales)
    assert _quality(better, ball) > _quality(coarse, ball) + 0.5
    again = finetune(coarse, coarse, ball, SEEN)
    assert again is not None and (again.sh0 == better.sh0).all()


def test_not_without_cameras_nor_when_switched_off(ball: Gaussians) -> None:
    def tuned(views: object, on: bool) -> bool:
        options = CompressOptions(preset="web", finetune=on)
        return encode_as_wished(ball, options, views, silent()).finetuned  # type: ignore[arg-type]

    assert tuned(SEEN, True) and not tuned(SEEN, False) and not tuned(None, True)
    assert finetune(ball, ball, ball, []) is None


def test_a_failure_leaves_the_splat_as_it_was(
    ball: Gaussians, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("no kernels")

    plain = encode_as_wished(ball, CompressOptions(finetune=False), SEEN, silent())
    monkeypatch.setattr(aim, "finetune", fail)
    found = encode_as_wished(ball, CompressOptions(finetune=True), SEEN, silent())
    assert "no kernels" in found.notes[0] and not found.finetuned
    assert bundle_bytes(found.encoded) == bundle_bytes(plain.encoded)
