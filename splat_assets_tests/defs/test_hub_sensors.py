"""The Hub sensors against a stand-in for the Hub and a real (ephemeral) instance."""

from __future__ import annotations

import time
from pathlib import Path

import dagster as dg
import pytest

from splat_assets.datasets.spec import make_spec
from splat_assets.defs.hub_sensors import new_hub_repos
from splat_assets_tests.defs.hub_world import Hub
from splat_assets_tests.hub_standin import HubStandIn
from splat_assets_tests.sources.samples import photos, write

TOKEN = "hf_secret"


def test_without_a_watch_list_a_tick_costs_nothing(
    world: Hub, hub: HubStandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPLAT_ASSETS_DATA", str(world.root))
    context = dg.build_sensor_context()  # not even an instance is opened
    new_hub_repos(context)
    began = time.process_time()
    result = new_hub_repos(context)
    assert time.process_time() - began < 0.02
    assert isinstance(result, dg.SkipReason)
    assert "No repositories are watched in" in (result.skip_message or "")
    assert not hub.requests and not (world.root / "datasets").exists()


def test_a_new_repository_becomes_a_dataset_and_a_run(
    world: Hub, hub: HubStandIn, pictures: Path
) -> None:
    hub.add("me/Garden", pictures)
    hub.add("you/other", pictures)
    world.watch(author="me", preset="high", options={"train": {"steps": 9}})
    assert world.new() == ["me--garden"]
    spec = world.registry.get("me--garden")
    assert (spec.source, spec.preset) == ("hf://datasets/me/Garden", "high")
    assert spec.options == {"train": {"steps": 9}}
    (run,) = world.instance.get_runs()
    sha = hub.repos["me/Garden"].commits[-1].sha
    assert run.tags["dagster/run_key"] == f"me/Garden@{sha}"
    assert run.tags["splat/watch"] == "me" and run.tags["splat/preset"] == "high"
    assert run.tags["splat/source"] == "hf://datasets/me/Garden"
    assert run.tags["splat/revision"] == sha
    assert world.new() == [] and "1 known: 1 current" in world.said
    assert world.registry.names() == ["me--garden"]


def test_a_large_author_is_registered_at_once_and_drained_slowly(
    world: Hub, hub: HubStandIn, pictures: Path
) -> None:
    hub.add_many((f"me/s{i:03d}" for i in range(250)), pictures)
    world.watch(author="me")
    first = world.new()
    assert len(first) == 25 and first[0] == "me--s249"  # the latest first
    assert len(world.registry.names()) == 250
    assert len(world.instance.get_dynamic_partitions("dataset")) == 250
    assert [len(world.new()) for _ in range(4)] == [25, 25, 25, 0]
    assert "100 runs wait for their turn" in world.said
    world.finish()
    assert len(world.new()) == 25
    assert len(set(world.runs())) == len(world.runs()) == 125


def test_rates(world: Hub, hub: HubStandIn, pictures: Path) -> None:
    hub.add_many((f"me/s{i:02d}" for i in range(30)), pictures)
    hub.add_many((f"you/s{i:02d}" for i in range(30)), pictures)
    hub.add_many((f"us/s{i:02d}" for i in range(3)), pictures)
    world.watch(author="me", runs_per_tick=4, runs_per_hour=10)
    world.watch(author="you", runs_per_tick=2)
    world.watch(author="us", launch=False)
    asked = [world.new() for _ in range(4)]
    mine = [len([n for n in names if n.startswith("me--")]) for names in asked]
    yours = [len([n for n in names if n.startswith("you--")]) for names in asked]
    assert (mine, yours) == ([4, 4, 2, 0], [2, 2, 2, 2])
    assert len([n for n in world.new(later=3600) if n.startswith("me--")]) == 4
    assert not [name for name, _ in world.runs() if name.startswith("us--")]
    assert "us--s00" in world.registry.names()


def test_what_a_backfill_has_run_is_not_run_again(
    world: Hub, hub: HubStandIn, pictures: Path
) -> None:
    hub.add_many((f"me/s{i}" for i in range(3)), pictures)
    world.watch(author="me", runs_per_tick=1)
    assert world.new() == ["me--s2"]
    world._make("a backfill", dg.RunRequest(run_key="", partition_key="me--s1"))
    assert [world.new() for _ in range(3)] == [[], ["me--s0"], []]


def test_listing_goes_on_where_the_last_tick_stopped(
    world: Hub, hub: HubStandIn, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add_many((f"me/s{i:03d}" for i in range(450)), pictures)
    world.watch(author="me")
    monkeypatch.setattr("splat_assets.watching.hub_listing.SWEEP_PAGE", 100)
    monkeypatch.setattr("splat_assets.watching.hub_api.HubApi.out_of_time", _after(4))
    world.new()
    assert len(world.registry.names()) == 200
    cursor = world.cursors["new_hub_repos"] or ""
    assert len(cursor) < 400 and "s4" not in cursor
    monkeypatch.setattr("splat_assets.watching.hub_api.HubApi.out_of_time", _after(99))
    hub.add("me/newest", pictures)  # while the listing is under way
    world.new()
    assert len(world.registry.names()) >= 450
    world.new()
    assert len(world.registry.names()) == 451


def _after(count: int) -> object:
    calls = iter(range(10_000))
    return lambda self: next(calls) >= count


def test_a_steady_tick_asks_for_one_page(world: Hub, hub: HubStandIn, pictures: Path) -> None:
    hub.add_many((f"me/s{i:03d}" for i in range(120)), pictures)
    world.watch(author="me", launch=False)
    world.new()
    hub.reset_counts()
    assert world.new() == [] and hub.requests == {"list": 1}
    assert "120 known: 120 waiting" in world.said
    hub.add("me/late", pictures)
    world.new()
    assert "me--late" in world.registry.names()


def test_a_rate_limit_is_honoured_over_ticks(world: Hub, hub: HubStandIn, pictures: Path) -> None:
    hub.add("me/garden", pictures)
    world.watch(author="me")
    hub.fail_next(429, headers={"Retry-After": "100"})
    assert world.new() == []
    assert "asks to wait 100 s (HTTP 429)" in world.said
    hub.reset_counts()
    for _ in range(3):
        assert world.new() == [] and "The Hub is asked again at" in world.said
    assert not hub.requests
    assert world.new(later=11) == ["me--garden"]


def test_an_absent_hub_is_asked_less_and_less(world: Hub, hub: HubStandIn, pictures: Path) -> None:
    hub.add("me/garden", pictures)
    world.watch(author="me")
    hub.fail_next(503, 50)
    for _ in range(40):
        world.new()
    assert 4 <= hub.requests["list"] <= 7
    hub._failures.clear()
    assert [world.new(later=900), world.new(later=900)][0] == ["me--garden"]


def test_a_rate_limit_in_the_middle_keeps_what_was_listed(
    world: Hub, hub: HubStandIn, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("splat_assets.watching.hub_listing.SWEEP_PAGE", 100)
    hub.add_many((f"me/s{i:03d}" for i in range(300)), pictures)
    world.watch(author="me")
    monkeypatch.setattr("splat_assets.watching.hub_api.HubApi.list_repos", _busy_at(2))
    world.new()
    assert len(world.registry.names()) == 100
    world.new(later=61)
    assert len(world.registry.names()) == 300


def _busy_at(call: int) -> object:
    from splat_assets.watching.hub_api import HubApi, HubBusyError, Page

    calls, original = iter(range(1, 1000)), HubApi.list_repos

    def list_repos(self: HubApi, *args: object, **kwargs: object) -> Page:
        if next(calls) == call:
            raise HubBusyError("The Hub asks to wait 60 s (HTTP 429).", 60.0)
        return original(self, *args, **kwargs)  # type: ignore[arg-type]

    return list_repos


def test_gated_private_disabled_and_large_are_named_and_left(
    world: Hub, hub: HubStandIn, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add("me/private", pictures, token=TOKEN)
    hub.add("me/gated", pictures, token=TOKEN, gated=True)
    hub.add("me/disabled", pictures, disabled=True)
    hub.add("me/fine", pictures)
    hub.add("me/large", write(pictures.parent / "l", {"a.mp4": bytes(200_000)})).used_storage = 9**9
    hub.add("me/old-and-large", pictures).used_storage = 9**9  # its history is, its files are not
    world.watch(author="me", max_gb=0.0001)
    assert world.new() == ["me--old-and-large", "me--fine"]
    entries = world.entries("me")
    assert "me/private" not in entries
    assert "accept its conditions" in entries["me/gated"].reason
    assert entries["me/disabled"].reason == "me/disabled is disabled on the Hub."
    assert "200.0 kB, above the 0.0001 GB of the watch 'me'" in entries["me/large"].reason
    hub.reset_counts()
    assert [world.new() for _ in range(5)] == [[]] * 5
    assert set(hub.requests) == {"list"}  # not retried
    assert "6 known" not in world.said and "2 current, 3 refused" in world.said
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    hub.repos["me/disabled"].disabled = False
    assert set(world.new(later=25 * 3600)) == {"me--private", "me--gated", "me--disabled"}


def test_exact_names(world: Hub, hub: HubStandIn, pictures: Path) -> None:
    hub.add("me/a", pictures)
    world.watch(repos=("me/a", "me/none"), name="mine")
    assert world.new() == ["me--a"]
    assert "me/none is not on the Hub" in world.entries("mine")["me/none"].reason
    hub.add("me/none", pictures)
    assert world.new(later=60) == ["me--none"]
    assert len(world.entries("mine")) == 2


def test_two_watches_register_a_repository_once(
    world: Hub, hub: HubStandIn, pictures: Path
) -> None:
    hub.add("me/robot", pictures, tags=("LeRobot",))
    world.watch(author="me", preset="high")
    world.watch(tags=("LeRobot",), preset="standard")
    assert world.new() == ["me--robot"]
    assert world.new() == []
    assert world.registry.get("me--robot").preset == "high"
    world.watch_file.remove("me")
    assert world.new(later=25 * 3600) == []
    hub.commit("me/robot", write(pictures.parent / "p2", photos(3)))
    world.finish()
    assert world.changed() == ["me--robot"]  # the other watch has taken it over


def test_names_that_collide_are_refused(world: Hub, hub: HubStandIn, pictures: Path) -> None:
    hub.add("me/Garden", pictures)
    hub.add("me/garden", pictures)
    world.registry.add(make_spec(name="me--walk", source="/photos/walk"))
    hub.add("me/walk", pictures)
    world.registry.add(
        make_spec(name="me--mine", source="hf://datasets/me/mine", preset="standard")
    )
    hub.add("me/mine", pictures)
    world.watch(author="me")
    assert sorted(world.new()) == ["me--garden", "me--mine"]
    refused = {k: e.reason for k, e in world.entries("me").items() if e.state == "refused"}
    assert "already stands for /photos/walk" in refused["me/walk"]
    assert len(refused) == 2
    assert world.registry.get("me--mine").preset == "standard"  # a person's wishes are kept


def test_exclude_search_and_tags(world: Hub, hub: HubStandIn, pictures: Path) -> None:
    for name in ("me/so101-cups", "me/so101-test", "me/other"):
        hub.add(name, pictures, tags=("LeRobot",))
    world.watch(author="me", search="so101", tags=("LeRobot",), exclude=("*-test",))
    assert world.new() == ["me--so101-cups"]


def test_a_faulty_watch_list_is_named(
    world: Hub, hub: HubStandIn, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPLAT_ASSETS_DATA", str(world.root))
    hub.add("me/a", pictures)
    world.root.mkdir(parents=True)
    (world.root / "watch.yaml").write_text(
        "hub: [{author: me}, {autor: x}, {author: y, max_gb: -1}]"
    )
    assert world.new() == ["me--a"]
    assert world.new() == [] and "entry 2: there is no option 'autor'" in world.said
    (world.root / "watch.yaml").write_text("hub: [")
    result = new_hub_repos(dg.build_sensor_context())
    assert isinstance(result, dg.SkipReason) and "not valid YAML" in (result.skip_message or "")
