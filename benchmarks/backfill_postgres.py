"""What it costs to queue a backfill on PostgreSQL: ours against a bare five-asset graph.

    python -m benchmarks.backfill_postgres --partitions 100

Appends to `benchmarks/results/backfill_postgres.md`. See `backfill_queue.py` for what is counted.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

import psutil

from benchmarks.backfill_queue import Queued, queue_backfill
from deploy.stack import HERE, stack
from splat_assets.datasets.registry import Registry
from splat_assets.datasets.spec import make_spec

RESULTS = Path(__file__).parent / "results" / "backfill_postgres.md"
HEAD = """# Queueing a backfill on PostgreSQL

`python -m benchmarks.backfill_postgres`: ours against a bare graph of five assets. The runs are
queued, not executed; CPU seconds are those of daemon and code server, less what they use when
idle, without sensors. Limits: CPU per run 1.2 times the bare graph's, queries 0.5 s. The queries
are those of the UI's start page, run list and partition page.

| partitions | load | CPU a run, ours / bare | all queued in, ours / bare | queries, median |
|---|---|---|---|---|
"""
SERVERS = ("code-server", "dagster._daemon", "dagster._grpc", "api grpc")
MODULE = "benchmarks.graph_overhead_projects"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--partitions", type=int, default=100)
    count = parser.parse_args().partitions
    os.environ["SPLAT_ASSETS_EXECUTOR"] = "multiprocess"  # no Ray: no run is executed
    found = {}
    for project in ("bare", "ours-without-sensors"):
        os.environ["SPLAT_BENCH_PROJECT"] = project
        with tempfile.TemporaryDirectory(prefix="backfill-") as folder:
            Path(folder).chmod(0o755)
            found[project] = _measure(Path(folder), count)
        print(project, found[project].cpu_per_run, file=sys.stderr, flush=True)
    bare, ours = found.values()
    row = (
        f"| {count} | {os.getloadavg()[0]:.0f} | {ours.cpu_per_run:.3f} s / {bare.cpu_per_run:.3f}"
        f" s = {ours.cpu_per_run / bare.cpu_per_run:.2f} | {ours.seconds:.0f} s / "
        f"{bare.seconds:.0f} s | {ours.describe_waits()} |\n"
    )
    print(row)
    text = RESULTS.read_text(encoding="utf-8") if RESULTS.exists() else HEAD
    RESULTS.write_text(text + row, encoding="utf-8")


def _measure(folder: Path, count: int) -> Queued:
    data = folder / "data"
    os.environ["SPLAT_ASSETS_DATA"] = str(data)
    names = [f"garden-{number:04}" for number in range(count)]
    registry = Registry(data / "datasets")
    for name in names:
        registry.add(make_spec(name=name, source="/photos/garden", preset="preview"))
    config = folder / "no-runs.yaml"
    text = (HERE / "dagster.yaml").read_text(encoding="utf-8")
    config.write_text(text.replace("max_concurrent_runs: 16", "max_concurrent_runs: 0"))
    with stack(folder, module=MODULE, config=config) as running:
        for name in names:
            running.query(
                """mutation($k: String!) { addDynamicPartition(partitionsDefName: "dataset",
                partitionKey: $k, repositorySelector: {repositoryLocationName: "splat_assets",
                repositoryName: "__repository__"}) { __typename } }""",
                k=name,
            )
        return queue_backfill(running.query, names, lambda: _cpu_seconds(folder))


def _cpu_seconds(folder: Path) -> float:
    """Of daemon and code server below `folder`, with their children that have ended."""
    total = 0.0
    for process in psutil.process_iter(["cwd", "cmdline"]):
        line = " ".join(process.info["cmdline"] or ())
        if process.info["cwd"] == str(folder) and any(name in line for name in SERVERS):
            times = process.cpu_times()
            total += times.user + times.system + times.children_user + times.children_system
    return total


if __name__ == "__main__":
    main()
