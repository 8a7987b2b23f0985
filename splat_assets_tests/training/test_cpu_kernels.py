"""The CPU's Adam against torch's, its noise against the formula, and both across threads."""

from __future__ import annotations

import pytest
import torch

from splat_assets.rendering.cpu.team import set_threads
from splat_assets.training.cpu_kernels import AdamTensors, adam, disturb
from splat_assets.training.optimizer import NAMES, SplatOptimizer
from splat_assets.training.sampling import rotate_by_quats
from splat_assets_tests.training.test_mcmc import make_optimizer

RATES = {name: 10.0 ** -(i + 1) for i, name in enumerate(NAMES)}


@pytest.mark.parametrize("count", [1, 5, 333, 3001])  # less than a lane, odd rests, many tasks
def test_adam_is_torchs_adam(count: int) -> None:
    ours = SplatOptimizer({n: p.detach() for n, p in make_optimizer(count).params.items()}, RATES)
    theirs = {name: torch.nn.Parameter(p.detach().double()) for name, p in ours.params.items()}
    reference = torch.optim.Adam(
        [{"params": [theirs[name]], "lr": RATES[name]} for name in NAMES], eps=1e-15
    )
    g = torch.Generator().manual_seed(1)
    for step in range(6):
        for name, parameter in ours.params.items():
            # the higher bands join later, and count their steps from there
            if name != "shN" or step > 2:
                parameter.grad = torch.randn(parameter.shape, generator=g) * 10.0 ** (step - 3)
                theirs[name].grad = parameter.grad.double()
        ours.step()
        reference.step()
        reference.zero_grad(set_to_none=True)
        assert all(parameter.grad is None for parameter in ours.params.values())
    for name, parameter in ours.params.items():
        torch.testing.assert_close(parameter.double(), theirs[name], rtol=1e-5, atol=1e-6)


def test_a_gradient_that_is_not_finite_counts_as_zero() -> None:
    plain, spoilt = make_optimizer(50), make_optimizer(50)
    for optimizer in (plain, spoilt):
        for parameter in optimizer.params.values():
            parameter.grad = torch.ones_like(parameter)
    for value, row in ((0.0, plain), (torch.nan, spoilt)):
        row.params["means"].grad[3] = value  # type: ignore[index]
    plain.params["scales"].grad[49] = 0.0  # type: ignore[index]
    spoilt.params["scales"].grad[49] = -torch.inf  # type: ignore[index]
    plain.step()
    spoilt.step()
    for name in NAMES:
        assert torch.equal(plain.params[name], spoilt.params[name])


def noise(count: int, seed: int = 7, strength: float = 2.0) -> tuple[torch.Tensor, ...]:
    """Means moved from zero, and what they were moved by."""
    params = {name: p.detach() for name, p in make_optimizer(count).params.items()}
    params["opacities"][:] = torch.linspace(-9, 3, count)
    means = torch.zeros(count, 3)
    disturb(means, params["quats"], params["scales"], params["opacities"], strength, seed)
    return means, params["quats"], params["scales"], params["opacities"]


def test_noise_is_standard_normal_once_shape_and_gate_are_undone() -> None:
    means, quats, scales, opacities = noise(40_000)
    still = opacities >= -2.1972246
    assert not means[still].any() and means[~still].any(dim=1).all()
    gate = 2.0 * torch.sigmoid(100 * (0.005 - torch.sigmoid(opacities.double())))
    local = rotate_by_quats(quats.double(), means.double(), inverse=True)
    white = rotate_by_quats(quats.double(), local / torch.exp(2 * scales.double()))
    white = (white / gate[:, None])[~still]
    assert abs(float(white.mean())) < 0.01
    torch.testing.assert_close(torch.cov(white.T), torch.eye(3).double(), atol=0.03, rtol=0)
    kurtosis = (white**4).mean() / (white**2).mean() ** 2
    assert float(kurtosis) == pytest.approx(3.0, abs=0.1)
    neighbours = (white[1:] * white[:-1]).mean(dim=0)
    assert float(neighbours.abs().max()) < 0.02


def test_noise_depends_on_the_seed() -> None:
    assert torch.equal(noise(500)[0], noise(500)[0])
    assert not torch.equal(noise(500)[0], noise(500, seed=8)[0])


def test_threads_do_not_change_a_bit() -> None:
    results = []
    for threads in (1, 2, 3):
        set_threads(threads)
        g = torch.Generator().manual_seed(2)
        tensors = [torch.rand(100_003, generator=g) for _ in range(8)]
        one, other = tensors[:4], tensors[4:]
        groups = [AdamTensors(*group[:3], 0.1, 5) for group in (one, other)]
        adam(groups, [one[3], other[3]])
        results.append([*tensors, noise(5000)[0]])
    for found in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], found, strict=True))
