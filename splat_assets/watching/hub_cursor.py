"""What a Hub sensor remembers between ticks: where each listing stopped, and a Hub that is busy."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Self

from splat_assets.watching.hub_api import HubBusyError
from splat_assets.watching.hub_listing import Listing

FIRST_PAUSE_SEC = 30.0
LONGEST_PAUSE_SEC = 900.0


@dataclass
class HubCursor:
    """A few hundred bytes per watch; never the names of repositories."""

    listings: dict[str, Listing] = field(default_factory=dict)
    wait_until: float = 0.0  # seconds since 1970; the Hub is not asked before
    why: str = ""
    failures: int = 0  # in a row
    turn: int = 0  # whose turn it is to go first, so that no watch waits for ever

    @classmethod
    def from_text(cls, text: str | None) -> Self:
        """From the sensor's cursor; a fresh one when that is not ours."""
        try:
            raw = json.loads(text or "{}")
            listings = {name: Listing.from_json(value) for name, value in raw["listings"].items()}
            return cls(
                listings,
                float(raw.get("wait_until", 0.0)),
                str(raw.get("why", "")),
                int(raw.get("failures", 0)),
                int(raw.get("turn", 0)),
            )
        except (ValueError, KeyError, TypeError, AttributeError):
            return cls()

    def to_text(self) -> str:
        listings = {name: listing.to_json() for name, listing in self.listings.items()}
        waiting = {"wait_until": round(self.wait_until, 1), "why": self.why}
        raw = {"listings": listings, "turn": self.turn, "failures": self.failures}
        return json.dumps(raw | (waiting if self.wait_until else {}), separators=(",", ":"))

    def keep_only(self, watches: Collection[str]) -> None:
        """Forget watches that are no more."""
        self.listings = {name: v for name, v in self.listings.items() if name in watches}

    def pause(self, error: HubBusyError, now: float) -> None:
        """The Hub is busy: ask again when it said, or after a pause that doubles each time."""
        if error.wait_sec == 0.0:  # our own time was up, the Hub is fine
            return
        pause = min(FIRST_PAUSE_SEC * 2**self.failures, LONGEST_PAUSE_SEC)
        self.wait_until = now + (error.wait_sec or pause)
        self.why = str(error)
        self.failures = min(self.failures + 1, 10)

    def answered(self) -> None:
        """The Hub is well."""
        self.wait_until, self.why, self.failures = 0.0, "", 0
