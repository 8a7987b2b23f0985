"""How long the CPU rasteriser and the photometric loss take: medians over repeats, per kernel.

    python -m benchmarks.rasterizer --threads 1
    python -m benchmarks.rasterizer --threads 2 --sizes 20k 100k 500k --json

The scenes are random: anisotropic Gaussians of every opacity in a box before the camera, in sizes
that give about 1.2, 8 and 50 million (pixel, Gaussian) pairs with alpha >= 1/255. Wall time is what
counts on an idle machine; CPU time is the fairer figure on a busy one.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np
import torch

from splat_assets.rendering.cpu import team as team_module
from splat_assets.rendering.cpu.draw import Frame, Splats, draw
from splat_assets.rendering.l1_ssim import l1_ssim
from splat_assets.rendering.rasterize import rasterize

# Gaussians, width, height, median standard deviation, repeats
SIZES = {
    "20k": (20_000, 256, 192, 0.0185, 30),
    "100k": (100_000, 512, 384, 0.011, 10),
    "500k": (500_000, 1024, 768, 0.0063, 4),
}


def random_scene(count: int, width: int, height: int, scale: float) -> dict[str, Any]:
    """Arguments of `rasterize` but the image size."""
    g = torch.Generator().manual_seed(0)
    box, corner = torch.tensor([4.0, 3.0, 4.0]), torch.tensor([-2.0, -1.5, 2.0])
    return {
        "means": torch.rand(count, 3, generator=g) * box + corner,
        "quats": torch.randn(count, 4, generator=g),
        "scales": torch.exp(0.5 * torch.randn(count, 3, generator=g)) * scale,
        "opacities": torch.sigmoid(1.5 * torch.randn(count, generator=g)),
        "colors": 0.2 * torch.randn(count, 16, 3, generator=g),
        "viewmats": torch.eye(4)[None],
        "Ks": torch.tensor([[[width, 0.0, width / 2], [0.0, width, height / 2], [0.0, 0.0, 1.0]]]),
    }


def count_pairs(scene: dict[str, Any], width: int, height: int) -> float:
    """(pixel, Gaussian) pairs with alpha >= 1/255, from the areas of the ellipses."""
    arrays = [scene[name].numpy() for name in ("means", "quats", "scales", "opacities", "colors")]
    splats = Splats(arrays[0], arrays[1], arrays[2], arrays[3], (arrays[4],), 0)
    drawn = draw(
        splats, scene["viewmats"][0].double().numpy(), scene["Ks"][0].double().numpy(),
        np.zeros(3, np.float32), Frame(width, height), np.empty(width * height * 3, np.float32),
        np.empty(width * height, np.float32), save=False,
    )  # fmt: skip
    rows = drawn.rows.reshape(-1, 16)[drawn.radii[:, 0] > 0].astype(np.float64)
    return float((np.pi * rows[:, 6] / np.sqrt(rows[:, 3] * rows[:, 4])).sum())


class Stopwatch(team_module.Team):
    """A team that notes how long every kernel took, in milliseconds of wall and CPU time."""

    def __init__(self, threads: int) -> None:
        super().__init__(threads)
        self.laps: dict[str, list[tuple[float, float]]] = {}

    def run(self, tasks: int, kernel: Callable[..., None], *arguments: Any) -> None:
        wall, cpu = time.perf_counter(), time.process_time()
        super().run(tasks, kernel, *arguments)
        lap = (time.perf_counter() - wall, time.process_time() - cpu)
        self.laps.setdefault(kernel.__name__, []).append((lap[0] * 1e3, lap[1] * 1e3))


def measure(name: str, watch: Stopwatch) -> dict[str, Any]:
    """Medians of forward, backward and loss at one size."""
    count, width, height, scale, repeats = SIZES[name]
    scene = random_scene(count, width, height, scale)
    pairs = count_pairs(scene, width, height)
    leaves = [scene[key].requires_grad_() for key in list(scene)[:5]]
    target = torch.rand(height, width, 3, generator=torch.Generator().manual_seed(1))
    laps: dict[str, list[tuple[float, float]]] = {}

    def lap(what: str, since: tuple[float, float]) -> tuple[float, float]:
        now = time.perf_counter(), time.process_time()
        laps.setdefault(what, []).append(((now[0] - since[0]) * 1e3, (now[1] - since[1]) * 1e3))
        return now

    for repeat in range(repeats + 1):
        if repeat == 1:  # the first one compiles and fills the caches
            laps.clear()
            watch.laps.clear()
        for leaf in leaves:
            leaf.grad = None
        begin = since = time.perf_counter(), time.process_time()
        image, _, _ = rasterize(**scene, width=width, height=height, sh_degree=3)
        since = lap("forward", since)
        seen = image[0].detach().requires_grad_()
        l1_ssim(seen, target).backward()
        after_loss = lap("loss", since)
        assert seen.grad is not None
        image.backward(seen.grad[None])
        end = lap("backward", after_loss)
        both = [end[k] - begin[k] - (after_loss[k] - since[k]) for k in (0, 1)]
        laps.setdefault("forward + backward", []).append((both[0] * 1e3, both[1] * 1e3))
    return {
        "size": name,
        "gaussians": count,
        "pixels": [width, height],
        "pairs": pairs,
        "threads": watch.threads,
        "ms": {
            what: {"wall": median(x[0] for x in times), "cpu": median(x[1] for x in times)}
            for what, times in (laps | watch.laps).items()
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--sizes", nargs="+", choices=list(SIZES), default=["20k", "100k"])
    parser.add_argument("--json", action="store_true", help="print one JSON object a size")
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # as the trainer does: its threads would spin beside the kernels
    watch = Stopwatch(arguments.threads)
    team_module.use_team(watch)
    if not arguments.json:
        print(f"{platform.processor() or platform.machine()}, {arguments.threads} thread(s)")
    for name in arguments.sizes:
        result = measure(name, watch)
        if arguments.json:
            print(json.dumps(result))
            continue
        width, height = result["pixels"]
        print(f"\n{name} Gaussians at {width}×{height}, {result['pairs'] / 1e6:.2f} M pairs")
        print(f"{'':22}{'wall ms':>10}{'CPU ms':>10}")
        for what, ms in result["ms"].items():
            print(f"{what:22}{ms['wall']:10.2f}{ms['cpu']:10.2f}")


if __name__ == "__main__":
    main()
