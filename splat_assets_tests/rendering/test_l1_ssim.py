"""The fused photometric loss against torch in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from splat_assets.rendering.cpu.team import set_threads
from splat_assets.rendering.l1_ssim import _ssim_torch, l1_ssim, ssim


def images(height: int = 37, width: int = 53) -> tuple[Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(3)
    target = torch.rand(height, width, 3, generator=g)
    image = (target + 0.2 * torch.randn(height, width, 3, generator=g)).clamp(0, 1)
    mask = (torch.rand(height, width, generator=g) > 0.3).float()
    mask[: height // 3] = 0
    return image, target, mask


def dense_ssim(x: Tensor, y: Tensor, weights: Tensor) -> Tensor:
    """Wang et al. 2004, eq. 13–16, window by window (11 × 11 outer product, inside the image)."""
    position = torch.arange(11, dtype=torch.float64) - 5
    line = torch.exp(-position * position / (2 * 1.5 * 1.5))
    window = torch.outer(line, line) / torch.outer(line, line).sum()
    patches = [t.unfold(0, 11, 1).unfold(1, 11, 1) for t in (x, y)]  # [h, w, 3, 11, 11]

    def mean(t: Tensor) -> Tensor:
        return (t * window).sum(dim=(-1, -2))

    mx, my = mean(patches[0]), mean(patches[1])
    cx, cy = patches[0] - mx[..., None, None], patches[1] - my[..., None, None]
    value = (2 * mx * my + 0.01**2) * (2 * mean(cx * cy) + 0.03**2)
    value = value / (mx**2 + my**2 + 0.01**2) / (mean(cx * cx) + mean(cy * cy) + 0.03**2)
    weights = weights[5:-5, 5:-5, None].expand_as(value)
    return (value * weights).sum() / weights.sum()


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("lambda_ssim", [0.0, 0.2, 1.0])
@pytest.mark.parametrize("size", [(37, 53), (11, 11), (12, 64)])
def test_value_and_gradient(masked: bool, lambda_ssim: float, size: tuple[int, int]) -> None:
    image, target, mask = images(*size)
    if size == (11, 11):
        mask[:] = 1.0
    weights = mask if masked else torch.ones_like(mask)
    x = image.double().requires_grad_()
    xm, ym = x * weights.double()[..., None], target.double() * weights.double()[..., None]
    expected = (1 - lambda_ssim) * (xm - ym).abs().sum() / (3 * weights.sum())
    expected = expected + lambda_ssim * (1 - dense_ssim(xm, ym, weights.double()))
    (expected * 3).backward()
    for factor in (3.0, 1.0):
        ours = image.clone().requires_grad_()
        loss = l1_ssim(ours, target, mask if masked else None, lambda_ssim)
        (loss * factor).backward()
        assert ours.grad is not None and x.grad is not None
        assert abs(float(loss.detach()) - float(expected.detach())) < 1e-6
        error = (ours.grad.double() * 3 / factor - x.grad).norm() / x.grad.norm()
        assert error < 1e-6, error


def test_metric_and_the_torch_version_agree_with_the_definition() -> None:
    image, target, mask = images()
    plain = torch.ones_like(mask)
    for weights, given in ((plain, None), (mask, mask)):
        xm, ym = image * weights[..., None], target * weights[..., None]
        expected = float(dense_ssim(xm.double(), ym.double(), weights.double()))
        assert abs(float(ssim(image, target, given)) - expected) < 1e-6
        assert abs(float(_ssim_torch(xm, ym, given)) - expected) < 1e-5
    assert float(ssim(target, target)) == pytest.approx(1.0, abs=1e-6)


def test_an_empty_mask_is_finite_and_flat() -> None:
    image, target, mask = images()
    image.requires_grad_()
    loss = l1_ssim(image, target, torch.zeros_like(mask))
    loss.backward()
    assert float(loss.detach()) == 0 and image.grad is not None and not image.grad.any()


def test_threads_do_not_change_a_bit() -> None:
    results = []
    for threads in (1, 2, 3):
        set_threads(threads)
        image, target, mask = images(64, 96)
        image.requires_grad_()
        loss = l1_ssim(image, target, mask)
        loss.backward()
        results.append((loss.detach(), image.grad))
    for loss, grad in results[1:]:
        assert torch.equal(loss, results[0][0])
        assert grad is not None and torch.equal(grad, results[0][1])


def test_bad_images_are_named() -> None:
    image, target, _ = images()
    with pytest.raises(ValueError, match="11 × 11"):
        l1_ssim(image[:8], target[:8])
    with pytest.raises(ValueError, match="expected"):
        l1_ssim(image, target[:, :10])
    with pytest.raises(ValueError, match="float32"):
        l1_ssim(image.double(), target)
