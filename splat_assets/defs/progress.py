"""Progress of a running step, as Dagster can show it: log lines, observations, a JSONL file.

Dagster has no progress bar. A log line costs a few milliseconds and an observation ten, so both are
throttled; the JSONL beside the artifact keeps the fine curve for those who want it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextvars import ContextVar
from pathlib import Path

import dagster as dg

from splat_assets.progress import Progress, Report

Listener = Callable[[str, Report], None]  # (asset, report), called on every update

# Who else listens in this process: the command line draws its bars from here (`launch.run_chain`).
LISTENER: ContextVar[Listener | None] = ContextVar("splat_assets_listener", default=None)

MAX_OBSERVATIONS = 20
OBSERVATION_SEC = 5.0  # at least this long between two
LOG_SEC = 3.0  # and between two log lines; grows with the length of the step
FILE_SEC = 0.25
CANCEL_POLL_SEC = 3.0


def step_progress(context: dg.AssetExecutionContext, jsonl: Path) -> Progress:
    """A progress for the running step; raises `Cancelled` when the run is being terminated."""
    return Progress(StepSink(context, jsonl), CancelPoll(context))


class StepSink:
    """Sends each report where it is due: listener always, file, log and observations throttled."""

    def __init__(self, context: dg.AssetExecutionContext, jsonl: Path) -> None:
        self._context = context
        self._asset = context.asset_key.to_user_string()
        self._jsonl = jsonl
        self._observations = 0
        self._written = self._logged = -1e9
        self._observed = 0.0  # elapsed time of the last observation: none right at the start
        self._message = ""

    def __call__(self, report: Report) -> None:
        listener = LISTENER.get()
        if listener is not None:
            listener(self._asset, report)
        now = report.elapsed_sec
        if report.warning:
            self._context.log.warning(report.message)
        elif report.message != self._message and now - self._logged >= max(LOG_SEC, now / 60):
            self._logged, self._message = now, report.message
            self._context.log.info(f"{report.fraction:4.0%}  {report.message}")
        if report.warning or now - self._written >= FILE_SEC or report.fraction >= 1:
            self._written = now
            self._write(report)
        due = report.fraction * MAX_OBSERVATIONS >= self._observations + 1
        if due and now - self._observed >= OBSERVATION_SEC:
            self._observed = now
            self._observations = max(
                self._observations + 1, int(report.fraction * MAX_OBSERVATIONS)
            )
            self._observe(report)

    def _write(self, report: Report) -> None:
        self._jsonl.parent.mkdir(parents=True, exist_ok=True)
        line = {"time": round(time.time(), 3), **vars(report)}
        with self._jsonl.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(line, default=float) + "\n")

    def _observe(self, report: Report) -> None:
        figures = {name: float(value) for name, value in report.figures.items()}
        self._context.log_event(
            dg.AssetObservation(
                asset_key=self._context.asset_key,
                partition=self._context.partition_key,
                description=f"{report.fraction:.0%} {report.message}",
                metadata={"percent": round(100 * report.fraction, 1), **figures},
            )
        )


class CancelPoll:
    """True once somebody asked to terminate the run, or it failed; works under every executor.

    Local executors interrupt the step by a signal anyway; others may not reach it, but all of them
    change the run's status. A run fails below a working step when its run worker was killed: on
    another host nothing else tells the step.
    """

    def __init__(self, context: dg.AssetExecutionContext) -> None:
        self._instance, self._run_id = context.instance, context.run_id
        self._asked = time.monotonic()
        self._answer = False

    def __call__(self) -> bool:
        now = time.monotonic()
        if not self._answer and now - self._asked >= CANCEL_POLL_SEC:
            self._asked = now
            run = self._instance.get_run_by_id(self._run_id)
            over = dg.DagsterRunStatus
            stopping = (over.CANCELING, over.CANCELED, over.FAILURE)
            self._answer = run is not None and run.status in stopping
        return self._answer
