"""The CPU's training step against torch's graph, and what it does about numbers that are not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from splat_assets.datasets.options import TrainOptions
from splat_assets.gaussians.ply import read_ply
from splat_assets.progress import silent
from splat_assets.rendering.cpu.activation import activate
from splat_assets.rendering.l1_ssim import l1_ssim
from splat_assets.training import dataset, trainer
from splat_assets.training import step as module
from splat_assets.training.cpu_kernels import over_background
from splat_assets.training.dataset import Sample
from splat_assets.training.optimizer import NAMES, SplatOptimizer
from splat_assets.training.step import Regularisers
from splat_assets.training.train import train_splat
from splat_assets_tests.training.scenes import CPU, make_scene


def gaussians(count: int) -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    box, corner = torch.tensor([4.0, 3.0, 4.0]), torch.tensor([-2.0, -1.5, 2.0])
    return {
        "means": torch.rand(count, 3, generator=g) * box + corner,
        "scales": torch.randn(count, 3, generator=g) * 0.5 - 3,
        "quats": torch.randn(count, 4, generator=g),
        "opacities": torch.randn(count, generator=g) * 2,
        "sh0": torch.randn(count, 1, 3, generator=g) * 0.3,
        "shN": torch.randn(count, 15, 3, generator=g) * 0.1,
    }


def sample(width: int = 101, height: int = 75) -> Sample:
    g = torch.Generator().manual_seed(1)
    K = torch.tensor([[[80.0, 0, width / 2], [0, 80, height / 2], [0, 0, 1]]])
    image = torch.rand(height, width, 3, generator=g)
    return Sample(image, None, K, torch.eye(4)[None], width, height)


@pytest.mark.parametrize("count", [3001, 7])  # odd rests, less than sixteen
@pytest.mark.parametrize(("sh_degree", "depth"), [(0, False), (2, True), (3, False)])
def test_it_is_the_graph_and_adam(count: int, sh_degree: int, depth: bool) -> None:
    """Two steps by either way: the moments of Adam hold the gradients, the second step's the first
    step's changes."""
    ways = []
    for kind in (module._GraphShot, module._KernelShot):
        optimizer = SplatOptimizer(gaussians(count), dict.fromkeys(NAMES, 1e-4))
        view = sample()
        view.viewmat.requires_grad_()
        for _ in range(2):
            view.viewmat.grad = None
            shot = kind(
                optimizer,
                view,
                sh_degree=sh_degree,
                background=torch.tensor([0.2, 0.5, 0.7]),
                compute=CPU,
                absgrad=True,
                depth=depth,
            )
            loss = l1_ssim(shot.image, view.image)
            if depth:
                loss = loss + 1e-3 * (shot.info["depth"] * shot.info["alpha"]).mean()
            assert shot.learn(loss, optimizer, Regularisers(2e-5, 3e-5))
        ways.append((optimizer, shot, view))
    (graph, graph_shot, graph_view), (kernel, kernel_shot, kernel_view) = ways
    for name in NAMES:
        expected, found = graph._slots[name], kernel._slots[name]
        assert expected.step == found.step == (0 if name == "shN" and sh_degree == 0 else 2)
        for moment in ("exp_avg", "exp_avg_sq"):
            _close(getattr(found, moment), getattr(expected, moment), 1e-5)
        _close(found.parameter, expected.parameter, 1e-5)
    _close(kernel_view.viewmat.grad, graph_view.viewmat.grad, 1e-5)
    for which in ("signed", "absolute"):
        found, expected = (
            getattr(shot.info["means2d_grads"], which) for shot in (kernel_shot, graph_shot)
        )
        _close(found, expected, 2e-5)


def _close(found: torch.Tensor | None, expected: torch.Tensor | None, tolerance: float) -> None:
    assert found is not None and expected is not None
    difference = (found.detach().double() - expected.detach().double()).norm()
    assert difference <= tolerance * expected.detach().double().norm()


def test_activation_of_numbers_of_every_kind() -> None:
    count = 41
    rng = np.random.default_rng(0)
    log_scales = rng.normal(size=(count, 3)).astype(np.float32) * 3 - 2
    logits = rng.normal(size=count).astype(np.float32) * 4
    log_scales[3] = [np.nan, -1e4, 1e4]
    logits[[5, 40]] = np.nan
    logits[[7, 8]] = -1e4, 1e4
    scales, opacities = np.zeros((count, 3), np.float32), np.zeros(count, np.float32)
    for begin, end in ((0, 16), (16, 40), (40, 41)):
        activate(begin, end, log_scales, logits, scales, opacities)
    assert np.isnan(scales[3, 0]) and 0 < scales[3, 1] < 1e-37 and 1e38 < scales[3, 2] < np.inf
    assert np.isnan(opacities[[5, 40]]).all()
    assert opacities[7] < 1e-37 and opacities[8] == 1
    usual = np.delete(np.arange(count), [3, 5, 7, 8, 40])
    np.testing.assert_allclose(scales[usual], np.exp(log_scales[usual]), rtol=1e-6)
    np.testing.assert_allclose(opacities[usual], 1 / (1 + np.exp(-logits[usual])), rtol=1e-6)


@pytest.mark.parametrize("what", ["gradient", "loss", "picture"])
def test_a_step_that_is_not_finite_is_survived(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once, in the middle of a run: it is counted, and nothing of it is in the result."""
    original = trainer.l1_ssim
    calls = 0

    def spoil(image: torch.Tensor, *args: object, **kwargs: object) -> torch.Tensor:
        nonlocal calls
        calls += 1
        loss = original(image, *args, **kwargs)  # type: ignore[arg-type]
        if calls != 20:
            return loss
        if what == "gradient":  # a finite loss that leads to infinite gradients
            return loss + torch.sqrt(image * 0).sum()
        return loss * (torch.nan if what == "loss" else (image / 0).mean())

    monkeypatch.setattr(trainer, "l1_ssim", spoil)
    out = tmp_path / "out"
    out.mkdir()
    splat = train_splat(
        make_scene(tmp_path / "poses"),
        out,
        options=TrainOptions(steps=60, max_gaussians=600, long_side=64, sh_degree=1),
        compute=CPU,
        progress=silent(),
    )
    assert splat.summary["non_finite_steps"] == 1
    written = read_ply(splat.ply)
    for name in NAMES:
        assert np.isfinite(getattr(written, name)).all()
    assert splat.summary["psnr_db"] > 18


@pytest.mark.parametrize("channels", [3, 4])
def test_a_photo_as_floats_is_what_a_device_makes_of_it(channels: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (37, 23, channels), np.uint8)
    for background in (None, torch.tensor([0.3, 1.0, 0.0])):
        expected = dataset._over_background(torch.from_numpy(pixels), background)
        assert torch.equal(over_background(pixels, background), expected)
