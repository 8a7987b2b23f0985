"""What the sensors ask of the Hugging Face Hub: pages of listings, single repositories, trees.

It speaks through the session of the `huggingface_hub` client (token, proxies, redirects, errors),
one request at a time. The client's own `list_datasets` cannot resume at a page and sleeps through
rate limits, for minutes; here a page is named by its cursor, and a Hub that asks to wait raises
`HubBusyError` at once.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Iterable
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any, Literal
from urllib.parse import parse_qs, quote, urlsplit

from huggingface_hub import get_session
from huggingface_hub.errors import (
    DisabledRepoError,
    GatedRepoError,
    HfHubHTTPError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import (  # type: ignore[attr-defined]
    build_hf_headers,
    hf_raise_for_status,
)

from splat_assets.errors import SourceError, TransientError
from splat_assets.sources.uri import HUB_URL
from splat_assets.watching.decide import DISABLED
from splat_assets.watching.hub_repo import HubRepo
from splat_assets.watching.watch_list import HubWatch

Sort = Literal["createdAt", "lastModified"]
PAGE = 1000
EXPAND = ("sha", "createdAt", "lastModified", "gated", "private", "disabled", "usedStorage")
MAX_CURSOR = 2000  # characters; the Hub's cursors have about a hundred
REQUEST_SEC = 10.0
DEFAULT_WAIT_SEC = 60.0  # a Hub that says "too many requests" without saying for how long
MAX_WAIT_SEC = 3600.0
_HttpError: type[Exception] = next(
    base for base in HfHubHTTPError.__mro__ if base.__name__ == "HTTPError"
)
_RATE_LIMIT = re.compile(r"\br=(\d+)\s*;\s*t=(\d+)")


class HubBusyError(TransientError):
    """The Hub cannot answer now; `wait_sec` when it said for how long (a rate limit)."""

    def __init__(self, sentence: str, wait_sec: float | None = None) -> None:
        super().__init__(sentence)
        self.wait_sec = wait_sec


class RepoError(SourceError):
    """A repository cannot be used; `state` says in one word why."""

    def __init__(self, state: str, sentence: str) -> None:
        super().__init__(sentence)
        self.state = state


class CursorError(SourceError):
    """The Hub no longer knows the page a listing stopped at."""


@dataclass(frozen=True)
class Page:
    """One page of repositories; `cursor` names the next one, "" when this was the last."""

    repos: tuple[HubRepo, ...]
    cursor: str


class HubApi:
    """The Hub as the sensors see it. `deadline` is a time of `time.monotonic`."""

    def __init__(self, deadline: float) -> None:
        self.endpoint = (os.environ.get("HF_ENDPOINT") or HUB_URL).rstrip("/")
        self.deadline = deadline
        self.num_requests = 0

    def out_of_time(self) -> bool:
        return time.monotonic() >= self.deadline

    def list_repos(self, watch: HubWatch, sort: Sort, cursor: str, limit: int) -> Page:
        """One page of what a watch asks for, latest first.

        Raises `HubBusyError`, or `CursorError` when the cursor is not known any more.
        """
        query: list[tuple[str, str]] = [("sort", sort), ("direction", "-1"), ("limit", str(limit))]
        query += [("author", watch.author)] if watch.author else []
        query += [("search", watch.search)] if watch.search else []
        query += [("filter", tag) for tag in watch.tags]
        query += [("expand", name) for name in EXPAND]
        query += [("cursor", cursor)] if cursor else []
        try:
            answer = self._get("/api/datasets", query)
        except RepoError:
            if cursor:
                raise CursorError("The Hub does not know this page any more.") from None
            raise
        repos = (HubRepo.from_json(item) for item in answer.json())
        return Page(tuple(repo for repo in repos if repo is not None), _next_cursor(answer))

    def repo(self, repo: str, revision: str = "") -> HubRepo:
        """One repository, under its present name. Raises `RepoError` or `HubBusyError`."""
        path = f"/api/datasets/{quote(repo)}"
        path += f"/revision/{quote(revision, safe='')}" if revision else ""
        found = HubRepo.from_json(self._get(path, [("expand", name) for name in EXPAND]).json())
        if found is None:
            raise RepoError("gone", f"{repo} is not a repository of the form org/name.")
        if found.disabled:
            raise RepoError("disabled", f"{repo} {DISABLED}")
        return found

    def check_access(self, repo: str) -> None:
        """Raise `RepoError` when the files of a gated repository may not be read with our token."""
        self._get(f"/api/datasets/{quote(repo)}/auth-check", [])

    def tree(self, repo: str, revision: str, max_pages: int) -> dict[str, tuple[int, str]] | None:
        """Size and blob by path of all files at a revision; None when there are too many pages.

        Raises `RepoError` (state `no-revision` after a rewritten history) or `HubBusyError`.
        """
        files: dict[str, tuple[int, str]] = {}
        path = f"/api/datasets/{quote(repo)}/tree/{quote(revision, safe='')}"
        cursor = ""
        for _ in range(max_pages):
            query = [("recursive", "true"), ("limit", str(PAGE))]
            answer = self._get(path, query + ([("cursor", cursor)] if cursor else []))
            for entry in answer.json():
                if entry.get("type") == "file":
                    blob = (entry.get("lfs") or {}).get("oid") or entry.get("oid") or ""
                    files[str(entry["path"])] = (int(entry.get("size") or 0), str(blob))
            cursor = _next_cursor(answer)
            if not cursor:
                return files
        return None

    def _get(self, path: str, query: Iterable[tuple[str, str]]) -> Any:
        """One request; the answer is 200. The token only ever goes to our own endpoint."""
        if self.out_of_time():
            raise HubBusyError("There was no time left in this tick to ask the Hub.", 0.0)
        self.num_requests += 1
        try:
            answer = get_session().get(
                self.endpoint + path,
                params=list(query),
                headers=build_hf_headers(library_name="splat-assets"),
                timeout=REQUEST_SEC,
            )
            _raise_if_busy(answer)
            hf_raise_for_status(answer)
        except OfflineModeIsEnabled:
            raise HubBusyError("The Hub is not asked while HF_HUB_OFFLINE is set.") from None
        except HfHubHTTPError as error:
            raise _repo_error(error, path) from None
        except (_HttpError, OSError) as error:
            name = type(error).__name__
            raise HubBusyError(f"The Hub cannot be reached ({name}: {error}).") from None
        return answer


def _raise_if_busy(answer: Any) -> None:
    status = answer.status_code
    if status == 429 or (status == 503 and "Retry-After" in answer.headers):
        wait = wait_seconds(answer.headers)
        raise HubBusyError(f"The Hub asks to wait {wait:.0f} s (HTTP {status}).", wait)
    if status == 408 or status >= 500:
        raise HubBusyError(f"The Hub is not available now (HTTP {status}).")


def wait_seconds(headers: Any, now: float | None = None) -> float:
    """How long to wait, from `Retry-After` (seconds or a date) or the `RateLimit` draft."""
    text = (headers.get("Retry-After") or "").strip()
    wait = DEFAULT_WAIT_SEC
    limit = _RATE_LIMIT.search(headers.get("RateLimit") or "")
    if text.isdigit():
        wait = float(text)
    elif text:
        with contextlib.suppress(ValueError):
            wait = parsedate_to_datetime(text).timestamp() - (time.time() if now is None else now)
    elif limit and limit[1] == "0":
        wait = float(limit[2])
    return min(max(wait, 1.0), MAX_WAIT_SEC)


def _repo_error(error: HfHubHTTPError, path: str) -> RepoError | HubBusyError:
    repo = "/".join(path.removeprefix("/api/datasets/").split("/")[:2])
    status = error.response.status_code
    if isinstance(error, GatedRepoError):
        return RepoError("gated", f"{repo} is gated: accept its conditions and set HF_TOKEN.")
    if isinstance(error, DisabledRepoError):
        return RepoError("disabled", f"{repo} {DISABLED}")
    if isinstance(error, RevisionNotFoundError):
        return RepoError("no-revision", f"{repo} has no such revision any more.")
    if isinstance(error, RepositoryNotFoundError):
        return RepoError("gone", f"{repo} is not on the Hub: deleted, or private now.")
    if status in (401, 403):
        return RepoError("refused", f"{repo}: the Hub refuses access (HTTP {status}).")
    return RepoError("refused", f"{repo}: the Hub refuses the request (HTTP {status}).")


def _next_cursor(answer: Any) -> str:
    """The cursor of the `Link: …; rel="next"` header; of the URL only this is followed."""
    url = answer.links.get("next", {}).get("url", "")
    cursor = parse_qs(urlsplit(url).query).get("cursor", [""])[0]
    if len(cursor) > MAX_CURSOR:
        raise HubBusyError("The Hub's page cursor is longer than expected.")
    return cursor
