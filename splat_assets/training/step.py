"""A training step: the picture of one view, and what its gradient changes about the Gaussians.

On CUDA torch's graph goes from the loss to the parameters. On the CPU it ends at the picture (what
lies before is exposure, loss and depth): activation, rasteriser, regularisers and Adam are our
kernels, in three passes over the Gaussians, and no gradient of a parameter is ever kept.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from splat_assets.compute import Compute
from splat_assets.rendering.rasterize import MeanGradients
from splat_assets.training.dataset import Sample
from splat_assets.training.evaluate import render
from splat_assets.training.optimizer import NAMES, SplatOptimizer


class Regularisers(NamedTuple):
    """Weights, in the loss, of the sums over all Gaussians of …"""

    opacity: float = 0.0
    scale: float = 0.0  # all three standard deviations


class Shot(Protocol):
    """The picture of one view, with a way back."""

    image: Tensor  # [H, W, 3]
    info: dict[str, Any]  # that of `evaluate.render`

    def learn(self, loss: Tensor, optimizer: SplatOptimizer, weights: Regularisers) -> bool:
        """Backward and Adam; whether all gradients were finite, as far as that is known.

        Gradients of what lies behind the picture, and of the camera, are left in their `.grad`.
        """
        ...


def shoot(
    optimizer: SplatOptimizer,
    sample: Sample,
    *,
    sh_degree: int,
    background: Tensor,
    compute: Compute,
    absgrad: bool,
    depth: bool,
) -> Shot:
    """Draw what is learnt so far as `sample`'s camera sees it."""
    kind = _GraphShot if compute.device != "cpu" else _KernelShot
    return kind(
        optimizer,
        sample,
        sh_degree=sh_degree,
        background=background,
        compute=compute,
        absgrad=absgrad,
        depth=depth,
    )


class _GraphShot:
    def __init__(self, optimizer: SplatOptimizer, sample: Sample, **settings: Any) -> None:
        self.image, self.info = render(optimizer.params, sample, **settings)

    def learn(self, loss: Tensor, optimizer: SplatOptimizer, weights: Regularisers) -> bool:
        loss.backward()
        optimizer.add_regularisers(*weights)
        optimizer.step(self.info["visible"].any(dim=0) if optimizer.selective else None)
        return True


class _KernelShot:
    def __init__(
        self,
        optimizer: SplatOptimizer,
        sample: Sample,
        *,
        sh_degree: int,
        background: Tensor,
        compute: Compute,
        absgrad: bool,
        depth: bool,
    ) -> None:
        from splat_assets.rendering.cpu.buffers import take
        from splat_assets.rendering.cpu.draw import Frame, Splats, draw

        p = {name: parameter.detach().numpy() for name, parameter in optimizer.params.items()}
        # Adam leaves alone what takes no part: the higher bands come later
        self._names = NAMES if sh_degree else NAMES[:-1]
        self._splats = Splats(
            p["means"],
            p["quats"],
            take(p["scales"].shape, np.float32),
            take(p["opacities"].shape, np.float32),
            (p["sh0"], p["shN"]) if sh_degree else (p["sh0"],),
            sh_degree,
            learnt=(p["scales"], p["opacities"]),
        )
        self._frame = Frame(sample.width, sample.height, depth=depth)
        self._camera = sample.viewmat
        self._viewmat = sample.viewmat[0].detach().double().numpy()
        # leaves of the graph that the loss is made of
        size = sample.height, sample.width
        self._render = torch.from_numpy(take((*size, self._frame.channels), np.float32))
        self._alphas = torch.from_numpy(take(size, np.float32))
        self._drawn = draw(
            self._splats,
            self._viewmat,
            sample.K[0].double().numpy(),
            background.numpy(),
            self._frame,
            self._render.view(-1).numpy(),
            self._alphas.view(-1).numpy(),
            save=True,
            radii=False,
        )
        self._render.requires_grad_()
        self.image = self._render[..., :3] if depth else self._render
        self.info: dict[str, Any] = {
            "width": sample.width,
            "height": sample.height,
            "means2d_grads": MeanGradients(),
        }
        self._means2d = take((1, len(optimizer), 4), np.float32) if absgrad else None
        if depth:
            self._alphas.requires_grad_()
            self.info.update(depth=self._render[..., 3], alpha=self._alphas)

    def learn(self, loss: Tensor, optimizer: SplatOptimizer, weights: Regularisers) -> bool:
        from splat_assets.rendering.cpu.draw import sum_pixels, view_gradient
        from splat_assets.training.cpu_kernels import backward_and_adam

        loss.backward()
        v_image, v_alphas = self._render.grad, self._alphas.grad
        assert v_image is not None
        sums = sum_pixels(
            self._frame,
            self._drawn,
            v_image.view(-1).numpy(),
            None if v_alphas is None else v_alphas.view(-1).numpy(),
            self._means2d is not None,
        )
        v_camera, finite = backward_and_adam(
            self._splats,
            self._drawn,
            sums,
            optimizer.next_step(self._names),
            opacity_weight=weights.opacity,
            scale_weight=weights.scale,
            means2d=None if self._means2d is None else self._means2d[0],
        )
        if self._means2d is not None:
            means2d = torch.from_numpy(self._means2d)
            self.info["means2d_grads"].fill(means2d[..., :2], means2d[..., 2:])
        if self._camera.requires_grad:
            gradient = view_gradient(v_camera, self._viewmat, self._drawn)
            self._camera.backward(torch.from_numpy(gradient)[None].to(self._camera.dtype))
        return finite
