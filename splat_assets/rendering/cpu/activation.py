"""From the numbers that are learnt to scales and opacities: exp and sigmoid, sixteen at a time.

Both go through `exp2` of simd.py, so results do not depend on where in an array a number stands.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from splat_assets.rendering.cpu.simd import exp2, fill, larger, load, read, smaller, store, write

_LOG2_E = np.float32(1.4426950408889634)
_LEAST, _MOST = np.float32(-126.0), np.float32(127.0)  # exponents of float32


@njit(cache=True, nogil=True, error_model="numpy")
def activate(begin, end, log_scales, logits, scales, opacities):  # type: ignore[no-untyped-def]
    """Fill rows begin … end - 1 of `scales` [N, 3] and `opacities` [N] with exp(`log_scales`) and
    sigmoid(`logits`). NaN stays NaN; beyond the range of float32 its ends are taken."""
    one = fill(np.float32(1.0))
    few = np.zeros(16, np.float32)
    first, beyond = 3 * begin, 3 * end
    while first + 16 <= beyond:
        store(scales, first, _exponential(load(log_scales, first)))
        first += 16
    for at in range(first, beyond):
        few[at - first] = read(log_scales, at)
    store(few, 0, _exponential(load(few, 0)))
    for at in range(first, beyond):
        write(scales, at, few[at - first])
    first = begin
    while first + 16 <= end:
        odds = _exponential(fill(np.float32(0.0)) - load(logits, first))
        store(opacities, first, one / (one + odds))
        first += 16
    for at in range(first, end):
        few[at - first] = read(logits, at)
    store(few, 0, one / (one + _exponential(fill(np.float32(0.0)) - load(few, 0))))
    for at in range(first, end):
        write(opacities, at, few[at - first])


@njit(cache=True, nogil=True, error_model="numpy", inline="always")
def _exponential(x):  # type: ignore[no-untyped-def]
    # the bounds come first: a comparison with NaN is false and leaves it as it is
    power = x * fill(_LOG2_E)
    power = larger(fill(_LEAST), power)
    return exp2(smaller(fill(_MOST), power))
