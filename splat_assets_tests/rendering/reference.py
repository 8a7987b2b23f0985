"""The rasteriser written plainly: dense, float64, differentiated by torch. For small scenes only.

From the EWA splatting equations (Zwicker et al. 2001) and the blending rules of 3D Gaussian
Splatting with gsplat's thresholds; shares no code with the rasteriser under test.
"""

from __future__ import annotations

import torch
from torch import Tensor


def rotation_matrices(quats: Tensor) -> Tensor:
    w, x, y, z = torch.nn.functional.normalize(quats, dim=-1).unbind(-1)
    rows = [
        1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y),
        2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x),
        2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y),
    ]  # fmt: skip
    return torch.stack(rows, -1).reshape(*quats.shape[:-1], 3, 3)


def sh_basis(directions: Tensor, degree: int) -> Tensor:
    x, y, z = directions.unbind(-1)
    basis = [torch.full_like(x, 0.28209479177387814)]
    if degree > 0:
        basis += [-0.4886025119029199 * y, 0.4886025119029199 * z, -0.4886025119029199 * x]
    if degree > 1:
        basis += [
            1.0925484305920792 * x * y,
            -1.0925484305920792 * y * z,
            0.31539156525252005 * (3 * z * z - 1),
            -1.0925484305920792 * x * z,
            0.5462742152960396 * (x * x - y * y),
        ]
    if degree > 2:
        basis += [
            -0.5900435899266435 * y * (3 * x * x - y * y),
            2.890611442640554 * x * y * z,
            -0.4570457994644658 * y * (5 * z * z - 1),
            0.3731763325901154 * z * (5 * z * z - 3),
            -0.4570457994644658 * x * (5 * z * z - 1),
            1.445305721320277 * z * (x * x - y * y),
            -0.5900435899266435 * x * (x * x - 3 * y * y),
        ]
    return torch.stack(basis, -1)


def render(
    means: Tensor,
    quats: Tensor,
    scales: Tensor,
    opacities: Tensor,
    colors: Tensor,
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
    antialiased: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """(colour [C, H, W, 3], blended depth [C, H, W, 1], alpha [C, H, W, 1]) in float64.

    The means2d [N, 2] of each camera are leaves-in-passing: `render.means2d` lists them, with
    gradients retained.
    """
    outputs: list[tuple[Tensor, Tensor, Tensor]] = []
    render.means2d = []  # type: ignore[attr-defined]
    for index, (view, K) in enumerate(zip(viewmats, Ks, strict=True)):
        rotation, translation = view[:3, :3], view[:3, 3]
        centre = -torch.linalg.solve(rotation, translation)
        if sh_degree is None:
            rgb = colors
        else:
            directions = torch.nn.functional.normalize(means - centre, dim=-1)
            basis = sh_basis(directions, sh_degree)
            rgb = torch.einsum("nk,nkc->nc", basis, colors[:, : basis.shape[-1]])
            rgb = (rgb + 0.5).clamp_min(0)
        local = means @ rotation.T + translation
        depth = local[:, 2]
        keep = (depth > near_plane) & (depth < far_plane)
        order = torch.argsort(depth.detach())
        order = order[keep[order]]
        local, depth, rgb = local[order], depth[order], rgb[order]
        spread = rotation_matrices(quats[order]) * scales[order][:, None, :]
        spread = rotation @ spread
        fx, fy, cx, cy = K[0, 0], K[1, 1], K[0, 2], K[1, 2]
        x, y = local[:, 0] / depth, local[:, 1] / depth
        margin_x, margin_y = 0.3 * 0.5 * width / fx, 0.3 * 0.5 * height / fy
        tx = x.clamp(-cx / fx - margin_x, (width - cx) / fx + margin_x)
        ty = y.clamp(-cy / fy - margin_y, (height - cy) / fy + margin_y)
        zero = torch.zeros_like(tx)
        jacobian = torch.stack(
            [fx / depth, zero, -fx * tx / depth, zero, fy / depth, -fy * ty / depth], -1
        ).reshape(-1, 2, 3)
        flat = jacobian @ spread
        covariance = flat @ flat.transpose(1, 2)
        raw = torch.linalg.det(covariance)
        covariance = covariance + eps2d * torch.eye(2, dtype=means.dtype)
        opacity = opacities[order]
        if antialiased:
            opacity = opacity * (raw / torch.linalg.det(covariance)).clamp_min(1e-30).sqrt()
        means2d = torch.stack([fx * x + cx, fy * y + cy], -1)
        full = torch.zeros(len(means), 2, dtype=means.dtype)
        full[order] = means2d
        if full.requires_grad:
            full.retain_grad()
        render.means2d.append(full)  # type: ignore[attr-defined]
        conic = torch.linalg.inv(covariance)
        v, u = torch.meshgrid(
            torch.arange(height, dtype=means.dtype) + 0.5,
            torch.arange(width, dtype=means.dtype) + 0.5,
            indexing="ij",
        )
        pixels = torch.stack([u, v], -1).reshape(-1, 1, 2)
        offset = pixels - full[order]
        sigma = 0.5 * torch.einsum("pni,nij,pnj->pn", offset, conic, offset)
        alpha = (opacity * torch.exp(-sigma)).clamp_max(0.999)
        alpha = torch.where(alpha >= 1 / 255, alpha, torch.zeros_like(alpha))
        going = torch.cumprod(1 - alpha, dim=1) > 1e-4
        alpha = torch.where(going, alpha, torch.zeros_like(alpha))
        left = torch.cumprod(1 - alpha, dim=1)
        before = torch.cat([torch.ones_like(left[:, :1]), left[:, :-1]], dim=1)
        weight = alpha * before
        remaining = left[:, -1:] if len(order) else torch.ones(len(pixels), 1, dtype=means.dtype)
        image = weight @ rgb
        if backgrounds is not None:
            image = image + remaining * backgrounds[index]
        shape = (height, width, -1)
        outputs.append(
            (
                image.reshape(shape),
                (weight @ depth[:, None]).reshape(shape),
                (1 - remaining).reshape(shape),
            )
        )
    return tuple(torch.stack(part) for part in zip(*outputs, strict=True))  # type: ignore[return-value]
