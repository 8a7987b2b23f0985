"""The photometric loss of 3D Gaussian Splatting, (1 - λ) L1 + λ (1 - SSIM), and SSIM as a metric.

SSIM is that of Wang et al. 2004: 11 × 11 Gaussian windows of sigma 1.5 that lie wholly inside the
image, C1 = 0.01², C2 = 0.03² for values in 0..1. On the CPU value and gradient come from one pair
of numba kernels; CUDA tensors go through torch (or `fused_ssim`, when it is importable).
"""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import torch
from torch import Tensor

from splat_assets.rendering.cpu import windows
from splat_assets.rendering.cpu.buffers import take, zeros
from splat_assets.rendering.cpu.team import team

_TAPS = windows.window_taps()
_LANES = np.arange(16, dtype=np.float32)
_EMPTY = np.empty(0, np.float32)
_workspace = threading.local()


def l1_ssim(
    image: Tensor,
    target: Tensor,
    mask: Tensor | None = None,
    lambda_ssim: float = 0.2,
) -> Tensor:
    """(1 - λ) · mean |image - target| + λ · (1 - SSIM), a scalar.

    Args:
        image: [H, W, 3] float32, values around 0..1, at least 11 pixels each way if λ > 0.
        target: [H, W, 3] float32; no gradient.
        mask: [H, W] float weights in 0..1, or bool; where 0 the pixel does not count. Both images
            are multiplied by it before SSIM, and a window counts as much as its centre pixel.
    """
    if image.is_cuda:
        return _l1_ssim_torch(image, target, mask, lambda_ssim)
    if mask is not None:
        weight = mask.to(image.dtype)
        return _L1SSIM.apply(
            image * weight[..., None], target * weight[..., None], weight, lambda_ssim
        )
    return _L1SSIM.apply(image, target, None, lambda_ssim)


def ssim(image: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean SSIM over windows and channels of two images [H, W, 3] in 0..1: a scalar, on the CPU
    without gradient. Masks as in `l1_ssim`."""
    _check(image, target, True)
    if mask is not None:
        mask = mask.to(image.dtype)
        image, target = image * mask[..., None], target * mask[..., None]
    if image.is_cuda:
        return _ssim_torch(image, target, mask)
    value, _ = _ssim(_flat(image), _flat(target), _numpy(mask), image.shape, False)
    return torch.tensor(value, dtype=torch.float32)


class _L1SSIM(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        image: Tensor,
        target: Tensor,
        mask: Tensor | None,
        lambda_ssim: float,
    ) -> Tensor:
        _check(image, target, lambda_ssim > 0)
        height, width = image.shape[:2]
        x, y = _flat(image), _flat(target)
        similarity, planes = 0.0, _EMPTY
        weights = _numpy(mask)
        if lambda_ssim > 0:
            similarity, planes = _ssim(x, y, weights, image.shape, True)
        pixels = height * width if weights is None else float(weights.sum(dtype=np.float64))
        scale_l1 = (1 - lambda_ssim) / max(3 * pixels, 1.0)
        gradient = torch.from_numpy(take((height, width, 3), np.float32))
        sums = np.empty(height, np.float64)
        team().run(
            -(-height // windows.ROWS), windows.l1_ssim_gradient, _TAPS, x, y, height, width,
            planes, scale_l1, -lambda_ssim, gradient.view(-1).numpy(), _LANES,
            _scratches(width), sums,
        )  # fmt: skip
        ctx.save_for_backward(gradient)
        loss = scale_l1 * float(sums.sum())
        if lambda_ssim > 0:
            loss += lambda_ssim * (1 - similarity)
        return torch.tensor(loss, dtype=torch.float32)

    @staticmethod
    def backward(ctx: Any, v_loss: Tensor) -> Any:
        (gradient,) = ctx.saved_tensors
        # the end of most graphs: nothing to scale
        return gradient if float(v_loss) == 1.0 else gradient * v_loss, None, None, None


def _ssim(
    x: np.ndarray,
    y: np.ndarray,
    mask: np.ndarray | None,
    shape: torch.Size,
    with_planes: bool,
) -> tuple[float, np.ndarray]:
    """Mean SSIM and, if asked for, its derivatives by window (zero margins around them)."""
    height, width = shape[:2]
    inner = 3 * (width - 10)
    stride = (inner + 15) // 16 * 16
    if mask is None:
        weights, step = np.zeros(stride, np.float32), 0
        weights[:inner] = 1.0 / (inner * (height - 10))
    else:
        centres = mask[5:-5, 5:-5]
        weights = np.zeros((height - 10, stride), np.float32)
        weights[:, :inner] = np.repeat(centres, 3, axis=1)
        weights /= max(3 * float(centres.sum(dtype=np.float64)), 1e-12)
        weights, step = weights.reshape(-1), stride
    planes = _planes(height, width) if with_planes else _EMPTY
    sums = np.empty(height - 10, np.float64)
    team().run(
        -(-(height - 10) // windows.ROWS), windows.ssim_map, _TAPS, x, y, height, width,
        weights, step, planes, _scratches(width), sums,
    )  # fmt: skip
    # without a single window that counts nothing differs
    return float(sums.sum()) if weights.any() else 1.0, planes


def _planes(height: int, width: int) -> np.ndarray:
    """Three planes whose margins are zero and stay so; kept per Python thread and size."""
    kept = getattr(_workspace, "planes", {})
    if (height, width) not in kept:
        kept = {(height, width): np.zeros(3 * (height + 10) * (3 * width + 46), np.float32)}
        _workspace.planes = kept
    return kept[height, width]


def _scratches(width: int) -> np.ndarray:
    size = (3 * width + 47) // 16 * 16
    return zeros((team().threads, 4 * size + 64), np.float32)


def _flat(image: Tensor) -> np.ndarray:
    return image.detach().contiguous().view(-1).numpy()


def _numpy(mask: Tensor | None) -> np.ndarray | None:
    return None if mask is None else mask.detach().contiguous().numpy()


def _check(image: Tensor, target: Tensor, windows_needed: bool) -> None:
    if image.shape != target.shape or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(
            f"images are {tuple(image.shape)} and {tuple(target.shape)}, expected [H, W, 3] twice"
        )
    if image.dtype != torch.float32 or target.dtype != torch.float32:
        raise ValueError(f"images are {image.dtype} and {target.dtype}, expected float32")
    if windows_needed and min(image.shape[:2]) < windows.TAPS:
        raise ValueError(f"SSIM needs 11 × 11 pixels, the image is {tuple(image.shape[:2])}")


# ---------------------------------------------------------------- CUDA


def _l1_ssim_torch(
    image: Tensor, target: Tensor, mask: Tensor | None, lambda_ssim: float
) -> Tensor:
    _check(image, target, lambda_ssim > 0)
    if mask is not None:
        mask = mask.to(image.dtype)
        image, target = image * mask[..., None], target * mask[..., None]
    pixels = image.shape[0] * image.shape[1] if mask is None else mask.sum()
    loss = (1 - lambda_ssim) * (image - target).abs().sum() / (3 * pixels)
    if lambda_ssim > 0:
        loss = loss + lambda_ssim * (1 - _ssim_torch(image, target, mask))
    return loss


def _ssim_torch(image: Tensor, target: Tensor, mask: Tensor | None) -> Tensor:
    """The same on any device, differentiable; images already times the mask."""
    x, y = image.permute(2, 0, 1)[None], target.permute(2, 0, 1)[None]
    if mask is None and image.is_cuda:
        try:
            from fused_ssim import fused_ssim
        except ImportError:
            pass
        else:
            return fused_ssim(x.contiguous(), y.contiguous(), padding="valid")
    taps = torch.from_numpy(_TAPS).to(image)
    stack = torch.cat([x, y, x * x, y * y, x * y], dim=1)
    count = stack.shape[1]
    stack = torch.conv2d(stack, taps.view(1, 1, -1, 1).expand(count, 1, -1, 1), groups=count)
    stack = torch.conv2d(stack, taps.view(1, 1, 1, -1).expand(count, 1, 1, -1), groups=count)
    mx, my, xx, yy, xy = stack.split(3, dim=1)
    numerator = (2 * mx * my + 1e-4) * (2 * (xy - mx * my) + 9e-4)
    denominator = (mx * mx + my * my + 1e-4) * (xx - mx * mx + yy - my * my + 9e-4)
    values = numerator / denominator
    if mask is None:
        return values.mean()
    weights = mask[5:-5, 5:-5]
    return (values * weights).sum() / (3 * weights.sum()).clamp_min(1e-12)
