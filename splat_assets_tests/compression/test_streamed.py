"""Streamed SOG: chunks and levels of detail that hold the scene, and nothing half-written."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from splat_assets.compression.precision import Precision
from splat_assets.compression.streamed import StreamOptions, write_streamed
from splat_assets.compression.streamed_reader import read_lod_meta, read_streamed
from splat_assets.errors import Cancelled, UserError
from splat_assets.formats.registry import format_of, read_splat
from splat_assets.gaussians.gaussians import Gaussians
from splat_assets.gaussians.ply import PlyRows, read_ply, write_ply
from splat_assets.progress import Progress
from splat_assets_tests.compression.splat_models import (
    CPU,
    trained_model,
    two_tone_ball,
    upright_views,
)
from splat_assets_tests.compression.splats import covariances, random_splat

FINE = StreamOptions(chunk=400, levels=3, precision=Precision(), palette_size=64)


@pytest.fixture(scope="module")
def scene() -> Gaussians:
    return replace(two_tone_ball(2000), antialiased=True)


@pytest.fixture(scope="module")
def streamed(scene: Gaussians, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("streamed") / "scene"
    write_streamed(folder / "lod-meta.json", scene, FINE)
    return folder


def test_the_finest_level_holds_every_gaussian(scene: Gaussians, streamed: Path) -> None:
    from scipy.spatial import cKDTree

    back = read_streamed(streamed)
    assert len(back) == len(scene) and back.antialiased and back.sh_degree == 1
    distance, index = cKDTree(back.means).query(scene.means)
    assert len(np.unique(index)) == len(scene) and distance.max() < 1e-4
    found = back.select(index)
    before, after = covariances(scene.quats, scene.scales), covariances(found.quats, found.scales)
    size = np.linalg.norm(before, axis=(1, 2))
    assert np.quantile(np.linalg.norm(before - after, axis=(1, 2)) / size, 0.95) < 0.05
    np.testing.assert_allclose(found.sh0, scene.sh0, atol=0.1)


def test_levels_get_coarser_and_still_look_alike(scene: Gaussians, streamed: Path) -> None:
    from splat_assets.compression.quality import draw_views, psnr

    meta = read_lod_meta(streamed)
    counts = [meta.count(level) for level in range(3)]
    assert counts[0] == 2000
    assert 0.25 <= counts[1] / counts[0] <= 0.27 and 0.25 <= counts[2] / counts[1] <= 0.3
    views = upright_views()[:2]
    whole = list(draw_views(scene, views, background=(0, 0, 0), compute=CPU))
    quality = []
    for level in range(3):
        assert len(read_streamed(streamed, level)) == counts[level]
        drawn = draw_views(read_streamed(streamed, level), views, background=(0, 0, 0), compute=CPU)
        quality.append(np.mean([psnr(a, b) for a, b in zip(drawn, whole, strict=True)]))
    assert quality[0] > 35 and quality[0] > quality[1] > quality[2] > 17


def test_the_document_describes_the_chunks(scene: Gaussians, streamed: Path) -> None:
    """As PlayCanvas has it: a binary tree of boxes, runs of leaves beside each other in files."""
    document = json.loads((streamed / "lod-meta.json").read_text())
    assert document["version"] == 1 and document["lodLevels"] == 3
    assert document["count"] == sum(document["counts"])
    leaves: list[dict[str, Any]] = []
    pending = [document["tree"]]
    while pending:
        node = pending.pop()
        low, high = (np.array(node["bound"][side]) for side in ("min", "max"))
        for child in node.get("children", []):
            assert (np.array(child["bound"]["min"]) >= low).all()
            assert (np.array(child["bound"]["max"]) <= high).all()
            pending.append(child)
        if "lods" in node:
            assert "children" not in node
            leaves.append(node)
    assert len(leaves) == 32  # 2000 halved until at most 100
    used = dict.fromkeys(range(len(document["filenames"])), 0)
    for level in range(3):
        for leaf in sorted(leaves, key=lambda leaf: leaf["lods"][str(level)]["offset"]):
            run = leaf["lods"][str(level)]
            assert document["filenames"][run["file"]].startswith(f"{level}_")
            assert run["count"] > 0
            used[run["file"]] += run["count"]
    for file, name in enumerate(document["filenames"]):
        chunk = json.loads((streamed / name).read_text())
        assert chunk["count"] == used[file] <= 400 and chunk["model"] == "antialiased"
    leaf = leaves[0]
    run = leaf["lods"]["0"]
    inside = read_splat(streamed / document["filenames"][run["file"]])
    inside = inside.select(np.arange(run["offset"], run["offset"] + run["count"]))
    assert (inside.means >= np.array(leaf["bound"]["min"]) - 1e-4).all()
    assert (inside.means <= np.array(leaf["bound"]["max"]) + 1e-4).all()


def test_what_is_far_away_is_always_shown(tmp_path: Path) -> None:
    g = two_tone_ball(600, 0)
    g.means[:3] = 500.0 + np.arange(9).reshape(3, 3)
    g.means[3] = np.nan
    g.scales[4] = 6.0  # larger than the scene
    written = write_streamed(tmp_path / "s" / "lod-meta.json", g, FINE)
    assert written.environment == 4 and written.dropped == 1
    assert json.loads((tmp_path / "s/lod-meta.json").read_text())["environment"] == "env/meta.json"
    for level in range(3):
        back = read_streamed(tmp_path / "s", level)
        assert (back.means > 400).all(axis=1).sum() == 3
    assert len(read_streamed(tmp_path / "s")) == 599


def test_same_input_same_bytes_from_memory_or_file(scene: Gaussians, tmp_path: Path) -> None:
    write_ply(tmp_path / "a.ply", scene)
    one, two = tmp_path / "one", tmp_path / "two"
    write_streamed(one / "lod-meta.json", read_ply(tmp_path / "a.ply"), FINE)
    write_streamed(two / "lod-meta.json", PlyRows(tmp_path / "a.ply"), FINE)
    files = sorted(p.relative_to(one) for p in one.rglob("*") if p.is_file())
    assert files == sorted(p.relative_to(two) for p in two.rglob("*") if p.is_file())
    for name in files:
        assert (one / name).read_bytes() == (two / name).read_bytes()


@pytest.mark.parametrize("count", [1, 2, 401])
def test_small_scenes(count: int, tmp_path: Path) -> None:
    path = tmp_path / "s" / "lod-meta.json"
    written = write_streamed(path, two_tone_ball(count), FINE)
    assert written.counts[0] == count and len(read_splat(path)) == count
    assert written.bytes == sum(p.stat().st_size for p in path.parent.rglob("*") if p.is_file())
    found = format_of(path.parent)
    assert found is not None and found.name == "streamed-sog"


def test_a_preset_is_measured(tmp_path: Path, scene: Gaussians) -> None:
    sizes = []
    for preset in ("web", "archive"):
        options = StreamOptions(chunk=1000, levels=2, preset=preset, palette_size=64)  # type: ignore[arg-type]
        sizes.append(write_streamed(tmp_path / preset / "lod-meta.json", scene, options).bytes)
    assert sizes[0] < 0.85 * sizes[1]


def test_it_is_whole_or_not_there(scene: Gaussians, tmp_path: Path) -> None:
    target = tmp_path / "s" / "lod-meta.json"
    write_streamed(target, two_tone_ball(50), FINE)
    before = target.read_bytes()
    asked = iter(range(10_000))
    with pytest.raises(Cancelled):
        write_streamed(
            target, scene, FINE, progress=Progress(should_cancel=lambda: next(asked) > 12)
        )
    assert target.read_bytes() == before and len(read_streamed(target)) == 50
    assert [p.name for p in tmp_path.iterdir()] == ["s"]
    write_streamed(target, two_tone_ball(60), FINE)  # replaces it
    assert len(read_streamed(target)) == 60


def test_wrong_places_are_sentences(tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "photo.jpg").write_bytes(b"x")
    with pytest.raises(UserError, match="folder of its own"):
        write_streamed(tmp_path / "full" / "lod-meta.json", random_splat(5), FINE)
    with pytest.raises(UserError, match=r"should be named lod-meta\.json"):
        write_streamed(tmp_path / "x.json", random_splat(5), FINE)
    empty = random_splat(5)
    empty.means[:] = np.nan
    with pytest.raises(UserError, match="no Gaussian with finite values"):
        write_streamed(tmp_path / "e" / "lod-meta.json", empty, FINE)
    assert not (tmp_path / "e").exists()


def test_the_stage_writes_it_where_it_is_wanted(tmp_path: Path) -> None:
    from splat_assets.compression.compress import compress_splat
    from splat_assets.datasets.options import CompressOptions
    from splat_assets.progress import silent

    model = trained_model(tmp_path / "trained")
    out = tmp_path / "out"
    out.mkdir()
    options = CompressOptions(viewer=False, streamed="always", palette_size=64)
    made = compress_splat(model, out, options=options, compute=CPU, progress=silent())
    made.validate()
    report = made.report()
    assert report["streamed"]["counts"][0] == len(read_streamed(out / "streamed"))
    assert report["streamed"]["bytes"] == made.summary["streamed_bytes"]
    page = made.report_page.read_text()
    assert page.count("data:image/jpeg;base64,") == 4 and "Levels of detail" in page


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"version": 7}, "has version 7"),
        ({"tree": []}, "no tree"),
        ({"lodLevels": 10**9}, "lodLevels is 1000000000"),
        ({"filenames": ["../../x/meta.json"]}, "no chunk of it"),
        ({"filenames": ["/etc/passwd"]}, "no chunk of it"),
        ({"counts": [1, 2, 3]}, "counts are not those of its tree"),
        ({"filenames": ["0_0/meta.json"] * 9}, "a file twice"),
    ],
)
def test_damaged_documents_are_sentences(
    change: dict[str, Any], sentence: str, streamed: Path, tmp_path: Path
) -> None:
    document = json.loads((streamed / "lod-meta.json").read_text())
    path = tmp_path / "lod-meta.json"
    path.write_text(json.dumps({**document, **change}))
    with pytest.raises(UserError, match=sentence) as caught:
        read_streamed(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_the_reference_reads_every_level(
    streamed: Path, splat_transform: Callable[..., None], tmp_path: Path
) -> None:
    for level in range(3):
        theirs = tmp_path / f"{level}.ply"
        splat_transform(streamed / "lod-meta.json", theirs, "-L", str(level))
        one, two = read_ply(theirs), read_streamed(streamed, level)
        assert len(one) == len(two)
        for name in ("means", "scales", "sh0", "shN"):
            np.testing.assert_allclose(getattr(one, name), getattr(two, name), atol=1e-5)


def test_we_read_what_the_reference_writes(
    scene: Gaussians, splat_transform: Callable[..., None], tmp_path: Path
) -> None:
    write_ply(tmp_path / "a.ply", scene)
    target = tmp_path / "theirs" / "lod-meta.json"
    splat_transform(tmp_path / "a.ply", target)
    splat_transform(target, tmp_path / "back.ply")
    ours, theirs = read_splat(target), read_ply(tmp_path / "back.ply")
    assert len(ours) == len(scene)
    for name in ("means", "scales", "sh0", "shN"):
        np.testing.assert_allclose(getattr(ours, name), getattr(theirs, name), atol=1e-5)
