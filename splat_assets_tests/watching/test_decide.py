"""Decisions of the watching sensors, by themselves."""

from __future__ import annotations

from dataclasses import replace

import pytest

from splat_assets.datasets.options import SourceOptions
from splat_assets.watching.decide import (
    DISABLED,
    NEVER,
    RECHECK_SEC,
    how_many_runs,
    is_relevant,
    merge,
    name_some,
    relevant_bytes,
    relevant_changes,
)
from splat_assets.watching.hub_api import MAX_WAIT_SEC, HubBusyError, wait_seconds
from splat_assets.watching.hub_cursor import HubCursor
from splat_assets.watching.hub_listing import Listing
from splat_assets.watching.hub_repo import HubRepo
from splat_assets.watching.ledger import Entry
from splat_assets.watching.watch_list import HubWatch, make_watch

REPO = HubRepo("id1", "me/garden", "sha1", "2025-01-01T00:00:00.000Z", "2025-01-02T00:00:00.000Z")


@pytest.mark.parametrize(
    ("path", "relevant"),
    [
        ("a.jpg", True),
        ("videos/chunk-000/cam/episode_0.mp4", True),
        ("meta/info.json", True),
        ("data/chunk-000/episode_0.parquet", True),
        ("scene.zip", True),
        ("sparse/0/points3D.bin", True),
        ("metadata.csv", True),
        ("README.md", False),
        ("LICENSE", False),
        (".gitattributes", False),
        ("depth/a.png", False),
        ("train.py", False),
        ("notes.txt", False),
    ],
)
def test_which_files_matter(path: str, relevant: bool) -> None:
    assert is_relevant(path, SourceOptions()) is relevant


def test_a_folder_and_globs_narrow_what_matters() -> None:
    only = SourceOptions(include=("x/",), exclude=("*.png",))
    assert is_relevant("x/a.jpg", only)
    assert not is_relevant("y/a.jpg", only) and not is_relevant("x/a.png", only)
    assert is_relevant("scenes/one/a.jpg", SourceOptions(), "scenes/one")
    assert not is_relevant("scenes/two/a.jpg", SourceOptions(), "scenes/one")


def test_relevant_changes_and_size() -> None:
    before = {"a.jpg": (1, "x"), "b.jpg": (2, "y"), "README.md": (3, "z"), "c.jpg": (4, "c")}
    after = {"a.jpg": (1, "x"), "b.jpg": (2, "new"), "README.md": (9, "zz"), "d.jpg": (5, "d")}
    assert relevant_changes(before, after, SourceOptions()) == ["b.jpg", "c.jpg", "d.jpg"]
    assert relevant_bytes(after, SourceOptions()) == 8
    assert name_some(list("abcde")) == "a, b, c and 2 more"


def test_how_many_runs() -> None:
    watch = make_watch(HubWatch, author="me", runs_per_tick=10, runs_per_hour=12)
    room = {"asked_last_hour": 0, "left_in_tick": 25, "queued": 0, "max_queued": 100}
    assert how_many_runs(watch, **room) == 10
    assert how_many_runs(watch, **room | {"asked_last_hour": 9}) == 3
    assert how_many_runs(watch, **room | {"left_in_tick": 4}) == 4
    assert how_many_runs(watch, **room | {"queued": 98}) == 2
    assert how_many_runs(watch, **room | {"queued": 200}) == 0


def test_merging_a_listing() -> None:
    found = merge(None, REPO, "me", watches=["me"], now=5.0)
    assert (found.state, found.head, found.seen) == ("found", "sha1", 5.0)
    current = replace(found, state="current", name="me--garden", done="sha1")
    moved = merge(
        current, replace(REPO, sha="sha2", repo="me/park"), "you", watches=["me"], now=6.0
    )
    assert (moved.state, moved.head, moved.done) == ("current", "sha2", "sha1")
    assert (moved.label, moved.name, moved.watch) == ("me/park", "me--garden", "me")
    assert merge(current, REPO, "you", watches=["you"], now=6.0).watch == "you"
    disabled = merge(current, replace(REPO, disabled=True), "me", watches=["me"], now=7.0)
    assert disabled.state == "refused" and "disabled" in disabled.reason
    assert merge(None, replace(REPO, sha=""), "me", watches=["me"], now=7.0).state == "refused"


def test_what_was_refused_is_taken_up_again_when_it_changed_or_after_a_day() -> None:
    refused = Entry(
        "id1", "hub", "me/garden", "me", "refused", head="sha1", check_at=RECHECK_SEC, name="n"
    )

    def state(entry: Entry, repo: HubRepo = REPO, now: float = 10.0) -> str:
        return merge(entry, repo, "me", watches=["me"], now=now).state

    assert state(refused) == "refused"
    assert state(refused, now=RECHECK_SEC + 1) == "waiting"
    assert state(refused, replace(REPO, sha="sha2")) == "waiting"
    assert state(refused, replace(REPO, gated=True)) == "waiting"
    assert state(replace(refused, done="sha1"), now=RECHECK_SEC + 1) == "current"
    assert state(replace(refused, name=""), now=RECHECK_SEC + 1) == "found"
    assert state(replace(refused, state="gone")) == "waiting"  # it is listed, so it is back
    assert state(replace(refused, reason=f"me/garden {DISABLED}")) == "waiting"
    forever = replace(refused, check_at=NEVER)
    assert state(forever, replace(REPO, sha="sha2"), now=RECHECK_SEC * 999) == "refused"


@pytest.mark.parametrize(
    ("headers", "wait"),
    [
        ({"Retry-After": "30"}, 30.0),
        ({"Retry-After": "0"}, 1.0),
        ({"Retry-After": "999999"}, MAX_WAIT_SEC),
        ({"Retry-After": "Thu, 01 Jan 1970 00:02:00 GMT"}, 110.0),
        ({"Retry-After": "soon"}, 60.0),
        ({"RateLimit": '"api";r=0;t=55'}, 55.0),
        ({"RateLimit": '"api";r=3;t=55'}, 60.0),
        ({}, 60.0),
    ],
)
def test_how_long_the_hub_asks_to_wait(headers: dict[str, str], wait: float) -> None:
    assert wait_seconds(headers, now=10.0) == wait


def test_a_cursor_survives_its_text_and_nonsense() -> None:
    cursor = HubCursor({"me": Listing(query="q", page="abc", began=3.0, top="t")}, turn=4)
    cursor.pause(HubBusyError("Busy.", 20.0), 100.0)
    again = HubCursor.from_text(cursor.to_text())
    assert again == cursor and again.wait_until == 120.0
    for text in (None, "", "null", "[]", '{"listings": 3}', "2025-01-01", '{"listings": {"a": 1}}'):
        assert HubCursor.from_text(text).wait_until == 0.0
    waits = []
    for _ in range(8):
        again.pause(HubBusyError("Away."), 0.0)
        waits.append(again.wait_until)
    assert waits == sorted(waits) and waits[-1] == 900.0
    again.answered()
    assert again.wait_until == 0.0 and again.failures == 0
