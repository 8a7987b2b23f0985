"""What the graph costs beyond the work it does, next to a bare Dagster project of five assets.

    python -m benchmarks.graph_overhead [import] [chain] [idle] [queue] [backfill]

CPU seconds are those of whole process trees, orphans included, so they hold on a busy machine; wall
times are marked and need a quiet one. Keeps `benchmarks/results/graph_overhead.md` up to date, row
by row.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import json
import logging
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import psutil

from benchmarks.backfill_queue import Queued, queue_backfill

RESULTS = Path(__file__).parent / "results" / "graph_overhead.md"
OURS, BARE = "benchmarks.graph_overhead_ours", "benchmarks.graph_overhead_bare"
IN_PROCESS = {"SPLAT_BENCH_EXECUTOR": "in_process"}
SPAWN = {"SPLAT_BENCH_EXECUTOR": "spawn"}
NO_SENSORS = {"SPLAT_BENCH_SENSORS": "no"}
PAIR = ("ours", "bare")
SIDE_BY_SIDE = {
    "bare": (BARE, {}),
    "bare with as many checks": (BARE, {"SPLAT_BENCH_CHECKS": "yes"}),
    "ours without sensors": (OURS, NO_SENSORS),
    "ours": (OURS, {}),
}
PARTS = ("import", "chain", "idle", "queue", "backfill")
PARTITIONS = 1000
SERVERS = ("dagster._daemon", "dagster._grpc", "api grpc", "code-server")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], default=[])
    parser.add_argument("--runs", type=int, default=10, help="of `queue` and `backfill`")
    parser.add_argument("--only", action="append", choices=SIDE_BY_SIDE, help="of these two")
    parser.add_argument("--repeat", type=int, default=3, help="of the others")
    chosen = parser.parse_args()
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # compiled once, as what pip installed is
    be_reaper()
    for part in chosen.parts or PARTS:
        measure = globals()[f"measure_{part}"]
        with_runs = part in ("queue", "backfill")
        for row in measure(*((chosen.runs, chosen.only) if with_runs else (chosen.repeat,))):
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


def measure_queue(runs: int, only: list[str]) -> Iterator[tuple[str, str, str]]:
    for name, project in SIDE_BY_SIDE.items():
        if name in (only or SIDE_BY_SIDE):
            found = queue(*project, runs)
            yield (
                f"queueing a run of a backfill, {name} ({runs} runs, {PARTITIONS} partitions, "
                "SQLite; CPU)",
                f"{found.cpu_per_run:.3f} s; idle {100 * found.idle:.1f} % of a core; queued in "
                f"{found.seconds:.0f} s; queries {found.describe_waits()}",
                "1.2 × bare, 0.5 s",
            )


def measure_backfill(runs: int, only: list[str]) -> Iterator[tuple[str, str, str]]:
    for name, project in SIDE_BY_SIDE.items():
        if name in (only or SIDE_BY_SIDE):
            found = backfill(*project, runs)
            asked = found["queries"]
            yield (
                f"a run of a backfill, executed, {name} ({runs} runs, {PARTITIONS} partitions, "
                "SQLite; CPU of all)",
                f"{found['cpu_per_run']:.1f} s; run list and partitions asked {len(asked)} times: "
                f"{statistics.median(asked):.2f} s, at most {max(asked):.2f} s",
                "1.2 × bare, 0.5 s",
            )


# --- one measurement ------------------------------------------------------------------------------


def execute(module: str, variables: dict[str, str]) -> dict[str, Any]:
    """Run the chain of a project in a process of its own, as a code server does."""
    from splat_assets_tests.dagster_services import prepare_home

    with tempfile.TemporaryDirectory() as folder:
        environment = prepare_home(Path(folder) / "home", Path(folder) / "data") | variables
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


def queue(module: str, variables: dict[str, str], runs: int) -> Queued:
    """Runs queued and not executed; CPU of the daemon and its code server."""
    from splat_assets_tests.dagster_services import services

    with tempfile.TemporaryDirectory() as folder, mock.patch.dict(os.environ, variables):
        names = register(Path(folder))
        with services(Path(folder), module=module, timeout=300, max_runs=0) as dagster:
            add_partitions(dagster.home, names)

            def cpu() -> float:
                return sum(cpu_of([p for m in SERVERS for p in dagster.processes(m)]))

            return queue_backfill(dagster.query, names[:runs], cpu)


def register(folder: Path) -> list[str]:
    """A registry file for every partition; their names."""
    from splat_assets.datasets.registry import Registry
    from splat_assets.datasets.spec import make_spec

    registry = Registry(folder / "data" / "datasets")
    names = [f"d{index:04}" for index in range(PARTITIONS)]
    for name in names:
        registry.add(make_spec(name=name, source="/empty"))
    return names


def backfill(module: str, variables: dict[str, str], runs: int) -> dict[str, Any]:
    """A backfill under real services; CPU of all their processes for each run that ended."""
    from splat_assets.stages import ASSETS
    from splat_assets_tests.dagster_services import FINISHED, services, wait_for

    with tempfile.TemporaryDirectory() as folder, mock.patch.dict(os.environ, variables):
        names = register(Path(folder))
        with services(Path(folder), module=module, timeout=300) as dagster:
            add_partitions(dagster.home, names)
            began, queries = tree_cpu(), []
            id_ = dagster.backfill(ASSETS, names[:runs])

            def done() -> bool:
                asked = time.monotonic()
                listed = dagster.runs(**{"dagster/backfill": id_})
                dagster.partitions()
                queries.append(time.monotonic() - asked)
                time.sleep(1)
                return sum(run["status"] in FINISHED for run in listed) >= runs

            wait_for(done, 60 * runs, "the backfill")
            assert {run["status"] for run in dagster.runs(**{"dagster/backfill": id_})} == {
                "SUCCESS"
            }
            spent = tree_cpu() - began
    return {"cpu_per_run": spent / runs, "queries": queries}


def add_partitions(home: Path, names: list[str]) -> None:
    import dagster as dg
    from dagster._core.instance.ref import InstanceRef

    with dg.DagsterInstance.from_ref(InstanceRef.from_dir(str(home))) as instance:
        instance.add_dynamic_partitions("dataset", names)


# --- CPU of a process tree ------------------------------------------------------------------------


def be_reaper() -> None:
    """Adopt orphaned descendants (fork servers outlive their run), so that their CPU counts."""
    pr_set_child_subreaper = 36
    ctypes.CDLL(None).prctl(pr_set_child_subreaper, 1)


def tree_cpu() -> float:
    """CPU seconds of all descendants so far, the ended ones included."""
    me = psutil.Process()
    for child in me.children():
        with contextlib.suppress(psutil.Error, ChildProcessError):
            if child.status() == psutil.STATUS_ZOMBIE and child.ppid() == me.pid:
                os.waitpid(child.pid, os.WNOHANG)
    return sum(cpu_of(me.children(recursive=True))) + cpu_of_ended()


def cpu_of(processes: list[psutil.Process]) -> Iterator[float]:
    for process in processes:
        with contextlib.suppress(psutil.Error):
            times = process.cpu_times()
            yield times.user + times.system + times.children_user + times.children_system


def cpu_of_ended() -> float:
    times = os.times()
    return times.children_user + times.children_system


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
        "(`defs/warm_up.py`). Both use",
        "the project's `dagster.yaml`. An executed backfill is counted with all that the services "
        "use meanwhile.",
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
