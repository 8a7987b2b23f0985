"""Cleanup after training: what is planted in a scene is found, and what is needed stays."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from splat_assets.poses.pose_model import PoseModel
from splat_assets.training.dataset import TrainingSet, load_training_set
from splat_assets.training.evaluate import mean_scores, score_views
from splat_assets.training.scene import SceneFrame, frame_from_cameras
from splat_assets.training.scene_cleanup import MAX_LOSS_DB, clean_scene, count_views
from splat_assets_tests.training.scenes import CPU, make_scene

Params = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def poses(tmp_path_factory: pytest.TempPathFactory) -> PoseModel:
    return make_scene(tmp_path_factory.mktemp("scene") / "p")


@pytest.fixture
def scene(poses: PoseModel) -> tuple[TrainingSet, SceneFrame, Params]:
    """A wall of the background's grey round the points of the scene."""
    data = load_training_set(poses, long_side=64, test_every=4)
    points = poses.points()
    frame = frame_from_cameras(data.views, points.xyz)
    n = len(points.xyz)
    params = {
        "means": torch.from_numpy(np.float32(points.xyz)),
        "scales": torch.full((n, 3), float(np.log(0.07))),
        "quats": torch.nn.functional.normalize(torch.ones(n, 4), dim=1),
        "opacities": torch.full((n,), 2.0),
        "sh0": torch.from_numpy(np.float32((points.rgb / 255.0 - 0.5) / 0.28209479))[:, None],
        "shN": torch.zeros(n, 0, 3),
    }
    return data, frame, params


def plant(params: Params, means: list[list[float]], scale: float, logit: float) -> Params:
    extra = {name: tensor[: len(means)].clone() for name, tensor in params.items()}
    extra["means"] = torch.tensor(means)
    extra["scales"] = torch.full((len(means), 3), float(np.log(scale)))
    extra["opacities"] = torch.full((len(means),), logit)
    return {name: torch.cat([tensor, extra[name]]) for name, tensor in params.items()}


def test_views_are_counted(scene: tuple[TrainingSet, SceneFrame, Params]) -> None:
    data, _, params = scene
    alone = {name: tensor[:1] for name, tensor in params.items()}
    alone = {**alone, "means": torch.zeros(1, 3)}  # in the middle: every camera looks at it
    both = plant(alone, [[0.0, -50.0, 0.0]], 0.1, 2.0)
    seen = count_views(both, data, np.zeros(3))
    assert seen.views.tolist() == [len(data.train), 0]
    assert float(seen.total[0]) > 5 * len(data.train)
    assert float(seen.total[1]) == 0
    np.testing.assert_allclose(seen.largest[0] * len(data.train), seen.total[0], rtol=0.1)
    np.testing.assert_allclose(seen.nearness, [1.0, np.inf], rtol=1e-5)


def test_planted_rubbish_goes(scene: tuple[TrainingSet, SceneFrame, Params]) -> None:
    data, frame, params = scene
    n = len(params["means"])
    viewmat = data.views[data.train[2]].viewmat
    center = -viewmat[:3, :3].T @ viewmat[:3, 3]
    before_lens = (center + 0.15 * viewmat[2, :3]).tolist()
    dirty = plant(params, [[0.0, -60.0, 0.0], [0.0, 60.0, 0.0]], 0.1, 2.0)  # where nobody looks
    dirty = plant(dirty, [before_lens], 0.01, 2.0)
    dirty = plant(dirty, [[300.0, 0.0, 0.0]], 0.5, 2.0)
    keep, report = clean_scene(dirty, data, frame, sh_degree=0, compute=CPU)
    assert not keep[n:].any()
    assert report.judged_by == "test"
    assert report.psnr_after_db >= report.psnr_before_db - MAX_LOSS_DB
    assert report.removed["unseen"] >= 2
    assert report.removed["floaters"] == 1
    assert report.total == n + 4
    assert report.total - int(keep.sum()) == sum(report.removed.values())
    rest = {name: tensor[keep] for name, tensor in dirty.items()}
    scores = score_views(rest, data, data.test, sh_degree=0, compute=CPU)
    assert mean_scores(scores)[0] == pytest.approx(report.psnr_after_db)


def test_a_sky_of_giants_stays(scene: tuple[TrainingSet, SceneFrame, Params]) -> None:
    """The grey wall behind the points as a few huge Gaussians: without them views suffer."""
    data, frame, params = scene
    n = len(params["means"])
    around = np.random.default_rng(0).normal(size=(60, 3))
    around *= 25 / np.linalg.norm(around, axis=1, keepdims=True)
    sky = plant(params, around.tolist(), 8.0, 6.0)
    sky["sh0"][n:] = (0.4 - 0.5) / 0.28209479
    keep, report = clean_scene(sky, data, frame, sh_degree=0, compute=CPU)
    assert "huge" in report.kept
    assert "huge" not in report.removed
    assert report.psnr_after_db >= report.psnr_before_db - MAX_LOSS_DB
    assert keep[n:].sum() > 20


def test_without_held_out_views_the_training_views_judge(poses: PoseModel) -> None:
    data = load_training_set(poses, long_side=32, test_every=0)
    frame = frame_from_cameras(data.views, poses.points().xyz)
    params = {
        "means": torch.zeros(2, 3),
        "scales": torch.full((2, 3), -2.0),
        "quats": torch.tensor([[1.0, 0, 0, 0]] * 2),
        "opacities": torch.full((2,), 1.0),
        "sh0": torch.zeros(2, 1, 3),
        "shN": torch.zeros(2, 0, 3),
    }
    keep, report = clean_scene(params, data, frame, sh_degree=0, compute=CPU)
    assert report.judged_by == "train"
    assert keep.all()
