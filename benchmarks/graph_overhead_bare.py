"""The bare project that `graph_overhead.py` compares with: five empty assets in a row, and no more.

It imports nothing of ours. It has no checks, metadata, data versions, resources, sensors or
isolated children; its steps come from a fork server that has loaded this module, as Dagster sets it
up by itself (`SPLAT_BENCH_EXECUTOR=spawn`: Dagster's default, three times as dear).
"""

from __future__ import annotations

import os
from typing import Any

import dagster as dg

ASSETS = ("raw_dataset", "frames", "camera_poses", "trained_splat", "compressed_splat")
DATASETS = dg.DynamicPartitionsDefinition(name="dataset")


def chain() -> list[dg.AssetsDefinition]:
    assets: list[dg.AssetsDefinition] = []
    for name in ASSETS:

        @dg.asset(name=name, partitions_def=DATASETS, deps=assets[-1:])
        def empty() -> None:
            pass

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
