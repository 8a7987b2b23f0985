"""Everything there is in the graph, in one visible place."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import dagster as dg

from splat_assets.defs.automation_sensors import keep_current_cpu, keep_current_gpu
from splat_assets.defs.camera_poses import camera_poses
from splat_assets.defs.compressed_splat import compressed_splat
from splat_assets.defs.drop_box import drop_boxes
from splat_assets.defs.executors import select_executor
from splat_assets.defs.frames import frames
from splat_assets.defs.housekeeping import clean_up, nightly_clean_up
from splat_assets.defs.hub_sensors import changed_hub_repos, new_hub_repos
from splat_assets.defs.jobs import add_dataset, recompress, reconstruct
from splat_assets.defs.notifications import notifications
from splat_assets.defs.raw_dataset import raw_dataset
from splat_assets.defs.resources import ComputeResource, RegistryResource, StoreResource
from splat_assets.defs.runner import RETRY_SEC, StageRunner
from splat_assets.defs.sensors import registry_partitions
from splat_assets.defs.trained_splat import trained_splat
from splat_assets.settings import load_settings


def build_defs(
    *,
    resources: Mapping[str, Any] | None = None,
    functions: Mapping[str, str] | None = None,
    executor: dg.ExecutorDefinition | None = None,
    retry_sec: float = RETRY_SEC,
) -> dg.Definitions:
    """The definitions; tests, the command line and production all call this.

    Args:
        resources: replace `store`, `registry` or `compute`.
        functions: replace library functions by asset, as "module:function".
        executor: who executes the steps; default: as `SPLAT_ASSETS_EXECUTOR` says.
        retry_sec: pause before a fetch that met network trouble is tried again.
    """
    shared: dict[str, Any] = {
        "store": StoreResource(),
        "registry": RegistryResource(),
        "compute": ComputeResource(),
        **(resources or {}),
    }
    return dg.Definitions(
        assets=[raw_dataset, frames, camera_poses, trained_splat, compressed_splat],
        jobs=[reconstruct, recompress, add_dataset, clean_up],
        schedules=[nightly_clean_up],
        sensors=[
            registry_partitions,
            new_hub_repos,
            changed_hub_repos,
            drop_boxes,
            keep_current_cpu,
            keep_current_gpu,
            notifications,
        ],
        resources={
            **shared,
            "stages": StageRunner(
                **{key: shared[key] for key in ("store", "registry", "compute")},
                functions=dict(functions or {}),
                retry_sec=retry_sec,
            ),
        },
        executor=executor or select_executor(load_settings().executor),
    )


defs = build_defs()
