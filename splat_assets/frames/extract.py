"""The `frames` stage: a raw dataset becomes normalised, scored and selected frames.

Frames stream through: each is decoded, scored, reduced and written by a small pool of threads, then
selection looks at the scores alone and removes the files of the frames it drops. Datasets that
bring poses keep every picture that has one, and carry those poses along in `given/`.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from splat_assets.artifacts.manifest import (
    build_manifest,
    link_or_copy,
    write_bytes_atomic,
    write_manifest,
)
from splat_assets.datasets.options import FrameOptions
from splat_assets.errors import UserError
from splat_assets.formats.registry import format_of, read_splat
from splat_assets.frames.frame_set import FrameSet
from splat_assets.frames.from_lerobot import import_lerobot
from splat_assets.frames.from_photos import import_given, import_photos
from splat_assets.frames.from_videos import import_videos
from splat_assets.frames.given import read_colmap, read_nerfstudio
from splat_assets.frames.names import list_files
from splat_assets.frames.seen import Seen
from splat_assets.frames.selection import PHOTOS, THINNED, VIDEO, select
from splat_assets.frames.table import Frame, build_table, write_table
from splat_assets.gaussians.ply import write_ply
from splat_assets.progress import Progress
from splat_assets.sources.media import is_packed_splat, is_sog_document
from splat_assets.sources.raw_dataset import RawDataset

_VERSIONED = ("images/", "masks/", "given/", "frames.parquet")
_SHEET_FRAMES = 48
_MOVING = ("video", "lerobot")  # contents whose frames follow each other in time
_NAMED = 20  # unreadable files named in the summary


def extract_frames(
    raw: RawDataset, out: Path, *, options: FrameOptions, progress: Progress
) -> FrameSet:
    """Write the frame set of `raw` into the empty folder `out` and return it.

    Unreadable files are warned about, named in the summary and left out.

    Raises:
        UserError: fewer than `options.min_frames` usable frames, or given poses that are damaged.
        Cancelled: stopped; `out` is left empty, as after any error.
    """
    try:
        if raw.content == "ply":
            return _skip(raw, out, options)
        seen = _import(raw, out, options, progress.span(0.0, 0.9))
        progress.update(0.9, "Selecting frames")
        return _finish(raw, out, seen, options, progress)
    except BaseException:
        for path in out.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        raise


def _import(raw: RawDataset, out: Path, options: FrameOptions, progress: Progress) -> Seen:
    if raw.content == "lerobot":
        return import_lerobot(raw, out, options, progress)
    progress.update(0.0, "Listing files")
    paths = list_files(raw.files)
    if raw.content == "video":
        return import_videos(raw, paths, out, options, progress)
    if raw.content == "photos":
        return import_photos(raw, paths, out, options, progress)
    read = read_colmap if raw.content == "colmap" else read_nerfstudio
    given = read(raw.files, paths)
    given.carry(raw.files, out / "given")
    return import_given(raw, given, out, options, progress)


def _finish(
    raw: RawDataset, out: Path, seen: Seen, options: FrameOptions, progress: Progress
) -> FrameSet:
    """Select, remove what was dropped, and write table, contact sheet and manifest."""
    from splat_assets.viewing.contact_sheet import contact_sheet

    reasons = _select(raw, seen, options)
    _check_enough(raw, reasons.count(""), seen, options)
    for frame, reason in zip(seen.frames, reasons, strict=True):
        if reason:
            (out / "images" / frame.name).unlink()
            (out / "masks" / f"{frame.name}.png").unlink(missing_ok=True)
    rows = [*zip(seen.frames, reasons, strict=True), *((f, THINNED) for f in seen.passed_over)]
    if seen.passed_over:
        rows.sort(key=lambda row: row[0].index)
    table = build_table([frame for frame, _ in rows], [reason for _, reason in rows])
    write_table(table, out / "frames.parquet")

    progress.update(0.95, "Drawing the contact sheet")
    kept = [frame for frame, reason in rows if not reason]
    sheet = contact_sheet([out / "images" / frame.name for frame in kept], max_cells=_SHEET_FRAMES)
    write_bytes_atomic(out / "contact_sheet.jpg", sheet)
    progress.update(0.98, "Writing the manifest")
    manifest = build_manifest(
        out,
        FrameSet.KIND,
        versioned=_VERSIONED,
        summary=_summary(raw, kept, [reason for _, reason in rows], seen),
        options=options.model_dump(mode="json"),
        hashes={f"images/{frame.name}": frame.sha256 for frame in kept if frame.sha256},
    )
    write_manifest(out, manifest)
    progress.update(1.0, f"{len(kept)} frames kept", frames=len(kept))
    return FrameSet.open(out)


def _select(raw: RawDataset, seen: Seen, options: FrameOptions) -> list[str]:
    if raw.content in ("colmap", "nerfstudio"):
        return [""] * len(seen.frames)
    return select(
        seen.frames,
        thresholds=VIDEO if raw.content in _MOVING else PHOTOS,
        max_frames=options.max_frames,
        min_frames=options.min_frames,
        drop_blurred=options.drop_blurred,
        drop_duplicates=options.drop_duplicates,
    )


def _check_enough(raw: RawDataset, usable: int, seen: Seen, options: FrameOptions) -> None:
    """Raise one sentence with the counts and what to do when too few frames are usable."""
    if usable >= options.min_frames:
        return
    where = raw.summary.get("source") or "the dataset"
    if usable == 0 and not seen.unreadable:
        files = "video" if raw.content == "video" else "photo"
        raise UserError(
            f"There is no {files} in {where}; add at least {options.min_frames} photos."
        )
    problem = f"; {seen.describe_unreadable()} cannot be used" if seen.unreadable else ""
    if usable == 0:
        raise UserError(f"There is no usable picture in {where}{problem}.")
    copies = len(seen.frames) - usable
    same = f" ({copies} more are copies)" if copies else ""
    advice = {
        "video": "use a longer part of the video or a higher fps",
        "lerobot": "take more of the episodes or raise frames.frames_per_episode",
    }.get(raw.content, "add photos of the scene from other places")
    raise UserError(
        f"There are only {usable} usable {seen.noun} in {where}{same} and at least "
        f"{options.min_frames} are needed{problem}: {advice}."
    )


def _summary(
    raw: RawDataset, kept: Sequence[Frame], reasons: Sequence[str], seen: Seen
) -> dict[str, Any]:
    """The figures of `FrameSet`'s contract, and a few more that are nice to see."""
    (width, height), _ = Counter((frame.width, frame.height) for frame in kept).most_common(1)[0]
    sharpness = [frame.stats.sharpness for frame in kept if frame.stats]
    return {
        "num_frames": len(kept),
        "num_seen": len(reasons),
        "num_dropped": dict(sorted(Counter(reason for reason in reasons if reason).items())),
        "ordered": raw.content in _MOVING,
        "num_unreadable": len(seen.unreadable),
        "unreadable": list(seen.unreadable)[:_NAMED],
        "median_sharpness": round(float(np.median(sharpness)), 2),
        "width": width,
        "height": height,
        "num_cameras": len({frame.camera for frame in kept}),
        "num_masks": sum(frame.has_mask for frame in kept),
        "num_with_focal": sum(frame.focal_px == frame.focal_px for frame in kept),
        "num_with_gps": sum(frame.gps_lat == frame.gps_lat for frame in kept),
        "num_test": sum(frame.split == "test" for frame in kept),
        **seen.facts,
    }


def _skip(raw: RawDataset, out: Path, options: FrameOptions) -> FrameSet:
    """A dataset that is a trained splat already: pass it on as 3DGS PLY, with an empty table."""
    paths = list_files(raw.files)
    documents = sorted(filter(is_sog_document, paths), key=lambda path: (path.count("/"), path))
    splats = [path for path in paths if path.lower().endswith(".ply") or is_packed_splat(path)]
    if not splats and not documents:
        raise UserError(f"There is no splat in {raw.summary.get('source') or 'the dataset'}.")
    largest = max(splats, key=lambda path: (raw.files / path).stat().st_size, default="")
    largest = largest or documents[0]
    given = out / "given" / "splat.ply"
    found = format_of(raw.files / largest)
    known = None
    if found is not None and found.name == "ply":
        link_or_copy(raw.files / largest, given)
        hashes = {entry.path: entry.sha256 for entry in raw.manifest.files}
        known = hashes.get(f"files/{largest}")
    else:
        given.parent.mkdir(parents=True, exist_ok=True)
        write_ply(given, read_splat(raw.files / largest))
    (out / "images").mkdir()
    write_table(build_table([], []), out / "frames.parquet")
    manifest = build_manifest(
        out,
        FrameSet.KIND,
        versioned=_VERSIONED,
        summary={"num_frames": 0, "num_seen": 0, "num_dropped": {}, "ordered": False},
        options=options.model_dump(mode="json"),
        skipped=f"{largest} is a trained splat already, so no frames are needed.",
        hashes={"given/splat.ply": known} if known else None,
    )
    write_manifest(out, manifest)
    return FrameSet.open(out)
