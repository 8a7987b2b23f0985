"""One tick of a Hub sensor: list, register, ask for runs. It brings the Hub's client with it, so
`hub_sensors` imports it only when something is watched.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime

import dagster as dg

from splat_assets.artifacts.store import ArtifactStore
from splat_assets.datasets.registry import Registry
from splat_assets.datasets.spec import DatasetSpec
from splat_assets.defs.admission import Admission
from splat_assets.defs.hub_sensors import CHANGED, NEW, SENSORS, result
from splat_assets.errors import UserError
from splat_assets.watching.decide import NEVER
from splat_assets.watching.discover import (
    Seen,
    gone,
    in_turn,
    list_watches,
    register,
    verify_missing,
)
from splat_assets.watching.hub_api import HubApi, HubBusyError, RepoError
from splat_assets.watching.hub_cursor import HubCursor
from splat_assets.watching.inspect_repo import Wish, changed_files, check_before_run
from splat_assets.watching.ledger import Entry, Ledger, open_ledger
from splat_assets.watching.watch_list import HubWatch, WatchList

# Dagster gives a tick 60 s. Listing ends after the first, registering after the second, looking at
# single repositories after the third; one request to the Hub (10 s) may begin just before.
LIST_SEC, REGISTER_SEC, LOOK_SEC = 10.0, 15.0, 20.0
CANDIDATES = 50  # changed datasets looked at in one tick, of each watch
POSTPONE_SEC = 60.0  # a changed dataset that a run works on is looked at again after that


@dataclass
class Tick:
    """What one evaluation works with. Times are in seconds since 1970."""

    began: float  # by time.monotonic
    now: float
    watches: WatchList
    registry: Registry
    ledger: Ledger
    admission: Admission
    api: HubApi
    cursor: HubCursor
    seen: Seen


def new_tick(
    context: dg.SensorEvaluationContext, registry: Registry, watches: WatchList, *, now: float
) -> dg.SensorResult | dg.SkipReason:
    """One evaluation of `new_hub_repos`."""
    cursor = _cursor(context, watches)
    if cursor.wait_until > now:
        return _waiting(cursor)
    with _tick(context, NEW, registry, watches, cursor, now) as tick:
        unmade = tick.admission.confirm()
        with _while_the_hub_answers(tick):
            _list(tick, "createdAt")
            verify_missing(tick.api, tick.ledger, watches.hub, cursor, tick.seen, now=now)
        names = register(
            tick.ledger,
            registry,
            watches.hub,
            tick.seen,
            deadline=tick.began + REGISTER_SEC,
            now=now,
        )
        tick.admission.add_partitions(names)
        if cursor.wait_until <= now:
            with _while_the_hub_answers(tick):
                tick.api.deadline = tick.began + LOOK_SEC
                _admit_new(tick, unmade)
        return _result(context, tick, num_registered=len(names))


def changed_tick(
    context: dg.SensorEvaluationContext,
    registry: Registry,
    store: ArtifactStore,
    watches: WatchList,
    *,
    now: float,
) -> dg.SensorResult | dg.SkipReason:
    """One evaluation of `changed_hub_repos`."""
    cursor = _cursor(context, watches)
    if cursor.wait_until > now:
        return _waiting(cursor)
    with _tick(context, CHANGED, registry, watches, cursor, now) as tick:
        unmade = tick.admission.confirm()
        with _while_the_hub_answers(tick):
            _list(tick, "lastModified")
            tick.api.deadline = tick.began + LOOK_SEC
            _ask_again(tick, unmade)
            _admit_changed(tick, store)
        return _result(context, tick)


def _admit_new(tick: Tick, unmade: list[Entry]) -> None:
    """Ask for runs of what waits, the latest repositories first. Raises `HubBusyError`."""
    _ask_again(tick, unmade)
    for watch in in_turn(tick.watches.hub, tick.cursor.turn):
        room = tick.admission.room(watch) if watch.launch else 0
        if room == 0:
            continue
        waiting = tick.ledger.having("waiting", watch.name, limit=room)
        have_runs = tick.admission.have_runs(entry.name for entry in waiting)
        for entry in waiting:
            if entry.name in have_runs:  # somebody was faster, by hand or with a backfill
                tick.ledger.set(entry.key, state="current", done=entry.head)
                continue
            if tick.api.out_of_time():
                return
            with _naming_trouble(tick, entry):
                spec = tick.registry.get(entry.name)
                check_before_run(tick.api, entry, watch, Wish.of(spec))
                _ask(tick, entry, entry.head, spec)


def _admit_changed(tick: Tick, store: ArtifactStore) -> None:
    """Compare moved repositories and ask for the runs that follow. Raises `HubBusyError`."""
    for watch in in_turn(tick.watches.hub, tick.cursor.turn):
        moved = tick.ledger.moved(watch.name, due=tick.now, limit=CANDIDATES)
        have_runs = tick.admission.have_runs(entry.name for entry in moved)
        busy = tick.admission.busy(entry.name for entry in moved)
        for entry in moved:
            if tick.admission.room(watch) == 0:
                break
            if tick.api.out_of_time():
                return
            if entry.name in busy:
                tick.ledger.set(entry.key, check_at=tick.now + POSTPONE_SEC)
                continue
            with _naming_trouble(tick, entry):
                _compare(tick, store, entry, has_run=entry.name in have_runs)


def _compare(tick: Tick, store: ArtifactStore, entry: Entry, *, has_run: bool) -> None:
    """Ask for a run of a moved repository, or note that nothing that matters has changed."""
    spec = tick.registry.get(entry.name)
    made = store.current(entry.name, "raw_dataset")
    known = str(made.summary.get("revision") or "") if made else ""
    known = known or entry.done
    if made is None and not has_run:  # registered only: the first run is somebody else's decision
        tick.ledger.set(entry.key, done=entry.head)
        return
    changes = changed_files(tick.api, entry, Wish.of(spec), known)
    move = f"{entry.label} moved from {known[:8]} to {entry.head[:8]}"
    if changes:
        tick.seen.notes.append(f"{move}: {changes}.")
        _ask(tick, entry, entry.head, spec)
    else:
        tick.seen.notes.append(f"{move}: nothing that {entry.name} uses has changed.")
        tick.ledger.set(entry.key, done=entry.head)


def _ask_again(tick: Tick, unmade: list[Entry]) -> None:
    """What was asked for in an earlier tick and became no run: the daemon was killed meanwhile."""
    for entry in unmade:
        with _naming_trouble(tick, entry):
            _ask(tick, entry, entry.asked, tick.registry.get(entry.name))


def _ask(tick: Tick, entry: Entry, version: str, spec: DatasetSpec) -> None:
    tick.admission.add_partitions([entry.name])
    tick.admission.ask(entry, version, spec)


@contextmanager
def _naming_trouble(tick: Tick, entry: Entry) -> Iterator[None]:
    """What is wrong with one repository or dataset goes to its entry, and the tick goes on.

    A dataset that a person removed from the registry, or damaged there, is left alone for good.
    """
    try:
        yield
    except RepoError as error:
        tick.seen.notes.append(str(error))
        tick.ledger.set(entry.key, **gone(error, tick.now))
    except UserError as error:
        reason = f"{entry.label} is left alone: {error}"
        tick.seen.notes.append(reason)
        tick.ledger.set(entry.key, state="refused", reason=reason, check_at=NEVER)


@contextmanager
def _while_the_hub_answers(tick: Tick) -> Iterator[None]:
    """End the work when the Hub asks for a rest, or is away; the cursor says until when."""
    try:
        yield
        tick.cursor.answered()
    except HubBusyError as error:
        tick.cursor.pause(error, tick.now)


@contextmanager
def _tick(
    context: dg.SensorEvaluationContext,
    sensor: str,
    registry: Registry,
    watches: WatchList,
    cursor: HubCursor,
    now: float,
) -> Iterator[Tick]:
    began = time.monotonic()
    with open_ledger(registry) as ledger:
        admission = Admission(
            context.instance, ledger, sensor, watches.limits, sensors=SENSORS, now=now
        )
        api = HubApi(began + LIST_SEC)
        yield Tick(began, now, watches, registry, ledger, admission, api, cursor, Seen())


def _list(tick: Tick, sort: str) -> None:
    is_new = sort == "createdAt"
    list_watches(
        tick.api,
        tick.ledger,
        tick.watches.hub,
        tick.cursor,
        tick.seen,
        sort="createdAt" if is_new else "lastModified",
        sweep_sec=tick.watches.limits.sweep_hours * 3600 if is_new else float("inf"),
        add=is_new,
        now=tick.now,
    )


def _cursor(context: dg.SensorEvaluationContext, watches: WatchList) -> HubCursor:
    cursor = HubCursor.from_text(context.cursor)
    cursor.keep_only([watch.name for watch in watches.hub])
    return cursor


def _waiting(cursor: HubCursor) -> dg.SkipReason:
    at = datetime.fromtimestamp(cursor.wait_until).strftime("%H:%M:%S")
    return dg.SkipReason(f"{cursor.why} The Hub is asked again at {at}.")


def _result(
    context: dg.SensorEvaluationContext, tick: Tick, *, num_registered: int = 0
) -> dg.SensorResult:
    """The tick's result, and what it says of itself."""
    tick.cursor.turn += 1
    seen, requests = tick.seen, tick.admission.requests
    parts = [f"{seen.listed} repositories listed"]
    parts += [f"{seen.new} of them new"] if seen.new else []
    parts += [f"{num_registered} datasets registered"] if num_registered else []
    parts += [f"{len(requests)} runs asked for"] if requests else []
    text = f"{', '.join(parts)}; {summary(tick.ledger, tick.watches.hub)}."
    if tick.admission.queue_is_full:
        limit = tick.watches.limits.max_queued_runs
        text += f" {limit} runs wait for their turn, so no more are asked for."
    text += f" {tick.cursor.why}" if tick.cursor.why else ""
    notes = [*tick.watches.problems, *seen.notes]
    return result(context, requests, text, notes, tick.cursor.to_text())


def summary(ledger: Ledger, watches: tuple[HubWatch, ...]) -> str:
    """`10000 known: 9950 waiting, 50 current`."""
    total: dict[str, int] = {}
    for watch in watches:
        for state, count in ledger.counts(watch.name).items():
            total[state] = total.get(state, 0) + count
    listed = ", ".join(f"{count} {state}" for state, count in total.items())
    return f"{sum(total.values())} known" + (f": {listed}" if listed else "")
