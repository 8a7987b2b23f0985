import numpy as np
import pytest

from splat_assets.compression.quantize import (
    canonical_rotations,
    dequantize_means,
    fit_codebook,
    pack_quats,
    quantize_means,
    signed_log,
    unpack_quats,
)
from splat_assets_tests.compression.splats import covariances, random_splat


def test_positions_come_back_within_half_a_level() -> None:
    means = random_splat(2000).means
    q = quantize_means(signed_log(means))
    back = dequantize_means(q.values, q.mins, q.maxs)
    # a level of the logarithm is worth more the farther out
    half_level = (q.maxs - q.mins) / 65535 / 2
    allowed = half_level * (1 + np.abs(means)) * 1.01 + 1e-6
    assert (np.abs(back - means) <= allowed).all()
    again = quantize_means(signed_log(back))
    assert (again.values == q.values).all()


def test_positions_in_one_plane_or_point() -> None:
    for means in (np.full((1, 3), 7.5, np.float32), np.array([[1, 2, 3], [4, 2, 3]], np.float32)):
        q = quantize_means(signed_log(means))
        np.testing.assert_allclose(dequantize_means(q.values, q.mins, q.maxs), means, rtol=1e-6)


def test_canonical_form_is_the_same_ellipsoid() -> None:
    g = random_splat(3000)
    quats, scales = canonical_rotations(g.quats, g.scales)
    before, after = covariances(g.quats, g.scales), covariances(quats, scales)
    assert np.abs(before - after).max() <= 1e-7 * np.abs(before).max()
    assert (np.abs(quats).argmax(axis=1) == 0).all() and (quats[:, 0] > 0).all()
    # no rotation of the cube is farther from its nearest axes than 62.8 degrees
    assert quats[:, 0].min() >= np.cos(np.radians(62.8 / 2)) - 0.011


def test_canonical_form_is_its_own() -> None:
    g = random_splat(500)
    once = canonical_rotations(g.quats, g.scales)
    twice = canonical_rotations(*once)
    np.testing.assert_allclose(once[0], twice[0], atol=1e-12)
    np.testing.assert_array_equal(once[1], twice[1])


def test_packed_rotations() -> None:
    rng = np.random.default_rng(1)
    quats = rng.normal(size=(5000, 4))
    quats /= np.linalg.norm(quats, axis=1, keepdims=True)
    back = unpack_quats(pack_quats(quats)).astype(np.float64)
    cosine = np.abs((back * quats).sum(axis=1)).clip(0, 1)
    assert np.degrees(2 * np.arccos(cosine)).max() < 1.0
    assert np.isfinite(unpack_quats(np.full((1, 4), 255, np.uint8))).all()
    np.testing.assert_array_equal(unpack_quats(np.zeros((1, 4), np.uint8)), [[1, 0, 0, 0]])


def test_few_values_are_kept_exactly() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=256).astype(np.float32)
    x = rng.choice(values, (1000, 3))
    book = fit_codebook(x, lambda: np.ones((1000, 1)))
    assert book.kind == "exact" and len(book.values) == 256
    np.testing.assert_array_equal(book.decode(book.encode(x)), x)
    few = fit_codebook(x[:2, :1], lambda: np.ones((2, 1)))
    assert (np.diff(few.values) >= 0).all() and np.isfinite(few.values).all()
    np.testing.assert_array_equal(few.decode(few.encode(x[:2, :1])), x[:2, :1])


@pytest.mark.parametrize("spread", ["even", "peaked"])
def test_codebook_is_the_better_of_two(spread: str) -> None:
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, 20_000) if spread == "even" else rng.standard_t(2, 20_000)
    x = x.astype(np.float32)
    book = fit_codebook(x, lambda: np.ones(len(x)))
    assert book.kind == ("uniform" if spread == "even" else "lloyd")
    assert len(book.values) == 256 and (np.diff(book.values) >= 0).all()
    error = np.mean((book.decode(book.encode(x)) - x) ** 2)
    step = (x.max() - x.min()) / 255
    assert error <= 1.02 * step**2 / 12


@pytest.mark.parametrize("step", [0.001, 0.02, 0.3, 10.0])
def test_codebook_is_as_coarse_as_asked(step: float) -> None:
    x = np.random.default_rng(0).uniform(-1, 1, 20_000).astype(np.float32)
    book = fit_codebook(x, lambda: np.ones(len(x)), step)
    codes = book.encode(x)
    worst = np.abs(book.decode(codes) - x).max()
    assert worst <= 1.05 * max(step, 2 / 255) / 2
    assert len(np.unique(codes)) <= np.ceil(2 / step) + 1
    # 16 levels are 16 levels, and need no more when they are all there is
    few = np.repeat(np.arange(16, dtype=np.float32), 10)
    assert fit_codebook(few, lambda: np.ones(len(few)), 1.0).kind == "exact"


@pytest.mark.parametrize("step", [1e-9, 1e-3, 0.1])
def test_positions_as_coarse_as_asked(step: float) -> None:
    means = random_splat(500).means
    q = quantize_means(signed_log(means), step)
    logs = signed_log(means)
    back = signed_log(dequantize_means(q.values, q.mins, q.maxs))
    finest = np.ptp(logs, axis=0) / 65535
    assert (np.abs(back - logs) <= max(step, finest.max()) / 2 + 2 * finest + 1e-6).all()
    wanted = np.clip(np.ceil(np.ptp(logs, axis=0) / step / 256), 1, 256)
    assert (np.array([len(np.unique(column & 255)) for column in q.values.T]) <= wanted).all()
    # viewers sort by depth within this box, and would not within one of exp(25)
    np.testing.assert_allclose(q.maxs - q.mins, np.ptp(logs, axis=0), rtol=0.005)


@pytest.mark.parametrize("step", [2, 3, 8])
def test_rotations_as_coarse_as_asked(step: int) -> None:
    quats, _ = canonical_rotations(random_splat(500).quats, random_splat(500).scales)
    packed = pack_quats(quats, step)
    assert len(np.unique(packed[:, :3])) <= 256 / step + 2
    aligned = np.abs((unpack_quats(packed) * quats).sum(axis=1))
    assert np.degrees(2 * np.arccos(np.clip(aligned, 0, 1))).max() < 1.6 * step


def test_codebook_serves_what_weighs_most() -> None:
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.normal(0, 1, 50_000), rng.normal(500, 1, 500)]).astype(np.float32)
    weights = np.concatenate([np.full(50_000, 1e-9), np.ones(500)])
    book = fit_codebook(x, lambda: weights)
    assert np.abs(book.decode(book.encode(x[-500:])) - x[-500:]).max() < 0.2
