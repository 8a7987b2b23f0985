"""Compile every CPU kernel ahead of time.

numba compiles on first use (about ten CPU seconds in all) and keeps the machine code on disk. While
poses are being solved, which leaves cores idle for long stretches, `warm_up_beside` does it in a
process of the lowest priority; a training that comes too early waits for it instead of compiling
the same once more.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parents[1]


def warm_up() -> None:
    """Load every kernel, compiled now where that was not done before; one process at a time."""
    with _turn():
        _run_every_kernel()
        with contextlib.suppress(OSError):  # only ever spares a process that would find nothing
            _stamp().touch()


def warm_up_beside() -> subprocess.Popen[bytes] | None:
    """Start `warm_up` in a process of its own; None where it is done, or CUDA will be used.

    It ends by itself after some seconds, also when the caller is gone before: whoever trains next
    needs the result.
    """
    from splat_assets.rendering.cuda_check import driver_present

    if driver_present() or _stamp().exists():
        return None
    return subprocess.Popen(
        [sys.executable, "-m", "splat_assets.rendering.warm_up"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def _run_every_kernel() -> None:
    import numpy as np
    import torch

    from splat_assets.compute import Compute
    from splat_assets.rendering.affine import affine_colours
    from splat_assets.rendering.l1_ssim import l1_ssim
    from splat_assets.rendering.rasterize import rasterize
    from splat_assets.training.cpu_kernels import disturb, over_background
    from splat_assets.training.dataset import Sample
    from splat_assets.training.optimizer import NAMES, SplatOptimizer
    from splat_assets.training.step import Regularisers, shoot

    tensors = {
        "means": torch.tensor([[0.0, 0.0, 2.0], [0.1, 0.0, 3.0]]),
        "scales": torch.full((2, 3), -1.0),
        "quats": torch.ones(2, 4),
        "opacities": torch.full((2,), 0.5),
        "sh0": torch.full((2, 1, 3), 0.1),
        "shN": torch.full((2, 15, 3), 0.1),
    }
    K = torch.tensor([[[20.0, 0.0, 8.0], [0.0, 20.0, 8.0], [0.0, 0.0, 1.0]]])
    photo = over_background(np.zeros((16, 16, 3), np.uint8), None)
    sample = Sample(photo, None, K, torch.eye(4)[None], 16, 16)
    optimizer = SplatOptimizer(tensors, dict.fromkeys(NAMES, 1e-3))
    shot = shoot(
        optimizer, sample, sh_degree=3, background=torch.zeros(3),
        compute=Compute("cpu", "numba", "", 1), absgrad=False, depth=False,
    )  # fmt: skip
    seen = affine_colours(shot.image, torch.eye(3, 4, requires_grad=True))
    shot.learn(l1_ssim(seen, sample.image), optimizer, Regularisers())
    p = optimizer.params
    disturb(p["means"], p["quats"], p["scales"], p["opacities"], 0.0, 1)
    image, _, _ = rasterize(  # pruning and surveys measure by its gradient
        p["means"], p["quats"], torch.exp(p["scales"]), torch.sigmoid(p["opacities"]), p["sh0"],
        sample.viewmat, K, 16, 16, sh_degree=0,
    )  # fmt: skip
    image.sum().backward()


def _stamp() -> Path:
    """An empty file that says: what is cached is of these sources, on this machine.

    numba recognises its cache by the time and size of each source, as this does.
    """
    marks = [version("numba"), version("llvmlite"), sys.version, _processor()]
    for path in sorted([*_PACKAGE.glob("rendering/**/*.py"), *_PACKAGE.glob("training/*.py")]):
        status = path.stat()
        marks.append(f"{path} {status.st_mtime_ns} {status.st_size}")
    marks.append(os.environ.get("NUMBA_CACHE_DIR", ""))
    name = hashlib.sha256("\n".join(marks).encode()).hexdigest()[:24]
    return _cache() / f"kernels-{name}"


def _processor() -> str:
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return "".join(sorted({line for line in lines if line.startswith(("model name", "flags"))}))
    import platform

    return f"{platform.machine()} {platform.processor()}"


def _cache() -> Path:
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "splat_assets"
    with contextlib.suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
    return folder


@contextlib.contextmanager
def _turn() -> Iterator[None]:
    """Hold the lock of this machine's kernel cache, where there are locks and a place for one."""
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(ImportError, OSError):
            import fcntl

            stream = stack.enter_context((_cache() / "kernels.lock").open("a"))
            fcntl.flock(stream, fcntl.LOCK_EX)
        yield


if __name__ == "__main__":
    if hasattr(os, "nice"):
        os.nice(19)
    warm_up()
