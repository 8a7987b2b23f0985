"""The run launcher of the embedded instance: Dagster's own, which also notices dead run workers.

A run worker is a child of the code server, and Dagster leaves it to that server to see it die. When
both are killed (out of memory, a restart of the machine), the run would stay "started" for ever and
keep its pool slots. With this launcher the monitor looks at the process itself.
"""

from __future__ import annotations

import time
from typing import Any

import dagster as dg
import psutil
from dagster._core.errors import DagsterUserCodeUnreachableError
from dagster._core.launcher import CheckRunHealthResult, DefaultRunLauncher, WorkerStatus
from dagster._core.storage.tags import GRPC_INFO_TAG

CLOCK_SEC = 2.0  # a process is older than what it reports, give or take the clock's steps
PATIENCE_SEC = 60.0  # for a code server to come back, which the retry of a dead run needs
HERE = ('"socket"', '"localhost"', '"127.0.0.1"')  # marks of a code server on this host


class WatchingRunLauncher(DefaultRunLauncher):
    """Runs are processes of the code server; those of this host are looked after."""

    def __init__(self, inst_data: Any = None) -> None:
        super().__init__(inst_data)
        self._dead_since: dict[str, float] = {}  # run → when that was noticed, by time.monotonic

    @property
    def supports_check_run_worker_health(self) -> bool:
        return True

    def check_run_worker_health(self, run: dg.DagsterRun) -> CheckRunHealthResult:
        """`FAILED` when the run's process is known, was on this host, and is no more."""
        if not any(mark in run.tags.get(GRPC_INFO_TAG, "") for mark in HERE):
            return CheckRunHealthResult(WorkerStatus.RUNNING)  # of a terminal, or elsewhere
        reported = self._reported_process(run.run_id)
        if reported is None or _lives(*reported):
            return CheckRunHealthResult(WorkerStatus.RUNNING)
        since = self._dead_since.setdefault(run.run_id, time.monotonic())
        if time.monotonic() - since < PATIENCE_SEC and not self._has_code(run.run_id):
            return CheckRunHealthResult(WorkerStatus.RUNNING)  # Dagster tries a retry only once
        gone = "the process of the run was killed, or the machine was restarted"
        return CheckRunHealthResult(WorkerStatus.FAILED, gone)

    def _has_code(self, run_id: str) -> bool:
        """True when the code server that started the run answers."""
        client = self._get_grpc_client_for_termination(run_id)
        try:
            return client is not None and bool(client.list_repositories())
        except DagsterUserCodeUnreachableError:
            return False

    def _reported_process(self, run_id: str) -> tuple[int, float] | None:
        """The process id that the run worker gave, and when (seconds since 1970)."""
        records = self._instance.get_records_for_run(
            run_id, of_type=dg.DagsterEventType.ENGINE_EVENT, limit=10, ascending=True
        ).records
        for record in records:
            event = record.event_log_entry.dagster_event
            if event is None or event.step_key is not None:
                continue
            pid = event.engine_event_data.metadata.get("pid")
            if pid is not None:
                return int(str(pid.value)), record.timestamp
        return None


def _lives(pid: int, reported: float) -> bool:
    """True for the process that reported itself then, not for a later one of the same number."""
    try:
        process = psutil.Process(pid)
        zombie = process.status() == psutil.STATUS_ZOMBIE
        return not zombie and process.create_time() <= reported + CLOCK_SEC
    except psutil.NoSuchProcess:
        return False
