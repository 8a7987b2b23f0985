"""Sensors for the Hugging Face Hub: new repositories become datasets, changed ones are made anew.

What to watch stands in `watch.yaml` (`watching.watch_list`). Both are on by default: without an
entry there, a tick reads one small file and asks nobody. Registry and store come from the
environment and not as resources, for which Dagster would open the instance at every tick: that is
most of what an idle one costs.
"""

import time

import dagster as dg

from splat_assets.datasets.registry import Registry
from splat_assets.defs.jobs import reconstruct
from splat_assets.defs.resources import RegistryResource, StoreResource
from splat_assets.errors import UserError
from splat_assets.watching.watch_list import WatchFile, WatchList

NEW, CHANGED = "new_hub_repos", "changed_hub_repos"
SENSORS = (NEW, CHANGED)
INTERVAL_SEC = 30
SHOWN_NOTES = 3


@dg.sensor(
    name=NEW,
    job=reconstruct,
    minimum_interval_seconds=INTERVAL_SEC,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Registers dataset repositories that match `watch.yaml` and reconstructs them, at "
    "most 25 a tick.",
)
def new_hub_repos(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
    known = RegistryResource().open()
    watches = load_watches(known)
    if not watches.hub:
        return nothing_watched("repositories", known, watches)
    from splat_assets.defs.hub_ticks import new_tick

    return new_tick(context, known, watches, now=time.time())


@dg.sensor(
    name=CHANGED,
    job=reconstruct,
    minimum_interval_seconds=INTERVAL_SEC,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Reconstructs a watched dataset anew when its repository moved to a revision in "
    "which files that it uses have changed. A new README is no reason.",
)
def changed_hub_repos(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
    known = RegistryResource().open()
    watches = load_watches(known)
    if not watches.hub:
        return nothing_watched("repositories", known, watches)
    from splat_assets.defs.hub_ticks import changed_tick

    return changed_tick(context, known, StoreResource().open(), watches, now=time.time())


def load_watches(registry: Registry) -> WatchList:
    """The watch list; a file that cannot be used at all is an empty one with a problem."""
    try:
        return WatchFile.of(registry).load()
    except UserError as error:
        return WatchList(problems=(str(error),))


def result(
    context: dg.SensorEvaluationContext,
    requests: list[dg.RunRequest],
    text: str,
    notes: list[str],
    cursor: str,
) -> dg.SensorResult:
    """Runs, or the reason why there are none: what was seen, and the first notes.

    The log has all notes, and is only written when the reason cannot: Dagster keeps each log as a
    file of its own, for every tick.
    """
    if requests or len(notes) > SHOWN_NOTES:
        for line in (*notes, text):
            context.log.info(line)
    shown = " ".join([text, *notes[:SHOWN_NOTES]])
    reason = None if requests else dg.SkipReason(shown)
    return dg.SensorResult(run_requests=requests, skip_reason=reason, cursor=cursor)


def nothing_watched(what: str, registry: Registry, watches: WatchList) -> dg.SkipReason:
    told = "".join(" " + problem for problem in watches.problems)
    return dg.SkipReason(f"No {what} are watched in {WatchFile.of(registry)}.{told}")
