"""The CUDA backend: `gsplat.rasterization` behind the signature of `rasterize`.

gsplat is imported, and thereby possibly compiled, only after torch has found a GPU.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from splat_assets.errors import UserError
from splat_assets.rendering.cuda_check import prepare_cuda_build

# From here on gsplat works on the list of visible Gaussians only, which costs an index but saves
# memory for what a camera does not see.
PACKED_FROM = 1_000_000


def rasterize_gsplat(
    means: Tensor,
    quats: Tensor,
    scales: Tensor,
    opacities: Tensor,
    colors: Tensor | tuple[Tensor, Tensor],
    viewmats: Tensor,
    Ks: Tensor,
    width: int,
    height: int,
    *,
    sh_degree: int | None,
    near_plane: float,
    far_plane: float,
    eps2d: float,
    backgrounds: Tensor | None,
    render_mode: str,
    rasterize_mode: str,
    absgrad: bool,
) -> tuple[Tensor, Tensor, dict[str, Any]]:
    """`rasterize` on CUDA; `render_mode` is RGB, D or RGB+D. Raises `UserError` without a GPU."""
    _require_cuda(means)
    prepare_cuda_build()
    from gsplat.rendering import rasterization

    cameras, count = len(viewmats), len(means)
    if count == 0:
        return _nothing(means, backgrounds, cameras, width, height, render_mode)
    if isinstance(colors, tuple):
        colors = torch.cat(colors, dim=1)
    packed = count * cameras >= PACKED_FROM
    renders, alphas, meta = rasterization(
        means, quats, scales, opacities, colors, viewmats, Ks, width, height,
        near_plane=near_plane, far_plane=far_plane, eps2d=eps2d, sh_degree=sh_degree,
        packed=packed, backgrounds=backgrounds if "RGB" in render_mode else None,
        render_mode=render_mode, absgrad=absgrad, rasterize_mode=rasterize_mode,
    )  # fmt: skip
    means2d = meta["means2d"]
    if means2d.requires_grad:
        means2d.retain_grad()
    index = (meta["camera_ids"], meta["gaussian_ids"]) if packed else None

    def dense(values: Tensor) -> Tensor:
        """[C, N, 2] from gsplat's layout, which lists visible Gaussians only when packed."""
        if index is None:
            return values
        full = values.new_zeros(cameras, count, 2)
        full[index] = values
        return full

    def gradients() -> tuple[Tensor | None, Tensor | None]:
        absolute = getattr(means2d, "absgrad", None)
        return (
            None if means2d.grad is None else dense(means2d.grad),
            None if absolute is None else dense(absolute),
        )

    from splat_assets.rendering.rasterize import MeanGradients

    radii = dense(meta["radii"])
    info = {
        "radii": radii,
        "visible": (radii > 0).all(dim=-1),
        "means2d": dense(means2d.detach()),
        "width": width,
        "height": height,
        "n_cameras": cameras,
        "means2d_grads": MeanGradients(gradients),
    }
    return renders, alphas, info


def _require_cuda(means: Tensor) -> None:
    """Before anything of gsplat is imported: where there is nvcc but no GPU, it would compile."""
    if not torch.cuda.is_available():
        raise UserError("The gsplat backend needs an NVIDIA GPU, and torch finds none; use numba.")
    if not means.is_cuda:
        raise UserError("The gsplat backend renders tensors on a CUDA device, not in main memory.")


def smoke_test(device: str) -> None:
    """Render one Gaussian and its gradient on `device`; raises whatever goes wrong."""
    means = torch.tensor([[0.0, 0.0, 2.0]], device=device, requires_grad=True)
    renders, alphas, info = rasterize_gsplat(
        means,
        torch.tensor([[1.0, 0.0, 0.0, 0.0]], device=device),
        torch.full((1, 3), 0.3, device=device),
        torch.tensor([0.9], device=device),
        torch.tensor([[1.0, 0.5, 0.25]], device=device),
        torch.eye(4, device=device)[None],
        torch.tensor([[[20.0, 0.0, 8.0], [0.0, 20.0, 8.0], [0.0, 0.0, 1.0]]], device=device),
        16,
        16,
        sh_degree=None,
        near_plane=0.01,
        far_plane=1e10,
        eps2d=0.3,
        backgrounds=None,
        render_mode="RGB",
        rasterize_mode="classic",
        absgrad=True,
    )
    (renders[0, :8].sum() + alphas.sum()).backward()
    torch.cuda.synchronize(device)
    peak = float(alphas.detach().max())
    grad = means.grad
    absolute = info["means2d_grads"].absolute
    if not 0.8 < peak <= 0.9 or grad is None or not grad.isfinite().all() or absolute is None:
        raise RuntimeError(f"one Gaussian renders wrongly: alpha {peak}, gradient {grad}")


def _nothing(
    means: Tensor,
    backgrounds: Tensor | None,
    cameras: int,
    width: int,
    height: int,
    render_mode: str,
) -> tuple[Tensor, Tensor, dict[str, Any]]:
    """No Gaussians: gsplat's kernels cannot be launched on an empty grid."""
    from splat_assets.rendering.rasterize import MeanGradients

    channels = 3 * ("RGB" in render_mode) + ("D" in render_mode.split("+"))
    renders = means.new_zeros(cameras, height, width, channels)
    if backgrounds is not None and "RGB" in render_mode:
        colour = backgrounds[:, None, None, :].expand(-1, height, width, -1)
        renders = torch.cat([colour, renders[..., 3:]], dim=-1)
    # keeps backward() possible
    renders = renders + means.sum()
    info = {
        "radii": means.new_zeros(cameras, 0, 2, dtype=torch.int32),
        "visible": means.new_zeros(cameras, 0, dtype=torch.bool),
        "means2d": means.new_zeros(cameras, 0, 2),
        "width": width,
        "height": height,
        "n_cameras": cameras,
        "means2d_grads": MeanGradients(),
    }
    return renders, means.new_zeros(cameras, height, width, 1), info
