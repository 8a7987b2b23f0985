"""Copies of remote artifacts on this host: fetched once, shared by its runs, bounded in size.

A copy in use is held by a shared file lock for as long as its process works with it, so that
making room never takes it away; the kernel frees the lock however the process ends. The copies
used least recently go first.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from splat_assets.artifacts.manifest import MANIFEST, read_manifest
from splat_assets.errors import UserError
from splat_assets.isolation import exclusive
from splat_assets.progress import Progress

LOCKS = ".locks/copies"  # below the scratch folder; two lock files a version:
USED, FETCHING = ".used", ".fetching"
ARRIVING = ".arriving-"  # a version being fetched; what is there is gone on from
OLD_LOCK_SEC = 7 * 24 * 3600
RESERVE_BYTES = 2 * 10**9  # of the disk, for the work itself

_held = threading.local()  # descriptors of this thread's locks


@dataclass(frozen=True)
class NearCopies:
    """The copies below `<folder>/<dataset>/<asset>/<version>/`, together at most `limit` bytes.

    Copies in use do not count against the limit, but against the disk.
    """

    folder: Path
    limit: int

    def is_here(self, near: Path) -> bool:
        return (near / MANIFEST).is_file()

    def hold(self, near: Path) -> bool:
        """Keep a copy from being removed until `let_go`; False when it is not (any more) here."""
        lock = _lock_file(near)
        descriptor = _open_lock(lock)
        _flock(descriptor, shared=True)
        if not self.is_here(near):
            os.close(descriptor)
            return False
        os.utime(lock)
        _descriptors().append(descriptor)
        return True

    @contextlib.contextmanager
    def fetching(self, near: Path, progress: Progress) -> Iterator[None]:
        """Be the only process of this host that fetches this version; waits its turn."""
        what = f"another process that fetches {near.name}"
        with exclusive(_lock_file(near, FETCHING), progress, what=what):
            yield

    def make_room(self, needed: int) -> None:
        """Remove old copies until `needed` more bytes fit.

        Raises `UserError` when they cannot, because of the limit or of the disk.
        """
        if needed > self.limit:
            raise UserError(
                f"An artifact of {needed / 1e9:.1f} GB has to be brought to this host, but "
                f"SPLAT_ASSETS_SCRATCH_GB allows {self.limit / 1e9:.1f} GB; raise it."
            )
        copies = self._copies()
        used = sum(size for _, size, _ in copies)
        for near, size, _ in sorted(copies, key=lambda copy: copy[2]):
            if used + needed <= self.limit and self._free() >= needed + RESERVE_BYTES:
                return
            if remove_unused(near):
                used -= size
        if self._free() < needed:
            raise UserError(
                f"{needed / 1e9:.1f} GB have to be brought to {self.folder}, whose disk has "
                f"{self._free() / 1e9:.1f} GB free; free some space or set SPLAT_ASSETS_SCRATCH "
                "to a folder on another disk."
            )

    def _copies(self) -> list[tuple[Path, int, float]]:
        """(folder, bytes, last use) of every copy."""
        found = []
        for manifest in self.folder.glob(f"*/*/*/{MANIFEST}"):
            near = manifest.parent
            if near.name.startswith("."):
                continue
            with contextlib.suppress(UserError, FileNotFoundError):  # it is just being removed
                lock = _lock_file(near)
                used = lock if lock.exists() else manifest
                found.append((near, read_manifest(near).total_bytes, used.stat().st_mtime))
        return found

    def _free(self) -> int:
        self.folder.mkdir(parents=True, exist_ok=True)
        return shutil.disk_usage(self.folder).free


def let_go() -> None:
    """Release what this thread held: the work it was held for is done."""
    held = _descriptors()
    while held:
        os.close(held.pop())


def remove_unused(near: Path) -> bool:
    """Remove a copy, or what arrived of one, unless a process uses it; True when it is gone."""
    version = near.name.removeprefix(ARRIVING)
    lock = _lock_file(near.with_name(version), USED if version == near.name else FETCHING)
    descriptor = _open_lock(lock)
    try:
        if not _flock(descriptor, shared=False):
            return False
        # the manifest first: without it a copy is none, should the rest be interrupted
        (near / MANIFEST).unlink(missing_ok=True)
        shutil.rmtree(near, ignore_errors=True)
        return True
    finally:
        os.close(descriptor)


def sweep_locks(asset_folder: Path) -> None:
    """Remove lock files of versions long gone. Fresh ones stay: somebody may be about to lock."""
    for lock in _lock_file(asset_folder / "*").parent.glob("*"):
        if not (asset_folder / lock.stem).exists():
            with contextlib.suppress(FileNotFoundError):
                if time.time() - lock.stat().st_mtime > OLD_LOCK_SEC:
                    lock.unlink()


def _lock_file(near: Path, purpose: str = USED) -> Path:
    dataset, asset, version = near.parts[-3:]
    return near.parents[2] / LOCKS / dataset / asset / (version + purpose)


def _open_lock(lock: Path) -> int:
    lock.parent.mkdir(parents=True, exist_ok=True)
    return os.open(lock, os.O_RDWR | os.O_CREAT, 0o644)


def _flock(descriptor: int, *, shared: bool) -> bool:
    """Take a lock; a shared one waits for whoever fetches or removes, an exclusive one does not."""
    import fcntl

    if shared:
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _descriptors() -> list[int]:
    if not hasattr(_held, "descriptors"):
        _held.descriptors = []
    held: list[int] = _held.descriptors
    return held
