"""A backfill over 1,000 partitions beside that of a bare graph: what it costs, how the UI answers.

    python -m benchmarks.backfill [sqlite] [postgres] [--project ours] [--seconds 240] [--runs 30]

Two phases, each under services started for it (web UI, daemon, code server). First the backfill is
submitted and all of its runs are queued. Then, with all of them waiting, some are executed, two at
a time; their stages are empty. All the while somebody has the web UI open. CPU seconds are those of
all processes, PostgreSQL's too, and hold on a busy machine; seconds of waiting do not. Keeps
`results/backfill.md` up to date, row by row.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import yaml

from benchmarks.process_cpu import be_reaper, tree_cpu
from splat_assets.datasets.registry import Registry
from splat_assets.datasets.spec import make_spec
from splat_assets.stages import ASSETS

RESULTS = Path(__file__).parent / "results" / "backfill.md"
ROOT = Path(__file__).resolve().parents[1]
OURS, BARE = "benchmarks.graph_overhead_ours", "benchmarks.graph_overhead_bare"
CHECKS, NO_SENSORS = {"SPLAT_BENCH_CHECKS": "yes"}, {"SPLAT_BENCH_SENSORS": "no"}
STORAGES = ("sqlite", "postgres")
PARTITIONS = 1000
IDLE_SEC = 30.0
SETTLE_SEC = 10.0
MIN_LOOKS = 200  # queries that the distribution of a phase is made of
LOOK_SEC = 0.25  # between two queries of the person with the UI open
LIMIT_SEC = 0.5  # for an answer; what took longer is told
QUERIES = {
    "start": "{ assetNodes { id assetKey { path } staleStatus } }",
    "runs": "{ runsOrError(limit: 25) { ... on Runs { results { runId status tags { key } } } } }",
    "partitions": """{ assetNodeOrError(assetKey: {path: ["frames"]}) { ... on AssetNode {
        partitionKeys assetPartitionStatuses { __typename } } } }""",
}
COUNTS = """{ all: runsOrError { ... on Runs { count } }
    done: runsOrError(filter: {statuses: [SUCCESS]}) { ... on Runs { count } }
    failed: runsOrError(filter: {statuses: [FAILURE, CANCELED]}) { ... on Runs { count } } }"""
HEAD = """# A backfill over {partitions} partitions

`python -m benchmarks.backfill`; {cores} cores, Python {python}. One backfill of all five assets is
submitted; when all its runs are queued, some are executed, two at a time, with empty stages. CPU
seconds are of all processes (web UI, daemon, code server, run workers, steps, PostgreSQL). A bare
graph is five empty assets under Dagster's own storage and launcher: no checks, metadata, resources,
sensors or children that can be stopped. Limits: 1.2 times its CPU seconds, 0.5 s a query.

"""
COST = """## Cost

| storage | graph | idle, of a core | to queue a run | in | to execute a run | a run in all | load |
|---|---|---|---|---|---|---|---|
"""
WAITS = """
## The web UI meanwhile

Seconds until the start page's, the run list's and the partition page's query is answered, asked in
turn four times a second: median, 95 %, longest.

| storage | graph | phase | queries | start page | run list | partition page |
|---|---|---|---|---|---|---|
"""
Query = Callable[..., dict[str, Any]]


@dataclass(frozen=True)
class Project:
    """A graph and the instance that it runs in."""

    module: str
    variables: dict[str, str]
    own_storage: bool = True  # ours; else Dagster's own, and its own launcher


PROJECTS = {
    "ours": Project(OURS, {}),
    "bare": Project(BARE, {}, own_storage=False),
    "bare, our instance": Project(BARE, {}),
    "bare, our instance, as many checks": Project(BARE, CHECKS),
    "ours, no sensors": Project(OURS, NO_SENSORS),
    "ours, Dagster's storage": Project(OURS, {}, own_storage=False),
}


@dataclass(frozen=True)
class Phase:
    """What one phase took."""

    count: int  # runs queued, or executed
    seconds: float
    cpu: float  # seconds of everything, idle work included
    waits: dict[str, list[float]]  # query → seconds of each


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("storages", nargs="*", choices=[*STORAGES, []], default=[])
    parser.add_argument("--project", action="append", choices=PROJECTS)
    parser.add_argument("--submit", type=int, default=PARTITIONS, help="how many partitions")
    parser.add_argument("--runs", type=int, default=30, help="executed at least")
    parser.add_argument("--seconds", type=float, default=240, help="of a phase at most")
    wanted = parser.parse_args()
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # compiled once, as what pip installed is
    os.environ["SPLAT_ASSETS_EXECUTOR"] = "multiprocess"
    be_reaper()
    for storage in wanted.storages or STORAGES:
        for name in wanted.project or ("ours", "bare"):
            with tempfile.TemporaryDirectory(prefix="backfill-") as folder:
                Path(folder).chmod(0o755)  # PostgreSQL is another user
                measure(Path(folder), storage, name, wanted)


def measure(folder: Path, storage: str, name: str, wanted: argparse.Namespace) -> None:
    """One project on one storage; writes its rows."""
    project = PROJECTS[name]
    names = [f"garden-{number:04}" for number in range(PARTITIONS)]
    where = f"| {storage} | {name} |"
    with mock.patch.dict(os.environ, project.variables):
        with services(folder, storage, project, max_runs=0) as (query, add_partitions):
            add_partitions(names)
            registry = Registry(folder / "data" / "datasets")
            for dataset in names:
                registry.add(make_spec(name=dataset, source="/empty", preset="preview"))
            idle = measure_idle()
            tell(f"idle {idle:.3f}")
            launch(query, names[: wanted.submit])
            queued = watch(query, "all", wanted.submit, wanted.seconds, least=wanted.submit)
            write(waits=f"{where} queueing {describe_waits(queued)}")
            tell(f"queued {queued.count} in {queued.seconds:.0f} s, {queued.cpu:.1f} s CPU")
        with services(folder, storage, project, max_runs=2) as (query, _):
            executed = watch(query, "done", wanted.submit, wanted.seconds, least=wanted.runs)
            write(waits=f"{where} executing {describe_waits(executed)}")
            tell(f"executed {executed.count} in {executed.seconds:.0f} s, {executed.cpu:.1f} s CPU")
    to_queue = (queued.cpu - idle * queued.seconds) / queued.count
    to_execute = (executed.cpu - idle * executed.seconds) / executed.count
    write(
        cost=f"{where} {100 * idle:.1f} % | {to_queue:.3f} s | {queued.seconds:.0f} s for "
        f"{queued.count} | {to_execute:.2f} s of {executed.count} | {to_queue + to_execute:.2f} s "
        f"| {os.getloadavg()[0]:.0f} |"
    )


# --- services -------------------------------------------------------------------------------------


@contextlib.contextmanager
def services(
    folder: Path, storage: str, project: Project, *, max_runs: int
) -> Iterator[tuple[Query, Callable[[list[str]], None]]]:
    """The services on an instance below `folder`; yields GraphQL, and how to add partitions."""
    wanted: dict[str, Any] = {"own_storage": project.own_storage, "max_runs": max_runs}
    if storage == "sqlite":
        from splat_assets_tests import dagster_services

        config = instance_config(folder, **wanted)
        with dagster_services.services(
            folder, module=project.module, timeout=300, config=config
        ) as dagster:
            home = {"DAGSTER_HOME": str(dagster.home)}
            yield dagster.query, lambda names: add_partitions(names, {**os.environ, **home})
    else:
        from deploy.stack import HERE, stack

        config = instance_config(folder, HERE / "dagster.yaml", **wanted)
        with (
            mock.patch.dict(os.environ, {"SPLAT_ASSETS_DATA": str(folder / "data")}),
            stack(folder, module=project.module, config=config) as running,
        ):
            environment = dict(running.environment)
            yield running.query, lambda names: add_partitions(names, environment)


def instance_config(
    folder: Path, like: Path = ROOT / "dagster.yaml", *, own_storage: bool, max_runs: int = 2
) -> Path:
    """Write a `dagster.yaml` like this one, with Dagster's own storage and launcher if wished."""
    config = yaml.safe_load(like.read_text(encoding="utf-8"))
    config["concurrency"]["runs"] = {"max_concurrent_runs": max_runs}
    if not own_storage:
        parts = config["storage"]["custom"]["config"]
        kind = "postgres" if "postgres_db" in parts else "sqlite"
        config["storage"] = {kind: parts}
        del config["run_launcher"]
    path = folder / "instance.yaml"
    path.write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
    return path


def add_partitions(names: list[str], environment: dict[str, str]) -> None:
    program = (
        "import dagster as dg, sys\n"
        "with dg.DagsterInstance.get() as instance:\n"
        "    instance.add_dynamic_partitions('dataset', sys.argv[1:])"
    )
    subprocess.run([sys.executable, "-c", program, *names], env=environment, check=True)


def launch(query: Query, names: list[str]) -> None:
    answer = query(
        """mutation($p: LaunchBackfillParams!) { launchPartitionBackfill(backfillParams: $p) {
        __typename ... on PythonError { message } } }""",
        p={"assetSelection": [{"path": [a]} for a in ASSETS], "partitionNames": names},
    )["launchPartitionBackfill"]
    if answer["__typename"] != "LaunchBackfillSuccess":
        raise RuntimeError(str(answer))


# --- measuring ------------------------------------------------------------------------------------


def measure_idle() -> float:
    """CPU seconds a second of everything that runs, when nothing happens."""
    time.sleep(SETTLE_SEC)
    before, began = tree_cpu(), time.monotonic()
    time.sleep(IDLE_SEC)
    return (tree_cpu() - before) / (time.monotonic() - began)


def watch(query: Query, what: str, count: int, seconds: float, *, least: int) -> Phase:
    """Look at the UI until `count` runs are in this state (`all` or `done`) or time is up.

    It may be up before, as soon as there are `least` and enough was asked.
    """
    before, began = tree_cpu(), time.monotonic()
    waits: dict[str, list[float]] = {name: [] for name in QUERIES}
    stop = threading.Event()
    looking = threading.Thread(target=look, args=(query, waits, stop))
    looking.start()
    try:
        while True:
            counts = {name: answer["count"] for name, answer in query(COUNTS).items()}
            passed = time.monotonic() - began
            cpu = tree_cpu() - before
            if counts["failed"]:
                raise RuntimeError(f"runs failed: {counts}")
            looked = sum(map(len, waits.values())) >= MIN_LOOKS
            if passed > seconds or counts[what] >= count or (counts[what] >= least and looked):
                return Phase(counts[what], passed, cpu, waits)
            time.sleep(1)
    finally:
        stop.set()
        looking.join()


def look(query: Query, waits: dict[str, list[float]], stop: threading.Event) -> None:
    """What a person with the UI open asks, in turn; `waits` receives how long each took."""
    opened = time.monotonic()
    while True:
        for name, text in QUERIES.items():
            if stop.wait(LOOK_SEC):
                return
            began = time.monotonic()
            query(text)
            waits[name].append(time.monotonic() - began)
            if waits[name][-1] > LIMIT_SEC:
                tell(f"{name}: {waits[name][-1]:.2f} s, {began - opened:.0f} s after the start")


def describe_waits(phase: Phase) -> str:
    """Median, 95 % and longest of each query, as cells of a table."""
    cells = [f"| {sum(map(len, phase.waits.values()))}"]
    for waits in phase.waits.values():
        slow = statistics.quantiles(waits, n=20)[-1] if len(waits) > 1 else max(waits)
        cells.append(f"{statistics.median(waits):.2f}, {slow:.2f}, {max(waits):.2f}")
    return " | ".join(cells) + " |"


# --- results --------------------------------------------------------------------------------------


def tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def write(*, cost: str = "", waits: str = "") -> None:
    """Replace the row that begins alike, or add it."""
    text = RESULTS.read_text(encoding="utf-8") if RESULTS.exists() else ""
    rows: dict[bool, dict[str, str]] = {True: {}, False: {}}  # of the table of waits?
    table = False
    for line in text.splitlines():
        table = table or line.startswith("## The web UI")
        if line.startswith("| ") and not line.startswith("| storage"):
            rows[table][_key(line, table)] = line
    if cost:
        rows[False][_key(cost, False)] = cost
    if waits:
        rows[True][_key(waits, True)] = waits
    head = HEAD.format(partitions=PARTITIONS, cores=os.cpu_count(), python=sys.version.split()[0])
    notes = text[text.index("\n## Notes") :] if "\n## Notes" in text else ""
    costs = "".join(f"{row}\n" for row in rows[False].values())
    looks = "".join(f"{row}\n" for row in rows[True].values())
    RESULTS.write_text(head + COST + costs + WAITS + looks + notes, encoding="utf-8")


def _key(row: str, table: bool) -> str:
    return "|".join(row.split("|")[: 4 if table else 3])


if __name__ == "__main__":
    main()
