"""The two code locations that `graph_overhead.py` compares: ours with empty stages, and a bare one.

`SPLAT_BENCH_PROJECT` names which of them this module is (`ours`, `bare`, or `ours-without-sensors`,
to count what runs cost and not what ticks do), because Dagster loads it by name.
"""

from __future__ import annotations

import os
from typing import Any

import dagster as dg

from splat_assets.defs.partitions import DATASETS
from splat_assets.stages import ASSETS


def ours(in_process: bool = False) -> dg.Definitions:
    """The project's definitions with empty library functions."""
    from splat_assets.definitions import build_defs
    from splat_assets.defs.resources import ComputeResource

    options: dict[str, Any] = {"executor": dg.in_process_executor} if in_process else {}
    return build_defs(
        resources={"compute": ComputeResource(device="cpu")},
        functions=dict.fromkeys(ASSETS, "benchmarks.graph_overhead_stage:empty_stage"),
        **options,
    )


def bare(in_process: bool = False) -> dg.Definitions:
    """Five empty assets in a row, as little Dagster as does the same."""
    from splat_assets.defs.executors import select_executor

    assets: list[dg.AssetsDefinition] = []
    for name in ASSETS:

        @dg.asset(name=name, partitions_def=DATASETS, deps=assets[-1:])
        def empty() -> None:
            pass

        assets.append(empty)
    return dg.Definitions(
        assets=assets,
        jobs=[dg.define_asset_job("reconstruct", selection=list(ASSETS))],
        executor=dg.in_process_executor if in_process else select_executor("multiprocess"),
    )


def in_process_job() -> dg.JobDefinition:
    return ours(in_process=True).resolve_job_def("reconstruct")


def multiprocess_job() -> dg.JobDefinition:
    return ours().resolve_job_def("reconstruct")


def bare_job() -> dg.JobDefinition:
    return bare().resolve_job_def("reconstruct")


def without_sensors() -> dg.Definitions:
    whole = ours()
    parts = {name: getattr(whole, name) for name in ("assets", "jobs", "resources", "executor")}
    return dg.Definitions(**parts)


PROJECTS = {"ours": ours, "bare": bare, "ours-without-sensors": without_sensors}
defs = PROJECTS[os.environ.get("SPLAT_BENCH_PROJECT", "ours")]()
