"""What lies in the data root without use, and removing it.

Finished work is never removed unasked: artifacts of a dataset that is no longer registered are only
named. What nobody can ever use again (staging of dead runs, checkpoints of work that is wanted no
more, versions no pointer names, forgotten scratch folders) goes.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from splat_assets.artifacts.manifest import MANIFEST
from splat_assets.artifacts.store import POINTER, ArtifactStore
from splat_assets.datasets.registry import Registry
from splat_assets.datasets.spec import SLUG
from splat_assets.errors import UserError
from splat_assets.isolation import SCRATCH_PREFIX
from splat_assets.stages import ASSETS, STAGES, wanted_identity

RESUME_DAYS = 7.0  # checkpoints of unfinished work are kept this long at least
SCRATCH_DAYS = 1.0
DAY_SEC = 86400.0

Kind = Literal[
    "dataset_not_registered",
    "dataset_not_made",
    "unfinished_work",
    "stale_checkpoint",
    "unnamed_version",
    "scratch",
]


@dataclass(frozen=True)
class Finding:
    """One thing without use. `removable`: `gc` removes it without being asked twice."""

    kind: Kind
    name: str  # of the dataset, or of the folder
    path: Path
    bytes: int
    removable: bool
    detail: str


def find_waste(store: ArtifactStore, registry: Registry, now: float | None = None) -> list[Finding]:
    """Everything without use in the local part of the data root and in the temporary folder.

    Nothing that a live run works on is named: such a run holds its asset's lock.
    """
    moment = time.time() if now is None else now
    registered = set(registry.names())
    found: list[Finding] = []
    folders = sorted(p for p in store.local.glob("*") if _is_dataset_folder(p))
    for folder in folders:
        if folder.name in registered:
            for asset in ASSETS:
                found += _in_asset(store, registry, folder.name, asset, moment)
        else:
            detail = f"no registry file; `splat-assets gc --orphans` deletes it ({folder})"
            size = used_bytes(folder)
            found.append(
                Finding("dataset_not_registered", folder.name, folder, size, False, detail)
            )
    for name in sorted(registered):
        if all(store.locate(name, asset) is None for asset in ASSETS):
            detail = f"registered, nothing made yet: splat-assets run {name}"
            file = Path(registry.path(name))
            found.append(Finding("dataset_not_made", name, file, 0, False, detail))
    return found + list(_scratch(moment))


def remove(findings: list[Finding], *, orphans: bool = False) -> int:
    """Remove what is removable, and with `orphans` the unregistered datasets; the bytes freed."""
    freed = 0
    for finding in findings:
        if finding.removable or (orphans and finding.kind == "dataset_not_registered"):
            if finding.path.is_dir():
                shutil.rmtree(finding.path, ignore_errors=True)
            else:
                finding.path.unlink(missing_ok=True)
            freed += finding.bytes
    return freed


def used_bytes(folder: Path) -> int:
    """Bytes on disk below a folder; a file with several names (hard links) counts once."""
    seen, total = set(), 0
    for base, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(FileNotFoundError):  # a run may be at work
                entry = os.lstat(os.path.join(base, name))  # noqa: PTH118 (a third faster)
                if (entry.st_dev, entry.st_ino) not in seen:
                    seen.add((entry.st_dev, entry.st_ino))
                    total += entry.st_size
    return total


def _in_asset(
    store: ArtifactStore, registry: Registry, dataset: str, asset: str, now: float
) -> Iterator[Finding]:
    folder = store.folder(dataset, asset)
    if not folder.is_dir() or _is_busy(folder):
        return
    for partial in folder.glob(".partial-*"):
        detail = f"{asset}: left behind by a run that was killed"
        yield Finding("unfinished_work", dataset, partial, used_bytes(partial), True, detail)
    wanted = None
    with contextlib.suppress(UserError):  # a damaged registry file: only age counts
        wanted = wanted_identity(asset, registry.get(dataset), store).key
    for resume in store.resume_folders(dataset, asset) if STAGES[asset].resumable else ():
        age = (now - _newest(resume)) / DAY_SEC
        if resume.name != wanted and age > RESUME_DAYS:
            detail = f"{asset}: checkpoints of {age:.0f} days ago for other settings or inputs"
            yield Finding("stale_checkpoint", dataset, resume, used_bytes(resume), True, detail)
    if store.is_remote:
        return  # the versions here are copies, kept and let go by `near_copies`
    named = {POINTER, *store.versions(dataset, asset)}
    for version in folder.iterdir():
        if version.name not in named and (version / MANIFEST).is_file():
            detail = f"{asset}: a version that is neither current nor the one before"
            yield Finding("unnamed_version", dataset, version, used_bytes(version), True, detail)


def _scratch(now: float) -> Iterator[Finding]:
    """Folders of our child processes that outlived them; not the folder of the device locks."""
    for folder in Path(tempfile.gettempdir()).glob(f"{SCRATCH_PREFIX}*"):
        try:
            mine = folder.owner() == getpass.getuser()
            age = (now - folder.stat().st_mtime) / DAY_SEC
        except (OSError, KeyError):
            continue
        locks = folder.name == f"{SCRATCH_PREFIX}{getpass.getuser()}"
        if folder.is_dir() and mine and not locks and age > SCRATCH_DAYS:
            detail = f"a folder for passing data to a child process, {age:.0f} days old"
            yield Finding("scratch", folder.name, folder, used_bytes(folder), True, detail)


def _is_dataset_folder(path: Path) -> bool:
    return bool(SLUG.fullmatch(path.name)) and any((path / asset).is_dir() for asset in ASSETS)


def _is_busy(folder: Path) -> bool:
    """True while a run holds the asset's lock."""
    import fcntl

    lock = folder / ".lock"
    if not lock.exists():
        return False
    with lock.open("a") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def _newest(folder: Path) -> float:
    times = [p.stat().st_mtime for p in folder.rglob("*") if p.is_file()]
    return max(times, default=folder.stat().st_mtime)
