"""A code location whose watching sensors tick every second, for tests with a real daemon."""

import dagster as dg

from splat_assets.definitions import build_defs
from splat_assets.defs.drop_box import drop_boxes
from splat_assets.defs.hub_sensors import changed_hub_repos, new_hub_repos
from splat_assets.defs.jobs import reconstruct
from splat_assets.defs.sensors import registry_partitions


def _fast(sensor: dg.SensorDefinition) -> dg.SensorDefinition:
    decorate = dg.sensor(
        name=sensor.name,
        job=reconstruct,
        minimum_interval_seconds=1,
        default_status=dg.DefaultSensorStatus.RUNNING,
    )
    assert sensor._raw_fn is not None
    return decorate(sensor._raw_fn)


def _build() -> dg.Definitions:
    own = build_defs()
    fast = map(_fast, (new_hub_repos, changed_hub_repos, drop_boxes))
    return dg.Definitions(
        assets=own.assets,
        jobs=own.jobs,
        sensors=[*fast, registry_partitions],
        resources=own.resources,
        executor=own.executor,
    )


defs = _build()
