"""The outbox: one small file per notification and channel, removed when it was delivered.

A restart, a crash or a receiver that is down loses nothing: what lies there is tried again with
growing pauses. A crash between delivery and removal repeats a message, which its id shows.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
from dataclasses import dataclass
from pathlib import Path

from splat_assets.artifacts.manifest import write_text_atomic
from splat_assets.errors import TransientError, UserError
from splat_assets.isolation import exclusive
from splat_assets.notify.deliver import deliver
from splat_assets.notify.message import Notification
from splat_assets.notify.settings import NotifySettings
from splat_assets.progress import silent

FOLDER = ".notify-outbox"  # in the data root
FIRST_PAUSE_SEC = 10.0
MAX_PAUSE_SEC = 3600.0
MAX_AGE_SEC = 3 * 86400.0
SENT_KEPT_SEC = 7 * 86400.0


@dataclass(frozen=True)
class Delivered:
    """What one round did."""

    sent: int
    waiting: int
    given_up: tuple[str, ...]  # a sentence each


@dataclass(frozen=True)
class Outbox:
    """The folder of what is to be delivered. `<id>.json`: message, channel, attempts, due time."""

    folder: Path

    def post(self, notification: Notification, settings: NotifySettings) -> int:
        """Put a notification in for every channel that wants it; how many were new.

        Posting the same id again changes nothing, also after its delivery.
        """
        added = 0
        for name, channel in settings.channels.items():
            if not channel.wants(notification.kind, notification.dataset):
                continue
            path = self.folder / f"{_file_id(notification.id, name)}.json"
            if path.exists() or path.with_suffix(".sent").exists():
                continue
            self.folder.mkdir(parents=True, exist_ok=True)
            _write(path, {"channel": name, "message": notification.to_json(), "attempts": 0})
            added += 1
        return added

    def send_due(
        self, settings: NotifySettings, *, budget_sec: float = 20.0, now: float | None = None
    ) -> Delivered:
        """Deliver what is due, oldest first, within a time budget."""
        if not self.folder.is_dir():
            return Delivered(0, 0, ())
        began, sent, given_up = time.monotonic(), 0, []
        with exclusive(self.folder / ".lock", silent()):
            self._forget_sent()
            for path in sorted(self.folder.glob("*.json"), key=lambda p: p.stat().st_mtime):
                moment = time.time() if now is None else now
                entry = json.loads(path.read_text(encoding="utf-8"))
                if entry.get("due", 0.0) > moment:
                    continue
                if time.monotonic() - began > budget_sec:
                    break
                complaint = self._try(path, entry, settings, moment)
                if complaint is None:
                    sent += not path.exists()
                else:
                    given_up.append(complaint)
        return Delivered(sent, len(list(self.folder.glob("*.json"))), tuple(given_up))

    def _try(self, path: Path, entry: dict, settings: NotifySettings, now: float) -> str | None:
        """Deliver one entry; a sentence when it is given up."""
        notification = Notification.from_json(entry["message"])
        channel = settings.channels.get(entry["channel"])
        if channel is None:
            path.unlink()
            return f"{path.name}: there is no channel {entry['channel']!r} any more."
        try:
            deliver(notification, channel, settings.smtp)
        except TransientError as error:
            attempts = entry["attempts"] + 1
            if now - notification.time > MAX_AGE_SEC:
                path.unlink()
                return f"Given up after {attempts} attempts: {error}"
            pause = min(FIRST_PAUSE_SEC * 2 ** (attempts - 1), MAX_PAUSE_SEC)
            _write(path, {**entry, "attempts": attempts, "due": now + pause, "why": str(error)})
            return None
        except UserError as error:
            path.unlink()
            return f"Not delivered: {error}"
        path.replace(path.with_suffix(".sent"))
        return None

    def _forget_sent(self) -> None:
        for path in self.folder.glob("*.sent"):
            with contextlib.suppress(FileNotFoundError):
                if time.time() - path.stat().st_mtime > SENT_KEPT_SEC:
                    path.unlink()


def _file_id(id_: str, channel: str) -> str:
    return hashlib.sha256(f"{id_}\0{channel}".encode()).hexdigest()[:32]


def _write(path: Path, entry: dict) -> None:
    write_text_atomic(path, json.dumps(entry))
