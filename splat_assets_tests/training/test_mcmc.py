"""MCMC: the relocation formula against the paper's double sum, and what refinement promises."""

from __future__ import annotations

import math
from copy import deepcopy
from dataclasses import replace
from fractions import Fraction

import pytest
import torch

from splat_assets.datasets.options import TrainOptions
from splat_assets.training.mcmc import MCMCStrategy, keep_most_opaque, relocated
from splat_assets.training.optimizer import NAMES, SplatOptimizer
from splat_assets.training.sampling import draw_indices, rotate_by_quats
from splat_assets.training.schedule import plan

RATES = dict.fromkeys(NAMES, 1e-2)


def make_optimizer(n: int = 60, seed: int = 0) -> SplatOptimizer:
    rng = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=rng)

    tensors = {
        "means": draw(n, 3), "scales": draw(n, 3) - 3, "quats": draw(n, 4),
        "opacities": draw(n) * 4, "sh0": draw(n, 1, 3), "shN": draw(n, 15, 3),
    }  # fmt: skip
    return SplatOptimizer(tensors, RATES)


def take_steps(optimizer: SplatOptimizer, count: int = 2) -> None:
    for _ in range(count):
        sum((p * (i + 1)).sin().sum() for i, p in enumerate(optimizer.params.values())).backward()
        optimizer.step()


@pytest.mark.parametrize("copies", [1, 2, 3, 7, 20, 51])
@pytest.mark.parametrize("opacity", [0.006, 0.1, 0.5, 0.9, 0.999])
def test_relocation_agrees_with_the_papers_formula(copies: int, opacity: float) -> None:
    """Equation 9 as printed, a double sum, in exact rational arithmetic but for the roots."""
    new = 1.0 - (1.0 - opacity) ** (1.0 / copies)
    denominator = 0.0
    for i in range(1, copies + 1):
        for k in range(i):
            term = Fraction(math.comb(i - 1, k) * (-1) ** k) * Fraction(new) ** (k + 1)
            denominator += float(term) / math.sqrt(k + 1)
    got_opacity, got_scale = relocated(
        torch.tensor([opacity]), torch.tensor([[2.0, 1.0, 0.5]]), torch.tensor([copies])
    )
    assert float(got_opacity) == pytest.approx(new, rel=1e-5)
    expected = torch.tensor([[2.0, 1.0, 0.5]]) * (opacity / denominator)
    torch.testing.assert_close(got_scale, expected, rtol=2e-4, atol=0)
    # together the copies hide what the one hid
    assert 1 - (1 - float(got_opacity)) ** copies == pytest.approx(opacity, rel=1e-4)


def test_refinement_relocates_the_dead_and_keeps_the_budget() -> None:
    optimizer = make_optimizer(n=100)
    take_steps(optimizer)
    with torch.no_grad():
        optimizer.params["opacities"][:20] = -8.0  # dead
    schedule = replace(plan(TrainOptions(steps=1000), long_side=320), refine_from=0, refine_every=1)
    strategy = MCMCStrategy(budget=110, growth=1.05, noise=0.0)
    rng = torch.Generator().manual_seed(0)
    for step in range(5):
        strategy.after_step(step, schedule, optimizer, {}, rng, means_lr=1e-3, extent=1.0)
        alpha = torch.sigmoid(optimizer.params["opacities"].detach())
        assert alpha.min() >= strategy.min_opacity * 0.99
        assert len(optimizer) <= 110
    assert len(optimizer) == 110
    take_steps(optimizer)  # the moments still fit


def test_noise_moves_only_the_faint_and_along_their_shape() -> None:
    optimizer = make_optimizer(n=2000)
    with torch.no_grad():
        optimizer.params["opacities"][:1000] = -7.0
        optimizer.params["opacities"][1000:] = 2.0
        optimizer.params["quats"][:] = torch.tensor([1.0, 0, 0, 0])
        optimizer.params["scales"][:] = torch.tensor([0.0, -2.0, -4.0])
    before = optimizer.params["means"].detach().clone()
    strategy = MCMCStrategy(budget=2000, noise=1.0)
    schedule = plan(TrainOptions(steps=1000), long_side=320)
    rng = torch.Generator().manual_seed(0)
    strategy.after_step(0, schedule, optimizer, {}, rng, means_lr=1.0, extent=1.0)
    moved = optimizer.params["means"].detach() - before
    assert torch.equal(moved[1000:], torch.zeros(1000, 3))
    gate = torch.sigmoid(100 * (0.005 - torch.sigmoid(torch.tensor(-7.0))))
    spread = moved[:1000].std(dim=0) / gate
    expected = torch.exp(2 * torch.tensor([0.0, -2.0, -4.0]))
    torch.testing.assert_close(spread, expected, rtol=0.1, atol=1e-6)


def test_regularisers_are_the_gradients_of_their_terms() -> None:
    optimizer = make_optimizer()
    strategy, extent = MCMCStrategy(budget=100, opacity_reg=0.3, scale_reg=0.2), 2.5
    opacities, scales = optimizer.params["opacities"], optimizer.params["scales"]
    loss = 0.3 * torch.sigmoid(opacities).mean() + 0.2 * torch.exp(scales).mean() / extent
    expected = torch.autograd.grad(loss, [opacities, scales])
    opacities.grad, scales.grad = torch.zeros_like(opacities), torch.zeros_like(scales)
    optimizer.add_regularisers(*strategy.regularisers(len(optimizer), extent))
    torch.testing.assert_close(opacities.grad, expected[0])
    torch.testing.assert_close(scales.grad, expected[1])


def test_optimizer_rows_keep_their_moments() -> None:
    """After surgery the surviving rows go on exactly as if nothing had happened."""
    changed, untouched = make_optimizer(), make_optimizer()
    take_steps(changed)
    take_steps(untouched)
    rows = torch.tensor([5, 3, 40])
    changed.append({name: p.detach()[:7] for name, p in changed.params.items()})
    changed.select(rows)
    take_steps(changed, 3)
    take_steps(untouched, 3)
    for name in NAMES:
        torch.testing.assert_close(changed.params[name], untouched.params[name][rows])


def test_optimizer_state_goes_round() -> None:
    a, b = make_optimizer(), make_optimizer(n=10, seed=1)
    take_steps(a)
    b.load_state_dict(deepcopy(a.state_dict()))  # it takes the tensors over
    take_steps(a, 3)
    take_steps(b, 3)
    for name in NAMES:
        assert torch.equal(a.params[name], b.params[name])


def test_appended_rows_go_where_there_is_room() -> None:
    """Growing copies what is there now and then only, and a checkpoint holds none of the room."""
    optimizer = make_optimizer(1000)
    before = {name: p.detach().clone() for name, p in optimizer.params.items()}
    optimizer.append({name: rows[:100] for name, rows in before.items()})
    places = [p.data_ptr() for p in optimizer.params.values()]
    take_steps(optimizer)
    stepped = {name: p.detach().clone() for name, p in optimizer.params.items()}
    optimizer.append({name: rows[100:300] for name, rows in before.items()})
    assert places == [p.data_ptr() for p in optimizer.params.values()]
    state = optimizer.state_dict()
    for name, p in optimizer.params.items():
        assert torch.equal(p[:1100], stepped[name])
        assert torch.equal(p[1100:], before[name][100:300])
        assert torch.equal(state[name]["value"], p)
        assert not state[name]["exp_avg"][1100:].any()
        for key in ("value", "exp_avg", "exp_avg_sq"):
            stored = state[name][key]
            assert stored.untyped_storage().nbytes() == stored.numel() * 4


def test_keep_most_opaque() -> None:
    optimizer = make_optimizer()
    top = torch.sort(optimizer.params["opacities"].detach()).values[-10:]
    keep_most_opaque(optimizer, 10)
    torch.testing.assert_close(torch.sort(optimizer.params["opacities"].detach()).values, top)


def test_draws_follow_the_weights() -> None:
    weights = torch.tensor([0.0, 1.0, 3.0, 0.0])
    drawn = draw_indices(weights, 40_000, torch.Generator().manual_seed(0))
    share = torch.bincount(drawn, minlength=4) / 40_000
    torch.testing.assert_close(share, torch.tensor([0, 0.25, 0.75, 0]), atol=0.01, rtol=0)
    assert share[0] == share[3] == 0


def test_rotation_by_quaternions() -> None:
    quats = torch.tensor([[2.0, 0, 0, 2.0]])  # a quarter turn about z, not normalised
    turned = rotate_by_quats(quats, torch.tensor([[1.0, 2.0, 3.0]]))
    torch.testing.assert_close(turned, torch.tensor([[-2.0, 1.0, 3.0]]))
    back = rotate_by_quats(quats, turned, inverse=True)
    torch.testing.assert_close(back, torch.tensor([[1.0, 2.0, 3.0]]))
