"""Sensors: registry files and partitions agree, and datasets added in the UI get their run.

Both are on by default: the first launches nothing and only reads a folder, the second acts only on
what a person has just asked for.
"""

import dagster as dg

from splat_assets.datasets.registry import Registry
from splat_assets.defs.jobs import DATASET_TAG, LAUNCH_TAG, add_dataset, reconstruct
from splat_assets.defs.partitions import DATASETS
from splat_assets.defs.resources import RegistryResource

PARTITION_TAG = "dagster/partition"
MAX_CHANGES = 2000  # per tick; far below the minute Dagster allows
IN_PROGRESS = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]


@dg.sensor(
    name="registry_partitions",
    minimum_interval_seconds=15,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Adds a partition for every registry file and removes those whose file is gone "
    "(artifacts stay, and nothing is removed while a run works on it). Launches no runs.",
)
def registry_partitions(
    context: dg.SensorEvaluationContext, registry: RegistryResource
) -> dg.SensorResult | dg.SkipReason:
    name = DATASETS.name or "dataset"
    known = set(context.instance.get_dynamic_partitions(name))
    wanted, problems = readable_names(registry.open(), known)
    for problem in problems.values():
        context.log.warning(problem)
    missing = sorted(wanted - known)[:MAX_CHANGES]
    gone = sorted(known - wanted - set(problems))[:MAX_CHANGES]
    if gone:
        busy = partitions_in_progress(context.instance)
        gone = [key for key in gone if key not in busy]
    if not missing and not gone:
        return dg.SkipReason(f"{len(wanted)} datasets, nothing to change." + _tell(problems))
    requests: list[dg.AddDynamicPartitionsRequest | dg.DeleteDynamicPartitionsRequest] = []
    if missing:
        requests.append(DATASETS.build_add_request(missing))
    if gone:
        requests.append(DATASETS.build_delete_request(gone))
    return dg.SensorResult(dynamic_partitions_requests=requests)


def readable_names(registry: Registry, known: set[str]) -> tuple[set[str], dict[str, str]]:
    """Names to have as partitions, and what is wrong with the other files.

    Only files that are no partition yet are read: a thousand datasets cost one folder listing.
    """
    from splat_assets.errors import UserError

    names, problems = set(), {}
    for name in registry.names():
        try:
            if name not in known:
                registry.get(name)
            names.add(name)
        except UserError as error:
            problems[name] = str(error)
    return names, problems


def partitions_in_progress(instance: dg.DagsterInstance) -> set[str]:
    """Partitions that a run not yet ended works on."""
    runs = instance.get_runs(dg.RunsFilter(statuses=IN_PROGRESS))
    return {run.tags[PARTITION_TAG] for run in runs if PARTITION_TAG in run.tags}


def _tell(problems: dict[str, str]) -> str:
    return "".join(f" {problem}" for problem in problems.values())


@dg.run_status_sensor(
    run_status=dg.DagsterRunStatus.SUCCESS,
    name="launch_added",
    monitored_jobs=[add_dataset],
    request_job=reconstruct,
    minimum_interval_seconds=5,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Launches `reconstruct` for a dataset that the job `add_dataset` has registered.",
)
def launch_added(context: dg.RunStatusSensorContext) -> dg.RunRequest | dg.SkipReason:
    # the tags were written while the run was under way, so read it afresh
    run = context.instance.get_run_by_id(context.dagster_run.run_id) or context.dagster_run
    name = run.tags.get(DATASET_TAG)
    if name is None or LAUNCH_TAG not in run.tags:
        return dg.SkipReason("The run asked for no reconstruction.")
    return dg.RunRequest(run_key=run.run_id, partition_key=name, tags={DATASET_TAG: name})
