"""What every step of a run needs, imported and built once: in the fork server (see preload.py).

Dagster would preload only the definitions; each step would then import the database code and build
graph and jobs anew, more than half of what an empty step costs. No database is opened here and no
thread started, since neither survives a fork; numpy's own threads are ended and started around it.
"""

from __future__ import annotations

import contextlib
import gc
import os
from importlib import import_module
from pathlib import Path

import dagster as dg

# What the steps of the chain import when they run; not pandas, torch and the like, which only some
# of them need and only where there is work.
MODULES = (
    "dagster._core.execution.compute_logs",
    "dagster._core.instance.factory",
    "dagster._core.secrets.env_file",
    "dagster._core.storage.base_storage",
    "dagster._core.storage.migration.utils",
    "dagster._core.system_config.composite_descent",
    "dagster._core.utility_ops",
    "dagster._core.workspace.autodiscovery",
    "numpy",
    "splat_assets.compression.compressed_splat",
    "splat_assets.frames.frame_set",
    "splat_assets.gaussians.splat_model",
    "splat_assets.poses.pose_model",
    "splat_assets.sources.raw_dataset",
    "upath.implementations.local",
)


def warm_up(definitions: dg.Definitions) -> None:
    """Import what steps import and build all jobs, so that what is forked from here has them."""
    for module in (*MODULES, *instance_modules()):
        with contextlib.suppress(ImportError):  # another Dagster: a step finds it by itself
            import_module(module)
    definitions.get_repository_def().get_all_jobs()
    gc.freeze()  # steps neither look through all this for garbage, nor copy it by doing so


def instance_modules() -> list[str]:
    """The modules of the instance's storage and services; none where no instance is found."""
    from dagster._core.instance.config import DAGSTER_CONFIG_YAML_FILENAME
    from dagster._core.instance.ref import InstanceRef

    home = Path(os.environ.get("DAGSTER_HOME") or Path.cwd())
    if not (home / DAGSTER_CONFIG_YAML_FILENAME).is_file():
        return []
    ref = InstanceRef.from_dir(str(home))
    parts = (value for name, value in ref._asdict().items() if name.endswith("_data"))
    return [part.module_name for part in parts if part is not None]
