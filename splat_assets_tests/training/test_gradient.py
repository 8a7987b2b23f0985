"""Gradient densification: clones the small, splits the large, prunes, keeps the budget."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import torch

from splat_assets.datasets.options import TrainOptions
from splat_assets.training.gradient import GradientStrategy
from splat_assets.training.schedule import plan
from splat_assets_tests.training.test_mcmc import make_optimizer, take_steps

SCHEDULE = replace(
    plan(TrainOptions(steps=300), long_side=320), refine_from=0, refine_until=10, refine_every=1
)


def info(absolute: torch.Tensor) -> dict:
    gradients = SimpleNamespace(absolute=absolute[None], signed=None)
    return {"means2d_grads": gradients, "width": 100, "height": 100, "n_cameras": 1}


def prepared() -> tuple:
    optimizer = make_optimizer(n=10)
    take_steps(optimizer)
    with torch.no_grad():
        optimizer.params["opacities"][:] = 1.0
        optimizer.params["scales"][:] = torch.log(torch.tensor(0.001))
        optimizer.params["scales"][5:] = torch.log(torch.tensor(0.1))
    pull = torch.zeros(10, 2)
    pull[[1, 7]] = 1.0
    return optimizer, pull


def refine(strategy: GradientStrategy, optimizer, pull: torch.Tensor) -> None:
    rng = torch.Generator().manual_seed(0)
    strategy.after_step(0, SCHEDULE, optimizer, info(pull), rng, means_lr=1e-3, extent=1.0)


def test_small_are_cloned_and_large_split() -> None:
    optimizer, pull = prepared()
    means = optimizer.params["means"].detach().clone()
    refine(GradientStrategy(budget=100), optimizer, pull)
    assert len(optimizer) == 12
    after, scales = optimizer.params["means"].detach(), optimizer.params["scales"].detach().exp()
    assert torch.equal(after[10], means[1])
    torch.testing.assert_close(scales[[7, 11]], torch.full((2, 3), 0.1 / 1.6))
    assert not torch.equal(after[7], means[7])
    untouched = [0, 2, 3, 4, 5, 6, 8, 9]
    assert torch.equal(after[untouched], means[untouched])
    take_steps(optimizer)


def test_budget_goes_to_the_strongest() -> None:
    optimizer, pull = prepared()
    pull[3] = 5.0
    means = optimizer.params["means"].detach().clone()
    refine(GradientStrategy(budget=11), optimizer, pull)
    assert len(optimizer) == 11
    assert torch.equal(optimizer.params["means"].detach()[10], means[3])


def test_transparent_and_giant_are_pruned() -> None:
    optimizer, pull = prepared()
    with torch.no_grad():
        optimizer.params["opacities"][2] = -7.0
        optimizer.params["scales"][3] = 1.0
    refine(GradientStrategy(budget=10), optimizer, pull)
    assert len(optimizer) == 8


def test_state_goes_round() -> None:
    a = GradientStrategy(budget=5)
    optimizer, pull = prepared()
    later = replace(SCHEDULE, refine_from=5)
    rng = torch.Generator()
    a.after_step(0, later, optimizer, info(pull), rng, means_lr=1e-3, extent=1.0)
    b = GradientStrategy(budget=99)
    b.load_state_dict(a.state_dict())
    assert b.budget == 5
    assert torch.equal(a.state_dict()["sum"], b.state_dict()["sum"])
