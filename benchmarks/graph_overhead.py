"""What the graph costs beyond the work it does, next to a bare Dagster project of five assets.

    python -m benchmarks.graph_overhead [import] [chain] [idle]

CPU seconds are those of whole process trees, orphans included, so they hold on a busy machine; wall
times are marked and need a quiet one. Keeps `benchmarks/results/graph_overhead.md` up to date, row
by row. `backfill.py` measures many runs under the real services.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

from benchmarks.backfill import instance_config
from benchmarks.process_cpu import be_reaper, tree_cpu

RESULTS = Path(__file__).parent / "results" / "graph_overhead.md"
OURS, BARE = "benchmarks.graph_overhead_ours", "benchmarks.graph_overhead_bare"
IN_PROCESS = {"SPLAT_BENCH_EXECUTOR": "in_process"}
SPAWN = {"SPLAT_BENCH_EXECUTOR": "spawn"}
PAIR = ("ours", "bare")
PARTS = ("import", "chain", "idle")
PARTITIONS = 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], default=[])
    parser.add_argument("--repeat", type=int, default=3)
    chosen = parser.parse_args()
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # compiled once, as what pip installed is
    be_reaper()
    for part in chosen.parts or PARTS:
        measure = globals()[f"measure_{part}"]
        for row in measure(chosen.repeat):
            print(" | ".join(row), flush=True)
            write([row])


def measure_import(repeat: int) -> list[tuple[str, str, str]]:
    program = (
        "import time; a = time.process_time(); import dagster; b = time.process_time();"
        "import splat_assets.definitions; c = time.process_time(); import sys;"
        "print(b - a, c - a, 'torch' in sys.modules)"
    )
    runs = [
        subprocess.check_output([sys.executable, "-c", program], text=True).split()
        for _ in range(repeat)
    ]
    dagster, ours = (min(float(run[i]) for run in runs) for i in (0, 1))
    return [
        (
            "importing the definitions, against importing dagster (CPU)",
            f"{ours:.2f} s / {dagster:.2f} s = {ours / dagster:.2f}, torch imported: {runs[0][2]}",
            "1.3, no torch",
        )
    ]


def measure_chain(repeat: int) -> list[tuple[str, str, str]]:
    projects = {
        "ours": (OURS, {}),
        "bare": (BARE, {}),
        "in process": (OURS, IN_PROCESS),
        "bare, spawned": (BARE, SPAWN),
    }
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in projects}
    for number in range(repeat):  # side by side, so that a busy minute meets both
        for name, (module, variables) in projects.items():
            if name in PAIR or number == 0:
                found[name].append(execute(module, variables))
                print(name, found[name][-1], file=sys.stderr, flush=True)
    rows = []
    for kind in ("wall", "cpu"):
        ours, bare, base, spawned = (
            statistics.median(run[kind] for run in runs) for runs in found.values()
        )
        rows += [
            (
                f"a chain of empty stages, against a bare project's ({kind}, median of {repeat})",
                f"{ours:.1f} s / {bare:.1f} s = {ours / bare:.2f}; bare with Dagster's default "
                f"executor {spawned:.1f} s",
                "1.2" if kind == "cpu" else "",
            ),
            (
                f"the same, each stage in a process, against all in one ({kind})",
                f"{ours:.1f} s / {base:.1f} s = {ours / base:.2f}",
                "3",
            ),
        ]
    ours, bare = (statistics.median(b for run in found[n] for b in run["boots"]) for n in PAIR)
    rows.append(
        (
            "step boot, against a bare project's (wall, median)",
            f"{ours:.2f} s / {bare:.2f} s = {ours / bare:.2f}",
            "1.5",
        )
    )
    return rows


def measure_idle(repeat: int) -> list[tuple[str, str, str]]:
    rows = []
    for count in (120, PARTITIONS):
        call = f"from benchmarks.graph_overhead import idle_tick; idle_tick({count}, {repeat})"
        output = subprocess.check_output([sys.executable, "-c", call], text=True)
        looking, resting = map(float, output.split())
        limit = 0.001 * 5 * count / 10
        rows.append(
            (
                f"idle tick of both automation sensors, {count} datasets (CPU)",
                f"{resting:.3f} s; {looking:.2f} s when it evaluates, after an event and every "
                "150 s",
                f"{limit:.2f} s",
            )
        )
    return rows


# --- one measurement ------------------------------------------------------------------------------


def execute(module: str, variables: dict[str, str]) -> dict[str, Any]:
    """Run the chain of a project in a process of its own, as a code server does."""
    from splat_assets_tests.dagster_services import prepare_home

    with tempfile.TemporaryDirectory() as folder:
        config = instance_config(Path(folder), own_storage=module == OURS)
        home, data = Path(folder) / "home", Path(folder) / "data"
        environment = prepare_home(home, data, config=config) | variables
        call = f"from benchmarks.graph_overhead import run_job; run_job({module!r})"
        before = tree_cpu()
        output = subprocess.check_output(
            [sys.executable, "-c", call], env=environment, text=True, stderr=subprocess.DEVNULL
        )
        time.sleep(0.5)  # the fork server ends a moment after its parent
        return {**json.loads(output.splitlines()[-1]), "cpu": tree_cpu() - before}


def run_job(module: str) -> None:
    """In the child: five empty stages on an instance of their own; prints figures as JSON."""
    import dagster as dg
    from dagster._core.definitions.reconstruct import ReconstructableRepository

    (Path(os.environ["SPLAT_ASSETS_DATA"]) / "datasets").mkdir()
    (Path(os.environ["SPLAT_ASSETS_DATA"]) / "datasets" / "d.yaml").write_text("source: /empty\n")
    with dg.DagsterInstance.get() as instance:
        instance.add_dynamic_partitions("dataset", ["d"])
        began = time.monotonic()
        repository = ReconstructableRepository.for_module(module, "defs", str(Path.cwd()))
        job = repository.get_reconstructable_job("reconstruct")
        with dg.execute_job(job, instance, tags={"dagster/partition": "d"}) as result:
            wall = time.monotonic() - began
            assert result.success
            run_id = result.run_id
        started: dict[str, float] = {}
        boots = []
        for entry in instance.all_logs(run_id):
            event = entry.dagster_event
            if event is not None and event.step_key:
                if event.event_type_value == "STEP_WORKER_STARTING":
                    started[event.step_key] = entry.timestamp
                elif event.event_type_value == "STEP_START" and event.step_key in started:
                    boots.append(entry.timestamp - started[event.step_key])
    print(json.dumps({"wall": wall, "boots": boots}))


def idle_tick(count: int, repeat: int) -> None:
    """In the child: ticks of both sensors over finished datasets; prints the least CPU of one."""
    import dagster as dg

    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["SPLAT_ASSETS_DATA"] = f"{folder}/data"
        from splat_assets.definitions import defs
        from splat_assets.defs.automation_sensors import keep_current_cpu, keep_current_gpu
        from splat_assets.stages import ASSETS

        names = [f"d{index:05}" for index in range(count)]
        registry = Path(folder) / "data" / "datasets"
        registry.mkdir(parents=True)
        (Path(folder) / "home").mkdir()
        with dg.DagsterInstance.local_temp(f"{folder}/home") as instance:
            instance.add_dynamic_partitions("dataset", names)
            for name in names:
                (registry / f"{name}.yaml").write_text("source: /photos\n")
                for asset in ASSETS:
                    made = dg.AssetMaterialization(
                        asset, partition=name, tags={"dagster/data_version": "1"}
                    )
                    instance.report_runless_asset_event(made)
            repository = defs.get_repository_def()
            cursors: dict[str, str | None] = {}
            spent = []
            for _ in range(repeat + 2):
                began = time.process_time()
                for sensor in (keep_current_cpu, keep_current_gpu):
                    context = dg.build_sensor_context(
                        instance, cursors.get(sensor.name), repository_def=repository
                    )
                    result = sensor.evaluate_tick(context)
                    cursors[sensor.name] = result.cursor
                    assert not result.run_requests
                spent.append(time.process_time() - began)
                time.sleep(0.05)  # longer than the file clock's grain
    print(spent[0], min(spent[2:]))


def write(rows: list[tuple[str, str, str]]) -> None:
    """Replace these rows of the results, or add them."""
    head = [
        "# What the graph costs beyond its work",
        "",
        "`python -m benchmarks.graph_overhead`; limits are upper bounds. CPU seconds hold under "
        "load, wall times",
        f"do not. {os.cpu_count()} cores, Python {sys.version.split()[0]}.",
        "",
        "The bare project is five empty assets: no checks, metadata, data versions, resources, "
        "sensors or",
        "children that can be stopped. Its steps come from a fork server that has loaded its "
        "definitions (Dagster's",
        "default spawns them, which is dearer); so do ours, from one that is warmed up "
        "(`defs/warm_up.py`). It",
        "uses Dagster's own storage, ours the one of `dagster.yaml`. Many runs under the services: "
        "`backfill.md`.",
        "",
        "| what | measured | limit | load |",
        "|---|---|---|---|",
    ]
    known: dict[str, str] = {}
    if RESULTS.exists():
        lines = RESULTS.read_text(encoding="utf-8").splitlines()
        table = [line for line in lines if line.startswith("| ")][1:]
        known = {line.split(" | ")[0]: line for line in table}
    for row in rows:
        known[f"| {row[0]}"] = f"| {' | '.join(row)} | {os.getloadavg()[0]:.0f} |"
    RESULTS.write_text("\n".join([*head, *known.values()]) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
