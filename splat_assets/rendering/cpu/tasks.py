"""How the threads of a team share the tasks of a kernel.

Every thread begins with a range of its own and then helps where others still have some. Task i
concerns the same Gaussians or rows of pixels in one kernel after the other, so most of what a
thread needs lies in its own core's caches; cores far apart pay dearly for each other's.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from splat_assets.rendering.cpu.simd import fetch_add

SPACING = 8  # int64 between two threads' counters: a cache line each
NONE_LEFT = 1 << 40  # more than any kernel has


def shares(
    members: int, tasks: int, taken: np.ndarray | None = None
) -> list[tuple[np.ndarray, int, int, int]]:
    """The first argument of a kernel for each of its threads: counters of the tasks taken from
    every range, the thread's number, and how many threads and tasks there are.

    `taken` is memory for the counters, [members * SPACING] or more int64, all zero."""
    if taken is None:
        taken = np.zeros(members * SPACING, np.int64)
    return [(taken, number, members, tasks) for number in range(members)]


@njit(cache=True, nogil=True, error_model="numpy")
def next_task(share):  # type: ignore[no-untyped-def]
    """The number of a task that nobody has begun; `NONE_LEFT` when there is none."""
    taken, number, members, tasks = share
    for step in range(members):
        other = (number + step) % members
        first, beyond = tasks * other // members, tasks * (other + 1) // members
        if taken[other * 8] < beyond - first:
            task = first + fetch_add(taken, other * 8, 1)
            if task < beyond:
                return task
    return np.int64(1 << 40)
