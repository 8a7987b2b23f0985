"""CPU seconds of whole process trees, what has ended and was orphaned included."""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Iterable

import psutil


def be_reaper() -> None:
    """Adopt orphaned descendants (fork servers outlive their run), so that their CPU counts."""
    pr_set_child_subreaper = 36
    ctypes.CDLL(None).prctl(pr_set_child_subreaper, 1)


def tree_cpu() -> float:
    """CPU seconds of all descendants so far, the ended ones included."""
    me = psutil.Process()
    for child in me.children():
        with contextlib.suppress(psutil.Error, ChildProcessError):
            if child.status() == psutil.STATUS_ZOMBIE and child.ppid() == me.pid:
                os.waitpid(child.pid, os.WNOHANG)
    ended = os.times()
    return cpu_of(me.children(recursive=True)) + ended.children_user + ended.children_system


def cpu_of(processes: Iterable[psutil.Process]) -> float:
    """CPU seconds of these processes, and of their children that have ended."""
    total = 0.0
    for process in processes:
        with contextlib.suppress(psutil.Error):
            times = process.cpu_times()
            total += times.user + times.system + times.children_user + times.children_system
    return total
