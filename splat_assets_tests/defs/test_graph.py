"""The graph on an ephemeral instance, with fake stages: results, gates, failures, retries."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from splat_assets.artifacts.store import ArtifactStore
from splat_assets.datasets.registry import Registry
from splat_assets.datasets.spec import make_spec
from splat_assets.definitions import build_defs
from splat_assets.defs.resources import ComputeResource, RegistryResource, StoreResource
from splat_assets.defs.sensors import OVERLAP_SEC, added_since
from splat_assets.stages import ASSETS
from splat_assets_tests.defs.fake_stages import FUNCTIONS


class Graph:
    """The definitions with a data root of their own."""

    def __init__(self, root: Path, instance: dg.DagsterInstance) -> None:
        self.root, self.instance = root, instance
        self.store = ArtifactStore(str(root), root)
        self.registry = Registry(root / "datasets")
        self.defs = build_defs(
            resources={
                "store": StoreResource(root=str(root)),
                "registry": RegistryResource(folder=str(root / "datasets")),
                "compute": ComputeResource(device="cpu"),
            },
            functions=FUNCTIONS,
        )

    def add(self, name: str, query: str = "", **values: object) -> None:
        spec = make_spec(name=name, source=f"fake:?{query}", **values)
        self.registry.add(spec, replace=True)
        self.instance.add_dynamic_partitions("dataset", [name])

    def run(self, name: str, *assets: str, force: bool = False) -> dg.ExecuteInProcessResult:
        chosen = assets or ASSETS
        return self.defs.resolve_job_def("reconstruct").execute_in_process(
            instance=self.instance,
            partition_key=name,
            asset_selection=[dg.AssetKey(a) for a in chosen],
            raise_on_error=False,
            run_config={
                "ops": {a: {"config": {"force": force}} for a in chosen},
                "loggers": {"console": {"config": {"log_level": "CRITICAL"}}},
            },
        )


@pytest.fixture
def graph(tmp_path: Path) -> Iterator[Graph]:
    with dg.DagsterInstance.ephemeral(tempdir=str(tmp_path / "instance")) as instance:
        yield Graph(tmp_path / "data", instance)


def failure(result: dg.ExecuteInProcessResult, asset: str) -> str:
    data = result.failure_data_for_node(asset)
    assert data is not None
    if data.user_failure_data is not None:
        return data.user_failure_data.description or ""
    assert data.error is not None
    return data.error.to_string()


def test_chain_materializes_with_figures_versions_and_gates(graph: Graph) -> None:
    graph.add("garden")
    result = graph.run("garden")
    assert result.success
    for asset in ASSETS:
        (event,) = result.asset_materializations_for_node(asset)
        assert (
            event.tags["dagster/data_version"] == graph.store.current("garden", asset).data_version
        )
        assert Path(str(event.metadata["path"].value)).is_dir()
    poses = result.asset_materializations_for_node("camera_poses")[0].metadata
    assert poses["num_registered"].value == 12
    assert not any(
        "pictures_failed" in m.metadata
        for a in ASSETS
        for m in result.asset_materializations_for_node(a)
    )
    assert "contact_sheet" in result.asset_materializations_for_node("frames")[0].metadata
    checks = {e.check_name: e.passed for e in result.get_asset_check_evaluations()}
    assert checks == {
        "enough_sharp_frames": True,
        "camera_moves": True,
        "enough_registered": True,
        "reprojection_error": True,
        "held_out_psnr": True,
        "quality_kept": True,
        "compression_ratio": True,
    }
    again = graph.run("garden")
    assert again.asset_materializations_for_node("frames")[0].metadata["reused"].value is True
    forced = graph.run("garden", "frames", force=True)
    assert forced.asset_materializations_for_node("frames")[0].metadata["reused"].value is False


def test_a_blocking_gate_stops_the_chain_and_says_what_to_do(graph: Graph) -> None:
    graph.add("garden", "registered=0.5")
    result = graph.run("garden")
    assert not result.success
    failed = [e for e in result.get_asset_check_evaluations() if not e.passed]
    assert [e.check_name for e in failed] == ["enough_registered"]
    assert failed[0].description.startswith("6 of 12 frames have a pose (50%). Take pictures with")
    assert graph.store.current("garden", "camera_poses") is not None
    assert graph.store.current("garden", "trained_splat") is None


@pytest.mark.parametrize(
    ("query", "check"),
    [
        ("frames=5", "enough_sharp_frames"),
        ("psnr=12", "held_out_psnr"),
        ("loss=0.9", "quality_kept"),
        ("ratio=3", "compression_ratio"),
    ],
)
def test_other_gates_warn_and_let_the_chain_finish(graph: Graph, query: str, check: str) -> None:
    graph.add("garden", query)
    result = graph.run("garden")
    assert result.success
    failed = [e.check_name for e in result.get_asset_check_evaluations() if not e.passed]
    assert failed == [check]


def test_user_error_is_one_sentence_and_not_retried(graph: Graph) -> None:
    graph.add("garden", "fail=source")
    result = graph.run("garden")
    assert not result.success
    assert failure(result, "raw_dataset") == "The folder /pictures is empty; put photos in it."
    assert result.retry_attempts_for_node("raw_dataset") == 0


def test_partition_without_a_registry_file_is_a_sentence(graph: Graph) -> None:
    graph.instance.add_dynamic_partitions("dataset", ["nobody"])
    result = graph.run("nobody")
    assert "There is no dataset 'nobody'" in failure(result, "raw_dataset")


def test_crash_in_native_code_is_a_sentence(graph: Graph) -> None:
    graph.add("garden", "fail=crash")
    result = graph.run("garden")
    assert failure(result, "camera_poses") == "solve crashed in native code (SIGSEGV)."


def test_network_trouble_is_retried(graph: Graph, tmp_path: Path) -> None:
    graph.defs = build_defs(
        resources={
            "store": StoreResource(root=str(graph.root)),
            "registry": RegistryResource(folder=str(graph.root / "datasets")),
            "compute": ComputeResource(device="cpu"),
        },
        functions=FUNCTIONS,
        retry_sec=0.1,
    )
    graph.add("garden", f"flaky={tmp_path / 'marker'}")
    result = graph.run("garden", "raw_dataset")
    assert result.success
    assert result.retry_attempts_for_node("raw_dataset") == 1


def test_progress_is_logged_and_kept_beside_the_artifact(graph: Graph) -> None:
    graph.add("garden", "frames=30")
    result = graph.run("garden", "raw_dataset", "frames")
    jsonl = graph.store.run_file("garden", "frames", result.run_id, ".progress.jsonl")
    assert '"message": "frame 0"' in jsonl.read_text().splitlines()[0]


def test_add_dataset_registers_and_asks_for_a_run(graph: Graph) -> None:
    config = {"source": "lerobot/SVLA_so101", "preset": "preview"}
    result = graph.defs.resolve_job_def("add_dataset").execute_in_process(
        instance=graph.instance, run_config={"ops": {"register_dataset": {"config": config}}}
    )
    assert result.success
    assert graph.registry.names() == ["lerobot--svla_so101"]
    assert graph.instance.get_dynamic_partitions("dataset") == ["lerobot--svla_so101"]
    tags = graph.instance.get_run_by_id(result.run_id).tags
    assert tags["splat/dataset"] == "lerobot--svla_so101" and "splat/launch" in tags
    (asked,) = added_since(graph.instance, time.time())
    assert asked.run_key == result.run_id and asked.partition_key == "lerobot--svla_so101"
    assert added_since(graph.instance, time.time() + 2 * OVERLAP_SEC) == []


def test_add_dataset_need_not_launch(graph: Graph) -> None:
    config = {"source": "lerobot/SVLA_so101", "launch": False}
    result = graph.defs.resolve_job_def("add_dataset").execute_in_process(
        instance=graph.instance, run_config={"ops": {"register_dataset": {"config": config}}}
    )
    assert result.success and added_since(graph.instance, time.time()) == []


def test_add_dataset_refuses_bad_options_in_a_sentence(graph: Graph, tmp_path: Path) -> None:
    config = {"source": str(tmp_path), "name": "p", "options": {"train": {"stepz": 3}}}
    result = graph.defs.resolve_job_def("add_dataset").execute_in_process(
        instance=graph.instance,
        run_config={"ops": {"register_dataset": {"config": config}}},
        raise_on_error=False,
    )
    assert "there is no option 'train.stepz'" in failure(result, "register_dataset")
    assert graph.registry.names() == []


def test_runs_are_found_by_dataset_source_preset_and_revision(graph: Graph) -> None:
    graph.add("garden")
    run_id = graph.run("garden", "raw_dataset").run_id
    found = graph.instance.get_runs(
        dg.RunsFilter(tags={"splat/preset": "preview", "splat/revision": "r1"})
    )
    assert [run.run_id for run in found] == [run_id]
    assert found[0].tags["splat/source"] == "fake:?"
    assert found[0].tags["splat/dataset"] == "garden"
