"""Every format: what goes in comes out, upright, and damage ends in one sentence."""

from __future__ import annotations

import gzip
import json
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from splat_assets.compression.quality import draw_views
from splat_assets.errors import UserError
from splat_assets.formats.registry import (
    FORMATS,
    WRITABLE,
    format_of,
    read_splat,
    writable_format,
    write_splat,
)
from splat_assets.formats.values import ABOUT_X
from splat_assets.gaussians.gaussians import Gaussians
from splat_assets.gaussians.ply import read_ply
from splat_assets.gaussians.transform import rotate
from splat_assets.viewing.camera import frame_points, orbit_views
from splat_assets_tests.compression.splat_models import CPU
from splat_assets_tests.compression.splats import covariances, random_splat
from splat_assets_tests.paths import shared_data

# what a format may lose: metres, share of the covariance, opacity, sh0, shN
LIMITS = {
    "ply": (0, 1e-6, 1e-7, 0, 0),
    "compressed-ply": (0.01, 0.02, 0.003, 0.03, 0.017),
    "sog": (0.08, 0.4, 0.08, 0.3, 1.0),  # the preset's precision, for what is half hidden
    "streamed-sog": (0.03, 0.3, 0.03, 0.2, 1.0),
    "spz": (1e-4, 0.08, 0.003, 0.03, 0.005),
    "splat": (0, 0.05, 0.003, 0.02, None),
    "glb": (1e-6, 1e-5, 1e-6, 1e-6, 1e-6),
}


def plain_splat(n: int, degree: int, **kwargs: object) -> Gaussians:
    """With values that every format can hold, so that its limits are those of its precision."""
    g = random_splat(n, degree, seed=3, **kwargs)  # type: ignore[arg-type]
    g.means[:] = np.random.default_rng(9).uniform(-1, 1, (n, 3))
    g.sh0[:] = np.clip(g.sh0, -1.7, 1.7)
    g.shN[:] = np.clip(g.shN, -0.9, 0.9)
    return g


def _compare(one: Gaussians, two: Gaussians) -> tuple[float, ...]:
    """Largest differences, Gaussians paired by their nearest mean."""
    from scipy.spatial import cKDTree

    assert len(one) == len(two)
    distance, index = cKDTree(two.means).query(one.means)
    assert len(np.unique(index)) == len(one)
    two = two.select(index)
    before, after = covariances(one.quats, one.scales), covariances(two.quats, two.scales)
    size = np.linalg.norm(before, axis=(1, 2))
    opacity = [1 / (1 + np.exp(-g.opacities.astype(np.float64))) for g in (one, two)]
    rest = np.abs(one.shN - two.shN).max() if one.shN.shape == two.shN.shape and one.shN.size else 0
    return (
        float(distance.max()),
        float(np.quantile(np.linalg.norm(before - after, axis=(1, 2)) / size, 0.95)),
        float(np.abs(opacity[0] - opacity[1]).max()),
        float(np.abs(one.sh0 - two.sh0).max()),
        float(rest),
    )


def _ending(name: str) -> str:
    return FORMATS[name].endings[0]


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
@pytest.mark.parametrize("name", WRITABLE)
def test_round_trip(name: str, degree: int, tmp_path: Path) -> None:
    g = plain_splat(700, degree)
    path = tmp_path / f"a{_ending(name)}"
    assert write_splat(path, g).name == name
    found = format_of(path)
    assert found is not None and found.name == name
    back = read_splat(path)
    assert back.sh_degree == (degree if FORMATS[name].keeps_sh else 0)
    for got, limit in zip(_compare(g, back), LIMITS[name], strict=True):
        assert limit is None or got <= limit
    whole = path.parent if path.parent != tmp_path else path
    assert list(tmp_path.iterdir()) == [whole]
    first = path.read_bytes()
    write_splat(path, g)
    assert path.read_bytes() == first


@pytest.mark.parametrize("name", WRITABLE)
@pytest.mark.parametrize("flag", ["antialiased", "flat"])
def test_how_it_is_to_be_drawn_is_remembered(name: str, flag: str, tmp_path: Path) -> None:
    """Where the format has a place for it."""
    path = tmp_path / f"a{_ending(name)}"
    for value in (False, True):
        write_splat(path, replace(plain_splat(10, 0), **{flag: value}))
        assert getattr(read_splat(path), flag) is (value and flag in FORMATS[name].keeps)
    assert "antialiased" in FORMATS[name].keeps or name in ("splat", "glb")


@pytest.mark.parametrize("name", WRITABLE)
@pytest.mark.parametrize("n", [1, 255, 257])
def test_odd_counts(name: str, n: int, tmp_path: Path) -> None:
    path = tmp_path / f"a{_ending(name)}"
    write_splat(path, plain_splat(n, 1))
    assert len(read_splat(path)) == n


def test_what_cannot_be_drawn_is_not_written(tmp_path: Path) -> None:
    g = plain_splat(20, 1)
    g.means[3] = np.nan
    g.quats[5] = 0
    for name in WRITABLE:
        if name == "ply":  # a copy, not a cleaning
            continue
        path = tmp_path / f"a{_ending(name)}"
        write_splat(path, g)
        assert len(read_splat(path)) == 18


def test_names_and_endings() -> None:
    assert writable_format(Path("A.COMPRESSED.PLY")).name == "compressed-ply"
    assert writable_format(Path("a.ply")).name == "ply"
    for name in ("a.ksplat", "a.txt", "ply"):
        with pytest.raises(UserError, match=r"\.compressed\.ply, \.ply, \.sog, \.spz"):
            writable_format(Path(name))


def test_missing_unknown_and_empty_are_sentences(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        read_splat(tmp_path / "no.spz")
    (tmp_path / "a.obj").write_text("v 0 0 0")
    with pytest.raises(UserError, match="not a splat that can be read here"):
        read_splat(tmp_path / "a.obj")
    with pytest.raises(UserError, match="no Gaussian is left"):
        write_splat(tmp_path / "a.spz", plain_splat(0, 0))


@pytest.mark.parametrize("name", WRITABLE)
def test_truncation_at_any_place_is_a_sentence(name: str, tmp_path: Path) -> None:
    path = tmp_path / f"a{_ending(name)}"
    write_splat(path, plain_splat(300, 1))
    data = path.read_bytes()
    for keep in (0, 1, 3, 11, 19, 40, len(data) // 2 + 1, len(data) - 1):
        path.write_bytes(data[:keep])
        with pytest.raises(UserError) as caught:
            read_splat(path)
        assert str(path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("name", [*WRITABLE, "ksplat"])
def test_random_damage_never_crashes(name: str, tmp_path: Path) -> None:
    """Flipped bytes give another splat or one sentence, nothing else."""
    path = tmp_path / f"a{_ending(name)}"
    if name == "ksplat":
        path.write_bytes(_ksplat(1, 1, 40))
    else:
        write_splat(path, plain_splat(40, 1))
    data = np.frombuffer(path.read_bytes(), np.uint8)
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(150):
        broken = data.copy()
        head = min(len(data), 2000 if name != "ksplat" else 5500)
        places = np.concatenate([rng.integers(0, head, 2), rng.integers(0, len(data), 1)])
        broken[places] = rng.integers(0, 256, 3)
        path.write_bytes(broken.tobytes())
        try:
            read_splat(path)
        except UserError as error:
            refused += 1
            assert "\n" not in str(error)
    assert refused > 0 or name in ("splat", "ksplat")


def test_spz_headers_that_lie(tmp_path: Path) -> None:
    path = tmp_path / "a.spz"
    for version, n, degree, sentence in (
        (2, 4_000_000_000, 0, "cannot hold 4000000000 Gaussians"),
        (9, 1, 0, "has SPZ version 9"),
        (3, 1, 4, "degree 4"),
        (3, 0, 0, "cannot hold 0"),
    ):
        head = struct.pack("<IIIBBBB", 0x5053474E, version, n, degree, 12, 0, 0)
        path.write_bytes(gzip.compress(head + bytes(100)))
        with pytest.raises(UserError, match=sentence):
            read_splat(path)
    # a bomb: the header promises little, the stream holds much
    head = struct.pack("<IIIBBBB", 0x5053474E, 3, 2, 0, 12, 0, 0)
    path.write_bytes(gzip.compress(head + bytes(50_000_000)))
    assert len(read_splat(path)) == 2


def test_spz_keeps_large_scenes(tmp_path: Path) -> None:
    """24 bits are spent on the extent the scene has."""
    g = plain_splat(50, 0)
    g.means[:] *= 5000
    write_splat(tmp_path / "a.spz", g)
    np.testing.assert_allclose(read_splat(tmp_path / "a.spz").means, g.means, atol=0.002)


def _ksplat(level: int, degree: int, n: int) -> bytes:
    """A `.ksplat` with one section whose last bucket is partial."""
    rng = np.random.default_rng(1)
    rest = (degree + 1) ** 2 - 1
    centers = rng.uniform(-1, 1, (2, 3)).astype("<f4")
    first = n * 3 // 4
    kinds = (("<f4", "<f4", "<f4"), ("<u2", "<f2", "<f2"), ("<u2", "<f2", "u1"))[level]
    dtype = [("c", kinds[0], 3), ("s", kinds[1], 3), ("q", kinds[1], 4), ("k", "u1", 4)]
    rows = np.zeros(n, np.dtype([*dtype, ("h", kinds[2], (3 * rest,))]))
    rows["c"] = rng.uniform(-1, 1, (n, 3)) if level == 0 else rng.integers(0, 65535, (n, 3))
    rows["s"], rows["q"][:, 0], rows["k"] = 0.1, 1, rng.integers(1, 255, (n, 4))
    rows["h"] = np.arange(3 * rest) / 100 if level < 2 else np.arange(3 * rest)
    header = bytearray(4096)
    struct.pack_into("<BBHIIIIH", header, 0, 0, 1, 0, 1, 1, n, n, level)
    struct.pack_into("<ff", header, 36, -1.5, 1.5)
    section = bytearray(1024)
    struct.pack_into("<IIIIfHHI", section, 0, n, n, first, 2, 5.0, 12, 0, 32767)
    struct.pack_into("<IIH", section, 32, 1, 1, degree)
    partial = struct.pack("<I", n - first)
    return bytes(header + section) + partial + centers.tobytes() + rows.tobytes()


@pytest.mark.parametrize("level", [0, 1, 2])
def test_ksplat_levels(level: int, tmp_path: Path) -> None:
    path = tmp_path / "a.ksplat"
    path.write_bytes(_ksplat(level, 2, 40))
    g = read_splat(path)
    assert len(g) == 40 and g.sh_degree == 2
    np.testing.assert_allclose(np.exp(g.scales), 0.1, rtol=1e-3)
    # the numbers count channel by channel within each degree
    values = g.shN[0] if level < 2 else (g.shN[0] + 1.5) / 3 * 2.55
    np.testing.assert_allclose(values[:3], np.arange(9).reshape(3, 3).T / 100, atol=1e-3)
    np.testing.assert_allclose(values[3:], (9 + np.arange(15).reshape(3, 5).T) / 100, atol=1e-3)
    if level:
        rng = np.random.default_rng(1)
        centers = rng.uniform(-1, 1, (2, 3))
        offsets = g.means - centers[np.repeat([0, 1], [30, 10])]
        assert np.abs(offsets).max() <= 2.5 + 1e-3  # half a block around each bucket's centre


def _glb(change: dict[str, object], node: dict[str, object], tmp_path: Path) -> Path:
    """A `.glb` of ours with a changed JSON."""
    path = tmp_path / "a.glb"
    write_splat(path, plain_splat(30, 1))
    data = path.read_bytes()
    size = struct.unpack_from("<I", data, 12)[0]
    document = json.loads(data[20 : 20 + size])
    document["nodes"][0].update(node)
    document.update(change)
    text = json.dumps(document).encode()
    text += b" " * (-len(text) % 4)
    body = struct.pack("<II", len(text), 0x4E4F534A) + text + data[20 + size :]
    path.write_bytes(struct.pack("<III", 0x46546C67, 2, 12 + len(body)) + body)
    return path


def test_glb_nodes_place_their_splats(tmp_path: Path) -> None:
    g = read_splat(_glb({}, {}, tmp_path))
    placed = read_splat(_glb({}, {"translation": [1, 2, 3], "scale": [2, 2, 2]}, tmp_path))
    # glTF's y points up, ours down, and its x the other way
    np.testing.assert_allclose(placed.means, 2 * g.means + (-1, -2, 3), atol=1e-5)
    np.testing.assert_allclose(placed.scales, g.scales + np.log(2), atol=1e-5)
    half = np.sqrt(0.5)
    turned = read_splat(_glb({}, {"rotation": [0, half, 0, half]}, tmp_path))
    np.testing.assert_allclose(turned.means[:, 1], g.means[:, 1], atol=1e-5)
    np.testing.assert_allclose(np.abs(turned.means[:, 0]), np.abs(g.means[:, 2]), atol=1e-5)


@pytest.mark.parametrize(
    ("change", "node", "sentence"),
    [
        ({}, {"scale": [1, 2, 1]}, "stretched"),
        ({}, {"scale": [-1, -1, -1]}, "mirrored"),
        ({}, {"children": [0]}, "not a tree"),
        ({"meshes": []}, {}, "not glTF"),
        ({"buffers": [{"uri": "http://example.org/x.bin"}]}, {}, "refers to other files"),
        ({"accessors": [{"bufferView": 0, "componentType": 5126, "count": 10**9, "type": "VEC3"}]},
         {}, "beyond its data|not glTF"),
        ({"nodes": [{}]}, {}, "holds no splat"),
    ],
)  # fmt: skip
def test_glb_that_cannot_be_followed(
    change: dict[str, object], node: dict[str, object], sentence: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=sentence):
        read_splat(_glb(change, node, tmp_path))


@pytest.mark.parametrize(
    ("name", "count", "degree"),
    [
        ("angel.sog", 71359, 0),
        ("massa.sog", 58649, 0),
        ("playbot_sog_folder/6_0", None, None),
        ("wolf.spz", 90586, 3),
        ("chair_111k.splat", 111650, 0),
        ("supersplat_compressed_sh3_64.ply", 64, 3),
        ("minimal_fixtures/minimal-v2.spz", 4, 0),
        ("minimal_fixtures/minimal-v3.spz", 4, 0),
        ("minimal_fixtures/minimal-v4.spz", 4, 0),
        ("minimal_fixtures/minimal-raw.spz", 4, 0),
        ("minimal_fixtures/minimal.ksplat", 4, 0),
        ("minimal_fixtures/minimal.splat", 4, 0),
    ],
)
def test_files_of_other_tools(name: str, count: int | None, degree: int | None) -> None:
    g = read_splat(shared_data("splats", *name.split("/")))
    assert count is None or (len(g), g.sh_degree) == (count, degree)
    for field in ("means", "quats", "scales", "opacities", "sh0", "shN"):
        assert np.isfinite(getattr(g, field)).all()
    np.testing.assert_allclose(np.linalg.norm(g.quats, axis=1), 1, atol=0.02)
    view = orbit_views(*frame_points(g.means), size=64)[1]
    picture = next(draw_views(g, [view], background=(0, 0, 0), compute=CPU))
    assert np.isfinite(picture).all() and np.ptp(picture) > 0.2


def test_spz_is_turned_upright() -> None:
    """The wolf's feet are below its head: in the axes of 3DGS files, at larger y."""
    wolf = read_splat(shared_data("splats", "wolf.spz"))
    raw = read_ply(shared_data("splats", "wolf_sh3_crop10k.ply"))  # its head, as stored
    head = rotate(raw, ABOUT_X)
    assert head.means[:, 1].min() > wolf.means[:, 1].min() - 1e-3
    nearest = np.abs(wolf.means - head.means[0]).sum(axis=1).argmin()
    np.testing.assert_allclose(wolf.means[nearest], head.means[0], atol=1e-4)
    np.testing.assert_allclose(wolf.shN[nearest], head.shN[0], atol=1e-4)
