"""A real sensor daemon that can be killed at any moment; the runs it makes stay queued."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any

import dagster as dg
from dagster._core.instance.ref import InstanceRef
from dagster._core.scheduler.instigation import InstigatorTick, TickStatus

from splat_assets_tests.dagster_services import LOCATION, prepare_home

MODULE = "splat_assets_tests.watching.fast_definitions"
SENSORS = ("new_hub_repos", "changed_hub_repos", "drop_boxes")
# Dagster looks at its sensors every five seconds; a test has not so much time.
START = """
import dagster._daemon.sensor as sensor
sensor.MIN_INTERVAL_LOOP_TIME = 0.5
from dagster._daemon.cli import main
import sys
sys.argv = ["dagster-daemon", "run", "-w", "workspace.yaml"]
main()
"""


class Daemon:
    """`dagster-daemon run` on an instance of its own in `folder/home`; data in `folder/data`."""

    def __init__(self, folder: Path, **environment: str) -> None:
        self.folder, self.data = folder, folder / "data"
        self.environment = prepare_home(folder / "home", self.data) | environment
        config = folder / "home" / "dagster.yaml"
        text = config.read_text(encoding="utf-8")
        for old, new in [
            ("max_concurrent_runs: 4", "max_concurrent_runs: 0"),
            ("run_monitoring:\n  enabled: true", "run_monitoring:\n  enabled: false"),
        ]:
            assert old in text
            text = text.replace(old, new)
        config.write_text(text)
        entry = {"python_module": {"module_name": MODULE, "location_name": LOCATION}}
        (folder / "workspace.yaml").write_text(json.dumps({"load_from": [entry]}))
        self.instance = dg.DagsterInstance.from_ref(InstanceRef.from_dir(str(folder / "home")))
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with (self.folder / "daemon.log").open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-c", START],
                env=self.environment,
                cwd=self.folder,
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )

    def kill(self) -> None:
        """SIGKILL for the daemon and its code server."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait(10)
            self._process = None

    def __enter__(self) -> Daemon:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.kill()
        self.instance.dispose()

    def ticks(self, sensor: str) -> list[InstigatorTick]:
        """The sensor's ticks that have ended, newest first."""
        found: list[InstigatorTick] = []
        for state in self.instance.all_instigator_state():
            if state.instigator_name == sensor:
                found += self.instance.get_ticks(state.instigator_origin_id, state.selector_id)
        return [tick for tick in found if tick.status != TickStatus.STARTED]

    def runs(self) -> list[dict[str, Any]]:
        """The tags of every run, oldest first."""
        return [dict(run.tags) for run in self.instance.get_runs()][::-1]

    def finish_runs(self) -> None:
        """Let everything that is queued end, as canceled."""
        for run in self.instance.get_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.QUEUED])):
            self.instance.report_run_canceled(run)
