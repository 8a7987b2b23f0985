"""The definitions as a whole: they load fast, without heavy libraries, and say what they are."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import dagster as dg
import yaml

from splat_assets.datasets.registry import Registry
from splat_assets.datasets.spec import make_spec
from splat_assets.definitions import defs
from splat_assets.defs.resources import RegistryResource
from splat_assets.defs.sensors import registry_partitions
from splat_assets.services import DEFAULT_WORKSPACE
from splat_assets.stages import ASSETS
from splat_assets_tests.paths import ROOT

HEAVY = {"torch", "pycolmap", "numba", "matplotlib", "pandas", "numpy", "PIL", "av", "upath"}


def test_loading_imports_nothing_heavy() -> None:
    program = "import sys, splat_assets.definitions; print(' '.join(sys.modules))"
    output = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert output.returncode == 0, output.stderr
    assert HEAVY.isdisjoint(output.stdout.split())


def test_loading_costs_little_more_than_dagster_itself() -> None:
    program = (
        "import time; a = time.process_time(); import dagster; b = time.process_time();"
        "import splat_assets.definitions; print((time.process_time() - a) / (b - a))"
    )
    ratios = [
        float(subprocess.run([sys.executable, "-c", program], capture_output=True).stdout)
        for _ in range(3)
    ]
    assert min(ratios) <= 1.35


def test_library_does_not_import_dagster() -> None:
    allowed = {"definitions.py", "instance.py", "launch.py", "run_history.py", "services.py"}
    for path in (ROOT / "splat_assets").rglob("*.py"):
        inside = path.relative_to(ROOT / "splat_assets")
        if inside.parts[0] == "defs" or inside.name in allowed:
            continue
        found = re.search(r"^\s*(import|from) dagster", path.read_text("utf-8"), re.MULTILINE)
        assert found is None, f"{inside} imports dagster"


def test_every_asset_is_described_partitioned_and_labelled() -> None:
    specs = {spec.key.to_user_string(): spec for spec in defs.resolve_all_asset_specs()}
    assert list(specs) == sorted(ASSETS) or set(specs) == set(ASSETS)
    for spec in specs.values():
        assert spec.description and spec.group_name != "default"
        assert spec.kinds and spec.owners and spec.code_version and spec.tags["splat/device"]
        assert isinstance(spec.partitions_def, dg.DynamicPartitionsDefinition)
        assert spec.partitions_def.name == "dataset"
    chain = [[d.asset_key.to_user_string() for d in specs[a].deps] for a in ASSETS]
    assert chain == [[], *([a] for a in ASSETS[:-1])]


def test_asset_files_stay_thin() -> None:
    for asset in ASSETS:
        lines = (ROOT / "splat_assets" / "defs" / f"{asset}.py").read_text("utf-8").splitlines()
        body = lines[next(i for i, line in enumerate(lines) if line.startswith("@dg.asset")) :]
        assert len(body) <= 30


def test_the_two_ways_to_name_the_code_location_agree() -> None:
    """pyproject wins over workspace.yaml where both are found, so they must say the same."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["dg"]["project"]
    workspace = yaml.safe_load((ROOT / "workspace.yaml").read_text())["load_from"]
    assert workspace == yaml.safe_load(DEFAULT_WORKSPACE)["load_from"]
    (entry,) = [item["python_module"] for item in workspace]
    assert entry["module_name"] == project["code_location_target_module"]
    assert entry["location_name"] == project["code_location_name"]


def test_packaged_instance_settings_are_those_of_the_project() -> None:
    packaged = ROOT / "splat_assets" / "defs" / "instance.yaml"
    assert packaged.read_text() == (ROOT / "dagster.yaml").read_text()


def test_sensor_adds_and_removes_partitions_and_names_bad_files(tmp_path: Path) -> None:
    registry = Registry(tmp_path)
    registry.add(make_spec(name="garden", source="/photos"))
    (tmp_path / "broken.yaml").write_text("source: [")
    (tmp_path / "Bad Name.yaml").write_text("name: x\nsource: y\n")
    with dg.DagsterInstance.ephemeral() as instance:
        instance.add_dynamic_partitions("dataset", ["old", "busy"])
        run = instance.create_run_for_job(
            defs.resolve_job_def("reconstruct"),
            status=dg.DagsterRunStatus.STARTED,
            tags={"dagster/partition": "busy"},
        )
        result = tick(instance, tmp_path)
        assert isinstance(result, dg.SensorResult)
        asked = [(type(r).__name__, r.partition_keys) for r in result.dynamic_partitions_requests]
        assert asked == [
            ("AddDynamicPartitionsRequest", ["garden"]),
            ("DeleteDynamicPartitionsRequest", ["old"]),
        ]
        instance.report_run_failed(run)
        instance.add_dynamic_partitions("dataset", ["garden"])
        instance.delete_dynamic_partition("dataset", "old")
        instance.delete_dynamic_partition("dataset", "busy")
        skipped = tick(instance, tmp_path)
        assert isinstance(skipped, dg.SkipReason)
        assert "1 datasets, nothing to change." in (skipped.skip_message or "")
        assert "broken.yaml is not valid YAML" in (skipped.skip_message or "")


def tick(instance: dg.DagsterInstance, folder: Path) -> object:
    context = dg.build_sensor_context(
        instance=instance, resources={"registry": RegistryResource(folder=str(folder))}
    )
    return registry_partitions(context)
