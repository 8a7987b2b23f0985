"""`gc`: what goes, what stays, and that nothing a run works on is touched."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from splat_assets.artifacts.manifest import link_or_copy
from splat_assets.housekeeping import find_waste, remove, used_bytes
from splat_assets.isolation import SCRATCH_PREFIX, exclusive
from splat_assets.progress import silent
from splat_assets.run_history import forget_runs, old_runs
from splat_assets.stages import ASSETS
from splat_assets_tests.defs.test_graph import Graph


@pytest.fixture
def graph(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Graph]:
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    home = tmp_path / "home"
    home.mkdir()
    with dg.DagsterInstance.local_temp(str(home)) as instance:
        yield Graph(tmp_path / "data", instance)


def age(path: Path, days: float) -> None:
    then = time.time() - days * 86400
    for file in [path, *path.rglob("*")]:
        os.utime(file, (then, then))


def test_waste_goes_and_finished_work_stays(graph: Graph, tmp_path: Path) -> None:
    graph.add("garden")
    graph.add("never")
    graph.run("garden", "raw_dataset", "frames")
    graph.add("gone")
    graph.run("gone", "raw_dataset")
    graph.registry.remove("gone")
    training = graph.store.folder("garden", "trained_splat")
    old, fresh = training / ".resume" / "old", training / ".resume" / "fresh"
    partial = graph.store.folder("garden", "frames") / ".partial-dead"
    scratch = tmp_path / "tmp" / f"{SCRATCH_PREFIX}abc"
    for folder in (old, fresh, partial, scratch):
        folder.mkdir(parents=True)
        (folder / "file").write_bytes(b"x" * 100)
    age(old, 9)
    age(scratch, 2)
    found = {f.kind: f for f in find_waste(graph.store, graph.registry)}
    assert {kind: f.removable for kind, f in found.items()} == {
        "dataset_not_registered": False,
        "dataset_not_made": False,
        "unfinished_work": True,
        "stale_checkpoint": True,
        "scratch": True,
    }
    assert found["dataset_not_made"].name == "never"
    assert found["stale_checkpoint"].bytes == 100
    assert remove(list(found.values())) == 300
    assert not (old.exists() or partial.exists() or scratch.exists())
    assert fresh.exists() and graph.store.current("garden", "frames") is not None
    (orphan,) = (
        f for f in find_waste(graph.store, graph.registry) if f.kind == "dataset_not_registered"
    )
    assert orphan.path.is_dir() and remove([orphan], orphans=True) == orphan.bytes > 0
    assert not orphan.path.exists()


def test_what_a_run_works_on_is_left_alone(graph: Graph) -> None:
    graph.add("garden")
    folder = graph.store.folder("garden", "frames")
    (folder / ".partial-live").mkdir(parents=True)
    with exclusive(folder / ".lock", silent()):
        assert not [f for f in find_waste(graph.store, graph.registry) if f.removable]
    assert [f for f in find_waste(graph.store, graph.registry) if f.removable]


def test_hard_links_count_once(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x" * 1000)
    link_or_copy(tmp_path / "a", tmp_path / "b" / "a")
    assert used_bytes(tmp_path) == 1000


def test_old_runs_go_but_not_those_the_ui_needs(graph: Graph) -> None:
    graph.add("garden")
    first = graph.run("garden", "raw_dataset", "frames").run_id
    second = graph.run("garden", "raw_dataset").run_id
    graph.add("bad", "fail=source")
    failed = graph.run("bad", "raw_dataset").run_id
    third = graph.run("garden", "raw_dataset").run_id
    assert old_runs(graph.instance, days=1) == []
    going = old_runs(graph.instance, days=0)
    # the first still holds the latest frames, the third the latest raw data
    assert {record.dagster_run.run_id for record in going} == {second, failed}
    shard = Path(graph.instance.event_log_storage.path_for_shard(second))  # type: ignore[attr-defined]
    assert shard.exists()
    forget_runs(graph.instance, going)
    assert not shard.exists()
    assert {run.run_id for run in graph.instance.get_runs()} == {first, third}
    for asset in ("raw_dataset", "frames"):
        key = dg.AssetKey(asset)
        assert graph.instance.get_materialized_partitions(key) == {"garden"}
    assert graph.run("garden").success
    assert set(ASSETS) == {a for a in ASSETS if graph.store.current("garden", a)}
