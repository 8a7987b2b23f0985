"""What a step needs, told to every engine; which engine runs it; files for existing servers."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace

import dagster as dg
import pytest
import yaml

from splat_assets.artifacts.store import ArtifactStore
from splat_assets.compute import Compute
from splat_assets.definitions import build_defs
from splat_assets.defs import progress
from splat_assets.defs.executors import EXECUTORS, _engine_config, select_executor
from splat_assets.defs.needs import needs
from splat_assets.errors import UserError
from splat_assets.settings import load_settings
from splat_assets.stages import ASSETS, STAGES, device_lock
from splat_assets_tests.paths import ROOT

DEPLOY = ROOT / "deploy"


@pytest.fixture(autouse=True)
def own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("SPLAT_ASSETS_DEVICE", "SPLAT_ASSETS_EXECUTOR", "SPLAT_ASSETS_STEP_CPUS"):
        monkeypatch.delenv(variable, raising=False)


def test_needs_in_the_words_of_every_engine() -> None:
    tags = needs(gpus=1, memory_gb=4)
    assert json.loads(tags["dagster-ray/config"]) == {
        "num_cpus": 2.0,
        "memory": 4 * 2**30,
        "num_gpus": 1,
    }
    assert tags["dagster-k8s/config"]["container_config"]["resources"] == {
        "requests": {"cpu": "2.0", "memory": str(4 * 2**30)},
        "limits": {"nvidia.com/gpu": "1"},
    }
    assert tags["dagster-celery/queue"] == "gpu"


def test_a_cluster_without_cards_is_asked_for_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPLAT_ASSETS_DEVICE", "cpu")
    monkeypatch.setenv("SPLAT_ASSETS_STEP_CPUS", "8")
    tags = needs(gpus=1)
    ray = json.loads(tags["dagster-ray/config"])
    assert "num_gpus" not in ray and ray["num_cpus"] == 8
    assert tags["dagster-k8s/config"]["container_config"]["resources"]["limits"] == {}
    assert tags["dagster-celery/queue"] == "cpu"


def test_every_asset_declares_its_needs_and_ray_can_read_them() -> None:
    job = build_defs().resolve_job_def("reconstruct")
    for node in job.graph.node_defs:
        raw = node.tags["dagster-ray/config"]
        wanted = json.loads(raw)
        assert wanted["num_cpus"] > 0 and wanted["memory"] > 0
        if STAGES[node.name].needs_compute:
            assert wanted.get("num_gpus") or load_settings().device == "cpu"
        pytest.importorskip("dagster_ray")
        from dagster_ray.configs import RayExecutionConfig

        assert RayExecutionConfig.from_tags(node.tags).num_cpus == wanted["num_cpus"]
    assert {node.name for node in job.graph.node_defs} == set(ASSETS)


@pytest.mark.parametrize("name", ["multiprocess", "in_process"])
def test_the_embedded_executors(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPLAT_ASSETS_EXECUTOR", name)
    executor = build_defs().resolve_job_def("reconstruct").executor_def
    assert isinstance(executor, dg.ExecutorDefinition) and name in executor.name


def test_ray_by_one_variable_and_without_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("dagster_ray")
    monkeypatch.setenv("SPLAT_ASSETS_EXECUTOR", "ray")
    monkeypatch.setenv("SPLAT_ASSETS_DATA", "s3://splats/team")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    executor = build_defs().resolve_job_def("reconstruct").executor_def
    assert executor.name == "ray"
    ray = _engine_config("ray")["ray"]
    assert "SPLAT_ASSETS_DATA" in ray["env_vars"]
    assert not any("AWS" in name for name in ray["env_vars"])
    # an executor's own needs would override those of the assets
    assert set(ray) == {"env_vars"}


def test_unknown_and_missing_engines_are_one_sentence() -> None:
    with pytest.raises(UserError, match=r"is 'slurm'; choose multiprocess, in_process, ray"):
        select_executor("slurm")
    for name, package in (("celery", "dagster_celery"), ("k8s", "dagster_k8s")):
        try:
            __import__(package)
        except ImportError:
            with pytest.raises(UserError, match=r"not installed .*pip install"):
                select_executor(name)
    assert EXECUTORS[0] == "multiprocess"


def test_numbers_in_the_environment_are_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPLAT_ASSETS_SCRATCH_GB", "plenty")
    with pytest.raises(UserError, match="SPLAT_ASSETS_SCRATCH_GB is 'plenty'; set it to a number"):
        load_settings()


def test_the_files_for_existing_servers_agree_with_each_other() -> None:
    example = (DEPLOY / "env.example").read_text(encoding="utf-8")
    explained = set(re.findall(r"^#?([A-Z0-9_]+)=", example, re.MULTILINE))
    for file in ("dagster.yaml", "workspace.yaml"):
        asked = set(re.findall(r"\{env: (\w+)\}", (DEPLOY / file).read_text(encoding="utf-8")))
        assert asked <= explained, file
    workspace = yaml.safe_load((DEPLOY / "workspace.yaml").read_text(encoding="utf-8"))
    embedded = yaml.safe_load((ROOT / "workspace.yaml").read_text(encoding="utf-8"))
    assert (
        workspace["load_from"][0]["grpc_server"]["location_name"]
        == embedded["load_from"][0]["python_module"]["location_name"]
    )
    production = yaml.safe_load((DEPLOY / "dagster.yaml").read_text(encoding="utf-8"))
    default = yaml.safe_load((ROOT / "dagster.yaml").read_text(encoding="utf-8"))
    for key in ("run_retries", "sensors", "retention", "telemetry"):
        assert production[key] == default[key], key
    # above 0, cancelling would leave steps running
    assert "max_resume_run_attempts" not in production["run_monitoring"]


def test_the_readme_names_every_file_and_variable() -> None:
    readme = (DEPLOY / "README.md").read_text(encoding="utf-8")
    for name in ("up.py", "dagster.yaml", "workspace.yaml", "env.example", "--read-only"):
        assert name in readme
    assert Path(DEPLOY / "up.py").is_file()


def test_steps_that_were_given_different_cards_do_not_wait_for_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, cuda = ArtifactStore(str(tmp_path), tmp_path), Compute("cuda:0", "gsplat", "", 1)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    whole_host = device_lock(cuda, store).name
    locks = []
    for card in ("0", "1", "GPU-5f/2"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", card)
        locks.append(device_lock(cuda, store).name)
    assert locks == ["cuda-0.lock", "cuda-1.lock", "cuda-GPU-5f-2.lock"]
    assert whole_host == locks[0]


@pytest.mark.parametrize(
    ("status", "stops"),
    [("STARTED", False), ("CANCELING", True), ("CANCELED", True), ("FAILURE", True)],
)
def test_a_step_on_another_host_stops_with_its_run(
    status: str, stops: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when the run worker was killed: nothing else reaches the step."""
    monkeypatch.setattr(progress, "CANCEL_POLL_SEC", 0.0)
    run = SimpleNamespace(status=dg.DagsterRunStatus(status))
    instance = SimpleNamespace(get_run_by_id=lambda run_id: run)
    poll = progress.CancelPoll(SimpleNamespace(instance=instance, run_id="run"))
    assert poll() is stops
