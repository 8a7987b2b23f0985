"""Our storages answer what Dagster's answer, whole batches or nothing, and in the same files."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import sqlalchemy as db
import yaml
from dagster._core.instance.ref import InstanceRef

from deploy.servers import UnavailableError, postgres
from splat_assets_tests.defs.fake_definitions import defs
from splat_assets_tests.paths import ROOT

DATASET = "garden"
Open = Callable[..., dg.DagsterInstance]


@pytest.fixture(scope="module")
def server() -> Iterator[dict[str, str]]:
    """A PostgreSQL server; not in tmp_path, which the user that it runs as cannot reach."""
    pytest.importorskip("psycopg2", reason='pip install "splat-assets[deploy]"')
    with tempfile.TemporaryDirectory(prefix="postgres-", ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o755)
        try:
            with postgres(Path(folder)) as variables:
                yield variables
        except UnavailableError as error:
            pytest.skip(str(error))


@pytest.fixture(params=["sqlite", "postgres"])
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "postgres":
        for name, value in request.getfixturevalue("server").items():
            monkeypatch.setenv(name, value)
    return request.param


@pytest.fixture
def open_instance(tmp_path: Path, kind: str) -> Iterator[Open]:
    """Opens the instance on this storage: ours, or Dagster's own on the same data."""
    source = ROOT / ("dagster.yaml" if kind == "sqlite" else "deploy/dagster.yaml")
    storage = yaml.safe_load(source.read_text(encoding="utf-8"))["storage"]
    if kind == "sqlite":
        storage["custom"]["config"] = {"base_dir": str(tmp_path / "storage")}
    with ExitStack() as opened:

        def open_(ours: bool = True) -> dg.DagsterInstance:
            home = tmp_path / ("ours" if ours else "dagsters")
            home.mkdir(exist_ok=True)
            chosen = storage if ours else {kind: storage["custom"]["config"]}
            config = {"storage": chosen, "telemetry": {"enabled": False}}
            (home / "dagster.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
            ref = InstanceRef.from_dir(str(home))
            return opened.enter_context(dg.DagsterInstance.from_ref(ref))

        yield open_


def plan_run(instance: dg.DagsterInstance) -> str:
    """A run of the whole chain, planned as a backfill does; its id."""
    instance.add_dynamic_partitions("dataset", [DATASET])
    job = defs.get_repository_def().get_job("reconstruct")
    return instance.create_run_for_job(job, tags={"dagster/partition": DATASET}).run_id


def planned(instance: dg.DagsterInstance, run_id: str) -> list[Any]:
    """What the instance knows of the run, from every table that an event goes into."""
    events = [
        (entry.dagster_event.event_type_value, str(entry.dagster_event.event_specific_data))
        for entry in instance.all_logs(run_id)
        if entry.dagster_event is not None
    ]
    graph = defs.get_repository_def().asset_graph
    checks = [
        (key, record.status, record.partition)
        for key in sorted(graph.asset_check_keys)
        for record in instance.event_log_storage.get_asset_check_execution_history(key, limit=50)
        if record.run_id == run_id
    ]
    records = instance.get_asset_records(sorted(graph.get_all_asset_keys()))
    assets = [
        (record.asset_entry.asset_key, record.asset_entry.last_run_id == run_id)
        for record in sorted(records, key=lambda record: record.asset_entry.asset_key)
    ]
    return [events, checks, assets]


def test_a_planned_run_is_what_it_is_in_dagsters_own(open_instance: Open) -> None:
    ours, dagsters = open_instance(), open_instance(ours=False)
    run_id = plan_run(dagsters)
    expected = planned(dagsters, run_id)
    assert [len(part) for part in expected] == [12, 7, 5]
    run_id = plan_run(ours)
    assert planned(ours, run_id) == expected
    assert planned(dagsters, run_id) == expected  # the same files and tables


def test_a_batch_that_fails_leaves_nothing_and_is_stored_one_by_one(
    open_instance: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    instance = open_instance()
    expected = planned(instance, plan_run(instance))
    storage = instance.event_log_storage
    store, left, seen = type(storage).store_event, [4], []

    def fails_once(self: Any, event: dg.EventLogEntry) -> None:
        left[0] -= 1
        if left[0] == 0:
            raise RuntimeError("The disk is full.")
        if left[0] == -1:  # the first after the batch
            seen.append(len(instance.all_logs(event.run_id)))
        store(self, event)

    monkeypatch.setattr(type(storage), "store_event", fails_once)
    run_id = plan_run(instance)
    assert seen == [0]
    assert planned(instance, run_id) == expected


def test_what_others_write_is_seen(open_instance: Open) -> None:
    """Runs are remembered as they were when read, and only as long as their rows say the same."""
    here, there = open_instance(), open_instance()
    run_id = plan_run(here)
    assert here.get_run_by_id(run_id) == there.get_run_by_id(run_id)
    there.add_run_tags(run_id, {"splat/preset": "high"})
    there.report_run_failed(there.get_run_by_id(run_id))
    found = here.get_run_by_id(run_id)
    assert found.tags["splat/preset"] == "high"
    assert found.status == dg.DagsterRunStatus.FAILURE
    there.delete_run(run_id)
    assert here.get_run_by_id(run_id) is None


def test_many_threads_and_instances_at_once(open_instance: Open) -> None:
    instances = [open_instance() for _ in range(2)]
    plan_run(instances[0])

    def work(number: int) -> str:
        instance = instances[number % 2]
        run_id = plan_run(instance)
        for _ in range(5):
            instance.report_engine_event("At work.", instance.get_run_by_id(run_id))
        return run_id

    with ThreadPoolExecutor(6) as pool:
        runs = list(pool.map(work, range(12)))
    for run_id in runs:
        assert len(instances[0].all_logs(run_id)) == 12 + 5


@pytest.mark.parametrize("kind", ["sqlite"], indirect=True)
def test_a_runs_database_that_was_not_finished_is_set_up(open_instance: Open) -> None:
    instance = open_instance()
    instance.create_run_for_job(defs.get_repository_def().get_job("clean_up"))
    storage: Any = instance.event_log_storage
    Path(storage.path_for_shard("torn")).touch()
    assert instance.all_logs("torn") == []


@pytest.mark.parametrize("kind", ["postgres"], indirect=True)
def test_one_connection_is_kept_and_replaced_when_the_server_ends_it(open_instance: Open) -> None:
    instance = open_instance()
    plan_run(instance)
    storage: Any = instance.run_storage
    before, mine = instance.get_runs_count(), "SELECT pg_backend_pid()"
    with storage.connect() as connection:
        pid = connection.execute(db.text(mine)).scalar()
    events: Any = instance.event_log_storage
    with events.index_connection() as connection:
        assert connection.execute(db.text(mine)).scalar() == pid
    other = db.create_engine(storage.postgres_url)
    with other.connect() as connection:
        connection.execute(db.text(f"SELECT pg_terminate_backend({pid})"))
    other.dispose()
    assert instance.get_runs_count() == before
