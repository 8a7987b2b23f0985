import numpy as np

from splat_assets.compression.palette import _nearest_by_cells, build_palette, nearest


def _clustered(n: int, clusters: int, noise: float, dims: int = 24):
    rng = np.random.default_rng(3)
    centers = rng.normal(size=(clusters, dims))
    owner = rng.integers(0, clusters, n)
    return (centers[owner] + rng.normal(0, noise, (n, dims))).astype(np.float32), owner


def _build(points, size=None, max_mse=0.0, weights=None, seed=0):
    weights = np.ones(len(points)) if weights is None else weights
    return build_palette(points, weights, size=size, max_mse=max_mse, seed=seed)


def test_finds_the_clusters() -> None:
    points, owner = _clustered(4000, 100, 0.01)
    palette = _build(points, size=128)
    assert palette.mse < 3 * 24 * 0.01**2
    # Gaussians of one cluster do not end up with those of another
    for label in np.unique(palette.labels):
        assert len(np.unique(owner[palette.labels == label])) == 1
    shown = ((points - palette.vectors[palette.labels]) ** 2).sum(axis=1).mean()
    np.testing.assert_allclose(shown, palette.mse, rtol=1e-3)


def test_search_takes_what_the_target_needs() -> None:
    points, _ = _clustered(6000, 3000, 0.01)
    loose, tight = _build(points, max_mse=20.0), _build(points, max_mse=2.0)
    assert len(loose.vectors) < len(tight.vectors)
    assert loose.mse <= 20.0 and tight.mse <= 2.0


def test_few_vectors_are_kept_exactly() -> None:
    values = np.random.default_rng(0).normal(size=(60, 9)).astype(np.float32)
    points = values[np.random.default_rng(1).integers(0, 60, 3000)]
    palette = _build(points)
    assert palette.is_exact and palette.mse == 0
    np.testing.assert_array_equal(palette.vectors[palette.labels], points)


def test_weights_decide_who_is_served() -> None:
    points, _ = _clustered(3000, 1500, 0.01)
    heavy = np.zeros(3000)
    heavy[:50] = 1
    palette = _build(points, size=64, weights=heavy + 1e-6)
    errors = ((points - palette.vectors[palette.labels]) ** 2).sum(axis=1)
    assert errors[:50].mean() < 0.2 * errors[50:].mean()


def test_same_seed_same_palette_and_sorted_entries() -> None:
    points, _ = _clustered(2000, 300, 0.2)
    one, two, other = _build(points, 128), _build(points, 128), _build(points, 128, seed=1)
    np.testing.assert_array_equal(one.vectors, two.vectors)
    np.testing.assert_array_equal(one.labels, two.labels)
    assert not np.array_equal(one.vectors, other.vectors)
    # along the first principal axis, neighbours in the palette resemble each other
    steps = np.linalg.norm(np.diff(one.vectors, axis=0), axis=1).mean()
    shuffled = np.random.default_rng(0).permutation(one.vectors)
    assert steps < np.linalg.norm(np.diff(shuffled, axis=0), axis=1).mean()


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
