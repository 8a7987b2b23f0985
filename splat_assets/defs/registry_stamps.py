"""When each registry file was last written: one listing tells what was edited, no file is read."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

from splat_assets.datasets.registry import SUFFIX, Registry

CLOCK_GRAIN_NS = 20_000_000  # file times advance in steps, at most this long


@dataclass(frozen=True)
class Stamps:
    """Dataset → when its file was written, in nanoseconds since 1970.

    Locally the inode's change time counts, so that a file copied or unpacked with an old date is
    new, too; in a bucket, the storage's own clock.
    """

    written: dict[str, int]
    settled: int  # every file written later than this has, or will get, a later stamp

    @property
    def is_settled(self) -> bool:
        """False while a file could be written once more and keep its stamp."""
        return all(stamp <= self.settled for stamp in self.written.values())

    def since(self, before: int) -> set[str]:
        """Datasets whose file was written after `before`, the `settled` of an earlier listing."""
        return {name for name, stamp in self.written.items() if stamp > before}


def read_stamps(registry: Registry) -> Stamps:
    """List the registry; a folder that is not there yet has no files."""
    if "://" in str(registry.folder):
        written = _bucket_stamps(str(registry.folder))
        return Stamps(written, max(written.values(), default=0))
    settled = time.time_ns() - CLOCK_GRAIN_NS
    return Stamps(_folder_stamps(Path(registry.folder)), settled)


def _folder_stamps(folder: Path) -> dict[str, int]:
    try:
        with os.scandir(folder) as entries:
            return {
                entry.name.removesuffix(SUFFIX): entry.stat().st_ctime_ns
                for entry in entries
                if entry.name.endswith(SUFFIX)
            }
    except FileNotFoundError:
        return {}


def _bucket_stamps(url: str) -> dict[str, int]:
    import fsspec

    fs, path = fsspec.url_to_fs(url)
    fs.invalidate_cache()
    try:
        entries = fs.ls(path, detail=True)
    except FileNotFoundError:
        return {}
    found = {}
    for entry in entries:
        name = entry["name"].rpartition("/")[2]
        stamp = entry.get("LastModified") or entry.get("mtime") or entry.get("created")
        if name.endswith(SUFFIX) and stamp is not None:
            seconds = stamp.timestamp() if hasattr(stamp, "timestamp") else float(stamp)
            found[name.removesuffix(SUFFIX)] = int(seconds * 1e9)
    return found
