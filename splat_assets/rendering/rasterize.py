"""One differentiable rasteriser of 3D Gaussians, on the CPU (numba) or on CUDA (gsplat).

EWA splatting (Zwicker et al. 2001) as 3D Gaussian Splatting uses it (Kerbl et al. 2023), with the
call, the conventions and the thresholds of `gsplat.rasterization`, so that a model trained on one
backend looks the same on the other and in any viewer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor

from splat_assets.errors import UserError

RenderMode = Literal["RGB", "D", "ED", "RGB+D", "RGB+ED"]
RasterizeMode = Literal["classic", "antialiased"]
Backend = Literal["auto", "numba", "gsplat"]

MAX_SH_DEGREE = 3


def rasterize(
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
    sh_degree: int | None = None,
    near_plane: float = 0.01,
    far_plane: float = 1e10,
    eps2d: float = 0.3,
    backgrounds: Tensor | None = None,
    render_mode: RenderMode = "RGB",
    rasterize_mode: RasterizeMode = "classic",
    absgrad: bool = False,
    backend: Backend = "auto",
) -> tuple[Tensor, Tensor, dict[str, Any]]:
    """Render N Gaussians into C cameras.

    Args (float32, all on one device):
        means: [N, 3] centres in world space.
        quats: [N, 4] rotations w, x, y, z, of any length > 0.
        scales: [N, 3] standard deviations (activated, > 0).
        opacities: [N] in 0..1 (activated).
        colors: [N, 3] colours when `sh_degree` is None; otherwise SH coefficients [N, K, 3] with
            K >= (sh_degree + 1)², or the pair (sh0 [N, 1, 3], shN [N, K - 1, 3]), which saves the
            concatenation.
        viewmats: [C, 4, 4] world → camera, OpenCV axes (x right, y down, z forward).
        Ks: [C, 3, 3] pinhole matrices; (0.5, 0.5) is the centre of the top-left pixel. No gradient.
        near_plane, far_plane: Gaussians whose centre is not strictly between these depths vanish.
        eps2d: variance in px² added to the projected covariance.
        backgrounds: [C, 3] colour behind everything; black when None.
        render_mode: "RGB"; "D" the blended depth Σ w z; "ED" the same divided by alpha; or both.
        rasterize_mode: "antialiased" lowers opacities by what `eps2d` added (Mip-Splatting).
        absgrad: also sum the absolute per-pixel gradients of the 2D means (AbsGS).
        backend: "auto" takes gsplat for CUDA tensors and numba for CPU tensors.

    Returns:
        renders [C, height, width, X] (X = 3, 1 or 4: depth comes last), alphas
        [C, height, width, 1], and `info`:

        - "radii" [C, N, 2] int32: half extents in pixels where alpha >= 1/255; 0 when not visible;
        - "visible" [C, N] bool; "means2d" [C, N, 2] in pixels (undefined where not visible);
        - "width", "height", "n_cameras";
        - "means2d_grads": a `MeanGradients`, filled by the backward pass, for densification.

    Gradients flow to means, quats, scales, opacities, colors, viewmats and backgrounds. On the CPU
    they are the same bits whatever the number of threads.
    """
    _check(means, quats, scales, opacities, colors, viewmats, Ks, sh_degree)
    if backend == "auto":
        backend = "gsplat" if means.is_cuda else "numba"
    arguments: dict[str, Any] = {
        "sh_degree": sh_degree,
        "near_plane": near_plane,
        "far_plane": far_plane,
        "eps2d": eps2d,
        "backgrounds": backgrounds,
        "rasterize_mode": rasterize_mode,
        "absgrad": absgrad,
    }
    if backend == "gsplat":
        from splat_assets.rendering.gsplat_backend import rasterize_gsplat as run
    elif means.is_cuda:
        raise UserError("The numba backend renders tensors in main memory, not on a CUDA device.")
    else:
        from splat_assets.rendering.cpu.function import rasterize_numba as run
    accumulated: RenderMode = render_mode.replace("ED", "D")  # type: ignore[assignment]
    renders, alphas, info = run(
        means, quats, scales, opacities, colors, viewmats, Ks, width, height,
        render_mode=accumulated, **arguments,
    )  # fmt: skip
    if render_mode != accumulated:
        depth = renders[..., -1:] / alphas.clamp(min=1e-10)
        renders = torch.cat([renders[..., :-1], depth], dim=-1)
    return renders, alphas, info


class MeanGradients:
    """Gradients of the loss with respect to the projected means, in units of 1/pixel.

    Both are None until a backward pass went through the render this belongs to.

    Attributes:
        signed: [C, N, 2], zero where a Gaussian was not visible.
        absolute: [C, N, 2] sums of absolute per-pixel gradients; None unless `absgrad` was set.
    """

    def __init__(
        self, source: Callable[[], tuple[Tensor | None, Tensor | None]] = lambda: (None, None)
    ) -> None:
        self._source = source

    def fill(self, signed: Tensor, absolute: Tensor | None) -> None:
        """For a backend whose backward pass hands them over; otherwise `source` is asked."""
        self._source = lambda: (signed, absolute)

    @property
    def signed(self) -> Tensor | None:
        return self._source()[0]

    @property
    def absolute(self) -> Tensor | None:
        return self._source()[1]


def _check(
    means: Tensor,
    quats: Tensor,
    scales: Tensor,
    opacities: Tensor,
    colors: Tensor | tuple[Tensor, Tensor],
    viewmats: Tensor,
    Ks: Tensor,
    sh_degree: int | None,
) -> None:
    """Programming errors get a `ValueError` that names the argument."""
    count, cameras = len(means), len(viewmats)
    expected: list[tuple[str, Tensor, tuple[int, ...]]] = [
        ("means", means, (count, 3)),
        ("quats", quats, (count, 4)),
        ("scales", scales, (count, 3)),
        ("opacities", opacities, (count,)),
        ("viewmats", viewmats, (cameras, 4, 4)),
        ("Ks", Ks, (cameras, 3, 3)),
    ]
    if sh_degree is None:
        if isinstance(colors, tuple):
            raise ValueError("colors is a pair of SH coefficients, but sh_degree is None")
        expected.append(("colors", colors, (count, 3)))
    else:
        if not 0 <= sh_degree <= MAX_SH_DEGREE:
            raise ValueError(f"sh_degree is {sh_degree}; 0 to {MAX_SH_DEGREE} are possible")
        parts = colors if isinstance(colors, tuple) else (colors,)
        if isinstance(colors, tuple):
            expected.append(("colors[0]", colors[0], (count, 1, 3)))
        coefficients = sum(part.shape[1] for part in parts)
        expected.append(("colors", parts[-1], (count, parts[-1].shape[1], 3)))
        if coefficients < (sh_degree + 1) ** 2:
            raise ValueError(f"colors has {coefficients} SH coefficients, too few for {sh_degree=}")
    for name, tensor, shape in expected:
        if tuple(tensor.shape) != shape:
            raise ValueError(f"{name} has shape {tuple(tensor.shape)}, expected {shape}")
        if tensor.dtype != torch.float32:
            raise ValueError(f"{name} is {tensor.dtype}, expected float32")
