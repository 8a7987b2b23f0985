"""The palette of view-dependent colour, and the k-means below it."""

from __future__ import annotations

import numpy as np
import pytest

from splat_assets.compression.clusters import _nearest_by_cells, lloyd, nearest
from splat_assets.compression.palette import Drawn, Palette, PaletteSearch
from splat_assets.compression.sog_images import encode_palette, image_size


def _clustered(n: int, clusters: int, noise: float, dims: int = 24):
    rng = np.random.default_rng(3)
    centers = rng.normal(size=(clusters, dims))
    owner = rng.integers(0, clusters, n)
    return (centers[owner] + rng.normal(0, noise, (n, dims))).astype(np.float32), owner


def _choose(points, price, size=None, worth=None, seed=0) -> Palette | None:
    worth = np.full(len(points), 1 / len(points)) if worth is None else worth
    size_of = image_size(len(points))

    def draw(
        codes: np.ndarray, labels: np.ndarray, tier: np.ndarray, *, trial: bool = False
    ) -> Drawn:
        return Drawn(encode_palette(codes, labels, size_of, print, trial=trial))

    return PaletteSearch(points, worth, draw, size=size, seed=seed).choose(price)


def _shown(palette: Palette) -> np.ndarray:
    return palette.book.decode(palette.codes)[palette.labels]


def test_shared_entries_where_vectors_are_alike() -> None:
    points, owner = _clustered(4000, 100, 0.01)
    palette = _choose(points, 1e-7)
    assert palette is not None and palette.kind == "shared" and len(palette.codes) < 1000
    # Gaussians of one cluster do not end up with those of another
    assert all(len(np.unique(owner[palette.labels == k])) <= 1 for k in range(len(palette.codes)))


def test_one_search_serves_all_prices() -> None:
    """In whatever order they are asked for, about as well as a search of its own."""
    points, _ = _clustered(3000, 700, 0.1)
    worth = np.full(3000, 1 / 3000)
    size = image_size(3000)

    def draw(
        codes: np.ndarray, labels: np.ndarray, tier: np.ndarray, *, trial: bool = False
    ) -> Drawn:
        return Drawn(encode_palette(codes, labels, size, print, trial=trial))

    search = PaletteSearch(points, worth, draw)
    for price in (1e-5, 1e-7, 1e-6, 1e-8):
        shared, alone = search.choose(price), _choose(points, price)
        assert shared is not None and alone is not None
        costs = [p.error + 8 * price * p.num_bytes for p in (shared, alone)]
        assert costs[0] < 1.1 * costs[1]


def test_the_error_is_that_of_what_is_stored() -> None:
    points, _ = _clustered(3000, 300, 0.1)
    worth = np.random.default_rng(0).uniform(0.1, 1, 3000) / 3000
    palette = _choose(points, 1e-6, worth=worth)
    assert palette is not None
    error = float(worth @ ((_shown(palette) - points) ** 2).sum(axis=1))
    np.testing.assert_allclose(palette.error, error, rtol=1e-4)


def test_a_dearer_bit_buys_a_smaller_palette() -> None:
    points, _ = _clustered(3000, 1500, 0.02)
    sizes, errors = [], []
    for price in (1e-8, 1e-6, 1e-4):
        palette = _choose(points, price)
        assert palette is not None
        sizes.append(palette.num_bytes)
        errors.append(palette.error)
    assert sizes == sorted(sizes, reverse=True) and sizes[-1] < 0.7 * sizes[0]
    assert errors == sorted(errors)
    assert _choose(points, 1.0) is None  # not worth a byte


def test_without_a_price_nothing_is_lost_that_fits() -> None:
    values = np.random.default_rng(0).normal(size=200).astype(np.float32)
    points = np.random.default_rng(1).choice(values, (3000, 9))
    palette = _choose(points, 0.0)
    assert palette is not None and palette.kind == "own" and palette.error == 0
    np.testing.assert_array_equal(_shown(palette), points)


@pytest.mark.parametrize("size", [64, 256])
def test_the_size_asked_for(size: int) -> None:
    points, _ = _clustered(3000, 1500, 0.1)
    palette = _choose(points, 1e-9, size=size)
    assert palette is not None and 0.9 * size <= len(palette.codes) <= size
    few = _choose(points[:50], 1e-9, size=size)
    assert few is not None and len(few.codes) <= 50


def test_worth_decides_who_is_served() -> None:
    points, _ = _clustered(3000, 1500, 0.01)
    worth = np.full(3000, 1e-6)
    worth[:50] = 1
    palette = _choose(points, 1e-9, size=64, worth=worth)
    assert palette is not None
    errors = ((points - _shown(palette)) ** 2).sum(axis=1)
    assert errors[:50].mean() < 0.2 * errors[50:].mean()


def test_same_seed_same_palette() -> None:
    points, _ = _clustered(2000, 300, 0.2)
    one, two = _choose(points, 1e-6, 128), _choose(points, 1e-6, 128)
    other = _choose(points, 1e-6, 128, seed=1)
    assert one is not None and two is not None and other is not None
    assert one.drawn == two.drawn != other.drawn


def test_lloyd_moves_empty_centres_to_where_error_is() -> None:
    points, _ = _clustered(1000, 8, 0.01)
    start = np.concatenate([points[:4], np.full((4, points.shape[1]), 50, np.float32)])
    before = nearest(points, start)[1].mean()
    _, labels, errors = lloyd(points, np.ones(len(points)), start, 8)
    assert len(np.unique(labels)) == 8 and errors.mean() < 0.7 * before


def test_search_by_cells_is_nearly_exact() -> None:
    points, _ = _clustered(3000, 500, 0.2)
    centers = points[:1000] + np.float32(0.05)
    best, exact = nearest(points, centers)
    labels = _nearest_by_cells(points, centers)
    errors = ((points - centers[labels]) ** 2).sum(axis=1)
    distances = ((points[:, None] - centers[None]) ** 2).sum(-1)
    np.testing.assert_allclose(exact, distances.min(axis=1), rtol=1e-3, atol=1e-4)
    assert (best == labels).mean() > 0.9
    assert errors.mean() < 1.5 * exact.mean()


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("size", [None, 512])
def test_a_tier_without_entries_leaves_no_nan(size: int | None) -> None:
    """Where a single vector is worth anything, the entries that count are too few for two tiers."""
    points, _ = _clustered(2000, 1500, 0.1)
    worth = np.zeros(len(points))
    worth[17] = 1.0
    palette = _choose(points, 1e-6, size=size, worth=worth)
    assert palette is not None and np.isfinite(palette.error)
    assert np.isfinite(palette.book.values).all() and np.isfinite(palette.book.step)
    assert palette.labels.shape == (2000,) and palette.labels.max() < len(palette.codes)
    np.testing.assert_allclose(_shown(palette)[17], points[17], atol=0.05)
