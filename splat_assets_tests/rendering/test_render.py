"""Forward-only pictures, blend weights, and what the machine check says without a GPU."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

from splat_assets.gaussians.gaussians import Gaussians
from splat_assets.rendering import cuda_check
from splat_assets.rendering.rasterize import rasterize
from splat_assets.rendering.render import View, blend_weights, render_views


def stored(count: int = 120, antialiased: bool = False) -> Gaussians:
    rng = np.random.default_rng(5)
    f = np.float32
    return Gaussians(
        (rng.normal(size=(count, 3)) * 0.6 + [0, 0, 4]).astype(f),
        rng.normal(size=(count, 4)).astype(f),
        rng.normal(-2.5, 0.5, size=(count, 3)).astype(f),
        rng.normal(0, 2, size=count).astype(f),
        rng.normal(size=(count, 1, 3)).astype(f),
        rng.normal(0, 0.2, size=(count, 8, 3)).astype(f),
        antialiased,
    )


VIEW = View(np.eye(4), np.array([[60.0, 0, 31], [0, 60.0, 21], [0, 0, 1]]), 64, 40)


@pytest.mark.parametrize("antialiased", [False, True])
def test_pictures_equal_the_differentiable_rasteriser(antialiased: bool) -> None:
    g = stored(antialiased=antialiased)
    (picture,) = render_views(g, [VIEW], background=(0.1, 0.2, 0.3), depth=True)
    renders, alphas, _ = rasterize(
        torch.from_numpy(g.means), torch.from_numpy(g.quats), torch.from_numpy(g.scales).exp(),
        torch.from_numpy(g.opacities).sigmoid(), torch.from_numpy(np.hstack([g.sh0, g.shN])),
        torch.eye(4)[None], torch.from_numpy(VIEW.K)[None].float(), VIEW.width, VIEW.height,
        sh_degree=2, backgrounds=torch.tensor([[0.1, 0.2, 0.3]]), render_mode="RGB+ED",
        rasterize_mode="antialiased" if antialiased else "classic",
    )  # fmt: skip
    np.testing.assert_allclose(picture.rgb, renders[0, ..., :3], atol=2e-6)
    np.testing.assert_allclose(picture.alpha, alphas[0, ..., 0], atol=2e-6)
    assert picture.depth is not None
    np.testing.assert_allclose(picture.depth, renders[0, ..., 3], rtol=1e-4, atol=1e-5)
    assert picture.to_uint8().dtype == np.uint8


def test_scaled_view_sees_the_same() -> None:
    small = VIEW.scaled(0.5)
    assert (small.width, small.height) == (32, 20)
    corner = np.linalg.inv(VIEW.K) @ [64, 40, 1]
    np.testing.assert_allclose(np.linalg.inv(small.K) @ [32, 20, 1], corner)


def test_degree_can_be_lowered_and_views_are_lazy() -> None:
    g = stored()
    views = render_views(g, [VIEW, VIEW], sh_degree=0)
    first = next(iter(views))
    plain = Gaussians(g.means, g.quats, g.scales, g.opacities, g.sh0, g.shN[:, :0])
    (expected,) = render_views(plain, [VIEW])
    np.testing.assert_array_equal(first.rgb, expected.rgb)


def test_read_only_arrays_and_no_gaussians() -> None:
    g = stored()
    for array in (g.means, g.sh0):
        array.setflags(write=False)
    (picture,) = render_views(g, [VIEW])
    assert picture.alpha.max() > 0.1
    (nothing,) = render_views(g.select(np.zeros(0, np.int64)), [VIEW], background=(0.5, 0, 1))
    assert (nothing.rgb == np.array([0.5, 0, 1], np.float32)).all()


def test_blend_weights_add_up_to_alpha() -> None:
    g = stored()
    (picture,) = render_views(g, [VIEW])
    weights = blend_weights(g, [VIEW])
    assert weights.shape == (120, 3)
    assert weights[:, 0].sum() == pytest.approx(float(picture.alpha.sum()), rel=1e-5)
    left = np.zeros((VIEW.height, VIEW.width, 3), np.float32)
    left[:, :20] = 1
    both = blend_weights(g, [VIEW, VIEW], [left, 1 - left])
    np.testing.assert_allclose(both, weights, rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match="map 0"):
        blend_weights(g, [VIEW], [left[:3]])


def test_a_machine_without_nvidia_is_told_at_once_and_without_torch() -> None:
    if cuda_check.driver_present():
        pytest.skip("an NVIDIA driver is loaded here")
    code = (
        "import sys, time; start = time.perf_counter()\n"
        "from splat_assets.rendering.cuda_check import cuda_facts, cuda_problem\n"
        "print(cuda_problem('cuda:0')); facts = cuda_facts()\n"
        "assert facts['driver'] is False and facts['gpus'] == []\n"
        "assert 'torch' not in sys.modules and 'gsplat' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "no NVIDIA driver" in done.stdout
    start = time.process_time()
    cuda_check.cuda_problem.__wrapped__("cuda:0")
    assert time.process_time() - start < 0.05


def test_the_check_asks_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    ask = cuda_check.cuda_problem.__wrapped__
    assert "not a CUDA device" in ask("tpu")
    monkeypatch.setattr(cuda_check, "driver_present", lambda: True)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert "hides every GPU" in ask("cuda")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    monkeypatch.setattr(torch.version, "cuda", None)
    assert "without CUDA" in ask("cuda")
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "driver" in ask("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert "cuda:3 does not exist" in ask("cuda:3")
    monkeypatch.setattr(cuda_check, "_extension_built", lambda: False)
    monkeypatch.setattr(cuda_check, "_nvcc", lambda: None)
    assert "pip install 'nvidia-cuda-nvcc==13.0.*'" in ask("cuda")
    monkeypatch.setattr(cuda_check, "_nvcc", lambda: cuda_check.Path("nvcc"))
    monkeypatch.setattr(cuda_check, "_host_compiler", lambda: None)
    assert "C++ compiler" in ask("cuda")
    monkeypatch.setattr(cuda_check, "_host_compiler", lambda: "c++")
    monkeypatch.setattr(cuda_check.sys, "executable", "/bin/false")
    assert "does not run on this GPU" in ask("cuda")
    monkeypatch.setattr(cuda_check.sys, "executable", "/bin/true")
    assert ask("cuda") is None


def test_compiler_output_becomes_one_sentence() -> None:
    said = cuda_check._explain("x\nfoo.h:138: error: #error unsupported GNU version!\nDied", 1)
    assert "unsupported GNU version" in said and "set CXX" in said
    assert said.count("\n") == 0 and said.endswith(".")


def test_nvcc_from_pypi_is_found_and_linkable(
    tmp_path: os.PathLike[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if sys.platform != "linux":
        pytest.skip("NVIDIA's wheels are laid out so on Linux")
    home = cuda_check.Path(tmp_path) / "site" / "nvidia" / "cu13"
    for file in ("bin/nvcc", "lib/libcudart.so.13"):
        (home / file).parent.mkdir(parents=True, exist_ok=True)
        (home / file).touch()
    for variable in ("CUDA_HOME", "CUDA_PATH", "LIBRARY_PATH"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(cuda_check.Path(tmp_path) / "cache"))
    monkeypatch.setattr(cuda_check, "_nvcc", lambda: home / "bin/nvcc")
    # so that monkeypatch puts them back as they were
    monkeypatch.setenv("CUDA_HOME", "")
    monkeypatch.setenv("LIBRARY_PATH", "")
    cuda_check.prepare_cuda_build()
    assert os.environ["CUDA_HOME"] == str(home)
    link = cuda_check.Path(os.environ["LIBRARY_PATH"]) / "libcudart.so"
    assert link.resolve() == (home / "lib/libcudart.so.13").resolve()
