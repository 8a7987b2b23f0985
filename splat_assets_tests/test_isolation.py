"""Child processes: results and errors come back, and none outlives its parent or a cancel."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from splat_assets.errors import Cancelled, TransientError, UserError
from splat_assets.isolation import ChildCrashedError, exclusive, run_isolated
from splat_assets.progress import Progress, Report, silent

HERE = "splat_assets_tests.isolation_targets:"


def test_result_reports_and_warnings_come_back() -> None:
    seen: list[Report] = []
    result = run_isolated(HERE + "work", progress=Progress(seen.append), value=41)
    assert result["value"] == 42 and result["pid"] != os.getpid()
    assert seen[0].message == "half-way" and seen[0].figures == {"loss": 0.25}
    assert seen[1].warning and seen[1].message == "mind the gap"


@pytest.mark.parametrize(
    ("kind", "error", "message"),
    [
        ("user", UserError, "^The photos are blurred; take sharper ones.$"),
        ("transient", TransientError, "^No answer; try again.$"),
        ("bug", ZeroDivisionError, "^a bug$"),
        ("unpicklable", RuntimeError, "LocalError: strange"),
        ("segfault", ChildCrashedError, r"^fail crashed in native code \(SIGSEGV\).$"),
        ("killed", ChildCrashedError, "most likely because the machine ran out of memory"),
        ("exit", ChildCrashedError, r"ended without a result \(exit code 3\)"),
    ],
)
def test_errors_come_back(kind: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        run_isolated(HERE + "fail", progress=silent(), kind=kind)


def test_cancel_lets_the_child_save_and_returns_soon(tmp_path: Path) -> None:
    began: list[float] = []

    def cancel_once_started(report: Report) -> None:
        began.append(time.monotonic())

    progress = Progress(cancel_once_started, lambda: len(began) > 1)
    with pytest.raises(Cancelled):
        run_isolated(HERE + "patient", progress=progress, mark=tmp_path / "mark")
    assert (tmp_path / "mark").read_text() == "saved"
    assert time.monotonic() - began[1] < 3


def test_cancel_kills_a_child_that_does_not_listen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("splat_assets.isolation.GRACE_SEC", 0.5)
    before = set(psutil.Process().children(recursive=True))
    started: list[Report] = []
    progress = Progress(started.append, lambda: bool(started))
    with pytest.raises(Cancelled):
        run_isolated(HERE + "stubborn", progress=progress)
    assert set(psutil.Process().children(recursive=True)) <= before


def test_interrupt_stops_the_child_and_a_second_one_does_not_orphan_it() -> None:
    """Ctrl-C twice: the first asks (and would wait for the grace time), the second kills."""
    program = (
        "import sys; from splat_assets.isolation import run_isolated\n"
        "from splat_assets.progress import Progress\n"
        f"run_isolated({HERE + 'stubborn'!r}, progress=Progress(lambda r: print('up', flush=True)))"
    )
    parent = start_parent(program)
    assert parent.stdout is not None and parent.stdout.readline() == "up\n"
    (child,) = psutil.Process(parent.pid).children()
    parent.send_signal(signal.SIGINT)
    time.sleep(0.3)
    parent.send_signal(signal.SIGINT)
    assert parent.wait(3) != 0
    assert gone(child)


def test_child_dies_with_a_killed_parent() -> None:
    program = (
        "from splat_assets.isolation import run_isolated\n"
        "from splat_assets.progress import Progress\n"
        f"run_isolated({HERE + 'stubborn'!r}, progress=Progress(lambda r: print('up', flush=True)))"
    )
    parent = start_parent(program)
    assert parent.stdout is not None and parent.stdout.readline() == "up\n"
    (child,) = psutil.Process(parent.pid).children()
    parent.kill()
    parent.wait()
    assert gone(child)


def test_calling_from_a_thread_works() -> None:
    """The kernel ties the child to the thread that started it; that thread waits, so it holds."""
    found: list[dict[str, int]] = []

    def call() -> None:
        found.append(run_isolated(HERE + "work", progress=silent(), value=1))

    thread = threading.Thread(target=call)
    thread.start()
    thread.join(30)
    assert found and found[0]["value"] == 2


def test_log_receives_what_the_child_prints(tmp_path: Path) -> None:
    log = tmp_path / "logs" / "child.log"
    run_isolated(HERE + "talkative", progress=silent(), log=log)
    assert log.read_text() == "printed by the child\n"


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc")
def test_a_grandchild_that_holds_the_pipe_does_not_hold_us_up() -> None:
    began = time.monotonic()
    assert run_isolated(HERE + "leaves_a_grandchild", progress=silent()) == "done"
    assert time.monotonic() - began < 4


def test_exclusive_waits_says_so_and_can_be_cancelled(tmp_path: Path) -> None:
    lock = tmp_path / "locks" / "gpu.lock"
    seen: list[Report] = []
    with exclusive(lock, silent()):
        waiting = Progress(seen.append, lambda: bool(seen))
        with (
            pytest.raises(Cancelled),
            exclusive(lock, waiting, what="another training"),
        ):
            pass
    assert seen[0].message == "Waiting for another training"
    with exclusive(lock, silent()):
        pass  # free again


def start_parent(program: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
        cwd=Path(__file__).parents[1],
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )


def gone(process: psutil.Process) -> bool:
    psutil.wait_procs([process], timeout=3)
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


def test_a_cancel_takes_what_the_child_started_along(tmp_path: Path) -> None:
    started: list[Report] = []
    progress = Progress(started.append, lambda: bool(started))
    with pytest.raises(Cancelled):
        run_isolated(HERE + "starts_another", progress=progress, mark=tmp_path / "pid")
    other = int((tmp_path / "pid").read_text())
    deadline = time.monotonic() + 5
    while psutil.pid_exists(other) and psutil.Process(other).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_second_one_waits_for_the_device_and_says_for_whom(tmp_path: Path) -> None:
    lock = tmp_path / "cpu.lock"
    first_runs, said = threading.Event(), []

    def first() -> None:
        progress = Progress(lambda report: first_runs.set(), lambda: bool(said))
        with pytest.raises(Cancelled):
            run_isolated(
                HERE + "patient",
                progress=progress,
                lock=lock,
                holder="trained_splat of garden on cpu",
                mark=tmp_path / "mark",
            )

    thread = threading.Thread(target=first)
    thread.start()
    assert first_runs.wait(60)
    seen: list[Report] = []

    def hear(report: Report) -> None:
        seen.append(report)
        said.append(report.message)

    result = run_isolated(
        HERE + "work", progress=Progress(hear), lock=lock, holder="another", value=1
    )
    thread.join()
    assert result["value"] == 2
    assert seen[0].message.startswith("Waiting for trained_splat of garden on cpu (process ")
