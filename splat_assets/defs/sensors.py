"""The sensor that keeps registry files and partitions in agreement, and launches what was added.

On by default: it launches only what a person has just asked for with the job `add_dataset`. One
sensor does both, because each costs a tick every few seconds.
"""

import time
from datetime import UTC, datetime

import dagster as dg

from splat_assets.datasets.registry import Registry
from splat_assets.defs.jobs import DATASET_TAG, LAUNCH_TAG, add_dataset, reconstruct
from splat_assets.defs.partitions import DATASETS
from splat_assets.defs.resources import RegistryResource

PARTITION_TAG = "dagster/partition"
EVERY_SEC = 10
OVERLAP_SEC = 60.0  # other hosts' clocks; Dagster makes one run of each run key
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
    job=reconstruct,
    minimum_interval_seconds=EVERY_SEC,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Adds a partition for every registry file and removes those whose file is gone "
    "(artifacts stay, and nothing is removed while a run works on it). Launches `reconstruct` for "
    "what the job `add_dataset` has registered.",
)
def registry_partitions(
    context: dg.SensorEvaluationContext, registry: RegistryResource
) -> dg.SensorResult | dg.SkipReason:
    name, now = DATASETS.name or "dataset", time.time()
    known = set(context.instance.get_dynamic_partitions(name))
    wanted, problems = readable_names(registry.open(), known)
    for problem in problems.values():
        context.log.warning(problem)
    missing = sorted(wanted - known)[:MAX_CHANGES]
    gone = sorted(known - wanted - set(problems))[:MAX_CHANGES]
    if gone:
        busy = partitions_in_progress(context.instance)
        gone = [key for key in gone if key not in busy]
    added = added_since(context.instance, float(context.cursor or now))
    launches = [launch for launch in added if launch.partition_key in wanted]
    context.update_cursor(str(now))
    if not missing and not gone and not launches:
        return dg.SkipReason(f"{len(wanted)} datasets, nothing to change." + _tell(problems))
    requests: list[dg.AddDynamicPartitionsRequest | dg.DeleteDynamicPartitionsRequest] = []
    if missing:
        requests.append(DATASETS.build_add_request(missing))
    if gone:
        requests.append(DATASETS.build_delete_request(gone))
    return dg.SensorResult(run_requests=launches, dynamic_partitions_requests=requests)


def added_since(instance: dg.DagsterInstance, when: float) -> list[dg.RunRequest]:
    """The runs asked for by `add_dataset`s that have ended since then, and some from before."""
    ended = dg.RunsFilter(
        job_name=add_dataset.name,
        statuses=[dg.DagsterRunStatus.SUCCESS],
        tags={LAUNCH_TAG: "true"},
        updated_after=datetime.fromtimestamp(when - OVERLAP_SEC, UTC),
    )
    return [
        dg.RunRequest(
            run_key=run.run_id,
            partition_key=run.tags[DATASET_TAG],
            tags={DATASET_TAG: run.tags[DATASET_TAG]},
        )
        for run in instance.get_runs(ended)
    ]


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
