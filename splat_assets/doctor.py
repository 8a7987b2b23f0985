"""What works on this machine: one finding per thing the pipeline can use, with its remedy.

Nothing here raises: a broken library is a finding. The heavy imports happen one by one, so that one
failure does not hide the others.
"""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from typing import Literal

from splat_assets.settings import DATA_VARIABLE, Settings, load_settings

State = Literal["ok", "warn", "missing"]
LOW_DISK_BYTES = 10 * 10**9
LOW_MEMORY_BYTES = 4 * 10**9


@dataclass(frozen=True)
class Finding:
    """One line of the report. `essential` things that are missing make the pipeline unusable."""

    name: str
    state: State
    detail: str
    remedy: str = ""
    essential: bool = False


def examine() -> Iterator[Finding]:
    """Look at everything, one by one, in the order in which a newcomer would mend it.

    Where CUDA is here, the first look may take minutes: gsplat compiles its kernels.
    """
    settings = load_settings()
    checks: tuple[tuple[str, Callable[[], Finding]], ...] = (
        ("python", _python),
        ("processor", _processor),
        ("memory", _memory),
        ("data", lambda: _data_root(settings)),
        ("dagster", _dagster),
        ("torch", _torch),
        ("numba", _numba),
        ("cuda", _cuda),
        ("gsplat", _gsplat),
        ("pycolmap", _pycolmap),
        ("video", _video),
        ("viewer", _viewer),
        ("plas", _plas),
    )
    for name, check in checks:
        yield _guarded(name, check)


def _guarded(name: str, check: Callable[[], Finding]) -> Finding:
    try:
        return check()
    except Exception as error:  # a broken native library may raise anything
        sentence = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        return Finding(name, "missing", sentence, "Install the project again.", essential=True)


def _python() -> Finding:
    return Finding("python", "ok", f"{platform.python_version()} in {sys.prefix}")


def _processor() -> Finding:
    from splat_assets.compute import available_threads

    count = available_threads()
    return Finding("processor", "ok", f"{count} core{'s' if count != 1 else ''} may be used")


def _memory() -> Finding:
    import psutil

    memory = psutil.virtual_memory()
    detail = f"{memory.available / 1e9:.1f} GB of {memory.total / 1e9:.1f} GB are free"
    if memory.available < LOW_MEMORY_BYTES:
        return Finding("memory", "warn", detail, "Close other programs, or stay at preset preview.")
    return Finding("memory", "ok", detail)


def _data_root(settings: Settings) -> Finding:
    folder = settings.local_root.absolute()
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    free = shutil.disk_usage(existing).free
    where = settings.data_root if settings.is_local else f"{settings.data_root} (near: {folder})"
    detail = f"{where}, {free / 1e9:.1f} GB free"
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        remedy = f"Set {DATA_VARIABLE} to a folder that can be written."
        return Finding("data", "missing", f"{where} cannot be written", remedy, essential=True)
    if free < LOW_DISK_BYTES:
        return Finding("data", "warn", detail, f"Free some space, or set {DATA_VARIABLE}.")
    return Finding("data", "ok", detail)


def _dagster() -> Finding:
    from splat_assets.instance import instance_home

    versions = {name: version(name) for name in ("dagster", "dagster-webserver")}
    home = instance_home()
    detail = f"{versions['dagster']}, instance in {home}"
    if len(set(versions.values())) > 1:
        found = ", ".join(f"{name} {number}" for name, number in versions.items())
        remedy = "Install the project again: they must be of one release."
        return Finding("dagster", "missing", found, remedy, essential=True)
    return Finding("dagster", "ok", detail)


def _torch() -> Finding:
    import torch

    detail = f"{torch.__version__}, {torch.get_num_threads()} threads"
    if not torch.__version__.startswith("2.13."):
        remedy = "pip install 'torch>=2.13,<2.14'"
        return Finding("torch", "warn", detail + "; tested with 2.13", remedy)
    return Finding("torch", "ok", detail, essential=True)


def _numba() -> Finding:
    import numba

    return Finding("numba", "ok", f"{numba.__version__}, renders on the processor", essential=True)


def _cuda() -> Finding:
    from splat_assets.rendering.cuda_check import cuda_facts, cuda_problem

    problem = cuda_problem("cuda:0")
    facts = cuda_facts()
    if problem is None:
        return Finding("cuda", "ok", f"CUDA {facts['torch_cuda']}: {'; '.join(facts['gpus'])}")
    if facts["driver"]:
        return Finding("cuda", "warn", "an NVIDIA GPU is here, but cannot be used", problem)
    remedy = "None needed for preset preview; standard and high want an NVIDIA GPU."
    return Finding("cuda", "warn", "no NVIDIA GPU here; the processor trains", remedy)


def _gsplat() -> Finding:
    from splat_assets.rendering.cuda_check import cuda_facts

    facts = cuda_facts()
    if facts["gsplat"] is None:
        state: State = "warn" if facts["driver"] else "ok"
        remedy = "pip install 'splat-assets[cuda]'" if facts["driver"] else ""
        return Finding("gsplat", state, "not installed; only used with CUDA", remedy)
    if not facts["driver"]:
        return Finding("gsplat", "ok", f"{facts['gsplat']}, unused without CUDA")
    if not facts["gsplat_built"]:
        remedy = "The first training compiles them; that needs nvcc and a C++ compiler."
        return Finding("gsplat", "warn", f"{facts['gsplat']}, kernels not compiled yet", remedy)
    return Finding("gsplat", "ok", f"{facts['gsplat']}, CUDA kernels ready")


def _pycolmap() -> Finding:
    import pycolmap

    device = "CUDA" if pycolmap.has_cuda else "processor only"
    return Finding("pycolmap", "ok", f"{pycolmap.__version__}, {device}", essential=True)


def _video() -> Finding:
    import av

    missing = [name for name in ("h264", "hevc", "vp9", "av1") if not _can_decode(name)]
    detail = f"PyAV {av.__version__}"
    if missing:
        remedy = "pip install --upgrade av, or convert such videos to h264."
        return Finding("video", "warn", f"{detail} cannot decode {', '.join(missing)}", remedy)
    return Finding("video", "ok", f"{detail}: h264, hevc, vp9, av1")


def _can_decode(name: str) -> bool:
    import av

    # FFmpeg's own "av1" decoder only drives hardware
    for candidate in ("libdav1d", "libaom-av1") if name == "av1" else (name,):
        try:
            av.codec.Codec(candidate, "r")
        except ValueError:
            continue
        return True
    return False


def _viewer() -> Finding:
    from splat_assets.errors import TransientError, UserError
    from splat_assets.viewing.viewer import install_viewer, viewer_problem

    if viewer_problem() is None:
        return Finding("viewer", "ok", "the browser viewer's files are here")
    try:
        install_viewer()
    except (UserError, TransientError) as error:
        remedy = "Connect to the network once, or --set compress.viewer=false."
        return Finding("viewer", "warn", str(error), remedy)
    return Finding("viewer", "ok", "the browser viewer's files were fetched just now")


def _plas() -> Finding:
    try:
        import plas  # noqa: F401
    except ImportError:
        remedy = "None needed; `pip install --group plas` in a clone adds it."
        return Finding("plas", "ok", "not installed, the built-in sorter is used", remedy)
    return Finding("plas", "ok", "can be used: --set compress.order=plas")
