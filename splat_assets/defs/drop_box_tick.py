"""One tick of the sensor `drop_boxes`."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable

import dagster as dg

from splat_assets.datasets.registry import Registry
from splat_assets.defs.admission import Admission
from splat_assets.defs.drop_box import NAME
from splat_assets.defs.hub_sensors import result
from splat_assets.errors import TransientError, UserError
from splat_assets.watching.decide import NEVER
from splat_assets.watching.drop_box import (
    Item,
    check_readable,
    key_of,
    list_names,
    look_at,
    merge_item,
    register_item,
)
from splat_assets.watching.ledger import STATES, Entry, Ledger, open_ledger
from splat_assets.watching.watch_list import DropBox, WatchList

SCAN_SEC = 20.0  # a box with more files than can be looked at in this goes on in the next tick


def drop_box_tick(
    context: dg.SensorEvaluationContext, registry: Registry, watches: WatchList, *, now: float
) -> dg.SensorResult:
    """Look into the boxes and ask for the runs of what has arrived or was replaced."""
    deadline = time.monotonic() + SCAN_SEC
    places = _places(context.cursor)
    notes: list[str] = list(watches.problems)
    with open_ledger(registry) as ledger:
        admission = Admission(
            context.instance, ledger, NAME, watches.limits, sensors=(NAME,), now=now
        )
        for entry in admission.confirm():
            _ask(admission, registry, ledger, entry, entry.asked, notes)
        for box in watches.drop_boxes:
            try:
                places[box.name] = _look(ledger, box, places.get(box.name, ""), deadline, now)
                _admit(admission, registry, ledger, box, notes, now)
            except (UserError, TransientError) as error:
                notes.append(str(error))
        told = [f"{box.name}: {_counts(ledger, box)}" for box in watches.drop_boxes]
    kept = {box.name: places.get(box.name, "") for box in watches.drop_boxes}
    cursor = json.dumps({name: place for name, place in kept.items() if place})
    return result(context, admission.requests, ". ".join(told) + ".", notes, cursor)


def _look(ledger: Ledger, box: DropBox, after: str, deadline: float, now: float) -> str:
    """Bring the ledger up to date; returns the name to go on after, "" when all was looked at."""
    names = list_names(box)
    turn = [name for name in names if name > after] if after else names
    items: dict[str, Item] = {}
    for item in look_at(box, turn, deadline):
        items[key_of(box, item.name)] = item

    def change(known: dict[str, Entry]) -> Iterable[Entry]:
        return [merge_item(known.get(key), item, box, now=now) for key, item in items.items()]

    ledger.revise(list(items), change)
    present = {key_of(box, name) for name in names}
    for state in STATES:
        for entry in ledger.having(state, box.name) if state not in ("gone", "asked") else ():
            if entry.key not in present:
                reason = f"{entry.label} was taken out of the drop box."
                ledger.set(entry.key, state="gone", reason=reason, check_at=NEVER)
    return max(item.name for item in items.values()) if 0 < len(items) < len(turn) else ""


def _admit(
    admission: Admission,
    registry: Registry,
    ledger: Ledger,
    box: DropBox,
    notes: list[str],
    now: float,
) -> None:
    """Register what has arrived, and ask for the runs of it and of what was replaced."""
    for entry in ledger.having("found", box.name, due=now):
        if entry.seen < now:  # not looked at in this tick, so it may have changed
            continue
        try:
            check_readable(entry.label)
            spec = register_item(registry, box, entry.label)
        except UserError as error:
            notes.append(str(error))
            ledger.set(entry.key, state="refused", reason=str(error))
            continue
        ledger.set(entry.key, state="waiting", name=spec.name)
        admission.add_partitions([spec.name])
    if not box.launch:
        return
    for entry in ledger.having("waiting", box.name, limit=admission.room(box), due=now):
        _ask(admission, registry, ledger, entry, entry.head, notes)
    moved = ledger.moved(box.name, due=now, limit=admission.room(box))
    busy = admission.busy(entry.name for entry in moved)
    for entry in moved:
        if entry.name not in busy and entry.seen == now:
            try:
                check_readable(entry.label)
            except UserError as error:
                notes.append(str(error))
                ledger.set(entry.key, state="refused", reason=str(error))
                continue
            _ask(admission, registry, ledger, entry, entry.head, notes)


def _ask(
    admission: Admission,
    registry: Registry,
    ledger: Ledger,
    entry: Entry,
    version: str,
    notes: list[str],
) -> None:
    """Ask for a run, unless the dataset was removed or damaged meanwhile: then leave it alone."""
    try:
        spec = registry.get(entry.name)
    except UserError as error:
        notes.append(f"{entry.label} is left alone: {error}")
        ledger.set(entry.key, state="refused", reason=str(error), check_at=NEVER)
        return
    admission.add_partitions([entry.name])
    admission.ask(entry, version, spec)


def _counts(ledger: Ledger, box: DropBox) -> str:
    said = {"found": "arriving", "refused": "left out", "gone": "taken out"}
    counts = ledger.counts(box.name).items()
    return ", ".join(f"{count} {said.get(state, state)}" for state, count in counts) or "empty"


def _places(cursor: str | None) -> dict[str, str]:
    try:
        raw = json.loads(cursor or "{}")
        return {str(name): str(place) for name, place in raw.items()}
    except (ValueError, AttributeError):
        return {}
