"""The stage `compressed_splat`: what it writes, what it says, and what it leaves when it stops."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from splat_assets.artifacts.manifest import MANIFEST, hash_file
from splat_assets.compression.compress import compress_splat
from splat_assets.compression.compressed_splat import CompressedSplat
from splat_assets.compression.quality import choose_views, draw_views, psnr
from splat_assets.compression.sog_reader import read_sog
from splat_assets.compression.views import frame_splat
from splat_assets.datasets.options import CompressOptions
from splat_assets.errors import Cancelled, TransientError, UserError
from splat_assets.gaussians.gaussians import Gaussians
from splat_assets.gaussians.ply import read_ply
from splat_assets.gaussians.splat_model import SplatModel
from splat_assets.progress import Progress, Report, silent
from splat_assets.viewing import viewer
from splat_assets_tests.compression.splat_models import (
    BOTTOM,
    CENTER,
    CPU,
    TOP,
    given_model,
    trained_model,
    two_tone_ball,
    upright_views,
)

PLAIN = CompressOptions(viewer=False, prune=False)


def _compress(
    splat: SplatModel,
    out: Path,
    options: CompressOptions = PLAIN,
    progress: Progress | None = None,
) -> CompressedSplat:
    out.mkdir()
    return compress_splat(splat, out, options=options, compute=CPU, progress=progress or silent())


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> SplatModel:
    return trained_model(tmp_path_factory.mktemp("trained") / "splat")


@pytest.fixture(scope="module")
def compressed(trained: SplatModel, tmp_path_factory: pytest.TempPathFactory) -> CompressedSplat:
    """Of a splat with cameras, in every format; nobody writes to it."""
    out = tmp_path_factory.mktemp("compressed") / "out"
    options = CompressOptions(viewer=False, prune=False, formats=("sog", "ply"))
    return _compress(trained, out, options)


def test_every_promised_file_is_there(compressed: CompressedSplat) -> None:
    compressed.validate()
    names = {entry.path for entry in compressed.manifest.files}
    with zipfile.ZipFile(compressed.sog) as bundle:
        members = {f"scene/{name}" for name in bundle.namelist()}
        for name in bundle.namelist():
            assert bundle.read(name) == (compressed.path / "scene" / name).read_bytes()
    assert names == members | {
        *("scene.sog", "scene.ply", "preview.jpg", "report.json", "report.html"),
    }
    assert not list(compressed.path.rglob(".*"))


def test_summary_agrees_with_the_files(compressed: CompressedSplat, trained: SplatModel) -> None:
    found = compressed.summary
    assert found["num_gaussians"] == 600 == len(read_sog(compressed.sog))
    assert found["ply_bytes"] == trained.ply.stat().st_size
    assert found["sog_bytes"] == compressed.sog.stat().st_size
    assert found["ratio"] == pytest.approx(found["ply_bytes"] / found["sog_bytes"], abs=0.01)
    assert found["order"] == "hilbert" and found["palette_size"] > 0
    assert found["seconds"] > 0
    assert compressed.manifest.options["formats"] == ["sog", "ply"]


def test_report_measures_the_loss(compressed: CompressedSplat, trained: SplatModel) -> None:
    """The figures are those of a comparison made here, by hand."""
    report = compressed.report()
    for name, value in compressed.summary.items():
        assert report[name] == value
    quality = report["quality"]
    assert [view["name"] for view in quality["views"]] == ["photo 0.jpg", "photo 3.jpg"]
    views = choose_views(trained.views())
    before = draw_views(read_ply(trained.ply), views, background=(0.1, 0.1, 0.1), compute=CPU)
    upright = [view for view in upright_views() if view.name in ("orbit_00", "orbit_03")]
    after = draw_views(read_sog(compressed.sog), upright, background=(0.1, 0.1, 0.1), compute=CPU)
    lost = []
    for shown, one, two in zip(quality["views"], before, after, strict=True):
        assert shown["psnr_vs_splat_db"] == pytest.approx(psnr(one, two), abs=0.05)
        assert shown["psnr_before_db"] == pytest.approx(34, abs=1)  # the noise of the photos
        lost.append(shown["psnr_before_db"] - shown["psnr_after_db"])
    assert 43 < quality["psnr_vs_splat_db"] < 54  # the preset aims at 48
    assert 0.98 < quality["ssim_vs_splat"] <= 1
    assert compressed.summary["psnr_loss_db"] == pytest.approx(np.mean(lost), abs=1e-3)
    assert abs(compressed.summary["psnr_loss_db"]) < 1
    assert quality["worst_view"] in ("photo 0.jpg", "photo 3.jpg")


def test_report_says_where_the_bytes_and_the_time_went(compressed: CompressedSplat) -> None:
    report = compressed.report()
    with zipfile.ZipFile(compressed.sog) as bundle:
        sizes = {info.filename: info.file_size for info in bundle.infolist()}
    assert report["field_bytes"] == sizes
    assert report["bytes_per_gaussian"] == pytest.approx(report["sog_bytes"] / 600, abs=1e-3)
    assert abs(report["aimed_db"] - 48) <= 5 and report["precision"]["means"] > 0
    assert set(report["codebooks"]) == {"scales", "sh0", "shN"}
    assert report["sh_degree"] == 1 and report["antialiased"] is False
    assert report["dropped_gaussians"] == 0 and report["notes"] == []
    assert report["quality_views"] == "registered"
    assert 0 < report["encode_seconds"] <= report["seconds"]
    assert 0 < report["cpu_seconds"] < 60
    assert 2**26 < report["peak_memory_bytes"] < 2**35
    assert report["sorted_per_second"] > 0


def test_the_published_splat_is_upright(compressed: CompressedSplat) -> None:
    """Up was +z in the poses; -y, as viewers expect, in what is published."""
    expected = two_tone_ball()
    for published in (read_sog(compressed.sog), read_ply(compressed.path / "scene.ply")):
        np.testing.assert_allclose(published.means.mean(0), expected.means.mean(0), atol=2e-3)
    rotation = np.array(compressed.report()["frame"]["rotation_from_poses"])
    assert compressed.report()["frame"]["up"] == [0, -1, 0]
    np.testing.assert_allclose(rotation @ (0, 0, 1), (0, -1, 0), atol=1e-9)


def test_the_preview_is_a_registered_view_and_upright(compressed: CompressedSplat) -> None:
    with Image.open(compressed.path / "preview.jpg") as image:
        pixels = np.asarray(image.convert("RGB"), np.float64) / 255
    assert pixels.shape == (96, 96, 3)
    top, bottom = pixels[25:40, 40:56].mean((0, 1)), pixels[60:75, 40:56].mean((0, 1))
    np.testing.assert_allclose(top, TOP, atol=0.2)
    np.testing.assert_allclose(bottom, BOTTOM, atol=0.2)
    np.testing.assert_allclose(pixels[:4, :4].mean((0, 1)), 0.1, atol=0.02)  # the background


def test_same_input_same_bytes(
    compressed: CompressedSplat, trained: SplatModel, tmp_path: Path
) -> None:
    again = _compress(trained, tmp_path / "again")
    assert hash_file(again.sog) == hash_file(compressed.sog)
    # neither timings nor what else was written make another version of the data
    assert again.data_version == compressed.data_version
    other = _compress(trained, tmp_path / "other", CompressOptions(viewer=False, order="morton"))
    assert other.data_version != compressed.data_version


def test_a_splat_without_cameras_is_looked_at_from_around(tmp_path: Path) -> None:
    ball = two_tone_ball(400, 0)
    stray = Gaussians(
        means=np.full((1, 3), 500, np.float32),
        quats=np.array([[1, 0, 0, 0]], np.float32),
        scales=np.full((1, 3), -3, np.float32),
        opacities=np.ones(1, np.float32),
        sh0=np.zeros((1, 1, 3), np.float32),
        shN=np.zeros((1, 0, 3), np.float32),
    )
    fields = ("means", "quats", "scales", "opacities", "sh0", "shN")
    both = Gaussians(**{f: np.concatenate([getattr(ball, f), getattr(stray, f)]) for f in fields})
    done = _compress(given_model(tmp_path / "splat", both), tmp_path / "out")
    report = done.report()
    assert report["quality_views"] == "orbit" and report["quality"]["num_views"] == 8
    assert "psnr_loss_db" not in done.summary and "psnr_db" not in done.summary
    assert done.summary["psnr_vs_splat_db"] > 40 and done.summary["palette_size"] == 0
    assert report["frame"]["rotation_from_poses"] == np.eye(3).tolist()
    with Image.open(done.path / "preview.jpg") as image:
        pixels = np.asarray(image.convert("RGB"), np.float64) / 255
    side = len(pixels)
    middle = pixels[side // 4 : -side // 4, side // 4 : -side // 4]
    assert (middle.max(-1) > 0.3).mean() > 0.5  # the stray one does not push the ball out of sight
    assert middle[: len(middle) // 3, :, 0].mean() > middle[-len(middle) // 3 :, :, 0].mean()


def test_frame_of_a_splat_leaves_strays_out() -> None:
    center, radius = frame_splat(two_tone_ball(2000))
    np.testing.assert_allclose(center, CENTER, atol=0.1)
    assert 0.8 < radius < 2.0


def test_invisible_damage_is_dropped_and_told(tmp_path: Path) -> None:
    ball = two_tone_ball(200, 0)
    ball.means[3] = np.nan
    ball.quats[7] = 0
    told: list[Report] = []
    done = _compress(
        given_model(tmp_path / "splat", ball), tmp_path / "out", progress=Progress(told.append)
    )
    assert done.summary["num_gaussians"] == 198 == len(read_sog(done.sog))
    assert done.report()["dropped_gaussians"] == 2
    assert "Dropped 2 of 200" in done.report()["notes"][0]
    assert any(r.warning and "Dropped 2" in r.message for r in told)
    assert done.summary["psnr_vs_splat_db"] > 40


@pytest.mark.parametrize("n", [0, 5])
def test_nothing_to_show_is_a_sentence(n: int, tmp_path: Path) -> None:
    ball = two_tone_ball(n, 0)
    ball.means[:] = np.nan
    with pytest.raises(UserError, match="no Gaussian with finite values"):
        _compress(given_model(tmp_path / "splat", ball), tmp_path / "out")
    assert not (tmp_path / "out" / MANIFEST).exists()


def test_damaged_input_is_named(tmp_path: Path) -> None:
    splat = given_model(tmp_path / "splat", two_tone_ball(50, 0))
    splat.ply.write_bytes(splat.ply.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"splat\.ply is truncated"):
        _compress(splat, tmp_path / "out")


def test_it_can_be_stopped_at_any_report(trained: SplatModel, tmp_path: Path) -> None:
    """Whatever the moment, the folder is not mistaken for a finished one."""
    reports: list[Report] = []
    _compress(trained, tmp_path / "whole", progress=Progress(reports.append))
    fractions = [report.fraction for report in reports]
    assert fractions == sorted(fractions) and fractions[-1] == 1.0
    for stop_at in {0, len(reports) // 2, len(reports) - 1}:
        seen: list[Report] = []
        out = tmp_path / f"stopped-{stop_at}"
        progress = Progress(seen.append, lambda seen=seen, at=stop_at: len(seen) >= at)
        with pytest.raises(Cancelled):
            _compress(trained, out, progress=progress)
        assert not (out / MANIFEST).exists()
        with pytest.raises(UserError, match="not a finished artifact"):
            CompressedSplat.open(out)


def test_a_failure_half_way_leaves_no_manifest(
    trained: SplatModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("splat_assets.compression.compress.write_preview", fail)
    with pytest.raises(OSError, match="No space"):
        _compress(trained, tmp_path / "out")
    assert not (tmp_path / "out" / MANIFEST).exists()


@pytest.mark.parametrize("kind", [UserError, TransientError])
def test_without_the_viewers_files_all_else_is_made(
    kind: type[Exception],
    trained: SplatModel,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def offline() -> bool:
        raise kind("The browser viewer is not installed: npm is missing.")

    monkeypatch.setenv(viewer.VENDOR_VARIABLE, str(tmp_path / "nowhere"))
    monkeypatch.setattr(viewer, "install_viewer", offline)
    told: list[Report] = []
    done = _compress(trained, tmp_path / "out", CompressOptions(), Progress(told.append))
    done.validate()
    assert not done.viewer.exists()
    assert done.report()["notes"] == ["The browser viewer is not installed: npm is missing."]
    assert any(r.warning and "npm is missing" in r.message for r in told)


def test_viewer_page_carries_the_figures(trained: SplatModel, tmp_path: Path) -> None:
    problem = viewer.viewer_problem()
    if problem:
        pytest.skip(f"the browser viewer is not installed: {problem}")
    done = _compress(trained, tmp_path / "out", CompressOptions(prune=False))
    page = done.viewer.read_text(encoding="utf-8")
    assert "600 Gaussians" in page and "on held-out photos" in page
    assert f"{done.summary['psnr_db']:.1f} dB" in page
    # the name of the dataset can neither end a script nor open a tag
    assert 'my </script> "scene"' not in page
    assert "my &lt;/script&gt; &quot;scene&quot;" in page
    assert json.loads((done.path / "report.json").read_text())["notes"] == []
