"""What was tried and failed: one small file beside an asset, so that nothing is tried for ever.

The file says which work failed (the key of its inputs, options and code), why, and how often.
Whoever launches work by itself asks it first; a success, or a change of what is wanted, makes it
void.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from splat_assets.artifacts.manifest import write_text_atomic
from splat_assets.errors import TransientError, UserError

FILE = ".failed.json"
MAX_ATTEMPTS = 5
PAUSE_SEC = 300.0  # after the first failure; doubled after each further one

Kind = Literal["mistake", "transient", "crash"]


@dataclass(frozen=True)
class FailedAttempt:
    """The last failure of one asset of one dataset."""

    key: str  # `stages.Identity.key` of the work that failed
    kind: Kind  # mistake: the input's fault; transient: may pass; crash: anything else
    message: str
    count: int  # runs in a row in which this very work failed
    time: float  # of the last failure, seconds since the epoch
    run_id: str = ""  # of the last one

    def worth_repeating(self, wanted: str, now: float | None = None) -> bool:
        """True when other work is wanted by now, or what failed may have passed meanwhile."""
        if self.key != wanted:
            return True
        pause = PAUSE_SEC * 2 ** (self.count - 1)
        waited = (time.time() if now is None else now) - self.time
        return self.kind == "transient" and self.count < MAX_ATTEMPTS and waited >= pause


def failed_attempt(folder: Path) -> FailedAttempt | None:
    """The record in an asset's folder; None when the last attempt there did not fail."""
    try:
        return FailedAttempt(**json.loads((folder / FILE).read_text(encoding="utf-8")))
    except (FileNotFoundError, ValueError, TypeError):  # damaged: a record is not worth more
        return None


def record_failure(folder: Path, key: str, run_id: str, error: Exception) -> None:
    """Write down that the work `key` failed; a run that repeats a step counts once."""
    before = failed_attempt(folder)
    count = 1
    if before is not None and before.key == key:
        count = before.count + (before.run_id != run_id)
    record = FailedAttempt(key, kind_of(error), str(error)[:500], count, time.time(), run_id)
    folder.mkdir(parents=True, exist_ok=True)
    write_text_atomic(folder / FILE, json.dumps(asdict(record)))


def forget_failure(folder: Path) -> None:
    """The work was done after all."""
    (folder / FILE).unlink(missing_ok=True)


def kind_of(error: BaseException) -> Kind:
    """Whose fault an error is."""
    if isinstance(error, UserError):
        return "mistake"
    return "transient" if isinstance(error, TransientError) else "crash"
