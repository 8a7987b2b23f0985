"""Who goes first when runs queue up, and what a run costs that waits for a pool."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import psutil
import pytest
from dagster._core.instance.ref import InstanceRef
from dagster._core.remote_origin import (
    RegisteredCodeLocationOrigin,
    RemoteJobOrigin,
    RemoteRepositoryOrigin,
)
from dagster._daemon.run_coordinator import QueuedRunCoordinatorDaemon

from splat_assets.datasets.registry import Registry
from splat_assets.datasets.spec import make_spec
from splat_assets.defs.automation_sensors import keep_current_cpu
from splat_assets_tests.dagster_services import prepare_home, wait_for
from splat_assets_tests.defs.fake_definitions import defs
from splat_assets_tests.paths import ROOT

ENVIRONMENT: dict[str, str] = {}
WATCHED_SEC = 3.0


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    """The project's instance, as its dagster.yaml has it, in a folder of the test."""
    ENVIRONMENT.clear()
    ENVIRONMENT.update(prepare_home(tmp_path / "home", tmp_path / "data"))
    with dg.DagsterInstance.from_ref(InstanceRef.from_dir(str(tmp_path / "home"))) as found:
        yield found


def test_runs_of_people_go_before_those_of_automation(instance: dg.DagsterInstance) -> None:
    """In the order in which Dagster's own daemon would start them, with the project's limits."""
    job = defs.resolve_job_def("reconstruct")
    waiting = [
        *[("automation", dict(keep_current_cpu.run_tags))] * 3,
        *[("backfill", {"dagster/backfill": "abcdefgh"})] * 3,
        ("person", {}),
        ("urgent", {"dagster/priority": "5"}),
    ]
    location = RegisteredCodeLocationOrigin("splat_assets")
    origin = RemoteJobOrigin(RemoteRepositoryOrigin(location, "__repository__"), job.name)
    names = {}
    for name, tags in waiting:
        run = instance.create_run_for_job(
            job, status=dg.DagsterRunStatus.QUEUED, tags=tags, remote_job_origin=origin
        )
        names[run.run_id] = name
    daemon = QueuedRunCoordinatorDaemon(interval_seconds=1)
    limits = instance.get_concurrency_config()
    first = daemon._get_runs_to_dequeue(instance, limits, None)
    # four at once, two of a backfill at most; automation has to wait
    assert [names[run.run_id] for run in first] == ["urgent", "backfill", "backfill", "person"]
    for run in first:
        instance.report_run_canceled(run)
    rest = daemon._get_runs_to_dequeue(instance, limits, None)
    assert [names[run.run_id] for run in rest] == ["backfill"] + ["automation"] * 3


def test_a_run_that_waits_for_a_pool_leaves_the_cpu_to_others(
    instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    Registry(tmp_path / "data" / "datasets").add(make_spec(name="garden", source="fake:?"))
    instance.add_dynamic_partitions("dataset", ["garden"])
    storage = instance.event_log_storage
    storage.set_concurrency_slots("gpu", 1)
    assert storage.claim_concurrency_slot("gpu", "another-run", "trained_splat").is_claimed
    worker = subprocess.Popen(
        [sys.executable, "-m", "splat_assets_tests.defs.wait_for_pool", "garden"],
        cwd=ROOT,
        env=ENVIRONMENT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        wait_for(lambda: _pending(instance) or worker.poll() is not None, 60, "the step to wait")
        assert worker.poll() is None
        process = psutil.Process(worker.pid)
        before = _cpu_seconds(process)
        time.sleep(WATCHED_SEC)
        assert _pending(instance) == 1
        assert _cpu_seconds(process) - before < 0.25 * WATCHED_SEC
    finally:
        os.killpg(worker.pid, signal.SIGKILL)
        worker.wait()


def _pending(instance: dg.DagsterInstance) -> int:
    return instance.event_log_storage.get_concurrency_info("gpu").pending_step_count


def _cpu_seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system
