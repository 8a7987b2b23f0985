import sys
import types

import numpy as np
import pytest

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


def test_plas_falls_back_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "plas", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    positions = np.random.default_rng(0).integers(0, 65536, (50, 3))
    sorting = sort_gaussians("plas", positions, lambda: np.zeros((50, 4), np.float32))
    assert sorting.order == "hilbert"
    assert "plas" in sorting.note and "not installed" in sorting.note
    assert sorted(sorting.permutation) == list(range(50))


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
    assert sorting.order == "plas" and not sorting.note
    assert seen == [(3, 8)]
    assert sorted(sorting.permutation) == list(range(50))
    assert (np.diff(features[sorting.permutation, 0]) >= 0).all()
