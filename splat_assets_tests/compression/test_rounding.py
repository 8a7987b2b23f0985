"""Rounding that weighs errors against bits."""

from __future__ import annotations

import numpy as np

from splat_assets.compression.quantize import pack_quats, quantize_means, signed_log, unpack_quats
from splat_assets.compression.rounding import thrifty, thrifty_colors

LEVELS = np.arange(64.0)


def _bits(codes: np.ndarray) -> float:
    share = np.bincount(codes.ravel()) / codes.size
    return -float(share @ np.log2(np.where(share > 0, share, 1))) * codes.size


def test_without_a_price_it_is_the_nearest() -> None:
    x = np.random.default_rng(0).uniform(0, 63, (500, 3))
    np.testing.assert_array_equal(thrifty(x, LEVELS, np.ones(500), 0.0), np.rint(x))


def test_it_costs_less_than_rounding_and_less_than_coarser_steps() -> None:
    """Error and bits together, for numbers of very different worth."""
    rng = np.random.default_rng(1)
    x = rng.normal(32, 8, (4000, 2)).clip(0, 63)
    worth = np.exp(rng.normal(0, 2.5, 4000))
    price = 20.0

    def cost(codes: np.ndarray) -> float:
        return float(worth @ ((codes - x) ** 2).sum(axis=1)) + price * _bits(codes)

    found = cost(thrifty(x, LEVELS, worth, price))
    plain = [cost(step * np.rint(x / step).astype(np.int64)) for step in (1, 2, 3, 4)]
    assert found < 0.93 * min(plain)


def test_what_matters_stays_near() -> None:
    rng = np.random.default_rng(2)
    x = rng.uniform(0, 63, (1000, 1))
    worth = np.where(np.arange(1000) < 100, 1e3, 1e-3)
    off = np.abs(thrifty(x, LEVELS, worth, 1.0) - x)
    assert off[:100].max() < 0.6 and off[100:].mean() > 1


def test_positions_keep_their_high_byte_and_rotations_their_length() -> None:
    rng = np.random.default_rng(3)
    means, quats = rng.normal(0, 2, (800, 3)).astype(np.float32), rng.normal(size=(800, 4))
    quats /= np.linalg.norm(quats, axis=1, keepdims=True)

    def choose(x: np.ndarray, levels: np.ndarray, unit: float = 1.0) -> np.ndarray:
        return thrifty(x, levels, np.full(len(x), unit**2), 1e-4)

    plain, chosen = (
        quantize_means(signed_log(means), 0.001),
        quantize_means(signed_log(means), 0.001, [choose] * 3),
    )
    np.testing.assert_array_equal(plain.values >> 8, chosen.values >> 8)
    assert (plain.values != chosen.values).any()
    back = unpack_quats(pack_quats(quats, 4, choose))
    assert np.abs((back * quats).sum(axis=1)).min() > 0.99


def test_colours_are_coded_by_their_difference_from_green() -> None:
    """Grey colours: thrift keeps red and blue beside green, where each for itself would not."""
    rng = np.random.default_rng(5)
    grey = rng.uniform(0, 200, 4000)[:, None] + rng.normal(0, 1.5, (4000, 3))
    levels, worth, price = np.arange(201.0), rng.uniform(0.1, 2, 4000), 1.0
    joint, alone = (f(grey, levels, worth, price) for f in (thrifty_colors, thrifty))

    def cost(codes: np.ndarray) -> float:
        green = codes[:, 1]
        apart = np.stack([codes[:, 0] - green & 255, green, codes[:, 2] - green & 255], axis=1)
        return float(worth @ ((codes - grey) ** 2).sum(axis=1)) + price * _bits(apart)

    assert cost(joint) < 0.97 * cost(alone)


def test_each_number_has_its_own_worth() -> None:
    rng = np.random.default_rng(6)
    x = rng.uniform(0, 63, (2000, 3))
    off = np.abs(thrifty(x, LEVELS, np.array([[1e3, 1e-3, 1e3]]).repeat(2000, 0), 1.0) - x)
    assert off[:, [0, 2]].max() < 0.6 and off[:, 1].mean() > 1
