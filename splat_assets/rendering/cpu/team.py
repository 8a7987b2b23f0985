"""A few threads that run one GIL-free kernel together and sleep in between.

The kernels hand out their tasks among themselves through atomic counters, so a thread that comes
late finds less to do and nobody spins. numba's own parallel loops are not used: their fastest
layers spin between loops, the default one aborts the process when two Python threads meet in it,
and they take several times longer to compile.
"""

from __future__ import annotations

import _thread
import os
import threading
from collections.abc import Callable
from typing import Any

from splat_assets.compute import available_threads
from splat_assets.rendering.cpu.tasks import shares


class Team:
    """Runs `kernel(share, …)` on `threads` threads, the caller's among them.

    Calls from several Python threads take turns. The helpers are daemons, made on first use.
    """

    def __init__(self, threads: int) -> None:
        self.threads = max(1, threads)
        self._turn = threading.Lock()
        self._helpers: list[_Helper] = []

    def run(self, tasks: int, kernel: Callable[..., None], *arguments: Any) -> None:
        """Call `kernel(share, *arguments)` on as many threads as there are tasks for.

        `share` is what `tasks.next_task` hands out tasks by; `share[1]` is the thread's number
        among those that run (0 …, below `threads`).
        """
        members = max(1, min(self.threads, tasks))
        parts = shares(members, tasks)
        if members == 1:
            kernel(parts[0], *arguments)
            return
        with self._turn:
            while len(self._helpers) < members - 1:
                self._helpers.append(_Helper())
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
    def __init__(self) -> None:
        # bare locks: one system call each way, where threading.Event takes several
        self._go = _thread.allocate_lock()
        self._done = _thread.allocate_lock()
        self._go.acquire()
        self._done.acquire()
        self._job: tuple[Callable[..., None], tuple[Any, ...]] | None = None
        self._error: BaseException | None = None
        threading.Thread(target=self._serve, daemon=True, name="rasterizer").start()

    def start(self, kernel: Callable[..., None], arguments: tuple[Any, ...]) -> None:
        self._job = (kernel, arguments)
        self._go.release()

    def wait(self) -> BaseException | None:
        self._done.acquire()
        error, self._error = self._error, None
        return error

    def _serve(self) -> None:
        while True:
            self._go.acquire()
            assert self._job is not None
            kernel, arguments = self._job
            try:
                kernel(*arguments)
            except BaseException as error:  # handed to the caller by wait()
                self._error = error
            self._job = kernel = arguments = None  # type: ignore[assignment]
            self._done.release()


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
