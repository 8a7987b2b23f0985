"""The whole of deploy/, really started: PostgreSQL, S3, Ray, gRPC code server, two web UIs.

One stack serves all tests; the stages are fakes, so that what takes the time are the servers.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from splat_assets.artifacts.store import ArtifactStore
from splat_assets.datasets.registry import Registry
from splat_assets.datasets.spec import make_spec
from splat_assets.progress import silent
from splat_assets.stages import ASSETS, run_stage

pytest.importorskip("ray", reason='Ray is not installed: pip install "splat-assets[deploy]"')
pytest.importorskip("psycopg2", reason='pip install "splat-assets[deploy]"')

from deploy.servers import UnavailableError
from deploy.stack import Stack, stack
from splat_assets_tests.dagster_services import wait_for
from splat_assets_tests.defs.fake_stages import FUNCTIONS
from splat_assets_tests.s3_standin import clear

pytestmark = pytest.mark.slow
MODULE = "splat_assets_tests.defs.fake_definitions"
MARK = "SPLAT_ASSETS_TEST_STACK"


@pytest.fixture(scope="module")
def running() -> Iterator[Stack]:
    # not tmp_path: PostgreSQL, started as another user, has to reach it
    folder = Path(tempfile.mkdtemp(prefix="stack-"))
    folder.chmod(0o755)
    with pytest.MonkeyPatch.context() as patch:
        for variable in ("DAGSTER_PG_HOST", "SPLAT_ASSETS_DATA", "SPLAT_ASSETS_EXECUTOR"):
            patch.delenv(variable, raising=False)
        patch.setenv(MARK, str(folder))
        patch.setenv("SPLAT_ASSETS_STEP_CPUS", "0.5")
        try:
            with stack(folder, module=MODULE) as found:
                for name in ("AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
                    patch.setenv(name, found.environment[name])
                clear()
                yield found
        except UnavailableError as error:
            if "not installed" not in str(error):
                raise
            pytest.skip(str(error))
        finally:
            clear()
    left = [p.cmdline() for p in processes_of(folder)]
    shutil.rmtree(folder, ignore_errors=True)
    assert left == []


def processes_of(folder: Path) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter(["environ"]):
        if (process.info["environ"] or {}).get(MARK) == str(folder) and process.pid != _own():
            found.append(process)
    return found


def _own() -> int:
    return psutil.Process().pid


def add(running: Stack, name: str, source: str) -> None:
    """Register a dataset as another host would: a file in the bucket, which the sensor finds."""
    Registry(f"{running.environment['SPLAT_ASSETS_DATA']}/datasets").add(
        make_spec(name=name, source=source), replace=True
    )
    wait_for(lambda: name in partitions(running), 60, "the sensor to see the registry file")


def partitions(running: Stack) -> list[str]:
    return running.query(
        """{ assetNodeOrError(assetKey: {path: ["frames"]}) {
        ... on AssetNode { partitionKeys } } }"""
    )["assetNodeOrError"]["partitionKeys"]


def postgres_answer(environment: Mapping[str, str], query: str) -> object:
    import psycopg2

    names = {"host": "HOST", "port": "PORT", "dbname": "DB", "user": "USERNAME"}
    reach = {key: environment[f"DAGSTER_PG_{value}"] for key, value in names.items()}
    connection = psycopg2.connect(password=environment["DAGSTER_PG_PASSWORD"], **reach)
    try:
        with connection.cursor() as cursor:
            cursor.execute(query)
            return cursor.fetchone()
    finally:
        connection.close()


def test_the_chain_through_ray_with_postgresql_and_s3(running: Stack, tmp_path: Path) -> None:
    add(running, "garden", "fake:?")
    lines: list[str] = []
    run_id = running.launch("garden")
    assert running.follow(run_id, lines.append) == "SUCCESS", lines
    assert [line.split(":")[0] for line in lines if "Started execution" in line] == list(ASSETS)

    # PostgreSQL has the run, and every step was a job of Ray's
    found = postgres_answer(running.environment, f"select status from runs where run_id='{run_id}'")
    assert found == ("SUCCESS",)
    workers = postgres_answer(
        running.environment,
        f"select count(*) from event_logs where run_id='{run_id}' and event like '%in Ray job%'",
    )
    assert workers == (len(ASSETS),)

    # the artifacts come from the bucket, on a host that never saw the run
    root = running.environment["SPLAT_ASSETS_DATA"]
    elsewhere = ArtifactStore(root, tmp_path)
    for asset in ASSETS:
        near = elsewhere.open_local("garden", asset)
        assert near is not None and near.name == run_id
        assert elsewhere.locate("garden", asset) == f"{root}/garden/{asset}/{run_id}"

    shown = json.loads(running.command("status", "garden", "--json"))
    assert shown["source"] == "fake:?"  # the registry is in the bucket as well
    assert {entry["run_id"] for entry in shown["assets"].values()} == {run_id}


def test_cancel_reaches_the_step_on_ray(running: Stack, tmp_path: Path) -> None:
    add(running, "slow", "fake:?steps=400&step_sec=0.2")
    spec = make_spec(name="slow", source="fake:?steps=400&step_sec=0.2")
    elsewhere = ArtifactStore(running.environment["SPLAT_ASSETS_DATA"], tmp_path)
    for asset in ASSETS[:3]:  # made here, without Ray: only the training matters
        run_stage(asset, spec, elsewhere, "before", None, silent(), functions=FUNCTIONS)
    run_id = running.launch("slow", assets=("trained_splat",))

    def started() -> bool:
        return any("Started execution" in line for line in seen(running, run_id))

    wait_for(started, 120, "the training to start")
    folder = Path(running.environment[MARK])
    children = wait_for(lambda: [p for p in processes_of(folder) if is_training(p)], 30, "a child")
    running.query("mutation($id: String!) { terminateRun(runId: $id) { __typename } }", id=run_id)
    began = time.monotonic()
    assert running.follow(run_id) == "CANCELED"
    _, alive = psutil.wait_procs(children, timeout=15)
    assert not alive and time.monotonic() - began < 30


def test_a_killed_code_server_comes_back_and_runs_are_launched(running: Stack) -> None:
    add(running, "patient", "fake:?")
    folder = Path(running.environment[MARK])
    (server,) = (p for p in processes_of(folder) if p.cmdline()[2:5] == ["dagster", "api", "grpc"])
    server.kill()

    def launched() -> str | None:
        with suppress(UnavailableError):  # nobody to ask for the job meanwhile
            return running.launch("patient", assets=("raw_dataset",))
        return None

    run_id = wait_for(launched, 60, "the code server")
    assert running.follow(run_id) == "SUCCESS"


def seen(running: Stack, run_id: str) -> list[str]:
    _, events, _ = running._events(run_id, None)
    return [str(event.get("message", "")) for event in events]


def is_training(process: psutil.Process) -> bool:
    try:
        return "splat_assets.isolation" in " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        return False


def test_viewers_see_everything_and_change_nothing(running: Stack) -> None:
    assert running.query("{ assetNodes { id } }", url=running.viewer_url)["assetNodes"]
    with pytest.raises(UnavailableError, match="UnauthorizedError"):
        running.launch("garden", url=running.viewer_url)


def test_missing_servers_are_said_in_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from deploy import servers

    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(servers, "POSTGRES_PLACES", ())
    with (
        pytest.raises(UnavailableError, match="apt-get install postgresql"),
        servers.postgres(tmp_path),
    ):
        pass
    monkeypatch.setattr(servers, "find_spec", lambda name: None)
    for server in (servers.s3(tmp_path), servers.ray(tmp_path, {})):
        with pytest.raises(UnavailableError, match="pip install"), server:
            pass
