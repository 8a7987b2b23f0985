"""Local sources: a folder (photos, videos, a COLMAP or nerfstudio reconstruction, a splat) or file.

The user may edit or delete the originals later, so they are copied, never linked; files that have
the size and times of the previous fetch are linked from there without being read.
"""

from __future__ import annotations

import os
from pathlib import Path

from splat_assets.errors import SourceError
from splat_assets.sources import media, splat
from splat_assets.sources.job import (
    FetchJob,
    Receipt,
    check_limits,
    copy_hashed,
    reuse_everything,
    reuse_file,
    warn_ignored,
)
from splat_assets.sources.layout import Layout, choose_layout, folder_reader

Stamp = list[int]  # size, mtime_ns, ctime_ns: JSON keeps it as it is


def fetch_folder(job: FetchJob) -> Receipt:
    """Copy the originals of a local folder that the pipeline needs. Raises `SourceError`."""
    root = job.ref.path
    stamps = _list_folder(root, job)
    if not stamps:
        raise SourceError(f"The folder {root} is empty, or all of its files are left out.")
    sizes = {path: stamp[0] for path, stamp in stamps.items()}
    layout = choose_layout(sizes, folder_reader(root), f"The folder {root}", options=job.options)
    if isinstance(layout, Layout):
        warn_ignored(job, layout.ignored)
    taken = {path: stamps[path] for path in (*layout.files, *layout.documents)}
    return _bring(job, {path: root / path for path in taken}, taken)


def fetch_file(job: FetchJob) -> Receipt:
    """Copy a single local file: a video or a splat, which is looked at first."""
    path = job.ref.path
    if job.ref.kind == "ply":
        splat.check_file(path, str(path))
    return _bring(job, {path.name: path}, {path.name: _stamp(path)})


def stamp_of(path: Path) -> Stamp:
    """What tells, without reading it, whether a file was changed since the last fetch."""
    return _stamp(path)


def _bring(job: FetchJob, paths: dict[str, Path], stamps: dict[str, Stamp]) -> Receipt:
    check_limits(str(job.ref.path), (stamp[0] for stamp in stamps.values()), job.options, job.files)
    receipt = Receipt(memory={"identity": job.identity, "stamps": stamps})
    memory = job.earlier.memory if job.earlier else {}
    if memory.get("identity") == job.identity and memory.get("stamps") == stamps:
        return reuse_everything(job, receipt)
    known = {}
    if job.earlier and memory.get("identity", {}).get("source") == job.ref.label:
        known = {p: s for p, s in memory.get("stamps", {}).items() if job.earlier.find(p)}
    total = sum(stamp[0] for stamp in stamps.values()) or 1
    done = 0
    for path, stamp in stamps.items():
        job.progress.update(done / total, f"copying {path}", bytes=done)
        if known.get(path) == stamp:
            reuse_file(job, receipt, path)
        else:
            sha256 = copy_hashed(paths[path], job.files / path, job.progress)
            receipt.hashes[f"files/{path}"] = sha256
            receipt.transferred += stamp[0]
        done += stamp[0]
    return receipt


def _list_folder(root: Path, job: FetchJob) -> dict[str, Stamp]:
    """Every file that could matter, by POSIX path below `root`, sorted; links to files followed."""
    found: dict[str, Stamp] = {}
    for folder, subfolders, names in os.walk(root, onerror=_refuse):
        job.progress.update(0.0, f"looking through {folder}")
        subfolders[:] = sorted(name for name in subfolders if not media.is_junk(name))
        for name in sorted(names):
            path = Path(folder) / name
            relative = path.relative_to(root).as_posix()
            if media.is_junk(name) or not path.is_file():
                continue
            try:
                relative.encode("utf-8")
            except UnicodeEncodeError:
                raise SourceError(f"The name of {path!r} is not valid UTF-8; rename it.") from None
            if media.is_wanted(relative, job.options.include, job.options.exclude):
                found[relative] = _stamp(path)
    return found


def _stamp(path: Path) -> Stamp:
    stat = path.stat()
    return [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]


def _refuse(error: OSError) -> None:
    raise SourceError(f"The folder {error.filename} cannot be read ({error.strerror}).")
