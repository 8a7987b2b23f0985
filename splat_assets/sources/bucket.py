"""A file or folder of a bucket (`s3://bucket/inbox/scene.zip`), by any fsspec URL.

The listing decides what is needed, as everywhere; files whose size and ETag (or time) are those of
the previous fetch are linked from there. Blocks that have arrived outlive an interruption.
"""

from __future__ import annotations

import hashlib
import shutil
import threading
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from pathlib import Path, PurePosixPath
from typing import Any

from splat_assets.artifacts.bucket import PART_BYTES, Bucket
from splat_assets.errors import Cancelled, SourceError
from splat_assets.sources import media
from splat_assets.sources.downloads import resumable_folder
from splat_assets.sources.job import (
    FetchJob,
    Receipt,
    check_limits,
    reuse_everything,
    reuse_file,
    warn_ignored,
)
from splat_assets.sources.layout import Layout, choose_layout

WORKERS = 8
Stamp = list[Any]  # bytes, and an ETag or a time as text: JSON keeps it as it is


def list_bucket(location: str) -> dict[str, Stamp]:
    """Size and version of the file, under "", or of all files below a prefix, by relative path.

    Empty when there is nothing. Raises `TransientError` or `UserError`.
    """
    folder, _, name = location.rpartition("/")
    bucket = Bucket(folder)
    place = bucket.place(name)

    def find() -> dict[str, dict[str, Any]]:
        place.fs.invalidate_cache()
        return place.fs.find(place.path, detail=True)

    try:
        entries = bucket.patiently(find)
    except FileNotFoundError:
        return {}
    top = place.path.rstrip("/")
    found = {}
    for path, entry in entries.items():
        versions = (entry.get(key) for key in ("ETag", "etag", "LastModified", "mtime", "created"))
        version = next((str(value) for value in versions if value), "")
        found[path.removeprefix(top).strip("/")] = [int(entry.get("size") or 0), version]
    return found


def fetch_bucket(job: FetchJob) -> Receipt:
    """Bring what is needed of a bucket's file or folder.

    Raises:
        SourceError: nothing there, or no dataset of pictures; one sentence.
        UserError: access is refused, or a package is missing.
        TransientError: the storage does not answer; what has arrived is kept.
    """
    label = job.ref.label
    listed = list_bucket(job.ref.location)
    if not listed:
        raise SourceError(f"There is nothing at {label}; check the bucket and the name.")
    if "" in listed:  # one file: under its own name, and unpacked later when it is an archive
        own = PurePosixPath(job.ref.location).name
        stamps, remote = {own: listed[""]}, {own: ""}
    else:
        stamps = {path: stamp for path, stamp in listed.items() if _is_wanted(job, path)}
        remote = {path: path for path in stamps}
        if not stamps:
            raise SourceError(f"{label} is empty, or all of its files are left out.")
    memory = job.earlier.memory if job.earlier else {}
    client = _Client(job, {path: stamp[0] for path, stamp in stamps.items()}, remote)
    if "" not in listed:
        sizes = {path: stamp[0] for path, stamp in stamps.items()}
        layout = choose_layout(sizes, client.read, label, options=job.options)
        if isinstance(layout, Layout):
            warn_ignored(job, layout.ignored)
        stamps = {path: stamps[path] for path in (*layout.files, *layout.documents)}
    receipt = Receipt(memory={"identity": job.identity, "stamps": stamps})
    check_limits(label, [stamp[0] for stamp in stamps.values()], job.options, job.files)
    if memory.get("identity") == job.identity and memory.get("stamps") == stamps:
        return reuse_everything(job, receipt)
    missing = []
    for path, stamp in stamps.items():
        known = memory.get("stamps", {}).get(path) == stamp and stamp[1]
        if known and job.earlier and job.earlier.find(path):
            reuse_file(job, receipt, path)
        else:
            missing.append(path)
    key = f"{job.identity} {sorted((path, stamps[path]) for path in missing)}"
    with resumable_folder(job.downloads, key) as slot:
        client.bring(missing, slot, receipt)
    return receipt


def _is_wanted(job: FetchJob, path: str) -> bool:
    if ".." in path.split("/"):
        raise SourceError(f"{job.ref.label} is unsafe: it holds the path {path!r}.")
    return not media.is_junk(path) and media.is_wanted(
        path, job.options.include, job.options.exclude
    )


class _Client:
    """Reads and downloads; `remote` is the path of each file below the location."""

    def __init__(self, job: FetchJob, sizes: dict[str, int], remote: dict[str, str]) -> None:
        folder, _, name = job.ref.location.rpartition("/")
        self._job, self._sizes, self._remote = job, sizes, remote
        self._bucket = Bucket(folder)
        self._top = self._bucket.place(name)
        self._stop = threading.Event()
        self._moved = 0

    def read(self, path: str, limit: int | None) -> bytes:
        """A file's content, or its first `limit` bytes."""
        size = self._sizes[path]
        return self._block(path, 0, size if limit is None else min(limit, size))

    def bring(self, paths: list[str], slot: Path, receipt: Receipt) -> None:
        """Download into `slot`, then move all of it to the originals."""
        total = sum(self._sizes[path] for path in paths) or 1
        with ThreadPoolExecutor(WORKERS, thread_name_prefix="bucket") as pool:
            waiting: set[Future[None]] = {
                pool.submit(self._download, path, slot, receipt) for path in paths
            }
            try:
                while waiting:
                    done, waiting = wait(waiting, 0.2, FIRST_EXCEPTION)
                    for future in done:
                        future.result()
                    moved = min(self._moved, total)
                    text = f"downloading {self._job.ref.label}: {len(waiting)} files to go"
                    self._job.progress.update(moved / total, text, bytes=float(moved))
            except BaseException:
                self._stop.set()
                for future in waiting:
                    future.cancel()
                raise
        for path in paths:
            target = self._job.files / path
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.move(slot / "files" / path, target)  # a rename on one file system

    def _download(self, path: str, slot: Path, receipt: Receipt) -> None:
        """Append blocks to what an earlier attempt has left."""
        size, target = self._sizes[path], slot / "files" / path
        target.parent.mkdir(parents=True, exist_ok=True)
        digest = hashlib.sha256()
        with target.open("a+b") as stream:
            stream.seek(0)
            while block := stream.read(PART_BYTES):
                digest.update(block)
            have = stream.tell()
            self._moved += have
            while have < size:
                if self._stop.is_set():
                    raise Cancelled("Stopped on request.")
                block = self._block(path, have, min(have + PART_BYTES, size))
                stream.write(block)
                digest.update(block)
                have += len(block)
                self._moved += len(block)
                receipt.transferred += len(block)
        receipt.hashes[f"files/{path}"] = digest.hexdigest()

    def _block(self, path: str, start: int, end: int) -> bytes:
        place = self._top / self._remote[path] if self._remote[path] else self._top

        def get() -> bytes:
            data: bytes = place.fs.cat_file(place.path, start=start, end=end)
            if len(data) != end - start:
                raise OSError(f"{place} ended early")
            return data

        try:
            return self._bucket.patiently(get, self._stop) if end > start else b""
        except FileNotFoundError:
            raise SourceError(f"{place} has just gone; put it there again.") from None
