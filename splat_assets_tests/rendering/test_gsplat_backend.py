"""The CUDA path without a GPU: a stand-in with gsplat's own signatures checks every call.

What it is given must bind to the signature of the installed gsplat and have the shapes its source
asserts; what it returns has the layouts of its two modes. Numbers on a GPU are not tested here.
"""

from __future__ import annotations

import inspect
import math
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from splat_assets.rendering import gsplat_backend
from splat_assets.rendering.l1_ssim import _ssim_torch
from splat_assets.rendering.rasterize import rasterize
from splat_assets.training.optimizer import NAMES, _step_on_cuda, _step_visible
from splat_assets_tests.rendering.test_rasterize import make_scene
from splat_assets_tests.training.test_mcmc import make_optimizer

gsplat = pytest.importorskip("gsplat")
WIDTH, HEIGHT = 40, 30


class Stand:
    """`gsplat.rendering.rasterization` that draws means as a sum, and keeps what it was given."""

    def __init__(self) -> None:
        from gsplat.rendering import rasterization

        self.signature = inspect.signature(rasterization)
        self.given: dict[str, Any] = {}

    def __call__(self, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor, dict[str, Any]]:
        bound = self.signature.bind(*args, **kwargs)
        bound.apply_defaults()
        a = self.given = dict(bound.arguments)
        count, cameras = len(a["means"]), len(a["viewmats"])
        assert a["means"].shape == (count, 3) and a["quats"].shape == (count, 4)
        assert a["scales"].shape == (count, 3) and a["opacities"].shape == (count,)
        assert a["viewmats"].shape == (cameras, 4, 4) and a["Ks"].shape == (cameras, 3, 3)
        assert all(a[n].is_contiguous() for n in ("means", "quats", "scales", "opacities"))
        if a["sh_degree"] is None:
            assert a["colors"].shape == (count, 3)
        else:
            assert a["colors"].shape[0] == count and a["colors"].shape[2] == 3
            assert (a["sh_degree"] + 1) ** 2 <= a["colors"].shape[1]
        assert a["render_mode"] in ("RGB", "D", "RGB+D")
        if a["backgrounds"] is not None:
            assert a["backgrounds"].shape == (cameras, 3) and "RGB" in a["render_mode"]
        local = torch.einsum("cij,nj->cni", a["viewmats"][:, :3, :3], a["means"])
        local = local + a["viewmats"][:, None, :3, 3]
        means2d = local[..., :2] / local[..., 2:]
        radii = torch.full((cameras, count, 2), 3, dtype=torch.int32)
        radii[:, ::3] = 0
        meta: dict[str, Any] = {"camera_ids": None, "gaussian_ids": None}
        if a["packed"]:
            ids = torch.nonzero(radii[..., 0] > 0)
            meta["camera_ids"], meta["gaussian_ids"] = ids[:, 0], ids[:, 1]
            means2d, radii = means2d[ids[:, 0], ids[:, 1]], radii[ids[:, 0], ids[:, 1]]
        if a["absgrad"] and means2d.requires_grad:
            means2d.register_hook(lambda g: setattr(means2d, "absgrad", g.abs()))
        meta |= {"means2d": means2d, "radii": radii}
        channels = {"RGB": 3, "D": 1, "RGB+D": 4}[a["render_mode"]]
        shade = -means2d.sum() * torch.ones(cameras, a["height"], a["width"], channels)
        return shade, torch.full_like(shade[..., :1], 0.5), meta


@pytest.fixture
def stand(monkeypatch: pytest.MonkeyPatch) -> Stand:
    import gsplat.rendering

    stand = Stand()
    monkeypatch.setattr(gsplat.rendering, "rasterization", stand)
    monkeypatch.setattr(gsplat_backend, "_require_cuda", lambda means: None)
    return stand


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("render_mode", ["RGB", "D", "ED", "RGB+D", "RGB+ED"])
def test_calls_and_layouts(
    stand: Stand, monkeypatch: pytest.MonkeyPatch, packed: bool, render_mode: str
) -> None:
    monkeypatch.setattr(gsplat_backend, "PACKED_FROM", 0 if packed else 10**9)
    scene = {k: v.requires_grad_() for k, v in make_scene(50, cameras=2).items()}
    renders, alphas, info = rasterize(
        **scene, width=WIDTH, height=HEIGHT, sh_degree=2, render_mode=render_mode, absgrad=True,
        rasterize_mode="antialiased", near_plane=0.2, far_plane=9.0, eps2d=0.1, backend="gsplat",
    )  # fmt: skip
    given = stand.given
    assert given["packed"] is packed and given["absgrad"] and given["sh_degree"] == 2
    assert given["rasterize_mode"] == "antialiased" and given["eps2d"] == 0.1
    assert (given["near_plane"], given["far_plane"]) == (0.2, 9.0)
    channels = {"RGB": 3, "D": 1, "ED": 1, "RGB+D": 4, "RGB+ED": 4}[render_mode]
    assert renders.shape == (2, HEIGHT, WIDTH, channels)
    assert alphas.shape == (2, HEIGHT, WIDTH, 1)
    hidden = torch.arange(50) % 3 == 0
    assert info["radii"].shape == (2, 50, 2) and info["means2d"].shape == (2, 50, 2)
    assert torch.equal(info["visible"], ~hidden.expand(2, 50))
    assert info["means2d_grads"].signed is None
    renders.sum().backward()
    signed, absolute = info["means2d_grads"].signed, info["means2d_grads"].absolute
    assert signed is not None and absolute is not None and signed.shape == (2, 50, 2)
    assert torch.equal(absolute, signed.abs()) and bool(signed[:, ~hidden].all())
    if packed:
        assert not signed[:, hidden].any()


def test_sh_pair_and_plain_colours(stand: Stand) -> None:
    scene = make_scene(8)
    both = scene.pop("colors")
    pair = (both[:, :1].contiguous(), both[:, 1:].contiguous())
    rasterize(**scene, colors=pair, width=8, height=8, sh_degree=3, backend="gsplat")
    assert torch.equal(stand.given["colors"], both)
    rasterize(**scene, colors=torch.rand(8, 3), width=8, height=8, backend="gsplat")
    assert stand.given["sh_degree"] is None


def test_no_gaussians_never_reach_the_kernels(stand: Stand) -> None:
    scene = make_scene(3)
    for name in ("means", "quats", "scales", "opacities", "colors"):
        scene[name] = scene[name][:0].requires_grad_()
    for mode, channels in (("RGB", 3), ("D", 1), ("RGB+D", 4)):
        renders, alphas, _ = rasterize(
            **scene, width=5, height=4, sh_degree=0, render_mode=mode, backend="gsplat"
        )
        assert renders.shape == (1, 4, 5, channels) and not alphas.any()
        renders.sum().backward()
    assert not stand.given
    assert torch.equal(rasterize(**scene, width=5, height=4, sh_degree=0, backend="gsplat")[0][
        0, 0, 0], scene["backgrounds"][0])  # fmt: skip


def test_selective_adam_moves_the_visible_with_bias_correction(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """gsplat's kernel as its CUDA source has it, given what we give it, is Adam on those rows."""
    from gsplat.cuda import _wrapper

    signature = inspect.signature(_wrapper.adam)

    def kernel(*args: Any) -> None:
        signature.bind(*args)
        param, grad, first, second, valid, lr, b1, b2, eps = args
        assert valid.dtype == torch.bool and valid.shape == (len(param),)
        assert all(t.is_contiguous() and t.shape == param.shape for t in (grad, first, second))
        m = b1 * first + (1 - b1) * grad
        v = b2 * second + (1 - b2) * grad * grad
        rows = valid.reshape(-1, *[1] * (param.dim() - 1))
        param.data = torch.where(rows, param - lr * m / (v.sqrt() + eps), param)
        first.copy_(torch.where(rows, m, first))
        second.copy_(torch.where(rows, v, second))

    monkeypatch.setattr(_wrapper, "adam", kernel)
    ours, whole = make_optimizer(40), make_optimizer(40)
    before = {name: p.detach().clone() for name, p in ours.params.items()}
    visible = torch.arange(40) % 2 == 0
    for step in range(3):
        for optimizer in (ours, whole):
            g = torch.Generator().manual_seed(step)
            for parameter in optimizer.params.values():
                parameter.grad = torch.randn(parameter.shape, generator=g)
            slots = list(optimizer._slots.values())
            for slot in slots:
                slot.step += 1
            with torch.no_grad():
                _step_visible(slots, visible) if optimizer is ours else _step_on_cuda(slots)
    for name in NAMES:
        new, old = ours.params[name].detach(), before[name]
        assert torch.equal(new[~visible], old[~visible])
        torch.testing.assert_close(
            new[visible], whole.params[name].detach()[visible], rtol=1e-5, atol=1e-6
        )


def test_fused_ssim_is_used_on_cuda_when_it_can_be_imported(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[Any] = []

    def fused_ssim(x: Tensor, y: Tensor, padding: str = "same", train: bool = True) -> Tensor:
        asked.append((x.shape, y.shape, padding))
        return x.mean()

    monkeypatch.setitem(sys.modules, "fused_ssim", types.SimpleNamespace(fused_ssim=fused_ssim))
    image = torch.rand(20, 30, 3)

    class OnCuda(torch.Tensor):
        is_cuda = True

    assert math.isfinite(float(_ssim_torch(image, image, None))) and not asked
    _ssim_torch(image.as_subclass(OnCuda), image, None)
    assert asked == [((1, 3, 20, 30), (1, 3, 20, 30), "valid")]
    _ssim_torch(image.as_subclass(OnCuda), image, torch.ones(20, 30))  # it knows no masks
    assert len(asked) == 1


def test_nvcc_without_a_gpu_never_compiles(tmp_path: Path) -> None:
    """A machine with nvcc and no GPU: the check, the backend and the facts call no compiler."""
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    home = tmp_path / "cuda"
    (home / "bin").mkdir(parents=True)
    nvcc = home / "bin" / "nvcc"
    nvcc.write_text(f"#!/bin/sh\ntouch {tmp_path}/called\nexit 1\n")
    nvcc.chmod(0o755)
    code = (
        "import sys, torch\n"
        "from splat_assets.errors import UserError\n"
        "from splat_assets.rendering import cuda_check\n"
        "from splat_assets.rendering.rasterize import rasterize\n"
        "for driver in (False, True):\n"
        "    cuda_check.driver_present = lambda: driver\n"
        "    assert cuda_check.cuda_problem.__wrapped__('cuda:0')\n"
        "    cuda_check.cuda_facts()\n"
        "t = torch.ones(1, 3)\n"
        "try:\n"
        "    rasterize(t, torch.ones(1, 4), t, torch.ones(1), t, torch.eye(4)[None],\n"
        "              torch.eye(3)[None], 8, 8, backend='gsplat')\n"
        "except UserError:\n"
        "    pass\n"
        "assert 'gsplat.cuda._backend' not in sys.modules\n"
    )
    environment = {
        "PATH": f"{home}/bin:/usr/bin:/bin", "CUDA_HOME": str(home), "HOME": str(tmp_path),
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False,
        cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "called").exists()
    assert not [path for path in (tmp_path / ".cache").rglob("*") if path.is_file()]
