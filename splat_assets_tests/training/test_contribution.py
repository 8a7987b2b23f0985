"""Contributions against blending written out pixel by pixel, and what is built on them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from splat_assets.datasets.options import TrainOptions
from splat_assets.training.contribution import (
    HIGH_ERROR,
    Survey,
    badly_drawn,
    blending_sums,
    survey,
)
from splat_assets.training.dataset import Sample, load_training_set
from splat_assets.training.multiview import MultiViewStrategy, worst
from splat_assets.training.optimizer import SplatOptimizer
from splat_assets.training.schedule import plan
from splat_assets_tests.training.scenes import CPU, make_scene, pinhole, ring_viewmats
from splat_assets_tests.training.test_mcmc import RATES, make_optimizer, take_steps

WIDTH, HEIGHT = 40, 30


def some_gaussians(count: int = 30) -> dict[str, torch.Tensor]:
    rng = torch.Generator().manual_seed(3)
    return {
        "means": 0.3 * torch.randn(count, 3, generator=rng),  # well within the picture
        "scales": torch.log(0.05 + 0.2 * torch.rand(count, 3, generator=rng)),
        "quats": torch.randn(count, 4, generator=rng),
        "opacities": torch.randn(count, generator=rng),
        "sh0": torch.randn(count, 1, 3, generator=rng),
        "shN": torch.zeros(count, 0, 3),
    }


def sample(viewmat: np.ndarray) -> Sample:
    return Sample(
        image=torch.zeros(HEIGHT, WIDTH, 3),
        mask=None,
        K=torch.from_numpy(pinhole(WIDTH, HEIGHT)).float()[None],
        viewmat=torch.from_numpy(viewmat).float()[None],
        width=WIDTH,
        height=HEIGHT,
    )


def weights_written_out(params: dict[str, torch.Tensor], viewmat: np.ndarray) -> np.ndarray:
    """[N, H, W] α_i Π (1 - α_j) over the Gaussians before it, in float64."""
    p = {name: tensor.double().numpy() for name, tensor in params.items()}
    K = pinhole(WIDTH, HEIGHT)
    camera = p["means"] @ viewmat[:3, :3].T + viewmat[:3, 3]
    x, y = np.meshgrid(np.arange(WIDTH) + 0.5, np.arange(HEIGHT) + 0.5)
    alphas = np.zeros((len(camera), HEIGHT, WIDTH))
    for i, (cx, cy, z) in enumerate(camera):
        w, a, b, c = p["quats"][i] / np.linalg.norm(p["quats"][i])
        R = np.array(
            [
                [1 - 2 * (b * b + c * c), 2 * (a * b - w * c), 2 * (a * c + w * b)],
                [2 * (a * b + w * c), 1 - 2 * (a * a + c * c), 2 * (b * c - w * a)],
                [2 * (a * c - w * b), 2 * (b * c + w * a), 1 - 2 * (a * a + b * b)],
            ]
        )
        S = np.diag(np.exp(p["scales"][i]))
        J = np.array(
            [[K[0, 0] / z, 0, -K[0, 0] * cx / z**2], [0, K[1, 1] / z, -K[1, 1] * cy / z**2]]
        )
        T = J @ viewmat[:3, :3] @ R @ S
        inverse = np.linalg.inv(T @ T.T + 0.3 * np.eye(2))
        dx, dy = x - (K[0, 0] * cx / z + K[0, 2]), y - (K[1, 1] * cy / z + K[1, 2])
        power = inverse[0, 0] * dx * dx + 2 * inverse[0, 1] * dx * dy + inverse[1, 1] * dy * dy
        alpha = 1 / (1 + np.exp(-p["opacities"][i])) * np.exp(-0.5 * power)
        alphas[i] = np.where(alpha >= 1 / 255, np.minimum(alpha, 0.999), 0.0)
    weights, left = np.zeros_like(alphas), np.ones((HEIGHT, WIDTH))
    for i in np.argsort(camera[:, 2]):
        weights[i] = left * alphas[i]
        left = left * (1 - alphas[i])
    return weights


def test_sums_are_those_of_blending_written_out() -> None:
    params, viewmat = some_gaussians(), ring_viewmats(5, distance=3.0)[1]
    expected = weights_written_out(params, viewmat)
    maps = np.random.default_rng(0).uniform(size=(HEIGHT, WIDTH, 3))
    maps[..., 0] = 1.0
    got = blending_sums(params, sample(viewmat), torch.from_numpy(maps).float())
    np.testing.assert_allclose(
        got.numpy(), np.einsum("nhw,hwc->nc", expected, maps), rtol=2e-3, atol=0.05
    )
    assert expected.sum() > 100  # something is seen


def test_badly_drawn_is_relative_to_the_view_and_minds_the_mask() -> None:
    view = sample(ring_viewmats(5)[0])
    image = torch.full((HEIGHT, WIDTH, 3), 0.1)
    image[:, :4] = 0.4
    bad = badly_drawn(image, view)
    assert bad[:, :4].all() and not bad[:, 4:].any()
    mask = torch.ones(HEIGHT, WIDTH)
    mask[:, :2] = 0
    masked = badly_drawn(image, replace(view, mask=mask))
    assert not masked[:, :2].any() and masked[:, 2:4].all()
    assert HIGH_ERROR > 1


def test_survey_knows_the_hidden_the_unseen_and_the_wrong(tmp_path) -> None:
    data = load_training_set(make_scene(tmp_path / "p"), long_side=64, test_every=8)
    params = some_gaussians(3)
    params["means"] = torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.0, 0.0], [0.0, 500.0, 0.0]])
    params["scales"] = torch.log(torch.tensor([[0.4] * 3, [0.01] * 3, [0.1] * 3]))
    params["opacities"] = torch.tensor([9.0, -2.0, 9.0])
    found = survey(params, data, data.train[:4], sh_degree=0, compute=CPU)
    assert found.seen.tolist() == [4, 4, 0]
    assert found.weight[0] > 100 > found.weight[1]
    assert found.negligible(1.0).tolist() == [False, True, False]  # unseen is not judged
    assert (found.share <= 1).all() and (found.peak <= found.weight + 1e-3).all()
    assert found.weight[0] / 4 <= found.peak[0] * 1.001


def make_survey(high: list[float], weight: float = 10.0) -> Survey:
    count = len(high)
    return Survey(
        torch.full((count,), weight), torch.full((count,), weight / 2), torch.tensor(high),
        torch.ones(count),
    )  # fmt: skip


def test_the_worst_are_chosen_within_the_count() -> None:
    found = make_survey([5.0, 1.0, 8.0, 0.0, 7.0])
    assert worst(found, 2, 0.2).tolist() == [2, 4]
    assert worst(found, 9, 0.2).tolist() == [0, 2, 4]
    assert worst(found, 0, 0.2).tolist() == []


def test_multiview_grows_where_it_is_wrong_and_prunes_what_is_hidden() -> None:
    optimizer = make_optimizer(n=10)
    take_steps(optimizer)
    with torch.no_grad():
        optimizer.params["opacities"][:] = 1.0
        optimizer.params["scales"][:] = torch.log(torch.tensor(0.001))
    means = optimizer.params["means"].detach().clone()
    found = make_survey([0.0, 9.0, 0.0, 0.0, 8.0, 0.0, 0.0, 0.0, 0.0, 1.0])
    found.peak[7] = 0.0
    schedule = replace(plan(TrainOptions(steps=100), long_side=64), refine_from=0, refine_every=1)
    strategy = MultiViewStrategy(budget=12, growth=1.5)
    rng = torch.Generator().manual_seed(0)
    strategy.after_step(
        0, schedule, optimizer, {}, rng, means_lr=0.1, extent=1.0, look=lambda views: found
    )
    after = optimizer.params["means"].detach()
    assert len(optimizer) == 11
    assert torch.equal(after[-2:], means[[1, 4]])
    assert not (after == means[7]).all(dim=1).any()
    take_steps(optimizer)
    other = MultiViewStrategy(budget=1)
    other.load_state_dict(strategy.state_dict())
    assert (other.budget, other.growth) == (12, 1.5)


@pytest.mark.parametrize("degree", [0, 1])
def test_survey_leaves_parameters_alone(tmp_path, degree: int) -> None:
    data = load_training_set(make_scene(tmp_path / "p"), long_side=64, test_every=8)
    params = some_gaussians()
    params["shN"] = torch.zeros(30, 3, 3)
    optimizer = SplatOptimizer(params, RATES)
    survey(optimizer.params, data, data.train[:1], sh_degree=degree, compute=CPU)
    for name, parameter in optimizer.params.items():
        assert parameter.grad is None
        assert torch.equal(parameter.detach(), params[name])
