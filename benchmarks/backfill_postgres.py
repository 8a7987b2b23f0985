"""What a backfill costs on PostgreSQL: CPU seconds per run, ours against a bare five-asset graph.

    python -m benchmarks.backfill_postgres --partitions 100

Runs are queued and not executed (`max_concurrent_runs: 0`), so what is counted is the work of the
daemon, the code server and the web server, less what they use when idle. Meanwhile the queries of
the UI's start page, run list and partition page are timed. The bare graph is in this file.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path

import dagster as dg
import psutil

from deploy.stack import HERE, Stack, stack
from splat_assets.datasets.registry import Registry
from splat_assets.datasets.spec import make_spec
from splat_assets.stages import ASSETS

IDLE_SEC = 15.0
SERVERS = ("code-server", "dagster._daemon", "dagster_webserver", "dagster._grpc", "api grpc")
QUERIES = {
    "assets": "{ assetNodes { id assetKey { path } staleStatus } }",
    "runs": "{ runsOrError(limit: 25) { ... on Runs { results { runId status tags { key } } } } }",
    "partitions": """{ assetNodeOrError(assetKey: {path: ["frames"]}) { ... on AssetNode {
        partitionKeys assetPartitionStatuses { __typename } } } }""",
}


def _bare() -> dg.Definitions:
    names = dg.DynamicPartitionsDefinition(name="dataset")
    assets = []
    for number, name in enumerate(ASSETS):

        @dg.asset(name=name, partitions_def=names, deps=ASSETS[number - 1 : number] or None)
        def body() -> None: ...

        assets.append(body)
    job = dg.define_asset_job("reconstruct", selection=list(ASSETS))
    return dg.Definitions(assets=assets, jobs=[job])


defs = _bare()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--partitions", type=int, default=100)
    count = parser.parse_args().partitions
    os.environ["SPLAT_ASSETS_EXECUTOR"] = "multiprocess"  # no Ray: no run is executed
    figures = {}
    for name, module in (
        ("bare", "benchmarks.backfill_postgres"),
        ("ours", "splat_assets.definitions"),
    ):
        with tempfile.TemporaryDirectory(prefix="backfill-") as folder:
            Path(folder).chmod(0o755)
            figures[name] = _measure(Path(folder), module, count)
        print(f"{name}: {figures[name]:.3f} CPU s per run", flush=True)
    print(f"ratio: {figures['ours'] / figures['bare']:.2f}")


def _measure(folder: Path, module: str, count: int) -> float:
    data = folder / "data"
    os.environ["SPLAT_ASSETS_DATA"] = str(data)
    names = [f"garden-{number:04}" for number in range(count)]
    registry = Registry(data / "datasets")
    for name in names:
        registry.add(make_spec(name=name, source="/photos/garden", preset="preview"))
    config = folder / "no-runs.yaml"
    text = (HERE / "dagster.yaml").read_text(encoding="utf-8")
    config.write_text(text.replace("max_concurrent_runs: 16", "max_concurrent_runs: 0"))
    with stack(folder, module=module, config=config) as running:
        _add_partitions(running, names)
        time.sleep(IDLE_SEC)  # sensors see the partitions
        before, began = _cpu_seconds(folder), time.monotonic()
        time.sleep(IDLE_SEC)
        idle = (_cpu_seconds(folder) - before) / (time.monotonic() - began)
        before, began = _cpu_seconds(folder), time.monotonic()
        _backfill(running, names)
        waits = _until_queued(running, count)
        seconds = time.monotonic() - began
        used = _cpu_seconds(folder) - before
    print(f"  {count} runs queued in {seconds:.0f} s, idle {idle:.3f} CPU s per s")
    for query, values in waits.items():
        middle, most = statistics.median(values), max(values)
        print(f"  query {query}: median {middle * 1000:.0f} ms, slowest {most * 1000:.0f} ms")
    return (used - idle * seconds) / count


def _add_partitions(running: Stack, names: list[str]) -> None:
    for name in names:
        running.query(
            """mutation($k: String!) { addDynamicPartition(partitionsDefName: "dataset",
            partitionKey: $k, repositorySelector: {repositoryLocationName: "splat_assets",
            repositoryName: "__repository__"}) { __typename } }""",
            k=name,
        )


def _backfill(running: Stack, names: list[str]) -> None:
    answer = running.query(
        """mutation($p: LaunchBackfillParams!) { launchPartitionBackfill(backfillParams: $p) {
        __typename ... on PythonError { message } } }""",
        p={"assetSelection": [{"path": [a]} for a in ASSETS], "partitionNames": names},
    )["launchPartitionBackfill"]
    if answer["__typename"] != "LaunchBackfillSuccess":
        raise RuntimeError(str(answer))


def _until_queued(running: Stack, count: int) -> dict[str, list[float]]:
    """Wait for all runs, asking what a person with the UI open would; the seconds by query."""
    waits: dict[str, list[float]] = {name: [] for name in QUERIES}
    while True:
        for name, query in QUERIES.items():
            began = time.monotonic()
            running.query(query)
            waits[name].append(time.monotonic() - began)
        found = running.query("{ runsOrError { ... on Runs { count } } }")["runsOrError"]["count"]
        if found >= count:
            return waits
        time.sleep(2)


def _cpu_seconds(folder: Path) -> float:
    """Of Dagster's servers below `folder`, with their children that have ended."""
    total = 0.0
    for process in psutil.process_iter(["cwd", "cmdline"]):
        line = " ".join(process.info["cmdline"] or ())
        if process.info["cwd"] == str(folder) and any(name in line for name in SERVERS):
            times = process.cpu_times()
            total += times.user + times.system + times.children_user + times.children_system
    return total


if __name__ == "__main__":
    main()
