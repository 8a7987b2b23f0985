"""The Hub sensors against a stand-in with 10,000 repositories, and under a daemon that is killed.

    python -m benchmarks.hub_sensors                 # seconds per tick, runs per tick
    python -m benchmarks.hub_sensors --daemon        # 100 ticks of a real daemon, killed as it goes

Seconds are of the whole tick, the stand-in's share included (it runs in the same process in the
first part). Writes Markdown tables to stdout; `benchmarks/results/hub_sensors.md` keeps them.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import dagster as dg

from splat_assets.artifacts.store import ArtifactStore
from splat_assets.datasets.registry import Registry
from splat_assets.defs.hub_sensors import load_watches
from splat_assets.defs.hub_ticks import changed_tick, new_tick
from splat_assets.watching.watch_list import HubWatch, WatchFile, make_watch
from splat_assets_tests.hub_standin import HubStandIn
from splat_assets_tests.sources.samples import photos, write
from splat_assets_tests.watching.daemon import Daemon
from splat_assets_tests.watching.ticking import World

NEW, CHANGED = "new_hub_repos", "changed_hub_repos"


class Ticks:
    """Ticks of both sensors, with their seconds and what they asked of the Hub."""

    def __init__(self, world: World, hub: HubStandIn) -> None:
        self.world, self.hub = world, hub
        self.store = ArtifactStore(str(world.root), world.root)

    def new(self) -> tuple[float, float, list[str]]:
        return self._timed(NEW, self._new)

    def changed(self) -> tuple[float, float, list[str]]:
        return self._timed(CHANGED, self._changed)

    def _timed(
        self, sensor: str, evaluate: Callable[..., dg.SensorResult | dg.SkipReason]
    ) -> tuple[float, float, list[str]]:
        """Wall and CPU seconds of the evaluation alone, and the partitions it made runs of."""
        took: list[float] = []

        def timed(
            context: dg.SensorEvaluationContext, world: World
        ) -> dg.SensorResult | dg.SkipReason:
            began, cpu = time.monotonic(), time.process_time()
            result = evaluate(context, world)
            took.extend([time.monotonic() - began, time.process_time() - cpu])
            return result

        made = self.world.tick(sensor, timed)
        return took[0], took[1], made

    def _new(
        self, context: dg.SensorEvaluationContext, world: World
    ) -> dg.SensorResult | dg.SkipReason:
        watches = load_watches(world.registry)
        return new_tick(context, world.registry, watches, now=world.now)

    def _changed(
        self, context: dg.SensorEvaluationContext, world: World
    ) -> dg.SensorResult | dg.SkipReason:
        watches = load_watches(world.registry)
        return changed_tick(context, world.registry, self.store, watches, now=world.now)


def measure_ticks(folder: Path, num_repos: int) -> None:
    """Seconds per tick with so many repositories, admission, and what a change re-runs."""
    pictures = write(folder / "p", photos(2))
    (folder / "home").mkdir()
    with HubStandIn() as hub, dg.DagsterInstance.local_temp(str(folder / "home")) as instance:
        os.environ["HF_ENDPOINT"] = hub.url
        hub.add_many((f"big/set{i:05d}" for i in range(num_repos)), pictures)
        world = World(folder / "data", instance)
        world.watch_file.add(make_watch(HubWatch, author="big"))
        ticks = Ticks(world, hub)
        heads = ("wall s", "CPU s", "requests", "registered", "runs", "cursor")
        print(f"| {num_repos} repositories | {' | '.join(heads)} |")
        print("|---|---|---|---|---|---|---|")

        def row(what: str, sensor: str, tick: tuple[float, float, list[str]]) -> None:
            wall, cpu, made = tick
            requests = sum(hub.requests.values())
            size = len(world.cursors.get(sensor) or "")
            registered = len(world.registry.names())
            print(
                f"| {what} | {wall:.2f} | {cpu:.2f} | {requests} | {registered} | {len(made)} | "
                f"{size} bytes |",
                flush=True,
            )
            hub.reset_counts()

        row("`new_hub_repos`, first tick", NEW, ticks.new())
        row("`changed_hub_repos`, first tick", CHANGED, ticks.changed())
        for number in (2, 3, 4):
            row(f"`new_hub_repos`, tick {number}", NEW, ticks.new())
        row("`new_hub_repos`, tick 5: 100 runs wait", NEW, ticks.new())
        assert len(world.registry.names()) == num_repos
        steady = [tick() for _ in range(20) for tick in (ticks.new, ticks.changed)]
        assert not any(made for _, _, made in steady)
        seconds = [wall for wall, _, _ in steady]
        print(
            f"| 40 steady ticks: median, longest | {statistics.median(seconds):.2f}, "
            f"{max(seconds):.2f} | {statistics.median(cpu for _, cpu, _ in steady):.2f} | "
            f"{sum(hub.requests.values()) / 40:.0f} each | | 0 | |"
        )
        world.finish()
        hub.reset_counts()
        hub.add_many((f"big/new{i:02d}" for i in range(50)), pictures)
        admitted = []
        for number in (1, 2):
            tick = ticks.new()
            admitted += tick[2]
            row(f"50 new repositories, tick {number}", NEW, tick)
        assert admitted == [f"big--new{i:02d}" for i in reversed(range(50))]
        world.finish()
        ticks.new()
        world.finish()
        changed = _change_some(folder, hub, world)
        tick = ticks.changed()
        row("30 of the run ones moved, 10 in files that matter", CHANGED, tick)
        assert sorted(tick[2]) == changed, (tick[2], changed)
        keys = [key for _, key in world.runs()]
        assert len(keys) == len(set(keys))
        print(f"\nRuns in all: {len(keys)}, each with a run key of its own.")


def _change_some(folder: Path, hub: HubStandIn, world: World) -> list[str]:
    """New commits for 30 repositories that have run; returns the datasets to run again."""
    ran = sorted({name for name, _ in world.runs()})[:30]
    readme = write(folder / "readme", {**photos(2), "README.md": "words"})
    licence = write(folder / "licence", {**photos(2), "LICENSE": "mit", ".gitattributes": "x"})
    photo = write(folder / "photo", photos(3))
    for index, name in enumerate(ran):
        hub.commit(name.replace("--", "/"), (readme, licence, photo)[index % 3])
    return ran[2::3]


def measure_daemon(folder: Path, num_ticks: int, kills: int) -> None:
    """Ticks of a real daemon that is killed, while repositories arrive and change."""
    dice = random.Random(1)
    pictures = write(folder / "p", photos(2))
    with HubStandIn() as hub, Daemon(folder, HF_ENDPOINT=hub.url) as daemon:
        hub.add_many((f"me/s{i:02d}" for i in range(10)), pictures)
        watch_file = WatchFile.of(Registry(daemon.data / "datasets"))
        watch_file.add(make_watch(HubWatch, author="me"))
        began, killed, number = time.monotonic(), 0, 0
        expected = {f"{repo.repo_id}@{repo.commits[-1].sha}" for repo in hub.repos.values()}
        daemon.start()
        while True:
            ended = sum(len(daemon.ticks(sensor)) for sensor in (NEW, CHANGED))
            if ended >= num_ticks and killed >= kills:
                break
            if ended * kills >= (killed + 1) * num_ticks:
                killed += 1
                print(f"killed at tick {ended}, {number} arrived", file=sys.stderr, flush=True)
                daemon.kill()
                daemon.start()
            if number < 30 and ended * 30 >= number * num_ticks:
                number += 1
                repo = f"me/t{number:02d}"
                hub.add(repo, pictures)
                expected.add(f"{repo}@{hub.repos[repo].commits[-1].sha}")
            if dice.random() < 0.1:
                daemon.finish_runs()
            time.sleep(0.2)
        deadline = time.monotonic() + 240
        while len(daemon.runs()) < len(expected) and time.monotonic() < deadline:
            daemon.finish_runs()
            time.sleep(0.5)
        keys = Counter(run["dagster/run_key"] for run in daemon.runs())
        twice = sum(count - 1 for count in keys.values())
        print("| real daemon | |\n|---|---|")
        print(f"| ticks of the two Hub sensors | {ended} |\n| daemon killed (SIGKILL) | {killed} |")
        print(f"| repositories, of which arrived meanwhile | {len(expected)}, {number} |")
        print(f"| runs made | {sum(keys.values())} |\n| runs made twice | {twice} |")
        print(f"| runs missing | {len(expected - set(keys))} |")
        print(f"| wall seconds | {time.monotonic() - began:.0f} |")
        assert set(keys) == expected and not twice


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--daemon", action="store_true", help="measure a real daemon instead")
    parser.add_argument("--repos", type=int, default=10_000)
    parser.add_argument("--ticks", type=int, default=100)
    parser.add_argument("--kills", type=int, default=8)
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the daemon ends with us
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        os.environ["HF_HOME"] = str(folder / "hf")
        os.environ.pop("HF_TOKEN", None)
        if args.daemon:
            measure_daemon(folder, args.ticks, args.kills)
        else:
            measure_ticks(folder, args.repos)


if __name__ == "__main__":
    main()
