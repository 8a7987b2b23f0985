"""`.zip` and `.tar(.gz|.bz2|.xz)` files: unpacked as a stream, and never trusted.

Refused: members that leave the folder, links and devices, encrypted members, more files or bytes
than the limits allow, and compression ratios that no picture reaches. Only members that could be
part of a dataset are written at all.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import posixpath
import re
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from splat_assets.artifacts.manifest import hash_file
from splat_assets.datasets.options import SourceOptions
from splat_assets.errors import SourceError
from splat_assets.progress import Progress
from splat_assets.sources import media
from splat_assets.sources.folder import stamp_of
from splat_assets.sources.job import (
    FetchJob,
    Receipt,
    check_bytes,
    check_limits,
    need_space,
    reuse_everything,
)

CHUNK = 2**20
# Deflate packs zeros at about 1000 : 1, pictures at about 1 : 1, text at less than 20 : 1.
MAX_RATIO = 200
RATIO_FROM_BYTES = 64 * 2**20  # below this size a high ratio does no harm
MAX_HEADER_BYTES = 2**20  # a tar's extended header is read into memory as a whole
_DAMAGED = (
    zipfile.BadZipFile,
    tarfile.TarError,
    EOFError,
    zlib.error,
    lzma.LZMAError,
    gzip.BadGzipFile,
    NotImplementedError,  # a compression method this Python does not have
    UnicodeError,
    struct.error,
    ValueError,
    OverflowError,
)


def fetch_archive(job: FetchJob) -> Receipt:
    """Unpack a local archive. One with unchanged bytes is not unpacked again."""
    path = job.ref.path
    stamp = stamp_of(path)
    receipt = Receipt(memory={"identity": job.identity, "stamp": stamp})
    if job.earlier and job.earlier.memory.get("identity") == job.identity:
        memory = job.earlier.memory
        job.progress.update(0.0, f"comparing {path.name} with the last fetch")
        known = memory.get("sha256", "")
        if memory.get("stamp") == stamp or (known and known == hash_file(path)):
            receipt.memory["sha256"] = known
            return reuse_everything(job, receipt)
    extract_archive(path, job.files, job.options, job.progress.span(0.0, 0.9), str(path))
    job.progress.update(0.9, f"hashing {path.name}")
    receipt.memory["sha256"] = hash_file(path)
    receipt.transferred = stamp[0]
    return receipt


def extract_archive(
    path: Path, target: Path, options: SourceOptions, progress: Progress, name: str
) -> None:
    """Unpack what could matter below `target`.

    Raises `SourceError` in one sentence naming the archive: damaged, unsafe or over a limit.
    """
    target.mkdir(parents=True, exist_ok=True)
    unpack = _unpack_zip if _is_zip(path) else _unpack_tar
    try:
        written = unpack(path, target, options, progress, name)
    except _DAMAGED as error:
        raise _damaged(name, error) from None
    except OSError as error:
        if error.errno is None:  # bz2 has no error of its own
            raise _damaged(name, error) from None
        raise
    if not written:
        raise SourceError(f"{name} holds no photos, videos, reconstruction or splat.")


def _is_zip(path: Path) -> bool:
    with path.open("rb") as stream:
        return media.sniff(stream.read(media.SNIFF_BYTES)) == "zip" or zipfile.is_zipfile(path)


def _damaged(name: str, error: Exception) -> SourceError:
    detail = str(error).strip().rstrip(".") or type(error).__name__
    return SourceError(f"{name} is damaged or cut short ({detail}); copy or download it again.")


def _unpack_zip(
    path: Path, target: Path, options: SourceOptions, progress: Progress, name: str
) -> int:
    with zipfile.ZipFile(path) as archive:
        infos = [info for info in archive.infolist() if not info.is_dir()]
        _check_count(len(infos), options, name)
        wanted: dict[str, zipfile.ZipInfo] = {}
        for info in infos:
            member = _safe_path(info.filename, name)
            if stat.S_ISLNK(info.external_attr >> 16):
                raise SourceError(f"{name} is unsafe: {member!r} is a link; pack plain files.")
            if not _is_wanted(member, options):
                continue
            if info.flag_bits & 0x1:
                raise SourceError(f"{name} is encrypted; give an archive without a password.")
            _check_ratio(info.file_size, info.compress_size, member, name)
            wanted[member] = info  # of two with one name the later one counts, as in unzip
        sizes = [info.file_size for info in wanted.values()]
        check_limits(name, sizes, options, target)
        done, total = 0, sum(sizes) or 1
        for member, info in wanted.items():
            progress.update(done / total, f"unpacking {member}", files=len(wanted))
            with archive.open(info) as stream:
                _write(stream, target, member, info.file_size, progress, name)
            done += info.file_size
    return len(wanted)


def _unpack_tar(
    path: Path, target: Path, options: SourceOptions, progress: Progress, name: str
) -> int:
    """One pass, forwards: a compressed tar is unpacked while it is being listed."""
    packed = path.stat().st_size
    seen = written = taken = count = 0
    with path.open("rb") as raw, _decompress(raw) as plain:
        guard = _Guard(plain)
        with tarfile.open(fileobj=guard, mode="r:") as archive:  # type: ignore[call-overload]
            for info in archive:
                archive.members.clear()  # the list of all members would grow without bound
                if info.size < 0:
                    raise tarfile.ReadError(f"{info.name!r} has a negative size")
                count += 1
                seen += info.size
                _check_count(count, options, name)
                _check_ratio(seen, packed, info.name, name)
                if info.isdir():
                    continue
                member = _safe_path(info.name, name)
                if not info.isreg():
                    raise SourceError(
                        f"{name} is unsafe: {member!r} is a link or a device; pack plain files."
                    )
                if not _is_wanted(member, options):
                    continue
                taken += info.size
                check_bytes(name, taken, options)
                need_space(target, info.size)
                progress.update(raw.tell() / packed, f"unpacking {member}", files=written)
                stream = archive.extractfile(info)
                assert stream is not None
                guard.limit = None
                _write(stream, target, member, info.size, progress, name)
                guard.limit = MAX_HEADER_BYTES
                written += 1
        while plain.read(CHUNK):  # to the end: gzip's checksum comes last
            progress.check()
    return written


def _decompress(raw: IO[bytes]) -> Any:
    head = raw.read(6)
    raw.seek(0)
    if head.startswith(b"\x1f\x8b"):
        return gzip.GzipFile(fileobj=raw)
    if head.startswith(b"BZh"):
        return bz2.BZ2File(raw)
    if head.startswith(b"\xfd7zXZ\x00"):
        return lzma.LZMAFile(raw)
    return raw


class _Guard:
    """A file that refuses reads of more than `limit` bytes at once.

    `tarfile` reads an extended header of any announced size into memory; data is read in chunks.
    """

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self.limit: int | None = MAX_HEADER_BYTES

    def read(self, size: int = -1) -> bytes:
        if self.limit is not None and (size < 0 or size > self.limit):
            raise tarfile.ReadError(f"a header of {size} bytes")
        return self._stream.read(size)

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._stream.seek(offset, whence)

    def tell(self) -> int:
        return self._stream.tell()

    def seekable(self) -> bool:
        return True


def _write(
    stream: IO[bytes], target: Path, member: str, size: int, progress: Progress, name: str
) -> None:
    """Write one member, in chunks, never more than the `size` it announced."""
    path = target / member
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        writer = path.open("wb")
    except (FileExistsError, NotADirectoryError, IsADirectoryError):
        raise SourceError(f"{name} is damaged: {member!r} is both a file and a folder.") from None
    left = size
    with writer:
        while left > 0:
            progress.check()
            chunk = stream.read(min(CHUNK, left))
            if not chunk:
                raise EOFError(f"{member!r} ends {left} bytes early")
            writer.write(chunk)
            left -= len(chunk)
        if stream.read(1):
            raise SourceError(f"{name} is unsafe: {member!r} is larger than it says.")


def _safe_path(member: str, name: str) -> str:
    """The member's path in normal form; `SourceError` when it leaves the folder."""
    path = member.replace("\\", "/")
    normal = posixpath.normpath(path)
    escapes = ".." in path.split("/") or path.startswith("/") or re.match(r"[A-Za-z]:", path)
    if escapes or "\0" in path or normal in ("", "."):
        raise SourceError(
            f"{name} is unsafe: {member!r} would be written outside of its folder; "
            "pack it again with relative paths."
        )
    try:
        normal.encode("utf-8")
    except UnicodeEncodeError:
        raise SourceError(f"{name}: the name {member!r} is not valid UTF-8; rename it.") from None
    return normal


def _is_wanted(member: str, options: SourceOptions) -> bool:
    if media.is_junk(member) or not media.is_of_interest(member):
        return False
    return media.is_wanted(member, options.include, options.exclude)


def _check_count(count: int, options: SourceOptions, name: str) -> None:
    if count > options.max_files:
        raise SourceError(
            f"{name} holds more than the limit of {options.max_files} files; raise "
            "source.max_files, or unpack it and give the folder."
        )


def _check_ratio(size: int, packed: int, member: str, name: str) -> None:
    if size > RATIO_FROM_BYTES and size > MAX_RATIO * max(packed, 1):
        raise SourceError(
            f"{name} is unsafe: {member!r} unpacks to {media.human_bytes(size)} from "
            f"{media.human_bytes(packed)}, which no picture does."
        )


def unpack_in_place(
    folder: Path, archives: tuple[str, ...], options: SourceOptions, progress: Progress
) -> None:
    """Replace each archive below `folder` by a folder of its name with its content."""
    for step, member in zip(_spans(progress, len(archives)), archives, strict=True):
        path = folder / member
        known = max((s for s in media.ARCHIVE_SUFFIXES if member.lower().endswith(s)), key=len)
        target = folder / member[: -len(known)]
        if target.exists():
            target = folder / (member + ".unpacked")
        extract_archive(path, target, options, step, member)
        path.unlink()


def _spans(progress: Progress, count: int) -> Iterator[Progress]:
    for index in range(count):
        yield progress.span(index / count, (index + 1) / count)
