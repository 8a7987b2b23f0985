"""Real Dagster services for tests and screenshots: web server, daemon, code server, GraphQL.

    with services(tmp_path, module="splat_assets_tests.defs.fake_definitions") as dagster:
        run_id = dagster.launch("reconstruct", "garden")
        dagster.wait(run_id)

Every process lives in a session of its own, on loopback, and is gone when the block ends.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from splat_assets_tests.paths import ROOT

LOCATION = "splat_assets"
FINISHED = {"SUCCESS", "FAILURE", "CANCELED"}


@dataclass
class Dagster:
    """A running set of services."""

    home: Path  # DAGSTER_HOME
    data: Path  # SPLAT_ASSETS_DATA
    url: str
    process: psutil.Process

    def query(self, query: str, **variables: Any) -> dict[str, Any]:
        """One GraphQL request; raises on errors."""
        body = json.dumps({"query": query, "variables": variables}).encode()
        request = urllib.request.Request(
            self.url + "/graphql", body, {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            result = json.load(answer)
        if result.get("errors"):
            raise AssertionError(result["errors"])
        return result["data"]

    def launch(
        self,
        job: str,
        partition: str | None = None,
        *,
        assets: tuple[str, ...] = (),
        config: dict[str, Any] | None = None,
    ) -> str:
        """Launch a job, on one partition where it has partitions, and return the run id."""
        selector: dict[str, Any] = {
            "repositoryLocationName": LOCATION,
            "repositoryName": "__repository__",
            "pipelineName": job,
        }
        if assets:
            selector["assetSelection"] = [{"path": [asset]} for asset in assets]
        tags = [{"key": "dagster/partition", "value": partition}] if partition else []
        answer = self.query(
            """mutation($p: ExecutionParams!) { launchRun(executionParams: $p) { __typename
            ... on LaunchRunSuccess { run { runId } } ... on PythonError { message } } }""",
            p={
                "selector": selector,
                "runConfigData": config or {},
                "executionMetadata": {"tags": tags},
            },
        )["launchRun"]
        assert answer["__typename"] == "LaunchRunSuccess", answer
        return answer["run"]["runId"]

    def backfill(self, assets: tuple[str, ...], partitions: list[str]) -> str:
        """Start a backfill, as the UI does, and return its id."""
        answer = self.query(
            """mutation($p: LaunchBackfillParams!) { launchPartitionBackfill(backfillParams: $p) {
            __typename ... on LaunchBackfillSuccess { backfillId }
            ... on PythonError { message } } }""",
            p={
                "assetSelection": [{"path": [a]} for a in assets],
                "partitionNames": partitions,
            },
        )["launchPartitionBackfill"]
        assert answer["__typename"] == "LaunchBackfillSuccess", answer
        return answer["backfillId"]

    def backfill_status(self, backfill_id: str) -> str:
        return self.query(
            """query($id: String!) { partitionBackfillOrError(backfillId: $id) {
            ... on PartitionBackfill { status } ... on PythonError { message } } }""",
            id=backfill_id,
        )["partitionBackfillOrError"]["status"]

    def terminate(self, run_id: str) -> None:
        self.query("mutation($id: String!) { terminateRun(runId: $id) { __typename } }", id=run_id)

    def runs(self, **tags: str) -> list[dict[str, Any]]:
        """Runs, newest first: runId, status, tags."""
        filters = {"tags": [{"key": k, "value": v} for k, v in tags.items()]} if tags else {}
        return self.query(
            """query($f: RunsFilter) { runsOrError(filter: $f) {
            ... on Runs { results { runId status tags { key value } } } } }""",
            f=filters,
        )["runsOrError"]["results"]

    def status(self, run_id: str) -> str:
        return self.query(
            "query($id: ID!) { runOrError(runId: $id) { ... on Run { status } } }", id=run_id
        )["runOrError"]["status"]

    def wait(self, run_id: str, timeout: float = 60) -> str:
        """The final status of a run."""
        return wait_for(lambda: (s := self.status(run_id)) in FINISHED and s, timeout, "run end")

    def partitions(self) -> list[str]:
        return self.query(
            """query($s: AssetKeyInput!) { assetNodeOrError(assetKey: $s) {
            ... on AssetNode { partitionKeys } } }""",
            s={"path": ["raw_dataset"]},
        )["assetNodeOrError"]["partitionKeys"]

    def slot_holders(self, pool: str) -> list[str]:
        """Ids of the runs that hold a slot of the pool."""
        claimed = self.query(
            """query($k: String!) { instance { concurrencyLimit(concurrencyKey: $k) {
            claimedSlots { runId } } } }""",
            k=pool,
        )["instance"]["concurrencyLimit"]["claimedSlots"]
        return [slot["runId"] for slot in claimed]

    def processes(self, mark: str) -> list[psutil.Process]:
        """Processes of these services (any descendant's) whose command line holds `mark`."""
        found = []
        for process in psutil.process_iter(["cmdline", "environ"]):
            environment = process.info["environ"] or {}
            if environment.get("DAGSTER_HOME") == str(self.home) and mark in " ".join(
                process.info["cmdline"] or ()
            ):
                found.append(process)
        return found


def wait_for(condition: Callable[[], Any], timeout: float, what: str) -> Any:
    """Poll until `condition()` is true and return its value; a busy machine gets more time."""
    deadline = time.monotonic() + timeout * min(max(os.getloadavg()[0] / 2, 1.0), 8.0)
    while time.monotonic() < deadline:
        value = condition()
        if value:
            return value
        time.sleep(0.1)
    raise AssertionError(f"waited {timeout} s for: {what}")


def prepare_home(
    home: Path, data: Path, max_runs: int = 4, config: Path | None = None
) -> dict[str, str]:
    """Write a dagster.yaml with its folders below `home`; returns the environment.

    The project's, with runs looked after more often than usual, unless another is given.
    """
    home.mkdir(parents=True, exist_ok=True)
    data.mkdir(parents=True, exist_ok=True)
    text = (config or ROOT / "dagster.yaml").read_text(encoding="utf-8")
    text = text.replace("base_dir: .dagster", f"base_dir: {home}/.dagster")
    if config is None:
        text = text.replace("max_concurrent_runs: 4", f"max_concurrent_runs: {max_runs}")
        text = text.replace("poll_interval_seconds: 10", "poll_interval_seconds: 1")
        text = text.replace(
            "free_slots_after_run_end_seconds: 5", "free_slots_after_run_end_seconds: 1"
        )
    (home / "dagster.yaml").write_text(text, encoding="utf-8")
    return {
        **os.environ,
        "DAGSTER_HOME": str(home),
        "SPLAT_ASSETS_DATA": str(data),
        "DAGSTER_DISABLE_TELEMETRY": "1",
        "PYTHONPATH": str(ROOT),
    }


@contextlib.contextmanager
def services(
    folder: Path,
    *,
    module: str = "splat_assets.definitions",
    data: Path | None = None,
    timeout: float = 90,
    max_runs: int = 4,
    config: Path | None = None,
) -> Iterator[Dagster]:
    """Web server and daemon on a free loopback port, with an instance of their own.

    Args:
        folder: where `home` (the instance), `data` and the services' log are put.
        module: the code location.
        data: the data root, when another than `folder/data`.
        max_runs: how many runs execute at once; 0 leaves all of them queued.
        config: the instance's `dagster.yaml`, when another than the project's; with `max_runs`.
    """
    home, data = folder / "home", data or folder / "data"
    environment = prepare_home(home, data, max_runs, config)
    workspace = folder / "workspace.yaml"
    entry = {"python_module": {"module_name": module, "location_name": LOCATION}}
    workspace.write_text(json.dumps({"load_from": [entry]}), encoding="utf-8")
    port = free_port()
    log = folder / "services.log"
    start = f"from splat_assets.services import run_services; run_services(port={port})"
    with log.open("ab") as stream:
        process = subprocess.Popen(
            [sys.executable, "-c", start],
            env=environment,
            cwd=folder,
            stdout=stream,
            stderr=stream,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            preexec_fn=_like_a_background_job,
        )
    dagster = Dagster(home, data, f"http://127.0.0.1:{port}", psutil.Process(process.pid))
    try:

        def ready() -> bool:
            if process.poll() is not None:
                raise AssertionError(f"the services ended:\n{log.read_text()[-3000:]}")
            try:
                nodes = dagster.query(
                    """{ assetNodes { id } instance { daemonHealth {
                    daemonStatus(daemonType: "SENSOR") { healthy } } } }"""
                )
            except (OSError, AssertionError):
                return False
            healthy = nodes["instance"]["daemonHealth"]["daemonStatus"]["healthy"]
            return bool(nodes["assetNodes"]) and bool(healthy)

        wait_for(ready, timeout, "Dagster's services")
        yield dagster
    finally:
        _stop(process, home)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _like_a_background_job() -> None:
    """Non-interactive shells start background jobs deaf to SIGINT; `dev` must end by it anyway."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _stop(process: subprocess.Popen[bytes], home: Path) -> None:
    """Ask once, then kill whatever still has this instance in its environment."""
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(signal.SIGINT)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(15)
    for other in psutil.process_iter(["environ"]):
        if (other.info["environ"] or {}).get("DAGSTER_HOME") == str(home):
            with contextlib.suppress(psutil.NoSuchProcess):
                other.kill()
    process.wait(10)
