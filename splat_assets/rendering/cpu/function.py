"""The CPU rasteriser as one `torch.autograd.Function`: kernels in order, buffers in between."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from splat_assets.rendering.cpu import blending, projection, tiles
from splat_assets.rendering.cpu.team import team
from splat_assets.rendering.rasterize import MeanGradients

_TABLES = blending.lane_tables()
_CHUNK = 4096  # Gaussians of the depth order that are binned together
_MAX_CHUNKS = 64


@dataclass(frozen=True)
class Shading:
    """Colours as the kernels take them: flat arrays; coefficient c of Gaussian i at i·stride + c."""

    sh0: np.ndarray
    stride0: int
    shN: np.ndarray
    strideN: int
    offsetN: int
    degree: int  # -1: sh0 holds the colours themselves

    @staticmethod
    def of(parts: tuple[np.ndarray, ...], degree: int | None) -> Shading:
        """From one array [N, 3] or [N, K, 3], or from the pair sh0 [N, 1, 3], shN [N, K - 1, 3]."""
        flat = [part.reshape(-1) for part in parts]
        widths = [int(np.prod(part.shape[1:])) for part in parts]
        if degree is None:
            return Shading(flat[0], 3, flat[0], 3, 0, -1)
        offset = 3 if len(parts) == 1 else 0
        return Shading(flat[0], widths[0], flat[-1], widths[-1], offset, degree)

    def arguments(self) -> tuple[Any, ...]:
        return self.sh0, self.stride0, self.shN, self.strideN, self.offsetN, self.degree


@dataclass(frozen=True)
class Frame:
    """What a render asks for besides Gaussians and cameras."""

    width: int
    height: int
    near: float = 0.01
    far: float = 1e10
    eps2d: float = 0.3
    antialiased: bool = False
    colour: bool = True
    depth: bool = False

    @property
    def channels(self) -> int:
        return 3 * self.colour + self.depth

    @property
    def colour_at(self) -> int:
        return 0 if self.colour else -1

    @property
    def depth_at(self) -> int:
        return self.channels - 1 if self.depth else -1


@dataclass(frozen=True)
class Drawn:
    """One camera's buffers: what is shown, and what the backward pass walks along."""

    camera: np.ndarray  # [26] float64, see projection.py
    rows: np.ndarray  # [N * 16] float32
    radii: np.ndarray  # [N, 2] int32
    offsets: np.ndarray  # [N + 1] int64: first slot of every Gaussian
    starts: np.ndarray  # [tiles + 1] int64: first entry of every tile
    entries: np.ndarray  # [entries] int32: Gaussian
    slots: np.ndarray  # [entries] int32
    masks: np.ndarray  # [entries] uint64: blocks it changed
    image: np.ndarray  # [H * W * channels] float32
    alphas: np.ndarray  # [H * W] float32


def draw(
    means: np.ndarray,
    quats: np.ndarray,
    scales: np.ndarray,
    opacities: np.ndarray,
    shading: Shading,
    viewmat: np.ndarray,
    K: np.ndarray,
    background: np.ndarray,
    frame: Frame,
    *,
    save: bool,
    image: np.ndarray | None = None,
    alphas: np.ndarray | None = None,
) -> Drawn:
    """Render one camera. Arrays are C-contiguous float32, `viewmat` and `K` float64.

    `image` and `alphas` (flat) are filled when given. Without `save` the result cannot go back.
    """
    count, crew = len(means), team()
    width, height = frame.width, frame.height
    camera = _camera(viewmat, K, frame)
    rows = _aligned(count * projection.ROW)
    keys = np.empty(count, np.uint64)
    counts = np.empty(count, np.int64)
    radii = np.empty((count, 2), np.int32)
    crew.run(
        -(-count // projection.TASK), projection.project,
        means, quats, scales, opacities, *shading.arguments(), camera, width, height,
        frame.antialiased, rows, keys, counts, radii,
    )  # fmt: skip
    keys.sort()
    keys = keys[: int(np.searchsorted(keys, projection.HIDDEN))]
    offsets = np.zeros(count + 1, np.int64)
    np.cumsum(counts, out=offsets[1:])

    side = projection.TILE
    tile_count = -(-width // side) * -(-height // side)
    chunks = max(1, min(_MAX_CHUNKS, len(keys) // _CHUNK))
    histogram = np.empty((chunks, tile_count), np.int64)
    starts = np.empty(tile_count + 1, np.int64)
    total = int(offsets[-1])
    entries = np.empty(total, np.int32)
    slots = np.empty(total, np.int32)
    crew.run(chunks, tiles.count_tiles, keys, chunks, rows, width, height, histogram)
    tiles.place_chunks(histogram, starts)
    crew.run(
        chunks, tiles.fill_tiles, keys, chunks, rows, width, height, histogram, offsets, entries,
        slots,
    )  # fmt: skip

    masks = np.empty(total if save else 0, np.uint64)
    if image is None:
        image = np.empty(height * width * frame.channels, np.float32)
    if alphas is None:
        alphas = np.empty(height * width, np.float32)
    scratches = _scratches(crew.threads)
    crew.run(
        tile_count, blending.blend, rows, entries, starts, masks, save, _TABLES, scratches,
        "thread", width, height, background, image, frame.channels, frame.colour_at,
        frame.depth_at, alphas,
    )  # fmt: skip
    return Drawn(camera, rows, radii, offsets, starts, entries, slots, masks, image, alphas)


@dataclass(frozen=True)
class Gradients:
    """Sums over cameras, shaped like the parameters; what belongs to a camera is kept apart."""

    means: np.ndarray
    quats: np.ndarray
    scales: np.ndarray
    opacities: np.ndarray
    colors: tuple[np.ndarray, ...]
    viewmats: np.ndarray  # [C, 4, 4] float64
    means2d: np.ndarray  # [C, N, 4]: signed, absolute


def draw_backward(
    index: int,
    drawn: Drawn,
    means: np.ndarray,
    quats: np.ndarray,
    scales: np.ndarray,
    opacities: np.ndarray,
    shading: Shading,
    viewmat: np.ndarray,
    frame: Frame,
    v_image: np.ndarray,
    v_alphas: np.ndarray | None,
    absgrad: bool,
    into: Gradients,
) -> None:
    """Carry the gradients of one camera's image (flat) back and add them to `into`."""
    crew, width, height = team(), frame.width, frame.height
    sums = _aligned(len(drawn.entries) * projection.ROW)
    crew.run(
        len(drawn.starts) - 1, blending.blend_backward, drawn.rows, drawn.entries, drawn.slots,
        drawn.starts, drawn.masks, _TABLES, _scratches(crew.threads), "thread", width, height,
        drawn.image, frame.channels, frame.colour_at, frame.depth_at, drawn.alphas, v_image,
        drawn.alphas if v_alphas is None else v_alphas, v_alphas is not None, absgrad, sums,
    )  # fmt: skip
    tasks = -(-len(means) // projection.TASK)
    v_camera = np.zeros((tasks, 15), np.float64)
    v_sh = [part.reshape(-1) for part in into.colors]
    crew.run(
        tasks, projection.project_backward, means, quats, scales, opacities, *shading.arguments(),
        drawn.camera, frame.antialiased, drawn.rows, drawn.offsets, sums, absgrad,
        into.means, into.quats, into.scales, into.opacities, v_sh[0], v_sh[-1], v_camera,
        into.means2d[index],
    )  # fmt: skip
    summed = v_camera.sum(axis=0)
    v_view = into.viewmats[index]
    v_view[:3, :3] += summed[:9].reshape(3, 3)
    v_view[:3, 3] += summed[9:12]
    # the centre is -W⁻¹ t
    turned = np.linalg.inv(viewmat[:3, :3]).T @ summed[12:]
    v_view[:3, :3] -= np.outer(turned, drawn.camera[12:15])
    v_view[:3, 3] -= turned


class _Rasterize(torch.autograd.Function):
    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any,
        means: Tensor,
        quats: Tensor,
        scales: Tensor,
        opacities: Tensor,
        viewmats: Tensor,
        backgrounds: Tensor | None,
        Ks: Tensor,
        frame: Frame,
        degree: int | None,
        absgrad: bool,
        info: dict[str, Any],
        *colors: Tensor,
    ) -> tuple[Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        save = any(ctx.needs_input_grad)
        arrays = [t.detach().contiguous().numpy() for t in (means, quats, scales, opacities)]
        parts = tuple(c.detach().contiguous().numpy() for c in colors)
        shading = Shading.of(parts, degree)
        views = viewmats.detach().double().numpy()
        intrinsics = Ks.detach().double().numpy()
        cameras, count = len(views), len(means)
        renders = torch.empty(cameras, frame.height, frame.width, frame.channels)
        alphas = torch.empty(cameras, frame.height, frame.width, 1)
        behind = np.zeros((cameras, 3), np.float32)
        if backgrounds is not None and frame.colour:
            behind[:] = backgrounds.detach().numpy()
        drawn = [
            draw(
                *arrays, shading, views[c], intrinsics[c], behind[c], frame, save=save,
                image=renders[c].view(-1).numpy(), alphas=alphas[c].view(-1).numpy(),
            )
            for c in range(cameras)
        ]  # fmt: skip
        rows = [torch.from_numpy(one.rows.reshape(count, projection.ROW)) for one in drawn]
        radii = [torch.from_numpy(one.radii) for one in drawn]
        info["radii"] = _stack(radii)
        info["visible"] = info["radii"][..., 0] > 0
        info["means2d"] = _stack([row[:, :2] for row in rows])
        if save:
            ctx.save_for_backward(means, quats, scales, opacities, viewmats, *colors)
            ctx.drawn, ctx.frame, ctx.degree, ctx.absgrad = drawn, frame, degree, absgrad
            ctx.has_background = backgrounds is not None
            ctx.gradients = info["means2d_grads"]
        return renders, alphas

    @staticmethod
    def backward(ctx: Any, v_renders: Tensor | None, v_alphas: Tensor | None) -> Any:  # type: ignore[override]
        means, quats, scales, opacities, viewmats, *colors = ctx.saved_tensors
        frame: Frame = ctx.frame
        arrays = [t.detach().contiguous().numpy() for t in (means, quats, scales, opacities)]
        parts = tuple(c.detach().contiguous().numpy() for c in colors)
        shading = Shading.of(parts, ctx.degree)
        views = viewmats.detach().double().numpy()
        cameras, count = len(views), len(means)
        sums = Gradients(
            *(np.zeros_like(a) for a in arrays),
            colors=tuple(np.zeros_like(part) for part in parts),
            viewmats=np.zeros((cameras, 4, 4)),
            means2d=np.zeros((cameras, count, 4), np.float32),
        )
        if v_renders is None:
            v_renders = torch.zeros(cameras, frame.height, frame.width, frame.channels)
        v_renders = v_renders.contiguous()
        for c in range(cameras):
            draw_backward(
                c, ctx.drawn[c], *arrays, shading, views[c], frame,
                v_renders[c].view(-1).numpy(),
                None if v_alphas is None else v_alphas[c].contiguous().view(-1).numpy(),
                ctx.absgrad, sums,
            )  # fmt: skip
        means2d = torch.from_numpy(sums.means2d)
        ctx.gradients.signed = means2d[..., :2]
        ctx.gradients.absolute = means2d[..., 2:] if ctx.absgrad else None
        v_backgrounds = None
        if ctx.needs_input_grad[5]:
            behind = [
                (v_renders[c, ..., :3] * (1 - torch.from_numpy(ctx.drawn[c].alphas)).view(
                    frame.height, frame.width, 1)).sum(dim=(0, 1))
                if frame.colour else torch.zeros(3)
                for c in range(cameras)
            ]  # fmt: skip
            v_backgrounds = torch.stack(behind)
        v_viewmats = torch.from_numpy(sums.viewmats).to(viewmats.dtype)
        v_colors = tuple(torch.from_numpy(v) for v in sums.colors)
        v_parameters = tuple(
            torch.from_numpy(v) for v in (sums.means, sums.quats, sums.scales, sums.opacities)
        )
        return *v_parameters, v_viewmats, v_backgrounds, None, None, None, None, None, *v_colors


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
    renders, alphas = _Rasterize.apply(
        means, quats, scales, opacities, viewmats, backgrounds, Ks, frame, sh_degree,
        bool(absgrad), info, *parts,
    )  # fmt: skip
    return renders, alphas, info


def _camera(viewmat: np.ndarray, K: np.ndarray, frame: Frame) -> np.ndarray:
    """The camera record of the kernels (layout in projection.py), float64."""
    fx, fy, cx, cy = K[0, 0], K[1, 1], K[0, 2], K[1, 2]
    # gsplat linearises no farther out than 0.3 half-widths beyond the border
    margin_x, margin_y = 0.15 * frame.width / fx, 0.15 * frame.height / fy
    centre = -np.linalg.solve(viewmat[:3, :3], viewmat[:3, 3])
    return np.array(
        [
            *viewmat[:3, :3].ravel(), *viewmat[:3, 3], *centre, fx, fy, cx, cy,
            -cx / fx - margin_x, (frame.width - cx) / fx + margin_x,
            -cy / fy - margin_y, (frame.height - cy) / fy + margin_y,
            frame.near, frame.far, frame.eps2d,
        ],
        dtype=np.float64,
    )  # fmt: skip


def _aligned(size: int) -> np.ndarray:
    """`size` float32 that start on a cache line, not initialised."""
    buffer = np.empty(size + 16, np.float32)
    skip = (-buffer.ctypes.data % 64) // 4
    return buffer[skip : skip + size]


def _scratches(threads: int) -> np.ndarray:
    """One row of scratch memory a thread."""
    return _aligned(threads * blending.SCRATCH).reshape(threads, blending.SCRATCH)


def _stack(tensors: list[Tensor]) -> Tensor:
    """[C, …] without a copy for one camera."""
    if len(tensors) == 1:
        return tensors[0][None]
    return torch.stack(tensors) if tensors else torch.zeros(0)
