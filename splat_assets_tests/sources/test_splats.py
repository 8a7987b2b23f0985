"""Splats of any format as sources: straight to the stage that passes them on, with lineage."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest

from splat_assets.datasets.options import FrameOptions
from splat_assets.errors import SourceError
from splat_assets.formats.registry import FORMATS, read_splat, write_splat
from splat_assets.frames.extract import extract_frames
from splat_assets.gaussians.gaussians import Gaussians
from splat_assets.gaussians.ply import read_ply
from splat_assets.progress import silent
from splat_assets.sources.raw_dataset import RawDataset
from splat_assets.sources.uri import parse_source
from splat_assets_tests.compression.splats import random_splat
from splat_assets_tests.paths import shared_data
from splat_assets_tests.sources.samples import Fetcher, names, photos, write


def _given(raw: RawDataset, out: Path) -> Gaussians:
    """What the frames stage hands on."""
    out.mkdir()
    frames = extract_frames(raw, out, options=FrameOptions(), progress=silent())
    assert frames.manifest.skipped and "is a trained splat already" in frames.manifest.skipped
    return read_ply(frames.given / "splat.ply")


def _equal(one: Gaussians, two: Gaussians) -> None:
    for name in ("means", "quats", "scales", "opacities", "sh0", "shN"):
        np.testing.assert_array_equal(getattr(one, name), getattr(two, name))
    assert one.antialiased == two.antialiased


@pytest.mark.parametrize("name", ["sog", "spz", "splat", "compressed-ply", "ply"])
def test_a_file(name: str, tmp_path: Path, fetch: Fetcher) -> None:
    path = tmp_path / f"scene{FORMATS[name].endings[0]}"
    write_splat(path, random_splat(50, 1, antialiased=True))
    assert parse_source(str(path)).kind == "ply"
    raw = fetch(path)
    assert raw.content == "ply" and names(raw) == [path.name]
    assert (raw.files / path.name).read_bytes() == path.read_bytes()  # the original, untouched
    _equal(_given(raw, tmp_path / "frames"), read_splat(path))


def test_ksplat_of_another_tool(tmp_path: Path, fetch: Fetcher) -> None:
    path = shared_data("splats", "minimal_fixtures", "minimal.ksplat")
    assert len(_given(fetch(path), tmp_path / "frames")) == 4


def test_a_sog_folder_its_archive_and_a_streamed_one(tmp_path: Path, fetch: Fetcher) -> None:
    g = random_splat(80, 1)
    write_splat(tmp_path / "one.sog", g)
    folder = tmp_path / "sog"
    with zipfile.ZipFile(tmp_path / "one.sog") as bundle:
        bundle.extractall(folder)
    (folder / "README.md").write_text("A scene")
    raw = fetch(folder)
    assert raw.content == "ply" and "meta.json" in names(raw) and len(names(raw)) == 8
    _equal(_given(raw, tmp_path / "frames1"), read_splat(tmp_path / "one.sog"))

    (tmp_path / "one.sog").rename(tmp_path / "one.zip")
    _equal(_given(fetch(tmp_path / "one.zip"), tmp_path / "frames2"), read_splat(folder))

    streamed = tmp_path / "streamed" / "lod-meta.json"
    write_splat(streamed, g)
    raw = fetch(streamed.parent)
    assert raw.content == "ply" and names(raw)[-1] == "lod-meta.json"
    _equal(_given(raw, tmp_path / "frames3"), read_splat(streamed))


def test_a_folder_that_holds_one(tmp_path: Path, fetch: Fetcher) -> None:
    source = write(tmp_path / "s", photos(2))
    write_splat(source / "scene.spz", random_splat(20))
    assert names(fetch(source)) == ["scene.spz"]
    write_splat(source / "other.spz", random_splat(20))
    with pytest.raises(SourceError, match="2 splats"):
        fetch(source)
    write_splat(source / "scene.ply", random_splat(20))  # loses nothing, so it wins
    assert names(fetch(source)) == ["scene.ply"]


@pytest.mark.parametrize(
    ("name", "data", "says"),
    [
        ("a.spz", b"PK" * 50, "a.spz is not an SPZ file"),
        ("a.sog", b"PK\x03\x04" + bytes(50), "not a complete ZIP"),
        ("a.splat", b"123", "no whole .splat"),
        ("a.ksplat", bytes(5000), "version 0.0"),
    ],
)
def test_damage_is_found_at_once(
    name: str, data: bytes, says: str, tmp_path: Path, fetch: Fetcher
) -> None:
    write(tmp_path, {name: data})
    with pytest.raises(SourceError, match=says) as caught:
        fetch(tmp_path / name)
    assert str(tmp_path / name) in str(caught.value) and "\n" not in str(caught.value)
    assert list(fetch.out.iterdir()) == []
