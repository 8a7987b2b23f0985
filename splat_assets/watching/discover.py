"""From listings to datasets: what is found goes into the ledger, and from there to the registry."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

from splat_assets.datasets.registry import SUFFIX, Registry
from splat_assets.datasets.spec import DatasetSpec
from splat_assets.errors import UserError
from splat_assets.sources.uri import default_name, parse_source
from splat_assets.watching.decide import RECHECK_SEC, merge
from splat_assets.watching.hub_api import HubApi, RepoError, Sort
from splat_assets.watching.hub_cursor import HubCursor
from splat_assets.watching.hub_listing import Listing, Step, list_on
from splat_assets.watching.hub_repo import HubRepo
from splat_assets.watching.ledger import Entry, Ledger
from splat_assets.watching.watch_list import HubWatch

BATCH = 500  # datasets registered between two looks at the clock
WRITERS = 8  # registry files are flushed to disk, which is all waiting
VERIFIED_PER_TICK = 20


@dataclass
class Seen:
    """What a tick saw; `notes` are sentences for the log."""

    listed: int = 0
    new: int = 0
    notes: list[str] = field(default_factory=list)


def list_watches(
    api: HubApi,
    ledger: Ledger,
    watches: Sequence[HubWatch],
    cursor: HubCursor,
    seen: Seen,
    *,
    sort: Sort,
    sweep_sec: float,
    add: bool,
    now: float,
) -> None:
    """List what the watches ask for, as far as time allows, and bring the ledger up to date.

    `add` puts repositories that are not known into the ledger. The cursor advances page by page.
    Raises `HubBusyError`; everything seen before it is kept.
    """
    names = {watch.name for watch in watches}
    for watch in in_turn(watches, cursor.turn):
        listing = cursor.listings.get(watch.name, Listing())
        for step in list_on(api, watch, listing, sort, now=now, sweep_sec=sweep_sec):
            _take_in(ledger, watch, names, step, seen, add=add, now=now)
            cursor.listings[watch.name] = step.listing


def _take_in(
    ledger: Ledger,
    watch: HubWatch,
    watches: set[str],
    step: Step,
    seen: Seen,
    *,
    add: bool,
    now: float,
) -> None:
    repos = {repo.key: repo for repo in step.repos}
    seen.listed += len(repos)

    def change(known: dict[str, Entry]) -> Iterable[Entry]:
        for key, repo in repos.items():
            old = known.get(key)
            if old is None and not add:
                continue
            seen.new += old is None
            if old is not None and old.label != repo.repo:
                seen.notes.append(f"{old.label} is called {repo.repo} now.")
            entry = merge(old, repo, watch.name, watches=watches, now=now)
            if entry.reason and (old is None or old.reason != entry.reason):
                seen.notes.append(entry.reason)
            yield entry

    ledger.revise(list(repos), change)
    if watch.repos:
        ledger.delete(_by_name(repo) for repo in step.repos)
    for name, error in step.troubles:
        _note_trouble(ledger, watch, name, error, seen, now)


def _note_trouble(
    ledger: Ledger, watch: HubWatch, name: str, error: RepoError, seen: Seen, now: float
) -> None:
    """An exact name that cannot be had: its entry says so, also when it was never there."""
    known = [entry for entry in ledger.labelled(name) if entry.kind == "hub"]
    for entry in known:
        if entry.reason != str(error):
            seen.notes.append(str(error))
        ledger.set(entry.key, **gone(error, now))
    if not known:
        seen.notes.append(str(error))
        placeholder = Entry(_by_name(None, name), "hub", name, watch.name, "found")
        ledger.put([replace(placeholder, **gone(error, now))])


def _by_name(repo: HubRepo | None, name: str = "") -> str:
    """The key of a repository that was asked for by name and not there."""
    return "name:" + (repo.repo if repo is not None else name).lower()


def gone(error: RepoError, now: float) -> dict[str, Any]:
    """The columns of an entry whose repository cannot be had."""
    state = "gone" if error.state == "gone" else "refused"
    return {"state": state, "reason": str(error), "check_at": now + RECHECK_SEC, "seen": now}


def verify_missing(
    api: HubApi,
    ledger: Ledger,
    watches: Sequence[HubWatch],
    cursor: HubCursor,
    seen: Seen,
    *,
    now: float,
) -> None:
    """Ask for repositories that a finished sweep did not list: deleted, renamed, or retagged.

    Raises `HubBusyError`.
    """
    for watch in watches:
        listing = cursor.listings.get(watch.name)
        if listing is None or not listing.swept or watch.repos:
            continue
        for entry in ledger.unseen(watch.name, listing.swept, VERIFIED_PER_TICK):
            if api.out_of_time():
                return
            try:
                repo = api.repo(entry.label)
            except RepoError as error:
                seen.notes.append(str(error))
                ledger.set(entry.key, **gone(error, now))
                continue
            if repo.key != entry.key:  # a new repository took the name of one that is gone
                anew = RepoError("gone", f"{entry.label} was deleted and made anew on the Hub.")
                seen.notes.append(str(anew))
                ledger.set(entry.key, **gone(anew, now))
                continue
            if repo.repo != entry.label:
                seen.notes.append(f"{entry.label} is called {repo.repo} now.")
            ledger.set(entry.key, label=repo.repo, head=repo.sha, seen=now)


def register(
    ledger: Ledger,
    registry: Registry,
    watches: Sequence[HubWatch],
    seen: Seen,
    *,
    deadline: float,
    now: float,
) -> list[str]:
    """Write registry files for what was found; returns the names of the datasets.

    A file that is there already is adopted when it is of the same repository, and refused as a
    collision when not. What the time does not suffice for stays found.
    """
    registered: list[str] = []
    taken: set[str] | None = None
    for watch in watches:
        while time.monotonic() < deadline:
            found = ledger.having("found", watch.name, limit=BATCH)
            if not found:
                break
            taken = set(registry.names()) if taken is None else taken
            changes: dict[str, dict[str, Any]] = {}
            specs: dict[str, DatasetSpec] = {}  # by key
            for entry in found:
                try:
                    name = default_name(parse_source(_source(entry)))
                    if name in taken:
                        _check_same(registry, name, entry)
                    else:
                        specs[entry.key] = _spec(watch, entry, name)
                    taken.add(name)
                    changes[entry.key] = {"state": "waiting", "name": name}
                except UserError as error:
                    changes[entry.key] = _refused(error, seen, now)
            for key, text in _write(registry, specs).items():
                changes[key] = _refused(UserError(text), seen, now)
            ledger.set_many(list(changes.items()))
            registered += [c["name"] for c in changes.values() if c["state"] == "waiting"]
    return registered


def _source(entry: Entry) -> str:
    return f"hf://datasets/{entry.label}"


def _spec(watch: HubWatch, entry: Entry, name: str) -> DatasetSpec:
    """The watch's options were checked when it was read."""
    return DatasetSpec(name=name, source=_source(entry), preset=watch.preset, options=watch.options)


def _refused(error: UserError, seen: Seen, now: float) -> dict[str, Any]:
    seen.notes.append(str(error))
    return {"state": "refused", "reason": str(error), "check_at": now + RECHECK_SEC}


def _check_same(registry: Registry, name: str, entry: Entry) -> None:
    """Raise `UserError` when the name stands for something else than this repository."""
    try:
        spec = registry.get(name)
    except UserError as error:
        raise UserError(f"{entry.label} is left out: {error}") from None
    if spec.source.partition("@")[0].lower() != _source(entry).lower():
        raise UserError(
            f"{entry.label} is left out: the name {name!r} already stands for {spec.source}; "
            f"`splat-assets add {entry.label} --name …` gives it another."
        )


def _write(registry: Registry, specs: dict[str, DatasetSpec]) -> dict[str, str]:
    """Write new registry files; what was wrong with some, by key."""
    shelf = registry.shelf

    def write(item: tuple[str, DatasetSpec]) -> tuple[str, str]:
        key, spec = item
        if shelf.create(spec.name + SUFFIX, spec.to_yaml()):
            return key, ""
        known = registry.get(spec.name)  # written by another host at this moment
        return key, "" if known.source == spec.source else f"The name {spec.name!r} is taken."

    with shelf.alone(), ThreadPoolExecutor(WRITERS) as pool:
        return {key: text for key, text in pool.map(write, specs.items()) if text}


def in_turn(watches: Sequence[HubWatch], turn: int) -> list[HubWatch]:
    """The watches, another one first each time."""
    start = turn % len(watches) if watches else 0
    return [*watches[start:], *watches[:start]]
