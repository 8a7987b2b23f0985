"""Memory for big temporary arrays, used again instead of being returned to the system.

A training step at 500 000 Gaussians needs a quarter of a gigabyte of scratch and gradients. Fresh
memory of that size comes in pages that the kernel first has to find and clear, which takes longer
than some of the kernels. A buffer is free again when nobody but this module refers to it.
"""

from __future__ import annotations

import math
import sys
import threading
from typing import Any

import numpy as np

_SMALL = 1 << 16  # bytes; below, numpy's own allocation is as quick
_PATIENCE = 200  # requests after which a buffer nobody wanted is given up
_lock = threading.Lock()
_buffers: list[np.ndarray] = []
_last_use: dict[int, int] = {}
_requests = 0


def take(shape: int | tuple[int, ...], dtype: Any) -> np.ndarray:
    """A C-contiguous array with arbitrary contents, on a cache line."""
    global _requests
    size = math.prod(shape) if isinstance(shape, tuple) else shape
    dtype = np.dtype(dtype)
    needed = size * dtype.itemsize
    if needed < _SMALL:
        return _view(np.empty(needed + 64, np.uint8), needed, dtype, shape)
    with _lock:
        _requests += 1
        for buffer in _buffers:
            # any other reference is a view that someone holds
            if needed <= len(buffer) - 64 <= needed * 2 and sys.getrefcount(buffer) <= _IDLE:
                break
        else:
            _forget()
            # some room, so that slightly different sizes share a buffer
            buffer = np.empty(needed + needed // 8 + 64, np.uint8)
            _buffers.append(buffer)
        _last_use[id(buffer)] = _requests
        return _view(buffer, needed, dtype, shape)


def zeros(shape: int | tuple[int, ...], dtype: Any) -> np.ndarray:
    """`take`, cleared."""
    array = take(shape, dtype)
    array.fill(0)
    return array


def _view(buffer: np.ndarray, needed: int, dtype: np.dtype[Any], shape: Any) -> np.ndarray:
    skip = -buffer.ctypes.data % 64
    return buffer[skip : skip + needed].view(dtype).reshape(shape)


def _forget() -> None:
    """Drop what was not wanted for a while (the sizes of a scene change as it grows)."""
    for index in reversed(range(len(_buffers))):
        if _requests - _last_use[id(_buffers[index])] > _PATIENCE:
            del _last_use[id(_buffers[index])]
            del _buffers[index]


def _count_idle() -> int:
    """References to an idle buffer as `take` sees it: the list, the loop variable, the argument."""
    for buffer in [np.empty(1, np.uint8)]:
        return sys.getrefcount(buffer)
    raise AssertionError


_IDLE = _count_idle()
