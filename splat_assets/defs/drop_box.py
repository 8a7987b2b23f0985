"""Sensor for drop boxes: what has finished arriving in a folder or bucket becomes a dataset.

On by default: without an entry under `drop_boxes` in `watch.yaml`, a tick reads that small file.
"""

import time

import dagster as dg

from splat_assets.defs.hub_sensors import load_watches, nothing_watched
from splat_assets.defs.jobs import reconstruct
from splat_assets.defs.resources import RegistryResource

NAME = "drop_boxes"


@dg.sensor(
    name=NAME,
    job=reconstruct,
    minimum_interval_seconds=15,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Registers and reconstructs archives, videos and folders that have finished "
    "arriving in a drop box of `watch.yaml`, and again when they are replaced.",
)
def drop_boxes(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
    known = RegistryResource().open()  # see hub_sensors.py for why not as an argument
    watches = load_watches(known)
    if not watches.drop_boxes:
        return nothing_watched("drop boxes", known, watches)
    from splat_assets.defs.drop_box_tick import drop_box_tick

    return drop_box_tick(context, known, watches, now=time.time())
