"""The bare project that `graph_overhead.py` compares with: five empty assets in a row, and no more.

It imports nothing of ours. It has no checks, metadata, data versions, resources, sensors or
isolated children; its steps come from a fork server that has loaded this module, as Dagster sets it
up by itself (`SPLAT_BENCH_EXECUTOR=spawn`: Dagster's default, half again as dear).
`SPLAT_BENCH_CHECKS=yes` gives it as many checks as our graph has, to see what Dagster takes for
them.
"""

import os
from typing import Any

import dagster as dg

ASSETS = ("raw_dataset", "frames", "camera_poses", "trained_splat", "compressed_splat")
DATASETS = dg.DynamicPartitionsDefinition(name="dataset")
NUM_CHECKS = {"frames": 1, "camera_poses": 3, "trained_splat": 1, "compressed_splat": 2}


def chain() -> list[dg.AssetsDefinition]:
    assets: list[dg.AssetsDefinition] = []
    for name in ASSETS:
        count = NUM_CHECKS.get(name, 0) if os.environ.get("SPLAT_BENCH_CHECKS") == "yes" else 0
        checks = [
            dg.AssetCheckSpec(f"{name}_{number}", asset=name, partitions_def=DATASETS)
            for number in range(count)
        ]

        @dg.asset(name=name, partitions_def=DATASETS, deps=assets[-1:], check_specs=checks)
        def empty(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
            passed = [
                dg.AssetCheckResult(passed=True, check_name=key.name)
                for key in context.selected_asset_check_keys
            ]
            return dg.MaterializeResult(check_results=passed)

        assets.append(empty)
    return assets


def executor(kind: str) -> dg.ExecutorDefinition:
    if kind == "in_process":
        return dg.in_process_executor
    start: dict[str, Any] = {kind: {}}
    return dg.multiprocess_executor.configured({"max_concurrent": 2, "start_method": start})


defs = dg.Definitions(
    assets=chain(),
    jobs=[dg.define_asset_job("reconstruct", selection=list(ASSETS))],
    executor=executor(os.environ.get("SPLAT_BENCH_EXECUTOR", "forkserver")),
)
