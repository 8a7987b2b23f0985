"""Can this machine train on CUDA, and if not, what would have to be done?

gsplat compiles its kernels on first use, and says little when that fails; a process that tried can
even be unable to go on. So the cheap questions (driver, torch, gsplat, nvcc, host compiler) come
first, without importing torch where no NVIDIA driver is loaded, and the compiling and loading is
tried in a child process that renders one Gaussian. No gsplat operation is touched before
`torch.cuda.is_available()` said yes.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any

# compiling gsplat takes some minutes on a desktop, and more on few cores
SMOKE_TEST_SECONDS = 1800

_SMOKE_TEST = """
import sys
from splat_assets.rendering.gsplat_backend import smoke_test
smoke_test(sys.argv[1])
print("one gaussian rendered")
"""


@lru_cache(maxsize=8)
def cuda_problem(device: str = "cuda:0") -> str | None:
    """None when `device` ("cuda" or "cuda:<n>") renders; else one sentence: what is wrong and the
    remedy. The first success may take minutes (compiling); the answer is kept for the process."""
    name, _, number = device.partition(":")
    if name != "cuda" or (number and not number.isdigit()):
        return f"{device!r} is not a CUDA device; write cuda or cuda:<n>."
    if not driver_present():
        return "There is no NVIDIA GPU here (no NVIDIA driver is loaded); use the device cpu."
    if os.environ.get("CUDA_VISIBLE_DEVICES", "unset").strip() in ("", "-1"):
        return "CUDA_VISIBLE_DEVICES hides every GPU from this process; unset it or list one."
    return _torch_problem(int(number or 0)) or _gsplat_problem() or _smoke_problem(device)


def cuda_facts() -> dict[str, Any]:
    """What a report about this machine should say: versions, GPUs, compilers (no smoke test).

    Keys: driver (bool), torch, torch_cuda, gpus (list of name and GiB), gsplat, gsplat_built
    (bool), nvcc (path), host_compiler (path); None where missing. torch is imported only beside a
    driver.
    """
    driver = driver_present()
    facts: dict[str, Any] = {
        "driver": driver,
        "torch": _version("torch"),
        "torch_cuda": None,
        "gpus": [],
        "gsplat": _version("gsplat"),
        "gsplat_built": False,
        "nvcc": str(_nvcc() or "") or None,
        "host_compiler": _host_compiler(),
    }
    if driver:
        import torch

        facts["torch_cuda"] = torch.version.cuda
        facts["gsplat_built"] = facts["gsplat"] is not None and _extension_built()
        for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
            properties = torch.cuda.get_device_properties(index)
            facts["gpus"].append(f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB")
    return facts


def prepare_cuda_build() -> None:
    """Let torch's extension builder find an nvcc that came from PyPI, unless CUDA_HOME is set.

    NVIDIA's wheels hold `libcudart.so.<n>` but not the `libcudart.so` that the linker asks for, so
    a link to it is made in the user's cache folder and put on LIBRARY_PATH. Changes `os.environ`.
    """
    nvcc = _nvcc()
    if nvcc is None or os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH"):
        return
    home = nvcc.parent.parent
    if home.parent.name != "nvidia":  # an ordinary toolkit: torch finds it by itself
        return
    os.environ["CUDA_HOME"] = str(home)
    runtime = sorted((home / "lib").glob("libcudart.so.*"))
    if not runtime or sys.platform != "linux":
        return
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = cache / "splat_assets" / f"cuda-link-{os.getuid()}"
    folder.mkdir(parents=True, exist_ok=True)
    link = folder / "libcudart.so"
    if not (link.is_symlink() and link.readlink() == runtime[-1]):
        fresh = folder / f"libcudart.so.{os.getpid()}"
        fresh.symlink_to(runtime[-1])
        fresh.replace(link)
    paths = os.environ.get("LIBRARY_PATH")
    os.environ["LIBRARY_PATH"] = f"{folder}{os.pathsep}{paths}" if paths else str(folder)


def driver_present() -> bool:
    if sys.platform == "linux":
        # /dev/dxg is the GPU of Windows as WSL shows it
        places = ("/proc/driver/nvidia/version", "/dev/nvidiactl", "/dev/nvidia0", "/dev/dxg")
        return any(Path(place).exists() for place in places)
    if sys.platform == "win32":
        return Path(os.environ.get("SYSTEMROOT", r"C:\Windows"), "System32", "nvcuda.dll").exists()
    return False


def _torch_problem(index: int) -> str | None:
    import torch

    if torch.version.cuda is None:
        return (
            f"An NVIDIA driver is loaded, but torch {torch.__version__} was built without CUDA; "
            "reinstall torch from the default PyPI index (not the /whl/cpu one)."
        )
    if not torch.cuda.is_available():
        return (
            f"torch {torch.__version__} (CUDA {torch.version.cuda}) finds no usable GPU; update "
            "the NVIDIA driver, and in a container pass the GPU through (--gpus all)."
        )
    count = torch.cuda.device_count()
    if index >= count:
        return f"cuda:{index} does not exist; this machine has {count} GPU(s), counted from 0."
    return None


def _gsplat_problem() -> str | None:
    for package in ("gsplat", "packaging"):
        if importlib.util.find_spec(package) is None:
            return f"{package} is not installed; run `pip install 'splat-assets[cuda]'`."
    if _extension_built():
        return None
    import torch

    assert torch.version.cuda is not None
    if _nvcc() is None:
        return (
            "gsplat must compile its CUDA kernels once and finds no nvcc; install the CUDA toolkit "
            f"{torch.version.cuda}, or run `{_nvcc_from_pypi(torch.version.cuda)}`."
        )
    if _host_compiler() is None:
        tools = "Visual Studio's C++ tools" if sys.platform == "win32" else "g++ (build-essential)"
        return f"gsplat must compile its CUDA kernels and finds no C++ compiler; install {tools}."
    return None


def _smoke_problem(device: str) -> str | None:
    """Render one Gaussian in a child, whose crash or hang is only its own."""
    try:
        done = subprocess.run(
            [sys.executable, "-c", _SMOKE_TEST, device],
            capture_output=True,
            text=True,
            timeout=SMOKE_TEST_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return (
            f"gsplat's CUDA kernels were not ready after {SMOKE_TEST_SECONDS // 60} minutes; "
            "compile them once by hand with "
            '`MAX_JOBS=2 python -c "from gsplat.cuda._backend import _C"`.'
        )
    if done.returncode == 0:
        return None
    return _explain(done.stderr + done.stdout, done.returncode)


def _explain(output: str, returncode: int) -> str:
    """One sentence from what the child printed."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    last = lines[-1] if lines else f"exit status {returncode}"
    telling = next((line for line in lines if "error:" in line or "fatal error" in line), last)
    remedies = {
        "unsupported GNU version": "install the g++ that this CUDA release supports and set CXX",
        "mismatches the version that was used": "install the nvcc of torch's CUDA version",
        "Ninja is required": "run `pip install ninja`",
        "out of memory": "free memory on the GPU, or use the device cpu",
        "Killed": "compile with fewer jobs: set MAX_JOBS=2",
        "no kernel image is available": "this GPU is too old or too new for the installed torch",
        "has no attribute": "install nvcc of torch's CUDA version and a C++ compiler",
        "No CUDA toolkit found": "install nvcc of torch's CUDA version",
        "cannot find -lcudart": "set LIBRARY_PATH to the folder with libcudart.so",
    }
    remedy = next(
        (text for sign, text in remedies.items() if sign in output),
        "remove ~/.cache/torch_extensions and try again, or use the device cpu",
    )
    return f"gsplat does not run on this GPU ({telling[:200].rstrip('.')}): {remedy}."


def _extension_built() -> bool:
    """Whether gsplat's compiled kernels exist: inside the package, or where torch keeps builds."""
    spec = importlib.util.find_spec("gsplat")
    if spec is None or spec.origin is None:
        return False
    if any(Path(spec.origin).parent.glob("csrc*.so")) or any(
        Path(spec.origin).parent.glob("csrc*.pyd")
    ):
        return True
    from torch.utils.cpp_extension import _get_build_directory

    folder = Path(_get_build_directory("gsplat_cuda", verbose=False))
    return any((folder / f"gsplat_cuda.{ending}").exists() for ending in ("so", "pyd", "lib"))


def _nvcc() -> Path | None:
    name = "nvcc.exe" if sys.platform == "win32" else "nvcc"
    for variable in ("CUDA_HOME", "CUDA_PATH"):
        if os.environ.get(variable) and Path(os.environ[variable], "bin", name).exists():
            return Path(os.environ[variable], "bin", name)
    found = shutil.which("nvcc")
    if found:
        return Path(found)
    if Path("/usr/local/cuda/bin/nvcc").exists():
        return Path("/usr/local/cuda/bin/nvcc")
    packages = Path(sysconfig.get_paths()["purelib"], "nvidia")
    return next(iter(sorted(packages.glob(f"*/bin/{name}"), reverse=True)), None)


def _nvcc_from_pypi(cuda: str) -> str:
    major, minor = cuda.split(".")[:2]
    suffix = "-cu12" if major == "12" else ""
    names = [f"'nvidia-cuda-{part}{suffix}=={major}.{minor}.*'" for part in ("nvcc", "cccl")]
    return "pip install " + " ".join(names)


def _host_compiler() -> str | None:
    if sys.platform == "win32":
        return shutil.which("cl")
    return shutil.which(os.environ.get("CXX") or "c++") or shutil.which("g++")


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
