"""Compile every CPU kernel ahead of time.

numba compiles on first use (about ten CPU seconds in all) and keeps the machine code on disk.
Called while something else is the bottleneck (poses being solved), nobody waits for it.
"""

from __future__ import annotations

import threading


def warm_up() -> None:
    """Run every kernel once on a toy scene; later processes load the result from numba's cache."""
    import torch

    from splat_assets.rendering.l1_ssim import l1_ssim
    from splat_assets.rendering.rasterize import rasterize

    means = torch.tensor([[0.0, 0.0, 2.0], [0.1, 0.0, 3.0]], requires_grad=True)
    target = torch.zeros(16, 16, 3)
    image, _, _ = rasterize(
        means,
        torch.ones(2, 4),
        torch.full((2, 3), 0.3),
        torch.full((2,), 0.5),
        torch.full((2, 16, 3), 0.1),
        torch.eye(4)[None],
        torch.tensor([[[20.0, 0.0, 8.0], [0.0, 20.0, 8.0], [0.0, 0.0, 1.0]]]),
        16,
        16,
        sh_degree=3,
    )
    l1_ssim(image[0], target).backward()


def warm_up_in_background() -> threading.Thread:
    """Start `warm_up` in a daemon thread and return it (compiling holds the GIL in parts only)."""
    thread = threading.Thread(target=warm_up, daemon=True, name="rasterizer-warm-up")
    thread.start()
    return thread
