"""Depth supervision: the sparse points of the reconstruction tell how far the surface is.

At the pixels where a training view observes a sparse point, the rendered depth is held to the
point's, as an L1 difference of disparities, as gsplat's trainer does and DS-NeRF (Deng et al. 2022,
arXiv 2107.02791) proposed. It steadies captures with few views.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from splat_assets.poses.pose_model import PoseModel
from splat_assets.training.dataset import TrainingSet

_MAX_ERROR_PX = 2.0  # points of a larger mean reprojection error are not believed
_MIN_ALPHA = 0.5


@dataclass(frozen=True)
class _Targets:
    at: np.ndarray  # [M, 2] float64, position in the picture as fractions of its width and height
    disparity: np.ndarray  # [M] float32, 1 / depth
    trust: np.ndarray  # [M] float32


class SparseDepth:
    """What the training views know of depth."""

    def __init__(self, targets: dict[int, _Targets], *, weight: float) -> None:
        self._targets = targets
        self._weight = weight
        disparities = [t.disparity for t in targets.values()]
        middle = float(np.median(np.concatenate(disparities))) if disparities else 1.0
        self._unit = 1.0 / middle  # the weight means the same in a scene of any scale

    def __len__(self) -> int:
        return sum(len(t.disparity) for t in self._targets.values())

    def loss(self, index: int, depth: Tensor, alpha: Tensor) -> Tensor | None:
        """The weighted mean difference of disparities at the points of view `index`.

        Args:
            depth: [H, W] blended depth Σ w z.
            alpha: [H, W].
        """
        targets = self._targets.get(index)
        if targets is None:
            return None
        height, width = depth.shape
        x = np.minimum((targets.at[:, 0] * width).astype(np.int64), width - 1)
        y = np.minimum((targets.at[:, 1] * height).astype(np.int64), height - 1)
        # one point a pixel, so that the gradients of no two are added in an order of chance
        pixel, first = np.unique(y * width + x, return_index=True)
        where = torch.from_numpy(pixel).to(depth.device)
        wanted = torch.from_numpy(targets.disparity[first]).to(depth.device)
        trust = torch.from_numpy(targets.trust[first]).to(depth.device)
        blended = depth.reshape(-1)[where]
        opacity = alpha.reshape(-1)[where]
        trust = trust * (opacity.detach() > _MIN_ALPHA)
        difference = (opacity / blended.clamp(min=1e-6) - wanted).abs() * self._unit
        return self._weight * (trust * difference).sum() / max(len(pixel), 1)


def load_sparse_depth(poses: PoseModel, data: TrainingSet, *, weight: float) -> SparseDepth | None:
    """The observations of sparse points by the training views; None when there are none."""
    import pycolmap

    model = pycolmap.Reconstruction(str(poses.sparse))
    by_name = {image.name: image for image in model.images.values() if image.has_pose}
    targets = {}
    for index in data.train:
        view = data.views[index]
        image = by_name.get(view.name)
        if image is None:
            continue
        ids = sorted({p.point3D_id for p in image.points2D if p.has_point3D()})
        points = [model.points3D[number] for number in ids]
        points = [p for p in points if 0 <= p.error <= _MAX_ERROR_PX]
        if not points:
            continue
        xyz = np.array([p.xyz for p in points])
        camera = xyz @ view.viewmat[:3, :3].T + view.viewmat[:3, 3]
        pixel = camera @ view.K.T
        with np.errstate(divide="ignore", invalid="ignore"):
            at = pixel[:, :2] / pixel[:, 2:] / [view.width, view.height]
        good = (camera[:, 2] > 1e-6) & (at >= 0).all(axis=1) & (at < 1).all(axis=1)
        errors = np.array([p.error for p in points])
        if good.any():
            targets[index] = _Targets(
                at[good],
                (1.0 / camera[good, 2]).astype(np.float32),
                (1.0 / (1.0 + errors[good])).astype(np.float32),
            )
    return SparseDepth(targets, weight=weight) if targets else None
