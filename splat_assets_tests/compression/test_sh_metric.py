"""Which differences of view-dependent colour can be seen, and rounding that knows it."""

from __future__ import annotations

import numpy as np
import pytest

from splat_assets.compression.palette import PaletteSearch
from splat_assets.compression.precision import measure_sensitivity
from splat_assets.compression.rounding import thrifty_vectors
from splat_assets.compression.sh_metric import ShMetric, seen_from
from splat_assets.compression.views import around, frame_splat
from splat_assets.gaussians.gaussians import SH_C0
from splat_assets.gaussians.sh import basis
from splat_assets_tests.compression.splats import random_splat


def _directions(n: int, spread: float) -> np.ndarray:
    """Around one of them, or over the whole sphere where `spread` is large."""
    rng = np.random.default_rng(0)
    rays = np.array([0.3, 0.4, 0.866]) + spread * rng.normal(size=(n, 3))
    return rays / np.linalg.norm(rays, axis=1, keepdims=True)


def _metric(rays: np.ndarray, degree: int = 3) -> ShMetric:
    seen = seen_from(rays, np.zeros(3), np.ones(len(rays)), degree)
    return ShMetric.from_directions(seen, 10**6)


def test_it_is_what_is_left_when_the_constant_colour_makes_up_for_what_it_can() -> None:
    rays, rng = _directions(500, 0.4), np.random.default_rng(1)
    metric, difference = _metric(rays), rng.normal(size=(20, 15, 3))
    values = basis(rays, 3) / SH_C0
    shown = np.einsum("vk,nkc->nvc", values[:, 1:], difference)
    best = -shown.mean(axis=1)  # least squares of a constant
    left = ((shown + best[:, None]) ** 2).mean(axis=1).sum(axis=1)
    flat = difference.reshape(20, -1)
    # all but the share that counts all directions alike
    np.testing.assert_allclose(metric.squared(flat), left, rtol=0.2, atol=0.06 * 45)
    np.testing.assert_allclose(metric.folded(flat), best, atol=0.06 * np.abs(best).max() + 0.05)
    assert metric.evenness < 0.5


def test_seen_from_everywhere_it_is_nearly_the_ordinary_distance() -> None:
    metric = _metric(_directions(20_000, 100.0))
    np.testing.assert_allclose(metric.inner, np.eye(15), atol=0.05)
    np.testing.assert_allclose(metric.fold, 0, atol=0.03)
    assert metric.evenness == pytest.approx(1, abs=0.02)


def test_whitened_vectors_are_as_far_apart_as_the_metric_says() -> None:
    metric = _metric(_directions(300, 0.5))
    vectors = np.random.default_rng(2).normal(size=(40, 45)).astype(np.float32)
    white = metric.whitened(vectors)
    np.testing.assert_allclose((white**2).sum(axis=1), metric.squared(vectors), rtol=1e-4)
    plain = ShMetric.plain(15)
    assert plain.is_plain and plain.whitened(vectors) is vectors
    np.testing.assert_allclose(plain.squared(vectors), (vectors**2).sum(axis=1), rtol=1e-5)


def test_few_cameras_tell_little_of_other_directions() -> None:
    seen = seen_from(_directions(100, 0.2), np.zeros(3), np.ones(100), 2)
    few, many = (ShMetric.from_directions(seen, places) for places in (2, 200))
    least = [np.linalg.eigvalsh(metric.inner)[0] for metric in (few, many)]
    assert least[0] > 0.4 > 0.1 > least[1] > 0


def test_nobody_saw_it() -> None:
    assert ShMetric.from_directions(np.zeros((9, 9)), 0).is_plain


def test_directions_are_measured_with_the_rest() -> None:
    """A splat seen from one side only, beside one seen from around."""
    gaussians = random_splat(400, sh_degree=2)
    everywhere = around(*frame_splat(gaussians))
    looks = (everywhere, everywhere[:1])
    whole, side = (measure_sensitivity(gaussians, views) for views in looks)
    assert whole.places > 20 and side.places == 1
    assert whole.directions is not None and side.directions is not None
    ratios = [np.linalg.slogdet(s.directions / s.directions[0, 0])[1] for s in (whole, side)]
    assert ratios[0] > ratios[1] + 3
    np.testing.assert_allclose(
        whole.directions[0, 0], whole.worth["sh0"].sum(dtype=np.float64), rtol=1e-3
    )


@pytest.mark.parametrize("price", [0.0, 1e-3])
def test_rounding_makes_up_for_its_own_errors(price: float) -> None:
    """Cheaper in the metric than every number for itself, at no more bits."""
    metric, rng = _metric(_directions(300, 0.5)), np.random.default_rng(3)
    x = rng.normal(0, 0.3, (2000, 15, 3))
    levels, worth = np.arange(-20, 21) * 0.1, np.ones(2000)
    together = thrifty_vectors(x, levels, worth, metric.inner, price)
    alone = np.abs(x[..., None] - levels).argmin(-1)

    def error(codes: np.ndarray) -> float:
        return float(metric.squared((levels[codes] - x).reshape(2000, -1)).mean())

    def bits(codes: np.ndarray) -> float:
        share = np.bincount(codes.ravel()) / codes.size
        return -float((share[share > 0] * np.log2(share[share > 0])).sum())

    assert error(together) < 0.8 * error(alone)
    if price:
        assert bits(together) < bits(alone)


def test_a_palette_is_found_in_the_metric() -> None:
    """With the same price, less of what is seen is lost or fewer bytes are needed."""
    metric, rng = _metric(_directions(300, 0.4), 2), np.random.default_rng(4)
    points = rng.normal(0, 0.2, (3000, 24)).astype(np.float32)
    worth = np.full(3000, 1 / 3000)

    def size_of(codes: np.ndarray, labels: np.ndarray, tier: np.ndarray) -> int:
        share = np.unique(codes, return_counts=True)[1] / codes.size
        entropy = -float((share * np.log2(share)).sum()) * codes.size
        return int((entropy + len(labels) * np.log2(len(codes))) / 8)

    costs = []
    for known in (metric, None):
        palette = PaletteSearch(points, worth, size_of, metric=known).choose(1e-6)
        assert palette is not None
        off = palette.book.decode(palette.codes)[palette.labels] - points
        error = float(worth @ metric.squared(off))
        if known is not None:
            assert palette.error == pytest.approx(error, rel=1e-3)
        costs.append(error + 8e-6 * palette.num_bytes)
    assert costs[0] < 0.85 * costs[1]
