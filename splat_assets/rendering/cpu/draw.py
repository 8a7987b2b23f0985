"""The kernels in order, and the buffers between them: one camera forward, one camera back.

Plain numpy; the autograd function and the forward-only renderer both stand on it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from splat_assets.rendering.cpu import blending, projection, projection_backward, tiles
from splat_assets.rendering.cpu.buffers import take
from splat_assets.rendering.cpu.team import team

_TABLES = blending.lane_tables()
_CHUNK = 4096  # Gaussians of the depth order that are binned together
_MAX_CHUNKS = 64
_NO_ROWS, _NO_NUMBERS = np.empty((0, 3), np.float32), np.empty(0, np.float32)
_NO_RADII = np.empty((0, 2), np.int32)


@dataclass(frozen=True)
class Splats:
    """Activated Gaussians, C-contiguous float32.

    Where `learnt` is given, `draw` fills `scales` and `opacities` from it.
    """

    means: np.ndarray  # [N, 3]
    quats: np.ndarray  # [N, 4]
    scales: np.ndarray  # [N, 3]
    opacities: np.ndarray  # [N]
    colors: tuple[np.ndarray, ...]  # ([N, 3] or [N, K, 3],) or the pair [N, 1, 3], [N, K - 1, 3]
    degree: int  # of the SH in use; -1: colours themselves
    learnt: tuple[np.ndarray, np.ndarray] = (_NO_ROWS, _NO_NUMBERS)  # log scales, logits

    def __len__(self) -> int:
        return len(self.means)

    def parameters(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        return self.means, self.quats, self.scales, self.opacities

    def arguments(self) -> tuple[Any, ...]:
        """As the kernels take them. Colours are flat: coefficient c of i is at i·stride + c."""
        flat = [part.reshape(-1) for part in self.colors]
        strides = [int(np.prod(part.shape[1:])) for part in self.colors]
        offset = 3 if len(self.colors) == 1 and self.degree >= 0 else 0
        return (
            *self.parameters(), flat[0], strides[0], flat[-1], strides[-1], offset, self.degree,
        )  # fmt: skip


@dataclass(frozen=True)
class Frame:
    """What a render asks for besides Gaussians and camera."""

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
    rows: np.ndarray  # [N * 16] float32, see projection.py
    radii: np.ndarray  # [N, 2] int32, or none
    offsets: np.ndarray  # [N + 1] int64: first slot of every Gaussian
    starts: np.ndarray  # [tiles + 1] int64: first entry of every tile
    turns: np.ndarray  # [tiles] int64: in which order to draw them
    entries: np.ndarray  # [entries] int32: Gaussian
    slots: np.ndarray  # [entries] int32
    masks: np.ndarray  # [entries] uint64: blocks it changed
    image: np.ndarray  # [H * W * channels] float32
    alphas: np.ndarray  # [H * W] float32


@dataclass(frozen=True)
class Gradients:
    """Sums over cameras, shaped like the parameters; what belongs to a camera is kept apart."""

    means: np.ndarray
    quats: np.ndarray
    scales: np.ndarray
    opacities: np.ndarray
    colors: tuple[np.ndarray, ...]
    viewmats: np.ndarray  # [C, 4, 4] float64
    means2d: np.ndarray  # [C, N, 4] float32: signed, absolute

    @staticmethod
    def empty(splats: Splats, cameras: int) -> Gradients:
        """Room for them; the first camera that is drawn back overwrites what is there."""
        means, quats, scales, opacities = (
            take(part.shape, np.float32) for part in splats.parameters()
        )
        return Gradients(
            means,
            quats,
            scales,
            opacities,
            tuple(take(part.shape, np.float32) for part in splats.colors),
            np.zeros((cameras, 4, 4)),
            take((cameras, len(splats), 4), np.float32),
        )


def draw(
    splats: Splats,
    viewmat: np.ndarray,
    K: np.ndarray,
    background: np.ndarray,
    frame: Frame,
    image: np.ndarray,
    alphas: np.ndarray,
    *,
    save: bool,
    radii: bool = True,
) -> Drawn:
    """Render one camera (`viewmat` [4, 4], `K` [3, 3] float64) into `image` and `alphas` (flat).

    `background` is [3] float32. Without `save` the result cannot go back, without `radii` it has
    none.
    """
    count, crew = len(splats), team()
    width, height = frame.width, frame.height
    camera = camera_record(viewmat, K, frame)
    rows = take(count * projection.ROW, np.float32)
    depths, order = take(count, np.uint32), take(count, np.int32)
    corners, spans = take(count, np.int32), take(count, np.uint64)
    offsets = take(count + 1, np.int64)
    extents = take((count, 2), np.int32) if radii else _NO_RADII
    crew.run(
        -(-count // projection.TASK), projection.project, *splats.arguments(), *splats.learnt,
        camera, width, height, frame.antialiased, rows, depths, corners, spans, offsets, extents,
    )  # fmt: skip
    # from numbers of tiles, kept one place to the right, to the first slot of every Gaussian
    offsets[0] = 0
    order = order[: tiles.depth_order(depths, offsets, order, take((2, count), np.uint64))]

    side = projection.TILE
    tile_count = -(-width // side) * -(-height // side)
    chunks = max(1, min(_MAX_CHUNKS, len(order) // _CHUNK))
    histogram = np.empty((chunks, tile_count), np.int64)
    starts = np.empty(tile_count + 1, np.int64)
    total = int(offsets[-1])
    entries, slots = take(total, np.int32), take(total, np.int32)
    crew.run(
        chunks, tiles.count_tiles, order, chunks, corners, spans, rows, width, height, histogram
    )
    tiles.place_chunks(histogram, starts)
    crew.run(
        chunks, tiles.fill_tiles, order, chunks, corners, spans, rows, width, height, histogram,
        offsets, entries, slots,
    )  # fmt: skip

    turns = _turns(starts, crew.threads)
    masks = take(total if save else 0, np.uint64)
    crew.run(
        tile_count, blending.blend, turns, rows, entries, starts, masks, save, _TABLES,
        _scratches(crew.threads), width, height, background, image, frame.channels,
        frame.colour_at, frame.depth_at, alphas,
    )  # fmt: skip
    return Drawn(
        camera, rows, extents, offsets, starts, turns, entries, slots, masks, image, alphas
    )


def draw_backward(
    splats: Splats,
    viewmat: np.ndarray,
    frame: Frame,
    drawn: Drawn,
    v_image: np.ndarray,
    v_alphas: np.ndarray | None,
    absgrad: bool,
    into: Gradients,
    index: int,
) -> None:
    """Carry the gradients of camera `index`'s image and alphas (flat) back, and add to `into`.

    Camera 0 comes first and overwrites.
    """
    sums = sum_pixels(frame, drawn, v_image, v_alphas, absgrad)
    tasks = -(-len(splats) // projection.TASK)
    v_camera = np.zeros((tasks, 15), np.float64)
    v_colors = [part.reshape(-1) for part in into.colors]
    team().run(
        tasks, projection_backward.project_backward, *splats.arguments(), drawn.camera,
        frame.antialiased, drawn.rows, drawn.offsets, sums, absgrad, index == 0, into.means,
        into.quats, into.scales, into.opacities, v_colors[0], v_colors[-1], v_camera,
        into.means2d[index].reshape(-1),
    )  # fmt: skip
    into.viewmats[index] += view_gradient(v_camera, viewmat, drawn)


def sum_pixels(
    frame: Frame, drawn: Drawn, v_image: np.ndarray, v_alphas: np.ndarray | None, absgrad: bool
) -> np.ndarray:
    """[entries * 16] float32: the sums over pixels of projection.py, from the gradients of image
    and alphas (flat)."""
    crew = team()
    sums = take(len(drawn.entries) * projection.ROW, np.float32)
    v_alpha, with_alpha = (drawn.alphas, False) if v_alphas is None else (v_alphas, True)
    crew.run(
        len(drawn.turns), blending.blend_backward, drawn.turns, drawn.rows, drawn.entries,
        drawn.slots, drawn.starts, drawn.masks, _TABLES, _scratches(crew.threads), frame.width,
        frame.height, drawn.image, frame.channels, frame.colour_at, frame.depth_at, drawn.alphas,
        v_image, v_alpha, with_alpha, absgrad, sums,
    )  # fmt: skip
    return sums


def view_gradient(v_camera: np.ndarray, viewmat: np.ndarray, drawn: Drawn) -> np.ndarray:
    """[4, 4] float64: of the view matrix, from what every task says of rotation, translation and
    centre."""
    summed = v_camera.sum(axis=0)
    v_view = np.zeros((4, 4))
    v_view[:3, :3] = summed[:9].reshape(3, 3)
    v_view[:3, 3] = summed[9:12]
    # the centre is -W⁻¹ t
    turned = np.linalg.inv(viewmat[:3, :3]).T @ summed[12:]
    v_view[:3, :3] -= np.outer(turned, drawn.camera[12:15])
    v_view[:3, 3] -= turned
    return v_view


def camera_record(viewmat: np.ndarray, K: np.ndarray, frame: Frame) -> np.ndarray:
    """The camera as the kernels take it (layout in projection.py), float64."""
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


def _turns(starts: np.ndarray, threads: int) -> np.ndarray:
    """The tiles, dealt out to the threads (whose tasks are in a row), the fullest first: what is
    left at the end, when some thread has nothing more to do, are the quick ones."""
    fullest_first = np.argsort(starts[:-1] - starts[1:], kind="stable")
    return np.concatenate([fullest_first[number::threads] for number in range(threads)])


def _scratches(threads: int) -> np.ndarray:
    """One row of scratch memory a thread."""
    return take((threads, blending.SCRATCH), np.float32)
