"""The way through the Gaussians: everything stays, the steps get cheaper."""

from __future__ import annotations

import numpy as np

from splat_assets.compression.paths import shorter_path
from splat_assets.compression.sog_images import encode_image, image_size
from splat_assets.compression.sorting import sort_gaussians


def _surface(count: int) -> np.ndarray:
    """[N, 3] uint16 on a sphere."""
    points = np.random.default_rng(0).normal(size=(count, 3))
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    return (32768 + 32000 * points).astype(np.uint16)


def _bytes(positions: np.ndarray) -> int:
    high = (positions >> 8).astype(np.uint8)
    return len(encode_image(high, image_size(len(high)), print))


def test_the_path_is_an_order_and_cheaper_than_the_curve() -> None:
    positions = _surface(6000)
    curve = sort_gaussians("hilbert", positions, lambda: positions).permutation
    path = shorter_path(positions, curve)
    np.testing.assert_array_equal(np.sort(path), np.arange(6000))
    assert _bytes(positions[path]) < 0.93 * _bytes(positions[curve])
    np.testing.assert_array_equal(path, shorter_path(positions, curve))


def test_a_part_keeps_its_members() -> None:
    positions = _surface(500)
    part = np.arange(3, 500, 7)
    np.testing.assert_array_equal(np.sort(shorter_path(positions, part)), part)
    few = part[:5]
    np.testing.assert_array_equal(shorter_path(positions, few), few)


def test_all_in_one_place() -> None:
    same = np.full((50, 3), 1234, np.uint16)
    np.testing.assert_array_equal(np.sort(shorter_path(same, np.arange(50))), np.arange(50))
