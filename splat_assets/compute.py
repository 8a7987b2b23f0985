"""Which device does the heavy work: decided once, before any CUDA library is touched."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path

from splat_assets.errors import UserError


@dataclass(frozen=True)
class Compute:
    """A device and its backend, as recorded in every artifact's metadata."""

    device: str  # "cpu" or "cuda:<n>"
    backend: str  # "numba" or "gsplat"
    reason: str  # one sentence: why this one
    threads: int  # CPU threads to use


def available_threads() -> int:
    """CPUs this process may use (affinity and cgroup aware where Python tells)."""
    counter = getattr(os, "process_cpu_count", None)
    if counter is not None:
        return counter() or 1
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:
        return os.cpu_count() or 1


def select_compute(device: str = "auto") -> Compute:
    """Resolve `auto`, `cpu`, `cuda` or `cuda:<n>`.

    Raises `UserError` when CUDA was asked for by name and cannot be used; `auto` falls back to the
    CPU and says why in `reason`.
    """
    threads = available_threads()
    if device == "cpu":
        return Compute("cpu", "numba", "the CPU was asked for", threads)
    if device != "auto" and device.partition(":")[0] != "cuda":
        raise UserError(f"There is no device {device!r}; use auto, cpu, cuda or cuda:<n>.")
    from splat_assets.rendering.cuda_check import cuda_problem

    wanted = "cuda:0" if device in ("auto", "cuda") else device
    problem = cuda_problem(wanted)
    if problem is None:
        return Compute(wanted, "gsplat", f"CUDA works on {wanted}", threads)
    if device == "auto":
        return Compute("cpu", "numba", problem, threads)
    raise UserError(f"{device} cannot be used: {problem}")


def peak_memory_bytes(device: str = "cpu") -> int:
    """The most memory used at once so far: of the GPU's by torch when `device` names one, else of
    this process."""
    if device.startswith("cuda"):
        import torch

        return int(torch.cuda.max_memory_allocated(device))
    peak = resident_peak_bytes()
    if peak is not None:
        return peak
    try:
        import resource
    except ImportError:  # Windows
        import psutil

        memory = psutil.Process().memory_info()
        return int(getattr(memory, "peak_wset", memory.rss))
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(used if sys.platform == "darwin" else used * 1024)


def resident_peak_bytes(process: int | str = "self") -> int | None:
    """The most that ever was resident of a running process, as Linux tells it; None elsewhere.

    `getrusage` counts what the process was forked from, too: a large parent makes every small
    child look as large.
    """
    try:
        status = Path(f"/proc/{process}/status").read_text()
    except OSError:
        return None
    for line in status.splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return None
