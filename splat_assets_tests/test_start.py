"""What programs load and how they treat memory, in a fresh interpreter each."""

from __future__ import annotations

import subprocess
import sys

import numpy as np

_PEAK = "from splat_assets.compute import peak_memory_bytes\nprint(peak_memory_bytes())"


def _run(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_compiled_functions_do_not_wait_for_scipy_linalg() -> None:
    said = _run(
        "import sys, numpy as np\n"
        "from splat_assets.compression.kernels import nearest_levels\n"
        "print(nearest_levels(np.array([0.1, 0.9]), np.array([0.0, 1.0])).tolist())\n"
        "print('scipy.linalg' in sys.modules)"
    )
    assert said.split("\n") == ["[0, 1]", "False"]


def test_linear_algebra_still_compiles() -> None:
    """The module that is not loaded at first is the true one when it is needed."""
    said = _run(
        "import numpy as np\n"
        "from splat_assets.numba_start import load_numba\n"
        "load_numba()\n"
        "from numba import njit\n"
        "solve = njit(lambda a, b: np.linalg.solve(a, np.dot(a, b)))\n"
        "print(solve(np.array([[2.0, 1.0], [1.0, 3.0]]), np.array([1.0, 2.0])).round(6).tolist())\n"
        "import scipy.linalg.cython_blas as blas\n"
        "print(hasattr(blas, '__pyx_capi__'))"
    )
    assert said.split("\n") == ["[1.0, 2.0]", "True"]


def test_memory_that_was_freed_is_used_again() -> None:
    """Many large arrays one after the other cost their pages once (where glibc can be told)."""
    said = _run(
        "import resource, sys, numpy as np\n"
        "from splat_assets.memory import keep_memory\n"
        "keep_memory()\n"
        "def faults():\n"
        "    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "np.ones(2_000_000)\n"
        "before = faults()\n"
        "for _ in range(20): np.ones(2_000_000)\n"
        "print(sys.platform, faults() - before)"
    )
    platform, faults = said.split()
    assert platform != "linux" or int(faults) < 20 * 1000  # 3900 pages each


def test_the_memory_of_a_large_parent_is_not_ours() -> None:
    """What a program reports is its own peak: neither less than it used nor what started it."""
    mine = np.ones(50_000_000)  # 400 MB resident
    small = int(_run(_PEAK))
    large = int(_run(f"import numpy as np\nheld = np.ones({mine.size // 2})\n{_PEAK}"))
    assert small < mine.nbytes
    assert large > small + mine.nbytes // 2 - 2**24
