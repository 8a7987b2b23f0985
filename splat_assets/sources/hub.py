"""Dataset repositories on the Hugging Face Hub, through the `huggingface_hub` client.

The revision is pinned to a commit first; the listing with sizes and blob ids then decides what is
needed before anything is downloaded. Files whose blob is the one of the previous artifact are
linked from there, also when the commit moved; of parquet shards only the picture columns of the
wanted rows are read. Token, proxies and mirrors are the client's usual ones (`HF_TOKEN`,
`HF_ENDPOINT`, `hf auth login`).
"""

from __future__ import annotations

import os
import shutil
import threading
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, HfFileSystem, close_session, get_token
from huggingface_hub.errors import (
    DisabledRepoError,
    EntryNotFoundError,
    FileMetadataError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.hf_api import RepoFile

from splat_assets.artifacts.manifest import hash_file
from splat_assets.errors import Cancelled, SourceError, TransientError
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
from splat_assets.sources.layout import Layout, Packed, choose_layout
from splat_assets.sources.uri import HUB_URL, RepoType

WORKERS = 8
STOP_SEC = 1.5  # granted to downloads on a cancel, before their connections are closed
RANGE_BYTES = 4 * 2**20  # of a shard read at once
# The HTTP library under the client (httpx, httpx2 from 2.0 on) is found through its base error.
_HttpError: type[Exception] = next(
    base for base in HfHubHTTPError.__mro__ if base.__name__ == "HTTPError"
)


@dataclass(frozen=True)
class Pinned:
    """A repository at one commit."""

    repo: str
    repo_type: RepoType
    sha: str
    license: str


def fetch_hub(job: FetchJob) -> Receipt:
    """Fetch what is needed of a repository.

    Raises:
        SourceError: missing, private, gated, disabled, or no dataset of pictures; one sentence.
        TransientError: the network or the Hub failed; the next attempt goes on from here.
    """
    try:
        return _fetch(job)
    except Exception as error:
        raise _explain(error, job) from error


def _fetch(job: FetchJob) -> Receipt:
    api = HfApi(endpoint=_endpoint(), library_name="splat-assets")
    pinned = _pin(api, job)
    receipt = Receipt(revision=pinned.sha, license=pinned.license)
    known = job.earlier.memory if job.earlier else {}
    same = known.get("identity") == job.identity
    receipt.memory = {"identity": job.identity, "sha": pinned.sha}
    if same and known.get("sha") == pinned.sha:
        receipt.memory["blobs"] = known.get("blobs", {})
        return reuse_everything(job, receipt)
    listing = _list(api, job, pinned)
    with resumable_folder(job.downloads, f"{job.identity} {pinned.sha}") as slot:
        client = _Client(api, job, pinned, slot, listing)
        layout = choose_layout(
            {path: file.size for path, file in listing.items()},
            client.read,
            job.ref.label,
            options=job.options,
        )
        names = (*layout.files, *layout.documents)
        blobs = {path: _blob(listing[path]) for path in names}
        receipt.memory["blobs"] = blobs
        if same and known.get("blobs") == blobs:
            return reuse_everything(job, receipt)
        if isinstance(layout, Layout):
            warn_ignored(job, layout.ignored)
        if isinstance(layout, Packed) and layout.kind == "parquet":
            client.bring(layout.documents, receipt, known.get("blobs", {}))
            client.unpack_parquet(layout.files, receipt)
        else:
            client.bring(names, receipt, known.get("blobs", {}))
    return receipt


def _pin(api: HfApi, job: FetchJob) -> Pinned:
    """Resolve branch or tag to a commit; read the licence from the card."""
    ref = job.ref
    if ref.revision and job.options.revision and ref.revision != job.options.revision:
        raise SourceError(
            f"{ref.label} names the revision {ref.revision!r} and source.revision says "
            f"{job.options.revision!r}; give one of them."
        )
    revision = ref.revision or job.options.revision
    info: Any = api.repo_info(
        ref.location,
        repo_type=ref.repo_type,
        revision=revision,
        expand=["sha", "cardData", "disabled"],  # type: ignore[arg-type]
    )
    if getattr(info, "disabled", False):
        raise SourceError(f"{ref.label} is disabled on the Hub and cannot be downloaded.")
    if not info.sha:
        raise SourceError(f"{ref.label} is empty: it has no commit.")
    if info.id != ref.location:
        job.progress.warn(f"{ref.location} is called {info.id} now.")
    card = info.card_data.to_dict() if info.card_data else {}
    license = card.get("license") or ""
    if license == "other":
        license = card.get("license_name") or license
    return Pinned(
        info.id,
        ref.repo_type,
        info.sha,
        ", ".join(license) if isinstance(license, list) else str(license),
    )


def _list(api: HfApi, job: FetchJob, pinned: Pinned) -> dict[str, RepoFile]:
    """The files of the repository that could matter, by path below the chosen folder."""
    prefix = job.ref.folder + "/" if job.ref.folder else ""
    found = {}
    tree = api.list_repo_tree(
        pinned.repo,
        job.ref.folder or None,
        recursive=True,
        revision=pinned.sha,
        repo_type=pinned.repo_type,
    )
    for count, entry in enumerate(tree):
        if count % 1000 == 0:
            job.progress.update(0.0, f"listing {pinned.repo}", files=float(count))
        if not isinstance(entry, RepoFile):
            continue
        path = entry.path.removeprefix(prefix)
        if ".." in path.split("/") or path.startswith("/"):
            raise SourceError(f"{job.ref.label} is unsafe: it holds the path {entry.path!r}.")
        if media.is_junk(path):
            continue
        if media.is_wanted(path, job.options.include, job.options.exclude):
            found[path] = entry
    if not found:
        raise SourceError(f"{job.ref.label} is empty, or all of its files are left out.")
    return found


class _Client:
    """Downloads from one pinned repository into `slot`, and from there into the artifact."""

    def __init__(
        self, api: HfApi, job: FetchJob, pinned: Pinned, slot: Path, listing: dict[str, RepoFile]
    ) -> None:
        self._api, self._job, self._pinned, self._slot = api, job, pinned, slot
        self._listing = listing
        # an instance of its own, whose listing cache ends with this fetch
        self._files = HfFileSystem(endpoint=api.endpoint, skip_instance_cache=True)

    def read(self, path: str, limit: int | None) -> bytes:
        """A file's content, or its first `limit` bytes without downloading the rest."""
        if limit is not None and self._listing[path].size > limit:
            with self._open(path) as stream:
                return stream.read(limit)
        return self._download(path, _Counter()).read_bytes()

    def bring(self, paths: tuple[str, ...], receipt: Receipt, known: dict[str, str]) -> None:
        """Link what is unchanged, download the rest and move it to the artifact's files."""
        job = self._job
        check_limits(job.ref.label, [self._listing[p].size for p in paths], job.options, job.files)
        missing = []
        for path in paths:
            same = known.get(path) == _blob(self._listing[path])
            if same and job.earlier and job.earlier.find(path):
                reuse_file(job, receipt, path)
            else:
                missing.append(path)
        total = sum(self._listing[path].size for path in missing) or 1
        counter = _Counter()
        pool = ThreadPoolExecutor(WORKERS, thread_name_prefix="hub")
        waiting: dict[Future[Path], str] = {
            pool.submit(self._download, path, counter): path for path in missing
        }
        try:
            while waiting:
                done, _ = wait(waiting, timeout=0.2, return_when=FIRST_COMPLETED)
                for future in done:
                    self._check(waiting.pop(future), future.result(), receipt)
                job.progress.update(
                    min(counter.num_bytes, total) / total,
                    f"downloading {self._pinned.repo}: {len(waiting)} files to go",
                    bytes=float(counter.num_bytes),
                )
        except BaseException:
            counter.stopped.set()
            pool.shutdown(wait=False, cancel_futures=True)
            running = [future for future in waiting if not future.cancelled()]
            if wait(running, timeout=STOP_SEC).not_done:
                # A download notices only between chunks, which a slow line makes minutes apart.
                close_session()
                wait(running, timeout=STOP_SEC)
            raise
        pool.shutdown()
        # Only now: what was moved already would be lost to an attempt that goes on from here.
        for path in missing:
            _move(self._slot / "files" / self._in_repo(path), job.files / path)

    def unpack_parquet(self, shards: tuple[str, ...], receipt: Receipt) -> None:
        """Read the picture columns of the shards; finished shards outlive an interruption."""
        from splat_assets.sources.parquet import unpack_parquet

        job = self._job
        unpacked = self._slot / "unpacked"
        unpack_parquet(shards, self._open, unpacked, job.options, job.progress, job.ref.label)
        for path in sorted(p for p in unpacked.rglob("*") if p.is_file()):
            receipt.transferred += path.stat().st_size
            _move(path, job.files / path.relative_to(unpacked))

    def _in_repo(self, path: str) -> str:
        return f"{self._job.ref.folder}/{path}" if self._job.ref.folder else path

    def _download(self, path: str, counter: _Counter) -> Path:
        return Path(
            self._api.hf_hub_download(
                self._pinned.repo,
                self._in_repo(path),
                repo_type=self._pinned.repo_type,
                revision=self._pinned.sha,
                local_dir=self._slot / "files",
                tqdm_class=counter.bar(),
            )
        )

    def _check(self, path: str, downloaded: Path, receipt: Receipt) -> None:
        """Compare a finished download with the listing."""
        file = self._listing[path]
        sha256 = hash_file(downloaded)
        if downloaded.stat().st_size != file.size or (file.lfs and file.lfs.sha256 != sha256):
            downloaded.unlink()
            raise TransientError(f"{path} of {self._pinned.repo} was damaged on the way.")
        receipt.hashes[f"files/{path}"] = sha256
        receipt.transferred += file.size

    def _open(self, path: str) -> Any:
        """A remote file for reading, by ranges."""
        kind = f"{self._pinned.repo_type}s/" if self._pinned.repo_type == "dataset" else ""
        return self._files.open(
            f"{kind}{self._pinned.repo}@{self._pinned.sha}/{self._in_repo(path)}",
            "rb",
            block_size=RANGE_BYTES,
            cache_type="readahead",
        )


class _Counter:
    """Counts bytes over all threads, and stops their downloads from within."""

    def __init__(self) -> None:
        self.num_bytes = 0
        self.stopped = threading.Event()
        self._lock = threading.Lock()

    def add(self, count: float) -> None:
        with self._lock:
            self.num_bytes += int(count)
        if self.stopped.is_set():
            raise Cancelled("Stopped on request.")

    def bar(self) -> Any:
        """A class with the part of tqdm's interface that the client uses; it draws nothing."""
        counter = self

        class Bar:
            def __init__(self, *args: Any, **kwargs: Any) -> None:
                self.total = kwargs.get("total")
                self.n = kwargs.get("initial") or 0

            def update(self, count: float = 1) -> None:
                self.n += count
                counter.add(count)

            def __enter__(self) -> Bar:
                return self

            def __exit__(self, *exc: object) -> None: ...

            def close(self) -> None: ...

            def refresh(self, *args: Any, **kwargs: Any) -> None: ...

            def set_description(self, *args: Any, **kwargs: Any) -> None: ...

            def set_postfix_str(self, *args: Any, **kwargs: Any) -> None: ...

        return Bar


def _endpoint() -> str:
    """Read when asked, since the client itself reads `HF_ENDPOINT` only once, at import."""
    return (os.environ.get("HF_ENDPOINT") or HUB_URL).rstrip("/")


def _blob(file: RepoFile) -> str:
    """What identifies a file's content: the sha256 of a large file, the git id of a small one."""
    return file.lfs.sha256 if file.lfs else file.blob_id


def _move(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.move(source, target)  # a rename on one file system


def _explain(error: Exception, job: FetchJob) -> Exception:
    """The client's errors as one sentence; everything else unchanged."""
    name = job.ref.label
    page = f"{_endpoint()}/{'datasets/' if job.ref.repo_type == 'dataset' else ''}"
    page += job.ref.location
    token = bool(get_token())
    if isinstance(error, GatedRepoError):
        then = "with the account of your token" if token else "and set HF_TOKEN to your token"
        return SourceError(f"{name} is gated: accept its conditions at {page} {then}.")
    if isinstance(error, DisabledRepoError):
        return SourceError(f"{name} is disabled on the Hub and cannot be downloaded.")
    if isinstance(error, RevisionNotFoundError):
        revision = job.ref.revision or job.options.revision or "main"
        return SourceError(f"{name} has no revision {revision!r}; see {page}/tree/main.")
    if isinstance(error, EntryNotFoundError):
        return SourceError(f"{name} has no folder {job.ref.folder!r} at this revision.")
    if isinstance(error, RepositoryNotFoundError):
        hint = "your token may read it" if token else "HF_TOKEN is set if it is private"
        return SourceError(f"{name} is not on the Hub; check the name, and that {hint}.")
    if isinstance(error, HFValidationError):
        return SourceError(f"{name} is not a valid repository name.")
    if isinstance(error, OfflineModeIsEnabled):
        return SourceError(f"{name} cannot be fetched while HF_HUB_OFFLINE is set.")
    if isinstance(error, HfHubHTTPError):
        return _explain_status(error.response.status_code, name)
    if isinstance(error, FileMetadataError):
        return SourceError(f"{name}: {_endpoint()} does not answer like the Hub; see HF_ENDPOINT.")
    if isinstance(error, _HttpError | ConnectionError | TimeoutError):
        return TransientError(f"{name}: the Hub cannot be reached now ({error}).")
    if type(error) is OSError and error.errno is None and "Consistency check" in str(error):
        return TransientError(f"{name}: a download was cut short.")
    return error


def _explain_status(status: int, name: str) -> Exception:
    if status in (408, 429) or status >= 500:
        return TransientError(f"{name}: the Hub is not available now (HTTP {status}).")
    if status == 401:
        return SourceError(f"{name}: the Hub refuses the token (HTTP 401); renew HF_TOKEN.")
    if status == 403:
        return SourceError(f"{name}: your token may not read this repository (HTTP 403).")
    return SourceError(f"{name}: the Hub refuses the request (HTTP {status}).")
