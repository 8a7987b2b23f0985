"""A sensor daemon small enough for tests: ticks with a cursor, runs made once per run key."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import dagster as dg
from dagster._core.storage.tags import RUN_KEY_TAG, SENSOR_NAME_TAG

from splat_assets.artifacts.manifest import build_manifest, write_manifest
from splat_assets.datasets.registry import Registry
from splat_assets.definitions import build_defs
from splat_assets.sources.raw_dataset import RawDataset
from splat_assets.watching.ledger import Entry, open_ledger
from splat_assets.watching.watch_list import WatchFile

Evaluate = Callable[[dg.SensorEvaluationContext, "World"], "dg.SensorResult | dg.SkipReason"]
DEFS = build_defs()
REPOSITORY = DEFS.get_repository_def()


class World:
    """A data root, an instance, and the state the daemon keeps of each sensor."""

    def __init__(self, root: Path, instance: dg.DagsterInstance) -> None:
        self.root, self.instance = root, instance
        self.registry = Registry(root / "datasets")
        self.watch_file = WatchFile.of(self.registry)
        self.cursors: dict[str, str | None] = {}
        self.now = time.time()
        self.said = ""

    def context(self, sensor: str) -> dg.SensorEvaluationContext:
        return dg.build_sensor_context(
            instance=self.instance, cursor=self.cursors.get(sensor), repository_def=REPOSITORY
        )

    def tick(
        self, sensor: str, evaluate: Evaluate, *, later: float = 30.0, lost_after: int | None = None
    ) -> list[str]:
        """One tick `later` seconds on; returns the partitions that runs were made of.

        With `lost_after` the daemon is killed after it has made so many of the runs, before it
        kept the cursor.
        """
        self.now += later
        result = evaluate(self.context(sensor), self)
        if isinstance(result, dg.SkipReason):
            self.said = result.skip_message or ""
            return []
        self.said = (result.skip_reason.skip_message if result.skip_reason else "") or ""
        requests = list(result.run_requests or [])
        made = [self._make(sensor, request) for request in requests[:lost_after]]
        if lost_after is None:
            self.cursors[sensor] = result.cursor
        return [name for name in made if name]

    def _make(self, sensor: str, request: dg.RunRequest) -> str:
        """A run that has not started, unless there is one of this key: what the daemon does."""
        keys = {RUN_KEY_TAG: request.run_key or "", SENSOR_NAME_TAG: sensor}
        if self.instance.get_runs(dg.RunsFilter(tags=keys)):
            return ""
        name = request.partition_key or ""
        assert self.instance.has_dynamic_partition("dataset", name)
        tags = {**request.tags, **keys, "dagster/partition": name}
        run = dg.DagsterRun(
            job_name="reconstruct", status=dg.DagsterRunStatus.NOT_STARTED, tags=tags
        )
        self.instance.add_run(run)
        return name

    def runs(self) -> list[tuple[str, str]]:
        """(partition, run key) of every run, oldest first."""
        found = [
            (run.tags["dagster/partition"], run.tags.get(RUN_KEY_TAG, ""))
            for run in self.instance.get_runs()
        ]
        return found[::-1]

    def finish(self, *, failed: bool = False) -> None:
        """Let everything that waits end."""
        for run in self.instance.get_runs(
            dg.RunsFilter(statuses=[dg.DagsterRunStatus.NOT_STARTED])
        ):
            if failed:
                self.instance.report_run_failed(run)
            else:
                self.instance.report_run_canceled(run)

    def make_raw(self, name: str, revision: str) -> None:
        """A current `raw_dataset`, as if a run had fetched this revision."""
        folder = self.root / name / "raw_dataset" / "made"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "a.jpg").write_bytes(b"a")
        summary = {"content": "photos", "revision": revision}
        write_manifest(folder, build_manifest(folder, RawDataset.KIND, summary=summary))
        (folder.parent / "current").write_text("made\n")

    def entries(self, watch: str) -> dict[str, Entry]:
        """The ledger's entries of a watch, by label."""
        with open_ledger(self.registry) as ledger:
            found = [
                e
                for s in ("found", "waiting", "asked", "current", "refused", "gone")
                for e in ledger.having(s, watch)
            ]
        return {entry.label: entry for entry in found}
