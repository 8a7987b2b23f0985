"""Scores of views: colour correction, and LPIPS without a download, whatever is installed."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from splat_assets.training.evaluate import correct_colours, psnr, score_fully
from splat_assets.training.lpips import load_lpips


def picture(seed: int = 0, height: int = 70, width: int = 80) -> torch.Tensor:
    return torch.rand(height, width, 3, generator=torch.Generator().manual_seed(seed)) * 0.6 + 0.1


def test_correction_takes_back_an_affine_change_of_colours() -> None:
    photo = picture()
    matrix = torch.tensor([[0.9, 0.1, 0.0], [0.0, 0.8, 0.05], [0.02, 0.0, 1.1]])
    image = photo @ matrix.T + 0.05
    score = score_fully(image, photo, "a", None, None)
    assert score.psnr_db < 30  # the number stays that of the picture as it is
    assert score.psnr_corrected_db > 60
    assert score.lpips is None


def test_correction_looks_only_at_what_counts() -> None:
    photo = picture()
    image = photo * 0.8
    image[:, :20] = picture(1)[:, :20]
    mask = torch.ones(70, 80)
    mask[:, :20] = 0
    corrected = correct_colours(image, photo, mask)
    assert psnr(corrected, photo, mask) > 60
    assert psnr(correct_colours(image, photo), photo, mask) < 40


def test_correction_of_one_colour_and_of_nothing() -> None:
    grey = torch.full((12, 12, 3), 0.5)
    assert psnr(correct_colours(grey, grey), grey) > 60
    assert torch.isfinite(correct_colours(grey, grey, torch.zeros(12, 12))).all()


def test_lpips_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lpips", None)
    metric, reason = load_lpips()
    assert metric is None
    assert "not installed" in reason


class FakeLPIPS(torch.nn.Module):
    """Half the mean difference; downloads where its weights are asked for and absent."""

    def __init__(self, net: str, verbose: bool) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor(0.5))
        if net == "alex":
            torch.hub.download_url_to_file("https://example.org/alex.pth", "x")

    def forward(self, first: torch.Tensor, second: torch.Tensor, normalize: bool) -> Any:
        assert normalize and first.shape == (1, 3, 70, 80)
        return self.weight * (first - second).abs().mean()


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    module = ModuleType("lpips")
    module.LPIPS = FakeLPIPS  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "lpips", module)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    return tmp_path / "checkpoints"


def test_lpips_without_weights_is_never_downloaded(weights: Path) -> None:
    metric, reason = load_lpips()
    assert metric is None
    assert "nothing is downloaded" in reason
    # a package that would download something else after all is stopped
    (weights / "alexnet-owt-7be5be79.pth").write_bytes(b"")
    before = torch.hub.download_url_to_file
    metric, reason = load_lpips()
    assert metric is None
    assert "would have to be downloaded" in reason
    assert torch.hub.download_url_to_file is before


def test_lpips_where_it_is_present(weights: Path) -> None:
    (weights / "vgg16-397923af.pth").write_bytes(b"")
    metric, net = load_lpips()
    assert metric is not None
    assert net == "vgg"
    photo = picture()
    score = score_fully(photo + 0.1, photo, "a", None, metric)
    assert score.lpips == pytest.approx(0.05, abs=1e-6)
    mask = torch.zeros(70, 80)
    assert score_fully(photo + 0.1, photo, "a", mask, metric).lpips == 0.0
    small = picture(0, 20, 20)
    assert score_fully(small, small, "a", None, metric).lpips is None
