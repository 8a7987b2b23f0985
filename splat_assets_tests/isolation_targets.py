"""What `test_isolation.py` calls in child processes; imports little, so that they start fast."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from fractions import Fraction
from pathlib import Path

from splat_assets.errors import Cancelled, TransientError, UserError
from splat_assets.progress import Progress


def work(*, value: int, progress: Progress) -> dict[str, int]:
    progress.update(0.5, "half-way", loss=Fraction(1, 4))
    progress.warn("mind the gap")
    return {"value": value + 1, "pid": os.getpid()}


def fail(*, kind: str, progress: Progress) -> None:
    if kind == "user":
        raise UserError("The photos are blurred; take sharper ones.")
    if kind == "transient":
        raise TransientError("No answer; try again.")
    if kind == "bug":
        raise ZeroDivisionError("a bug")
    if kind == "unpicklable":

        class LocalError(Exception):
            pass

        raise LocalError("strange")
    if kind == "segfault":
        os.kill(os.getpid(), signal.SIGSEGV)
    if kind == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if kind == "exit":
        os._exit(3)


def patient(*, mark: Path, progress: Progress) -> None:
    """Reports for a minute; saves something when it is asked to stop."""
    try:
        for step in range(600):
            progress.update(step / 600, f"step {step}")
            time.sleep(0.1)
    except Cancelled:
        mark.write_text("saved")
        raise


def stubborn(*, progress: Progress) -> None:
    """Like native code: one report, then it never looks up."""
    progress.update(0.0, "deaf from here on")
    time.sleep(60)


def talkative(*, progress: Progress) -> None:
    print("printed by the child")


def leaves_a_grandchild(*, progress: Progress) -> str:
    fds = [int(path.name) for path in Path("/proc/self/fd").iterdir()]
    subprocess.Popen(["sleep", "5"], pass_fds=[fd for fd in fds if fd > 2 and _is_pipe(fd)])
    return "done"


def _is_pipe(fd: int) -> bool:
    try:
        return str(Path(f"/proc/self/fd/{fd}").readlink()).startswith("pipe:")
    except OSError:
        return False


def starts_another(*, mark: Path, progress: Progress) -> None:
    """Starts a process of its own, then is deaf to everything."""
    other = subprocess.Popen(["sleep", "60"])
    mark.write_text(str(other.pid))
    progress.update(0.5, "started")
    time.sleep(60)
