"""Transforms keep what a splat looks like; cleanup counts what it drops."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from splat_assets.gaussians.cleanup import clean
from splat_assets.gaussians.sh import basis, rgb_to_sh0, rotate_shN, sh0_to_rgb
from splat_assets.gaussians.transform import (
    matrix_to_quat,
    quat_to_matrix,
    rotate,
    scale,
    translate,
)
from splat_assets_tests.gaussians.test_ply import make_gaussians


def random_rotation(seed: int) -> np.ndarray:
    quat = np.random.default_rng(seed).normal(size=4)
    return quat_to_matrix(quat)


def covariances(g) -> np.ndarray:
    R = quat_to_matrix(g.quats)
    return np.einsum("nij,nj,nkj->nik", R, np.exp(2 * g.scales.astype(np.float64)), R)


def test_basis_is_orthonormal() -> None:
    """Integrated over the sphere with Gauss-Legendre in z and even steps in azimuth."""
    z, weight = np.polynomial.legendre.leggauss(8)
    azimuth = np.arange(16) * 2 * np.pi / 16
    zz, aa = np.meshgrid(z, azimuth, indexing="ij")
    r = np.sqrt(1 - zz**2)
    d = np.stack([r * np.cos(aa), r * np.sin(aa), zz], -1)
    b = basis(d, 3)
    w = np.broadcast_to(weight[:, None] * 2 * np.pi / 16, zz.shape)
    np.testing.assert_allclose(np.einsum("ij,ijk,ijl->kl", w, b, b), np.eye(16), atol=1e-12)


@pytest.mark.parametrize("degree", [1, 2, 3])
def test_rotated_sh_show_the_same_colour_from_the_turned_direction(degree: int) -> None:
    g = make_gaussians(degree=degree)
    R = random_rotation(degree)
    directions = np.random.default_rng(1).normal(size=(20, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    before = np.einsum("dk,nkc->ndc", basis(directions, degree)[:, 1:], g.shN)
    turned = rotate_shN(g.shN, R)
    after = np.einsum("dk,nkc->ndc", basis(directions @ R.T, degree)[:, 1:], turned)
    np.testing.assert_allclose(after, before, atol=2e-6)


def test_rotation_turns_means_and_covariances() -> None:
    g, R = make_gaussians(), random_rotation(5)
    turned = rotate(g, R)
    np.testing.assert_allclose(turned.means, g.means @ R.T, atol=1e-5)
    expected = np.einsum("ij,njk,lk->nil", R, covariances(g), R)
    np.testing.assert_allclose(covariances(turned), expected, rtol=1e-3, atol=1e-4)
    back = rotate(turned, R.T)
    np.testing.assert_allclose(back.shN, g.shN, atol=1e-5)
    with pytest.raises(ValueError, match="rotation"):
        rotate(g, -np.eye(3))


def test_scale_and_translate() -> None:
    g = make_gaussians()
    np.testing.assert_allclose(covariances(scale(g, 3.0)), 9 * covariances(g), rtol=1e-5)
    offset = np.array([1, 2, 3])
    np.testing.assert_allclose(translate(g, offset).means, g.means + offset, 1e-6)
    with pytest.raises(ValueError):
        scale(g, 0.0)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_quaternion_of_half_turns(axis: int) -> None:
    R = -np.eye(3)
    R[axis, axis] = 1
    np.testing.assert_allclose(quat_to_matrix(matrix_to_quat(R)), R, atol=1e-12)


def test_colours() -> None:
    rgb = np.array([0.0, 0.5, 1.0])
    np.testing.assert_allclose(sh0_to_rgb(rgb_to_sh0(rgb)), rgb)


def test_cleanup_counts_each_reason_once() -> None:
    g = make_gaussians(n=10)
    means, quats, opacities = g.means.copy(), g.quats.copy(), np.zeros(10, np.float32)
    means[0, 1] = np.nan
    quats[0] = 0
    quats[1] = 0
    quats[2] = [1e-25, 0, 0, 0]
    opacities[3] = np.inf
    opacities[4] = -20
    g = replace(g, means=means, quats=quats, opacities=opacities)
    kept, report = clean(g)
    assert (report.total, report.non_finite, report.zero_quats, report.invisible) == (10, 1, 1, 0)
    assert len(kept) == 8
    np.testing.assert_allclose(np.linalg.norm(kept.quats, axis=1), 1, rtol=1e-6)
    assert np.isfinite(kept.opacities).all()
    assert "Dropped 2 of 10" in report.describe()
    kept, report = clean(g, drop_invisible=True)
    assert report.invisible == 1
    assert len(kept) == 7
    assert clean(kept)[1].describe() == ""
