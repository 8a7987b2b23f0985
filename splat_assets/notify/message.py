"""What is told about a run, as JSON for programs and as text for people."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any

from splat_assets.notify.settings import EventKind


@dataclass(frozen=True)
class Notification:
    """One event of one run. `id` is the same however often it is delivered."""

    id: str
    kind: EventKind
    dataset: str
    run_id: str
    job: str
    summary: str  # one sentence
    time: float  # of the event, seconds since the epoch
    details: list[str] = field(default_factory=list)  # failed gates and errors, a sentence each
    figures: dict[str, Any] = field(default_factory=dict)

    @property
    def subject(self) -> str:
        what = {"success": "is done", "failure": "failed", "gate_failed": "failed a quality gate"}
        return f"[splat-assets] {self.dataset} {what[self.kind]}"

    @property
    def text(self) -> str:
        lines = [self.summary, *(f"- {line}" for line in self.details), ""]
        lines += [f"{name}: {value}" for name, value in self.figures.items()]
        return "\n".join([*lines, f"run: {self.run_id}", f"id: {self.id}"]) + "\n"

    def to_json(self) -> str:
        return json.dumps(asdict(self), ensure_ascii=False, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Notification:
        return cls(**json.loads(text))
