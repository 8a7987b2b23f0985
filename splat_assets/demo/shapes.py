"""The solids of the demo scene and where rays meet them, in plain numpy.

Each shape answers two questions: at what distance do rays hit it, and what surface is at a hit
point (outward normal, texture layer, texture coordinates). Rays are `origin + t * direction`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

FAR = np.float32(np.inf)


@dataclass(frozen=True)
class Surface:
    """What a hit point shows."""

    normal: np.ndarray  # [3, N] float32, outward unit vectors
    layer: np.ndarray  # [N] int, layer of the shape's texture
    uv: np.ndarray  # [2, N] float32 in 0..1
    side: float  # metres covered by one side of the texture


class Shape(Protocol):
    """A solid: distances of hits, surfaces at hits, and corners that bound it."""

    @property
    def texture(self) -> int:
        """Index of its texture in the atlas."""
        ...

    def distance(self, origin: np.ndarray, directions: np.ndarray) -> np.ndarray:
        """[N] distances in units of the [3, N] directions, `FAR` where a ray misses.

        `origin` is `[3, 1]`, or `[3, N]` for rays with an origin each.
        """
        ...

    def surface(self, points: np.ndarray) -> Surface:
        """The surface at [3, N] hit points."""
        ...

    def corners(self) -> np.ndarray:
        """[8, 3] corners of a box around the shape."""
        ...


@dataclass(frozen=True)
class Box:
    """A box turned by `yaw` about the vertical; a texture of six layers."""

    center: tuple[float, float, float]
    half: tuple[float, float, float]
    yaw: float
    texture: int

    def distance(self, origin: np.ndarray, directions: np.ndarray) -> np.ndarray:
        o, d = self._local(origin - _column(self.center)), self._local(directions)
        with np.errstate(divide="ignore", invalid="ignore"):
            first = (-_column(self.half) - o) / d
            second = (_column(self.half) - o) / d
        near = np.minimum(first, second).max(axis=0)
        far = np.maximum(first, second).min(axis=0)
        return np.where((near < far) & (near > 0), near, FAR)

    def surface(self, points: np.ndarray) -> Surface:
        local = self._local(points - _column(self.center)) / _column(self.half)
        axis, layer, uv = _cube_face(local)
        normal = np.zeros_like(local)
        columns = np.arange(local.shape[1])
        normal[axis, columns] = np.sign(local[axis, columns])
        return Surface(self._turn().T @ normal, layer, uv, 2 * float(np.mean(self.half)))

    def corners(self) -> np.ndarray:
        return _SIGNS * np.array(self.half) @ self._turn() + np.array(self.center)

    def _local(self, vectors: np.ndarray) -> np.ndarray:
        return self._turn() @ vectors

    def _turn(self) -> np.ndarray:
        """World → box axes."""
        c, s = np.cos(self.yaw), np.sin(self.yaw)
        return np.array([[c, s, 0], [-s, c, 0], [0, 0, 1]], np.float32)


@dataclass(frozen=True)
class Sphere:
    """A ball with a texture of six layers, laid on like a cube map."""

    center: tuple[float, float, float]
    radius: float
    texture: int

    def distance(self, origin: np.ndarray, directions: np.ndarray) -> np.ndarray:
        o = origin - _column(self.center)
        return _first_root(
            (directions * directions).sum(0),
            (o * directions).sum(0),
            (o * o).sum(0) - np.float32(self.radius**2),
        )

    def surface(self, points: np.ndarray) -> Surface:
        normal = (points - _column(self.center)) / np.float32(self.radius)
        _, layer, uv = _cube_face(normal)
        return Surface(normal, layer, uv, 1.6 * self.radius)

    def corners(self) -> np.ndarray:
        return _SIGNS * self.radius + np.array(self.center)


@dataclass(frozen=True)
class Cylinder:
    """An upright cylinder; layers 0–3 are quarters of its side, 4 its top, 5 its foot."""

    center: tuple[float, float, float]
    radius: float
    half_height: float
    texture: int

    def distance(self, origin: np.ndarray, directions: np.ndarray) -> np.ndarray:
        o = origin - _column(self.center)
        wall = _first_root(
            (directions[:2] ** 2).sum(0),
            (o[:2] * directions[:2]).sum(0),
            (o[:2] ** 2).sum(0) - np.float32(self.radius**2),
        )
        with np.errstate(invalid="ignore", divide="ignore"):
            on_wall = np.abs(o[2] + wall * directions[2]) < self.half_height
            lid = (np.sign(o[2]) * np.float32(self.half_height) - o[2]) / directions[2]
            at_lid = o[:2] + lid * directions[:2]
            on_lid = (lid > 0) & ((at_lid**2).sum(0) < self.radius**2)
        on_lid &= np.abs(o[2]) > self.half_height
        return np.minimum(np.where(on_wall, wall, FAR), np.where(on_lid, lid, FAR))

    def surface(self, points: np.ndarray) -> Surface:
        local = points - _column(self.center)
        lid = np.abs(local[2]) > self.half_height - 1e-4 * (1 + self.half_height)
        normal = np.zeros_like(local)
        normal[:2] = np.where(lid, 0, local[:2] / self.radius)
        normal[2] = np.where(lid, np.sign(local[2]), 0)
        quarter = (np.arctan2(local[1], local[0]) / (np.pi / 2)) % 4
        layer = np.where(lid, np.where(local[2] > 0, 4, 5), quarter.astype(np.int32) % 4)
        u = np.where(lid, local[0] / self.radius / 2 + 0.5, quarter % 1)
        v = np.where(lid, local[1] / self.radius / 2 + 0.5, 0.5 - local[2] / (2 * self.half_height))
        side = (np.pi / 2 * self.radius + 2 * self.half_height) / 2
        return Surface(normal, layer, np.stack([u, v]).astype(np.float32), side)

    def corners(self) -> np.ndarray:
        half = np.array([self.radius, self.radius, self.half_height])
        return _SIGNS * half + np.array(self.center)


_SIGNS = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], np.float64)


def _column(vector: tuple[float, float, float]) -> np.ndarray:
    return np.array(vector, np.float32)[:, None]


def _first_root(a: np.ndarray, half_b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """Nearest positive entry root of `a t² + 2 half_b t + c`, `FAR` where there is none."""
    discriminant = half_b * half_b - a * c
    with np.errstate(invalid="ignore", divide="ignore"):
        t = (-half_b - np.sqrt(discriminant)) / a
    return np.where((discriminant > 0) & (t > 0), t, FAR)


def _cube_face(local: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of [3, N] points around a unit cube: main axis [N], face 0..5 [N], uv on it [2, N]."""
    axis = np.abs(local).argmax(axis=0)
    columns = np.arange(local.shape[1])
    main = local[axis, columns]
    layer = axis * 2 + (main > 0)
    across = local[(axis + 1) % 3, columns] / np.abs(main)
    along = local[(axis + 2) % 3, columns] / np.abs(main)
    # the vertical runs down the texture on the four sides, so that text stands upright
    u = np.where(axis == 1, along, across)
    v = np.where(axis == 1, across, along)
    uv = np.stack([u, np.where(axis == 2, v, -v)]) * 0.5 + 0.5
    return axis, layer, uv.astype(np.float32)
