"""A few threads that run one GIL-free kernel together and, in between, wait a moment and sleep.

The kernels hand out their tasks among themselves through atomic counters, so a thread that comes
late finds less to do. Waking a thread takes as long as a small kernel: between the kernels of one
training step a thread therefore looks out for the next one for some tens of microseconds before it
sleeps. It does so without the interpreter's lock, and leaves only when the caller has let go of
that lock too: to wait for it would be to sleep. numba's own parallel loops are not used: their
fastest layers spin for long, the default one aborts the process when two Python threads meet in it,
and they take several times longer to compile.
"""

from __future__ import annotations

import _thread
import os
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit

from splat_assets.compute import available_threads
from splat_assets.rendering.cpu.simd import pause, peek, poke
from splat_assets.rendering.cpu.tasks import SPACING, shares

_PATIENCE = 2000  # looks before a thread goes to sleep, each some tens of nanoseconds apart
_ASKED, _FREE = 0, SPACING  # places in a helper's flags: the last job asked for, and last done


class Team:
    """Runs `kernel(share, …)` on `threads` threads, the caller's among them.

    Calls from several Python threads take turns. The helpers are daemons, made on first use.
    """

    def __init__(self, threads: int) -> None:
        self.threads = max(1, threads)
        self._turn = threading.Lock()
        self._helpers: list[_Helper] = []
        self._taken = np.zeros(0, np.int64)

    def run(self, tasks: int, kernel: Callable[..., None], *arguments: Any) -> None:
        """Call `kernel(share, *arguments)` on as many threads as there are tasks for.

        `share` is what `tasks.next_task` hands out tasks by; `share[1]` is the thread's number
        among those that run (0 …, below `threads`).
        """
        members = max(1, min(self.threads, tasks))
        if members == 1:
            kernel(shares(1, tasks)[0], *arguments)
            return
        with self._turn:
            while len(self._helpers) < members - 1:
                self._taken = np.zeros(members * SPACING, np.int64)
                self._helpers = [_Helper(self._taken) for _ in range(members - 1)]
            self._taken.fill(0)
            parts = shares(members, tasks, self._taken)
            called = self._helpers[: members - 1]
            for helper, part in zip(called, parts[1:], strict=True):
                helper.start(kernel, (part, *arguments))
            try:
                kernel(parts[0], *arguments)
            finally:
                errors = [helper.wait() for helper in called]
            for error in errors:
                if error is not None:
                    raise error


class _Helper:
    """A thread of its own. Whoever finds nothing to do after `_PATIENCE` says so under `_mutex`
    and sleeps on a bare lock: one system call each way, where threading.Event takes several."""

    def __init__(self, taken: np.ndarray) -> None:
        self._taken = taken  # of the team: the caller is at work once its counter is not zero
        self._flags = np.zeros(2 * SPACING, np.int64)
        self._mutex = _thread.allocate_lock()
        self._go, self._done = _thread.allocate_lock(), _thread.allocate_lock()
        self._go.acquire()
        self._done.acquire()
        self._sleeps = self._is_awaited = False
        self._asked = self._finished = 0  # number of the last job
        self._job: tuple[Callable[..., None], tuple[Any, ...]] | None = None
        self._error: BaseException | None = None
        threading.Thread(target=self._serve, daemon=True, name="rasterizer").start()

    def start(self, kernel: Callable[..., None], arguments: tuple[Any, ...]) -> None:
        self._job = (kernel, arguments)
        with self._mutex:
            self._asked += 1
            self._flags[_ASKED] = self._asked
            wake, self._sleeps = self._sleeps, False
        if wake:
            self._go.release()

    def wait(self) -> BaseException | None:
        if not _await_end(self._flags, self._asked):
            with self._mutex:
                sleep = self._is_awaited = self._finished < self._asked
            if sleep:
                self._done.acquire()
        error, self._error = self._error, None
        return error

    def _serve(self) -> None:
        while True:
            if not _await_job(self._flags, self._finished, self._taken):
                with self._mutex:
                    self._sleeps = self._asked == self._finished
                    sleep = self._sleeps
                if sleep:
                    self._go.acquire()
            assert self._job is not None
            kernel, arguments = self._job
            try:
                kernel(*arguments)
            except BaseException as error:  # handed to the caller by wait()
                self._error = error
            self._job = kernel = arguments = None  # type: ignore[assignment]
            with self._mutex:
                self._finished += 1
                wake, self._is_awaited = self._is_awaited, False
            if wake:
                self._done.release()


@njit(cache=True, nogil=True)
def _await_job(flags, finished, taken):  # type: ignore[no-untyped-def]
    """Say that job `finished` is done, and look out for the next; whether it came."""
    poke(flags, _FREE, finished)
    for _ in range(_PATIENCE):
        if peek(flags, _ASKED) > finished and peek(taken, 0) > 0:
            return True
        pause()
    return peek(flags, _ASKED) > finished


@njit(cache=True, nogil=True)
def _await_end(flags, asked):  # type: ignore[no-untyped-def]
    """Look out for the end of job `asked`; whether it came."""
    for _ in range(_PATIENCE):
        if peek(flags, _FREE) >= asked:
            return True
        pause()
    return False


_team: Team | None = None
_team_pid = 0


def team() -> Team:
    """The process's team; as many threads as the process may use unless `set_threads` said else."""
    global _team, _team_pid
    if _team is None or _team_pid != os.getpid():  # threads do not survive a fork
        _team = Team(available_threads() if _team is None else _team.threads)
        _team_pid = os.getpid()
    return _team


def set_threads(threads: int) -> None:
    """How many threads the CPU rasteriser uses from now on. Results do not depend on it."""
    team().threads = max(1, threads)


def use_team(replacement: Team) -> None:
    """Let another team do the work (benchmarks: one with a stopwatch)."""
    global _team, _team_pid
    _team, _team_pid = replacement, os.getpid()
