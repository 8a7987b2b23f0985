"""The graph under real Dagster services: backfill, kill, cancel; with fake stages.

One set of services serves all tests of this file, and a backfill runs beside all of them: starting
processes takes most of the time.
"""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from splat_assets.artifacts.store import ArtifactStore
from splat_assets.compute import Compute
from splat_assets.datasets.registry import Registry
from splat_assets.datasets.spec import make_spec
from splat_assets.progress import silent
from splat_assets.stages import ASSETS, run_stage
from splat_assets_tests.dagster_services import Dagster, services, wait_for
from splat_assets_tests.defs.fake_stages import FUNCTIONS
from splat_assets_tests.paths import ROOT

pytestmark = pytest.mark.slow
MODULE = "splat_assets_tests.defs.fake_definitions"
CHILD = "splat_assets.isolation"
BEFORE_TRAINING = ASSETS[:3]
BACKFILLED = [f"garden-{i}" for i in range(4)]


@pytest.fixture(scope="module")
def dagster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dagster]:
    with services(tmp_path_factory.mktemp("dagster"), module=MODULE) as running:
        yield running


def add(dagster: Dagster, *names: str) -> None:
    """Drop registry files in by hand and wait until the sensor has made partitions of them."""
    registry = Registry(dagster.data / "datasets")
    for name in set(names) - set(registry.names()):
        registry.add(make_spec(name=name, source="fake:?"))
    wait_for(
        lambda: set(names) <= set(dagster.partitions()), 60, f"the sensor to see {', '.join(names)}"
    )


def prepare(dagster: Dagster, name: str, query: str, assets: tuple[str, ...]) -> None:
    """Make assets without Dagster, so that a test only waits for the step it is about."""
    spec = make_spec(name=name, source=f"fake:?{query}")
    Registry(dagster.data / "datasets").add(spec, replace=True)
    cpu = Compute("cpu", "numba", "", 1)
    for asset in assets:
        run_stage(asset, spec, store(dagster), "before", cpu, silent(), functions=FUNCTIONS)


def store(dagster: Dagster) -> ArtifactStore:
    return ArtifactStore(str(dagster.data), dagster.data)


def checkpoint(dagster: Dagster, name: str) -> int:
    """The step of the training's newest checkpoint."""
    for path in store(dagster).folder(name, "trained_splat").glob(".resume/*/step.json"):
        return int(json.loads(path.read_text())["step"])
    return 0


@pytest.fixture(scope="module", autouse=True)
def backfill(dagster: Dagster) -> str:
    """A backfill over four partitions, under way while the other tests run."""
    add(dagster, *BACKFILLED)
    return dagster.backfill(ASSETS, BACKFILLED)


def test_killed_worker_leaves_no_child_and_is_resumed(dagster: Dagster) -> None:
    """SIGKILL of the run worker half-way: the step dies with it; Dagster's retry resumes."""
    prepare(dagster, "killed", "steps=50&step_sec=0.1", BEFORE_TRAINING)
    add(dagster, "killed")
    run_id = dagster.launch("reconstruct", "killed", assets=("trained_splat",))
    reached = wait_for(lambda: checkpoint(dagster, "killed") >= 10 and 10, 90, "ten steps")
    child, step_process = trainer(dagster, "killed")
    worker = psutil.Process(worker_pid(dagster, run_id))
    assert worker.pid != step_process.pid
    assert min(process.nice() for process in (worker, step_process, child)) >= 10  # they give way
    worker.kill()
    wait_gone(child, step_process)
    assert store(dagster).current("killed", "trained_splat") is None
    assert dagster.wait(run_id) == "FAILURE"
    retried = wait_for(lambda: dagster.runs(**{"dagster/root_run_id": run_id}), 60, "the retry")
    assert dagster.wait(retried[0]["runId"], 90) == "SUCCESS"
    done = store(dagster).current("killed", "trained_splat")
    assert done is not None and done.summary["resumed_from_step"] >= reached
    wait_for(lambda: run_id not in dagster.slot_holders("gpu"), 20, "the slot to be free")


def test_killed_step_fails_the_run_with_its_reason_and_frees_the_slot(dagster: Dagster) -> None:
    prepare(dagster, "step", "steps=1", ASSETS)
    before = store(dagster).current("step", "trained_splat")
    prepare(dagster, "step", "steps=200&step_sec=0.1", BEFORE_TRAINING)
    add(dagster, "step")
    run_id = dagster.launch("reconstruct", "step", assets=("trained_splat",))
    wait_for(lambda: checkpoint(dagster, "step") >= 3, 90, "three steps")
    child, step_process = trainer(dagster, "step")
    step_process.kill()
    wait_gone(child)
    assert dagster.wait(run_id) == "FAILURE"
    assert "ChildProcessCrash" in failure_text(dagster, run_id)
    wait_for(lambda: run_id not in dagster.slot_holders("gpu"), 20, "the slot to be free")
    assert store(dagster).current("step", "trained_splat") == before


def test_only_one_daemon_per_instance(dagster: Dagster) -> None:
    start = "from splat_assets.services import run_services; run_services(port=1)"
    second = subprocess.run(
        [sys.executable, "-c", start],
        env={**os.environ, "DAGSTER_HOME": str(dagster.home), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert second.returncode != 0
    assert f"is served already, by process {dagster.process.pid}" in second.stderr


def test_cancel_frees_the_slot_and_keeps_the_previous_artifact(dagster: Dagster) -> None:
    """Even inside native code that never looks up: gone within seconds."""
    prepare(dagster, "stopped", "steps=1", ASSETS)
    before = store(dagster).current("stopped", "trained_splat")
    prepare(dagster, "stopped", "steps=60&native=1", BEFORE_TRAINING)
    add(dagster, "stopped")
    run_id = dagster.launch("reconstruct", "stopped", assets=("trained_splat",))
    jsonl = store(dagster).run_file("stopped", "trained_splat", run_id, ".progress.jsonl")
    wait_for(lambda: jsonl.exists() and "step 0" in jsonl.read_text(), 90, "the trainer")
    child, _ = trainer(dagster, "stopped")
    assert run_id in dagster.slot_holders("gpu")
    began = time.monotonic()
    dagster.terminate(run_id)
    assert dagster.wait(run_id, 30) == "CANCELED"
    wait_for(lambda: not child.is_running(), 10, "the child to be gone")
    assert time.monotonic() - began < 10
    wait_for(lambda: run_id not in dagster.slot_holders("gpu"), 20, "the slot to be free")
    assert store(dagster).current("stopped", "trained_splat") == before
    assert not list(store(dagster).folder("stopped", "trained_splat").glob(".partial-*"))


def test_add_dataset_job_registers_and_reconstructs(dagster: Dagster) -> None:
    config = {"source": "someone/pictures", "name": "added"}
    ops = {"register_dataset": {"config": config}}
    run_id = dagster.launch("add_dataset", config={"ops": ops})
    assert dagster.wait(run_id) == "SUCCESS"
    started = wait_for(lambda: dagster.runs(**{"dagster/partition": "added"}), 60, "its run")
    assert dagster.wait(started[0]["runId"], 60) == "SUCCESS"
    assert store(dagster).current("added", "compressed_splat") is not None


def test_removed_registry_file_removes_the_partition_but_not_the_artifacts(
    dagster: Dagster,
) -> None:
    Registry(dagster.data / "datasets").remove("added")
    wait_for(lambda: "added" not in dagster.partitions(), 60, "the sensor")
    assert store(dagster).current("added", "compressed_splat") is not None


def test_backfill_over_four_partitions_finishes(dagster: Dagster, backfill: str) -> None:
    wait_for(lambda: dagster.backfill_status(backfill) == "COMPLETED_SUCCESS", 120, "the backfill")
    assert {run["status"] for run in dagster.runs(**{"dagster/backfill": backfill})} == {"SUCCESS"}
    for name in BACKFILLED:
        assert all(store(dagster).current(name, asset) for asset in ASSETS)


def test_killed_daemon_comes_back_and_the_training_ends_well_or_is_repeated(
    dagster: Dagster,
) -> None:
    prepare(dagster, "orphan", "steps=60&step_sec=0.1", BEFORE_TRAINING)
    add(dagster, "orphan")
    run_id = dagster.launch("reconstruct", "orphan", assets=("trained_splat",))
    wait_for(lambda: checkpoint(dagster, "orphan") >= 3, 90, "three steps")
    (daemon,) = dagster.processes("dagster._daemon")
    daemon.kill()
    daemon.wait(5)

    def new_daemon() -> bool:
        found = [p for p in dagster.processes("dagster._daemon") if p.pid != daemon.pid]
        return len(found) == 1

    wait_for(new_daemon, 60, "another daemon")
    wait_for(lambda: answers(dagster), 90, "the web server")

    def trained() -> bool:
        return store(dagster).current("orphan", "trained_splat") is not None

    wait_for(trained, 90, "the training, by this run or its retry")
    wait_for(lambda: run_id not in dagster.slot_holders("gpu"), 30, "the slot to be free")
    assert dagster.wait(run_id) in ("SUCCESS", "FAILURE")
    assert len([p for p in dagster.processes(CHILD) if "trained_splat" in str(p.cmdline())]) == 0


def test_killed_code_server_with_its_run_comes_back_and_the_run_is_retried(
    dagster: Dagster,
) -> None:
    """As when the machine runs out of memory: nobody is left who saw the run worker die."""
    prepare(dagster, "crash", "steps=50&step_sec=0.1", BEFORE_TRAINING)
    add(dagster, "crash")
    run_id = dagster.launch("reconstruct", "crash", assets=("trained_splat",))
    reached = wait_for(lambda: checkpoint(dagster, "crash") >= 5 and 5, 90, "five steps")
    child, step_process = trainer(dagster, "crash")
    worker = psutil.Process(worker_pid(dagster, run_id))
    (server,) = dagster.processes("dagster api grpc")
    server.kill()
    worker.kill()
    wait_gone(child, step_process)
    assert dagster.wait(run_id) == "FAILURE"
    assert "the process of the run was killed" in failure_text(dagster, run_id)
    retried = wait_for(lambda: dagster.runs(**{"dagster/root_run_id": run_id}), 60, "the retry")
    assert dagster.wait(retried[0]["runId"], 90) == "SUCCESS"
    done = store(dagster).current("crash", "trained_splat")
    assert done is not None and done.summary["resumed_from_step"] >= reached
    wait_for(lambda: run_id not in dagster.slot_holders("gpu"), 20, "the slot to be free")


def trainer(dagster: Dagster, name: str) -> tuple[psutil.Process, psutil.Process]:
    """The child process that works on a dataset, and the step process that started it."""
    folder = store(dagster).folder(name, "trained_splat")
    for child in dagster.processes(CHILD):
        _, arguments, _ = pickle.loads(Path(child.cmdline()[3]).read_bytes())
        if arguments["out"].parent == folder:
            return child, child.parent()
    raise AssertionError(f"nothing trains {name}")


def wait_gone(*processes: psutil.Process) -> None:
    """None of them lives after 5 s; one that nobody has buried yet is dead all the same."""
    deadline = time.monotonic() + 5
    while any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in processes):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def answers(dagster: Dagster) -> bool:
    try:
        return bool(dagster.query("{ version }"))
    except OSError:
        return False


def failure_text(dagster: Dagster, run_id: str) -> str:
    """Messages of the run's failure events."""
    events = dagster.query(
        """query($id: ID!) { runOrError(runId: $id) { ... on Run { eventConnection { events {
        __typename ... on MessageEvent { message }
        ... on ExecutionStepFailureEvent { error { message } } } } } } }""",
        id=run_id,
    )["runOrError"]["eventConnection"]["events"]
    failures = [e for e in events if "Failure" in e["__typename"]]
    return " ".join(f"{e.get('message')} {(e.get('error') or {}).get('message')}" for e in failures)


def worker_pid(dagster: Dagster, run_id: str) -> int:
    """The run worker's process id, from the engine event of its executor."""
    events = dagster.query(
        """query($id: ID!) { runOrError(runId: $id) { ... on Run { eventConnection { events {
        ... on MessageEvent { message } } } } } }""",
        id=run_id,
    )["runOrError"]["eventConnection"]["events"]
    mark = "parent process (pid: "
    message = next(e["message"] for e in events if mark in e.get("message", ""))
    return int(message.partition(mark)[2].partition(")")[0])
