"""Runs whose process is gone are told from those that work, wait, or run elsewhere."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import psutil
import pytest
from dagster._core.events import EngineEventData
from dagster._core.instance.ref import InstanceRef
from dagster._core.launcher import WorkerStatus
from dagster._core.storage.tags import GRPC_INFO_TAG

from splat_assets.defs import run_launcher
from splat_assets_tests.dagster_services import prepare_home

LOCAL = {"host": "localhost", "socket": "/nowhere/code-server"}
ELSEWHERE = {"host": "10.0.0.7", "port": 4000}


@dg.job
def nothing() -> None: ...


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    """The project's instance, so that its dagster.yaml names the launcher."""
    prepare_home(tmp_path / "home", tmp_path / "data")
    with dg.DagsterInstance.from_ref(InstanceRef.from_dir(str(tmp_path / "home"))) as found:
        yield found


def health(
    instance: dg.DagsterInstance, server: dict[str, object] | None, pid: int | None
) -> WorkerStatus:
    """What the monitor is told of a run that this code server started as this process."""
    tags = {GRPC_INFO_TAG: json.dumps(server)} if server else {}
    run = instance.create_run_for_job(nothing, tags=tags)
    if pid is not None:
        instance.report_engine_event("Started process.", run, EngineEventData.in_process(pid))
    assert instance.run_launcher.supports_check_run_worker_health
    return instance.run_launcher.check_run_worker_health(run).status


def test_only_a_run_whose_process_is_gone_is_dead(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    # no code server answers: a retry could not be launched yet
    assert health(instance, LOCAL, gone.pid) == WorkerStatus.RUNNING
    monkeypatch.setattr(run_launcher, "PATIENCE_SEC", 0.0)
    assert health(instance, LOCAL, gone.pid) == WorkerStatus.FAILED
    assert health(instance, LOCAL, os.getpid()) == WorkerStatus.RUNNING
    assert health(instance, LOCAL, None) == WorkerStatus.RUNNING  # has not reported itself yet
    assert health(instance, ELSEWHERE, gone.pid) == WorkerStatus.RUNNING
    assert health(instance, None, gone.pid) == WorkerStatus.RUNNING  # of a terminal


def test_a_later_process_of_the_same_number_is_another_one() -> None:
    me = psutil.Process()
    assert run_launcher._lives(me.pid, me.create_time() + 5)
    assert not run_launcher._lives(me.pid, me.create_time() - 100)
