"""Sensors for the Hugging Face Hub: new repositories become datasets, changed ones are made anew.

What to watch stands in `watch.yaml` (`watching.watch_list`). Both are on by default: without an
entry there, a tick reads one small file and asks nobody.
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


@dg.sensor(
    name=NEW,
    job=reconstruct,
    minimum_interval_seconds=INTERVAL_SEC,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Registers dataset repositories that match `watch.yaml` and reconstructs them, at "
    "most 25 a tick.",
)
def new_hub_repos(
    context: dg.SensorEvaluationContext, registry: RegistryResource
) -> dg.SensorResult | dg.SkipReason:
    known = registry.open()
    watches = load_watches(context, known)
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
def changed_hub_repos(
    context: dg.SensorEvaluationContext, registry: RegistryResource, store: StoreResource
) -> dg.SensorResult | dg.SkipReason:
    known = registry.open()
    watches = load_watches(context, known)
    if not watches.hub:
        return nothing_watched("repositories", known, watches)
    from splat_assets.defs.hub_ticks import changed_tick

    return changed_tick(context, known, store.open(), watches, now=time.time())


def load_watches(context: dg.SensorEvaluationContext, registry: Registry) -> WatchList:
    """The watch list; what is wrong with it goes to the tick's log and into `problems`."""
    try:
        watches = WatchFile.of(registry).load()
    except UserError as error:
        watches = WatchList(problems=(str(error),))
    for problem in watches.problems:
        context.log.warning(problem)
    return watches


def nothing_watched(what: str, registry: Registry, watches: WatchList) -> dg.SkipReason:
    told = "".join(" " + problem for problem in watches.problems)
    return dg.SkipReason(f"No {what} are watched in {WatchFile.of(registry)}.{told}")
