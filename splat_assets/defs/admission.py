"""How the watching sensors ask for runs: a few a tick, each once, whatever is killed in between.

The ledger says what was asked for; Dagster's run storage says what became a run. An entry is done
only when its run is seen there, and is asked for again with the same run key when it is not:
Dagster makes at most one run of each key.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import dagster as dg
from dagster._core.storage.tags import RUN_KEY_TAG, SENSOR_NAME_TAG

from splat_assets.datasets.spec import DatasetSpec
from splat_assets.defs.jobs import DATASET_TAG
from splat_assets.defs.partitions import DATASETS
from splat_assets.defs.sensors import IN_PROGRESS, PARTITION_TAG
from splat_assets.watching.decide import how_many_runs
from splat_assets.watching.ledger import Entry, Ledger
from splat_assets.watching.watch_list import MAX_RUNS_PER_TICK, Limits, Watch

WATCH_TAG, SOURCE_TAG, PRESET_TAG, REVISION_TAG = (
    "splat/watch",
    "splat/source",
    "splat/preset",
    "splat/revision",
)
MAX_TAG = 250  # characters; a run's tags are for finding it
HOUR = 3600.0
WAITING = [dg.DagsterRunStatus.QUEUED, dg.DagsterRunStatus.NOT_STARTED]
CHUNK = 100  # keys asked of the run storage at once


class Admission:
    """The runs one tick of one sensor asks for."""

    def __init__(
        self,
        instance: dg.DagsterInstance,
        ledger: Ledger,
        sensor: str,
        limits: Limits,
        *,
        sensors: Sequence[str],
        now: float,
    ) -> None:
        self.requests: list[dg.RunRequest] = []
        self._instance, self._ledger = instance, ledger
        self._sensor, self._limits, self._now = sensor, limits, now
        filters = dg.RunsFilter(statuses=WAITING, tags={SENSOR_NAME_TAG: list(sensors)})
        self._queued = instance.get_runs_count(filters)

    @property
    def queue_is_full(self) -> bool:
        return self._queued >= self._limits.max_queued_runs

    def confirm(self) -> list[Entry]:
        """Note which of the earlier requests became runs; returns those that did not."""
        asked = self._ledger.asked_by(self._sensor)
        made = self._tags_of_runs(RUN_KEY_TAG, [entry.run_key for entry in asked])
        done = [entry for entry in asked if entry.run_key in made]
        self._ledger.set_many(
            [(e.key, {"state": "current", "done": e.asked, "reason": ""}) for e in done]
        )
        return [entry for entry in asked if entry.run_key not in made]

    def room(self, watch: Watch) -> int:
        """How many runs this watch may ask for now."""
        return how_many_runs(
            watch,
            asked_last_hour=self._ledger.num_asked_since(watch.name, self._now - HOUR),
            left_in_tick=MAX_RUNS_PER_TICK - len(self.requests),
            queued=self._queued,
            max_queued=self._limits.max_queued_runs,
        )

    def have_runs(self, names: Iterable[str]) -> set[str]:
        """Of these datasets, those that any run was ever made for (by hand, by a backfill)."""
        return self._tags_of_runs(PARTITION_TAG, list(names))

    def busy(self, names: Iterable[str]) -> set[str]:
        """Of these datasets, those that a run not yet ended works on."""
        return self._tags_of_runs(PARTITION_TAG, list(names), statuses=IN_PROGRESS)

    def ask(self, entry: Entry, version: str, spec: DatasetSpec) -> None:
        """Ask for the run of a version; its dataset must be registered."""
        self._ledger.set(
            entry.key,
            state="asked",
            asked=version,
            asked_by=self._sensor,
            asked_at=self._now,
            reason="",
        )
        self._queued += 1
        self.requests.append(
            dg.RunRequest(
                run_key=f"{entry.label}@{version}",
                partition_key=spec.name,
                tags={
                    DATASET_TAG: spec.name,
                    WATCH_TAG: entry.watch,
                    SOURCE_TAG: spec.source[:MAX_TAG],
                    PRESET_TAG: spec.preset,
                    REVISION_TAG: version[:MAX_TAG],
                },
            )
        )

    def add_partitions(self, names: Iterable[str]) -> None:
        """Make partitions of datasets; those that are there stay.

        Not through the tick's result: the daemon looks up each name by itself, which takes it
        minutes for ten thousand.
        """
        wanted = list(names)
        if wanted:
            self._instance.add_dynamic_partitions(DATASETS.name or "dataset", wanted)

    def _tags_of_runs(
        self, tag: str, values: list[str], statuses: Sequence[dg.DagsterRunStatus] = ()
    ) -> set[str]:
        """Which of these values some run (of these statuses) carries in a tag."""
        found = set()
        for start in range(0, len(values), CHUNK):
            chunk = values[start : start + CHUNK]
            filters = dg.RunsFilter(tags={tag: chunk}, statuses=list(statuses) or None)
            found |= {run.tags[tag] for run in self._instance.get_runs(filters)}
        return found
