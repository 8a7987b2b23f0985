"""`HubRepo`: what a listing of the Hub tells about one dataset repository."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self


@dataclass(frozen=True)
class HubRepo:
    """A repository. Times are the Hub's own texts (ISO 8601, UTC), which sort as they are."""

    key: str  # the Hub's own id, which outlives a rename
    repo: str  # org/name
    sha: str  # newest commit of the default branch
    created: str
    modified: str
    gated: bool = False
    private: bool = False
    disabled: bool = False
    used_bytes: int = 0  # of all commits; 0 where the Hub does not say

    @classmethod
    def from_json(cls, item: dict[str, Any]) -> Self | None:
        """From the API's JSON; None for what is no `org/name` (a few old repositories)."""
        repo = str(item.get("id") or "")
        if repo.count("/") != 1:
            return None
        return cls(
            key=str(item.get("_id") or repo.lower()),
            repo=repo,
            sha=str(item.get("sha") or ""),
            created=str(item.get("createdAt") or ""),
            modified=str(item.get("lastModified") or ""),
            gated=bool(item.get("gated")),
            private=bool(item.get("private")),
            disabled=bool(item.get("disabled")),
            used_bytes=int(item.get("usedStorage") or 0),
        )
