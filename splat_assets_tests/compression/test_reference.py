"""Our files in PlayCanvas' splat-transform, and its files here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from splat_assets.compression.sog_bundle import write_bundle, write_folder
from splat_assets.compression.sog_reader import read_sog
from splat_assets.compression.sog_writer import SogOptions, encode_sog
from splat_assets.gaussians.ply import read_ply, write_ply
from splat_assets_tests.compression.splats import covariances, random_splat
from splat_assets_tests.paths import shared_data

FIELDS = ("means", "quats", "scales", "sh0", "shN")


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_it_decodes_our_files_to_the_values_we_do(
    degree: int, splat_transform: Callable[..., None], tmp_path: Path
) -> None:
    ours = tmp_path / "ours.sog"
    encoded = encode_sog(random_splat(700, degree, antialiased=True), SogOptions(palette_size=128))
    write_bundle(ours, encoded)
    write_folder(tmp_path / "folder", encoded)
    for source in (ours, tmp_path / "folder" / "meta.json"):
        splat_transform(source, tmp_path / "back.ply")
        theirs, own = read_ply(tmp_path / "back.ply"), read_sog(source)
        for name in FIELDS:
            np.testing.assert_allclose(getattr(theirs, name), getattr(own, name), atol=1e-6)
        inside = np.abs(own.opacities) < 6  # 0 and 1 have no logit: every decoder has its own
        np.testing.assert_allclose(theirs.opacities[inside], own.opacities[inside], atol=1e-5)


@pytest.mark.parametrize("degree", [0, 2])
def test_we_decode_its_files(
    degree: int, splat_transform: Callable[..., None], tmp_path: Path
) -> None:
    original = random_splat(600, degree)
    write_ply(tmp_path / "in.ply", original)
    splat_transform(tmp_path / "in.ply", tmp_path / "theirs.sog")
    splat_transform(tmp_path / "theirs.sog", tmp_path / "theirs.ply")
    decoded, expected = read_sog(tmp_path / "theirs.sog"), read_ply(tmp_path / "theirs.ply")
    assert decoded.sh_degree == degree
    for name in FIELDS:
        np.testing.assert_allclose(getattr(decoded, name), getattr(expected, name), atol=1e-6)


def test_single_gaussian(splat_transform: Callable[..., None], tmp_path: Path) -> None:
    write_bundle(tmp_path / "one.sog", encode_sog(random_splat(1, 3)))
    splat_transform(tmp_path / "one.sog", tmp_path / "one.ply")
    np.testing.assert_allclose(
        read_ply(tmp_path / "one.ply").shN, read_sog(tmp_path / "one.sog").shN, atol=1e-6
    )


def test_smaller_and_closer_than_it(splat_transform: Callable[..., None], tmp_path: Path) -> None:
    """On a real object without its view-dependent colours, where both keep all there is."""
    from dataclasses import replace

    g = read_ply(shared_data("splats", "wolf_sh3_crop10k.ply"))
    g = replace(g, shN=g.shN[:, :0])
    write_ply(tmp_path / "in.ply", g)
    splat_transform(tmp_path / "in.ply", tmp_path / "theirs.sog")
    encoded = encode_sog(g)
    size = write_bundle(tmp_path / "ours.sog", encoded)
    assert size < 0.95 * (tmp_path / "theirs.sog").stat().st_size

    def mean_error(path: Path) -> float:
        """Relative error of the covariances; Gaussians are matched by their places."""
        decoded = read_sog(path)
        one, two = (np.lexsort(np.round(m.means, 2).T) for m in (g, decoded))
        before = covariances(g.quats, g.scales)[one]
        after = covariances(decoded.quats, decoded.scales)[two]
        size = np.linalg.norm(before, axis=(1, 2))
        return float(np.median(np.linalg.norm(after - before, axis=(1, 2)) / size))

    assert mean_error(tmp_path / "ours.sog") < mean_error(tmp_path / "theirs.sog")
