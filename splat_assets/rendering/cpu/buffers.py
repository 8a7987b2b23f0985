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
_buffers: dict[int, list[_Buffer]] = {}  # by size class
_requests = 0


class _Buffer:
    """Raw bytes, and when they were last asked for."""

    __slots__ = ("last_use", "memory", "skip")

    def __init__(self, size: int) -> None:
        self.memory = np.empty(size + 64, np.uint8)
        self.skip = -self.memory.ctypes.data % 64
        self.last_use = 0

    def view(self, shape: int | tuple[int, ...], dtype: Any) -> np.ndarray:
        return np.ndarray(shape, dtype, self.memory, self.skip)


def take(shape: int | tuple[int, ...], dtype: Any) -> np.ndarray:
    """A C-contiguous array with arbitrary contents that begins on a cache line."""
    global _requests
    count = math.prod(shape) if isinstance(shape, tuple) else shape
    needed = count * np.dtype(dtype).itemsize
    if needed < _SMALL:
        return _Buffer(needed).view(shape, dtype)
    size = _size_class(needed)
    with _lock:
        _requests += 1
        known = _buffers.setdefault(size, [])
        for buffer in known:
            # any other reference is a view that someone holds
            if sys.getrefcount(buffer.memory) <= _IDLE:
                break
        else:
            _forget()
            buffer = _Buffer(size)
            known.append(buffer)
        buffer.last_use = _requests
        return buffer.view(shape, dtype)


def zeros(shape: int | tuple[int, ...], dtype: Any) -> np.ndarray:
    """`take`, cleared."""
    array = take(shape, dtype)
    array.fill(0)
    return array


def _size_class(needed: int) -> int:
    """The next of four steps between powers of two: slightly different sizes share a buffer."""
    step = 1 << (needed.bit_length() - 3)
    return -(-needed // step) * step


def _forget() -> None:
    """Drop what was not wanted for a while (the sizes of a scene change as it grows)."""
    for known in _buffers.values():
        known[:] = [buffer for buffer in known if _requests - buffer.last_use <= _PATIENCE]


def _count_idle() -> int:
    """References to the memory of an idle buffer as `take` sees it."""
    buffer = _Buffer(1)
    return sys.getrefcount(buffer.memory)


_IDLE = _count_idle()
