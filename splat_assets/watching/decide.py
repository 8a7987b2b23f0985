"""Decisions of the sensors as pure functions: what a listing changes, how many runs, what matters.

Nothing here asks the Hub, the disk or Dagster.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

from splat_assets.datasets.options import SourceOptions
from splat_assets.sources import media
from splat_assets.watching.hub_repo import HubRepo
from splat_assets.watching.ledger import Entry, State
from splat_assets.watching.watch_list import Watch

RECHECK_SEC = 24 * 3600.0  # what was refused is looked at again after a day, or when it changed
NEVER = 1e12  # a time to come that does not
DISABLED = "is disabled on the Hub."
EMPTY = "is empty: it has no commit yet."
MAX_NAMED = 3  # changed files a log line names


def merge(
    old: Entry | None, repo: HubRepo, watch: str, *, watches: Collection[str], now: float
) -> Entry:
    """The ledger's entry for a repository that has just been listed.

    The first watch that found it keeps it while that watch exists. Something refused or gone is
    taken up again when it changed on the Hub, or when its time to be looked at again has come.
    """
    if old is None:
        fresh = Entry(
            key=repo.key,
            kind="hub",
            label=repo.repo,
            watch=watch,
            state="found",
            head=repo.sha,
            created=repo.created,
            used_bytes=repo.used_bytes,
            restricted=repo.gated,
            seen=now,
        )
        return _refuse_unusable(fresh, repo, now)
    entry = replace(
        old,
        label=repo.repo,
        watch=old.watch if old.watch in watches else watch,
        head=repo.sha or old.head,
        used_bytes=repo.used_bytes,
        restricted=repo.gated,
        seen=now,
    )
    if old.state in ("refused", "gone") and old.check_at < NEVER:
        before = (old.head, old.restricted, old.label)
        changed = before != (entry.head, entry.restricted, entry.label)
        is_back = old.state == "gone" or old.reason.endswith((DISABLED, EMPTY))
        if changed or is_back or now >= old.check_at:
            entry = revive(entry)
    return _refuse_unusable(entry, repo, now)


def revive(entry: Entry) -> Entry:
    """Back to where it was before it was refused."""
    state: State = "current" if entry.done else "waiting" if entry.name else "found"
    return replace(entry, state=state, reason="", check_at=0.0)


def _refuse_unusable(entry: Entry, repo: HubRepo, now: float) -> Entry:
    reason = ""
    if repo.disabled:
        reason = f"{repo.repo} {DISABLED}"
    elif not repo.sha:
        reason = f"{repo.repo} {EMPTY}"
    if not reason or entry.state == "refused":
        return entry
    return replace(entry, state="refused", reason=reason, check_at=now + RECHECK_SEC)


def how_many_runs(
    watch: Watch, *, asked_last_hour: int, left_in_tick: int, queued: int, max_queued: int
) -> int:
    """How many runs a watch may ask for now: its rates, the tick's limit, and the queue's room."""
    room = min(watch.runs_per_tick, left_in_tick, max_queued - queued)
    if watch.runs_per_hour is not None:
        room = min(room, watch.runs_per_hour - asked_last_hour)
    return max(room, 0)


def is_relevant(path: str, options: SourceOptions, folder: str = "") -> bool:
    """True when a dataset with these options could be made from this file of its repository.

    README, licence and other documents are kept with a dataset but are no part of it.
    """
    if folder:
        if not path.startswith(folder + "/"):
            return False
        path = path.removeprefix(folder + "/")
    if media.is_junk(path) or not media.is_wanted(path, options.include, options.exclude):
        return False
    if media.is_document(path) or media.is_auxiliary(path):
        return False
    return media.is_of_interest(path) or media.is_archive(path)


def relevant_changes(
    before: Mapping[str, tuple[int, str]],
    after: Mapping[str, tuple[int, str]],
    options: SourceOptions,
    folder: str = "",
) -> list[str]:
    """Relevant files that were added, removed or replaced; trees are (size, blob) by path."""
    return sorted(
        path
        for path in before.keys() | after.keys()
        if before.get(path) != after.get(path) and is_relevant(path, options, folder)
    )


def relevant_bytes(
    tree: Mapping[str, tuple[int, str]], options: SourceOptions, folder: str = ""
) -> int:
    """Size of the relevant files."""
    return sum(size for path, (size, _) in tree.items() if is_relevant(path, options, folder))


def name_some(paths: list[str]) -> str:
    """`a.jpg, b.jpg, c.jpg and 4 more`."""
    more = f" and {len(paths) - MAX_NAMED} more" if len(paths) > MAX_NAMED else ""
    return ", ".join(paths[:MAX_NAMED]) + more
