"""Launching runs from a terminal or a script, recorded in the project's Dagster instance.

The same jobs, gates and history as in the web UI, but executed in this process: no daemon or web
server need run. Also says where every asset of a dataset stands.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dagster as dg

from splat_assets.artifacts.manifest import Manifest
from splat_assets.artifacts.store import ArtifactStore
from splat_assets.datasets.registry import Registry
from splat_assets.datasets.spec import DatasetSpec
from splat_assets.defs.progress import LISTENER
from splat_assets.defs.runner import failure_sentence
from splat_assets.defs.sensors import IN_PROGRESS, PARTITION_TAG, partitions_in_progress
from splat_assets.errors import Cancelled, UserError
from splat_assets.gaussians.splat_model import CHECKPOINT
from splat_assets.housekeeping import used_bytes
from splat_assets.instance import PROCESS_TAG, close_dead_runs, open_instance, this_process
from splat_assets.progress import Report
from splat_assets.settings import load_settings
from splat_assets.stages import ASSETS, AssetStatus, statuses

PARTITIONS = "dataset"
REPOSITORY_TAG = ".dagster/repository"  # the UI lists runs of a code location by this
LOCATION = "__repository__@splat_assets"
STOPPED = (dg.DagsterRunStatus.CANCELING, dg.DagsterRunStatus.CANCELED)


@dataclass(frozen=True)
class FailedCheck:
    """A quality gate that was not passed; `message` says what was found and what to do."""

    asset: str
    name: str
    message: str
    blocking: bool


@dataclass(frozen=True)
class RunOutcome:
    """What a run did. `assets` holds, for each asset now current, its state and figures."""

    run_id: str
    succeeded: bool
    assets: dict[str, dict[str, Any]]
    failed_checks: list[FailedCheck] = field(default_factory=list)
    error: str | None = None  # why it failed, in a sentence
    log: Path | None = None  # what the failed step printed


# --- datasets -------------------------------------------------------------------------------------


def add_dataset(spec: DatasetSpec, *, replace: bool = False) -> bool:
    """Register a dataset: its file and its partition. True when something changed."""
    changed = _registry().add(spec, replace=replace)
    with open_instance() as instance:
        instance.add_dynamic_partitions(PARTITIONS, [spec.name])
    return changed


def remove_dataset(name: str, *, artifacts: bool = False) -> None:
    """Forget a dataset, and delete its artifacts when asked.

    Raises `UserError` when there is none of this name or a run works on it.
    """
    with open_instance() as instance:
        close_dead_runs(instance)
        if name in partitions_in_progress(instance):
            raise UserError(f"A run works on {name!r}; let it finish or cancel it first.")
        _registry().remove(name)
        instance.delete_dynamic_partition(PARTITIONS, name)
    if artifacts:
        _store().remove(name)


def asset_states(name: str) -> dict[str, Any]:
    """The dataset and where each of its assets stands, as `splat-assets status --json` prints it.

    `state` is missing, current, stale, failed (the last run on it failed) or running.
    """
    return _states([_registry().get(name)])[0]


def all_asset_states() -> tuple[list[dict[str, Any]], dict[str, str]]:
    """`asset_states` of all datasets, and what is wrong with unreadable ones by name."""
    specs, problems = _registry().list()
    return _states(specs) if specs else [], problems


def _states(specs: Sequence[DatasetSpec]) -> list[dict[str, Any]]:
    store = _store()
    found = statuses(specs, store)
    with open_instance() as instance:
        close_dead_runs(instance)
        latest = [_last_steps(instance, spec.name) for spec in specs]
    return [_shown(*each, store) for each in zip(specs, found, latest, strict=True)]


def _shown(
    spec: DatasetSpec,
    found: dict[str, AssetStatus],
    latest: dict[str, _LastStep],
    store: ArtifactStore,
) -> dict[str, Any]:
    assets = {}
    for asset, entry in found.items():
        last = latest.get(asset, _LastStep())
        shown: dict[str, Any] = {"state": entry.state, "reason": entry.reason}
        made = entry.manifest.created if entry.manifest is not None else 0.0
        if last.state == "running" or (last.state == "failed" and last.ended > made):
            shown = {"state": last.state, "reason": last.message, "last_run_id": last.run_id}
        elif last.message and entry.state != "current":
            shown["reason"] = last.message
        if entry.manifest is not None:
            shown |= _describe(entry.manifest, entry.location)
        assets[asset] = shown
    raw = found["raw_dataset"].manifest
    return {
        "name": spec.name,
        "source": spec.source,
        "preset": spec.preset,
        "revision": raw.summary.get("revision", "") if raw else "",
        "disk_bytes": used_bytes(store.local / spec.name),
        "assets": assets,
    }


# --- running --------------------------------------------------------------------------------------


def run_chain(
    name: str,
    *,
    to: str | None = None,
    force: bool = False,
    sink: Callable[[str, Report], None] | None = None,
    definitions: dg.Definitions | None = None,
) -> RunOutcome:
    """Bring a dataset's chain up to date in this process, recorded like any other run.

    Args:
        to: the last asset wanted; all of them by default.
        force: do the work again although nothing changed.
        sink: called with (asset, report) on every progress update.
        definitions: other definitions than the project's (tests).

    Returns the outcome also when the run failed by itself or at a quality gate.

    Raises:
        UserError: the input cannot be used; the run is recorded as failed with the same sentence.
        Cancelled: Ctrl-C; the run is recorded as canceled, finished assets and checkpoints stay.
    """
    if to is not None and to not in ASSETS:
        raise UserError(f"There is no asset {to!r}; choose one of {', '.join(ASSETS)}.")
    chosen = ASSETS[: ASSETS.index(to) + 1] if to else ASSETS
    spec = _registry().get(name)
    spec.resolve()
    if definitions is None:
        from splat_assets.definitions import defs

        definitions = defs
    with open_instance(capture_logs=False) as instance, _listening(sink):
        close_dead_runs(instance)
        instance.add_dynamic_partitions(PARTITIONS, [name])
        run_id = _new_run_id()
        try:
            result = definitions.resolve_job_def("reconstruct").execute_in_process(
                run_id=run_id,
                instance=instance,
                partition_key=name,
                asset_selection=[dg.AssetKey(asset) for asset in chosen],
                raise_on_error=False,
                run_config={
                    "ops": {asset: {"config": {"force": force}} for asset in chosen},
                    "loggers": {"console": {"config": {"log_level": "CRITICAL"}}},
                },
                tags={PROCESS_TAG: this_process(), REPOSITORY_TAG: LOCATION},
            )
        except KeyboardInterrupt:
            _mark_canceled(instance, run_id)
            raise Cancelled(_stopped(name)) from None
        return _outcome(result, instance, spec, chosen)


# --- helpers --------------------------------------------------------------------------------------


def _registry() -> Registry:
    return Registry(load_settings().registry_folder)


def _store() -> ArtifactStore:
    return ArtifactStore.open(load_settings())


@contextmanager
def _listening(sink: Callable[[str, Report], None] | None) -> Iterator[None]:
    """Let `sink` hear the steps of this process, and Dagster's own logger be silent meanwhile."""
    token = LISTENER.set(sink or (lambda asset, report: None))
    logger = logging.getLogger("dagster")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
        LISTENER.reset(token)


def _outcome(
    result: dg.ExecuteInProcessResult,
    instance: dg.DagsterInstance,
    spec: DatasetSpec,
    chosen: tuple[str, ...],
) -> RunOutcome:
    run = instance.get_run_by_id(result.run_id)
    if run is not None and run.status == dg.DagsterRunStatus.CANCELED:
        raise Cancelled(_stopped(spec.name))
    store = _store()
    checks = [
        FailedCheck(
            found.asset_check_key.asset_key.to_user_string(),
            found.check_name,
            found.description or found.check_name,
            bool(found.blocking),
        )
        for found in result.get_asset_check_evaluations()
        if not found.passed
    ]
    error, log = None, None
    for event in result.all_events:
        if event.is_step_failure:
            step = event.step_key or ""
            error, is_users = failure_sentence(event.step_failure_data)
            if is_users:
                raise UserError(error)
            error = next((c.message for c in checks if c.blocking and c.asset == step), error)
            candidate = store.run_file(spec.name, step, result.run_id, ".log")
            log = candidate if candidate.is_file() else None
            break
    assets = {}
    for asset in chosen:
        manifest = store.current(spec.name, asset)
        for made in result.asset_materializations_for_node(asset):
            if manifest is not None:
                reused = bool(made.metadata["reused"].value)
                shown = _describe(manifest, store.locate(spec.name, asset))
                assets[asset] = {"reused": reused, **shown}
    if not result.success and error is None:
        error = "The run failed; `splat-assets dev` shows its log."
    return RunOutcome(result.run_id, result.success, assets, checks, error, log)


def _describe(manifest: Manifest, location: str | None) -> dict[str, Any]:
    """An artifact's figures as flat plain values. `seconds` is that of the whole stage."""
    plain = bool | int | float | str
    figures = {k: v for k, v in manifest.summary.items() if v is None or isinstance(v, plain)}
    return {
        **figures,
        "run_id": manifest.run_id,
        "seconds": round(manifest.seconds, 2),
        "path": location,
        "bytes": manifest.total_bytes,
        "skipped": manifest.skipped,
    }


@dataclass(frozen=True)
class _LastStep:
    """How the newest run that reached an asset ended there."""

    state: str | None = None  # running, failed or None
    run_id: str = ""
    ended: float = 0.0
    message: str = ""


def _last_steps(instance: dg.DagsterInstance, name: str) -> dict[str, _LastStep]:
    """The newest step of every asset of a dataset, from its last runs."""
    from dagster._core.execution.stats import StepEventStatus

    found: dict[str, _LastStep] = {}
    for run in instance.get_runs(dg.RunsFilter(tags={PARTITION_TAG: name}), limit=20):
        for step in instance.get_run_step_stats(run.run_id):
            asset, ended = step.step_key, step.end_time or 0.0
            if asset in found:
                continue
            if step.status == StepEventStatus.IN_PROGRESS and run.status in IN_PROGRESS:
                found[asset] = _LastStep("running", run.run_id, ended, "a run works on it")
            elif step.status == StepEventStatus.FAILURE and run.status in STOPPED:
                found[asset] = _LastStep(None, run.run_id, ended, "the last run was stopped")
            elif step.status == StepEventStatus.FAILURE:
                message = _why(instance, run.run_id, asset)
                found[asset] = _LastStep("failed", run.run_id, ended, message)
            elif step.status == StepEventStatus.SUCCESS:
                found[asset] = _LastStep(None, run.run_id, ended)
        if all(asset in found for asset in ASSETS):
            break
    return found


def _why(instance: dg.DagsterInstance, run_id: str, asset: str) -> str:
    kinds = {dg.DagsterEventType.STEP_FAILURE}
    for entry in instance.all_logs(run_id, of_type=kinds):
        event = entry.dagster_event
        if event is not None and event.step_key == asset:
            return failure_sentence(event.step_failure_data)[0]
    return "the last run failed"


def _mark_canceled(instance: dg.DagsterInstance, run_id: str) -> None:
    run = instance.get_run_by_id(run_id)
    if run is not None and not run.is_finished:
        instance.report_run_canceled(run, "Stopped on the terminal.")
        instance.event_log_storage.free_concurrency_slots_for_run(run_id)


def _stopped(name: str) -> str:
    text = f"Stopped. What was finished is kept; `splat-assets run {name}` goes on from there."
    folders = _store().resume_folders(name, "trained_splat")
    if any((folder / CHECKPOINT).is_file() for folder in folders):
        text += f" `splat-assets export {name} -F ply --unfinished -o FILE` gives the splat so far."
    return text


def _new_run_id() -> str:
    import uuid

    return str(uuid.uuid4())
