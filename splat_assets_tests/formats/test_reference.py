"""The formats beside PlayCanvas' splat-transform: its files here, and ours there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from splat_assets.formats.registry import FORMATS, read_splat, write_splat
from splat_assets.formats.values import ABOUT_X
from splat_assets.gaussians.gaussians import Gaussians
from splat_assets.gaussians.ply import read_ply, write_ply
from splat_assets.gaussians.transform import rotate
from splat_assets_tests.compression.splats import covariances
from splat_assets_tests.formats.test_formats import plain_splat
from splat_assets_tests.paths import shared_data


def _as_reference(name: str, g: Gaussians) -> Gaussians:
    """It takes SPZ as it is, without turning its axes (y up) to those of a PLY."""
    return rotate(g, ABOUT_X) if name == "spz" else g


def _same(one: Gaussians, two: Gaussians) -> None:
    assert len(one) == len(two) and one.sh_degree == two.sh_degree
    np.testing.assert_allclose(one.means, two.means, atol=1e-5)
    before, after = covariances(one.quats, one.scales), covariances(two.quats, two.scales)
    size = np.linalg.norm(before, axis=(1, 2))
    assert np.quantile(np.linalg.norm(before - after, axis=(1, 2)) / size, 0.95) < 0.06
    assert np.median(np.linalg.norm(before - after, axis=(1, 2)) / size) < 0.02
    np.testing.assert_allclose(one.sh0, two.sh0, atol=1e-5)
    np.testing.assert_allclose(one.shN, two.shN, atol=1e-5)
    inside = np.abs(one.opacities) < 5  # 0 and 1 have no logit: every decoder has its own
    np.testing.assert_allclose(one.opacities[inside], two.opacities[inside], atol=1e-4)


@pytest.mark.parametrize("name", ["compressed-ply", "spz", "splat"])
def test_it_reads_what_we_write(
    name: str, splat_transform: Callable[..., None], tmp_path: Path
) -> None:
    ours = tmp_path / f"ours{FORMATS[name].endings[0]}"
    write_splat(ours, plain_splat(600, 0 if name == "splat" else 3))
    splat_transform(ours, tmp_path / "back.ply")
    _same(_as_reference(name, read_splat(ours)), read_ply(tmp_path / "back.ply"))


@pytest.mark.parametrize(
    "name",
    [
        "minimal_fixtures/minimal.ksplat",
        "minimal_fixtures/minimal.splat",
        "minimal_fixtures/minimal-v2.spz",
        "minimal_fixtures/minimal-v3.spz",
        "minimal_fixtures/minimal-v4.spz",
        "supersplat_compressed_sh3_64.ply",
        "playbot_sog_folder/3_0/meta.json",
        "massa.sog",
    ],
)
def test_files_of_other_tools_are_read_as_it_does(
    name: str, splat_transform: Callable[..., None], tmp_path: Path
) -> None:
    path = shared_data("splats", *name.split("/"))
    splat_transform(path, tmp_path / "back.ply")
    _same(_as_reference(path.suffix[1:], read_splat(path)), read_ply(tmp_path / "back.ply"))


@pytest.mark.parametrize("name", ["compressed-ply", "spz", "glb"])
def test_we_read_what_it_writes(
    name: str, splat_transform: Callable[..., None], tmp_path: Path
) -> None:
    g = plain_splat(600, 2)
    write_ply(tmp_path / "in.ply", g)
    theirs = tmp_path / f"theirs{FORMATS[name].endings[0]}"
    splat_transform(tmp_path / "in.ply", theirs)
    read = read_splat(theirs)
    if name == "glb":  # which it does not read itself, but writes without loss
        _same(read, g)
        return
    splat_transform(theirs, tmp_path / "back.ply")
    _same(_as_reference(name, read), read_ply(tmp_path / "back.ply"))
