"""The palette of view-dependent colour, and the k-means below it."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from splat_assets.compression.clusters import _nearest_by_cells, grow, lloyd, nearest
from splat_assets.compression.palette import Palette, PaletteSearch, _sizes
from splat_assets.compression.palette_images import PaletteArtist


def _clustered(n: int, clusters: int, noise: float, dims: int = 24):
    rng = np.random.default_rng(3)
    centers = rng.normal(size=(clusters, dims))
    owner = rng.integers(0, clusters, n)
    return (centers[owner] + rng.normal(0, noise, (n, dims))).astype(np.float32), owner


def _choose(points, price, size=None, worth=None, seed=0) -> Palette | None:
    worth = np.full(len(points), 1 / len(points)) if worth is None else worth
    size_of = _artist(len(points)).size_of
    return PaletteSearch(points, worth, size_of, size=size, seed=seed).choose(price)


def _artist(count: int, *, reorders: bool = False) -> PaletteArtist:
    positions = np.arange(3 * count).astype(np.uint16).reshape(count, 3)
    return PaletteArtist(positions, reorders, print)


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
    search = PaletteSearch(points, worth, _artist(3000).size_of)
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


@pytest.mark.parametrize("growth", [2.0, 2**0.5])
@pytest.mark.parametrize("count", [1, 100, 5000, 200_000, 10_000_000])
def test_sizes_that_are_tried_grow_and_end(count: int, growth: float) -> None:
    sizes = _sizes(count, count, growth)
    assert sizes == sorted(set(sizes)) and all(size <= 65536 for size in sizes)
    assert all(size <= 0.6 * count for size in sizes)
    assert len(sizes) >= 2 or count < 5000


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
    np.testing.assert_array_equal(one.codes, two.codes)
    np.testing.assert_array_equal(one.labels, two.labels)
    assert not np.array_equal(one.codes, other.codes)


@pytest.mark.parametrize("reorders", [False, True])
def test_pictures_of_a_palette_show_every_gaussian_its_entry(reorders: bool) -> None:
    points, _ = _clustered(2000, 900, 0.1)
    artist, palette = _artist(2000, reorders=reorders), _choose(points, 1e-7)
    assert palette is not None
    for drawn in (artist.draw(palette), artist.draw_plainly(palette)):
        texels = np.asarray(Image.open(io.BytesIO(drawn.labels))).reshape(-1, 3)[:2000].astype(int)
        entries = np.asarray(Image.open(io.BytesIO(drawn.entries)))
        entries = entries.reshape(-1, points.shape[1])
        shown = entries[texels[:, 0] + 256 * texels[:, 1]]
        np.testing.assert_array_equal(shown, palette.codes[palette.labels[drawn.order]])
        size = len(drawn.entries) + len(drawn.labels)
        assert 0.8 * size < palette.num_bytes < 1.3 * size
    assert sorted(drawn.order) == list(range(2000))


def test_what_serves_the_points_is_known_while_centres_grow() -> None:
    points, _ = _clustered(2000, 100, 0.1)
    mass, rng = np.full(len(points), 1 / 2000), np.random.default_rng(0)
    centers, labels, errors = grow(
        points, mass, points[:10], *nearest(points, points[:10]), 90, rng
    )
    assert len(centers) == 90 and np.array_equal(centers[:10], points[:10])
    again, distances = nearest(points, centers)
    assert (again == labels).mean() > 0.99
    np.testing.assert_allclose(errors, distances, atol=1e-4)


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
