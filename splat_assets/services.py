"""`splat-assets dev`: the web UI and the daemon, exactly one of each per instance.

This process only watches: it holds the instance's lock, starts `dagster dev`, starts it or its
code server again when it was killed, and takes all of it along when it ends, however that happens.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil

from splat_assets.artifacts.manifest import write_text_atomic
from splat_assets.errors import UserError
from splat_assets.instance import close_dead_runs, instance_home, open_instance
from splat_assets.isolation import die_with_parent

WORKSPACE = "workspace.yaml"
DEFAULT_WORKSPACE = """\
load_from:
  - python_module: {module_name: splat_assets.definitions, location_name: splat_assets}
"""
LOCK = ".dagster/services.lock"
DAEMON = ("dagster._daemon", "dagster-daemon")
STOP_SEC = 60.0  # Dagster's own services get 60 s to end
STEADY_SEC = 60.0  # services that lived this long were well
MAX_QUICK_DEATHS = 3
LOOK_SEC = 5.0  # between two looks for the code server


def run_services(*, port: int = 3000, host: str = "127.0.0.1") -> None:
    """Serve the project's instance until Ctrl-C (or SIGTERM).

    The code location is the one of the `workspace.yaml` here or in the instance's folder; the
    project's own where there is none.

    Raises:
        UserError: another process serves this instance, or the services do not start.
    """
    home = instance_home()
    with _only_one(home):
        with open_instance() as instance:
            close_dead_runs(instance)
        _watch(_command(home, port, host), home, f"http://{_reachable(host)}:{port}/graphql")


def _command(home: Path, port: int, host: str) -> list[str]:
    places = [Path(WORKSPACE), home / WORKSPACE]
    workspace = next((path for path in places if path.is_file()), None)
    if workspace is None:
        workspace = home / WORKSPACE
        write_text_atomic(workspace, DEFAULT_WORKSPACE)
    command = [sys.executable, "-m", "dagster", "dev", "-w", str(workspace)]
    return [*command, "--port", str(port), "--host", host]


def _reachable(host: str) -> str:
    return "127.0.0.1" if host in ("0.0.0.0", "::", "") else host


def _watch(command: list[str], home: Path, graphql: str) -> None:
    """Keep `dagster dev` alive until this process is told to stop."""
    stopping = False
    child: subprocess.Popen[bytes] | None = None

    def stop(*_: object) -> None:
        nonlocal stopping
        stopping = True
        if child is not None and child.poll() is None:
            child.send_signal(signal.SIGINT)

    # Set even where a shell's background job ignores Ctrl-C.
    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    quick_deaths = 0
    try:
        while not stopping:
            _end_orphans(home)
            began = time.monotonic()
            child = _start(command, home)
            _attend(child, graphql)
            if stopping:
                break
            quick_deaths = 0 if time.monotonic() - began > STEADY_SEC else quick_deaths + 1
            if quick_deaths == MAX_QUICK_DEATHS:
                raise UserError(
                    "The web UI and the daemon end as soon as they are started; what they printed "
                    "above says why (most often, the port is in use: try --port)."
                )
            print("The services ended by themselves; starting them again.", file=sys.stderr)
    finally:
        if child is not None and child.poll() is None:
            child.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(STOP_SEC)
            child.kill()
        for number, handler in before.items():
            signal.signal(number, handler)


def _attend(services: subprocess.Popen[bytes], graphql: str) -> None:
    """Wait until the services end; a code server that is killed meanwhile is started again.

    `dagster dev` would go on without: no run could be launched or retried.
    """
    known: list[psutil.Process] = []
    while True:
        with contextlib.suppress(subprocess.TimeoutExpired):
            services.wait(LOOK_SEC)
            return
        if any(_is_alive(server) for server in known):
            continue
        found = _code_servers(services.pid)
        if found or not known:  # one that was started anew, by the web UI; or none yet
            known = found
        else:
            print("The code server was killed; starting it again.", file=sys.stderr)
            _reload(graphql)  # where that fails, the next look tries again


def _code_servers(dev: int) -> list[psutil.Process]:
    """The processes below `dagster dev` that hold the project's code; runs are their children."""
    found = []
    with contextlib.suppress(psutil.Error):
        for process in psutil.Process(dev).children(recursive=True):
            with contextlib.suppress(psutil.Error):
                if process.cmdline()[2:5] == ["dagster", "api", "grpc"] and _is_alive(process):
                    found.append(process)
    return found


def _is_alive(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


def _reload(graphql: str) -> None:
    body = json.dumps({"query": "mutation { reloadWorkspace { __typename } }"}).encode()
    request = urllib.request.Request(graphql, body, {"Content-Type": "application/json"})
    with contextlib.suppress(OSError), urllib.request.urlopen(request, timeout=60) as answer:
        answer.read()


def _start(command: list[str], home: Path) -> subprocess.Popen[bytes]:
    watcher = os.getpid()

    def in_the_child() -> None:
        # Ctrl-C on a terminal reaches the whole group: the watcher passes it on, once.
        os.setpgrp()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        # SIGINT, so that a killed watcher leaves services that end in good order.
        die_with_parent(watcher, signal.SIGINT)

    environment = {**os.environ, "DAGSTER_HOME": str(home), "DAGSTER_DISABLE_TELEMETRY": "1"}
    return subprocess.Popen(command, env=environment, preexec_fn=in_the_child)


@contextlib.contextmanager
def _only_one(home: Path) -> Iterator[None]:
    """Hold the instance's lock; `UserError` naming the process that has it.

    Two daemons on one instance would launch everything twice.
    """
    import fcntl

    path = home / LOCK
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+", encoding="utf-8") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            stream.seek(0)
            raise UserError(
                f"The instance in {home} is served already, by process {stream.read().strip()}; "
                "stop that one first, or name another instance in DAGSTER_HOME."
            ) from None
        stream.truncate(0)
        stream.write(f"{os.getpid()}\n")
        stream.flush()
        _refuse_foreign_daemon(home)
        yield


def _refuse_foreign_daemon(home: Path) -> None:
    for process in _daemons(home):
        if not _is_orphan(process):
            raise UserError(
                f"A Dagster daemon (process {process.pid}) works on the instance in {home} already;"
                " stop it first, or name another instance in DAGSTER_HOME."
            )


def _end_orphans(home: Path) -> None:
    """Kill daemons whose `dagster dev` was killed: nothing else would ever end them."""
    for process in _daemons(home):
        if _is_orphan(process):
            process.kill()


def _daemons(home: Path) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter(["cmdline"]):
        command = " ".join(process.info["cmdline"] or ())
        if not any(mark in command for mark in DAEMON):
            continue
        with contextlib.suppress(psutil.Error):
            if process.environ().get("DAGSTER_HOME") == str(home):
                found.append(process)
    return found


def _is_orphan(daemon: psutil.Process) -> bool:
    """True for a daemon that a `dagster dev` started which is no more."""
    try:
        if "--shutdown-pipe" not in daemon.cmdline():
            return False
        parent = daemon.parent()
        return parent is None or "dev" not in parent.cmdline()
    except psutil.Error:
        return False
