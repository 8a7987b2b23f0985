"""The history of runs: what may be forgotten, and forgetting it.

Dagster keeps every run and event for ever, one SQLite file a run, and offers to purge only the
ticks of sensors. Here a run goes when it ended long ago, unless the UI still needs it: the run that
last materialized an asset of a dataset holds that asset's figures, data version and gates.
"""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
from dagster._core.storage.dagster_run import RunRecord

from splat_assets.stages import ASSETS

KEEP_DAYS = 30.0
BATCH = 500
ENDED = [dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED]


def old_runs(instance: dg.DagsterInstance, *, days: float = KEEP_DAYS) -> list[RunRecord]:
    """Runs that ended more than `days` ago and are nobody's latest materialization."""
    limit = time.time() - days * 86400
    needed = _latest_runs(instance)
    return [
        record
        for record in _ended(instance)
        if (record.end_time or record.update_timestamp.timestamp()) < limit
        and record.dagster_run.run_id not in needed
    ]


def forget_runs(instance: dg.DagsterInstance, records: list[RunRecord]) -> None:
    """Delete runs, their events and what their steps printed."""
    for record in records:
        run_id = record.dagster_run.run_id
        instance.delete_run(run_id)
        instance.event_log_storage.free_concurrency_slots_for_run(run_id)
        with contextlib.suppress(NotImplementedError):
            instance.compute_log_manager.delete_logs(prefix=[run_id])
        for leftover in _files_of(instance, run_id):
            shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink(missing_ok=True)


def _latest_runs(instance: dg.DagsterInstance) -> set[str]:
    """Ids of the runs that hold the latest materialization of an asset of a dataset."""
    found = set()
    for asset in ASSETS:
        key = dg.AssetKey(asset)
        latest = instance.get_latest_storage_id_by_partition(
            key, dg.DagsterEventType.ASSET_MATERIALIZATION
        )
        ids = sorted(latest.values())
        for start in range(0, len(ids), BATCH):
            chosen = dg.AssetRecordsFilter(asset_key=key, storage_ids=ids[start : start + BATCH])
            records = instance.fetch_materializations(chosen, limit=BATCH).records
            found |= {record.run_id for record in records}
    return found


def _ended(instance: dg.DagsterInstance) -> Iterator[RunRecord]:
    """All ended runs, newest first, in pages."""
    cursor = None
    while True:
        page = instance.get_run_records(dg.RunsFilter(statuses=ENDED), limit=BATCH, cursor=cursor)
        yield from page
        if len(page) < BATCH:
            return
        cursor = page[-1].dagster_run.run_id


def _files_of(instance: dg.DagsterInstance, run_id: str) -> list[Path]:
    """What the embedded storage leaves behind: the run's own database and its folder of logs."""
    shard = getattr(instance.event_log_storage, "path_for_shard", None)
    base = Path(shard(run_id)) if shard is not None else None
    found = [] if base is None else [*base.parent.glob(f"{base.name}*")]
    with contextlib.suppress(AttributeError, TypeError):
        found.append(Path(instance.compute_log_manager.base_path) / run_id)  # type: ignore[attr-defined]
    return [path for path in found if path.exists()]
