"""The CPU rasteriser as one `torch.autograd.Function`."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from splat_assets.rendering.cpu.draw import Frame, Gradients, Splats, draw, draw_backward
from splat_assets.rendering.cpu.projection import ROW
from splat_assets.rendering.rasterize import MeanGradients


def rasterize_numba(
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
    """`rasterize` on the CPU; `render_mode` is RGB, D or RGB+D."""
    frame = Frame(
        int(width), int(height), float(near_plane), float(far_plane), float(eps2d),
        antialiased=rasterize_mode == "antialiased",
        colour="RGB" in render_mode,
        depth="D" in render_mode.split("+"),
    )  # fmt: skip
    info: dict[str, Any] = {
        "width": width,
        "height": height,
        "n_cameras": len(viewmats),
        "means2d_grads": MeanGradients(),
    }
    parts = colors if isinstance(colors, tuple) else (colors,)
    degree = -1 if sh_degree is None else sh_degree
    renders, alphas = _Rasterize.apply(
        means, quats, scales, opacities, viewmats, backgrounds, Ks, frame, degree, bool(absgrad),
        info, *parts,
    )  # fmt: skip
    return renders, alphas, info


class _Rasterize(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        means: Tensor,
        quats: Tensor,
        scales: Tensor,
        opacities: Tensor,
        viewmats: Tensor,
        backgrounds: Tensor | None,
        Ks: Tensor,
        frame: Frame,
        degree: int,
        absgrad: bool,
        info: dict[str, Any],
        *colors: Tensor,
    ) -> tuple[Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        save = any(ctx.needs_input_grad)
        splats = _splats(means, quats, scales, opacities, colors, degree)
        views, intrinsics = viewmats.detach().double().numpy(), Ks.detach().double().numpy()
        cameras = len(views)
        renders = torch.empty(cameras, frame.height, frame.width, frame.channels)
        alphas = torch.empty(cameras, frame.height, frame.width, 1)
        behind = np.zeros((cameras, 3), np.float32)
        if backgrounds is not None and frame.colour:
            behind[:] = backgrounds.detach().numpy()
        drawn = [
            draw(
                splats, views[c], intrinsics[c], behind[c], frame,
                renders[c].view(-1).numpy(), alphas[c].view(-1).numpy(), save=save,
            )
            for c in range(cameras)
        ]  # fmt: skip
        rows = [torch.from_numpy(one.rows.reshape(-1, ROW)) for one in drawn]
        info["radii"] = _stack([torch.from_numpy(one.radii) for one in drawn])
        info["visible"] = info["radii"][..., 0] > 0
        info["means2d"] = _stack([row[:, :2] for row in rows])
        if save:
            ctx.save_for_backward(means, quats, scales, opacities, viewmats, *colors)
            ctx.drawn, ctx.frame, ctx.degree, ctx.absgrad = drawn, frame, degree, absgrad
            ctx.gradients = info["means2d_grads"]
        return renders, alphas

    @staticmethod
    def backward(ctx: Any, v_renders: Tensor | None, v_alphas: Tensor | None) -> Any:
        means, quats, scales, opacities, viewmats, *colors = ctx.saved_tensors
        frame: Frame = ctx.frame
        splats = _splats(means, quats, scales, opacities, colors, ctx.degree)
        views = viewmats.detach().double().numpy()
        cameras = len(views)
        sums = Gradients.empty(splats, cameras)
        if v_renders is None:
            v_renders = torch.zeros(cameras, frame.height, frame.width, frame.channels)
        v_renders = v_renders.contiguous()
        v_alphas = None if v_alphas is None else v_alphas.contiguous()
        for c in range(cameras):
            draw_backward(
                splats, views[c], frame, ctx.drawn[c], v_renders[c].view(-1).numpy(),
                None if v_alphas is None else v_alphas[c].view(-1).numpy(), ctx.absgrad, sums, c,
            )  # fmt: skip
        means2d = torch.from_numpy(sums.means2d)
        ctx.gradients.fill(means2d[..., :2], means2d[..., 2:] if ctx.absgrad else None)
        v_backgrounds = None
        if ctx.needs_input_grad[5]:
            v_backgrounds = torch.zeros(cameras, 3)
            for c in range(cameras if frame.colour else 0):
                left = 1 - torch.from_numpy(ctx.drawn[c].alphas)
                v_backgrounds[c] = left @ v_renders[c, ..., :3].reshape(-1, 3)
        return (
            torch.from_numpy(sums.means),
            torch.from_numpy(sums.quats),
            torch.from_numpy(sums.scales),
            torch.from_numpy(sums.opacities),
            torch.from_numpy(sums.viewmats).to(viewmats.dtype),
            v_backgrounds,
            *(None,) * 5,
            *(torch.from_numpy(part) for part in sums.colors),
        )


def _splats(
    means: Tensor,
    quats: Tensor,
    scales: Tensor,
    opacities: Tensor,
    colors: tuple[Tensor, ...] | list[Tensor],
    degree: int,
) -> Splats:
    """The memory of the tensors as arrays; a copy only of what is not contiguous."""
    parameters = (means, quats, scales, opacities)
    arrays = [tensor.detach().contiguous().numpy() for tensor in parameters]
    parts = tuple(tensor.detach().contiguous().numpy() for tensor in colors)
    return Splats(arrays[0], arrays[1], arrays[2], arrays[3], parts, degree)


def _stack(tensors: list[Tensor]) -> Tensor:
    """[C, …], without a copy for one camera."""
    return tensors[0][None] if len(tensors) == 1 else torch.stack(tensors)
