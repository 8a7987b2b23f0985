"""The demo scene: crates, balls and drums on a painted floor inside a round wall, under a sky.

Everything is Lambertian and still, so a splat can represent it; the floor carries the objects'
soft shadows. Rendered by ray casting with 2 × 2 samples a pixel. Metres, z up.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from splat_assets.demo.shapes import FAR, Box, Cylinder, Shape, Sphere
from splat_assets.demo.textures import (
    Atlas,
    Color,
    paint_blobs,
    paint_checker,
    paint_glyphs,
    paint_noise,
)

WALL_RADIUS, WALL_HEIGHT, WALL_PANELS = 6.0, 2.6, 12
SKY_RADIUS = 30.0
CENTER = np.array([0.0, 0.0, 0.4])  # what the photographer looks at
SAMPLES = 2  # per pixel and axis
_SUN = np.array([0.45, -0.35, 0.82]) / np.linalg.norm([0.45, -0.35, 0.82])
_AMBIENT = 0.5
_FLOOR, _WALL, _SKY = 0, 1, 2  # textures; the shapes' follow


@dataclass(frozen=True)
class Scene:
    """Shapes and the textures of everything."""

    shapes: tuple[Shape, ...]
    atlas: Atlas

    @property
    def size(self) -> float:
        """Diagonal of the box around the objects, metres: what errors are a fraction of."""
        corners = np.concatenate([shape.corners() for shape in self.shapes])
        return float(np.linalg.norm(corners.max(0) - corners.min(0)))


def build_scene(seed: int = 0) -> Scene:
    """The same objects for every seed; their textures differ."""
    rng = np.random.default_rng(seed)
    shapes: tuple[Shape, ...] = (
        Box((0.0, 0.05, 0.45), (0.45, 0.45, 0.45), 0.5, 3),
        Box((-1.15, 0.55, 0.65), (0.28, 0.28, 0.65), -0.3, 4),
        Box((0.95, -0.95, 0.2), (0.65, 0.42, 0.2), 0.9, 5),
        Box((0.12, 0.02, 1.08), (0.2, 0.26, 0.18), 1.2, 6),
        Sphere((1.25, 0.75, 0.42), 0.42, 7),
        Sphere((0.98, -0.92, 0.68), 0.28, 8),
        Cylinder((-0.75, -0.95, 0.5), 0.3, 0.5, 9),
        Cylinder((0.2, 1.35, 0.2), 0.42, 0.2, 10),
    )
    floor = _paint_floor(rng)
    floor *= _floor_light(shapes)[..., None]
    palettes: list[tuple[Color, Color, tuple[Color, ...]]] = [
        ((0.75, 0.55, 0.12), (0.95, 0.8, 0.35), ((0.1, 0.1, 0.12), (0.7, 0.1, 0.08))),
        ((0.1, 0.22, 0.5), (0.25, 0.45, 0.8), ((0.95, 0.95, 0.9), (0.95, 0.7, 0.1))),
        ((0.5, 0.13, 0.1), (0.8, 0.3, 0.2), ((0.95, 0.9, 0.8), (0.1, 0.1, 0.15))),
        ((0.75, 0.75, 0.72), (0.95, 0.95, 0.93), ((0.05, 0.25, 0.15), (0.75, 0.1, 0.3))),
        ((0.1, 0.4, 0.22), (0.3, 0.65, 0.35), ((0.95, 0.95, 0.6), (0.05, 0.1, 0.1))),
        ((0.85, 0.42, 0.1), (0.98, 0.65, 0.25), ((0.1, 0.12, 0.35), (0.97, 0.95, 0.9))),
        ((0.55, 0.6, 0.65), (0.85, 0.88, 0.9), ((0.1, 0.15, 0.5), (0.8, 0.15, 0.1))),
        ((0.35, 0.15, 0.45), (0.6, 0.35, 0.7), ((0.95, 0.85, 0.5), (0.1, 0.05, 0.15))),
    ]
    stacks = [floor[None], _paint_wall(rng), _paint_sky(rng)[None]]
    stacks += [_paint_object(rng, *palette) for palette in palettes]
    return Scene(shapes, Atlas.build(stacks))


def render(scene: Scene, K: np.ndarray, viewmat: np.ndarray, width: int, height: int) -> np.ndarray:
    """The photo of a pinhole camera, `[height, width, 3]` uint8.

    Args:
        K: [3, 3]; pixel (0.5, 0.5) is the centre of the top-left pixel.
        viewmat: [4, 4] world → camera, OpenCV axes.
    """
    rows, columns = height * SAMPLES, width * SAMPLES
    x = (np.arange(columns, dtype=np.float32) + 0.5) / SAMPLES
    y = (np.arange(rows, dtype=np.float32) + 0.5) / SAMPLES
    rotation = viewmat[:3, :3]
    origin = (-rotation.T @ viewmat[:3, 3]).astype(np.float32)[:, None]
    right = ((x - K[0, 2]) / K[0, 0]).astype(np.float32)
    down = ((y - K[1, 2]) / K[1, 1]).astype(np.float32)
    axes = rotation.astype(np.float32)  # rows: camera axes in the world
    directions = (
        axes[0][:, None, None] * right
        + axes[1][:, None, None] * down[:, None]
        + axes[2][:, None, None]
    )
    pixel = np.float32(1 / (K[0, 0] * SAMPLES))

    nearest = np.full((rows, columns), FAR, np.float32)
    owner = np.full((rows, columns), -1, np.int8)
    for number, shape in enumerate(scene.shapes):
        window = _window(shape.corners(), K, viewmat, rows, columns)
        if window is None:
            continue
        part = directions[(slice(None), *window)]
        t = shape.distance(origin, part.reshape(3, -1)).reshape(part.shape[1:])
        closer = t < nearest[window]
        nearest[window][closer] = t[closer]
        owner[window][closer] = number

    image = np.empty((rows * columns, 3), np.float32)
    rays = directions.reshape(3, -1)
    flat_owner, flat_t = owner.ravel(), nearest.ravel()
    _shade_surroundings(scene, origin, rays, flat_owner < 0, pixel, image)
    for number, shape in enumerate(scene.shapes):
        mine = np.flatnonzero(flat_owner == number)
        if len(mine) == 0:
            continue
        t, ray = flat_t[mine], rays[:, mine]
        surface = shape.surface(origin + t * ray)
        facing = np.abs((surface.normal * ray).sum(0)).clip(0.05)
        footprint = t * pixel / np.sqrt(facing) / np.float32(surface.side)
        color = scene.atlas.sample(shape.texture, surface.layer, surface.uv, footprint)
        image[mine] = color * _lambert(surface.normal)[:, None]
    image = image.reshape(height, SAMPLES, width, SAMPLES, 3)
    return (image.mean((1, 3)) + 0.5).clip(0, 255).astype(np.uint8)


def _shade_surroundings(
    scene: Scene,
    origin: np.ndarray,
    rays: np.ndarray,
    visible: np.ndarray,
    pixel: np.float32,
    image: np.ndarray,
) -> None:
    """Floor, wall and sky into `image` where `visible`; exactly one of them meets each ray."""
    index = np.flatnonzero(visible)
    ray = rays[:, index]
    zero = np.zeros(len(index), np.int32)
    a = (ray[:2] ** 2).sum(0)
    b = (origin[:2] * ray[:2]).sum(0)
    c = (origin[:2] ** 2).sum() - WALL_RADIUS**2
    t_wall = (-b + np.sqrt(b * b - a * c)) / a
    wall_z = origin[2] + t_wall * ray[2]
    with np.errstate(divide="ignore"):
        t_floor = np.where(wall_z < 0, -origin[2] / ray[2], 0).astype(np.float32)

    on = wall_z < 0
    t = t_floor[on]
    uv = (origin[:2] + t * ray[:2, on]) / np.float32(2 * WALL_RADIUS) + np.float32(0.5)
    facing = np.abs(ray[2, on]).clip(0.05)
    footprint = t * pixel / np.sqrt(facing) / np.float32(2 * WALL_RADIUS)
    image[index[on]] = scene.atlas.sample(_FLOOR, zero[on], uv, footprint)

    on = (wall_z >= 0) & (wall_z < WALL_HEIGHT)
    t = t_wall[on]
    at = origin[:2] + t * ray[:2, on]
    turn = (np.arctan2(at[1], at[0]) / np.float32(2 * np.pi) % 1) * WALL_PANELS
    uv = np.stack([turn % 1, 1 - wall_z[on] / np.float32(WALL_HEIGHT)])
    normal = np.concatenate([-at / np.float32(WALL_RADIUS), np.zeros_like(at[:1])])
    side = np.float32(2 * np.pi * WALL_RADIUS / WALL_PANELS)
    color = scene.atlas.sample(_WALL, turn.astype(np.int32) % WALL_PANELS, uv, t * pixel / side)
    image[index[on]] = color * _lambert(normal)[:, None]

    on = wall_z >= WALL_HEIGHT
    ray = ray[:, on]
    b, a = (origin * ray).sum(0), (ray * ray).sum(0)
    t = (-b + np.sqrt(b * b - a * ((origin**2).sum() - SKY_RADIUS**2))) / a
    at = (origin + t * ray) / np.float32(SKY_RADIUS)
    uv = at[:2] / (1 + at[2].clip(0)) * np.float32(0.5) + np.float32(0.5)
    footprint = t * pixel / np.float32(2 * SKY_RADIUS)
    image[index[on]] = scene.atlas.sample(_SKY, zero[on], uv, footprint)


def _lambert(normal: np.ndarray) -> np.ndarray:
    cosine = (normal * _SUN.astype(np.float32)[:, None]).sum(0)
    return np.float32(_AMBIENT) + np.float32(1 - _AMBIENT) * cosine.clip(0)


def _window(
    corners: np.ndarray, K: np.ndarray, viewmat: np.ndarray, rows: int, columns: int
) -> tuple[slice, slice] | None:
    """The samples that a box with these corners can cover; None when it is out of sight."""
    camera = corners @ viewmat[:3, :3].T + viewmat[:3, 3]
    if (camera[:, 2] < 0.05).any():
        return slice(0, rows), slice(0, columns)
    x = (camera[:, 0] / camera[:, 2] * K[0, 0] + K[0, 2]) * SAMPLES
    y = (camera[:, 1] / camera[:, 2] * K[1, 1] + K[1, 2]) * SAMPLES
    x0, x1 = max(0, int(x.min()) - 1), min(columns, int(x.max()) + 2)
    y0, y1 = max(0, int(y.min()) - 1), min(rows, int(y.max()) + 2)
    if x0 >= x1 or y0 >= y1:
        return None
    return slice(y0, y1), slice(x0, x1)


def _paint_floor(rng: np.random.Generator) -> np.ndarray:
    size = 2048
    floor = paint_noise(rng, size, (0.42, 0.36, 0.3), (0.75, 0.7, 0.6), coarsest=8)
    slabs = paint_checker(rng, size, 12, [(0.55, 0.5, 0.42), (0.7, 0.66, 0.58), (0.6, 0.5, 0.45)])
    floor = 0.5 * floor + 0.5 * slabs
    marks = [(0.25, 0.2, 0.2), (0.85, 0.8, 0.65), (0.3, 0.4, 0.45), (0.6, 0.25, 0.2)]
    return paint_blobs(rng, floor, 420, marks, largest=0.03)


def _paint_wall(rng: np.random.Generator) -> np.ndarray:
    panels = []
    for _ in range(WALL_PANELS):
        tint = rng.uniform(0.45, 0.85, 3)
        dark, light = tuple(tint * 0.75), tuple(tint * 1.15)
        marks = [tuple(0.55 * rng.random(3) + 0.45 * tint) for _ in range(3)]
        panel = paint_noise(rng, 256, dark, light)
        panel = paint_blobs(rng, panel, 14, marks)
        panels.append(paint_glyphs(rng, panel, 4, marks[0]))
    return np.stack(panels).clip(0, 1)


def _paint_sky(rng: np.random.Generator) -> np.ndarray:
    size = 256
    clouds = paint_noise(rng, size, (0.0,) * 3, (1.0,) * 3, coarsest=4)
    for _ in range(2):  # soft: only the coarse octaves stay
        clouds = (
            clouds.reshape(size // 2, 2, size // 2, 2, 3).mean((1, 3)).repeat(2, 0).repeat(2, 1)
        )
    return (1 - 0.6 * clouds) * np.array((0.5, 0.68, 0.92), np.float32) + 0.6 * clouds * np.float32(
        0.97
    )


def _paint_object(
    rng: np.random.Generator, dark: Color, light: Color, marks: tuple[Color, ...]
) -> np.ndarray:
    faces = []
    for face in range(6):
        image = paint_noise(rng, 256, dark, light)
        image = paint_blobs(rng, image, 9, (*marks, light, dark))
        faces.append(paint_glyphs(rng, image, 4 + face % 3, marks[face % len(marks)]))
    return np.stack(faces)


def _floor_light(shapes: tuple[Shape, ...]) -> np.ndarray:
    """[2048, 2048] light on the floor in `_AMBIENT`..1: shadows with a narrow penumbra."""
    size, out = 256, 2048
    span = 0.35  # the inner part of the floor where shadows fall, as a fraction of its side
    grid = ((np.arange(size) + 0.5) / size - 0.5) * span * 2 * WALL_RADIUS
    x, y = np.meshgrid(grid, grid)
    points = np.stack([x.ravel(), y.ravel(), np.full(size * size, 1e-3)]).astype(np.float32)
    lit = np.zeros(size * size, np.float32)
    spread = [(0.02, 0.0), (-0.02, 0.0), (0.0, 0.02), (0.0, -0.02)]
    for dx, dy in spread:
        towards = np.array([_SUN[0] + dx, _SUN[1] + dy, _SUN[2]], np.float32)[:, None]
        directions = np.broadcast_to(towards, points.shape)
        blocked = np.zeros(size * size, bool)
        for shape in shapes:
            blocked |= shape.distance(points, directions) < FAR
        lit += (~blocked) / len(spread)
    inner = int(out * span / size) * size
    scale = inner // size
    light = np.ones((out, out), np.float32)
    start = (out - inner) // 2
    light[start : start + inner, start : start + inner] = (
        lit.reshape(size, size).repeat(scale, 0).repeat(scale, 1)
    )
    return np.float32(_AMBIENT) + np.float32(1 - _AMBIENT) * np.float32(_SUN[2]) * light
