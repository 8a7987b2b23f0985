"""Where artifacts live: `<root>/<dataset>/<asset>/<version>/`, and a `current` pointer beside.

The root is a local folder or any fsspec URL. Work always happens in a local staging folder; an
artifact appears whole (rename, or upload) and becomes current by one atomic write. A run that
fails, is cancelled or is killed therefore changes nothing, and the next run sweeps what it left.

Runs of one host on the same asset take turns. Runs of several hosts do not: whoever publishes last
is current, and neither removes what the other is uploading.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from splat_assets.artifacts.bucket import Bucket
from splat_assets.artifacts.manifest import (
    MANIFEST,
    Manifest,
    parse_manifest,
    read_manifest,
    write_manifest,
    write_text_atomic,
)
from splat_assets.artifacts.near_copies import (
    ARRIVING,
    NearCopies,
    let_go,
    remove_unused,
    sweep_locks,
)
from splat_assets.errors import UserError
from splat_assets.isolation import exclusive
from splat_assets.progress import Progress, silent
from splat_assets.settings import SCRATCH_GB, Settings

POINTER = "current"
KEPT_VERSIONS = 2
UPLOADING = ".uploading"
KEPT_RUN_FILES = 10
FOREIGN_UPLOAD_SEC = 24 * 3600  # another host's unfinished upload is left alone for this long
SWITCHES = 3  # how often a version may be replaced while we fetch it


@dataclass(frozen=True)
class ArtifactStore:
    """The artifacts of all datasets.

    Layout, the same below `root` and `local` (one folder when `root` is local; otherwise `local` is
    a cache of the versions seen here):

        <dataset>/<asset>/current            version ids, one a line: the current, then the previous
        <dataset>/<asset>/<version>/         a published artifact, with `manifest.json`
        <dataset>/<asset>/.partial-<run>/    local only: being written
        <dataset>/<asset>/.resume/<key>/     local only: checkpoints of unfinished work
        <dataset>/<asset>/.runs/<run>.…      local only: progress and logs of the last runs
        <dataset>/<asset>/.lock              local only: held by the one run that works here
        <dataset>/<asset>/.arriving-<v>/     local only: a version on its way from the root
    """

    root: str  # local path or fsspec URL
    local: Path
    limit: int = int(SCRATCH_GB * 1e9)  # bytes of copies on this host, when the root is remote

    @classmethod
    def open(cls, settings: Settings) -> ArtifactStore:
        """The store of these settings; nothing is created before it is needed."""
        return cls(settings.data_root, settings.local_root, settings.scratch_bytes)

    @property
    def is_remote(self) -> bool:
        return "://" in self.root and not self.root.startswith("file://")

    @property
    def bucket(self) -> Bucket:
        """The remote root; only where `is_remote`."""
        return Bucket(self.root)

    @property
    def _copies(self) -> NearCopies:
        return NearCopies(self.local, self.limit)

    def folder(self, dataset: str, asset: str) -> Path:
        """The local folder of an asset."""
        return self.local / dataset / asset

    # --- reading -------------------------------------------------------------------------------

    def versions(self, dataset: str, asset: str) -> list[str]:
        """Ids of the published versions, the current one first; empty when there is none."""
        if self.is_remote:
            text = self.bucket.read_text(dataset, asset, POINTER)
        else:
            path = self.folder(dataset, asset) / POINTER
            text = path.read_text(encoding="utf-8") if path.is_file() else None
        return (text or "").split()

    def current(self, dataset: str, asset: str) -> Manifest | None:
        """Manifest of the current version without bringing its files near; None when missing."""
        return self.current_at(dataset, asset)[0]

    def current_at(self, dataset: str, asset: str) -> tuple[Manifest | None, str | None]:
        """`current` and `locate` in one: two requests at most where the root is remote."""
        versions = self.versions(dataset, asset)
        if not versions:
            return None, None
        place, near = self._place(dataset, asset, versions[0]), self.folder(dataset, asset)
        if not self.is_remote:
            return read_manifest(near / versions[0], asset), place
        if self._copies.is_here(near / versions[0]):
            with contextlib.suppress(UserError):  # another process may just be making room
                return read_manifest(near / versions[0], asset), place
        text = self.bucket.read_text(dataset, asset, versions[0], MANIFEST)
        where = f"{self.root}/{dataset}/{asset}"
        return None if text is None else parse_manifest(text, where), place

    def locate(self, dataset: str, asset: str) -> str | None:
        """Path or URL of the current version, for people; None when missing."""
        versions = self.versions(dataset, asset)
        return self._place(dataset, asset, versions[0]) if versions else None

    def _place(self, dataset: str, asset: str, version: str) -> str:
        if self.is_remote:
            return f"{self.root.rstrip('/')}/{dataset}/{asset}/{version}"
        return str(self.folder(dataset, asset) / version)

    def open_local(self, dataset: str, asset: str, progress: Progress | None = None) -> Path | None:
        """Local folder of the current version, or None when there is none.

        A remote version is brought here once, whole, and not removed to make room for others while
        this process works on the asset it was opened for (until its next `lock`).
        """
        progress = progress or silent()
        missing = ""
        for _ in range(SWITCHES):
            versions = self.versions(dataset, asset)
            if not versions:
                return None
            near = self.folder(dataset, asset) / versions[0]
            if not self.is_remote:
                return near
            try:
                while not (self._copies.is_here(near) and self._copies.hold(near)):
                    with disk_full_is_a_sentence(self.local):
                        self._fetch(dataset, asset, versions[0], near, progress)
                return near
            except FileNotFoundError as error:  # replaced twice since we read the pointer
                missing = str(error)
        raise UserError(
            f"{self.root}/{dataset}/{asset} is incomplete ({missing}); run {asset} again."
        )

    def run_file(self, dataset: str, asset: str, run_id: str, suffix: str) -> Path:
        """Where a run keeps its log or progress beside the artifact; the oldest are swept."""
        return self.folder(dataset, asset) / ".runs" / f"{run_id}{suffix}"

    # --- writing -------------------------------------------------------------------------------

    @contextlib.contextmanager
    def lock(self, dataset: str, asset: str, progress: Progress) -> Iterator[None]:
        """Be the only run on this host that works on this asset of this dataset; waits its turn.

        Inside, remains of dead runs are swept: whoever wrote them no longer holds the lock.
        """
        folder = self.folder(dataset, asset)
        let_go()
        with disk_full_is_a_sentence(self.local):
            folder.mkdir(parents=True, exist_ok=True)
            what = f"another run that works on {asset} of {dataset}"
            with exclusive(folder / ".lock", progress, what=what):
                self._sweep(dataset, asset)
                yield

    @contextlib.contextmanager
    def staging(self, dataset: str, asset: str, run_id: str) -> Iterator[Path]:
        """An empty folder to work in, gone afterwards unless published. Hold `lock` around it."""
        path = self.folder(dataset, asset) / f".partial-{run_id}"
        path.mkdir(parents=True)
        try:
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)

    def publish(
        self,
        staged: Path,
        dataset: str,
        asset: str,
        manifest: Manifest,
        progress: Progress | None = None,
    ) -> Path:
        """Make a staged folder the current version and return where it now lies locally.

        The manifest replaces the one in the folder. The version before stays; older ones go.
        """
        write_manifest(staged, manifest)
        before = self.versions(dataset, asset)
        folder = self.folder(dataset, asset)
        version = manifest.run_id
        while version in before or (folder / version).exists():
            version += "+"  # the same run may publish again (a step retried after its success)
        _flush(staged)
        if self.is_remote:
            self._upload(staged, dataset, asset, version, progress or silent())
            before = self.versions(dataset, asset)  # another host may have published meanwhile
        final = folder / version
        staged.rename(final)
        _flush_folder(folder)
        kept = [version, *before][:KEPT_VERSIONS]
        pointer = "\n".join(kept) + "\n"
        try:
            if self.is_remote:
                self.bucket.write_text(pointer, dataset, asset, POINTER)
            else:
                write_text_atomic(folder / POINTER, pointer)
                _flush_folder(folder)
        except BaseException:
            shutil.rmtree(final, ignore_errors=True)
            raise
        if self.is_remote:
            self.bucket.delete(dataset, asset, version, UPLOADING)
            self._copies.hold(final)
            self._copies.make_room(0)
        self._sweep(dataset, asset)
        return final

    def resume_folder(self, dataset: str, asset: str, key: str) -> Path:
        """Where unfinished work with these exact inputs keeps its checkpoints; others are swept."""
        parent = self.folder(dataset, asset) / ".resume"
        if parent.is_dir():
            for other in parent.iterdir():
                if other.name != key:
                    shutil.rmtree(other, ignore_errors=True)
        path = parent / key
        path.mkdir(parents=True, exist_ok=True)
        return path

    def resume_folders(self, dataset: str, asset: str) -> list[Path]:
        """The folders of unfinished work that are there."""
        parent = self.folder(dataset, asset) / ".resume"
        return sorted(path for path in parent.iterdir()) if parent.is_dir() else []

    def forget_resume(self, dataset: str, asset: str) -> None:
        """Drop the checkpoints: the work is done."""
        shutil.rmtree(self.folder(dataset, asset) / ".resume", ignore_errors=True)

    def remove(self, dataset: str) -> None:
        """Delete every artifact of a dataset, here and at the root."""
        shutil.rmtree(self.local / dataset, ignore_errors=True)
        if self.is_remote:
            self.bucket.delete(dataset)

    def _sweep(self, dataset: str, asset: str) -> None:
        """Remove what no pointer names: staging of dead runs, versions replaced or never finished.

        The caller holds the lock, so nothing here belongs to a live run of this host.
        """
        named = {POINTER, *self.versions(dataset, asset)}
        folder = self.folder(dataset, asset)
        for entry in folder.iterdir():
            version = entry.name.removeprefix(ARRIVING)
            if version in named:
                continue
            if entry.is_dir() and (entry.name != version or not version.startswith(".")):
                if self.is_remote:
                    remove_unused(entry)  # readers do not hold the lock
                else:
                    shutil.rmtree(entry, ignore_errors=True)
            elif entry.name.startswith((".partial-", "." + POINTER)):
                if entry.is_dir():
                    shutil.rmtree(entry, ignore_errors=True)
                else:
                    entry.unlink(missing_ok=True)
        runs = [p for p in (self.folder(dataset, asset) / ".runs").glob("*") if p.is_file()]
        for old in sorted(runs, key=lambda p: p.stat().st_mtime, reverse=True)[KEPT_RUN_FILES:]:
            old.unlink(missing_ok=True)
        if self.is_remote:
            sweep_locks(folder)
            self._sweep_remote(dataset, asset, named)

    # --- remote --------------------------------------------------------------------------------

    def _upload(
        self, staged: Path, dataset: str, asset: str, version: str, progress: Progress
    ) -> None:
        """Upload a folder, its manifest last; a marker tells other hosts that it is on its way.

        The marker stays until the pointer names the version.
        """
        place = (dataset, asset, version)
        mark = json.dumps({"host": socket.gethostname(), "pid": os.getpid(), "time": time.time()})
        self.bucket.write_text(mark, *place, UPLOADING)
        files = [p.relative_to(staged).as_posix() for p in staged.rglob("*") if p.is_file()]
        self.bucket.upload(
            staged, sorted(name for name in files if name != MANIFEST), *place, progress=progress
        )
        self.bucket.upload(staged, [MANIFEST], *place)

    def _fetch(
        self, dataset: str, asset: str, version: str, near: Path, progress: Progress
    ) -> None:
        """Bring a version near. What arrived before an interruption is not fetched again."""
        text = self.bucket.read_text(dataset, asset, version, MANIFEST)
        if text is None:
            raise FileNotFoundError(f"no {version}/{MANIFEST}")
        manifest = parse_manifest(text, f"{self.root}/{dataset}/{asset}/{version}/{MANIFEST}")
        arriving = near.with_name(ARRIVING + version)
        with self._copies.fetching(near, progress):
            if self._copies.is_here(near):
                return  # another process brought it while we waited
            arrived = sum(p.stat().st_size for p in arriving.rglob("*") if p.is_file())
            self._copies.make_room(max(manifest.total_bytes - arrived, 0))
            arriving.mkdir(parents=True, exist_ok=True)
            self.bucket.download(
                manifest.files, arriving, dataset, asset, version, progress=progress
            )
            (arriving / MANIFEST).write_text(text, encoding="utf-8")
            if near.exists():  # remains of a copy whose removal was interrupted
                shutil.rmtree(near)
            arriving.rename(near)

    def _sweep_remote(self, dataset: str, asset: str, named: set[str]) -> None:
        for name, is_folder in self.bucket.names(dataset, asset):
            if not is_folder or name in named:
                continue
            if not self._is_live_upload(self.bucket.read_text(dataset, asset, name, UPLOADING)):
                self.bucket.delete(dataset, asset, name)

    def _is_live_upload(self, mark: str | None) -> bool:
        """Ours are dead (we hold the lock); another host's count as live for a day."""
        try:
            found = json.loads(mark or "")
            young = time.time() - float(found["time"]) < FOREIGN_UPLOAD_SEC
            return young and found["host"] != socket.gethostname()
        except (ValueError, KeyError, TypeError):
            return False


@contextlib.contextmanager
def disk_full_is_a_sentence(folder: Path) -> Iterator[None]:
    """Turn "no space left" from whatever library into a `UserError` that says where and what."""
    try:
        yield
    except Exception as error:
        if isinstance(error, UserError) or not is_disk_full(error):
            raise
        raise UserError(
            f"The disk that holds {folder} is full; free some space and run again "
            "(nothing was half-written, earlier results are untouched)."
        ) from error


def is_disk_full(error: BaseException) -> bool:
    """True for ENOSPC and EDQUOT, also where a library passed them on as text only."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return True
    text = str(error).lower()
    return any(hint in text for hint in ("no space left", "disk is full", "disk quota exceeded"))


def _flush(folder: Path) -> None:
    """Force a tree to disk, so that after a power cut the pointer never names lost files."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as stream:
                os.fsync(stream.fileno())


def _flush_folder(folder: Path) -> None:
    with contextlib.suppress(OSError):  # not every file system lets a folder be opened
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
