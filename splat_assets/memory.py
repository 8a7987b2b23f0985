"""How the C library deals with the memory of a program that makes and drops many large arrays."""

from __future__ import annotations

import ctypes
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8  # of glibc's malloc.h
_KEPT = 1 << 30  # bytes at most that are not in use
_LARGEST = 32 << 20  # bytes of an array that may lie among others; glibc takes no more


def keep_memory() -> None:
    """Let memory that was freed be used again instead of going back to the system at once.

    For programs of one task, before threads are started. Every fresh page has to be found and
    cleared: at a million Gaussians that took a sixth of all time, and one heap for all threads is
    smaller besides. Only glibc is told; elsewhere nothing happens.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:  # musl has none
        mallopt(_ARENA_MAX, 1)
        mallopt(_MMAP_THRESHOLD, _LARGEST)
        mallopt(_TRIM_THRESHOLD, _KEPT)
