"""The Hub sensors against a stand-in for the Hub and a real (ephemeral) instance."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from splat_assets.datasets.spec import make_spec
from splat_assets.defs.hub_sensors import load_watches, new_hub_repos
from splat_assets.defs.hub_ticks import changed_tick, new_tick
from splat_assets.watching.watch_list import HubWatch, make_watch
from splat_assets_tests.hub_standin import HubStandIn
from splat_assets_tests.sources.samples import photos, write
from splat_assets_tests.watching.ticking import World

TOKEN = "hf_secret"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[HubStandIn]:
    with HubStandIn(page=100) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
        monkeypatch.delenv("HF_TOKEN", raising=False)
        yield hub


class Hub(World):
    """The world with the two Hub sensors."""

    def watch(self, **values: object) -> None:
        self.watch_file.add(make_watch(HubWatch, **values))

    def new(self, **how: object) -> list[str]:
        return self.tick("new_hub_repos", _new, **how)  # type: ignore[arg-type]

    def changed(self, **how: object) -> list[str]:
        return self.tick("changed_hub_repos", _changed, **how)  # type: ignore[arg-type]


def _new(context: dg.SensorEvaluationContext, world: World) -> dg.SensorResult | dg.SkipReason:
    return new_tick(context, world.registry, load_watches(world.registry), now=world.now)


def _changed(context: dg.SensorEvaluationContext, world: World) -> dg.SensorResult | dg.SkipReason:
    from splat_assets.artifacts.store import ArtifactStore

    store = ArtifactStore(str(world.root), world.root)
    watches = load_watches(world.registry)
    return changed_tick(context, world.registry, store, watches, now=world.now)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[Hub]:
    with dg.DagsterInstance.ephemeral(tempdir=str(tmp_path / "instance")) as instance:
        yield Hub(tmp_path / "data", instance)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    return write(tmp_path / "pictures", photos(2))


def test_without_a_watch_list_a_tick_costs_nothing(world: Hub, hub: HubStandIn) -> None:
    context = dg.build_sensor_context(instance=world.instance, resources=world.resources)
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


def test_renamed_and_deleted(world: Hub, hub: HubStandIn, pictures: Path) -> None:
    hub.add("me/a", pictures)
    hub.add("me/b", pictures)
    hub.add("me/c", pictures)
    world.watch(author="me")
    world.new()
    hub.rename("me/a", "me/z")
    hub.rename("me/b", "you/b")
    hub.remove("me/c")
    assert world.new(later=25 * 3600) == []
    entries = world.entries("me")
    assert {label: entry.state for label, entry in entries.items()} == {
        "me/z": "current",
        "you/b": "current",
        "me/c": "gone",
    }
    assert entries["me/z"].name == "me--a"
    assert "deleted, or private now" in entries["me/c"].reason
    assert sorted(world.registry.names()) == ["me--a", "me--b", "me--c"]
    assert "me/c is not on the Hub" in world.said


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


def test_a_dataset_that_a_person_removed_stays_removed(
    world: Hub, hub: HubStandIn, pictures: Path
) -> None:
    hub.add("me/a", pictures)
    world.watch(author="me")
    world.new()
    world.finish()
    world.registry.remove("me--a")
    hub.commit("me/a", write(pictures.parent / "p2", photos(3)))
    assert (world.new(), world.changed(), world.new(later=25 * 3600)) == ([], [], [])
    assert world.registry.names() == []


def test_only_changes_that_matter_run_again(world: Hub, hub: HubStandIn, tmp_path: Path) -> None:
    files = {**photos(3), "README.md": "one", "depth/a.png": b"d", "old/x.jpg": b"x"}
    names = ("readme", "photo", "added", "removed", "excluded", "auxiliary", "pinned", "still")
    for name in names:
        hub.add(f"me/{name}", write(tmp_path / name, files))
    hub.repos["me/pinned"].refs["v1"] = hub.repos["me/pinned"].commits[0].sha
    registered = {
        "excluded": {"options": {"source": {"exclude": ["old/"]}}},
        "pinned": {"source": "hf://datasets/me/pinned@v1"},
    }
    for name, how in registered.items():
        values = {"name": f"me--{name}", "source": f"hf://datasets/me/{name}", **how}
        world.registry.add(make_spec(**values))
    world.watch(author="me")
    assert len(world.new()) == len(names)
    world.new()
    world.finish()
    assert world.changed() == []

    changes: dict[str, dict[str, bytes | str]] = {
        "readme": {"README.md": "two", "LICENSE": "mit", ".gitattributes": "x"},
        "photo": {"p00.jpg": b"other"},
        "added": {"p99.jpg": b"new"},
        "excluded": {"old/x.jpg": b"y"},
        "pinned": {"p00.jpg": b"other"},
        "auxiliary": {"depth/a.png": b"other"},
    }
    for name, more in changes.items():
        hub.commit(f"me/{name}", write(tmp_path / f"{name}2", {**files, **more}))
    fewer = {k: v for k, v in files.items() if k != "p01.jpg"}
    hub.commit("me/removed", write(tmp_path / "removed2", fewer))
    assert sorted(world.changed()) == ["me--added", "me--photo", "me--removed"]
    world.finish()
    assert world.changed() == [] and world.new() == []
    hub.reset_counts()
    assert world.changed() == [] and hub.requests == {"list": 1}

    hub.repos["me/pinned"].refs["v1"] = hub.commit(
        "me/pinned", write(tmp_path / "pinned3", {**files, "p00.jpg": b"third"})
    )
    assert world.changed() == ["me--pinned"]


def test_a_moved_repository_waits_for_the_run_on_it(
    world: Hub, hub: HubStandIn, tmp_path: Path, pictures: Path
) -> None:
    hub.add("me/a", pictures)
    world.watch(author="me")
    world.new()
    world.new()
    second = hub.commit("me/a", write(tmp_path / "two", photos(3)))
    assert world.changed() == []  # its first run is queued
    world.make_raw("me--a", second)  # and has fetched what is new already
    world.finish()
    assert world.changed(later=90) == []
    third = hub.commit("me/a", write(tmp_path / "three", photos(4)))
    assert world.changed(later=90) == ["me--a"]
    assert world.runs()[-1] == ("me--a", f"me/a@{third}")


def test_a_rewritten_history_runs_again(
    world: Hub, hub: HubStandIn, tmp_path: Path, pictures: Path
) -> None:
    hub.add("me/a", pictures)
    world.watch(author="me")
    world.new()
    world.new()
    world.finish()
    hub.commit("me/a", write(tmp_path / "two", photos(2)))
    del hub.repos["me/a"].commits[0]
    assert world.changed() == ["me--a"]


def test_what_was_only_registered_is_not_run_when_it_changes(
    world: Hub, hub: HubStandIn, tmp_path: Path, pictures: Path
) -> None:
    hub.add("me/a", pictures)
    world.watch(author="me", launch=False)
    world.new()
    hub.commit("me/a", write(tmp_path / "two", photos(3)))
    assert (world.changed(), world.new()) == ([], [])


def test_no_run_is_made_twice_and_none_is_lost(
    world: Hub, hub: HubStandIn, tmp_path: Path, pictures: Path
) -> None:
    """A hundred ticks; now and then the daemon dies before, between or after making runs."""
    dice = random.Random(5)
    hub.add_many((f"me/s{i:03d}" for i in range(60)), pictures)
    world.watch(author="me")
    versions = dict.fromkeys(hub.repos, 1)
    for number in range(100):
        if dice.random() < 0.3:
            repo = f"me/t{number:03d}"
            hub.add(repo, pictures)
            versions[repo] = 1
        if dice.random() < 0.2:
            repo = dice.choice(sorted(versions))
            versions[repo] += 1
            changed = photos(2) | {f"{number}.jpg": b"new"}
            hub.commit(repo, write(tmp_path / f"n{number}", changed))
        lost = dice.choice([None, None, None, 0, 1, 7])
        (world.new if number % 2 else world.changed)(lost_after=lost)
        world.finish()
    for _ in range(6):
        world.new()
        world.finish()
        world.changed(later=90)
        world.finish()
    runs = world.runs()
    keys = [key for _, key in runs]
    assert len(keys) == len(set(keys))
    ran = {f"me/{name.removeprefix('me--')}" for name, _ in runs}
    assert ran == set(versions)
    heads = {f"{repo}@{hub.repos[repo].commits[-1].sha}" for repo in versions}
    assert heads <= set(keys)


def test_a_lost_ledger_is_rebuilt_without_new_runs(
    world: Hub, hub: HubStandIn, pictures: Path
) -> None:
    hub.add_many((f"me/s{i}" for i in range(5)), pictures)
    world.watch(author="me")
    assert len(world.new()) == 5
    (world.root / "datasets" / ".watch.sqlite").unlink()
    world.cursors.clear()
    assert [world.new() for _ in range(3)] == [[]] * 3
    assert "5 current" in world.said


def test_a_faulty_watch_list_is_named(world: Hub, hub: HubStandIn, pictures: Path) -> None:
    hub.add("me/a", pictures)
    world.root.mkdir(parents=True)
    (world.root / "watch.yaml").write_text(
        "hub: [{author: me}, {autor: x}, {author: y, max_gb: -1}]"
    )
    assert world.new() == ["me--a"]
    assert world.new() == [] and "entry 2: there is no option 'autor'" in world.said
    (world.root / "watch.yaml").write_text("hub: [")
    context = dg.build_sensor_context(instance=world.instance, resources=world.resources)
    result = new_hub_repos(context)
    assert isinstance(result, dg.SkipReason) and "not valid YAML" in (result.skip_message or "")
