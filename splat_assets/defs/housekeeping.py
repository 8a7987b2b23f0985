"""The nightly clean-up: the job `clean_up` does what `splat-assets gc` does; off by default."""

import dagster as dg
from pydantic import Field

from splat_assets.defs.resources import RegistryResource, StoreResource
from splat_assets.housekeeping import find_waste, remove
from splat_assets.run_history import KEEP_DAYS, forget_runs, old_runs


class CleanUp(dg.Config):
    """How much history is kept."""

    days: float = Field(default=KEEP_DAYS, ge=0, description="runs that ended longer ago go")


@dg.op(description="Forgets old runs, removes what killed work left behind, names the rest.")
def sweep(
    context: dg.OpExecutionContext,
    config: CleanUp,
    store: StoreResource,
    registry: RegistryResource,
) -> None:
    found = find_waste(store.open(), registry.open())
    for finding in found:
        state = "removed" if finding.removable else "kept"
        context.log.info(f"{state}: {finding.name}, {finding.bytes} bytes, {finding.detail}")
    freed = remove(found)
    runs = old_runs(context.instance, days=config.days)
    forget_runs(context.instance, runs)
    context.add_output_metadata({"bytes_freed": freed, "runs_forgotten": len(runs)})


@dg.job(description="Forget old runs and remove what lies around without use.")
def clean_up() -> None:
    sweep()


nightly_clean_up = dg.ScheduleDefinition(
    name="nightly_clean_up",
    job=clean_up,
    cron_schedule="17 4 * * *",
    default_status=dg.DefaultScheduleStatus.STOPPED,
)
