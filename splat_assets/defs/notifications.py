"""The sensor that tells how runs ended: fills the outbox, and empties it.

On by default and without effect until the data root has a `notify.yaml`. Runs on a terminal are not
told of (somebody sits there), nor failures that Dagster is about to try again by itself. One sensor
does it all (Dagster's own kind would be one per status), because each costs a tick.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import dagster as dg

from splat_assets.defs.jobs import DATASET_TAG
from splat_assets.defs.runner import failure_sentence
from splat_assets.defs.sensors import PARTITION_TAG
from splat_assets.errors import UserError
from splat_assets.settings import load_settings
from splat_assets.stages import ASSETS

if TYPE_CHECKING:  # the code server starts a little faster without
    from splat_assets.notify.message import Notification
    from splat_assets.notify.outbox import Outbox
    from splat_assets.notify.settings import EventKind, NotifySettings

WILL_RETRY_TAG = "dagster/will_retry"
FIGURES = ("psnr_db", "num_gaussians", "sog_bytes", "ratio", "num_registered", "revision")
EVERY_SEC = 15
ENDED = [dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE]
SETTLE_SEC = 2.0  # whether a failed run will be tried again is noted a moment after it ended
OVERLAP_SEC = 60.0  # the databases of hosts with other clocks: looked at again, told once
MAX_RUNS = 200  # told of in one tick, far below the minute Dagster allows


def notifications_of(instance: dg.DagsterInstance, run: dg.DagsterRun) -> list[Notification]:
    """What is worth telling about a run that has ended."""
    from splat_assets.notify.message import Notification

    if run.tags.get(WILL_RETRY_TAG) == "true":
        return []
    dataset = run.tags.get(PARTITION_TAG) or run.tags.get(DATASET_TAG) or run.job_name
    failed_gates, errors, made, ended = [], [], [], 0.0
    figures: dict[str, Any] = {}
    for entry in instance.all_logs(run.run_id):
        event = entry.dagster_event
        ended = entry.timestamp
        if event is None:
            continue
        if event.event_type == dg.DagsterEventType.ASSET_CHECK_EVALUATION:
            found = event.asset_check_evaluation_data
            if not found.passed:
                failed_gates.append(f"{found.check_name}: {found.description}")
        elif event.event_type == dg.DagsterEventType.STEP_FAILURE:
            errors.append(f"{event.step_key}: {failure_sentence(event.step_failure_data)[0]}")
        elif event.event_type == dg.DagsterEventType.ASSET_MATERIALIZATION:
            made.append(event.asset_key.to_user_string() if event.asset_key else "")
            metadata = event.step_materialization_data.materialization.metadata
            figures |= {name: metadata[name].value for name in FIGURES if name in metadata}

    def note(suffix: str, kind: EventKind, summary: str, details: list[str]) -> Notification:
        return Notification(
            id=run.run_id + suffix,
            kind=kind,
            dataset=dataset,
            run_id=run.run_id,
            job=run.job_name,
            summary=summary,
            time=ended,
            details=details,
            figures=figures,
        )

    told = []
    if failed_gates:
        summary = f"{dataset} did not pass {len(failed_gates)} of its quality gates."
        told.append(note("-gates", "gate_failed", summary, failed_gates))
    if run.status == dg.DagsterRunStatus.SUCCESS:
        chain = ", ".join(asset for asset in ASSETS if asset in made)
        told.append(note("", "success", f"{dataset} is done: {chain or run.job_name}.", []))
    elif not failed_gates:  # which would be what made it fail
        told.append(note("", "failure", f"A run on {dataset} failed.", errors))
    return told


@dataclass(frozen=True)
class Told:
    """The cursor: what ended before `until` is told of, and shortly before it these runs were."""

    until: float  # seconds since 1970
    runs: Mapping[str, float] = field(default_factory=dict)  # run id → when it ended

    @classmethod
    def parse(cls, cursor: str | None, now: float) -> Told:
        """What a tick left; from `now` on where none was yet."""
        if not cursor:
            return cls(now)
        values = json.loads(cursor)
        return cls(values["until"], values["runs"])

    def to_json(self) -> str:
        return json.dumps({"until": self.until, "runs": dict(self.runs)})


def ended_runs(instance: dg.DagsterInstance, told: Told, now: float) -> Iterator[dg.RunRecord]:
    """Runs that have ended and were not told of, in the order in which they ended."""
    since = told.until - OVERLAP_SEC
    changed = dg.RunsFilter(statuses=ENDED, updated_after=datetime.fromtimestamp(since, UTC))
    records = instance.get_run_records(changed, order_by="update_timestamp", ascending=True)
    for record in records:
        recent = since < (record.end_time or 0) <= now - SETTLE_SEC  # not just tagged lately
        if recent and record.dagster_run.run_id not in told.runs:
            yield record


def post_ended(
    instance: dg.DagsterInstance, settings: NotifySettings, told: Told, now: float
) -> tuple[int, Told]:
    """Put what there is to tell into the outbox; how many were new, and the next tick's cursor."""
    if not settings.channels:
        return 0, Told(now)
    new, until, outbox = 0, now - SETTLE_SEC, _outbox()
    ends = dict(told.runs)
    for number, record in enumerate(ended_runs(instance, told, now)):
        if number == MAX_RUNS:
            until = max(ends.values())
            break
        run = record.dagster_run
        ends[run.run_id] = record.end_time or now
        new += sum(outbox.post(note, settings) for note in notifications_of(instance, run))
    recent = {run_id: end for run_id, end in ends.items() if end > until - OVERLAP_SEC}
    return new, Told(until, recent)


@dg.sensor(
    name="notifications",
    minimum_interval_seconds=EVERY_SEC,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Tells whom `notify.yaml` names how runs ended, again and again until it is "
    "accepted.",
)
def notifications(context: dg.SensorEvaluationContext) -> dg.SkipReason:
    settings, now = _settings(), time.time()
    new, told = post_ended(context.instance, settings, Told.parse(context.cursor, now), now)
    context.update_cursor(told.to_json())
    done = _outbox().send_due(settings)
    for sentence in done.given_up:
        context.log.error(sentence)
    if not settings.channels:
        return dg.SkipReason("No notify.yaml in the data root, so nobody is told.")
    return dg.SkipReason(
        f"{new} new, {done.sent} delivered, {done.waiting} waiting, {len(done.given_up)} given up."
    )


def _settings() -> NotifySettings:
    from splat_assets.notify.settings import load_notify_settings

    try:
        return load_notify_settings(load_settings().local_root)
    except UserError as error:
        raise dg.Failure(str(error)) from None


def _outbox() -> Outbox:
    from splat_assets.notify.outbox import FOLDER, Outbox

    return Outbox(load_settings().local_root / FOLDER)
