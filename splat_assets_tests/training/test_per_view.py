"""Exposure, camera corrections and sparse depths: each finds what was put in, and nothing where
there is nothing to find."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from splat_assets.datasets.options import TrainOptions
from splat_assets.errors import Cancelled
from splat_assets.gaussians.splat_model import SplatModel
from splat_assets.poses.pose_model import PoseModel
from splat_assets.rendering.affine import affine_colours
from splat_assets.training.dataset import load_training_set
from splat_assets.training.depth import SparseDepth
from splat_assets.training.exposure import Exposure, estimate_gains
from splat_assets.training.pose_refinement import PoseRefinement
from splat_assets.training.row_adam import RowAdam
from splat_assets.training.tracks import Sightings, load_sightings
from splat_assets_tests.training.scenes import make_scene, ring_viewmats
from splat_assets_tests.training.test_train import cancel_at, train

VIEWS = 24
HELD_OUT = np.arange(0, VIEWS, 6)
TEST_IMAGES = tuple(f"view_{i:02d}.png" for i in HELD_OUT)
OPTIONS = TrainOptions(steps=300, max_gaussians=600, long_side=64, sh_degree=1, strategy="mcmc")


def uneven_gains() -> np.ndarray:
    """[VIEWS, 3]: what a camera that exposes by itself does; the held-out pictures are even."""
    rng = np.random.default_rng(0)
    gains = np.exp(rng.normal(0, 0.15, (VIEWS, 1)) + rng.normal(0, 0.03, (VIEWS, 3)))
    gains[HELD_OUT] = 1.0
    return gains


def pose_errors() -> np.ndarray:
    """[VIEWS, 4, 4] motions of about half a degree and one percent of the distance."""
    rng = np.random.default_rng(0)
    motions = np.tile(np.eye(4), (VIEWS, 1, 1))
    motions[:, :3, :3] = Rotation.from_rotvec(rng.normal(0, 0.01, (VIEWS, 3))).as_matrix()
    motions[:, :3, 3] = rng.normal(0, 0.04, (VIEWS, 3))
    motions[HELD_OUT] = np.eye(4)
    return motions


@pytest.fixture(scope="module")
def even(tmp_path_factory: pytest.TempPathFactory) -> PoseModel:
    folder = tmp_path_factory.mktemp("even")
    return make_scene(folder / "p", views=VIEWS, tracks=True, test_images=TEST_IMAGES)


@pytest.fixture(scope="module")
def uneven(tmp_path_factory: pytest.TempPathFactory) -> PoseModel:
    folder = tmp_path_factory.mktemp("uneven")
    gains = uneven_gains()
    return make_scene(folder / "p", views=VIEWS, tracks=True, gains=gains, test_images=TEST_IMAGES)


def test_affine_colours_and_their_gradients() -> None:
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(37, 21, 3, generator=generator).requires_grad_()
    matrix = torch.randn(3, 4, generator=generator).requires_grad_()
    weight = torch.randn(37, 21, 3, generator=generator)
    found = affine_colours(image, matrix)
    (found * weight).sum().backward()
    gradients = image.grad, matrix.grad
    image.grad = matrix.grad = None
    expected = image @ matrix[:, :3].T + matrix[:, 3]
    (expected * weight).sum().backward()
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(gradients[0], image.grad)
    torch.testing.assert_close(gradients[1], matrix.grad)


def test_row_adam_is_adam_for_each_row() -> None:
    """Each row moves as it would under torch's Adam that sees only its own visits."""
    generator = torch.Generator().manual_seed(0)
    table = RowAdam(3, 4)
    alone = [torch.zeros(4, requires_grad=True) for _ in range(3)]
    adams = [torch.optim.Adam([row], lr=0.1, eps=1e-12) for row in alone]
    for step in range(20):
        row = (step * step) % 3
        gradient = torch.randn(4, generator=generator)
        table.step(row, gradient, 0.1)
        alone[row].grad = gradient.clone()
        adams[row].step()
    torch.testing.assert_close(table.values, torch.stack(alone).detach())
    before = table.values.clone()
    table.step(0, torch.full((4,), torch.nan), 0.1)
    assert torch.equal(table.values, before)


def test_gains_are_read_from_the_points(even: PoseModel, uneven: PoseModel) -> None:
    data = load_training_set(uneven, long_side=64, test_every=8)
    found = estimate_gains(data, load_sightings(uneven, data))
    truth = np.log(uneven_gains()[data.train])
    error = np.log(found.factors) - (truth - truth.mean(axis=0))
    assert found.vary
    assert error.std() < 0.2 * truth.std()
    assert 0.2 < np.log(found.factors).mean(axis=1).std() / truth.mean(axis=1).std() < 1.2
    data = load_training_set(even, long_side=64, test_every=8)
    assert not estimate_gains(data, load_sightings(even, data)).vary
    nothing = estimate_gains(data, {})
    assert not nothing.vary
    np.testing.assert_array_equal(nothing.factors, 1.0)


def test_exposure_wins_where_it_changed(uneven: PoseModel, tmp_path: Path) -> None:
    off = train(uneven, tmp_path / "off", OPTIONS.model_copy(update={"exposure": "off"}))
    auto = train(uneven, tmp_path / "auto", OPTIONS)
    assert auto.summary["psnr_db"] > off.summary["psnr_db"] + 0.3
    assert auto.summary["exposure_spread"] == pytest.approx(0.12, abs=0.04)
    assert "exposure_spread" not in off.summary


def test_exposure_changes_nothing_where_it_did_not(even: PoseModel, tmp_path: Path) -> None:
    options = OPTIONS.model_copy(update={"steps": 30})
    off = train(even, tmp_path / "off", options.model_copy(update={"exposure": "off"}))
    auto = train(even, tmp_path / "auto", options)
    assert auto.ply.read_bytes() == off.ply.read_bytes()


def test_the_mean_exposure_stays() -> None:
    exposure = Exposure([4, 5, 6], np.ones((3, 3)), steps=100)
    for step in range(30):
        image = torch.full((4, 4, 3), 0.5, requires_grad=True)
        # every photo is darker than the splat: that is the splat's to learn
        exposure.apply(4 + step % 3, image).sum().backward()
        exposure.step(step)
    np.testing.assert_allclose(exposure.matrices().mean(axis=0), np.eye(3, 4), atol=1e-6)


def camera_errors(splat: SplatModel) -> tuple[float, float]:
    """Median distance of training camera centres from the true ones, as they are; and the mean
    distance in pixels between where points of the scene fall and where they should."""
    views = splat.views()
    rows = [i for i, view in enumerate(views) if not view.is_test]
    found = np.stack([views[i].viewmat for i in rows])
    true = ring_viewmats(VIEWS)[rows]
    K = views[0].K
    points = np.random.default_rng(1).normal(size=(200, 3)) * 0.35

    def pixels(viewmats: np.ndarray) -> np.ndarray:
        camera = np.einsum("nij,pj->npi", viewmats[:, :3, :3], points) + viewmats[:, None, :3, 3]
        image = camera @ K.T
        return image[..., :2] / image[..., 2:]

    def centers(viewmats: np.ndarray) -> np.ndarray:
        return -np.einsum("nji,nj->ni", viewmats[:, :3, :3], viewmats[:, :3, 3])

    moved = np.linalg.norm(centers(found) - centers(true), axis=1)
    return float(np.median(moved)), float(
        np.linalg.norm(pixels(found) - pixels(true), axis=2).mean()
    )


def test_refined_cameras_come_nearer_to_the_truth(tmp_path: Path) -> None:
    poses = make_scene(
        tmp_path / "p", views=VIEWS, pose_errors=pose_errors(), test_images=TEST_IMAGES
    )
    as_given = train(poses, tmp_path / "given", OPTIONS)
    options = OPTIONS.model_copy(update={"refine_poses": True})
    refined = train(poses, tmp_path / "refined", options)
    before, after = camera_errors(as_given), camera_errors(refined)
    assert after[0] < 0.9 * before[0]
    assert after[1] < 0.5 * before[1]
    assert refined.summary["psnr_db"] > as_given.summary["psnr_db"] + 0.5
    assert refined.summary["pose_change_deg"] > 0.1
    # the held-out cameras are nobody's to move
    for view, given in zip(refined.views(), as_given.views(), strict=True):
        if view.is_test:
            np.testing.assert_array_equal(view.viewmat, given.viewmat)


def test_what_all_cameras_share_is_removed() -> None:
    """Corrections that amount to a similarity of the world vanish; others stay."""
    viewmats = ring_viewmats(8)
    refinement = PoseRefinement(list(range(8)), viewmats, center=np.zeros(3), steps=100)
    small = 1e-3
    turn = Rotation.from_rotvec(small * np.array([0.3, -0.5, 0.8])).as_matrix()
    world = np.eye(4)
    world[:3, :3] = (1 + small) * turn
    world[:3, 3] = small * np.array([0.2, 0.7, -0.4])
    distance = float(np.hypot(4, 1))
    corrections = []
    for viewmat in viewmats:
        moved = viewmat @ world
        scale = np.cbrt(np.linalg.det(moved[:3, :3]))
        moved[:3] /= scale  # a camera sees the same when it and the world grow
        motion = moved @ np.linalg.inv(viewmat)
        vector = Rotation.from_matrix(motion[:3, :3]).as_rotvec()
        corrections.append(np.concatenate([vector, motion[:3, 3] / distance]))
    shared = np.array(corrections).ravel()
    basis = refinement._basis.numpy().astype(np.float64)
    assert basis.shape == (48, 7)
    left = shared - basis @ (basis.T @ shared)
    assert np.linalg.norm(left) < 0.01 * np.linalg.norm(shared)
    single = np.zeros(48)
    single[0] = small  # one camera alone
    assert np.linalg.norm(single - basis @ (basis.T @ single)) > 0.8 * small


def test_depth_pulls_towards_the_points() -> None:
    seen = Sightings(
        np.arange(3),
        np.array([[0.1, 0.1], [0.12, 0.13], [0.9, 0.6]]),  # two share a pixel
        np.array([2.0, 2.0, 4.0]),
        np.zeros(3),
    )
    term = SparseDepth({7: seen}, weight=0.5)
    depth = torch.full((5, 10), 2.0, requires_grad=True)
    alpha = torch.ones(5, 10)
    loss = term.loss(7, depth, alpha)
    assert loss is not None
    loss.backward()
    # unit: the median depth, 2; disparities 0.5 (right) and 0.25 (0.5 was rendered)
    assert float(loss.detach()) == pytest.approx(0.5 * 2 * 0.25 / 2)
    assert depth.grad is not None
    assert float(depth.grad[3, 9]) < 0  # farther is better
    assert torch.count_nonzero(depth.grad) == 1
    assert term.loss(1, depth, alpha) is None
    empty = term.loss(7, depth, torch.zeros(5, 10))
    assert empty is not None
    assert float(empty.detach()) == 0.0


@pytest.fixture
def everything(tmp_path: Path) -> Callable[..., SplatModel]:
    poses = make_scene(
        tmp_path / "p", views=8, tracks=True, gains=uneven_gains()[1:9], size=(48, 36)
    )
    options = TrainOptions(
        steps=60, max_gaussians=400, long_side=48, sh_degree=1, strategy="mcmc",
        exposure="on", refine_poses=True, depth_weight=0.01,
    )  # fmt: skip

    def run(name: str, **changes: object) -> SplatModel:
        return train(poses, tmp_path / name, options, **changes)

    return run


def test_all_of_it_resumes_bit_for_bit_and_on_two_threads(
    everything: Callable[..., SplatModel], tmp_path: Path
) -> None:
    whole = everything("whole")
    assert {"exposure_spread", "pose_change_deg", "num_depth_points"} <= whole.summary.keys()
    two = everything("two", threads=2)
    assert two.data_version == whole.data_version
    with pytest.raises(Cancelled):
        everything("part", resume_dir=tmp_path / "resume", progress=cancel_at(30))
    resumed = everything("resumed", resume_dir=tmp_path / "resume")
    assert resumed.summary["resumed_from_step"] > 0
    assert resumed.data_version == whole.data_version
