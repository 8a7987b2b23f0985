"""PLY files: what is written is read back, odd but valid files are read, others refused clearly."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from splat_assets.errors import UserError
from splat_assets.gaussians.gaussians import SH_REST, Gaussians
from splat_assets.gaussians.ply import PlyRows, read_ply, write_ply
from splat_assets_tests.paths import shared_data

FIELDS = ("means", "quats", "scales", "opacities", "sh0", "shN")


def make_gaussians(n: int = 50, degree: int = 3, seed: int = 0, **kwargs: bool) -> Gaussians:
    rng = np.random.default_rng(seed)

    def draw(*shape: int) -> np.ndarray:
        return rng.normal(size=shape).astype(np.float32)

    rest = SH_REST[degree]
    return Gaussians(
        draw(n, 3), draw(n, 4), draw(n, 3), draw(n), draw(n, 1, 3), draw(n, rest, 3), **kwargs
    )


def test_the_other_byte_order(tmp_path: Path) -> None:
    written = make_gaussians()
    write_ply(tmp_path / "a.ply", written)
    head, mark, body = (tmp_path / "a.ply").read_bytes().partition(b"end_header\n")
    swapped = np.frombuffer(body, "<f4").astype(">f4").tobytes()
    (tmp_path / "b.ply").write_bytes(head.replace(b"little", b"big") + mark + swapped)
    read = read_ply(tmp_path / "b.ply")
    for name in FIELDS:
        np.testing.assert_array_equal(getattr(read, name), getattr(written, name), err_msg=name)
        assert getattr(read, name).dtype == np.float32


@pytest.mark.parametrize(
    ("comment", "antialiased", "flat"),
    [
        ("antialiased", True, False),
        ("antialiased 1", True, False),
        ("antialiased 0", False, False),
        ("SplatRenderMode: mip", True, False),
        ("SplatRenderMode: 2dgs", False, True),
        ("SplatRenderMode: default", False, False),
    ],
)
def test_how_other_tools_say_how_to_draw(
    comment: str, antialiased: bool, flat: bool, tmp_path: Path
) -> None:
    write_ply(tmp_path / "a.ply", make_gaussians(5))
    data = (tmp_path / "a.ply").read_bytes()
    marked = data.replace(b"element vertex", f"comment {comment}\nelement vertex".encode(), 1)
    (tmp_path / "a.ply").write_bytes(marked)
    read = read_ply(tmp_path / "a.ply")
    assert (read.antialiased, read.flat) == (antialiased, flat)


def test_rows_are_taken_without_the_rest(tmp_path: Path) -> None:
    written = make_gaussians(40, degree=2)
    write_ply(tmp_path / "a.ply", written)
    rows = PlyRows(tmp_path / "a.ply")
    assert len(rows) == 40
    np.testing.assert_array_equal(rows.means(), written.means)
    some = np.array([7, 3, 39])
    for name in FIELDS:
        np.testing.assert_array_equal(getattr(rows.take(some), name), getattr(written, name)[some])
    assert len(rows.take(slice(10, 15))) == 5


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
@pytest.mark.parametrize("antialiased", [False, True])
def test_round_trip_is_exact(tmp_path: Path, degree: int, antialiased: bool) -> None:
    written = make_gaussians(degree=degree, antialiased=antialiased)
    write_ply(tmp_path / "a.ply", written)
    read = read_ply(tmp_path / "a.ply")
    assert read.sh_degree == degree
    assert read.antialiased is antialiased
    for name in FIELDS:
        np.testing.assert_array_equal(getattr(read, name), getattr(written, name), err_msg=name)


def test_layout_is_that_of_3dgs(tmp_path: Path) -> None:
    """Property order and channel-major f_rest, byte for byte, as other tools expect."""
    g = make_gaussians(n=2, degree=1)
    write_ply(tmp_path / "a.ply", g)
    data = (tmp_path / "a.ply").read_bytes()
    header, _, body = data.partition(b"end_header\n")
    names = [line.split()[-1] for line in header.decode().splitlines() if "property" in line]
    assert names == (
        ["x", "y", "z", "nx", "ny", "nz", "f_dc_0", "f_dc_1", "f_dc_2"]
        + [f"f_rest_{i}" for i in range(9)]
        + ["opacity", "scale_0", "scale_1", "scale_2", "rot_0", "rot_1", "rot_2", "rot_3"]
    )
    rows = np.frombuffer(body, "<f4").reshape(2, len(names))
    np.testing.assert_array_equal(rows[:, 9:12], g.shN[:, :, 0])  # red's three come first
    np.testing.assert_array_equal(rows[:, 3:6], 0)


def test_written_bytes_are_reproducible_and_nothing_is_left_behind(tmp_path: Path) -> None:
    g = make_gaussians()
    write_ply(tmp_path / "a.ply", g)
    write_ply(tmp_path / "b.ply", g)
    assert (tmp_path / "a.ply").read_bytes() == (tmp_path / "b.ply").read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.ply", "b.ply"]


def test_failed_write_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_ply(tmp_path / "a.ply", make_gaussians(n=3))
    before = (tmp_path / "a.ply").read_bytes()

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("splat_assets.gaussians.ply.os.fsync", fail)
    with pytest.raises(OSError):
        write_ply(tmp_path / "a.ply", make_gaussians(n=9))
    assert (tmp_path / "a.ply").read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a.ply"]


def test_shuffled_ascii_with_extra_properties_and_elements(tmp_path: Path) -> None:
    g = make_gaussians(n=4, degree=0)
    columns = {
        "opacity": g.opacities, "label": np.arange(4), "y": g.means[:, 1], "x": g.means[:, 0],
        "z": g.means[:, 2], "rot_3": g.quats[:, 3], "rot_2": g.quats[:, 2],
        "rot_1": g.quats[:, 1], "rot_0": g.quats[:, 0], "scale_0": g.scales[:, 0],
        "scale_1": g.scales[:, 1], "scale_2": g.scales[:, 2], "f_dc_0": g.sh0[:, 0, 0],
        "f_dc_1": g.sh0[:, 0, 1], "f_dc_2": g.sh0[:, 0, 2],
    }  # fmt: skip
    lines = ["ply", "format ascii 1.0", "comment antialiased", "element info 1"]
    lines += ["property list uchar int ids", "element vertex 4"]
    lines += [f"property {'uchar' if n == 'label' else 'double'} {n}" for n in columns]
    lines += ["end_header", "2 7 8"]
    lines += [" ".join(repr(float(c[i])) for c in columns.values()) for i in range(4)]
    (tmp_path / "a.ply").write_text("\r\n".join(lines) + "\r\n", newline="")
    read = read_ply(tmp_path / "a.ply")
    assert read.antialiased
    for name in FIELDS:
        np.testing.assert_array_equal(getattr(read, name), getattr(g, name), err_msg=name)


def test_empty_splat(tmp_path: Path) -> None:
    write_ply(tmp_path / "a.ply", make_gaussians(n=0, degree=2))
    assert len(read_ply(tmp_path / "a.ply")) == 0


def _header(*properties: str, count: int = 1, extra: str = "") -> bytes:
    lines = ["ply", "format binary_little_endian 1.0", f"element vertex {count}"]
    lines += [f"property float {name}" for name in properties]
    return ("\n".join(lines) + "\n" + extra + "end_header\n").encode()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"not a ply at all", "is not a PLY file"),
        (b"", "is not a PLY file"),
        (b"ply\nformat binary_little_endian 1.0\nelement vertex 4\n", "header has no end"),
        (_header("x", "y", "z") + bytes(12), "a point cloud"),
        (
            _header("x", "y", "z", extra="element face 0\nproperty list uchar int vertex_indices\n")
            + bytes(12),
            "a mesh",
        ),
        (_header("packed_position"), "packed"),
        (_header("x", "y", "z", "f_dc_0", "f_dc_1", "f_dc_2"), "'opacity' is missing"),
        (b"ply\nformat binary_middle_endian 1.0\nend_header\n", "binary_middle_endian"),
        (_header("x", extra="element info -3\n"), "-3 rows|not a complete|a point cloud"),
        (b"ply\nformat ascii 1.0\nelement vertex many\nend_header\n", "damaged"),
    ],
)
def test_what_is_not_a_splat_is_refused_in_one_sentence(
    tmp_path: Path, content: bytes, says: str
) -> None:
    path = tmp_path / "bad.ply"
    path.write_bytes(content)
    with pytest.raises(UserError, match=says) as caught:
        read_ply(path)
    assert "bad.ply" in str(caught.value)
    assert str(caught.value).count("\n") == 0


def test_truncation_is_noticed(tmp_path: Path) -> None:
    write_ply(tmp_path / "a.ply", make_gaussians())
    data = (tmp_path / "a.ply").read_bytes()
    (tmp_path / "a.ply").write_bytes(data[:-5])
    with pytest.raises(UserError, match="truncated"):
        read_ply(tmp_path / "a.ply")


def test_wrong_number_of_sh_and_missing_file(tmp_path: Path) -> None:
    write_ply(tmp_path / "a.ply", make_gaussians(degree=1))
    data = (tmp_path / "a.ply").read_bytes().replace(b"f_rest_8", b"unknown8")
    (tmp_path / "a.ply").write_bytes(data)
    with pytest.raises(UserError, match="8 properties"):
        read_ply(tmp_path / "a.ply")
    with pytest.raises(UserError, match="cannot be read"):
        read_ply(tmp_path / "none.ply")


def test_real_files() -> None:
    robot = read_ply(shared_data("splats", "playbot_sh2_31k.ply"))
    assert robot.sh_degree == 2
    assert 30_000 < len(robot) < 32_000
    wolf = read_ply(shared_data("splats", "wolf_sh3_crop10k.ply"))
    assert wolf.sh_degree == 3
    assert np.isfinite(wolf.means).all()
    with pytest.raises(UserError, match="packed"):
        read_ply(shared_data("splats", "supersplat_compressed_sh3_64.ply"))
