"""`report.html`: the figures of `report.json`, readable anywhere without a network."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from splat_assets.viewing.report_page import Comparison, write_report_html
from splat_assets_tests.browser import open_page

REPORT: dict[str, Any] = {
    "num_gaussians": 12345,
    "ply_bytes": 4_000_000,
    "sog_bytes": 200_000,
    "ratio": 20.0,
    "field_bytes": {"means_l.webp": 90_000, "scales.webp": 30_000, "meta.json": 5_000},
    "codebooks": {"scales": "uniform"},
    "antialiased": True,
    "pruned_gaussians": 1234,
    "peak_memory_bytes": 480_000_000,
    "cpu_seconds": 7.25,
    "notes": ["Dropped 3 <b>bad</b> Gaussians."],
    "quality": {
        "psnr_vs_splat_db": 47.62,
        "ssim_vs_splat": 0.9969,
        "psnr_loss_db": 0.012,
        "ssim_loss": 0.001,
        "psnr_after_db": 24.46,
        "ssim_after": 0.59,
        "views": [
            {"name": "good.jpg", "psnr_vs_splat_db": 50.0, "psnr_after_db": 25.0},
            {"name": "worst.jpg", "psnr_vs_splat_db": 44.5, "psnr_after_db": None},
        ],
    },
}


def _write(folder: Path, report: dict[str, Any] = REPORT, **arguments: Any) -> str:
    path = folder / "report.html"
    size = write_report_html(path, report, title='A "scene" <script>', **arguments)
    text = path.read_text(encoding="utf-8")
    assert size == len(text.encode())
    return text


def _comparison() -> Comparison:
    rng = np.random.default_rng(0)
    one = rng.uniform(0, 1, (40, 60, 3)).astype(np.float32)
    return Comparison("worst.jpg", one, np.clip(one + 0.01, 0, 1), one)


def test_it_tells_the_figures_and_embeds_the_pictures(tmp_path: Path) -> None:
    text = _write(tmp_path, worst=_comparison(), links={"Viewer": "viewer.html"})
    for shown in (
        *("12,345 Gaussians", "200.0 kB", "4.0 MB", "20.0×", "47.62 dB", "SSIM 0.9969"),
        *("0.012 dB", "480.0 MB", "positions, low bytes", "72.0 %", "44.50", "yes", "1,234"),
        *("Dropped 3 &lt;b&gt;bad", "A &quot;scene&quot; &lt;script&gt;", 'href="viewer.html"'),
    ):
        assert shown in text, shown
    assert text.count("<img") == text.count("data:image/jpeg;base64,") == 4
    assert "<script" not in text
    assert re.findall(r"https?://", text) == []
    assert text.index("worst.jpg</td>") < text.index("good.jpg</td>")


def test_what_is_not_known_is_left_out(tmp_path: Path) -> None:
    text = _write(tmp_path, {"num_gaussians": 5, "sog_bytes": 10})
    assert "5 Gaussians" in text and "<img" not in text
    for gone in ("None", "nan", "photos", "Notes", "By view"):
        assert gone not in text


def test_the_difference_is_amplified_around_grey() -> None:
    black = np.zeros((2, 2, 3), np.float32)
    shown = Comparison("v", black, black + 0.05).difference
    np.testing.assert_allclose(shown, 0.9)


@pytest.mark.slow
def test_it_fits_a_phone(tmp_path: Path) -> None:
    _write(tmp_path, worst=_comparison(), links={"Viewer": "viewer.html"})
    url = (tmp_path / "report.html").as_uri()
    with open_page(url, width=360, height=640) as page:
        width = page.evaluate("document.documentElement.scrollWidth")
        assert width <= 360
        assert page.locator("img").count() == 4
        assert page.evaluate("[...document.images].every(i => i.naturalWidth > 0)")
        assert [r for r in page.requests if not r.startswith("data:")] == [url]
        assert page.errors == []
