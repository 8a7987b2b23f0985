"""Automation: what is asked for after which change, and that nothing is asked for without end."""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Iterator
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from splat_assets.artifacts import attempts
from splat_assets.artifacts.manifest import MANIFEST
from splat_assets.defs.automation_sensors import RESTED, keep_current_cpu, keep_current_gpu
from splat_assets.progress import Progress
from splat_assets.stages import ASSETS, STAGES
from splat_assets_tests.defs.test_graph import Graph

SENSORS = (keep_current_cpu, keep_current_gpu)
CPU = [asset for asset in ASSETS if asset != "trained_splat"]


class Automation(Graph):
    """The graph, and both sensors ticking over it as the daemon would let them."""

    def __init__(self, root: Path, instance: dg.DagsterInstance) -> None:
        super().__init__(root, instance)
        self.cursors: list[str | None] = [None, None]
        self.launched: list[tuple[str, tuple[str, ...]]] = []

    def tick(self) -> list[tuple[str, tuple[str, ...]]]:
        """One tick of both sensors; runs what they ask for, and returns it."""
        asked = []
        repository = self.defs.get_repository_def()
        for index, sensor in enumerate(SENSORS):
            context = dg.build_sensor_context(
                instance=self.instance, cursor=self.cursors[index], repository_def=repository
            )
            result = sensor.evaluate_tick(context)
            self.cursors[index] = result.cursor
            wanted: dict[str, set[str]] = {}
            for request in result.run_requests or ():
                for name, asset in asked_for(request):
                    wanted.setdefault(name, set()).add(asset)
            asked += [
                (name, tuple(asset for asset in ASSETS if asset in assets))
                for name, assets in sorted(wanted.items())
            ]
        for name, assets in asked:
            self.run(name, *assets)
        self.launched += asked
        return asked

    def reasons(self) -> list[str | None]:
        """Why each sensor's tick did not even evaluate; None when it did and asked for nothing."""
        found = []
        for index, sensor in enumerate(SENSORS):
            context = dg.build_sensor_context(
                self.instance, self.cursors[index], repository_def=self.defs.get_repository_def()
            )
            result = sensor.evaluate_tick(context)
            assert not result.run_requests
            self.cursors[index] = result.cursor
            found.append(RESTED if result.skip_message == RESTED else None)
        return found

    def settle(self, ticks: int = 8) -> list[tuple[str, tuple[str, ...]]]:
        """Tick until nothing is asked for; what was asked for on the way."""
        asked = []
        for _ in range(ticks):
            found = self.tick()
            if not found:
                return asked
            asked += found
        raise AssertionError(f"still asking after {ticks} ticks: {asked}")

    def made_by(self, name: str) -> dict[str, str]:
        """The run that made each asset's current artifact."""
        found = {asset: self.store.current(name, asset) for asset in ASSETS}
        return {asset: made.run_id for asset, made in found.items() if made is not None}


def asked_for(request: dg.RunRequest) -> list[tuple[str, str]]:
    """(dataset, asset) of a run request, or of a backfill of several datasets."""
    subset = request.asset_graph_subset
    if subset is not None:
        return [
            (str(found.partition_key), found.asset_key.to_user_string())
            for found in subset.iterate_asset_partitions()
        ]
    assert request.tags["dagster/priority"] == "-5"
    return [
        (str(request.partition_key), key.to_user_string()) for key in request.asset_selection or ()
    ]


def in_process(
    target: str, *, progress: Progress, lock: object, holder: str, log: object, **kwargs: Any
) -> Any:
    """Instead of a child process per stage, which takes a second."""
    module, _, name = target.partition(":")
    return getattr(import_module(module), name)(progress=progress, **kwargs)


@pytest.fixture
def auto(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Automation]:
    monkeypatch.setenv("SPLAT_ASSETS_DATA", str(tmp_path / "data"))
    monkeypatch.setattr("splat_assets.stages.run_isolated", in_process)
    with dg.DagsterInstance.ephemeral(tempdir=str(tmp_path / "instance")) as instance:
        yield Automation(tmp_path / "data", instance)


def edit(auto: Automation, name: str, query: str = "", **values: object) -> None:
    time.sleep(0.05)  # longer than the file clock's grain
    auto.add(name, query, **values)


def test_switched_on_it_asks_for_nothing_and_never_for_a_first_fetch(auto: Automation) -> None:
    auto.add("garden")
    auto.add("half")
    auto.run("half", "raw_dataset")
    assert auto.settle() == []
    auto.add("new")
    assert auto.settle() == []


def test_a_fetched_dataset_flows_down_by_itself(auto: Automation) -> None:
    auto.tick()
    auto.add("garden")
    auto.run("garden", "raw_dataset")
    auto.settle()
    assert set(auto.made_by("garden")) == set(ASSETS)
    assert all(name == "garden" for name, _ in auto.launched)
    assert len(auto.launched) <= len(ASSETS)
    assert auto.settle() == []


def test_a_whole_run_by_others_is_not_repeated(auto: Automation) -> None:
    auto.tick()
    auto.add("garden")
    auto.run("garden")
    assert auto.settle() == []


def test_new_data_flows_down_and_identical_data_does_not(auto: Automation) -> None:
    auto.add("garden")
    auto.run("garden")
    auto.tick()
    before = auto.made_by("garden")
    auto.run("garden", "raw_dataset", force=True)  # the same pictures once more
    assert auto.settle() == []
    assert auto.made_by("garden")["trained_splat"] == before["trained_splat"]
    auto.add("garden", "content=others&frames=14")  # a new revision of the pictures
    auto.run("garden", "raw_dataset")
    auto.settle()
    after = auto.made_by("garden")
    assert all(after[asset] != before[asset] for asset in ASSETS)


@pytest.mark.parametrize(
    ("options", "made_again"),
    [
        ({"compress": {"order": "morton"}}, {"compressed_splat"}),
        # the fakes' trained bytes do not depend on the steps, so nothing below is made again
        ({"train": {"steps": 2}}, {"trained_splat"}),
        ({"train": {"checkpoint_every_sec": 5}}, set()),  # changes nothing of the result
        ({"source": {"max_bytes": 1000}}, set()),
    ],
)
def test_a_changed_setting_makes_again_only_what_depends_on_it(
    auto: Automation, options: dict, made_again: set[str]
) -> None:
    for name in ("garden", "other"):
        auto.add(name)
        auto.run(name)
    auto.tick()
    before, other = auto.made_by("garden"), auto.made_by("other")
    edit(auto, "garden", options=options)
    auto.settle()
    after = auto.made_by("garden")
    assert {asset for asset in ASSETS if after[asset] != before[asset]} == made_again
    assert auto.made_by("other") == other
    assert {asset for _, assets in auto.launched for asset in assets} == made_again


def test_a_changed_source_is_fetched_and_flows_down(auto: Automation) -> None:
    auto.add("garden")
    auto.run("garden")
    auto.tick()
    before = auto.made_by("garden")
    edit(auto, "garden", "frames=15")
    auto.settle()
    after = auto.made_by("garden")
    assert all(after[asset] != before[asset] for asset in ASSETS)


def test_new_code_of_cheap_stages_only(auto: Automation, monkeypatch: pytest.MonkeyPatch) -> None:
    """As after an upgrade: the definitions carry other code versions, and so does the library."""
    auto.add("garden")
    auto.add("never-made")
    auto.run("garden")
    auto.tick()
    before = auto.made_by("garden")
    newer = {
        asset: replace(stage, code_version="next")
        for asset, stage in STAGES.items()
        if asset in ("frames", "camera_poses", "trained_splat", "compressed_splat")
    }
    for asset, stage in newer.items():
        monkeypatch.setitem(STAGES, asset, stage)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", dg.PreviewWarning)
        auto.defs = auto.defs.map_asset_specs(
            func=lambda spec: spec.replace_attributes(
                code_version=STAGES[spec.key.to_user_string()].code_version
            )
        )
    auto.settle()
    after = auto.made_by("garden")
    # Equal frames: the poses and the training are not even asked for, although their code changed.
    assert {asset for asset in ASSETS if after[asset] != before[asset]} == {
        "frames",
        "compressed_splat",
    }
    assert auto.made_by("never-made") == {}


def test_a_failing_gate_stops_the_chain_of_its_dataset_only(auto: Automation) -> None:
    auto.tick()
    for name, query in (("bad", "registered=0.5"), ("good", "")):
        auto.add(name, query)
        auto.run(name, "raw_dataset")
    auto.settle()
    assert set(auto.made_by("good")) == set(ASSETS)
    assert set(auto.made_by("bad")) == {"raw_dataset", "frames", "camera_poses"}
    assert not [assets for name, assets in auto.launched if name == "bad" and "trained" in assets]
    edit(auto, "bad", "registered=0.9")  # better photos
    auto.settle()
    assert set(auto.made_by("bad")) == set(ASSETS)


def test_what_fails_for_good_is_tried_once_per_change(auto: Automation) -> None:
    auto.tick()
    auto.add("garden", "fail=overlap")
    auto.run("garden", "raw_dataset")
    for _ in range(12):
        auto.tick()
    tries = [assets for _, assets in auto.launched if "camera_poses" in assets]
    assert len(tries) == 1
    assert "trained_splat" not in str(auto.launched)
    edit(auto, "garden", "frames=13")  # mended
    auto.settle()
    assert set(auto.made_by("garden")) == set(ASSETS)


def test_a_bug_and_a_failure_outside_of_a_stage_are_tried_once(auto: Automation) -> None:
    auto.add("garden")
    auto.run("garden")
    auto.tick()
    edit(auto, "garden", "fail=bug")
    for _ in range(6):
        auto.tick()
    assert len(auto.launched) == 1
    auto.launched.clear()
    # the step does not even reach the stage: its registry file is damaged right after the request
    auto.add("other")
    auto.run("other")
    auto.tick()
    edit(auto, "other", "frames=15")
    path = auto.root / "datasets" / "other.yaml"
    good, run = path.read_text(), auto.run

    def damaged(name: str, *assets: str, force: bool = False) -> dg.ExecuteInProcessResult:
        path.write_text("source: [")
        return run(name, *assets, force=force)

    auto.run = damaged  # type: ignore[method-assign]
    for _ in range(4):
        auto.tick()
        path.write_text(good)
    assert len(auto.launched) <= 3  # once, and once per further edit of the file at most


def test_network_trouble_is_tried_again_a_bounded_number_of_times(
    auto: Automation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("splat_assets.defs.runner.MAX_RETRIES", 0)
    auto.add("garden")
    auto.run("garden")
    auto.tick()
    edit(auto, "garden", "fail=network")
    for _ in range(2 * attempts.MAX_ATTEMPTS):
        for pause in (300.0, 0.0):  # too early, and long after
            monkeypatch.setattr(attempts, "PAUSE_SEC", pause)
            auto.tick()
    assert [assets for _, assets in auto.launched] == [("raw_dataset", "frames")] * (
        attempts.MAX_ATTEMPTS
    )


def test_pauses_between_attempts_double() -> None:
    record = attempts.FailedAttempt("key", "transient", "no answer", 2, 1000.0)
    assert not record.worth_repeating("key", now=1000 + 1.9 * attempts.PAUSE_SEC)
    assert record.worth_repeating("key", now=1000 + 2.1 * attempts.PAUSE_SEC)
    assert record.worth_repeating("other key", now=1000)
    assert not replace(record, count=attempts.MAX_ATTEMPTS).worth_repeating("key", now=1e9)
    assert not replace(record, kind="mistake").worth_repeating("key", now=1e9)


def test_sensors_are_off_split_by_device_and_their_runs_yield_to_people(auto: Automation) -> None:
    graph = auto.defs.resolve_asset_graph()
    chosen = [
        {key.to_user_string() for key in sensor.asset_selection.resolve(graph)}
        for sensor in SENSORS
    ]
    assert chosen == [set(CPU), {"trained_splat"}]
    for sensor in SENSORS:
        assert sensor.default_status == dg.DefaultSensorStatus.STOPPED
        assert sensor.run_tags["dagster/priority"] == "-5"


def test_between_events_it_rests_but_looks_now_and_then(
    auto: Automation, monkeypatch: pytest.MonkeyPatch
) -> None:
    auto.add("garden")
    auto.run("garden")
    assert auto.reasons() == [None, None]  # just switched on
    time.sleep(0.05)  # the file was written a moment ago: it might be once more
    auto.reasons()
    assert auto.reasons() == [RESTED, RESTED]
    edit(auto, "garden", options={"source": {"max_bytes": 1000}})
    assert auto.reasons() == [None, None]
    time.sleep(0.05)
    auto.reasons()
    auto.instance.report_runless_asset_event(dg.AssetMaterialization("frames", partition="garden"))
    assert RESTED not in auto.reasons()
    assert auto.reasons() == [RESTED, RESTED]
    monkeypatch.setattr(attempts, "PAUSE_SEC", 0.0)
    assert RESTED not in auto.reasons()


def test_an_idle_tick_is_cheap(auto: Automation) -> None:
    """At most a millisecond of CPU per asset and ten partitions, over 120 finished datasets."""
    auto.add("d000")
    auto.run("d000")
    names = [f"d{index:03}" for index in range(120)]
    spec = (auto.root / "datasets" / "d000.yaml").read_text()
    for name in names[1:]:
        (auto.root / "datasets" / f"{name}.yaml").write_text(spec.replace("d000", name))
        for asset in ASSETS:
            made = auto.store.current("d000", asset)
            assert made is not None
            folder = auto.store.folder(name, asset)
            (folder / "v").mkdir(parents=True)
            (folder / "current").write_text("v\n")
            (folder / "v" / MANIFEST).write_text(made.to_json())
            self_reported = dg.AssetMaterialization(
                asset, partition=name, tags={"dagster/data_version": made.data_version}
            )
            auto.instance.report_runless_asset_event(self_reported)
    auto.instance.add_dynamic_partitions("dataset", names)
    time.sleep(0.05)  # longer than the file clock's grain
    assert auto.tick() == []
    began = os.times()
    assert auto.tick() == []
    ended = os.times()
    spent = ended.user + ended.system - began.user - began.system
    assert spent <= 0.001 * len(ASSETS) * len(names) / 10
