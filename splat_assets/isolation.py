"""Run one library function in a child process that can always be stopped.

Native code (COLMAP, CUDA) does not notice a signal handled by Python until it returns. So a heavy
stage runs in a child: progress comes back as lines, a cancel first asks the child to stop (it sees
`Cancelled` at its next report and saves what can be resumed), then kills it; and the child dies
with its parent, however the parent ended, so that no orphan keeps a GPU.
"""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

from splat_assets.errors import Cancelled, TransientError, UserError
from splat_assets.progress import Progress, Report

GRACE_SEC = 4.0
_PR_SET_PDEATHSIG = 1
SCRATCH_PREFIX = "splat-assets-"


class ChildCrashedError(RuntimeError):
    """The child died without an answer (killed, out of memory, a crash in native code)."""


def run_isolated(
    target: str,
    *,
    progress: Progress,
    lock: Path | None = None,
    holder: str = "",
    log: Path | None = None,
    **kwargs: Any,
) -> Any:
    """Call `module:function` in a child with `kwargs` plus `progress`, and return its result.

    Args:
        target: `"package.module:function"`; the function must accept a `progress` argument.
        progress: the reports are forwarded to it; its cancel is forwarded to the child.
        lock: a file the child locks while it runs (one holder per device), waiting its turn.
        holder: what those who wait for the lock are told about this one.
        log: a file that receives what the child prints; its own stdout and stderr when None.
        kwargs: pickled to the child.

    Raises:
        Cancelled, UserError, TransientError: as the function raised them.
        ChildCrashedError: when the child died; the message names the signal.
        KeyboardInterrupt (or what the host raises for a stop): re-raised after the child is gone.
    """
    read_fd, write_fd = os.pipe()
    with tempfile.TemporaryDirectory(prefix=SCRATCH_PREFIX) as scratch:
        call = Path(scratch) / "call.pickle"
        answer = Path(scratch) / "answer.pickle"
        call.write_bytes(pickle.dumps((target, kwargs, (str(lock) if lock else None, holder))))
        command = [sys.executable, "-m", "splat_assets.isolation"]
        command += [str(call), str(answer), str(write_fd), str(os.getpid())]
        with contextlib.ExitStack() as stack:
            if log is not None:
                log.parent.mkdir(parents=True, exist_ok=True)
            output = stack.enter_context(log.open("ab")) if log else None
            child = subprocess.Popen(
                command,
                pass_fds=(write_fd,),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,  # what it starts itself can then be ended with it
            )
        os.close(write_fd)
        try:
            _forward_reports(read_fd, child, progress)
            code = child.wait()
        except BaseException:
            _stop(child)
            raise
        if not answer.exists():
            raise ChildCrashedError(_describe_exit(target, code))
        outcome, value = pickle.loads(answer.read_bytes())
    if outcome == "error":
        raise value
    return value


def _forward_reports(read_fd: int, child: subprocess.Popen[bytes], progress: Progress) -> None:
    """Relay lines until the child closes its end; raises what `progress` raises on cancel.

    A thread reads, so that the main thread polls for cancel, and is open to signals, all the time.
    """
    pending: list[bytes] = []
    arrived = threading.Condition()
    finished = threading.Event()

    def read() -> None:
        with os.fdopen(read_fd, "rb") as stream:
            for line in stream:
                with arrived:
                    pending.append(line)
                    arrived.notify()
        finished.set()
        with arrived:
            arrived.notify()

    threading.Thread(target=read, daemon=True, name="isolation-reader").start()
    while True:
        with arrived:
            if not pending and not finished.is_set():
                arrived.wait(0.2)
            lines, pending[:] = list(pending), []
        for line in lines:
            report = Report(**json.loads(line))
            if report.warning:
                progress.warn(report.message)
            else:
                progress.update(report.fraction, report.message, **report.figures)
        progress.check()
        if finished.is_set() and not pending:
            return
        if child.poll() is not None and not lines and not finished.wait(0.5):
            return  # a grandchild it left behind still holds the pipe open


def _stop(child: subprocess.Popen[bytes]) -> None:
    """Ask, wait a little, then kill. Returns only when the child is gone.

    A second interrupt while waiting (an impatient Ctrl-C) kills at once.
    """
    try:
        child.terminate()
        child.wait(GRACE_SEC)
    except subprocess.TimeoutExpired:
        pass
    finally:
        with contextlib.suppress(ProcessLookupError):  # the child, and whatever it started
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()


def _describe_exit(target: str, code: int) -> str:
    stage = target.rpartition(":")[2]
    if code == -signal.SIGKILL:
        return f"{stage} was killed, most likely because the machine ran out of memory."
    if code < 0:
        return f"{stage} crashed in native code ({signal.Signals(-code).name})."
    return f"{stage} ended without a result (exit code {code}); its log says more."


def die_with_parent(parent_pid: int, by: signal.Signals = signal.SIGKILL) -> None:
    """Have the kernel kill this process when its parent ends (Linux; elsewhere a no-op).

    To the kernel the parent is the *thread* that started this process: start it from one that
    outlives it (`run_isolated` blocks in the thread it is called from, so that holds).
    """
    if not sys.platform.startswith("linux"):
        return
    import ctypes

    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, by)
    if os.getppid() != parent_pid:  # it ended before the call above
        os._exit(1)


@contextlib.contextmanager
def exclusive(
    lock: Path | None, progress: Progress, *, what: str = "", holder: str = ""
) -> Iterator[None]:
    """Hold an OS lock on the file `lock`; the kernel frees it however the holder ends.

    While another process holds it, waits (open to cancel) and says for whom: `what`, else what that
    process wrote into the file as its `holder`.
    """
    if lock is None:
        yield
        return
    import fcntl
    import time

    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("a+", encoding="utf-8") as stream:
        told = False
        while True:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if not told:
                    stream.seek(0)
                    noted = stream.read().strip()
                    held = what or noted or f"another process that holds {lock.name}"
                    progress.update(0.0, f"Waiting for {held}")
                    told = True
                progress.check()
                time.sleep(0.2)
        if holder:
            stream.truncate(0)
            stream.write(f"{holder} (process {os.getpid()})\n")
            stream.flush()
        yield


def _child_main() -> None:
    call, answer, write_fd, parent_pid = sys.argv[1:5]
    die_with_parent(int(parent_pid))
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    # Ctrl-C reaches the whole foreground group; the parent decides, and asks by SIGTERM.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    target, kwargs, (lock, holder) = pickle.loads(Path(call).read_bytes())
    out = os.fdopen(int(write_fd), "w", encoding="utf-8", buffering=1)

    def send(report: Report) -> None:
        with contextlib.suppress(BrokenPipeError):
            # numpy's numbers are figures too
            out.write(json.dumps(vars(report), default=float) + "\n")

    progress = Progress(send, stop.is_set)
    outcome: tuple[str, Any]
    try:
        module, _, name = target.partition(":")
        with exclusive(Path(lock) if lock else None, progress, holder=holder):
            outcome = ("ok", getattr(import_module(module), name)(progress=progress, **kwargs))
    except (Cancelled, UserError, TransientError) as error:
        outcome = ("error", error)
    except BaseException as error:
        import traceback

        traceback.print_exc()
        outcome = ("error", _portable(error))
    temporary = Path(answer).with_suffix(".tmp")
    temporary.write_bytes(pickle.dumps(outcome))
    temporary.replace(answer)


def _portable(error: BaseException) -> BaseException:
    """The error itself when it survives pickling, else its text."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


if __name__ == "__main__":
    _child_main()
