"""Everything a team runs, on this host: the servers, the code location, the daemon, two web UIs.

A server whose address is in the environment already is used instead of starting a stand-in:
`DAGSTER_PG_HOST` (with the other `DAGSTER_PG_…`), `SPLAT_ASSETS_DATA` (a folder does too), and
`RAY_API_SERVER_ADDRESS` or `SPLAT_ASSETS_EXECUTOR`.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deploy.servers import (
    UnavailableError,
    answers,
    free_port,
    postgres,
    ray,
    s3,
    service,
    wait_for,
)

HERE = Path(__file__).resolve().parent
MODULE = "splat_assets.definitions"
LOCATION = "splat_assets"
READY_SEC = 60.0
POLL_SEC = 1.0
FINISHED = ("SUCCESS", "FAILURE", "CANCELED")
SHOWN = ("ExecutionStepStartEvent", "ObservationEvent", "ExecutionStepFailureEvent")


@dataclass(frozen=True)
class Stack:
    """What runs, and how to reach it."""

    environment: Mapping[str, str]  # for any further process, `splat-assets …` too
    url: str  # the web UI
    viewer_url: str  # the same, read-only

    def command(self, *arguments: str) -> str:
        """Run `splat-assets …` in this environment and return what it printed."""
        done = subprocess.run(
            [sys.executable, "-m", "splat_assets", *arguments],
            env=dict(self.environment),
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise UnavailableError((done.stderr or done.stdout).strip())
        return done.stdout

    def query(self, query: str, *, url: str | None = None, **variables: Any) -> dict[str, Any]:
        """One GraphQL request; `UnavailableError` with the server's words when it is refused."""
        body = json.dumps({"query": query, "variables": variables}).encode()
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request((url or self.url) + "/graphql", body, headers)
        with urllib.request.urlopen(request, timeout=60) as answer:
            result: dict[str, Any] = json.load(answer)
        if result.get("errors"):
            raise UnavailableError(str(result["errors"]))
        return result["data"]

    def launch(self, dataset: str, *, assets: tuple[str, ...] = (), url: str | None = None) -> str:
        """Launch the chain of a dataset, or only some assets, as the web UI does; the run's id."""
        selector: dict[str, Any] = {
            "repositoryLocationName": LOCATION,
            "repositoryName": "__repository__",
            "pipelineName": "reconstruct",
        }
        if assets:
            selector["assetSelection"] = [{"path": [asset]} for asset in assets]
        tags = [{"key": "dagster/partition", "value": dataset}]
        answer = self.query(
            """mutation($p: ExecutionParams!) { launchRun(executionParams: $p) { __typename
            ... on LaunchRunSuccess { run { runId } } ... on PythonError { message }
            ... on UnauthorizedError { message } } }""",
            url=url,
            p={"selector": selector, "executionMetadata": {"tags": tags}},
        )["launchRun"]
        if answer["__typename"] != "LaunchRunSuccess":
            raise UnavailableError(f"The run was not launched: {answer}")
        return str(answer["run"]["runId"])

    def follow(self, run_id: str, tell: Callable[[str], None] = lambda line: None) -> str:
        """Wait for a run's end, telling its steps and their progress; returns its status."""
        cursor = None
        while True:
            status, events, cursor = self._events(run_id, cursor)
            for event in events:
                if event["__typename"] in SHOWN:
                    tell(f"{event['stepKey']}: {_what_it_says(event)}")
            if status in FINISHED and not events:
                return status
            time.sleep(POLL_SEC)

    def _events(
        self, run_id: str, cursor: str | None
    ) -> tuple[str, list[dict[str, Any]], str | None]:
        answer = self.query(
            """query($id: ID!, $after: String) {
            runOrError(runId: $id) { ... on Run { status } }
            logsForRun(runId: $id, afterCursor: $after) { ... on EventConnection { cursor
            events { __typename ... on MessageEvent { message stepKey }
            ... on ObservationEvent { description }
            ... on ExecutionStepFailureEvent { error { message }
            failureMetadata { description } } } } } }""",
            id=run_id,
            after=cursor,
        )
        logs = answer["logsForRun"]
        return answer["runOrError"]["status"], logs["events"], logs["cursor"]


def _what_it_says(event: dict[str, Any]) -> str:
    why = (event.get("failureMetadata") or {}).get("description")
    error = (event.get("error") or {}).get("message")
    return str(why or error or event.get("description") or event["message"]).strip()


@contextmanager
def stack(
    folder: Path,
    *,
    port: int = 0,
    viewer_port: int = 0,
    module: str = MODULE,
    config: Path = HERE / "dagster.yaml",
    tell: Callable[[str], None] = lambda line: None,
) -> Iterator[Stack]:
    """Start what is not there yet; all of it has stopped when the block ends.

    Args:
        folder: state and logs; PostgreSQL's files are used again the next time.
        port, viewer_port: of the web UI and its read-only twin; any free ones when 0.
        module: the code location.
        config: the instance's `dagster.yaml`.
        tell: receives a line for everything that is up.

    Raises `UnavailableError` when a server is not installed or does not start.
    """
    folder = folder.resolve()
    home = folder / "home"
    home.mkdir(parents=True, exist_ok=True)
    shutil.copy(config, home / "dagster.yaml")
    environment = {
        "SPLAT_ASSETS_DAGSTER_STATE": str(folder / "dagster"),
        "SPLAT_ASSETS_SCRATCH": str(folder / "scratch"),
        "SPLAT_ASSETS_DEVICE": "auto" if Path("/dev/nvidiactl").exists() else "cpu",
        "DAGSTER_DISABLE_TELEMETRY": "1",
        "PYTHONPATH": os.pathsep.join([str(HERE.parent), os.environ.get("PYTHONPATH", "")]),
        **os.environ,
        "DAGSTER_HOME": str(home),
        # Ray starts a step as `dagster …`
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]),
    }
    with ExitStack() as running:
        if "DAGSTER_PG_HOST" not in os.environ:
            environment |= running.enter_context(postgres(folder))
            _close_dead_runs(environment)
            tell(f"PostgreSQL on port {environment['DAGSTER_PG_PORT']}")
        if "SPLAT_ASSETS_DATA" not in os.environ:
            environment |= running.enter_context(s3(folder))
            tell(f"S3 at {environment['AWS_ENDPOINT_URL']} (in memory: gone at the end)")
        if not {"RAY_API_SERVER_ADDRESS", "SPLAT_ASSETS_EXECUTOR"} & set(os.environ):
            cpus = max(os.cpu_count() or 1, 2)
            environment |= running.enter_context(ray(folder, environment, cpus=cpus))
            tell(f"Ray at {environment['RAY_API_SERVER_ADDRESS']}")
        url, viewer_url = _dagster(running, folder, environment, port, viewer_port, module)
        found = Stack(environment, url, viewer_url)
        _wait_until_healthy(found)
        tell(f"web UI {url}\nread-only web UI {viewer_url}")
        yield found


def _close_dead_runs(environment: Mapping[str, str]) -> None:
    """Runs that were under way when this stack last stopped are dead, but hold their pool slots.

    Only for a PostgreSQL of our own: in another, somebody else's runs may be alive.
    """
    program = """
import dagster as dg
from splat_assets.defs.sensors import IN_PROGRESS
dead = [status for status in IN_PROGRESS if status != dg.DagsterRunStatus.QUEUED]
with dg.DagsterInstance.get() as instance:
    for run in instance.get_runs(dg.RunsFilter(statuses=dead)):
        instance.report_run_failed(run, "The servers that executed this run were stopped.")
        instance.event_log_storage.free_concurrency_slots_for_run(run.run_id)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], env=dict(environment), capture_output=True, text=True
    )
    if done.returncode:
        raise UnavailableError(f"PostgreSQL cannot be used: {done.stderr.strip()[-500:]}")


def _dagster(
    running: ExitStack,
    folder: Path,
    environment: dict[str, str],
    port: int,
    viewer_port: int,
    module: str,
) -> tuple[str, str]:
    """Code server, daemon, and the web UI twice; returns the addresses of the latter."""

    def start(name: str, *command: str, ready: Callable[[], bool] | None = None) -> None:
        log = folder / f"{name}.log"
        arguments = [sys.executable, "-m", *command]
        server = running.enter_context(service(arguments, log, environment=environment, cwd=folder))
        if ready is not None:
            wait_for(ready, server, log, name)

    code_port, port, viewer_port = free_port(), port or free_port(), viewer_port or free_port()
    environment |= {"SPLAT_ASSETS_CODE_HOST": "127.0.0.1", "SPLAT_ASSETS_CODE_PORT": str(code_port)}
    serve = ["dagster", "api", "grpc", "-h", "127.0.0.1", "-p", str(code_port)]
    start(
        "code-server", *serve, "-m", module, "--location-name", LOCATION, ready=_served(code_port)
    )
    workspace = ["-w", str(HERE / "workspace.yaml")]
    start("daemon", "dagster._daemon", "run", *workspace)
    urls = []
    for name, at, extra in (("web", port, []), ("viewers", viewer_port, ["--read-only"])):
        url = f"http://127.0.0.1:{at}"
        options = ["-h", "127.0.0.1", "-p", str(at), *workspace, *extra]

        def is_up(url: str = url) -> bool:
            return answers(url + "/server_info")

        start(name, "dagster_webserver", *options, ready=is_up)
        urls.append(url)
    return urls[0], urls[1]


def _served(port: int) -> Callable[[], bool]:
    from dagster._grpc.client import DagsterGrpcClient

    def ready() -> bool:
        try:
            return DagsterGrpcClient(host="127.0.0.1", port=port).ping("hello")["echo"] == "hello"
        except Exception:
            return False

    return ready


def _wait_until_healthy(found: Stack) -> None:
    deadline = time.monotonic() + READY_SEC
    while time.monotonic() < deadline:
        nodes = found.query(
            """{ assetNodes { id } instance { daemonHealth {
            daemonStatus(daemonType: "QUEUED_RUN_COORDINATOR") { healthy } } } }"""
        )
        if nodes["assetNodes"] and nodes["instance"]["daemonHealth"]["daemonStatus"]["healthy"]:
            return
        time.sleep(0.5)
    raise UnavailableError("The daemon or the code location did not come up; see the logs.")
