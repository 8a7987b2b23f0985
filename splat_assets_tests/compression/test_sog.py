import io
import json
import math
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from splat_assets.compression.sog_bundle import EncodedSog, write_bundle, write_folder
from splat_assets.compression.sog_reader import read_sog, read_sog_meta
from splat_assets.compression.sog_writer import SogOptions, encode_sog
from splat_assets.errors import Cancelled, UserError
from splat_assets.gaussians.gaussians import Gaussians
from splat_assets.progress import Progress
from splat_assets_tests.compression.splats import covariances, random_splat
from splat_assets_tests.paths import shared_data


def _round_trip(g: Gaussians, path: Path, **options: object) -> tuple[Gaussians, EncodedSog]:
    encoded = encode_sog(g, SogOptions(**options))  # type: ignore[arg-type]
    write_bundle(path, encoded)
    return read_sog(path), encoded


def _opacity(logits: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-logits.astype(np.float64)))


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_every_field_survives(degree: int, tmp_path: Path) -> None:
    g = random_splat(1500, degree)
    back, encoded = _round_trip(g, tmp_path / "a.sog", palette_size=1024)
    g = g.select(encoded.sorting.permutation)
    assert len(back) == len(g) and back.sh_degree == degree
    np.testing.assert_allclose(back.means, g.means, rtol=2e-4, atol=2e-4)
    assert np.abs(_opacity(back.opacities) - _opacity(g.opacities)).max() <= 0.5 / 255 + 1e-9
    assert np.abs(back.sh0 - g.sh0).max() < (g.sh0.max() - g.sh0.min()) / 255
    before, after = covariances(g.quats, g.scales), covariances(back.quats, back.scales)
    size = np.linalg.norm(before, axis=(1, 2))
    assert np.median(np.linalg.norm(after - before, axis=(1, 2)) / size) < 0.03
    if degree:
        # 1500 random vectors on 1024 entries
        assert np.sqrt(((back.shN - g.shN) ** 2).mean()) < 0.55 * g.shN.std()


@pytest.mark.parametrize("n", [1, 2, 3, 15, 16, 17, 65, 300])
def test_any_count(n: int, tmp_path: Path) -> None:
    g = random_splat(n, 1)
    back, encoded = _round_trip(g, tmp_path / "a.sog")
    assert len(back) == n
    np.testing.assert_allclose(
        back.means, g.means[encoded.sorting.permutation], rtol=1e-3, atol=1e-3
    )
    if n <= 64:  # as many vectors as the smallest palette holds, of at most 256 numbers
        shN = g.shN[encoded.sorting.permutation]
        assert np.abs(back.shN - shN).max() < (shN.max() - shN.min()) / 200 + 1e-6


@pytest.mark.parametrize("order", ["hilbert", "morton", "none"])
def test_order_is_named_and_kept(order: str, tmp_path: Path) -> None:
    g = random_splat(500)
    back, encoded = _round_trip(g, tmp_path / "a.sog", order=order)
    assert encoded.sorting.order == order
    if order == "none":
        np.testing.assert_allclose(back.means, g.means, rtol=1e-3, atol=1e-3)


def test_hilbert_order_is_smaller_than_none(tmp_path: Path) -> None:
    g = random_splat(20_000)
    sizes = {
        order: sum(encode_sog(g, SogOptions(order=order)).field_bytes.values())
        for order in ("hilbert", "morton", "none")
    }
    assert sizes["hilbert"] < sizes["morton"] < sizes["none"]


def test_same_input_same_bytes(tmp_path: Path) -> None:
    g = random_splat(3000, 3)
    for name in ("a.sog", "b.sog"):
        write_bundle(tmp_path / name, encode_sog(g))
    assert (tmp_path / "a.sog").read_bytes() == (tmp_path / "b.sog").read_bytes()


def test_what_was_read_is_written_the_same(tmp_path: Path) -> None:
    """What the format can hold, it holds exactly: encoding a decoded file changes nothing."""
    g = random_splat(1000, 2)
    first, _ = _round_trip(g, tmp_path / "a.sog", palette_size=128, order="none")
    second, _ = _round_trip(first, tmp_path / "b.sog", palette_size=128, order="none")
    for name in ("scales", "sh0", "shN"):
        np.testing.assert_array_equal(getattr(second, name), getattr(first, name))
    np.testing.assert_allclose(second.means, first.means, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(second.opacities, first.opacities, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(second.quats, first.quats)


def test_antialiasing_and_extras_are_carried(tmp_path: Path) -> None:
    back, _ = _round_trip(
        random_splat(20, antialiased=True), tmp_path / "a.sog", extras={"source": "a test"}
    )
    assert back.antialiased
    meta = read_sog_meta(tmp_path / "a.sog")
    assert meta["model"] == "antialiased" and meta["extras"] == {"source": "a test"}
    plain, _ = _round_trip(random_splat(20), tmp_path / "b.sog")
    assert not plain.antialiased and "model" not in read_sog_meta(tmp_path / "b.sog")


def test_bundle_is_what_strict_parsers_expect(tmp_path: Path) -> None:
    encoded = encode_sog(random_splat(200, 3))
    size = write_bundle(tmp_path / "a.sog", encoded)
    data = (tmp_path / "a.sog").read_bytes()
    assert len(data) == size
    # the end record is the last 22 bytes: no comment, no ZIP64
    assert data[-22:-18] == b"PK\x05\x06" and data[-2:] == b"\0\0"
    with zipfile.ZipFile(tmp_path / "a.sog") as bundle:
        names = bundle.namelist()
        assert names[-1] == "meta.json" and len(names) == 8
        # viewers unpack stored and deflated members; pictures have nothing left to deflate
        packed = {i.filename for i in bundle.infolist() if i.compress_type != zipfile.ZIP_STORED}
        assert packed == {"meta.json"}
        assert {i.date_time for i in bundle.infolist()} == {(1980, 1, 1, 0, 0, 0)}
    meta = json.loads(encoded.files["meta.json"])
    assert meta["version"] == 2 and meta["count"] == 200
    for key in ("scales", "sh0", "shN"):
        book = meta[key]["codebook"]
        assert len(book) == 256 and all(math.isfinite(v) for v in book)
    with Image.open(io.BytesIO(encoded.files["shN_centroids.webp"])) as image:
        assert image.width == 960
    with Image.open(io.BytesIO(encoded.files["means_l.webp"])) as image:
        assert image.width % 4 == 0 and image.height % 4 == 0


def test_folder_form_holds_the_same(tmp_path: Path) -> None:
    encoded = encode_sog(random_splat(100, 1))
    write_bundle(tmp_path / "a.sog", encoded)
    write_folder(tmp_path / "a", encoded)
    one, two, three = (read_sog(tmp_path / p) for p in ("a.sog", "a", "a/meta.json"))
    for other in (two, three):
        np.testing.assert_array_equal(one.means, other.means)
        np.testing.assert_array_equal(one.shN, other.shN)


def test_unusable_gaussians_are_dropped_and_counted(tmp_path: Path) -> None:
    g = random_splat(50, 1)
    means, quats, scales = g.means.copy(), g.quats.copy(), g.scales.copy()
    means[3, 1], quats[7], scales[9] = np.nan, 0, np.inf
    opacities = g.opacities.copy()
    opacities[11] = np.inf  # some trainers write exactly 1
    scales[12] = -90.0
    bad = replace(g, means=means, quats=quats, scales=scales, opacities=opacities)
    back, encoded = _round_trip(bad, tmp_path / "a.sog")
    assert encoded.cleanup.dropped == 3 and len(back) == 47
    for name in ("means", "quats", "scales", "opacities", "sh0", "shN"):
        assert np.isfinite(getattr(back, name)).all()
    with pytest.raises(UserError, match="no Gaussian"):
        encode_sog(replace(g, means=np.full_like(g.means, np.nan)))
    with pytest.raises(UserError, match="no Gaussian"):
        encode_sog(g.select(np.zeros(0, int)))


def test_cancel(tmp_path: Path) -> None:
    with pytest.raises(Cancelled):
        encode_sog(random_splat(100, 1), progress=Progress(should_cancel=lambda: True))


# ---------------------------------------------------------------- reading what others wrote


@pytest.mark.parametrize(
    ("name", "count", "degree"),
    [
        ("angel.sog", 71359, 0),
        ("massa.sog", 58649, 0),
        ("playbot_sog_folder/3_0", 31000, 2),
        ("playbot_sog_folder/6_0", 1873, 2),
    ],
)
def test_real_files(name: str, count: int, degree: int) -> None:
    g = read_sog(shared_data("splats", *name.split("/")))
    assert (len(g), g.sh_degree) == (count, degree)
    assert np.abs(np.linalg.norm(g.quats, axis=1) - 1).max() < 1e-2
    assert np.abs(g.means).max() < 10


def test_real_folder_equals_its_decoded_ply() -> None:
    from splat_assets.gaussians.ply import read_ply

    sog = read_sog(shared_data("splats", "playbot_sog_folder", "3_0"))
    ply = read_ply(shared_data("splats", "playbot_sh2_31k.ply"))
    np.testing.assert_allclose(sog.means, ply.means, atol=1e-6)
    np.testing.assert_allclose(sog.scales, ply.scales, atol=1e-6)
    np.testing.assert_allclose(sog.shN, ply.shN, atol=1e-6)


def test_version_1_folder(tmp_path: Path) -> None:
    """A folder as the Python tool `sogs` writes it: linear 8-bit columns, logit opacities."""
    rng = np.random.default_rng(0)
    side, bands = 6, 15
    n = side * side

    def save(name: str, pixels: np.ndarray) -> None:
        Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / name, lossless=True, exact=True)

    images = {name: rng.integers(0, 256, (side, side, 3)) for name in ("l", "u", "s")}
    quats = np.dstack(
        [rng.integers(60, 190, (side, side, 3)), rng.integers(252, 256, (side, side))]
    )
    sh0 = rng.integers(0, 256, (side, side, 4))
    centroids = rng.integers(0, 256, (1, 64 * bands, 3))
    labels = np.zeros((side, side, 3))
    labels[..., 0] = rng.integers(0, 64, (side, side))
    save("means_l.webp", images["l"])
    save("means_u.webp", images["u"])
    save("scales.webp", images["s"])
    save("quats.webp", quats)
    save("sh0.webp", sh0)
    save("shN_centroids.webp", centroids)
    save("shN_labels.webp", labels)
    meta = {
        "means": {"shape": [n, 3], "dtype": "float32", "mins": [-1, -2, 0], "maxs": [1, 2, 0.5],
                  "files": ["means_l.webp", "means_u.webp"]},
        "scales": {"shape": [n, 3], "dtype": "float32", "mins": [-9, -8, -7], "maxs": [-1, -2, -3],
                   "files": ["scales.webp"]},
        "quats": {"shape": [n, 4], "dtype": "uint8", "encoding": "quaternion_packed",
                  "files": ["quats.webp"]},
        "sh0": {"shape": [n, 1, 4], "dtype": "float32", "mins": [-3, -3, -3, -5],
                "maxs": [3, 3, 3, 6], "files": ["sh0.webp"]},
        "shN": {"shape": [n, 45], "dtype": "float32", "mins": -0.5, "maxs": 0.75,
                "quantization": 8, "files": ["shN_centroids.webp", "shN_labels.webp"]},
    }  # fmt: skip
    (tmp_path / "meta.json").write_text(json.dumps(meta))
    g = read_sog(tmp_path)
    assert len(g) == n and g.sh_degree == 3
    q = images["l"][1, 2] + 256 * images["u"][1, 2]  # Gaussian 8
    logs = np.array([-1, -2, 0]) + np.array([2, 4, 0.5]) * q / 65535
    np.testing.assert_allclose(g.means[8], np.sign(logs) * np.expm1(np.abs(logs)), rtol=1e-5)
    np.testing.assert_allclose(g.scales[8], [-9, -8, -7] + images["s"][1, 2] / 255 * [8, 6, 4],
                               rtol=1e-5)  # fmt: skip
    np.testing.assert_allclose(g.opacities[8], -5 + 11 * sh0[1, 2, 3] / 255, rtol=1e-5)
    np.testing.assert_allclose(g.sh0[8, 0], -3 + 6 * sh0[1, 2, :3] / 255, rtol=1e-5)
    entry = int(labels[1, 2, 0])
    expected = -0.5 + 1.25 * centroids[0, entry * bands : (entry + 1) * bands] / 255
    np.testing.assert_allclose(g.shN[8], expected, rtol=1e-5)


# ---------------------------------------------------------------- what is broken


def _meta(tmp_path: Path, change: object) -> Path:
    """A good folder whose meta.json went through `change`."""
    folder = tmp_path / "scene"
    write_folder(folder, encode_sog(random_splat(40, 1)))
    meta = json.loads((folder / "meta.json").read_text())
    change(meta)  # type: ignore[operator]
    (folder / "meta.json").write_text(json.dumps(meta))
    return folder


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.update(count=10**9), "count is 1000000000"),
        (lambda m: m.update(count=5000), "holds 64 of 5000 Gaussians"),
        (lambda m: m.update(count=0), "count is 0"),
        (lambda m: m.update(count="many"), "count is 'many'"),
        (lambda m: m.update(version=7), "version 7"),
        (lambda m: m.pop("means"), "does not describe a splat"),
        (lambda m: m.pop("quats"), "no 'quats'"),
        (lambda m: m["means"].update(mins=[0, None, 0]), "3 finite numbers"),
        (lambda m: m["means"].update(files=["means_l.webp"]), "names no files"),
        (lambda m: m["scales"].update(codebook=[0.0] * 255), "256 numbers"),
        (lambda m: m["scales"].update(codebook=[None] * 256), "256 finite numbers"),
        (lambda m: m["scales"].update(files=["../scales.webp"]), "outside its folder"),
        (lambda m: m["scales"].update(files=["gone.webp"]), "gone.webp is missing"),
        (lambda m: m["shN"].update(bands=4), "bands is 4"),
        (lambda m: m["shN"].update(bands=2), "wide"),
        (lambda m: m["shN"].update(count=1), "refers to entry"),
    ],
)
def test_contradictory_meta(change: object, message: str, tmp_path: Path) -> None:
    folder = _meta(tmp_path, change)
    with pytest.raises(UserError, match=message) as caught:
        read_sog(folder)
    assert str(folder) in str(caught.value) and "\n" not in str(caught.value)


def test_a_null_at_the_start_of_a_codebook_is_mended(tmp_path: Path) -> None:
    folder = _meta(tmp_path, lambda m: m["sh0"]["codebook"].__setitem__(0, None))
    assert np.isfinite(read_sog(folder).sh0).all()


def test_broken_files(tmp_path: Path) -> None:
    good = tmp_path / "good.sog"
    write_bundle(good, encode_sog(random_splat(40, 1)))
    data = good.read_bytes()
    broken = tmp_path / "broken.sog"
    for content in (b"", b"PK", data[:100], data[:-30], b"\0" * 5000, data[200:]):
        broken.write_bytes(content)
        with pytest.raises(UserError, match=r"broken\.sog"):
            read_sog(broken)
    with pytest.raises(UserError, match="does not exist"):
        read_sog(tmp_path / "none.sog")
    with pytest.raises(UserError, match="missing"):
        read_sog(tmp_path)  # a folder without meta.json


def test_flipped_bytes_never_crash(tmp_path: Path) -> None:
    write_bundle(tmp_path / "good.sog", encode_sog(random_splat(40, 1)))
    data = bytearray((tmp_path / "good.sog").read_bytes())
    rng = np.random.default_rng(0)
    outcomes = {"read": 0, "refused": 0}
    for _ in range(200):
        mutated = bytearray(data)
        for position in rng.integers(0, len(data), rng.integers(1, 6)):
            mutated[position] = rng.integers(0, 256)
        (tmp_path / "bad.sog").write_bytes(mutated)
        try:
            assert len(read_sog(tmp_path / "bad.sog")) <= 64
            outcomes["read"] += 1
        except UserError:
            outcomes["refused"] += 1
    assert outcomes["refused"] > 100


def test_zip_bomb_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "bomb.sog", "w", zipfile.ZIP_DEFLATED) as bundle:
        bundle.writestr("meta.json", b" " * (64 << 20))
    with pytest.raises(UserError, match="more than"):
        read_sog(tmp_path / "bomb.sog")
