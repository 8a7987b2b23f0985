"""Sensors that tell how runs ended: they fill the outbox, and one of them empties it.

On by default and without effect until the data root has a `notify.yaml`. Runs on a terminal are not
told of (somebody sits there), nor failures that Dagster is about to try again by itself.
"""

from __future__ import annotations

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


def _post(context: dg.RunStatusSensorContext) -> dg.SkipReason:
    settings = _settings()
    if not settings.channels:
        return dg.SkipReason("No notify.yaml in the data root, so nobody is told.")
    run = context.instance.get_run_by_id(context.dagster_run.run_id) or context.dagster_run
    told = notifications_of(context.instance, run)
    new = sum(_outbox().post(notification, settings) for notification in told)
    return dg.SkipReason(f"{new} notifications for the outbox.")


@dg.run_status_sensor(
    run_status=dg.DagsterRunStatus.SUCCESS,
    name="notify_success",
    minimum_interval_seconds=EVERY_SEC,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Puts a notification of every run that succeeded into the outbox (notify.yaml).",
)
def notify_success(context: dg.RunStatusSensorContext) -> dg.SkipReason:
    return _post(context)


@dg.run_status_sensor(
    run_status=dg.DagsterRunStatus.FAILURE,
    name="notify_failure",
    minimum_interval_seconds=EVERY_SEC,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Puts a notification of every run that failed into the outbox (notify.yaml).",
)
def notify_failure(context: dg.RunStatusSensorContext) -> dg.SkipReason:
    return _post(context)


@dg.sensor(
    name="deliver_notifications",
    minimum_interval_seconds=EVERY_SEC,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Delivers what lies in the outbox, again and again until it is accepted.",
)
def deliver_notifications(context: dg.SensorEvaluationContext) -> dg.SkipReason:
    done = _outbox().send_due(_settings())
    for sentence in done.given_up:
        context.log.error(sentence)
    return dg.SkipReason(
        f"{done.sent} delivered, {done.waiting} waiting, {len(done.given_up)} given up."
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
