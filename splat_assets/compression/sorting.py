"""The order in which Gaussians are laid into SOG images: neighbours in space become neighbours in
the picture, which is what its lossless predictor feeds on.

`hilbert` and `morton` follow a space-filling curve over the quantised positions; `plas` is the
parallel linear assignment sorting of Morgenstern et al. (ECCV 2024), by its authors' package where
that is installed, else by our own (`compression.plas`).
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import numpy as np

from splat_assets.compression.fallback import Notes, first_that_works

Order = Literal["hilbert", "morton", "plas", "none"]
POSITION_BITS = 16


@dataclass(frozen=True)
class Sorting:
    """A permutation and how it was come by."""

    permutation: np.ndarray  # [N] int64; output position i holds input permutation[i]
    order: Order  # the one used
    seconds: float
    note: str = ""  # why it is not what was asked for
    sorter: str = "built-in"  # or the package that did it

    @property
    def per_second(self) -> float:
        return len(self.permutation) / max(self.seconds, 1e-9)


def sort_gaussians(
    order: Order, positions: np.ndarray, features: Callable[[], np.ndarray], seed: int = 0
) -> Sorting:
    """Order Gaussians for coding.

    Args:
        order: the order wanted. A sorter that fails is replaced by the next best one (the package
            `plas`, our own, `hilbert`, `morton`), and `note` says so.
        positions: [N, 3] unsigned integers below 2**16, the quantised positions.
        features: gives [N, C] float32 for `plas`; only called when needed.
        seed: of `plas`, which starts from a random arrangement.
    """
    began, notes = time.perf_counter(), Notes()

    def sorted_by(used: Order, sorter: str, sort: Callable[[], np.ndarray]) -> Sorting:
        permutation = sort()
        if not _is_permutation(permutation, len(positions)):
            raise ValueError(f"{used} ({sorter}) did not give an order")
        return Sorting(permutation, used, time.perf_counter() - began, sorter=sorter)

    ways = [
        (f"{used} ({sorter}) was used", partial(sorted_by, used, sorter, sort))
        for used, sorter, sort in _sorters(order, positions, features, seed)
    ]
    sorting = first_that_works(f"Sorting by {order}", ways, notes)
    return replace(sorting, note=" ".join(notes))


def _sorters(
    order: Order, positions: np.ndarray, features: Callable[[], np.ndarray], seed: int
) -> Iterator[tuple[Order, str, Callable[[], np.ndarray]]]:
    """(order, who does it, how), from the one wanted to the plainest."""
    if order == "plas":
        if plas_problem() is None:
            yield "plas", "plas package", lambda: _package_order(features(), seed)
        yield (
            "plas",
            "built-in",
            lambda: plas_order(features(), _along(hilbert_key, positions), seed=seed),
        )
    if order in ("plas", "hilbert"):
        yield "hilbert", "built-in", lambda: _along(hilbert_key, positions)
    if order != "none":
        yield "morton", "built-in", lambda: _along(morton_key, positions)
    yield "none", "built-in", lambda: np.arange(len(positions))


def _is_permutation(order: np.ndarray, count: int) -> bool:
    return order.shape == (count,) and bool((np.bincount(order, minlength=count) == 1).all())


def plas_order(features: np.ndarray, start: np.ndarray, *, seed: int) -> np.ndarray:
    """Our own PLAS; imported when used, because it is compiled."""
    from splat_assets.compression.plas import plas_order as sort

    return sort(features, start, seed=seed)


def _along(key: Callable[[np.ndarray], np.ndarray], positions: np.ndarray) -> np.ndarray:
    """The order of keys of 48 bits; 16 at a time, which numpy sorts by counting."""
    keys = key(positions)
    order = np.arange(len(keys))
    for shift in range(0, 3 * POSITION_BITS, 16):
        digits = (keys[order] >> np.uint64(shift)).astype(np.uint16)
        order = order[np.argsort(digits, kind="stable")]
    return order


def morton_key(positions: np.ndarray) -> np.ndarray:
    """[N] uint64: the bits of three 16-bit coordinates [N, 3] interleaved, x in the lowest."""
    key = np.zeros(len(positions), np.uint64)
    for axis in range(3):
        key |= _spread(positions[:, axis].astype(np.uint64)) << np.uint64(axis)
    return key


def hilbert_key(positions: np.ndarray) -> np.ndarray:
    """[N] uint64: the index along a 3-D Hilbert curve of 16-bit coordinates [N, 3]."""
    from splat_assets.compression.kernels import along_hilbert

    keys = np.empty(len(positions), np.uint64)
    along_hilbert(positions, POSITION_BITS, keys)
    return keys


def _spread(values: np.ndarray) -> np.ndarray:
    """Put two zero bits after each of the lowest 16 bits."""
    masks = ((16, 0xFF0000FF), (8, 0xF00F00F00F), (4, 0xC30C30C30C3), (2, 0x249249249249))
    for shift, mask in masks:
        values = (values | (values << np.uint64(shift))) & np.uint64(mask)
    return values


def plas_problem() -> str | None:
    """Why the authors' package `plas` cannot be used here, or None."""
    if importlib.util.find_spec("plas") is None:
        return "the package plas is not installed (pip install --group plas)"
    return None


def _package_order(features: np.ndarray, seed: int) -> np.ndarray:
    """The permutation found by the `plas` package, which sorts full squares only.

    The square is filled up with copies of the last Gaussian; where those end up is dropped again.
    """
    import plas
    import torch

    n, channels = features.shape
    side = int(np.ceil(np.sqrt(n)))
    spread = features.std(axis=0)
    scaled = (features - features.mean(axis=0)) / np.where(spread > 0, spread, 1)
    grid = np.empty((side * side, channels), np.float32)
    grid[:n], grid[n:] = scaled, scaled[-1]
    generator = np.random.default_rng(seed)
    shuffle = generator.permutation(side * side)
    torch.manual_seed(seed)
    tensor = torch.from_numpy(grid[shuffle]).reshape(side, side, channels).permute(2, 0, 1)
    _, indices = plas.sort_with_plas(tensor.contiguous(), improvement_break=1e-4)
    permutation = shuffle[indices.reshape(-1).cpu().numpy()]
    return permutation[permutation < n]
