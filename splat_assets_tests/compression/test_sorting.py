import sys
import types

import numpy as np
import pytest

from splat_assets.compression.plas import _curve_cells, plas_order
from splat_assets.compression.sorting import hilbert_key, morton_key, sort_gaussians


def _no_features() -> np.ndarray:
    raise AssertionError("features are only for plas")


def test_hilbert_curve_visits_every_cell_by_unit_steps() -> None:
    axes = [np.arange(16)] * 3
    cells = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3)
    key = hilbert_key(cells)
    assert sorted(key) == list(range(4096))
    steps = np.abs(np.diff(cells[np.argsort(key)], axis=0)).sum(axis=1)
    assert (steps == 1).all()


def test_hilbert_uses_all_sixteen_bits() -> None:
    rng = np.random.default_rng(0)
    cells = rng.integers(0, 65536, (2000, 3)).astype(np.uint16)
    assert len(np.unique(hilbert_key(cells))) == len(np.unique(cells, axis=0))
    # cells next to each other in the finest grid are never far along the curve on average
    neighbour = cells.astype(int) ^ 1
    apart = np.abs(hilbert_key(neighbour).astype(float) - hilbert_key(cells).astype(float))
    assert np.median(apart) <= 7


def test_morton_interleaves() -> None:
    corners = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [65535, 65535, 65535]])
    assert morton_key(corners).tolist() == [1, 2, 4, 2**48 - 1]


@pytest.mark.parametrize("order", ["hilbert", "morton", "none"])
def test_orders_are_permutations(order: str) -> None:
    positions = np.random.default_rng(0).integers(0, 65536, (777, 3))
    sorting = sort_gaussians(order, positions, _no_features)
    assert sorting.order == order and not sorting.note
    assert sorted(sorting.permutation) == list(range(777))
    if order == "none":
        assert (sorting.permutation == np.arange(777)).all()


def test_plas_is_built_in_and_gives_the_same_again() -> None:
    rng = np.random.default_rng(0)
    for n in (1, 3, 5, 50, 900):
        positions, features = rng.integers(0, 65536, (n, 3)), rng.normal(size=(n, 5))
        one, two = (sort_gaussians("plas", positions, lambda f=features: f) for _ in range(2))
        assert one.order == "plas" and one.sorter == "built-in" and not one.note
        assert sorted(one.permutation) == list(range(n))
        assert (one.permutation == two.permutation).all()


def _roughness(picture: np.ndarray) -> float:
    """Mean squared distance of neighbours in a picture [H, W, C]."""
    return float(np.mean([(np.diff(picture, axis=axis) ** 2).sum(-1).mean() for axis in (0, 1)]))


def test_plas_makes_smooth_pictures() -> None:
    """Random colours become a gradient, from a random start and from a curve."""
    colors = np.random.default_rng(0).uniform(size=(64 * 64, 3)).astype(np.float32)
    curve = np.argsort(hilbert_key((colors * 65535).astype(np.uint16)), kind="stable")
    start = _roughness(colors.reshape(64, 64, 3))
    assert start == pytest.approx(0.5, abs=0.02)
    for begin in (None, curve):
        order = plas_order(colors, begin)
        assert _roughness(colors[order].reshape(64, 64, 3)) < 0.01 + 0.001 * (begin is not None)


def test_curve_cells_are_neighbours() -> None:
    cells = _curve_cells(16)
    assert sorted(cells) == list(range(256))
    assert (np.abs(np.diff(cells // 16)) + np.abs(np.diff(cells % 16)) == 1).all()
    assert sorted(_curve_cells(5)) == list(range(25))


def test_a_sorter_that_fails_is_replaced_by_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> np.ndarray:
        raise MemoryError("too large")

    positions = np.random.default_rng(0).integers(0, 65536, (50, 3))
    monkeypatch.setattr("splat_assets.compression.sorting.plas_problem", lambda: None)
    monkeypatch.setattr("splat_assets.compression.sorting._package_order", fail)
    sorting = sort_gaussians("plas", positions, lambda: np.zeros((50, 4), np.float32))
    assert (sorting.order, sorting.sorter) == ("plas", "built-in")
    assert sorting.note == (
        "Sorting by plas failed (MemoryError: too large): plas (built-in) was used."
    )
    monkeypatch.setattr("splat_assets.compression.sorting.plas_order", fail)
    sorting = sort_gaussians("plas", positions, lambda: np.zeros((50, 4), np.float32))
    assert sorting.order == "hilbert" and sorting.note.endswith(": hilbert (built-in) was used.")
    assert sorted(sorting.permutation) == list(range(50))
    monkeypatch.setattr("splat_assets.compression.sorting.hilbert_key", fail)
    sorting = sort_gaussians("plas", positions, lambda: np.zeros((50, 4), np.float32))
    assert sorting.order == "morton" and sorting.note.endswith(": morton (built-in) was used.")
    # an order that loses Gaussians is none
    monkeypatch.setattr(
        "splat_assets.compression.sorting.morton_key", lambda positions: np.zeros(3, np.uint64)
    )
    sorting = sort_gaussians("hilbert", positions, _no_features)
    assert sorting.order == "none" and "morton (built-in) did not give an order" in sorting.note


def test_plas_package_is_used_when_it_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in with the package's interface: (C, H, W) tensor in, sorted tensor and indices out.
    It is a full square only after padding."""
    torch = pytest.importorskip("torch")
    seen = []

    def sort_with_plas(grid, improvement_break):
        channels, side, other = grid.shape
        assert side == other
        seen.append((channels, side))
        order = torch.argsort(grid[0].reshape(-1), stable=True)
        return grid.reshape(channels, -1)[:, order].reshape(grid.shape), order.reshape(side, side)

    package = types.ModuleType("plas")
    package.sort_with_plas = sort_with_plas
    monkeypatch.setitem(sys.modules, "plas", package)
    monkeypatch.setattr("splat_assets.compression.sorting.plas_problem", lambda: None)
    features = np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32)
    sorting = sort_gaussians("plas", np.zeros((50, 3), np.uint16), lambda: features)
    assert sorting.order == "plas" and not sorting.note and sorting.sorter == "plas package"
    assert seen == [(3, 8)]
    assert sorted(sorting.permutation) == list(range(50))
    assert (np.diff(features[sorting.permutation, 0]) >= 0).all()
