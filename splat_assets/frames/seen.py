"""What importing a source gave: the frames, and what could not be used."""

from __future__ import annotations

from dataclasses import dataclass, field

from splat_assets.frames.table import Frame


@dataclass
class Seen:
    """Collected while importing, in the order of the source.

    `passed_over` are frames left out before they were decoded, since there are far more than asked
    for. `unreadable` maps a file below `files/` to the reason.
    """

    noun: str  # "photos" or "frames", for messages
    frames: list[Frame] = field(default_factory=list)
    passed_over: list[Frame] = field(default_factory=list)
    unreadable: dict[str, str] = field(default_factory=dict)
    facts: dict[str, object] = field(default_factory=dict)  # more figures for the summary

    def describe_unreadable(self, limit: int = 3) -> str:
        """`a.jpg (truncated), b.jpg (empty file) and 4 more`."""
        named = [f"{name} ({reason})" for name, reason in list(self.unreadable.items())[:limit]]
        rest = len(self.unreadable) - len(named)
        return ", ".join(named) + (f" and {rest} more" if rest else "")
