"""Stereo points on a scene whose surfaces are known; blur and budget, which are as small."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from splat_assets.poses.pose_model import PoseModel
from splat_assets.progress import silent
from splat_assets.training.blur import blurred
from splat_assets.training.budget import automatic_budget
from splat_assets.training.dataset import load_training_set
from splat_assets.training.plane_sweep import dense_points
from splat_assets.training.scene import frame_from_cameras
from splat_assets_tests.training.scenes import CPU, make_scene, pinhole, write_poses

SIZE = (96, 72)


def textured_wall(folder: Path, distance: float = 5.0, points: bool = True) -> PoseModel:
    """A slanted, textured plane z = distance + x / 4, from six cameras side by side."""
    width, height = SIZE
    K = pinhole(width, height)
    rng = np.random.default_rng(0)
    waves = rng.normal(size=(12, 2)) * 12.0
    phases = rng.uniform(0, 6, size=(12, 3))
    pictures, viewmats = [], []
    x, y = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    rays = np.stack([x, y, np.ones_like(x)], -1) @ np.linalg.inv(K).T
    for i in range(6):
        center = np.array([0.3 * (i - 2.5), 0.0, 0.0])
        t = (distance + center[0] / 4) / (1 - rays[..., 0] / 4)
        hit = center + rays * t[..., None]
        pattern = np.cos((hit[..., :2] @ waves.T)[..., None] + phases).mean(axis=2)
        pictures.append(np.uint8(np.clip(127 + 220 * pattern, 0, 255)))
        viewmat = np.eye(4)
        viewmat[:3, 3] = -center
        viewmats.append(viewmat)
    xy = rng.uniform(-1.5, 1.5, size=(80 if points else 0, 2))
    xyz = np.concatenate([xy, distance + xy[:, :1] / 4], axis=1)
    return write_poses(
        folder, pictures, np.array(viewmats), K, xyz, np.full((len(xyz), 3), 127, np.uint8)
    )


def sweep(poses: PoseModel) -> tuple:
    data = load_training_set(poses, long_side=SIZE[0], test_every=0)
    sparse = poses.points().xyz
    frame = frame_from_cameras(data.views, sparse)
    return data, dense_points(data, sparse, frame, wanted=1000, device="cpu", progress=silent())


def test_a_slanted_wall_is_found(tmp_path: Path) -> None:
    data, found = sweep(textured_wall(tmp_path / "p"))
    assert len(found) == len(data.train) * SIZE[0] * SIZE[1]
    off = np.abs(found.xyz[:, 2] - 5.0 - found.xyz[:, 0] / 4)
    assert found.sure.mean() > 0.5
    assert np.median(off[found.sure]) < 0.04
    assert np.quantile(off[found.sure], 0.9) < 0.25
    assert np.median(off[~found.sure]) < 0.5  # filled in from its surroundings
    # colours are the pictures'
    assert found.rgb.min() >= 0 and found.rgb.max() <= 1 and found.rgb.std() > 0.1


def test_it_says_the_same_twice(tmp_path: Path) -> None:
    poses = textured_wall(tmp_path / "p")
    np.testing.assert_array_equal(sweep(poses)[1].xyz, sweep(poses)[1].xyz)


def test_nothing_behind_transparent_pixels(tmp_path: Path) -> None:
    poses = make_scene(tmp_path / "p", alpha=True, points=False)
    data = load_training_set(poses, long_side=64, test_every=8)
    frame = frame_from_cameras(data.views, np.zeros((0, 3)))
    found = dense_points(
        data, np.zeros((0, 3)), frame, wanted=1000, device="cpu", progress=silent()
    )
    share = np.mean([(data.alpha(index) > 127).mean() for index in data.train])
    assert abs(len(found) - share * len(data.train) * 64 * 48) < 50
    assert np.isfinite(found.xyz).all()


def test_blur_is_a_mean_of_what_counts() -> None:
    image = torch.rand(20, 30, 3, generator=torch.Generator().manual_seed(0))
    constant = torch.full((20, 30, 3), 0.3)
    torch.testing.assert_close(blurred(constant, None, 2.0), constant)
    assert blurred(image, None, 2.0).std() < 0.5 * image.std()
    spoilt, mask = constant.clone(), torch.ones(20, 30)
    spoilt[:, :10], mask[:, :10] = 1.0, 0.0
    torch.testing.assert_close(blurred(spoilt, mask, 2.0)[:, 10:], constant[:, 10:])


def test_budget_follows_the_pixels(tmp_path: Path) -> None:
    poses = make_scene(tmp_path / "p", size=(512, 384), views=5)
    budgets = []
    for long_side in (64, 256, 512):
        data = load_training_set(poses, long_side=long_side, test_every=0)
        budgets.append(automatic_budget(data, CPU))
    assert budgets[0] == 5000  # the least
    assert budgets[2] == 512 * 384 * 5**0.5 // 12
    assert budgets == sorted(budgets)
