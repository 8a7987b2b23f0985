"""The project's definitions with empty library functions, for `graph_overhead.py` to measure.

`SPLAT_BENCH_SENSORS=no` leaves the sensors out, to count what runs cost and not what ticks do;
`SPLAT_BENCH_EXECUTOR=in_process` runs all steps in one process.
"""

from __future__ import annotations

import os

import dagster as dg

from splat_assets.definitions import build_defs
from splat_assets.defs.executors import multiprocess
from splat_assets.defs.resources import ComputeResource
from splat_assets.stages import ASSETS


def project() -> dg.Definitions:
    in_process = os.environ.get("SPLAT_BENCH_EXECUTOR") == "in_process"
    whole = build_defs(
        resources={"compute": ComputeResource(device="cpu")},
        functions=dict.fromkeys(ASSETS, "benchmarks.graph_overhead_stage:empty_stage"),
        executor=dg.in_process_executor
        if in_process
        else multiprocess(preload="benchmarks.graph_overhead_preload"),
    )
    if os.environ.get("SPLAT_BENCH_SENSORS") != "no":
        return whole
    parts = {name: getattr(whole, name) for name in ("assets", "jobs", "resources", "executor")}
    return dg.Definitions(**parts)


defs = project()
