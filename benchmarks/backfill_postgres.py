"""What it costs to queue a backfill on PostgreSQL: ours against bare graphs of five assets.

    python -m benchmarks.backfill_postgres --partitions 100 [--runs 40] [bare] [quiet] [ours] …

Appends to `benchmarks/results/backfill_postgres.md`. See `backfill_queue.py` for what is counted.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from unittest import mock

import psutil

from benchmarks.backfill_queue import Queued, queue_backfill
from deploy.stack import HERE, stack
from splat_assets.datasets.registry import Registry
from splat_assets.datasets.spec import make_spec

RESULTS = Path(__file__).parent / "results" / "backfill_postgres.md"
HEAD = """# Queueing a backfill on PostgreSQL

`python -m benchmarks.backfill_postgres`: ours against a bare graph of five assets. The runs are
queued, not executed; CPU seconds are those of daemon and code server, less what they use when
idle (which is shown). The queries are those of the UI's start page, run list and partition page;
limit 0.5 s.

| project | partitions, runs | load | CPU a run | idle, of a core | queued in | queries, median |
|---|---|---|---|---|---|---|
"""
SERVERS = ("dagster._daemon", "dagster._grpc", "api grpc")
OURS, BARE = "benchmarks.graph_overhead_ours", "benchmarks.graph_overhead_bare"
PROJECTS = {
    "bare": (BARE, {}),
    "bare, with as many checks as ours": (BARE, {"SPLAT_BENCH_CHECKS": "yes"}),
    "ours without sensors": (OURS, {"SPLAT_BENCH_SENSORS": "no"}),
    "ours": (OURS, {}),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("projects", nargs="*", choices=[*PROJECTS, []], default=[])
    parser.add_argument("--partitions", type=int, default=1000)
    parser.add_argument("--runs", type=int, default=40)
    wanted = parser.parse_args()
    os.environ["SPLAT_ASSETS_EXECUTOR"] = "multiprocess"  # no Ray: no run is executed
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # compiled once, as what pip installed is
    for project in wanted.projects or PROJECTS:
        module, variables = PROJECTS[project]
        with (
            mock.patch.dict(os.environ, variables),
            tempfile.TemporaryDirectory(prefix="backfill-") as folder,
        ):
            Path(folder).chmod(0o755)
            found = _measure(Path(folder), module, wanted.partitions, wanted.runs)
        row = (
            f"| {project} | {wanted.partitions}, {wanted.runs} | {os.getloadavg()[0]:.0f} | "
            f"{found.cpu_per_run:.3f} s | {100 * found.idle:.1f} % | {found.seconds:.0f} s | "
            f"{found.describe_waits()} |\n"
        )
        print(row, file=sys.stderr, flush=True)
        text = RESULTS.read_text(encoding="utf-8") if RESULTS.exists() else HEAD
        RESULTS.write_text(text + row, encoding="utf-8")


def _measure(folder: Path, module: str, count: int, runs: int) -> Queued:
    data = folder / "data"
    os.environ["SPLAT_ASSETS_DATA"] = str(data)
    names = [f"garden-{number:04}" for number in range(count)]
    config = folder / "no-runs.yaml"
    text = (HERE / "dagster.yaml").read_text(encoding="utf-8")
    config.write_text(text.replace("max_concurrent_runs: 16", "max_concurrent_runs: 0"))
    with stack(folder, module=module, config=config) as running:
        program = (
            "import dagster as dg, sys\n"
            "with dg.DagsterInstance.get() as instance:\n"
            "    instance.add_dynamic_partitions('dataset', sys.argv[1:])"
        )
        environment = dict(running.environment)
        subprocess.run([sys.executable, "-c", program, *names], env=environment, check=True)
        registry = Registry(data / "datasets")  # not before: a sensor would add them, at length
        for name in names:
            registry.add(make_spec(name=name, source="/photos/garden", preset="preview"))
        return queue_backfill(running.query, names[:runs], lambda: _cpu_seconds(folder))


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
