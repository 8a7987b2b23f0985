"""What numba loads besides itself before the first compiled function runs."""

from __future__ import annotations

import contextlib
import sys
from types import ModuleType

_ASKED_FOR = "scipy.linalg.cython_blas"


def load_numba() -> None:
    """Load numba's array functions without all of `scipy.linalg`.

    They import it only to see whether it is there, which takes as long as numba itself; functions
    that use linear algebra import it when they are compiled.
    """
    if "numba.np.arraymath" in sys.modules or _ASKED_FOR in sys.modules:
        return
    sys.modules[_ASKED_FOR] = ModuleType(_ASKED_FOR)
    try:
        with contextlib.suppress(ImportError):  # it then takes its own time
            import numba.np.arraymath  # noqa: F401
    finally:
        del sys.modules[_ASKED_FOR]
