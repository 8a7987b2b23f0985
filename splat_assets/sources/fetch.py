"""`raw_dataset`: bring the originals of any source here, untouched, and say what they are."""

from __future__ import annotations

import errno
import json
import shutil
from pathlib import Path

from splat_assets.artifacts.manifest import build_manifest, write_manifest, write_text_atomic
from splat_assets.datasets.options import SourceOptions
from splat_assets.errors import SourceError, UserError
from splat_assets.progress import Progress
from splat_assets.sources import archive, media, splat
from splat_assets.sources.folder import fetch_file, fetch_folder
from splat_assets.sources.job import (
    ORIGIN,
    FetchJob,
    Receipt,
    check_limits,
    open_earlier,
    warn_ignored,
)
from splat_assets.sources.layout import (
    Layout,
    Packed,
    choose_layout,
    folder_reader,
    folder_sizes,
)
from splat_assets.sources.raw_dataset import RawDataset
from splat_assets.sources.uri import parse_source

MAX_UNPACK_DEPTH = 2  # an archive of parquet shards is the deepest that makes sense


def fetch_raw_dataset(
    source: str,
    out: Path,
    *,
    options: SourceOptions,
    previous: RawDataset | None,
    progress: Progress,
    downloads: Path | None = None,
) -> RawDataset:
    """Fetch a source into the empty folder `out` as a `RawDataset`.

    Args:
        source: see `sources.uri`.
        previous: the last artifact of this dataset; what has not changed since is hard-linked from
            it, and when nothing has, nothing is downloaded.
        downloads: where half-finished downloads wait for the next attempt, by default
            `.downloads` beside `out`; on the same disk as `out` nothing is copied twice.

    Raises:
        SourceError: missing, private, damaged, unsafe, too large, or not a dataset; one sentence.
        UserError: the disk is full or may not be written.
        TransientError: the network failed; the next attempt resumes.
        Cancelled: as `progress` says. After any error `out` is empty again.
    """
    ref = parse_source(source)
    files = out / "files"
    earlier = open_earlier(previous)
    job = FetchJob(
        ref, files, downloads or out.parent / ".downloads", options, earlier, progress.span(0, 0.9)
    )
    try:
        files.mkdir()
        receipt = _fetch(job)
        layout = _settle(job, receipt)
        return _finish(out, job, receipt, layout, progress.span(0.9, 1.0))
    except OSError as error:
        _clear(out)
        raise _explain(error, out) from error
    except BaseException:
        _clear(out)
        raise


def _fetch(job: FetchJob) -> Receipt:
    """Bring the originals. The network clients are imported only where they are used."""
    job.progress.update(0.0, f"looking at {job.ref.label}")
    match job.ref.kind:
        case "hub":
            from splat_assets.sources.hub import fetch_hub

            return fetch_hub(job)
        case "url":
            from splat_assets.sources.url import fetch_url

            return fetch_url(job)
        case "bucket":
            from splat_assets.sources.bucket import fetch_bucket

            return fetch_bucket(job)
        case "archive":
            return archive.fetch_archive(job)
        case "video" | "ply":
            return fetch_file(job)
        case "folder" | "colmap" | "nerfstudio":
            return fetch_folder(job)


def _settle(job: FetchJob, receipt: Receipt) -> Layout:
    """Unpack what is still packed, drop what is not needed, set documents apart."""
    name = job.ref.label
    for depth in range(MAX_UNPACK_DEPTH + 1):
        sizes = folder_sizes(job.files)
        layout = choose_layout(
            sizes,
            folder_reader(job.files),
            name,
            options=job.options,
            may_unpack=depth < MAX_UNPACK_DEPTH,
        )
        if isinstance(layout, Layout):
            break
        _unpack(job, layout, name)
    assert isinstance(layout, Layout)
    check_limits(name, (sizes[path] for path in layout.files), job.options, job.files)
    if layout.content == "ply":
        main = next(filter(media.is_sog_document, layout.files), layout.files[0])
        splat.check_file(job.files / main, main)
    for path in layout.documents:
        target = job.files.parent / "docs" / path
        target.parent.mkdir(parents=True, exist_ok=True)
        (job.files / path).replace(target)
        if f"files/{path}" in receipt.hashes:
            receipt.hashes[f"docs/{path}"] = receipt.hashes[f"files/{path}"]
    for path in sizes.keys() - set(layout.files) - set(layout.documents):
        (job.files / path).unlink()
    _remove_empty_folders(job.files)
    warn_ignored(job, layout.ignored)
    if layout.robot and layout.robot.note:
        job.progress.warn(layout.robot.note)
    return layout


def _unpack(job: FetchJob, packed: Packed, name: str) -> None:
    if packed.kind == "archive":
        archive.unpack_in_place(job.files, packed.files, job.options, job.progress)
    else:
        from splat_assets.sources.parquet import unpack_in_place

        unpack_in_place(job.files, packed.files, job.options, job.progress, name)


def _finish(
    out: Path, job: FetchJob, receipt: Receipt, layout: Layout, progress: Progress
) -> RawDataset:
    write_text_atomic(out / ORIGIN, json.dumps(receipt.memory, indent=1) + "\n")
    progress.update(0.0, "hashing")
    manifest = build_manifest(
        out,
        RawDataset.KIND,
        versioned=["files/"],
        options=job.options.model_dump(mode="json"),
        hashes=receipt.hashes,
    )
    originals = [entry for entry in manifest.files if entry.path.startswith("files/")]
    brought = [entry for entry in originals if entry.path not in receipt.reused]
    before = job.earlier.raw.data_version if job.earlier else ""
    manifest.summary.update(
        content=layout.content,
        source=job.ref.label,
        revision=receipt.revision,
        license=receipt.license or _license(out / "docs"),
        num_files=len(originals),
        total_bytes=sum(entry.bytes for entry in originals),
        downloaded_files=len(brought),
        downloaded_bytes=receipt.transferred,
        unchanged=not brought and manifest.data_version == before,
        layout={
            "root": layout.root,
            "model": layout.model,
            "images": layout.images,
            "transforms": list(layout.transforms),
        },
    )
    if layout.robot:
        manifest.summary["taken"] = layout.robot.headline
        manifest.summary["lerobot"] = layout.robot.to_summary()
    write_manifest(out, manifest)
    progress.update(1.0, f"{len(originals)} files, {len(brought)} of them new")
    return RawDataset(out, manifest)


def _license(docs: Path) -> str:
    """The licence a README's front matter names, or the first line of a licence file."""
    from yaml import YAMLError, safe_load

    for readme in sorted(docs.rglob("README*")) if docs.is_dir() else ():
        text = readme.read_text(encoding="utf-8", errors="replace")
        if text.startswith("---\n") and "\n---" in text[4:]:
            try:
                card = safe_load(text[4 : text.index("\n---", 4)])
            except YAMLError:
                continue
            if isinstance(card, dict) and isinstance(card.get("license"), str):
                return card["license"]
    for path in sorted(docs.rglob("LICEN[CS]E*")) if docs.is_dir() else ():
        lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
        first = next((line.strip() for line in lines if line.strip()), "")
        if 0 < len(first) <= 80:
            return first
    return ""


def _clear(out: Path) -> None:
    """Leave nothing half-written."""
    for child in out.iterdir():
        if child.is_dir() and not child.is_symlink():
            shutil.rmtree(child, ignore_errors=True)
        else:
            child.unlink(missing_ok=True)


def _remove_empty_folders(folder: Path) -> None:
    for path in sorted(folder.rglob("*"), key=lambda p: len(p.parts), reverse=True):
        if path.is_dir() and not any(path.iterdir()):
            path.rmdir()


def _explain(error: OSError, out: Path) -> UserError:
    """A file system's complaint as a sentence."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return UserError(f"The disk of {out} is full; free some space and run again.")
    if error.errno in (errno.ENAMETOOLONG, errno.EILSEQ, errno.EINVAL):
        return SourceError(f"{error.filename}: this file name cannot be written here; rename it.")
    return UserError(f"{error.filename or out}: {error.strerror or error}.")
