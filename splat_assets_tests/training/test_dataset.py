"""Training views: splits, exact scaling of cameras, alpha, masks, and the byte budget."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from splat_assets.errors import UserError
from splat_assets.poses.pose_model import CameraSet, PoseModel
from splat_assets.training import dataset
from splat_assets.training.dataset import choose_split, load_training_set
from splat_assets.training.initialise import initial_gaussians
from splat_assets.training.plane_sweep import DensePoints
from splat_assets.training.scene import frame_from_cameras
from splat_assets_tests.training.scenes import pinhole, ring_viewmats, write_poses

WIDTH, HEIGHT = 60, 40


def disc_pictures(count: int, channels: int = 3) -> list[np.ndarray]:
    """A bright disc of radius 8 px in the middle: with `ring_viewmats`, a ball at the origin."""
    y, x = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    inside = (x - WIDTH / 2) ** 2 + (y - HEIGHT / 2) ** 2 < 8**2
    picture = np.full((HEIGHT, WIDTH, channels), 40, np.uint8)
    picture[inside] = [200, 100, 50, 255][:channels]
    if channels == 4:
        picture[~inside] = [255, 0, 255, 0]  # colours under zero alpha must not leak
    return [picture.copy() for _ in range(count)]


def make_poses(folder: Path, count: int = 9, channels: int = 3, **kwargs: object) -> PoseModel:
    empty = np.zeros((0, 3))
    return write_poses(
        folder,
        disc_pictures(count, channels),
        ring_viewmats(count),
        pinhole(WIDTH, HEIGHT),
        kwargs.pop("xyz", empty),
        kwargs.pop("colours", empty),
        **kwargs,
    )


def cameras(count: int, is_test: tuple[int, ...] = ()) -> CameraSet:
    flags = np.zeros(count, bool)
    flags[list(is_test)] = True
    names = tuple(f"{i:03d}.jpg" for i in range(count))
    return CameraSet(
        names, np.zeros((count, 4, 4)), np.zeros((count, 3, 3)), *[np.zeros(1)] * 2, flags
    )


def test_split() -> None:
    assert np.flatnonzero(choose_split(cameras(20), 8)).tolist() == [0, 8, 16]
    assert np.flatnonzero(choose_split(cameras(20, (3, 4)), 8)).tolist() == [3, 4]
    assert not choose_split(cameras(20, (3, 4)), 0).any()
    assert not choose_split(cameras(3), 8).any()  # too few to hold one out
    assert choose_split(cameras(4), 8).sum() == 1


def test_cameras_scale_with_the_pictures(tmp_path: Path) -> None:
    """A point falls on the same relative place at any size."""
    data = load_training_set(make_poses(tmp_path / "p"), long_side=40, test_every=8)
    assert (data.views[0].width, data.views[0].height) == (40, 27)
    for factor in (1.0, 0.5):
        sample = data.sample(0, factor=factor)
        assert sample.image.shape == (sample.height, sample.width, 3)
        np.testing.assert_allclose(
            sample.K[0, :2, 2], [sample.width / 2, sample.height / 2], rtol=1e-6
        )
        np.testing.assert_allclose(sample.K[0, 0, 0] / sample.width, 1.1, rtol=1e-6)
    larger = load_training_set(make_poses(tmp_path / "q"), long_side=4000, test_every=8)
    assert larger.views[0].width == WIDTH  # never enlarged


def test_alpha_goes_over_the_background(tmp_path: Path) -> None:
    data = load_training_set(make_poses(tmp_path / "p", channels=4), long_side=30, test_every=8)
    assert data.has_alpha
    green = torch.tensor([0.0, 1.0, 0.0])
    for factor in (1.0, 0.5):
        image = data.sample(1, factor=factor, background=green).image
        np.testing.assert_allclose(image[0, 0], green, atol=1e-6)
        middle = image[image.shape[0] // 2, image.shape[1] // 2]
        np.testing.assert_allclose(middle * 255, [200, 100, 50], atol=1.5)
        assert image[..., 2].max() <= 60 / 255  # no blue from under the transparent pixels
    assert data.alpha(1).max() == 255


def test_masks(tmp_path: Path) -> None:
    masks = [np.zeros((HEIGHT, WIDTH), np.uint8) for _ in range(9)]
    for mask in masks:
        mask[:, 30:] = 255
    poses = make_poses(tmp_path / "p", masks=masks)
    data = load_training_set(poses, long_side=60, test_every=8)
    mask = data.sample(2).mask
    assert mask is not None
    np.testing.assert_array_equal(mask[:, :30], 0)
    np.testing.assert_array_equal(mask[:, 30:], 1)


@pytest.mark.parametrize("budget", [0, 15_000, 10**9])
def test_the_byte_budget_changes_no_pixel(tmp_path: Path, budget: int) -> None:
    poses = make_poses(tmp_path / "p")
    reference = load_training_set(poses, long_side=60, test_every=8)
    data = load_training_set(poses, long_side=60, test_every=8, cache_bytes=budget)
    for _ in range(2):
        for factor in (0.5, 1.0):
            for index in range(9):
                data.prefetch((index + 1) % 9, factor)
                image = data.sample(index, factor=factor).image
                assert torch.equal(image, reference.sample(index, factor=factor).image)
                assert data._store._used <= budget
    data.close()


def test_missing_and_broken_images_are_named(tmp_path: Path) -> None:
    poses = make_poses(tmp_path / "p")
    (poses.images / "view_03.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match="view_03"):
        load_training_set(poses, long_side=60, test_every=8).sample(3)
    (poses.images / "view_03.png").unlink()
    with pytest.raises(UserError, match=r"view_03.*missing"):
        load_training_set(poses, long_side=60, test_every=8)


def initial(data, points, *, budget: int = 1000, dense: DensePoints | None = None):
    frame = frame_from_cameras(data.views, points.xyz)
    settings = {"sh_degree": 3, "init_opacity": 0.1, "init_scale": 1.0, "seed": 0}
    return initial_gaussians(data, points, frame, budget=budget, dense=dense, **settings)


def test_alpha_carves_the_start(tmp_path: Path) -> None:
    """Without points, the start lies on the ball that the silhouettes show, in its colours."""
    poses = make_poses(tmp_path / "p", channels=4)
    data = load_training_set(poses, long_side=60, test_every=0)
    tensors, origin = initial(data, poses.points())
    assert "visual hull" in origin
    distance = tensors["means"].norm(dim=1)
    radius = 8 / (1.1 * WIDTH) * np.hypot(4, 1)  # of the ball
    assert distance.max() < 1.6 * radius
    assert distance.median() > 0.5 * radius
    rgb = 0.5 + 0.28209479 * tensors["sh0"][:, 0]
    np.testing.assert_allclose(rgb.median(dim=0).values * 255, [200, 100, 50], atol=3)


def test_without_points_or_alpha_the_start_is_where_cameras_look(tmp_path: Path) -> None:
    poses = make_poses(tmp_path / "p")
    data = load_training_set(poses, long_side=60, test_every=0)
    tensors, origin = initial(data, poses.points())
    assert "random" in origin
    assert len(tensors["means"]) == 1000
    assert tensors["means"].norm(dim=1).median() < 4
    assert all(torch.isfinite(tensor).all() for tensor in tensors.values())


def test_points_are_taken_with_their_spacing_and_within_the_budget(tmp_path: Path) -> None:
    grid = np.stack(np.meshgrid(*[np.arange(10.0)] * 3), -1).reshape(-1, 3) * 0.1
    colours = np.full(grid.shape, 128, np.uint8)
    poses = make_poses(tmp_path / "p", xyz=grid, colours=colours)
    data = load_training_set(poses, long_side=60, test_every=0)
    tensors, _ = initial(data, poses.points(), budget=5000)
    assert len(tensors["means"]) == 1000
    np.testing.assert_allclose(tensors["scales"].exp(), 0.1, rtol=1e-3)
    assert len(initial(data, poses.points(), budget=200)[0]["means"]) == 200


def test_stereo_fills_where_sparse_points_leave_gaps(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    sparse = rng.uniform((-1, -1, 0), (0, 1, 0), (600, 3))  # of a square's left half
    poses = make_poses(tmp_path / "p", xyz=sparse, colours=np.full((600, 3), 128, np.uint8))
    data = load_training_set(poses, long_side=60, test_every=0)
    xyz = rng.uniform((-1, -1, 0), (1, 1, 0), (20_000, 3))
    dense = DensePoints(xyz, np.full(xyz.shape, 0.5), np.ones(len(xyz), bool))
    means = initial(data, poses.points(), budget=1000, dense=dense)[0]["means"].numpy()
    assert len(means) == 850  # though the sparse ones alone are more than half of the budget
    assert (means[600:, 0] > 0).mean() > 0.65  # half, were they drawn evenly
    means = initial(data, poses.points(), budget=4000, dense=dense)[0]["means"].numpy()
    assert len(means) == 2000
    assert (means[600:, 0] > 0).mean() > 0.53
    assert "stereo" not in initial(data, poses.points(), budget=650, dense=dense)[1]


def test_a_view_is_kept_in_one_reduced_size(tmp_path: Path) -> None:
    """The resolution ramp must not leave every size of every picture behind."""
    data = load_training_set(make_poses(tmp_path / "p"), long_side=60, test_every=8)
    full = 60 * 40 * 3
    for factor in (0.25, 0.5):
        data.sample(1, factor=factor)
        assert data._store._used == full + int(full * factor**2)
    data.sample(1)
    assert data._store._used == full
    data.close()


def test_reduced_views_make_room_for_full_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No more than three bytes a pixel of all views, whatever the ramp leaves behind."""
    monkeypatch.setattr(dataset, "_SMALL_CACHE_BYTES", 0)
    data = load_training_set(make_poses(tmp_path / "p"), long_side=60, test_every=8)
    whole = len(data) * 60 * 40 * 3
    reduced = [data.sample(index, factor=0.5).image for index in range(len(data))]
    assert data._store._used <= whole
    for index, image in enumerate(reduced):
        data.sample(index)
        assert data._store._used <= whole
        assert torch.equal(data.sample(index, factor=0.5).image, image)
    assert all((index, (60, 40)) in data._store._kept for index in range(len(data)))
    data.close()
