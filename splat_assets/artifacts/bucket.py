"""Remote storage with patience: objects of any fsspec URL, put and fetched whole.

A bucket answers some requests with errors, late, or not at all. Everything here is tried again
with growing pauses and then said in one sentence. Big objects are streamed: uploads in parts,
downloads in blocks that a later attempt goes on from; memory stays bounded whatever their size.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from splat_assets.artifacts.manifest import FileEntry
from splat_assets.errors import Cancelled, TransientError, UserError
from splat_assets.progress import Progress, silent

if TYPE_CHECKING:
    from upath import UPath

REQUESTS = 8  # for one request to S3, its client's own attempts
ATTEMPTS = 6  # for a whole object
FIRST_PAUSE_SEC = 0.3
LONGEST_PAUSE_SEC = 10.0
PATIENCE_SEC = 300.0  # a storage that lets every request run into its time limit gets no longer
WORKERS = 4
READERS = 10  # small objects asked for at a time; as many connections a client keeps open
PART_BYTES = 16 * 2**20  # at most WORKERS × 4 parts are in memory
MAX_PARTS = 10_000  # of one upload, S3's limit
OBJECT_STORES = {"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "oss", "r2"}
# errors of client libraries that are not OSErrors: who raises them, and which no wait will mend
CLIENTS = ("botocore", "aiobotocore", "aiohttp", "urllib3", "requests", "azure", "gcsfs", "google")
HOPELESS = ("NoCredentials", "PartialCredentials", "CredentialRetrieval", "ProfileNotFound",
            "ParamValidation", "InvalidRegion", "NoRegion", "DefaultCredentials")  # fmt: skip
T = TypeVar("T")


@dataclass(frozen=True)
class Bucket:
    """A folder at an fsspec URL (`s3://bucket/prefix`). Names below it are given in parts."""

    url: str

    def place(self, *parts: str) -> UPath:
        """The path of an object. Raises `UserError` when the package for this URL is missing."""
        from upath import UPath

        path = UPath(self.url, **_options(self.url)).joinpath(*parts)
        try:
            if hasattr(path.fs, "retries"):  # of s3fs, around those of its client
                path.fs.retries = 2
        except ImportError as error:
            hint = ' (`pip install "splat-assets[s3]"`)' if self.url.startswith("s3") else ""
            raise UserError(f"{self.url} cannot be read: {error}{hint}.") from None
        return path

    # --- small objects -------------------------------------------------------------------------

    def read_text(self, *parts: str) -> str | None:
        """The text of an object; None when there is none."""
        path = self.place(*parts)
        one_request = (
            {"max_concurrency": 1} if _is_s3(self.url) else {}
        )  # else it asks for the size

        def read() -> str:
            path.fs.invalidate_cache()
            text: bytes = path.fs.cat_file(path.path, **one_request)
            return text.decode("utf-8")

        try:
            return self.patiently(read)
        except FileNotFoundError:
            return None

    def write_text(self, text: str, *parts: str) -> None:
        """Write an object by one request, so that readers see the old text or the new."""
        path = self.place(*parts)
        with self._told_when_missing():
            self._make_folder(path.parent)
            self.patiently(lambda: path.fs.pipe_file(path.path, text.encode("utf-8")))

    def create_text(self, text: str, *parts: str) -> bool:
        """Write an object that must not exist yet; False when it does.

        It may be ours, written by an attempt whose answer was lost. Storages that know no
        conditional write still find what was there before the call.
        """
        if self.read_text(*parts) is not None:
            return False
        path = self.place(*parts)
        data = text.encode("utf-8")
        try:
            with self._told_when_missing():
                self._make_folder(path.parent)
                self.patiently(lambda: path.fs.pipe_file(path.path, data, mode="create"))
        except FileExistsError:
            return False
        return True

    def names(self, *parts: str) -> list[tuple[str, bool]]:
        """What lies in a folder, sorted: (name, whether it is a folder). Empty when missing."""
        folder = self.place(*parts)

        def listing() -> list[dict[str, Any]]:
            folder.fs.invalidate_cache()
            return folder.fs.ls(folder.path, detail=True)

        try:
            entries = self.patiently(listing)
        except FileNotFoundError:
            return []
        own = folder.path.rstrip("/").rpartition("/")[2]
        found = [(e["name"].rstrip("/").rpartition("/")[2], e) for e in entries]
        return sorted(
            (name, entry["type"] == "directory")
            for name, entry in found
            if name and not (name == own and entry["name"].rstrip("/") == folder.path.rstrip("/"))
        )

    def delete(self, *parts: str) -> None:
        """Delete an object, or a folder with all there is below; missing is fine."""
        path = self.place(*parts)
        path.fs.invalidate_cache()
        with contextlib.suppress(FileNotFoundError):
            self.patiently(lambda: path.fs.rm(path.path, recursive=True))

    # --- artifacts -----------------------------------------------------------------------------

    def upload(
        self, folder: Path, names: Sequence[str], *parts: str, progress: Progress | None = None
    ) -> None:
        """Upload files of a local folder, several at a time, big ones in parts.

        Raises `Cancelled` soon after `progress` was asked to stop.
        """
        target = self.place(*parts)
        total = sum((folder / name).stat().st_size for name in names)

        def send(name: str, moved: _Moved) -> None:
            source, place = folder / name, target / name
            self._make_folder(place.parent)

            def put() -> None:
                options = _upload_options(self.url, source.stat().st_size)
                try:
                    with moved.attempt() as callback:
                        place.fs.put_file(str(source), place.path, callback=callback, **options)
                except FileNotFoundError as error:
                    if not source.exists() or "bucket" in str(error).lower():
                        raise
                    # an upload in parts whose last answer was lost: unknown when asked again
                    raise OSError(errno.EIO, str(error)) from error

            self.patiently(put, moved.stop)

        with self._told_when_missing():
            _in_parallel(send, names, total, "Uploading", progress or silent())

    def download(
        self,
        entries: Sequence[FileEntry],
        folder: Path,
        *parts: str,
        progress: Progress | None = None,
    ) -> None:
        """Bring files into a local folder, each checked by its hash.

        What is there already, whole files and the beginnings of others, is not fetched again.
        Raises `FileNotFoundError` when an object is gone, `UserError` when one was changed.
        """
        source = self.place(*parts)
        total = sum(entry.bytes for entry in entries)

        def fetch(entry: FileEntry, moved: _Moved) -> None:
            place = folder / entry.path
            if place.is_file() and place.stat().st_size == entry.bytes:
                moved.add(entry.bytes)
                return
            place.parent.mkdir(parents=True, exist_ok=True)
            part = place.with_name(place.name + ".part")
            for _ in range(2):  # a beginning that was left damaged is fetched afresh
                if self._fetch_blocks(source / entry.path, part, entry.bytes, moved) == (
                    entry.sha256
                ):
                    part.replace(place)
                    return
                part.unlink()
            raise UserError(
                f"{source / entry.path} is not what was uploaded (its hash differs); "
                "run the stage that makes it again."
            )

        _in_parallel(fetch, entries, total, "Downloading", progress or silent())

    def _fetch_blocks(self, source: UPath, part: Path, size: int, moved: _Moved) -> str:
        """Append blocks to the local beginning of a file until it is whole; returns its sha256."""
        digest = hashlib.sha256()
        with part.open("a+b") as stream:
            stream.seek(0)
            while block := stream.read(PART_BYTES):
                digest.update(block)
            have = stream.tell()
            moved.add(have)
            while have < size:
                end = min(have + PART_BYTES, size)

                def get(start: int = have, end: int = end) -> bytes:
                    data: bytes = source.fs.cat_file(source.path, start=start, end=end)
                    if len(data) != end - start:
                        raise OSError(errno.EIO, f"{source} ended early")
                    return data

                block = self.patiently(get, moved.stop)
                stream.write(block)
                digest.update(block)
                have = end
                moved.add(len(block))
            stream.flush()
            os.fsync(stream.fileno())
        return digest.hexdigest()

    def _make_folder(self, path: UPath) -> None:
        """Object stores have no folders, and asking for one may create the bucket."""
        if self.url.partition("://")[0] not in OBJECT_STORES:
            self.patiently(lambda: path.fs.makedirs(path.path, exist_ok=True))

    @contextlib.contextmanager
    def _told_when_missing(self) -> Iterator[None]:
        """A write finds nothing missing but the bucket itself."""
        try:
            yield
        except FileNotFoundError as error:
            raise UserError(
                f"Nothing can be written to {self.url} ({_sentence(error)}); create the bucket."
            ) from None

    # --- patience ------------------------------------------------------------------------------

    def patiently(self, action: Callable[[], T], stop: threading.Event | None = None) -> T:
        """Call `action`, again after a pause when the storage stumbles.

        Raises:
            FileNotFoundError, FileExistsError: as they are answers, not trouble.
            UserError: access is refused, or no credentials were found.
            TransientError: it still fails after all attempts.
            Cancelled: `stop` was set meanwhile.
        """
        began = time.monotonic()
        for attempt in range(1, ATTEMPTS + 1):
            if stop is not None and stop.is_set():
                raise Cancelled("Stopped on request.")
            try:
                return action()
            except (FileNotFoundError, FileExistsError):
                raise
            except Exception as error:
                if not self._may_pass(error):
                    raise
                if attempt == ATTEMPTS or time.monotonic() - began > PATIENCE_SEC:
                    raise TransientError(
                        f"The storage {self.url} does not answer ({_sentence(error)}); "
                        "try again later."
                    ) from error
            pause = min(FIRST_PAUSE_SEC * 2**attempt, LONGEST_PAUSE_SEC) * random.uniform(0.5, 1.0)
            if stop is None:
                time.sleep(pause)
            else:
                stop.wait(pause)
        raise AssertionError("unreachable")

    def _may_pass(self, error: Exception) -> bool:
        """True for trouble of network or storage. `UserError` for what only a person can mend."""
        if isinstance(error, PermissionError):
            raise UserError(
                f"The storage {self.url} refuses access ({_sentence(error)}); "
                "check its credentials and that the bucket exists."
            ) from None
        kind, module = type(error).__name__, type(error).__module__.partition(".")[0]
        if module in CLIENTS and kind.startswith(HOPELESS):
            raise UserError(
                f"The storage {self.url} cannot be opened ({_sentence(error)}); set its "
                "credentials, for S3 AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY."
            ) from None
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return False
        return isinstance(error, OSError) or module in CLIENTS


class _Moved:
    """Bytes moved so far, by all workers; and whether they should stop."""

    def __init__(self) -> None:
        self.stop = threading.Event()
        self._lock = threading.Lock()
        self.bytes = 0

    def add(self, count: int) -> None:
        with self._lock:
            self.bytes += count

    @contextlib.contextmanager
    def attempt(self) -> Iterator[Any]:
        """A callback for fsspec; what it counted is taken back when the attempt fails."""
        from fsspec.callbacks import Callback

        moved, counted = self, 0

        class Counting(Callback):
            def relative_update(self, inc: int = 1) -> None:
                nonlocal counted
                if moved.stop.is_set():
                    raise Cancelled("Stopped on request.")
                counted += inc
                moved.add(inc)

        try:
            yield Counting()
        except BaseException:
            self.add(-counted)
            raise


def _in_parallel(
    task: Callable[[Any, _Moved], None],
    items: Sequence[Any],
    total: int,
    verb: str,
    progress: Progress,
) -> None:
    """Call `task(item, moved)` for every item in a few threads; the first error stops the others.

    An interrupt of this thread stops them too, within a part's time.
    """
    moved = _Moved()
    with ThreadPoolExecutor(WORKERS, thread_name_prefix="bucket") as pool:
        pending: set[Future[None]] = {pool.submit(task, item, moved) for item in items}
        try:
            while pending:
                done, pending = wait(pending, 0.5, FIRST_EXCEPTION)
                for future in done:
                    future.result()
                text = f"{verb} {_size(moved.bytes)} of {_size(total)}"
                progress.update(min(moved.bytes / max(total, 1), 1.0), text)
        except BaseException:
            moved.stop.set()
            for future in pending:
                future.cancel()
            raise


def _options(url: str) -> dict[str, Any]:
    """Options of the file system; what the user configured for fsspec goes first."""
    if not _is_s3(url):
        return {}
    from fsspec.config import conf

    if conf.get("s3", {}).get("config_kwargs"):
        return {}
    # Most patience is with single requests: a part that fails for good costs the whole upload.
    # Not mode "standard": its quota of retries is soon spent where every second request fails.
    return {"config_kwargs": {"retries": {"mode": "legacy", "total_max_attempts": REQUESTS}}}


def _upload_options(url: str, size: int) -> dict[str, Any]:
    if not _is_s3(url):
        return {}
    return {"chunksize": max(PART_BYTES, -(-size // MAX_PARTS)), "max_concurrency": 4}


def _is_s3(url: str) -> bool:
    return url.startswith(("s3:", "s3a:"))


def _size(count: int) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"


def _sentence(error: BaseException) -> str:
    return " ".join(f"{error}".split())[:300] or type(error).__name__
