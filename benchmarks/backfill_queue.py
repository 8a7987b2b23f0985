"""What it costs to queue a backfill, and how the web UI answers meanwhile.

The runs are not executed (`max_concurrent_runs: 0`), so what is counted is the work of the daemon
and the code server, less what they use when idle.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from splat_assets.stages import ASSETS

IDLE_SEC = 15.0
PAUSE_SEC = 2.0  # between two looks of a person with the UI open
QUERIES = {
    "assets": "{ assetNodes { id assetKey { path } staleStatus } }",
    "runs": "{ runsOrError(limit: 25) { ... on Runs { results { runId status tags { key } } } } }",
    "partitions": """{ assetNodeOrError(assetKey: {path: ["frames"]}) { ... on AssetNode {
        partitionKeys assetPartitionStatuses { __typename } } } }""",
}
Query = Callable[..., dict[str, Any]]


@dataclass(frozen=True)
class Queued:
    """Figures of one backfill."""

    num_runs: int
    seconds: float  # wall, until the last run was queued
    cpu_per_run: float  # seconds, idle work taken off
    idle: float  # CPU seconds per second before
    waits: dict[str, list[float]]  # query → seconds of each

    def describe_waits(self) -> str:
        """Median and longest of each query, in words."""
        return ", ".join(
            f"{name} {statistics.median(waits):.2f} s (at most {max(waits):.2f} s)"
            for name, waits in self.waits.items()
        )


def queue_backfill(query: Query, names: list[str], cpu_seconds: Callable[[], float]) -> Queued:
    """Launch a backfill of all five assets for `names` and wait until all of its runs are queued.

    Args:
        query: sends GraphQL to the web server.
        names: partitions that are there already.
        cpu_seconds: CPU of daemon and code server so far.
    """
    time.sleep(IDLE_SEC)  # everything has settled
    before, began = cpu_seconds(), time.monotonic()
    time.sleep(IDLE_SEC)
    idle = (cpu_seconds() - before) / (time.monotonic() - began)
    before, began = cpu_seconds(), time.monotonic()
    answer = query(
        """mutation($p: LaunchBackfillParams!) { launchPartitionBackfill(backfillParams: $p) {
        __typename ... on PythonError { message } } }""",
        p={"assetSelection": [{"path": [a]} for a in ASSETS], "partitionNames": names},
    )["launchPartitionBackfill"]
    if answer["__typename"] != "LaunchBackfillSuccess":
        raise RuntimeError(str(answer))
    waits = _until_queued(query, len(names))
    seconds = time.monotonic() - began
    used = cpu_seconds() - before - idle * seconds
    return Queued(len(names), seconds, used / len(names), idle, waits)


def _until_queued(query: Query, count: int) -> dict[str, list[float]]:
    """Wait for all runs, asking what a person with the UI open would; the seconds by query."""
    waits: dict[str, list[float]] = {name: [] for name in QUERIES}
    while True:
        for name, text in QUERIES.items():
            began = time.monotonic()
            query(text)
            waits[name].append(time.monotonic() - began)
        if query("{ runsOrError { ... on Runs { count } } }")["runsOrError"]["count"] >= count:
            return waits
        time.sleep(PAUSE_SEC)
