"""Listing what a watch asks for, a few pages a tick, so that no tick is long and none is repeated.

A pass goes from the latest repository to where the previous pass began ("head": usually one page),
or to the very end ("sweep": the first time, and now and then, for repositories that were retagged,
published or renamed later). Where it stopped is a small state for the sensor's cursor, never a list
of names; a pass only counts when it came to its end.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any, Self

from splat_assets.watching.hub_api import CursorError, HubApi, RepoError, Sort
from splat_assets.watching.hub_repo import HubRepo
from splat_assets.watching.watch_list import HubWatch

EXACT_SEC = 6.0  # between questions after exact names, on average: a tenth of the rate limit
# What is new since the last tick rarely fills a page. The Hub gives no more than 1000.
HEAD_PAGE, SWEEP_PAGE = 100, 1000


@dataclass(frozen=True)
class Listing:
    """How far the listing of one watch has come.

    `mark` is the time (the Hub's text) up to which everything is known; `page` the cursor of the
    next page, or the next of the exact names; `top` the latest time seen in the pass under way,
    which becomes `mark` at its end; `began` when that pass began and `swept` when the last sweep
    did, in seconds since 1970.
    """

    query: str = ""
    sweeping: bool = True
    page: str = ""
    top: str = ""
    mark: str = ""
    began: float = 0.0
    swept: float = 0.0

    @property
    def under_way(self) -> bool:
        return self.began > 0

    def to_json(self) -> dict[str, Any]:
        plain = Listing()
        return {k: v for k, v in asdict(self).items() if v != getattr(plain, k)}

    @classmethod
    def from_json(cls, raw: object) -> Self:
        """What was kept; a fresh listing when it does not make sense (another version of ours)."""
        try:
            return cls(**raw)  # type: ignore[arg-type]
        except TypeError:
            return cls()


@dataclass(frozen=True)
class Step:
    """What one page brought: repositories, those that cannot be had, and where to go on."""

    repos: tuple[HubRepo, ...]
    troubles: tuple[tuple[str, RepoError], ...]  # (exact name, why)
    listing: Listing
    swept: bool  # this page ended a sweep
    done: bool  # this page ended a pass


def list_on(
    api: HubApi, watch: HubWatch, listing: Listing, sort: Sort, *, now: float, sweep_sec: float
) -> Iterator[Step]:
    """Go on with a watch's listing until the pass ends or the time is up.

    Raises `HubBusyError` between pages: what was yielded before is safe to keep.
    """
    if listing.query != watch.query_key:
        listing = Listing(query=watch.query_key)
    if not listing.under_way:
        if watch.repos and now - listing.swept < EXACT_SEC * len(watch.repos):
            return
        due = not listing.mark or now - listing.swept >= sweep_sec
        listing = replace(listing, sweeping=due, page="", top="", began=now)
    while not api.out_of_time():
        step = _one_by_one(api, watch, listing) if watch.repos else _page(api, watch, listing, sort)
        yield step
        if step.done:
            return
        listing = step.listing


def _page(api: HubApi, watch: HubWatch, listing: Listing, sort: Sort) -> Step:
    head = not listing.sweeping and bool(listing.mark)
    try:
        page = api.list_repos(watch, sort, listing.page, HEAD_PAGE if head else SWEEP_PAGE)
    except CursorError:  # begin this pass again; what it brought so far is known
        page = api.list_repos(watch, sort, "", SWEEP_PAGE)
        listing = replace(listing, page="", top="")

    def when(repo: HubRepo) -> str:
        return repo.created if sort == "createdAt" else repo.modified

    # of the mark's own time there may be several, some of them new
    fresh = tuple(repo for repo in page.repos if not head or when(repo) >= listing.mark)
    top = max([listing.top, *(when(repo) for repo in fresh)])
    done = not page.cursor or len(fresh) < len(page.repos)
    wanted = tuple(repo for repo in fresh if watch.wants(repo.repo))
    step = replace(listing, page=page.cursor, top=top)
    return Step(wanted, (), _ended(step) if done else step, done and listing.sweeping, done)


def _one_by_one(api: HubApi, watch: HubWatch, listing: Listing) -> Step:
    """The next of the exact names; each costs a request, so every pass is a sweep."""
    index = int(listing.page or 0) if (listing.page or "0").isdigit() else 0
    names = [repo for repo in watch.repos if watch.wants(repo)]
    found: tuple[HubRepo, ...] = ()
    troubles: tuple[tuple[str, RepoError], ...] = ()
    if index < len(names):
        try:
            found = (api.repo(names[index]),)
        except RepoError as error:
            troubles = ((names[index], error),)
    done = index + 1 >= len(names)
    step = replace(listing, page=str(index + 1), top="all", sweeping=True)
    return Step(found, troubles, _ended(step) if done else step, done, done)


def _ended(listing: Listing) -> Listing:
    """The state after a complete pass."""
    return replace(
        listing,
        page="",
        top="",
        began=0.0,
        mark=max(listing.mark, listing.top) or "0",
        swept=listing.began if listing.sweeping else listing.swept,
    )
