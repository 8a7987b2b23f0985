"""Procedural textures, and the atlas they are sampled from.

Every painter returns `[size, size, 3]` float32 in 0..1. The patterns are chosen for what a
reconstruction needs: unique marks at several scales (blobs, glyphs), and no repetition that could
be matched to the wrong place.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

Color = tuple[float, float, float]


def paint_noise(
    rng: np.random.Generator, size: int, dark: Color, light: Color, coarsest: int = 4
) -> np.ndarray:
    """Two colours blended by value noise whose octaves fall off as 0.6^n."""
    field = np.zeros((size, size), np.float32)
    weight, cells, total = 1.0, coarsest, 0.0
    while cells <= size // 4:
        field += weight * _resize(rng.random((cells, cells), dtype=np.float32), size)
        total += weight
        weight, cells = weight * 0.6, cells * 2
    field = np.clip((field / total - 0.5) * 2.0 + 0.5, 0, 1)[..., None]
    return (1 - field) * _rgb(dark) + field * _rgb(light)


def paint_blobs(
    rng: np.random.Generator,
    image: np.ndarray,
    count: int,
    colors: Sequence[Color],
    largest: float = 0.22,
) -> np.ndarray:
    """Rotated ellipses of many sizes over `image`; blobs are what SIFT was made for.

    `largest` is the greatest half axis, as a fraction of the image's side.
    """
    size = len(image)
    out = image.copy()
    for radius in size * largest * (rng.random(count) ** 2 + 0.07):
        cx, cy = rng.random(2) * size
        squeeze, turn = rng.uniform(0.5, 1.0), rng.uniform(0, np.pi)
        x0, x1 = _span(cx, radius, size)
        y0, y1 = _span(cy, radius, size)
        x, y = np.meshgrid(np.arange(x0, x1) - cx, np.arange(y0, y1) - cy)
        along = x * np.cos(turn) + y * np.sin(turn)
        across = (y * np.cos(turn) - x * np.sin(turn)) / squeeze
        inside = along**2 + across**2 < radius**2
        out[y0:y1, x0:x1][inside] = colors[int(rng.integers(len(colors)))]
    return out


def paint_glyphs(
    rng: np.random.Generator, image: np.ndarray, lines: int, color: Color
) -> np.ndarray:
    """Lines of text-like marks over `image`: random 5 × 5 letters in words, of varied size."""
    size = len(image)
    out = image.copy()
    font = rng.random((20, 5, 5)) < 0.55
    top = size * 0.05
    for _ in range(lines):
        dot = max(1, int(size * rng.uniform(0.4, 1.1) / (lines * 8)))
        left = size * rng.uniform(0.04, 0.2)
        while left + 6 * dot < size * 0.96 and top + 5 * dot < size * 0.97:
            if rng.random() < 0.82:
                letter = np.kron(font[rng.integers(len(font))], np.ones((dot, dot), bool))
                y, x = int(top), int(left)
                out[y : y + 5 * dot, x : x + 5 * dot][letter] = color
            left += 6 * dot
        top += dot * 8
    return out


def paint_checker(
    rng: np.random.Generator, size: int, cells: int, colors: Sequence[Color]
) -> np.ndarray:
    """A patchwork: every cell one of `colors` at random, so that no two places look alike."""
    grid = np.array(colors, np.float32)[rng.integers(len(colors), size=(cells, cells))]
    index = np.arange(size) * cells // size
    return grid[index][:, index]


@dataclass(frozen=True)
class Atlas:
    """All textures with their mip levels in one flat buffer, so one gather samples any of them."""

    texels: np.ndarray  # [T, 3] uint8
    offsets: np.ndarray  # [num_textures, num_levels] int64, first texel of a level's first layer
    sizes: np.ndarray  # [num_textures] int64, side of level 0, a power of two
    top_level: np.ndarray  # [num_textures] int64, coarsest level

    @classmethod
    def build(cls, stacks: Sequence[np.ndarray]) -> Atlas:
        """From one `[layers, size, size, 3]` float array in 0..1 per texture."""
        texels, offsets, position = [], np.zeros((len(stacks), 16), np.int64), 0
        top = []
        for number, stack in enumerate(stacks):
            level, current = 0, stack
            while True:
                offsets[number, level] = position
                texels.append((current.reshape(-1, 3) * 255 + 0.5).clip(0, 255).astype(np.uint8))
                position += len(texels[-1])
                if current.shape[1] <= 8:
                    break
                layers, half = len(current), current.shape[1] // 2
                current = current.reshape(layers, half, 2, half, 2, 3).mean((2, 4))
                level += 1
            top.append(level)
        sizes = np.array([stack.shape[1] for stack in stacks], np.int64)
        return cls(np.concatenate(texels), offsets, sizes, np.array(top, np.int64))

    def sample(
        self, texture: int, layer: np.ndarray, uv: np.ndarray, footprint: np.ndarray
    ) -> np.ndarray:
        """Bilinear colour `[N, 3]` float32 in 0..255, edges clamped.

        Args:
            texture: index into the stacks.
            layer: [N] int, layer of the stack.
            uv: [2, N] float32 in 0..1.
            footprint: [N] float32, width of a sample as a fraction of the texture's side.
        """
        wanted = np.log2(np.maximum(footprint * self.sizes[texture], 1e-6)).round()
        level = wanted.clip(0, self.top_level[texture]).astype(np.int32)
        side = (self.sizes[texture] >> level).astype(np.int32)
        base = self.offsets[texture, level] + layer.astype(np.int64) * side * side
        position = (uv * side - np.float32(0.5)).clip(0, (side - 1).astype(np.float32))
        low = position.astype(np.int32)
        fraction = position - low
        high = np.minimum(low + 1, side - 1)
        rows = base + low[1] * side, base + high[1] * side
        wx, wy = fraction[0][:, None], fraction[1][:, None]
        upper, lower = (
            self.texels[row + low[0]] * (1 - wx) + self.texels[row + high[0]] * wx for row in rows
        )
        return upper * (1 - wy) + lower * wy


def _rgb(color: Color) -> np.ndarray:
    return np.array(color, np.float32)


def _span(center: float, radius: float, size: int) -> tuple[int, int]:
    return max(0, int(center - radius)), min(size, int(center + radius) + 2)


def _resize(grid: np.ndarray, size: int) -> np.ndarray:
    """Smooth upsampling of a square grid (cosine-eased bilinear), edges clamped."""
    cells = len(grid)
    position = (np.arange(size, dtype=np.float32) + 0.5) * cells / size - 0.5
    low = np.clip(np.floor(position).astype(int), 0, cells - 1)
    high = np.minimum(low + 1, cells - 1)
    t = np.clip(position - low, 0, 1)
    t = t * t * (3 - 2 * t)
    rows = grid[low] * (1 - t)[:, None] + grid[high] * t[:, None]
    return rows[:, low] * (1 - t) + rows[:, high] * t
