"""Large Gaussians keep their distance from the cameras, so that none veils what is seen there."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from splat_assets.datasets.options import TrainOptions
from splat_assets.gaussians.ply import read_ply
from splat_assets.progress import silent
from splat_assets.rendering.rasterize import rasterize
from splat_assets.training import guards
from splat_assets.training.guards import finite_rows, keep_clear
from splat_assets.training.train import train_splat
from splat_assets_tests.training.scenes import CPU, make_scene


def gaussians(means: list[list[float]], scales: list[list[float]]) -> dict[str, torch.Tensor]:
    return {"means": torch.tensor(means), "scales": torch.log(torch.tensor(scales))}


@pytest.mark.parametrize("at_once", [2, 1 << 20])
def test_only_what_is_too_large_for_its_distance_shrinks(
    monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    monkeypatch.setattr(guards, "_AT_ONCE", at_once)
    centers = torch.tensor([[0.0, 0, 0], [10, 0, 0]])
    params = gaussians(
        [[4, 0, 3], [10, 0, 6], [0, 90, 0], [0.1, 0, 0], [10, 0, 0]],
        [[2.6, 0.4, 0.3], [1.9, 2.1, 2.0], [20, 20, 20], [0.05, 0.05, 0.05], [1, 1, 1]],
    )
    assert keep_clear(params, centers, 3.0, extent=5.0) == 3
    expected = [
        [5 / 3, 0.4, 0.3],  # 5 from the first camera
        [1.9, 2.0, 2.0],  # 6 from the second
        [20, 20, 20],  # a far sky
        [0.05, 0.05, 0.05],  # near, but small
        [0.1, 0.1, 0.1],  # at a camera: no smaller than 2 % of the extent
    ]
    np.testing.assert_allclose(torch.exp(params["scales"]), expected, rtol=1e-5)


def test_a_veil_beside_the_camera_is_gone() -> None:
    """The Gaussian is five units to the right: no ray of the picture comes near it."""
    params = gaussians([[5.0, 0.0, 0.45]], [[2.6, 0.4, 0.4]])

    def covered() -> float:
        _, alphas, _ = rasterize(
            params["means"], torch.tensor([[1.0, 0, 0, 0]]), torch.exp(params["scales"]),
            torch.tensor([0.99]), torch.ones(1, 3), torch.eye(4)[None],
            torch.tensor([[[100.0, 0, 50], [0, 100, 50], [0, 0, 1]]]), 100, 100,
        )  # fmt: skip
        return float(alphas.mean())

    assert covered() > 0.1
    keep_clear(params, torch.zeros(1, 3), 3.0, extent=4.0)
    assert covered() < 0.02


def test_finite_rows() -> None:
    params = {"means": torch.zeros(3, 3), "shN": torch.zeros(3, 0, 3), "opacities": torch.zeros(3)}
    params["means"][0, 1] = torch.nan
    params["opacities"][2] = torch.inf
    assert finite_rows(params).tolist() == [False, True, False]


@pytest.mark.parametrize("clearance", [0.0, 20.0])
def test_a_training_keeps_to_it(tmp_path: Path, clearance: float) -> None:
    (tmp_path / "poses").mkdir()
    (tmp_path / "out").mkdir()
    options = TrainOptions(steps=60, max_gaussians=400, camera_clearance=clearance, cleanup=False)
    splat = train_splat(
        make_scene(tmp_path / "poses"), tmp_path / "out", options=options, compute=CPU,
        progress=silent(),
    )  # fmt: skip
    trained = read_ply(splat.path / "splat.ply")
    views = json.loads((splat.path / "cameras.json").read_text(encoding="utf-8"))["views"]
    viewmats = np.array([view["viewmat"] for view in views if not view["is_test"]])
    centers = -np.einsum("cji,cj->ci", viewmats[:, :3, :3], viewmats[:, :3, 3])
    distances = np.linalg.norm(trained.means[:, None] - centers, axis=2).min(axis=1)
    ratio = distances / np.exp(trained.scales).max(axis=1)
    if clearance:
        assert ratio.min() > 0.99 * clearance
    else:
        assert ratio.min() < 20
