"""A video, an archive or a splat behind an http(s) URL.

Downloads go to a `.part` file that outlives the run and are resumed with `Range` and `If-Range`
(RFC 9110 §13.1.5, §14); a second fetch sends the known ETag and takes a 304 for "nothing changed".
What arrives is judged by its first bytes, not by its name or content type.
"""

from __future__ import annotations

import contextlib
import email.message
import json
import re
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

import httpx

from splat_assets import __version__
from splat_assets.artifacts.manifest import hash_file, write_text_atomic
from splat_assets.errors import SourceError, TransientError
from splat_assets.sources import media, splat
from splat_assets.sources.archive import extract_archive
from splat_assets.sources.downloads import resumable_folder
from splat_assets.sources.job import FetchJob, Receipt, need_space, reuse_everything

TIMEOUT = httpx.Timeout(30.0, connect=15.0)
PAUSES_SEC = (1.0, 3.0, 9.0)  # between attempts within one fetch
_AGENT = f"splat-assets/{__version__}"


@dataclass(frozen=True)
class Remote:
    """What the server said about the resource; kept beside the part file and in the memory."""

    etag: str = ""
    last_modified: str = ""
    total: int | None = None
    filename: str = ""

    @property
    def revision(self) -> str:
        return self.etag or self.last_modified

    @property
    def validator(self) -> str:
        """For `If-Range`, which takes strong ETags only; "" when resuming would be a guess."""
        if self.etag and not self.etag.startswith("W/"):
            return self.etag
        return "" if self.etag else self.last_modified


def fetch_url(job: FetchJob) -> Receipt:
    """Download, check and (an archive) unpack what is behind a URL.

    Raises:
        SourceError: refused, not there, too large, or no video, archive or splat.
        TransientError: the network or the server failed; what has arrived is kept.
    """
    name = job.ref.label
    receipt = Receipt(memory={"identity": job.identity})
    known = _remembered(job)
    with resumable_folder(job.downloads, job.ref.location) as slot:
        part = slot / "body.part"
        remote = _download(job, part, known, receipt)
        if remote is None:
            assert job.earlier is not None and known is not None
            receipt.revision = known.revision
            receipt.memory = job.earlier.memory
            return reuse_everything(job, receipt)
        receipt.revision = remote.revision
        receipt.memory |= {"etag": remote.etag, "last_modified": remote.last_modified}
        _place(job, part, _file_name(job.ref.location, remote), receipt, name)
    return receipt


def _remembered(job: FetchJob) -> Remote | None:
    """What the server said at the earlier fetch, when that was of the same thing."""
    if job.earlier is None or job.earlier.memory.get("identity") != job.identity:
        return None
    memory = job.earlier.memory
    remote = Remote(memory.get("etag", ""), memory.get("last_modified", ""))
    return remote if remote.revision else None


def _download(job: FetchJob, part: Path, known: Remote | None, receipt: Receipt) -> Remote | None:
    """Bring the resource into `part`, resuming as often as it helps; None when it is `known`."""
    name = job.ref.label
    for pause in (*PAUSES_SEC, None):
        try:
            return _attempt(job, part, known, receipt)
        except httpx.TransportError as error:
            if isinstance(error, httpx.UnsupportedProtocol):
                raise SourceError(f"{name} cannot be fetched: {error}.") from None
            problem = TransientError(f"{name} cannot be reached now ({_say(error)}).")
        except TransientError as error:
            problem = error
        except (httpx.TooManyRedirects, httpx.InvalidURL, httpx.DecodingError) as error:
            raise SourceError(f"{name} cannot be fetched: {_say(error)}.") from None
        if pause is None:
            raise problem
        job.progress.warn(f"{problem} Trying again in {pause:.0f} s.")
        _sleep(pause, job)
    raise AssertionError("unreachable")


def _attempt(job: FetchJob, part: Path, known: Remote | None, receipt: Receipt) -> Remote | None:
    """One request. The body is appended to `part` when the server goes on where we stopped."""
    begun = _begun(part)
    headers = {"User-Agent": _AGENT, "Accept-Encoding": "identity"}
    if begun:
        headers["Range"] = f"bytes={part.stat().st_size}-"
        headers["If-Range"] = begun.validator
    if known:
        if known.etag:
            headers["If-None-Match"] = known.etag
        if known.last_modified:
            headers["If-Modified-Since"] = known.last_modified
    with (
        httpx.Client(follow_redirects=True, timeout=TIMEOUT, headers=headers) as client,
        client.stream("GET", job.ref.location) as response,
    ):
        if response.status_code == 304 and known:
            return None
        if response.status_code == 416 and begun:
            if begun.total == part.stat().st_size:
                return begun
            part.unlink()
            raise TransientError(f"{job.ref.label} has changed while it was downloaded.")
        _check_status(response, job.ref.label)
        remote = _describe(response)
        offset = _offset(response, part) if begun else 0
        _check_size(job, remote.total, part, offset)
        write_text_atomic(part.with_suffix(".json"), json.dumps(vars(remote)))
        _receive(job, response, part, offset, remote, receipt)
    return remote


def _begun(part: Path) -> Remote | None:
    """The state of an unfinished download that can be resumed safely."""
    with contextlib.suppress(OSError, ValueError, TypeError):
        remote = Remote(**json.loads(part.with_suffix(".json").read_text(encoding="utf-8")))
        if remote.validator and part.stat().st_size > 0:
            return remote
    part.unlink(missing_ok=True)
    return None


def _receive(
    job: FetchJob,
    response: httpx.Response,
    part: Path,
    offset: int,
    remote: Remote,
    receipt: Receipt,
) -> None:
    size = offset
    checked = offset > 0
    filename = _file_name(job.ref.location, remote)
    with part.open("ab" if offset else "wb") as stream:
        for chunk in response.iter_raw():
            stream.write(chunk)
            size += len(chunk)
            receipt.transferred += len(chunk)
            if not checked and size >= media.SNIFF_BYTES:
                stream.flush()
                _check_content(part, filename, job.ref.label)
                checked = True
            _check_size(job, size, part, size)
            share = size / remote.total if remote.total else 0.5
            job.progress.update(
                0.9 * share, f"downloading {media.human_bytes(size)}", bytes=float(size)
            )
    if remote.total is not None and size != remote.total:
        raise TransientError(
            f"{job.ref.label} ended after {size} of {remote.total} bytes; the connection was lost."
        )
    _check_content(part, filename, job.ref.label)


def _offset(response: httpx.Response, part: Path) -> int:
    """Where the body starts: the end of the part file when the server resumed, else 0."""
    if response.status_code != 206:
        return 0
    found = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
    if found is None or int(found[1]) != part.stat().st_size:
        part.unlink()
        raise TransientError(f"{response.url.host} answered with another range than asked for.")
    return int(found[1])


def _describe(response: httpx.Response) -> Remote:
    headers = response.headers
    total: int | None = None
    if response.status_code == 206:
        tail = headers.get("Content-Range", "").rpartition("/")[2]
        total = int(tail) if tail.isdigit() else None
    elif headers.get("Content-Length", "").isdigit():
        total = int(headers["Content-Length"])
    message = email.message.Message()
    message["Content-Disposition"] = headers.get("Content-Disposition", "")
    filename = message.get_filename() or Path(unquote(response.url.path)).name
    return Remote(headers.get("ETag", ""), headers.get("Last-Modified", ""), total, filename)


def _check_status(response: httpx.Response, name: str) -> None:
    status = response.status_code
    if status in (200, 206):
        return
    if status in (408, 425, 429) or status >= 500:
        raise TransientError(f"{name} is not available now (HTTP {status}).")
    if status in (401, 403):
        raise SourceError(f"{name} refuses access (HTTP {status}); it needs a login or permission.")
    if status in (404, 410):
        raise SourceError(f"{name} does not exist (HTTP {status}); check the address.")
    raise SourceError(f"{name} cannot be fetched (HTTP {status}).")


def _check_size(job: FetchJob, size: int | None, part: Path, have: int) -> None:
    if size is None:
        return
    if size > job.options.max_bytes:
        raise SourceError(
            f"{job.ref.label} is larger than the limit of "
            f"{media.human_bytes(job.options.max_bytes)}; raise source.max_bytes."
        )
    if size > have:
        need_space(part.parent, size - have)


def _check_content(part: Path, filename: str, name: str) -> media.Sniffed:
    """Judge by the first bytes; `SourceError` saying what arrived instead."""
    with part.open("rb") as stream:
        head = stream.read(media.SNIFF_BYTES)
    if not head:
        raise SourceError(f"{name} is empty (0 bytes).")
    sniffed = media.sniff(head)
    if sniffed == "html":
        raise SourceError(
            f"{name} is a web page, not a file; give the address that downloads the video, "
            "archive or splat itself."
        )
    if sniffed == "image":
        raise SourceError(f"{name} is one photo; give an archive of all photos of the scene.")
    if media.is_packed_splat(filename):  # some begin like archives, some have no mark at all
        return "ply"
    if sniffed in ("", "parquet"):
        raise SourceError(f"{name} is no video, archive or splat, by what its first bytes say.")
    return sniffed


def _place(job: FetchJob, part: Path, filename: str, receipt: Receipt, name: str) -> None:
    """Move or unpack the finished download to where originals live."""
    sniffed = _check_content(part, filename, name)
    if sniffed in ("zip", "tar"):
        receipt.memory["sha256"] = hash_file(part)
        extract_archive(part, job.files, job.options, job.progress.span(0.9, 1.0), name)
        return
    with part.open("rb") as stream:
        head = stream.read(splat.HEADER_LIMIT)
    if sniffed == "ply":
        fits = media.suffix(filename) == ".ply" or media.is_packed_splat(filename)
        suffix = ".ply"
        if media.sniff(head) == "ply":  # others are looked at when they have their name
            splat.check_splat(head, part.stat().st_size, name)
    else:
        fits, suffix = media.is_video(filename), media.video_suffix(head)
    target = job.files / (filename if fits else filename + suffix)
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.move(part, target)  # a rename on one file system


def _file_name(url: str, remote: Remote) -> str:
    """A plain file name from what the server or the address says."""
    name = remote.filename or Path(unquote(urlsplit(url).path)).name
    name = name.replace("\\", "/").rpartition("/")[2]
    name = re.sub(r"[\x00-\x1f<>:\"|?*]", "_", name).lstrip(".")
    return name.encode("utf-8", "ignore").decode()[-120:] or "download"


def _say(error: Exception) -> str:
    return (str(error) or type(error).__name__).rstrip(".")


def _sleep(seconds: float, job: FetchJob) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        job.progress.check()
        time.sleep(min(0.1, seconds))
