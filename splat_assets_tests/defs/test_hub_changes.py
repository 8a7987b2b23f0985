"""Repositories that change, move, vanish or are removed, and daemons that die: what runs again."""

from __future__ import annotations

import random
from pathlib import Path

from splat_assets.datasets.spec import make_spec
from splat_assets_tests.defs.hub_world import Hub
from splat_assets_tests.hub_standin import HubStandIn
from splat_assets_tests.sources.samples import photos, write


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


def _take_in(world: Hub, hub: HubStandIn, pictures: Path) -> None:
    """One repository, registered and asked for."""
    hub.add("me/a", pictures)
    world.watch(author="me")
    world.new()
    world.new()


def test_a_moved_repository_waits_for_the_run_on_it(
    world: Hub, hub: HubStandIn, tmp_path: Path, pictures: Path
) -> None:
    _take_in(world, hub, pictures)
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
    _take_in(world, hub, pictures)
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
