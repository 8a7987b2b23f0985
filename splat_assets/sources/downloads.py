"""A place for half-finished downloads that outlives the run, so that the next one resumes.

`<folder>/<key>/` belongs to one source; an OS lock keeps two runs out of the same files. It is
removed when the fetch is over, and swept when nobody came back for it within a week.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from splat_assets.errors import Cancelled, TransientError

KEEP_SEC = 7 * 24 * 3600.0


@contextlib.contextmanager
def resumable_folder(downloads: Path, key: str) -> Iterator[Path]:
    """The folder of `key` below `downloads`, locked.

    It stays when the work was stopped or the network failed, and is removed otherwise. A second
    run for the same key meanwhile gets a folder of its own, which is not kept.
    """
    _sweep(downloads)
    slot = downloads / hashlib.sha256(key.encode()).hexdigest()[:20]
    slot.mkdir(parents=True, exist_ok=True)
    with (downloads / f"{slot.name}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            mine = True
        except BlockingIOError:
            mine = False
            slot = downloads / f"{slot.name}.{time.time_ns()}"
            slot.mkdir()
        keep = False
        try:
            yield slot
        except (TransientError, Cancelled):
            keep = mine
            raise
        except Exception:
            raise  # resuming would not help, and the disk may be full
        except BaseException:
            keep = mine  # a signal
            raise
        finally:
            if not keep:
                discard(slot)
            if mine:
                Path(lock.name).unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        downloads.rmdir()  # only when it is empty


def discard(slot: Path) -> None:
    """Forget a half-finished download, because resuming it would not help."""
    shutil.rmtree(slot, ignore_errors=True)


def _sweep(downloads: Path) -> None:
    if not downloads.is_dir():
        return
    for slot in downloads.iterdir():
        with contextlib.suppress(OSError):
            if slot.is_dir() and time.time() - _last_touched(slot) > KEEP_SEC:
                shutil.rmtree(slot)


def _last_touched(slot: Path) -> float:
    """The newest time in the folder; one that was never written to counts from its making."""
    times = [path.stat().st_mtime for path in slot.rglob("*")]
    return max([slot.stat().st_mtime, *times])
