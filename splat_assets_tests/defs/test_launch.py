"""Runs launched from a terminal: in real processes where signals matter."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import psutil
import pytest

from splat_assets import instance as project_instance
from splat_assets import launch
from splat_assets.datasets.spec import make_spec
from splat_assets.errors import UserError
from splat_assets.progress import Report
from splat_assets.stages import ASSETS
from splat_assets_tests.dagster_services import prepare_home
from splat_assets_tests.defs.fake_definitions import defs
from splat_assets_tests.paths import ROOT


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A Dagster home and data root of its own, in the environment."""
    environment = prepare_home(tmp_path / "home", tmp_path / "data")
    for name in ("DAGSTER_HOME", "SPLAT_ASSETS_DATA", "PYTHONPATH"):
        monkeypatch.setenv(name, environment[name])
    yield tmp_path


def add(query: str = "", name: str = "garden") -> None:
    launch.add_dataset(make_spec(name=name, source=f"fake:?{query}"), replace=True)


def test_chain_runs_is_recorded_and_then_has_nothing_to_do(project: Path) -> None:
    add()
    seen: list[tuple[str, Report]] = []
    outcome = launch.run_chain(
        "garden", definitions=defs, sink=lambda asset, report: seen.append((asset, report))
    )
    assert outcome.succeeded and list(outcome.assets) == list(ASSETS)
    assert outcome.assets["trained_splat"]["psnr_db"] == 25.0
    assert Path(outcome.assets["compressed_splat"]["path"]).is_dir()
    assert list(dict.fromkeys(asset for asset, _ in seen)) == list(ASSETS)
    with project_instance.open_instance() as instance:
        run = instance.get_run_by_id(outcome.run_id)
        assert run is not None and run.status == dg.DagsterRunStatus.SUCCESS
        assert run.tags["dagster/partition"] == "garden"
        assert instance.get_latest_materialization_event(dg.AssetKey("frames")) is not None
    again = launch.run_chain("garden", definitions=defs)
    assert all(entry["reused"] for entry in again.assets.values())

    states = launch.asset_states("garden")
    assert states["revision"] == "r1" and states["preset"] == "preview"
    assert {entry["state"] for entry in states["assets"].values()} == {"current"}
    assert states["assets"]["compressed_splat"]["sog_bytes"] == 200
    assert states["assets"]["compressed_splat"]["run_id"] == outcome.run_id


def test_to_stops_the_chain_early_and_force_does_it_again(project: Path) -> None:
    add()
    outcome = launch.run_chain("garden", to="frames", definitions=defs)
    assert list(outcome.assets) == ["raw_dataset", "frames"]
    states = launch.asset_states("garden")["assets"]
    assert states["camera_poses"]["state"] == "missing"
    forced = launch.run_chain("garden", to="frames", force=True, definitions=defs)
    assert not any(entry["reused"] for entry in forced.assets.values())


def test_users_mistake_is_a_user_error_and_a_failed_run(project: Path) -> None:
    add("fail=overlap")
    with pytest.raises(UserError, match=r"^The photos share no view .* more overlap\.$"):
        launch.run_chain("garden", definitions=defs)
    entry = launch.asset_states("garden")["assets"]["camera_poses"]
    assert entry["state"] == "failed"
    assert entry["reason"].startswith("The photos share no view")
    with pytest.raises(UserError, match="There is no dataset 'nobody'"):
        launch.run_chain("nobody", definitions=defs)
    with pytest.raises(UserError, match="There is no asset 'splat'"):
        launch.run_chain("garden", to="splat", definitions=defs)


def test_a_failed_gate_and_a_crash_are_outcomes_with_their_reason(project: Path) -> None:
    add("registered=0.5")
    outcome = launch.run_chain("garden", definitions=defs)
    assert not outcome.succeeded and outcome.error is not None
    assert outcome.error.startswith("6 of 12 frames have a pose")
    assert [(c.name, c.blocking) for c in outcome.failed_checks] == [("enough_registered", True)]
    add("fail=crash", name="crash")
    outcome = launch.run_chain("crash", definitions=defs)
    assert outcome.error == "solve crashed in native code (SIGSEGV)."
    assert outcome.log is not None and outcome.log.is_file()


def test_ctrl_c_marks_the_run_canceled_and_the_next_resumes(project: Path) -> None:
    add("steps=40&step_sec=0.1")
    process = start("garden")
    read_until(process, "trained_splat step 8")
    process.send_signal(signal.SIGINT)
    rest, _ = process.communicate(timeout=20)
    assert process.returncode == 130
    assert rest.splitlines()[-1].startswith("Stopped. What was finished is kept")
    with project_instance.open_instance() as instance:
        (run,) = instance.get_runs()
        assert run.status == dg.DagsterRunStatus.CANCELED
        assert not instance.event_log_storage.get_concurrency_info("gpu").claimed_slots
    assert launch.asset_states("garden")["assets"]["trained_splat"]["reason"] == (
        "the last run was stopped"
    )
    outcome = launch.run_chain("garden", definitions=defs)
    assert outcome.assets["trained_splat"]["resumed_from_step"] >= 8


def test_kill_leaves_no_child_and_the_next_run_cleans_up_and_resumes(project: Path) -> None:
    add("steps=40&step_sec=0.1")
    process = start("garden")
    read_until(process, "trained_splat step 8")
    children = psutil.Process(process.pid).children(recursive=True)
    assert children
    process.kill()
    process.wait()
    _, alive = psutil.wait_procs(children, timeout=5)
    assert not [p for p in alive if p.status() != psutil.STATUS_ZOMBIE]
    outcome = launch.run_chain("garden", definitions=defs)
    assert outcome.assets["trained_splat"]["resumed_from_step"] >= 8
    with project_instance.open_instance() as instance:
        statuses = [run.status for run in instance.get_runs()]
        assert statuses == [dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE]


def test_remove_forgets_but_keeps_artifacts_unless_asked(project: Path) -> None:
    add()
    outcome = launch.run_chain("garden", to="raw_dataset", definitions=defs)
    launch.remove_dataset("garden")
    path = Path(outcome.assets["raw_dataset"]["path"])
    assert path.is_dir()
    with project_instance.open_instance() as instance:
        assert instance.get_dynamic_partitions("dataset") == []
    add()
    launch.remove_dataset("garden", artifacts=True)
    assert not path.exists()


def test_instance_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """$DAGSTER_HOME, else a folder with dagster.yaml, else a folder per user that works at once."""
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "named"))
    assert project_instance.instance_home() == tmp_path / "named"
    monkeypatch.delenv("DAGSTER_HOME")
    monkeypatch.chdir(ROOT)
    assert project_instance.instance_home() == ROOT
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "share"))
    home = project_instance.instance_home()
    assert home == tmp_path / "share" / "splat-assets"
    with project_instance.open_instance() as instance:
        instance.add_dynamic_partitions("dataset", ["x"])
    assert (home / ".dagster" / "storage").is_dir()
    assert not (tmp_path / ".dagster").exists()


def start(name: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "splat_assets_tests.defs.run_chain", name],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        cwd=ROOT,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )


def read_until(process: subprocess.Popen[str], line: str) -> None:
    assert process.stdout is not None
    for found in process.stdout:
        if found.strip() == line:
            return
    raise AssertionError(f"ended before {line!r}")
