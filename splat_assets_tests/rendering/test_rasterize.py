"""The CPU rasteriser against the dense float64 reference, at its edges, and across threads."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from splat_assets.errors import UserError
from splat_assets.rendering.cpu.team import set_threads
from splat_assets.rendering.rasterize import rasterize
from splat_assets_tests.rendering import reference

WIDTH, HEIGHT = 83, 61  # no multiple of anything


@pytest.fixture(autouse=True)
def _two_threads() -> None:
    set_threads(2)


def look_at(eye: tuple[float, float, float], target: tuple[float, float, float]) -> Tensor:
    position, aim = torch.tensor(eye), torch.tensor(target)
    forward = torch.nn.functional.normalize(aim - position, dim=0)
    right = torch.nn.functional.normalize(
        torch.linalg.cross(forward, torch.tensor([0.0, -1.0, 0.1])), dim=0
    )
    down = torch.linalg.cross(forward, right)
    view = torch.eye(4)
    view[:3, :3] = torch.stack([right, down, forward])
    view[:3, 3] = -view[:3, :3] @ position
    return view


def make_scene(count: int = 300, cameras: int = 1, seed: int = 0) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(seed)
    views = [look_at((0.3, -0.2, -3.0), (0.1, 0, 0)), look_at((2.0, -0.5, -2.0), (0, 0.1, 0))]
    K = torch.tensor([[80.0, 0.0, 44.0], [0.0, 75.0, 28.0], [0.0, 0.0, 1.0]])
    return {
        "means": torch.randn(count, 3, generator=g) * 0.9,
        "quats": torch.randn(count, 4, generator=g) * 2,
        "scales": torch.exp(torch.randn(count, 3, generator=g) * 0.7 - 2.6),
        "opacities": torch.sigmoid(torch.randn(count, generator=g) * 2),
        "colors": torch.randn(count, 16, 3, generator=g) * 0.4,
        "viewmats": torch.stack(views[:cameras]),
        "Ks": K.expand(cameras, 3, 3).contiguous(),
        "backgrounds": torch.tensor([[0.2, 0.5, 0.9], [0.7, 0.1, 0.3]])[:cameras],
    }


def relative(a: Tensor, b: Tensor) -> float:
    a, b = a.detach(), b.detach()
    return float((a.double() - b.double()).norm() / b.double().norm().clamp_min(1e-30))


LEAVES = ("means", "quats", "scales", "opacities", "colors", "viewmats", "backgrounds")


def both_gradients(
    scene: dict[str, Tensor], render_mode: str, sh_degree: int | None, **options: Any
) -> tuple[dict[str, float], dict[str, Any]]:
    """Relative L2 errors of image, alpha and every gradient; and the render's info."""
    ours = {k: v.clone().requires_grad_(k in LEAVES) for k, v in scene.items()}
    theirs = {k: v.double().requires_grad_(k in LEAVES) for k, v in scene.items()}
    image, alpha, info = rasterize(
        **ours, width=WIDTH, height=HEIGHT, sh_degree=sh_degree, render_mode=render_mode, **options
    )
    flags = dict(options)
    antialiased = flags.pop("rasterize_mode", "classic") == "antialiased"
    flags.pop("absgrad", None)
    rgb, depth, alpha_ref = reference.render(
        **theirs, width=WIDTH, height=HEIGHT, sh_degree=sh_degree, antialiased=antialiased, **flags
    )
    if render_mode.endswith("ED"):
        depth = depth / alpha_ref.clamp_min(1e-10)
    parts = ([rgb] if "RGB" in render_mode else []) + ([depth] if "D" in render_mode else [])
    image_ref = torch.cat(parts, dim=-1)
    g = torch.Generator().manual_seed(9)
    v_image = torch.randn(image.shape, generator=g)
    v_alpha = torch.randn(alpha.shape, generator=g)
    ((image * v_image).sum() + (alpha * v_alpha).sum()).backward()
    ((image_ref * v_image.double()).sum() + (alpha_ref * v_alpha.double()).sum()).backward()
    errors = {"image": relative(image, image_ref), "alpha": relative(alpha, alpha_ref)}
    for name in LEAVES:
        if theirs[name].grad is not None:
            errors[name] = relative(ours[name].grad, theirs[name].grad)  # type: ignore[arg-type]
    means2d = torch.stack([m.grad for m in reference.render.means2d])  # type: ignore[attr-defined]
    errors["means2d"] = relative(info["means2d_grads"].signed, means2d)
    return errors, info


@pytest.mark.parametrize("sh_degree", [0, 1, 2, 3])
def test_image_and_every_gradient_agree_with_the_reference(sh_degree: int) -> None:
    errors, _ = both_gradients(make_scene(cameras=2), "RGB", sh_degree)
    assert max(errors.values()) < 1e-5, errors
    assert {"means", "quats", "scales", "opacities", "colors", "viewmats", "backgrounds"} <= set(
        errors
    )


@pytest.mark.parametrize("render_mode", ["D", "ED", "RGB+D", "RGB+ED"])
@pytest.mark.parametrize("rasterize_mode", ["classic", "antialiased"])
def test_depth_and_antialiasing(render_mode: str, rasterize_mode: str) -> None:
    errors, _ = both_gradients(make_scene(200), render_mode, 1, rasterize_mode=rasterize_mode)
    assert max(errors.values()) < 1e-5, errors


def test_plain_colours_and_planes() -> None:
    scene = make_scene(200)
    scene["colors"] = torch.rand(200, 3, generator=torch.Generator().manual_seed(1))
    errors, info = both_gradients(scene, "RGB", None, near_plane=2.0, far_plane=4.0, eps2d=0.1)
    assert max(errors.values()) < 1e-5, errors
    assert 0 < int(info["visible"].sum()) < 200


def test_sh_pair_equals_one_tensor() -> None:
    scene = make_scene(50)
    both = scene.pop("colors").requires_grad_()
    sh0 = both[:, :1].detach().contiguous().requires_grad_()
    shN = both[:, 1:].detach().contiguous().requires_grad_()
    one, _, _ = rasterize(**scene, colors=both, width=WIDTH, height=HEIGHT, sh_degree=2)
    two, _, _ = rasterize(**scene, colors=(sh0, shN), width=WIDTH, height=HEIGHT, sh_degree=2)
    assert torch.equal(one, two)
    one.square().sum().backward()
    two.square().sum().backward()
    assert both.grad is not None and sh0.grad is not None and shN.grad is not None
    assert torch.equal(both.grad, torch.cat([sh0.grad, shN.grad], dim=1))
    assert not both.grad[:, 9:].any()  # degree 3 is not in use


def test_absolute_gradients_are_sums_over_pixels() -> None:
    """One Gaussian: the gradients of its mean pixel by pixel, from the reference."""
    scene = make_scene(1)
    scene["means"] = torch.tensor([[0.05, 0.02, 0.0]])
    scene["opacities"] = torch.tensor([0.7])
    _, info = both_gradients(scene, "RGB", 0, absgrad=True)
    theirs = {k: v.double().requires_grad_(k == "means") for k, v in scene.items()}
    rgb, _, alpha = reference.render(**theirs, width=WIDTH, height=HEIGHT, sh_degree=0)
    g = torch.Generator().manual_seed(9)
    weighted = (rgb * torch.randn(rgb.shape, generator=g)).sum(-1)
    weighted = weighted + (alpha * torch.randn(alpha.shape, generator=g))[..., 0]
    means2d = reference.render.means2d[0]  # type: ignore[attr-defined]
    total = torch.zeros(2, dtype=torch.float64)
    for pixel in torch.nonzero(alpha[0, ..., 0] > 0):
        (v,) = torch.autograd.grad(weighted[0, pixel[0], pixel[1]], means2d, retain_graph=True)
        total += v[0].abs()
    assert relative(info["means2d_grads"].absolute[0, 0], total) < 1e-5


def test_projection_agrees_with_gsplat() -> None:
    projection = pytest.importorskip("gsplat.cuda._torch_impl")
    scene = make_scene(200, cameras=2)
    covars, _ = projection._quat_scale_to_covar_preci(
        torch.nn.functional.normalize(scene["quats"].double(), dim=-1), scene["scales"].double()
    )
    _, means2d, depths, _, _ = projection._fully_fused_projection(
        scene["means"].double(), covars, scene["viewmats"].double(), scene["Ks"].double(),
        WIDTH, HEIGHT, near_plane=0.01, far_plane=1e10,
    )  # fmt: skip
    _, _, info = rasterize(**scene, width=WIDTH, height=HEIGHT, sh_degree=3)
    seen = info["visible"]
    assert torch.allclose(info["means2d"][seen].double(), means2d[seen], atol=1e-4)
    assert (depths[seen] > 0).all()


def test_threads_do_not_change_a_bit() -> None:
    results = []
    for threads in (1, 2, 3):
        set_threads(threads)
        scene = {k: v.clone().requires_grad_() for k, v in make_scene(2000).items()}
        image, alpha, _ = rasterize(
            **scene, width=WIDTH * 2, height=HEIGHT * 2, sh_degree=3, render_mode="RGB+D"
        )
        (image.square().sum() + alpha.sum()).backward()
        results.append([image.detach(), *(scene[name].grad for name in LEAVES)])
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def degenerate(name: str) -> dict[str, Tensor]:
    scene = make_scene(40)
    half = slice(0, 20)
    if name == "zero scale":
        scene["scales"][half] = 0.0
    elif name == "flat":
        scene["scales"][half, 2] = 0.0
    elif name == "huge":
        scene["scales"][half] = 1e6
    elif name == "absurdly huge":
        scene["scales"][half] = 1e30
    elif name == "needle":
        scene["scales"][half] = torch.tensor([1e3, 1e-6, 1e-6])
    elif name == "opaque":
        scene["opacities"][:] = 1.0
    elif name == "just opaque":
        scene["opacities"][:] = 0.999
    elif name == "transparent":
        scene["opacities"][half] = 0.0
    elif name == "behind":
        scene["means"][half] = torch.tensor([0.3, -0.2, -8.0])
    elif name == "at the camera":
        scene["means"][half] = torch.tensor([0.3, -0.2, -3.0])
    elif name == "camera plane":
        # in front by next to nothing and far to the side
        camera = torch.linalg.inv(scene["viewmats"][0])
        local = torch.tensor([5.0, 0.1, 1e-9, 1.0])
        scene["means"][half] = (camera @ local)[:3]
    elif name == "zero quaternion":
        scene["quats"][half] = 0.0
    elif name == "not finite":
        scene["means"][0:5] = math.nan
        scene["scales"][5:10] = math.inf
        scene["opacities"][10:15] = math.nan
        scene["quats"][15:20] = math.inf
    elif name == "same place":
        scene["means"][:] = scene["means"][0]
    elif name == "far away":
        scene["means"][half] *= 1e8
    elif name == "empty":
        for key in ("means", "quats", "scales", "opacities", "colors"):
            scene[key] = scene[key][:0]
    return scene


@pytest.mark.parametrize("near_plane", [0.01, 0.0])
@pytest.mark.parametrize(
    "name",
    [
        "zero scale", "flat", "huge", "absurdly huge", "needle", "opaque", "just opaque",
        "transparent", "behind", "at the camera", "camera plane", "zero quaternion", "not finite",
        "same place", "far away", "empty",
    ],
)  # fmt: skip
def test_degenerate_input_gives_finite_output(name: str, near_plane: float) -> None:
    scene = {k: v.requires_grad_(k in LEAVES) for k, v in degenerate(name).items()}
    for mode in ("classic", "antialiased"):
        image, alpha, info = rasterize(
            **scene, width=WIDTH, height=HEIGHT, sh_degree=3, near_plane=near_plane,
            rasterize_mode=mode, render_mode="RGB+ED", absgrad=True,
        )  # fmt: skip
        assert image.isfinite().all() and alpha.isfinite().all()
        assert alpha.min() >= 0 and alpha.max() <= 1
        (image.square().sum() + alpha.sum()).backward()
        for key in LEAVES:
            grad = scene[key].grad
            assert grad is not None and grad.isfinite().all(), key
        assert info["means2d_grads"].signed.isfinite().all()
        assert info["means2d_grads"].absolute.isfinite().all()


def test_zero_scale_is_a_round_dot_of_eps2d() -> None:
    errors, _ = both_gradients(degenerate("zero scale"), "RGB", 3)
    assert max(errors.values()) < 1e-5, errors


def test_nothing_to_see_is_background() -> None:
    image, alpha, info = rasterize(
        **degenerate("empty"), width=5, height=3, sh_degree=0, render_mode="RGB"
    )
    assert image.shape == (1, 3, 5, 3) and not alpha.any()
    assert torch.allclose(image, torch.tensor([0.2, 0.5, 0.9]).expand(1, 3, 5, 3))
    assert info["radii"].shape == (1, 0, 2)


def test_bad_arguments_are_named() -> None:
    scene = make_scene(4)
    with pytest.raises(ValueError, match="opacities has shape"):
        rasterize(**{**scene, "opacities": torch.ones(4, 1)}, width=8, height=8, sh_degree=0)
    with pytest.raises(ValueError, match="float64"):
        rasterize(**{**scene, "means": scene["means"].double()}, width=8, height=8, sh_degree=0)
    with pytest.raises(ValueError, match="too few"):
        rasterize(**{**scene, "colors": scene["colors"][:, :4]}, width=8, height=8, sh_degree=2)
    with pytest.raises(ValueError, match="sh_degree"):
        rasterize(**scene, width=8, height=8, sh_degree=4)
    if not torch.cuda.is_available():
        with pytest.raises(UserError, match="GPU"):
            rasterize(**scene, width=8, height=8, sh_degree=0, backend="gsplat")
