"""Points on the surfaces of a scene by plane-sweep stereo, to start training from.

Structure from motion leaves few points, none on plain surfaces; growing Gaussians from them into
the rest of a picture takes most of a short run. Here each view is compared with its neighbours at
a small size, on planes of many depths (Collins 1996; normalised cross-correlation), depths that two
views agree on are kept, and holes are filled from their surroundings. Plain torch: any device.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from splat_assets.progress import Progress
from splat_assets.training.dataset import TrainingSet
from splat_assets.training.scene import SceneFrame

_MAX_VIEWS = 40  # views swept, spread over all
_LONG_SIDE = 160  # pixels they are reduced to
_NEIGHBOURS = 4
_PLANES = 64
_WINDOW = 5  # pixels of the correlation window
_MIN_SCORE = 0.55  # mean correlation with the two best neighbours
_AGREEING = 1  # neighbours that must have measured the same
_AGREEMENT = 0.03  # relative difference of depths that counts as the same surface
_TEXTURE = 1e-4  # variance of a window that counts as texture (of values in 0..1)


@dataclass(frozen=True)
class DensePoints:
    """One point a pixel of the small views."""

    xyz: np.ndarray  # [N, 3] float64
    rgb: np.ndarray  # [N, 3] float64 in 0..1
    sure: np.ndarray  # [N] bool: measured and agreed on; otherwise filled in

    def __len__(self) -> int:
        return len(self.xyz)


@dataclass(frozen=True)
class _Small:
    """A view at the size it is swept in."""

    image: Tensor  # [3, h, w] float32
    grey: Tensor  # [1, h, w] float32
    opaque: Tensor  # [h, w] bool
    K: Tensor  # [3, 3] float32
    viewmat: Tensor  # [4, 4] float32
    near: float
    far: float

    @property
    def center(self) -> Tensor:
        return -self.viewmat[:3, :3].T @ self.viewmat[:3, 3]


@torch.no_grad()
def dense_points(
    data: TrainingSet,
    sparse: np.ndarray,
    frame: SceneFrame,
    *,
    wanted: int,
    device: str,
    progress: Progress,
) -> DensePoints:
    """Sweep the training views, at a size that gives more than `wanted` points if it can.

    Args:
        sparse: [P, 3] points that tell the depth range; may be empty.
    """
    long_side = _LONG_SIDE if wanted <= 100_000 else int(1.5 * _LONG_SIDE)
    chosen = np.linspace(0, len(data.train) - 1, min(_MAX_VIEWS, len(data.train))).round()
    indices = [data.train[int(i)] for i in dict.fromkeys(chosen.tolist())]
    anchors = sparse if len(sparse) >= 50 else _anchors(frame)
    views = [
        _small(data, index, anchors, len(sparse) >= 50, long_side, device) for index in indices
    ]
    if len(views) < 2:
        return DensePoints(np.zeros((0, 3)), np.zeros((0, 3)), np.zeros(0, bool))
    targets = torch.from_numpy(anchors).float().to(device)
    neighbours = [_neighbours(views, i, targets) for i in range(len(views))]
    measured = []
    for i, view in enumerate(views):
        progress.update(i / len(views), f"Looking for surfaces, view {i + 1} of {len(views)}")
        measured.append(_sweep(view, [views[j] for j in neighbours[i]], targets))
    xyz, rgb, sure = [], [], []
    for i, view in enumerate(views):
        depth, score = measured[i]
        agreed = (score > _MIN_SCORE) & _agrees(
            view, depth, [(views[j], measured[j][0]) for j in neighbours[i]]
        )
        depth = _fill(depth, agreed, view)
        points = _unproject(view, depth)
        keep = view.opaque.reshape(-1)
        xyz.append(points[keep])
        rgb.append(view.image.reshape(3, -1).T[keep])
        sure.append(agreed.reshape(-1)[keep])
    return DensePoints(
        torch.cat(xyz).double().cpu().numpy(),
        torch.cat(rgb).double().clamp(0, 1).cpu().numpy(),
        torch.cat(sure).cpu().numpy(),
    )


def _small(
    data: TrainingSet, index: int, anchors: np.ndarray, seen: bool, long_side: int, device: str
) -> _Small:
    view = data.views[index]
    sample = data.sample(
        index, factor=min(1.0, long_side / max(view.width, view.height)), device=device
    )
    opaque = torch.ones(sample.image.shape[:2], dtype=torch.bool, device=device)
    if sample.mask is not None:
        opaque = sample.mask > 0.5
    alpha = data.alpha(index)
    if alpha is not None:
        shown = torch.from_numpy(alpha).float()[None, None].to(device)
        opaque = functional.interpolate(shown, size=opaque.shape, mode="area")[0, 0] > 127
    camera = anchors @ view.viewmat[:3, :3].T + view.viewmat[:3, 3]
    projected = camera @ view.K.T
    inside = camera[:, 2] > 1e-6
    pixel = projected[:, :2] / np.where(inside, camera[:, 2], 1.0)[:, None]
    inside &= (pixel >= 0).all(axis=1) & (pixel[:, 0] < view.width) & (pixel[:, 1] < view.height)
    depths = camera[inside, 2] if inside.sum() >= 10 else camera[camera[:, 2] > 1e-6, 2]
    if len(depths) < 10:
        depths = np.array([0.1, 1.0]) * max(float(np.linalg.norm(camera.mean(axis=0))), 1e-3)
    near, far = np.quantile(depths, [0.01, 0.99])
    if seen:  # the points lie on what has texture; the rest is often farther
        near, far = 0.7 * near, 1.6 * far
    image = sample.image.permute(2, 0, 1).contiguous()
    return _Small(
        image=image,
        grey=image.mean(dim=0, keepdim=True),
        opaque=opaque,
        K=sample.K[0],
        viewmat=sample.viewmat[0],
        near=float(near),
        far=float(max(far, 1.2 * near)),
    )


def _anchors(frame: SceneFrame) -> np.ndarray:
    """Points that stand for the scene where there are no sparse ones: a ball about its centre."""
    rng = np.random.default_rng(0)
    directions = rng.normal(size=(400, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    return frame.center + directions * frame.radius * rng.uniform(size=(400, 1)) ** (1 / 3)


def _neighbours(views: list[_Small], i: int, targets: Tensor) -> list[int]:
    """The views that see the same points as view `i` at a good angle, best first."""
    mine = _visible(views[i], targets)
    rays = functional.normalize(targets - views[i].center, dim=1)
    scores = []
    for j, other in enumerate(views):
        if j == i:
            continue
        both = mine & _visible(other, targets)
        cosines = (rays * functional.normalize(targets - other.center, dim=1)).sum(dim=1)[both]
        angles = torch.rad2deg(torch.arccos(cosines.clamp(-1, 1)))
        # too little parallax says nothing, too much looks different
        worth = torch.exp(-0.5 * ((angles - 10.0) / torch.where(angles < 10, 4.0, 12.0)) ** 2)
        scores.append((float(worth.sum()), j))
    scores.sort(key=lambda pair: (-pair[0], pair[1]))
    return [j for _, j in scores[:_NEIGHBOURS]]


def _visible(view: _Small, points: Tensor) -> Tensor:
    pixel, depth = _project(view, points)
    height, width = view.opaque.shape
    inside = (pixel >= 0).all(dim=1) & (pixel[:, 0] < width) & (pixel[:, 1] < height)
    return inside & (depth > 0)


def _project(view: _Small, points: Tensor) -> tuple[Tensor, Tensor]:
    camera = points @ view.viewmat[:3, :3].T + view.viewmat[:3, 3]
    depth = camera[:, 2]
    image = camera @ view.K.T
    return image[:, :2] / depth.clamp(min=1e-6)[:, None], depth


def _rays(view: _Small) -> Tensor:
    """[h·w, 3] camera rays of the pixel centres, z = 1."""
    height, width = view.opaque.shape
    y, x = torch.meshgrid(
        torch.arange(height, device=view.K.device) + 0.5,
        torch.arange(width, device=view.K.device) + 0.5,
        indexing="ij",
    )
    homogeneous = torch.stack([x, y, torch.ones_like(x)], dim=-1).reshape(-1, 3)
    return homogeneous @ torch.linalg.inv(view.K).T


def _unproject(view: _Small, depth: Tensor) -> Tensor:
    """[h·w, 3] world points of a depth map [h, w]."""
    camera = _rays(view) * depth.reshape(-1, 1)
    return (camera - view.viewmat[:3, 3]) @ view.viewmat[:3, :3]


def _sweep(view: _Small, others: list[_Small], targets: Tensor) -> tuple[Tensor, Tensor]:
    """Depth [h, w] of the best plane of each pixel, and its score."""
    height, width = view.opaque.shape
    device = view.K.device
    inverse = torch.linspace(1 / view.near, 1 / view.far, _PLANES, device=device)
    mean, variance = _moments(view.grey[None])
    rays = _rays(view)
    lowest = torch.full((_PLANES, height, width), -1.0, device=device)
    first, second = lowest, lowest  # the two best of the neighbours
    for other in others:
        relative = other.viewmat @ torch.linalg.inv(view.viewmat)
        direction = rays @ (other.K @ relative[:3, :3]).T
        offset = other.K @ relative[:3, 3]
        image = direction[None] + inverse[:, None, None] * offset  # [planes, h·w, 3], per depth
        z = image[..., 2].clamp(min=1e-6)
        other_height, other_width = other.opaque.shape
        grid = torch.stack(
            [image[..., 0] / z / other_width, image[..., 1] / z / other_height], dim=-1
        )
        grid = (2 * grid - 1).reshape(_PLANES, height, width, 2)
        outside = (grid.abs() > 1).any(dim=-1) | (image[..., 2] <= 0).reshape(grid.shape[:3])
        warped = functional.grid_sample(
            other.grey[None].expand(_PLANES, -1, -1, -1), grid.clamp(-2, 2), align_corners=False
        )
        other_mean, other_variance = _moments(warped)
        covariance = _box(warped * view.grey[None]) - other_mean * mean
        score = covariance[:, 0] / torch.sqrt(
            (other_variance[:, 0] + _TEXTURE) * (variance[:, 0] + _TEXTURE)
        )
        score = score.masked_fill(outside, -1.0)
        second = torch.maximum(second, torch.minimum(first, score))
        first = torch.maximum(first, score)
    # hidden in one view, a surface may still show in two others
    better = 0.5 * (first + second) if len(others) > 2 else first
    # neighbours vote: a window more, so that single pixels do not stray
    better = 0.5 * better + 0.5 * _box(better[:, None])[:, 0]
    best = better.argmax(dim=0)
    score = better.gather(0, best[None])[0]
    # a parabola through the best plane and those beside it
    inner = best.clamp(1, _PLANES - 2)
    left, middle, right = (better.gather(0, (inner + d)[None])[0] for d in (-1, 0, 1))
    bend = left - 2 * middle + right
    shift = torch.where(bend < -1e-6, 0.5 * (left - right) / bend, torch.zeros_like(bend))
    shift = torch.where(best == inner, shift.clamp(-0.5, 0.5), torch.zeros_like(shift))
    step = (1 / view.far - 1 / view.near) / (_PLANES - 1)
    return 1.0 / (inverse[best] + shift * step), score


def _agrees(view: _Small, depth: Tensor, others: list[tuple[_Small, Tensor]]) -> Tensor:
    """[h, w] bool: enough neighbours measured the same surface."""
    points = _unproject(view, depth)
    agreeing = torch.zeros(len(points), device=depth.device)
    for other, other_depth in others:
        pixel, expected = _project(other, points)
        height, width = other_depth.shape
        column, row = pixel[:, 0].floor().long(), pixel[:, 1].floor().long()
        inside = (column >= 0) & (row >= 0) & (column < width) & (row < height) & (expected > 0)
        there = other_depth[row.clamp(0, height - 1), column.clamp(0, width - 1)]
        agreeing += inside & ((there - expected).abs() < _AGREEMENT * expected)
    enough = agreeing >= min(_AGREEING, len(others))
    return enough.reshape(depth.shape) & view.opaque


def _fill(depth: Tensor, known: Tensor, view: _Small) -> Tensor:
    """Inverse depth where it is not known: from ever coarser means of what is (pull-push)."""
    weight = known.float()[None, None]
    value = torch.where(known, 1.0 / depth, torch.zeros_like(depth))[None, None]
    levels = [(value, weight)]
    while max(levels[-1][0].shape[-2:]) > 1:
        value, weight = levels[-1]
        levels.append(
            (
                functional.avg_pool2d(value, 2, ceil_mode=True, count_include_pad=False),
                functional.avg_pool2d(weight, 2, ceil_mode=True, count_include_pad=False),
            )
        )
    value, weight = levels[-1]
    full = torch.where(
        weight > 0, value / weight.clamp(min=1e-12), torch.full_like(value, 1.0 / view.far)
    )
    for value, weight in reversed(levels[:-1]):
        wide = functional.interpolate(
            full, size=value.shape[-2:], mode="bilinear", align_corners=False
        )
        own = value / weight.clamp(min=1e-12)
        trust = weight.clamp(max=1.0)
        full = torch.where(weight > 0, trust * own + (1 - trust) * wide, wide)
    return 1.0 / full[0, 0].clamp(min=1e-12)


def _moments(images: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance in a window about each pixel, of images [B, C, h, w]."""
    mean = _box(images)
    return mean, (_box(images * images) - mean * mean).clamp(min=0)


def _box(images: Tensor) -> Tensor:
    """Means over windows of what lies inside the picture, of [B, C, h, w].

    By adding shifted copies: several times faster on a CPU than `avg_pool2d`.
    """
    height, width = images.shape[-2:]
    ones = torch.ones((1, 1, height, width), device=images.device)
    return _window_sums(images) / _window_sums(ones)


def _window_sums(images: Tensor) -> Tensor:
    height, width = images.shape[-2:]
    half = _WINDOW // 2
    padded = functional.pad(images, (half, half, half, half))
    rows = padded[..., :width].clone()
    for shift in range(1, _WINDOW):
        rows += padded[..., shift : shift + width]
    sums = rows[..., :height, :].clone()
    for shift in range(1, _WINDOW):
        sums += rows[..., shift : shift + height, :]
    return sums
