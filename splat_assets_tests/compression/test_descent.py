"""Descent in steps, against torch, and rows that have come to rest."""

from __future__ import annotations

import numpy as np
import torch

from splat_assets.compression.descent import Descent, sums_by


def test_steps_are_those_of_adam() -> None:
    rng = np.random.default_rng(0)
    begin = rng.normal(size=(40, 1, 3)).astype(np.float32)
    wanted = torch.tensor(begin, requires_grad=True)
    adam = torch.optim.Adam([wanted], lr=0.5 * 0.02, betas=(0.8, 0.98), eps=1e-10)
    descent = Descent(begin, 0.02)
    for _ in range(30):
        gradient = rng.normal(size=begin.shape).astype(np.float32)
        wanted.grad = torch.tensor(gradient)
        adam.step()
        descent.step(gradient, 0.5)
    np.testing.assert_allclose(descent.values, wanted.detach().numpy(), atol=1e-5)


def test_rows_at_rest_keep_what_they_were_given() -> None:
    begin = np.linspace(0, 1, 8, dtype=np.float32)
    descent = Descent(begin, np.arange(8.0))
    descent.rest(np.array([2, 5]), np.array([7.0, 9.0]))
    descent.step(np.ones(8, np.float32), 0.1)
    assert descent.values[[2, 5]].tolist() == [7, 9]
    others = [0, 1, 3, 4, 6, 7]
    np.testing.assert_allclose(descent.values[others], (begin - 0.1 * np.arange(8))[others])
    assert begin[7] == 1  # the caller's are as they were


def test_sums_by_label() -> None:
    rng = np.random.default_rng(1)
    labels, rows = rng.integers(0, 9, 500), rng.normal(size=(500, 6)).astype(np.float32)
    expected = np.zeros((9, 6))
    np.add.at(expected, labels, rows.astype(np.float64))
    np.testing.assert_allclose(sums_by(labels, rows, 9), expected, atol=1e-4)
