"""The Gaussians a run starts from: sparse points, points found by stereo, random fill elsewhere.

Pictures with alpha need no points: candidates that some picture shows as transparent are carved
away (a visual hull), and what remains is coloured from the pictures.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy.spatial import cKDTree
from torch import Tensor

from splat_assets.gaussians.gaussians import SH_REST
from splat_assets.gaussians.sh import rgb_to_sh0
from splat_assets.poses.pose_model import SparsePoints
from splat_assets.training.dataset import TrainingSet
from splat_assets.training.plane_sweep import DensePoints
from splat_assets.training.scene import SceneFrame, camera_centers

MIN_POINTS = 500  # fewer sparse points than this are filled up at random
_FILL = 5_000
# of the budget, where there are dense points: started with, at least dense, and at most in all (the
# rest grows where it is needed, which fits views that were held out better than more at the start)
_START, _DENSE, _MOST = 0.5, 0.25, 0.9
_FILLED_IN = 0.03  # weight of a dense point that was not measured, but filled in
_GRID = 72  # cells a side of the carving grid


def initial_gaussians(
    data: TrainingSet,
    points: SparsePoints,
    frame: SceneFrame,
    *,
    budget: int,
    sh_degree: int,
    init_opacity: float,
    init_scale: float,
    seed: int,
    dense: DensePoints | None = None,
) -> tuple[dict[str, Tensor], str]:
    """Parameters by name (float32, CPU, before activation), and one sentence on their origin.

    With `dense` points a part of the budget is left to grow into.
    """
    rng = np.random.default_rng(seed)
    xyz, rgb = _usable(points)
    origin = f"{len(xyz)} sparse points"
    if dense is not None and len(dense):
        xyz, rgb, origin = _with_dense(xyz, rgb, dense, budget, rng)
    elif len(xyz) < min(MIN_POINTS, budget):
        count = min(_FILL, budget) - len(xyz)
        if data.has_alpha:
            extra, how = _carved_points(data, frame, count, rng), "points of the visual hull"
        else:
            extra, how = _common_volume(data, frame, count, rng), "random points"
        colours = mean_colours(data, extra)
        xyz, rgb = np.concatenate([xyz, extra]), np.concatenate([rgb, colours])
        origin = f"{origin} and {len(extra)} {how}"
    if len(xyz) > budget:
        keep = np.sort(rng.choice(len(xyz), budget, replace=False))
        xyz, rgb = xyz[keep], rgb[keep]
        origin = f"{budget} of {origin}"
    spacing = neighbour_distance(xyz, frame.extent)
    n = len(xyz)
    scales = np.repeat(np.log(spacing * init_scale)[:, None], 3, axis=1)
    tensors = {
        "means": xyz,
        "scales": scales,
        "quats": rng.normal(size=(n, 4)),
        "opacities": np.full(n, np.log(init_opacity / (1 - init_opacity))),
        "sh0": rgb_to_sh0(rgb)[:, None, :],
        "shN": np.zeros((n, SH_REST[sh_degree], 3)),
    }
    return {name: torch.from_numpy(np.float32(array)) for name, array in tensors.items()}, origin


def _with_dense(
    xyz: np.ndarray, rgb: np.ndarray, dense: DensePoints, budget: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, str]:
    """All sparse points, and dense ones where there are few of them."""
    wanted = max(int(_START * budget) - len(xyz), int(_DENSE * budget))
    wanted = min(wanted, int(_MOST * budget) - len(xyz), len(dense))
    if wanted <= 0:
        return xyz, rgb, f"{len(xyz)} sparse points"
    weight = np.where(dense.sure, 1.0, _FILLED_IN) * _apartness(dense.xyz, xyz, wanted, rng)
    chosen = np.sort(rng.choice(len(dense), wanted, replace=False, p=weight / weight.sum()))
    return (
        np.concatenate([xyz, dense.xyz[chosen]]),
        np.concatenate([rgb, dense.rgb[chosen]]),
        f"{len(xyz)} sparse points and {wanted} found by stereo",
    )


def _apartness(
    xyz: np.ndarray, others: np.ndarray, wanted: int, rng: np.random.Generator
) -> np.ndarray:
    """[N] in 0..1: how far each point is from `others`, 1 from where `wanted` of the points would
    lie apart."""
    if not len(others):
        return np.ones(len(xyz))
    looked_at = xyz[rng.choice(len(xyz), min(500, len(xyz)), replace=False)]
    spacing = float(np.median(cKDTree(xyz).query(looked_at, k=2)[0][:, -1]))
    apart = max(spacing * np.sqrt(len(xyz) / wanted), 1e-12)
    return np.clip(cKDTree(others).query(xyz)[0] / apart, 0.02, 1.0)


def neighbour_distance(xyz: np.ndarray, extent: float) -> np.ndarray:
    """[N] mean distance to the three nearest other points, kept within sane bounds."""
    n = len(xyz)
    if n < 2:
        return np.full(n, 0.05 * extent)
    k = min(4, n)
    distances = cKDTree(xyz).query(xyz, k=k)[0][:, 1:]
    spacing = np.sqrt((distances**2).mean(axis=1))
    # an isolated outlier must not become a Gaussian that covers the scene
    return np.clip(spacing, 1e-5 * extent, min(0.2 * extent, 10 * float(np.median(spacing)) + 1e-9))


def mean_colours(data: TrainingSet, xyz: np.ndarray, max_views: int = 16) -> np.ndarray:
    """[N, 3] mean colour in 0..1 of the pixels the points fall on, grey where no view sees them."""
    total = np.zeros((len(xyz), 3))
    seen = np.zeros(len(xyz))
    chosen = np.linspace(0, len(data.train) - 1, min(max_views, len(data.train))).round()
    for index in dict.fromkeys(data.train[int(i)] for i in chosen):
        pixel, inside = _project(data, index, xyz)
        sample = data.sample(index)
        values = sample.image.numpy()[pixel[inside, 1], pixel[inside, 0]]
        weight = np.ones(len(values))
        alpha = data.alpha(index)
        if alpha is not None:
            weight = alpha[pixel[inside, 1], pixel[inside, 0]] / 255.0
        total[inside] += values  # premultiplied, so already weighted
        seen[inside] += weight
    colours = np.full((len(xyz), 3), 0.5)
    known = seen > 0.25
    colours[known] = total[known] / seen[known, None]
    return np.clip(colours, 0.0, 1.0)


def _usable(points: SparsePoints) -> tuple[np.ndarray, np.ndarray]:
    finite = np.isfinite(points.xyz).all(axis=1)
    return points.xyz[finite].astype(np.float64), points.rgb[finite] / 255.0


def _project(data: TrainingSet, index: int, xyz: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Integer pixels [N, 2] (x, y) in view `index`, and [N] bool: in front and inside."""
    view = data.views[index]
    camera = xyz @ view.viewmat[:3, :3].T + view.viewmat[:3, 3]
    depth = camera[:, 2]
    ahead = depth > 1e-6
    image = camera @ view.K.T
    pixel = np.full((len(xyz), 2), -1, dtype=np.int64)
    pixel[ahead] = np.floor(image[ahead, :2] / depth[ahead, None]).clip(-1, 1 << 30)
    inside = ahead & (pixel >= 0).all(axis=1)
    inside &= (pixel[:, 0] < view.width) & (pixel[:, 1] < view.height)
    return pixel, inside


def _common_volume(
    data: TrainingSet, frame: SceneFrame, count: int, rng: np.random.Generator
) -> np.ndarray:
    """Random points that at least two cameras (or a third of them) see, denser near the focus."""
    centers = camera_centers([data.views[i] for i in data.train])
    reach = float(np.median(np.linalg.norm(centers - frame.center, axis=1)))
    needed = max(2, len(data.train) // 3)
    found: list[np.ndarray] = []
    for attempt in range(8):
        directions = rng.normal(size=(8 * count, 3))
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
        # uniform in the inner ball, thinning out to two camera distances
        radius = reach * rng.uniform(size=(len(directions), 1)) ** (1 / 3) * (0.5 + 0.2 * attempt)
        points = frame.center + directions * radius
        votes = sum(_project(data, index, points)[1].astype(int) for index in data.train)
        found.append(points[votes >= min(needed, len(data.train))])
        if sum(map(len, found)) >= count:
            break
    points = np.concatenate(found)[:count]
    if len(points) < count:  # the cameras hardly overlap: fill round what they look at
        more = frame.center + rng.normal(size=(count - len(points), 3)) * 0.3 * reach
        points = np.concatenate([points, more])
    return points


def _carved_points(
    data: TrainingSet, frame: SceneFrame, count: int, rng: np.random.Generator
) -> np.ndarray:
    """Random points near the surface of the visual hull of the alpha channels."""
    centers = camera_centers([data.views[i] for i in data.train])
    center = frame.center
    half = 0.6 * float(np.median(np.linalg.norm(centers - center, axis=1)))
    for _ in range(2):  # the second pass spends the grid on what the first found
        axis = (np.arange(_GRID) + 0.5) / _GRID * 2 - 1
        cells = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1).reshape(-1, 3)
        cells = center + cells * half
        inside = _in_hull(data, cells)
        if not inside.any():
            return _common_volume(data, frame, count, rng)
        low, high = cells[inside].min(axis=0), cells[inside].max(axis=0)
        cell = 2 * half / _GRID
        center, half = (low + high) / 2, float((high - low).max()) / 2 + 2 * cell
    solid = inside.reshape(_GRID, _GRID, _GRID)
    core = solid.copy()
    for axis_index in range(3):
        core &= np.roll(solid, 1, axis_index) & np.roll(solid, -1, axis_index)
    shell = cells[(solid & ~core).reshape(-1)]
    chosen = shell[rng.integers(0, len(shell), count)]
    return chosen + rng.uniform(-0.5, 0.5, size=chosen.shape) * cell


def _in_hull(data: TrainingSet, xyz: np.ndarray) -> np.ndarray:
    """[N] bool: enough views see the point, and none of them shows it as transparent."""
    hull = np.ones(len(xyz), dtype=bool)
    seen = np.zeros(len(xyz), dtype=np.int64)
    for index in data.train:
        alpha = data.alpha(index)
        if alpha is None:
            continue
        alive = np.flatnonzero(hull)
        pixel, inside = _project(data, index, xyz[alive])
        opaque = alpha[pixel[inside, 1], pixel[inside, 0]] > 8
        hull[alive[inside][~opaque]] = False
        seen[alive[inside]] += 1
    return hull & (seen >= max(1, len(data.train) // 4))
