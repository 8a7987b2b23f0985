"""The project's Dagster instance: where it is, how to open it, and runs whose process is gone."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dagster as dg

from splat_assets.defs.sensors import IN_PROGRESS

CONFIG = "dagster.yaml"
# host:pid:start of the terminal that executes a run; the UI hides tags with this prefix
PROCESS_TAG = ".dagster/splat_process"
NO_LOG_CAPTURE = {
    "compute_logs": {
        "module": "dagster._core.storage.noop_compute_log_manager",
        "class": "NoOpComputeLogManager",
        "config": {},
    }
}


def instance_home() -> Path:
    """The folder of the Dagster instance: `$DAGSTER_HOME`, else here, else one per user.

    "Here" counts when the working folder has a `dagster.yaml` (a clone of the project); otherwise
    a folder below the user's data folder is used, and given a default `dagster.yaml`.
    """
    named = os.environ.get("DAGSTER_HOME")
    if named:
        return Path(named).expanduser().resolve()
    if Path(CONFIG).is_file():
        return Path.cwd()
    base = os.environ.get("XDG_DATA_HOME") or "~/.local/share"
    home = Path(base).expanduser() / "splat-assets"
    if not (home / CONFIG).is_file():
        template = Path(__file__).parent / "defs" / "instance.yaml"
        text = template.read_text(encoding="utf-8").replace(".dagster", str(home / ".dagster"))
        home.mkdir(parents=True, exist_ok=True)
        (home / CONFIG).write_text(text, encoding="utf-8")
    return home


@contextmanager
def open_instance(*, capture_logs: bool = True) -> Iterator[dg.DagsterInstance]:
    """The project's instance. Without log capture, steps print to this terminal as usual."""
    from dagster._core.instance.ref import InstanceRef

    overrides: Any = None if capture_logs else NO_LOG_CAPTURE
    with dg.DagsterInstance.from_ref(
        InstanceRef.from_dir(str(instance_home()), overrides=overrides)
    ) as instance:
        yield instance


def close_dead_runs(instance: dg.DagsterInstance) -> list[str]:
    """Mark runs of terminals that were killed as failed and free what they held; their ids.

    Nobody else would: Dagster watches only the run workers that it started itself.
    """
    import psutil

    closed = []
    for run in instance.get_runs(dg.RunsFilter(statuses=IN_PROGRESS)):
        host, _, process = run.tags.get(PROCESS_TAG, "").partition(":")
        if host != socket.gethostname() or not process:
            continue
        pid, _, started = process.partition(":")
        try:
            alive = abs(psutil.Process(int(pid)).create_time() - float(started)) < 2.0
        except (psutil.NoSuchProcess, ValueError):
            alive = False
        if not alive:
            instance.report_run_failed(run, "The terminal that executed this run was killed.")
            instance.event_log_storage.free_concurrency_slots_for_run(run.run_id)
            closed.append(run.run_id)
    return closed


def this_process() -> str:
    """This process, so that another one can tell whether it still lives."""
    import psutil

    return f"{socket.gethostname()}:{os.getpid()}:{psutil.Process().create_time():.1f}"
