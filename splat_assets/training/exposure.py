"""Exposure compensation: each training photo has an affine map of its colours of its own.

Cameras that set exposure and white balance by themselves show one surface in many colours; without
compensation the splat explains that by fog and view-dependent colour. The map of the splat's
colours to those of a photo is learnt with the splat, as in "Reconstructing and rendering large
scenes" (hierarchical 3DGS, Kerbl et al. 2024, arXiv 2406.12080). It begins with what the sparse
points tell: each shows its colour in several photos, so gains that explain them best need no splat.
The mean map stays what it was, so the splat keeps the mean exposure of its photos, and held-out
photos are compared with it as it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from splat_assets.rendering.affine import affine_colours
from splat_assets.training.dataset import TrainingSet
from splat_assets.training.row_adam import RowAdam
from splat_assets.training.tracks import Sightings

# of the gains; fixed exposure shows less than half a percent. A splat takes up a few percent by
# itself and held-out photos, not compensated, then come out better: photos_banana (3 %) gained 0.2
# and lost 1.1 dB on two splits, video_walkaround lost 0.4
_MIN_SPREAD = 0.08
_MIN_SIGHTINGS = 20  # of a view, below which its gain is not believed
_DARK, _BRIGHT = 0.04, 0.96  # colours beyond are clipped, and tell nothing of the exposure
_TRAVEL = 1.5  # first rate × visits of a view: with the decay each number can move by about 0.3
_MAX_RATE = 0.03
_FINAL = 0.01  # rate at the end of the run, of the first
_WEIGHT = 1e-3  # of the squared residuals, in the loss


class Exposure:
    """Maps [N, 3, 4], one a training view."""

    def __init__(
        self, views: list[int], gains: np.ndarray, *, steps: int, device: str = "cpu"
    ) -> None:
        """
        Args:
            views: the indices of the training views.
            gains: [N, 3] factors of R, G and B to begin with.
        """
        self._row_of = {index: row for row, index in enumerate(views)}
        self._steps = max(1, steps)
        visits = max(1.0, steps / max(1, len(views)))
        self._rate = min(_MAX_RATE, _TRAVEL / visits)
        self._table = RowAdam(len(views), 12, device)
        # residuals on what it begins with
        self._start = torch.zeros(len(views), 3, 4, device=device)
        self._start[:, [0, 1, 2], [0, 1, 2]] = torch.from_numpy(gains).float().to(device)
        self._leaf: tuple[int, Tensor] | None = None

    def apply(self, index: int, image: Tensor) -> Tensor:
        """The render [H, W, 3] of view `index` as its camera would have exposed it."""
        row = self._row_of[index]
        matrix = (self._start[row] + self._table.values[row].view(3, 4)).requires_grad_()
        self._leaf = row, matrix
        return affine_colours(image, matrix)

    @torch.no_grad()
    def step(self, step: int) -> None:
        """After the backward pass of the view last applied."""
        leaf, self._leaf = self._leaf, None
        if leaf is None:
            return
        row, matrix = leaf
        if matrix.grad is None:
            return
        gradient = matrix.grad.view(-1) + 2 * _WEIGHT * self._table.values[row]
        change = self._table.step(row, gradient, self._rate * _FINAL ** (step / self._steps))
        self._table.values -= change / len(self._table.values)

    def matrices(self) -> np.ndarray:
        """[N, 3, 4] in the order of the training views."""
        return (self._start + self._table.values.view(-1, 3, 4)).cpu().numpy()

    def spread(self) -> float:
        """Standard deviation over views of how bright a mid-grey becomes, as a fraction of it."""
        matrices = self.matrices().astype(np.float64)
        grey = (matrices[:, :, :3].sum(axis=2) * 0.5 + matrices[:, :, 3]).mean(axis=1)
        return float(np.std(grey / 0.5))

    def state_dict(self) -> dict[str, Any]:
        return self._table.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._table.load_state_dict(state)


@dataclass(frozen=True)
class Gains:
    """By how much the colours of the training photos differ."""

    factors: np.ndarray  # [N, 3] of R, G, B; geometric mean 1
    error: float  # standard error of the logarithm of a view's mean factor

    @property
    def vary(self) -> bool:
        """Whether the exposure changed from photo to photo beyond doubt."""
        spread = float(np.log(self.factors).mean(axis=1).std())
        return spread > max(_MIN_SPREAD, 3 * self.error)


def estimate_gains(data: TrainingSet, sightings: dict[int, Sightings]) -> Gains:
    """The gains of the training photos, from the colours of the sparse points in each of them.

    Fitted to log colour = log colour of the point + log gain of the view, robustly (points shine,
    and some tracks are wrong). 1 for views that see too few points, and for all without points.
    """
    n = len(data.train)
    factors = np.ones((n, 3))
    views, points, colours = _colours(data, sightings)
    times = np.bincount(views, minlength=n)
    known = times >= _MIN_SIGHTINGS
    if not known.any():
        return Gains(factors, 0.0)
    logs = np.log(colours)
    weight = np.ones(len(logs))
    log_gain = np.zeros((n, 3))
    count = int(points.max()) + 1
    for _ in range(30):
        of_point = _weighted_means(points, weight, logs - log_gain[views], count)
        log_gain = _weighted_means(views, weight, logs - of_point[points], n)
        log_gain -= log_gain.mean(axis=0)
        residual = logs - of_point[points] - log_gain[views]
        size = np.abs(residual).max(axis=1)
        weight = 1.0 / (1.0 + (size / (1.5 * max(float(np.median(size)), 1e-3))) ** 2)
    factors[known] = np.exp(log_gain[known] - log_gain[known].mean(axis=0))
    variance = float(np.average(residual.mean(axis=1) ** 2, weights=weight))
    return Gains(factors, float(np.sqrt(variance / np.median(times[known]))))


def _colours(
    data: TrainingSet, sightings: dict[int, Sightings]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Row of the view [M], number of the point [M] and colour [M, 3] of every usable sighting of a
    point that several views see."""
    views, points, colours = [], [], []
    for row, index in enumerate(data.train):
        seen = sightings.get(index)
        if seen is None:
            continue
        # half the size: a keypoint lies on an edge, and its one pixel tells little
        pixels = data.sample(index, factor=0.5).image.numpy()
        x, y = (seen.at * [pixels.shape[1], pixels.shape[0]]).astype(np.int64).T
        colour = pixels[y, x].astype(np.float64)
        usable = (colour.min(axis=1) > _DARK) & (colour.max(axis=1) < _BRIGHT)
        views.append(np.full(int(usable.sum()), row))
        points.append(seen.points[usable])
        colours.append(colour[usable])
    if not views:
        return np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros((0, 3))
    view, point, colour = (np.concatenate(parts) for parts in (views, points, colours))
    _, point, times = np.unique(point, return_inverse=True, return_counts=True)
    several = times[point] >= 2
    return view[several], point[several], colour[several]


def _weighted_means(
    group: np.ndarray, weight: np.ndarray, values: np.ndarray, count: int
) -> np.ndarray:
    """[count, 3] means of `values` [M, 3] by group; 0 for groups without any."""
    total = np.maximum(np.bincount(group, weight, count), 1e-12)
    sums = [np.bincount(group, weight * column, count) for column in values.T]
    return np.stack(sums, axis=1) / total[:, None]
