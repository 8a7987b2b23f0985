"""Memory for big temporary arrays, used again instead of being returned to the system.

A training step at 500 000 Gaussians needs a quarter of a gigabyte of scratch. Fresh memory of that
size comes in pages that the system first has to find and clear, which takes longer than some of the
kernels. A buffer is free again when nobody but this module refers to it. The memory comes
straight from the system, and what is given up goes back there at once.
"""

from __future__ import annotations

import math
import mmap
import sys
import threading
from collections.abc import Callable
from typing import Any

import numpy as np

_SMALL = 1 << 16  # bytes; below, numpy's own allocation is as quick
_HUGE = 1 << 22  # bytes; from here on with large pages, where there are any
_PATIENCE = 100  # requests after which a buffer nobody wanted is given up: a few steps
_lock = threading.Lock()
_buffers: dict[int, list[_Buffer]] = {}  # by size class
_requests = 0


class _Buffer:
    """Raw bytes, and when they were last asked for."""

    __slots__ = ("last_use", "memory", "skip")

    def __init__(self, size: int) -> None:
        self.memory = np.empty(size + 64, np.uint8) if size < _SMALL else fresh(size + 64)
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
        buffer = _idle(size)
        if buffer is None:
            _forget()
            buffer = _Buffer(size)
            _buffers.setdefault(size, []).append(buffer)
        buffer.last_use = _requests
        return buffer.view(shape, dtype)


def zeros(shape: int | tuple[int, ...], dtype: Any) -> np.ndarray:
    """`take`, cleared."""
    array = take(shape, dtype)
    array.fill(0)
    return array


def fresh(size: int) -> np.ndarray:
    """So many zero bytes in pages of their own: those not yet written to cost nothing, and all go
    back to the system when the array goes."""
    pages = mmap.mmap(-1, size)
    if size >= _HUGE and hasattr(mmap, "MADV_HUGEPAGE"):
        pages.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(pages, np.uint8)


def release() -> None:
    """Give up every buffer that nobody holds: sizes are about to change."""
    with _lock:
        for size in list(_buffers):
            _keep(size, lambda buffer: sys.getrefcount(buffer.memory) > _IDLE)


def _idle(size: int) -> _Buffer | None:
    """A buffer that nobody holds, of this size class or one of the next two."""
    for _ in range(3):
        for buffer in _buffers.get(size, ()):
            # any other reference is a view that someone holds
            if sys.getrefcount(buffer.memory) <= _IDLE:
                return buffer
        size = _size_class(size + 1)
    return None


def _size_class(needed: int) -> int:
    """The next of four steps between powers of two: slightly different sizes share a buffer."""
    step = 1 << (needed.bit_length() - 3)
    return -(-needed // step) * step


def _forget() -> None:
    """Drop what was not wanted for a while (the sizes of a scene change as it grows)."""
    for size in list(_buffers):
        _keep(size, lambda buffer: _requests - buffer.last_use <= _PATIENCE)


def _keep(size: int, wanted: Callable[[_Buffer], bool]) -> None:
    _buffers[size] = [buffer for buffer in _buffers[size] if wanted(buffer)]
    if not _buffers[size]:
        del _buffers[size]


def _count_idle() -> int:
    """References to the memory of an idle buffer as others see it."""
    buffer = _Buffer(1)
    return sys.getrefcount(buffer.memory)


_IDLE = _count_idle()
