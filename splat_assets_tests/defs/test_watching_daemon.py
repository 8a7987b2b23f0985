"""The watching sensors under a real daemon that is killed while it makes runs."""

from __future__ import annotations

import time
import zipfile
from pathlib import Path

import pytest
from dagster._core.scheduler.instigation import TickStatus

from splat_assets.datasets.registry import Registry
from splat_assets.watching.watch_list import DropBox, HubWatch, WatchFile, make_watch
from splat_assets_tests.dagster_services import wait_for
from splat_assets_tests.hub_standin import HubStandIn
from splat_assets_tests.sources.samples import photos, write
from splat_assets_tests.watching.daemon import SENSORS, Daemon

pytestmark = pytest.mark.slow


def test_no_run_is_lost_or_doubled_when_the_daemon_is_killed(tmp_path: Path) -> None:
    pictures, inbox = write(tmp_path / "p", photos(2)), tmp_path / "inbox"
    inbox.mkdir()
    with zipfile.ZipFile(inbox / "walk.zip", "w") as archive:
        archive.writestr("a.jpg", photos(1)["p00.jpg"])
    with HubStandIn() as hub, Daemon(tmp_path, HF_ENDPOINT=hub.url) as daemon:
        hub.add_many((f"me/s{i:02d}" for i in range(10)), pictures)
        watch_file = WatchFile.of(Registry(daemon.data / "datasets"))
        watch_file.add(make_watch(HubWatch, author="me", runs_per_tick=5))
        watch_file.add(make_watch(DropBox, path=str(inbox), settle_sec=1))
        for until in (2, 7):
            daemon.start()
            wait_for(lambda until=until: len(daemon.runs()) >= until, 120, f"{until} runs")
            daemon.kill()  # while it submits the rest of a tick
        daemon.start()
        wait_for(lambda: len(daemon.runs()) == 11, 120, "all runs")

        before = len(daemon.ticks("changed_hub_repos"))
        wait_for(lambda: len(daemon.ticks("changed_hub_repos")) > before, 60, "a look at all")
        daemon.finish_runs()
        hub.commit("me/s03", write(tmp_path / "p3", photos(3)))
        hub.commit("me/s04", write(tmp_path / "p4", {**photos(2), "README.md": "words"}))
        wait_for(lambda: len(daemon.runs()) == 12, 120, "the run of what changed")
        time.sleep(2)
        tags = daemon.runs()
        assert len(tags) == 12
        assert len({(run["dagster/run_key"]) for run in tags}) == 12
        assert tags[-1]["dagster/partition"] == "me--s03"
        assert tags[-1]["dagster/sensor_name"] == "changed_hub_repos"
        assert {run["dagster/partition"] for run in tags} == {
            "walk",
            *(f"me--s{i:02d}" for i in range(10)),
        }
        ticks = [tick for sensor in SENSORS for tick in daemon.ticks(sensor)]
        assert not [tick.error for tick in ticks if tick.status == TickStatus.FAILURE]
