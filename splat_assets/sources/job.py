"""What every fetcher gets and gives back, and what they share: reuse, copying, limits.

A fetcher puts originals below `job.files` under their own relative paths and returns a `Receipt`.
What it wants to know next time (ETag, blob ids, file times) goes into the receipt's `memory`, which
is kept beside the data as `origin.json`.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from splat_assets.artifacts.manifest import FileEntry, link_or_copy
from splat_assets.datasets.options import SourceOptions
from splat_assets.errors import SourceError, UserError
from splat_assets.progress import Progress
from splat_assets.sources.media import human_bytes
from splat_assets.sources.raw_dataset import RawDataset
from splat_assets.sources.uri import SourceRef

ORIGIN = "origin.json"
CHUNK = 4 * 2**20


@dataclass(frozen=True)
class Earlier:
    """The previous artifact of the same dataset, as far as it is whole."""

    raw: RawDataset
    entries: dict[str, FileEntry]  # by path below the artifact, "files/…" or "docs/…"
    memory: dict[str, Any]

    def find(self, path: str) -> FileEntry | None:
        """The entry of an original, or of a document, by its path in the source."""
        return self.entries.get(f"files/{path}") or self.entries.get(f"docs/{path}")


@dataclass(frozen=True)
class FetchJob:
    """One fetch: from where, to where, within which limits."""

    ref: SourceRef
    files: Path  # the originals go here
    downloads: Path  # survives an interrupted run; for what can be resumed
    options: SourceOptions
    earlier: Earlier | None
    progress: Progress

    @property
    def identity(self) -> dict[str, Any]:
        """Source and options; with equal identities the same remote state gives equal files."""
        return {"source": self.ref.label, "options": self.options.model_dump(mode="json")}


@dataclass
class Receipt:
    """What a fetcher did. `hashes` and `reused` are by path below the artifact ("files/…")."""

    revision: str = ""
    license: str = ""
    hashes: dict[str, str] = field(default_factory=dict)
    reused: set[str] = field(default_factory=set)
    transferred: int = 0  # bytes brought from outside
    memory: dict[str, Any] = field(default_factory=dict)


def open_earlier(previous: RawDataset | None) -> Earlier | None:
    """The previous artifact ready for reuse; None when it is damaged or was never there."""
    if previous is None:
        return None
    try:
        previous.validate()
        memory = json.loads((previous.path / ORIGIN).read_text(encoding="utf-8"))
    except (UserError, OSError, ValueError):
        return None
    return Earlier(previous, {entry.path: entry for entry in previous.manifest.files}, memory)


def reuse_everything(job: FetchJob, receipt: Receipt) -> Receipt:
    """Link all originals of the earlier artifact; nothing relevant has changed."""
    assert job.earlier is not None
    for name in job.earlier.entries:
        if name != ORIGIN:
            _link(job, receipt, job.earlier.entries[name], name)
    receipt.license = receipt.license or job.earlier.raw.summary.get("license", "")
    job.progress.update(1.0, "nothing changed since the last fetch")
    return receipt


def reuse_file(job: FetchJob, receipt: Receipt, path: str) -> None:
    """Link one original of the earlier artifact, by its path in the source."""
    assert job.earlier is not None
    entry = job.earlier.find(path)
    assert entry is not None
    _link(job, receipt, entry, f"files/{path}")


def _link(job: FetchJob, receipt: Receipt, entry: FileEntry, name: str) -> None:
    assert job.earlier is not None
    link_or_copy(job.earlier.raw.path / entry.path, job.files.parent / name)
    receipt.hashes[name] = entry.sha256
    receipt.reused.add(name)


def copy_hashed(source: Path, target: Path, progress: Progress) -> str:
    """Copy a user's file with its modification time; returns its sha256.

    Raises `SourceError` when the file changes under our hands (it is still being written).
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256()
    before = source.stat()
    copied = 0
    with source.open("rb") as reader, target.open("xb") as writer:
        while chunk := reader.read(CHUNK):
            progress.check()
            digest.update(chunk)
            writer.write(chunk)
            copied += len(chunk)
    after = source.stat()
    if (after.st_size, after.st_mtime_ns) != (before.st_size, before.st_mtime_ns) or (
        copied != after.st_size
    ):
        raise SourceError(f"{source} changed while it was copied; run again when it is complete.")
    os.utime(target, ns=(before.st_atime_ns, before.st_mtime_ns))
    return digest.hexdigest()


def warn_ignored(job: FetchJob, ignored: str) -> None:
    """Tell that something a user might have meant is not used."""
    if ignored:
        job.progress.warn(
            f"{job.ref.label}: {ignored} are not used; choose with source.include and "
            "source.exclude."
        )


def check_limits(name: str, sizes: Iterable[int], options: SourceOptions, folder: Path) -> None:
    """Refuse what is over `max_files` or `max_bytes`, or does not fit on the disk of `folder`."""
    listed = list(sizes)
    total = sum(listed)
    if len(listed) > options.max_files:
        raise SourceError(
            f"{name} holds {len(listed)} files to take, more than the limit of "
            f"{options.max_files}; raise source.max_files or choose with source.include."
        )
    check_bytes(name, total, options)
    need_space(folder, total)


def check_bytes(name: str, total: int, options: SourceOptions) -> None:
    """Refuse more than `max_bytes`."""
    if total > options.max_bytes:
        raise SourceError(
            f"{name} holds {human_bytes(total)} to take, more than the limit of "
            f"{human_bytes(options.max_bytes)}; raise source.max_bytes or choose with "
            "source.include."
        )


def need_space(folder: Path, num_bytes: int) -> None:
    """Raise `UserError` when `num_bytes` more do not fit on the disk of `folder`."""
    free = shutil.disk_usage(folder).free
    if num_bytes > free:
        raise UserError(
            f"The disk of {folder} has {human_bytes(free)} free and {human_bytes(num_bytes)} are "
            "needed; free some space and run again."
        )
